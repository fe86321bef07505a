"""Decode clips with a speech LLM: its answers, in batches, parsed into who said what; nobody, some or many registered.
"""

import json
import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import torch

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, is_number, is_whole, nearest, progress
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.enrolment import Registration, read_registration
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.inference.decode import RunConfig, check_positive, clip_batches, clip_samples
from espnet_mt_llm.inference.embeddings import stretch_embeddings
from espnet_mt_llm.inference.generate import Answer, Generator, cap_of, check_room
from espnet_mt_llm.inference.voice_labels import nearest_names
from espnet_mt_llm.models.speech_llm import SpeechLLM
from espnet_mt_llm.text import targets
from espnet_mt_llm.text.names import name_speakers
from espnet_mt_llm.text.parsing import Parsed, parse_output
from espnet_mt_llm.train.preprocess import as_samples
from espnet_mt_llm.train.registering import Registered, voices
from espnet_mt_llm.train.speech_llm_targets import SpeechLLMTargets, Writing

log = logging.getLogger(__name__)

MODES = ("none", "match", "over")
NO_REPEAT = ("fallback", "always", "never")
LABELS = ("written", "voices")
DTYPES = ("float32", "bfloat16", "float16")
# Speakers of other sessions with num_distractors: random (arXiv 2508.06372).
MOST_DISTRACTORS = 50
# Seconds: nobody says anything in less, and some encoders have no frame.
SHORTEST = 0.1
ENROL = "make it: ./run.sh --system <this one> --test_sets <this one> --stage enroll --stop_stage enroll"


@dataclass(frozen=True)
class SpeechLLMConfig(RunConfig):
    """What `conf/decode_speech_llm*.yaml` may say.

    Attributes:
        registration: ``none``; ``match`` registers the speakers of a clip, ``over`` also speakers of other sessions.
        num_distractors: how many of those, or ``random`` for 1 to 50, or as many as there are if these are fewer, drawn
            for each clip from ``seed``.
        beam_size: 1 for greedy search.
        no_repeat_ngram, no_repeat_ngram_size, loop_period, loop_times: see
            :class:`~espnet_mt_llm.inference.generate.Generator`.
        tokens_per_second: with the length of a clip, and a few more, the most tokens of its answer;
        max_new_tokens: it never has more.
        batch_positions: the most positions of a batch, prompts, audio, answers and padding; 0 for no such limit.
        dtype: precision of the language model; that of the training when empty.
        labels: ``written`` by the model; or ``voices``: with registration the name whose voice is nearest to what it
            had in mind, see ``inference/voice_labels.py``.
    """

    registration: str = "none"
    num_distractors: Union[int, str] = "random"
    beam_size: int = 1
    no_repeat_ngram: str = "fallback"
    no_repeat_ngram_size: int = 8
    loop_period: int = 32
    loop_times: int = 8
    tokens_per_second: float = 20.0
    max_new_tokens: int = 1024
    batch_positions: int = 0
    dtype: str = ""
    labels: str = "written"
    seed: int = 0

    def check(self, where: Pathlike) -> None:
        """Check the values."""
        super().check(where)
        for key, valid in (("registration", MODES), ("no_repeat_ngram", NO_REPEAT), ("dtype", ("", *DTYPES)),
                           ("labels", LABELS)):
            if getattr(self, key) not in valid:
                raise at(where, None, f"{key}: '{getattr(self, key)}'", nearest(str(getattr(self, key)), valid))
        if self.labels == "voices" and self.registration == "none":
            raise at(where, None, "labels: voices, but nobody is registered", "use registration: match or over")
        if self.num_distractors != "random":
            check_positive(self.num_distractors, "num_distractors", where)
        for key in ("beam_size", "no_repeat_ngram_size", "loop_period", "max_new_tokens"):
            check_positive(getattr(self, key), key, where)
        if not is_whole(self.loop_times) or self.loop_times < 2:
            raise at(where, None, f"loop_times: {self.loop_times!r}", "a whole number of at least 2 is expected")
        if self.batch_positions != 0:
            check_positive(self.batch_positions, "batch_positions", where)
        value = self.tokens_per_second
        if not is_number(value) or not 0 < value < math.inf:
            raise at(where, None, f"tokens_per_second: {value!r}", "a number above 0 is expected")
        if not is_whole(self.seed):
            raise at(where, None, f"seed: {self.seed!r}", "a whole number is expected")


class Asked(NamedTuple):
    """A clip, and what the model is asked about it.

    Attributes:
        clip: its id.
        seconds: its length.
        registered: who is registered.
        speaker_of: registered name → id of the speaker.
        prompt: token ids and places.
        cap: the most tokens of the answer.
        positions: of prompt, audio and answer.
        label_size: tokens of the longest label.
    """

    clip: str
    seconds: float
    registered: Registered
    speaker_of: Mapping[str, str]
    prompt: list[int]
    cap: int
    positions: int
    label_size: int


class Registrations:
    """Who is registered with the clips of a test set: the fixed choice of ``registration``.

    Names are those of the whole set, see :func:`~espnet_mt_llm.text.names.name_speakers`.

    Args:
        data_dir: clips (dump/<set>).
        config: how to decode.

    Raises:
        UserError: the files are not there.
    """

    def __init__(self, data_dir: Path, config: SpeechLLMConfig) -> None:
        self.path, self.config = data_dir / "registration", config
        if not self.path.is_file():
            raise at(self.path, None, f"no such file; registration: {config.registration} needs it", ENROL)
        self.chosen = read_registration(data_dir)
        if config.registration == "over" and not any(c.distractors for c in self.chosen.values()):
            raise at(self.path, None, "no clip has a speaker of another session to register",
                     "use registration: match, or a larger set")
        if config.registration == "over":
            least = min(len(c.distractors) for c in self.chosen.values())
            wanted = f"num_distractors: {config.num_distractors}"
            if config.num_distractors == "random" and least < MOST_DISTRACTORS:
                log.warning("%s: some clips have %d speakers of other sessions; with %s no more than those are "
                            "registered, instead of up to %d", self.path, least, wanted, MOST_DISTRACTORS)
            elif config.num_distractors != "random" and least < config.num_distractors:
                log.warning("%s: some clips have %d speakers of other sessions, fewer than %s; those are registered",
                            self.path, least, wanted)
        self.stretches = {spk: value.split() for spk, value in read_map(data_dir / "spk2enrolment").items()}
        self.names = name_speakers(sorted({*self.stretches, *(s for c in self.chosen.values() for s in c.speakers)}))

    def of(self, clip: str) -> Registered:
        """Return who is registered with ``clip``, in a random order that the seed fixes.

        A speaker without a stretch outside of the clip is not.
        """
        chosen = self.reference(clip)
        chance = Chance(self.config.seed, "registration", clip)
        distractors: Sequence[str] = ()
        if self.config.registration == "over":
            number = self.config.num_distractors
            if number == "random":
                number = 1 + chance.index(max(1, min(MOST_DISTRACTORS, len(chosen.distractors))))
            distractors = chosen.distractors[:number]
        stretches = {spk: given for spk, given in chosen.speakers.items() if given}
        for spk in distractors:
            if spk not in self.stretches:
                raise at(self.path, None, f"the distractor '{spk}' of clip '{clip}' is not in spk2enrolment", ENROL)
            stretches[spk] = self.stretches[spk]
        speakers = chance.sample(list(stretches), len(stretches))
        return Registered(speakers, {s: self.names[s] for s in speakers}, [stretches[s] for s in speakers])

    def reference(self, clip: str) -> Registration:
        """Return the fixed choice for ``clip``."""
        if clip not in self.chosen:
            raise at(self.path, None, f"the clip '{clip}' is not there", ENROL)
        return self.chosen[clip]


class SpeechLLMDecoder:
    """A loaded speech LLM and what it reads and writes.

    Args:
        model_dir: the training's output.
        config: how to decode.

    Raises:
        UserError: no such model, or one that cannot do what ``config`` says.
    """

    def __init__(self, model_dir: Pathlike, config: SpeechLLMConfig) -> None:
        from espnet_mt_llm.inference.model import load_model, task_class

        torch.set_num_threads(config.num_threads)
        torch.set_flush_denormal(True)
        begin = time.perf_counter()
        self.config = config
        self.model: SpeechLLM
        self.model, self.args, self.weights = load_model(model_dir, "speech_llm", config.weights, config.device)
        self.trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.total = sum(p.numel() for p in self.model.parameters())
        args = self.args
        if self.model.encoder is None:
            raise UserError(f"{model_dir}: this model has learnt from text alone and hears nothing; decode with the "
                            "step that begins from it")
        if config.registration != "none" and self.model.registration is None:
            raise UserError(f"{model_dir}: this model has learnt with registration: none, so nobody can be registered; "
                            "use registration: none, or train with match, over or mixed")
        if config.labels == "voices" and self.model.answer_voice is None:
            raise UserError(f"{model_dir}: this model has not learnt to tell voices while it writes; use labels: "
                            "written, or train with model_conf: {voice_weight: 2.0, voice_layer: <half of its layers>}")
        self.writing = Writing(args.format, args.prompt, args.profile, args.max_talkers, args.pause)
        self.tokenizer = task_class("speech_llm").tokenizer(args)
        self.targets = SpeechLLMTargets(self.tokenizer, self.writing, args.rate)
        self._prepare_llm()
        ends = {self.tokenizer.end_id, self.tokenizer.tokenizer.eos_token_id} - {None}
        self.generator = Generator(
            self.model.llm, ends, self.tokenizer.pad_id, config.beam_size, config.no_repeat_ngram,
            config.no_repeat_ngram_size, config.loop_period, config.loop_times)
        record = Path(model_dir) / "environment.json"
        self.training = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
        self.load_seconds = time.perf_counter() - begin

    def _prepare_llm(self) -> None:
        """Bring the language model to its precision; adapters become part of its weights, where that is exact."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        llm = self.model.llm
        wanted = getattr(torch, self.config.dtype) if self.config.dtype else llm.dtype
        if wanted == torch.float32:
            self._cast(wanted)
        if llm.dtype == torch.float32:
            for module in llm.modules():
                if isinstance(module, BaseTunerLayer):
                    module.merge()
        if wanted != llm.dtype:
            self._cast(wanted)

    def _cast(self, dtype: torch.dtype) -> None:
        self.model.llm.model.to(dtype)
        self.model.llm.dtype = dtype

    @property
    def mode(self) -> str:
        """Which prompt is asked with: asr, no, match or over."""
        registration = self.config.registration
        return self.writing.mode(False) if registration == "none" else registration

    def ask(self, clip: str, seconds: float, registrations: Optional[Registrations]) -> Asked:
        """Say what the model is asked about a clip.

        Raises:
            UserError: the clip is too long for the language model.
        """
        registered = Registered((), {}, ()) if registrations is None else registrations.of(clip)
        names = [registered.names[spk] for spk in registered.speakers]
        prompt = self.targets.prompt(names)
        cap = cap_of(seconds, self.config.tokens_per_second, self.config.max_new_tokens)
        frames = math.ceil(seconds / self.args.frame_shift)
        try:
            audio = self.model.layout.length(frames)
        except ValueError as e:
            raise UserError(f"clip '{clip}': {e}; cut shorter clips, or train with more layout_conf: anchors") from None
        check_room(clip, seconds, audio + len(prompt), len(prompt), cap, self.model.llm.max_positions)
        label_size = max(len(self.tokenizer.encode(f" {label}:")) for label in ["spk 0", *names])
        return Asked(clip, seconds, registered, {name: spk for spk, name in registered.names.items()}, prompt, cap,
                     audio + len(prompt) + cap, label_size)

    @torch.no_grad()
    def __call__(self, asked: Sequence[Asked], clips: Sequence[np.ndarray],
                 embeddings: Optional[Mapping[str, np.ndarray]] = None) -> list[tuple[Answer, Parsed]]:
        """Return the answers to ``asked``, and what they say, from samples ``(N,)`` of each clip."""
        from torch.nn.utils.rnn import pad_sequence

        device = self.config.device
        lengths = torch.tensor([len(c) for c in clips], device=device)
        speech = pad_sequence([torch.from_numpy(c) for c in clips], batch_first=True).to(device)
        sizes = torch.tensor([len(a.prompt) for a in asked], device=device)
        prompt = pad_sequence([torch.tensor(a.prompt) for a in asked], batch_first=True).to(device)
        enrolled = None
        if embeddings is not None:
            size = self.model.speaker_encoder.embedding_size
            enrolled = pad_sequence([torch.from_numpy(voices(a.registered, embeddings, size)) for a in asked],
                                    batch_first=True).to(device)
        names = [a.clip for a in asked]
        heard = self.model.hear(speech, lengths)
        embeds, mask = self.model.prepare(speech, lengths, prompt, sizes, enrolled, heard, names)
        answers = self.generator(embeds, mask, [a.cap for a in asked], [a.label_size for a in asked])
        parsed = [parse_output(self.tokenizer.decode(answer.ids), self.writing.format, list(a.speaker_of))
                  for a, answer in zip(asked, answers)]
        if self.config.labels == "voices":
            # An answer without a label stays one.
            known = [() if p.unparsable else [a.registered.names[spk] for spk in a.registered.speakers]
                     for a, p in zip(asked, parsed)]
            turns = nearest_names(self.model, self.tokenizer, self.writing.format, [p.turns for p in parsed], known,
                                  prompt, sizes, enrolled, self.model.positions(heard), names)
            parsed = [replace(p, turns=said) for p, said in zip(parsed, turns)]
        return list(zip(answers, parsed))


def batches(asked: Sequence[Asked], batch_size: int, batch_positions: int = 0) -> Iterator[list[Asked]]:
    """Yield neighbours together: ``batch_size`` at most, and ``batch_positions`` with the padding where it is not 0.

    A clip that has more positions than that is by itself.
    """
    batch: list[Asked] = []
    for one in asked:
        longest = max([one.positions, *(a.positions for a in batch)])
        if batch and (len(batch) == batch_size or 0 < batch_positions < longest * (len(batch) + 1)):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def decode(model_dir: Pathlike, data_dir: Pathlike, config: SpeechLLMConfig, job: int = 1, num_jobs: int = 1,
           decoder: Optional[SpeechLLMDecoder] = None
           ) -> tuple[list[dict], dict[str, int], dict[str, Any], Optional[dict[str, int]]]:
    """Decode the clips of one job.

    Returns:
        SegLST segments, one a turn, in the order of the answers; the numbers of speakers; the record of the run; and,
        where others than the speakers of a clip are registered, their numbers. A speaker is a number or, by the name
        that he was registered under, the id that he has in the reference. An answer of nothing is one empty segment;
        so is that to a clip of less than :data:`SHORTEST`, which the model does not hear.
    """
    data_dir = Path(data_dir)
    run = decoder or SpeechLLMDecoder(model_dir, config)
    wav = read_map(data_dir / "wav.scp")
    samples_of = clip_samples(data_dir)
    registrations = None if config.registration == "none" else Registrations(data_dir, config)
    mine = [clip for batch in clip_batches(data_dir, 1, job, num_jobs) for clip in batch]
    asked = [run.ask(clip, samples_of[clip] / run.args.rate, registrations) for clip in mine]
    embeddings = None
    if registrations is not None:
        embeddings = stretch_embeddings(data_dir, run.model.speaker_encoder, device=config.device)
    found: dict[str, tuple[Answer, Parsed]] = {}
    wall = 0.0
    heard = [a for a in asked if a.seconds >= SHORTEST]
    together = list(batches(heard, config.batch_size, config.batch_positions))
    for batch in progress(together, f"decoding {data_dir.name}"):
        begin = time.perf_counter()
        samples = [as_samples(read_audio(wav[a.clip])[::-1], run.args.rate, a.clip) for a in batch]
        found.update(zip((a.clip for a in batch), run(batch, samples, embeddings)))
        wall += time.perf_counter() - begin
    segments: list[dict] = []
    counts: dict[str, int] = {}
    for one in asked:
        reference = {} if registrations is None else registrations.reference(one.clip).speakers
        # Nobody else must be called like one of the clip, or like one who is registered.
        reference = {*reference, *one.speaker_of.values()}
        turns = found[one.clip][1].turns if one.clip in found else []
        said = [(speaker_id(label, one.speaker_of, reference), words) for label, words in turns]
        counts[one.clip] = len({spk for spk, _ in said})
        segments += [{"session_id": one.clip, "speaker": spk, "words": words} for spk, words in said or [("0", "")]]
    over = None
    if config.registration == "over":
        over = {a.clip: len(set(a.registered.speakers) - set(registrations.reference(a.clip).speakers)) for a in asked}
    record = {"audio_seconds": round(sum(a.seconds for a in asked), 3), "wall_seconds": round(wall, 3), **_record(run),
              **_tally(found)}
    return segments, counts, record, over


def _tally(found: Mapping[str, tuple[Answer, Parsed]]) -> dict[str, Any]:
    """Count what went wrong, as scoring/answers.py reads it."""
    return {"malformed": sum(parsed.malformed for _, parsed in found.values()),
            "repeated": sum(answer.repeated for answer, _ in found.values()),
            "capped": sum(answer.capped for answer, _ in found.values()),
            "unparsable": [clip for clip, (_, parsed) in found.items() if parsed.unparsable]}


def _record(run: SpeechLLMDecoder) -> dict[str, Any]:
    """Return what the record says of model and search."""
    config, args = run.config, run.args
    return {
        "load_seconds": round(run.load_seconds, 3), "batch_size": config.batch_size, "device": config.device,
        "num_threads": config.num_threads, "weights": str(run.weights), "parameters": run.total,
        "trained_parameters": run.trainable, "profile": args.profile, "training": run.training,
        "sot_order": targets.ORDER.order, "tie_rule": targets.ORDER.describe(), "registration": run.mode,
        "num_distractors": config.num_distractors if config.registration == "over" else None,
        "format": args.format, "prompt": args.prompt, "layout": args.layout, "dtype": str(run.model.llm.dtype)[6:],
        "beam_size": config.beam_size, "no_repeat_ngram": config.no_repeat_ngram,
        "no_repeat_ngram_size": config.no_repeat_ngram_size, "tokens_per_second": config.tokens_per_second,
        "max_new_tokens": config.max_new_tokens, "labels": config.labels,
    }


def speaker_id(label: str, speaker_of: Mapping[str, str], reference: Collection[str]) -> str:
    """Return what a hypothesis calls the speaker with ``label``.

    >>> reference = {"1272", "0"}
    >>> [speaker_id(label, {"S1272": "1272"}, reference) for label in ("S1272", "1", "0")]
    ['1272', '1', 'spk 0']

    Args:
        speaker_of: registered name → id.
        reference: ids that nobody else must be called by: of the clip's speakers, and of those who are registered.
    """
    if label in speaker_of:
        return speaker_of[label]
    return f"spk {label}" if label in reference else label
