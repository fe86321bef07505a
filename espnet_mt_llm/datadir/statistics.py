"""What a set of clips (or of sessions) is like: how many, how long, how many speakers, how much overlap."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Iterable, Mapping, Union

from espnet_mt_llm.common import Pathlike, at, atomic_open, from_mapping
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance
from espnet_mt_llm.datadir.maps import read_map, read_numbers, read_text

_HEAD = ("set", "segments", "hours", "avg dur s", "avg spk", "overlap %", "too long", "left out s")


@dataclass(frozen=True)
class Statistics:
    """Sums over segments (clips, or whole sessions), which add up; times are seconds.

    Attributes:
        segments: how many.
        utterances: stretches of speech in them; one that a cut divided counts in each of its clips.
        speakers: the numbers of different speakers per segment, added up.
        seconds: the length.
        speech: time in which one speaker at least talks.
        overlap: time in which two different speakers at least talk.
        longest: length of the longest segment.
        too_long: segments longer than they should be, since there was nowhere to cut.
        split: cuts through an utterance.
        left_out: recorded time in no segment.
    """

    segments: int = 0
    utterances: int = 0
    speakers: int = 0
    seconds: float = 0.0
    speech: float = 0.0
    overlap: float = 0.0
    longest: float = 0.0
    too_long: int = 0
    split: int = 0
    left_out: float = 0.0

    @classmethod
    def zero(cls) -> "Statistics":
        """Return the statistics of nothing."""
        return cls()

    @classmethod
    def of(cls, utterances: Iterable[Utterance], duration: float, start: float = 0.0) -> "Statistics":
        """Return the statistics of one segment, which begins ``start`` seconds into the times of its utterances."""
        spans = [
            (u.spk, max(u.start - start, 0.0), min(u.end - start, duration))
            for u in utterances
            if u.end > start and u.start < start + duration
        ]
        speech, overlap = speech_and_overlap(spans)
        speakers = len({spk for spk, _, _ in spans})
        return cls(1, len(spans), speakers, round(duration, 6), round(speech, 6), round(overlap, 6), round(duration, 6))

    def __add__(self, other: "Statistics") -> "Statistics":
        # Rounded, so that the parts of several jobs add up to the very bytes of one.
        added = {f.name: round(getattr(self, f.name) + getattr(other, f.name), 6) for f in fields(self)}
        return Statistics(**{**added, "longest": max(self.longest, other.longest)})

    def __str__(self) -> str:
        return f"{self.segments} clips, {self.seconds / 3600:.2f} hours"

    @property
    def overlap_of_speech(self) -> float:
        """Return the share of the speech time in which speakers overlap, in [0, 1]."""
        return self.overlap / self.speech if self.speech else 0.0

    def averages(self) -> dict[str, float]:
        """Return what the table shows beside the sums, and the overlap in relation to the whole time as well."""
        n = max(self.segments, 1)
        return {
            "average_duration": round(self.seconds / n, 2),
            "average_speakers": round(self.speakers / n, 2),
            "overlap_percent_of_speech": round(100 * self.overlap_of_speech, 2),
            "overlap_percent_of_duration": round(100 * self.overlap / self.seconds, 2) if self.seconds else 0.0,
        }

    def write(self, path: Pathlike) -> None:
        """Write the sums, and the averages for the reader's eye, as JSON."""
        with atomic_open(path) as f:
            json.dump({**asdict(self), **self.averages()}, f, indent=1)
            f.write("\n")

    @classmethod
    def read(cls, path: Pathlike) -> "Statistics":
        """Read what :meth:`write` wrote.

        Raises:
            UserError: it is something else.
        """
        try:
            values = json.loads(read_text(path))
            sums = {key: value for key, value in values.items() if key not in cls().averages()}
        except (ValueError, AttributeError):
            raise at(path, None, "not a JSON object of statistics", "make the clips again (stage 3)") from None
        return from_mapping(cls, sums, path)


def speech_and_overlap(spans: Iterable[tuple[str, float, float]]) -> tuple[float, float]:
    """Measure how long at least one, and at least two different speakers talk.

    Args:
        spans: (speaker, start, end); a speaker's own spans may overlap, which is no overlap of speakers.

    >>> speech_and_overlap([("a", 0.0, 2.0), ("a", 1.0, 3.0), ("b", 2.5, 4.0)])
    (4.0, 0.5)
    """
    steps = sorted(step for spk, start, end in spans for step in ((start, 1, spk), (end, -1, spk)))
    going: dict[str, int] = defaultdict(int)
    talking, before, sums = 0, 0.0, [0.0, 0.0]
    for instant, change, spk in steps:
        for least in (1, 2):
            if talking >= least:
                sums[least - 1] += instant - before
        before = instant
        talking -= going[spk] > 0
        going[spk] += change
        talking += going[spk] > 0
    return sums[0], sums[1]


def statistics_of(path: Pathlike) -> Statistics:
    """Return the statistics of a dump dir's clips, or of a data dir's sessions.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    path = Path(path)
    if not (path / "supervision").exists():
        return _of_sessions(DataDir.read(path))
    if (path / "statistics.json").exists():
        return Statistics.read(path / "statistics.json")
    durations, total = read_numbers(path / "utt2dur"), Statistics.zero()
    for clip, line in read_map(path / "supervision").items():
        try:
            segments = [Utterance("", clip, s["spk"], s["start"], s["end"], s["text"]) for s in json.loads(line)]
            total += Statistics.of(segments, durations[clip])
        except (ValueError, KeyError, TypeError):
            raise at(
                path / "supervision", None, f"'{clip}' has no segments or no utt2dur", "make the clips again (stage 3)"
            ) from None
    return total


def _of_sessions(data: DataDir) -> Statistics:
    from espnet_mt_llm.datadir.audio import duration

    of_rec: dict[str, list[Utterance]] = defaultdict(list)
    for u in data.utterances:
        of_rec[u.rec].append(u)
    total = Statistics.zero()
    for rec, entry in data.wav.items():
        seconds = data.reco2dur[rec] if rec in data.reco2dur else duration(entry)
        total += Statistics.of(of_rec[rec], seconds)
    return total


def table(rows: Mapping[str, Statistics]) -> str:
    """Write one line per set, as the papers do; the overlap is the share of the speech time with two speakers or more.

    >>> print(table({"dev": Statistics(2, 4, 5, 90.0, 80.0, 20.0, 48.0, 0, 1, 3.5)}))
    set  segments  hours  avg dur s  avg spk  overlap %  too long  left out s
    dev         2   0.03      45.00     2.50      25.00         0         3.5
    """
    cells: list[tuple[Union[str, int], ...]] = [_HEAD]
    for name, s in rows.items():
        duration, speakers, overlap, _ = s.averages().values()
        cells.append((name, s.segments, f"{s.seconds / 3600:.2f}", f"{duration:.2f}", f"{speakers:.2f}",
                      f"{overlap:.2f}", s.too_long, f"{s.left_out:.1f}"))
    widths = [max(len(str(line[i])) for line in cells) for i in range(len(_HEAD))]
    return "\n".join(
        "  ".join(str(c).rjust(w) if i else str(c).ljust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
        for line in cells
    )
