"""Kaldi data directories: the directory as a whole, its recordings and utterances; the single maps: `maps.py`."""

import functools
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Callable, Container, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, in_background
from espnet_mt_llm.datadir.maps import (
    Lookup,
    check_ids,
    format_seconds,
    is_partial,
    key_of,
    read_lines,
    read_numbers,
    read_table,
    repair_hint,
    write_lines,
    write_map,
    write_table,
    write_text,
)

ID_PATTERN = re.compile(r"[A-Za-z0-9_.-]+")

# Annotators overshoot the end of a recording by so many seconds; more means another recording's transcript.
OVERSHOOT = 0.1

# Faster than an f-string of the same.
_UTT_ID = "%s%07d-%07d"

_STANDARD = ("wav.scp", "segments", "utt2spk", "spk2utt", "text", "reco2dur")

# In the id of a clip, behind that of its recording: from when to when, in centiseconds. A lookahead finds all pairs.
_CLIP_TIMES = re.compile(r"-(?=(\d{7,})-(\d{7,})(?![^.-]))")


def clip_times(clip: str) -> Iterator[tuple[str, float, float]]:
    """Yield the recording that a clip was cut from, by its id, and from which second to which.

    An id of a recording that has such numbers itself can be read in several ways; the last one has the longest.

    >>> list(clip_times("R1-0000150-0000275-SPK7")), list(clip_times("test-2spk-000001"))
    ([('R1', 1.5, 2.75)], [])
    """
    for times in _CLIP_TIMES.finditer(clip):
        yield clip[: times.start()], int(times[1]) / 100, int(times[2]) / 100


def make_utt_id(spk: str, rec: str, start: float, end: float) -> str:
    """Build `<speaker>-<recording>-<start>-<end>`, times in centiseconds of 7 digits, so that ids sort by speaker.

    Raises:
        UserError: a speaker or recording id with other characters than letters, digits and ``_.-``.
    """
    return _UTT_ID % (_prefix(spk, rec), round(start * 100), round(end * 100))


def make_utt_ids(spks: Sequence[str], rec: str, starts: Sequence[float], ends: Sequence[float]) -> list[str]:
    """Return what :func:`make_utt_id` makes of each utterance of a recording."""
    import numpy as np

    prefixes = {spk: _prefix(spk, rec) for spk in set(spks)}
    # In columns: numpy rounds as `round` does, halves to the even number.
    first, last = np.rint(np.array([starts, ends], dtype=float) * 100).astype(int).tolist()
    return list(map(_UTT_ID.__mod__, zip(map(prefixes.__getitem__, spks), first, last)))


@functools.lru_cache(maxsize=1024)
def _prefix(spk: str, rec: str) -> str:
    for what, name in (("speaker", spk), ("recording", rec)):
        if not ID_PATTERN.fullmatch(name):
            raise UserError(
                f"the {what} id {name!r} may hold letters, digits and _.- only; rename it in the preparation"
            )
    return f"{spk}-{rec}-"


def spk2utt_of(utt2spk: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Turn sorted pairs of utterance and speaker round: speaker -> its utterances, with spaces between."""
    utts: dict[str, list[str]] = defaultdict(list)
    for spk, of_spk in groupby(utt2spk, itemgetter(1)):
        utts[spk] += map(itemgetter(0), of_spk)
    return {spk: " ".join(of_spk) for spk, of_spk in utts.items()}


class Utterance(NamedTuple):
    """One speaker's stretch of speech; ``start`` and ``end`` are seconds in the recording."""

    utt: str
    rec: str
    spk: str
    start: float
    end: float
    text: str


def _segment_lines(utterances: Iterable[Utterance]) -> str:
    """Return the lines of ``segments``, with the times as :func:`format_seconds` writes them."""
    # A tab marks the end of a number, so that the zeros of all are taken off at once. Faster than an f-string.
    text = "".join(["%s %s %.6f\t %.6f\t\n" % (utt, rec, start, end) for utt, rec, _, start, end, _ in utterances])
    text = text.replace("0000\t", "")
    return re.sub("0*\t", "", text) if "\t" in text else text


@dataclass(frozen=True)
class DataDir:
    """A session-level data directory: the one truth about its recordings.

    Attributes:
        wav: recording -> path, or a command that ends in a pipe sign.
        utterances: sorted by id.
        reco2dur: recording -> seconds; may lack recordings, :meth:`write` looks those up in the audio headers.
        extra: file name -> map, for the other files (``spk1.scp``, ``utt2num_spk``, ``mixtures.jsonl`` …).
    """

    path: Path
    wav: dict[str, str]
    utterances: list[Utterance]
    reco2dur: dict[str, float] = field(default_factory=dict)
    extra: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Pathlike) -> "DataDir":
        """Read a directory; without ``segments`` each recording is one utterance from 0 to its end.

        Raises:
            UserError: file and line of what cannot be read. For every broken rule at once: `validate_data_dir`.
        """
        path = Path(path)
        wav = dict(read_recordings(path))
        reco2dur = read_numbers(path / "reco2dur") if (path / "reco2dur").exists() else {}
        utterances = list(read_utterances(path, wav, lambda rec: _whole(rec, wav[rec], reco2dur)))
        utterances.sort(key=lambda u: u.utt)
        extra = {
            f.name: read_table(f)
            for f in sorted(path.iterdir())
            if f.name not in _STANDARD and key_of(f.name) and f.is_file()
        }
        return cls(path, wav, utterances, reco2dur, extra)

    def write(self, path: Pathlike) -> "DataDir":
        """Write all files, sorted, each atomically, and return what a reader would get.

        ``segments`` is left out where every utterance is a whole recording of the same id, and so is a map that no
        recording has an entry in (``channel`` of mono recordings); what an earlier preparation left of such is removed.

        Raises:
            UserError: an utterance id twice, or a recording whose missing duration cannot be found.
        """
        path = Path(path)
        reco2dur = {rec: _whole(rec, entry, self.reco2dur) for rec, entry in self.wav.items()}
        utterances = sorted(self.utterances, key=itemgetter(0))
        utts, spks = [u.utt for u in utterances], [u.spk for u in utterances]
        for utt, following in pairwise(utts):
            if utt == following:
                raise at(
                    path,
                    None,
                    f"the utterance id '{utt}' occurs twice",
                    "two utterances of one speaker start and end together: drop one in the preparation",
                )
        check_ids(path / "utt2spk", utts)
        extra = {name: table for name, table in self.extra.items() if table or not is_partial(name)}
        whole = all(u.utt == u.rec and u.start == 0 and abs(u.end - reco2dur[u.rec]) < 1e-6 for u in utterances)
        if whole:
            (path / "segments").unlink(missing_ok=True)
        else:
            check_ids(path / "segments", {u.rec for u in utterances})
        # The disk takes a file while the next one is put together.
        with in_background() as write:
            if not whole:
                write(write_text, path / "segments", _segment_lines(utterances))
            write(write_lines, path / "text", [f"{u.utt} {u.text}\n" if u.text else f"{u.utt}\n" for u in utterances])
            write(write_lines, path / "utt2spk", [f"{utt} {spk}\n" for utt, spk in zip(utts, spks)])
            write(write_map, path / "spk2utt", spk2utt_of(zip(utts, spks)))
            write(write_map, path / "reco2dur", {rec: format_seconds(seconds) for rec, seconds in reco2dur.items()})
            write(write_map, path / "wav.scp", self.wav)
            for name, table in extra.items():
                write(write_table, path / name, table)
        for old in path.iterdir():
            if is_partial(old.name) and old.name not in extra:
                old.unlink()
        return replace(self, path=path, reco2dur=reco2dur, utterances=utterances, extra=extra)

    def channel(self, rec: str) -> Optional[int]:
        """Return which channel (from 1) of the recording's file is used; None for a mono file.

        Raises:
            UserError: the file ``channel`` says something else than a number.
        """
        return parse_channel(self.path, rec, self.extra.get("channel", {}).get(rec))

    def seglst(self) -> list[dict]:
        """Return the utterances as SegLST segments, by recording and start time."""
        segments = [
            {"session_id": u.rec, "speaker": u.spk, "start_time": u.start, "end_time": u.end, "words": u.text}
            for u in self.utterances
        ]
        return sorted(segments, key=lambda s: (s["session_id"], s["start_time"], s["end_time"], s["speaker"]))

    @classmethod
    def from_seglst(
        cls,
        segments: Iterable[Mapping],
        wav: Mapping[str, str],
        reco2dur: Optional[Mapping[str, float]] = None,
        path: Pathlike = ".",
    ) -> "DataDir":
        """Build a directory (in memory) from SegLST segments; utterance ids are made by :func:`make_utt_id`."""
        utterances = []
        for s in segments:
            rec, spk, start, end = str(s["session_id"]), str(s["speaker"]), float(s["start_time"]), float(s["end_time"])
            if rec not in wav:
                raise UserError(f"the session '{rec}' has segments but no audio; add it to the map of audio files")
            words = " ".join(str(s.get("words", "")).split("\n"))
            utterances.append(Utterance(make_utt_id(spk, rec, start, end), rec, spk, start, end, words))
        return cls(Path(path), dict(wav), sorted(utterances, key=lambda u: u.utt), dict(reco2dur or {}))


def parse_channel(path: Path, rec: str, value: Optional[str]) -> Optional[int]:
    """Turn what the file ``channel`` says of a recording into a number from 1; None stays None.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return None
    if not value.isdigit() or int(value) < 1:
        raise at(path / "channel", None, f"'{rec} {value}'", "expected '<recording> <number from 1 on>'")
    return int(value)


def read_recordings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the recordings of a data directory and their audio, what ``wav.scp`` says.

    Raises:
        UserError: file and line of what cannot be read, no such directory.
    """
    if not path.is_dir():
        raise at(path, None, "no such data directory", "prepare it first (stage 1)")
    for number, (rec, entry) in enumerate(read_lines(path / "wav.scp"), 1):
        if not entry:
            raise at(path / "wav.scp", number, f"'{rec}' has no audio", repair_hint(path / "wav.scp"))
        # One string for all mentions of a name.
        yield sys.intern(rec), entry


def duration_reader(path: Path) -> Callable[[str], Optional[float]]:
    """Return what says how many seconds a recording of a data directory lasts; None: ``reco2dur`` does not have it.

    Recordings that are asked for in ascending order cost no memory.
    """
    durations = Lookup(path / "reco2dur") if (path / "reco2dur").exists() else None

    def seconds(rec: str) -> Optional[float]:
        value = durations.get(rec) if durations else None
        try:
            return None if value is None else float(value)
        except ValueError:
            raise at(path / "reco2dur", None, f"'{value}' is not a number", "expected '<id> <number>'") from None

    return seconds


def read_utterances(path: Path, recs: Container[str], seconds: Callable[[str], float]) -> Iterator[Utterance]:
    """Yield the utterances of a data directory in the order of ``segments``, else whole recordings as utterances.

    Args:
        recs: the recordings that there are.
        seconds: returns the length of a recording; asked where there is no ``segments``.

    Raises:
        UserError: file and line of what cannot be read, a recording or a speaker that is missing.
    """
    spk_of = Lookup(path / "utt2spk")
    text_of = Lookup(path / "text") if (path / "text").exists() else None
    for utt, (rec, start, end) in _spans(path, seconds):
        if rec not in recs:
            raise at(path / "segments", None, f"'{utt}' lies in '{rec}', which is not in wav.scp",
                     repair_hint(path / "segments"))
        spk = spk_of.get(utt)
        if spk is None:
            raise at(path / "utt2spk", None, f"the utterance '{utt}' is missing", repair_hint(path / "utt2spk"))
        text = (text_of and text_of.get(utt)) or ""
        # One string for all mentions of a name, as long as there are any.
        yield Utterance(utt, sys.intern(rec), sys.intern(spk), start, end, text)
    for file in filter(None, (spk_of, text_of)):
        file.finish()


def _spans(path: Path, seconds: Callable[[str], float]) -> Iterator[tuple[str, tuple[str, float, float]]]:
    if (path / "segments").exists():
        yield from _segments(path / "segments")
    else:
        for rec, _ in read_lines(path / "wav.scp"):
            yield rec, (rec, 0.0, seconds(rec))


def read_segments(path: Pathlike) -> dict[str, tuple[str, float, float]]:
    """Read a ``segments`` file: utterance -> (recording, start, end) in seconds."""
    return dict(_segments(path))


def _segments(path: Pathlike) -> Iterator[tuple[str, tuple[str, float, float]]]:
    for line, (utt, value) in enumerate(read_lines(path), 1):
        try:
            rec, start, end = value.split()
            span = (rec, float(start), float(end))
        except ValueError:
            raise at(path, line, f"found '{utt} {value}'", "expected '<utterance> <recording> <start> <end>'") from None
        yield utt, span


def _whole(rec: str, entry: str, reco2dur: Mapping[str, float]) -> float:
    if rec in reco2dur:
        return reco2dur[rec]
    from espnet_mt_llm.datadir.audio import duration

    return duration(entry)
