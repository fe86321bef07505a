"""Load a trained model: its configuration, token list and weights."""

from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

from espnet_mt_llm.common import Pathlike, UserError, at, load_yaml, nearest

TASKS = {"sctc": ("sctc", "SCTCTask"), "ume": ("ume", "UMETask"), "speaker": ("speaker", "SpeakerTask"),
         "speech_llm": ("speech_llm", "SpeechLLMTask")}


# What the configuration of a task has that those of the others have not.
_OPTIONS = {"sctc": "separator_conf", "ume": "heads", "speaker": "num_speakers", "speech_llm": "train_parts"}


def task_class(name: str) -> Any:
    """Return the task class of a system.

    Raises:
        UserError: no such system.
    """
    if name in TASKS:
        module, task = TASKS[name]
        return getattr(import_module(f"espnet_mt_llm.tasks.{module}"), task)
    raise UserError(f"unknown task '{name}'; {nearest(name, TASKS)}")


def find_weights(model_dir: Pathlike, name: str = "") -> Path:
    """Return the weights ``name`` of ``model_dir``, or the best ones there are by its ``best_model_criterion``:
    the average of the best epochs, else the best epoch, else the latest.

    Raises:
        UserError: there are none.
    """
    model_dir = Path(model_dir)
    names = [name]
    if not name:
        criteria = load_yaml(model_dir / "config.yaml").get("best_model_criterion", []) if model_dir.is_dir() else []
        names = [f"{phase}.{key}.{kind}.pth" for phase, key, _ in criteria for kind in ("ave", "best")] + ["latest.pth"]
    for candidate in names:
        if (model_dir / candidate).is_file():
            return model_dir / candidate
    raise at(model_dir / names[0], None, "no such model", "train it with the stage 'train'")


def read_config(model_dir: Pathlike) -> dict[str, Any]:
    """Return the arguments that the model of ``model_dir`` was trained with, and where its tokenizer lies now.

    A packed model carries its files beside it; what lies at their old places now may be another recipe's.
    """
    config = load_yaml(Path(model_dir) / "config.yaml")
    for key, name in (("bpemodel", Path(config.get("bpemodel") or "").name), ("tokenizer", "tokenizer")):
        packed = Path(model_dir) / name
        if config.get(key) and packed.exists():
            config[key] = str(packed)
    return config


def read_weights(path: Path) -> Any:
    """Return the weights that a training wrote, as its model takes them.

    Raises:
        UserError: the file holds none.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise at(path, None, f"not a file of weights ({(str(e) or type(e).__name__).splitlines()[0][:80]})",
                 "name one that the training wrote, <n>epoch.pth or valid.*.pth") from None


def load_model(model_dir: Pathlike, task: str, weights: str = "", device: str = "cpu"
               ) -> tuple[Any, Namespace, Path]:
    """Return the model of ``model_dir`` in evaluation mode, its training arguments, and the file of its weights.

    Raises:
        UserError: the directory holds no model, one of another task, or weights of another configuration.
    """
    path = find_weights(model_dir, weights)
    config = read_config(model_dir)
    if _OPTIONS[task] not in config:
        found = next((f"one of {other}" for other, option in _OPTIONS.items() if option in config), "another one")
        raise at(Path(model_dir) / "config.yaml", None, f"this is no model of {task} but {found}",
                 "give a training step of that task as --model_dir")
    args = Namespace(**config)
    state = read_weights(path)
    model = task_class(task).build_model(args)
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        raise at(path, None, f"the weights do not fit {model_dir}/config.yaml ({str(e).splitlines()[1].strip()})",
                 "use the model and the configuration of one training") from None
    return model.to(device).eval(), args, path
