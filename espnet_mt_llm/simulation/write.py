"""Write the audio of a drawn set: mixtures and, where the data directory lists them, their sources and noise."""

import os
from pathlib import Path

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, progress
from espnet_mt_llm.datadir.audio import is_pipe
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.simulation.manifest import MANIFEST, Manifest, Mixture
from espnet_mt_llm.simulation.mixtures import FULL_SCALE, Rendered, SourceCache, render, render_sum


def write_mixtures(data_dir: Pathlike, job: int = 1, num_jobs: int = 1) -> int:
    """Write what ``wav.scp``, ``spk1.scp`` … and ``noise1.scp`` point to; return how many mixtures were missing.

    Files that are there are kept (they were written whole, and drawing another manifest removes them), so a run after a
    kill continues.

    Args:
        job, num_jobs: this call writes every ``num_jobs``-th mixture from the ``job``-th (from 1) on.

    Raises:
        UserError: no manifest, a source that cannot be read, or a job number out of range.
    """
    if not 1 <= job <= num_jobs:
        raise UserError(f"job {job} of {num_jobs}: the job number must be between 1 and the number of jobs")
    data_dir = Path(data_dir)
    manifest = Manifest(data_dir / MANIFEST)
    views = {path.stem: read_map(path) for path in sorted(data_dir.glob("*.scp"))}
    cache = SourceCache()
    written = 0
    for mixture_id in progress(list(manifest)[job - 1::num_jobs], f"writing {data_dir.name}"):
        targets = {part: Path(view[mixture_id]) for part, view in views.items()
                   if mixture_id in view and not is_pipe(view[mixture_id])}
        missing = {part: path for part, path in targets.items() if not path.exists()}
        if missing:
            mixture = manifest[mixture_id]
            alone = list(missing) == ["wav"]
            rendered = Rendered(render_sum(mixture, cache), (), None) if alone else render(mixture, cache)
            for part, path in missing.items():
                _write(path, as_int16(part_of(rendered, part)), mixture.rate)
            written += 1
    return written


def _write(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write int16 samples (N,) under a temporary name and rename it.

    Unlike ``write_audio`` it does not wait until the disk has the file, which would cost as much as the rendering.
    A file that a power failure truncates is found out when it is read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".tmp.{os.getpid()}.{path.name}")
    try:
        with open(tmp, "wb") as f:
            f.write(_encoded(samples, rate, path.suffix[1:].upper()))
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def part_of(rendered: Rendered, part: str) -> np.ndarray:
    """Return the signal that the file ``<part>.scp`` lists: ``wav``, ``spk<k>`` or ``noise1``."""
    if part == "wav":
        return rendered.mixture
    if part == "noise1" and rendered.noise is not None:
        return rendered.noise
    if part.startswith("spk") and part[3:].isdigit() and 1 <= int(part[3:]) <= len(rendered.sources):
        return rendered.sources[int(part[3:]) - 1]
    raise UserError(f"{part}.scp: the manifest has no such part; draw the mixtures again (stage 2)")


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Turn rendered samples into the 16-bit numbers that they are (no rounding happens here)."""
    return (samples * np.float32(FULL_SCALE)).astype(np.int16)


def render_wav(mixture: Mixture, part: str = "wav") -> bytes:
    """Return one part of a mixture as the bytes of a WAV file."""
    return bytes(_encoded(as_int16(part_of(render(mixture, SourceCache()), part)), mixture.rate, "WAV"))


def _encoded(samples: np.ndarray, rate: int, form: str) -> memoryview:
    import io

    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype="PCM_16")
    return buffer.getbuffer()
