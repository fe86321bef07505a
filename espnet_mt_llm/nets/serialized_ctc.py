"""Serialized CTC: one CTC loss a talker stream, streams in onset order; a PIT switch; greedy decoding."""

import torch
from torch.nn import functional as F

from espnet_mt_llm.nets.permutation import ctc_pit


def serialized_ctc_loss(log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor,
                        target_lengths: torch.Tensor, normalise: bool = True, pit: bool = False
                        ) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean CTC loss (Graves et al., 2006) over the talkers of each clip.

    ``L = 1/K sum_k -log P_CTC(y^k | stream k)`` with stream k for the k-th talker by onset: no permutation search
    (arXiv 2409.00815). With ``pit`` the assignment of least loss is chosen instead, see
    :func:`espnet_mt_llm.nets.permutation.ctc_pit`.

    Args:
        log_probs: ``(B, K, T, V)`` log posteriors of a softmax; the blank is 0.
        lengths: ``(B,)`` frames.
        targets: ``(B, K, L)`` token ids, below 0 or any id beyond ``target_lengths``.
        target_lengths: ``(B, K)``.
        normalise: divide each talker's loss by its target length (at least 1), so that long clips do not dominate.
        pit: search the assignment.

    Returns:
        losses ``(B,)`` and the streams chosen for each talker ``(B, K)``.

    Raises:
        ValueError: ``pit``, and a loss is NaN.
    """
    batch, talkers = target_lengths.shape
    targets = targets.clamp(min=0)
    if pit and talkers > 1:
        losses, order = ctc_pit(log_probs, lengths, targets, target_lengths, normalise=normalise)
        return losses.mean(dim=1), order
    losses = F.ctc_loss(log_probs.flatten(0, 1).transpose(0, 1), targets.flatten(0, 1),
                        lengths.repeat_interleave(talkers), target_lengths.flatten(), reduction="none",
                        zero_infinity=True).view(batch, talkers)
    if normalise:
        losses = losses / target_lengths.clamp(min=1)
    return losses.mean(dim=1), torch.arange(talkers, device=log_probs.device).expand(batch, -1)


def too_long(lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor) -> torch.Tensor:
    """Say where CTC has no path: more tokens, plus a blank between equal neighbours, than frames; ``(B, K)`` booleans.

    Such a talker has an infinite loss, which :func:`serialized_ctc_loss` counts as 0.
    """
    steps = torch.arange(max(0, targets.size(-1) - 1), device=targets.device)
    repeats = ((targets[..., 1:] == targets[..., :-1]) & (steps < target_lengths.unsqueeze(-1) - 1)).sum(-1)
    return target_lengths + repeats > lengths.unsqueeze(1)


def greedy_ctc(log_probs: torch.Tensor, lengths: torch.Tensor, blank: int = 0) -> list[list[int]]:
    """Best path: the best token of each frame, repeats collapsed, blanks dropped; ``(N, T, V)`` to N token lists."""
    best = log_probs.argmax(dim=-1)
    # A token is emitted where it differs from the frame before and is not the blank.
    fresh = torch.ones_like(best, dtype=torch.bool)
    fresh[:, 1:] = best[:, 1:] != best[:, :-1]
    keep = fresh & (best != blank)
    keep &= torch.arange(best.size(1), device=best.device)[None, :] < lengths[:, None]
    return [row[mask].tolist() for row, mask in zip(best.cpu(), keep.cpu())]
