"""Batches that fill a number of positions of a language model, audio and text together, and clips put in a row."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np
from espnet2.samplers.abs_sampler import AbsSampler
from espnet2.train.dataset import ESPnetDataset

from espnet_mt_llm.common import UserError
from espnet_mt_llm.train.speech_llm_targets import JOINT


class Size(NamedTuple):
    """What a clip adds to the input of a language model.

    Attributes:
        seconds: of audio.
        tokens: of its target.
        speakers: who talks.
    """

    seconds: float
    tokens: int
    speakers: frozenset


@dataclass(frozen=True)
class Concatenation:
    """How clips are put in a row while training (third stage of arXiv 2606.13095).

    Attributes:
        seconds: the longest row.
        speakers: the most speakers in it.
        shortest: the longest length of a row is drawn anew between this and ``seconds``, so that lengths are mixed;
            without it every row is filled to ``seconds``.
        shared: a clip follows one that it has a speaker in common with, so that a row is a conversation that returns
            to its speakers; without it, any other.
    """

    seconds: float = 50.0
    speakers: int = 8
    shortest: Optional[float] = None
    shared: bool = False

    def __post_init__(self) -> None:
        if not self.seconds > 0 or self.speakers < 1:
            raise ValueError(f"up to {self.seconds} s of {self.speakers} speakers: expected more than 0 of both")
        if self.shortest is not None and not 0 <= self.shortest <= self.seconds:
            raise ValueError(f"rows from {self.shortest} to {self.seconds} s: expected 0 <= shortest <= seconds")

    def draw(self, random: np.random.RandomState) -> float:
        """Return how long the next row may be, in seconds."""
        return self.seconds if self.shortest is None else random.uniform(self.shortest, self.seconds)


class PositionBatches(AbsSampler):
    """Batches of clips of like size, of at most ``batch_positions`` with their padding, drawn anew each epoch.

    All epochs have the same number of batches, as a shorter or longer list would not fit the counts of the training
    loop: it is that of the first draw, and a few batches more or less are left out or repeated.

    Args:
        clips: clip → what it adds.
        positions: seconds, target tokens and number of speakers → positions in the language model.
        batch_positions: the most positions of a batch.
        concatenation: None for clips as they are.
        rank, world: of this process among those of the training; each has every ``world``-th batch.

    Raises:
        UserError: a clip that does not fit a batch by itself.
    """

    def __init__(self, clips: Mapping[str, Size], positions: Callable[[float, int, int], int], batch_positions: int,
                 concatenation: Optional[Concatenation] = None, rank: int = 0, world: int = 1) -> None:
        self.clips = dict(sorted(clips.items()))
        self.positions, self.batch_positions, self.concatenation = positions, batch_positions, concatenation
        self.rank, self.world = rank, world
        self._names = list(self.clips)
        for name, size in self.clips.items():
            found = self._positions([name])
            if found > batch_positions:
                raise UserError(f"clip '{name}' of {size.seconds:.1f} s takes {found} positions, a batch has "
                                f"{batch_positions}; raise batch_positions, or cut shorter clips (--max_clip)")
        self._number = self._count()
        logging.info("%d clips in %d batches of at most %d positions", len(self.clips), self._number, batch_positions)

    def _count(self) -> int:
        number = len(self._batches(0)) // self.world
        if not number:
            raise UserError(f"fewer batches than processes ({self.world}); lower batch_positions")
        return number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self.generate(0))

    def generate(self, seed: int) -> list[list[str]]:
        """Return the batches of the epoch that has this seed; their order is the caller's to shuffle."""
        batches = self._batches(seed)
        # The same draw in every process, then to each its own.
        order = np.random.RandomState(seed % 2**32).permutation(len(batches) // self.world)
        order = np.sort(np.resize(order, self._number))
        return [batches[i * self.world + self.rank] for i in order]

    def _batches(self, seed: int) -> list[list[str]]:
        random = np.random.RandomState(seed % 2**32)
        rows = self._rows(random)
        sizes = np.array([self._positions(row) for row in rows])
        # Neighbours change from epoch to epoch, and padding stays little.
        order = np.argsort(sizes * random.uniform(0.95, 1.05, len(sizes)), kind="stable")
        batches: list[list[str]] = []
        longest = 0
        for i in order:
            longest = max(longest, sizes[i])
            if not batches or longest * (len(batches[-1]) + 1) > self.batch_positions:
                batches.append([])
                longest = sizes[i]
            batches[-1].append(JOINT.join(rows[i]))
        return batches

    def _rows(self, random: np.random.RandomState) -> list[list[str]]:
        """Return clips by themselves, or in rows: each clip is in one."""
        order = [self._names[i] for i in random.permutation(len(self._names))]
        if self.concatenation is None:
            return [[name] for name in order]
        if self.concatenation.shared:
            order = self._chained(order, random)
        rows: list[list[str]] = []
        seconds, speakers, longest = math.inf, frozenset(), 0.0
        for name in order:
            size = self.clips[name]
            together = speakers | size.speakers
            if (rows and seconds + size.seconds <= longest
                    and len(together) <= self.concatenation.speakers
                    and self._positions([*rows[-1], name]) <= self.batch_positions):
                rows[-1].append(name)
                seconds, speakers = seconds + size.seconds, together
            else:
                rows.append([name])
                seconds, speakers, longest = size.seconds, size.speakers, self.concatenation.draw(random)
        return rows

    def _chained(self, order: Sequence[str], random: np.random.RandomState) -> list[str]:
        """Return the clips of ``order`` so that each shares a speaker with the one before it, while there are such."""
        waiting: dict[str, list[str]] = {}
        for name in reversed(order):
            for speaker in self.clips[name].speakers:
                waiting.setdefault(speaker, []).append(name)
        chain: dict[str, None] = {}
        for first in order:
            name = first if first not in chain else None
            while name is not None:
                chain[name] = None
                among = [waiting[speaker] for speaker in random.permutation(sorted(self.clips[name].speakers))]
                for clips in among:
                    while clips and clips[-1] in chain:
                        clips.pop()
                name = next((clips[-1] for clips in among if clips), None)
        return list(chain)

    def _positions(self, row: Sequence[str]) -> int:
        sizes = [self.clips[name] for name in row]
        return self.positions(sum(s.seconds for s in sizes), sum(s.tokens for s in sizes),
                              len(frozenset().union(*(s.speakers for s in sizes))))


class Rows(Mapping):
    """A reader of clips that gives a tuple for ids with :data:`JOINT` between them."""

    def __init__(self, reader: Mapping) -> None:
        self._reader = reader

    def __getitem__(self, key: str) -> object:
        if JOINT not in key:
            return self._reader[key]
        return tuple(self._reader[part] for part in key.split(JOINT))

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader)

    def __len__(self) -> int:
        return len(self._reader)


def accept_rows(dataset: ESPnetDataset) -> ESPnetDataset:
    """Let ``dataset`` take the ids of several clips in a row."""
    dataset.loader_dict = {name: Rows(reader) for name, reader in dataset.loader_dict.items()}
    return dataset
