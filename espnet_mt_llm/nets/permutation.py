"""Permutation-invariant assignment: pairwise costs and optimal assignment, never all permutations."""

import torch
from torch.nn import functional as F

from espnet_mt_llm.nets.masks import length_mask


def best_assignment(costs: torch.Tensor) -> torch.Tensor:
    """Assign each target to one estimate so that the summed cost is least.

    The best of the N! permutations is found from the N^2 pairwise costs by optimal assignment (Kuhn, 1955), because
    the cost of a permutation is the sum of its pairs.

    Args:
        costs: ``(B, N, N)``, ``costs[b, i, j]`` of estimate ``i`` against target ``j``; no gradient is needed.

    Returns:
        ``(B, N)`` indices: target ``j`` belongs to estimate ``result[b, j]``.

    Raises:
        ValueError: a cost is NaN.
    """
    from scipy.optimize import linear_sum_assignment

    matrices = costs.detach().double().cpu()
    if torch.isnan(matrices).any():
        raise ValueError("a pairwise cost is NaN")
    # A pair that cannot be (infinite cost) must stay finite for the solver, and worse than every possible sum.
    finite = matrices[torch.isfinite(matrices)]
    limit = (finite.abs().max() if finite.numel() else torch.tensor(1.0)) * (costs.size(-1) + 1) + 1
    matrices = matrices.clamp(min=-limit, max=limit)
    rows = [linear_sum_assignment(matrix.T.numpy())[1] for matrix in matrices]
    return torch.as_tensor([row.tolist() for row in rows], dtype=torch.long, device=costs.device)


def permute(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Put the estimates ``x`` ``(B, N, ...)`` into the order of the targets: row ``j`` is ``x[b, order[b, j]]``."""
    index = order.view(*order.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


def pair_mean(costs: torch.Tensor, order: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cost ``(B,)`` of the pairs of ``order`` ``(B, N)``, over the targets ``present`` ``(B, N)`` where given.

    Only the chosen pairs get gradient; a clip without any target costs 0.
    """
    chosen = costs.gather(1, order.unsqueeze(1)).squeeze(1)
    if present is None:
        return chosen.mean(dim=1)
    # Where, not a product: an absent target may cost infinity.
    return chosen.where(present, chosen.new_zeros(())).sum(1) / present.sum(1).clamp(min=1)


def pit(costs: torch.Tensor, present: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Permutation-invariant training (Yu et al., 2017) for any pairwise cost.

    ``L = min_phi 1/N sum_j costs[phi(j), j]``: the least of the N! permutations, found from the N^2 pairs. The
    gradient is that of the best permutation alone, because the minimum is piecewise that permutation's loss.

    Args:
        costs: ``(B, N, N)``, estimate by target.
        present: ``(B, N)`` booleans, True for the targets that count. The others take the estimates that are left
            and cost nothing.

    Returns:
        losses ``(B,)`` and the estimate of each target ``(B, N)``.

    Raises:
        ValueError: a cost is NaN.
    """
    searched = costs.detach()
    if present is not None:
        searched = searched.masked_fill(~present.unsqueeze(1), 0.0)
    order = best_assignment(searched)
    return pair_mean(costs, order, present), order


def pairwise_bce(logits: torch.Tensor, targets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of every estimated speaker against every target, averaged over the frames.

    ``BCE(x, y) = softplus(x) - x y``, so the pairs share the softplus and differ by one matrix product. A speaker who
    never speaks is a target like any other; a clip of length 0 costs 0.

    Args:
        logits: ``(B, T, N)``.
        targets: ``(B, T, N)`` in 0 .. 1.
        lengths: ``(B,)`` frames.

    Returns:
        ``(B, N, N)``, estimate by target.
    """
    with torch.autocast(logits.device.type, enabled=False):
        inside = length_mask(lengths, logits.size(1)).unsqueeze(-1)
        # Zero padding leaves the product with the targets; softplus(0) is not 0, so that its sum needs the mask.
        logits = logits.float().masked_fill(~inside, 0.0)
        shared = F.softplus(logits).transpose(1, 2) @ inside.to(logits.dtype)
        costs = shared - logits.transpose(1, 2) @ targets.to(logits.dtype)
        return costs / lengths.clamp(min=1)[:, None, None]


def pairwise_si_sdr(estimates: torch.Tensor, references: torch.Tensor, lengths: torch.Tensor,
                    clip: float | None = 30.0, silence: float = 1e-8) -> torch.Tensor:
    """Negative SI-SDR in dB of every estimate against every reference (Le Roux et al., 2019), from Gram matrices::

        SI-SDR(e, x) = 10 log10(|a x|^2 / |a x - e|^2),  a = <e, x> / |x|^2,  |a x|^2 = <e, x>^2 / |x|^2

    Means are not removed. The clip is a hard one: a pair beyond ``clip`` dB is good enough, costs ``-clip`` and has no
    gradient. Without it a few nearly solved clips outweigh the others, and the other losses of a joint training.

    A silent reference has no SI-SDR. Its cost is the level of the estimate, softly limited, as for the inactive
    sources of FUSS (Wisdom et al., 2021)::

        10 log10(|e|^2 / |r|^2 + 10^(-clip/10)),   r: all references of the clip, summed

    that is 0 dB where the estimate is as loud as the talkers together and ``-clip`` where it is silent, the same best
    cost as that of a speaker. A clip without samples costs 0.

    Args:
        estimates, references: ``(B, N, T)`` samples.
        lengths: ``(B,)`` samples.
        clip: dB; None for no clip (the silent case is limited at 30 dB then).
        silence: mean square at and below which a reference is silent; 1e-8 is -80 dB of full scale.

    Returns:
        ``(B, N, N)``, estimate by reference; finite, with finite gradients.
    """
    with torch.autocast(estimates.device.type, enabled=False):
        outside = ~length_mask(lengths, estimates.size(-1)).unsqueeze(1)
        estimates = estimates.float().masked_fill(outside, 0.0)
        references = references.float().masked_fill(outside, 0.0)
        samples = lengths.clamp(min=1)[:, None].to(estimates.dtype)
        # Mean squares: independent of the length, so that one constant serves all clips.
        products = estimates @ references.transpose(1, 2) / samples[..., None]
        power = references.square().sum(-1) / samples
        level = estimates.square().sum(-1).div(samples).unsqueeze(-1)
        together = references.sum(1).square().sum(-1).div(samples.squeeze(1)).clamp(min=silence)
        silent = (power <= silence).unsqueeze(1)
        target = products.square() / torch.where(silent, 1.0, power.unsqueeze(1))
        # An estimate with nothing of the reference, or with nothing else, must stay finite: limits at +-80 dB.
        floor = 1e-8 * level + 1e-20
        costs = 10 * (torch.log10((level - target).clamp(min=0) + floor) - torch.log10(target + floor))
        if clip is not None:
            costs = costs.clamp(min=-clip)
        limit = 10 ** (-(30.0 if clip is None else clip) / 10)
        quiet = 10 * torch.log10(level / together[:, None, None] + limit)
        return torch.where(silent, quiet, costs) * (lengths > 0)[:, None, None]


def compact_ctc(log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor,
                blank: int = 0) -> torch.Tensor:
    """CTC loss (Graves et al., 2006) from the columns that a target reads: its own tokens and the blank.

    The loss of a target of L tokens depends on at most L + 1 of the V columns. Only they are copied, so that many
    targets against one vocabulary of tens of thousands need no copy of it each. No path: the loss is 0.

    Args:
        log_probs: ``(..., T, V)`` log posteriors.
        lengths: ``(...)`` frames.
        targets: ``(..., L)`` token ids, anything in 0 .. V - 1 beyond ``target_lengths``.
        target_lengths: ``(...)``.
        blank: id of the blank.

    Returns:
        ``(...)``; gradients equal those of ``torch.nn.functional.ctc_loss``.
    """
    shape, time = log_probs.shape[:-2], log_probs.size(-2)
    tokens = torch.cat([targets.new_full((*shape, 1), blank), targets], dim=-1)
    columns = log_probs.gather(-1, tokens.unsqueeze(-2).expand(*shape, time, -1)).flatten(0, -3).float()
    # A token that is met again is the column of its first time: CTC must see that both are one.
    index = torch.arange(tokens.size(-1), device=targets.device)
    places = torch.where(targets.unsqueeze(-1) == tokens.unsqueeze(-2), index, len(index)).amin(-1).flatten(0, -2)
    lengths, target_lengths = lengths.flatten(), target_lengths.flatten()
    losses = F.ctc_loss(columns.transpose(0, 1), places, lengths, target_lengths, blank=0, reduction="none",
                        zero_infinity=True)
    if columns.requires_grad:
        # PyTorch gives the gradient p - posterior, right behind a softmax over all of the columns; of the loss alone
        # it is -posterior. A term of value 0 takes the p away, where PyTorch put it.
        inside = length_mask(lengths, time).unsqueeze(-1) & (losses.detach() != 0)[:, None, None]
        surplus = columns.exp().masked_fill(~inside, 0.0).sum((1, 2))
        losses = losses - surplus + surplus.detach()
    return losses.view(shape)


def ctc_pit(log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor,
            present: torch.Tensor | None = None, order: torch.Tensor | None = None, normalise: bool = True
            ) -> tuple[torch.Tensor, torch.Tensor]:
    """CTC with permutation-invariant training: N^2 losses without gradient, then N with gradient.

    Args:
        log_probs: ``(B, N, T, V)`` log posteriors of the streams; the blank is 0.
        lengths: ``(B,)`` frames.
        targets: ``(B, N, L)`` token ids, anything in 0 .. V - 1 beyond ``target_lengths``.
        target_lengths: ``(B, N)``.
        present: ``(B, N)``, the targets that count in the search; all when None.
        order: ``(B, N)`` streams chosen elsewhere; no search.
        normalise: divide the loss of a target by its length (at least 1).

    Returns:
        losses ``(B, N)`` of the targets, and the stream of each ``(B, N)``.

    Raises:
        ValueError: a loss is NaN.
    """
    batch, talkers, time, vocabulary = log_probs.shape
    frames = lengths.unsqueeze(1).expand(-1, talkers)
    if order is None:
        with torch.no_grad():
            pairs = (batch, talkers, talkers)
            costs = compact_ctc(log_probs.detach().unsqueeze(2).expand(*pairs, time, vocabulary),
                                frames.unsqueeze(2).expand(pairs), targets.unsqueeze(1).expand(*pairs, -1),
                                target_lengths.unsqueeze(1).expand(pairs))
            if normalise:
                costs = costs / target_lengths.clamp(min=1).unsqueeze(1)
            order = pit(costs, present)[1]
    # The targets go to the streams, not the streams to the targets: ids are small, posteriors are not.
    stream = order.argsort(dim=1)
    losses = permute(compact_ctc(log_probs, frames, permute(targets, stream), target_lengths.gather(1, stream)), order)
    return losses / target_lengths.clamp(min=1) if normalise else losses, order
