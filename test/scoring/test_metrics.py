"""Error rates of a clip against worked examples, brute force and each other."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.scoring.metrics import align, cp, dicp, edit, orc, speaker_attributed
from espnet_mt_llm.scoring.result_types import Errors

TOKENS = st.lists(st.sampled_from("abcd"), max_size=5)
SPEAKERS = st.lists(TOKENS, min_size=1, max_size=3).map(lambda ts: {f"s{i}": t for i, t in enumerate(ts)})


def distance(a, b):
    """Edit distance by definition, for comparison."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_worked_checks():
    reference = {"A": list("abcd"), "B": list("ef")}
    assert cp(reference, {"0": list("ef"), "1": list("abcd")})[0].errors == 0
    errors, _ = cp(reference, {"0": list("abcdef")})
    assert (errors.insertions, errors.deletions, errors.length) == (2, 2, 6)
    swapped = speaker_attributed(reference, {"A": list("ef"), "B": list("abcd")})
    assert (swapped.errors, swapped.length) == (8, 6)


@given(SPEAKERS, SPEAKERS)
@settings(max_examples=150)
def test_cp_is_the_minimum_over_all_permutations(reference, hypothesis):
    n = max(len(reference), len(hypothesis))
    refs = list(reference.values()) + [[]] * (n - len(reference))
    hyps = list(hypothesis.values()) + [[]] * (n - len(hypothesis))
    best = min(sum(map(distance, refs, p)) for p in itertools.permutations(hyps))
    errors, assignment = cp(reference, hypothesis)
    assert errors.errors == best and errors.length == sum(map(len, refs))
    assert {r for r, _ in assignment} - {None} == set(reference)
    assert {h for _, h in assignment} - {None} == set(hypothesis)


@given(SPEAKERS, SPEAKERS)
@settings(max_examples=100)
def test_exact_orc_is_never_above_cp(reference, hypothesis):
    errors, exact = orc(list(reference.values()), hypothesis)
    assert exact and errors.errors <= cp(reference, hypothesis)[0].errors
    assert errors.length == sum(map(len, reference.values()))


UTTERANCES = st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=2), min_size=1, max_size=3)
STREAMS = st.lists(st.lists(st.sampled_from("ab"), max_size=2), min_size=1, max_size=5)


@given(UTTERANCES, STREAMS)
@settings(max_examples=150)
def test_exact_orc_is_the_minimum_over_all_streams_of_each_utterance(utterances, streams):
    best = min(sum(distance([t for u, k in zip(utterances, to) if k == i for t in u], s) for i, s in enumerate(streams))
               for to in itertools.product(range(len(streams)), repeat=len(utterances)))
    errors, exact = orc(utterances, {str(i): s for i, s in enumerate(streams)})
    assert exact and errors.errors == best


@given(TOKENS, TOKENS)
@settings(max_examples=100)
def test_edit_and_align_agree(reference, hypothesis):
    errors = edit(reference, hypothesis)
    pairs = align(reference, hypothesis)
    assert errors.errors == distance(reference, hypothesis) == sum(r != h for r, h in pairs)
    assert [r for r, _ in pairs if r is not None] == reference and [h for _, h in pairs if h is not None] == hypothesis


def test_nothing_on_one_side():
    reference = {"A": ["a", "b"], "B": ["c"]}
    assert cp(reference, {})[0] == Errors(3, deletions=3)
    assert cp({}, reference)[0] == Errors(0, insertions=3)
    assert orc(list(reference.values()), {}) == (Errors(3, deletions=3), True)
    assert dicp(reference, []) == Errors(3, deletions=3)
    assert dicp({}, [["a"]]) == Errors(0, insertions=1)
    assert edit([], ["a"]) == Errors(0, insertions=1)
    assert cp({"A": []}, {"0": []})[0] == Errors(0)


def test_a_long_orc_search_is_greedy():
    reference = [list("abcd" * 20) for _ in range(4)]
    errors, exact = orc(reference, {str(i): list("abcd" * 20) for i in range(4)})
    assert not exact and errors.length == 320


def test_more_speakers_than_meeteval_takes():
    many = {str(i): [f"w{i}", "a"] for i in range(25)}
    backwards = dict(reversed(many.items()))
    for reference, hypothesis in ((many, {"x": ["w3", "a"]}), ({"x": ["w3", "a"]}, many), (many, backwards)):
        errors, assignment = cp(reference, hypothesis)
        assert errors.errors == 2 * abs(len(reference) - len(hypothesis))
        assert {r for r, _ in assignment} - {None} == set(reference)


@pytest.mark.parametrize("streams", [11, 21])
def test_more_streams_than_the_search_takes(streams: int) -> None:
    """A model may invent speakers, and a session may have more than ten."""
    long = {str(i): ["a", "b", "c"] for i in range(2)}
    short = {str(i): ["x"] for i in range(2, streams)}
    utterances = [["a", "b", "c"], ["a", "b", "d"]]
    # Eight of the short streams are searched, in vain; the words of all of them are insertions.
    assert orc(utterances, {**long, **short}) == (Errors(6, insertions=streams - 2, substitutions=1), False)
    assert dicp({**long, **short}, utterances) == Errors(4 + streams, deletions=streams - 2, substitutions=1)
