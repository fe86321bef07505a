"""Who goes on, who breaks in and how long the pauses are: turn-taking statistics of conversations."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.rttm import read_rttm
from espnet_mt_llm.datadir.statistics import speech_and_overlap
from espnet_mt_llm.simulation.manifest import MANIFEST, Mixture

Span = tuple[str, float, float]  # speaker, start and end in seconds

# What a table shows of statistics, and under which name a JSON holds it.
ROWS = {
    "speech_per_conversation": "speech per conversation, s",
    "speech_share": "share of the time with speech, %",
    "overlap_share": "share of the speech with overlap, %",
    "turns_per_minute": "turns per minute",
    "same_speaker": "next turn by the same speaker, %",
    "same_pause_mean": "pause, same speaker: mean, s",
    "same_pause_median": "pause, same speaker: median, s",
    "other_pause_mean": "pause, other speaker: mean, s",
    "other_pause_median": "pause, other speaker: median, s",
    "overlap_at_change": "changes of speaker with overlap, %",
    "within_at_overlap": "overlaps inside the other's turn, %",
    "overlap_mean": "length of an overlap: mean, s",
    "overlap_median": "length of an overlap: median, s",
}


@dataclass(frozen=True)
class TurnStatistics:
    """Counts of what happens between a turn and what was said before it; they add up over conversations.

    The turns of a conversation are taken in the order of their onsets, and each is compared with the speaker whose
    speech lasts longest so far. That is how Landini et al., "From Simulated Mixtures to Simulated Conversations as
    Training Data for End-to-End Neural Diarization" (Interspeech 2022), count on reference segments: a pause of the
    same speaker, a pause at a change of speaker, or an overlap. They give all overlaps one distribution; here those
    that end before the other does (back-channels, ``within``) are apart from those after which the new speaker goes on
    (``takeover``): in AliMeeting's meetings two thirds of the overlaps are back-channels.

    Attributes:
        conversations, turns: how many.
        seconds: from the first onset to the last end, summed over the conversations.
        speech, overlapped: seconds in which one or more, two or more talk.
        same_pause, other_pause, takeover, within: length in centiseconds -> how often.
    """

    conversations: int = 0
    turns: int = 0
    seconds: float = 0.0
    speech: float = 0.0
    overlapped: float = 0.0
    same_pause: Mapping[int, int] = field(default_factory=Counter)
    other_pause: Mapping[int, int] = field(default_factory=Counter)
    takeover: Mapping[int, int] = field(default_factory=Counter)
    within: Mapping[int, int] = field(default_factory=Counter)

    @classmethod
    def zero(cls) -> "TurnStatistics":
        """Return the statistics of no conversation."""
        return cls()

    def __add__(self, other: "TurnStatistics") -> "TurnStatistics":
        return TurnStatistics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def of(cls, conversations: Iterable[Iterable[Span]]) -> "TurnStatistics":
        """Count the turns of conversations, each given by its (speaker, start, end).

        >>> s = TurnStatistics.of([[("A", 0.0, 2.0), ("B", 1.5, 3.0), ("B", 3.2, 4.0)]])
        >>> dict(s.takeover), dict(s.same_pause), s.overlapped
        ({50: 1}, {20: 1}, 0.5)
        """
        number = turns = 0
        times = [0.0, 0.0, 0.0]
        counts: dict[str, Counter] = {key: Counter() for key in ("same_pause", "other_pause", "takeover", "within")}
        for conversation in conversations:
            spans = sorted(conversation, key=lambda s: (s[1], s[2], s[0]))
            if not spans:
                continue
            number, turns = number + 1, turns + len(spans)
            lasting = max(end for _, _, end in spans) - spans[0][1]
            times = [a + b for a, b in zip(times, (lasting, *speech_and_overlap(spans)))]
            holder, last = spans[0][0], spans[0][2]
            for speaker, start, end in spans[1:]:
                if speaker == holder:
                    kind, length = "same_pause", max(start - last, 0.0)
                elif start >= last:
                    kind, length = "other_pause", start - last
                else:
                    kind, length = ("takeover", last - start) if end > last else ("within", end - start)
                counts[kind][round(100 * length)] += 1
                if end > last:
                    holder, last = speaker, end
        return cls(number, turns, *(round(t, 6) for t in times), **counts)

    def limited(self, longest: float) -> "TurnStatistics":
        """Leave out pauses and overlaps that are longer than so many seconds, the time of the pauses included."""
        kept = {f.name: Counter({k: n for k, n in getattr(self, f.name).items() if k <= 100 * longest})
                for f in fields(self) if f.default_factory is Counter}
        silence = sum(k * n for counts in (self.same_pause, self.other_pause) for k, n in counts.items()
                      if k > 100 * longest) / 100
        return TurnStatistics(self.conversations, self.turns, round(self.seconds - silence, 6), self.speech,
                              self.overlapped, **kept)

    @property
    def overlap(self) -> Counter:
        """Return both kinds of overlaps together."""
        return Counter(self.takeover) + Counter(self.within)

    def summary(self) -> dict[str, Optional[float]]:
        """Return the numbers of :data:`ROWS`, shares between 0 and 1; None where there is nothing to divide by."""
        same, pauses, takeovers, withins = (sum(c.values()) for c in (
            self.same_pause, self.other_pause, self.takeover, self.within))
        overlaps = takeovers + withins
        numbers = {
            "speech_per_conversation": _ratio(self.speech, self.conversations),
            "speech_share": _ratio(self.speech, self.seconds),
            "overlap_share": _ratio(self.overlapped, self.speech),
            "turns_per_minute": _ratio(60 * self.turns, self.seconds),
            "same_speaker": _ratio(same, same + pauses + overlaps),
            "overlap_at_change": _ratio(overlaps, pauses + overlaps),
            "within_at_overlap": _ratio(withins, overlaps),
        }
        for key, counts in (("same_pause", self.same_pause), ("other_pause", self.other_pause),
                            ("overlap", self.overlap)):
            numbers[f"{key}_mean"] = _ratio(sum(k * n for k, n in counts.items()) / 100, sum(counts.values()))
            numbers[f"{key}_median"] = _median(counts)
        return {key: numbers[key] for key in ROWS}


def activity(spans: Iterable[tuple[float, float]]) -> tuple[float, float, float]:
    """Return seconds from the first start to the last end, those in which one or more talk, and two or more.

    >>> activity([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    (6.0, 4.0, 1.0)
    """
    events = sorted(event for start, end in spans for event in ((start, 1), (end, -1)))
    speech = overlapped = 0.0
    active, before = 0, 0.0
    for time, change in events:
        speech += (time - before) * (active > 0)
        overlapped += (time - before) * (active > 1)
        active, before = active + change, time
    return (events[-1][0] - events[0][0] if events else 0.0), speech, overlapped


def read_conversations(path: Pathlike) -> Iterator[list[Span]]:
    """Yield the conversations of an RTTM file or of a data directory; a simulated one is read line by line.

    Raises:
        UserError: neither of them, or what reading it raises.
    """
    path = Path(path)
    if (path / MANIFEST).exists():
        with open(path / MANIFEST, "rb") as f:
            for line in f:
                yield spans_of(Mixture.from_json(line, path / MANIFEST))
        return
    if path.is_file() and path.suffix != ".rttm":
        raise at(path, None, "neither a data directory nor an RTTM file",
                 "give a data directory, or a file whose name ends in .rttm")
    segments = read_rttm(path) if path.is_file() else DataDir.read(path).seglst()
    conversations = defaultdict(list)
    for s in segments:
        conversations[s["session_id"]].append((s["speaker"], s["start_time"], s["end_time"]))
    yield from conversations.values()


def spans_of(mixture: Mixture) -> list[Span]:
    """Return who talks when in a mixture; reverberation does not count."""
    return [(s.spk, s.offset, s.offset + s.end - s.start) for s in mixture.sources]


def read_statistics(path: Pathlike) -> TurnStatistics:
    """Count the turns of an RTTM file or a data directory.

    Raises:
        UserError: it cannot be read, or nobody speaks in it.
    """
    statistics = TurnStatistics.of(read_conversations(path))
    if not statistics.turns:
        raise at(path, None, "nobody speaks in it, there are no turns to count", "give one with segments of speakers")
    return statistics


def format_table(columns: Mapping[str, Mapping[str, Optional[float]]]) -> str:
    """Return a table of summaries for people, a column each."""
    width = max(len(name) for name in ROWS.values())
    sizes = {name: max(len(name), 8) for name in columns}
    lines = [" " * width + "".join(f"  {name:>{sizes[name]}}" for name in columns)]
    for key, title in ROWS.items():
        cells = []
        for name, summary in columns.items():
            value = summary.get(key)
            value = 100 * value if value is not None and title.endswith("%") else value
            cells.append(f"  {'–' if value is None else f'{value:.2f}':>{sizes[name]}}")
        lines.append(f"{title:<{width}}" + "".join(cells))
    return "\n".join(lines)


def read_report(path: Pathlike) -> dict:
    """Read a report that a simulation wrote: ``target`` and ``achieved``, each a summary."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: not a report ({e}); draw the set again (stage 2)") from None


def _ratio(numerator: float, denominator: float) -> Optional[float]:
    return round(numerator / denominator, 4) if denominator else None


def _median(counts: Mapping[int, int]) -> Optional[float]:
    """Return the weighted median in seconds, the lower one of two."""
    total, passed = sum(counts.values()), 0
    for length in sorted(counts):
        passed += counts[length]
        if 2 * passed >= total:
            return length / 100
    return None
