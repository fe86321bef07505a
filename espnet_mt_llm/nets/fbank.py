"""Kaldi's log filter-bank features of a batch, on any device."""

import math
from typing import Optional

import torch
from torch.nn import functional as F

from espnet_mt_llm.common import UserError
from espnet_mt_llm.nets.log_mel import mel_matrix
from espnet_mt_llm.nets.masks import length_mask

WINDOWS = {
    "hamming": lambda size: torch.hamming_window(size, periodic=False, dtype=torch.float64),
    "povey": lambda size: torch.hann_window(size, periodic=False, dtype=torch.float64).pow(0.85),
}


class KaldiFbank(torch.nn.Module):
    """Waveform ``(B, N)`` to log-mel frames ``(B, T, num_mel_bins)``, as Kaldi's ``compute-fbank-feats`` makes them.

    Each frame without its mean, pre-emphasis within the frame, window, power spectrum of an FFT of the next power of
    two, triangular filters from 20 Hz to half the rate, logarithm; no dither, no energy, only frames that fit. Equal
    to ``torchaudio.compliance.kaldi.fbank``, which takes one clip at a time.

    Args:
        rate: sampling rate in Hz.
        num_mel_bins: filters.
        window: ``povey``, Kaldi's own, or ``hamming``.
        frame_length, frame_shift: seconds.
        preemphasis: coefficient.
    """

    def __init__(self, rate: int = 16000, num_mel_bins: int = 80, window: str = "povey", frame_length: float = 0.025,
                 frame_shift: float = 0.01, preemphasis: float = 0.97) -> None:
        super().__init__()
        if window not in WINDOWS:
            raise UserError(f"fbank: unknown window '{window}'; valid: {', '.join(WINDOWS)}")
        # Rounded first: 0.01 s of 16 kHz must not be 159 samples. Kaldi takes the whole samples.
        self.window_size, self.hop = (int(round(rate * seconds, 6)) for seconds in (frame_length, frame_shift))
        self.fft_size = 2 ** math.ceil(math.log2(self.window_size))
        self.preemphasis, self.output_size = preemphasis, num_mel_bins
        self.register_buffer("window", WINDOWS[window](self.window_size).float(), persistent=False)
        self.register_buffer("mel", mel_matrix(num_mel_bins, self.fft_size, rate), persistent=False)

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor, scale: float = 32768.0
                ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features ``(B, T, num_mel_bins)``, 0 behind a clip's end, and their lengths ``(B,)``.

        Args:
            speech: samples ``(B, N)`` within -1 and 1.
            lengths: ``(B,)``; a clip shorter than one frame is filled up with zeros to one.
            scale: what samples are multiplied with: 32768 for Kaldi's 16-bit numbers, 1 to leave them.
        """
        with torch.no_grad(), torch.autocast(speech.device.type, enabled=False):
            speech = speech.float() * length_mask(lengths, speech.size(1)) * scale
            frame_lengths = ((lengths - self.window_size) // self.hop + 1).clamp(min=1)
            size = (int(frame_lengths.max()) - 1) * self.hop + self.window_size
            speech = F.pad(speech, (0, size - speech.size(1)))
            frames = speech.unfold(1, self.window_size, self.hop)
            frames = frames - frames.mean(-1, keepdim=True)
            # The first sample of a frame stands for the one before it.
            before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
            frames = (frames - self.preemphasis * before) * self.window
            power = torch.view_as_real(torch.fft.rfft(frames, n=self.fft_size)).square().sum(-1)
            features = (power @ self.mel).clamp(min=torch.finfo(torch.float32).eps).log()
            return features * length_mask(frame_lengths, features.size(1))[..., None], frame_lengths


def subtract_mean(features: torch.Tensor, lengths: torch.Tensor, window: Optional[int] = None) -> torch.Tensor:
    """Return ``features`` ``(B, T, F)`` without their mean over the clip, 0 behind its end.

    Args:
        lengths: ``(B,)``, 1 to T.
        window: so many frames around each, those that there are, instead of the clip; odd.
    """
    time = features.size(1)
    inside = length_mask(lengths, time)[..., None].to(features.dtype)
    features = features * inside
    if window is None:
        return (features - features.sum(1, keepdim=True) / lengths[:, None, None]) * inside
    # In double precision: a sum over a long clip is large, and what differs between two places is small.
    sums = F.pad(features.double().cumsum(1), (0, 0, 1, 0))
    middle = torch.arange(time, device=features.device)
    begin = (middle - window // 2).clamp(min=0)
    end = torch.minimum(middle + window // 2 + 1, lengths[:, None])
    count = (end - begin).clamp(min=1)[..., None]
    total = sums.gather(1, end[..., None].expand_as(features)) - sums[:, begin]
    return (features - (total / count).to(features.dtype)) * inside
