"""Frame posteriors to segments, against scipy's median filter and a scan frame by frame."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.signal import medfilt

from espnet_mt_llm.common import UserError
from espnet_mt_llm.inference.diarization import activity_to_segments, median_filter

WIDTHS = st.integers(0, 6).map(lambda half: 2 * half + 1)


@settings(max_examples=80)
@given(st.integers(13, 60), WIDTHS, st.integers(0, 10**6))
def test_the_filter_is_the_published_one(frames: int, width: int, seed: int) -> None:
    active = np.random.default_rng(seed).random((frames, 3)) > 0.5
    assert np.array_equal(median_filter(active, width), medfilt(active.astype(float), (width, 1)) > 0.5)


@settings(max_examples=60)
@given(st.integers(0, 40), WIDTHS, st.floats(0, 1), st.integers(0, 10**6))
def test_segments_cover_the_active_frames(frames: int, width: int, threshold: float, seed: int) -> None:
    probabilities = np.random.default_rng(seed).random((frames, 2))
    segments = activity_to_segments(probabilities, 0.04, threshold, width)
    covered = np.zeros((frames, 2), dtype=bool)
    for speaker, start, end in segments:
        first, last = round(start / 0.04), round(end / 0.04)
        assert first < last and not covered[first:last, speaker].any()
        assert first == 0 or not covered[first - 1, speaker]  # neighbours are one segment
        covered[first:last, speaker] = True
    assert np.array_equal(covered, median_filter(probabilities > threshold, width))
    assert segments == sorted(segments, key=lambda s: (s[1], s[2], s[0]))


def test_overlap_order_and_ends() -> None:
    probabilities = np.zeros((10, 2))
    probabilities[2:10, 0] = probabilities[0:5, 1] = 0.9
    assert activity_to_segments(probabilities, 0.5, median=1) == [(1, 0.0, 2.5), (0, 1.0, 5.0)]
    assert activity_to_segments(probabilities, 0.5, median=1, duration=4.7) == [(1, 0.0, 2.5), (0, 1.0, 4.7)]
    assert activity_to_segments(probabilities, 0.5, median=1, duration=0.8) == [(1, 0.0, 0.8)]


def test_short_runs_go_and_short_gaps_close() -> None:
    row = [0] * 8 + [1] * 3 + [0] * 8 + [1] * 10 + [0] * 2 + [1] * 10
    assert activity_to_segments(np.array(row)[:, None], 1.0) == [(0, 19.0, 41.0)]


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 10])
def test_a_clip_shorter_than_the_filter_keeps_its_speech(frames: int) -> None:
    assert activity_to_segments(np.ones((frames, 1)), 1.0) == [(0, 0.0, frames)]


def test_silence_and_no_frames() -> None:
    assert activity_to_segments(np.zeros((20, 2)), 0.04) == []
    assert activity_to_segments(np.zeros((0, 2)), 0.04) == []


def test_what_cannot_be_is_refused() -> None:
    for median in (10, 0, -1):
        with pytest.raises(UserError, match="median: .*odd"):
            activity_to_segments(np.zeros((3, 1)), 0.04, median=median)
    with pytest.raises(UserError, match="threshold: 1.5"):
        activity_to_segments(np.zeros((3, 1)), 0.04, threshold=1.5)
    with pytest.raises(ValueError, match="NaN"):
        activity_to_segments(np.full((3, 1), np.nan), 0.04)
