"""Run a launcher's jobs on this machine, as many at once as it has cores (or GPUs)."""

import glob
import os
import signal
import subprocess
import sys
import time
from typing import Optional, Sequence

from espnet_mt_llm.common import UserError, command
from espnet_mt_llm.cluster.grammar import Launch, parse
from espnet_mt_llm.cluster.orphans import Guard
from espnet_mt_llm.cluster.progress import StatusLine
from espnet_mt_llm.cluster.report import conclude, picked
from espnet_mt_llm.cluster.slurm_conf import option_names
from espnet_mt_llm.cluster.task import driver_gone, environment_of, start, stop

GRACE = 10.0  # seconds that jobs have to end after a signal, before they are killed


def gpus() -> list:
    """Return the names of the GPUs that this process may use, in the form of ``CUDA_VISIBLE_DEVICES``."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    devices = sorted(glob.glob("/dev/nvidia[0-9]*"))
    if devices:
        return [str(i) for i in range(len(devices))]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:
        return []
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def slots(launch: Launch) -> list:
    """Return one mapping of environment variables for each job that may run at the same time.

    Raises:
        UserError: more GPUs are wanted than there are.
    """
    wanted, limit = launch.integer("gpu", 0), launch.integer("max_jobs_run", 0)
    variables = environment_of(launch)
    if not wanted:
        cores = len(os.sched_getaffinity(0)) // launch.integer("num_threads", 1, least=1)
        return [variables] * (limit or max(1, cores))
    names = gpus()
    if len(names) < wanted:
        raise UserError(f"--gpu {wanted}: this machine shows {len(names)} GPU(s); use fewer (--ngpu 0 runs on the CPU)")
    groups = [names[i:i + wanted] for i in range(0, len(names) - wanted + 1, wanted)]
    return [{**variables, "CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups[:limit or None]]


class Jobs:
    """The jobs that wait, run and have ended."""

    def __init__(self, launch: Launch, numbers: Sequence[int], free: Sequence[dict]) -> None:
        """Keep ``numbers`` waiting; each entry of ``free`` lets one job run."""
        self.launch, self.waiting, self.free = launch, list(reversed(numbers)), list(free)
        self.running: dict = {}
        self.codes: dict = {}
        self.guard = Guard()

    def fill_up(self) -> None:
        """Start jobs while there are free slots."""
        while self.waiting and self.free:
            slot, number = self.free.pop(), self.waiting.pop()
            task = start(self.launch, number, slot)
            self.guard.add(task.process.pid)
            self.running[task.process.pid] = (task, slot)

    def collect(self) -> None:
        """Take in what has ended."""
        for pid, (task, slot) in list(self.running.items()):
            if task.process.poll() is not None:
                self.codes[task.number] = task.end()
                self.free.append(slot)
                self.guard.remove(pid)
                del self.running[pid]

    def tasks(self) -> list:
        """Return the running tasks."""
        return [task for task, _ in self.running.values()]

    def abort(self, received: int) -> None:
        """Pass a signal on to everything that runs, wait, then kill what is left; write the footers."""
        self.waiting.clear()
        stop(self.tasks(), received)
        deadline = time.monotonic() + GRACE
        while self.running and time.monotonic() < deadline:
            self.collect()
            time.sleep(0.02)
        stop(self.tasks(), signal.SIGKILL)
        for task in self.tasks():
            task.process.wait()
        self.collect()


def run(launch: Launch, numbers: Sequence[int]) -> tuple:
    """Run jobs to their end.

    Returns:
        job number → exit code, and the signal that stopped everything or ``None``.
    """
    # Signals are waited for, not handled: the end of a job is seen at once, without polling. The mask is set only
    # between starts, because a child would inherit it.
    watched = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.signal(signal.SIGCHLD, lambda *_: None)
    jobs, line, received = Jobs(launch, numbers, slots(launch)), StatusLine(len(numbers)), None
    try:
        while jobs.waiting or jobs.running:
            jobs.fill_up()
            line.update(len(jobs.codes), jobs.tasks()[0].log if jobs.running else None)
            received = _wait_for(jobs, watched)
            if received:
                line.close()
                jobs.abort(received)
                break
            jobs.collect()
    finally:
        line.close()
        jobs.guard.close()
    return jobs.codes, received


def _wait_for(jobs: Jobs, watched: set) -> Optional[int]:
    """Sleep until a job ends (or a second has passed); return a signal that asks this launcher to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        if any(task.process.poll() is not None for task in jobs.tasks()):
            return None
        info = signal.sigtimedwait(watched, 1.0)
        # CPython returns memory that nobody wrote when this process was stopped (Ctrl-Z) and continued meanwhile.
        number = info.si_signo if info and info.si_signo in watched else None
        if number is None and driver_gone():
            return signal.SIGTERM
        return number if number != signal.SIGCHLD else None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)


@command
def main() -> None:
    """Entry of ``utils/run.py``."""
    program, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
    launch = parse(arguments, option_names())
    numbers = picked(launch)
    if not numbers:
        print(f"{program}: nothing to run again, all {len(launch.numbers)} jobs ended with code 0", file=sys.stderr)
        return
    codes, received = run(launch, numbers)
    if received:
        print(f"{program}: stopped by a signal; the jobs that ran were stopped too", file=sys.stderr)
        sys.exit(128 + received)
    sys.exit(conclude(launch, codes, sys.argv[0], arguments))
