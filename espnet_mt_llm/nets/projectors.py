"""Projectors from encoder frames to the input space of an LLM."""

from abc import ABC, abstractmethod
from typing import Optional, Sequence

import torch
from torch.nn import functional as F

from espnet_mt_llm.nets.masks import length_mask


class Projector(torch.nn.Module, ABC):
    """Frames ``(B, T, D)`` to frames ``(B, T', H)`` of a lower rate; padding never reaches a valid frame.

    Attributes:
        output_size: H.
        stride: T over T'.
    """

    output_size: int
    stride: int = 1

    @abstractmethod
    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, T', H)``, anything beyond the lengths ``(B,)``, which are returned too."""

    def length(self, frames: int) -> int:
        """Return T' of ``frames`` = T."""
        return -(-frames // self.stride)


class MLPAdapter(Projector):
    """Two linear layers with GELU between, then LayerNorm (arXiv 2606.13095, section 2.1).

    Args:
        input_size, output_size: D, H.
        hidden: between the layers; D when None.
    """

    def __init__(self, input_size: int, output_size: int, hidden: Optional[int] = None) -> None:
        super().__init__()
        hidden = hidden or input_size
        self.output_size = output_size
        self.layers = torch.nn.Sequential(torch.nn.Linear(input_size, hidden), torch.nn.GELU(),
                                          torch.nn.Linear(hidden, output_size), torch.nn.LayerNorm(output_size))

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, T, H)`` and the same lengths."""
        return self.layers(frames), lengths


class Convolution(torch.nn.Conv1d):
    """Conv1d of kernel 3 over the frames of a batch: output frame t is centred on input frame ``stride * t``."""

    def __init__(self, input_size: int, output_size: int, stride: int) -> None:
        if stride < 1:
            raise ValueError(f"stride: {stride} is not positive")
        super().__init__(input_size, output_size, kernel_size=3, stride=stride, padding=1)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, ceil(T / stride), output_size)`` and the lengths of ``frames`` ``(B, T, input_size)``."""
        frames = frames.masked_fill(~length_mask(lengths, frames.size(1)).unsqueeze(-1), 0.0)
        stride = self.stride[0]
        return super().forward(frames.transpose(1, 2)).transpose(1, 2), (lengths + stride - 1) // stride


class TransformerProjector(Projector):
    """Transformer layers at encoder width, then one Conv1d that matches rate and dimension (arXiv 2508.06372).

    The layers are pre-norm without positions: the frames of an encoder carry theirs.

    Args:
        input_size, output_size: D, H.
        num_layers, heads: of the Transformer; D is a multiple of ``heads``.
        feed_forward: its inner size; 4 D when None.
        stride: of the convolution (kernel 3); 2 brings MinMo's 25 Hz to 12.5 Hz, 4 Whisper's 50 Hz.
        dropout: in the Transformer.
    """

    def __init__(self, input_size: int, output_size: int, num_layers: int = 2, heads: int = 8,
                 feed_forward: Optional[int] = None, stride: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if input_size % heads:
            raise ValueError(f"heads: {heads} does not divide the encoder's {input_size}")
        self.output_size, self.stride = output_size, stride
        layer = torch.nn.TransformerEncoderLayer(input_size, heads, feed_forward or 4 * input_size, dropout,
                                                 activation="gelu", batch_first=True, norm_first=True)
        self.transformer = torch.nn.TransformerEncoder(layer, num_layers, torch.nn.LayerNorm(input_size),
                                                       enable_nested_tensor=False)
        self.convolution = Convolution(input_size, output_size, stride)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, ceil(T / stride), H)`` and the lengths."""
        outside = ~length_mask(lengths, frames.size(1))
        # A clip without frames would have no key to attend to, and NaN for ever after.
        outside = outside & (lengths > 0).unsqueeze(1)
        return self.convolution(self.transformer(frames, src_key_padding_mask=outside), lengths)


class GLUProjector(Projector):
    """Conv1d of kernel 3 with gated linear units, then a linear layer (the speech path of arXiv 2603.10587).

    Args:
        input_size, output_size: D, H.
        strides: of each convolution; by default three of stride 2, from 20 ms to 160 ms.
    """

    def __init__(self, input_size: int, output_size: int, strides: Sequence[int] = (2, 2, 2)) -> None:
        super().__init__()
        self.output_size = output_size
        self.convolutions = torch.nn.ModuleList(Convolution(input_size, 2 * input_size, s) for s in strides)
        self.output = torch.nn.Linear(input_size, output_size)
        for stride in strides:
            self.stride *= stride

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, ceil(T / stride), H)`` and the lengths."""
        for convolution in self.convolutions:
            frames, lengths = convolution(frames, lengths)
            frames = F.glu(frames, dim=-1)
        return self.output(frames), lengths


PROJECTORS = {"mlp": MLPAdapter, "transformer": TransformerProjector, "glu": GLUProjector}
