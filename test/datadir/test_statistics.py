"""Statistics of clips: against counting in small steps, additive, and from data and dump directories alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.clips import make_clips
from espnet_mt_llm.datadir.kaldi import Utterance
from espnet_mt_llm.datadir.statistics import Statistics, speech_and_overlap, statistics_of, table

SPANS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.integers(0, 30)), max_size=12)


@given(SPANS)
def test_speech_and_overlap_are_what_counting_gives(rows):
    spans = [(spk, float(start), float(start + length)) for spk, start, length in rows]
    speaking = [{spk for spk, start, end in spans if start <= k < end} for k in range(90)]
    assert speech_and_overlap(spans) == (sum(map(bool, speaking)), sum(len(s) >= 2 for s in speaking))


@given(SPANS)
def test_of_a_clip(rows):
    utterances = [Utterance("", "", spk, float(start), float(start + n), "") for spk, start, n in rows if n]
    s = Statistics.of(utterances, 20.0, 30.0)
    inside = [(u.spk, max(u.start, 30), min(u.end, 50)) for u in utterances if u.start < 50 and u.end > 30]
    assert (s.speech, s.overlap) == speech_and_overlap(inside)
    assert (s.segments, s.seconds, s.longest) == (1, 20.0, 20.0)
    assert (s.utterances, s.speakers) == (len(inside), len({spk for spk, _, _ in inside}))
    assert s + Statistics.zero() == Statistics.zero() + s == s
    assert (s + s).seconds == 40 and (s + s).speech == 2 * s.speech and (s + s).longest == 20


def test_averages_say_what_the_overlap_is_a_share_of(tmp_path):
    utterances = [Utterance("", "", "a", 0.0, 6.0, ""), Utterance("", "", "b", 4.0, 8.0, "")]
    s = Statistics.of(utterances, 10.0)
    assert s.averages() == {
        "average_duration": 10.0,
        "average_speakers": 2.0,
        "overlap_percent_of_speech": 25.0,
        "overlap_percent_of_duration": 20.0,
    }
    s.write(tmp_path / "statistics.json")
    assert Statistics.read(tmp_path / "statistics.json") == s
    assert table({"nothing": Statistics.zero()}).splitlines()[1].split() == [
        "nothing", "0", "0.00", "0.00", "0.00", "0.00", "0", "0.0"
    ]
    for text in ("{", "[]", '{"segment": 1}'):
        (tmp_path / "statistics.json").write_text(text)
        with pytest.raises(UserError, match="statistics.json: "):
            Statistics.read(tmp_path / "statistics.json")


def test_the_command_shows_sessions_and_clips(data_dir, tmp_path, run):
    make_clips(data_dir, tmp_path / "dump", policy="no_overlap_cut", max_clip=6.0)
    made = statistics_of(tmp_path / "dump")
    (tmp_path / "dump" / "statistics.json").unlink()
    counted = statistics_of(tmp_path / "dump")
    assert (counted.speech, counted.overlap, counted.seconds) == (made.speech, made.overlap, made.seconds)
    assert made.left_out == pytest.approx(13.5 - made.seconds) and made.split == made.too_long == 0
    sessions = statistics_of(data_dir)
    assert (sessions.segments, sessions.utterances, sessions.speakers) == (2, 5, 4)
    assert (sessions.seconds, sessions.speech, sessions.overlap) == (13.5, 9.5, 1.833)
    ran = run("show_statistics", data_dir, tmp_path / "dump")
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0 and len(lines) == 3 and lines[1].startswith(str(data_dir))
    (tmp_path / "dump" / "supervision").write_text("A {}\n")
    ran = run("show_statistics", tmp_path / "dump")
    assert ran.returncode == 1 and "'A' has no segments or no utt2dur; make the clips again" in ran.stderr
    assert run("show_statistics", tmp_path / "nowhere").returncode == 1
