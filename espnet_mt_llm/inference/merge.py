"""The results of decoding jobs: one file a job, joined into the files that scoring reads. Starts without torch."""

import json
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open, environment
from espnet_mt_llm.datadir.maps import write_map
from espnet_mt_llm.datadir.rttm import write_rttm
from espnet_mt_llm.scoring.answers import OVERREGISTERED

HYP, COUNTS, RECORD, RTTM, ACTIVITY = "hyp.seglst.json", "utt2num_spk", "decode.json", "hyp.rttm", "activity.npz"
SEPARATED = "separated"
# What a speech LLM counts, see scoring/answers.py.
_SUMS, _CLIPS = ("malformed", "repeated", "capped"), "unparsable"


def write_part(out_dir: Pathlike, job: int, num_jobs: int, segments: list[dict], counts: dict[str, int],
               record: dict[str, Any], rttm: Optional[Sequence[dict]] = None,
               activity: Optional[Mapping[str, np.ndarray]] = None,
               overregistered: Optional[Mapping[str, int]] = None) -> None:
    """Write the result of one job to ``out_dir/parts``.

    Args:
        segments: those of a clip in the order in which they were put out; that order is kept.
        rttm: segments of diarization; None where the system does none.
        activity: clip → probabilities ``(T, S)``.
        overregistered: clip → how many speakers of other sessions were registered; None where nobody is.
    """
    path = part_path(out_dir, job, num_jobs)
    path.with_suffix(".npz").unlink(missing_ok=True)
    if activity:
        _write_npz(path.with_suffix(".npz"), activity)
    with atomic_open(path) as f:
        json.dump({"segments": segments, "counts": counts, "record": record, "rttm": rttm,
                   "overregistered": overregistered}, f, ensure_ascii=False)


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_open(path, "wb") as f:
        np.savez(f, **arrays)


def part_path(out_dir: Pathlike, job: int, num_jobs: int) -> Path:
    """Return where the result of a job is written."""
    return Path(out_dir) / "parts" / f"part.{job}of{num_jobs}.json"


def merge(out_dir: Pathlike, num_jobs: int, names: dict[str, str]) -> int:
    """Join the parts of all jobs; return the number of clips.

    Writes ``hyp.seglst.json``, ``utt2num_spk``, ``decode.json`` and, where the jobs have them, ``hyp.rttm``,
    ``activity.npz`` and ``utt2num_overregistered``. What an earlier decoding left there beside that is removed.

    Args:
        out_dir: the decode directory.
        num_jobs: number of parts.
        names: what the record says beside the measurements: system, step, set, decode, model, command.

    Raises:
        UserError: no job, or one whose part is missing or broken.
    """
    if num_jobs < 1:
        raise UserError(f"{num_jobs} jobs: expected 1 or more")
    parts = []
    for job in range(1, num_jobs + 1):
        path = part_path(out_dir, job, num_jobs)
        if not path.exists():
            raise at(path, None, f"the result of job {job} of {num_jobs} is missing", "run the stage 'decode' again")
        try:
            parts.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as e:
            raise at(path, None, f"no result of a job ({e})", f"remove it and decode again: rm {path}") from None
    # A clip is in one part, and the sort is stable: its turns stay in the order in which they were put out.
    segments = sorted((s for part in parts for s in part["segments"]), key=lambda s: s["session_id"])
    counts = {clip: str(n) for part in parts for clip, n in part["counts"].items()}
    for job, part in enumerate(parts[1:], 2):
        other = _difference(parts[0]["record"], part["record"])
        if other:
            raise at(part_path(out_dir, job, num_jobs), None, f"was decoded with another {other} than that of job 1, "
                     f"{part['record'].get(other)!r} instead of {parts[0]['record'].get(other)!r}",
                     "decode all jobs with the same options (stage 7)")
    record = _joined([part["record"] for part in parts])
    out_dir = Path(out_dir)
    with atomic_open(out_dir / HYP) as f:
        json.dump(segments, f, ensure_ascii=False, indent=1)
        f.write("\n")
    write_map(out_dir / COUNTS, counts)
    for name in (RTTM, ACTIVITY, OVERREGISTERED):
        (out_dir / name).unlink(missing_ok=True)
    if parts[0].get("rttm") is not None:
        write_rttm(out_dir / RTTM, (s for part in parts for s in part["rttm"]))
    if parts[0].get("overregistered") is not None:
        write_map(out_dir / OVERREGISTERED, {clip: str(n) for part in parts
                                             for clip, n in part["overregistered"].items()})
    arrays = [part_path(out_dir, job, num_jobs).with_suffix(".npz") for job in range(1, num_jobs + 1)]
    if any(path.exists() for path in arrays):
        _write_npz(out_dir / ACTIVITY, {clip: found[clip] for path in arrays if path.exists()
                                        for found in [np.load(path)] for clip in found.files})
    written = {f"{clip}-{k}.flac" for clip, n in counts.items() for k in range(int(n)) if record.get("write_audio")}
    for path in (out_dir / SEPARATED).glob("*.flac"):
        if path.name not in written:
            path.unlink()
    if not written and (out_dir / SEPARATED).is_dir():
        (out_dir / SEPARATED).rmdir()
    with atomic_open(out_dir / RECORD) as f:
        json.dump({**names, **record, "environment": environment()}, f, ensure_ascii=False, indent=1)
        f.write("\n")
    return len(counts)


def _difference(record: Mapping[str, Any], other: Mapping[str, Any]) -> Optional[str]:
    """Return what the records of two jobs say differently and must not: the model, or how it was asked."""
    free = {"audio_seconds", "wall_seconds", "load_seconds", "num_threads", "device", "batch_size", _CLIPS, *_SUMS}
    return next((key for key in sorted({*record, *other} - free) if record.get(key) != other.get(key)), None)


def _joined(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record of all jobs: what they count is added up, the rest is that of the first."""
    joined = dict(records[0])
    for key in ("audio_seconds", "wall_seconds"):
        joined[key] = round(sum(record[key] for record in records), 3)
    for key in _SUMS:
        if key in joined:
            joined[key] = sum(record[key] for record in records)
    if _CLIPS in joined:
        joined[_CLIPS] = sorted(clip for record in records for clip in record[_CLIPS])
    return joined
