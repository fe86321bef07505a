"""Sequences put together from runs of rows of one table."""

import torch


def run_index(starts: torch.Tensor, sizes: torch.Tensor, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the row of each position ``(B, P)``, 0 in the padding, and a mask ``(B, P)``, True inside.

    >>> run_index(torch.tensor([[5, 9], [7, 0]]), torch.tensor([[2, 1], [1, 0]]), left=True)[0].tolist()
    [[5, 6, 9], [0, 0, 7]]

    Args:
        starts, sizes: first rows and sizes ``(B, R)`` of the runs of each sequence; P is the largest sum of sizes.
        left: pad in front, else at the end.
    """
    ends = sizes.cumsum(1)
    total = ends[:, -1:]
    width = int(total.max())
    steps = torch.arange(width, device=starts.device).expand(len(starts), -1)
    if left:
        steps = steps - (width - total)
    inside = (steps >= 0) & (steps < total)
    run = torch.searchsorted(ends, steps.clamp(min=0).contiguous(), right=True).clamp(max=ends.size(1) - 1)
    return ((starts - ends + sizes).gather(1, run) + steps).masked_fill(~inside, 0), inside
