"""Stamps of finished work: what makes a stage run again, and what does not."""

import os
import time
from pathlib import Path

import pytest

from espnet_mt_llm.cluster.stamp import begin, digest, started_of


@pytest.fixture
def work(tmp_path: Path):
    """A unit of work on one file and one directory."""
    (tmp_path / "conf.yaml").write_text("a: 1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/text").write_text("u hello\n")
    done = tmp_path / "done" / "unit"

    def call(plan: str = "make it", finish: bool = True, **options) -> tuple:
        inputs = [str(tmp_path / "conf.yaml"), str(tmp_path / "data")]
        answer = begin(done, plan, inputs, **options)
        if finish and answer[0] != "skip":
            started_of(done).rename(done)
        return answer

    return call


def test_unchanged_work_is_skipped(work) -> None:
    assert work() == ("continue", "is new")
    assert work() == ("skip", "nothing changed")


def test_touching_or_adding_audio_changes_nothing(work, tmp_path: Path) -> None:
    work()
    os.utime(tmp_path / "conf.yaml", (time.time() + 50, time.time() + 50))
    (tmp_path / "data/a.wav").write_bytes(b"RIFF")
    (tmp_path / "data/log").mkdir()
    (tmp_path / "data/log/x.1.log").write_text("log")
    assert work()[0] == "skip"


def test_changed_content_options_and_new_files_restart(work, tmp_path: Path) -> None:
    work()
    (tmp_path / "conf.yaml").write_text("a: 2\n")
    choice, reason = work()
    assert choice == "restart" and reason.endswith("conf.yaml changed")
    (tmp_path / "data/utt2spk").write_text("u s\n")
    assert work()[1].endswith("data changed")
    assert work("make it otherwise") == ("restart", "its options changed")
    assert work("make it otherwise", force=True) == ("restart", "--force")


def test_work_that_is_done_anew_has_another_stamp(work, tmp_path: Path) -> None:
    """What depends on it runs again, although its inputs are what they were."""
    stamp = tmp_path / "done" / "unit"
    work()
    first = digest(str(stamp))
    assert work()[0] == "skip" and digest(str(stamp)) == first
    assert work(force=True)[0] == "restart" and digest(str(stamp)) != first
    second = digest(str(stamp))
    assert work()[0] == "skip" and digest(str(stamp)) == second
    assert work(outputs=[str(tmp_path / "absent")])[0] == "continue" and digest(str(stamp)) == second


def test_stopped_work_continues_unless_its_inputs_changed(work, tmp_path: Path) -> None:
    work(finish=False)
    assert work(finish=False) == ("continue", "was stopped before it ended")
    assert work(finish=False, force=True) == ("continue", "was stopped before it ended")
    (tmp_path / "data/text").write_text("u bye\n")
    assert work()[0] == "restart"
    # Begun again and stopped: the stamp of the earlier success must not count any more.
    (tmp_path / "data/text").write_text("u again\n")
    work(finish=False)
    assert work(finish=False)[0] == "continue"


def test_missing_outputs_run_again(work, tmp_path: Path) -> None:
    work()
    assert work(outputs=[str(tmp_path / "made")])[1].endswith("made is missing")


def test_an_absent_input_is_seen_when_it_appears(tmp_path: Path) -> None:
    assert digest(str(tmp_path / "x")) == "absent"
    (tmp_path / "x").write_text("")
    assert digest(str(tmp_path / "x")) != "absent"
