"""The line that shows, on a terminal, how far a launcher's jobs are."""

import os
import sys
import time
from pathlib import Path
from typing import Optional

from espnet_mt_llm.cluster.task import tail


def clock(seconds: float) -> str:
    """Write seconds as ``m:ss`` or ``h:mm:ss``.

    >>> clock(61), clock(3661)
    ('1:01', '1:01:01')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class StatusLine:
    """Jobs ended, time spent and left, the newest line of a running job's log; silent where stderr is no terminal."""

    def __init__(self, total: int, after: float = 2.0) -> None:
        """Show nothing in the first ``after`` seconds."""
        self.total, self.after = total, after
        self.started = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.shown = False

    def update(self, done: int, log: Optional[Path]) -> None:
        """Redraw the line; ``log`` is that of a running job."""
        elapsed = time.monotonic() - self.started
        if not self.terminal or elapsed < self.after:
            return
        text = f"[{clock(elapsed)}] "
        if self.total > 1:
            left = f", about {clock(elapsed / done * (self.total - done))} left" if done else ""
            text += f"{done} of {self.total} jobs ended{left} "
        newest = tail(log, 1) if log else []
        text += newest[0] if newest and not newest[0].startswith("#") else ""
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        print("\r" + text[:width - 1] + "\x1b[K", end="", file=sys.stderr, flush=True)
        self.shown = True

    def close(self) -> None:
        """Remove the line."""
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
