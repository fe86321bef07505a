"""Serialized CTC: one CTC loss a talker stream, streams in onset order; a PIT switch; greedy decoding."""

import torch
from torch.nn import functional as F

from espnet_mt_llm.nets.permutation import best_assignment


def _ctc(log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor,
         blank: int) -> torch.Tensor:
    """CTC loss ``(N,)`` of each row (Graves et al., 2006); ``log_probs`` ``(N, T, V)``, ``targets`` ``(N, L)``."""
    return F.ctc_loss(log_probs.transpose(0, 1), targets, lengths, target_lengths, blank=blank, reduction="none",
                      zero_infinity=True)


def stream_costs(log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor,
                 blank: int = 0) -> torch.Tensor:
    """CTC loss of every stream against every talker, ``(B, K, K)`` (stream, talker), without gradient.

    The log-softmax is shared by the pairs, so a pair costs one alpha recursion.
    """
    batch, talkers, time, vocabulary = log_probs.shape
    with torch.no_grad():
        every = log_probs.detach().unsqueeze(2).expand(-1, -1, talkers, -1, -1).reshape(-1, time, vocabulary)
        against = targets.unsqueeze(1).expand(-1, talkers, -1, -1).reshape(-1, targets.size(-1))
        sizes = target_lengths.unsqueeze(1).expand(-1, talkers, -1).reshape(-1)
        frames = lengths.repeat_interleave(talkers * talkers)
        return _ctc(every, frames, against, sizes, blank).view(batch, talkers, talkers)


def serialized_ctc_loss(log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor,
                        target_lengths: torch.Tensor, blank: int = 0, normalise: bool = True,
                        pit: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean CTC loss over the talkers of each clip.

    ``L = 1/K sum_k -log P_CTC(y^k | stream k)`` with stream k for the k-th talker by onset: no permutation search
    (arXiv 2409.00815). With ``pit`` the assignment of least loss is chosen from K^2 losses instead, and gradients are
    computed for the chosen pairs alone.

    Args:
        log_probs: ``(B, K, T, V)`` log posteriors.
        lengths: ``(B,)`` frames.
        targets: ``(B, K, L)`` token ids, padded with anything but ``blank``'s meaning beyond ``target_lengths``.
        target_lengths: ``(B, K)``.
        blank: id of the blank.
        normalise: divide each talker's loss by its target length (at least 1), so that long clips do not dominate.
        pit: search the assignment.

    Returns:
        losses ``(B,)`` and the streams chosen for each talker ``(B, K)``.
    """
    batch, talkers, time, vocabulary = log_probs.shape
    targets = targets.clamp(min=0)
    order = torch.arange(talkers, device=log_probs.device).expand(batch, -1)
    if pit and talkers > 1:
        costs = stream_costs(log_probs, lengths, targets, target_lengths, blank)
        if normalise:
            costs = costs / target_lengths.clamp(min=1).unsqueeze(1)
        order = best_assignment(costs)
        log_probs = log_probs.gather(1, order[:, :, None, None].expand(-1, -1, time, vocabulary))
    losses = _ctc(log_probs.reshape(batch * talkers, time, vocabulary), lengths.repeat_interleave(talkers),
                  targets.reshape(batch * talkers, -1), target_lengths.reshape(-1), blank).view(batch, talkers)
    if normalise:
        losses = losses / target_lengths.clamp(min=1)
    return losses.mean(dim=1), order


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
