"""How sessions are cut into clips: a policy turns the utterances of a recording into cuts."""

import math
import re
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.datadir.kaldi import Utterance

# Silence kept on both sides of a clip, where there is that much: encoders see the onset of the first word.
_MARGIN = 0.25
# Where a transcript is empty, a long stretch may be split at every so many seconds.
_STEP = 0.5
# A transcript may be split before and after each of these: one character of Chinese or Japanese, else one word.
_CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_UNIT = re.compile(f"[{_CJK}]|[^{_CJK}\\s]+")


@dataclass(frozen=True)
class Rules:
    """What policies are told: lengths in seconds, and a source of random choices."""

    max_clip: float = 50.0
    min_clip: float = 40.0
    chance: Chance = field(default_factory=lambda: Chance(0))


@dataclass(frozen=True)
class Cut:
    """A stretch of a recording, and what is said in it; times are seconds in the recording."""

    start: float
    end: float
    utterances: list[Utterance]


def whole(utterances: Sequence[Utterance], duration: float, rules: Rules) -> list[Cut]:
    """Take the recording as one clip.

    Raises:
        UserError: the recording is longer than ``max_clip`` seconds.
    """
    if duration > rules.max_clip:
        raise UserError(
            f"lasts {duration:.1f} s, more than the {rules.max_clip:g} s of a clip; cut it: --policy utterance_group, "
            "or allow it: --max_clip"
        )
    return [Cut(0.0, duration, list(utterances))]


def utterance_group(utterances: Sequence[Utterance], duration: float, rules: Rules) -> list[Cut]:
    """Join consecutive utterances up to ``max_clip`` seconds; cut only where nobody speaks.

    Utterances that overlap form an island, which is not cut unless it is longer than ``max_clip``: such a one is cut as
    :func:`no_overlap_cut` does, into clips of its own. A cut in a pause lies in the middle of it, at most a quarter of
    a second from the speech.
    """
    islands = _islands(utterances)
    groups: list[tuple[float, float]] = []
    joinable = False
    for (start, end), grown in zip(islands, _grown(islands, duration)):
        end = min(end, duration)
        first, last = grown if grown[1] - grown[0] <= rules.max_clip else (start, end)
        if end - start > rules.max_clip:
            border = [_Point(t, t, speech, speech, False) for t, speech in zip(grown, (start, end))]
            groups += _spans([border[0], *_solo_points(utterances, start, end), border[1]], rules.max_clip)
            joinable = False
        elif joinable and last - groups[-1][0] <= rules.max_clip:
            groups[-1] = (groups[-1][0], last)
        else:
            groups.append((first, last))
            joinable = True
    return _cuts(utterances, groups)


def no_overlap_cut(utterances: Sequence[Utterance], duration: float, rules: Rules) -> list[Cut]:
    """Cut into clips of at most ``max_clip`` seconds where no two utterances overlap (SYSTEMS D: ≤ 50 s).

    A cut lies in a pause, with up to a quarter of a second of it on either side; longer silence between two clips is
    left out. Overlapping speech that lasts longer than ``max_clip`` is cut where exactly one utterance is going on,
    between two of its characters or words. Their times are not known, since nothing is aligned here: each is taken to
    last equally long, so that the text is divided as the time is. Where there is no such point within ``max_clip``
    seconds either, the clip stays longer.

    Of all ways to cut, the one is taken (by dynamic programming over the possible points) that has, in this order, the
    fewest seconds beyond ``max_clip``, the fewest split utterances, the fewest clips (so that they are well filled),
    and the most silence at the cuts.
    """
    islands = _islands(utterances)
    if not islands:
        return []
    grown = _grown(islands, duration)
    points = [_Point(grown[0][0], grown[0][0], islands[0][0], islands[0][0], False)]
    for i, (start, end) in enumerate(islands):
        if end - start > rules.max_clip:
            points += _solo_points(utterances, start, end)
        n = min(i + 1, len(islands) - 1)
        points.append(_Point(grown[i][1], grown[n][0], end, islands[n][0], False))
    return _cuts(utterances, _spans(points, rules.max_clip))


def random_40_50(utterances: Sequence[Utterance], duration: float, rules: Rules) -> list[Cut]:
    """Cut the whole recording at random into clips of ``min_clip`` to ``max_clip`` seconds (SYSTEMS C: 40–50 s).

    The cut is drawn from the instants (hundredths of a second) within reach at which the fewest utterances are going
    on: nobody speaks, where there is such a moment. Utterances that go on there are split in two, their text divided
    as the time is, at a character or word; one of which no whole unit falls on one side stays on the other. The last
    clip may be shorter.

    Raises:
        UserError: ``min_clip`` is not between 0 and ``max_clip``.
    """
    shortest, longest = math.ceil(rules.min_clip * 100 - 1e-6), math.floor(rules.max_clip * 100 + 1e-6)
    if not 0 < shortest <= longest:
        raise UserError(
            f"cannot be cut into clips of {rules.min_clip:g} to {rules.max_clip:g} s; give --min_clip and --max_clip "
            "(to ./run.sh: --clip_args \"--min_clip N\" --max_clip M)"
        )
    talking = _activity(utterances, duration)
    begin, spans = 0, []
    while duration - begin / 100 > rules.max_clip:
        window = talking[begin + shortest : begin + longest + 1]
        candidates = np.flatnonzero(window == window.min())
        end = begin + shortest + int(rules.chance.pick(candidates))
        spans.append((begin / 100, end / 100))
        begin = end
    return _cuts(utterances, [*spans, (begin / 100, duration)])


def oracle_segments(utterances: Sequence[Utterance], duration: float, rules: Rules) -> list[Cut]:
    """Make every utterance a clip with that utterance alone, whoever else speaks then."""
    ordered = sorted(utterances, key=lambda u: (u.start, u.end, u.spk))
    return [Cut(u.start, min(u.end, duration), [u]) for u in ordered]


# How sessions are cut. A policy gets the utterances of one recording, its seconds and the rules, and returns cuts in
# the order of their begin.
POLICIES: dict[str, Callable[[Sequence[Utterance], float, Rules], list[Cut]]] = {
    "whole": whole,
    "utterance_group": utterance_group,
    "no_overlap_cut": no_overlap_cut,
    "random_40_50": random_40_50,
    "oracle_segments": oracle_segments,
}


def _islands(utterances: Sequence[Utterance]) -> list[tuple[float, float]]:
    """Join what overlaps: between two islands nobody speaks, though they may touch."""
    islands: list[tuple[float, float]] = []
    for u in sorted(utterances, key=lambda u: (u.start, u.end)):
        if islands and u.start < islands[-1][1]:
            islands[-1] = (islands[-1][0], max(islands[-1][1], u.end))
        else:
            islands.append((u.start, u.end))
    return islands


def _grown(islands: Sequence[tuple[float, float]], duration: float) -> list[tuple[float, float]]:
    """Let each island grow by half of the pause beside it, up to the margin.

    Whole centiseconds, so that clip ids say the exact times.
    """
    grown = []
    for i, (start, end) in enumerate(islands):
        before = (start - islands[i - 1][1]) / 2 if i else start
        after = (islands[i + 1][0] - end) / 2 if i + 1 < len(islands) else duration - end
        first = math.ceil((start - min(before, _MARGIN)) * 100 - 1e-6) / 100
        last = math.floor((end + min(after, _MARGIN)) * 100 + 1e-6) / 100
        grown.append((min(first, start), min(max(last, end), duration)))
    return grown


class _Point(NamedTuple):
    """Where a clip may end (``before``) and the next begin (``after``), and the speech next to it on either side."""

    before: float
    after: float
    speech_before: float
    speech_after: float
    split: bool

    @property
    def haste(self) -> float:
        """Return how much of the margins there is no silence for (seconds)."""
        return max(0.0, 2 * _MARGIN - (self.speech_after - self.speech_before))


def _spans(points: Sequence[_Point], max_clip: float) -> list[tuple[float, float]]:
    """Cut at the best of the points; silence is kept at the ends of a clip where it still fits."""
    chosen = _fewest(points, max_clip)
    spans = []
    for a, b in zip(chosen, chosen[1:]):
        span = (points[a].after, points[b].before)
        fits = span[1] - span[0] <= max_clip
        spans.append(span if fits else (points[a].speech_after, points[b].speech_before))
    return spans


def _fewest(points: Sequence[_Point], max_clip: float) -> list[int]:
    """Choose points from the first to the last, for the least cost; return their numbers.

    Costs are compared like words in a dictionary: seconds beyond ``max_clip``, splits, clips, lack of silence. Of
    clips that are too long only those between neighbouring points are looked at, for any point within one shortens it.
    """
    best: list[tuple[float, int, int, float]] = [(0.0, 0, 0, 0.0)]
    previous = [0]
    for j, point in enumerate(points[1:], 1):
        costs = []
        for i in range(j - 1, -1, -1):
            beyond = round(point.speech_before - points[i].speech_after - max_clip, 6)
            if beyond > 0 and i < j - 1:
                break
            seconds, splits, clips, haste = best[i]
            cost = (seconds + max(beyond, 0.0), splits + point.split, clips + 1, haste + point.haste)
            costs.append((cost, i))
        cost, origin = min(costs)
        best.append(cost)
        previous.append(origin)
    chosen = [len(points) - 1]
    while chosen[-1]:
        chosen.append(previous[chosen[-1]])
    return chosen[::-1]


def _solo_points(utterances: Sequence[Utterance], start: float, end: float) -> list[_Point]:
    return [_Point(t, t, t, t, True) for t in _solo_instants(utterances, start, end)]


def _solo_instants(utterances: Sequence[Utterance], start: float, end: float) -> list[float]:
    """List where an island may be cut: exactly one utterance is going on, between two units of its text."""
    inside = [u for u in utterances if start <= u.start < end]
    edges = sorted({edge for u in inside for edge in (u.start, u.end)})
    active: list[list[Utterance]] = [[] for _ in edges]
    for u in inside:
        for k in range(bisect_left(edges, u.start), bisect_left(edges, u.end)):
            active[k].append(u)
    instants = []
    for k, talking in enumerate(active[:-1]):
        if len(talking) != 1:
            continue
        u = talking[0]
        units = len(_boundaries(u.text)) or math.ceil((u.end - u.start) / _STEP)
        for i in range(1, units):
            instant = round(u.start + (u.end - u.start) * i / units, 2)
            if edges[k] < instant < edges[k + 1] and 0 < _units_before(u, instant, units) < units:
                instants.append(instant)
    return sorted(set(instants))


def _activity(utterances: Sequence[Utterance], duration: float) -> np.ndarray:
    """Count the utterances that go on, begin and end excluded, at each hundredth of a second (T,)."""
    steps = np.zeros(math.floor(duration * 100) + 3, np.int32)
    for u in utterances:
        first, last = math.floor(u.start * 100 + 1e-6) + 1, math.ceil(u.end * 100 - 1e-6)
        if first < last:
            steps[min(first, len(steps) - 1)] += 1
            steps[min(last, len(steps) - 1)] -= 1
    return np.cumsum(steps)


def _cuts(utterances: Sequence[Utterance], spans: Sequence[tuple[float, float]]) -> list[Cut]:
    """Give each span what is said in it; an utterance that a boundary goes through is divided."""
    ordered = sorted(utterances, key=lambda u: (u.start, u.end, u.spk))
    cuts, waiting = [], 0
    for start, end in spans:
        pieces = []
        while waiting < len(ordered) and ordered[waiting].start < end:
            waiting += 1
        pieces = [p for u in ordered[:waiting] if u.end > start and (p := _piece(u, start, end)) is not None]
        ordered, waiting = [u for u in ordered[:waiting] if u.end > end] + ordered[waiting:], 0
        cuts.append(Cut(start, end, pieces))
    return cuts


def _piece(u: Utterance, start: float, end: float) -> Optional[Utterance]:
    """Return what a span has of an utterance; None where it has a moment of it, but not one unit of its text."""
    if start <= u.start and u.end <= end:
        return u
    bounds = _boundaries(u.text)
    first = _units_before(u, start, len(bounds)) if u.start < start else 0
    last = _units_before(u, end, len(bounds)) if end < u.end else len(bounds)
    if bounds and first >= last:
        return None
    text = u.text[bounds[first] : bounds[last] if last < len(bounds) else None].strip() if bounds else ""
    return u._replace(start=max(u.start, start), end=min(u.end, end), text=text)


def _units_before(u: Utterance, instant: float, units: int) -> int:
    """Return how many of the text's units belong to the time before an instant."""
    return int(units * (instant - u.start) / (u.end - u.start) + 0.5)


def _boundaries(text: str) -> list[int]:
    """Return where each unit of a transcript begins."""
    return [match.start() for match in _UNIT.finditer(text)]
