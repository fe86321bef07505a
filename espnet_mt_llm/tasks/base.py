"""What the tasks share: arguments, data, preprocessing, checked configurations."""

import argparse
import fcntl
import inspect
import json
import os
import pickle
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.utils.types import str2bool
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_mt_llm.common import (
    Pathlike, UserError, at, atomic_open, environment, is_number, is_whole, load_yaml, nearest,
)
from espnet_mt_llm.datadir.maps import read_map, write_map
from espnet_mt_llm.text.serialisation import Order
from espnet_mt_llm.text.token_list import TOKEN_TYPES, Tokenizer, read_token_list
from espnet_mt_llm.train.batches import MixedBatches
from espnet_mt_llm.train.collate import pad_batch
from espnet_mt_llm.train.data_types import register
from espnet_mt_llm.train.espnet import AbsTask, IteratorOptions
from espnet_mt_llm.train.optimizers import check_optimizer, check_rates, grouped_optimizer
from espnet_mt_llm.train.preprocess import TalkerTexts
from espnet_mt_llm.train.trainer import CHECKPOINT, Trainer

# What torch raises for files that are no checkpoints; half a file is an OSError.
UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError)
# What --debug changes: enough to run every line of the training, nothing more.
DEBUG = {"max_epoch": 2, "num_iters_per_epoch": 3, "batch_bins": 400000, "num_workers": 0, "keep_nbest_models": [1]}
# Entries of a model's state that say how far its training is: another training does not begin with them.
PROGRESS = ("steps",)
# How another training step is named: `[../<system>/]<number>_<task>[_…][/<file>.pth]`.
STEP = re.compile(r"(\.\./[^./][^/]*/)?\d+_[^/]+(/[^/]+\.pth)?")


def build(factory: Callable[..., Any], conf: Optional[dict], where: str, *args: Any, **fixed: Any) -> Any:
    """Call ``factory(*args, **fixed, **conf)`` after checking the keys of ``conf``.

    Raises:
        UserError: an unknown key (the nearest valid one is named), or a value that ``factory`` refuses.
    """
    conf = conf or {}
    parameters = inspect.signature(factory).parameters
    valid = [p for p in parameters if p not in fixed and p not in ("self", "args", "kwargs", "conf")]
    valid = valid[len(args):]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in conf:
            if key not in valid:
                raise UserError(f"{where}: unknown key '{key}'; {nearest(str(key), valid)}")
    try:
        return factory(*args, **fixed, **conf)
    except (TypeError, ValueError, AssertionError) as e:
        raise UserError(f"{where}: {e or 'a value that does not fit'}; see {factory.__module__}.{factory.__qualname__}"
                        ) from None


class MultiTalkerTask(AbsTask):
    """The base of the tasks of this toolkit.

    Data come as two directories of clips (``--train_dir``, ``--valid_dir``); targets are built from ``supervision``
    when a clip is read.
    """

    num_optimizers = 1
    class_choices_list: list = []
    trainer = Trainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the arguments that every task of this toolkit takes."""
        group = parser.add_argument_group(description="Multi-talker data")
        parser.set_defaults(required=parser.get_default("required") + ["token_list"], resume=True,
                            unused_parameters=True, batch_type="numel", batch_bins=2000000, num_workers=1,
                            use_matplotlib=False, keep_nbest_models=[5],
                            best_model_criterion=[["valid", "loss", "min"]], num_att_plot=0)
        for mode, what in (("train", "to train on"), ("valid", "to choose the model by")):
            group.add_argument(f"--{mode}_set", default=None,
                               help=f"name of a set {what} instead of the recipe's, in a step's YAML; the stage driver "
                                    f"turns it into --{mode}_dir")
            group.add_argument(f"--{mode}_dir", default=None, help=f"clips {what} (dump/<set>)")
        group.add_argument("--rate", type=int, default=16000, help="sampling rate in Hz")
        group.add_argument("--token_list", default=None, help="token list, one a line")
        group.add_argument("--token_type", default="word", choices=TOKEN_TYPES)
        group.add_argument("--bpemodel", default=None, help="sentencepiece model; default: beside the token list")
        group.add_argument("--profile", default="none", help="text normalisation profile")
        group.add_argument("--order_conf", action=NestedDictAction, default={}, help="SOT order: order, tie_rule, tie")
        group.add_argument("--speed_factors", type=float, nargs="*", default=[],
                           help="speeds to draw from, e.g. 0.9 1.1")
        group.add_argument("--max_talkers", type=int, default=3, help="K_max")
        group.add_argument("--talkers", type=int, nargs="*", default=[],
                           help="train and validate on the clips with these talker counts only, e.g. 1; empty: on all")
        group.add_argument("--mixed_batches", type=str2bool, default=False,
                           help="train on random batches of batch_size clips instead of batches of like length")
        group.add_argument("--rate_groups", nargs="*", default=[],
                           help="parts of the model with a learning rate of their own, e.g. encoder; max_lr of "
                                "scheduler_conf is a list then: one for each of them, and one for the rest")
        group.add_argument("--num_threads", type=int, default=0,
                           help="CPU threads of the training; 0: as OMP_NUM_THREADS says")
        group.add_argument("--debug", type=str2bool, default=False, help="a few steps only, to see that all runs")
        group.add_argument("--debug_conf", action=NestedDictAction, default={},
                           help="values that replace others with --debug true, e.g. of a smaller model")

    @classmethod
    def tokenizer(cls, args: argparse.Namespace) -> Tokenizer:
        """Return the tokenizer of ``--token_list``: a file, or the tokens themselves in a trained ``config.yaml``."""
        if isinstance(args.token_list, list):
            return Tokenizer(args.token_list, args.token_type, args.bpemodel)
        if args.bpemodel is None and args.token_type == "bpe":
            args.bpemodel = str(Path(args.token_list).parent / "bpe.model")
        return Tokenizer(read_token_list(args.token_list), args.token_type, args.bpemodel)

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable:
        """Pad samples and ids with 0 (``talkers`` have one length and need no padding)."""
        return pad_batch

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> TalkerTexts:
        """Per-talker token ids from ``supervision``."""
        order = build(Order, args.order_conf, "order_conf")
        return TalkerTexts(cls.tokenizer(args), args.profile, args.max_talkers, order, args.rate,
                           args.speed_factors, train)

    @classmethod
    def build_sequence_iter_factory(cls, args: argparse.Namespace, iter_options: IteratorOptions, mode: str
                                    ) -> AbsIterFactory:
        """Batches of like length (ESPnet's samplers), or random ones with ``--mixed_batches true``."""
        if not (args.mixed_batches and iter_options.train):
            return super().build_sequence_iter_factory(args, iter_options, mode)
        if iter_options.distributed:
            raise UserError("mixed_batches is for one process; leave it out of a distributed training")
        clips = list(read_map(iter_options.shape_files[0]))
        return SequenceIterFactory(
            dataset=cls.build_dataset(args, iter_options, set(clips)),
            batches=MixedBatches(clips, iter_options.batch_size), seed=args.seed,
            num_iters_per_epoch=iter_options.num_iters_per_epoch, shuffle=True, num_workers=args.num_workers,
            collate_fn=iter_options.collate_fn, pin_memory=args.ngpu > 0)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the data that a clip must have."""
        return ("speech",) if inference else ("speech", "supervision")

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the data that a clip may have."""
        return ()

    @classmethod
    def needs_sources(cls, args: argparse.Namespace) -> bool:
        """Say whether the task learns from the clean signals of mixtures."""
        return False

    @classmethod
    def train(cls, argv: Optional[Sequence[str]] = None) -> None:
        """Parse the command line and train.

        Raises:
            UserError: an unknown key in the configuration, missing data.
        """
        parser = cls.get_parser()
        # ESPnet's parser ends with a usage text at an unknown key; check before it reads the file.
        known, _ = argparse.ArgumentParser.parse_known_args(parser, argv)
        if known.config:
            check_keys(known.config, [a.dest for a in parser._actions])
            check_types(known.config, parser)
        args = parser.parse_args(argv)
        if args.debug:
            for key in args.debug_conf:
                if key not in vars(args):
                    raise UserError(f"debug_conf: unknown key '{key}'; {nearest(key, vars(args))}")
            changed = {**DEBUG, **args.debug_conf}
            # What stands on the command line wins, unless --debug_conf stands there, too.
            words = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
            given = {action.dest for action in parser._actions if words.intersection(action.option_strings)}
            given -= set(args.debug_conf) if "debug_conf" in given else set()
            vars(args).update(merged(vars(args), {key: value for key, value in changed.items()
                                                  if key not in given or isinstance(value, dict)}))
        for mode in ("train", "valid"):
            directory = getattr(args, f"{mode}_dir")
            if directory is None:
                raise UserError(f"--{mode}_dir is missing; give a directory of clips made by the stage 'clips'")
            set_data(args, mode, directory, cls.needs_sources(args))
            if args.talkers:
                shapes = Path(args.output_dir) / f"{mode}_shape"
                choose_clips(directory, args.talkers, shapes)
                setattr(args, f"{mode}_shape_file", [str(shapes)])
        args.init_param = [find_step(p, args.output_dir) for p in args.init_param]
        for name in ("encoder_conf", "speaker_encoder_conf"):
            conf = getattr(args, name, None)
            if conf and conf.get("checkpoint"):
                if not isinstance(conf["checkpoint"], str):
                    raise UserError(f"{name}: checkpoint: {conf['checkpoint']!r}; a file or folder is expected")
                conf["checkpoint"] = find_checkpoint(conf["checkpoint"], args.output_dir)
        register()
        check_optimizer(args)
        if args.max_epoch < 1:
            raise UserError(f"max_epoch: {args.max_epoch}; a whole number of at least 1 is expected")
        if args.ngpu and not args.dry_run and not torch.cuda.is_available():
            raise UserError(f"ngpu: {args.ngpu}, but torch finds no GPU here; give --ngpu 0, or train where one is")
        if args.ngpu > 1 and not args.multiprocessing_distributed:
            raise UserError("several GPUs need one process each; give --multiprocessing_distributed true")
        if args.num_threads:
            torch.set_num_threads(args.num_threads)
        # In a training of several processes the first one holds the directory for all.
        follower = args.dist_launcher == "slurm" and os.environ.get("SLURM_PROCID", "0") != "0"
        with nullcontext() if follower else alone_in(args.output_dir):
            if not follower:  # who begins later might read a configuration that is being written
                check_resumed(args)
            with atomic_open(Path(args.output_dir) / "environment.json") as f:
                json.dump(environment(), f, indent=1)
                f.write("\n")
            try:
                cls.main(args=args)
            except UNREADABLE as e:
                if not str(e).startswith("Error(s) in loading state_dict"):
                    check_readable(args.init_param)
                    raise
                given = f"init_param ({', '.join(args.init_param)})" if args.init_param else "what is there"
                raise UserError(f"{args.output_dir}: weights do not fit this configuration: "
                                f"{'; '.join(map(str.strip, str(e).splitlines()[1:3]))}; they are of {given}, or of an "
                                "earlier run of this step; take the sizes, adapters and new tokens of the step before, "
                                "or parts of it: <file>:<from>:<to>") from None

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        """Return the optimizer of ``args.optim``.

        Raises:
            UserError: no such part in ``rate_groups``, or not as many learning rates as there are groups.
        """
        grouped = args.optim == "muon" or args.rate_groups
        optimizers = [grouped_optimizer(args, model)] if grouped else super().build_optimizers(args, model)
        check_rates(args, optimizers[0])
        return optimizers


def merged(values: dict, changes: dict) -> dict:
    """Return ``values`` with ``changes``; mappings are merged key by key, and None takes a key out of an inner one.

    >>> merged({"a": {"b": 1, "c": 2, "e": 5}, "d": 3}, {"a": {"b": 4, "e": None}})
    {'a': {'b': 4, 'c': 2}, 'd': 3}
    """
    inner = {key: {k: v for k, v in merged(values[key], value).items() if v is not None}
             for key, value in changes.items() if isinstance(value, dict) and isinstance(values.get(key), dict)}
    return {**values, **changes, **inner}


@contextmanager
def alone_in(directory: Pathlike) -> Iterator[None]:
    """Hold ``directory`` for this process: two trainings there would overwrite each other's checkpoints.

    Raises:
        UserError: another process holds it, e.g. the training of a driver that was killed.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    with open(Path(directory) / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise at(directory, None, f"another training writes here (process {lock.read().strip()})",
                     "wait for it, or stop it and run the command again") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def check_keys(path: Pathlike, valid: Sequence[str]) -> None:
    """Check the top-level keys of a YAML configuration, naming the line of a wrong one."""
    found = load_yaml(path)
    if not isinstance(found, dict):
        raise at(path, 1, "expected 'key: value' lines")
    for key in found:
        if key not in valid:
            raise at(path, _line_of(path, key), f"unknown key '{key}'", nearest(str(key), valid))


def check_types(path: Pathlike, parser: argparse.ArgumentParser) -> None:
    """Check the top-level values of a YAML configuration, which no parser converts or compares with the valid ones."""
    actions = {action.dest: action for action in parser._actions}
    for key, value in load_yaml(path).items():
        wanted = _mismatch(actions[key], value)
        if wanted:
            raise at(path, _line_of(path, key), f"{key}: {value!r}", wanted)


_ONE = {int: "a whole number", float: "a number", str2bool: "true or false", str: "a word", None: "a word"}


def _mismatch(action: argparse.Action, value: Any) -> str:
    """Say what is expected where an option does not take ``value``; types that only ESPnet knows are passed over."""
    if isinstance(action, NestedDictAction):
        return "" if value is None or isinstance(value, dict) else "'key: value' lines are expected"
    one = _ONE.get(action.type, "")
    if action.nargs is not None:
        fits = isinstance(value, list) and all(_is_a(action.type, item) for item in value)
        example = "…" if value is None or isinstance(value, (list, dict)) else value
        return "" if fits else f"a list is expected, e.g. [{example}]"
    if value is None or action.type not in _ONE or isinstance(action, argparse._AppendAction):
        return ""
    if not _is_a(action.type, value):
        number = action.type is float and isinstance(value, str)
        exponent = "; with an exponent YAML reads 1.0e-3 and not 1e-3" if number else ""
        return f"{one} is expected{exponent}"
    return nearest(value, action.choices) if action.choices and value not in action.choices else ""


def _is_a(kind: Any, value: Any) -> bool:
    """Say whether a value of YAML is of the type that an option's text is converted to."""
    if kind in (int, float):
        return is_whole(value) if kind is int else is_number(value)
    if kind is str2bool:
        return isinstance(value, bool)
    return isinstance(value, str) and bool(value) if kind in (str, None) else True


def _line_of(path: Pathlike, key: Any) -> Optional[int]:
    """Return the line of a top-level key."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((i for i, text in enumerate(lines, 1) if re.match(rf"{re.escape(str(key))}\s*:", text)), None)


# Options that a training cannot go on with when they change: weights would mean something else, or the change would do
# nothing, as the state of the optimizer says what goes on.
LASTING = ("format", "prompt", "profile", "pause", "layout", "layout_conf", "projector", "projector_conf", "chunk_conf",
           "new_tokens", "token_type", "order_conf", "max_talkers", "heads", "rate", "optim", "optim_conf", "scheduler",
           "scheduler_conf")


def check_resumed(args: argparse.Namespace) -> None:
    """Check that a training that goes on is the one that was begun.

    Raises:
        UserError: an option of :data:`LASTING` is another one now.
    """
    out = Path(args.output_dir)
    if not args.resume or not (out / CHECKPOINT).exists() or not (out / "config.yaml").exists():
        return
    before = load_yaml(out / "config.yaml") or {}
    for key in LASTING:
        if key in before and hasattr(args, key) and _plain(before[key]) != _plain(getattr(args, key)):
            raise UserError(f"{out}: this training was begun with {key}: {before[key]!r}, and goes on with "
                            f"{getattr(args, key)!r}; give the first one back, or train anew: rm -r {out} (in a "
                            "recipe: --on_change restart)")


def _plain(value: Any) -> Any:
    """Return a value as YAML would give it back, without the number of steps, which may grow; nothing is None."""
    found = json.loads(json.dumps(value, default=str))
    found = {k: v for k, v in found.items() if k != "total_steps"} if isinstance(found, dict) else found
    return None if found in ({}, [], "") else found


def set_data(args: argparse.Namespace, mode: str, directory: Pathlike, sources: bool = False) -> None:
    """Point ESPnet's data arguments of ``mode`` to a directory of clips; mixtures are rendered from their manifest.

    Args:
        sources: with the clean signals of the speakers, where there is a manifest.
    """
    directory = Path(directory)
    for name in ("wav.scp", "supervision", "utt2num_samples"):
        if not (directory / name).is_file():
            raise at(directory / name, None, "no such file", "make the clips with the stage 'clips'")
    manifest = directory / "mixtures.jsonl"
    audio = (str(manifest), "speech", "mixture") if manifest.exists() else \
        (str(directory / "wav.scp"), "speech", "audio")
    setattr(args, f"{mode}_data_path_and_name_and_type",
            [audio, (str(directory / "supervision"), "supervision", "text"),
             *([(str(manifest), "sources", "parts")] if sources and manifest.exists() else [])])
    setattr(args, f"{mode}_shape_file", [str(directory / "utt2num_samples")])


def choose_clips(directory: Pathlike, talkers: Sequence[int], out: Pathlike) -> None:
    """Write the clips with these talker counts and their lengths to ``out``.

    Raises:
        UserError: there are none.
    """
    counts = read_map(Path(directory) / "utt2num_spk")
    sizes = read_map(Path(directory) / "utt2num_samples")
    chosen = {clip: sizes[clip] for clip, count in counts.items() if int(count) in talkers}
    if not chosen:
        raise at(Path(directory) / "utt2num_spk", None, f"no clip has {' or '.join(map(str, talkers))} talkers",
                 "change 'talkers', or simulate such clips")
    write_map(out, chosen)


def find_step(init_param: str, output_dir: Pathlike) -> str:
    """Resolve ESPnet's ``<file>[:<from>[:<to>[:<without>]]]``: a file of an earlier step is named by ``<step>/<file>``.

    Steps lie side by side, so a configuration needs no experiment directory:
    ``01_sctc_single/latest.pth:encoder:encoder``. So do systems: ``../ume/02_ume_asr/latest.pth``. A whole model comes
    without :data:`PROGRESS`.

    Raises:
        UserError: no such file, neither as it stands nor beside ``output_dir``.
    """
    name, *parts = init_param.split(":")
    for path in (Path(name), _beside(output_dir, name)):
        if path.is_file():
            if not any(parts[:1]):
                source, target, without, *rest = [*parts, *[""] * (3 - len(parts))]
                parts = [source, target, ",".join(filter(None, [without, *PROGRESS])), *rest]
            return ":".join([str(path), *parts])
    raise _no_step(name, output_dir)


def check_readable(init_param: Sequence[str]) -> None:
    """Raise a :class:`UserError` for the first of the files that is no checkpoint, as half a copy is."""
    for name in (given.split(":")[0] for given in init_param):
        try:
            torch.load(name, map_location="meta", weights_only=False)
        except UNREADABLE:
            repair = "copy it again, or train that step again"
            raise at(name, None, "torch cannot read this checkpoint", repair) from None


def find_checkpoint(checkpoint: str, output_dir: Pathlike) -> str:
    """Resolve the ``checkpoint`` of an encoder: a step beside ``output_dir``, its directory or a file there.

    Steps are named as in :func:`find_step`. A published checkpoint stays as it is; what is wrong with it, or where to
    get it, the encoder says.

    Raises:
        UserError: no such step, neither as it stands nor beside ``output_dir``.
    """
    for path in (Path(checkpoint), _beside(output_dir, checkpoint)):
        if path.exists():
            return str(path)
    if STEP.fullmatch(checkpoint):
        raise _no_step(checkpoint, output_dir)
    return checkpoint


def _beside(output_dir: Pathlike, name: str) -> Path:
    # By name alone: the directory of a system whose first step this is need not be there yet.
    return Path(os.path.normpath(Path(output_dir).parent / name))


def _no_step(name: str, output_dir: Pathlike) -> UserError:
    system = re.match(r"\.\./([^./][^/]*)/", name)
    repair = f"train that system first: ./run.sh --system {system[1]} --stage train --stop_stage train" if system else \
        "run the training steps in order"
    return at(_beside(output_dir, name), None, "no such weights to start from", repair)
