"""utils/run.py: logs, exit codes, --pick, limits, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def run_py(repository: Path, tmp_path: Path):
    """Call utils/run.py in a fresh directory."""

    def call(*words: str, program: str = "run.py", **variables: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
        return subprocess.run([str(repository / "utils" / program), *words], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=60)

    return call


def test_logs_have_header_output_and_footer(run_py, tmp_path: Path) -> None:
    done = run_py("JOB=1:3", "log/x.JOB.log", "bash", "-c", "echo out JOB; echo err >&2; printf unfinished")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = (tmp_path / "log/x.2.log").read_text()
    assert re.fullmatch(r"# bash -c 'echo out 2; echo err >&2; printf unfinished'\n"
                        r"# Running on \S+\n# Started at .*\n#\nout 2\nerr\nunfinished\n"
                        r"# Accounting: time=\d+ threads=1\n"
                        r"# Ended \(code 0\) at .*, elapsed time \d+ seconds\n", text)


def test_failure_names_the_first_job_its_tail_and_the_command_to_rerun(run_py, tmp_path: Path) -> None:
    failing = "echo doing JOB; [ JOB -lt 3 ] || { echo broken JOB; exit $((JOB + 4)); }; touch made.JOB"
    done = run_py("--max-jobs-run", "2", "JOB=1:4", "log/x.JOB.log", "bash", "-c", failing)
    assert done.returncode == 7
    assert "2 / 4 failed; job 3 (code 7), its log log/x.3.log ends with" in done.stderr
    assert "  | broken 3" in done.stderr and "log/x.4.log" in done.stderr
    assert sorted(p.name for p in tmp_path.glob("made.*")) == ["made.1", "made.2"]
    # The command that the message gives runs the two failed jobs, and only them.
    (tmp_path / "made.1").unlink()
    line = re.search(r"run only what failed again: (.*)", done.stderr).group(1)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    again = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, cwd="/")
    assert again.returncode == 7 and "2 / 2 failed" in again.stderr
    assert not (tmp_path / "made.1").exists()


def test_pick_failed_takes_killed_and_absent_jobs_too(run_py, tmp_path: Path) -> None:
    words = ("JOB=1:5", "log/x.JOB.log", "bash", "-c", "echo JOB >> ran; exit $((JOB == 5))")
    assert run_py(*words).returncode == 1
    (tmp_path / "log/x.1.log").unlink()
    (tmp_path / "log/x.2.log").write_text("# bash\n# Started at Mon\n#\nhalf a li")
    for pick, expected in [("incomplete", "12"), ("failed", "5"), ("all", "12345")]:
        (tmp_path / "ran").write_text("")
        run_py("--pick", pick, *words)
        assert "".join(sorted((tmp_path / "ran").read_text().split())) == expected
    run_py("--pick", "failed", "JOB=1:5", "log/x.JOB.log", "true")
    done = run_py("--pick", "failed", "JOB=1:5", "log/x.JOB.log", "false")
    assert done.returncode == 0 and "nothing to run again" in done.stderr


def test_max_jobs_run_limits_how_many_run_together(run_py, tmp_path: Path) -> None:
    job = "date +%s.%N > s.JOB; sleep 0.1; date +%s.%N > e.JOB"
    run_py("--max-jobs-run", "2", "JOB=1:5", "log/x.JOB.log", "bash", "-c", job)
    spans = [(float((tmp_path / f"s.{n}").read_text()), float((tmp_path / f"e.{n}").read_text())) for n in range(1, 6)]
    together = [sum(s <= start < e for s, e in spans) for start, _ in spans]
    assert max(together) == 2


def test_threads_reach_the_job_and_operators_work(run_py, tmp_path: Path) -> None:
    done = run_py("--num-threads", "3", "log/x.log", "echo", "${OMP_NUM_THREADS}", "|", "tr", "3", "t", ">out")
    assert done.returncode == 0
    assert (tmp_path / "out").read_text() == "t\n"


def test_gpus_are_shared_out_or_missed(run_py, tmp_path: Path) -> None:
    assert run_py("--gpu", "1", "JOB=1:3", "log/x.JOB.log", "echo", "${CUDA_VISIBLE_DEVICES}", ">gpu.JOB",
                  CUDA_VISIBLE_DEVICES="4,7").returncode == 0
    assert {(tmp_path / f"gpu.{n}").read_text().strip() for n in (1, 2, 3)} == {"4", "7"}
    missing = run_py("--gpu", "1", "log/x.log", "true", CUDA_VISIBLE_DEVICES="")
    assert missing.returncode == 1 and "shows 0 GPU(s)" in missing.stderr and "Traceback" not in missing.stderr


def test_unknown_option_and_kaldis_name(run_py) -> None:
    done = run_py("--mme", "4G", "x.log", "true", program="run.pl")
    assert done.returncode == 1 and "unknown option --mme; did you mean '--mem'?" in done.stderr
    assert run_py("-V", "--mem", "4G", "-sync", "y", "x.log", "true", program="run.pl").returncode == 0
    assert "usage" in run_py("--help").stdout
    assert run_py().returncode == 1


def test_an_absent_command_fails_with_its_log(run_py) -> None:
    done = run_py("log/x.log", "no-such-command-here")
    assert done.returncode == 127 and "not found" in done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_the_jobs_and_completes_their_logs(repository: Path, tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    words = ["JOB=1:2", "log/x.JOB.log", "sleep", "50"]
    launcher = subprocess.Popen([sys.executable, repository / "utils/run.py", *words], cwd=tmp_path,
                                stderr=subprocess.PIPE, text=True,
                                # A test run in the background has SIGINT ignored, and children inherit that.
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("log/x.*.log"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    launcher.send_signal(number)
    _, err = launcher.communicate(timeout=20)
    assert launcher.returncode == 128 + number and "stopped by a signal" in err
    assert f"# Ended (code {128 + number})" in (tmp_path / "log/x.1.log").read_text()


def test_a_launcher_goes_on_where_it_was_stopped(repository: Path, tmp_path: Path) -> None:
    """Ctrl-Z and fg, for longer than it waits at a time."""
    launcher = subprocess.Popen([sys.executable, repository / "utils/run.py", "log/x.log", "bash", "-c",
                                 "touch started; sleep 2.5; touch ended"], cwd=tmp_path)
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    launcher.send_signal(signal.SIGSTOP)
    time.sleep(1.3)
    launcher.send_signal(signal.SIGCONT)
    assert launcher.wait(timeout=20) == 0
    assert (tmp_path / "ended").exists()


def test_start_up_is_light(repository: Path) -> None:
    """No heavy module is imported: a launcher starts hundreds of times in a recipe."""
    code = ("import json, sys; sys.path.insert(0, sys.argv[1]); import espnet_mt_llm.cluster.local, "
            "espnet_mt_llm.cluster.slurm; print(json.dumps([m for m in ('numpy', 'yaml', 'torch', 'argparse', "
            "'asyncio', 'logging') if m in sys.modules]))")
    shown = subprocess.run([sys.executable, "-S", "-c", code, str(repository)], capture_output=True, text=True,
                           check=True)
    assert json.loads(shown.stdout) == []


def test_jobs_do_not_outlive_a_killed_launcher(repository: Path, tmp_path: Path) -> None:
    """SIGKILL of the launcher's whole group, which its jobs are not in; a job's own children end as well."""
    job = "echo $$ > pid.JOB; sleep 50 & echo $! > child.JOB; wait; true"
    launcher = subprocess.Popen([sys.executable, repository / "utils/run.py", "--max-jobs-run", "2", "JOB=1:3",
                                 "log/x.JOB.log", "bash", "-c", job], cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("child.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    pids = [int((tmp_path / f"{name}.{n}").read_text()) for name in ("pid", "child") for n in (1, 2)]
    assert all(running(pid) for pid in pids)
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(running(pid) for pid in pids)
    assert not (tmp_path / "child.3").exists()


def running(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
