"""What a launcher tells its user: which jobs to run, how many failed, why, and how to run those again."""

import os
import shlex
import sys
from pathlib import Path
from typing import Mapping, Optional, Sequence

from espnet_mt_llm.cluster.grammar import Launch
from espnet_mt_llm.cluster.task import ended, tail

SHOWN = 10  # names of further failing logs in one message


def picked(launch: Launch) -> list:
    """Return the job numbers that ``--pick`` chooses by the logs of an earlier run.

    ``failed`` is every job that did not end with code 0; ``incomplete`` those that were killed or never started.
    """
    choices = launch.options.get("pick", "all").split(",")
    if "all" in choices:
        return list(launch.numbers)
    codes = {n: ended(launch.log_of(n)) for n in launch.numbers}
    return [n for n, code in codes.items() if code is None or (code != 0 and "failed" in choices)]


def rerun_line(launch: Launch, program: str, arguments: Sequence[str]) -> str:
    """Return the command that runs again only the jobs that did not end well, from any directory."""
    own, command = list(arguments[:-len(launch.command)]), arguments[-len(launch.command):]
    while "--pick" in own:
        del own[own.index("--pick"):own.index("--pick") + 2]
    line = shlex.join([program, "--pick", "failed", *own, *command])
    setup = ". ./path.sh && " if os.path.exists("path.sh") else ""
    return f"cd {shlex.quote(os.getcwd())} && {setup}{line}"


def conclude(launch: Launch, codes: Mapping[int, Optional[int]], program: str, arguments: Sequence[str]) -> int:
    """Report the jobs that failed on stderr.

    Args:
        codes: job number → exit code, ``None`` for a job that left no footer (killed, or never started).
    Returns:
        the exit code of the launcher: that of the first failing job by number, 1 when this one has none.
    """
    name = Path(program).name
    failed = sorted(n for n, code in codes.items() if code != 0)
    if not failed:
        return 0
    first, log = failed[0], launch.log_of(failed[0])
    how = "was killed or never started" if codes[first] is None else f"code {codes[first]}"
    how = f"job {first} ({how})" if launch.variable else how
    lines = [f"{name}: {len(failed)} / {len(codes)} failed; {how}, its log {log} ends with:"]
    lines += [f"  | {line}" for line in tail(log)]
    others = [str(launch.log_of(n)) for n in failed[1:]]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        lines.append(f"{name}: the other logs: {' '.join(others[:SHOWN])}{more}")
    lines.append(f"{name}: to run only what failed again: {rerun_line(launch, program, arguments)}")
    print("\n".join(lines), file=sys.stderr)
    return codes[first] or 1
