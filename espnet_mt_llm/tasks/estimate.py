"""What a training step of a speech LLM takes, from its configuration: weights, trained ones, memory, operations.

The model is built without its weights, so that billions of them take no time and no memory, and no checkpoint need be
there: sizes of published models are known by the names of their directories. What a clip takes is computed, see
`models/activations.py` and `models/flops.py`.
"""

import argparse
import json
import math
import re
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.models.activations import encoder_bytes, llm_bytes, projector_bytes, stream_bytes
from espnet_mt_llm.models.base import learns
from espnet_mt_llm.models.flops import step_flops
from espnet_mt_llm.models.llm import LLM, TARGETS, WANTED
from espnet_mt_llm.models.lora import add_lora
from espnet_mt_llm.models.speech_llm import SpeechLLM
from espnet_mt_llm.nets.layouts import FeatureConcat
from espnet_mt_llm.tasks.base import check_keys, check_types
from espnet_mt_llm.tasks.speech_llm import (SpeechLLMTask, build_hearing, build_voices, check, choose_trained,
                                            learns_frames, voice_weight)
from espnet_mt_llm.text.llm_tokenizer import load_tokenizer

# The entries of config.json that say sizes, by the name of the directory.
QWEN = {"model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
LANGUAGE_MODELS = {
    "Qwen2.5-0.5B-Instruct": {**QWEN, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                              "num_key_value_heads": 2, "intermediate_size": 4864, "tie_word_embeddings": True},
    "Qwen2.5-7B-Instruct": {**QWEN, "vocab_size": 152064, "hidden_size": 3584, "num_hidden_layers": 28,
                            "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
                            "tie_word_embeddings": False},
}
WHISPER = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
           "num_mel_bins": 128}
ENCODERS = {"SenseVoiceSmall": {"encoder_conf": {}, "frontend_conf": {}}, "whisper-large-v3": WHISPER,
            "whisper-large-v3-turbo": WHISPER}
# Adam keeps two moments of each trained weight; they and the gradients are in single precision.
TRAINED_BYTES = 4 + 2 * 4


class Part(NamedTuple):
    """A part of the model: its weights, those of them that are trained, bytes of all, bytes kept of a clip, operations
    of a step on it."""

    name: str
    weights: int
    trained: int
    weight_bytes: int
    clip_bytes: int
    flops: int = 0


class Estimate(NamedTuple):
    """What a training takes.

    Attributes:
        parts: of the model; each weight is counted once.
        positions: of the clip in the language model.
        again: bytes more of a block that is computed again for the gradient.
    """

    parts: list[Part]
    positions: int
    again: int

    def lines(self) -> list[str]:
        """Return a table."""
        rows = [["part", "weights", "trained", "MiB of weights", "MiB of a clip", "TFLOP of a step"]]
        whole = Part("all", *(sum(column) for column in zip(*(part[1:] for part in self.parts))))
        for part in [*self.parts, whole]:
            rows.append([part.name, f"{part.weights:,}", f"{part.trained:,}", f"{part.weight_bytes / 2**20:,.1f}",
                         f"{part.clip_bytes / 2**20:,.1f}", f"{part.flops / 1e12:,.3f}"])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))])
                 for row in rows]
        return [*table, f"positions of a clip: {self.positions}",
                f"gradients and moments of Adam: {whole.trained * TRAINED_BYTES / 2**20:,.1f} MiB",
                f"more while a block is computed again: {self.again / 2**20:,.1f} MiB"]


class _Digits:
    """Stands for a tokenizer where anchors are spelled: one token a digit, as Qwen's."""

    @staticmethod
    def encode(text: str) -> list[int]:
        """Return as many ids as there are characters."""
        return [0] * len(text)


def estimate(config: Pathlike, seconds: float = 50.0, targets: int = 300, prompt: int = 40, gpu: bool = True,
             tokenizer: Optional[Pathlike] = None) -> Estimate:
    """Estimate what one training step takes with the configuration ``config`` of the task ``speech_llm``.

    Args:
        config: YAML file.
        seconds: length of the clip.
        targets, prompt: its tokens.
        gpu: masks of one byte and fused attention; else as on a CPU.
        tokenizer: of a language model that begins from a configuration, as the recipe makes it.

    Raises:
        UserError: a length that is none, a clip that the language model has no positions for, an unknown key, a
            checkpoint that is not there and of unknown size, a part without a formula.
    """
    if not seconds > 0 or min(targets, prompt) < 0:
        raise UserError(f"{seconds:g} s, {targets} tokens of target, {prompt} of prompt: expected more than 0 s, and 0 "
                        "or more tokens")
    parser = SpeechLLMTask.get_parser()
    check_keys(config, [action.dest for action in parser._actions])
    check_types(config, parser)
    args = parser.parse_args(["--config", str(config), *(["--tokenizer", str(tokenizer)] if tokenizer else [])])
    check(args)
    if learns_frames(args):
        raise at(config, None, "no formula for loss: keep, which asks no language model", "take a step that asks it")
    llm = language_model(args)
    if args.layout != "none":
        parts = _hearing(args, llm.hidden_size)
    else:
        parts = build_voices(args, llm.hidden_size) if voice_weight(args) else {}
    model = SpeechLLM(llm, **parts)
    choose_trained(model, args.train_parts)
    model.train()
    try:
        found = _count(model, args, seconds, targets, prompt, gpu)
    except ValueError as e:
        raise at(config, None, str(e), "the weights alone are known then") from None
    if found.positions > llm.max_positions:
        raise UserError(f"{config}: a clip of {seconds:g} s takes {found.positions} positions, the language model has "
                        f"{llm.max_positions}; estimate a shorter one")
    flops = step_flops(model, seconds, args.rate, found.positions, targets)
    # "encoder (whisper)" here is "encoder" there, "adapter, layout" is "adapter".
    return found._replace(parts=[part._replace(flops=flops.get(re.split(r" \(|,", part.name)[0], 0))
                                 for part in found.parts])


def language_model(args: argparse.Namespace) -> LLM:
    """Build the language model of ``args`` with its adapters, without weights."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    conf = args.llm_conf or {}
    path = Path(conf.get("checkpoint") or "")
    if not conf.get("checkpoint"):
        if not args.tokenizer:
            raise UserError("tokenizer is missing; make one: python -m espnet_mt_llm.bin.make_llm_tokenizer")
        values = {**(conf.get("config") or {}), "vocab_size": len(load_tokenizer(args.tokenizer))}
    elif (path / "config.json").is_file():
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    elif path.name in LANGUAGE_MODELS:
        values = dict(LANGUAGE_MODELS[path.name])
    else:
        raise at(path / "config.json", None, "no such file", WANTED)
    dtype = getattr(torch, conf.get("dtype", "float32"))
    settings = CONFIG_MAPPING[values.pop("model_type", "qwen2")](**values)
    with suppress(ImportError):
        # transformers imports it by the way; within the next lines its constants would have no data ever after.
        import torchaudio.compliance.kaldi  # noqa: F401
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype,
                                                 attn_implementation=conf.get("attention", "sdpa"))
        if conf.get("lora") is not None:
            add_lora(model, conf["lora"], TARGETS, "llm_conf: lora")
    if conf.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return LLM(model, bool(conf.get("checkpoint")), dtype)


def _hearing(args: argparse.Namespace, size: int) -> dict[str, Any]:
    """Build all but the language model; what is of known size, without weights."""
    from accelerate import init_empty_weights

    known = True
    path = Path((args.encoder_conf or {}).get("checkpoint") or "")
    if path.name in ENCODERS:
        args.encoder_conf = {**{k: v for k, v in args.encoder_conf.items() if k != "checkpoint"},
                             "config": ENCODERS[path.name]}
    elif str(path) != ".":
        known = False
    speaker = args.speaker_encoder_conf or {}
    if args.speaker_encoder and not Path(speaker.get("checkpoint") or "/").is_file():
        # The sizes of the released extractors are those that are there by default.
        args.speaker_encoder_conf = {"embedding_size": 192, **{k: v for k, v in speaker.items() if k != "checkpoint"}}
    with warnings.catch_warnings(), init_empty_weights() if known else nullcontext():
        warnings.simplefilter("ignore", UserWarning)  # of weights that are read and go nowhere
        return build_hearing(args, size, _Digits())


def _count(model: SpeechLLM, args: argparse.Namespace, seconds: float, targets: int, prompt: int, gpu: bool
           ) -> Estimate:
    config = model.llm.model.config
    parts, positions, heard = [], prompt + targets, 0
    if model.encoder is not None:
        frames = math.ceil(seconds / model.encoder.frame_shift)
        heard = model.adapter.length(frames)
        audio = model.layout.length(heard)
        positions += audio
        kept = encoder_bytes(model.encoder, args.encoder, frames, gpu)
        parts.append(_part(f"encoder ({args.encoder})", [model.encoder], kept))
        kept = projector_bytes(model.adapter, frames, gpu) if kept or learns(model.adapter) else 0
        if isinstance(model.layout, FeatureConcat):
            kept += 4 * heard * model.layout.fusion.in_features
        # The row of each position: in the layout, and among prompt and target.
        parts.append(_part("adapter, layout", [model.adapter, model.layout], kept + 8 * (audio + positions)))
    if model.speaker_encoder is not None:
        parts.append(_part(f"speaker encoder ({args.speaker_encoder})", [model.speaker_encoder], 0))
        if learns(model.speaker_encoder):
            raise ValueError("no formula for what a speaker encoder keeps while it is trained")
        kept = 0
        if model.speaker_stream is not None and learns(model.speaker_adapter):
            read = math.ceil(seconds / model.speaker_encoder.frame_shift / model.speaker_stream.step)
            kept = stream_bytes(model.speaker_stream, read) + projector_bytes(model.speaker_adapter, heard, gpu)
        modules = [m for m in (model.speaker_stream, model.speaker_adapter, model.registration) if m is not None]
        parts.append(_part("speaker adapter", modules, kept))
    new = len(args.new_tokens)
    kept, again = llm_bytes(model.llm, positions, targets, config.vocab_size + new, gpu)
    part = _part("language model", [model.llm], kept)
    if new:
        rows = new * config.hidden_size * (1 if config.tie_word_embeddings else 2)
        trained = rows if {"llm", "llm_lora"} & set(args.train_parts) else 0
        part = part._replace(weights=part.weights + rows, trained=part.trained + trained,
                             weight_bytes=part.weight_bytes + 4 * rows)
    return Estimate([*parts, part], positions, again)


def _part(name: str, modules: list[torch.nn.Module], kept: int) -> Part:
    weights = list({id(p): p for module in modules for p in module.parameters()}.values())
    return Part(name, sum(p.numel() for p in weights), sum(p.numel() for p in weights if p.requires_grad),
                sum(p.numel() * p.element_size() for p in weights), kept)
