"""Kaldi's line files, or maps (`<id> <rest of the line>`): what their names say, reading, looking up, writing."""

import functools
import json
import re
from itertools import islice, pairwise
from pathlib import Path
from typing import Callable, Collection, Iterator, Mapping, Optional, Sequence

from espnet_mt_llm.common import Pathlike, at, atomic_open

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
    return decode_utf8(path, read_bytes(path))


def read_bytes(path: Pathlike) -> bytes:
    """Read a file.

    Raises:
        UserError: no such file, or a directory.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise at(path, None, "no such file") from None
    except IsADirectoryError:
        raise at(path, None, "is a directory, a file is expected") from None


def decode_utf8(path: Pathlike, raw: bytes) -> str:
    """Decode what :func:`read_bytes` returned, without the byte order mark that some editors put in front.

    Raises:
        UserError: bytes that are not UTF-8, with the line.
    """
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
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
            raise at(path, number, "empty line", repair_hint(path))
        if key in mapping:
            first = next(i for i, other in enumerate(lines, 1) if other.replace("\t", " ").split(" ")[0] == key)
            raise at(path, number, f"the id '{key}' is already on line {first}", repair_hint(path))
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
        with open(path, encoding="utf-8-sig", newline="\n") as f:
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


def write_map(path: Pathlike, mapping: Mapping[str, str]) -> None:
    """Write `<id> <value>` lines, sorted as LC_ALL=C does (code points order as UTF-8 bytes do), atomically.

    Raises:
        UserError: an id with white space or a value with a line break, which would not read back.
    """
    check_ids(path, mapping)
    write_lines(path, [f"{key} {mapping[key]}\n" if mapping[key] else f"{key}\n" for key in sorted(mapping)])


def write_table(path: Pathlike, table: Mapping[str, str]) -> None:
    """Write what :func:`read_table` returned."""
    if Path(path).suffix != ".jsonl":
        return write_map(path, table)
    with atomic_open(path) as f:
        f.writelines(table[key] + "\n" for key in sorted(table))


def check_ids(path: Pathlike, ids: Collection[str]) -> None:
    # One look at all of them is faster than one at each.
    together = "".join(ids)
    if together.split(None, 1) != ([together] if ids else []) or "" in ids:
        for key in sorted(ids):
            check_line(path, key, "")


def write_lines(path: Pathlike, lines: Sequence[str]) -> None:
    """Write lines of sorted ids that were looked at already; their values were not.

    Raises:
        UserError: a value with a line break.
    """
    text = "".join(lines)
    if text.count("\n") > len(lines) or "\r" in text:
        for line in lines:
            key, _, value = line[:-1].partition(" ")
            check_line(path, key, value)
    write_text(path, text)


def write_text(path: Pathlike, text: str) -> None:
    """Write lines as they are, atomically."""
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


def repair_hint(path: Pathlike) -> str:
    return f"repair: utils/fix_data_dir.sh {Path(path).parent}"
