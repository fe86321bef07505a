"""utils/slurm.py: the site's configuration, the submission, and real arrays on a two-node cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_mt_llm.cluster.grammar import parse
from espnet_mt_llm.cluster.slurm import array_of, script_of, submission
from espnet_mt_llm.cluster.slurm_conf import read
from espnet_mt_llm.cluster.task import ended
from espnet_mt_llm.common import UserError

TEMPLATE_CONF = "egs2/TEMPLATE/mtasr1/conf/slurm.conf"


def test_options_become_flags(repository: Path) -> None:
    conf = read(repository / TEMPLATE_CONF)
    assert conf.command == ["sbatch", "--export=ALL"]
    assert conf.flags({"mem": "4G", "time": "1:00:00", "gpu": "2", "num_threads": "8"}) == \
        ["--gres=gpu:2", "--mem=4G", "--time=1:00:00", "--cpus-per-task=8"]
    assert conf.flags({}) == []
    with pytest.raises(UserError, match="no option 'memory'; did you mean 'mem'"):
        conf.flags({"memory": "3"})


def test_a_site_may_choose_flags_by_value(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("command sbatch -A me\noption gpu=0 -p cpu\n"
                                "option gpu=* -p gpu --gres=gpu:$0 -c $0 # all\n"
                                "option gpu_type=v100 -C v100\ndefault gpu=0\n\n# end\n")
    conf = read(tmp_path / "c")
    assert conf.flags({}) == ["-p", "cpu"]
    assert conf.flags({"gpu": "2"}) == ["-p", "gpu", "--gres=gpu:2", "-c", "2"]
    with pytest.raises(UserError, match="option 'gpu_type' has no value 'a100'"):
        conf.flags({"gpu_type": "a100"})


@pytest.mark.parametrize("line", ["options mem=* --mem $0", "option mem", "default gpu 0", "command"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "c").write_text(f"command sbatch\n{line}\n")
    with pytest.raises(UserError, match=r"c:2: not understood"):
        read(tmp_path / "c")


def test_one_array_is_submitted(repository: Path, tmp_path: Path) -> None:
    launch = parse(["--max-jobs-run", "4", "--mem", "1G", "JOB=1:9", "log/100%.JOB.log", "echo", "a  b", "JOB"])
    words = submission(launch, read(repository / TEMPLATE_CONF), [1, 2, 3, 7], Path("q/x.sh"))
    assert "--array=1-3,7%4" in words and "--output=log/100%%.%a.log" in words and "--wait" in words
    assert words[-1] == "q/x.sh" and "--mem=1G" in words
    assert array_of([5]) == "5"
    script = script_of(launch)
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "JOB=1:9 log/100%.JOB.log echo 'a  b' JOB" in script


@pytest.fixture
def recipe(repository: Path, tmp_path: Path, slurm: dict):
    """A directory with conf/slurm.conf, and a way to start utils/slurm.py in it."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.conf").symlink_to(repository / TEMPLATE_CONF)
    environment = {**os.environ, **slurm, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def start(*words: str) -> subprocess.Popen:
        return subprocess.Popen([str(repository / "utils/slurm.py"), *words], cwd=tmp_path, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    start.environment = environment
    return start


def finish(launcher: subprocess.Popen) -> tuple:
    """Return exit code and stderr."""
    _, err = launcher.communicate(timeout=60)
    return launcher.returncode, err


def wait_for(what, seconds: float = 20) -> None:
    """Wait until ``what()`` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_an_array_with_one_failing_job(recipe, tmp_path: Path) -> None:
    words = ("JOB=1:4", "log/x.JOB.log", "bash", "-c", "echo JOB ran; touch made.JOB; [ JOB != 3 ] || exit 7")
    code, err = finish(recipe(*words))
    assert code == 7
    assert "slurm.py: 1 / 4 failed; job 3 (code 7), its log log/x.3.log ends with" in err and "  | 3 ran" in err
    assert re.search(r"run only what failed again: cd \S+ && \S*utils/slurm.py --pick failed JOB=1:4", err)
    assert "# Ended (code 0)" in (tmp_path / "log/x.2.log").read_text()
    for made in tmp_path.glob("made.*"):
        made.unlink()
    code, err = finish(recipe("--pick", "failed", *words[:2], "touch", "made.JOB"))
    assert (code, err) == (0, "")
    assert [p.name for p in tmp_path.glob("made.*")] == ["made.3"]


def test_both_nodes_work_and_the_environment_arrives(recipe, tmp_path: Path) -> None:
    recipe.environment["MT_SOMETHING"] = "kept"
    job = "echo ${SLURMD_NODENAME} ${MT_SOMETHING} ${OMP_NUM_THREADS} > node.JOB; sleep 1"
    assert finish(recipe("--num-threads", "2", "JOB=1:2", "log/x.JOB.log", "bash", "-c", job)) == (0, "")
    assert {(tmp_path / f"node.{n}").read_text() for n in (1, 2)} == {"mt1 kept 2\n", "mt2 kept 2\n"}


def test_sbatchs_own_message_is_shown(recipe) -> None:
    code, err = finish(recipe("--partition", "nowhere", "log/x.log", "true"))
    assert code == 1 and "invalid partition" in err and "--partition=nowhere" in err and "Traceback" not in err


def test_unknown_option_and_absent_configuration(recipe, tmp_path: Path) -> None:
    code, err = finish(recipe("--mme", "1G", "log/x.log", "true"))
    assert code == 1 and "unknown option --mme; did you mean '--mem'?" in err
    code, err = finish(recipe("--config", "conf/none.conf", "log/x.log", "true"))
    assert code == 1 and "conf/none.conf: no such file" in err


def test_a_job_that_slurm_kills_counts_as_failed(recipe, tmp_path: Path) -> None:
    launcher = recipe("--name", "victim", "JOB=1:2", "log/x.JOB.log", "bash", "-c",
                      "[ JOB = 1 ] || { echo up; sleep 60; }")
    log = tmp_path / "log/x.2.log"
    # Slurm may start the second task before the first one has ended, which would be killed as well.
    wait_for(lambda: ended(tmp_path / "log/x.1.log") == 0 and log.exists() and "\nup\n" in log.read_text())
    subprocess.run(["scancel", "--name", "victim"], env=recipe.environment, check=True)
    code, err = finish(launcher)
    assert code != 0 and "1 / 2 failed; job 2" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_launcher_cancels_its_job(recipe, tmp_path: Path, number: int) -> None:
    launcher = recipe("log/x.log", "bash", "-c", "echo up; sleep 60")
    log = tmp_path / "log/x.log"
    wait_for(lambda: log.exists() and "\nup\n" in log.read_text())
    launcher.send_signal(number)
    code, err = finish(launcher)
    assert code == 128 + number and "was cancelled" in err
    wait_for(lambda: not queue(recipe).strip())


def test_a_killed_launcher_leaves_no_job(recipe, tmp_path: Path) -> None:
    launcher = recipe("log/x.log", "bash", "-c", "echo up; sleep 60")
    log = tmp_path / "log/x.log"
    wait_for(lambda: log.exists() and "\nup\n" in log.read_text())
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not queue(recipe).strip())


def queue(recipe) -> str:
    return subprocess.run(["squeue", "--noheader"], env=recipe.environment, capture_output=True, text=True).stdout
