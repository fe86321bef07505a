"""Check a data directory: every broken rule, with the file, the line and the command that repairs it."""

import bisect
import itertools
import json
import logging
import operator
from pathlib import Path
from typing import Iterable, Optional

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.datadir.kaldi import OVERSHOOT, is_partial, key_of, read_lines, read_numbers
from espnet_mt_llm.datadir.validate_maps import Map, Problem, Report, load_map, show

log = logging.getLogger(__name__)

# Tokens that language-model tools give a meaning to.
_RESERVED = (b"<s>", b"</s>", b"#0")
# The files that others are compared with, and those whose values are needed more than once.
_FIRST = ["utt2spk", "spk2utt", "channel", "wav.scp"]
_KEPT = {"utt2spk", "channel", "wav.scp", "utt2num_spk"}
_BLOCK = 1 << 16
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
    durations: dict[bytes, float] = {}
    # What is needed once is let go before the next file is read: a large set fits into memory one file at a time.
    for file in _files(directory):
        loaded = load_map(report, file, maps.get("utt2spk"))
        if loaded is None:
            continue
        maps[file.name] = loaded
        if file.name == "wav.scp":
            durations = _check_recordings(report, maps, audio, rate)
        elif file.name == "spk2utt" and "utt2spk" in maps:
            _check_speakers(report, maps, speaker_prefix)
            maps["utt2spk"] = maps["utt2spk"].slim()
        elif file.name == "segments":
            _check_segments(report, maps, durations)
        elif file.name == "text":
            _check_text(report, loaded)
        elif file.name == "supervision":
            _check_supervision(report, loaded)
        if file.name not in _KEPT:
            maps[file.name] = loaded.slim()
        del loaded
    if "utt2spk" in maps and "spk2utt" not in maps:
        _check_speakers(report, maps, speaker_prefix)
    for name in ["utt2spk", "spk2utt"] + ["wav.scp"] * wav + ["text"] * (text and "supervision" not in maps):
        if not (directory / name).exists():
            repair = "fix" if name == "spk2utt" else "make it in the preparation (stage 1)"
            report.add(name, None, "required", "no such file", repair)
    _check_ids(report, maps)
    _check_signals(report, maps)
    return report.done()


def _files(directory: Path) -> list[Path]:
    """List the files whose meaning is known in the order of their check: what others are compared with comes first."""
    known = [f for f in directory.iterdir() if key_of(f.name) and f.suffix != ".jsonl" and f.is_file()]
    return sorted(known, key=lambda f: (_FIRST.index(f.name) if f.name in _FIRST else len(_FIRST), f.name))


def _check_recordings(
    report: Report, maps: dict[str, Map], audio: Optional[bool], rate: Optional[int]
) -> dict[bytes, float]:
    """Check wav.scp, channel and the audio; return the seconds of the recordings, as far as they are known."""
    from espnet_mt_llm.datadir.validate_audio import check_audio, read_channels

    m = maps["wav.scp"]
    channels = read_channels(report, maps["channel"]) if "channel" in maps else {}
    for key, line, number in zip(m.keys, m.lines, m.numbers) if not m.full else ():
        if len(line.strip()) == len(key):
            report.add(m.name, number, "audio", f"the recording {show(key)} has no audio")
    headers = len(m.lines) <= MANY_RECORDINGS if audio is None else audio
    if audio is None and not headers:
        log.warning(
            "%s: the headers of %d recordings are not looked at; do it with --audio true",
            report.directory,
            len(m.lines),
        )
    return check_audio(report, m, channels, headers, rate)


def _check_speakers(report: Report, maps: dict[str, Map], prefix: bool) -> None:
    """Check that utt2spk has two columns and sorts by speaker as well, and that spk2utt is its inverse."""
    m = maps["utt2spk"]
    columns = m.columns
    if columns is None:
        rows = [line.split() for line in m.lines]
        for row, number in zip(rows, m.numbers):
            if len(row) != 2:
                report.add(
                    m.name,
                    number,
                    "two-columns",
                    f"expected '<utterance> <speaker>', found {len(row)} columns: {show(b' '.join(row))}",
                    "an id must not hold a space: rename it in the preparation",
                )
        if {len(row) for row in rows} != {2}:
            return
        columns = [list(column) for column in zip(*rows)]
    utts, spks = columns
    if prefix:
        _check_prefix(report, m, spks)
    if "spk2utt" in maps and not _is_inverse(utts, spks, maps["spk2utt"]):
        _check_inverse(report, maps["spk2utt"], dict(zip(utts, spks)))


def _is_inverse(utts: list[bytes], spks: list[bytes], inverse: Map) -> bool:
    """Compare fast, where both files are sorted: the utterances of a speaker stand together then."""
    if not all(map(operator.le, spks, itertools.islice(spks, 1, None))):
        return False
    begin, lines = 0, []
    while begin < len(spks):
        end = bisect.bisect_right(spks, spks[begin])
        lines.append(b" ".join((spks[begin], *utts[begin:end])))
        begin = end
    return lines == inverse.lines


def _check_prefix(report: Report, m: Map, spks: list[bytes]) -> None:
    wrong = []
    if not all(map(bytes.startswith, m.keys, spks)):
        wrong = [i for i, (utt, spk) in enumerate(zip(m.keys, spks)) if not utt.startswith(spk)]
    for i in wrong:
        report.add(
            m.name,
            m.numbers[i],
            "speaker-prefix",
            f"the speaker {show(spks[i])} is not a prefix of the utterance "
            f"id {show(m.keys[i])}, so files cannot be sorted by both",
            "name utterances <speaker>-<recording>-<start>-<end> in the preparation",
        )
    if wrong or spks == sorted(spks):
        return
    for i in range(1, len(spks)):
        if spks[i] < spks[i - 1]:
            report.add(
                m.name,
                m.numbers[i],
                "sorted-by-speaker",
                f"lines {m.numbers[i - 1]} and {m.numbers[i]} are sorted by "
                f"utterance but not by speaker: {show(spks[i - 1])} before {show(spks[i])}; one speaker id begins "
                "with the other",
                "give all speaker ids the same length in the preparation",
            )


def _check_inverse(report: Report, m: Map, utt2spk: dict[bytes, bytes]) -> None:
    listed = set()
    spks = set(utt2spk.values())
    for line, number in zip(m.lines, m.numbers):
        spk, *utts = line.split()
        if spk not in spks:
            report.add(m.name, number, "inverse", f"the speaker {show(spk)} has no utterance in utt2spk")
            continue
        for utt in utts:
            if utt2spk.get(utt) != spk:
                other = f"belongs to {show(utt2spk[utt])} there" if utt in utt2spk else "is not there"
                report.add(m.name, number, "inverse", f"not the inverse of utt2spk: {show(utt)} of {show(spk)} {other}")
        if utts != sorted(set(utts)):
            report.add(m.name, number, "inverse", f"the utterances of {show(spk)} are not sorted or not unique")
        listed.update(utts)
    for utt in sorted(set(utt2spk) - listed):
        report.add(
            m.name, None, "inverse", f"not the inverse of utt2spk: {show(utt)} of {show(utt2spk[utt])} is missing"
        )


def _check_segments(report: Report, maps: dict[str, Map], durations: dict[bytes, float]) -> None:
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
            report.add(
                m.name,
                number,
                "four-columns",
                f"expected '<utterance> <recording> <start> <end>', found {show(line)}",
                "make it again in the preparation (stage 1)",
            )
            continue
        used.add(rec)
        if not 0 <= start < end < float("inf"):
            report.add(
                m.name, number, "times", f"{show(utt)} goes from {start:g} to {end:g} s, expected 0 ≤ start < end"
            )
        elif end > durations.get(rec, end) + OVERSHOOT:
            report.add(
                m.name,
                number,
                "inside-recording",
                f"{show(utt)} ends at {end:g} s, but {show(rec)} lasts {durations[rec]:g} s",
            )
    if recordings is None or used == recordings:
        return
    for utt, line, number in zip(m.keys, m.lines, m.numbers):
        rec = (line.split() + [b""] * 2)[1]
        if rec not in recordings:
            report.add(
                m.name, number, "text-without-audio", f"{show(utt)} lies in {show(rec)}, which is not in wav.scp"
            )
    for rec, number in zip(maps["wav.scp"].keys, maps["wav.scp"].numbers):
        if rec not in used:
            report.add(
                "wav.scp", number, "audio-without-text", f"the recording {show(rec)} has no utterance in segments"
            )


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
        # utt2num_spk counts per recording in a session dir; other tools write it per utterance.
        if name == "utt2num_spk" and utterances is not None and set(m.keys) == set(utterances.keys):
            continue
        if reference is not None and reference is not m and m.keys != reference.keys:
            _compare_ids(report, m, reference)
    manifest = report.directory / "mixtures.jsonl"
    if manifest.exists() and recordings is not None:
        ids = _manifest_ids(report, manifest)
        if ids is None:
            return
        for rec in sorted(ids ^ set(recordings.keys)):
            where = "wav.scp" if rec in ids else manifest.name
            report.add(manifest.name, None, "same-ids", f"{show(rec)} is not in {where}")


def _manifest_ids(report: Report, manifest: Path) -> Optional[set[bytes]]:
    ids, number = set(), 0
    try:
        for number, (key, line) in enumerate(read_lines(manifest), 1):
            json.loads(line)
            ids.add(key.encode())
    except ValueError:
        report.add(manifest.name, number, "manifest", "not a JSON object", "make it again (stage 2)")
        return None
    except UserError as e:
        report.add(manifest.name, None, "manifest", str(e), "make it again (stage 2)")
        return None
    return ids


def _good_segments(m: Map, recordings: Optional[set[bytes]], durations: dict[bytes, float]) -> bool:
    """Say fast that all segments are good; False means that each line needs a look."""
    used: set[bytes] = set()
    # In blocks: the words of all lines would take more memory than the rest of the check.
    for begin in range(0, len(m.lines), _BLOCK):
        block = m.lines[begin : begin + _BLOCK]
        words = b" ".join(block).split()
        columns = [words[i::4] for i in range(4)]
        if len(words) != 4 * len(block) or list(map(b" ".join, zip(*columns))) != block:
            return False
        _, recs, begins, finishes = columns
        try:
            starts, ends = list(map(float, begins)), list(map(float, finishes))
        except ValueError:
            return False
        if not (all(map(operator.lt, starts, ends)) and min(starts) >= 0 and max(ends) < float("inf")):
            return False
        mentioned = set(recs)
        limits = {rec: durations.get(rec, float("inf")) + OVERSHOOT for rec in mentioned}
        if not all(map(operator.le, ends, map(limits.__getitem__, recs))):
            return False
        used |= mentioned
    return used == (recordings or used)


def _compare_ids(report: Report, m: Map, reference: Map) -> None:
    known, mine = set(reference.keys), set(m.keys)
    rules = {
        "text": ("text-without-audio", "audio-without-text"),
        "wav.scp": ("audio-without-text", "text-without-audio"),
    }
    extra, missing = rules.get(m.name, ("same-ids", "same-ids"))
    for key, number in zip(m.keys, m.numbers):
        if key not in known:
            report.add(m.name, number, extra, f"{show(key)} is not in {reference.name}")
    for key, number in zip(reference.keys, reference.numbers):
        if key not in mine:
            report.add(reference.name, number, missing, f"{show(key)} is not in {m.name}")


def _check_text(report: Report, m: Map) -> None:
    lines = list(zip(m.keys, m.lines, m.numbers)) if not m.full else []
    empty = [(key, number) for key, line, number in lines if len(line.strip()) == len(key)]
    # Of a set for diarization alone, every transcript is.
    if len(empty) < len(lines):
        for key, number in empty:
            report.add(m.name, number, "transcript", f"the transcript of {show(key)} is empty")
    for token in _RESERVED:
        if token[:1] in m.raw and token in m.raw:
            for line, number in zip(m.lines, m.numbers):
                if token in line.split()[1:]:
                    report.add(
                        m.name,
                        number,
                        "transcript",
                        f"the transcript has the reserved token '{token.decode()}'",
                        "remove it in the preparation (local/data.sh)",
                    )


def _check_supervision(report: Report, m: Map) -> None:
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
            good = all(
                isinstance(s["spk"], str) and isinstance(s["text"], str) and 0 <= s["start"] <= s["end"] <= length
                for s in segments
            )
        except (ValueError, KeyError, TypeError, IndexError):
            good = False
        if not good:
            report.add(
                m.name,
                number,
                "supervision",
                f"{show(key)} has no JSON list of spk, start ≤ end ≤ duration, text",
                "make it again (stage 3)",
            )


def _check_signals(report: Report, maps: dict[str, Map]) -> None:
    """Check that what some recordings have is of these, and that spkK.scp has all of at least K talkers."""
    recordings = maps.get("wav.scp")
    signals: Iterable[Map] = [m for name, m in maps.items() if is_partial(name)]
    if recordings is None or not signals:
        return
    counts = {line.split()[0]: line.split()[-1] for line in maps["utt2num_spk"].lines} if "utt2num_spk" in maps else {}
    known = set(recordings.keys)
    for m in signals:
        for key, number in zip(m.keys, m.numbers):
            if key not in known:
                report.add(m.name, number, "same-ids", f"{show(key)} is not in wav.scp")
        if not m.name.startswith("spk"):
            continue
        talker, mine = int(m.name[3:-4]), set(m.keys)
        for key, number in zip(recordings.keys, recordings.numbers):
            count = counts.get(key)
            if key not in mine and (count is None or not count.isdigit() or int(count) >= talker):
                report.add(
                    "wav.scp",
                    number,
                    "same-ids",
                    f"{show(key)} is not in {m.name}",
                    "make the signals again (stage 2)",
                )
