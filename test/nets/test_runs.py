"""Runs of rows against a loop."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.nets.runs import run_index

RUN = st.tuples(st.integers(1, 9), st.integers(0, 4))


@given(st.integers(1, 4).flatmap(lambda r: st.lists(st.lists(RUN, min_size=r, max_size=r), min_size=1, max_size=4)),
       st.booleans())
def test_is_a_loop_over_runs(runs: list, left: bool) -> None:
    table = torch.tensor(runs)
    index, inside = run_index(table[..., 0], table[..., 1], left)
    rows = [[first + i for first, size in clip for i in range(size)] for clip in runs]
    width = max(map(len, rows))
    assert index.shape == inside.shape == (len(runs), width)
    for row, found, mask in zip(rows, index.tolist(), inside.tolist()):
        padding = [0] * (width - len(row))
        assert found == (padding + row if left else row + padding)
        kept = [i for i, valid in zip(found, mask) if valid]
        assert kept == row
