"""How well signals were separated: SI-SDR and SDR improvement and STOI of `separated/` against the clean sources.

SDR is written out here (a Toeplitz system for each source): mir_eval's has been deprecated and leaves with its next
release, and fast_bss_eval imports torch; the tests compare with the latter.
"""

import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet_mt_llm.common import UserError, at, progress
from espnet_mt_llm.scoring.result_types import Mean, Separation

SEPARATED = "separated"
CONVENTION = ("estimates are assigned to the sources of a clip by the highest sum of SI-SDR; means over sources; "
              "SI-SDR without removal of the mean; SDR: BSS eval v3, distortion filter of 512 taps; improvement: over "
              "the unprocessed mixture; a silent or missing estimate counts as -30 dB and STOI 0; silent sources are "
              "left out; STOI: pystoi, not extended, sources too short for it (0.4 s of speech) are left out of it")
FILTER_LENGTH = 512
# Decibels: the value of an estimate that is silent or not there, whose own would be minus infinity.
SILENT_DB = -30.0
# Decibels: numbers beyond this are rounding errors of 64-bit numbers.
LIMIT_DB = 100.0
STOI_RATE = 10000

_NAME = re.compile(r"(?P<clip>[A-Za-z0-9_.-]+)-(?P<k>\d+)\.(?:flac|wav)")


def _decibels(signal: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return 10 log10(signal / error) of energies, within ±``LIMIT_DB``."""
    tiny = 10 ** (-LIMIT_DB / 10)
    ratio = np.maximum(signal, 0) / np.maximum(error, tiny * np.maximum(signal, np.finfo(float).tiny))
    return 10 * np.log10(np.maximum(ratio, tiny))


def si_sdr(estimates: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return SI-SDR in dB of each estimate against each reference: (S, N), (K, N) -> (S, K).

    10 log10(||a r||² / ||a r - e||²), a = <e, r> / ||r||² (Le Roux et al. 2019, eq. 4), from inner products alone:
    ||a r||² = <e, r>² / ||r||², and the error is ||e||² - ||a r||².

    >>> r = np.array([[1.0, 1.0, 0.0, 0.0]])
    >>> si_sdr(r + np.array([[0.0, 0.0, 0.1, 0.1]]), r).round(6)
    array([[20.]])
    """
    estimates, references = np.asarray(estimates, np.float64), np.asarray(references, np.float64)
    target = np.square(estimates @ references.T) / np.sum(np.square(references), axis=1)
    return _decibels(target, np.sum(np.square(estimates), axis=1, keepdims=True) - target)


def sdr(estimates: np.ndarray, reference: np.ndarray, filter_length: int = FILTER_LENGTH) -> np.ndarray:
    """Return SDR in dB of estimates of one reference: (S, N), (N,) -> (S,).

    What a causal filter of ``filter_length`` taps can make of the reference is target, the rest is error (Vincent et
    al. 2006, BSS eval v3): with the filter that solves the Toeplitz system of the reference's autocorrelation R and
    its correlation b with the estimate e, the target has the energy bᵀ R⁻¹ b out of ||e||².
    """
    from scipy.fft import irfft, next_fast_len, rfft
    from scipy.linalg import solve_toeplitz

    estimates, reference = np.asarray(estimates, np.float64), np.asarray(reference, np.float64)
    energy = np.sum(np.square(estimates), axis=1)
    size = next_fast_len(len(reference) + filter_length, real=True)
    of_reference, of_estimates = rfft(reference, size), rfft(estimates, size)
    autocorrelation = irfft(np.square(np.abs(of_reference)), size)[:filter_length]
    correlations = irfft(of_reference.conj() * of_estimates, size)[:, :filter_length]
    # Bands without signal (speech of 8 kHz at 16 kHz) make the system almost singular: a floor 100 dB below the signal.
    autocorrelation[0] *= 1 + 10 ** (-LIMIT_DB / 10)
    filters = solve_toeplitz(autocorrelation, correlations.T).T
    target = np.sum(correlations * filters, axis=1)
    return _decibels(target, energy - target)


def stoi(signals: np.ndarray, reference: np.ndarray) -> Optional[np.ndarray]:
    """Return STOI of signals against a reference, all at 10 kHz: (S, N), (N,) -> (S,); None when it is too short.

    Raises:
        UserError: pystoi is not installed.
    """
    from pystoi import stoi as one

    if len(reference) <= STOI_RATE // 10:
        return None
    values = []
    with warnings.catch_warnings():
        # pystoi warns, and returns a number that means nothing, when fewer than 30 frames have speech.
        warnings.simplefilter("error", RuntimeWarning)
        for signal in signals:
            try:
                values.append(float(one(reference, signal, STOI_RATE)) if np.any(signal) else 0.0)
            except RuntimeWarning:
                return None
    return np.array(values)


def _at_stoi_rate(signals: np.ndarray, rate: int) -> np.ndarray:
    """Resample (S, N) as pystoi does, once for every comparison that a signal takes part in."""
    from pystoi.utils import resample_oct

    return signals if rate == STOI_RATE else np.stack([resample_oct(s, STOI_RATE, rate) for s in signals])


def assign(values: np.ndarray) -> Dict[int, int]:
    """Return reference → estimate with the highest sum: (estimates, references); some are left where one has more.

    >>> assign(np.array([[1.0, 9.0], [8.0, 9.5], [0.0, 0.0]]))
    {0: 1, 1: 0}
    """
    from scipy.optimize import linear_sum_assignment

    estimates, references = linear_sum_assignment(values, maximize=True)
    return {int(r): int(e) for e, r in sorted(zip(estimates, references), key=lambda pair: pair[1])}


def score_signals(estimates: Sequence[np.ndarray], references: Sequence[np.ndarray], mixture: np.ndarray,
                  rate: int) -> Separation:
    """Score the estimates of one clip: sequences of (N,) against sources (N,) and the mixture (N,) at ``rate`` Hz."""
    heard = [np.asarray(e, np.float64) for e in estimates if np.any(e)]
    sources = [np.asarray(r, np.float64) for r in references if np.any(r)]
    silent = len(references) - len(sources)
    if not sources:
        return Separation({}, 0, silent, len(heard))
    mixture = np.asarray(mixture, np.float64)
    before = si_sdr(mixture[None], np.stack(sources))[0]
    after = si_sdr(np.stack(heard), np.stack(sources)) if heard else np.zeros((0, len(sources)))
    of = assign(after)
    values: Dict[str, List[float]] = {name: [] for name in (
        "si_sdr_improvement", "sdr_improvement", "stoi", "si_sdr", "sdr", "stoi_mixture")}
    slow = _at_stoi_rate(np.stack([mixture, *sources, *heard]), rate)
    nothing = np.zeros_like(slow[0])
    for r, source in enumerate(sources):
        estimate = heard[of[r]] if r in of else None
        sdrs = sdr(np.stack([mixture] if estimate is None else [mixture, estimate]), source)
        si_sdr_after, sdr_after = (SILENT_DB, SILENT_DB) if estimate is None else (after[of[r], r], sdrs[1])
        values["si_sdr"].append(si_sdr_after)
        values["si_sdr_improvement"].append(si_sdr_after - before[r])
        values["sdr"].append(sdr_after)
        values["sdr_improvement"].append(sdr_after - sdrs[0])
        both = stoi(np.stack([slow[0], slow[1 + len(sources) + of[r]] if r in of else nothing]), slow[1 + r])
        if both is not None:
            values["stoi_mixture"].append(both[0])
            values["stoi"].append(both[1])
    return Separation({name: Mean.of(v) for name, v in values.items()}, len(sources) - len(of), silent,
                      len(heard) - len(of))


def find_separated(directory: Path) -> Dict[str, List[Path]]:
    """Return clip → its files ``<clip>-<k>.flac``, by k.

    Raises:
        UserError: a file with another name.
    """
    found: Dict[str, List[Tuple[int, Path]]] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise at(path, None, "is not named <clip>-<number>.flac", "move it away")
        found.setdefault(match["clip"], []).append((int(match["k"]), path))
    return {clip: [path for _, path in sorted(files)] for clip, files in found.items()}


class CleanSources:
    """The clean sources and the mixtures of a set: from ``spk1.scp`` …, else rendered from ``mixtures.jsonl``.

    It can be given to worker processes.
    """

    def __init__(self, ref: Path):
        from espnet_mt_llm.datadir.maps import read_map
        from espnet_mt_llm.simulation.manifest import MANIFEST, Manifest
        from espnet_mt_llm.simulation.mixtures import SourceCache

        self.ref = ref
        paths = sorted(ref.glob("spk[0-9]*.scp"), key=lambda path: (len(path.name), path.name))
        self.scps = {path.name: read_map(path) for path in paths}
        self.mixtures = read_map(ref / "wav.scp") if self.scps else {}
        self.manifest = Manifest(ref / MANIFEST) if not self.scps and (ref / MANIFEST).exists() else None
        self.cache = SourceCache(128 << 20)

    def __bool__(self) -> bool:
        return bool(self.scps) or self.manifest is not None

    def read(self, clip: str, num_speakers: int) -> Tuple[List[np.ndarray], np.ndarray, int]:
        """Return the sources of a clip, each (N,), the mixture (N,) and their rate.

        Raises:
            UserError: fewer sources than speakers, a file that is not there, or files that differ in length or rate.
        """
        repair = "draw the mixtures again with 'write_sources: true' (stage 2), then make the clips again (stage 3)"
        if self.manifest is not None:
            from espnet_mt_llm.simulation.mixtures import render

            if clip not in self.manifest:
                raise at(self.manifest.path, None, f"the clip '{clip}' is not in it", repair)
            mixture = self.manifest[clip]
            rendered = render(mixture, self.cache)
            return list(rendered.sources), rendered.mixture, mixture.rate
        from espnet_mt_llm.datadir.audio import read_audio

        entries = [scp[clip] for scp in self.scps.values() if clip in scp]
        if clip not in self.mixtures:
            raise at(self.ref / "wav.scp", None, f"the clip '{clip}' is not in it", "make the clips again (stage 3)")
        if len(entries) < num_speakers:
            raise at(self.ref / "spk1.scp", None, f"the clip '{clip}' of {num_speakers} speakers has {len(entries)} "
                                                  "clean sources in spk1.scp …", repair)
        mixture, rate = read_audio(self.mixtures[clip])
        sources = []
        for entry in entries:
            source, found = read_audio(entry)
            _check_alike(entry, source, found, mixture, rate, "make the clips again (stage 3)")
            sources.append(source)
        return sources, mixture, rate


def _check_alike(entry: Any, samples: np.ndarray, rate: int, mixture: np.ndarray, expected: int, repair: str) -> None:
    if rate != expected:
        raise at(entry, None, f"has {rate} Hz, the mixture has {expected} Hz", repair)
    if len(samples) != len(mixture):
        raise at(entry, None, f"has {len(samples)} samples, the mixture has {len(mixture)}", repair)


class _Clips:
    """Reads and scores one clip after the other."""

    def __init__(self, sources: CleanSources):
        self.sources = sources

    def __call__(self, clip: str, num_speakers: int, files: Sequence[Path]) -> Separation:
        from espnet_mt_llm.datadir.audio import read_audio

        references, mixture, rate = self.sources.read(clip, num_speakers)
        estimates = []
        for path in files:
            samples, found = read_audio(path)
            _check_alike(path, samples, found, mixture, rate,
                         "score against the set that was decoded (--ref), or decode it again (stage 7)")
            estimates.append(samples)
        return score_signals(estimates, references, mixture, rate)


_work: Optional[_Clips] = None


def _keep(work: _Clips) -> None:
    global _work
    _work = work


def _one(job: Tuple[str, int, Sequence[Path]]) -> Separation:
    return _work(*job)


def score_clips(speakers: Mapping[str, int], files: Mapping[str, Sequence[Path]], sources: CleanSources,
                nj: int = 1) -> Dict[str, Separation]:
    """Score every clip (``speakers``: clip → number of reference speakers) in ``nj`` processes.

    Raises:
        UserError: pystoi is not installed, or a signal that cannot be compared.
    """
    try:
        import pystoi  # noqa: F401
    except ImportError:
        raise UserError("STOI needs pystoi; install it: tools/setup.sh --extras score") from None
    jobs = [(clip, number, files.get(clip, ())) for clip, number in speakers.items()]
    work = _Clips(sources)
    if nj <= 1 or len(jobs) < 2:
        found = (work(*job) for job in jobs)
        return dict(zip(speakers, progress(found, "separation", len(jobs))))
    with ProcessPoolExecutor(min(nj, len(jobs)), initializer=_keep, initargs=(work,)) as pool:
        found = pool.map(_one, jobs, chunksize=max(1, min(16, len(jobs) // (4 * nj))))
        return dict(zip(speakers, progress(found, "separation", len(jobs))))


def section(clips: Sequence[Separation]) -> Dict[str, Any]:
    """Add clips up: the entry of score.json."""
    total = Separation.zero()
    for clip in clips:
        total += clip
    return total.as_dict()
