"""Audio: samples are exact, headers suffice for lengths, and every broken file is named with its repair."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import AudioInfo, AudioReader, duration, info, read_audio, to_int16, write_audio

SAMPLES = np.random.default_rng(0).normal(0, 3000, 16000).astype(np.int16)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_what_is_written_reads_back(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_audio(path, SAMPLES, 16000)
    samples, rate = read_audio(str(path))
    assert samples.dtype == np.float32 and rate == 16000
    np.testing.assert_array_equal(samples * 32768, SAMPLES)
    np.testing.assert_array_equal(samples, soundfile.read(path, dtype="float32")[0])
    assert info(path) == AudioInfo(16000, 1, 16000) and duration(path) == 1.0
    first = path.read_bytes()
    write_audio(path, samples, 16000)
    assert path.read_bytes() == first


@pytest.mark.parametrize("count, rate", [(1, 8000), (5001, 16000), (40000, 44100)])
def test_the_bytes_of_wav_are_those_of_libsndfile(tmp_path, count, rate):
    """Those of every other sample as well, which do not stand side by side in memory."""
    samples = np.random.default_rng(count).integers(-32768, 32768, count).astype(np.int16)[::2]
    write_audio(tmp_path / "a.wav", samples, rate)
    soundfile.write(tmp_path / "b.wav", samples, rate, subtype="PCM_16")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_spans(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_audio(path, SAMPLES, 16000)
    np.testing.assert_array_equal(read_audio(path, 0.25, 0.75)[0] * 32768, SAMPLES[4000:12000])
    np.testing.assert_array_equal(read_audio(path, 0.5)[0] * 32768, SAMPLES[8000:])
    assert len(read_audio(path, 0.5, 1.00005)[0]) == 8000, "a time rounded up by one sample is no mistake"
    for start, end in ((0.5, 1.5), (2.0, 3.0), (0.5, 0.5)):
        with pytest.raises(UserError, match="is not inside the recording of 1 s"):
            read_audio(path, start, end)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("function", [info, read_audio])
def test_missing_empty_truncated_and_foreign_files(tmp_path, suffix, function):
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(UserError, match="no such audio file"):
        function(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="holds no samples"):
        function(path)
    write_audio(path, SAMPLES, 16000)
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"{path}: is truncated"):
            function(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match="cannot be read as audio"):
        function(path)


def test_no_samples_behind_a_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", SAMPLES[:0], 16000, subtype="PCM_16")
    with pytest.raises(UserError, match="holds no samples"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_stereo_names_the_repair(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([SAMPLES, SAMPLES], 1), 16000, subtype="PCM_16")
    assert info(path).channels == 2
    with pytest.raises(UserError, match="has 2 channels and none is chosen; name one in the data directory"):
        read_audio(path)


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "ULAW", "PCM_U8"])
def test_other_wav_encodings(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", SAMPLES, 8000, subtype=subtype)
    np.testing.assert_array_equal(
        read_audio(tmp_path / "a.wav")[0], soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    )
    assert info(tmp_path / "a.wav") == AudioInfo(8000, 1, 16000)


def test_wav_with_further_chunks(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, SAMPLES, 16000, format="WAVEX", subtype="PCM_16")
    raw = buffer.getvalue()
    chunk = b"LIST" + (5).to_bytes(4, "little") + b"hello\0"
    (tmp_path / "a.wav").write_bytes(raw[:12] + chunk + raw[12:])
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0] * 32768, SAMPLES)


def test_pipes(tmp_path):
    write_audio(tmp_path / "a.flac", SAMPLES, 16000)
    entry = f"cat {tmp_path}/a.flac |"
    assert info(entry) == AudioInfo(16000, 1, 16000)
    np.testing.assert_array_equal(read_audio(entry, 0.5, 0.75)[0] * 32768, SAMPLES[8000:12000])
    with pytest.raises(UserError, match="the command exited with 1: cat: .*No such file"):
        read_audio(f"cat {tmp_path}/b.flac | cat |")


def test_a_streamed_header_is_read_to_the_end(tmp_path):
    write_audio(tmp_path / "a.wav", SAMPLES, 16000)
    raw = bytearray((tmp_path / "a.wav").read_bytes())
    raw[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "s.wav").write_bytes(raw)
    assert info(tmp_path / "s.wav").frames == 16000 == len(read_audio(f"cat {tmp_path}/s.wav |")[0])


def test_nothing_is_clipped_silently(tmp_path):
    with pytest.raises(UserError, match="samples up to 1.500 of full scale would be clipped"):
        write_audio(tmp_path / "a.wav", np.array([0.1, -1.5]), 16000)
    assert not (tmp_path / "a.wav").exists()
    assert to_int16(np.array([1.0, -1.0], np.float32)).tolist() == [32767, -32768]
    with pytest.raises(UserError, match="use .wav or .flac"):
        write_audio(tmp_path / "a.mp3", SAMPLES, 16000)


@settings(max_examples=20)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=200))
def test_sixteen_bits_survive_float(samples):
    exact = np.array(samples, np.int16)
    np.testing.assert_array_equal(to_int16(exact.astype(np.float32) / 32768), exact)


def test_real_speech(real_data):
    files = sorted((real_data / "fsdd" / "flac").glob("*.flac"))
    assert len(files) > 500
    for path in files[::500]:
        samples, rate = read_audio(path)
        assert rate == 8000 and info(path).frames == len(samples)
        assert abs(samples).max() > 0.01


def eight_channels(path, seconds=3, **options):
    """Write eight channels of noise, and return them (N, 8)."""
    samples = np.random.default_rng(1).normal(0, 2000, (seconds * 8000, 8)).astype(np.int16)
    soundfile.write(path, samples, 8000, subtype="PCM_16", **options)
    return samples


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_one_channel_of_eight(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    samples = eight_channels(path)
    for channel in (1, 2, 8):
        np.testing.assert_array_equal(read_audio(path, channel=channel)[0] * 32768, samples[:, channel - 1])
        np.testing.assert_array_equal(
            read_audio(f"cat {path} |", 0.5, 2, channel)[0] * 32768, samples[4000:16000, channel - 1]
        )
    for channel in (0, 9):
        with pytest.raises(UserError, match=f"a.{suffix}: has 8 channels, not a channel {channel}; choose another"):
            read_audio(path, channel=channel)


@settings(max_examples=25)
@given(
    spans=st.lists(st.tuples(st.integers(0, 23990), st.integers(1, 9000)), min_size=1, max_size=6),
    suffix=st.sampled_from(["wav", "flac"]),
    channels=st.sampled_from([1, 8]),
    ordered=st.booleans(),
)
def test_a_reader_gives_the_samples_of_any_spans(tmp_path_factory, spans, suffix, channels, ordered):
    """Overlapping spans and spans further back as well, though the reader is made for going forward."""
    path = tmp_path_factory.getbasetemp() / f"reader{channels}.{suffix}"
    samples = np.random.default_rng(1).normal(0, 2000, (24000, channels)).astype(np.int16)
    if not path.exists():
        soundfile.write(path, samples, 8000, subtype="PCM_16")
    with AudioReader(path, None if channels == 1 else 3) as reader:
        reader.check_end()
        for first, count in sorted(spans) if ordered else spans:
            last = min(first + count, 24000)
            read = reader.read(first, last)
            assert read.dtype == np.int16
            np.testing.assert_array_equal(read, samples[first:last, 0 if channels == 1 else 2])


def test_a_reader_decodes_a_file_once(tmp_path, monkeypatch):
    eight_channels(tmp_path / "a.flac")
    counts = {"read": 0, "seek": 0}
    sound = soundfile.SoundFile

    class Counting(sound):
        def read(self, frames, **options):
            counts["read"] += frames
            return super().read(frames, **options)

    monkeypatch.setattr(soundfile, "SoundFile", Counting)
    with AudioReader(tmp_path / "a.flac", 1) as reader:
        for first, last in ((0, 5000), (5000, 9000), (8000, 12000), (8500, 9000), (8600, 24000)):
            reader.read(first, last)
    assert counts["read"] == 24000


def test_a_damaged_middle_is_found(tmp_path):
    path = tmp_path / "a.flac"
    eight_channels(path)
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 4000] = bytes(4000)
    path.write_bytes(raw)
    assert info(path).frames == 24000, "the header and the end are good"
    with pytest.raises(UserError, match="a.flac: is truncated or damaged"):
        read_audio(path, channel=1)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """As root everything may be read, so the system's refusal is played."""
    import builtins

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(UserError, match="a.wav: may not be read; give yourself the right: chmod u\\+r"):
        info(tmp_path / "a.wav")
