"""The task ``speech_llm``: a language model that hears, and writes who said what.

SpeakerLM (arXiv 2508.06372) and the dual-encoder system (arXiv 2606.13095) are configurations of it, and so is each
step of their trainings: ``train_parts`` says which parts a step trains. The published stages are

=========  ==================================================  ====================================
 step       SpeakerLM                                           dual encoder
=========  ==================================================  ====================================
 1          adapter, encoder, llm_lora; format sot              adapter, llm_lora; layout semantic
 2          adapter, speaker_adapter                            adapter, speaker_adapter, llm_lora
 3          adapter, speaker_adapter, encoder                   the same; loss asr_spk, concatenate
 4          adapter, speaker_adapter, encoder, llm_lora         with encoder_lora; loss balanced
=========  ==================================================  ====================================

Small models have steps of their own before these: text alone, whom a voice belongs to (``layout: none`` and
``voice_weight``, see ``nets/voice_loss.py``), and an encoder that learns voices and words by itself (``loss: keep``,
``voice_weight`` and ``ctc_weight``, with ``init_param: [<file>.pth:encoder:before]`` for what it has to keep, or with
``encoder: speaker_aware``, whose frozen speech encoder keeps it by itself).

A step begins from the one before by ``init_param: [<step>/<file>.pth]``. What a checkpoint holds, and why it is small,
says ``models/published.py``.
"""

import argparse
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool

from espnet_mt_llm.common import UserError, at, is_number, is_whole, nearest
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.encoders.interface import SpeakerEncoder, SpeechEncoder
from espnet_mt_llm.encoders.registry import SPEAKER, SPEECH, speaker_encoder, speech_encoder
from espnet_mt_llm.models.llm import load_llm
from espnet_mt_llm.models.lora import add_lora
from espnet_mt_llm.models.published import adapter_names
from espnet_mt_llm.models.speech_llm import KEEP, SpeechLLM
from espnet_mt_llm.nets.layouts import LAYOUTS, Layout
from espnet_mt_llm.nets.projectors import PROJECTORS, MLPAdapter
from espnet_mt_llm.nets.registration import MODES as REGISTRATION_MODES
from espnet_mt_llm.nets.registration import RegistrationProjector
from espnet_mt_llm.nets.speaker_stream import SpeakerStream
from espnet_mt_llm.nets.voice_loss import VoiceLoss
from espnet_mt_llm.tasks.base import MultiTalkerTask, build
from espnet_mt_llm.text.llm_tokenizer import LLMTokenizer, load_tokenizer
from espnet_mt_llm.text.parsing import FORMATS
from espnet_mt_llm.text.prompts import PROMPTS
from espnet_mt_llm.text.serialisation import read_supervision
from espnet_mt_llm.train.espnet import IteratorOptions
from espnet_mt_llm.train.features import SpeechLLMTrainer
from espnet_mt_llm.train.position_batches import Concatenation, PositionBatches, Size, accept_rows
from espnet_mt_llm.train.registering import Registering, Registrar
from espnet_mt_llm.train.speech_llm_targets import SpeechLLMTargets, Writing

PARTS = ("adapter", "speaker_adapter", "llm_lora", "llm", "encoder", "encoder_lora", "speaker_encoder")


class SpeechLLMTask(MultiTalkerTask):
    """Arguments to :class:`~espnet_mt_llm.models.speech_llm.SpeechLLM`."""

    trainer = SpeechLLMTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the pieces of the model, what it reads and writes, and what is trained."""
        super().add_task_arguments(parser)
        required = [name for name in parser.get_default("required") if name != "token_list"]
        parser.set_defaults(required=required, max_talkers=8)
        group = parser.add_argument_group(description="Speech LLM: the model")
        group.add_argument("--encoder", default="sensevoice", choices=SPEECH)
        group.add_argument("--projector", default="mlp", choices=tuple(PROJECTORS))
        group.add_argument("--speaker_encoder", default=None, choices=(*SPEAKER, None))
        group.add_argument("--layout", default="semantic", choices=("none", *LAYOUTS),
                           help="how the frames stand before the language model; none: it is trained on text alone")
        for name, what in (
            ("encoder", "the speech encoder; layers: [-1] by default"), ("encoder_lora", "its adapters; empty: none"),
            ("projector", "the adapter of the semantic frames"), ("speaker_encoder", "the speaker encoder"),
            ("chunk", "the chunks of the speaker stream: sizes (seconds), raw, mean_window (seconds)"),
            ("speaker_stream", "its convolution: output_size"), ("speaker_adapter", "its adapter: hidden"),
            ("layout", "the layout: chunk, speaker_ratio, anchors"),
            ("llm", "the language model: checkpoint or config, lora, dtype, gradient_checkpointing, attention"),
            ("model", "the loss: loss, ctc_weight, threshold, floor, voice_weight, voice_layer, voice_scale"),
        ):
            group.add_argument(f"--{name}_conf" if name != "encoder_lora" else "--encoder_lora",
                               action=NestedDictAction, default={}, help=f"arguments of {what}")
        group.add_argument("--tokenizer", default=None, help="directory; that of the language model by default")
        group.add_argument("--new_tokens", nargs="*", default=[], help="tokens to add to those of the tokenizer")
        cls._add_training_arguments(parser)

    @classmethod
    def _add_training_arguments(cls, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group(description="Speech LLM: its training")
        group.add_argument("--train_parts", nargs="*", default=[], help=f"what this step trains, of {', '.join(PARTS)}")
        group.add_argument("--format", default="speakerlm", choices=FORMATS)
        group.add_argument("--prompt", default="speakerlm", choices=tuple(PROMPTS))
        group.add_argument("--pause", type=float, default=math.inf,
                           help="seconds between utterances of one speaker that part them by a virtual <SC>")
        group.add_argument("--registration", default="none", choices=REGISTRATION_MODES,
                           help="who is registered: nobody, the speakers of the clip, others too, or a third of each")
        group.add_argument("--registration_conf", action=NestedDictAction, default={},
                           help="num_stretches, max_distractors, min_distractors, seed, shuffle_names, names, rivals")
        group.add_argument("--concatenate", action=NestedDictAction, default={},
                           help="put training clips in a row: seconds, speakers, shortest, shared; empty: one by one")
        group.add_argument("--batch_positions", type=int, default=0,
                           help="positions of a batch, audio and text and padding; 0: batches as batch_type says")
        group.add_argument("--feature_cache", type=str2bool, default=False,
                           help="keep the frames of frozen encoders beside the clips, in half precision")
        group.add_argument("--frame_shift", type=float, default=None,
                           help="seconds between the adapter's frames; the model says it")

    @classmethod
    def tokenizer(cls, args: argparse.Namespace) -> LLMTokenizer:
        """Return the tokenizer with the new tokens."""
        return cls._tokenizer(args)[0]

    @classmethod
    def _tokenizer(cls, args: argparse.Namespace) -> tuple[LLMTokenizer, int]:
        """Return the tokenizer, and how many tokens it has without the new ones."""
        path = args.tokenizer or (args.llm_conf or {}).get("checkpoint")
        if not path:
            raise UserError("tokenizer is missing; make one: python -m espnet_mt_llm.bin.make_llm_tokenizer")
        tokenizer = load_tokenizer(path)
        size = len(tokenizer)
        tokenizer.add_tokens(args.new_tokens)
        return tokenizer, size

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the data that a clip must have."""
        return ("speech",) if inference else ("supervision",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the data that a clip may have."""
        return ("speech",)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> SpeechLLMTargets:
        """Prompt and target of a clip, and its audio."""
        writing = Writing(args.format, args.prompt, args.profile, args.max_talkers, args.pause)
        registrar: Optional[Registrar] = None
        if args.registration != "none" or voice_weight(args):
            settings = build(Registering, args.registration_conf, "registration_conf", mode=args.registration)
            registrar = Registrar(args.train_dir if train else args.valid_dir, settings)
        return SpeechLLMTargets(cls.tokenizer(args), writing, args.rate, args.speed_factors, registrar, train,
                                args.layout != "none", args.feature_cache, voice_weight(args) > 0)

    @classmethod
    def build_iter_options(cls, args: argparse.Namespace, distributed_option: Any, mode: str) -> IteratorOptions:
        """Leave the audio out where it is not heard."""
        options = super().build_iter_options(args, distributed_option, mode)
        if args.layout == "none":
            options.data_path_and_name_and_type = [d for d in options.data_path_and_name_and_type if d[1] != "speech"]
        return options

    @classmethod
    def build_sequence_iter_factory(cls, args: argparse.Namespace, iter_options: IteratorOptions, mode: str
                                    ) -> AbsIterFactory:
        """Batches by positions with ``batch_positions``, else those of every task."""
        rows = build(Concatenation, args.concatenate, "concatenate") if args.concatenate else None
        if not args.batch_positions:
            if rows is not None:
                raise UserError("concatenate needs batch_positions: batches of clips in a row are filled by positions")
            return super().build_sequence_iter_factory(args, iter_options, mode)
        if args.mixed_batches:
            raise UserError("mixed_batches and batch_positions are two ways to fill a batch; leave one out")
        train = iter_options.train
        sizes = clip_sizes(args, iter_options)
        world = (torch.distributed.get_world_size(), torch.distributed.get_rank()) if iter_options.distributed else \
            (1, 0)
        batches = PositionBatches(sizes, cls._positions(args, iter_options.preprocess_fn), args.batch_positions,
                                  rows if train else None, world[1], world[0])
        dataset = cls.build_dataset(args, iter_options, set(sizes))
        if rows is not None and train:
            dataset = accept_rows(dataset)
        return SequenceIterFactory(
            dataset=dataset, batches=batches if train else batches.generate(0), seed=args.seed,
            num_iters_per_epoch=iter_options.num_iters_per_epoch, shuffle=train, num_workers=args.num_workers,
            collate_fn=iter_options.collate_fn, pin_memory=args.ngpu > 0)

    @classmethod
    def _positions(cls, args: argparse.Namespace, targets: SpeechLLMTargets) -> Callable[[float, int, int], int]:
        """Return a function: seconds of audio, target tokens, speakers → positions in the language model."""
        layout = None if args.layout == "none" else build_layout(args, 1, targets.tokenizer)
        prompts = [targets.prompt_size(speakers) for speakers in range(args.max_talkers + 1)]

        def positions(seconds: float, tokens: int, speakers: int) -> int:
            try:
                audio = 0 if layout is None else layout.length(math.ceil(seconds / args.frame_shift))
            except ValueError as e:
                raise UserError(f"layout: {e}; see layout_conf, or cut shorter clips") from None
            return audio + tokens + prompts[min(speakers, args.max_talkers)]

        return positions

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> SpeechLLM:
        """Build the model; the frame shift and the configurations of encoders from here go into ``args``."""
        check(args)
        tokenizer, published_tokens = cls._tokenizer(args)
        llm = build(load_llm, args.llm_conf, "llm_conf", tokenizer=tokenizer, published_tokens=published_tokens)
        parts: dict[str, Any] = {}
        if args.layout != "none":
            parts = build_hearing(args, llm.hidden_size, tokenizer)
        elif voice_weight(args):
            parts = build_voices(args, llm.hidden_size)
        model = build(SpeechLLM, args.model_conf, "model_conf", llm, **parts)
        choose_trained(model, args.train_parts)
        published = {"llm"} if llm.published else set()
        for name in ("encoder", "speaker_encoder"):
            part, conf = getattr(model, name), getattr(args, f"{name}_conf") or {}
            if part is None:
                continue
            if is_published(conf.get("checkpoint")) and any(not p.requires_grad for p in part.parameters()):
                published.add(name)
            else:
                # All of it is in the checkpoints, so that the file it began from is not needed any more.
                setattr(args, f"{name}_conf", part.saved_conf(conf))
        model.leave_out_published(published)
        return model


def is_published(checkpoint: Optional[str]) -> bool:
    """Say whether ``checkpoint`` is a published one, and not a step that this toolkit has trained.

    Those lie beside the steps that begin from them, and are small: checkpoints hold their weights.
    """
    path = Path(checkpoint) if checkpoint else None
    return path is not None and not any((folder / "history.json").is_file() for folder in (path, path.parent))


def check(args: argparse.Namespace) -> None:
    """Check what the options say together.

    Raises:
        UserError: options that exclude each other.
    """
    for name in args.train_parts:
        if name not in PARTS:
            raise UserError(f"train_parts: unknown part '{name}'; {nearest(str(name), PARTS)}")
    if learns_frames(args):
        if args.layout == "none" or {"encoder", "encoder_lora"}.isdisjoint(args.train_parts):
            raise UserError("loss: keep is that of the encoder alone; give train_parts encoder or encoder_lora, and a "
                            "layout")
        if not (voice_weight(args) or weight_of(args, "ctc_weight")):
            raise UserError("loss: keep alone teaches the encoder nothing; give model_conf voice_weight or ctc_weight")
        if keeps_itself(args) and weight_of(args, "ctc_weight"):
            raise UserError("ctc_weight: the speech encoder is frozen and learns no words; take out freeze_layers, or "
                            "ctc_weight")
        given = [str(path).split(":")[2:3] for path in args.init_param]
        if ["before"] not in given and not (args.encoder_conf or {}).get("checkpoint") and not keeps_itself(args):
            raise UserError("loss: keep: what the encoder knows is missing; add to init_param "
                            "<step>/latest.pth:encoder:before")
    elif weight_of(args, "ctc_weight"):
        raise UserError("ctc_weight is of the encoder that learns by itself; give loss: keep, or take it out")
    if voice_weight(args) and not args.speaker_encoder:
        raise UserError("voice_weight: speaker_encoder is missing, which says what a voice is")
    if not args.feature_cache:
        return
    trained = {"encoder", "encoder_lora", "speaker_encoder"} & set(args.train_parts)
    for wrong, what in ((trained, f"train_parts: {', '.join(sorted(trained))}"), (args.speed_factors, "speed_factors"),
                        (args.layout == "none", "layout: none"),
                        ((args.encoder_conf or {}).get("specaug"), "encoder_conf: specaug")):
        if wrong:
            raise UserError(f"feature_cache keeps what frozen encoders give of clips; it excludes {what}")


def weight_of(args: argparse.Namespace, name: str) -> float:
    """Return the weight of a loss that is added: ``voice_weight`` or ``ctc_weight``.

    Raises:
        UserError: it is no number from 0 on.
    """
    weight = (args.model_conf or {}).get(name, 0.0)
    if not is_number(weight) or not 0 <= weight < math.inf:
        raise UserError(f"model_conf: {name}: {weight!r}; a number from 0 on is expected")
    return float(weight)


def voice_weight(args: argparse.Namespace) -> float:
    """Return the weight of the loss of voices."""
    return weight_of(args, "voice_weight")


def learns_frames(args: argparse.Namespace) -> bool:
    """Say whether the encoder learns by itself, and the language model is not asked."""
    return (args.model_conf or {}).get("loss") == KEEP


def keeps_itself(args: argparse.Namespace) -> bool:
    """Say whether no layer of the speech encoder can change; a speaker-aware one learns voices beside it then."""
    return (args.encoder_conf or {}).get("freeze_layers") == -1 and not args.encoder_lora


def build_layout(args: argparse.Namespace, size: int, tokenizer: LLMTokenizer) -> Layout:
    """Build the layout of ``args`` for the input space of ``size``; anchors are numbers in its tokens."""
    conf = dict(args.layout_conf or {})
    if args.layout == "time_concat":
        anchors = conf.pop("anchors", 100)
        if not is_whole(anchors) or anchors < 1:
            raise UserError(f"layout_conf: anchors: {anchors!r}; a whole number of at least 1 is expected")
        conf["anchor_ids"] = [tokenizer.encode(str(k)) for k in range(1, anchors + 1)]
    return build(LAYOUTS[args.layout], conf, "layout_conf", size)


def build_hearing(args: argparse.Namespace, size: int, tokenizer: LLMTokenizer) -> dict[str, Any]:
    """Build encoders, adapters, layout and registration; ``size`` is that of the language model's input space.

    Raises:
        UserError: options that do not fit.
    """
    conf = {"layers": [-1], **(args.encoder_conf or {})}
    encoder: SpeechEncoder = build(speech_encoder(args.encoder), conf, "encoder_conf", rate=args.rate)
    args.encoder_conf = conf
    # What is put into a frozen encoder trains, its dropout included; what is there before is frozen with it.
    if "encoder" not in args.train_parts and "encoder_lora" in args.train_parts:
        encoder.freeze([encoder])
    if args.encoder_lora:
        add_lora(encoder, args.encoder_lora, encoder.lora_targets, "encoder_lora")
    if not {"encoder", "encoder_lora"} & set(args.train_parts):
        encoder.freeze([encoder])
    adapter = build(PROJECTORS[args.projector], args.projector_conf, "projector_conf", encoder.num_layers *
                    encoder.output_size, size)
    layout = build_layout(args, size, tokenizer)
    args.frame_shift = encoder.frame_shift * adapter.stride
    parts: dict[str, Any] = {"encoder": encoder, "adapter": adapter, "layout": layout}
    if learns_frames(args):
        if not keeps_itself(args):
            parts["before"] = build(speech_encoder(args.encoder), conf, "encoder_conf", rate=args.rate)
            parts["before"].freeze([parts["before"]])
        if weight_of(args, "ctc_weight"):
            parts["ctc"] = torch.nn.Linear(encoder.output_size, len(tokenizer) + 1)
    if not layout.uses_speaker and args.registration == "none" and not voice_weight(args):
        return parts
    if args.speaker_encoder is None:
        what = f"layout '{args.layout}'" if layout.uses_speaker else f"registration '{args.registration}'"
        raise UserError(f"speaker_encoder is missing; the {what} needs one")
    parts |= build_voices(args, size)
    if voice_weight(args) and (learns_frames(args) or not layout.uses_speaker):
        width = encoder.output_size if learns_frames(args) else size
        parts["voice"] = VoiceLoss(width, parts["speaker_encoder"].embedding_size)
    return {**parts, **build_speaker_stream(args, parts["speaker_encoder"], size)} if layout.uses_speaker else parts


def build_voices(args: argparse.Namespace, size: int) -> dict[str, Any]:
    """Build the speaker encoder and what reads its embeddings into the input space of ``size``.

    Raises:
        UserError: options that do not fit.
    """
    speaker: SpeakerEncoder = build(speaker_encoder(args.speaker_encoder), args.speaker_encoder_conf,
                                    "speaker_encoder_conf", rate=args.rate,
                                    frozen="speaker_encoder" not in args.train_parts)
    parts: dict[str, Any] = {"speaker_encoder": speaker}
    if (args.model_conf or {}).get("voice_layer") is not None:
        parts["answer_voice"] = VoiceLoss(size, speaker.embedding_size)
    if args.registration == "none" and args.layout != "none":
        return parts
    if "speaker_encoder" in args.train_parts:
        raise UserError("registration takes embeddings from a frozen speaker encoder; take speaker_encoder out of "
                        "train_parts")
    return {**parts, "registration": RegistrationProjector(speaker.embedding_size, size)}


def build_speaker_stream(args: argparse.Namespace, speaker: SpeakerEncoder, size: int) -> dict[str, Any]:
    """Build what brings chunk embeddings to the rate of the semantic frames, and to the input space of ``size``."""
    chunks = build(Chunks, args.chunk_conf, "chunk_conf")
    width = (speaker.stats_size if chunks.raw else speaker.embedding_size) * len(chunks.sizes)
    stream = build(SpeakerStream, {"output_size": width, **(args.speaker_stream_conf or {})}, "speaker_stream_conf",
                   width, ratio=args.frame_shift / speaker.frame_shift)
    adapter = build(MLPAdapter, args.speaker_adapter_conf, "speaker_adapter_conf", stream.output_size, size)
    return {"speaker_stream": stream, "speaker_adapter": adapter, "chunk_sizes": chunks.sizes,
            "raw_chunks": chunks.raw, "mean_window": chunks.mean_window}


class Chunks:
    """The chunks whose embeddings make the speaker stream.

    Args:
        sizes: in seconds.
        raw: their statistics instead of embeddings.
        mean_window: seconds around each frame over which the mean of the extractor's features is taken; None for the
            clip.
    """

    def __init__(self, sizes: Sequence[float] = (0.4, 0.2, 0.1), raw: bool = False,
                 mean_window: Optional[float] = None) -> None:
        if not isinstance(sizes, (list, tuple)) or not sizes or not all(
                isinstance(size, (int, float)) and size > 0 for size in sizes):
            raise ValueError(f"sizes: {sizes} is no list of seconds")
        if mean_window is not None and not (is_number(mean_window) and mean_window > 0):
            raise ValueError(f"mean_window: {mean_window!r} are no seconds above 0")
        self.sizes, self.raw, self.mean_window = tuple(sizes), bool(raw), mean_window


def choose_trained(model: SpeechLLM, names: Sequence[str]) -> None:
    """Freeze everything but the parts ``names``.

    Raises:
        UserError: a part that the model does not have, or none.
    """
    available = trainable(model)
    there = ", ".join(part for part, weights in available.items() if weights)
    for name in names:
        if not available[name]:
            raise UserError(f"train_parts: this model has no {name} to train; it has {there}")
    if not names:
        raise UserError(f"train_parts is empty; say what this step trains; this model has {there}")
    chosen = {id(p) for name in names for p in available[name]}
    for p in model.parameters():
        p.requires_grad_(id(p) in chosen)
    # The mode depends on it.
    model.train(model.training)
    logging.info("%d of %d weights are trained: %s", sum(p.numel() for p in model.parameters() if p.requires_grad),
                 sum(p.numel() for p in model.parameters()), ", ".join(names))


def trainable(model: SpeechLLM) -> dict[str, list[torch.nn.Parameter]]:
    """Return the weights of each part of :data:`PARTS`, none for one that is not there.

    The rows of new tokens belong to the adapters of the language model and to itself; the layout to the adapter, and
    what reads voices or words to the part whose frames it reads.
    """
    found: dict[str, list[torch.nn.Parameter]] = {name: [] for name in PARTS}
    for name, modules in (("adapter", (model.adapter, model.layout, model.answer_voice)),
                          ("speaker_adapter", (model.speaker_stream, model.speaker_adapter, model.registration))):
        found[name] = [p for module in modules if module is not None for p in module.parameters()]
    # Its frames are the encoder's own where it learns alone.
    for name in ("encoder", "encoder_lora") if model.loss == KEEP else ("adapter",):
        found[name] += [p for head in (model.voice, model.ctc) if head is not None for p in head.parameters()]
    for name in ("llm", "encoder", "speaker_encoder"):
        part = getattr(model, name)
        if part is None:
            continue
        added = adapter_names(part)
        for key, p in part.named_parameters():
            if key not in added:
                # What an encoder's own configuration freezes stays so.
                found[name] += [p] if p.requires_grad else []
            elif key.endswith(".new_rows"):
                found["llm"].append(p)
                found["llm_lora"].append(p)
            else:
                found[f"{name}_lora"].append(p)
    return found


def clip_sizes(args: argparse.Namespace, options: IteratorOptions) -> dict[str, Size]:
    """Return what each clip adds to the input, from the transcripts and the numbers of samples."""
    targets: SpeechLLMTargets = options.preprocess_fn
    samples = read_map(options.shape_files[0])
    directory = args.train_dir if options.train else args.valid_dir
    supervision = read_supervision(Path(directory) / "supervision")
    found = {}
    for clip, number in samples.items():
        if clip not in supervision:
            raise at(Path(directory) / "supervision", None, f"the clip '{clip}' is not there", "make the clips again "
                     "(stage 3)")
        segments = targets.normalised(supervision[clip])
        found[clip] = Size(int(number) / args.rate, len(targets.target(segments).ids),
                           frozenset(s["speaker"] for s in segments))
    return found
