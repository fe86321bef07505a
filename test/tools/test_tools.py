"""tools/: set-up that is repeatable, messages for what is missing, the Slurm testbed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run(*words, **variables: str) -> subprocess.CompletedProcess:
    """Run a command; return its outcome with the output as text."""
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=100,
                          env={**os.environ, **variables})


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """What tools/setup.sh needs of a checkout, with an environment whose pip only says what it was asked for."""
    for name in ("tools/setup.sh", "utils/parse_options.sh", "setup.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repository / name, tmp_path / name)
    (tmp_path / "tools/check_install.py").write_text("")
    venv = tmp_path / "tools/venv/bin"
    venv.mkdir(parents=True)
    (venv / "python3").write_text(f'#!/bin/sh\ncase "$*" in *"pip<"*) echo "$*" >>{tmp_path}/bounds ;; '
                                  f'"-m pip"*) echo "$*" >>{tmp_path}/pip; [ ! -e {tmp_path}/broken ] ;; '
                                  f'*) exec {sys.executable} "$@" ;; esac\n')
    (venv / "python3").chmod(0o755)
    return tmp_path


def test_setup_is_repeatable_and_keeps_extras(checkout: Path) -> None:
    setup, pip = checkout / "tools/setup.sh", checkout / "pip"
    assert run(setup).returncode == 0
    assert pip.read_text().count("\n") == 1 and "[llm,pretrained,score,synth,train,viz]" in pip.read_text()
    assert "pip<26.3" in (checkout / "bounds").read_text()
    again = run(setup)
    assert again.returncode == 0 and "has llm,pretrained,score,synth,train,viz already" in again.stdout
    assert run(setup, "--extras", "test").returncode == 0
    assert "[llm,pretrained,score,synth,test,train,viz]" in pip.read_text().splitlines()[1]
    assert run(setup).returncode == 0 and pip.read_text().count("\n") == 2
    with open(checkout / "setup.py", "a") as f:
        f.write("# changed\n")
    assert run(setup).returncode == 0
    assert "[llm,pretrained,score,synth,test,train,viz]" in pip.read_text().splitlines()[2]


def test_a_failed_installation_is_not_taken_for_a_complete_one(checkout: Path) -> None:
    (checkout / "broken").touch()
    failed = run(checkout / "tools/setup.sh")
    assert failed.returncode == 1 and "pip could not install everything" in failed.stderr
    (checkout / "broken").unlink()
    assert run(checkout / "tools/setup.sh").returncode == 0
    assert (checkout / "pip").read_text().count("\n") == 2


def test_setup_explains_what_is_missing(checkout: Path, tmp_path: Path) -> None:
    setup = checkout / "tools/setup.sh"
    wrong = run(setup, "--python", "no-such-python")
    assert wrong.returncode == 1 and "no-such-python is missing or not Python 3.10, 3.11 or 3.12" in wrong.stderr
    assert run(setup, "--pyhton", "x").returncode == 1
    shutil.rmtree(checkout / "tools/venv")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; *) exec {sys.executable} "$@" ;; esac\n')
    bare.chmod(0o755)
    without = run(setup, "--python", bare)
    assert without.returncode == 1 and "sudo apt-get install python3-venv" in without.stderr
    assert not (checkout / "tools/venv").exists()


def test_check_install_reports_versions_and_what_is_missing(repository: Path) -> None:
    done = run(sys.executable, repository / "tools/check_install.py", PATH="/usr/bin:/bin")
    assert re.search(r"^core +numpy +\d", done.stdout, re.MULTILINE)
    for word in ("python", "cores", "gpu", "slurm", "espnet"):
        assert re.search(rf"^(train +)?{word} ", done.stdout, re.MULTILINE), word
    # Without any package, every extra says how to get it.
    bare = run(sys.executable, "-S", repository / "tools/check_install.py")
    assert bare.returncode == 1 and "tools/setup.sh --extras train" in bare.stdout and not bare.stderr
    assert re.search("^slurm ", bare.stdout, re.MULTILINE), "what is there beside packages is said, too"


def test_testbed_is_restartable_and_leaves_nothing(repository: Path, slurm: dict) -> None:
    testbed, folder = repository / "tools/slurm_testbed.sh", Path(slurm["SLURM_CONF"]).parent
    before = (folder / "slurmctld.pid").read_text()
    assert run(testbed, "start", "--dir", folder).stdout == f"export SLURM_CONF={folder}/slurm.conf\n"
    assert (folder / "slurmctld.pid").read_text() == before, "a second start changes nothing"
    assert "mt1" in run(testbed, "status", "--dir", folder).stdout
    # A cluster whose controller was killed starts again, and stops without a trace.
    os.kill(int(before), 9)
    assert run(testbed, "start", "--dir", folder).returncode == 0
    assert (folder / "slurmctld.pid").read_text() != before
    assert run("srun", "-N2", "hostname", **slurm).stdout.count("\n") == 2
    pids = [int(p.read_text()) for p in (*folder.glob("*.pid"), folder / "munge/pid")]
    assert len(pids) == 4 and run(testbed, "stop", "--dir", folder).returncode == 0
    assert not [pid for pid in pids if _runs(pid)]
    assert run(testbed, "status", "--dir", folder).returncode == 1
    assert run(testbed, "start", "--dir", folder).returncode == 0, "the other tests go on with it"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_testbed_needs_to_be_told_what_to_do(repository: Path) -> None:
    done = run(repository / "tools/slurm_testbed.sh", "strat")
    assert done.returncode == 1 and "install, start, stop or status" in done.stderr
