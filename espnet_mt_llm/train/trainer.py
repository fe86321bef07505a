"""The training loop: atomic checkpoints, exact resumption, averaged best models, a history for the results page."""

import errno
import json
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.schedulers.abs_scheduler import AbsEpochStepScheduler, AbsScheduler, AbsValEpochStepScheduler
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter

from espnet_mt_llm.common import Pathlike, UserError, atomic_open
from espnet_mt_llm.train.espnet import trainer as espnet_trainer

CHECKPOINT, PREVIOUS = "checkpoint.pth", "checkpoint.previous.pth"
LAYERS = "layer_weights.json"


def save(state: Any, path: Pathlike) -> None:
    """Write ``state`` with torch.save to a temporary name, then rename: a kill never leaves half a file.

    Raises:
        OSError: the disk is full; torch itself raises a RuntimeError then.
    """
    with atomic_open(path, "wb") as f:
        try:
            torch.save(state, f)
        except RuntimeError as e:
            raise OSError(errno.ENOSPC, f"could not be written, is the disk full? ({e})", str(path)) from e


def link(target: str, path: Path) -> None:
    """Point the symbolic link ``path`` to its sibling ``target``, atomically."""
    new = path.with_name(f".tmp.{path.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, path)


def average(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Average the floating-point entries of model state dicts; other entries come from the first."""
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
    return {name: torch.stack([s[name].double() for s in states]).mean(0).to(value.dtype)
            if torch.is_floating_point(value) else value for name, value in states[0].items()}


# What OneCycleLR and its kin know of how long the training is.
_LENGTH = ("total_steps", "_schedule_phases")


class Trainer(espnet_trainer.Trainer):
    """ESPnet's trainer with a loop of our own around its ``train_one_epoch`` and ``validate_one_epoch``.

    Every epoch starts from its own seed and ends in a checkpoint, so that a training killed at any moment, started
    again, repeats the broken epoch and ends with the weights of an uninterrupted one.
    """

    @classmethod
    def run(cls, model: AbsESPnetModel, optimizers: Sequence[torch.optim.Optimizer],
            schedulers: Sequence[Optional[AbsScheduler]], train_iter_factory: AbsIterFactory,
            valid_iter_factory: AbsIterFactory, plot_attention_iter_factory: Optional[AbsIterFactory],
            trainer_options: Any, distributed_option: DistributedOption) -> None:
        """Train up to ``max_epoch`` epochs; continue from the checkpoint in ``output_dir`` where there is one."""
        if trainer_options.sharded_ddp:
            raise UserError("sharded_ddp is not supported; leave it out")
        # Digital silence makes denormal numbers, which slow a CPU down many times.
        torch.set_flush_denormal(True)
        output_dir = Path(trainer_options.output_dir)
        first = not distributed_option.distributed or distributed_option.dist_rank == 0
        scaler = torch.amp.GradScaler("cuda") if trainer_options.use_amp and trainer_options.ngpu > 0 else None
        if trainer_options.use_amp and trainer_options.ngpu == 0:
            # ESPnet's mixed precision is of CUDA alone. bfloat16 has the range of float32: nothing is to be scaled.
            model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
        reporter = Reporter()
        if trainer_options.resume:
            cls._resume(output_dir, model, optimizers, schedulers, reporter, scaler, trainer_options.ngpu)
        parallel = cls._parallel(model, trainer_options, distributed_option)
        writers = cls._writers(output_dir) if trainer_options.use_tensorboard and first else ()
        start, begin = reporter.get_epoch() + 1, time.perf_counter()
        for epoch in range(start, trainer_options.max_epoch + 1):
            if epoch > start:
                left = (time.perf_counter() - begin) / (epoch - start) * (trainer_options.max_epoch - epoch + 1)
                logging.info("epoch %d of %d; about %d min left", epoch, trainer_options.max_epoch, round(left / 60))
            if stopped := cls._stopped_early(reporter, trainer_options):
                logging.info(stopped)
                break
            cls._epoch(epoch, parallel, optimizers, schedulers, train_iter_factory, valid_iter_factory, reporter,
                       scaler, writers, trainer_options, distributed_option)
            if first:
                logging.info(reporter.log_message())
                if writers:
                    reporter.tensorboard_add_scalar(writers[0], key1="train")
                    reporter.tensorboard_add_scalar(writers[1], key1="valid")
                cls._save(epoch, output_dir, model, optimizers, schedulers, scaler, reporter, trainer_options)
        if first:
            cls._average_best(output_dir, reporter, trainer_options)

    @classmethod
    def _epoch(cls, epoch: int, model: torch.nn.Module, optimizers: Sequence, schedulers: Sequence,
               train_iter_factory: AbsIterFactory, valid_iter_factory: AbsIterFactory, reporter: Reporter,
               scaler: Any, writers: Any, options: Any, distributed_option: DistributedOption) -> None:
        set_all_random_seed(options.seed + epoch)
        reporter.set_epoch(epoch)
        with reporter.observe("train") as sub:
            nothing_learnt = cls.train_one_epoch(
                model=model, optimizers=optimizers, schedulers=schedulers,
                iterator=train_iter_factory.build_iter(epoch), reporter=sub, scaler=scaler,
                summary_writer=writers[0] if writers else None, options=options,
                distributed_option=distributed_option,
            )
        if nothing_learnt:
            raise UserError(f"epoch {epoch}: the gradient was not finite in any step; lower the learning rate, or look "
                            "for broken clips with utils/validate_data_dir.sh")
        with reporter.observe("valid") as sub:
            cls.validate_one_epoch(model=model, iterator=valid_iter_factory.build_iter(epoch), reporter=sub,
                                   options=options, distributed_option=distributed_option)
        for scheduler in schedulers:
            if isinstance(scheduler, AbsValEpochStepScheduler):
                scheduler.step(reporter.get_value(*options.val_scheduler_criterion))
            elif isinstance(scheduler, AbsEpochStepScheduler):
                scheduler.step()

    @classmethod
    def _resume(cls, output_dir: Path, model: AbsESPnetModel, optimizers: Sequence, schedulers: Sequence,
                reporter: Reporter, scaler: Any, ngpu: int) -> None:
        for name in (CHECKPOINT, PREVIOUS):
            path = output_dir / name
            if not path.exists():
                continue
            lengths = [{key: vars(s)[key] for key in _LENGTH if key in vars(s)} for s in schedulers if s is not None]
            try:
                cls.resume(path, model, reporter, optimizers, schedulers, scaler, ngpu)
            except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError) as e:
                if name == CHECKPOINT and (output_dir / PREVIOUS).exists():
                    logging.warning("%s cannot be read (%s); going back to the one before it", path, e)
                    continue
                raise UserError(f"{path}: does not fit this model or is damaged ({str(e).splitlines()[0]}); give back "
                                f"the configuration it was trained with, or train anew after: rm -r {output_dir}"
                                ) from None
            # A training that is longer, or shorter, than it was goes on where it is in the new schedule.
            for scheduler, length in zip([s for s in schedulers if s is not None], lengths):
                vars(scheduler).update(length)
            logging.info("continuing after epoch %d from %s", reporter.get_epoch(), path)
            return

    @staticmethod
    def _parallel(model: AbsESPnetModel, options: Any, distributed_option: DistributedOption) -> torch.nn.Module:
        if distributed_option.distributed:
            devices = [torch.cuda.current_device()] if distributed_option.ngpu == 1 else None
            return torch.nn.parallel.DistributedDataParallel(
                model, device_ids=devices, find_unused_parameters=options.unused_parameters)
        if distributed_option.ngpu > 1:
            return torch.nn.parallel.DataParallel(model, device_ids=list(range(distributed_option.ngpu)))
        return model

    @staticmethod
    def _writers(output_dir: Path) -> tuple:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logging.info("no tensorboard (tools/setup.sh --extras viz); the curves are in history.json all the same")
            return ()
        return tuple(SummaryWriter(str(output_dir / "tensorboard" / name)) for name in ("train", "valid"))

    @staticmethod
    def _stopped_early(reporter: Reporter, options: Any) -> str:
        """Say why the training is over before ``max_epoch``, or return an empty string."""
        if options.patience is None or reporter.get_epoch() == 0:
            return ""
        if reporter.check_early_stopping(options.patience, *options.early_stopping_criterion):
            return f"no better {' '.join(options.early_stopping_criterion[:2])} for {options.patience} epochs: finished"
        return ""

    @classmethod
    def _save(cls, epoch: int, output_dir: Path, model: AbsESPnetModel, optimizers: Sequence, schedulers: Sequence,
              scaler: Any, reporter: Reporter, options: Any) -> None:
        save(model.state_dict(), output_dir / f"{epoch}epoch.pth")
        checkpoint = output_dir / CHECKPOINT
        if checkpoint.exists():
            # A second name for the old file first: at every moment one complete checkpoint exists.
            spare = output_dir / f".tmp.{PREVIOUS}"
            spare.unlink(missing_ok=True)
            os.link(checkpoint, spare)
            os.replace(spare, output_dir / PREVIOUS)
        save({
            "model": model.state_dict(), "reporter": reporter.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "schedulers": [None if s is None else s.state_dict() for s in schedulers],
            "scaler": None if scaler is None else scaler.state_dict(),
        }, checkpoint)
        link(f"{epoch}epoch.pth", output_dir / "latest.pth")
        keep = {epoch}
        for phase, key, mode in cls._criteria(reporter, options):
            best = reporter.sort_epochs(phase, key, mode)
            keep.update(best[: cls._num_best(options)])
            link(f"{best[0]}epoch.pth", output_dir / f"{phase}.{key}.best.pth")
        for old in range(1, epoch):
            if old not in keep:
                (output_dir / f"{old}epoch.pth").unlink(missing_ok=True)
        write_history(reporter, output_dir / "history.json")
        if hasattr(model, "layer_weights"):
            record_layers(model.layer_weights(), epoch, output_dir / LAYERS)

    @classmethod
    def _average_best(cls, output_dir: Path, reporter: Reporter, options: Any) -> None:
        for phase, key, mode in cls._criteria(reporter, options):
            best = [output_dir / f"{e}epoch.pth" for e in reporter.sort_epochs(phase, key, mode)]
            best = [p for p in best if p.exists()][: cls._num_best(options)]
            if best:
                save(average(best), output_dir / f"{phase}.{key}.ave.pth")
                logging.info("%s.%s.ave.pth: average of %s", phase, key, ", ".join(p.name for p in best))

    @staticmethod
    def _criteria(reporter: Reporter, options: Any) -> list:
        return [c for c in options.best_model_criterion if reporter.get_epoch() and reporter.has(c[0], c[1])]

    @staticmethod
    def _num_best(options: Any) -> int:
        n = options.keep_nbest_models
        return max(n) if isinstance(n, (list, tuple)) else n


def record_layers(weights: Mapping[str, Sequence[float]], epoch: int, path: Path) -> None:
    """Log the weights of the encoder's layers after ``epoch`` and put them into ``{"<epoch>": {"<task>": [...]}}``."""
    for task, values in weights.items():
        logging.info("weights of the layers for %s: %s", task, " ".join(f"{value:.3f}" for value in values))
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        known = {}
    rows = {key: value for key, value in known.items() if int(key) < epoch} | {str(epoch): weights}
    with atomic_open(path) as f:
        json.dump(rows, f, indent=1)
        f.write("\n")


def write_history(reporter: Reporter, path: Pathlike) -> None:
    """Write what each epoch measured: ``[{"epoch": 1, "train": {...}, "valid": {...}, "seconds": ...}, ...]``."""
    rows = []
    for epoch in sorted(reporter.stats):
        row: dict[str, Any] = {"epoch": epoch, "seconds": 0.0}
        for phase, values in reporter.stats[epoch].items():
            row["seconds"] += values["time"].total_seconds()
            row[phase] = {k: float(v) for k, v in values.items()
                          if isinstance(v, (int, float)) and k not in ("time", "total_count")}
        row["seconds"] = round(row["seconds"], 1)
        rows.append(row)
    with atomic_open(path) as f:
        json.dump(rows, f, indent=1)
        f.write("\n")
