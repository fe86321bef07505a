"""Problems of single sessions: collected, listed, and the exit code."""

import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora.problems import Problems


def test_one_bad_session_does_not_stop_the_others(tmp_path, caplog):
    problems = Problems(tmp_path)
    done = []
    for session in "abc":
        with problems.of("train", session):
            if session == "b":
                raise UserError("b.wav: no such\taudio\nfile; restore it")
            done.append(session)
    problems.add("dev", "z", "odd")
    assert done == ["a", "c"] and "train: b has a problem: b.wav: no such audio file; restore it" in caplog.messages
    with pytest.raises(UserError) as caught:
        problems.finish(False)
    assert str(caught.value) == (f"2 of 4 sessions have problems, see {tmp_path}/problems.tsv; everything else was "
                                 "prepared; repair them and run again, or go on without them: ./run.sh "
                                 "--allow_problems true")
    expected = "set\tsession\tproblem\ndev\tz\todd\ntrain\tb\tb.wav: no such audio file; restore it\n"
    assert (tmp_path / "problems.tsv").read_text() == expected
    problems.finish(True)
    assert (tmp_path / "problems.tsv").read_text() == expected


def test_other_errors_are_not_hidden(tmp_path):
    with pytest.raises(KeyError), Problems(tmp_path).of("train", "a"):
        {}["bug"]


def test_an_old_list_goes_when_all_is_well(tmp_path):
    problems = Problems(tmp_path)
    problems.add("train", "a", "odd")
    problems.finish(True)
    repaired = Problems(tmp_path)
    with repaired.of("train", "a"):
        pass
    repaired.finish(False)
    assert not (tmp_path / "problems.tsv").exists()


def test_problems_of_other_corpora_stay_listed(tmp_path):
    meetings, readings = Problems(tmp_path), Problems(tmp_path)
    meetings.add("train_far", "a", "odd")
    meetings.finish(True)
    readings.add("librispeech_dev", "b", "bad")
    readings.finish(True)
    listed = [line.split("\t")[0] for line in (tmp_path / "problems.tsv").read_text().splitlines()]
    assert listed == ["set", "librispeech_dev", "train_far"]
    again = Problems(tmp_path)
    with again.of("librispeech_dev", "b"):
        pass
    again.finish(False)
    assert "librispeech_dev" not in (tmp_path / "problems.tsv").read_text()


def test_merge(tmp_path):
    first, second = Problems(tmp_path), Problems(tmp_path)
    with first.of("train", "a"):
        pass
    second.add("dev", "b", "odd")
    first.merge(second)
    with pytest.raises(UserError, match="1 of 2 sessions has problems"):
        first.finish(False)
