"""Weights that a checkpoint does not hold: those of a published model that are as they were published.

A model of billions of weights whose adapters alone are trained has small checkpoints: they hold what differs from the
published files, and these are read again when the model is built. What differs is

- all that is trained in this step;
- all that has come from another checkpoint, an earlier step for instance, although it is frozen now;
- all of a part that begins from a configuration, with random weights.

So a checkpoint and the published files are always the whole model, whichever parts its steps have trained.

Names are those of the part without adapters, wherever a low-rank adapter is put on: a layer keeps its name when it
gets one, and a step with adapters begins from one without. (The other way round what the adapters have learnt would be
lost.)
"""

from collections.abc import MutableMapping
from typing import Any

import torch

# What peft, and this package alike, call the module that an adapter was put on.
BASE = "base_layer."


class Unchanged:
    """Knows what of a part is as published, and loads states without it.

    Args:
        part: a module, after adapters are put on and after it is decided what is trained.
        published: whether its weights have come from published files.

    Attributes:
        names: of the parameters and buffers that are as published.
    """

    def __init__(self, part: torch.nn.Module, published: bool) -> None:
        trained = {name for name, p in part.named_parameters(remove_duplicate=False) if p.requires_grad}
        adapters = adapter_names(part)
        buffers = {name for name, _ in part.named_buffers(remove_duplicate=False)}
        # The buffers of a part that is trained may change, too; they are small.
        kept = trained | adapters | (buffers if trained - adapters else set())
        self.actual = {plain(name): name for name in part.state_dict()}
        self.names = {name for name, actual in self.actual.items() if actual not in kept} if published else set()
        part.register_load_state_dict_pre_hook(self._fill_in)

    def leave_out(self, state: MutableMapping[str, torch.Tensor], prefix: str) -> None:
        """Take out of ``state`` what is as published; give the rest the names it has without adapters."""
        for name, actual in self.actual.items():
            if prefix + actual in state:
                value = state.pop(prefix + actual)
                if name not in self.names:
                    state[prefix + name] = value

    def _fill_in(self, part: torch.nn.Module, state: MutableMapping[str, torch.Tensor], prefix: str, *_: Any) -> None:
        own = dict(part.named_parameters(remove_duplicate=False)) | dict(part.named_buffers(remove_duplicate=False))
        for name, actual in self.actual.items():
            if name != actual and prefix + name in state:
                state[prefix + actual] = state.pop(prefix + name)
            if name not in self.names:
                continue
            current = own[actual].detach()
            given = state.setdefault(prefix + actual, current)
            if given is not current and not torch.equal(given.to(current), current):
                self.names.discard(name)


def plain(name: str) -> str:
    """Return the name of a weight without adapters.

    >>> plain("layers.0.q_proj.base_layer.weight")
    'layers.0.q_proj.weight'
    """
    return name.replace(BASE, "")


def adapter_names(part: torch.nn.Module) -> set[str]:
    """Return the names of the weights that were added to ``part``: low-rank adapters and rows of new tokens."""
    return {name for name, _ in part.named_parameters(remove_duplicate=False)
            if ".lora_" in name or name.endswith(".new_rows")}
