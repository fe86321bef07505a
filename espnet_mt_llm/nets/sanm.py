"""Self-attention with a memory block (SAN-M; Gao et al., 2020), the encoder blocks of Paraformer and SenseVoice.

Names of weights are those of funasr, so that its checkpoints fit.
"""

import math
from collections.abc import Iterable

import torch
from torch.nn import functional as F

from espnet_mt_llm.nets.masks import length_mask


class SanmAttention(torch.nn.Module):
    """Multi-head self-attention plus the memory block: a depth-wise convolution over its values.

    Args:
        input_size, size: of the frames, of the output.
        heads: attention heads.
        kernel: frames of the convolution.
        shift: frames that the convolution is moved to the past by.
        dropout: of the attention weights and of the memory.
    """

    def __init__(self, input_size: int, size: int, heads: int, kernel: int, shift: int, dropout: float) -> None:
        super().__init__()
        if size % heads:
            raise ValueError(f"{heads} heads do not share {size} values evenly")
        self.heads, self.dropout = heads, dropout
        self.linear_q_k_v = torch.nn.Linear(input_size, 3 * size)
        self.linear_out = torch.nn.Linear(size, size)
        self.fsmn_block = torch.nn.Conv1d(size, size, kernel, groups=size, bias=False)
        before = (kernel - 1) // 2 + max(0, shift)
        self.padding = (before, kernel - 1 - before)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return ``(B, T, D)`` from ``frames`` ``(B, T, D_in)`` and ``mask`` ``(B, T)``, True inside the clip."""
        batch, time, _ = frames.shape
        query, key, value = self.linear_q_k_v(frames).chunk(3, dim=-1)
        inside = mask[..., None].to(value.dtype)
        masked = value * inside
        memory = self.fsmn_block(F.pad(masked.transpose(1, 2), self.padding)).transpose(1, 2) + masked
        memory = F.dropout(memory, self.dropout, self.training) * inside
        query, key, value = (x.view(batch, time, self.heads, -1).transpose(1, 2) for x in (query, key, value))
        context = F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :],
                                                 dropout_p=self.dropout if self.training else 0.0)
        return self.linear_out(context.transpose(1, 2).reshape(batch, time, -1)) + memory


class FeedForward(torch.nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, size: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w_1, self.w_2 = torch.nn.Linear(size, hidden), torch.nn.Linear(hidden, size)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return ``(B, T, D)`` from ``(B, T, D)``."""
        return self.w_2(self.dropout(torch.relu(self.w_1(frames))))


class SanmBlock(torch.nn.Module):
    """Attention and feed-forward, each normalised before and added to its input.

    A block that changes the size of the frames adds no input to its attention.
    """

    def __init__(self, input_size: int, size: int, heads: int, hidden: int, kernel: int, shift: int, dropout: float,
                 attention_dropout: float) -> None:
        super().__init__()
        self.self_attn = SanmAttention(input_size, size, heads, kernel, shift, attention_dropout)
        self.feed_forward = FeedForward(size, hidden, dropout)
        self.norm1, self.norm2 = torch.nn.LayerNorm(input_size), torch.nn.LayerNorm(size)
        self.dropout = torch.nn.Dropout(dropout)
        self.residual = input_size == size

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return ``(B, T, D)`` from ``frames`` ``(B, T, D_in)`` and ``mask`` ``(B, T)``."""
        attended = self.dropout(self.self_attn(self.norm1(frames), mask))
        frames = frames + attended if self.residual else attended
        return frames + self.dropout(self.feed_forward(self.norm2(frames)))


def positions(time: int, size: int, device: torch.device) -> torch.Tensor:
    """Return ``(T, D)`` sines, then cosines, of positions 1 .. T.

    The wavelengths rise geometrically from 2 pi to 10000 times as much over D / 2 values.
    """
    half = size // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / (half - 1)))
    phases = torch.arange(1, time + 1, device=device)[:, None] * rates
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class SanmStack(torch.nn.Module):
    """The encoder of SenseVoice-small: ``num_blocks`` main blocks, a norm, ``tp_blocks`` more, a norm.

    Arguments have the names of the ``encoder_conf`` of funasr (one of them is misspelt there).

    Args:
        input_size: size of the input frames.
        output_size: D.
        attention_heads, linear_units, num_blocks, tp_blocks, kernel_size, sanm_shfit: of the blocks.
        dropout_rate, attention_dropout_rate: of the blocks.
    """

    def __init__(self, input_size: int, output_size: int = 512, attention_heads: int = 4, linear_units: int = 2048,
                 num_blocks: int = 50, tp_blocks: int = 20, kernel_size: int = 11, sanm_shfit: int = 0,
                 dropout_rate: float = 0.1, attention_dropout_rate: float = 0.1) -> None:
        super().__init__()

        def block(size: int) -> SanmBlock:
            return SanmBlock(size, output_size, attention_heads, linear_units, kernel_size, sanm_shfit, dropout_rate,
                             attention_dropout_rate)

        self.encoders0 = torch.nn.ModuleList([block(input_size)])
        self.encoders = torch.nn.ModuleList(block(output_size) for _ in range(num_blocks - 1))
        self.tp_encoders = torch.nn.ModuleList(block(output_size) for _ in range(tp_blocks))
        self.after_norm, self.tp_norm = torch.nn.LayerNorm(output_size), torch.nn.LayerNorm(output_size)
        self.output_size, self.num_main = output_size, num_blocks

    @property
    def blocks(self) -> list[SanmBlock]:
        """All blocks in order."""
        return [*self.encoders0, *self.encoders, *self.tp_encoders]

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor, layers: Iterable[int]) -> dict[int, torch.Tensor]:
        """Return the outputs ``(B, T, D)`` of the blocks ``layers``, numbered from 0; blocks behind them are not run.

        The last main block and the last block of all are normalised. A clip gives the same output alone and padded in
        a batch.

        Args:
            frames: ``(B, T, D_in)``.
            lengths: ``(B,)``.
            layers: which blocks.
        """
        wanted, outputs = set(layers), {}
        mask = length_mask(lengths, frames.size(1))
        hidden = frames * self.output_size ** 0.5
        hidden = hidden + positions(frames.size(1), frames.size(2), frames.device).to(frames.dtype)
        blocks = self.blocks
        for i, block in enumerate(blocks[: max(wanted) + 1]):
            hidden = block(hidden, mask)
            if i == self.num_main - 1:
                hidden = self.after_norm(hidden)
            if i == len(blocks) - 1:
                hidden = self.tp_norm(hidden)
            if i in wanted:
                outputs[i] = hidden
        return outputs
