"""Render mixtures from their manifest: the sum of scaled, shifted (and reverberated) sources, exact in 16 bits."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Iterator, Mapping, Optional

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.datadir.audio import AudioReader, duration, read_audio, to_float32
from espnet_mt_llm.simulation import librimix
from espnet_mt_llm.simulation.manifest import Manifest, Mixture, Source

FULL_SCALE = 32768.0
PEAK = 0.99  # a mixture whose samples would go beyond this is scaled down
LONG_NOISE = 60.0  # seconds; of longer noise recordings only the stretch is read, shorter ones are kept

# The GNU C library hands freed signals back to the system and gets them again page by page, which costs a third of the
# rendering. Once it has freed a block of this size (which is never touched, so it costs nothing), it keeps them.
np.empty(31 << 20, dtype=np.uint8)


class Unreadable(UserError):
    """A recording that cannot be read.

    Args:
        wav: its entry.
        problem: what is wrong with it.
    """

    def __init__(self, wav: str, problem: str) -> None:
        super().__init__(wav, problem)
        self.wav = wav

    def __str__(self) -> str:
        return str(self.args[1])


def _read(wav: str, *span: Optional[float], channel: Optional[int]) -> tuple[np.ndarray, int]:
    try:
        return read_audio(wav, *span, channel=channel)
    except UserError as e:
        raise Unreadable(wav, str(e)) from None


class SourceCache:
    """Decoded sources on the 16-bit scale at the rate of the mixtures; the last used ones, up to ``max_bytes``."""

    def __init__(self, max_bytes: int = 512 << 20):
        self.max_bytes = max_bytes
        self._arrays: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict:
        return {"max_bytes": self.max_bytes, "_arrays": OrderedDict(), "_bytes": 0}

    def source(self, source: Source, rate: int) -> np.ndarray:
        """Return the dry stretch of a source: on the 16-bit scale, (N,), N = ``source.num_samples(rate)``."""
        key = (source.wav, source.start, source.end, source.channel, rate)
        found = self._get(key)
        if found is None:
            samples, found_rate = _read(source.wav, source.start, source.end, channel=source.channel)
            samples = resample(samples, found_rate, rate)
            found = self._put(key, to_16_bit(fit(samples, source.num_samples(rate))))
        return found

    def recording(self, wav: str, channel: Optional[int] = None, speed: Optional[float] = None) -> np.ndarray:
        """Return a whole recording of LibriMix, 16 kHz, on the 16-bit scale: int16, or float32 where it is finer: (N,).

        Args:
            speed: play it so many times as fast.
        """
        key = (wav, channel, speed, librimix.RATE)
        found = self._get(key)
        if found is None:
            with AudioReader(wav, channel) as reader:
                rate, samples = reader.info.rate, reader.read(*reader.span(None, None))
            if rate != librimix.RATE:
                raise at(wav, None, f"has {rate} Hz, LibriMix is made of {librimix.RATE} Hz", "copy the corpus again")
            if speed is not None:
                samples = librimix.change_speed(to_float32(samples).astype(np.float64), speed, "soxr")
            found = self._put(key, samples if samples.dtype == np.int16 else samples * np.float32(FULL_SCALE))
        return found

    def noise(self, wav: str, start: float, num_samples: int, rate: int) -> np.ndarray:
        """Return ``num_samples`` of a noise recording from ``start`` seconds on, repeated where it ends: (N,).

        Of several channels the first one is taken.
        """
        key = (wav, None, None, rate)
        whole = self._get(key)
        if whole is None:
            seconds = num_samples / rate
            if duration(wav) > max(LONG_NOISE, start + seconds + 0.01):
                samples, found_rate = _read(wav, start, start + seconds + 0.01, channel=1)
                return fit(to_16_bit(resample(samples, found_rate, rate)), num_samples)
            samples, found_rate = _read(wav, channel=1)
            whole = self._put(key, to_16_bit(resample(samples, found_rate, rate)))
        begin = round(start * rate) % len(whole)
        if begin + num_samples <= len(whole):
            return whole[begin:begin + num_samples]
        return np.take(whole, np.arange(begin, begin + num_samples), mode="wrap")

    def impulse_response(self, wav: str, rate: int) -> np.ndarray:
        """Return a room impulse response from its direct sound on, with unit energy: float32 (L,).

        Of several channels the first one is taken. What lies before the strongest tap is cut, so that an onset stays
        where the manifest says.
        """
        key = (wav, "rir", None, rate)
        found = self._get(key)
        if found is None:
            samples, found_rate = _read(wav, channel=1)
            samples = resample(samples, found_rate, rate)
            samples = samples[int(np.argmax(np.abs(samples))):]
            energy = float(np.sqrt(np.sum(np.square(samples, dtype=np.float64))))
            if not energy:
                raise Unreadable(wav, f"{wav}: silent, so it is no impulse response; take it out of the list")
            found = self._put(key, (samples / energy).astype(np.float32))
        return found

    def _get(self, key: tuple) -> Optional[np.ndarray]:
        found = self._arrays.get(key)
        if found is not None:
            self._arrays.move_to_end(key)
        return found

    def _put(self, key: tuple, array: np.ndarray) -> np.ndarray:
        self._arrays[key] = array
        self._bytes += array.nbytes
        while self._bytes > self.max_bytes and len(self._arrays) > 1:
            self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array


@dataclass(frozen=True)
class Rendered:
    """A mixture and its parts, float32 (N,) in [-1, 1), every sample a whole multiple of 1/32768.

    ``sources`` has one signal a speaker, in the order of ``Mixture.speakers``. ``mixture`` is exactly the sum of them
    and of ``noise`` (None where the manifest has none).
    """

    mixture: np.ndarray
    sources: tuple[np.ndarray, ...]
    noise: Optional[np.ndarray]


def layers(mixture: Mixture, cache: SourceCache) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first sample, signal) of each source and then of the noise; float32 whole numbers on the 16-bit scale."""
    for source in mixture.sources:
        signal = cache.source(source, mixture.rate).astype(np.float32)
        if source.rir is not None:
            from scipy.signal import fftconvolve

            signal = fftconvolve(signal, cache.impulse_response(source.rir, mixture.rate))
            signal = signal.astype(np.float32, copy=False)
        signal *= np.float32(source.gain * mixture.scale)
        begin = round(source.offset * mixture.rate)
        # A manifest may cut a mixture short, as LibriMix' mode min does.
        yield begin, np.rint(signal, out=signal)[:max(mixture.num_samples - begin, 0)]
    if mixture.noise is not None:
        noise = mixture.noise
        signal = cache.noise(noise.wav, noise.start, mixture.num_samples, mixture.rate).astype(np.float32)
        signal *= np.float32(noise.gain * mixture.scale)
        yield 0, np.rint(signal, out=signal)


def render_sum(mixture: Mixture, cache: SourceCache) -> np.ndarray:
    """Render the mixture alone: float32 (N,). This is the fast path for training."""
    if mixture.librimix is not None:
        return librimix.mixture_16_bit(mixture, cache) * np.float32(1 / FULL_SCALE)
    total = np.zeros(mixture.num_samples, dtype=np.float32)
    for begin, signal in layers(mixture, cache):
        total[begin:begin + len(signal)] += signal
    total *= np.float32(1 / FULL_SCALE)
    return total


def render(mixture: Mixture, cache: SourceCache) -> Rendered:
    """Render the mixture with its parts."""
    if mixture.librimix is not None:
        signals = [part * np.float32(1 / FULL_SCALE) for part in librimix.parts_16_bit(mixture, cache)]
        noise = signals.pop() if mixture.noise is not None else None
        return Rendered(render_sum(mixture, cache), tuple(signals), noise)
    owners = [s.spk for s in mixture.sources] + ([""] if mixture.noise is not None else [])  # no speaker is called ""
    parts = {owner: np.zeros(mixture.num_samples, dtype=np.float32) for owner in owners}
    for owner, (begin, signal) in zip(owners, layers(mixture, cache)):
        parts[owner][begin:begin + len(signal)] += signal
    total = np.sum(list(parts.values()), axis=0, dtype=np.float32) / np.float32(FULL_SCALE)
    scaled = {owner: part / np.float32(FULL_SCALE) for owner, part in parts.items()}
    return Rendered(total, tuple(scaled[spk] for spk in mixture.speakers), scaled.get(""))


class MixtureReader(Mapping[str, "tuple[int, np.ndarray]"]):
    """A manifest as a mapping: mixture id -> (rate, float32 (N,)), rendered when asked for.

    Sources are decoded once and kept as int16 (up to ``cache_mb``), so an epoch costs additions, not decoding.
    It can be given to forked and to spawned workers.

    Raises:
        UserError: no such manifest; a source that cannot be read.
    """

    def __init__(self, path: Pathlike, cache_mb: int = 512):
        self.manifest = Manifest(path)
        self.cache = SourceCache(cache_mb << 20)

    def __getitem__(self, mixture_id: str) -> tuple[int, np.ndarray]:
        mixture = self.manifest[mixture_id]
        return mixture.rate, render_sum(mixture, self.cache)

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest)

    def __len__(self) -> int:
        return len(self.manifest)


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample by a polyphase filter: float32 (N,) -> (ceil(N * new_rate / rate),)."""
    if rate == new_rate:
        return samples
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(rate, new_rate)
    return resample_poly(samples, new_rate // common, rate // common).astype(np.float32, copy=False)


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Cut or zero-pad at the end; resampling leaves a sample too many or too few."""
    if len(samples) >= length:
        return samples[:length]
    return np.pad(samples, (0, length - len(samples)))


def to_16_bit(samples: np.ndarray) -> np.ndarray:
    """Round samples to the 16-bit scale: int16, or float32 where they go beyond it, because nothing is clipped here.

    16-bit recordings come back unchanged.
    """
    samples = np.rint(samples * np.float32(FULL_SCALE))
    if len(samples) and (samples.max() > 32767 or samples.min() < -32768):
        return samples
    return samples.astype(np.int16)
