"""A small process that outlives a launcher which was killed, and stops the jobs it left behind."""

import os
import signal
from typing import Callable, Sequence


def kill_groups(names: Sequence[str]) -> None:
    """Kill process groups, given by the process numbers of their leaders."""
    for name in names:
        try:
            os.killpg(int(name), signal.SIGKILL)
        except ProcessLookupError:
            pass


class Guard:
    """Knows the running jobs; when this process ends, even by SIGKILL, it stops those that still run.

    A child in a session of its own (what kills this process' group spares it) reads the jobs' names from a pipe. The
    system closes the pipe when this process ends, in whatever way.
    """

    def __init__(self, stop: Callable[[Sequence[str]], object] = kill_groups) -> None:
        """Start the child; ``stop`` is what it calls with the names of the jobs that still run."""
        reader, self._writer = os.pipe()
        self._child = os.fork()
        if self._child:
            os.close(reader)
            return
        try:
            os.setsid()
            # Its own copy would keep the pipe open; and whoever reads this launcher's output must not wait for it.
            os.close(self._writer)
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nothing, descriptor)
            running = _read(reader)
            if running:
                stop(running)
        finally:
            os._exit(0)

    def add(self, name: object) -> None:
        """A job runs now."""
        os.write(self._writer, f"+{name}\n".encode())

    def remove(self, name: object) -> None:
        """A job has ended."""
        os.write(self._writer, f"-{name}\n".encode())

    def close(self) -> None:
        """Stop what runs still, and wait for the child."""
        os.close(self._writer)
        os.waitpid(self._child, 0)


def _read(reader: int) -> list:
    running: dict = {}
    with os.fdopen(reader) as lines:
        for line in lines:
            if line.startswith("+"):
                running[line[1:-1]] = None
            else:
                running.pop(line[1:-1], None)
    return list(running)
