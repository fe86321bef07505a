"""Counts that make up a score: frozen, and added, never averaged, so that a corpus value is no mean of rates."""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple


@dataclass(frozen=True)
class Errors:
    """Edit operations against a reference of ``length`` tokens.

    >>> Errors(4, insertions=1) + Errors(6, deletions=1, substitutions=1)
    Errors(length=10, insertions=1, deletions=1, substitutions=1)
    >>> (Errors(4, insertions=1) + Errors(6, deletions=2)).rate
    0.3

    Raises:
        ValueError: a negative count, or more deletions and substitutions than there are tokens.
    """

    length: int
    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0

    def __post_init__(self) -> None:
        if min(self.length, self.insertions, self.deletions, self.substitutions) < 0:
            raise ValueError(f"negative count in {self}")
        if self.deletions + self.substitutions > self.length:
            raise ValueError(f"more deletions and substitutions than reference tokens in {self}")

    @classmethod
    def zero(cls) -> "Errors":
        return cls(0)

    def __add__(self, other: "Errors") -> "Errors":
        if not isinstance(other, Errors):
            return NotImplemented
        return Errors(self.length + other.length, self.insertions + other.insertions,
                      self.deletions + other.deletions, self.substitutions + other.substitutions)

    @property
    def errors(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> Optional[float]:
        """Errors per reference token; None when the reference is empty."""
        return self.errors / self.length if self.length else None

    def as_dict(self) -> Dict[str, Any]:
        return {"rate": None if self.rate is None else round(self.rate, 6), "errors": self.errors,
                "length": self.length, "insertions": self.insertions, "deletions": self.deletions,
                "substitutions": self.substitutions}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Errors":
        return cls(d["length"], d["insertions"], d["deletions"], d["substitutions"])


@dataclass(frozen=True)
class TalkerCounts:
    """How often ``reference`` talkers were taken for ``predicted`` ones: the confusion matrix, additive.

    >>> c = TalkerCounts.one(2, 2) + TalkerCounts.one(2, 3) + TalkerCounts.one(3, 3)
    >>> c.accuracy, c.confusion[2]
    (0.6666666666666666, {2: 1, 3: 1})
    """

    cells: Tuple[Tuple[int, int, int], ...] = ()

    @classmethod
    def zero(cls) -> "TalkerCounts":
        return cls()

    @classmethod
    def one(cls, reference: int, predicted: int) -> "TalkerCounts":
        return cls(((reference, predicted, 1),))

    def __add__(self, other: "TalkerCounts") -> "TalkerCounts":
        if not isinstance(other, TalkerCounts):
            return NotImplemented
        total: Dict[Tuple[int, int], int] = {}
        for reference, predicted, n in self.cells + other.cells:
            total[reference, predicted] = total.get((reference, predicted), 0) + n
        return TalkerCounts(tuple((r, p, n) for (r, p), n in sorted(total.items())))

    @property
    def total(self) -> int:
        return sum(n for _, _, n in self.cells)

    @property
    def correct(self) -> int:
        return sum(n for r, p, n in self.cells if r == p)

    @property
    def accuracy(self) -> Optional[float]:
        return self.correct / self.total if self.total else None

    @property
    def confusion(self) -> Dict[int, Dict[int, int]]:
        """Reference count → predicted count → clips."""
        out: Dict[int, Dict[int, int]] = {}
        for r, p, n in self.cells:
            out.setdefault(r, {})[p] = n
        return out

    def as_dict(self) -> Dict[str, Any]:
        return {"accuracy": None if self.accuracy is None else round(self.accuracy, 6), "correct": self.correct,
                "total": self.total,
                "confusion": {str(r): {str(p): n for p, n in row.items()} for r, row in self.confusion.items()}}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "TalkerCounts":
        cells = ((int(r), int(p), n) for r, row in d["confusion"].items() for p, n in row.items())
        return cls(tuple(sorted(cells)))


@dataclass(frozen=True)
class Speed:
    """Seconds of audio and the seconds that decoding it took, without loading the model.

    >>> (Speed(100.0, 2.0) + Speed(300.0, 2.0)).rtf
    0.01
    """

    audio_seconds: float
    wall_seconds: float

    @classmethod
    def zero(cls) -> "Speed":
        return cls(0.0, 0.0)

    def __add__(self, other: "Speed") -> "Speed":
        if not isinstance(other, Speed):
            return NotImplemented
        return Speed(self.audio_seconds + other.audio_seconds, self.wall_seconds + other.wall_seconds)

    @property
    def rtf(self) -> Optional[float]:
        return self.wall_seconds / self.audio_seconds if self.audio_seconds > 0 else None

    def as_dict(self) -> Dict[str, Any]:
        return {"rtf": None if self.rtf is None else round(self.rtf, 6), "audio_seconds": self.audio_seconds,
                "wall_seconds": self.wall_seconds}


@dataclass(frozen=True)
class ClipScore:
    """The counts of one clip by metric, and which hypothesis speaker cp gave to which reference speaker."""

    clip: str
    num_speakers: int
    predicted: int
    errors: Mapping[str, Errors]
    assignment: Tuple[Tuple[Optional[str], Optional[str]], ...] = ()
    missing: bool = False


@dataclass(frozen=True)
class SetScore:
    """Many clips, added up by metric (micro-average)."""

    clips: int
    errors: Mapping[str, Errors]
    counts: TalkerCounts = field(default_factory=TalkerCounts)

    @classmethod
    def zero(cls) -> "SetScore":
        return cls(0, {})

    @classmethod
    def of(cls, clips: Iterable[ClipScore]) -> "SetScore":
        """Add up ``clips``, which carry the same metrics."""
        clips = list(clips)
        # A list of cells is added at once: adding the frozen matrix clip by clip would be quadratic.
        cells: List[Tuple[int, int, int]] = [(c.num_speakers, c.predicted, 1) for c in clips]
        return cls(
            len(clips),
            {m: sum((c.errors[m] for c in clips), Errors.zero()) for m in (clips[0].errors if clips else ())},
            TalkerCounts(tuple(cells)) + TalkerCounts.zero(),
        )

    def __add__(self, other: "SetScore") -> "SetScore":
        if not isinstance(other, SetScore):
            return NotImplemented
        metrics = dict.fromkeys([*self.errors, *other.errors])
        if self.clips and other.clips and set(self.errors) != set(other.errors):
            raise ValueError(f"different metrics cannot be added: {sorted(self.errors)}, {sorted(other.errors)}")
        return SetScore(
            self.clips + other.clips,
            {m: self.errors.get(m, Errors.zero()) + other.errors.get(m, Errors.zero()) for m in metrics},
            self.counts + other.counts,
        )


@dataclass(frozen=True)
class DiarizationErrors:
    """Seconds of wrong speaker time, and the Jaccard errors of reference speakers, both additive.

    Attributes:
        missed, false_alarm, confusion: seconds of speaker time (where two speak, a second counts twice).
        total: reference speaker time, seconds.
        speaker_errors: sum over the reference speakers of ``1 - |both| / |either|`` with the speaker assigned to each.
        speakers: number of reference speakers.

    >>> d = DiarizationErrors(1.0, 0.5, 0.5, 10.0, 0.5, 2) + DiarizationErrors(total=10.0, speakers=3)
    >>> d.der, d.jer
    (0.1, 0.1)

    Raises:
        ValueError: a negative number.
    """

    missed: float = 0.0
    false_alarm: float = 0.0
    confusion: float = 0.0
    total: float = 0.0
    speaker_errors: float = 0.0
    speakers: int = 0

    def __post_init__(self) -> None:
        if min(self.missed, self.false_alarm, self.confusion, self.total, self.speaker_errors, self.speakers) < 0:
            raise ValueError(f"negative number in {self}")

    @classmethod
    def zero(cls) -> "DiarizationErrors":
        return cls()

    def __add__(self, other: "DiarizationErrors") -> "DiarizationErrors":
        if not isinstance(other, DiarizationErrors):
            return NotImplemented
        return DiarizationErrors(
            self.missed + other.missed, self.false_alarm + other.false_alarm, self.confusion + other.confusion,
            self.total + other.total, self.speaker_errors + other.speaker_errors, self.speakers + other.speakers)

    @property
    def der(self) -> Optional[float]:
        """Diarization error rate; None without reference speech."""
        return (self.missed + self.false_alarm + self.confusion) / self.total if self.total > 0 else None

    @property
    def jer(self) -> Optional[float]:
        """Jaccard error rate, a mean over reference speakers; None when there are none."""
        return self.speaker_errors / self.speakers if self.speakers else None

    def as_dict(self) -> Dict[str, Any]:
        return {"der": _rounded(self.der, 6), "jer": _rounded(self.jer, 6), "missed": round(self.missed, 3),
                "false_alarm": round(self.false_alarm, 3), "confusion": round(self.confusion, 3),
                "total": round(self.total, 3), "speaker_errors": round(self.speaker_errors, 6),
                "speakers": self.speakers}


def _rounded(value: Optional[float], digits: int) -> Optional[float]:
    return None if value is None else round(value, digits)


@dataclass(frozen=True)
class Mean:
    """A sum and how many values it is of.

    >>> (Mean.of([1.0, 2.0]) + Mean.of([6.0])).value
    3.0
    """

    total: float = 0.0
    count: int = 0

    @classmethod
    def zero(cls) -> "Mean":
        return cls()

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean":
        values = list(values)
        return cls(float(sum(values)), len(values))

    def __add__(self, other: "Mean") -> "Mean":
        if not isinstance(other, Mean):
            return NotImplemented
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> Optional[float]:
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class Separation:
    """How well signals were separated: means over reference sources, and what could not be compared.

    Attributes:
        means: by name, in dB but for STOI; a source without a value (too short for STOI) is left out of that mean.
        silent_estimates: sources whose estimate is silent or not there.
        silent_references: sources that are silent; they count nowhere else.
        spare_estimates: estimates that belong to no source and are not silent.
    """

    means: Mapping[str, Mean] = field(default_factory=dict)
    silent_estimates: int = 0
    silent_references: int = 0
    spare_estimates: int = 0

    @classmethod
    def zero(cls) -> "Separation":
        return cls()

    def __add__(self, other: "Separation") -> "Separation":
        if not isinstance(other, Separation):
            return NotImplemented
        names = dict.fromkeys([*self.means, *other.means])
        return Separation(
            {n: self.means.get(n, Mean.zero()) + other.means.get(n, Mean.zero()) for n in names},
            self.silent_estimates + other.silent_estimates, self.silent_references + other.silent_references,
            self.spare_estimates + other.spare_estimates)

    def as_dict(self) -> Dict[str, Any]:
        return {**{name: _rounded(mean.value, 4) for name, mean in self.means.items()},
                "sources": max((mean.count for mean in self.means.values()), default=0),
                "silent_estimates": self.silent_estimates, "silent_references": self.silent_references,
                "spare_estimates": self.spare_estimates}
