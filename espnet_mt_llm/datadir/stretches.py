"""Single-speaker stretches: who talks when in a data dir, where one talks alone, and the pool to enrol from."""

import functools
import itertools
import json
import math
import re
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Collection, Iterable, Iterator, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Pathlike, at, atomic_open, progress
from espnet_mt_llm.datadir.audio import duration
from espnet_mt_llm.datadir.kaldi import DataDir, make_utt_id
from espnet_mt_llm.datadir.maps import read_map, read_numbers

# Seconds: the longest pause inside a stretch, and the distance that a stretch keeps from what is heard in a clip.
PAUSE = 0.5
MARGIN = 1.0

# Session, start and end in seconds; the recordings of a session have the same time.
Span = tuple[str, float, float]
# Speaker, start and end in seconds.
Run = tuple[Any, float, float]


@dataclass(frozen=True)
class Stretch:
    """A stretch of the pool, seconds in its recording.

    ``channel`` counts from 1, None for a mono file; ``session`` is None where the recording is a session by itself.
    """

    id: str
    spk: str
    rec: str
    start: float
    end: float
    wav: str
    channel: Optional[int] = None
    session: Optional[str] = None


@dataclass(frozen=True)
class Pool:
    """The stretches of a set as columns (12 bytes each), those of a speaker together; see :meth:`of`.

    Attributes:
        speakers: sorted; stretch i of speaker k has ``first[k] <= i < first[k + 1]``.
        recs, audio, sessions: the recordings, and the entry and channel of each, and its session.
        rec, start, end: (N,) int32, the recording's number and centiseconds.
    """

    speakers: Sequence[str]
    first: np.ndarray
    recs: Sequence[str]
    audio: Sequence[tuple[str, Optional[int]]]
    sessions: Sequence[str]
    rec: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of_rows(cls, spks: Sequence[str], recs: Sequence[str], audio: Sequence, sessions: Sequence[str],
                rows: "array[int]") -> "Pool":
        """Sort rows of (speaker, recording, start, end) numbers, one after the other, into a pool."""
        table = np.frombuffer(rows, dtype=np.int32).reshape(-1, 4)
        used = sorted({spks[k] for k in np.unique(table[:, 0])})
        rank = {spk: k for k, spk in enumerate(used)}
        spk = np.array([rank.get(name, -1) for name in spks], dtype=np.int32)[table[:, 0]]
        names = np.argsort(np.argsort(np.array(recs, dtype=object))) if len(recs) else np.zeros(0, int)
        order = np.lexsort((table[:, 2], names[table[:, 1]], spk))
        columns = (np.ascontiguousarray(table[order, i]) for i in (1, 2, 3))
        return cls(used, np.searchsorted(spk[order], np.arange(len(used) + 1)), recs, audio, sessions, *columns)

    def __len__(self) -> int:
        return len(self.rec)

    @functools.cached_property
    def _speaker_number(self) -> dict[str, int]:
        return {spk: k for k, spk in enumerate(self.speakers)}

    @functools.cached_property
    def _session_number(self) -> dict[str, int]:
        return {session: k for k, session in enumerate(dict.fromkeys(self.sessions))}

    @functools.cached_property
    def _session(self) -> np.ndarray:
        """Return (N,) the number of each stretch's session."""
        of_rec = np.array([self._session_number[session] for session in self.sessions], dtype=np.int32)
        return of_rec[self.rec]

    def of(self, spk: str) -> range:
        """Return the numbers of a speaker's stretches; an empty range for one who has none."""
        k = self._speaker_number.get(spk)
        return range(0) if k is None else range(int(self.first[k]), int(self.first[k + 1]))

    def outside(self, spk: str, spans: Iterable[Span]) -> list[int]:
        """Return the numbers of a speaker's stretches that keep :data:`MARGIN` from all spans."""
        own = self.of(spk)
        part = slice(own.start, own.stop)
        keep = np.ones(len(own), dtype=bool)
        for session, start, end in spans:
            before = self.end[part] <= (start - MARGIN) * 100 + 1e-6
            after = self.start[part] >= (end + MARGIN) * 100 - 1e-6
            keep &= (self._session[part] != self._session_number.get(session, -1)) | before | after
        return (np.flatnonzero(keep) + own.start).tolist()

    def stretch(self, spk: str, number: int) -> Stretch:
        """Return the stretch ``number`` of a speaker."""
        rec = int(self.rec[number])
        start, end = int(self.start[number]) / 100, int(self.end[number]) / 100
        name, session = self.recs[rec], self.sessions[rec]
        return Stretch(make_utt_id(spk, name, start, end), spk, name, start, end, *self.audio[rec],
                       None if session == name else session)

    def seconds(self, spk: str) -> float:
        """Return how much of a speaker there is."""
        own = self.of(spk)
        return int((self.end[own.start : own.stop] - self.start[own.start : own.stop]).sum()) / 100

    def write(self, path: Pathlike) -> None:
        """Write the file ``enrolment``."""
        with atomic_open(path) as f:
            for spk in self.speakers:
                for number in self.of(spk):
                    s = self.stretch(spk, number)
                    fields = {k: v for k, v in vars(s).items() if k != "id" and v is not None}
                    f.write(f"{s.id} {one_line(fields)}\n")

    @classmethod
    def read(cls, path: Pathlike) -> "Pool":
        """Read the file ``enrolment``.

        Raises:
            UserError: no such file, or a line that is no stretch.
        """
        spks: dict[str, int] = {}
        recs: dict[str, int] = {}
        audio: list[tuple[str, Optional[int]]] = []
        sessions: list[str] = []
        rows = array("i")
        for line, (_, value) in read_rows(path, 2, "make it: python -m espnet_mt_llm.bin.make_enrolment"):
            try:
                s = json.loads(value)
                rec = recs.setdefault(s["rec"], len(recs))
                times = (round(s["start"] * 100), round(s["end"] * 100))
                rows.extend((spks.setdefault(s["spk"], len(spks)), rec, *times))
                if rec == len(audio):
                    audio.append((s["wav"], s.get("channel")))
                    sessions.append(s.get("session", s["rec"]))
            except (ValueError, KeyError, TypeError):
                raise at(path, line, "not a stretch", "make it again: bin/make_enrolment") from None
        return cls.of_rows(list(spks), list(recs), audio, sessions, rows)


@dataclass(frozen=True)
class Talk:
    """Who talks when in a data dir, without ids and texts, as columns sorted by recording and time.

    A set of 7,000 hours fits into some hundred megabytes in this way; as a ``DataDir`` it would not.

    Attributes:
        recs, spks: the recordings and the speakers.
        audio, sessions: the entry and channel of each recording, and the session that it is of.
        rec, spk, start, end: (N,) numbers of both, and seconds.
    """

    recs: list[str]
    spks: list[str]
    audio: list[tuple[str, Optional[int]]]
    sessions: list[str]
    rec: np.ndarray
    spk: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def read(cls, *paths: Path) -> "Talk":
        """Read ``wav.scp``, ``segments``, ``utt2spk``, ``reco2dur``, ``channel`` and ``reco2session`` of data dirs.

        Recordings of one meeting, as those of its headsets, have a line ``<recording> <session>`` in ``reco2session``;
        a recording without one is a session by itself.

        Of several dirs, recordings, sessions and speakers begin with the name of theirs, as in a simulation that has
        many.

        Raises:
            UserError: file and line of what does not read or does not fit; dirs of the same name.
        """
        numbers: dict[str, int] = {}
        spks: dict[str, int] = {}
        audio: list[tuple[str, Optional[int]]] = []
        sessions: list[str] = []
        rec, spk, start, end = array("i"), array("i"), array("d"), array("d")
        for path in paths:
            data, prefix = _recordings(path), f"{path.name}_" if len(paths) > 1 else ""
            reco2session = data.extra.get("reco2session", {})
            for name, entry in data.wav.items():
                if numbers.setdefault(prefix + name, len(audio)) < len(audio):
                    raise at(path, None, f"two source dirs are called '{path.name}'", "rename one of them")
                audio.append((entry, data.channel(name)))
                sessions.append(prefix + (reco2session.get(name) or name))
            for name, who, first, last in _utterances(data):
                rec.append(numbers[prefix + name])
                spk.append(spks.setdefault(prefix + who, len(spks)))
                start.append(first)
                end.append(min(last, data.reco2dur.get(name, math.inf)))
        columns = [np.frombuffer(c, dtype=c.typecode) for c in (rec, spk, start, end)]
        order = np.lexsort((columns[2], columns[0]))
        return cls(list(numbers), list(spks), audio, sessions, *(c[order] for c in columns))

    def beside(self, other: "Talk") -> "Talk":
        """Return it as recorded in the sessions of ``other``, for data dirs without ``reco2session``.

        A recording that is a session by itself joins the session whose id its own begins with: ``R1_M1`` is that of
        ``R1_M1_N_SPK1``.
        """
        known = {*other.recs, *other.sessions}

        def session_of(rec: str) -> str:
            beginnings = (rec[: mark.start()] for mark in re.finditer("[_.-]", rec))
            return next((name for name in beginnings if name in known), rec)

        sessions = [session_of(rec) if rec == session else session for rec, session in zip(self.recs, self.sessions)]
        return replace(self, sessions=sessions)

    def speakers_of_sessions(self) -> dict[str, set[str]]:
        """Return the speakers of each session."""
        pairs = np.unique(self.rec.astype(np.int64) * max(len(self.spks), 1) + self.spk)
        found: dict[str, set[str]] = {}
        for rec, spk in zip(*np.divmod(pairs, max(len(self.spks), 1))):
            found.setdefault(self.sessions[rec], set()).add(self.spks[spk])
        return found

    def recordings_of_sessions(self) -> dict[str, list[int]]:
        """Return the numbers of each session's recordings."""
        found: dict[str, list[int]] = {}
        for number, session in enumerate(self.sessions):
            found.setdefault(session, []).append(number)
        return found

    @functools.cached_property
    def _bounds(self) -> list[int]:
        return np.searchsorted(self.rec, np.arange(len(self.recs) + 1)).tolist()

    def utterances(self, rec: int) -> list[tuple[str, float, float]]:
        """Return (speaker, start, end) of the recording with the number ``rec``."""
        part = slice(self._bounds[rec], self._bounds[rec + 1])
        spks = [self.spks[k] for k in self.spk[part].tolist()]
        return list(zip(spks, self.start[part].tolist(), self.end[part].tolist()))


def find_stretches(talk: Talk, speakers: Collection[str], shortest: float, longest: float,
                   known: Optional[Talk] = None) -> Pool:
    """Find the stretches of ``speakers`` in a data dir, one session after the other.

    Alone is who talks alone in all recordings of the session, and by what else is known of it: the talk of another
    data dir.
    """
    wanted, number, rows = set(speakers), {spk: k for k, spk in enumerate(talk.spks)}, array("i")
    low, high = math.ceil(shortest * 100 - 1e-6), math.floor(longest * 100 + 1e-6)
    elsewhere = known.recordings_of_sessions() if known else {}
    for session, recs in progress(talk.recordings_of_sessions().items(), "stretches"):
        of_recs = [talk.utterances(rec) for rec in recs]
        more = [known.utterances(rec) for rec in elsewhere.get(session, ())] if known else []
        alone = list(solo_runs(itertools.chain(*of_recs, *more)))
        for rec, utterances in zip(recs, of_recs):
            for spk, start, end in common_runs(alone, list(solo_runs(utterances))):
                if spk in wanted:
                    for a, b in divide_run(start, end, low, high):
                        rows.extend((number[spk], rec, a, b))
    return Pool.of_rows(talk.spks, talk.recs, talk.audio, talk.sessions, rows)


def common_runs(first: Sequence[Run], second: Sequence[Run]) -> Iterator[Run]:
    """Find where two lists of runs have the same speaker; in each, runs are by time and do not overlap.

    >>> list(common_runs([("a", 0, 4), ("b", 5, 9)], [("a", 1, 2), ("a", 3, 6), ("b", 6, 8)]))
    [('a', 1, 2), ('a', 3, 4), ('b', 6, 8)]
    """
    i = k = 0
    while i < len(first) and k < len(second):
        start, end = max(first[i][1], second[k][1]), min(first[i][2], second[k][2])
        if first[i][0] == second[k][0] and start < end:
            yield first[i][0], start, end
        if first[i][2] <= second[k][2]:
            i += 1
        else:
            k += 1


def solo_runs(utterances: Iterable[Run]) -> Iterator[Run]:
    """Find where one of several speakers talks alone, pauses up to :data:`PAUSE` included.

    Args:
        utterances: (speaker, start, end) in any order; those of one speaker may overlap.

    >>> list(solo_runs([("a", 0, 4), ("b", 3, 6), ("b", 6.5, 8), ("a", 9, 10)]))
    [('a', 0, 3), ('b', 4, 8), ('a', 9, 10)]
    """
    events = []
    for spk, start, end in utterances:
        if start < end:
            events += [(start, 1, spk), (end, -1, spk)]
    # At the same time an end comes before a begin.
    events.sort(key=lambda event: event[:2])
    talking: dict[Any, int] = {}
    run: Optional[Run] = None
    for (time, step, spk), (until, _, _) in itertools.pairwise([*events, (math.inf, 0, None)]):
        talking[spk] = talking.get(spk, 0) + step
        if not talking[spk]:
            del talking[spk]
        if until == time:
            continue
        alone = next(iter(talking)) if len(talking) == 1 else None
        if run and (len(talking) > 1 or (not talking and until - time > PAUSE) or (talking and alone != run[0])):
            yield run
            run = None
        if len(talking) == 1:
            run = (alone, run[1] if run else time, until)


def divide_run(start: float, end: float, low: int, high: int) -> list[tuple[int, int]]:
    """Divide a run (seconds) evenly into stretches of ``low`` to ``high`` centiseconds, which lie inside of it.

    >>> divide_run(0.001, 12.0, 200, 1000), divide_run(3, 4.99, 200, 1000), divide_run(0, 11, 600, 1000)
    ([(1, 600), (600, 1200)], [], [(0, 1000)])
    """
    a, b = math.ceil(start * 100 - 1e-6), math.floor(end * 100 + 1e-6)
    parts = -(-(b - a) // high)
    if b - a < parts * low:  # fewer, of which not all is taken
        parts = (b - a) // low
    edges = [a + (b - a) * i // parts for i in range(parts + 1)] if parts > 0 else []
    return [(x, min(y, x + high)) for x, y in itertools.pairwise(edges)]


def _recordings(path: Path) -> DataDir:
    """Read what a data dir says of its recordings alone."""
    if not path.is_dir():
        raise at(path, None, "no such data directory", "prepare it first (stage 1)")
    reco2dur = read_numbers(path / "reco2dur") if (path / "reco2dur").exists() else {}
    extra = {name: read_map(path / name) for name in ("channel", "reco2session") if (path / name).exists()}
    return DataDir(path, read_map(path / "wav.scp"), [], reco2dur, extra)


def _utterances(data: DataDir) -> Iterator[tuple[str, str, float, float]]:
    """Yield (recording, speaker, start, end) line by line; without ``segments`` each recording is one utterance."""
    segments, utt2spk = data.path / "segments", data.path / "utt2spk"
    repair = f"repair: utils/fix_data_dir.sh {data.path}"
    if not segments.exists():
        for line, (utt, spk) in read_rows(utt2spk, 2, repair):
            if utt not in data.wav:
                raise at(utt2spk, line, f"'{utt}' is not in wav.scp", repair)
            yield utt, spk, 0.0, data.reco2dur[utt] if utt in data.reco2dur else duration(data.wav[utt])
        return
    rows = itertools.zip_longest(read_rows(segments, 4, repair), read_rows(utt2spk, 2, repair))
    for line, (segment, speaker) in enumerate(rows, 1):
        if segment is None or speaker is None or segment[1][0] != speaker[1][0]:
            raise at(utt2spk, line, "not the utterances of 'segments' in the same order", repair)
        _, rec, start, end = segment[1]
        if rec not in data.wav:
            raise at(segments, line, f"'{rec}' is not in wav.scp", repair)
        try:
            times = float(start), float(end)
        except ValueError:
            raise at(segments, line, f"'{start} {end}' are not two times", repair) from None
        yield rec, speaker[1][1], *times


def one_line(value: Any) -> str:
    """Write JSON without line breaks and spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_rows(path: Path, columns: int, repair: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the columns of each line; the last column is the rest of the line."""
    for number, line in enumerate(read_text_lines(path, repair), 1):
        fields = line.split(None, columns - 1)
        if len(fields) != columns:
            raise at(path, number, f"{len(fields)} columns, expected {columns}", repair)
        fields[-1] = fields[-1].rstrip()
        yield number, fields


def read_text_lines(path: Path, repair: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file of any size.

    Raises:
        UserError: no such file, or not UTF-8.
    """
    try:
        with open(path, encoding="utf-8", newline="\n") as f:
            yield from f
    except FileNotFoundError:
        raise at(path, None, "no such file", repair) from None
    except UnicodeDecodeError:
        raise at(path, None, "not UTF-8", repair) from None
