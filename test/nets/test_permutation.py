"""The optimal assignment against the enumeration of all permutations."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from espnet_mt_llm.nets.permutation import best_assignment


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6))
def test_equals_enumeration(talkers: int, batch: int, seed: int) -> None:
    costs = torch.randn(batch, talkers, talkers, generator=torch.Generator().manual_seed(seed))
    chosen = best_assignment(costs)
    for matrix, row in zip(costs, chosen.tolist()):
        assert sorted(row) == list(range(talkers))
        ours = sum(matrix[i, j].item() for j, i in enumerate(row))
        least = min(sum(matrix[p[j], j].item() for j in range(talkers)) for p in permutations(range(talkers)))
        assert ours == pytest.approx(least, abs=1e-5)


def test_impossible_pair_is_avoided() -> None:
    inf = float("inf")
    assert best_assignment(torch.tensor([[[inf, 1.0], [100.0, inf]]])).tolist() == [[1, 0]]


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        best_assignment(torch.tensor([[[float("nan")]]]))
