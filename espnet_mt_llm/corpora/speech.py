"""What corpora that make their own recordings share: tight trimming, levels, parallel making that can be continued."""

import json
import math
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from espnet_mt_llm.common import Pathlike, at, atomic_open, progress

MARGIN = 0.02  # seconds that are kept before the first and after the last audible frame
FLOOR_DB = 40.0  # frames this much below the loudest one are silence
LEVEL_DB = -26.0  # RMS of a made recording below full scale
PEAK = 0.9


def trim(samples: np.ndarray, rate: int, margin: float = MARGIN, floor_db: float = FLOOR_DB) -> np.ndarray:
    """Cut leading and trailing silence: float (N,) -> (M,), M <= N.

    A frame of 10 ms counts as silence when it is ``floor_db`` below the loudest one; ``margin`` seconds are kept.
    """
    frame = rate // 100
    count = len(samples) // frame
    if count == 0:
        return samples
    power = np.mean(np.square(samples[:count * frame].reshape(count, frame), dtype=np.float64), axis=1)
    audible = np.nonzero(power > power.max() * 10 ** (-floor_db / 10))[0]
    if len(audible) == 0:
        return samples
    first = audible[0] * frame - round(margin * rate)
    last = (audible[-1] + 1) * frame + round(margin * rate)
    return samples[max(first, 0):last]


def set_level(samples: np.ndarray, level_db: float = LEVEL_DB) -> np.ndarray:
    """Scale to an RMS of ``level_db`` below full scale, less where the peak would pass 0.9; silence stays silence."""
    rms = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    if rms == 0:
        return samples
    peak = float(np.max(np.abs(samples)))
    return samples * np.float32(min(10 ** (level_db / 20) / rms, PEAK / peak))


def fade(samples: np.ndarray, rate: int, seconds: float = 0.005) -> np.ndarray:
    """Fade both ends in and out, so that a cut does not click."""
    length = min(round(seconds * rate), len(samples) // 2)
    ramp = np.linspace(0, 1, length + 2, dtype=np.float32)[1:-1]
    faded = samples.copy()
    faded[:length] *= ramp
    faded[len(faded) - length:] *= ramp[::-1]
    return faded


def whole_centiseconds(samples: np.ndarray, rate: int) -> np.ndarray:
    """Pad with zeros to a whole number of centiseconds, so that ids and segments state the exact end."""
    step = rate // 100
    return np.pad(samples, (0, -len(samples) % step))


def same_making(folder: Pathlike, making: Mapping[str, Any]) -> None:
    """Make sure that ``folder`` holds only files of this making; those of another one are removed.

    ``making`` is everything the files depend on. It is kept beside them as ``making.json``, so that a run after a kill
    continues with the files that are there, and a run with another seed or version does not.

    Raises:
        UserError: the folder has files that did not come from here; they are not touched.
    """
    folder = Path(folder)
    note = folder / "making.json"
    text = json.dumps(making, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    old = folder.with_name(f".tmp.{folder.name}.old")
    if note.exists() and note.read_text(encoding="utf-8") != text:
        # Renamed first, so that a kill cannot leave a part of the old files under the name.
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)
    if note.exists():
        return
    if folder.exists() and any(not entry.name.startswith(".tmp.") for entry in folder.iterdir()):
        raise at(folder, None, "has files that were not made by this preparation",
                 "move them away or choose another folder")
    with atomic_open(note) as f:
        f.write(text)


def in_parallel(function: Callable[[Any], Any], tasks: Sequence[Any], nj: int, what: str) -> list:
    """Return ``[function(t) for t in tasks]``, computed by ``nj`` processes, with a progress bar."""
    if nj <= 1 or len(tasks) < 2:
        return [function(task) for task in progress(tasks, what)]
    chunk = max(1, min(32, len(tasks) // (4 * nj)))
    with ProcessPoolExecutor(nj) as pool:
        return list(progress(pool.map(function, tasks, chunksize=chunk), what, len(tasks)))
