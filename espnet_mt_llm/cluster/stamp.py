"""Stamps of finished work: a digest of the commands and of what they read tells whether they have to run again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Optional, Sequence

from espnet_mt_llm.common import atomic_open

AUDIO = (".wav", ".flac", ".mp3", ".sph", ".raw", ".ark")
WHOLE = 64 << 20  # bytes up to which a file counts by its content; a larger one by size and time of change


def digest(path: str) -> str:
    """Return a digest of a file, or of a directory's own files (no audio, no sub-directories, no hidden files)."""
    where = Path(path)
    if where.is_dir():
        names = sorted(e.name for e in os.scandir(where)
                       if e.is_file() and not e.name.startswith(".") and not e.name.endswith(AUDIO))
        return hashlib.sha1("\n".join(f"{n} {digest(str(where / n))}" for n in names).encode()).hexdigest()
    try:
        status = where.stat()
    except FileNotFoundError:
        return "absent"
    if status.st_size > WHOLE:
        return f"{status.st_size} bytes of {status.st_mtime_ns}"
    return hashlib.sha1(where.read_bytes()).hexdigest()


def started_of(done: Path) -> Path:
    """Return the stamp of work that has begun; it becomes ``done`` by a rename when the work has ended."""
    return done.with_name(done.name + ".started")


def begin(done: Path, plan: str, inputs: Sequence[str], outputs: Sequence[str] = (), force: bool = False) -> tuple:
    """Decide whether a unit of work has to run, and if so leave the stamp that it has begun.

    Args:
        done: stamp of the finished work.
        plan: the commands, as text.
        inputs: files and directories whose contents count.
        outputs: paths that must exist for the work to count as finished.
        force: run although nothing changed.
    Returns:
        ``("skip" | "continue" | "restart", reason)``; *continue* = first run, or one that was stopped, with the same
        inputs, so that what it has made may be used; *restart* = an earlier run used other inputs.
    """
    started = started_of(done)
    now = {"plan": plan, "inputs": {path: digest(path) for path in inputs}}
    before, finished = _load(started), False
    if before is None:
        before, finished = _load(done), True
    if before is None:
        choice, reason = "continue", "is new"
    else:
        change = _change(before, now)
        missing = next((path for path in outputs if not os.path.exists(path)), None)
        if change:
            choice, reason = "restart", change
        elif not finished:
            choice, reason = "continue", "was stopped before it ended"
        elif missing:
            choice, reason = "continue", f"{missing} is missing"
        elif force:
            choice, reason = "restart", "--force"
        else:
            return "skip", "nothing changed"
    # What depends on this stamp sees that the work was done anew, whether or not its inputs are the same.
    run = os.urandom(8).hex() if choice == "restart" else (before or {}).get("run")
    now = {**now, **({"run": run} if run else {})}
    with atomic_open(started) as f:
        json.dump(now, f, indent=1)
    done.unlink(missing_ok=True)
    return choice, reason


def _load(stamp: Path) -> Optional[dict]:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _change(before: dict, now: dict) -> str:
    for path in {**before["inputs"], **now["inputs"]}:
        if before["inputs"].get(path) != now["inputs"].get(path):
            return f"{path} changed"
    return "its options changed" if before["plan"] != now["plan"] else ""
