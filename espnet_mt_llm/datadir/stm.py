"""STM: who said what when, `<rec> <chan> <speaker> <start> <end> [<label>] <words>`."""

import re
from typing import Iterable, Mapping

from espnet_mt_llm.common import Pathlike, at, atomic_open
from espnet_mt_llm.datadir.maps import format_seconds, read_text
from espnet_mt_llm.datadir.seglst import name_field, span

# sclite's label, e.g. <o,f0,male>; a word like <unk> is none.
_LABEL = re.compile(r"<([oO]|[^<>\s]*,[^<>\s]*)>")


def read_stm(path: Pathlike) -> list[dict]:
    """Read segments; ``;;`` comments and the optional label are left out, a segment may have no words.

    Raises:
        UserError: with the line: fewer than 5 fields, or impossible times.
    """
    segments = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        fields = line.replace("\t", " ").split(None, 5)
        if len(fields) < 5:
            raise at(path, number, f"{len(fields)} fields, expected <rec> <chan> <speaker> <start> <end> <words>")
        start, end = span(path, number, fields[3], fields[4])
        words = " ".join(fields[5].split()) if len(fields) == 6 else ""
        label = _LABEL.match(words)
        if label:
            words = words[label.end() :].strip()
        segments.append(
            {"session_id": fields[0], "speaker": fields[2], "start_time": start, "end_time": end, "words": words}
        )
    return segments


def write_stm(path: Pathlike, segments: Iterable[Mapping]) -> None:
    """Write one line per segment, by recording and time, atomically."""
    rows = sorted(
        (
            name_field(path, s, "session_id"),
            float(s["start_time"]),
            float(s["end_time"]),
            name_field(path, s, "speaker"),
            " ".join(str(s.get("words", "")).split()),
        )
        for s in segments
    )
    with atomic_open(path) as f:
        for rec, start, end, spk, words in rows:
            f.write(f"{rec} 1 {spk} {format_seconds(start)} {format_seconds(end)} {words}".rstrip() + "\n")
