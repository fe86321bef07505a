"""What every room needs: errors for people, atomic files, checked configurations, progress, provenance."""

import dataclasses
import difflib
import errno
import functools
import hashlib
import os
import platform
import random
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Collection, Iterable, Iterator, Mapping, Optional, Sequence, Type, TypeVar, Union

Pathlike = Union[str, "os.PathLike[str]"]
T = TypeVar("T")
# What running a command again does not repair.
_WRONG_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


class UserError(Exception):
    """A mistake that the user can repair; the message says where it is, what is wrong and how to repair it."""


def at(path: Pathlike, line: Optional[int], problem: str, repair: str = "") -> UserError:
    """Build a :class:`UserError` in the one form of this project: ``<file>:<line>: what; how to repair``."""
    place = str(path) if line is None else f"{path}:{line}"
    return UserError(f"{place}: {problem}" + (f"; {repair}" if repair else ""))


def command(main: Callable[..., Any]) -> Callable[..., None]:
    """Decorate the ``main`` of a command: a :class:`UserError` is printed without a traceback and exits with 1.

    A reader that goes away (``| head``) and Ctrl-C end the command quietly, with the codes a shell expects.
    """

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            main(*args, **kwargs)
        except UserError as e:
            # A data loader's worker hands its whole traceback over as the message; the last line is the user's.
            text = str(e).strip()
            print(text.rsplit("UserError: ", 1)[-1] if "Traceback" in text else text, file=sys.stderr)
            sys.exit(1)
        except ModuleNotFoundError as e:
            if (e.name or "").partition(".")[0] == __package__:
                raise
            print(f"the Python package '{e.name}' is missing; tools/check_install.py says how to get it",
                  file=sys.stderr)
            sys.exit(1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as e:
            # A full disk, a missing right or file: the message of the system names the cause and the path.
            name = f"{e.filename2 or e.filename}: " if e.filename else ""
            repair = "give another path" if e.errno in _WRONG_PLACE else "run the command again"
            print(f"{name}{e.strerror or e}; nothing half-written was kept, {repair}", file=sys.stderr)
            sys.exit(1)

    return wrapped


@contextmanager
def atomic_open(path: Pathlike, mode: str = "w", *, durable: bool = True, **kwargs: Any) -> Iterator[Any]:
    """Open a temporary file beside ``path``; rename it to ``path`` on success, remove it on failure.

    Args:
        durable: the disk has the file before it gets its name, whatever happens to the power. Without it, who writes
            many files calls :func:`flush_disk` once, before it says anywhere that they are there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "b" not in mode:
        kwargs.setdefault("encoding", "utf-8")
    # The end of the name is kept, because libraries choose a format by it.
    handle, tmp = tempfile.mkstemp(dir=path.parent, prefix=".tmp.", suffix="." + path.name)
    try:
        with os.fdopen(handle, mode, **kwargs) as f:
            yield f
            if durable:
                f.flush()
                os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(tmp, 0o666 & ~umask)
        os.replace(tmp, path)
    except BaseException:
        if os.path.exists(tmp):
            os.unlink(tmp)
        raise


def flush_disk(*directories: Pathlike) -> None:
    """Wait until the disk has all that was written to the file systems of some directories.

    Once for thousands of files it costs what ``os.fsync`` costs for a few.

    Raises:
        OSError: something could not be written.
    """
    import ctypes

    # os.sync waits for every file system of the machine, and does not say what could not be written.
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    for directory in {os.stat(d).st_dev: d for d in directories}.values():
        handle = os.open(directory, os.O_RDONLY)
        try:
            if syncfs(handle):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(directory))
        finally:
            os.close(handle)


@contextmanager
def in_background() -> Iterator[Callable[..., None]]:
    """Yield what hands a call, a function and its arguments, to a thread, which makes one after the other.

    Raises:
        Exception: that of the first call that failed, when all calls before it are through; none behind it is made.
    """
    from concurrent.futures import Future, ThreadPoolExecutor  # with logging, not for launchers of jobs

    last: Optional[Future] = None

    def after(previous: Optional[Future], function: Callable, *args: Any) -> None:
        if previous is not None:
            previous.result()
        function(*args)

    def later(function: Callable, *args: Any) -> None:
        nonlocal last
        last = pool.submit(after, last, function, *args)

    with ThreadPoolExecutor(1) as pool:
        yield later
        if last is not None:
            last.result()


def is_whole(value: Any) -> bool:
    """Say whether a value of YAML or JSON is a whole number: there ``true`` is none.

    >>> [is_whole(value) for value in (3, True, 3.0, "3", None)]
    [True, False, False, False, False]
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Say whether a value of YAML or JSON is a number, whole or not."""
    return isinstance(value, float) or is_whole(value)


def listed(names: Collection[str], most: int = 3) -> str:
    """Name the first ones, and how many more there are.

    >>> listed(["a", "b"]), listed("abcde", 2)
    ('a, b', 'a, b and 3 more')
    """
    rest = len(names) - most
    return ", ".join(islice(names, most)) + (f" and {rest} more" if rest > 0 else "")


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say which valid name was probably meant, e.g. ``did you mean 'seed'?``, else list them all."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean '{close[0]}'?" if close else "valid: " + ", ".join(valid)


def from_mapping(cls: Type[T], values: Mapping[str, Any], where: Pathlike) -> T:
    """Build the frozen dataclass ``cls`` from a parsed YAML mapping.

    Raises:
        UserError: an unknown key (the nearest valid one is named) or a missing one.
    """
    if not isinstance(values, Mapping):
        raise at(where, None, f"expected 'key: value' lines, found {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise at(where, None, f"unknown key '{key}'", nearest(str(key), fields))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise at(where, None, f"the key '{name}' is missing", f"add '{name}: …'")
    return cls(**values)


def load_yaml(path: Pathlike) -> Any:
    """Parse a YAML file.

    Raises:
        UserError: it does not exist or is not YAML (with the line).
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as f:
            return yaml.safe_load(f)
    except FileNotFoundError:
        raise at(path, None, "no such file") from None
    except IsADirectoryError:
        raise at(path, None, "this is a directory", "give the file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or e
        raise at(path, mark.line + 1 if mark else None, f"not valid YAML ({problem})") from None


def progress(items: Iterable[T], what: str, total: Optional[int] = None) -> Iterable[T]:
    """Iterate with a bar and the time that is left; in a log file, a line now and then instead of a moving bar."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(items, desc=what, total=total, mininterval=0.5 if terminal else 30, disable=None if terminal else False,
                delay=2 if terminal else 5, dynamic_ncols=terminal)


class Chance:
    """Random choices from a seed, the same on every machine and Python.

    Of ``random.Random``, ``random()`` alone is promised to stay as it is.

    Args:
        seed: whatever tells this source from others, e.g. ``Chance(7, "train", 12)``; see :func:`derive_seed`.
    """

    def __init__(self, *seed: Any):
        self._random = random.Random(derive_seed(*seed)).random

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self._random()

    def index(self, number: int) -> int:
        """Return a whole number in [0, number)."""
        return int(self._random() * number)

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.index(len(items))]

    def sample(self, items: Sequence[T], number: int) -> list[T]:
        """Return ``number`` different items in a random order."""
        rest = list(items)
        return [rest.pop(self.index(len(rest))) for _ in range(number)]


def derive_seed(*parts: Any) -> int:
    """Return a seed of 48 bits (exact in JSON) that depends on all parts; a single number is its own seed.

    >>> derive_seed(7)
    7
    """
    if len(parts) == 1 and isinstance(parts[0], int):
        return parts[0]
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=6).digest(), "big")


def str2bool(text: str) -> bool:
    """Parse ``true`` or ``false``, the way options of shell scripts are written."""
    lowered = str(text).lower()
    if lowered in ("true", "1", "yes"):
        return True
    if lowered in ("false", "0", "no"):
        return False
    raise ValueError(f"not true or false: {text}")


def git_commit(directory: Optional[Pathlike] = None) -> str:
    """Return the commit of the checkout this package lives in, with ``-dirty`` after changes, or ``unknown``.

    What a recipe generates (README, results.json) is no change.
    """
    where = str(directory or Path(__file__).resolve().parent)
    try:
        head = subprocess.run(["git", "-C", where, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        state = subprocess.run(["git", "-C", where, "status", "--porcelain", "--", ":/espnet_mt_llm", ":/egs2",
                                ":/utils", ":!/egs2/*/*/README.md", ":!/egs2/*/*/results.json"],
                               capture_output=True, text=True)
    except OSError:
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + ("-dirty" if state.stdout.strip() else "")


def cpu_name() -> str:
    """Return the processor's model name and the number of cores, e.g. ``Intel Xeon, 2 cores``."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def environment() -> dict:
    """Return what a number on a results page needs beside it: date, commit, machine, versions of the libraries."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("espnet", "torch", "meeteval", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            pass
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "machine": cpu_name(),
        "python": platform.python_version(),
        **versions,
    }
