"""LibriMix' own arithmetic: the 16-bit samples of its official generator, from the manifest alone.

The rules are those of ``create_librimix_from_metadata.py`` and ``augment_train_noise.py`` of the LibriMix repository
(Cosentino et al. 2020). In this order, everything at 16 kHz up to the resampling:

1. Sources are float32; an offset puts zeros in front. The noise is read up to the length of the longest source; a
   shorter one is joined to itself (:func:`extend`), which makes it float64.
2. Each signal is multiplied by its gain, rounded to the signal's type.
3. Each is resampled by itself (:func:`scipy.signal.resample_poly`), where the mixture is not at 16 kHz.
4. Each is cut to the shortest (mode min) or padded to the longest (mode max): the manifest's ``num_samples``.
5. They are added one after the other in float32, sources first, in the order of the CSV, and the noise last.
6. libsndfile turns every signal into 16 bits for itself (:func:`quantise`), so a mixture is not the sum of its files.

Exact: all of it, with the installed scipy; noise that the official script has made faster or slower; noise that
:func:`change_speed` makes with ``sox``, the program of that script. Not exact: :func:`change_speed` with ``soxr``, the
same resampler with a slightly wider transition band: of noises measured, 1 to 26 % of the samples differ, by 1 to 8
steps of 16 bits, and by some more where a recording begins or ends abruptly.
"""

import functools
import subprocess
from typing import TYPE_CHECKING, Iterator

import numpy as np

from espnet_mt_llm.common import UserError, at
from espnet_mt_llm.simulation.manifest import Mixture, Noise, Source

if TYPE_CHECKING:
    from espnet_mt_llm.simulation.mixtures import SourceCache

RATE = 16000  # of LibriSpeech and of WHAM!
JOIN = RATE // 2 + 1  # samples in which one copy of a noise fades into the next
TOOLS = ("sox", "soxr")
_BLOCK = 1 << 14


def mixture_16_bit(mixture: Mixture, cache: "SourceCache") -> np.ndarray:
    """Return the mixture, int16 (N,)."""
    total = np.zeros(mixture.num_samples, dtype=np.float32)
    for begin, signal in _signals(mixture, cache):
        signal = signal[:max(mixture.num_samples - begin, 0)]  # mode min may end before a late talker begins
        # In place, as the official sum: a float64 noise is added in float64 and rounded to float32.
        total[begin:begin + len(signal)] += signal
    return quantise(total)


def parts_16_bit(mixture: Mixture, cache: "SourceCache") -> list[np.ndarray]:
    """Return each source and then the noise, int16 (N,) each: the files s1, s2 … and noise."""
    parts = []
    for begin, signal in _signals(mixture, cache):
        part = np.zeros(mixture.num_samples, dtype=np.int16)
        signal = quantise(signal[:max(mixture.num_samples - begin, 0)])
        part[begin:begin + len(signal)] = signal
        parts.append(part)
    return parts


def _signals(mixture: Mixture, cache: "SourceCache") -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first sample, signal) of each source and then of the noise, on the 16-bit scale, float32 or float64.

    A factor that is a power of two changes no rounding, so the scale is that of the files all along.
    """
    for source in mixture.sources:
        yield _resampled(_source(source, cache), round(source.offset * RATE), mixture.rate)
    if mixture.noise is not None:
        yield _resampled(_noise(mixture.noise, mixture.librimix, cache), 0, mixture.rate)


def _source(source: Source, cache: "SourceCache") -> np.ndarray:
    # The gain becomes float32, too, as the Python floats do that pandas reads for the generator.
    return np.multiply(cache.recording(source.wav, source.channel), source.gain, dtype=np.float32)


def _noise(noise: Noise, length: int, cache: "SourceCache") -> np.ndarray:
    samples = cache.recording(noise.wav, 1, noise.speed)[:length]
    if len(samples) == length:
        return np.multiply(samples, noise.gain, dtype=np.float32)
    try:
        samples = extend(samples, length)
        return np.multiply(samples, noise.gain, out=samples)
    except ValueError as e:
        raise at(noise.wav, None, str(e), "copy the noise recordings again") from None


def _resampled(samples: np.ndarray, begin: int, rate: int) -> tuple[int, np.ndarray]:
    if rate == RATE:
        return begin, samples
    from scipy.signal import resample_poly

    return 0, resample_poly(np.pad(samples, (begin, 0)), rate, RATE)


def extend(noise: np.ndarray, length: int) -> np.ndarray:
    """Repeat a noise up to ``length`` samples: (N,) -> float64 (length,).

    The last 8,001 samples fade out, while the first ones of the next copy fade in, by the halves of a Hann window.

    Raises:
        ValueError: the noise is not longer than the fade.
    """
    if len(noise) <= JOIN:
        raise ValueError(f"has {len(noise)} samples; a noise cannot be repeated that has not more than {JOIN}")
    rise, fall = _window()
    step = len(noise) - JOIN
    copies = -(-(length - JOIN) // step)
    extended = np.empty(copies * step + JOIN)
    extended[:len(noise)] = noise
    for end in range(len(noise), copies * step + JOIN, step):
        joint = slice(end - JOIN, end)
        extended[joint] = extended[joint] * fall + noise[:JOIN] * rise
        extended[end:end + step] = noise[JOIN:]
    return extended[:length]


@functools.cache
def _window() -> tuple[np.ndarray, np.ndarray]:
    """Return the rising and the falling half of the window of a joint: float64 (JOIN,)."""
    window = np.hanning(RATE + 1)
    return window[:JOIN], window[JOIN - 1::-1].copy()


def quantise(samples: np.ndarray) -> np.ndarray:
    """Round as libsndfile does when it writes float samples as 16 bits: int16 (N,).

    It rounds to 32 bits, clips there and drops the lower 16 bits: half a step towards minus infinity on average.

    Args:
        samples: float32 or float64 (N,) on the 16-bit scale (32768 is full scale).
    """
    numbers = np.empty(len(samples), np.int16)
    scaled = np.empty(min(len(samples), _BLOCK), samples.dtype)
    for begin in range(0, len(samples), _BLOCK):  # in blocks that stay in the processor's cache
        block = samples[begin:begin + _BLOCK]
        out = scaled[:len(block)]
        np.rint(np.multiply(block, 65536.0, out=out), out=out)
        # The upper limit is the largest float32 below 2 ** 31; all that is clipped comes out as 32767.
        np.clip(out, -2.0 ** 31, 2.0 ** 31 - 128, out=out)
        np.right_shift(out.astype(np.int32), 16, out=numbers[begin:begin + _BLOCK], casting="unsafe")
    return numbers


def change_speed(samples: np.ndarray, speed: float, tool: str) -> np.ndarray:
    """Play a recording ``speed`` times as fast (pitch changes, too), as WHAM!'s training noise for LibriMix.

    Args:
        samples: float64 (N,) in [-1, 1).
        tool: ``sox``, the program that the official script calls, or ``soxr``, its resampler as a library.

    Returns:
        int16 (M,), M about N / speed.

    Raises:
        UserError: the program sox is not there or fails.
    """
    if tool == "soxr":
        import soxr

        return quantise(soxr.resample(samples, speed, 1, "HQ") * 32768)
    raw = ["-t", "f64", "-r", str(RATE), "-c", "1", "-"]
    try:
        ran = subprocess.run(["sox", "-V1", *raw, *raw, "speed", str(speed)], input=samples.tobytes(),
                             capture_output=True)
    except FileNotFoundError:
        raise no_sox() from None
    if ran.returncode or not ran.stdout:
        raise UserError(f"sox speed {speed} failed: {ran.stderr.decode('utf-8', 'replace').strip() or 'no output'}")
    return quantise(np.frombuffer(ran.stdout) * 32768)


def no_sox() -> UserError:
    """Say what to do where the program sox is missing."""
    return UserError("the program sox is missing, with which LibriMix makes its faster and slower training noise; "
                     "install it (apt-get install sox, conda install -c conda-forge sox), or take its library "
                     "instead: --speed_noise soxr (up to a quarter of the samples differ, by 1 to 8 steps of 16 bits)")
