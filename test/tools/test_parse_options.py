"""utils/parse_options.sh: options of scripts, as Kaldi's users know them."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = """#!/usr/bin/env bash
# Counts things.
# usage: count.sh [options] rest
set -euo pipefail

# Counting
nj=4            # number of jobs
long_name="a b" # a name with a space
empty=          # nothing
flag=false      # a switch
. {utils}/parse_options.sh
echo "nj=$nj long_name=$long_name empty=$empty flag=$flag rest=$*"
"""


@pytest.fixture
def count(repository: Path, tmp_path: Path):
    """Run a script that uses parse_options.sh; return exit code, stdout, stderr."""
    script = tmp_path / "count.sh"
    script.write_text(SCRIPT.format(utils=repository / "utils"))

    def call(*words: str) -> tuple:
        done = subprocess.run(["bash", script, *words], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.parametrize("words, shown", [
    ([], "nj=4 long_name=a b empty= flag=false rest=\n"),
    (["--nj", "8", "x", "--nj"], "nj=8 long_name=a b empty= flag=false rest=x --nj\n"),
    (["--long-name", "$(touch made) 'q'", "--flag", "true"],
     "nj=4 long_name=$(touch made) 'q' empty= flag=true rest=\n"),
    (["--long_name", "", "--empty", "--max_epoch 3"], "nj=4 long_name= empty=--max_epoch 3 flag=false rest=\n"),
    (["--nj", "1", "--nj", "2"], "nj=2 long_name=a b empty= flag=false rest=\n"),
])
def test_options_set_variables(count, tmp_path: Path, words: list, shown: str) -> None:
    assert count(*words) == (0, shown, "")
    assert not (tmp_path / "made").exists(), "values are never executed"


def test_a_configuration_file_comes_first(count, tmp_path: Path) -> None:
    (tmp_path / "c.conf").write_text("nj=9\nflag=true\n")
    assert count("--nj", "2", "--config", "c.conf")[1] == "nj=2 long_name=a b empty= flag=true rest=\n"


@pytest.mark.parametrize("words, message", [
    (["--flga", "true"], "unknown option --flga; did you mean --flag?"),
    (["--zzz", "1"], "unknown option --zzz; valid: --empty --flag --long_name --nj"),
    (["--flag", "1"], "--flag 1: expected true or false"),
    (["--nj=3"], "--nj=3: options are written --name value; write --nj '3'"),
    (["--nj"], "--nj needs a value"),
    (["--nj", "--flag", "true"], "--nj needs a value, but --flag follows"),
    (["--config", "none.conf"], "--config none.conf: no such file"),
    (["--a;b", "1"], "--a;b: not an option's name"),
])
def test_mistakes_are_errors(count, words: list, message: str) -> None:
    code, out, err = count(*words)
    assert code == 1 and out == "" and message in err


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_scripts_own_lines(count, option: str) -> None:
    code, out, err = count(option)
    assert (code, err) == (0, "")
    assert out.startswith("Counts things.\nusage: count.sh [options] rest\n")
    assert "  --nj 4 " in out and "number of jobs" in out and '--long_name "a b"' in out and "Counting" in out


def test_a_help_message_is_preferred(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "s.sh").write_text(f'help_message="usage: me\\n  --nj"\nnj=1\n. {repository}/utils/parse_options.sh\n')
    shown = subprocess.run(["bash", tmp_path / "s.sh", "--help"], capture_output=True, text=True)
    assert shown.stdout == "usage: me\n  --nj\n"
