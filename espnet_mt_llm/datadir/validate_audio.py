"""Check the audio that wav.scp names, by its headers: complete, its channel, one rate, as long as reco2dur says."""

import shutil
from collections import Counter
from typing import TYPE_CHECKING, Mapping, Optional

from espnet_mt_llm.common import UserError, progress
from espnet_mt_llm.datadir.kaldi import read_numbers

if TYPE_CHECKING:
    from espnet_mt_llm.datadir.audio import AudioInfo
    from espnet_mt_llm.datadir.validate_maps import Map, Report


def read_channels(report: "Report", m: "Map") -> dict[bytes, tuple[int, int]]:
    """Read the file ``channel``: recording -> (channel from 1, line); what is no such number is a problem."""
    channels = {}
    for rec, line, number in zip(m.keys, m.lines, m.numbers):
        value = line[len(rec) :].strip()
        if value.isdigit() and int(value) >= 1:
            channels[rec] = (int(value), number)
        else:
            report.add(
                m.name,
                number,
                "channel",
                f"expected '<recording> <channel>', counted from 1, found '{line.decode('utf-8', 'replace')}'",
                "correct it in the preparation (stage 1)",
            )
            channels[rec] = (0, number)
    return channels


def check_audio(
    report: "Report", m: "Map", channels: Mapping[bytes, tuple[int, int]], headers: bool, rate: Optional[int]
) -> dict[bytes, float]:
    """Check the entries of wav.scp.

    Args:
        m: wav.scp.
        channels: what :func:`read_channels` returned; channel 0 stands for one that was already found wrong.
        headers: read the header of each file; pipes are not run, only their program is looked for.
        rate: the rate that is expected, None: all the same.

    Returns:
        The seconds of the recordings, from headers where they were read, else from ``reco2dur``.
    """
    durations = _read_durations(report)
    if not headers:
        return durations
    recs, numbers = m.keys, m.numbers
    entries = [line[len(rec) :].strip() for rec, line in zip(recs, m.lines)]
    from espnet_mt_llm.datadir.audio import info

    found: dict[int, "AudioInfo"] = {}
    for i, raw in enumerate(progress(entries, f"headers of {report.directory.name}", len(entries))):
        entry = raw.decode("utf-8", "surrogateescape")
        if entry.endswith("|"):
            program = entry.split()[0]
            if shutil.which(program) is None and "=" not in program:
                report.add(
                    "wav.scp",
                    numbers[i],
                    "audio",
                    f"the program '{program}' of the pipe is not installed",
                    f"install it, e.g. apt install {program}",
                )
        elif entry:
            try:
                found[i] = info(entry)
            except (UserError, OSError) as e:
                report.add("wav.scp", numbers[i], "audio", str(e), "")
    expected = rate or (Counter(f.rate for f in found.values()).most_common(1)[0][0] if found else 0)
    for i, header in found.items():
        rec = recs[i].decode("utf-8", "replace")
        entry = entries[i].decode("utf-8", "replace")
        channel, line = channels.get(recs[i], (None, None))
        if header.channels != 1 and channel is None:
            report.add(
                "wav.scp",
                numbers[i],
                "channel",
                f"{entry} has {header.channels} channels, and the file 'channel' chooses none",
                f"choose one there: `{rec} 1`",
            )
        elif channel is not None and channel > header.channels:
            report.add(
                "channel",
                line,
                "channel",
                f"there is no channel {channel} of '{rec}', {entry} has {header.channels}",
                "choose another, or leave the line out for a mono file",
            )
        if header.rate != expected:
            others = "" if rate else ", as most others have"
            report.add(
                "wav.scp",
                numbers[i],
                "rate",
                f"{entry} has {header.rate} Hz, expected {expected} Hz{others}",
                f"resample it: `{rec} sox {entry} -t wav -r {expected} - |`",
            )
        if abs(durations.get(recs[i], header.duration) - header.duration) > 0.01:
            report.add(
                "reco2dur",
                None,
                "duration",
                f"'{rec}' has {durations[recs[i]]:g} s here, but its audio {header.duration:g} s",
            )
    return {**durations, **{recs[i]: header.duration for i, header in found.items()}}


def _read_durations(report: "Report") -> dict[bytes, float]:
    path = report.directory / "reco2dur"
    if not path.exists():
        return {}
    try:
        return {rec.encode(): seconds for rec, seconds in read_numbers(path).items()}
    except UserError as e:
        report.add("reco2dur", None, "number", str(e), "")
        return {}
