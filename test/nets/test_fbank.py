"""Kaldi's filter banks of a batch equal torchaudio's of each clip."""

from typing import Optional

import pytest
import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.nets.fbank import KaldiFbank, subtract_mean


def kaldi(clip: torch.Tensor, rate: int, window: str, bins: int) -> torch.Tensor:
    """Return torchaudio's features ``(T, bins)`` of one clip ``(N,)``."""
    from torchaudio.compliance.kaldi import fbank

    return fbank(clip[None], sample_frequency=rate, window_type=window, num_mel_bins=bins, dither=0.0,
                 energy_floor=0.0)


@pytest.mark.parametrize("rate, window, bins, scale", [(16000, "hamming", 80, 32768.0), (16000, "povey", 80, 1.0),
                                                       (8000, "povey", 40, 32768.0), (22050, "hamming", 64, 1.0)])
def test_equals_torchaudio(rate: int, window: str, bins: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([16000, 9613, rate // 40 + 1, 12345])
    # What is behind a clip's end must not matter.
    speech = torch.randn(4, 16500, generator=generator) * torch.tensor([0.1, 0.5, 0.01, 0.0])[:, None]
    features, frames = KaldiFbank(rate, bins, window)(speech, lengths, scale)
    assert features.shape == (4, int(frames.max()), bins)
    for i, n in enumerate(lengths.tolist()):
        expected = kaldi(speech[i, :n] * scale, rate, window, bins)
        assert frames[i] == len(expected)
        torch.testing.assert_close(features[i, : frames[i]], expected, atol=2e-3, rtol=1e-4)
        assert not features[i, frames[i]:].any()


def test_shorter_than_a_frame() -> None:
    speech = torch.randn(3, 800)
    features, frames = KaldiFbank()(speech, torch.tensor([800, 399, 1]))
    assert frames.tolist() == [3, 1, 1] and features.isfinite().all()
    filled = torch.cat([speech[1, :399], torch.zeros(1)]) * 32768
    torch.testing.assert_close(features[1, :1], kaldi(filled, 16000, "povey", 80), atol=1e-3, rtol=1e-4)
    alone, frames = KaldiFbank()(speech[1:2, :399], torch.tensor([399]))
    assert torch.allclose(alone[0], features[1, :1], atol=1e-4) and frames.tolist() == [1]


def test_no_such_window() -> None:
    with pytest.raises(UserError, match="unknown window 'hann'; valid: hamming, povey"):
        KaldiFbank(window="hann")


@pytest.mark.parametrize("window", [None, 1, 5, 99])
def test_the_mean_of_the_clip_or_of_frames_around(window: Optional[int]) -> None:
    features, lengths = torch.randn(3, 12, 4), torch.tensor([12, 7, 1])
    found = subtract_mean(features, lengths, window)
    for clip, n, own in zip(features, lengths.tolist(), found):
        half = n if window is None else window // 2
        expected = torch.stack([clip[t] - clip[max(0, t - half) : min(n, t + half + 1)].mean(0) for t in range(n)])
        torch.testing.assert_close(own[:n], expected)
        assert not own[n:].any()
