"""Residual weighted-sum encoding: one mix of the encoder's layers a task, on top of its last layer."""

from typing import Sequence

import torch
from torch.nn import functional as F


class ResidualWeightedSum(torch.nn.Module):
    """Mix the hidden states of an encoder for each task (RWSE of UME, arXiv 2508.20474)::

        w^k = softmax_l(a^k),    H^k = sum_{l=1..L} w^k_l H^(l) + H^(L)

    ``a`` starts at zero, that is with equal weights, as the weighted sum of SUPERB does.

    Args:
        num_layers: L.
        tasks: names of the tasks k.
        size: D; needed with ``layer_norm``.
        shared: one weight set for all tasks (the paper's figure) instead of one a task (its equation).
        layer_norm: normalise each layer before the sum, with a gain and a bias of its own. The residual stays as the
            encoder gives it.
        last_only: no sum: every task reads ``H^(L)`` (the ablation "last layer").

    Raises:
        ValueError: ``layer_norm`` without ``size``, or no task.
    """

    def __init__(self, num_layers: int, tasks: Sequence[str], size: int | None = None, shared: bool = False,
                 layer_norm: bool = False, last_only: bool = False) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("no task to encode for")
        if layer_norm and size is None:
            raise ValueError("layer_norm needs the size of the layers")
        self.num_layers, self.tasks = num_layers, list(tasks)
        self.shared, self.last_only = shared, last_only
        if not last_only:
            self.logits = torch.nn.Parameter(torch.zeros(1 if shared else len(self.tasks), num_layers))
        self.norms = torch.nn.ModuleList(
            torch.nn.LayerNorm(size) for _ in range(num_layers)
        ) if layer_norm and not last_only else None

    def forward(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the encoding of each task ``(B, T, D)`` from the hidden states ``(L, B, T, D)``.

        Raises:
            ValueError: not L layers.
        """
        if hidden.size(0) != self.num_layers:
            raise ValueError(f"{hidden.size(0)} layers where {self.num_layers} are expected")
        last = hidden[-1]
        if self.last_only:
            return {task: last for task in self.tasks}
        weights = self.logits.softmax(dim=-1)
        if self.norms is None:
            # The residual is one more unit of the last layer's weight: one product gives all tasks in one pass.
            mixed = self._mix(weights + self._on_last(weights.device), hidden)
        else:
            mixed = self._mix(weights, torch.stack([norm(h) for norm, h in zip(self.norms, hidden)])) + last
        return {task: mixed[0 if self.shared else i] for i, task in enumerate(self.tasks)}

    def _on_last(self, device: torch.device | None = None) -> torch.Tensor:
        return F.one_hot(torch.tensor([self.num_layers - 1], device=device), self.num_layers).float()

    @staticmethod
    def _mix(weights: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return (weights.to(hidden.dtype) @ hidden.flatten(1)).view(-1, *hidden.shape[1:])

    @torch.no_grad()
    def weights(self) -> dict[str, torch.Tensor]:
        """Return ``w^k`` ``(L,)`` of each task, without the residual; with ``last_only`` all on the last layer."""
        if self.last_only:
            rows = self._on_last()
        else:
            rows = self.logits.softmax(dim=-1)
        return {task: rows[i if len(rows) > 1 else 0] for i, task in enumerate(self.tasks)}
