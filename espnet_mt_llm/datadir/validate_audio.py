"""Check the audio that wav.scp names, by its headers: there, complete, mono, of one rate, as long as reco2dur says."""

import shutil
from collections import Counter
from typing import TYPE_CHECKING, Optional, Sequence

from espnet_mt_llm.common import UserError, progress
from espnet_mt_llm.datadir.kaldi import read_numbers

if TYPE_CHECKING:
    from espnet_mt_llm.datadir.audio import AudioInfo
    from espnet_mt_llm.datadir.validate_maps import Report


def check_audio(
    report: "Report",
    recs: Sequence[bytes],
    lines: Sequence[bytes],
    numbers: Sequence[int],
    headers: bool,
    rate: Optional[int],
) -> dict[bytes, float]:
    """Check the entries of wav.scp.

    Args:
        recs, lines, numbers: the ids, whole lines and line numbers of wav.scp.
        headers: read the header of each file; pipes are not run, only their program is looked for.
        rate: the rate that is expected, None: all the same.

    Returns:
        The seconds of the recordings, from headers where they were read, else from ``reco2dur``.
    """
    durations = _read_durations(report)
    if not headers:
        return durations
    entries = [line[len(rec) :].strip() for rec, line in zip(recs, lines)]
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
        if header.channels != 1:
            report.add(
                "wav.scp",
                numbers[i],
                "mono",
                f"{entry} has {header.channels} channels",
                f"choose one: `{rec} sox {entry} -t wav - remix 1 |`",
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
