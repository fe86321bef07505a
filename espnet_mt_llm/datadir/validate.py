"""Check a data directory: every broken rule, with the file, the line and the command that repairs it."""

import bisect
import functools
import itertools
import json
import operator
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Optional

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.datadir.kaldi import OVERSHOOT, is_signal, key_of, read_numbers, read_table

_ID_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
# Tokens that language-model tools give a meaning to.
_RESERVED = (b"<s>", b"</s>", b"#0")
# Above this many recordings their headers are looked at only when asked for.
MANY_RECORDINGS = 10000
_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """One broken rule: ``rule`` is its short name, ``line`` counts from 1 (None: the file as a whole)."""

    path: Path
    line: Optional[int]
    rule: str
    what: str
    repair: str = ""

    def __str__(self) -> str:
        return str(at(self.path, self.line, f"{self.what} [{self.rule}]", self.repair))


@dataclass
class Report:
    """Collects problems; of one rule in one file only the first few are kept, with a count of the others."""

    directory: Path
    problems: list[Problem] = field(default_factory=list)
    _counts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, name: str, line: Optional[int], rule: str, what: str, repair: str = "fix") -> None:
        """Note a problem of the file ``name``; the repair "fix" stands for fix_data_dir."""
        self._counts[name, rule] += 1
        if self._counts[name, rule] <= _SHOWN:
            repair = f"repair: utils/fix_data_dir.sh {self.directory}" if repair == "fix" else repair
            self.problems.append(Problem(self.directory / name, line, rule, what, repair))

    def done(self) -> list[Problem]:
        """Return the problems by file and line."""
        more = [Problem(self.directory / name, None, rule, f"{count - _SHOWN} more of this kind")
                for (name, rule), count in self._counts.items() if count > _SHOWN]
        return sorted(self.problems, key=lambda p: (p.path, p.line or 0)) + more


@dataclass(frozen=True)
class _Map:
    """A file as bytes: line ``i`` (from 0) has the id ``keys[i]`` and stands on line ``numbers[i]`` of the file.

    ``full`` says that every id is known to be followed by a value.
    """

    name: str
    raw: bytes
    lines: list[bytes]
    keys: list[bytes]
    numbers: "range | list[int]"
    full: bool = False

    @functools.cached_property
    def heads(self) -> list[bytes]:
        """Return the ids with the space that follows them."""
        return [key + b" " for key in self.keys]

    def columns(self, count: int) -> Optional[list[list[bytes]]]:
        """Split lines of exactly ``count`` words with single spaces into columns; None if there is another line."""
        words = self.raw.split()
        columns = [words[i::count] for i in range(count)]
        if len(words) != count * len(self.lines) or b"\n".join(map(b" ".join, zip(*columns))) != self.raw[:-1]:
            return None
        return columns


def validate(path: Pathlike, *, audio: Optional[bool] = None, rate: Optional[int] = None, text: bool = True,
             wav: bool = True, speaker_prefix: bool = True) -> list[Problem]:
    """Check all files of a data (or dump) directory against the rules of Kaldi and of this project.

    Args:
        audio: look at the header of every recording; None does so up to ``MANY_RECORDINGS`` of them. Pipes are not run.
        rate: samples per second that every recording must have; None asks only that all have the same.
        text: a transcript (``text``, or ``supervision`` in a dump dir) is required.
        wav: ``wav.scp`` is required.
        speaker_prefix: the speaker must be a prefix of the utterance id, and utterances sorted by speaker too.

    Returns:
        The problems; an empty list when the directory is good.

    Raises:
        UserError: there is no such directory.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise at(directory, None, "no such data directory", "prepare it first (stage 1)")
    report = Report(directory)
    maps = {}
    # utt2spk first: a file with the same ids in the same order needs no second look at them.
    for file in sorted(directory.iterdir(), key=lambda f: (f.name != "utt2spk", f.name)):
        if key_of(file.name) and file.suffix != ".jsonl" and file.is_file():
            loaded = _load(report, file, maps.get("utt2spk"))
            if loaded is not None:
                maps[file.name] = loaded
    required = ["utt2spk", "spk2utt"] + ["wav.scp"] * wav + ["text"] * (text and "supervision" not in maps)
    for name in required:
        if not (directory / name).exists():
            fixable = name == "spk2utt"
            report.add(name, None, "required", "no such file", "fix" if fixable else "make it in the preparation (stage 1)")
    if "utt2spk" in maps:
        _check_speakers(report, maps, speaker_prefix)
    recordings = maps.get("wav.scp")
    durations: dict[bytes, float] = {}
    if recordings is not None:
        from espnet_mt_llm.datadir.validate_audio import check_audio

        if not recordings.full:
            for key, line, number in zip(recordings.keys, recordings.lines, recordings.numbers):
                if len(line.strip()) == len(key):
                    report.add("wav.scp", number, "audio", f"the recording {_show(key)} has no audio")
        headers = len(recordings.lines) <= MANY_RECORDINGS if audio is None else audio
        durations = check_audio(report, recordings.keys, recordings.lines, recordings.numbers, headers, rate)
    if "segments" in maps:
        _check_segments(report, maps, durations)
    _check_ids(report, maps)
    if "text" in maps:
        _check_text(report, maps["text"])
    if "supervision" in maps:
        _check_supervision(report, maps["supervision"])
    _check_signals(report, maps)
    return report.done()


def _load(report: Report, file: Path, reference: Optional[_Map]) -> Optional[_Map]:
    """Read a map and check what holds for every map: the encoding, the lines, the order of ids."""
    name, raw = file.name, file.read_bytes()
    if not raw:
        report.add(name, None, "not-empty", "the file is empty", "make it again (stage 1)")
        return None
    if not raw.isascii():
        _check_utf8(report, name, raw)
    if not raw.endswith(b"\n"):
        report.add(name, raw.count(b"\n") + 1, "newline", "the last line does not end; the file may be cut off")
        raw += b"\n"
    if b"\r" in raw:
        report.add(name, raw.count(b"\n", 0, raw.index(b"\r")) + 1, "newline", "carriage returns (a Windows file?)")
    lines = raw.split(b"\n")
    lines.pop()
    if reference is not None and len(lines) == len(reference.keys) and b"\t" not in raw:
        values_follow = all(map(bytes.startswith, lines, reference.heads))
        if values_follow and not any(map(bytes.endswith, lines, itertools.repeat(b" "))):
            return _Map(name, raw, lines, reference.keys, reference.numbers, full=True)
    if raw[:1] in b" \t" or b"\n " in raw or b"\n\t" in raw:
        begin = 0 if raw[:1] in b" \t" else min(i for i in (raw.find(b"\n "), raw.find(b"\n\t")) if i >= 0) + 1
        report.add(name, raw.count(b"\n", 0, begin) + 1, "leading-space", "the line begins with white space")
    numbers: "range | list[int]" = range(1, len(lines) + 1)
    try:
        keys = [line.split(None, 1)[0] for line in lines]
    except IndexError:
        numbers = [i for i, line in enumerate(lines, 1) if line.strip()]
        for i in sorted(set(range(1, len(lines) + 1)) - set(numbers)):
            report.add(name, i, "no-empty-line", "empty line")
        lines = [lines[i - 1] for i in numbers]
        keys = [line.split(None, 1)[0] for line in lines]
    loaded = _Map(name, raw, lines, keys, numbers)
    _check_order(report, loaded)
    if name in ("wav.scp", "utt2spk", "spk2utt") and b"".join(keys).translate(None, _ID_BYTES):
        _check_characters(report, loaded)
    return loaded


def _check_utf8(report: Report, name: str, raw: bytes) -> None:
    try:
        raw.decode("utf-8")
        return
    except UnicodeDecodeError:
        pass
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as e:
            report.add(name, number, "utf-8", f"not UTF-8 (byte 0x{line[e.start]:02x} in {_show(line.split(None, 1)[0])})",
                       f"convert it, e.g. from GB18030: iconv -f GB18030 -t UTF-8 {report.directory / name} > new")


def _check_order(report: Report, m: _Map) -> None:
    """Ids rise strictly in the order of bytes; else name the pair of lines that breaks the order."""
    if all(map(operator.lt, m.keys, itertools.islice(m.keys, 1, None))):
        return
    ordered = sorted(m.keys)
    unique = len(set(m.keys)) == len(m.keys)
    if not unique:
        first: dict[bytes, int] = {}
        for key, number in zip(m.keys, m.numbers):
            if key in first:
                report.add(m.name, number, "unique-id", f"the id {_show(key)} is already on line {first[key]}")
            first.setdefault(key, number)
    hint = "" if ordered == m.keys else _order_hint(m.keys)
    for i in range(1, len(m.keys)):
        a, b = m.keys[i - 1], m.keys[i]
        if b < a:
            at_byte = next((j for j, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            why = f"they differ at character {at_byte + 1}, where {_show(b[at_byte:at_byte + 1] or b'end of id')} " \
                  f"sorts before {_show(a[at_byte:at_byte + 1])}"
            report.add(m.name, m.numbers[i], "sorted-C", f"lines {m.numbers[i - 1]} and {m.numbers[i]} are not in the "
                       f"order of bytes (LC_ALL=C): {_show(b)} must stand before {_show(a)}: {why}{hint}")


def _order_hint(keys: list[bytes]) -> str:
    """Say which other order the ids follow, since that tells where they were sorted."""
    folded = [bytes(c for c in key.lower() if chr(c).isalnum()) for key in keys]
    if folded == sorted(folded):
        return " (sorted by a locale that ignores case and punctuation: export LC_ALL=C before `sort`)"
    return ""


def _check_characters(report: Report, m: _Map) -> None:
    for key, number in zip(m.keys, m.numbers):
        bad = key.translate(None, _ID_BYTES)
        if bad:
            report.add(m.name, number, "id-characters", f"the id {_show(key)} has {_show(bad[:1])}: only letters, digits and "
                       "_.- are safe in file names and shells", "rename it in the preparation (local/data.sh)")


def _check_speakers(report: Report, maps: dict[str, _Map], prefix: bool) -> None:
    """Check that utt2spk has two columns and sorts by speaker as well, and that spk2utt is its inverse."""
    m = maps["utt2spk"]
    columns = m.columns(2)
    if columns is None:
        rows = [line.split() for line in m.lines]
        for row, number in zip(rows, m.numbers):
            if len(row) != 2:
                report.add(m.name, number, "two-columns", f"expected '<utterance> <speaker>', found {len(row)} columns: "
                           f"{_show(b' '.join(row))}", "an id must not hold a space: rename it in the preparation")
        if {len(row) for row in rows} != {2}:
            return
        columns = [list(column) for column in zip(*rows)]
    utts, spks = columns
    if prefix:
        _check_prefix(report, m, spks)
    if "spk2utt" in maps and not _is_inverse(utts, spks, maps["spk2utt"]):
        _check_inverse(report, maps["spk2utt"], dict(zip(utts, spks)))


def _is_inverse(utts: list[bytes], spks: list[bytes], inverse: _Map) -> bool:
    """Compare fast, where both files are sorted: the utterances of a speaker stand together then."""
    if not all(map(operator.le, spks, itertools.islice(spks, 1, None))):
        return False
    begin, lines = 0, []
    while begin < len(spks):
        end = bisect.bisect_right(spks, spks[begin])
        lines.append(b" ".join((spks[begin], *utts[begin:end])))
        begin = end
    return lines == inverse.lines


def _check_prefix(report: Report, m: _Map, spks: list[bytes]) -> None:
    wrong = []
    if not all(map(bytes.startswith, m.keys, spks)):
        wrong = [i for i, (utt, spk) in enumerate(zip(m.keys, spks)) if not utt.startswith(spk)]
    for i in wrong:
        report.add(m.name, m.numbers[i], "speaker-prefix", f"the speaker {_show(spks[i])} is not a prefix of the utterance "
                   f"id {_show(m.keys[i])}, so files cannot be sorted by both",
                   "name utterances <speaker>-<recording>-<start>-<end> in the preparation")
    if wrong or spks == sorted(spks):
        return
    for i in range(1, len(spks)):
        if spks[i] < spks[i - 1]:
            report.add(m.name, m.numbers[i], "sorted-by-speaker", f"lines {m.numbers[i - 1]} and {m.numbers[i]} are sorted by "
                       f"utterance but not by speaker: {_show(spks[i - 1])} before {_show(spks[i])}; one speaker id begins "
                       "with the other", "give all speaker ids the same length in the preparation")


def _check_inverse(report: Report, m: _Map, utt2spk: dict[bytes, bytes]) -> None:
    listed = set()
    spks = set(utt2spk.values())
    for line, number in zip(m.lines, m.numbers):
        spk, *utts = line.split()
        if spk not in spks:
            report.add(m.name, number, "inverse", f"the speaker {_show(spk)} has no utterance in utt2spk")
            continue
        for utt in utts:
            if utt2spk.get(utt) != spk:
                other = f"belongs to {_show(utt2spk[utt])} there" if utt in utt2spk else "is not there"
                report.add(m.name, number, "inverse", f"not the inverse of utt2spk: {_show(utt)} of {_show(spk)} {other}")
        if utts != sorted(set(utts)):
            report.add(m.name, number, "inverse", f"the utterances of {_show(spk)} are not sorted or not unique")
        listed.update(utts)
    for utt in sorted(set(utt2spk) - listed):
        report.add(m.name, None, "inverse", f"not the inverse of utt2spk: {_show(utt)} of {_show(utt2spk[utt])} is missing")


def _check_segments(report: Report, maps: dict[str, _Map], durations: dict[bytes, float]) -> None:
    """Check the columns, the times, and the end of the recording of every utterance."""
    m = maps["segments"]
    recordings = set(maps["wav.scp"].keys) if "wav.scp" in maps else None
    if _good_segments(m, recordings, durations):
        return
    used = set()
    for line, number in zip(m.lines, m.numbers):
        try:
            utt, rec, begin, finish = line.split()
            start, end = float(begin), float(finish)
        except ValueError:
            report.add(m.name, number, "four-columns", f"expected '<utterance> <recording> <start> <end>', found {_show(line)}",
                       "make it again in the preparation (stage 1)")
            continue
        used.add(rec)
        if not 0 <= start < end < float("inf"):
            report.add(m.name, number, "times", f"{_show(utt)} goes from {start:g} to {end:g} s, expected 0 ≤ start < end")
        elif end > durations.get(rec, end) + OVERSHOOT:
            report.add(m.name, number, "inside-recording",
                       f"{_show(utt)} ends at {end:g} s, but {_show(rec)} lasts {durations[rec]:g} s")
    if recordings is None or used == recordings:
        return
    for utt, line, number in zip(m.keys, m.lines, m.numbers):
        rec = (line.split() + [b""] * 2)[1]
        if rec not in recordings:
            report.add(m.name, number, "text-without-audio", f"{_show(utt)} lies in {_show(rec)}, which is not in wav.scp")
    for rec, number in zip(maps["wav.scp"].keys, maps["wav.scp"].numbers):
        if rec not in used:
            report.add("wav.scp", number, "audio-without-text", f"the recording {_show(rec)} has no utterance in segments")


def _check_ids(report: Report, maps: dict[str, _Map]) -> None:
    """Check that files of one kind have the same ids: of utterances as utt2spk, of recordings as wav.scp."""
    utterances, recordings = maps.get("utt2spk"), maps.get("wav.scp")
    for name, m in maps.items():
        kind = key_of(name)
        if kind == "utt" or (name == "wav.scp" and "segments" not in maps):
            reference = utterances
        elif kind == "rec" and not is_signal(name):
            reference = recordings
        else:
            continue
        # utt2num_spk counts per recording in a session dir; other tools write it per utterance.
        if name == "utt2num_spk" and utterances is not None and set(m.keys) == set(utterances.keys):
            continue
        if reference is not None and reference is not m and m.keys != reference.keys:
            _compare_ids(report, m, reference)
    manifest = report.directory / "mixtures.jsonl"
    if manifest.exists() and recordings is not None:
        try:
            ids = {key.encode() for key in read_table(manifest)}
        except UserError as e:
            report.add(manifest.name, None, "manifest", str(e), "make it again (stage 2)")
            return
        for rec in sorted(ids ^ set(recordings.keys)):
            where = "wav.scp" if rec in ids else manifest.name
            report.add(manifest.name, None, "same-ids", f"{_show(rec)} is not in {where}")


def _good_segments(m: _Map, recordings: Optional[set[bytes]], durations: dict[bytes, float]) -> bool:
    """Say fast that all segments are good; False means that each line needs a look."""
    columns = m.columns(4)
    if columns is None:
        return False
    _, recs, begins, finishes = columns
    try:
        starts, ends = list(map(float, begins)), list(map(float, finishes))
    except ValueError:
        return False
    used = set(recs)
    if not (all(map(operator.lt, starts, ends)) and min(starts) >= 0 and max(ends) < float("inf")):
        return False
    limits = {rec: durations.get(rec, float("inf")) + OVERSHOOT for rec in used}
    return used == (recordings or used) and all(map(operator.le, ends, map(limits.__getitem__, recs)))


def _compare_ids(report: Report, m: _Map, reference: _Map) -> None:
    known, mine = set(reference.keys), set(m.keys)
    rules = {"text": ("text-without-audio", "audio-without-text"), "wav.scp": ("audio-without-text", "text-without-audio")}
    extra, missing = rules.get(m.name, ("same-ids", "same-ids"))
    for key, number in zip(m.keys, m.numbers):
        if key not in known:
            report.add(m.name, number, extra, f"{_show(key)} is not in {reference.name}")
    for key, number in zip(reference.keys, reference.numbers):
        if key not in mine:
            report.add(reference.name, number, missing, f"{_show(key)} is not in {m.name}")


def _check_text(report: Report, m: _Map) -> None:
    for key, line, number in zip(m.keys, m.lines, m.numbers) if not m.full else ():
        if len(line.strip()) == len(key):
            report.add(m.name, number, "transcript", f"the transcript of {_show(key)} is empty")
    for token in _RESERVED:
        if token[:1] in m.raw and token in m.raw:
            for line, number in zip(m.lines, m.numbers):
                if token in line.split()[1:]:
                    report.add(m.name, number, "transcript", f"the transcript has the reserved token '{token.decode()}'",
                               "remove it in the preparation (local/data.sh)")


def _check_supervision(report: Report, m: _Map) -> None:
    path = report.directory / "utt2dur"
    try:
        lengths = read_numbers(path) if path.exists() else {}
    except UserError as e:
        report.add("utt2dur", None, "number", str(e), "make it again (stage 3)")
        lengths = {}
    for key, line, number in zip(m.keys, m.lines, m.numbers):
        try:
            segments = json.loads(line.split(None, 1)[1])
            length = lengths.get(key.decode(), float("inf")) + 1e-3
            good = all(isinstance(s["spk"], str) and isinstance(s["text"], str) and 0 <= s["start"] <= s["end"] <= length
                       for s in segments)
        except (ValueError, KeyError, TypeError, IndexError):
            good = False
        if not good:
            report.add(m.name, number, "supervision", f"{_show(key)} has no JSON list of spk, start ≤ end ≤ duration, text",
                       "make it again (stage 3)")


def _check_signals(report: Report, maps: dict[str, _Map]) -> None:
    """Check that spkK.scp has the recordings of at least K talkers, and no other."""
    recordings = maps.get("wav.scp")
    signals: Iterable[_Map] = [m for name, m in maps.items() if is_signal(name)]
    if recordings is None or not signals:
        return
    counts = {line.split()[0]: line.split()[-1] for line in maps["utt2num_spk"].lines} if "utt2num_spk" in maps else {}
    known = set(recordings.keys)
    for m in signals:
        for key, number in zip(m.keys, m.numbers):
            if key not in known:
                report.add(m.name, number, "same-ids", f"{_show(key)} is not in wav.scp")
        if not m.name.startswith("spk"):
            continue
        talker, mine = int(m.name[3:-4]), set(m.keys)
        for key, number in zip(recordings.keys, recordings.numbers):
            count = counts.get(key)
            if key not in mine and (count is None or not count.isdigit() or int(count) >= talker):
                report.add("wav.scp", number, "same-ids", f"{_show(key)} is not in {m.name}", "make the signals again (stage 2)")


def _show(raw: bytes) -> str:
    """Quote bytes of a file for a message, shortened."""
    text = raw.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 80 else text[:77] + "…")
