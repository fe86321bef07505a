"""Where speech begins and ends: known onsets, noise, clicks, silence; only the ends of a file are read."""

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import sources, speech
from espnet_mt_llm.corpora.sources import Recording, activity
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.datadir.audio import read_audio, write_audio
from espnet_mt_llm.datadir.kaldi import DataDir

RATE = 16000


def speechlike(seconds, rng):
    """Syllables of a buzz, 0.12 s each with 0.05 s between them, the first one and the last one at the ends."""
    time = np.arange(round(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 140 * k * time + rng.uniform(0, 6)) / k for k in range(1, 12))
    on = (time % 0.17 < 0.12) | (time > seconds - 0.12)
    return 0.2 * buzz * on


def write(path, before, seconds, after, noise=1e-4, seed=0):
    rng = np.random.default_rng(seed)
    samples = np.concatenate([np.zeros(round(before * RATE)), speechlike(seconds, rng), np.zeros(round(after * RATE))])
    samples = samples + rng.normal(0, noise, len(samples)) if noise else samples
    write_audio(path, np.clip(samples, -1, 1).astype(np.float32), RATE)
    return str(path)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
# More than a twentieth is speech, which the 95th percentile asks for.
@given(before=st.floats(0, 2.5), seconds=st.floats(0.5, 9), after=st.floats(0, 2.5),
       noise=st.sampled_from([0, 1e-4, 3e-3]), seed=st.integers(0, 9))
def test_known_onset_and_end(tmp_path, before, seconds, after, noise, seed):
    path = write(tmp_path / "a.flac", before, seconds, after, noise, seed)
    onset, end, duration = activity(path)
    assert duration == pytest.approx(before + seconds + after, abs=2 / RATE)
    assert abs(onset - before) <= 0.02 and abs(end - (before + seconds)) <= 0.02
    assert 0 <= onset < end <= duration


def test_noise_as_loud_as_a_fifth_of_the_speech_does_not_hide_the_onset(tmp_path):
    path = write(tmp_path / "a.wav", 0.7, 3, 0.4, noise=0.03)
    onset, end, _ = activity(path)
    assert abs(onset - 0.7) <= 0.02 and abs(end - 3.7) <= 0.02


def test_a_click_is_no_speech(tmp_path):
    path = write(tmp_path / "a.wav", 1, 4, 1)
    samples, _ = read_audio(path)
    samples = samples.copy()
    samples[3000:3100], samples[-2000:-1900] = 0.9, -0.9
    write_audio(path, samples, RATE)
    onset, end, _ = activity(path)
    assert abs(onset - 1) <= 0.02 and abs(end - 5) <= 0.02


def test_an_offset_of_the_samples_does_not_matter(tmp_path):
    path = write(tmp_path / "a.wav", 1, 2, 1)
    write_audio(tmp_path / "b.wav", read_audio(path)[0] + np.float32(0.1), RATE)
    assert activity(path) == activity(str(tmp_path / "b.wav"))


def test_the_level_of_the_file_does_not_matter(tmp_path):
    path = write(tmp_path / "a.wav", 0.5, 2, 1, noise=1e-3)
    write_audio(tmp_path / "b.wav", read_audio(path)[0] * np.float32(0.05), RATE)
    for one, other in zip(activity(path), activity(str(tmp_path / "b.wav"))):
        assert abs(one - other) <= 0.01


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.zeros(10 * RATE), np.full(RATE, 0.25), np.zeros(30), np.ones(1),
                                     0.1 * np.sin(np.arange(5 * RATE)),
                                     np.random.default_rng(0).normal(0, 0.1, 6 * RATE).clip(-1, 1)])
def test_without_contrast_the_whole_file_counts(tmp_path, samples):
    write_audio(tmp_path / "a.wav", samples.astype(np.float32), RATE)
    duration = len(samples) / RATE
    assert activity(str(tmp_path / "a.wav")) == (0.0, duration, duration)


def test_speech_up_to_the_last_sample_ends_with_the_file(tmp_path):
    path = write(tmp_path / "a.wav", 1, 2.0035, 0)
    assert activity(path)[1:] == (pytest.approx(3.0035, abs=2 / RATE),) * 2


def test_only_the_ends_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.flac", 0.3, 30, 0.3)
    read = []
    monkeypatch.setattr(sources, "read_audio", lambda p, start, end: read.append((start, end)) or
                        read_audio(p, start, end))
    assert activity(path)[:2] == (0.3, 30.3)
    assert sum(end - start for start, end in read) == pytest.approx(4, abs=0.02)
    read.clear()
    # More, where the ends hold no speech.
    path = write(tmp_path / "b.flac", 7, 30, 1)
    assert activity(path)[:2] == (7, 37)
    assert 16 <= sum(end - start for start, end in read) <= 29


def test_many_files_in_any_number_of_processes(tmp_path):
    groups = {f"g{n}": [Recording(f"u{n}", f"s{n}", write(tmp_path / f"{n}.wav", n / 10, 1, 0.2, seed=n), "WORDS")]
              for n in range(9)}
    for nj in (1, 2):
        out = tmp_path / f"out{nj}"
        sources.prepare_set("set", groups, out, Problems(out), nj)
    one, two = (DataDir.read(tmp_path / f"out{nj}/set").utterances for nj in (1, 2))
    assert one == two and all(abs(u.start - n / 10) <= 0.02 for n, u in enumerate(one)) and len(one) == 9


def test_real_speech_between_silence(real_data, tmp_path):
    takes = sorted((real_data / "fsdd" / "flac").glob("george-*.flac"))[::40]
    for number, take in enumerate(takes):
        samples, rate = read_audio(take)
        samples = speech.set_level(speech.trim(samples, rate, margin=0, floor_db=30))
        before, after = 0.1 * number, 2.5 - 0.1 * number
        padded = np.concatenate([np.zeros(round(before * rate)), samples, np.zeros(round(after * rate))])
        padded += np.random.default_rng(number).normal(0, 3e-4, len(padded))
        write_audio(tmp_path / "a.wav", padded.clip(-1, 1).astype(np.float32), rate)
        onset, end, _ = activity(str(tmp_path / "a.wav"))
        assert abs(onset - before) <= 0.05 and abs(end - before - len(samples) / rate) <= 0.05


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.unlink(), "no such audio file"),
    (lambda path: path.write_bytes(b""), "holds no samples"),
    (lambda path: path.write_bytes(b"not audio at all"), "cannot be read as audio"),
    (lambda path: path.write_bytes(path.read_bytes()[:30000]), "truncated"),
    (lambda path: soundfile.write(path, np.zeros((16000, 2)), 16000), "2 channels"),
])
def test_files_that_cannot_be_measured(tmp_path, damage, words):
    path = tmp_path / "a.flac"
    write(path, 1, 5, 1)
    damage(path)
    with pytest.raises(UserError, match=words) as error:
        activity(str(path))
    assert "fix_data_dir" not in str(error.value)
