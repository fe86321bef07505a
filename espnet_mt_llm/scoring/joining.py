"""Clips put together to the sessions they were cut from: for error rates in which a speaker is one all along."""

from collections.abc import Iterable, Mapping
from typing import Dict, List, Tuple

from espnet_mt_llm.datadir.kaldi import clip_times


def session_of(clip: str) -> Tuple[str, float]:
    """Return the recording that a clip was cut from, by its name, and the second at which it begins there.

    Whatever has no times in its name is a session of its own.

    >>> session_of("R8001_M8004-0004125-0008900"), session_of("R1-0000150-0000275-SPK7"), session_of("test-2spk-000001")
    (('R8001_M8004', 41.25), ('R1', 1.5), ('test-2spk-000001', 0.0))
    >>> session_of("room-20230101-1000001-0000150-0000275")
    ('room-20230101-1000001', 1.5)
    """
    rec, begin, _ = [(clip, 0.0, 0.0), *clip_times(clip)][-1]
    return rec, begin


def join_clips(clips: Mapping[str, Iterable[Mapping]]) -> Dict[str, List[dict]]:
    """Return the segments of each session, clip after clip, with times (where they have any) from its begin.

    A label is one speaker in all clips of a session: who numbers the speakers of each clip anew is wrong then.
    """
    sessions: Dict[str, List[dict]] = {}
    for (session, begin), clip in sorted((session_of(clip), clip) for clip in clips):
        moved = sessions.setdefault(session, [])
        for segment in clips[clip]:
            times = {key: segment[key] + begin for key in ("start_time", "end_time") if segment.get(key) is not None}
            moved.append({**segment, **times})
    return sessions
