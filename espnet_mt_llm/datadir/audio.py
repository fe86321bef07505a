"""Audio files and Kaldi pipes: lengths from headers, mono samples as float32, atomic 16-bit files."""

import functools
import io
import os
import struct
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Optional, Type

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open

_PCM16 = 1
_SCALE = np.float32(1 / 32768)
# Writers that cannot seek (sox, ffmpeg in a pipe) leave a length near the limit of the header: read to the end then.
_STREAMED = 0x7FFFF000
# Frames that are read at a time where one channel of several is kept: a plain block stays in the processor's cache;
# libsndfile seeks after each block it decodes, which is worth it for large ones alone.
_BLOCK = 1 << 14
_DECODED_BLOCK = 1 << 17


@dataclass(frozen=True)
class AudioInfo:
    """What a header says: samples per second, channels, and samples per channel."""

    rate: int
    channels: int
    frames: int

    @property
    def duration(self) -> float:
        """Return the length in seconds."""
        return self.frames / self.rate


@dataclass(frozen=True)
class _Wav:
    """Layout of a 16-bit RIFF file: ``offset`` is the byte where the samples begin."""

    info: AudioInfo
    offset: int


def is_pipe(entry: Pathlike) -> bool:
    """Say whether an entry of ``wav.scp`` is a command whose output is the audio."""
    return isinstance(entry, str) and entry.rstrip().endswith("|")


def info(entry: Pathlike) -> AudioInfo:
    """Read the header of a file (a pipe is run).

    The end of the file is looked at as well, so that a truncated file is found without decoding it.

    Raises:
        UserError: missing, empty, truncated, or not audio; the message names the file and the repair.
    """
    with AudioReader(entry) as reader:
        reader.check_end()
        return reader.info


def duration(entry: Pathlike) -> float:
    """Return the length in seconds, from the header alone (a pipe is run)."""
    return info(entry).duration


def read_audio(
    entry: Pathlike, start: Optional[float] = None, end: Optional[float] = None, channel: Optional[int] = None
) -> tuple[np.ndarray, int]:
    """Read the samples of one channel.

    Args:
        entry: a path, or a command that ends in a pipe sign.
        start, end: seconds; None is the begin or the end of the file. The end may lie half a sample beyond the file.
        channel: counts from 1; None expects a mono file.

    Returns:
        Samples (N,) float32 in [-1, 1), and the rate in Hz.

    Raises:
        UserError: missing, empty, truncated, not audio, a span outside the file, a channel that is not there, or
            several channels and none chosen.
    """
    with AudioReader(entry, channel) as reader:
        return to_float32(reader.read(*reader.span(start, end))), reader.info.rate


class AudioReader:
    """One channel of a recording, read forward: the file is opened once, and no sample is read or decoded twice.

    Going back beyond the begin of the last span works too, and costs reading again.

    Args:
        entry: a path, or a command that ends in a pipe sign (its output is held in memory).
        channel: counts from 1; None expects a mono file.

    Attributes:
        info: what the header says.

    Raises:
        UserError: missing, empty, or not audio; the message names the file and the repair.
    """

    def __init__(self, entry: Pathlike, channel: Optional[int] = None):
        self._name, self._channel = _name(entry), channel
        with ExitStack() as opened:
            self._file = opened.enter_context(_opened(entry))
            wav = _wav_layout(self._file, self._name)
            self._sound: Any = None
            if wav is None:
                self._sound = opened.enter_context(_decoder(entry, self._file, self._name))
                self.info = AudioInfo(self._sound.samplerate, self._sound.channels, self._sound.frames)
            else:
                self.info, self._offset = wav.info, wav.offset
            self._close = opened.pop_all().close
        self._on_disk = not is_pipe(entry) and hasattr(os, "posix_fadvise")
        exact = wav is not None or self._sound.subtype == "PCM_16"
        self._dtype = np.dtype(np.int16 if exact else np.float32)
        # The last span, which the next one may overlap, and the frame where the file stands.
        self._kept, self._first, self._next = np.empty(0, self._dtype), 0, -1

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._close()

    def check_end(self) -> None:
        """Look at the last sample, so that a truncated file is found without decoding it.

        Raises:
            UserError: no samples, or fewer than the header says.
        """
        if self.info.frames <= 0:
            raise _empty(self._name)
        if self._sound is not None:
            self._decoded(self.info.frames - 1, 1)
        self._kept, self._next = self._kept[:0], -1

    def span(self, start: Optional[float], end: Optional[float]) -> tuple[int, int]:
        """Turn seconds (None: the begin, the end) into frames; the end may lie half a sample beyond the file.

        Raises:
            UserError: a span outside the file, or no samples at all.
        """
        found = self.info
        if found.frames <= 0:
            raise _empty(self._name)
        first = 0 if start is None else round(start * found.rate)
        last = found.frames if end is None else round(end * found.rate)
        # Times are written with microseconds at most: the last sample may be missed by one.
        if last == found.frames + 1:
            last = found.frames
        if not 0 <= first < last <= found.frames:
            raise at(
                self._name,
                None,
                f"the span {start or 0:g}–{last / found.rate:g} s is not inside the recording of {found.duration:g} s",
                "correct segments, or cut them: utils/fix_data_dir.sh <data dir>",
            )
        return first, last

    def read(self, first: int, last: int) -> np.ndarray:
        """Return the frames from ``first`` up to ``last`` (N,): int16 as they are in a 16-bit file, else float32.

        Raises:
            UserError: truncated, a channel that is not there, or several channels and none chosen.
        """
        check_channel(self.info, self._channel, self._name)
        overlap = self._kept[first - self._first :] if self._first <= first < self._next else self._kept[:0]
        begin = first + len(overlap)
        if last > begin:
            fresh = self._decoded(begin, last - begin) if self._sound is not None else self._sliced(begin, last - begin)
            overlap = np.concatenate([overlap, fresh]) if len(overlap) else fresh
            self._next = last
        self._kept, self._first = overlap, first
        return overlap[: last - first]

    def _sliced(self, first: int, count: int) -> np.ndarray:
        """Read frames of a RIFF file; of several channels, each block is thinned out before the next is read."""
        width = self.info.channels
        if first != self._next:
            self._file.seek(self._offset + 2 * width * first)
        if self._on_disk and 0 <= self._next <= first:
            # Who reads on will go on: the disk fetches as much again while this much is being worked on.
            begin = self._offset + 2 * width * (first + count)
            os.posix_fadvise(self._file.fileno(), begin, 2 * width * count, os.POSIX_FADV_WILLNEED)
        samples = np.empty(count, np.dtype("<i2"))
        if width == 1:
            done = self._file.readinto(memoryview(samples).cast("B")) // 2
        else:
            done, block = 0, np.empty((min(_BLOCK, count), width), np.dtype("<i2"))
            while done < count:
                rows = block[: count - done]
                got = self._file.readinto(memoryview(rows).cast("B")) // (2 * width)
                if not got:
                    break
                samples[done : done + got] = rows[:got, (self._channel or 1) - 1]
                done += got
        if done < count:
            raise _truncated(self._name)
        return samples.astype(np.int16, copy=False)

    def _decoded(self, first: int, count: int) -> np.ndarray:
        """Read frames by libsndfile; a failure after the header was read means missing data."""
        import soundfile

        width, samples, done = self.info.channels, np.empty(count, self._dtype), 0
        block = samples[:, None] if width == 1 else np.empty((min(_DECODED_BLOCK, count), width), self._dtype)
        try:
            if first != self._next:
                self._sound.seek(first)
            while done < count:
                rows = self._sound.read(min(len(block), count - done), out=block[: count - done])
                if not len(rows):
                    raise _truncated(self._name)
                samples[done : done + len(rows)] = rows[:, (self._channel or 1) - 1]
                done += len(rows)
        except soundfile.LibsndfileError:
            raise _truncated(self._name) from None
        return samples


def write_audio(path: Pathlike, samples: np.ndarray, rate: int, *, durable: bool = True) -> None:
    """Write mono 16-bit audio, WAV or FLAC by the suffix, atomically; the same samples give the same bytes.

    Args:
        samples: (N,) int16, or float in [-1, 1] (rounded to the nearest 16-bit step).
        durable: see :func:`atomic_open`.

    Raises:
        UserError: another suffix, or float samples beyond full scale: nothing is clipped silently.
    """
    encode = {".wav": _as_wav, ".flac": _as_flac}.get(Path(path).suffix.lower())
    if encode is None:
        raise at(path, None, "the audio format is not known by this suffix", "use .wav or .flac")
    parts = encode(to_int16(samples, path), rate)
    with atomic_open(path, "wb", durable=durable) as f:
        f.writelines(parts)


def _as_wav(samples: np.ndarray, rate: int) -> tuple[Any, ...]:
    """Return the header, the one that libsndfile writes, and the samples as they are in memory: nothing is copied."""
    size = 2 * len(samples)
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, _PCM16, 1, rate, 2 * rate, 2, 16,
                       b"data", size)
    return head, np.ascontiguousarray(samples, "<i2")


def _as_flac(samples: np.ndarray, rate: int) -> tuple[Any, ...]:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return (buffer.getbuffer(),)


def to_float32(samples: np.ndarray) -> np.ndarray:
    """Scale int16 samples to [-1, 1), exactly; float32 stays as it is."""
    return np.multiply(samples, _SCALE, dtype=np.float32) if samples.dtype == np.int16 else samples


def to_int16(samples: np.ndarray, name: Pathlike = "audio") -> np.ndarray:
    """Round float samples (N,) in [-1, 1] to int16; int16 stays as it is.

    Raises:
        UserError: samples beyond full scale.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"expected samples (N,), found the shape {samples.shape}")
    if samples.dtype == np.int16:
        return samples
    scaled = np.rint(samples * np.float32(32768))
    # Only the step from 1.0 to the largest 16-bit number is taken without a word.
    if len(scaled) and not (-32768 <= scaled.min() and scaled.max() <= 32768):
        raise at(
            name,
            None,
            f"samples up to {np.abs(samples).max():.3f} of full scale would be clipped",
            "scale them down first",
        )
    return np.minimum(scaled, 32767).astype(np.int16)


def _name(entry: Pathlike) -> str:
    return f"`{entry}`" if is_pipe(entry) else os.fspath(entry)


def _opened(entry: Pathlike) -> BinaryIO:
    """Open a file, or run a pipe and hold its output."""
    if is_pipe(entry):
        return io.BytesIO(_run(str(entry)))
    try:
        return open(entry, "rb")
    except FileNotFoundError:
        raise at(
            entry, None, "no such audio file", "restore it, or drop the recording: utils/fix_data_dir.sh <data dir>"
        ) from None
    except IsADirectoryError:
        raise at(entry, None, "is a directory, not an audio file", "correct wav.scp") from None
    except PermissionError:
        raise at(entry, None, "may not be read", "give yourself the right: chmod u+r") from None


def _decoder(entry: Pathlike, f: BinaryIO, name: str) -> Any:
    """Open what is not 16-bit RIFF with libsndfile."""
    import soundfile

    try:
        # By name where there is one: reading through a Python file object costs a call per buffer.
        return soundfile.SoundFile(f if is_pipe(entry) else os.fspath(entry))
    except soundfile.LibsndfileError as e:
        detail = (getattr(e, "error_string", "") or str(e)).strip().rstrip(".")
        raise at(name, None, f"cannot be read as audio ({detail})", "copy or make it again") from None


@functools.lru_cache(maxsize=1)
def _run(entry: str) -> bytes:
    """Run a pipe; the output of the last one is kept, because its header and several spans are asked for in turn."""
    script = entry.rstrip()[:-1]
    # pipefail: a command in the middle that fails must not pass for a short recording.
    ran = subprocess.run(["bash", "-o", "pipefail", "-c", script], stdin=subprocess.DEVNULL, capture_output=True)
    if ran.returncode:
        said = ran.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UserError(
            f"`{entry}`: the command exited with {ran.returncode}{': ' + said[-1] if said else ''}; "
            "run it by hand to see why"
        )
    return ran.stdout


def _wav_layout(f: BinaryIO, name: str) -> Optional[_Wav]:
    """Parse a RIFF header of 16-bit samples; None (and the file rewound) for every other format."""
    head = f.read(12)
    if not head:
        raise _empty(name)
    layout = _riff_chunks(f, name) if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else None
    if layout is None:
        f.seek(0)
    return layout


def _riff_chunks(f: BinaryIO, name: str) -> Optional[_Wav]:
    total = f.seek(0, io.SEEK_END)
    f.seek(12)
    form: tuple[Any, ...] = ()
    while len(chunk := f.read(8)) == 8:
        kind, size = struct.unpack("<4sI", chunk)
        if kind == b"fmt ":
            fields = f.read(size)
            if len(fields) < 16:
                break
            form = struct.unpack("<HHIIHH", fields[:16])
            if form[0] == 0xFFFE and len(fields) >= 26:
                form = (struct.unpack("<H", fields[24:26])[0], *form[1:])
            f.seek(size & 1, io.SEEK_CUR)
        elif kind == b"data" and form:
            begin = f.tell()
            available = total - begin
            if size > available:
                if size < _STREAMED:
                    raise _truncated(name)
                size = available
            tag, channels, rate, _, align, bits = form
            if tag != _PCM16 or bits != 16 or not channels or not rate:
                return None
            if size < align:
                raise _empty(name)
            return _Wav(AudioInfo(rate, channels, size // align), begin)
        else:
            f.seek(size + (size & 1), io.SEEK_CUR)
    raise _truncated(name)


def check_channel(found: AudioInfo, channel: Optional[int], name: Pathlike) -> None:
    """Refuse a channel that is not there, and a file of several channels where none is chosen."""
    if channel is None and found.channels != 1:
        raise at(
            name,
            None,
            f"has {found.channels} channels and none is chosen",
            "name one in the data directory's file 'channel': `<recording> 1`",
        )
    if channel is not None and not 1 <= channel <= found.channels:
        raise at(name, None, f"has {found.channels} channels, not a channel {channel}", "choose another channel")


def _empty(name: str) -> UserError:
    return at(name, None, "holds no samples", "copy or make it again, or drop the recording from wav.scp")


def _truncated(name: str) -> UserError:
    return at(name, None, "is truncated or damaged: it holds less than its header says", "copy or make it again")
