"""Check the speakers of a data directory: utt2spk has two columns and sorts by speaker, spk2utt is its inverse."""

import bisect
import itertools
import operator
from array import array
from pathlib import Path
from typing import BinaryIO, Iterator, Optional

import numpy as np

from espnet_mt_llm.datadir.validate_maps import Block, Map, Report, show


class Speakers:
    """Looks at utt2spk as it is read, with spk2utt in step; reads again what is not plainly well.

    Args:
        spk2utt: the inverse, which need not be there.
        prefix: the speaker must be a prefix of the utterance id, and utterances sorted by speaker too.
    """

    def __init__(self, spk2utt: Path, prefix: bool):
        self._prefix = prefix
        self._begins = self._rises = self._inverse = True
        self._path = spk2utt
        self._file: Optional[BinaryIO] = None
        self._line, self._spk = bytearray(), b""

    def look(self, block: Block) -> None:
        """Find out fast whether all is well."""
        spks = block.values
        if self._file is None and self._path.is_file():
            self._file = open(self._path, "rb")
        if not spks:
            self._begins = self._rises = self._inverse = self._inverse and not block.keys
            return
        self._begins = self._begins and all(map(bytes.startswith, block.keys, spks))
        rises = self._spk <= spks[0] and all(map(operator.le, spks, itertools.islice(spks, 1, None)))
        self._rises = self._rises and rises
        # The utterances of a speaker stand together then.
        self._inverse = self._inverse and self._rises and self._file is not None
        begin = 0
        while self._inverse and begin < len(spks):
            end = bisect.bisect_right(spks, spks[begin], begin)
            if spks[begin] != self._spk or not self._line:
                self._inverse = self._compare()
                self._line, self._spk = bytearray(spks[begin]), spks[begin]
            self._line += b" "
            self._line += b" ".join(block.keys[begin:end])
            begin = end
        self._spk = spks[-1]

    def _compare(self) -> bool:
        """Say whether the next line of spk2utt is what utt2spk has of a speaker."""
        return not self._line or self._file.readline().removesuffix(b"\n") == self._line

    def check(self, report: Report, maps: dict[str, Map]) -> None:
        """Tell what is wrong, if anything is."""
        m = maps["utt2spk"]
        inverse = self._inverse and self._compare() and not self._file.read(1) if self._file else False
        if self._file:
            self._file.close()
        if not m.size or not (m.pairs or _has_two_columns(report, m)):
            return
        if self._prefix and not (self._begins and self._rises):
            _check_prefix(report, m)
        if "spk2utt" in maps and not inverse:
            _check_inverse(report, maps["spk2utt"], m)


def _has_two_columns(report: Report, m: Map) -> bool:
    good = True
    for block in m.blocks():
        for line, number in zip(block.lines, block.numbers):
            words = line.split()
            if len(words) != 2:
                good = False
                report.add(
                    m.name,
                    number,
                    "two-columns",
                    f"expected '<utterance> <speaker>', found {len(words)} columns: {show(b' '.join(words))}",
                    "an id must not hold a space: rename it in the preparation",
                )
    return good


def _rows(m: Map) -> Iterator[tuple[bytes, bytes, int]]:
    """Read utt2spk again: utterance, speaker and line."""
    for block in m.blocks():
        for utt, line, number in zip(block.keys, block.lines, block.numbers):
            yield utt, line.split()[1], number


def _check_prefix(report: Report, m: Map) -> None:
    wrong = False
    for utt, spk, number in _rows(m):
        if not utt.startswith(spk):
            wrong = True
            report.add(
                m.name,
                number,
                "speaker-prefix",
                f"the speaker {show(spk)} is not a prefix of the utterance "
                f"id {show(utt)}, so files cannot be sorted by both",
                "name utterances <speaker>-<recording>-<start>-<end> in the preparation",
            )
    if wrong:
        return
    for (_, before, above), (_, spk, number) in itertools.pairwise(_rows(m)):
        if spk < before:
            report.add(
                m.name,
                number,
                "sorted-by-speaker",
                f"lines {above} and {number} are sorted by "
                f"utterance but not by speaker: {show(before)} before {show(spk)}; one speaker id begins "
                "with the other",
                "give all speaker ids the same length in the preparation",
            )


def _check_inverse(report: Report, m: Map, utt2spk: Map) -> None:
    """Name the utterances that spk2utt and utt2spk do not give to the same speaker."""
    numbers: dict[bytes, int] = {}
    column = array("i", (numbers.setdefault(spk, len(numbers)) for _, spk, _ in _rows(utt2spk)))
    spks, spk_of = list(numbers), np.frombuffer(column, np.dtype("i"))
    listed = np.zeros(utt2spk.size, bool)
    for block in m.blocks():
        words = [line.split() for line in block.lines]
        rows = utt2spk.ids.rows(list(itertools.chain.from_iterable(row[1:] for row in words)))
        end = 0
        for (spk, *utts), number in zip(words, block.numbers):
            begin, end = end, end + len(utts)
            if spk not in numbers:
                report.add(m.name, number, "inverse", f"the speaker {show(spk)} has no utterance in utt2spk")
                continue
            mine = rows[begin:end]
            for i in np.flatnonzero((mine < 0) | (spk_of[mine] != numbers[spk])):
                other = f"belongs to {show(spks[spk_of[mine[i]]])} there" if mine[i] >= 0 else "is not there"
                what = f"not the inverse of utt2spk: {show(utts[i])} of {show(spk)} {other}"
                report.add(m.name, number, "inverse", what)
            if utts != sorted(set(utts)):
                report.add(m.name, number, "inverse", f"the utterances of {show(spk)} are not sorted or not unique")
            listed[mine[mine >= 0]] = True
    if listed.sum() == utt2spk.ids.count:
        return
    for block in utt2spk.blocks():
        rows = utt2spk.ids.rows(block.keys)
        for i in np.flatnonzero(~listed[rows]):
            if listed[rows[i]]:
                continue
            listed[rows[i]] = True
            spk = spks[spk_of[rows[i]]]
            what = f"not the inverse of utt2spk: {show(block.keys[i])} of {show(spk)} is missing"
            report.add(m.name, None, "inverse", what)
