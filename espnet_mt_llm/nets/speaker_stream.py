"""The speaker stream at the rate of the semantic one."""

import math

import torch

from espnet_mt_llm.nets.projectors import Convolution


class SpeakerStream(torch.nn.Module):
    """One Conv1d of kernel 3 brings chunk embeddings to the rate of the semantic frames (arXiv 2606.13095, Eq. 2).

    Frame t of the result is centred on frame ``stride * t``, which is where SenseVoice's frames (60 ms) lie among those
    of CAM++ (20 ms). What the rounding of two front ends leaves is cropped, or filled with the last frame.

    Frames that are no whole fraction of the semantic ones, such as those of ERes2NetV2 (80 ms), are first brought to
    their rate: frame t becomes the one nearest to ``step * t``. Little is lost, as embeddings stand still in a chunk.

    Args:
        input_size: E, of the embeddings of all chunk sizes together.
        output_size: D.
        ratio: semantic over speaker frame shift; the stride where it is a whole number, ``step`` elsewhere.

    Attributes:
        step: speaker frames between those that the convolution reads; 1 where it reads all.

    Raises:
        ValueError: the ratio is not positive.
    """

    def __init__(self, input_size: int, output_size: int, ratio: float) -> None:
        super().__init__()
        if not ratio > 0:
            raise ValueError(f"ratio: {ratio} is not positive")
        whole = max(1, round(ratio))
        fits = abs(ratio - whole) < 1e-6
        self.output_size, self.step = output_size, 1.0 if fits else ratio
        self.convolution = Convolution(input_size, output_size, whole if fits else 1)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor, semantic_lengths: torch.Tensor) -> torch.Tensor:
        """Return ``(B, max(semantic_lengths), D)``, zero beyond the semantic lengths.

        Args:
            frames: ``(B, T, E)``.
            lengths: ``(B,)`` of ``frames``.
            semantic_lengths: ``(B,)``.

        Raises:
            ValueError: the longest of both do not match, so that the ratio must be another.
        """
        if self.step != 1:
            frames, lengths = self._at_step(frames, lengths)
        frames, lengths = self.convolution(frames, lengths)
        size, found = int(semantic_lengths.max()), frames.size(1)
        if abs(found - size) > 4 + 0.05 * size:
            raise ValueError(f"the speaker stream has {found} frames, the semantic one {size}: "
                             f"{self.convolution.stride[0] * self.step:g} is not the ratio of their frame shifts")
        steps = torch.arange(size, device=frames.device)
        index = torch.minimum(steps, lengths.clamp(min=1).unsqueeze(1) - 1)
        fitted = frames.gather(1, index.unsqueeze(-1).expand(-1, -1, self.output_size))
        return fitted.masked_fill((steps >= semantic_lengths.unsqueeze(1)).unsqueeze(-1), 0.0)

    def _at_step(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the frames nearest to every ``step``, and their lengths."""
        nearest = torch.arange(math.ceil(frames.size(1) / self.step), device=frames.device, dtype=torch.float64)
        nearest = torch.minimum((nearest * self.step + 0.5).long(), lengths.clamp(min=1).unsqueeze(1) - 1)
        return (frames.gather(1, nearest.unsqueeze(-1).expand(-1, -1, frames.size(2))),
                (lengths / self.step).ceil().long())
