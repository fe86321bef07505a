"""What the corpora share: trimming, levels, and making files that can be continued."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import speech

RATE = 8000


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50))
def test_trim_leaves_a_margin(before, sounding, after):
    frame = RATE // 100
    samples = np.zeros((before + sounding + after) * frame, dtype=np.float32)
    noise = np.random.default_rng(1).standard_normal(sounding * frame) * 0.1
    samples[before * frame:(before + sounding) * frame] = noise
    assert len(speech.trim(samples, RATE)) == (sounding + min(before, 2) + min(after, 2)) * frame


def test_trim_of_silence_and_of_next_to_nothing():
    for length in (0, 10, 4000):
        assert len(speech.trim(np.zeros(length, dtype=np.float32), RATE)) == length


def test_level():
    noise = np.random.default_rng(1).standard_normal(RATE).astype(np.float32) * 0.001
    levelled = speech.set_level(noise)
    assert abs(20 * np.log10(np.sqrt(np.mean(levelled ** 2))) + 26) < 0.01 and levelled.dtype == np.float32
    click = np.zeros(RATE, dtype=np.float32)
    click[5] = 0.1
    assert np.isclose(np.abs(speech.set_level(click)).max(), 0.9)
    assert not speech.set_level(np.zeros(5, dtype=np.float32)).any()


def test_fade_and_whole_centiseconds():
    ones = np.ones(RATE, dtype=np.float32)
    faded = speech.fade(ones, RATE)
    assert faded[0] < 0.03 and faded[-1] < 0.03 and (faded[40:-40] == 1).all() and (ones == 1).all()
    assert len(speech.fade(ones[:1], RATE)) == 1
    assert [len(speech.whole_centiseconds(ones[:n], RATE)) for n in (0, 80, 81)] == [0, 80, 160]


def test_files_of_the_same_making_are_kept_of_another_one_removed(tmp_path):
    folder = tmp_path / "audio"
    speech.same_making(folder, {"seed": 1})
    (folder / "a.flac").touch()
    speech.same_making(folder, {"seed": 1})
    assert (folder / "a.flac").exists()
    speech.same_making(folder, {"seed": 2})
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["audio", "making.json"]
    assert json.loads((folder / "making.json").read_text()) == {"seed": 2}


def test_files_of_a_user_are_never_removed(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="has files that were not made by this preparation"):
        speech.same_making(tmp_path, {"seed": 1})
    assert (tmp_path / "thesis.tex").exists()


def test_in_parallel_keeps_the_order_and_hands_errors_on():
    assert speech.in_parallel(str, range(100), 2, "test") == [str(n) for n in range(100)]
    assert speech.in_parallel(str, range(3), 1, "test") == ["0", "1", "2"]
    assert speech.in_parallel(str, [], 4, "test") == []
    with pytest.raises(ValueError):
        speech.in_parallel(int, ["1", "x"], 2, "test")
