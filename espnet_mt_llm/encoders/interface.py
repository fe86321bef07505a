"""The interface of every speech encoder."""

from abc import ABC, abstractmethod

import torch


class SpeechEncoder(torch.nn.Module, ABC):
    """Speech ``(B, N)`` to the outputs of all its layers.

    Attributes:
        output_size: D.
        num_layers: L.
        frame_shift: seconds between frames.
    """

    output_size: int
    num_layers: int
    frame_shift: float

    @abstractmethod
    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states ``(L, B, T, D)`` and their lengths ``(B,)``, from samples and ``lengths`` ``(B,)``."""
