"""Weights of pretrained models: read from their files, put into a module, and told where they do not fit."""

import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import torch

from espnet_mt_llm.common import Pathlike, UserError, at, listed

# What trainers wrap weights in.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


def check_source(name: str, checkpoint: str, config: Optional[Mapping[str, Any]], wanted: str) -> None:
    """Raise a :class:`UserError` unless one of ``checkpoint`` and ``config`` is given, and the first is there."""
    if bool(checkpoint) == bool(config):
        raise UserError(f"encoder_conf: {name} needs 'checkpoint' or 'config', one of them; {wanted}")
    if checkpoint and not Path(checkpoint).exists():
        raise at(checkpoint, None, "no such checkpoint", wanted)


def read_state(path: Path, wanted: str, shown: Optional[Pathlike] = None) -> dict[str, torch.Tensor]:
    """Return the weights of ``path``, a file of torch or of safetensors, or those inside a trainer's checkpoint.

    Args:
        path: the file.
        wanted: what the user should give, for messages.
        shown: the file as the user knows it.

    Raises:
        UserError: the file holds none.
    """
    shown = shown or path
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Mapped, not read, where the format allows it: what is not needed is never touched.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as e:
        raise at(shown, None, f"not weights of torch ({(str(e) or type(e).__name__).splitlines()[0][:120]})", wanted
                 ) from None
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise at(shown, None, "holds no weights", wanted)
    return dict(state)


def load_state(module: torch.nn.Module, given: Mapping[str, torch.Tensor], where: Pathlike, allow_missing: bool,
               config: str = "config.yaml") -> None:
    """Put the weights ``given`` into ``module``.

    Args:
        module: what takes them.
        given: its weights by name.
        where: the file they are from.
        allow_missing: go on with a warning when some are missing, too many or of another shape.
        config: the file that ``module`` was built from.

    Raises:
        UserError: they do not fit.
    """
    own = module.state_dict()
    wrong = [key for key in own.keys() & given.keys() if own[key].shape != given[key].shape]
    problems = [f"{kind} {listed(sorted(keys))} ({len(keys)} of {total})"
                for kind, keys, total in (("missing", own.keys() - given.keys(), len(own)),
                                          ("extra", given.keys() - own.keys(), len(given)),
                                          ("of another shape", wrong, len(own))) if keys]
    if problems and not allow_missing:
        raise UserError(f"{where}: the weights do not fit {config}: {'; '.join(problems)}; use the files of one model, "
                        "or go on with encoder_conf allow_missing: true")
    for problem in problems:
        logging.warning("%s: %s", where, problem)
    module.load_state_dict({k: v for k, v in given.items() if k in own and k not in wrong}, strict=False)


def read_json(path: Path, wanted: str) -> dict[str, Any]:
    """Return the mapping of a JSON file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise at(path, None, "no such file", wanted) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise at(path, getattr(e, "lineno", None), f"not JSON ({e})", "copy the file again") from None
    if not isinstance(values, dict):
        raise at(path, None, "not a mapping", "copy the file again")
    return values


def read_transformers(directory: Path, wanted: str) -> tuple[dict[str, torch.Tensor], Path]:
    """Return the weights of a model that transformers saved, and their file or the index of their files.

    Raises:
        UserError: ``directory`` holds none, or a file of several is missing.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        path, index = directory / name, directory / f"{name}.index.json"
        if path.is_file():
            return read_state(path, wanted), path
        if index.is_file():
            files = sorted(set(read_json(index, wanted).get("weight_map", {}).values()))
            state: dict[str, torch.Tensor] = {}
            for part in files:
                if not (directory / part).is_file():
                    raise at(directory / part, None, f"no such file; {index.name} names it", "copy it, too")
                state |= read_state(directory / part, wanted)
            return state, index
    raise at(directory, None, "no model.safetensors and no pytorch_model.bin", wanted)


def transformers_config(root: Path, kind: str, keys: Sequence[str], wanted: str) -> dict[str, Any]:
    """Return the entries ``keys`` of the config.json of a model directory of transformers, those that are there.

    Raises:
        UserError: there is none, or it is of another kind of model.
    """
    path = root / "config.json"
    values = read_json(path, wanted)
    if values.get("model_type") != kind:
        raise at(path, None, f"model_type is '{values.get('model_type')}', wanted {kind}", wanted)
    return {key: values[key] for key in keys if key in values}


def part(state: Mapping[str, torch.Tensor], prefix: str, wrappers: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the weights behind ``prefix``, without it and without the prefixes ``wrappers`` of whole models.

    >>> part({"model.encoder.a": 1, "model.decoder.a": 2}, "encoder.", ["model."])
    {'a': 1}
    """
    found = {}
    for key, value in state.items():
        for wrapper in wrappers:
            key = key.removeprefix(wrapper)
        if key.startswith(prefix):
            found[key.removeprefix(prefix)] = value
    return found
