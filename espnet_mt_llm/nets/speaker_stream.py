"""The speaker stream at the rate of the semantic one."""

import torch

from espnet_mt_llm.nets.projectors import Convolution


class SpeakerStream(torch.nn.Module):
    """One Conv1d of kernel 3 brings chunk embeddings to the rate of the semantic frames (arXiv 2606.13095, Eq. 2).

    Frame t of the result is centred on frame ``stride * t``, which is where SenseVoice's frames (60 ms) lie among those
    of CAM++ (20 ms). What the rounding of two front ends leaves is cropped, or filled with the last frame.

    Args:
        input_size: E, of the embeddings of all chunk sizes together.
        output_size: D.
        stride: semantic over speaker frame shift.
    """

    def __init__(self, input_size: int, output_size: int, stride: int) -> None:
        super().__init__()
        self.output_size = output_size
        self.convolution = Convolution(input_size, output_size, stride)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor, semantic_lengths: torch.Tensor) -> torch.Tensor:
        """Return ``(B, max(semantic_lengths), D)``, zero beyond the semantic lengths.

        Args:
            frames: ``(B, T, E)``.
            lengths: ``(B,)`` of ``frames``.
            semantic_lengths: ``(B,)``.

        Raises:
            ValueError: the longest of both do not match, so that the stride must be another.
        """
        frames, lengths = self.convolution(frames, lengths)
        size, found = int(semantic_lengths.max()), frames.size(1)
        if abs(found - size) > 4 + 0.05 * size:
            raise ValueError(f"the speaker stream has {found} frames, the semantic one {size}: the stride "
                             f"{self.convolution.stride[0]} is not the ratio of their frame shifts")
        steps = torch.arange(size, device=frames.device)
        index = torch.minimum(steps, lengths.clamp(min=1).unsqueeze(1) - 1)
        fitted = frames.gather(1, index.unsqueeze(-1).expand(-1, -1, self.output_size))
        return fitted.masked_fill((steps >= semantic_lengths.unsqueeze(1)).unsqueeze(-1), 0.0)
