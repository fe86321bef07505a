"""Assignment and pairwise costs against the enumeration of all permutations, PyTorch's losses and closed forms."""

from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from espnet_mt_llm.nets.permutation import (
    best_assignment, compact_ctc, ctc_pit, pair_mean, pairwise_bce, pairwise_si_sdr, permute, pit,
)

SEEDS = st.integers(0, 10**6)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 3), SEEDS)
def test_equals_enumeration(talkers: int, batch: int, seed: int) -> None:
    costs = torch.randn(batch, talkers, talkers, generator=draw(seed))
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
    with pytest.raises(ValueError, match="NaN"):
        pit(pairwise_bce(torch.full((1, 3, 2), float("nan")), torch.zeros(1, 3, 2), torch.tensor([3])))


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 3), SEEDS)
def test_pit_and_its_gradient_are_those_of_the_best_permutation(talkers: int, batch: int, seed: int) -> None:
    costs = torch.randn(batch, talkers, talkers, generator=draw(seed)).requires_grad_()
    losses, order = pit(costs)
    every = torch.stack([
        torch.stack([costs[:, i, j] for j, i in enumerate(p)]).mean(0) for p in permutations(range(talkers))
    ])
    torch.testing.assert_close(losses, every.min(0).values)
    ours, = torch.autograd.grad(losses.sum(), costs)
    enumerated, = torch.autograd.grad(every.min(0).values.sum(), costs)
    assert torch.equal(ours, enumerated)
    # The streams in the order of the targets have the least cost on the diagonal.
    assert best_assignment(permute(costs, order)).tolist() == [list(range(talkers))] * batch
    torch.testing.assert_close(pair_mean(costs, order), losses)


@settings(max_examples=30)
@given(st.integers(2, 5), SEEDS)
def test_absent_targets_take_what_is_left(talkers: int, seed: int) -> None:
    costs = torch.randn(1, talkers, talkers, generator=draw(seed))
    present = torch.rand(1, talkers, generator=draw(seed + 1)) > 0.4
    there = present[0].nonzero().squeeze(1).tolist()
    costs[..., ~present[0]] = float("inf")
    costs.requires_grad_()
    losses, order = pit(costs, present)
    assert sorted(order[0].tolist()) == list(range(talkers))
    least = min(sum(costs[0, i, j].item() for i, j in zip(p, there)) for p in permutations(range(talkers), len(there)))
    assert losses.item() == pytest.approx(least / max(1, len(there)), abs=1e-5)
    losses.sum().backward()
    assert torch.isfinite(costs.grad).all() and costs.grad[..., ~present[0]].abs().sum() == 0


@settings(max_examples=30)
@given(st.integers(1, 4), SEEDS)
def test_bce_is_that_of_torch_within_the_lengths(talkers: int, seed: int) -> None:
    logits = 3 * torch.randn(3, 9, talkers, generator=draw(seed))
    targets = (torch.rand(3, 9, talkers, generator=draw(seed + 1)) > 0.5).float()
    lengths = torch.tensor([9, 4, 1])
    costs = pairwise_bce(logits, targets, lengths)
    for b, i, j in product(range(3), range(talkers), range(talkers)):
        n = int(lengths[b])
        expected = F.binary_cross_entropy_with_logits(logits[b, :n, i], targets[b, :n, j])
        torch.testing.assert_close(costs[b, i, j], expected)


def test_bce_of_no_frames_silence_and_large_logits_is_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4]] * 3]).repeat(2, 1, 1).requires_grad_()
    costs = pairwise_bce(logits, torch.zeros(2, 3, 2), torch.tensor([3, 0]))
    assert costs.tolist() == [[[1e4, 1e4], [0, 0]], [[0, 0], [0, 0]]]
    costs.sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[1].abs().sum() == 0


def costs_of(what: str, estimates: torch.Tensor, targets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Pairwise costs of ``(B, N, T)`` on either side."""
    if what == "bce":
        return pairwise_bce(estimates.transpose(1, 2), (targets > 0).float().transpose(1, 2), lengths)
    return pairwise_si_sdr(estimates, targets, lengths)


@pytest.mark.parametrize("what", ["bce", "si_sdr"])
@settings(max_examples=20)
@given(talkers=st.integers(2, 5), seed=SEEDS)
def test_label_order_and_padding_change_nothing(what: str, talkers: int, seed: int) -> None:
    estimates, targets = torch.randn(2, 2, talkers, 40, generator=draw(seed)).unbind(0)
    lengths = torch.tensor([40, 23])
    losses, order = pit(costs_of(what, estimates, targets, lengths))
    shuffle = torch.randperm(talkers, generator=draw(seed))
    shuffled, order_shuffled = pit(costs_of(what, estimates, targets[:, shuffle], lengths))
    torch.testing.assert_close(losses, shuffled)
    assert torch.equal(order[:, shuffle], order_shuffled)
    longer = F.pad(estimates, (0, 9), value=5.0), F.pad(targets, (0, 9), value=3.0)
    torch.testing.assert_close(losses, pit(costs_of(what, *longer, lengths))[0])
    alone, _ = pit(costs_of(what, estimates[1:, :, :23], targets[1:, :, :23], lengths[1:]))
    torch.testing.assert_close(losses[1:], alone, atol=1e-4, rtol=1e-4)


def si_sdr(estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """SI-SDR in dB from its definition, in double precision."""
    estimate, reference = estimate.double(), reference.double()
    target = (estimate @ reference) / (reference @ reference) * reference
    return 10 * torch.log10((target @ target) / (target - estimate).square().sum())


@settings(max_examples=30)
@given(st.integers(1, 4), SEEDS, st.floats(-25, 28))
def test_si_sdr_is_its_definition(talkers: int, seed: int, level: float) -> None:
    references = 0.1 * torch.randn(2, talkers, 400, generator=draw(seed))
    noise = 0.1 * torch.randn(2, talkers, 400, generator=draw(seed + 1))
    estimates = 0.3 * (references + 10 ** (-level / 20) * noise)
    lengths = torch.tensor([400, 250])
    costs = pairwise_si_sdr(estimates, references, lengths, clip=None)
    for b, i, j in product(range(2), range(talkers), range(talkers)):
        n = int(lengths[b])
        expected = -si_sdr(estimates[b, i, :n], references[b, j, :n]).item()
        if expected < 45:
            assert costs[b, i, j].item() == pytest.approx(expected, abs=0.02)
        else:  # nearly orthogonal: limited
            assert 40 < costs[b, i, j].item() <= 80.1
    torch.testing.assert_close(pairwise_si_sdr(estimates * 0.01, references, lengths, clip=None), costs, atol=1e-2,
                               rtol=1e-3)


def test_clip_has_no_gradient_beyond() -> None:
    references = torch.randn(1, 2, 500)
    estimates = (references + torch.tensor([1e-3, 0.3])[:, None] * torch.randn(1, 2, 500)).requires_grad_()
    costs = pairwise_si_sdr(estimates, references, torch.tensor([500]), clip=30.0)
    assert costs[0, 0, 0].item() == -30 and -15 < costs[0, 1, 1].item() < -8
    costs.diagonal(dim1=1, dim2=2).sum().backward()
    assert estimates.grad[0, 0].abs().sum() == 0 and estimates.grad[0, 1].abs().sum() > 0


def test_silent_reference_costs_the_level_of_the_estimate() -> None:
    speech = torch.randn(1, 500)
    references = torch.stack([speech, torch.zeros(1, 500)], dim=1)
    estimates = torch.stack([speech, 0.1 * speech], dim=1).requires_grad_()
    costs = pairwise_si_sdr(estimates, references, torch.tensor([500]), clip=30.0)
    assert costs[0, 0].tolist() == pytest.approx([-30, 0.0043], abs=1e-3)  # as loud as all talkers: 0 dB
    assert costs[0, 1, 1].item() == pytest.approx(-19.59, abs=0.01)  # 10 log10(0.01 + 0.001)
    assert pit(costs)[1].tolist() == [[0, 1]]
    costs[0, 1, 1].backward()
    assert (estimates.grad[0, 1] * speech[0]).min() >= 0  # downhill is quieter


@pytest.mark.parametrize("estimate, reference", [
    ("zeros", "speech"), ("zeros", "zeros"), ("speech", "zeros"), ("speech", "speech"), ("other", "speech"),
    ("tiny", "speech"), ("speech", "tiny"), ("loud", "zeros"),
])
@pytest.mark.parametrize("length", [0, 1, 64])
def test_si_sdr_and_its_gradient_are_finite(estimate: str, reference: str, length: int) -> None:
    speech = torch.sin(torch.arange(64.0))
    signals = {"zeros": torch.zeros(64), "speech": speech, "other": torch.cos(torch.arange(64.0)),
               "tiny": 1e-12 * speech, "loud": 1e4 * speech}
    x = signals[estimate].repeat(1, 2, 1).requires_grad_()
    y = torch.stack([signals[reference], speech])[None]
    for clip in (30.0, None):
        costs = pairwise_si_sdr(x, y, torch.tensor([length]), clip)
        gradient, = torch.autograd.grad(costs.sum(), x)
        assert torch.isfinite(costs).all() and torch.isfinite(gradient).all()
        assert gradient[..., length:].abs().sum() == 0
        if length == 0:
            assert costs.abs().sum() == 0


def ctc_batch(seed: int, batch: int, talkers: int, time: int = 12, vocabulary: int = 5) -> tuple:
    generator = draw(seed)
    logits = 2 * torch.randn(batch, talkers, time, vocabulary, generator=generator)
    targets = torch.randint(0, vocabulary - 1, (batch, talkers, 4), generator=generator) + 1
    sizes = torch.randint(0, 5, (batch, talkers), generator=generator)
    return logits.requires_grad_(), torch.randint(0, time + 1, (batch,), generator=generator), targets, sizes


@settings(max_examples=40)
@given(SEEDS)
def test_compact_ctc_is_that_of_torch(seed: int) -> None:
    """With repeated tokens, empty targets, short clips and targets without a path."""
    logits, lengths, targets, sizes = ctc_batch(seed, 3, 2)
    frames = lengths[:, None].expand(-1, 2)
    weights = torch.randn(3, 2, generator=draw(seed))
    ours = compact_ctc(logits.log_softmax(-1), frames, targets, sizes)
    gradient, = torch.autograd.grad((ours * weights).sum(), logits)
    theirs = F.ctc_loss(logits.flatten(0, 1).transpose(0, 1).log_softmax(-1), targets.flatten(0, 1), frames.flatten(),
                        sizes.flatten(), reduction="none", zero_infinity=True).view(3, 2)
    expected, = torch.autograd.grad((theirs * weights).sum(), logits)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 4), st.booleans())
def test_ctc_pit_equals_enumeration(seed: int, talkers: int, normalise: bool) -> None:
    logits, lengths, targets, sizes = ctc_batch(seed, 2, talkers)
    losses, order = ctc_pit(logits.log_softmax(-1), lengths, targets, sizes, normalise=normalise)
    frames = lengths[:, None].expand(-1, talkers)
    every = torch.stack([compact_ctc(logits[:, list(p)].log_softmax(-1), frames, targets, sizes)
                         / (sizes.clamp(min=1) if normalise else 1) for p in permutations(range(talkers))]).mean(-1)
    torch.testing.assert_close(losses.mean(1), every.min(0).values, atol=1e-5, rtol=1e-5)
    assert all(sorted(row) == list(range(talkers)) for row in order.tolist())
    again, same = ctc_pit(logits.log_softmax(-1), lengths, targets, sizes, order=order, normalise=normalise)
    assert torch.equal(again, losses) and same is order
