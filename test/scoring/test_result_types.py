"""Counts add up; rates never do."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.scoring.result_types import ClipScore, DiarizationErrors, Errors, SetScore, Speed, TalkerCounts

ERRORS = st.builds(lambda c, d, s, i: Errors(c + d + s, i, d, s), *[st.integers(0, 50)] * 4)
COUNTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=8).map(
    lambda pairs: sum((TalkerCounts.one(*p) for p in pairs), TalkerCounts.zero()))


@given(ERRORS, ERRORS, ERRORS)
def test_errors_form_a_commutative_monoid(a, b, c):
    assert a + b == b + a and (a + b) + c == a + (b + c) and a + Errors.zero() == a
    assert (a + b).errors == a.errors + b.errors
    assert Errors.from_dict(a.as_dict()) == a


@given(COUNTS, COUNTS)
def test_counts_add_and_round_trip(a, b):
    assert a + b == b + a and (a + b).total == a.total + b.total
    assert (a + b).correct == a.correct + b.correct
    assert TalkerCounts.from_dict((a + b).as_dict()) == a + b


@given(st.lists(st.tuples(ERRORS, st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=8), st.integers(0, 8))
def test_a_set_is_the_sum_of_its_parts(values, cut):
    clips = [ClipScore(str(i), n, p, {"cp": e}) for i, (e, n, p) in enumerate(values)]
    assert SetScore.of(clips) == SetScore.of(clips[:cut]) + SetScore.of(clips[cut:])
    assert SetScore.of(clips) + SetScore.zero() == SetScore.of(clips)


@given(st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), max_size=5))
def test_diarization_errors_add(rows):
    total = sum((DiarizationErrors(*row) for row in rows), DiarizationErrors.zero())
    missed, false_alarm, confusion, speech, jaccard, speakers = map(sum, zip(*rows)) if rows else [0] * 6
    assert total == DiarizationErrors(missed, false_alarm, confusion, speech, jaccard, speakers)
    assert total.der == ((missed + false_alarm + confusion) / speech if speech else None)
    assert total.jer == (jaccard / speakers if speakers else None)


def test_frozen_and_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Errors(3).length = 4
    with pytest.raises(ValueError, match="negative"):
        Errors(3, insertions=-1)
    with pytest.raises(ValueError, match="negative number"):
        DiarizationErrors(missed=-0.1)
    with pytest.raises(ValueError, match="more deletions"):
        Errors(3, deletions=2, substitutions=2)
    with pytest.raises(ValueError, match="different metrics"):
        SetScore(1, {"cp": Errors(1)}) + SetScore(1, {"orc": Errors(1)})
    with pytest.raises(TypeError):
        Errors(3) + 1


def test_empty_sets_have_no_rate():
    assert Errors.zero().rate is None and TalkerCounts.zero().accuracy is None and Speed.zero().rtf is None
