"""Chunk pooling: equal to statistics of plain lists; the tail, padding and single frames."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.nets.chunk_pooling import chunk_statistics, clip_statistics, over_frames

EPS = 1e-5


def reference(frames: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the statistics of each chunk ``(2 D,)`` of one clip ``(T, D)``, from slices."""
    chunks = [frames[i : i + size] for i in range(0, len(frames), size)]
    if len(chunks[-1]) < size and len(chunks) > 1:
        chunks[-1] = np.concatenate([chunks[-2][len(chunks[-1]):], chunks[-1]])
    return [np.concatenate([c.mean(0), np.sqrt(c.var(0) + EPS)]) for c in chunks]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 23), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 99))
def test_chunks_are_those_of_each_clip_alone(lengths, size, seed):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(len(lengths), max(lengths), 3, generator=generator, dtype=torch.float64)
    for row, length in zip(frames, lengths):
        row[length:] = float("inf")  # what is behind a clip's end may be anything
    pooled = chunk_statistics(frames, torch.tensor(lengths), size)
    repeated = over_frames(pooled, torch.tensor(lengths), size, max(lengths))
    for i, length in enumerate(lengths):
        wanted = reference(frames[i, :length].numpy(), size)
        np.testing.assert_allclose(pooled[i, : len(wanted)].numpy(), wanted, atol=1e-12)
        for t in range(max(lengths)):
            expected = wanted[t // size] if t < length else np.zeros(6)
            np.testing.assert_allclose(repeated[i, t].numpy(), expected, atol=1e-12)


def test_tail_is_filled_up_with_the_frames_before():
    frames = torch.arange(5.0).view(1, 5, 1)
    means = chunk_statistics(frames, torch.tensor([5]), 2)[0, :, 0]
    assert means.tolist() == [0.5, 2.5, 3.5]


def test_single_frames_and_constants_have_finite_values_and_gradients():
    for frames, size in ((torch.ones(1, 1, 2), 20), (torch.ones(1, 7, 2), 1), (torch.ones(1, 7, 2), 4)):
        frames.requires_grad_()
        lengths = torch.tensor([frames.size(1)])
        for pooled in (chunk_statistics(frames, lengths, size), clip_statistics(frames, lengths)):
            assert pooled.isfinite().all() and (pooled[..., :2] == 1).all() and (pooled[..., 2:] < 0.01).all()
            gradient, = torch.autograd.grad(pooled.sum(), frames)
            assert gradient.isfinite().all()


def test_clip_statistics_are_unbiased_and_leave_padding_out():
    frames = torch.randn(3, 9, 4, dtype=torch.float64)
    lengths = torch.tensor([9, 5, 2])
    pooled = clip_statistics(frames, lengths)
    for row, length, found in zip(frames, lengths, pooled):
        wanted = torch.cat([row[:length].mean(0), row[:length].std(0)])
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)
