"""Clip policies: lengths, nothing lost or doubled, no cut where people overlap, the same cuts every time."""

import itertools
import math
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.datadir.clip_policies import (
    POLICIES,
    Rules,
    no_overlap_cut,
    oracle_segments,
    random_40_50,
    utterance_group,
)
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance
from espnet_mt_llm.datadir.textgrid import read_textgrid, read_tiers

TEXTS = st.lists(st.sampled_from(["word", "Mary's", "好", "好嗯我们开始吧", "8"]), max_size=12).map(" ".join)
# (speaker, pause before in centiseconds, length in centiseconds, text); a speaker does not overlap with himself.
SPOKEN = st.tuples(st.sampled_from("abc"), st.integers(-300, 400), st.integers(1, 3000), TEXTS)


def utterance(spk, start, end, text=""):
    return Utterance(f"{spk}-{start}", "r", spk, start, end, text)


@st.composite
def meetings(draw):
    """Utterances (at least one) and the length of the recording."""
    free, now, utterances = defaultdict(int), 0, []
    for spk, pause, length, text in draw(st.lists(SPOKEN, min_size=1, max_size=25)):
        start = max(now + pause, free[spk], 0)
        free[spk] = now = start + length
        utterances.append(utterance(spk, start / 100, now / 100, text))
    utterances.sort(key=lambda u: u.utt)
    return utterances, max(free.values()) / 100 + draw(st.sampled_from([0.0, 0.003, 0.4, 70.0]))


def said(utterances):
    """Return all that each speaker says, white space aside."""
    words = defaultdict(str)
    for u in sorted(utterances, key=lambda u: u.start):
        words[u.spk] += "".join(u.text.split())
    return dict(words)


def talking(utterances, instant):
    return [u for u in utterances if u.start < instant < u.end]


def centiseconds(time):
    return abs(time * 100 - round(time * 100)) < 1e-6


@settings(max_examples=60)
@given(meetings(), st.sampled_from(sorted(set(POLICIES) - {"whole"})), st.floats(5, 60), st.integers(0, 9))
def test_every_policy_keeps_all_that_is_said_in_its_order(meeting, policy, max_clip, seed):
    utterances, duration = meeting
    cuts = POLICIES[policy](utterances, duration, Rules(max_clip, max_clip / 2, Chance(seed)))
    again = POLICIES[policy](utterances, duration, Rules(max_clip, max_clip / 2, Chance(seed)))
    assert cuts == again, "the same every time"
    assert [cut.start for cut in cuts] == sorted(cut.start for cut in cuts)
    pieces = [u for cut in cuts for u in cut.utterances]
    assert said(pieces) == said(utterances)
    assert {u.utt for u in pieces} == {u.utt for u in utterances}
    for cut in cuts:
        assert 0 <= cut.start < cut.end <= duration
        for u in cut.utterances:
            assert cut.start <= u.start < u.end <= cut.end
            assert (u.text == "") == (next(v for v in utterances if v.utt == u.utt).text == "")
            assert u.text == u.text.strip()
    if policy != "oracle_segments":
        assert all(a.end <= b.start for a, b in zip(cuts, cuts[1:]))


@settings(max_examples=60)
@given(meetings(), st.floats(5, 60))
def test_no_overlap_cut(meeting, max_clip):
    utterances, duration = meeting
    cuts = no_overlap_cut(utterances, duration, Rules(max_clip))
    for cut in cuts:
        for edge in (cut.start, cut.end):
            assert len(talking(utterances, edge)) <= 1, "no overlap crosses a boundary"
    pieces = Counter(u.utt for cut in cuts for u in cut.utterances)
    assert sum(u.end - u.start for cut in cuts for u in cut.utterances) == pytest.approx(
        sum(u.end - u.start for u in utterances)), "no speech is lost"
    edges = {edge for u in utterances for edge in (u.start, u.end)}
    for cut in cuts:
        if cut.end - cut.start > max_clip + 1e-6:
            begin, end = min(u.start for u in cut.utterances), max(u.end for u in cut.utterances)
            inside = [k / 100 for k in range(math.ceil(begin * 100) + 1, math.floor(end * 100))]
            assert all(talking(utterances, instant) for instant in inside if instant not in edges), "a pause"
            for u in cut.utterances:
                units = re.findall(r"[\u4e00-\u9fff]|[A-Za-z0-9']+", u.text)
                for i in range(1, len(units)):
                    instant = round(u.start + (u.end - u.start) * i / len(units), 2)
                    aside = instant in edges or u.end - u.start < 0.05 * len(units)
                    assert aside or len(talking(utterances, instant)) != 1, "one talks alone, between two words"
    groups = utterance_group(utterances, duration, Rules(max_clip))
    of_groups = Counter(u.utt for group in groups for u in group.utterances)
    if all(group.end - group.start <= max_clip for group in groups) and max(of_groups.values()) == 1:
        assert max(pieces.values()) == 1, "an utterance is split only where it must be"
        assert len(cuts) <= len(groups)


def test_a_long_island_is_cut_where_one_speaker_talks():
    """Groups beside it stay as they are; without such a point it stays long."""
    utterances = [
        utterance("a", 1.0, 3.0, "hello"),
        utterance("a", 10.0, 18.0, "one two three four"),
        utterance("b", 17.0, 25.0, "five six seven eight"),
        utterance("a", 30.0, 32.0, "bye"),
    ]
    cuts = utterance_group(utterances, 40.0, Rules(9.0))
    assert [(cut.start, cut.end) for cut in cuts] == [(0.75, 3.25), (9.75, 16.0), (16.0, 25.0), (29.75, 32.25)]
    assert [[u.text for u in cut.utterances] for cut in cuts] == [
        ["hello"], ["one two three"], ["four", "five six seven eight"], ["bye"]
    ]
    assert utterance_group(utterances, 40.0, Rules(16.0))[1].utterances == utterances[1:3], "one that fits is not cut"
    together = [utterance("a", 1.0, 12.0, "one two"), utterance("b", 1.0, 12.0, "three four")]
    (cut,) = utterance_group(together, 40.0, Rules(9.0))
    assert (cut.start, cut.end, cut.utterances) == (1.0, 12.0, together)


def best_by_trying(islands, max_clip):
    """Return the fewest clips of whole islands (start, end), by looking at all ways to cut."""
    fewest = None
    for cuts in itertools.product([False, True], repeat=len(islands) - 1):
        begin, lengths = islands[0][0], []
        for (_, end), cut, following in zip(islands, (*cuts, True), (*islands[1:], None)):
            if cut:
                lengths.append(end - begin)
                begin = following[0] if following else 0
        if max(lengths) <= max_clip + 1e-9 and (fewest is None or len(lengths) < fewest):
            fewest = len(lengths)
    return fewest


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 1500)), min_size=1, max_size=9))
def test_clips_are_as_few_as_can_be(rows):
    now, utterances = 0, []
    for pause, length in rows:
        utterances.append(utterance("a", (now + pause) / 100, (now + pause + length) / 100, "x"))
        now += pause + length
    cuts = no_overlap_cut(utterances, now / 100, Rules(20.0))
    assert len(cuts) == best_by_trying([(u.start, u.end) for u in utterances], 20.0)
    assert all(cut.end - cut.start <= 20.0 + 1e-9 for cut in cuts)


def test_long_speech_is_split_where_one_person_talks():
    """Sixty seconds without a pause; 'b' talks along from 20 to 40 s."""
    utterances = [utterance("a", 0.0, 60.0, "一二三四五六七八九十" * 6), utterance("b", 20.0, 40.0, "yes yes")]
    cuts = no_overlap_cut(utterances, 60.0, Rules(50.0))
    assert len(cuts) == 2
    first, rest = cuts[0].utterances[0], cuts[1].utterances
    cut = cuts[0].end
    assert cut == cuts[1].start and (10 <= cut < 20 or 40 < cut <= 50)
    assert first.text + rest[0].text == utterances[0].text and first.end == rest[0].start == cut
    assert len(first.text) == pytest.approx(cut, abs=0.51), "the text is divided as the time is"
    assert sum(u.spk == "b" for c in cuts for u in c.utterances) == 1
    # Without a place for one alone it stays as it is.
    everywhere = [utterances[0], utterance("b", 1.0, 59.9, "yes")]
    (cut,) = no_overlap_cut(everywhere, 60.0, Rules(30.0))
    assert (cut.start, cut.end) == (0.0, 60.0) and set(u.text for u in cut.utterances) == {u.text for u in everywhere}
    # Neither is a single word divided, though nothing else is there to divide; of no transcript, time is.
    assert len(no_overlap_cut([utterance("a", 0.0, 60.0, "hmm")], 60.0, Rules(30.0))) == 1
    assert len(no_overlap_cut([utterance("a", 0.0, 60.0)], 60.0, Rules(30.0))) == 2
    assert no_overlap_cut([], 60.0, Rules(30.0)) == []


def test_cuts_like_pauses_with_silence_beside_them():
    """Two pauses would do; the longer one leaves a quarter of a second on both sides."""
    spans = [(1.0, 10.0), (10.1, 20.0), (21.0, 29.0), (29.2, 38.0)]
    utterances = [utterance("a", start, end, "x") for start, end in spans]
    cuts = no_overlap_cut(utterances, 40.0, Rules(30.0))
    assert [(cut.start, cut.end) for cut in cuts] == [(0.75, 20.25), (20.75, 38.25)]


@settings(max_examples=60)
@given(meetings(), st.integers(0, 9))
def test_random_cuts_cover_the_recording(meeting, seed):
    utterances, duration = meeting
    cuts = random_40_50(utterances, duration, Rules(50.0, 40.0, Chance(seed)))
    assert cuts[0].start == 0 and cuts[-1].end == duration
    assert all(a.end == b.start for a, b in zip(cuts, cuts[1:]))
    assert all(40 - 1e-9 <= cut.end - cut.start <= 50 + 1e-9 for cut in cuts[:-1])
    assert cuts[-1].end - cuts[-1].start <= 50 + 1e-9
    for cut in cuts[:-1]:
        assert centiseconds(cut.end)
        here = len(talking(utterances, cut.end))
        window = [round(cut.start + 40 + k / 100, 2) for k in range(1001)]
        assert here == min(len(talking(utterances, instant)) for instant in window), "the quietest there is"


def test_random_cuts_are_drawn_from_all_pauses():
    utterances = [utterance("a", 0.0, 44.0, "x y"), utterance("a", 45.0, 47.0, "x"), utterance("b", 49.0, 80.0, "z")]
    ends = [random_40_50(utterances, 90.0, Rules(50.0, 40.0, Chance(seed, "r")))[0].end for seed in range(300)]
    in_first = sum(44 <= end <= 45 for end in ends)
    assert in_first + sum(47 <= end <= 49 for end in ends) == 300 and 70 < in_first < 130, "a third, as its length is"
    assert len(set(ends)) > 100
    busy = [utterance("a", 0.0, 90.0, "十" * 90), utterance("b", 0.0, 90.0, "one two")]
    first, second = random_40_50(busy, 90.0, Rules(50.0, 40.0, Chance(1)))
    assert {u.spk: u.text for u in first.utterances}["b"] == "one", "everybody's text is divided"
    assert sum(len(u.text) for cut in (first, second) for u in cut.utterances if u.spk == "a") == 90
    with pytest.raises(UserError, match="cannot be cut into clips of 60 to 50 s; give --min_clip and --max_clip"):
        random_40_50(utterances, 90.0, Rules(50.0, 60.0))


def test_a_moment_without_a_unit_of_text_is_nobody_s():
    """A cut a tenth of a second into ten words leaves all of them on one side."""
    long = utterance("a", 45.0, 55.0, "a b c d e f g h i j")
    rules = Rules(45.1, 45.1)
    first, second = random_40_50([utterance("b", 0.0, 3.0, "x"), long], 60.0, rules)
    assert [u.spk for u in first.utterances] == ["b"]
    assert second.utterances[0].text == long.text and second.utterances[0].start == 45.1


def test_oracle_segments():
    utterances = [utterance("b", 1.0, 3.0, "x"), utterance("a", 2.0, 2.5, "y"), utterance("a", 9.0, 10.05, "z")]
    cuts = oracle_segments(utterances, 10.0, Rules())
    assert [(cut.start, cut.end) for cut in cuts] == [(1.0, 3.0), (2.0, 2.5), (9.0, 10.0)]
    assert [[u.text for u in cut.utterances] for cut in cuts] == [["x"], ["y"], ["z"]]


def test_real_meetings(real_data):
    """Four AliMeeting Eval meetings: the clips are as full as those of the published table (43.82 s on average)."""
    seconds, clips = 0.0, 0
    for path in sorted((real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir").glob("*.TextGrid")):
        duration = max(tier.spans[-1][1] for tier in read_tiers(path))
        utterances = DataDir.from_seglst(read_textgrid(path), {path.stem: "x"}).utterances
        for policy in ("no_overlap_cut", "random_40_50", "oracle_segments", "utterance_group"):
            cuts = POLICIES[policy](utterances, duration, Rules(chance=Chance(0, path.stem)))
            pieces = [u for cut in cuts for u in cut.utterances]
            assert said(pieces) == said(utterances)
            if policy == "no_overlap_cut":
                assert all(cut.end - cut.start <= 50 + 1e-9 for cut in cuts)
                assert len(pieces) - len(utterances) <= 10, "few utterances are split"
                seconds, clips = seconds + sum(cut.end - cut.start for cut in cuts), clips + len(cuts)
                for edge in (edge for cut in cuts for edge in (cut.start, cut.end)):
                    assert len(talking(utterances, edge)) <= 1
    assert 41 < seconds / clips < 46
