"""RTTM: who speaks when, `SPEAKER <rec> <chan> <start> <duration> <NA> <NA> <speaker> <NA> <NA>`."""

from typing import Iterable, Mapping

from espnet_mt_llm.common import Pathlike, at, atomic_open
from espnet_mt_llm.datadir.maps import format_seconds, read_text
from espnet_mt_llm.datadir.seglst import name_field, span


def read_rttm(path: Pathlike) -> list[dict]:
    """Read the SPEAKER lines as SegLST segments without words; other types of lines and ``;;`` comments are left out.

    Raises:
        UserError: with the line: another number of fields than 10 (or 9, as older writers leave out the last one),
            impossible times, or ESPnet's variant, which counts in samples and has an END row.
    """
    segments = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        if fields[0] == "END" or fields[-1] == "END":
            raise at(path, number, "an END row: this is ESPnet's RTTM variant in samples", "write it again in seconds")
        if fields[0] != "SPEAKER":
            continue
        if len(fields) not in (9, 10):
            raise at(
                path,
                number,
                f"{len(fields)} fields, expected 10: "
                "SPEAKER <rec> <chan> <start> <duration> <NA> <NA> <speaker> <NA> <NA>",
            )
        start, length = span(path, number, 0, fields[3])[1], span(path, number, 0, fields[4])[1]
        # Rounded, since 0.1 + 0.2 is not 0.3 for a computer and writers have microseconds at most.
        segments.append(
            {
                "session_id": fields[1],
                "speaker": fields[7],
                "start_time": start,
                "end_time": round(start + length, 6),
                "words": "",
            }
        )
    return segments


def write_rttm(path: Pathlike, segments: Iterable[Mapping]) -> None:
    """Write one line of 10 fields per segment, by recording and time, atomically."""
    rows = sorted(
        (
            name_field(path, s, "session_id"),
            float(s["start_time"]),
            float(s["end_time"]),
            name_field(path, s, "speaker"),
        )
        for s in segments
    )
    with atomic_open(path) as f:
        for rec, start, end, spk in rows:
            f.write(
                f"SPEAKER {rec} 1 {format_seconds(start)} {format_seconds(end - start)} <NA> <NA> {spk} <NA> <NA>\n"
            )
