"""Losses of the dual-encoder system: cross entropy, length-aware speaker loss, adaptive mask of the ASR loss."""

import math
from typing import NamedTuple, Optional, Union

import torch
from torch.nn import functional as F

from espnet_mt_llm.common import nearest

TEXT, CHANGE, SPEAKER, END, PAD = 0, 1, 2, 3, -1
MODES = ("ce", "asr_spk", "balanced")


class BalancedLoss(NamedTuple):
    """What :func:`balanced_loss` gives; all but the loss are without gradient, for the logs.

    Attributes:
        loss: to minimise.
        asr, speaker: its parts; ``asr`` of the text, ``<SC>`` and end tokens that are kept.
        masked: ``(2,)`` text tokens that the mask drops: clean, overlapped.
        text: ``(2,)`` text tokens: clean, overlapped.
    """

    loss: torch.Tensor
    asr: torch.Tensor
    speaker: torch.Tensor
    masked: torch.Tensor
    text: torch.Tensor

    def masked_share(self) -> torch.Tensor:
        """Return the masked share ``(2,)`` of the clean and the overlapped text tokens; NaN where there are none."""
        return self.masked / self.text


def token_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy ``(B, U)`` in nats of ``logits`` ``(B, U, V)``, in float32; 0 where ``targets`` ``(B, U)`` < 0."""
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.masked_fill(targets < 0, PAD).flatten(),
                                 ignore_index=PAD, reduction="none")
    return losses.view(targets.shape)


def length_aware_speaker_loss(ce: torch.Tensor, is_speaker: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Speaker loss ``(B,)`` of each clip: long segments count more (arXiv 2606.13095, Eq. 4)::

        L_spk = sum_i L_i CE(spk_i) / sum_i L_i

    Args:
        ce: ``(B, U)``.
        is_speaker: ``(B, U)`` booleans, the speaker tokens.
        weights: ``(B, U)``, at each speaker token the number of text tokens L_i of its segment.

    Returns:
        0 for a clip whose weights are all 0.
    """
    weights = torch.where(is_speaker, weights.to(ce.dtype), 0.0)
    return torch.where(is_speaker, ce * weights, 0.0).sum(1) / weights.sum(1).clamp(min=1e-6)


def adaptive_threshold(ce: torch.Tensor, is_text: torch.Tensor, floor: float = 2.0) -> torch.Tensor:
    """Threshold ``(B,)`` of each clip, ``T_mask = max(mean CE of its text tokens, floor)`` (arXiv 2606.13095, Eq. 5).

    Args:
        ce: ``(B, U)`` in nats.
        is_text: ``(B, U)`` booleans.
    """
    ce = ce.detach()
    return (torch.where(is_text, ce, 0.0).sum(1) / is_text.sum(1).clamp(min=1)).clamp(min=floor)


def adaptive_mask(ce: torch.Tensor, is_text: torch.Tensor, threshold: Union[str, float] = "adaptive",
                  floor: float = 2.0) -> torch.Tensor:
    """Say which text tokens are learnt, ``(B, U)``: those whose loss is not above the threshold (Eq. 6).

    Args:
        ce: ``(B, U)`` in nats.
        is_text: ``(B, U)`` booleans.
        threshold: ``adaptive`` (Eq. 5), infinite for no mask, or 0 to mask every token.
        floor: of the adaptive threshold.

    Raises:
        ValueError: another threshold.
    """
    if threshold == "adaptive":
        return is_text & (ce.detach() <= adaptive_threshold(ce, is_text, floor).unsqueeze(1))
    if threshold in (0, math.inf):
        return is_text if threshold else torch.zeros_like(is_text)
    raise ValueError(f"threshold: {threshold!r} is neither 'adaptive' nor .inf nor 0")


def labels_alone(mode: str, threshold: Union[str, float]) -> bool:
    """Say whether nothing of L_asr is left in the loss: the ablation without it."""
    return mode == "balanced" and threshold == 0


def balanced_loss(ce: torch.Tensor, types: torch.Tensor, weights: torch.Tensor, mode: str,
                  threshold: Union[str, float] = "adaptive", floor: float = 2.0,
                  overlapped: Optional[torch.Tensor] = None) -> BalancedLoss:
    """Loss of a batch in the stages of arXiv 2606.13095.

    - ``ce``, stages 1 and 2: the mean of ``ce`` over all tokens.
    - ``asr_spk``, stage 3: ``L_asr + L_spk``; L_asr is the mean over text, ``<SC>`` and end tokens of the batch, L_spk
      the mean of :func:`length_aware_speaker_loss` over its clips.
    - ``balanced``, stage 4: ``Mask(L_asr) + L_spk`` (Eq. 6). The mean is that over the tokens that are kept. Text alone
      is masked: ``<SC>`` and the end, on which the format rests, are always learnt. The threshold 0 is the ablation
      without the ASR loss: nothing of L_asr is left then, ``<SC>`` and the end included.

    The paper leaves open what the mean is taken over and whether ``<SC>`` and the end may be masked.

    Args:
        ce: ``(B, U)`` of :func:`token_cross_entropy`.
        types: ``(B, U)`` ``TEXT``, ``CHANGE``, ``SPEAKER``, ``END`` or ``PAD``.
        weights: ``(B, U)``, L_i at the speaker tokens.
        mode: see above.
        threshold, floor: of :func:`adaptive_mask`; of the mode ``balanced`` alone.
        overlapped: ``(B, U)`` booleans, tokens spoken while another speaker talks, for the statistics.

    Raises:
        ValueError: an unknown mode or threshold.
    """
    if mode not in MODES:
        raise ValueError(f"unknown loss '{mode}'; {nearest(mode, MODES)}")
    is_text, is_speaker = types == TEXT, types == SPEAKER
    kept = adaptive_mask(ce, is_text, threshold, floor) if mode == "balanced" else is_text
    learnt = kept if labels_alone(mode, threshold) else kept | (types == CHANGE) | (types == END)
    asr, speaker = _mean(ce, learnt), length_aware_speaker_loss(ce, is_speaker, weights).mean()
    loss = _mean(ce, types != PAD) if mode == "ce" else asr + speaker
    apart = torch.stack([is_text, torch.zeros_like(is_text)] if overlapped is None
                        else [is_text & ~overlapped, is_text & overlapped])
    return BalancedLoss(loss, asr.detach(), speaker.detach(), (apart & ~kept).sum((1, 2)), apart.sum((1, 2)))


def _mean(ce: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean of the chosen tokens of the batch; 0 where there are none."""
    return torch.where(chosen, ce, 0.0).sum() / chosen.sum().clamp(min=1)
