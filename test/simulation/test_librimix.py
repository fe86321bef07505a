"""LibriMix' arithmetic: libsndfile's rounding, joined noise, changed speed; every way to a mixture is the same."""

import io
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import read_audio, write_audio
from espnet_mt_llm.datadir.maps import write_map
from espnet_mt_llm.simulation.librimix import JOIN, change_speed, extend, quantise
from espnet_mt_llm.simulation.manifest import Mixture, Noise, Source
from espnet_mt_llm.simulation.mixtures import MixtureReader, SourceCache, render, render_sum
from espnet_mt_llm.simulation.write import render_wav, write_mixtures

RATE = 16000
STEP = 1 / 32768


def by_libsndfile(samples: np.ndarray) -> np.ndarray:
    """Write float samples as 16 bits and read the numbers."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
    return soundfile.read(io.BytesIO(buffer.getvalue()), dtype="int16")[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_that_of_libsndfile(dtype):
    rng = np.random.default_rng(0)
    whole = np.arange(-33000, 33000)
    edges = [0.0, -0.0, 1.0, -1.0, 1 - STEP, 1 - STEP / 2, -1 - STEP, 5.0, -5.0, 1e6, -1e6, 1e25, -1e25]
    tiny = [factor * 2.0 ** -power for factor in (0.999999, 1.0, 1.000001, -0.999999, -1.0, -1.000001)
            for power in range(60)]
    samples = np.concatenate([rng.uniform(-1.2, 1.2, 200000), rng.normal(0, 1e-4, 50000), edges, tiny, whole / 32768,
                              (whole + 0.5) / 32768, whole / 32767, np.nextafter(whole / 32768, 2),
                              np.nextafter(whole / 32768, -2)]).astype(dtype)
    assert np.array_equal(quantise(samples * dtype(32768)), by_libsndfile(samples))


@settings(max_examples=200)
@given(st.sampled_from([32, 64]).flatmap(lambda width: arrays(
    f"float{width}", 20, elements=st.floats(-3, 3, width=width))))
def test_rounding_is_that_of_libsndfile_for_any_number(samples):
    assert np.array_equal(quantise(samples * samples.dtype.type(32768)), by_libsndfile(samples))


def joined(noise: np.ndarray, length: int) -> np.ndarray:
    """Repeat a noise by concatenation, copy after copy, as the publication's generator describes it."""
    window = np.hanning(RATE + 1)
    long = noise
    while len(long) < length:
        joint = long[-8001:] * np.flip(window[:8001]) + noise[:8001] * window[:8001]
        long = np.concatenate([long[:-8001], joint, noise[8001:]])
    return long[:length]


@pytest.mark.parametrize("samples", [8100, 9000, 12345, 16001, 16002, 30000])
@pytest.mark.parametrize("length", [30001, 32000, 70000])
def test_a_short_noise_is_joined_to_itself(samples, length):
    noise = np.random.default_rng(samples).normal(0, 3000, samples).astype(np.float32)
    long = extend(noise, length)
    assert long.dtype == np.float64 and np.array_equal(long, joined(noise, length))


def test_a_noise_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="8001 samples"):
        extend(np.ones(JOIN, dtype=np.float32), 20000)


def murmur(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise with the falling spectrum of rooms."""
    rng = np.random.default_rng(seed)
    return 0.05 * np.convolve(rng.normal(0, 1, round(seconds * RATE)), np.exp(-np.arange(40) / 8), "same")


@pytest.mark.parametrize("speed, length", [(0.8, 40000), (1.2, 26667)])
def test_speed_is_what_sox_makes_of_it(skip, speed, length):
    if shutil.which("sox") is None:
        skip("no sox; install: apt-get install sox")
    noise = murmur(2)
    # The official script's way: 64-bit floats through pipes, at a rate that does not matter, then 16 bits.
    raw = ["-t", "f64", "-r", "44100", "-c", "1", "-"]
    made = subprocess.run(["sox", "-N", "-V1", *raw, *raw, "speed", str(speed)], input=noise.tobytes(),
                          capture_output=True, check=True).stdout
    expected = by_libsndfile(np.frombuffer(made))
    assert len(expected) == length and np.array_equal(change_speed(noise, speed, "sox"), expected)
    close = change_speed(noise, speed, "soxr")
    difference = np.abs(close.astype(int) - expected)
    assert len(close) == length and difference.max() <= 16  # it begins and ends abruptly
    assert difference[500:-500].max() <= 1 and np.mean(difference) < 0.2


def test_a_machine_without_sox_is_told_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="sox is missing.*install it.*--speed_noise soxr"):
        change_speed(murmur(0.1), 0.8, "sox")


def test_sox_that_fails_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "sox").write_text("#!/bin/sh\necho no memory >&2\nexit 2\n")
    (tmp_path / "sox").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sox speed 0.8 failed: no memory"):
        change_speed(murmur(0.1), 0.8, "sox")


@pytest.fixture
def mixture(tmp_path) -> Mixture:
    """Two sources, the second one later, and a stereo noise that is too short."""
    wavs = []
    for k, seconds in enumerate((1.3, 0.9)):
        write_audio(tmp_path / f"s{k}.flac", murmur(seconds, k + 1) / 2, RATE)
        wavs.append(str(tmp_path / f"s{k}.flac"))
    soundfile.write(tmp_path / "noise.wav", np.stack([murmur(0.8, 3), murmur(0.8, 4)], axis=1), RATE)
    sources = (Source("u0", "A", "one", wavs[0], 0, 1.3, 0.0, 0.7),
               Source("u1", "B", "two", wavs[1], 0, 0.9, 0.75, 1.9))
    return Mixture("m", RATE, 26400, sources, Noise(str(tmp_path / "noise.wav"), 0.0, 1.4), librimix=26400)


def test_manifest_line_has_only_what_is_said(mixture):
    line = mixture.to_json()
    assert Mixture.from_json(line) == mixture
    assert '"librimix":26400' in line and '"snr"' not in line and '"speed"' not in line and "null" not in line
    assert "librimix" not in replace(mixture, librimix=None).to_json()


def test_every_way_to_a_mixture_gives_the_same_samples(mixture, tmp_path):
    rendered = render(mixture, SourceCache())
    whole = rendered.mixture * 32768
    assert len(whole) == 26400 and np.array_equal(whole, np.rint(whole)) and len(rendered.sources) == 2
    assert np.abs(rendered.mixture - sum(rendered.sources) - rendered.noise).max() < 3 * STEP
    assert not rendered.sources[1][:12000].any() and rendered.sources[1][12000:].any()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mixtures.jsonl").write_text(mixture.to_json() + "\n")
    for part in ("wav", "spk1", "spk2", "noise1"):
        write_map(tmp_path / "set" / f"{part}.scp", {"m": str(tmp_path / "set" / "audio" / part / "m.wav")})
    assert write_mixtures(tmp_path / "set") == 1
    files = [read_audio(tmp_path / "set" / "audio" / part / "m.wav")[0] for part in ("wav", "spk1", "spk2", "noise1")]
    for signal, file in zip((rendered.mixture, *rendered.sources, rendered.noise), files):
        assert np.array_equal(signal, file)
    assert np.array_equal(MixtureReader(tmp_path / "set" / "mixtures.jsonl")["m"][1], rendered.mixture)
    assert render_wav(mixture) == (tmp_path / "set" / "audio" / "wav" / "m.wav").read_bytes()


def test_noise_at_another_speed_is_made_when_it_is_read(mixture):
    faster = replace(mixture, noise=replace(mixture.noise, speed=0.8))
    samples = soundfile.read(mixture.noise.wav)[0][:, 0]
    slow = change_speed(samples, 0.8, "soxr").astype(np.float32)
    gain = render(faster, SourceCache()).noise * 32768
    assert np.array_equal(gain, quantise(joined(slow, 26400) * 1.4))
    assert np.array_equal(render_sum(faster, SourceCache()), render(faster, SourceCache()).mixture)


def test_recordings_of_another_rate_are_refused(mixture, tmp_path):
    write_audio(tmp_path / "s0.flac", murmur(1), 8000)
    with pytest.raises(UserError, match="8000 Hz, LibriMix is made of 16000 Hz"):
        render_sum(mixture, SourceCache())


def test_a_noise_too_short_to_repeat_is_named(mixture, tmp_path):
    soundfile.write(tmp_path / "noise.wav", murmur(0.5), RATE)
    with pytest.raises(UserError, match="noise.wav: has 8000 samples"):
        render_sum(mixture, SourceCache())


def test_24_bit_and_float_recordings_keep_their_precision(mixture, tmp_path):
    exact = murmur(2, 7).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", exact, RATE, subtype="FLOAT")
    cache = SourceCache()
    assert np.array_equal(cache.recording(str(tmp_path / "noise.wav"), 1), exact * np.float32(32768))
    assert cache.recording(mixture.sources[0].wav).dtype == np.int16
