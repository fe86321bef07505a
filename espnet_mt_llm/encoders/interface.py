"""The interface of every speech encoder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

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

    def saved_conf(self, conf: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``conf``, the arguments of this encoder, as a trained model's config.yaml must hold them.

        An encoder that starts from a checkpoint puts what it read there in its place, so that the trained model can
        be built again without it.
        """
        return dict(conf)
