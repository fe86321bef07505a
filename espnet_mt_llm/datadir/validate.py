"""Check a data directory: every broken rule, with the file, the line and the command that repairs it."""

import json
import logging
from array import array
from pathlib import Path
from typing import Iterator, Optional

import numpy as np

from espnet_mt_llm.common import Pathlike, at
from espnet_mt_llm.datadir.kaldi import OVERSHOOT
from espnet_mt_llm.datadir.maps import Lookup, is_partial, is_signal, key_of, splitter
from espnet_mt_llm.datadir.validate_audio import (
    check_audio, check_signals, checked_numbers, read_channels, read_durations,
)
from espnet_mt_llm.datadir.validate_maps import Block, Ids, Map, Problem, Report, load_map, show
from espnet_mt_llm.datadir.validate_speakers import Speakers

log = logging.getLogger(__name__)

# Tokens that language-model tools give a meaning to.
_RESERVED = (b"<s>", b"</s>", b"#0")
# The files that others are compared with.
_FIRST = ["utt2spk", "spk2utt", "channel", "wav.scp"]
# Above this many recordings their headers are looked at only when asked for.
MANY_RECORDINGS = 10000


def validate(
    path: Pathlike,
    *,
    audio: Optional[bool] = None,
    rate: Optional[int] = None,
    text: bool = True,
    wav: bool = True,
    speaker_prefix: bool = True,
) -> list[Problem]:
    """Check all files of a data (or dump) directory against the rules of Kaldi and of this project.

    A set for diarization alone, without transcripts, has a ``text`` of ids alone; some empty transcripts among others
    are a mistake. A recording of several channels needs a line in ``channel`` that chooses one.

    The files are read in blocks of lines, in step with utt2spk or wav.scp; what remains in memory is a few numbers for
    each recording, and for each line of files that do not have the ids of these.

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
    maps: dict[str, Map] = {}
    seconds = np.zeros(0)
    speakers = Speakers(directory / "spk2utt", speaker_prefix)
    looks: dict[str, Speakers | _Segments | _Text] = {"utt2spk": speakers, "text": _Text()}
    for file in _files(directory):
        if file.name == "segments":
            looks["segments"] = _Segments(maps.get("wav.scp"), seconds)
        look = looks.get(file.name)
        loaded = load_map(report, file, _reference(maps, file.name), look and look.look)
        if loaded is None:
            continue
        maps[file.name] = loaded
        if file.name == "wav.scp":
            seconds = _check_recordings(report, maps, audio, rate)
        elif file.name == "spk2utt" and "utt2spk" in maps:
            speakers.check(report, maps)
        elif file.name in ("segments", "text"):
            looks[file.name].check(report, loaded)
        elif file.name == "supervision":
            _check_supervision(report, loaded)
    if "utt2spk" in maps and "spk2utt" not in maps:
        speakers.check(report, maps)
    for name in ["utt2spk", "spk2utt"] + ["wav.scp"] * wav + ["text"] * (text and "supervision" not in maps):
        if not (directory / name).exists():
            repair = "fix" if name == "spk2utt" else "make it in the preparation (stage 1)"
            report.add(name, None, "required", "no such file", repair)
    _check_ids(report, maps)
    _check_signals(report, maps, seconds, audio)
    return report.done()


def _files(directory: Path) -> list[Path]:
    """List the files whose meaning is known in the order of their check: what others are compared with comes first."""
    known = [f for f in directory.iterdir() if key_of(f.name) and f.suffix != ".jsonl" and f.is_file()]
    return sorted(known, key=lambda f: (_FIRST.index(f.name) if f.name in _FIRST else len(_FIRST), f.name))


def _reference(maps: dict[str, Map], name: str) -> Optional[Map]:
    """Return the map that has the ids that the file should have, line by line."""
    recordings = maps.get("wav.scp")
    if key_of(name) != "rec" or recordings is None or recordings.reference is not None:
        return maps.get("utt2spk")
    return recordings


def _check_recordings(report: Report, maps: dict[str, Map], audio: Optional[bool], rate: Optional[int]) -> np.ndarray:
    """Check wav.scp, channel and the audio; return the seconds of the recordings, inf where they are not known."""
    m = maps["wav.scp"]
    channels = read_channels(report, maps["channel"], m) if "channel" in maps else None
    _report_empty(report, m)
    headers = m.size <= MANY_RECORDINGS if audio is None else audio
    if audio is None and not headers:
        log.warning(
            "%s: the headers of %d recordings are not looked at; do it with --audio true",
            report.directory,
            m.size,
        )
    seconds = read_durations(report, m if headers or (report.directory / "segments").exists() else None)
    if headers:
        check_audio(report, m, channels, seconds, rate)
    return seconds


def _report_empty(report: Report, m: Map) -> None:
    """Report the lines of a map of audio that name none."""
    for block in m.blocks() if not m.full else ():
        for key, line, number in zip(block.keys, block.lines, block.numbers):
            if len(line.strip()) == len(key):
                report.add(m.name, number, "audio", f"the recording {show(key)} has no audio")


class _Segments:
    """Checks the columns, the times, and the end of the recording of every utterance.

    Args:
        recordings: wav.scp, if there is one.
        seconds: of each of its lines.
    """

    def __init__(self, recordings: Optional[Map], seconds: np.ndarray):
        self._recordings = recordings
        self._seconds = seconds
        self._used = np.zeros(len(seconds), bool)
        self._good = True

    def look(self, block: Block) -> None:
        """Find out fast whether all segments are good; else each line needs a look."""
        self._good = self._good and self._is_good(block)

    def _is_good(self, block: Block) -> bool:
        words = block.raw.split()
        columns = [words[i::4] for i in range(4)]
        if len(words) != 4 * len(block.lines) or list(map(b" ".join, zip(*columns))) != block.lines:
            return False
        _, recs, begins, finishes = columns
        try:
            starts, ends = (np.fromiter(map(float, texts), float, len(texts)) for texts in (begins, finishes))
        except ValueError:
            return False
        if not np.all((starts >= 0) & (starts < ends) & (ends < np.inf)):
            return False
        if self._recordings is None:
            return True
        rows = self._recordings.ids.rows(recs)
        self._used[rows] = True
        return bool(np.all(rows >= 0) and np.all(ends <= self._seconds[rows] + OVERSHOOT))

    def check(self, report: Report, m: Map) -> None:
        """Tell what is wrong, if anything is."""
        recordings = self._recordings
        if self._good and (recordings is None or self._used.sum() == recordings.ids.count):
            return
        self._used[:] = False
        known = True
        for block in m.blocks():
            words = [line.split() for line in block.lines]
            rows = self._rows([row[1] if len(row) == 4 else b"" for row in words])
            for utt, line, number, row, place in zip(block.keys, block.lines, block.numbers, words, rows.tolist()):
                if self._check_line(report, utt, line, number, row, place):
                    known = known and place >= 0
                    self._used[place : place + 1] = True
        if recordings is None or (known and self._used.sum() == recordings.ids.count):
            return
        for block in m.blocks():
            recs = [(line.split() + [b""] * 2)[1] for line in block.lines]
            for utt, rec, number, place in zip(block.keys, recs, block.numbers, self._rows(recs).tolist()):
                if place < 0:
                    what = f"{show(utt)} lies in {show(rec)}, which is not in wav.scp"
                    report.add(m.name, number, "text-without-audio", what)
        for block in recordings.blocks():
            used = self._used[self._rows(block.keys)]
            for i in np.flatnonzero(~used):
                what = f"the recording {show(block.keys[i])} has no utterance in segments"
                report.add("wav.scp", block.numbers[i], "audio-without-text", what)

    def _rows(self, recs: list[bytes]) -> np.ndarray:
        return self._recordings.ids.rows(recs) if self._recordings is not None else np.full(len(recs), -1)

    def _check_line(self, report: Report, utt: bytes, line: bytes, number: int, words: list[bytes], row: int) -> bool:
        """Check a line; False where it has other columns."""
        try:
            _, rec, begin, finish = words
            start, end = float(begin), float(finish)
        except ValueError:
            report.add(
                "segments",
                number,
                "four-columns",
                f"expected '<utterance> <recording> <start> <end>', found {show(line)}",
                "make it again in the preparation (stage 1)",
            )
            return False
        limit = self._seconds[row] if row >= 0 else float("inf")
        if not 0 <= start < end < float("inf"):
            what = f"{show(utt)} goes from {start:g} to {end:g} s, expected 0 ≤ start < end"
            report.add("segments", number, "times", what)
        elif end > limit + OVERSHOOT:
            what = f"{show(utt)} ends at {end:g} s, but {show(rec)} lasts {limit:g} s"
            report.add("segments", number, "inside-recording", what)
        return True


def _check_ids(report: Report, maps: dict[str, Map]) -> None:
    """Check that files of one kind have the same ids: of utterances as utt2spk, of recordings as wav.scp."""
    utterances, recordings = maps.get("utt2spk"), maps.get("wav.scp")
    for name, m in maps.items():
        kind = key_of(name)
        if kind == "utt" or (name == "wav.scp" and "segments" not in maps):
            reference = utterances
        elif kind == "rec" and not is_partial(name):
            reference = recordings
        else:
            continue
        if reference is None or reference is m or m.reference is not None:
            continue
        # utt2num_spk counts per recording in a session dir; other tools write it per utterance.
        if name == "utt2num_spk" and utterances is not None and m.ids.same(utterances.ids):
            continue
        _compare_ids(report, m, reference)
    manifest = report.directory / "mixtures.jsonl"
    if manifest.exists() and recordings is not None:
        _check_manifest(report, manifest, recordings)


def _compare_ids(report: Report, m: Map, reference: Map) -> None:
    rules = {
        "text": ("text-without-audio", "audio-without-text"),
        "wav.scp": ("audio-without-text", "text-without-audio"),
    }
    extra, missing = rules.get(m.name, ("same-ids", "same-ids"))
    for one, other, rule in ((m, reference, extra), (reference, m, missing)):
        _report_absent(report, one, other, rule)


def _report_absent(report: Report, m: Map, other: Map, rule: str) -> None:
    """Report the ids of a map that another one does not have."""
    for block in m.blocks():
        for i in np.flatnonzero(other.ids.rows(block.keys) < 0):
            report.add(m.name, block.numbers[i], rule, f"{show(block.keys[i])} is not in {other.name}")


def _check_manifest(report: Report, manifest: Path, recordings: Map) -> None:
    """Check each line of the manifest, and that it has the recordings."""
    split, found = splitter(manifest), array("q")
    number, what = 0, ""
    with open(manifest, "rb") as f:
        try:
            for number, raw in enumerate(f, 1):
                what = "not UTF-8"
                line = raw.decode("utf-8")
                what = "not a JSON object with an 'id'"
                found.append(hash(split(line)[0].encode()))
                what = "not a JSON object"
                json.loads(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            report.add(manifest.name, number, "manifest", what, "make it again (stage 2)")
            return
    ids = Ids(np.frombuffer(found, np.int64) if found else np.zeros(0, np.int64))
    if ids.same(recordings.ids) and not ids.repeated:
        return
    wrong: dict[bytes, str] = {}
    seen: set[bytes] = set()
    with open(manifest, encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            key = split(line)[0].encode()
            if key in seen:
                what = f"the id '{key.decode()}' occurs twice"
                report.add(manifest.name, number, "manifest", what, "make it again (stage 2)")
                return
            if hash(key) in ids.repeated:
                seen.add(key)
            if recordings.ids.rows([key])[0] < 0:
                wrong[key] = "wav.scp"
    for keys in recordings.keys():
        wrong.update((keys[i], manifest.name) for i in np.flatnonzero(ids.rows(keys) < 0))
    for rec in sorted(wrong):
        report.add(manifest.name, None, "same-ids", f"{show(rec)} is not in {wrong[rec]}")


class _Text:
    """Checks that transcripts are there, and what they hold."""

    def __init__(self) -> None:
        self._tokens: set[bytes] = set()

    def look(self, block: Block) -> None:
        """Note which reserved tokens there may be."""
        self._tokens.update(token for token in _RESERVED if token[:1] in block.raw and token in block.raw)

    def check(self, report: Report, m: Map) -> None:
        """Tell what is wrong, if anything is."""
        empty = 0 if m.full else sum(1 for _ in _without_value(m))
        # Of a set for diarization alone, every transcript is.
        for key, number in _without_value(m) if 0 < empty < m.size else ():
            report.add(m.name, number, "transcript", f"the transcript of {show(key)} is empty")
        for token in (token for token in _RESERVED if token in self._tokens):
            for block in m.blocks():
                for line, number in zip(block.lines, block.numbers) if token in block.raw else ():
                    if token in line.split()[1:]:
                        report.add(
                            m.name,
                            number,
                            "transcript",
                            f"the transcript has the reserved token '{token.decode()}'",
                            "remove it in the preparation (local/data.sh)",
                        )


def _without_value(m: Map) -> Iterator[tuple[bytes, int]]:
    """Yield ids with nothing behind them, and their lines."""
    for block in m.blocks():
        for key, line, number in zip(block.keys, block.lines, block.numbers):
            if len(line.strip()) == len(key):
                yield key, number


def _check_supervision(report: Report, m: Map) -> None:
    repair = "make it again (stage 3)"
    path = report.directory / "utt2dur"
    numbers = len(report.problems)
    for _ in checked_numbers(report, "utt2dur", repair):
        pass
    lengths = Lookup(path) if path.exists() and len(report.problems) == numbers else None
    for block in m.blocks():
        for key, line, number in zip(block.keys, block.lines, block.numbers):
            try:
                length = lengths.get(key.decode()) if lengths else None
                longest = float("inf" if length is None else length) + 1e-3
                good = all(
                    isinstance(s["spk"], str) and isinstance(s["text"], str) and 0 <= s["start"] <= s["end"] <= longest
                    for s in json.loads(line.split(None, 1)[1])
                )
            except (ValueError, KeyError, TypeError, IndexError):
                good = False
            if not good:
                what = f"{show(key)} has no JSON list of spk, start ≤ end ≤ duration, text"
                report.add(m.name, number, "supervision", what, repair)


def _check_signals(report: Report, maps: dict[str, Map], seconds: np.ndarray, audio: Optional[bool]) -> None:
    """Check that what some recordings have is of these, and there, and that spkK.scp has all of at least K talkers."""
    recordings = maps.get("wav.scp")
    signals = [m for name, m in maps.items() if is_partial(name)]
    if recordings is None or not signals:
        return
    counts = _talkers(maps["utt2num_spk"], recordings) if "utt2num_spk" in maps else None
    for m in signals:
        _report_absent(report, m, recordings, "same-ids")
        if is_signal(m.name):
            _report_empty(report, m)
            if m.size <= MANY_RECORDINGS if audio is None else audio:
                check_signals(report, m, recordings, seconds)
        if not m.name.startswith("spk"):
            continue
        needed = np.full(recordings.size, True) if counts is None else (counts < 0) | (counts >= int(m.name[3:-4]))
        for keys in m.keys():
            rows = recordings.ids.rows(keys)
            needed[rows[rows >= 0]] = False
        for block in recordings.blocks() if needed.any() else ():
            for i in np.flatnonzero(needed[recordings.ids.rows(block.keys)]):
                what = f"{show(block.keys[i])} is not in {m.name}"
                report.add("wav.scp", block.numbers[i], "same-ids", what, "make the signals again (stage 2)")


def _talkers(m: Map, recordings: Map) -> np.ndarray:
    """Return what utt2num_spk says of each line of wav.scp; -1: nothing, or no number."""
    counts = np.full(recordings.size, -1)
    for block in m.blocks():
        words = [line.split()[-1] for line in block.lines]
        rows = recordings.ids.rows(block.keys)
        numbers = np.array([int(word) if word.isdigit() and len(word) < 10 else -1 for word in words], np.int64)
        counts[rows[rows >= 0]] = numbers[rows >= 0]
    return counts
