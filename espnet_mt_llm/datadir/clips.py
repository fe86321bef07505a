"""Cut sessions into clips: a data dir becomes a dump dir with one mono recording and one supervision line per clip."""

import json
import logging
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Mapping, Sequence

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, at, nearest, progress
from espnet_mt_llm.datadir.audio import AudioInfo, info, is_pipe, read_audio, write_audio
from espnet_mt_llm.datadir.kaldi import (
    OVERSHOOT,
    DataDir,
    Utterance,
    format_seconds,
    is_signal,
    key_of,
    read_table,
    spk2utt_of,
    write_map,
    write_table,
)

log = logging.getLogger(__name__)

Span = tuple[float, float]
# Silence kept on both sides of a group, where there is that much: encoders see the onset of the first word.
_MARGIN = 0.25


@dataclass(frozen=True)
class Clip:
    """A stretch of a recording; ``utterances`` have their times in the recording still."""

    id: str
    rec: str
    start: float
    end: float
    utterances: list[Utterance]


def whole(utterances: Sequence[Utterance], duration: float, max_clip: float) -> list[Span]:
    """Take the recording as one clip.

    Raises:
        UserError: the recording is longer than ``max_clip`` seconds.
    """
    if duration > max_clip:
        raise UserError(
            f"lasts {duration:.1f} s, more than the {max_clip:g} s of a clip; cut it: --policy utterance_group, "
            "or allow it: --max_clip"
        )
    return [(0.0, duration)]


def utterance_group(utterances: Sequence[Utterance], duration: float, max_clip: float) -> list[Span]:
    """Join consecutive utterances up to ``max_clip`` seconds; cut only where nobody speaks.

    Utterances that overlap form an island, which is never cut: one that is longer than ``max_clip`` becomes a clip of
    its own. A cut lies in the middle of a pause, at most a quarter of a second from the speech.
    """
    islands: list[list[float]] = []
    for u in sorted(utterances, key=lambda u: (u.start, u.end)):
        if islands and u.start < islands[-1][1]:
            islands[-1][1] = max(islands[-1][1], u.end)
        else:
            islands.append([u.start, u.end])
    # Each island may grow by half of the pause beside it; whole centiseconds, so that clip ids say the exact times.
    grown = []
    for i, (start, end) in enumerate(islands):
        before = (start - islands[i - 1][1]) / 2 if i else start
        after = (islands[i + 1][0] - end) / 2 if i + 1 < len(islands) else duration - end
        first = math.ceil((start - min(before, _MARGIN)) * 100 - 1e-6) / 100
        last = math.floor((end + min(after, _MARGIN)) * 100 + 1e-6) / 100
        span = (min(first, start), min(max(last, end), duration))
        grown.append(span if span[1] - span[0] <= max_clip else (start, min(end, duration)))
    groups: list[Span] = []
    for start, end in grown:
        if groups and end - groups[-1][0] <= max_clip:
            groups[-1] = (groups[-1][0], end)
        else:
            groups.append((start, end))
    return groups


# How sessions are cut. A policy gets the utterances of one recording, its seconds and the longest clip, and returns
# spans in the order of time that do not overlap and go through no utterance.
POLICIES: dict[str, Callable[[Sequence[Utterance], float, float], list[Span]]] = {
    "whole": whole,
    "utterance_group": utterance_group,
}


def make_clips(
    data_dir: Pathlike,
    out_dir: Pathlike,
    *,
    policy: str = "whole",
    max_clip: float = 50.0,
    rate: int = 16000,
    job: int = 1,
    num_jobs: int = 1,
) -> list[Clip]:
    """Cut the sessions of ``data_dir`` and write a dump dir.

    A clip that is a whole mono recording at ``rate`` is referenced; every other one is written, resampled, as
    ``<out_dir>/audio/<clip>.flac``, together with its clean sources (``spk1.scp`` …). Audio that an earlier run left
    there is kept when it is newer than its source.

    Args:
        job, num_jobs: make every ``num_jobs``-th recording, begin with the ``job``-th (from 1); with more than one job,
            :func:`merge_clips` puts the parts together.

    Raises:
        UserError: audio that cannot be used, an utterance beyond the end, or what the policy refuses.
    """
    if policy not in POLICIES:
        raise UserError(f"unknown policy '{policy}'; {nearest(policy, POLICIES)}")
    if not 1 <= job <= num_jobs:
        raise UserError(f"job {job} of {num_jobs}: jobs count from 1 to num_jobs")
    data, out = DataDir.read(data_dir), Path(out_dir)
    source = _Source(data, out, rate)
    by_rec: dict[str, list[Utterance]] = {rec: [] for rec in sorted(data.wav)[job - 1 :: num_jobs]}
    for u in data.utterances:
        if u.rec in by_rec:
            by_rec[u.rec].append(u)
    clips: list[Clip] = []
    tables: dict[str, dict[str, str]] = {name: {} for name in _names(source)}
    for rec, utterances in progress(by_rec.items(), f"clips of {data.path.name}", len(by_rec)):
        for clip in _cut(data, rec, utterances, source.info(rec).duration, policy, max_clip):
            for name, value in _lines(clip, source).items():
                tables[name][clip.id] = value
            clips.append(clip)
    _write(out if num_jobs == 1 else out / "jobs" / f"{job}of{num_jobs}", tables)
    return clips


def merge_clips(out_dir: Pathlike, num_jobs: int) -> None:
    """Put together what ``num_jobs`` runs of :func:`make_clips` wrote, and remove the parts.

    Raises:
        UserError: the part of a job is not there.
    """
    out = Path(out_dir)
    tables: dict[str, dict[str, str]] = {}
    for job in range(1, num_jobs + 1):
        part = out / "jobs" / f"{job}of{num_jobs}"
        if not (part / "wav.scp").exists():
            raise at(part, None, "this job has not finished", f"run make_clips with --job {job} --num_jobs {num_jobs}")
        for f in sorted(part.iterdir()):
            if f.name != "spk2utt":
                tables.setdefault(f.name, {}).update(read_table(f))
    _write(out, tables)
    shutil.rmtree(out / "jobs")


def supervision(clip: Clip) -> str:
    """Write the segments of a clip as one line of JSON: times in seconds from the begin of the clip, by start time."""
    length = clip.end - clip.start
    segments = [
        {
            "spk": u.spk,
            "start": round(min(max(u.start - clip.start, 0.0), length), 3),
            "end": round(min(u.end - clip.start, length), 3),
            "text": u.text,
        }
        for u in clip.utterances
    ]
    segments.sort(key=lambda s: (s["start"], s["spk"], s["end"]))
    return json.dumps(segments, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class _Source:
    """Where the audio of clips comes from and goes to."""

    data: DataDir
    out: Path
    rate: int

    @property
    def manifest(self) -> Mapping[str, str]:
        return self.data.extra.get("mixtures.jsonl", {})

    @property
    def signals(self) -> dict[str, dict[str, str]]:
        """Return the maps of clean sources by file name, the mixture itself first."""
        return {"wav.scp": self.data.wav, **{n: table for n, table in self.data.extra.items() if is_signal(n)}}

    def info(self, rec: str) -> AudioInfo:
        """Look at the header; a mixture that is made on the fly is described by its manifest and not rendered."""
        if rec in self.manifest and is_pipe(self.data.wav[rec]):
            mixture = json.loads(self.manifest[rec])
            return AudioInfo(mixture["rate"], 1, mixture["num_samples"])
        found = info(self.data.wav[rec])
        if found.channels != 1:
            read_audio(self.data.wav[rec])  # raises, and says how to choose a channel
        return found

    def referenced(self, clip: Clip) -> bool:
        """Say whether the recording itself can serve as the clip's audio."""
        entry = self.data.wav[clip.rec]
        usable = not is_pipe(entry) or clip.rec in self.manifest
        return clip.id == clip.rec and usable and self.info(clip.rec).rate == self.rate


def _names(source: _Source) -> list[str]:
    """List the maps of the dump dir."""
    names = ["utt2spk", "utt2dur", "utt2num_samples", "utt2num_spk", "supervision", *source.signals]
    return names + (["mixtures.jsonl"] if source.manifest else [])


def _cut(
    data: DataDir, rec: str, utterances: list[Utterance], duration: float, policy: str, max_clip: float
) -> Iterable[Clip]:
    for u in utterances:
        if u.start >= duration or u.end > duration + OVERSHOOT:
            raise at(
                data.path / "segments",
                None,
                f"'{u.utt}' ends at {u.end:g} s but '{rec}' at {duration:g} s",
                f"repair: utils/fix_data_dir.sh {data.path}",
            )
    try:
        spans = POLICIES[policy](utterances, duration, max_clip)
    except UserError as e:
        raise at(data.path, None, f"the recording '{rec}' {e}") from None
    for start, end in spans:
        if end - start > max_clip:
            log.warning(
                "%s: %s from %.2f to %.2f s is a clip of %.1f s: people overlap all the time, there is no pause "
                "to cut at within %g s",
                data.path,
                rec,
                start,
                end,
                end - start,
                max_clip,
            )
        inside = [u for u in utterances if start <= u.start < end]
        name = rec if (start, end) == (0.0, duration) else f"{rec}-{round(start * 100):07d}-{round(end * 100):07d}"
        yield Clip(name, rec, start, end, inside)


def _lines(clip: Clip, source: _Source) -> dict[str, str]:
    """Return the clip's value for each map; writes the audio where the recording cannot be referenced."""
    if source.referenced(clip):
        samples = source.info(clip.rec).frames
        values = {name: table[clip.rec] for name, table in source.signals.items() if clip.rec in table}
        if clip.rec in source.manifest:
            values["mixtures.jsonl"] = source.manifest[clip.rec]
    else:
        samples, values = _write_signals(clip, source)
    return {
        **values,
        "utt2spk": clip.id,
        "utt2dur": format_seconds(samples / source.rate),
        "utt2num_samples": str(samples),
        "utt2num_spk": str(len({u.spk for u in clip.utterances})),
        "supervision": supervision(clip),
    }


def _write_signals(clip: Clip, source: _Source) -> tuple[int, dict[str, str]]:
    """Cut, resample and write the clip and its clean sources; return the number of samples, and the paths by map."""
    found = source.info(clip.rec)
    first, last = round(clip.start * found.rate), min(round(clip.end * found.rate), found.frames)
    samples = -(-(last - first) * source.rate // found.rate)
    entries = {name: table[clip.rec] for name, table in source.signals.items() if clip.rec in table}
    paths = {
        name: source.out / "audio" / (f"{clip.id}.flac" if name == "wav.scp" else f"{Path(name).stem}/{clip.id}.flac")
        for name in entries
    }
    if not all(_fresh(paths[name], entries[name], source, samples) for name in entries):
        signals = {
            name: _resampled(entry, first / found.rate, last / found.rate, found.rate, source.rate)
            for name, entry in entries.items()
        }
        peak = max(float(np.abs(signal).max(initial=0.0)) for signal in signals.values())
        if peak > 1:
            log.warning("%s: scaled by %.4f, because resampling went beyond full scale", clip.id, 1 / peak)
        for name, signal in signals.items():
            write_audio(paths[name], signal / peak if peak > 1 else signal, source.rate)
    return samples, {name: str(path) for name, path in paths.items()}


def _resampled(entry: str, start: float, end: float, found: int, wanted: int) -> np.ndarray:
    """Read a span (N,) of a file of ``found`` Hz, at ``wanted`` Hz."""
    samples, rate = read_audio(entry, start, end)
    if rate != found:
        raise at(entry, None, f"has {rate} Hz, its mixture {found} Hz", "make the source signals again (stage 2)")
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32)


def _fresh(path: Path, entry: str, source: _Source, samples: int) -> bool:
    """Say whether an earlier run wrote this audio from the same source."""
    if is_pipe(entry) or not path.exists():
        return False
    written = path.stat().st_mtime
    if max(os.path.getmtime(f) for f in (entry, source.data.path / "wav.scp") if os.path.exists(f)) > written:
        return False
    try:
        return info(path) == AudioInfo(source.rate, 1, samples)
    except UserError:
        return False


def _write(out: Path, tables: dict[str, dict[str, str]]) -> None:
    """Write the maps; ``wav.scp`` last, because it says that the others are there."""
    utt2spk = tables["utt2spk"]
    for old in out.iterdir() if out.is_dir() else ():
        if old.is_file() and key_of(old.name) and old.name not in tables:
            old.unlink()
    write_map(out / "spk2utt", spk2utt_of(utt2spk))
    for name in sorted(tables, key=lambda n: n == "wav.scp"):
        write_table(out / name, tables[name])
