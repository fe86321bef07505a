"""Maps of a data directory as bytes, for the check: what holds for every one of them, in one pass."""

import itertools
import operator
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional

from espnet_mt_llm.common import at

_ID_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
_SHOWN = 5
_SPACE = itertools.repeat(b" ")


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
        more = [
            Problem(self.directory / name, None, rule, f"{count - _SHOWN} more of this kind")
            for (name, rule), count in self._counts.items()
            if count > _SHOWN
        ]
        return sorted(self.problems, key=lambda p: (p.path, p.line or 0)) + more


@dataclass(frozen=True)
class Map:
    """A file as bytes: line ``i`` (from 0) has the id ``keys[i]`` and stands on line ``numbers[i]`` of the file.

    ``full`` says that every id is known to be followed by a value; ``columns`` is there for a well-formed
    utt2spk.
    """

    name: str
    raw: bytes
    lines: list[bytes]
    keys: list[bytes]
    numbers: "range | list[int]"
    full: bool = False
    columns: Optional[list[list[bytes]]] = None

    def slim(self) -> "Map":
        """Return the ids alone."""
        return replace(self, raw=b"", lines=[], columns=None)


def _columns(name: str, raw: bytes, lines: list[bytes]) -> Optional[list[list[bytes]]]:
    """Split utt2spk into columns; None where a line has another number of words, or more than one space."""
    if name != "utt2spk":
        return None
    words = raw.split()
    columns = [words[::2], words[1::2]]
    return columns if len(words) == 2 * len(lines) and list(map(b" ".join, zip(*columns))) == lines else None


def load_map(report: Report, file: Path, reference: Optional[Map]) -> Optional[Map]:
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
    columns = _columns(name, raw, lines)
    numbers = range(1, len(lines) + 1)
    if reference is not None and len(lines) == len(reference.keys) and b"\t" not in raw:
        values_follow = all(map(bytes.startswith, lines, map(operator.add, reference.keys, _SPACE)))
        if values_follow and not any(map(bytes.endswith, lines, _SPACE)):
            return Map(name, raw, lines, reference.keys, reference.numbers, True, columns)
    if columns is not None:
        loaded = Map(name, raw, lines, columns[0], numbers, True, columns)
    else:
        loaded = _with_keys(report, Map(name, raw, lines, [], numbers))
    _check_order(report, loaded)
    names = raw if name in ("utt2spk", "spk2utt") else b"".join(loaded.keys) if name == "wav.scp" else b""
    if names.translate(None, _ID_BYTES + b" \n"):
        _check_characters(report, loaded)
    return loaded


def _with_keys(report: Report, m: Map) -> Map:
    """Cut the ids off the lines; empty lines are reported and left out."""
    name, raw, lines = m.name, m.raw, m.lines
    if raw[:1] in b" \t" or b"\n " in raw or b"\n\t" in raw:
        begin = 0 if raw[:1] in b" \t" else min(i for i in (raw.find(b"\n "), raw.find(b"\n\t")) if i >= 0) + 1
        report.add(name, raw.count(b"\n", 0, begin) + 1, "leading-space", "the line begins with white space")
    try:
        return replace(m, keys=[line.split(None, 1)[0] for line in lines])
    except IndexError:
        numbers = [i for i, line in enumerate(lines, 1) if line.strip()]
    for i in sorted(set(m.numbers) - set(numbers)):
        report.add(name, i, "no-empty-line", "empty line")
    lines = [lines[i - 1] for i in numbers]
    return Map(name, raw, lines, [line.split(None, 1)[0] for line in lines], numbers)


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
            report.add(
                name,
                number,
                "utf-8",
                f"not UTF-8 (byte 0x{line[e.start]:02x} in {show(line.split(None, 1)[0])})",
                f"convert it, e.g. from GB18030: iconv -f GB18030 -t UTF-8 {report.directory / name} > new",
            )


def _check_order(report: Report, m: Map) -> None:
    """Ids rise strictly in the order of bytes; else name the pair of lines that breaks the order."""
    if all(map(operator.lt, m.keys, itertools.islice(m.keys, 1, None))):
        return
    ordered = sorted(m.keys)
    unique = len(set(m.keys)) == len(m.keys)
    if not unique:
        first: dict[bytes, int] = {}
        for key, number in zip(m.keys, m.numbers):
            if key in first:
                report.add(m.name, number, "unique-id", f"the id {show(key)} is already on line {first[key]}")
            first.setdefault(key, number)
    hint = "" if ordered == m.keys else _order_hint(m.keys)
    for i in range(1, len(m.keys)):
        a, b = m.keys[i - 1], m.keys[i]
        if b < a:
            at_byte = next((j for j, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            why = (
                f"they differ at character {at_byte + 1}, where {show(b[at_byte : at_byte + 1] or b'end of id')} "
                f"sorts before {show(a[at_byte : at_byte + 1])}"
            )
            report.add(
                m.name,
                m.numbers[i],
                "sorted-C",
                f"lines {m.numbers[i - 1]} and {m.numbers[i]} are not in the "
                f"order of bytes (LC_ALL=C): {show(b)} must stand before {show(a)}: {why}{hint}",
            )


def _order_hint(keys: list[bytes]) -> str:
    """Say which other order the ids follow, since that tells where they were sorted."""
    folded = [bytes(c for c in key.lower() if chr(c).isalnum()) for key in keys]
    if folded == sorted(folded):
        return " (sorted by a locale that ignores case and punctuation: export LC_ALL=C before `sort`)"
    return ""


def _check_characters(report: Report, m: Map) -> None:
    for key, number in zip(m.keys, m.numbers):
        bad = key.translate(None, _ID_BYTES)
        if bad:
            report.add(
                m.name,
                number,
                "id-characters",
                f"the id {show(key)} has {show(bad[:1])}: only letters, digits and "
                "_.- are safe in file names and shells",
                "rename it in the preparation (local/data.sh)",
            )


def show(raw: bytes) -> str:
    """Quote bytes of a file for a message, shortened."""
    text = raw.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 80 else text[:77] + "…")
