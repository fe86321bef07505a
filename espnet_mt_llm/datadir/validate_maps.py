"""Maps of a data directory as bytes, for the check: read in blocks of lines, and what holds for every one of them.

No map is in memory as a whole: it is read again where something has to be looked at again. Ids that have to be found in
another file stand for themselves as 64-bit hashes, 16 bytes each; files that are well are compared byte by byte.
"""

import functools
import itertools
import operator
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import at

_ID_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
# Whose ids go into file names and shells.
_NAMED = ("utt2spk", "spk2utt", "wav.scp")
_SHOWN = 5
_SPACE = itertools.repeat(b" ")
# So many bytes are looked at together: few enough that what is made of them stays in the cache of the processor.
_BLOCK = 1 << 20


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
class Block:
    """Lines that follow each other: line ``i`` (from 0) has the id ``keys[i]``, and is line ``numbers[i]`` of the file.

    Empty lines are left out of all but ``raw``. ``values`` is there for lines of utt2spk that are well-formed.
    """

    raw: bytes
    lines: list[bytes]
    keys: list[bytes]
    numbers: Sequence[int]
    values: Optional[list[bytes]] = None


@dataclass(frozen=True)
class Map:
    """A file that was read through once.

    Attributes:
        size: the number of its lines, without empty ones.
        ordered: the ids are known to rise strictly in the order of bytes.
        full: every id is known to be followed by a value.
        pairs: every line is "<id> <value>", two words with one space.
        reference: the map that has the same ids, line by line.
    """

    path: Path
    size: int
    ordered: bool
    full: bool
    pairs: bool
    reference: Optional["Map"]

    @property
    def name(self) -> str:
        """Return the name of the file."""
        return self.path.name

    def blocks(self) -> Iterator[Block]:
        """Read the file again."""
        for number, raw in _read(self.path):
            yield _cut(raw if raw.endswith(b"\n") else raw + b"\n", number)

    def keys(self) -> Iterator[list[bytes]]:
        """Read the ids again, block by block."""
        if self.pairs:
            return (raw.split()[::2] for _, raw in _read(self.path))
        return (block.keys for block in self.blocks())

    @functools.cached_property
    def ids(self) -> "Ids":
        """Return what finds the ids."""
        return Ids(np.concatenate([np.zeros(0, np.int64), *map(hashes, self.keys())]))


class Ids:
    """Finds ids by their hashes: two ids of a file are taken for one with a chance of 1 in 10^19.

    Only mistakes are named by it, and a repaired file is looked at again, so that nothing hangs on that chance.
    """

    def __init__(self, found: np.ndarray):
        self._order = np.argsort(found, kind="stable").astype(np.int32)
        self._sorted = found[self._order]
        again = self._sorted[1:] == self._sorted[:-1]
        self.repeated = frozenset(self._sorted[1:][again].tolist())
        self.count = len(found) - int(again.sum())

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """Return which line (from 0) has each id, of repeated ids the last; -1: none has it."""
        if not len(self._sorted):
            return np.full(len(keys), -1)
        wanted = hashes(keys)
        places = np.maximum(np.searchsorted(self._sorted, wanted, side="right") - 1, 0)
        return np.where(self._sorted[places] == wanted, self._order[places], -1)

    def same(self, other: "Ids") -> bool:
        """Say whether the other file has the same ids, in any order."""
        return self.count == other.count and np.array_equal(np.unique(self._sorted), np.unique(other._sorted))


def hashes(keys: Sequence[bytes]) -> np.ndarray:
    """Return the 64-bit hashes of ids, which hold for this process."""
    return np.fromiter(map(hash, keys), np.int64, len(keys))


def _read(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines as one piece, and the number of the first."""
    number = 1
    with open(path, "rb") as f:
        while raw := f.read(_BLOCK) + f.readline():
            yield number, raw
            number += raw.count(b"\n")


def _cut(raw: bytes, number: int) -> Block:
    """Cut the ids off the lines; empty lines are left out."""
    lines = raw.split(b"\n")
    lines.pop()
    numbers: Sequence[int] = range(number, number + len(lines))
    try:
        return Block(raw, lines, [line.split(None, 1)[0] for line in lines], numbers)
    except IndexError:
        numbers = [i for i, line in zip(numbers, lines) if line.strip()]
    lines = [line for line in lines if line.strip()]
    return Block(raw, lines, [line.split(None, 1)[0] for line in lines], numbers)


def load_map(
    report: Report, file: Path, reference: Optional[Map], look: Optional[Callable[[Block], None]] = None
) -> Optional[Map]:
    """Read a map and check what holds for every map: the encoding, the lines, the order of ids.

    Args:
        reference: the map that is expected to have the same ids; what is wrong with ids of utt2spk is not told again.
        look: called with every block.
    """
    scan = _Scan(report, file, reference)
    for number, raw in _read(file):
        block = scan.block(number, raw)
        if look is not None:
            look(block)
    return scan.done()


class _Scan:
    """Looks at a map block by block."""

    def __init__(self, report: Report, path: Path, reference: Optional[Map]):
        self._report, self._path, self._name = report, path, path.name
        self._reference = reference
        self._expected = _Steps(reference) if reference is not None else None
        self._size, self._last = 0, b""
        self._ordered = self._full = True
        self._pairs, self._strange = path.name == "utt2spk", False
        self._returns = self._leading = False
        self._read = False

    def block(self, number: int, raw: bytes) -> Block:
        """Check the encoding and the lines, and take notice of what has to be looked at again."""
        self._read = True
        if not raw.isascii():
            _check_utf8(self._report, self._name, raw, number)
        if not raw.endswith(b"\n"):
            line = number + raw.count(b"\n")
            self._report.add(self._name, line, "newline", "the last line does not end; the file may be cut off")
            raw += b"\n"
        if b"\r" in raw and not self._returns:
            self._returns = True
            line = number + raw.count(b"\n", 0, raw.index(b"\r"))
            self._report.add(self._name, line, "newline", "carriage returns (a Windows file?)")
        block = self._in_step(number, raw) or self._in_pairs(number, raw) or self._alone(number, raw)
        self._size += len(block.keys)
        self._last = block.keys[-1] if block.keys else self._last
        return block

    def _in_step(self, number: int, raw: bytes) -> Optional[Block]:
        """Compare with the lines of the reference; None where they are other ones, or not plainly the same."""
        if self._expected is None or b"\t" in raw or b" \n" in raw:
            return None
        lines = raw.split(b"\n")
        lines.pop()
        keys = self._expected.peek(len(lines))
        if len(keys) < len(lines) or not all(map(bytes.startswith, lines, map(operator.add, keys, _SPACE))):
            return None
        self._expected.skip(len(lines))
        return Block(raw, lines, keys, range(number, number + len(lines)))

    def _in_pairs(self, number: int, raw: bytes) -> Optional[Block]:
        """Split utt2spk into columns; None where a line has another number of words, or more than one space."""
        if not self._pairs:
            return None
        lines, words = raw.split(b"\n"), raw.split()
        lines.pop()
        keys, values = words[::2], words[1::2]
        if len(words) != 2 * len(lines) or list(map(b" ".join, zip(keys, values))) != lines:
            self._pairs = False
            return None
        self._see(keys, raw)
        return Block(raw, lines, keys, range(number, number + len(lines)), values)

    def _alone(self, number: int, raw: bytes) -> Block:
        self._full = False
        self._check_leading(number, raw)
        block = _cut(raw, number)
        if len(block.lines) < raw.count(b"\n"):
            for i in sorted(set(range(number, number + raw.count(b"\n"))) - set(block.numbers)):
                self._report.add(self._name, i, "no-empty-line", "empty line")
        if self._expected is not None:
            if self._expected.peek(len(block.keys)) == block.keys:
                self._expected.skip(len(block.keys))
            else:
                self._leave()
        self._see(block.keys, raw)
        return block

    def _leave(self) -> None:
        """Go on without the reference; what was like it was not looked at."""
        self._ordered = self._ordered and self._reference.ordered
        self._strange = self._size > 0
        self._expected = None

    def _see(self, keys: list[bytes], raw: bytes) -> None:
        """Take notice of ids out of order, or with other characters than file names should have."""
        if keys and (
            not all(map(operator.lt, keys, itertools.islice(keys, 1, None))) or (self._size and self._last >= keys[0])
        ):
            self._ordered = False
        names = b"".join(keys) if self._name == "wav.scp" else raw
        if self._name in _NAMED and names.translate(None, _ID_BYTES + b" \n"):
            self._strange = True

    def _check_leading(self, number: int, raw: bytes) -> None:
        if self._leading or not (raw[:1] in b" \t" or b"\n " in raw or b"\n\t" in raw):
            return
        self._leading = True
        begin = 0 if raw[:1] in b" \t" else min(i for i in (raw.find(b"\n "), raw.find(b"\n\t")) if i >= 0) + 1
        line = number + raw.count(b"\n", 0, begin)
        self._report.add(self._name, line, "leading-space", "the line begins with white space")

    def done(self) -> Optional[Map]:
        """Check the order and the characters of ids, and return the map; None: the file is empty."""
        if not self._read:
            self._report.add(self._name, None, "not-empty", "the file is empty", "make it again (stage 1)")
            return None
        if self._expected is not None and self._expected.peek(1):
            self._leave()
        same = self._reference if self._expected is not None else None
        ordered = self._ordered and (same is None or same.ordered)
        m = Map(self._path, self._size, ordered, self._full, self._pairs, same)
        if same is not None and same.name == "utt2spk" and m.full:
            return m
        if not ordered:
            _check_order(self._report, m)
        if self._name in _NAMED and (self._strange or same is not None):
            _check_characters(self._report, m)
        return m


class _Steps:
    """The ids of a map, as many at a time as are asked for."""

    def __init__(self, m: Map):
        self._blocks = m.keys()
        self._keys: list[bytes] = []
        self._at = 0

    def peek(self, number: int) -> list[bytes]:
        """Return the next ids; fewer at the end."""
        while len(self._keys) - self._at < number and (more := next(self._blocks, None)) is not None:
            self._keys, self._at = self._keys[self._at :] + more, 0
        return self._keys[self._at : self._at + number]

    def skip(self, number: int) -> None:
        """Go on by so many ids."""
        self._at += number


def _check_utf8(report: Report, name: str, raw: bytes, first: int) -> None:
    try:
        raw.decode("utf-8")
        return
    except UnicodeDecodeError:
        pass
    for number, line in enumerate(raw.split(b"\n"), first):
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
    if m.ids.repeated:
        first: dict[bytes, int] = {}
        for block in m.blocks():
            for key, number in zip(block.keys, block.numbers):
                if hash(key) not in m.ids.repeated:
                    continue
                if key in first:
                    report.add(m.name, number, "unique-id", f"the id {show(key)} is already on line {first[key]}")
                first.setdefault(key, number)
    hint = _order_hint(m)
    before, above = b"", 0
    for block in m.blocks():
        for key, number in zip(block.keys, block.numbers):
            if key < before:
                _report_pair(report, m, (before, above), (key, number), hint)
            before, above = key, number


def _report_pair(report: Report, m: Map, first: tuple[bytes, int], second: tuple[bytes, int], hint: str) -> None:
    """Name two ids, with their lines, where the second should stand before the first."""
    (a, above), (b, number) = first, second
    at_byte = next((j for j, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    why = (
        f"they differ at character {at_byte + 1}, where {show(b[at_byte : at_byte + 1] or b'end of id')} "
        f"sorts before {show(a[at_byte : at_byte + 1])}"
    )
    report.add(
        m.name,
        number,
        "sorted-C",
        f"lines {above} and {number} are not in the "
        f"order of bytes (LC_ALL=C): {show(b)} must stand before {show(a)}: {why}{hint}",
    )


def _order_hint(m: Map) -> str:
    """Say which other order the ids follow, since that tells where they were sorted."""
    keys = itertools.chain.from_iterable(m.keys())
    folded = (bytes(c for c in key.lower() if chr(c).isalnum()) for key in keys)
    if all(a <= b for a, b in itertools.pairwise(folded)):
        return " (sorted by a locale that ignores case and punctuation: export LC_ALL=C before `sort`)"
    return ""


def _check_characters(report: Report, m: Map) -> None:
    for key, number in ((k, n) for block in m.blocks() for k, n in zip(block.keys, block.numbers)):
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
