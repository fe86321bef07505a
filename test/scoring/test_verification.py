"""The equal error rate, against a search over all thresholds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.scoring.verification import equal_error_rate, pair_scores


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30))
def test_equal_error_rate_is_that_of_the_best_threshold(pairs):
    scores, same = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    if same.all() or not same.any():
        with pytest.raises(ValueError):
            equal_error_rate(scores, same)
        return
    shares = []
    for threshold in [np.inf, *sorted(set(scores), reverse=True)]:
        accepted = scores >= threshold
        shares.append(((~accepted & same).sum() / same.sum(), (accepted & ~same).sum() / (~same).sum()))
    least = min(abs(miss - alarm) for miss, alarm in shares)
    wanted = [(miss + alarm) / 2 for miss, alarm in shares if abs(miss - alarm) <= least + 1e-9]
    assert any(equal_error_rate(scores, same) == pytest.approx(w) for w in wanted)


def test_perfect_and_opposite_scores():
    same = np.array([True, True, False, False])
    assert equal_error_rate(np.array([4.0, 3, 2, 1]), same) == 0
    assert equal_error_rate(np.array([1.0, 2, 3, 4]), same) == 1


def test_pairs():
    scores, same = pair_scores(np.array([[2.0, 0], [0, 3], [-1, 0]]), ["a", "b", "a"])
    assert scores.tolist() == [0, -1, 0] and same.tolist() == [False, True, False]
