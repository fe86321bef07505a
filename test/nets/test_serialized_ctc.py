"""Serialized CTC against a brute-force CTC, the enumeration of permutations, and its greedy decoder."""

from itertools import groupby, permutations, product

import pytest
import torch
from hypothesis import given, settings, strategies as st

from espnet_mt_llm.nets.serialized_ctc import greedy_ctc, serialized_ctc_loss, too_long


def pad_targets(texts: list[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack clips of K token lists each into targets ``(B, K, L)`` and target lengths ``(B, K)``."""
    sizes = torch.tensor([[len(talker) for talker in clip] for clip in texts])
    targets = torch.zeros(*sizes.shape, max(1, int(sizes.max())), dtype=torch.long)
    for b, clip in enumerate(texts):
        for k, talker in enumerate(clip):
            targets[b, k, : len(talker)] = torch.tensor(talker, dtype=torch.long)
    return targets, sizes


def brute_force(log_probs: torch.Tensor, target: list[int]) -> float:
    """-log of the summed probability of every path that collapses to ``target``; ``log_probs`` ``(T, V)``."""
    total = 0.0
    for path in product(range(log_probs.size(1)), repeat=log_probs.size(0)):
        if [token for token, _ in groupby(path) if token] == target:
            total += torch.exp(sum(log_probs[t, token] for t, token in enumerate(path))).item()
    return -torch.log(torch.tensor(total)).item()


def batch_of(seed: int, batch: int, talkers: int, time: int = 4, vocabulary: int = 3) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(batch, talkers, time, vocabulary, generator=generator).log_softmax(-1)
    texts = [[torch.randint(1, vocabulary, (int(torch.randint(0, 3, (1,), generator=generator)),),
                            generator=generator).tolist() for _ in range(talkers)] for _ in range(batch)]
    return log_probs, torch.full((batch,), time), texts


def test_equals_the_sum_over_paths() -> None:
    log_probs, lengths, texts = batch_of(3, 2, 2)
    targets, sizes = pad_targets(texts)
    losses, order = serialized_ctc_loss(log_probs, lengths, targets, sizes, normalise=False)
    assert order.tolist() == [[0, 1], [0, 1]]
    for b in range(2):
        expected = sum(brute_force(log_probs[b, k], texts[b][k]) for k in range(2)) / 2
        assert losses[b].item() == pytest.approx(expected, abs=1e-4)


def test_normalised_by_target_length() -> None:
    log_probs, lengths, texts = batch_of(5, 1, 1)
    targets, sizes = pad_targets([[[1, 2]]])
    raw, _ = serialized_ctc_loss(log_probs, lengths, targets, sizes, normalise=False)
    normalised, _ = serialized_ctc_loss(log_probs, lengths, targets, sizes)
    assert normalised.item() == pytest.approx(raw.item() / 2, rel=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 4), st.booleans())
def test_pit_equals_enumeration(seed: int, talkers: int, normalise: bool) -> None:
    log_probs, lengths, texts = batch_of(seed, 2, talkers)
    targets, sizes = pad_targets(texts)
    logits = log_probs.clone().requires_grad_()
    pit, order = serialized_ctc_loss(logits.log_softmax(-1), lengths, targets, sizes, normalise, pit=True)
    every = [serialized_ctc_loss(log_probs[:, list(p)], lengths, targets, sizes, normalise)[0]
             for p in permutations(range(talkers))]
    torch.testing.assert_close(pit.detach(), torch.stack(every).min(0).values, atol=1e-5, rtol=1e-5)
    assert all(sorted(row) == list(range(talkers)) for row in order.tolist())
    again = logits.detach().clone().requires_grad_()
    chosen = torch.stack([clip[row] for clip, row in zip(again.log_softmax(-1), order)])
    serialized_ctc_loss(chosen, lengths, targets, sizes, normalise)[0].sum().backward()
    pit.sum().backward()
    torch.testing.assert_close(logits.grad, again.grad, atol=1e-5, rtol=1e-4)


def test_only_the_chosen_pairs_get_gradient() -> None:
    log_probs = torch.randn(1, 2, 5, 4).log_softmax(-1).requires_grad_()
    targets, sizes = pad_targets([[[1, 2], []]])
    losses, order = serialized_ctc_loss(log_probs, torch.tensor([3]), targets, sizes, pit=True)
    losses.sum().backward()
    assert log_probs.grad[0, :, :3].abs().sum() > 0
    assert log_probs.grad[0, :, 3:].abs().sum() == 0  # frames beyond the clip


def test_silent_talker_is_allowed() -> None:
    log_probs, lengths, _ = batch_of(1, 1, 2)
    targets, sizes = pad_targets([[[], [1]]])
    losses, _ = serialized_ctc_loss(log_probs, lengths, targets, sizes)
    assert torch.isfinite(losses).all()


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4))
def test_greedy_collapses_as_the_definition_says(paths: list[list[int]]) -> None:
    lengths = torch.tensor([len(p) for p in paths])
    log_probs = torch.full((len(paths), int(lengths.max()), 4), -9.0)
    for i, path in enumerate(paths):
        for t, token in enumerate(path):
            log_probs[i, t, token] = 0.0
        log_probs[i, len(path):, 1] = 0.0  # padding must not be read
    assert greedy_ctc(log_probs, lengths) == [[t for t, _ in groupby(p) if t] for p in paths]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 2), max_size=5), st.integers(1, 6))
def test_too_long_is_an_infinite_loss(text: list[int], frames: int) -> None:
    log_probs = torch.randn(1, 6, 3).log_softmax(-1)
    targets, sizes = pad_targets([[text, [1] * 5]])
    loss = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), targets[:, 0], torch.tensor([frames]), sizes[:, 0],
                                        reduction="none")
    assert too_long(torch.tensor([frames]), targets, sizes)[0, 0].item() == torch.isinf(loss).item()
