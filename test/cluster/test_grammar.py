"""The launcher grammar: what is an option, a range, a log, a command; where JOB is replaced."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.cluster.grammar import fill, parse, shell_line
from espnet_mt_llm.common import UserError


@pytest.mark.parametrize("text, filled", [
    ("log/x.JOB.log", "log/x.3.log"),
    ("split4/JOB/wav.scp", "split4/3/wav.scp"),
    ("${JOB}", "3"),
    ("--job=JOB", "--job=3"),
    ("ark:JOB-JOB", "ark:3-3"),
    ("JOBS", "JOBS"),
    ("MY_JOB", "MY_JOB"),
    ("a_JOB_b", "a_JOB_b"),
    ("/data/BIGJOB/x", "/data/BIGJOB/x"),
])
def test_job_is_replaced_as_a_word(text: str, filled: str) -> None:
    assert fill(text, "JOB", 3) == filled


def test_options_are_accepted_with_dash_and_underscore_before_and_behind_the_range() -> None:
    launch = parse(["--max-jobs-run", "2", "JOB=2:4", "--num_threads", "3", "log/x.JOB.log", "echo", "--mem", "JOB"])
    assert launch.options == {"max_jobs_run": "2", "num_threads": "3"}
    assert list(launch.numbers) == [2, 3, 4]
    assert launch.line_of(3) == "echo --mem 3"


@pytest.mark.parametrize("words, message", [
    ([], "usage"),
    (["log/x.log"], "usage"),
    (["JOB=0:3", "l.JOB.log", "true"], "start at 1"),
    (["JOB=3:1", "l.JOB.log", "true"], "rise"),
    (["JOB=a:3", "l.JOB.log", "true"], "not a range"),
    (["JOB=1:3", "l.log", "true"], "all jobs would write"),
    (["JOB=1:3", "l_JOB.log", "true"], "word of its own"),
    (["--max-job-run", "3", "l.log", "true"], "did you mean '--max_jobs_run'"),
    (["--pick", "fialed", "l.log", "true"], "did you mean 'failed'"),
    (["--mem"], "needs a value"),
])
def test_mistakes_are_explained(words: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(words)


def test_a_directory_that_is_called_job_is_not_a_number(tmp_path) -> None:
    (tmp_path / "JOB").mkdir()
    with pytest.raises(UserError, match="this directory exists.*NUMBER=1:3"):
        parse(["JOB=1:3", f"{tmp_path}/JOB/x.JOB.log", "true"])


def test_a_log_that_is_a_directory_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        parse([str(tmp_path), "true"])


def test_numbers_are_checked() -> None:
    with pytest.raises(UserError, match="--max_jobs_run two: not a whole number"):
        parse(["--max-jobs-run", "two", "x.log", "true"]).integer("max_jobs_run", 0)


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
                min_size=1, max_size=4))
def test_words_reach_the_command_as_given(words: list) -> None:
    """Everything but an operator and ``$`` arrives unchanged through bash."""
    words = [w for w in words if "$" not in w] or ["x"]
    line = shell_line(["printf", r"%s\n", *("<" + w + ">" for w in words)])
    shown = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode()
    assert shown == "".join(f"<{w}>\n" for w in words)


def test_operators_arithmetic_and_variables_are_bashs(tmp_path) -> None:
    line = shell_line(["x=4;", "echo", "$[x+1]", "$x", "|", "tr", "5", "6", f">{tmp_path}/out", "2>&1"])
    subprocess.run(["bash", "-c", line], check=True)
    assert (tmp_path / "out").read_text() == "6 4\n"
