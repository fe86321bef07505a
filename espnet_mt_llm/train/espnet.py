"""ESPnet's trainer and task, without what they import and a training of ours never calls, and without type checks.

Plots of attention bring text-to-speech models with them, adapters the models of transformers: 3 seconds of the start of
each training, and 300 MB. They are imported when they are called. To build the run-time checks of the arguments that
ESPnet's modules pass to each other takes 2 more; a type checker does without the program.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Optional

import typeguard


def import_when_called(module: str, function: str) -> None:
    """Let ``from module import function`` give a function that imports the module when it is called.

    Whatever else is asked of the module imports it at once.
    """
    if module in sys.modules:
        return
    stand_in = ModuleType(module)

    def real() -> ModuleType:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]
        return importlib.import_module(module)

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(real(), function)(*args, **kwargs)

    def attribute(name: str) -> Any:
        if name.startswith("__"):  # the import system asks for its own
            raise AttributeError(name)
        return getattr(real(), name)

    setattr(stand_in, function, call)
    setattr(stand_in, "__getattr__", attribute)
    sys.modules[module] = stand_in


@contextmanager
def without_type_checks() -> Iterator[None]:
    """Let typeguard leave what is imported here as it is, as it does in Python's optimised mode."""
    checked = typeguard.typechecked

    def unchecked(target: Optional[Any] = None, **_: Any) -> Any:
        return unchecked if target is None else target

    typeguard.typechecked = unchecked
    try:
        yield
    finally:
        typeguard.typechecked = checked


import_when_called("espnet2.layers.create_adapter", "create_adapter")
import_when_called("espnet2.main_funcs.calculate_all_attentions", "calculate_all_attentions")

with without_type_checks():
    from espnet2.tasks.abs_task import AbsTask, IteratorOptions, optim_classes, scheduler_classes
    from espnet2.train import trainer

__all__ = ["AbsTask", "IteratorOptions", "optim_classes", "scheduler_classes", "trainer"]
