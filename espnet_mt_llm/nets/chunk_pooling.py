"""Statistics pooling of frames: over a whole clip, or over each chunk of it."""

import torch

from espnet_mt_llm.nets.masks import length_mask


def clip_statistics(frames: torch.Tensor, lengths: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """Return mean and standard deviation of each clip, ``(B, 2 D)``; padding does not count.

    The deviation is the unbiased one that speaker extractors are trained with, ``sqrt(var + eps)``; of a single frame
    it is ``sqrt(eps)``, where ``torch.std`` has NaN.

    Args:
        frames: ``(B, T, D)``.
        lengths: ``(B,)``, 1 to T.
        eps: keeps the gradient finite where a feature is constant.
    """
    outside = ~length_mask(lengths, frames.size(1))[..., None]
    count = lengths[:, None].to(frames.dtype)
    mean = frames.masked_fill(outside, 0.0).sum(1) / count
    variance = (frames - mean[:, None]).masked_fill(outside, 0.0).square().sum(1) / (count - 1).clamp(min=1)
    return torch.cat([mean, (variance + eps).sqrt()], -1)


def chunk_statistics(frames: torch.Tensor, lengths: torch.Tensor, size: int, eps: float = 1e-5) -> torch.Tensor:
    """Return mean and standard deviation of each chunk of ``size`` frames, ``(B, ceil(T / size), 2 D)``.

    A last chunk that is shorter is filled up with the frames before it, the last of the last full chunk; a clip
    shorter than one chunk has the frames that it has. The deviation is biased, ``sqrt(sum (x - mean)^2 / n + eps)``:
    an unbiased one of a single frame is NaN. Chunks behind a clip's end have no meaning.

    Args:
        frames: ``(B, T, D)``.
        lengths: ``(B,)``, 1 to T.
        size: frames of a chunk.
    """
    batch, time, features = frames.shape
    chunks = -(-time // size)
    starts = torch.arange(chunks, device=frames.device) * size
    starts = torch.minimum(starts[None, :], (lengths[:, None] - size).clamp(min=0))
    index = starts[..., None] + torch.arange(size, device=frames.device)
    outside = (index >= lengths[:, None, None])[..., None]
    index = index.clamp(max=time - 1).view(batch, chunks * size, 1).expand(-1, -1, features)
    picked = frames.gather(1, index).view(batch, chunks, size, features)
    count = lengths.clamp(max=size)[:, None, None].to(frames.dtype)
    mean = picked.masked_fill(outside, 0.0).sum(2) / count
    variance = (picked - mean.unsqueeze(2)).masked_fill(outside, 0.0).square().sum(2) / count
    return torch.cat([mean, (variance + eps).sqrt()], -1)


def over_frames(chunks: torch.Tensor, lengths: torch.Tensor, size: int, time: int) -> torch.Tensor:
    """Repeat what each chunk has ``(B, C, E)`` over its ``size`` frames: ``(B, T, E)``, 0 behind ``lengths`` ``(B,)``.
    """
    repeated = chunks.repeat_interleave(size, dim=1)[:, :time]
    return repeated.masked_fill(~length_mask(lengths, time)[..., None], 0.0)
