"""Random batches: clips of every length and talker count side by side, drawn anew each epoch."""

from collections.abc import Iterator, Sequence

import numpy as np
from espnet2.samplers.abs_sampler import AbsSampler


class MixedBatches(AbsSampler):
    """Batches of ``batch_size`` clips at random.

    Batches sorted by length, which save padding, hold one talker count each, because more talkers take longer; a
    talker-count head learns little from those.

    Args:
        clips: clip ids.
        batch_size: clips in a batch; the few that are left over at the end of an epoch wait for the next draw.
    """

    def __init__(self, clips: Sequence[str], batch_size: int) -> None:
        self.clips = sorted(clips)
        self.batch_size = min(batch_size, len(self.clips))

    def __len__(self) -> int:
        return len(self.clips) // self.batch_size

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self.generate(0))

    def generate(self, seed: int) -> list[list[str]]:
        """Return the batches of the epoch that has this seed."""
        order = np.random.RandomState(seed % 2**32).permutation(len(self.clips))
        return [[self.clips[i] for i in order[n * self.batch_size : (n + 1) * self.batch_size]]
                for n in range(len(self))]
