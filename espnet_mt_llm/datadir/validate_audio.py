"""Check the audio that wav.scp names, by its headers: complete, its channel, one rate, as long as reco2dur says."""

import itertools
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Iterator, Optional

import numpy as np

from espnet_mt_llm.common import UserError, progress
from espnet_mt_llm.datadir.maps import number_lines

if TYPE_CHECKING:
    from espnet_mt_llm.datadir.validate_maps import Map, Report

# So many lines are turned into arrays together.
_BLOCK = 1 << 14


def read_channels(report: "Report", m: "Map", recordings: "Map") -> tuple[np.ndarray, np.ndarray]:
    """Read the file ``channel``; what is no number from 1 on is a problem.

    Returns:
        The channel of each line of wav.scp (0: it was found wrong, -1: there is none), and the line that says so.
    """
    channels, lines = np.full(recordings.size, -1), np.zeros(recordings.size, np.int64)
    for block in m.blocks():
        for rec, line, number, row in zip(block.keys, block.lines, block.numbers, recordings.ids.rows(block.keys)):
            value = line[len(rec) :].strip()
            good = value.isdigit() and int(value) >= 1
            if not good:
                report.add(
                    m.name,
                    number,
                    "channel",
                    f"expected '<recording> <channel>', counted from 1, found '{line.decode('utf-8', 'replace')}'",
                    "correct it in the preparation (stage 1)",
                )
            if row >= 0:
                channels[row], lines[row] = int(value) if good else 0, number
    return channels, lines


def read_durations(report: "Report", recordings: Optional["Map"]) -> np.ndarray:
    """Return the seconds of each line of wav.scp, inf where ``reco2dur`` has none; without wav.scp, only check that."""
    seconds = np.full(recordings.size if recordings is not None else 0, np.inf)
    numbers = checked_numbers(report, "reco2dur", "")
    while some := list(itertools.islice(numbers, _BLOCK)):
        if recordings is not None:
            rows = recordings.ids.rows([rec.encode() for rec, _ in some])
            seconds[rows[rows >= 0]] = np.array([number for _, number in some])[rows >= 0]
    return seconds


def checked_numbers(report: "Report", name: str, repair: str) -> Iterator[tuple[str, float]]:
    """Yield the ids and numbers of a file, if there is one; up to what cannot be read, which is a problem."""
    path = report.directory / name
    try:
        yield from number_lines(path) if path.exists() else ()
    except UserError as e:
        report.add(name, None, "number", str(e), repair)


def check_audio(
    report: "Report",
    m: "Map",
    channels: Optional[tuple[np.ndarray, np.ndarray]],
    seconds: np.ndarray,
    rate: Optional[int],
) -> None:
    """Check the audio that wav.scp names by the header of each file; of pipes, only their program is looked for.

    Args:
        m: wav.scp.
        channels: what :func:`read_channels` returned; None: there is no such file.
        seconds: what :func:`read_durations` returned; takes over what the headers say.
        rate: the rate that is expected, None: all the same.
    """
    found = _read_headers(report, m)
    known = found["rate"] > 0
    expected = rate or (Counter(found["rate"][known].tolist()).most_common(1)[0][0] if known.any() else 0)
    for row, (number, rec, entry) in enumerate(_entries(m)):
        if not known[row]:
            continue
        header = found[row]
        channel, line = (int(values[row]) for values in channels) if channels else (-1, 0)
        if header["channels"] != 1 and channel < 0:
            report.add(
                "wav.scp",
                number,
                "channel",
                f"{entry} has {header['channels']} channels, and the file 'channel' chooses none",
                f"choose one there: `{rec} 1`",
            )
        elif channel > header["channels"]:
            report.add(
                "channel",
                line,
                "channel",
                f"there is no channel {channel} of '{rec}', {entry} has {header['channels']}",
                "choose another, or leave the line out for a mono file",
            )
        if header["rate"] != expected:
            others = "" if rate else ", as most others have"
            report.add(
                "wav.scp",
                number,
                "rate",
                f"{entry} has {header['rate']} Hz, expected {expected} Hz{others}",
                f"resample it: `{rec} sox {entry} -t wav -r {expected} - |`",
            )
        if np.isfinite(seconds[row]) and abs(seconds[row] - header["duration"]) > 0.01:
            report.add(
                "reco2dur",
                None,
                "duration",
                f"'{rec}' has {seconds[row]:g} s here, but its audio {header['duration']:g} s",
            )
    seconds[known] = found["duration"][known]


def check_signals(report: "Report", m: "Map", recordings: "Map", seconds: np.ndarray) -> None:
    """Check by their headers that the signals of a map, ``spk1.scp`` say, are there and as long as their recordings.

    Args:
        seconds: of the recordings, inf where they are not known.
    """
    found = _read_headers(report, m)
    rows = recordings.ids.rows([rec.encode() for _, rec, _ in _entries(m)])
    for row, header, (number, rec, entry) in zip(rows, found, _entries(m)):
        if row >= 0 and header["rate"] > 0 and np.isfinite(seconds[row]) and \
                abs(seconds[row] - header["duration"]) > 0.01:
            report.add(m.name, number, "duration", f"{entry} has {header['duration']:g} s, '{rec}' {seconds[row]:g} s",
                       "make the signals again (stage 2)")


def _read_headers(report: "Report", m: "Map") -> np.ndarray:
    """Return the headers of the files of a map, line by line; the rate 0 stands for none."""
    from espnet_mt_llm.datadir.audio import info

    found = np.zeros(m.size, [("rate", np.int64), ("channels", np.int64), ("duration", np.float64)])
    what = f"headers of {report.directory.name}"
    for row, (number, _, entry) in enumerate(progress(_entries(m, "surrogateescape"), what, m.size)):
        if entry.endswith("|"):
            program = entry.split()[0]
            if shutil.which(program) is None and "=" not in program:
                report.add(
                    m.name,
                    number,
                    "audio",
                    f"the program '{program}' of the pipe is not installed",
                    f"install it, e.g. apt install {program}",
                )
        elif entry:
            try:
                header = info(entry)
            except (UserError, OSError) as e:
                report.add(m.name, number, "audio", str(e),
                           "" if m.name == "wav.scp" else "make the signals again (stage 2)")
            else:
                found[row] = (header.rate, header.channels, header.duration)
    return found


def _entries(m: "Map", errors: str = "replace") -> Iterator[tuple[int, str, str]]:
    """Yield line, recording and entry of a map; the bytes that are not UTF-8 become what ``errors`` says."""
    for block in m.blocks():
        for rec, line, number in zip(block.keys, block.lines, block.numbers):
            yield number, rec.decode("utf-8", "replace"), line[len(rec) :].strip().decode("utf-8", errors)
