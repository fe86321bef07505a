"""ESPnet's trainer and task, without what they import and a training of ours never calls.

Plots of attention bring text-to-speech models with them, adapters the models of transformers: 3 of the 6 seconds that a
training takes to start, and 300 MB. They are imported when they are called.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


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


import_when_called("espnet2.layers.create_adapter", "create_adapter")
import_when_called("espnet2.main_funcs.calculate_all_attentions", "calculate_all_attentions")

from espnet2.tasks.abs_task import AbsTask, IteratorOptions, optim_classes, scheduler_classes  # noqa: E402
from espnet2.train import trainer  # noqa: E402

__all__ = ["AbsTask", "IteratorOptions", "optim_classes", "scheduler_classes", "trainer"]
