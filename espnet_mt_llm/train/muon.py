"""Muon for the matrices of a model, AdamW for the rest, as one optimizer."""

from collections.abc import Callable
from typing import Any, Optional

import torch


class Muon(torch.optim.Optimizer):
    """Matrices move by their orthogonalised momentum (Jordan et al., 2024), everything else by AdamW.

    Small models that begin from nothing learn in about half the steps of AdamW. Both are torch's. Steps of matrices are
    scaled to the size that those of AdamW have (Liu et al., arXiv 2502.16982), so that learning rates of AdamW do.

    The parameters are in two groups, matrices first; a scheduler can have one learning rate for each, e.g.
    ``scheduler_conf: {max_lr: [0.002, 0.001], cycle_momentum: false}``.

    Args:
        model: its parameters that learn. Embeddings, and output layers tied to them, are no matrices here: each token
            has a row of its own.
        lr: learning rate of the matrices.
        adamw_lr: of the rest; default: ``lr``.
        momentum: of the matrices.
        betas: of the rest.
        weight_decay: of both.
    """

    def __init__(self, model: torch.nn.Module, lr: float = 1e-3, adamw_lr: Optional[float] = None,
                 momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.98), weight_decay: float = 0.01) -> None:
        rows = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
        learning = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in learning if p.ndim == 2 and id(p) not in rows]
        chosen = {id(p) for p in matrices}
        rest = [p for p in learning if id(p) not in chosen]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay,
                                                adjust_lr_fn="match_rms_adamw"))
        if rest:
            self._parts.append(torch.optim.AdamW(rest, lr=lr if adamw_lr is None else adamw_lr, betas=tuple(betas),
                                                 weight_decay=weight_decay))
        super().__init__(learning, {"lr": lr})
        self._share_groups()

    def _share_groups(self) -> None:
        """The groups are those of the parts: a scheduler that changes them changes the parts."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Optional[Callable[[], float]] = None) -> Optional[float]:
        """Move all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both parts."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()
