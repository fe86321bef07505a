"""The optimizer and the scheduler of a training: their names, keys, and groups of parameters."""

import argparse
import inspect
from collections.abc import Sequence

import torch

from espnet_mt_llm.common import UserError, nearest
from espnet_mt_llm.train.espnet import optim_classes, scheduler_classes
from espnet_mt_llm.train.muon import Muon

optim_classes["muon"] = Muon


def check_optimizer(args: argparse.Namespace) -> None:
    """Check the keys of ``optim_conf`` and ``scheduler_conf``; a scheduler that must know the number of steps is told.

    Raises:
        UserError: an unknown key, or fewer ``total_steps`` than the training has.
    """
    optimizer, scheduler = optim_classes.get(args.optim), scheduler_classes.get(args.scheduler)
    if optimizer is None or (args.scheduler and scheduler is None):
        raise UserError(f"unknown optim '{args.optim}' or scheduler '{args.scheduler}'; valid: "
                        f"{', '.join(optim_classes)}; {', '.join(scheduler_classes)}")
    for factory, name in ((optimizer, "optim_conf"), (scheduler, "scheduler_conf")):
        valid = list(inspect.signature(factory).parameters)[1:] if factory else []
        for key in getattr(args, name) or {}:
            if key not in valid:
                raise UserError(f"{name}: unknown key '{key}'; {nearest(str(key), valid)}")
    if scheduler and "total_steps" in inspect.signature(scheduler).parameters and args.num_iters_per_epoch:
        steps = args.max_epoch * (args.num_iters_per_epoch // args.accum_grad)
        if (args.scheduler_conf or {}).setdefault("total_steps", steps) < steps:
            raise UserError(f"scheduler_conf: total_steps {args.scheduler_conf['total_steps']} are fewer than the "
                            f"{steps} steps of max_epoch x num_iters_per_epoch; leave total_steps out")


def check_rates(args: argparse.Namespace, optimizer: torch.optim.Optimizer) -> None:
    """Check that lists of learning rates in ``scheduler_conf`` have one for each group of parameters.

    Raises:
        UserError: they have fewer or more.
    """
    groups = len(optimizer.param_groups)
    for key, value in (args.scheduler_conf or {}).items():
        if key.endswith("_lr") and isinstance(value, list) and len(value) != groups:
            raise UserError(f"scheduler_conf: {key}: {value}; the parameters are in {groups} group{'s' * (groups > 1)}: "
                            f"give one value, or {groups}")


def grouped_optimizer(args: argparse.Namespace, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return ``muon``, which must know which parameters are embeddings, or the optimizer of ``args.rate_groups``.

    Raises:
        UserError: no such part, or groups for ``muon``.
    """
    if args.optim != "muon":
        return optim_classes[args.optim](rate_groups(model, args.rate_groups), **args.optim_conf)
    if args.rate_groups:
        raise UserError("rate_groups: muon has two groups of its own, matrices and the rest; use another optim")
    return Muon(model, **args.optim_conf)


def rate_groups(model: torch.nn.Module, parts: Sequence[str]) -> list[dict[str, list[torch.nn.Parameter]]]:
    """Return the learning parameters of ``model`` in groups for an optimizer: of each of ``parts``, and of the rest.

    Raises:
        UserError: a part of which nothing learns, or a model of which nothing else does.
    """
    groups: dict[str, list[torch.nn.Parameter]] = {part: [] for part in parts}
    rest = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.get(name.partition(".")[0], rest).append(parameter)
    for part, found in groups.items():
        if not found:
            raise UserError(f"rate_groups: nothing of '{part}' learns; "
                            f"{nearest(part, [name for name, _ in model.named_children()])}")
    if not rest:
        raise UserError(f"rate_groups: {', '.join(parts)} are all that learns; leave one of them out")
    return [{"params": found} for found in (*groups.values(), rest)]
