"""Run a launcher's jobs through Slurm, as one job array, and wait for them."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

from espnet_mt_llm.common import UserError, atomic_open, command
from espnet_mt_llm.cluster.grammar import Launch, fill, parse
from espnet_mt_llm.cluster.orphans import Guard
from espnet_mt_llm.cluster.progress import StatusLine
from espnet_mt_llm.cluster.report import conclude, picked
from espnet_mt_llm.cluster.slurm_conf import PATH, SlurmConf, read
from espnet_mt_llm.cluster.task import driver_gone, ended

ROOT = Path(__file__).resolve().parents[2]
OWN = ("config", "max_jobs_run", "pick")  # options that are not a site's business
SETTLE = 5.0  # seconds in which a log written on another node becomes visible here

SCRIPT = """#!/usr/bin/env bash
# One task of: {line}
cd {cwd} || exit 1
if [ -e path.sh ]; then . ./path.sh; fi
exec python3 -S -c 'import sys
sys.path.insert(0, sys.argv.pop(1))
from espnet_mt_llm.cluster.task import main
main()' {root} "${{SLURM_ARRAY_TASK_ID:-1}}" {arguments}
"""


def array_of(numbers: Sequence[int]) -> str:
    """Write job numbers as Slurm does.

    >>> array_of([1, 2, 3, 7, 9, 10])
    '1-3,7,9-10'
    """
    runs: list = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def script_of(launch: Launch) -> str:
    """Return the batch script: the same launcher grammar, run by :mod:`espnet_mt_llm.cluster.task` on the node."""
    words = ["--num_threads", launch.options["num_threads"]] if "num_threads" in launch.options else []
    words += [f"{launch.variable}=1:{max(launch.numbers)}"] if launch.variable else []
    line = " ".join(launch.command).replace("\n", " ")
    return SCRIPT.format(line=line, cwd=shlex.quote(os.getcwd()), root=shlex.quote(str(ROOT)),
                         arguments=shlex.join([*words, launch.log, *launch.command]))


def submission(launch: Launch, conf: SlurmConf, numbers: Sequence[int], script: Path) -> list:
    """Return the sbatch command line."""
    name = launch.options.get("name") or Path(fill(launch.log, launch.variable, 0)).stem
    given = {k: v for k, v in launch.options.items() if k not in (*OWN, "name")}
    words = [*conf.command, "--parsable", "--wait", "--open-mode=append", f"--job-name={name}"]
    log = launch.log.replace("%", "%%")
    if launch.variable:
        limit = launch.integer("max_jobs_run", 0)
        words.append(f"--array={array_of(numbers)}" + (f"%{limit}" if limit else ""))
        log = fill(log, launch.variable, 0, by="%a")
    # Slurm's own messages (time limit, out of memory) land in the log, behind the job's output.
    return [*words, f"--output={log}", *conf.flags(given, launch.options.get("config", PATH)), str(script)]


def environment() -> dict:
    """Return the environment for sbatch, without what holds only here: an outer job's settings, a process number."""
    return {k: v for k, v in os.environ.items()
            if k == "SLURM_CONF" or not (k.startswith("SLURM_") or k == "MTASR_PID")}


def cancel(jobs: Sequence[str]) -> None:
    """Cancel what has not ended of these jobs."""
    subprocess.run(["scancel", *jobs], env=environment())


class Submission:
    """A submitted array and the ``sbatch --wait`` that waits for it."""

    def __init__(self, words: Sequence[str]) -> None:
        """Submit; sbatch's messages go to stderr as they are.

        Raises:
            UserError: there is no sbatch, or it refused.
        """
        # sbatch prints the job's number at once, but only to a terminal: a pipe would get it when the job has ended.
        master, slave = pty.openpty()
        try:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=slave, env=environment(),
                                            start_new_session=True)
        except FileNotFoundError:
            raise UserError(f"there is no {words[0]} on this machine; run with cmd_backend=local, "
                            "or try tools/slurm_testbed.sh") from None
        finally:
            os.close(slave)
        text = b""
        while b"\n" not in text:
            try:
                text += os.read(master, 1024)
            except OSError:  # the other end was closed: sbatch has ended
                break
        os.close(master)
        self.job = text.decode("ascii", "replace").strip().split(";")[0]
        if not self.job.isdigit():
            code = self.process.wait()
            raise UserError(f"sbatch did not accept the job (exit code {code}, its message is above); "
                            f"it was called so: {shlex.join(words)}")

    def cancel(self) -> None:
        """Cancel what has not ended."""
        cancel([self.job])

    def ended(self) -> bool:
        """Tell whether Slurm says that all tasks have ended."""
        return self.process.poll() is not None

    def leave(self) -> None:
        """Stop waiting."""
        if not self.ended():
            self.process.terminate()
        self.process.wait()


def wait(launch: Launch, numbers: Sequence[int], submitted: Submission, stopped: Sequence[int]) -> dict:
    """Wait for all jobs; return job number → exit code, ``None`` for one that left no footer.

    sbatch looks at the queue only every half minute, so the logs are watched too: when all of them end with code 0
    there is nothing to wait for. Any other ending is left to Slurm, which may run a preempted job again.
    """
    line, codes, pause = StatusLine(len(numbers)), {}, 0.05
    try:
        while not submitted.ended() and not stopped:
            codes.update({n: 0 for n in numbers if n not in codes and ended(launch.log_of(n)) == 0})
            if len(codes) == len(numbers):
                return codes
            running = next((launch.log_of(n) for n in numbers if n not in codes), None)
            line.update(len(codes), running)
            if driver_gone():
                submitted.cancel()
                break
            time.sleep(pause)
            pause = min(pause * 1.2, 2.0)
    finally:
        line.close()
    if stopped:
        return codes
    deadline = time.monotonic() + SETTLE
    while True:
        codes = {n: ended(launch.log_of(n)) for n in numbers}
        if None not in codes.values() or time.monotonic() > deadline:
            return codes
        for folder in {launch.log_of(n).parent for n in numbers}:
            os.listdir(folder)  # a network file system looks again
        time.sleep(0.5)


@command
def main() -> None:
    """Entry of ``utils/slurm.py``."""
    program, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
    launch = parse(arguments, read(_conf_path(arguments)).options)
    conf = read(launch.options.get("config", PATH))
    numbers = picked(launch)
    if not numbers:
        print(f"{program}: nothing to run again, all {len(launch.numbers)} jobs ended with code 0", file=sys.stderr)
        return
    for n in numbers:
        log = launch.log_of(n)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # the ending of an earlier run must not be taken for this one's
    folder = Path(fill(launch.log, launch.variable, 0)).parent / "q"
    script = folder / (Path(launch.log).stem + ".sh")
    with atomic_open(script) as f:
        f.write(script_of(launch))
    stopped: list = []
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda received, _frame: stopped.append(received))
    guard = Guard(cancel)
    submitted = Submission(submission(launch, conf, numbers, script))
    guard.add(submitted.job)
    codes = wait(launch, numbers, submitted, stopped)
    if stopped:
        submitted.cancel()
    submitted.leave()
    guard.remove(submitted.job)
    guard.close()
    if stopped:
        print(f"{program}: stopped by a signal; job {submitted.job} was cancelled", file=sys.stderr)
        sys.exit(128 + stopped[0])
    sys.exit(conclude(launch, codes, sys.argv[0], arguments))


def _conf_path(arguments: Sequence[str]) -> str:
    """Find ``--config`` among the launcher's own options, before they can be parsed."""
    for name, value in zip(arguments, arguments[1:]):
        if name == "--config":
            return value
        if not name.startswith("-") and name.endswith(".log"):
            break
    return PATH
