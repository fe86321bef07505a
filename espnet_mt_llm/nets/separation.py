"""Separation head: Conv-TasNet (Luo and Mesgarani, 2019) on the waveform, told of the shared encoder's frames."""

from typing import Any, Optional

import torch
from torch.nn import functional as F

MASKS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "softmax": lambda scores: scores.softmax(dim=1)}
EPSILON = torch.finfo(torch.float32).eps


def normalise(hidden: torch.Tensor, slope: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor
              ) -> tuple[torch.Tensor, ...]:
    """PReLU and global layer norm (gLN) of ``hidden`` ``(H, T)``.

    y = gain (p - m) r + bias with p = PReLU(hidden), m and 1 / r^2 the mean and variance of all of p (Luo and
    Mesgarani, 2019, equations 6 to 8).

    Returns:
        y, p, m, r.
    """
    active = F.prelu(hidden.unsqueeze(0), slope).squeeze(0)
    mean = active.mean()
    rate = (active.square().mean() - mean.square()).clamp(min=0).add(EPSILON).rsqrt()
    scale = gain * rate
    # A product and a sum in place: torch takes three times as long for addcmul with a broadcast summand.
    return (active * scale.unsqueeze(1)).add_((bias - mean * scale).unsqueeze(1)), active, mean, rate


def normalise_backward(grad: torch.Tensor, hidden: torch.Tensor, slope: torch.Tensor, gain: torch.Tensor,
                       active: torch.Tensor, mean: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the gradients of ``hidden``, ``slope``, ``gain`` and ``bias`` of :func:`normalise`.

    With s = gain r and n values in all: dp = s dy + 2 p dv / n + (dm - 2 m dv) / n, where dm = -sum s dbias and
    dv = -r^3 / 2 sum gain (sum_t dy p - m dbias) are the gradients of mean and variance.
    """
    grad_bias = grad.sum(1)
    grad_scale = (grad * active).sum(1) - mean * grad_bias
    scale = gain * rate
    grad_variance = -0.5 * rate ** 3 * gain.dot(grad_scale)
    constant = (-scale.dot(grad_bias) - 2 * mean * grad_variance) / active.numel()
    grad_active = (active * (2 * grad_variance / active.numel())).add_(constant).addcmul_(grad, scale.unsqueeze(1))
    # The gradient of ReLU: a choice by sign (torch.where, PReLU's own gradient) takes thirty times as long on a CPU.
    positive = torch.ops.aten.threshold_backward(grad_active, hidden, 0)
    negative = grad_active.sub_(positive)
    grad_slope = (negative * hidden).sum().view_as(slope)
    return positive.add_(negative.mul_(slope)), grad_slope, grad_scale * rate, grad_bias


def offsets(taps: torch.Tensor, dilation: int, size: int) -> list[tuple[torch.Tensor, slice, slice]]:
    """Pair each tap ``(H, 1)`` of ``taps`` ``(H, K)`` with the outputs it reaches and the inputs it reads."""
    found = []
    for k in range(taps.size(1)):
        shift = (k - taps.size(1) // 2) * dilation
        if abs(shift) < size:
            found.append((taps[:, k : k + 1], slice(max(0, -shift), min(size, size - shift)),
                          slice(max(0, shift), min(size, size + shift))))
    return found


def depthwise(hidden: torch.Tensor, taps: torch.Tensor, dilation: int) -> torch.Tensor:
    """Convolve each row of ``hidden`` ``(H, T)`` with its row of ``taps`` ``(H, K)``, K odd, zeros at both ends."""
    output = torch.zeros_like(hidden)
    for tap, to, source in offsets(taps, dilation, hidden.size(1)):
        output[:, to].addcmul_(hidden[:, source], tap)
    return output


def depthwise_backward(grad: torch.Tensor, hidden: torch.Tensor, taps: torch.Tensor, dilation: int
                       ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of ``hidden`` and ``taps`` of :func:`depthwise`."""
    grad_hidden, grad_taps = torch.zeros_like(hidden), torch.zeros_like(taps)
    pieces = zip(offsets(taps, dilation, hidden.size(1)), offsets(grad_taps, dilation, hidden.size(1)))
    for (tap, to, source), (grad_tap, _, _) in pieces:
        grad_hidden[:, source].addcmul_(grad[:, to], tap)
        grad_tap.copy_((grad[:, to] * hidden[:, source]).sum(1, keepdim=True))
    return grad_hidden, grad_taps


def widen(frames: torch.Tensor, w_in: torch.Tensor, slope: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor,
          taps: torch.Tensor, dilation: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first half of a block: ``(H, T)`` in front of its first PReLU, and in front of its second."""
    hidden = w_in @ frames
    return hidden, depthwise(normalise(hidden, slope, gain, bias)[0], taps, dilation)


class BlockFunction(torch.autograd.Function):
    """One block of the TCN with the gradient written out: x + W_out norm(depthwise(norm(W_in x))).

    The parts are bound by memory, not by arithmetic: autograd on torch's own layers takes several times as long on a
    CPU, and keeps six tensors ``(H, T)`` where this keeps two, or none with ``recompute``.
    """

    @staticmethod
    def forward(ctx: Any, frames: torch.Tensor, w_in: torch.Tensor, slope_1: torch.Tensor, gain_1: torch.Tensor,
                bias_1: torch.Tensor, taps: torch.Tensor, slope_2: torch.Tensor, gain_2: torch.Tensor,
                bias_2: torch.Tensor, w_out: torch.Tensor, dilation: int, recompute: bool) -> torch.Tensor:
        """Return ``(C, T)`` from ``frames`` ``(C, T)``; the parameters as in :class:`Block`."""
        halves = widen(frames, w_in, slope_1, gain_1, bias_1, taps, dilation)
        ctx.dilation = dilation
        ctx.save_for_backward(frames, w_in, slope_1, gain_1, bias_1, taps, slope_2, gain_2, bias_2, w_out,
                              *(() if recompute else halves))
        return torch.addmm(frames, w_out, normalise(halves[1], slope_2, gain_2, bias_2)[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Optional[torch.Tensor], ...]:
        """Return the gradients of all arguments of :meth:`forward`; cheap steps are done again instead of kept."""
        frames, w_in, slope_1, gain_1, bias_1, taps, slope_2, gain_2, bias_2, w_out, *halves = ctx.saved_tensors
        hidden, convolved = halves or widen(frames, w_in, slope_1, gain_1, bias_1, taps, ctx.dilation)
        normal, *state = normalise(convolved, slope_2, gain_2, bias_2)
        grad_w_out = grad @ normal.t()
        inner, *second = normalise_backward(w_out.t() @ grad, convolved, slope_2, gain_2, *state)
        normal, *state = normalise(hidden, slope_1, gain_1, bias_1)
        inner, grad_taps = depthwise_backward(inner, normal, taps, ctx.dilation)
        inner, *first = normalise_backward(inner, hidden, slope_1, gain_1, *state)
        return (torch.addmm(grad, w_in.t(), inner), inner @ frames.t(), *first, grad_taps, *second, grad_w_out, None,
                None)


class Block(torch.nn.Module):
    """One block of the TCN on a single clip ``(C, T)``: 1x1 convolution, PReLU, gLN, dilated depthwise convolution,
    PReLU, gLN, 1x1 convolution, and the sum with its input.

    Args:
        size: C.
        hidden: H.
        kernel: taps of the depthwise convolution, odd.
        dilation: distance between the taps in frames.
        recompute: keep C values a frame for the backward pass instead of C + 2 H; takes a sixth more arithmetic.
    """

    def __init__(self, size: int, hidden: int, kernel: int, dilation: int, recompute: bool = False) -> None:
        super().__init__()
        self.dilation, self.recompute = dilation, recompute
        self.w_in = torch.nn.Parameter(uniform(hidden, size))
        self.taps = torch.nn.Parameter(uniform(hidden, kernel))
        self.w_out = torch.nn.Parameter(uniform(size, hidden))
        for i in (1, 2):
            self.register_parameter(f"slope_{i}", torch.nn.Parameter(torch.full((1,), 0.25)))
            self.register_parameter(f"gain_{i}", torch.nn.Parameter(torch.ones(hidden)))
            self.register_parameter(f"bias_{i}", torch.nn.Parameter(torch.zeros(hidden)))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return ``(C, T)`` from ``(C, T)``."""
        return BlockFunction.apply(frames, self.w_in, self.slope_1, self.gain_1, self.bias_1, self.taps, self.slope_2,
                                   self.gain_2, self.bias_2, self.w_out, self.dilation, self.recompute)


def uniform(rows: int, columns: int) -> torch.Tensor:
    """Return initial weights ``(rows, columns)``, uniform within 1 / sqrt(columns), as torch's convolutions have."""
    return (torch.rand(rows, columns) * 2 - 1) / columns ** 0.5


class ConvTasNet(torch.nn.Module):
    """Waveforms of the speakers from the mixture and the encoder's frames.

    Learned filters, masks from a TCN, learned inverse filters. The encoder's frames are projected, interpolated
    linearly to the frames of the filters and concatenated to them in front of the TCN. The filters see the waveform at
    its own level: masks do not depend on it, and the output scales with the input.

    Each clip goes through alone, at its own length: padding cannot reach it, although gLN takes its statistics over
    the whole clip, and on a CPU the tensors stay in the cache (espnet2's TCN counts padding in them).

    Args:
        input_size: D of the encoder.
        num_speakers: S.
        filters: learned filters.
        kernel, stride: their length and distance in samples; ``kernel`` is a multiple of ``stride``.
        layers: blocks of a stack, with dilations 1, 2, 4, ...
        stacks: how often they are repeated.
        bottleneck, hidden: channels between and inside the blocks.
        tcn_kernel: taps of the depthwise convolutions, odd.
        mask: ``relu``, ``sigmoid``, or ``softmax`` over the speakers.
        projection: channels that the encoder's frames are projected to.
        sum_consistency: share what the estimates lack to the mixture equally among them, so that they sum up to it
            (Wisdom et al., 2019, equation 6).
        recompute: less memory while training, see :class:`Block`.

    Raises:
        ValueError: sizes that do not fit, or an unknown mask.
    """

    def __init__(self, input_size: int, num_speakers: int, filters: int = 512, kernel: int = 16, stride: int = 8,
                 layers: int = 8, stacks: int = 3, bottleneck: int = 128, hidden: int = 512, tcn_kernel: int = 3,
                 mask: str = "relu", projection: int = 128, sum_consistency: bool = False,
                 recompute: bool = False) -> None:
        super().__init__()
        if kernel % stride:
            raise ValueError(f"kernel {kernel} is not a multiple of stride {stride}")
        if tcn_kernel % 2 == 0:
            raise ValueError(f"tcn_kernel {tcn_kernel} is not odd")
        if mask not in MASKS:
            raise ValueError(f"unknown mask '{mask}'; valid: {', '.join(MASKS)}")
        self.num_speakers, self.filters, self.kernel, self.stride = num_speakers, filters, kernel, stride
        self.mask, self.sum_consistency = MASKS[mask], sum_consistency
        self.encoder = torch.nn.Linear(kernel, filters, bias=False)
        self.norm = torch.nn.LayerNorm(filters, eps=EPSILON)
        self.projection = torch.nn.Linear(input_size, projection)
        self.bottleneck = torch.nn.Linear(filters + projection, bottleneck, bias=False)
        self.blocks = torch.nn.ModuleList(
            Block(bottleneck, hidden, tcn_kernel, 2 ** layer, recompute)
            for _ in range(stacks) for layer in range(layers)
        )
        self.masks = torch.nn.Linear(bottleneck, num_speakers * filters, bias=False)
        self.decoder = torch.nn.Linear(filters, kernel, bias=False)

    def forward(self, speech: torch.Tensor, encoded: torch.Tensor, lengths: torch.Tensor,
                encoded_lengths: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return waveforms ``(B, S, N)``, zero beyond each clip's end; in float32 whatever autocast says.

        Args:
            speech: ``(B, N)`` samples of the mixtures.
            encoded: ``(B, T, D)`` frames of the encoder.
            lengths: ``(B,)`` samples.
            encoded_lengths: ``(B,)`` frames of the encoder; None: T of every clip.
        """
        sizes = lengths.tolist()
        frames = [encoded.size(1)] * len(sizes) if encoded_lengths is None else encoded_lengths.tolist()
        with torch.autocast(speech.device.type, enabled=False):
            clips = [
                F.pad(self._separate(speech[i, :size].float(), encoded[i, : frames[i]].float()),
                      (0, speech.size(1) - size))
                for i, size in enumerate(sizes)
            ]
        return torch.stack(clips)

    def _separate(self, speech: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Return ``(S, N)`` from one clip ``(N,)`` and its encoder frames ``(T, D)``."""
        # The first sample lies in as many frames as every other; the last frame is filled with zeros.
        missing = self.kernel - self.stride
        count = max(0, speech.numel() - 1 + missing) // self.stride + 1
        padded = F.pad(speech, (missing, count * self.stride - speech.numel()))
        features = self.encoder(padded.unfold(0, self.kernel, self.stride)).relu()
        hidden = self.bottleneck.weight[:, : self.filters] @ self.norm(features).t() + self._condition(encoded, count)
        for block in self.blocks:
            hidden = block(hidden)
        scores = F.linear(hidden.t(), self.masks.weight).view(count, self.num_speakers, self.filters)
        pieces = self.decoder(self.mask(scores) * features.unsqueeze(1)).split(self.stride, dim=-1)
        overlapped = sum(F.pad(piece, (0, 0, 0, 0, i, len(pieces) - 1 - i)) for i, piece in enumerate(pieces))
        waves = overlapped.transpose(0, 1).reshape(self.num_speakers, -1)[:, missing : missing + speech.numel()]
        return waves + (speech - waves.sum(0)) / self.num_speakers if self.sum_consistency else waves

    def _condition(self, encoded: torch.Tensor, count: int) -> torch.Tensor:
        """Return what the encoder's frames ``(T, D)`` add to the bottleneck ``(C, count)``.

        Interpolation in time and a map of channels commute, so the bottleneck's share of the projected frames is
        taken at the encoder's frame rate, and the concatenation is never built.
        """
        share = F.linear(self.projection(encoded), self.bottleneck.weight[:, self.filters :])
        return F.interpolate(share.t().unsqueeze(0), size=count, mode="linear").squeeze(0)
