"""Floating-point operations of a training step of a speech LLM, counted on its parts without weights.

Every part is run with tensors that have a shape and no values, forwards and, where something in front of it or in it is
trained, backwards; PyTorch counts what its matrix products, convolutions and attention take. A block that is run again
for its gradient is counted again, a frozen part in front of everything that is trained is counted once.
"""

import math
from collections.abc import Callable
from typing import Union

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.encoders.whisper import FFT, HOP, RATE, STRIDE, Whisper
from espnet_mt_llm.models.base import learns
from espnet_mt_llm.models.speech_llm import SpeechLLM
from espnet_mt_llm.nets.layouts import FeatureConcat

Output = Union[torch.Tensor, tuple[torch.Tensor, ...]]


def step_flops(model: SpeechLLM, seconds: float, rate: int, positions: int, targets: int) -> dict[str, int]:
    """Return part → operations of a step on one clip; ``model`` loses its weights.

    Args:
        model: in the mode and with the trained parts of the training.
        seconds: of audio.
        rate: Hz.
        positions: of the clip in the language model.
        targets: tokens of its target.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        _lose_weights(model)
        found, learnt = {}, False
        if model.encoder is not None:
            learnt = learns(model.encoder)
            frames = math.ceil(seconds / model.encoder.frame_shift)
            found["encoder"] = _encoder(model.encoder, seconds, rate)
            size = model.encoder.output_size * model.encoder.num_layers
            found["adapter"] = _projector(model.adapter, frames, size, learnt)
            learnt |= learns(model.adapter)
        if model.uses_speaker:
            speech, length = torch.empty(1, round(seconds * rate)), torch.tensor([round(seconds * rate)])
            extractor = model.speaker_encoder
            found["speaker encoder"] = _count(lambda: extractor.chunks(speech, length, model.chunk_sizes,
                                                                       model.raw_chunks), learns(extractor))
            heard, stream = model.adapter.length(frames), model.speaker_stream
            read = math.ceil(seconds / extractor.frame_shift / stream.step)
            chunks = torch.empty(1, read, stream.convolution.in_channels).requires_grad_(learns(extractor))
            sizes = torch.tensor([chunks.size(1)])
            found["speaker adapter"] = _count(lambda: stream.convolution(chunks, sizes), True) + _projector(
                model.speaker_adapter, heard, stream.output_size, True)
            learnt |= learns(model.speaker_adapter)
            if isinstance(model.layout, FeatureConcat):
                both = torch.empty(1, heard, model.layout.fusion.in_features).requires_grad_(learnt)
                found["adapter"] += _count(lambda: model.layout.fusion(both), True)
        llm = model.llm
        embeds = torch.empty(1, positions, llm.model.config.hidden_size, dtype=llm.dtype)
        embeds.requires_grad_(learnt or learns(llm))
        found["language model"] = _count(lambda: llm.logits(llm.hidden(embeds)[:, -targets:]), True)
    return found


def _encoder(encoder: SpeechEncoder, seconds: float, rate: int) -> int:
    if not isinstance(encoder, Whisper):
        speech, length = torch.empty(1, round(seconds * rate)), torch.tensor([round(seconds * rate)])
        return _count(lambda: encoder(speech, length)[0], True)
    total, left = 0, round(seconds * RATE)
    while left > 0:  # its windows; which of them are run depends on values
        frames = math.ceil(min(left, encoder.window_size) / (STRIDE * HOP))
        mels = torch.empty(1, encoder.config["num_mel_bins"], STRIDE * frames)
        total += 2 * mels.numel() * (1 + FFT // 2)  # the filters
        total += _count(lambda: encoder._encode(mels, torch.tensor([frames]))[max(encoder.layers)], True)
        left -= encoder.window_size
    return total


def _projector(projector: torch.nn.Module, frames: int, size: int, learnt: bool) -> int:
    inputs = torch.empty(1, frames, size).requires_grad_(learnt)
    return _count(lambda: projector(inputs, torch.tensor([frames])), True)


def _count(run: Callable[[], Output], backwards: bool) -> int:
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backwards):
        output = run()
        output = output[0] if isinstance(output, tuple) else output
        if output.requires_grad:
            output.sum().backward()
    return counter.get_total_flops()


def _lose_weights(model: torch.nn.Module) -> None:
    """Replace all tensors of ``model`` by ones without values; what was shared is shared."""
    known: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = known.setdefault(id(weight), torch.nn.Parameter(
                    torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad))
        for name, values in module._buffers.items():
            if values is not None:
                module._buffers[name] = torch.empty(values.shape, dtype=values.dtype)
