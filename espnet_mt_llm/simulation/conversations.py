"""The timing of simulated conversations: who speaks which utterance when."""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Iterable, Iterator, Mapping, Optional, Sequence

from espnet_mt_llm.common import Chance
from espnet_mt_llm.simulation.turn_statistics import TurnStatistics

TICK = 0.01  # seconds; onsets are whole centiseconds, and no two turns begin together
_EPSILON = 1e-6  # seconds, far less than a sample: what computers make of decimals
_NEAREST = 10  # so many utterances of about the wanted length: one of them is drawn, not the same one each time


@dataclass(frozen=True)
class Turn:
    """An utterance of a conversation: numbers of its speaker and of itself, and its onset and length in seconds."""

    speaker: int
    utterance: int
    onset: float
    seconds: float


@dataclass(frozen=True)
class Step:
    """What happens from an utterance to the one that follows it.

    Attributes:
        same: the next utterance is by the same speaker.
        gap: seconds from the end of this one to the next one's onset; negative: the next speaker breaks in.
        within: seconds of each back-channel, by another speaker, that begins and ends during this utterance.
    """

    same: bool
    gap: float
    within: tuple[float, ...] = ()


def concatenated_steps(chance: Chance, talkers: int, gap: tuple[float, float]) -> Iterator[Step]:
    """Draw steps without overlap for ever: each speaker is as likely to go on as any other.

    So are the conversations of SpeakerLM's second training stage: utterances that are simply concatenated.
    """
    while True:
        yield Step(chance.index(talkers) == 0, chance.uniform(*gap))


class FittedSteps:
    """Steps drawn from the statistics of real conversations.

    The rule is that of Landini et al. (Interspeech 2022): between two utterances of a speaker lies a pause from the
    distribution of those; where the speaker changes, a Bernoulli trial decides between a pause and an overlap, and the
    length comes from the distribution of the one or the other. All distributions are the observed ones, not a fitted
    family. Beyond the paper: whether the speaker goes on is drawn with the observed probability (the paper shuffles the
    utterances of all speakers), and overlaps that end within the other's utterance have their own distribution.
    """

    def __init__(self, statistics: TurnStatistics):
        kinds = (statistics.same_pause, statistics.other_pause, statistics.takeover, statistics.within)
        self._kinds = [_Observed(lengths) for lengths in kinds]
        # Of somebody who talks alone: his own pauses, or any where there are none of one speaker.
        self._alone = next((one for one, lengths in zip(self._kinds[:2], kinds) if lengths), None)
        self._kind = _Observed({k: sum(lengths.values()) for k, lengths in enumerate(kinds)})

    def __call__(self, chance: Chance, talkers: int = 2) -> Iterator[Step]:
        """Draw steps of a conversation of so many ``talkers`` for ever."""
        within: list[float] = []
        while True:
            if talkers == 1:
                yield Step(True, self._alone.draw(chance) / 100 if self._alone else 0.0)
                continue
            kind = self._kind.draw(chance)
            length = self._kinds[kind].draw(chance) / 100
            if kind == 3 and len(within) < 100:  # statistics may hold nothing else
                within.append(length)
                continue
            yield Step(kind == 0, length if kind < 2 else -length, tuple(within))
            within = []


class _Observed:
    """Numbers drawn as often as they were observed."""

    def __init__(self, counts: Mapping[int, int]):
        self._values = sorted(value for value, count in counts.items() if count)
        self._sums = list(accumulate(counts[value] for value in self._values))

    def draw(self, chance: Chance) -> int:
        return self._values[bisect_right(self._sums, chance.index(self._sums[-1]))]


class Pool:
    """The utterances of a speaker by length; each is taken once.

    Args:
        seconds: how long each of them is.
        first: the number of the first one; the others follow.
    """

    def __init__(self, seconds: Sequence[float], first: int = 0):
        order = sorted(range(len(seconds)), key=seconds.__getitem__)
        self._utterances = [first + k for k in order]
        self._lengths = [seconds[k] for k in order]

    def copy(self) -> "Pool":
        """Return another pool of the same utterances."""
        other = Pool(())
        other._utterances, other._lengths = self._utterances.copy(), self._lengths.copy()
        return other

    @property
    def shortest(self) -> float:
        """Return the seconds of the shortest utterance that is left, infinity where none is."""
        return self._lengths[0] if self._lengths else math.inf

    def take(self, chance: Chance, least: float, most: float) -> tuple[int, float]:
        """Take any utterance of ``least`` to ``most`` seconds; where there is none, the longest of at most ``most``.

        Returns:
            Its number and its length.
        """
        high = bisect_right(self._lengths, most)
        low = min(bisect_left(self._lengths, least), high - 1)
        return self._pop(low + chance.index(high - low))

    def take_near(self, chance: Chance, length: float, most: float) -> tuple[int, float]:
        """Take one of the few utterances next to a length, none longer than ``most``."""
        high = bisect_right(self._lengths, most)
        middle = bisect_left(self._lengths, length, 0, high)
        low = max(min(middle - _NEAREST // 2, high - _NEAREST), 0)
        return self._pop(low + chance.index(min(low + _NEAREST, high) - low))

    def _pop(self, index: int) -> tuple[int, float]:
        return self._utterances.pop(index), self._lengths.pop(index)


def converse(chance: Chance, pools: Sequence[Pool], steps: Iterator[Step], duration: float) -> list[Turn]:
    """Draw the turns of a conversation, by onset, the first at 0.

    Utterances are placed one after the other as the steps say until none fits before ``duration``. Every speaker
    speaks at least once: room for the shortest utterance of each is kept, and at a change of speaker those who were
    not heard yet come first. Nobody overlaps with himself. A step that cannot be taken gives way: an overlap is shorter
    than drawn where the new speaker still talked, a back-channel for which nobody is free is left out.

    Args:
        pools: the utterances of each speaker; the shortest ones together must fit into ``duration``.
    """
    return _Conversation(chance, pools, duration).draw(steps)


class _Conversation:
    """A conversation while it is drawn.

    ``holder`` is the speaker whose speech lasts longest so far, and ``end`` is when it ends; ``ends`` is the same of
    each speaker. The statistics are counted in the same terms.
    """

    def __init__(self, chance: Chance, pools: Sequence[Pool], duration: float):
        self.chance = chance
        self.pools = [pool.copy() for pool in pools]
        self.duration = duration
        self.turns: list[Turn] = []
        self.ends = [0.0] * len(pools)
        self.unheard = set(range(len(pools)))
        self.holder, self.end = 0, 0.0

    def draw(self, steps: Iterator[Step]) -> list[Turn]:
        """Place utterances until none fits any more."""
        before, speaker, onset = Step(False, 0.0), self.chance.index(len(self.pools)), 0.0
        for step in steps:
            # Long enough for what is to overlap with it; 2 ticks, because onsets are rounded.
            least = 2 * TICK + max(-before.gap, -step.gap, *step.within, 0.0)
            self._place(speaker, onset, self.pools[speaker].take(self.chance, least, self._room(speaker, onset)))
            floor = self.turns[-1]
            for length, earliest in self._onsets_within(step, floor):
                self._answer(floor, length, earliest)
            following = self._next(step)
            if following is None:
                break
            before, (speaker, onset) = step, following
        return self.turns

    def _place(self, speaker: int, onset: float, taken: tuple[int, float]) -> None:
        utterance, seconds = taken
        end = round(onset + seconds, 6)
        self.turns.append(Turn(speaker, utterance, onset, seconds))
        self.ends[speaker] = end
        self.unheard.discard(speaker)
        if end > self.end:
            self.holder, self.end = speaker, end

    def _room(self, speaker: int, onset: float) -> float:
        """Return how long an utterance may be so that those who were not heard yet still fit in after it."""
        kept = sum(self.pools[s].shortest + TICK for s in self.unheard if s != speaker)
        return self.duration - onset - kept + _EPSILON

    def _silent(self, speakers: Iterable[int], onset: float) -> list[int]:
        return [s for s in speakers if self.ends[s] <= onset + _EPSILON]

    def _fitting(self, speakers: Sequence[int], onset: float) -> list[int]:
        return [s for s in speakers if self.pools[s].shortest <= self._room(s, onset)]

    def _next(self, step: Step) -> Optional[tuple[int, float]]:
        """Return who speaks next, and from when on; None at the end of the conversation."""
        others = [s for s in range(len(self.pools)) if s != self.holder]
        # Rounded away from touching: a pause stays a pause, and an overlap an overlap.
        onset = _up(self.end + step.gap) if step.gap >= 0 else _down(self.end + step.gap)
        onset = max(onset, _up(self.turns[-1].onset + TICK))
        if step.same or not others:
            onset = max(onset, _up(self.end))
            options = self._fitting([self.holder], onset)
        else:
            onset = max(onset, _up(min(self.ends[s] for s in others)))
            options = self._fitting(self._silent(others, onset), onset)
            options = [s for s in options if s in self.unheard] or options
        if not options and self.unheard:  # it is their last chance, if need be after a shorter pause than drawn
            options = sorted(self.unheard)
            kept = sum(self.pools[s].shortest + TICK for s in options)
            onset = min(max(onset, _up(self.end)), _up(max(self.duration - kept, self.end)))
        options = options or self._fitting(self._silent(range(len(self.pools)), onset), onset)
        return (self.chance.pick(options), onset) if options else None

    def _onsets_within(self, step: Step, floor: Turn) -> list[tuple[float, float]]:
        """Draw the onsets of back-channels: (length, earliest onset), in the order of time."""
        latest = self.ends[floor.speaker] + min(step.gap, 0.0)
        places = sorted((self.chance.uniform(floor.onset, max(latest - length, floor.onset)), k)
                        for k, length in enumerate(step.within))
        return [(step.within[k], place) for place, k in places]

    def _answer(self, floor: Turn, length: float, earliest: float) -> None:
        """Place a back-channel during an utterance, if another speaker is free and has one short enough."""
        others = [s for s in range(len(self.pools)) if s != floor.speaker]
        if not others:
            return
        onset = _up(max(earliest, self.turns[-1].onset + TICK, min(self.ends[s] for s in others)))
        most = self.ends[floor.speaker] - onset
        free = [s for s in self._silent(others, onset) if self.pools[s].shortest <= most]
        free = [s for s in free if s in self.unheard] or free
        if free:
            speaker = self.chance.pick(free)
            self._place(speaker, onset, self.pools[speaker].take_near(self.chance, length, most))


def _up(seconds: float) -> float:
    return math.ceil(100 * (seconds - _EPSILON)) / 100


def _down(seconds: float) -> float:
    return math.floor(100 * (seconds + _EPSILON)) / 100
