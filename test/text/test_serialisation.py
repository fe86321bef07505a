"""Order policies and the supervision file."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.serialisation import (
    ORDERS, TIE_RULES, UNITS, Order, parse_supervision, read_supervision, turns, utterances,
)


def segment(speaker, start, end, words, **more):
    return {"session_id": "m1", "speaker": speaker, "start_time": start, "end_time": end, "words": words, **more}


WORDS = st.lists(st.text(alphabet="abc好", min_size=1, max_size=4), min_size=1, max_size=4).map(" ".join)
TIMES = st.integers(0, 400).map(lambda ms: ms / 100)
SEGMENTS = st.lists(
    st.builds(lambda s, t, d, w, level: segment(s, t, t + d, w, level=level), st.sampled_from("ABCD"), TIMES,
              st.integers(1, 300).map(lambda ms: ms / 100), WORDS, st.integers(-40, 0)),
    min_size=1, max_size=6, unique_by=lambda s: (s["speaker"], s["start_time"], s["end_time"], s["words"]),
)


def test_each_order():
    a = segment("A", 2.0, 4.0, "a")
    b = segment("B", 0.0, 9.0, "b")
    c = segment("C", 1.0, 2.5, "c")
    speakers = {o: "".join(t.speaker for t in turns([c, a, b], Order(o))) for o in ORDERS if o != "random"}
    assert speakers == {"onset": "BCA", "end": "CAB", "duration": "BAC", "speaker": "ABC", "input": "CAB"}


def test_a_tie_is_less_than_50_ms_after_the_first_of_its_group():
    z, y, x = (segment(n, t, 5.0, n) for n, t in (("z", 1.0), ("y", 1.049), ("x", 1.06)))
    assert [t.speaker for t in turns([z, y, x])] == ["y", "z", "x"]
    exactly = segment("y", 1.05, 5.0, "y")
    assert [t.speaker for t in turns([z, exactly])] == ["z", "y"]
    assert [t.speaker for t in turns([z, y, x], Order(tie=0.0))] == ["z", "y", "x"]
    # Equal times are a tie whatever the width: the answer must not depend on how they came.
    same = [segment(n, 1.0, 2.0, n) for n in "ba"]
    assert [t.speaker for t in turns(same, Order(tie=0.0))] == ["a", "b"]


def test_each_tie_rule():
    a = segment("A", 1.00, 2.0, "a", level=-10)
    b = segment("B", 1.02, 9.0, "b", level=-30)
    c = segment("C", 1.04, 3.0, "c", level=-5)
    given = {r: "".join(t.speaker for t in turns([c, a, b], Order(tie_rule=r))) for r in TIE_RULES if r != "random"}
    assert given == {"speaker": "ABC", "longest": "BCA", "loudest": "CAB", "input": "CAB"}


@given(st.builds(Order, st.sampled_from(ORDERS), st.sampled_from(TIE_RULES),
                 st.integers(0, 10**6).map(lambda n: n / 1000), st.sampled_from(UNITS), st.integers(-5, 10**6)))
def test_an_order_in_words_is_read_again(order):
    found = Order.described(order.describe())
    assert found.describe() == order.describe() and found.unit == order.unit and found.order == order.order


@pytest.mark.parametrize("entry, message", [('{"spk":1,"start":0,"end":1,"text":"a"}', "spk is 1, no string"),
                                            ('{"spk":"a","start":0,"end":1,"text":null}', "text is None, no string"),
                                            ('{"spk":"a","start":NaN,"end":1,"text":"a"}', "times are nan and 1.0")])
def test_segments_of_other_types(entry, message):
    with pytest.raises(ValueError, match=message):
        parse_supervision(f"[{entry}]")


def test_levels_of_segments_decide_ties():
    line = '[{"spk":"A","start":0,"end":1,"text":"a","level":-9.5},{"spk":"B","start":0,"end":1,"text":"b","level":-3}]'
    assert [t.speaker for t in turns(parse_supervision(line), Order(tie_rule="loudest"))] == ["B", "A"]


def test_loudest_needs_levels():
    with pytest.raises(UserError, match="speaker A: the tie rule 'loudest' needs a level"):
        turns([segment("A", 0, 1, "a"), segment("B", 0, 1, "b")], Order(tie_rule="loudest"))


def test_random_is_seeded_and_differs_by_session():
    sessions = [[{**segment(s, 0, 1, s), "session_id": f"m{i}"} for s in "ABCD"] for i in range(20)]
    for policy in (Order("random"), Order("onset", tie_rule="random")):
        one = ["".join(t.speaker for t in turns(s, policy)) for s in sessions]
        assert one == ["".join(t.speaker for t in turns(s, policy)) for s in sessions]
        assert len(set(one)) > 5
    other = ["".join(t.speaker for t in turns(s, Order("random", seed=1))) for s in sessions]
    assert other != ["".join(t.speaker for t in turns(s, Order("random"))) for s in sessions]


@given(SEGMENTS, st.sampled_from([o for o in ORDERS if o != "input"]),
       st.sampled_from([r for r in TIE_RULES if r != "input"]), st.sampled_from(["talker", "utterance"]), st.randoms())
@settings(max_examples=200)
def test_the_order_of_the_input_does_not_matter(segments, order, tie_rule, unit, rng):
    policy = Order(order, tie_rule, unit=unit)
    shuffled = segments[:]
    rng.shuffle(shuffled)
    assert turns(segments, policy) == turns(shuffled, policy)


@given(SEGMENTS, st.sampled_from(ORDERS), st.sampled_from(["talker", "utterance"]))
@settings(max_examples=100)
def test_no_word_is_lost(segments, order, unit):
    said = sorted(itertools.chain.from_iterable(s["words"].split() for s in segments))
    items = turns(segments, Order(order, unit=unit))
    assert sorted(w for t in items for w in t.text.split()) == said
    if unit == "talker":
        assert len({t.speaker for t in items}) == len(items)
    else:
        assert all(a.speaker != b.speaker for a, b in zip(items, items[1:]))


def test_a_talkers_words_are_joined_by_start_time():
    late, early = segment("A", 3.0, 4.0, "world"), segment("A", 0.0, 1.0, " hello ")
    other = segment("B", 1.0, 2.0, "x")
    assert [t.text for t in turns([late, early, other])] == ["hello world", "x"]
    assert [t.text for t in turns([late, early, other], Order(unit="utterance"))] == ["hello", "x", "world"]


def test_utterances_are_not_merged():
    segments = [segment("A", 2.0, 3.0, "b"), segment("A", 0.0, 1.0, "a"), segment("B", 2.5, 4.0, "c")]
    assert [t.text for t in utterances(segments, Order(unit="utterance"))] == ["a", "b", "c"]
    assert [t.text for t in turns(segments, Order(unit="utterance"))] == ["a b", "c"]


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda: Order("onsets"), "unknown order 'onsets'; did you mean 'onset'"),
        (lambda: Order(tie_rule="loud"), "unknown tie_rule"),
        (lambda: Order(unit="word"), "unknown unit"),
        (lambda: Order(tie=-1), "time in seconds"),
    ],
)
def test_bad_input(write, message):
    with pytest.raises(UserError, match=message):
        write()


def test_nothing_said():
    assert turns([]) == [] and utterances([]) == []


def test_read_supervision(tmp_path):
    path = tmp_path / "supervision"
    path.write_text('c1 [{"spk":"S1","start":0.0,"end":2.31,"text":"好 嗯"}]\nc2 []\n', encoding="utf-8")
    assert read_supervision(path) == {
        "c1": [{"session_id": "c1", "speaker": "S1", "start_time": 0.0, "end_time": 2.31, "words": "好 嗯"}], "c2": []}


@pytest.mark.parametrize(
    "content, where, what",
    [
        (b"c1 []\nc1 []\n", "supervision:2", "given twice"),
        (b"c1 []\n\nc2 []\n", "supervision:2", "empty line"),
        (b"c1 [{\n", "supervision:1", "not a JSON list"),
        (b'c1 [{"spk":"S1"}]\n', "supervision:1", "not a JSON list"),
        (b"c1 3\n", "supervision:1", "not a JSON list"),
        (b"c1 [\xff]\n", "supervision", "not UTF-8"),
    ],
)
def test_broken_supervision(tmp_path, content, where, what):
    path = tmp_path / "supervision"
    path.write_bytes(content)
    with pytest.raises(UserError) as e:
        read_supervision(path)
    assert where in str(e.value) and what in str(e.value) and "make_clips" in str(e.value)


def test_no_supervision(tmp_path):
    with pytest.raises(UserError, match="no such file; make the clips"):
        read_supervision(tmp_path / "supervision")
