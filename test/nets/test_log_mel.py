"""Log-mel features against torchaudio's Kaldi implementation, and their behaviour with padding."""

from typing import Callable

import pytest
import torch

from espnet_mt_llm.nets.log_mel import LogMel, mel_matrix


def test_filters_are_kaldis(module: Callable) -> None:
    kaldi = module("torchaudio.compliance.kaldi")
    reference, _ = kaldi.get_mel_banks(80, 512, 16000.0, 20.0, 8000.0, 100.0, -500.0, 1.0)
    ours = mel_matrix(80, 512, 16000)[:256].T
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=0)


def test_tone_lands_in_its_filter() -> None:
    time = torch.arange(16000) / 16000
    features, lengths = LogMel(stack=1)(torch.sin(2 * torch.pi * 1000 * time)[None] * 0.1, torch.tensor([16000]))
    assert lengths.tolist() == [98]
    # The mean is taken away per clip, so a steady tone leaves almost nothing; half a tone leaves its filter.
    assert features.abs().mean() < 0.05
    half = torch.cat([torch.sin(2 * torch.pi * 1000 * time) * 0.1, torch.zeros(16000)])
    features, _ = LogMel(stack=1)(half[None], torch.tensor([32000]))
    best = int(features[0, :90].mean(0).argmax())
    assert best == int(mel_matrix(80, 512, 16000)[32].argmax())


@pytest.mark.parametrize("stack", [1, 4])
def test_padding_changes_nothing(stack: int) -> None:
    torch.manual_seed(0)
    speech, lengths = torch.randn(3, 9000), torch.tensor([9000, 5000, 7001])
    frontend = LogMel(stack=stack).eval()
    together, frames = frontend(speech, lengths)
    for i, n in enumerate(lengths.tolist()):
        alone, count = frontend(speech[i : i + 1, :n], lengths[i : i + 1])
        assert count.item() == frames[i]
        torch.testing.assert_close(together[i, : count.item()], alone[0], atol=1e-5, rtol=1e-5)


def test_shorter_than_a_frame_gives_one_frame() -> None:
    features, lengths = LogMel()(torch.zeros(1, 10), torch.tensor([10]))
    assert features.shape == (1, 1, 320) and lengths.tolist() == [1]


def test_masks_hide_only_while_training() -> None:
    torch.manual_seed(0)
    frontend = LogMel(stack=1, num_masks=1, mask_width=20, num_time_masks=1, mask_frames=10)
    speech, lengths = torch.randn(4, 8000), torch.full((4,), 8000)
    assert (frontend(speech, lengths)[0] == 0).any()
    assert not (frontend.eval()(speech, lengths)[0] == 0).any()
