"""Losses of the dual-encoder system against numpy, and the properties of SYSTEMS D.8."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.nets.speaker_loss import (CHANGE, END, PAD, SPEAKER, TEXT, adaptive_mask, adaptive_threshold,
                                             balanced_loss, length_aware_speaker_loss, token_cross_entropy)

# Two clips: two segments each, one of them with a speaker of two tokens; padding.
TYPES = torch.tensor([[TEXT, TEXT, TEXT, CHANGE, SPEAKER, TEXT, CHANGE, SPEAKER, END, PAD],
                      [TEXT, CHANGE, SPEAKER, SPEAKER, TEXT, TEXT, CHANGE, SPEAKER, END, PAD]])
WEIGHTS = torch.tensor([[0, 0, 0, 0, 3, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0, 2, 0, 0]]).float()
OVERLAPPED = torch.tensor([[1, 0, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]).bool()
LOSSES = st.lists(st.floats(0, 12, width=32), min_size=20, max_size=20).map(
    lambda values: torch.tensor(values).view(2, 10).where(TYPES != PAD, 0.0))
PROPERTY = settings(max_examples=60)


def test_types_are_those_of_the_targets() -> None:
    from espnet_mt_llm.text import targets

    assert [TEXT, CHANGE, SPEAKER, END] == [targets.TEXT, targets.CHANGE, targets.SPEAKER, targets.END]


def test_cross_entropy_of_tokens() -> None:
    logits = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.tensor([[0, 6, 3, -1, -100], [1, 1, 5, 2, -1]])
    losses = token_cross_entropy(logits, targets)
    x = logits.detach().double().numpy()
    for b in range(2):
        for u in range(5):
            t = int(targets[b, u])
            expected = 0.0 if t < 0 else np.log(np.exp(x[b, u]).sum()) - x[b, u, t]
            assert losses[b, u].item() == pytest.approx(expected, abs=1e-5)
    losses.sum().backward()
    assert not logits.grad[0, 3:].any() and logits.grad[0, 0].any()


def test_cross_entropy_is_in_single_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = token_cross_entropy(torch.randn(1, 3, 5).bfloat16(), torch.tensor([[1, 2, 3]]))
    assert losses.dtype == torch.float32


@PROPERTY
@given(LOSSES)
def test_speaker_loss_is_weighted_by_the_length_of_the_segment(ce: torch.Tensor) -> None:
    losses = length_aware_speaker_loss(ce, TYPES == SPEAKER, WEIGHTS)
    a, b = ce.numpy()
    np.testing.assert_allclose(losses, [(3 * a[4] + a[7]) / 4, (b[2] + b[3] + 2 * b[7]) / 4], rtol=1e-5, atol=1e-6)


@PROPERTY
@given(LOSSES, st.floats(0.5, 40))
def test_equal_lengths_make_a_plain_mean(ce: torch.Tensor, length: float) -> None:
    chosen = TYPES == SPEAKER
    losses = length_aware_speaker_loss(ce, chosen, torch.full_like(ce, length))
    torch.testing.assert_close(losses, torch.stack([ce[b, chosen[b]].mean() for b in range(2)]))


def test_each_clip_has_the_same_weight() -> None:
    """Eq. 4 is per sample: a clip of long segments does not outweigh the other."""
    ce = torch.rand(2, 10)
    one = balanced_loss(ce, TYPES, WEIGHTS, "balanced").speaker
    other = balanced_loss(ce, TYPES, WEIGHTS * torch.tensor([[100.0], [1.0]]), "balanced").speaker
    torch.testing.assert_close(one, other)
    alone = [balanced_loss(ce[b: b + 1], TYPES[b: b + 1], WEIGHTS[b: b + 1], "asr_spk").speaker for b in range(2)]
    torch.testing.assert_close(one, torch.stack(alone).mean())


@PROPERTY
@given(LOSSES)
def test_threshold_and_mask(ce: torch.Tensor) -> None:
    is_text = TYPES == TEXT
    thresholds = adaptive_threshold(ce, is_text)
    keep = adaptive_mask(ce, is_text)
    assert (thresholds >= 2.0).all()
    for b in range(2):
        text = ce[b, is_text[b]].numpy()
        threshold = max(text.mean(dtype=np.float64), 2.0)
        assert thresholds[b].item() == pytest.approx(threshold, rel=1e-5)
        assert keep[b, is_text[b]].tolist() == (text <= thresholds[b].item()).tolist()
        assert text.max() > 2.0 or keep[b, is_text[b]].all()
    assert not keep[~is_text].any()


@PROPERTY
@given(LOSSES)
def test_infinite_threshold_is_plain_cross_entropy(ce: torch.Tensor) -> None:
    result = balanced_loss(ce, TYPES, WEIGHTS, "balanced", math.inf)
    asr = (TYPES == TEXT) | (TYPES == CHANGE) | (TYPES == END)
    torch.testing.assert_close(result.asr, ce[asr].mean())
    assert torch.equal(result.loss, balanced_loss(ce, TYPES, WEIGHTS, "asr_spk").loss)
    assert result.masked.tolist() == [0, 0]
    plain = balanced_loss(ce, TYPES, WEIGHTS, "ce")
    torch.testing.assert_close(plain.loss, ce[TYPES != PAD].mean())
    torch.testing.assert_close(torch.stack([plain.asr, plain.speaker]), torch.stack([result.asr, result.speaker]))


@PROPERTY
@given(LOSSES)
def test_threshold_zero_leaves_the_speaker_loss(ce: torch.Tensor) -> None:
    ce = ce.clone().requires_grad_()
    result = balanced_loss(ce, TYPES, WEIGHTS, "balanced", 0)
    torch.testing.assert_close(result.loss, length_aware_speaker_loss(ce, TYPES == SPEAKER, WEIGHTS).mean())
    result.loss.backward()
    assert result.asr == 0 and not ce.grad[TYPES != SPEAKER].any() and (ce.grad[TYPES == SPEAKER] > 0).all()
    assert torch.equal(result.masked, result.text)


def test_balanced_loss_against_numpy() -> None:
    ce = torch.tensor([[0.5, 9.0, 1.0, 7.0, 2.0, 0.1, 0.3, 4.0, 6.0, 0.0],
                       [3.0, 0.2, 1.0, 1.5, 5.0, 9.0, 8.0, 0.5, 0.4, 0.0]], requires_grad=True)
    result = balanced_loss(ce, TYPES, WEIGHTS, "balanced", overlapped=OVERLAPPED)
    # Means 2.65 and 5.67: the 9.0 of both clips are masked; <SC> and the end are kept whatever their loss.
    kept = [0.5, 1.0, 7.0, 0.1, 0.3, 6.0, 3.0, 0.2, 5.0, 8.0, 0.4]
    speaker = ((3 * 2.0 + 4.0) / 4 + (1.0 + 1.5 + 2 * 0.5) / 4) / 2
    assert result.asr.item() == pytest.approx(np.mean(kept), rel=1e-5)
    assert result.speaker.item() == pytest.approx(speaker, rel=1e-5)
    assert result.loss.item() == pytest.approx(np.mean(kept) + speaker, rel=1e-5)
    assert result.masked.tolist() == [1, 1] and result.text.tolist() == [3, 4]
    assert result.masked_share().tolist() == pytest.approx([1 / 3, 1 / 4])
    result.loss.backward()
    assert ce.grad[0, 1] == ce.grad[1, 5] == 0 and not ce.grad[TYPES == PAD].any()
    assert (ce.grad[0, [3, 8]] > 0).all()


def test_the_share_without_tokens_of_a_kind_is_not_a_number() -> None:
    result = balanced_loss(torch.zeros(2, 10), TYPES, WEIGHTS, "balanced")
    assert result.text.tolist() == [7, 0] and math.isnan(result.masked_share()[1])


def test_clips_without_speakers_or_text_are_finite() -> None:
    types = torch.tensor([[TEXT, END, PAD], [SPEAKER, PAD, PAD], [PAD, PAD, PAD]])
    ce = torch.tensor([[1.0, 3.0, math.nan], [2.0, math.nan, math.nan], [math.nan] * 3], requires_grad=True)
    for mode in ("ce", "asr_spk", "balanced"):
        ce.grad = None
        result = balanced_loss(ce, types, torch.ones(3, 3), mode)
        result.loss.backward()
        assert result.loss.item() == pytest.approx(2.0 if mode == "ce" else 2.0 + 2.0 / 3)
        assert not ce.grad[types == PAD].any()
    nothing = balanced_loss(ce[2:], types[2:], torch.ones(1, 3), "balanced")
    assert nothing.loss == 0 and nothing.loss.requires_grad


def test_the_floor_is_an_argument() -> None:
    ce = torch.full((2, 10), 1.0).where(TYPES != PAD, 0.0)
    ce[0, 0] = 1.5
    assert balanced_loss(ce, TYPES, WEIGHTS, "balanced").masked.sum() == 0
    assert balanced_loss(ce, TYPES, WEIGHTS, "balanced", floor=0.5).masked.sum() == 1


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'balanced'"):
        balanced_loss(torch.zeros(2, 10), TYPES, WEIGHTS, "balance")
    for threshold in (1.0, "adaptiv", -1):
        with pytest.raises(ValueError, match="neither 'adaptive' nor .inf nor 0"):
            adaptive_mask(torch.zeros(1, 2), torch.ones(1, 2).bool(), threshold)
