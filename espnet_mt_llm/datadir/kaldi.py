"""Kaldi data directories: read and write the maps (`<id> <rest of the line>`) and the directory as a whole."""

import functools
import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import groupby, islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Callable, Collection, Container, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open

ID_PATTERN = re.compile(r"[A-Za-z0-9_.-]+")

# Annotators overshoot the end of a recording by so many seconds; more means another recording's transcript.
OVERSHOOT = 0.1

# Stands behind every id.
_LAST = chr(0x10FFFF) * 2

# What the first column of each file of a data directory names.
_KEYS = (
    (
        "rec",
        r"wav\.scp|reco2dur|reco2file_and_channel|(spk|noise|dereverb)\d+\.scp|enroll_spk\d+\.scp|text_spk\d+"
        r"|utt2num_spk|mixtures\.jsonl|channel|far\d+\.scp|echo\d+\.scp|reco2seats|reco2session"
        r"|utt2sot_order",
    ),
    (
        "utt",
        r"segments|utt2spk|text|utt2dur|utt2num_samples|utt2num_frames|utt2category|utt2lang|utt2uniq"
        r"|feats\.scp|vad\.scp|supervision",
    ),
    ("spk", r"spk2utt|spk2gender|cmvn\.scp|enroll\.scp"),
)
_LEADING_ID = re.compile(r'\{"id": ?"([A-Za-z0-9_.-]+)"')
_STANDARD = ("wav.scp", "segments", "utt2spk", "spk2utt", "text", "reco2dur")


def key_of(name: str) -> Optional[str]:
    """Return what the first column of a file holds: ``rec``, ``utt`` or ``spk``; None for an unknown file."""
    for kind, pattern in _KEYS:
        if re.fullmatch(pattern, name):
            return kind
    return None


def is_signal(name: str) -> bool:
    """Say whether the file maps recordings to a signal that belongs to them: ``spk1.scp``, ``noise1.scp`` …"""
    return re.fullmatch(r"(spk|noise|dereverb)\d+\.scp", name) is not None


def is_partial(name: str) -> bool:
    """Say whether the file maps recordings to what only some of them have: signals, a channel, far microphones …"""
    pattern = r"channel|(far|echo)\d+\.scp|reco2seats|reco2session|utt2sot_order"
    return is_signal(name) or re.fullmatch(pattern, name) is not None


def read_text(path: Pathlike) -> str:
    """Read a UTF-8 file.

    Raises:
        UserError: no such file, or bytes that are not UTF-8 (with the line).
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise at(path, None, "no such file") from None
    except IsADirectoryError:
        raise at(path, None, "is a directory, a file is expected") from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise at(
            path,
            raw.count(b"\n", 0, e.start) + 1,
            f"not UTF-8 (byte 0x{raw[e.start]:02x})",
            f"convert it, e.g. from GB18030: iconv -f GB18030 -t UTF-8 {path} > new",
        ) from None


def read_map(path: Pathlike) -> dict[str, str]:
    """Read `<id> <rest of the line>` lines; a line with an id alone maps to the empty string.

    Only spaces and tabs separate: an ideographic space belongs to the transcript.

    Raises:
        UserError: with file and line: an empty line, an id twice, not UTF-8, no such file.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    mapping: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        key, _, value = line.replace("\t", " ").strip(" \r").partition(" ")
        if not key:
            raise at(path, number, "empty line", _repair(path))
        if key in mapping:
            first = next(i for i, other in enumerate(lines, 1) if other.replace("\t", " ").split(" ")[0] == key)
            raise at(path, number, f"the id '{key}' is already on line {first}", _repair(path))
        mapping[key] = value.lstrip(" ")
    return mapping


def splitter(path: Pathlike) -> Callable[[str], tuple[str, str]]:
    """Return what cuts a line of this file into id and value; see :func:`read_table`."""
    return _split_json if Path(path).suffix == ".jsonl" else _split


def _split(line: str) -> tuple[str, str]:
    key, _, value = line.replace("\t", " ").strip(" \r\n").partition(" ")
    return key, value.lstrip(" ")


def _split_json(line: str) -> tuple[str, str]:
    line = line.removesuffix("\n")
    found = _LEADING_ID.match(line)
    # A manifest's line is thousands of characters; reading the id alone is a hundred times as fast.
    return found.group(1) if found and line.endswith("}") else json.loads(line)["id"], line


def read_lines(path: Pathlike) -> Iterator[tuple[str, str]]:
    """Yield what :func:`read_table` returns, and raise what it raises, a line at a time as long as the ids ascend."""
    split, before, count = splitter(path), "", 0
    try:
        with open(path, encoding="utf-8", newline="\n") as f:
            for line in f:
                key, value = split(line)
                if key <= before:
                    break
                yield key, value
                before, count = key, count + 1
            else:
                return
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError):
        # Reading the file as a whole tells what is wrong, and on which line.
        pass
    yield from islice(read_table(path).items(), count, None)


class Lookup:
    """The values of a map for ids that are asked for in ascending order: the file is read on and not held.

    A file or questions in another order are no mistake, but hold the map in memory.
    """

    def __init__(self, path: Pathlike):
        self._path, self._lines = path, read_lines(path)
        self._key, self._value = "", ""
        self._asked = ""
        self._held: Optional[dict[str, str]] = None

    def get(self, key: str) -> Optional[str]:
        """Return the value of an id, None where the file has no such id."""
        if self._held is None and not (self._advance(key) and (self._key == key or self._ascends)):
            self._held = dict(read_lines(self._path))
        if self._held is not None:
            return self._held.get(key)
        return self._value if self._key == key else None

    def finish(self) -> None:
        """Read the rest of the file, so that its mistakes are found as well."""
        for _ in self._lines:
            pass

    @functools.cached_property
    def _ascends(self) -> bool:
        """Say whether the whole file is sorted: only then is an id that did not come at its place not there."""
        return all(a < b for (a, _), (b, _) in pairwise(read_lines(self._path)))

    def _advance(self, key: str) -> bool:
        """Go on to the first id that is not before ``key``; False where ids do not ascend."""
        if key < self._asked:
            return False
        self._asked = key
        while self._key < key:
            found, value = next(self._lines, (_LAST, ""))
            if found <= self._key:
                return False
            self._key, self._value = found, value
        return True


def _repair(path: Pathlike) -> str:
    return f"repair: utils/fix_data_dir.sh {Path(path).parent}"


def write_map(path: Pathlike, mapping: Mapping[str, str]) -> None:
    """Write `<id> <value>` lines, sorted as LC_ALL=C does (code points order as UTF-8 bytes do), atomically.

    Raises:
        UserError: an id with white space or a value with a line break, which would not read back.
    """
    _check_ids(path, mapping)
    _write_lines(path, [f"{key} {mapping[key]}\n" if mapping[key] else f"{key}\n" for key in sorted(mapping)])


def _check_ids(path: Pathlike, ids: Collection[str]) -> None:
    # One look at all of them is faster than one at each.
    together = "".join(ids)
    if together.split(None, 1) != ([together] if ids else []) or "" in ids:
        for key in sorted(ids):
            check_line(path, key, "")


def _write_lines(path: Pathlike, lines: Sequence[str]) -> None:
    """Write lines of sorted ids that were looked at already; their values were not.

    Raises:
        UserError: a value with a line break.
    """
    text = "".join(lines)
    if text.count("\n") > len(lines) or "\r" in text:
        for line in lines:
            key, _, value = line[:-1].partition(" ")
            check_line(path, key, value)
    with atomic_open(path) as f:
        f.write(text)


def check_line(path: Pathlike, key: str, value: str) -> None:
    """Refuse an id or a value that would not read back.

    Raises:
        UserError: an id with white space, or a value with a line break.
    """
    if not key or key.split() != [key]:
        raise at(path, None, f"the id {key!r} is empty or has white space", "use letters, digits and _.- only")
    if "\n" in value or "\r" in value:
        raise at(path, None, f"the value of '{key}' has a line break: {value!r}", "replace it by a space")


def format_seconds(seconds: float) -> str:
    """Write a time with microseconds where they are needed, and two decimals at least: 1.2 -> '1.20'."""
    text = f"{seconds:.6f}"
    if text.endswith("0000"):
        return text[:-4]
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def make_utt_id(spk: str, rec: str, start: float, end: float) -> str:
    """Build `<speaker>-<recording>-<start>-<end>`, times in centiseconds of 7 digits, so that ids sort by speaker.

    Raises:
        UserError: a speaker or recording id with other characters than letters, digits and ``_.-``.
    """
    # Faster than an f-string of the same.
    return "%s%07d-%07d" % (_prefix(spk, rec), round(start * 100), round(end * 100))


@functools.lru_cache(maxsize=1024)
def _prefix(spk: str, rec: str) -> str:
    for what, name in (("speaker", spk), ("recording", rec)):
        if not ID_PATTERN.fullmatch(name):
            raise UserError(
                f"the {what} id {name!r} may hold letters, digits and _.- only; rename it in the preparation"
            )
    return f"{spk}-{rec}-"


def spk2utt_of(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """Turn utt2spk round: speaker -> its utterances, sorted, with spaces between."""
    utts: dict[str, list[str]] = defaultdict(list)
    for spk, of_spk in groupby(sorted(utt2spk), utt2spk.__getitem__):
        utts[spk] += of_spk
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
    # A tab marks the end of a number, so that the zeros of all are taken off at once.
    text = "".join([f"{utt} {rec} {start:.6f}\t {end:.6f}\t\n" for utt, rec, _, start, end, _ in utterances])
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
        utt2spk = {utt: spk for utt, _, spk, _, _, _ in utterances}
        if len(utt2spk) != len(utterances):
            raise at(
                path,
                None,
                f"the utterance id '{_twice(u.utt for u in self.utterances)}' occurs twice",
                "two utterances of one speaker start and end together: drop one in the preparation",
            )
        write_map(path / "wav.scp", self.wav)
        write_map(path / "reco2dur", {rec: format_seconds(seconds) for rec, seconds in reco2dur.items()})
        _check_ids(path / "utt2spk", utt2spk)
        _write_lines(path / "utt2spk", [f"{utt} {spk}\n" for utt, spk in utt2spk.items()])
        if all(u.utt == u.rec and u.start == 0 and abs(u.end - reco2dur[u.rec]) < 1e-6 for u in utterances):
            (path / "segments").unlink(missing_ok=True)
        else:
            _check_ids(path / "segments", {u.rec for u in utterances})
            with atomic_open(path / "segments") as f:
                f.write(_segment_lines(utterances))
        _write_lines(path / "text", [f"{u.utt} {u.text}\n" if u.text else f"{u.utt}\n" for u in utterances])
        write_map(path / "spk2utt", spk2utt_of(utt2spk))
        extra = {name: table for name, table in self.extra.items() if table or not is_partial(name)}
        for name, table in extra.items():
            write_table(path / name, table)
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


def read_numbers(path: Pathlike) -> dict[str, float]:
    """Read `<id> <number>` lines."""
    return dict(number_lines(path))


def number_lines(path: Pathlike) -> Iterator[tuple[str, float]]:
    """Yield `<id> <number>` lines, a line at a time as long as the ids ascend.

    Raises:
        UserError: file and line of what is no number, and what :func:`read_map` raises.
    """
    for line, (key, value) in enumerate(read_lines(path), 1):
        try:
            yield key, float(value)
        except ValueError:
            raise at(path, line, f"'{value}' is not a number", "expected '<id> <number>'") from None


def read_recordings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the recordings of a data directory and their audio, what ``wav.scp`` says.

    Raises:
        UserError: file and line of what cannot be read, no such directory.
    """
    if not path.is_dir():
        raise at(path, None, "no such data directory", "prepare it first (stage 1)")
    for number, (rec, entry) in enumerate(read_lines(path / "wav.scp"), 1):
        if not entry:
            raise at(path / "wav.scp", number, f"'{rec}' has no audio", _repair(path / "wav.scp"))
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
            raise at(path / "segments", None, f"'{utt}' lies in '{rec}', which is not in wav.scp", _repair(path / "x"))
        spk = spk_of.get(utt)
        if spk is None:
            raise at(path / "utt2spk", None, f"the utterance '{utt}' is missing", _repair(path / "x"))
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


def read_table(path: Pathlike) -> dict[str, str]:
    """Read a map, or the JSON lines of a manifest as a map from their ``id`` to the line itself."""
    if Path(path).suffix != ".jsonl":
        return read_map(path)
    table: dict[str, str] = {}
    lines = read_text(path).removesuffix("\n")
    for number, line in enumerate(lines.split("\n") if lines else (), 1):
        try:
            key = json.loads(line)["id"]
        except (ValueError, KeyError, TypeError):
            raise at(path, number, "not a JSON object with an 'id'", "make the manifest again (stage 2)") from None
        if key in table:
            raise at(path, number, f"the id '{key}' occurs twice", "make the manifest again (stage 2)")
        table[key] = line
    return table


def write_table(path: Pathlike, table: Mapping[str, str]) -> None:
    """Write what :func:`read_table` returned."""
    if Path(path).suffix != ".jsonl":
        return write_map(path, table)
    with atomic_open(path) as f:
        f.writelines(table[key] + "\n" for key in sorted(table))


def _whole(rec: str, entry: str, reco2dur: Mapping[str, float]) -> float:
    if rec in reco2dur:
        return reco2dur[rec]
    from espnet_mt_llm.datadir.audio import duration

    return duration(entry)


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""
