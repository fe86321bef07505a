"""Batches by positions: limits, every clip once, the same in every process, clips in a row."""

import math
from typing import Optional

import numpy as np
import pytest
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.train.position_batches import Concatenation, PositionBatches, Rows, Size

LIMIT = 120


def positions(seconds: float, tokens: int, speakers: int) -> int:
    return 5 + math.ceil(seconds * 2) + tokens + 2 * speakers


def clips_of(number: int, seed: int = 0) -> dict[str, Size]:
    random = np.random.RandomState(seed)
    return {f"c{i:03d}": Size(float(random.uniform(1, 20)), int(random.randint(1, 20)),
                              frozenset(f"S{k}" for k in random.randint(0, 9, 2))) for i in range(number)}


def row_size(clips: dict[str, Size], row: str) -> tuple[float, int, int]:
    parts = [clips[name] for name in row.split(" ")]
    return (sum(p.seconds for p in parts), sum(p.tokens for p in parts), len(frozenset().union(*(p.speakers
                                                                                               for p in parts))))


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(0, 2**40), st.sampled_from([None, Concatenation(30.0, 5),
                                                                   Concatenation(30.0, 5, 10.0, shared=True)]))
def test_limits_hold_and_each_clip_comes_once(number: int, seed: int, rows: Optional[Concatenation]) -> None:
    clips = clips_of(number, seed % 1000)
    batches = PositionBatches(clips, positions, LIMIT, rows)
    drawn = batches._batches(seed)
    assert sorted(name for batch in drawn for row in batch for name in row.split(" ")) == sorted(clips)
    for batch in drawn:
        sizes = [row_size(clips, row) for row in batch]
        assert len(batch) * max(positions(*size) for size in sizes) <= LIMIT
        for (seconds, _, speakers), row in zip(sizes, batch):
            assert " " not in row or (rows and seconds <= 30.0 and speakers <= 5)
    assert batches.generate(seed) == batches.generate(seed) and len(batches.generate(seed)) == len(batches)


def test_epochs_differ_and_rows_are_filled() -> None:
    batches = PositionBatches(clips_of(60), positions, LIMIT, Concatenation(40.0, 8))
    assert batches.generate(1) != batches.generate(2)
    rows = [row for batch in batches.generate(1) for row in batch]
    assert sum(" " in row for row in rows) > len(rows) / 2


def test_rows_of_all_lengths() -> None:
    clips = {f"c{i:03d}": Size(2.0, 1, frozenset("A")) for i in range(600)}
    rows = [row for batch in PositionBatches(clips, positions, LIMIT, Concatenation(20.0, 8, shortest=4.0)).generate(1)
            for row in batch]
    lengths = [row_size(clips, row)[0] for row in rows]
    assert min(lengths) == 4.0 and max(lengths) <= 20.0 and len(set(lengths)) >= 7
    filled = PositionBatches(clips, positions, LIMIT, Concatenation(20.0, 8)).generate(1)
    assert sum(row_size(clips, row)[0] == 20.0 for batch in filled for row in batch) >= 59


def test_rows_return_to_their_speakers() -> None:
    # Forty speakers: two clips that are drawn by lot hardly ever share one.
    random = np.random.RandomState(0)
    clips = {f"c{i:03d}": Size(3.0, 1, frozenset(f"S{k}" for k in random.choice(40, 2, replace=False)))
             for i in range(300)}

    def sharing(rows: Concatenation, seed: int) -> tuple[float, set]:
        drawn = [row.split(" ") for batch in PositionBatches(clips, positions, LIMIT, rows).generate(seed)
                 for row in batch]
        pairs = [pair for row in drawn for pair in zip(row, row[1:])]
        assert len(pairs) > 150
        return np.mean([bool(clips[a].speakers & clips[b].speakers) for a, b in pairs]), set(pairs)

    share, pairs = sharing(Concatenation(12.0, 6, shared=True), 1)
    assert share > 0.95 and sharing(Concatenation(12.0, 6), 1)[0] < 0.3
    again, others = sharing(Concatenation(12.0, 6, shared=True), 2)
    assert again > 0.95 and len(pairs & others) < len(pairs) / 5


@pytest.mark.parametrize("rows", [None, Concatenation(30.0, 8)])
def test_processes_share_the_batches(rows: Concatenation) -> None:
    clips = clips_of(50)
    parts = [PositionBatches(clips, positions, LIMIT, rows, rank, 3) for rank in range(3)]
    drawn = [part.generate(7) for part in parts]
    assert len({len(d) for d in drawn}) == 1 == len({len(p) for p in parts})
    names = [n for d in drawn for batch in d for row in batch for n in row.split(" ")]
    assert rows is not None or len(names) == len(set(names))


def test_iterations_of_an_epoch_are_counted_over_epochs() -> None:
    batches = PositionBatches(clips_of(50), positions, LIMIT, Concatenation(30.0, 8))
    for iterations in (3, len(batches) + 3):
        factory = SequenceIterFactory(list(range(3)), batches, num_iters_per_epoch=iterations, seed=1, shuffle=True)
        for epoch in range(1, 8):
            assert len(list(factory.build_iter(epoch).batch_sampler)) == iterations


def test_a_clip_larger_than_a_batch_is_named() -> None:
    with pytest.raises(UserError, match=r"clip 'long' of 90.0 s takes 192 positions, a batch has 120"):
        PositionBatches({"long": Size(90.0, 5, frozenset("A"))}, positions, LIMIT)
    with pytest.raises(UserError, match="fewer batches than processes"):
        PositionBatches(clips_of(1), positions, LIMIT, world=2)
    with pytest.raises(ValueError, match="expected more than 0"):
        Concatenation(0.0)
    with pytest.raises(ValueError, match="expected 0 <= shortest <= seconds"):
        Concatenation(20.0, 8, 30.0)


def test_reader_of_rows() -> None:
    reader = Rows({"a": 1, "b": 2})
    assert (reader["a"], reader["a b"], reader["b a b"], list(reader), len(reader)) == (1, (1, 2), (2, 1, 2),
                                                                                       ["a", "b"], 2)
