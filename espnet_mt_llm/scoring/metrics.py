"""Error rates of one clip, as counts: meeteval's cp, ORC and diarization-invariant rates, and the serialized one.

Tokens are strings without white space (see ``text.normalise.tokens``), so words and characters take the same way.
"""

import math
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from espnet_mt_llm.common import UserError
from espnet_mt_llm.scoring.result_types import Errors

Tokens = Sequence[str]
Assignment = Tuple[Tuple[Optional[str], Optional[str]], ...]

# The exact ORC search visits (reference tokens) x (each hypothesis length + 1, multiplied) cells, about 2 ms for so
# many; past it meeteval's greedy search answers, in seconds for an hour.
ORC_EXACT_CELLS = 300_000
# meeteval takes more of them for a mistake.
MAX_SPEAKERS = 20
# The most streams that meeteval's ORC searches take.
MAX_STREAMS = 10


def _errors(rate) -> Errors:
    return Errors(rate.length, rate.insertions, rate.deletions, rate.substitutions)


def _joined(speakers: Mapping[str, Tokens]) -> Dict[str, str]:
    return {k: " ".join(v) for k, v in speakers.items()}


def cp(reference: Mapping[str, Tokens], hypothesis: Mapping[str, Tokens]) -> Tuple[Errors, Assignment]:
    """Concatenated minimum-permutation errors, and the assignment (reference speaker, hypothesis speaker).

    >>> reference = {"A": list("abcd"), "B": list("ef")}
    >>> cp(reference, {"0": list("ef"), "1": list("abcd")})
    (Errors(length=6, insertions=0, deletions=0, substitutions=0), (('A', '1'), ('B', '0')))
    >>> errors, _ = cp(reference, {"0": list("abcdef")})
    >>> errors, round(errors.rate, 3)
    (Errors(length=6, insertions=2, deletions=2, substitutions=0), 0.667)

    """
    from meeteval.wer.wer.cp import cp_word_error_rate

    if max(len(reference), len(hypothesis)) > MAX_SPEAKERS:
        return cp_of_many(reference, hypothesis)
    rate = cp_word_error_rate(_joined(reference), _joined(hypothesis), reference_sort=False, hypothesis_sort=False)
    return _errors(rate), tuple(rate.assignment)


def cp_of_many(reference: Mapping[str, Tokens], hypothesis: Mapping[str, Tokens]) -> Tuple[Errors, Assignment]:
    """Return what :func:`cp` does for any number of speakers, by an assignment of least cost (F.3: costs add)."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    size = max(len(reference), len(hypothesis))
    rows: List[Optional[str]] = [*reference, *[None] * (size - len(reference))]
    columns: List[Optional[str]] = [*hypothesis, *[None] * (size - len(hypothesis))]
    errors = [[_pair_errors(reference.get(r, ()), hypothesis.get(h, ())) for h in columns] for r in rows]
    cost = np.array([[e.errors for e in row] for row in errors]).reshape(size, size)
    chosen = list(zip(*linear_sum_assignment(cost)))
    return sum((errors[i][j] for i, j in chosen), Errors.zero()), tuple((rows[i], columns[j]) for i, j in chosen)


def _pair_errors(reference: Tokens, hypothesis: Tokens) -> Errors:
    if not reference or not hypothesis:
        return Errors(len(reference), len(hypothesis), len(reference))
    return edit(reference, hypothesis)


def orc(reference: Sequence[Tokens], hypothesis: Mapping[str, Tokens]) -> Tuple[Errors, bool]:
    """Optimal reference combination: each reference utterance may go to any hypothesis stream.

    Returns the errors and whether the search was exact (see ``ORC_EXACT_CELLS``). Of more than ten streams, those with
    the fewest words get no utterance: all their words are insertions.

    >>> orc([["a"], ["c", "d"], ["e"]], {"0": ["a", "c"], "1": ["d", "e"]})
    (Errors(length=4, insertions=1, deletions=1, substitutions=0), True)
    """
    from meeteval.wer.wer.orc import greedy_orc_word_error_rate, orc_word_error_rate

    utterances = [" ".join(u) for u in reference if u]
    hypothesis = _spoken_streams(hypothesis)
    kept, left = _longest(hypothesis)
    cells = sum(len(u) for u in reference) * math.prod(len(h) + 1 for h in hypothesis.values())
    exact = cells <= ORC_EXACT_CELLS and 0 < len(hypothesis) <= MAX_STREAMS
    search = orc_word_error_rate if exact else greedy_orc_word_error_rate
    rate = search(utterances, _joined(kept), reference_sort=False, hypothesis_sort=False)
    return _errors(rate) + Errors(0, insertions=left), exact or not hypothesis


def _spoken_streams(streams: Mapping[str, Tokens]) -> Mapping[str, Tokens]:
    """Return the streams with tokens, one at least: with one that is empty meeteval's exact search can fail."""
    return {name: tokens for name, tokens in streams.items() if tokens} or dict(list(streams.items())[:1])


def _longest(streams: Mapping[str, Tokens]) -> Tuple[Dict[str, Tokens], int]:
    """Return the ``MAX_STREAMS`` streams with the most tokens, in order, and the number of tokens of the others."""
    names = set(sorted(streams, key=lambda name: -len(streams[name]))[:MAX_STREAMS])
    return ({name: tokens for name, tokens in streams.items() if name in names},
            sum(len(tokens) for name, tokens in streams.items() if name not in names))


def dicp(reference: Mapping[str, Tokens], hypothesis: Sequence[Tokens]) -> Errors:
    """Diarization-invariant cp errors, greedy: each hypothesis utterance may go to any reference speaker.

    Of more than ten reference speakers, those with the fewest words get none: all their words are deletions.

    >>> dicp({"A": ["a", "b"], "B": ["c", "d"]}, [["a"], ["b"], ["c", "d"]])
    Errors(length=4, insertions=0, deletions=0, substitutions=0)
    """
    from meeteval.wer.wer.orc import greedy_orc_word_error_rate

    # ORC with the sides swapped, as meeteval defines it: insertions and deletions change places.
    utterances = [" ".join(u) for u in hypothesis if u]
    kept, left = _longest(_spoken_streams(reference))
    rate = greedy_orc_word_error_rate(utterances, _joined(kept), reference_sort=False, hypothesis_sort=False)
    return Errors(sum(len(t) for t in reference.values()), rate.deletions, rate.insertions + left, rate.substitutions)


def edit(reference: Tokens, hypothesis: Tokens) -> Errors:
    """Edit errors of one sequence against another.

    >>> edit("a b c".split(), "a x c d".split())
    Errors(length=3, insertions=1, deletions=0, substitutions=1)
    """
    from meeteval.wer.wer.siso import siso_word_error_rate

    return _errors(siso_word_error_rate(" ".join(reference), " ".join(hypothesis)))


def speaker_attributed(reference: Mapping[str, Tokens], hypothesis: Mapping[str, Tokens]) -> Errors:
    """Errors with speakers compared by name: an unknown name is insertions, a name not found is deletions.

    >>> speaker_attributed({"A": list("abcd"), "B": list("ef")}, {"A": list("ef"), "B": list("abcd")}).rate > 1
    True
    """
    names = dict.fromkeys([*reference, *hypothesis])
    return sum((edit(reference.get(n, ()), hypothesis.get(n, ())) for n in names), Errors.zero())


def tcp(reference: Sequence[Mapping], hypothesis: Sequence[Mapping], collar: float) -> Errors:
    """Time-constrained cp errors of SegLST segments: a word may match one that is at most ``collar`` seconds away.

    Words have no times of their own: meeteval spreads them over their segment by their lengths.

    Raises:
        UserError: more than 20 speakers on a side, meeteval's limit.

    >>> said = {"speaker": "A", "start_time": 0.0, "end_time": 1.0, "words": "a b"}
    >>> tcp([said], [{**said, "speaker": "0", "start_time": 20.0, "end_time": 21.0}], 5.0)
    Errors(length=2, insertions=2, deletions=2, substitutions=0)
    """
    from meeteval.io import SegLST
    from meeteval.wer.wer.time_constrained import time_constrained_minimum_permutation_word_error_rate

    number = max(len({s["speaker"] for s in side}) for side in (reference, hypothesis))
    if number > MAX_SPEAKERS:
        raise UserError(f"{number} speakers; tcp compares at most {MAX_SPEAKERS}: leave --tcp_collar away, or check "
                        "the speaker labels")
    if not hypothesis:
        return Errors((length := sum(len(s["words"].split()) for s in reference)), deletions=length)
    sides = [SegLST([{key: s[key] for key in ("speaker", "start_time", "end_time", "words")} for s in side])
             for side in (reference, hypothesis)]
    return _errors(time_constrained_minimum_permutation_word_error_rate(*sides, collar=collar))


def align(reference: Tokens, hypothesis: Tokens) -> List[Tuple[Optional[str], Optional[str]]]:
    """Pair reference and hypothesis tokens by a shortest edit path; None stands opposite an insertion or deletion.

    >>> align("a b c".split(), "a x c d".split())
    [('a', 'a'), ('b', 'x'), ('c', 'c'), (None, 'd')]
    """
    import kaldialign

    # A token that contains white space cannot occur, so it can mark the gaps.
    gap = " "
    pairs = kaldialign.align(list(reference), list(hypothesis), gap)
    return [(None if r == gap else r, None if h == gap else h) for r, h in pairs]
