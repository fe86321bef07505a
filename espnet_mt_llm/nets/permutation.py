"""Permutation-invariant assignment: pairwise costs and optimal assignment, never all permutations."""

import torch


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
