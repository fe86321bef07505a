"""Frame posteriors of speakers to segments."""

import numpy as np

from espnet_mt_llm.common import UserError


def median_filter(active: np.ndarray, width: int) -> np.ndarray:
    """Return the running median of booleans ``(T, S)`` along time, with silence beyond both ends.

    A median of 0 and 1 is a majority vote, so that a running sum gives it. The window is at most as long as the clip:
    of a clip shorter than half a window nothing would be left.

    >>> median_filter(np.array([[1], [0], [1], [1], [0], [0], [1]], dtype=bool), 3)[:, 0].astype(int).tolist()
    [0, 1, 1, 1, 0, 0, 0]
    """
    width = min(width, len(active) - 1 + len(active) % 2)
    if width <= 1:
        return active
    half = width // 2
    sums = np.pad(active, ((half + 1, half), (0, 0))).cumsum(axis=0)
    return sums[width:] - sums[:-width] > half


def activity_to_segments(probabilities: np.ndarray, frame_shift: float, threshold: float = 0.5, median: int = 11,
                         duration: float | None = None) -> list[tuple[int, float, float]]:
    """Return ``(speaker index, start, end)`` in seconds, sorted by start, from activity ``(T, S)``.

    A frame is active above ``threshold``; then the median filter, as in EEND (Fujita et al., 2019) and SUPERB.

    Args:
        probabilities: 0 .. 1.
        frame_shift: seconds between frames.
        threshold: of a frame.
        median: frames of the filter, odd; 1 for none.
        duration: of the clip in seconds; ends beyond it are cut.

    Raises:
        UserError: a median or a threshold that cannot be.
        ValueError: a probability is NaN.
    """
    if median < 1 or median % 2 == 0:
        raise UserError(f"median: {median}; use an odd number of frames, e.g. 11, or 1 for no filter")
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold: {threshold}; use a probability, 0 .. 1")
    if np.isnan(probabilities).any():
        raise ValueError("an activity is NaN")
    active = median_filter(np.asarray(probabilities) > threshold, median)
    edges = np.diff(np.pad(active.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    segments = []
    for speaker in range(active.shape[1]):
        starts, ends = (np.flatnonzero(edges[:, speaker] == sign) * frame_shift for sign in (1, -1))
        if duration is not None:
            ends = ends.clip(max=duration)
        segments += [(speaker, float(s), float(e)) for s, e in zip(starts, ends) if e > s]
    return sorted(segments, key=lambda segment: (segment[1], segment[2], segment[0]))
