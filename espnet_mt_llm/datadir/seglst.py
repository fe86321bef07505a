"""SegLST: a JSON list of segments with session_id, speaker, start_time, end_time, words; and checks that STM shares."""

import json
from typing import Any, Iterable, Mapping

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open
from espnet_mt_llm.datadir.maps import read_text


def read_seglst(path: Pathlike) -> list[dict]:
    """Read segments; further keys are kept, times that are absent stay absent, times in quotes become numbers.

    Raises:
        UserError: not a JSON list of objects, a missing ``session_id`` or ``speaker``, or impossible times.
    """
    try:
        segments = json.loads(read_text(path))
    except json.JSONDecodeError as e:
        raise at(path, e.lineno, f"not valid JSON ({e.msg})") from None
    if not isinstance(segments, list):
        raise at(path, None, "expected a JSON list of segments")
    return [_segment(path, i, segment) for i, segment in enumerate(segments, 1)]


def _segment(path: Pathlike, number: int, segment: Any) -> dict:
    if not isinstance(segment, dict):
        raise at(path, None, f"segment {number} is not a JSON object: {segment!r}")
    for key in ("session_id", "speaker"):
        if key not in segment:
            raise at(path, None, f"segment {number} has no '{key}': {segment!r}")
    read = {
        **segment,
        "session_id": str(segment["session_id"]),
        "speaker": str(segment["speaker"]),
        "words": str(segment.get("words", "")),
    }
    if "start_time" in segment and "end_time" in segment:
        times = span(path, None, segment["start_time"], segment["end_time"])
        read["start_time"], read["end_time"] = times
    return read


def write_seglst(path: Pathlike, segments: Iterable[Mapping]) -> None:
    """Write segments in their order, one a line, atomically."""
    lines = [json.dumps(dict(segment), ensure_ascii=False) for segment in segments]
    with atomic_open(path) as f:
        f.write("[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n")


def span(path: Pathlike, line: "int | None", start: Any, end: Any) -> tuple[float, float]:
    """Turn two fields into seconds.

    Raises:
        UserError: not numbers, negative, or the end before the start.
    """
    try:
        first, last = float(start), float(end)
    except (TypeError, ValueError):
        raise at(path, line, f"the times {start!r} and {end!r} are not numbers") from None
    if not 0 <= first <= last < float("inf"):
        raise at(path, line, f"the segment goes from {first:g} to {last:g} s, expected 0 ≤ start ≤ end")
    return first, last


def name_field(path: Pathlike, segment: Mapping, key: str) -> str:
    """Return a name that a format with spaces between its fields can hold."""
    name = str(segment[key])
    if not name or name.split() != [name]:
        raise UserError(f"{path}: {key} {name!r} is empty or has white space; rename it")
    return name
