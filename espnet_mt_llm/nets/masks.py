"""Padding masks."""

import torch


def length_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """Return ``(B, T)`` booleans, True where a frame is inside the sequence, from ``lengths`` ``(B,)``."""
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]
