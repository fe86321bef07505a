"""One job of a launcher: run a bash line with a log that says what ran, where, when, and how it ended."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

from espnet_mt_llm.common import command
from espnet_mt_llm.cluster.grammar import Launch, parse

MARKS = re.compile(rb"^# (?:Started at|Ended \(code (\d+)\) at) .*$", re.MULTILINE)
FRAME = re.compile(r"# (Running on|Started at|Accounting:|Ended \(code) |#$")
STAMP = "%a %b %d %H:%M:%S %Z %Y"


@dataclass
class Task:
    """A running job: its number, log, process and start (seconds of the monotonic clock)."""

    number: int
    log: Path
    process: subprocess.Popen
    started: float

    def end(self) -> int:
        """Write the footer after the process has ended; return the exit code, 128 + signal for a killed one."""
        code = self.process.returncode
        code = 128 - code if code < 0 else code
        elapsed = int(time.monotonic() - self.started)
        with open(self.log, "r+b") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - 1))
            newline = b"" if f.read(1) in (b"\n", b"") else b"\n"
            f.write(newline + f"# Accounting: time={elapsed} threads=1\n"
                    f"# Ended (code {code}) at {time.strftime(STAMP)}, elapsed time {elapsed} seconds\n".encode())
        return code


def start(launch: Launch, number: int, variables: Mapping[str, str], append: bool = False) -> Task:
    """Start job ``number`` in a process group of its own, its output going straight to its log.

    Args:
        variables: environment variables to set on top of this process' own.
        append: keep what the log holds already (a scheduler's messages).
    """
    line, log = launch.line_of(number), launch.log_of(number)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab" if append else "wb") as f:
        f.write(f"# {line}\n# Running on {socket.gethostname()}\n# Started at {time.strftime(STAMP)}\n#\n".encode())
        f.flush()
        # O_APPEND in the child as well: programs that write to stdout and stderr must not overwrite each other.
        with open(log, "ab") as out:
            process = subprocess.Popen(["/bin/bash", "-c", line], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True, env={**os.environ, **variables})
    return Task(number, log, process, time.monotonic())


def environment_of(launch: Launch) -> dict:
    """Return the variables that an option implies: ``--num-threads n`` lets the libraries use n threads."""
    if "num_threads" not in launch.options:
        return {}
    return {"OMP_NUM_THREADS": str(launch.integer("num_threads", 1, least=1))}


def driver_gone() -> bool:
    """Tell whether the stage driver that started this launcher has died: its jobs must not outlive it."""
    driver = os.environ.get("MTASR_PID")
    if driver is None:
        return False
    try:
        os.kill(int(driver), 0)
    except (ProcessLookupError, ValueError):
        return True
    except PermissionError:
        pass
    return False


def stop(tasks: Sequence[Task], number: int) -> None:
    """Send a signal to whole process groups, whose leaders may have ended already."""
    for task in tasks:
        try:
            os.killpg(task.process.pid, number)
        except ProcessLookupError:
            pass


def ended(log: Path) -> Optional[int]:
    """Return the exit code in a log's footer; ``None`` when the log is absent or its job did not end.

    A job that a scheduler ran again has several headers and footers in its log: the last of them counts.
    """
    try:
        with open(log, "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 16384))
            codes = MARKS.findall(f.read())
    except FileNotFoundError:
        return None
    return int(codes[-1]) if codes and codes[-1] else None


def tail(log: Path, lines: int = 20) -> list:
    """Return the last lines that the job itself wrote, without header and footer."""
    try:
        with open(log, "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 16384))
            text = f.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ["(there is no log: the job never started)"]
    # A progress bar ends its states with \r: only the last one matters.
    kept = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n") if line.strip()]
    return [line for line in kept if not FRAME.match(line)][-lines:]


@command
def main() -> None:
    """Run one job on the machine that a scheduler chose; arguments: its number, then the launcher's grammar."""
    number, words = int(sys.argv[1]), sys.argv[2:]
    launch = parse(words)
    task = start(launch, number, environment_of(launch), append=True)
    for name in (signal.SIGTERM, signal.SIGINT):
        # The job is told to stop; this process lives on to write the footer.
        signal.signal(name, lambda received, _frame: stop([task], received))
    task.process.wait()
    sys.exit(task.end())


if __name__ == "__main__":
    main()
