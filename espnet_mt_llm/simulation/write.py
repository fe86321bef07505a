"""Write the audio of a drawn set: mixtures and, where the data directory lists them, their sources and noise."""

import logging
import os
from pathlib import Path

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, progress
from espnet_mt_llm.datadir.audio import is_pipe
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.datadir.operations import read_tables, recording_of, restrict, write_tables
from espnet_mt_llm.datadir.problems import Problems
from espnet_mt_llm.simulation.manifest import MANIFEST, Manifest, Mixture
from espnet_mt_llm.simulation.mixtures import FULL_SCALE, Rendered, SourceCache, render, render_sum

log = logging.getLogger(__name__)


def write_mixtures(data_dir: Pathlike, job: int = 1, num_jobs: int = 1, allow_problems: bool = False) -> int:
    """Write what ``wav.scp``, ``spk1.scp`` … and ``noise1.scp`` point to; return how many mixtures were written.

    Files that are there are kept (they were written whole, and drawing another manifest removes them), so a run after a
    kill continues. A mixture that cannot be made stops no other.

    Args:
        job, num_jobs: this call writes every ``num_jobs``-th mixture from the ``job``-th (from 1) on.
        allow_problems: mixtures that cannot be made are only logged; :func:`leave_out_missing` is for them.

    Raises:
        UserError: no manifest, a job number out of range, or sources that cannot be read and are not allowed.
    """
    if not 1 <= job <= num_jobs:
        raise UserError(f"job {job} of {num_jobs}: the job number must be between 1 and the number of jobs")
    data_dir = Path(data_dir)
    manifest = Manifest(data_dir / MANIFEST)
    views = {path.stem: read_map(path) for path in sorted(data_dir.glob("*.scp"))}
    cache = SourceCache()
    written = 0
    failed: dict[str, str] = {}
    mine = list(manifest)[job - 1::num_jobs]
    for mixture_id in progress(mine, f"writing {data_dir.name}"):
        targets = {part: Path(view[mixture_id]) for part, view in views.items()
                   if mixture_id in view and not is_pipe(view[mixture_id])}
        missing = {part: path for part, path in targets.items() if not path.exists()}
        if missing:
            mixture = manifest[mixture_id]
            alone = list(missing) == ["wav"]
            try:
                rendered = Rendered(render_sum(mixture, cache), (), None) if alone else render(mixture, cache)
            except UserError as e:
                log.warning("%s: cannot be made: %s", mixture_id, e)
                failed[mixture_id] = str(e)
                continue
            for part, path in missing.items():
                _write(path, as_int16(part_of(rendered, part)), mixture.rate)
            written += 1
    if failed and not allow_problems:
        raise UserError(f"{data_dir}: {len(failed)} of {len(mine)} mixtures cannot be made, the first is "
                        f"{next(iter(failed))}: {next(iter(failed.values()))}; the others are written; run again, "
                        "which continues, or go on without them: ./run.sh --allow_problems true")
    return written


def leave_out_missing(data_dir: Pathlike) -> int:
    """Take the mixtures whose audio is not there out of every file of the directory; return how many they were.

    They are listed in ``problems.tsv`` beside the directory.

    Raises:
        UserError: the directory cannot be read, or nothing is left.
    """
    data_dir = Path(data_dir)
    wav = read_map(data_dir / "wav.scp")
    missing = {mixture for mixture, entry in wav.items() if not is_pipe(entry) and not os.path.exists(entry)}
    if len(missing) == len(wav):
        raise UserError(f"{data_dir}: no mixture could be made; see {data_dir}/log")
    problems = Problems(data_dir.parent)
    name = f"{data_dir.name}/audio"  # what drawing the set has found stays in the list
    problems.count(name, len(wav))
    for mixture in sorted(missing):
        problems.add(name, mixture, f"cannot be made, see {data_dir}/log/write_mixtures.*.log")
    if missing:
        tables = read_tables(data_dir)
        recs = recording_of(tables)
        write_tables(data_dir, restrict(tables, [utt for utt in tables["utt2spk"] if recs[utt] not in missing]))
    problems.finish(True)
    return len(missing)


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
