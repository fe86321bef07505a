"""Log-mel filter-bank features, stacked to the frame rate of the encoder."""

import math

import torch
from torch.nn import functional as F

from espnet_mt_llm.nets.masks import length_mask


def mel_matrix(num_mels: int, fft_size: int, rate: int, low: float = 20.0) -> torch.Tensor:
    """Return ``(fft_size // 2 + 1, num_mels)`` triangular filters, equally spaced on the mel scale of HTK.

    mel(f) = 1127 ln(1 + f / 700); a filter rises and falls linearly in mel between its neighbours' centres, as in
    Kaldi.
    """

    def mel(hertz: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    bins = mel(torch.arange(fft_size // 2 + 1, dtype=torch.float64) * rate / fft_size)
    edges = torch.linspace(mel(torch.tensor(low)).item(), mel(torch.tensor(rate / 2.0)).item(), num_mels + 2,
                           dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0.0).float()


class LogMel(torch.nn.Module):
    """Waveform ``(B, N)`` to mean-normalised log-mel frames ``(B, T, stack * num_mels)``.

    Args:
        rate: sampling rate in Hz.
        num_mels: filters.
        window, shift: frame length and distance in seconds.
        stack: neighbouring frames joined into one; divides the frame rate.
        mask_width, num_masks: frequency masks of SpecAugment (Park et al., 2019), while training.
        mask_frames, num_time_masks: its time masks, in frames before stacking.
    """

    def __init__(self, rate: int = 16000, num_mels: int = 80, window: float = 0.025, shift: float = 0.01,
                 stack: int = 4, mask_width: int = 0, num_masks: int = 0, mask_frames: int = 0,
                 num_time_masks: int = 0) -> None:
        super().__init__()
        self.window_size = round(window * rate)
        self.hop = round(shift * rate)
        self.fft_size = 2 ** math.ceil(math.log2(self.window_size))
        self.stack = stack
        self.mask_width, self.num_masks = mask_width, num_masks
        self.mask_frames, self.num_time_masks = mask_frames, num_time_masks
        self.register_buffer("window", torch.hann_window(self.window_size), persistent=False)
        self.register_buffer("mel", mel_matrix(num_mels, self.fft_size, rate), persistent=False)
        self.output_size = num_mels * stack
        self.frame_shift = shift * stack

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features ``(B, T, stack * num_mels)`` and their lengths ``(B,)``; at least one frame each."""
        missing = self.window_size - speech.size(1)
        if missing > 0:
            speech = F.pad(speech, (0, missing))
        with torch.no_grad():
            frames = speech.unfold(1, self.window_size, self.hop) * self.window
            # A real FFT of the frame matrix: rows beyond the shortest clip are padding and are masked below.
            # |z|^2 from the parts: abs() of a complex tensor takes ten times as long.
            power = torch.view_as_real(torch.fft.rfft(frames, n=self.fft_size)).square().sum(-1)
            logmel = torch.log(power @ self.mel + 1e-6)
            num_frames = ((lengths - self.window_size) // self.hop + 1).clamp(min=1)
            mask = length_mask(num_frames, logmel.size(1))[..., None]
            mean = (logmel * mask).sum(1, keepdim=True) / num_frames[:, None, None]
            logmel = (logmel - mean) * mask
            if self.training:
                logmel = self._augment(logmel, num_frames)
            return self._stack(logmel, num_frames)

    def _stack(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, time, size = frames.shape
        groups = -(-time // self.stack)
        frames = F.pad(frames, (0, 0, 0, groups * self.stack - time))
        # Unit scale: log-mel deviations are about 3, the layer behind expects about 1.
        return frames.reshape(batch, groups, size * self.stack) / 3.0, -(-lengths // self.stack)

    def _augment(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        batch, time, size = frames.shape
        for _ in range(self.num_masks):
            width = torch.randint(0, self.mask_width + 1, (batch, 1), device=frames.device)
            start = (torch.rand(batch, 1, device=frames.device) * (size - width)).long()
            bins = torch.arange(size, device=frames.device)
            frames = frames.masked_fill(((bins >= start) & (bins < start + width))[:, None, :], 0.0)
        for _ in range(self.num_time_masks):
            width = torch.randint(0, self.mask_frames + 1, (batch, 1), device=frames.device)
            start = (torch.rand(batch, 1, device=frames.device) * (lengths[:, None] - width).clamp(min=0)).long()
            steps = torch.arange(time, device=frames.device)
            frames = frames.masked_fill(((steps >= start) & (steps < start + width))[..., None], 0.0)
        return frames
