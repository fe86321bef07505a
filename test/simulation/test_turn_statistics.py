"""Turn-taking statistics: counted by hand on small conversations, and on real meetings against another way to count."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.rttm import write_rttm
from espnet_mt_llm.datadir.stm import read_stm
from espnet_mt_llm.datadir.textgrid import read_textgrid
from espnet_mt_llm.simulation.turn_statistics import (
    ROWS,
    TurnStatistics,
    activity,
    format_table,
    read_conversations,
    read_report,
    read_statistics,
)

# A speaks 2 s; 0.5 s later A goes on; B answers inside A's turn; B takes over; after 1 s it is C's turn.
SMALL = [("A", 0.0, 2.0), ("A", 2.5, 6.0), ("B", 3.0, 3.4), ("B", 5.2, 8.0), ("C", 9.0, 10.0)]


def segments(conversation, rec="m"):
    return [{"session_id": rec, "speaker": s, "start_time": a, "end_time": b, "words": "x"} for s, a, b in conversation]


def test_every_kind_of_turn_is_counted_once():
    s = TurnStatistics.of([SMALL])
    assert (s.conversations, s.turns, s.seconds) == (1, 5, 10.0)
    assert (s.same_pause, s.other_pause) == ({50: 1}, {100: 1}) and (s.takeover, s.within) == ({80: 1}, {40: 1})
    assert (s.speech, s.overlapped) == (8.5, 1.2)
    assert s.summary() == {
        "speech_per_conversation": 8.5, "speech_share": 0.85, "overlap_share": 0.1412, "turns_per_minute": 30.0,
        "same_speaker": 0.25, "same_pause_mean": 0.5, "same_pause_median": 0.5, "other_pause_mean": 1.0,
        "other_pause_median": 1.0, "overlap_at_change": 0.6667, "within_at_overlap": 0.5, "overlap_mean": 0.6,
        "overlap_median": 0.4}
    assert list(s.summary()) == list(ROWS)


@pytest.mark.parametrize("conversation, kind, length", [
    ([("A", 0, 2), ("B", 2, 3)], "other_pause", 0),  # touching is a pause of nothing
    ([("A", 0, 2), ("A", 1.5, 3)], "same_pause", 0),  # one speaker cannot overlap: an annotation that does is touching
    ([("A", 0, 2), ("B", 1, 2)], "within", 100),  # ends together: the new speaker does not go on
    ([("A", 0, 2), ("B", 0, 3)], "takeover", 200),
    ([("B", 1, 3), ("A", 0, 1.5)], "takeover", 50),  # whatever the order they come in
])
def test_limits(conversation, kind, length):
    s = TurnStatistics.of([conversation])
    assert getattr(s, kind) == {length: 1}
    assert sum(sum(getattr(s, k).values()) for k in ("same_pause", "other_pause", "takeover", "within")) == 1


def test_nothing_to_divide_by():
    assert set(TurnStatistics.zero().summary().values()) == {None}
    alone = TurnStatistics.of([[("A", 1.0, 3.0)], []])
    assert alone.conversations == 1 and alone.summary()["speech_share"] == 1 and alone.summary()["same_speaker"] is None
    assert "–" in format_table({"alone": alone.summary()})


SPANS = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 5000), st.integers(1, 900)).map(
    lambda t: (t[0], t[1] / 100, (t[1] + t[2]) / 100)), max_size=12)


@given(st.lists(SPANS, max_size=4), st.lists(SPANS, max_size=4))
def test_statistics_add_up(some, others):
    added, together = TurnStatistics.of(some) + TurnStatistics.of(others), TurnStatistics.of(some + others)
    for key in ("conversations", "turns", "same_pause", "other_pause", "takeover", "within"):
        assert getattr(added, key) == getattr(together, key)
    assert np.allclose([added.seconds, added.speech, added.overlapped],
                       [together.seconds, together.speech, together.overlapped])
    assert TurnStatistics.zero() + added == added


@given(SPANS)
def test_activity_agrees_with_counting_every_centisecond(spans):
    active = Counter(t for _, start, end in spans for t in range(round(start * 100), round(end * 100)))
    total, speech, overlapped = activity((start, end) for _, start, end in spans)
    assert np.allclose([100 * speech, 100 * overlapped], [len(active), sum(n > 1 for n in active.values())])
    assert not active or abs(100 * total - (max(active) + 1 - min(active))) < 1e-6


def test_long_pauses_are_left_out():
    s = TurnStatistics.of([[("A", 0, 1), ("A", 8, 9), ("B", 16.01, 30), ("A", 22, 40)]])
    assert s.limited(7).same_pause == {700: 1} and s.limited(7).other_pause == {}
    assert s.limited(7).takeover == {} and s.limited(8).takeover == {800: 1} and s.limited(7).turns == 4


def test_the_time_of_long_pauses_is_left_out_as_well():
    s = TurnStatistics.of([[("A", 0, 2), ("B", 3, 5), ("A", 20, 22), ("A", 40, 41)]])
    assert s.seconds == 41 and s.limited(7).seconds == 41 - 15 - 18
    assert s.limited(7).summary()["speech_share"] == pytest.approx(7 / 8)


def test_a_speaker_does_not_overlap_with_himself():
    s = TurnStatistics.of([[("A", 0, 2), ("A", 1, 3), ("B", 2.5, 6)]])
    assert (s.speech, s.overlapped) == (6, 0.5)


def test_data_directory_and_rttm_say_the_same(tmp_path):
    write_rttm(tmp_path / "ref.rttm", segments(SMALL) + segments(SMALL, "n"))
    DataDir.from_seglst(segments(SMALL) + segments(SMALL, "n"), {"m": "m.wav", "n": "n.wav"},
                        {"m": 60.0, "n": 60.0}).write(tmp_path / "data")
    expected = TurnStatistics.of([SMALL, SMALL])
    assert read_statistics(tmp_path / "ref.rttm") == read_statistics(tmp_path / "data") == expected
    assert [len(c) for c in read_conversations(tmp_path / "data")] == [5, 5]


def by_sorting(conversations):
    """Return the same-speaker pauses, pauses and overlaps at changes, found in another way: by who ends last so far."""
    found = {"same": [], "pause": [], "overlap": []}
    for spans in conversations:
        spans = sorted((a, b, s) for s, a, b in spans)
        for i in range(1, len(spans)):
            start, end, speaker = spans[i]
            last = max(b for _, b, _ in spans[:i])
            holder = next(s for _, b, s in spans[:i] if b == last)
            kind = "same" if speaker == holder else "pause" if start >= last else "overlap"
            found[kind].append(max(start - last, 0) if kind != "overlap" else min(end, last) - start)
    return found


@pytest.fixture(scope="module")
def meetings(real_data):
    folder = real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir"
    return {"alimeeting": [read_textgrid(path) for path in sorted(folder.glob("*.TextGrid"))],
            "aishell4": [read_stm(path) for path in sorted((real_data / "aishell4" / "stm").glob("*.stm"))]}


@pytest.mark.parametrize("corpus, turns, same, overlap_at_change, overlap_share", [
    ("alimeeting", 3191, 0.0593, 0.8349, 0.2977), ("aishell4", 5058, 0.5557, 0.5724, 0.0433)])
def test_real_meetings(meetings, tmp_path, corpus, turns, same, overlap_at_change, overlap_share):
    listed = [s for meeting in meetings[corpus] for s in meeting]
    write_rttm(tmp_path / "ref.rttm", listed)
    s = read_statistics(tmp_path / "ref.rttm")
    found = by_sorting([[(x["speaker"], x["start_time"], x["end_time"]) for x in m] for m in meetings[corpus]])
    for lengths, counts in ((found["same"], s.same_pause), (found["pause"], s.other_pause),
                            (found["overlap"], s.overlap)):
        assert len(lengths) == sum(counts.values())
        assert abs(np.mean(lengths) - sum(k * n for k, n in counts.items()) / 100 / len(lengths)) < 0.002
    summary = s.summary()
    assert (s.turns, summary["same_speaker"], summary["overlap_at_change"]) == (turns, same, overlap_at_change)
    assert abs(summary["overlap_share"] - overlap_share) < 0.0005


@pytest.mark.parametrize("name, content, words", [
    ("absent", None, "no such data directory; prepare it first"),
    ("wrong.txt", "a", "neither a data directory nor an RTTM file"),
    ("empty.rttm", "", "nobody speaks in it"),
    ("bad.rttm", "SPEAKER m 1 x 2 <NA> <NA> A <NA> <NA>\n", "bad.rttm:1: "),
])
def test_what_cannot_be_counted_is_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read_statistics(tmp_path / name)
    assert words in str(caught.value)


def test_report_that_is_none(tmp_path):
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match="not a report .* draw the set again"):
        read_report(tmp_path / "report.json")
    (tmp_path / "report.json").write_text(json.dumps({"target": {}}))
    assert read_report(tmp_path / "report.json") == {"target": {}}


def test_command(tmp_path, repository):
    write_rttm(tmp_path / "ref.rttm", segments(SMALL))

    def run(*args):
        return subprocess.run([sys.executable, "-m", "espnet_mt_llm.bin.report_conversations", *map(str, args)],
                              capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})

    write_rttm(tmp_path / "b.rttm", segments(SMALL[:1]))
    ran = run(tmp_path / "ref.rttm", tmp_path / "b.rttm")
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0 and lines[0].split() == [str(tmp_path / "ref.rttm"), str(tmp_path / "b.rttm")]
    assert len(lines) == 1 + len(ROWS) and lines[1].split()[-2:] == ["8.50", "2.00"]
    ran = run(tmp_path / "ref.rttm", "--max_gap", 0.9)
    assert next(line for line in ran.stdout.splitlines() if line.startswith("turns per minute")).split()[-1] == "33.33"
    assert next(line for line in ran.stdout.splitlines() if "pause, other speaker: mean" in line).split()[-1] == "–"
    ran = run(tmp_path / "absent")
    assert ran.returncode == 1 and "absent: no such data directory" in ran.stderr and "Traceback" not in ran.stderr
