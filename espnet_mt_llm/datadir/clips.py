"""Cut sessions into clips: a data dir becomes a dump dir with one mono recording and one supervision line per clip."""

import json
import logging
import math
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterable, Mapping

import numpy as np

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, nearest, progress
from espnet_mt_llm.datadir.audio import AudioInfo, AudioReader, check_channel, info, is_pipe, to_float32, write_audio
from espnet_mt_llm.datadir.clip_policies import POLICIES, Rules
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
from espnet_mt_llm.datadir.statistics import Statistics

log = logging.getLogger(__name__)

STATISTICS = "statistics.json"
# Lengths are differences of times: seconds that are less than a sample are no excess.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Clip:
    """A stretch of a recording; ``utterances`` have their times in the recording still."""

    id: str
    rec: str
    start: float
    end: float
    utterances: list[Utterance]


def make_clips(
    data_dir: Pathlike,
    out_dir: Pathlike,
    *,
    policy: str = "whole",
    max_clip: float = 50.0,
    min_clip: float = 40.0,
    seed: int = 0,
    rate: int = 16000,
    job: int = 1,
    num_jobs: int = 1,
) -> list[Clip]:
    """Cut the sessions of ``data_dir`` and write a dump dir.

    A clip that is a whole mono recording at ``rate`` is referenced; every other one is written, resampled, as
    ``<out_dir>/audio/<clip>.wav``, together with its clean sources (``spk1.scp`` …); as FLAC it would take half the
    space and more time to write than all the rest. Of a recording with several channels the one that the file
    ``channel`` names is taken; each recording is read once, from begin to end. Audio that an earlier run left there is
    kept when it is newer than its source. A clip in which nobody speaks is left out; ``statistics.json`` says what came
    out.

    Args:
        policy: one of ``POLICIES``.
        max_clip, min_clip: seconds; the shortest length is for ``random_40_50`` alone.
        seed: of that policy's random cuts, which depend on it and the recording's id and nothing else.
        rate: samples per second of the clips.
        job, num_jobs: make every ``num_jobs``-th recording, begin with the ``job``-th (from 1); with more than one job,
            :func:`merge_clips` puts the parts together.

    Raises:
        UserError: audio that cannot be used, an utterance beyond the end, what the policy refuses, or no clip at all.
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
    total = Statistics.zero()
    tables: dict[str, dict[str, str]] = {name: {} for name in _names(source)}
    for rec, utterances in progress(by_rec.items(), f"clips of {data.path.name}", len(by_rec)):
        with _Recording(source, rec) as recording:
            duration = recording.info.duration
            rules = Rules(max_clip, min_clip, Chance(seed, rec))
            made = _cut(data, rec, _within(data, rec, utterances, duration), duration, policy, rules)
            total += _statistics(made, utterances, duration, max_clip)
            for clip in made:
                for name, value in _lines(clip, recording).items():
                    tables[name][clip.id] = value
        clips += made
    if num_jobs == 1:
        _finish(out, tables, total)
    else:
        _write(out / "jobs" / f"{job}of{num_jobs}", tables, total)
    return clips


def merge_clips(out_dir: Pathlike, num_jobs: int) -> None:
    """Put together what ``num_jobs`` runs of :func:`make_clips` wrote, and remove the parts.

    Raises:
        UserError: the part of a job is not there.
    """
    out = Path(out_dir)
    tables: dict[str, dict[str, str]] = {}
    total = Statistics.zero()
    for job in range(1, num_jobs + 1):
        part = out / "jobs" / f"{job}of{num_jobs}"
        if not (part / "wav.scp").exists():
            raise at(part, None, "this job has not finished", f"run make_clips with --job {job} --num_jobs {num_jobs}")
        total += Statistics.read(part / STATISTICS)
        for f in sorted(part.iterdir()):
            if key_of(f.name) and f.name != "spk2utt":
                tables.setdefault(f.name, {}).update(read_table(f))
    _finish(out, tables, total)
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


@dataclass
class _Recording:
    """One recording and its clean sources; each file is opened when it is needed, and read once."""

    source: _Source
    rec: str
    info: AudioInfo = field(init=False)
    _readers: dict[str, AudioReader] = field(default_factory=dict)
    _opened: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        entry, channel = self.source.data.wav[self.rec], self.source.data.channel(self.rec)
        if self.rec in self.source.manifest and is_pipe(entry):
            # A mixture that is made on the fly is described by its manifest and not rendered.
            mixture = json.loads(self.source.manifest[self.rec])
            self.info = AudioInfo(mixture["rate"], 1, mixture["num_samples"])
        else:
            self.info = info(entry)
        check_channel(self.info, channel, entry)

    def __enter__(self) -> "_Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def entries(self) -> dict[str, str]:
        """Return where the signals are, by the name of their map."""
        return {name: table[self.rec] for name, table in self.source.signals.items() if self.rec in table}

    def referenced(self, clip: Clip) -> bool:
        """Say whether the recording itself can serve as the clip's audio."""
        usable = not is_pipe(self.source.data.wav[self.rec]) or self.rec in self.source.manifest
        as_wanted = self.info.rate == self.source.rate and self.info.channels == 1
        return (clip.start, clip.end) == (0.0, self.info.duration) and usable and as_wanted

    def read(self, name: str, first: int, last: int) -> np.ndarray:
        """Read a span (N,) of a signal, given in samples of the recording, at the rate that is wanted."""
        if name not in self._readers:
            channel = self.source.data.channel(self.rec) if name == "wav.scp" else None
            self._readers[name] = self._opened.enter_context(AudioReader(self.entries[name], channel))
        reader, rate, wanted = self._readers[name], self.info.rate, self.source.rate
        if reader.info.rate != rate:
            raise at(
                self.entries[name],
                None,
                f"has {reader.info.rate} Hz, its mixture {rate} Hz",
                "make the source signals again (stage 2)",
            )
        samples = reader.read(*reader.span(first / rate, last / rate))
        if rate == wanted:
            return samples
        from scipy.signal import resample_poly

        common = math.gcd(rate, wanted)
        return resample_poly(to_float32(samples), wanted // common, rate // common).astype(np.float32)


def _names(source: _Source) -> list[str]:
    """List the maps of the dump dir."""
    names = ["utt2spk", "utt2dur", "utt2num_samples", "utt2num_spk", "supervision", *source.signals]
    return names + (["mixtures.jsonl"] if source.manifest else [])


def _within(data: DataDir, rec: str, utterances: Iterable[Utterance], duration: float) -> list[Utterance]:
    """Let utterances end where the recording does; refuse those that lie beyond it."""
    within = []
    for u in utterances:
        if u.start >= duration or u.end > duration + OVERSHOOT:
            raise at(
                data.path / "segments",
                None,
                f"'{u.utt}' ends at {u.end:g} s but '{rec}' at {duration:g} s",
                f"repair: utils/fix_data_dir.sh {data.path}",
            )
        within.append(u if u.end <= duration else replace(u, end=duration))
    return within


def _cut(
    data: DataDir, rec: str, utterances: list[Utterance], duration: float, policy: str, rules: Rules
) -> list[Clip]:
    """Apply a policy to a recording, and name the clips that have speech."""
    try:
        cuts = POLICIES[policy](utterances, duration, rules)
    except UserError as e:
        raise at(data.path, None, f"the recording '{rec}' {e}") from None
    clips: dict[str, Clip] = {}
    for cut in cuts:
        if not cut.utterances:
            continue
        length, whole = cut.end - cut.start, (cut.start, cut.end) == (0.0, duration)
        if length > rules.max_clip + _TOLERANCE:
            why = "an utterance lasts so long" if policy == "oracle_segments" else (
                f"people overlap all the time, there is no pause to cut at within {rules.max_clip:g} s"
            )
            log.warning(
                "%s: %s from %.2f to %.2f s is a clip of %.1f s: %s", data.path, rec, cut.start, cut.end, length, why
            )
        name = rec if whole else f"{rec}-{round(cut.start * 100):07d}-{round(cut.end * 100):07d}"
        # Two speakers (or, to the hundredth of a second, one of them twice) may begin and end together.
        if name in clips:
            name = f"{name}-{cut.utterances[0].spk}"
        while name in clips:
            name += ".2"
        clips[name] = Clip(name, rec, cut.start, cut.end, cut.utterances)
    return list(clips.values())


def _statistics(clips: list[Clip], utterances: list[Utterance], duration: float, max_clip: float) -> Statistics:
    """Sum up the clips of a recording."""
    total, covered, reach = Statistics.zero(), 0.0, 0.0
    for clip in clips:
        length = clip.end - clip.start
        too_long = int(length > max_clip + _TOLERANCE)
        total += replace(Statistics.of(clip.utterances, length, clip.start), too_long=too_long)
        # Clips of single utterances overlap.
        covered += max(0.0, clip.end - max(clip.start, reach))
        reach = max(reach, clip.end)
    split = sum(len(clip.utterances) for clip in clips) - len(utterances)
    return total + Statistics(split=split, left_out=round(duration - covered, 6))


def _lines(clip: Clip, recording: _Recording) -> dict[str, str]:
    """Return the clip's value for each map; writes the audio where the recording cannot be referenced."""
    source = recording.source
    if recording.referenced(clip):
        samples, values = recording.info.frames, recording.entries
        if clip.rec in source.manifest:
            values["mixtures.jsonl"] = source.manifest[clip.rec]
    else:
        samples, values = _write_signals(clip, recording)
    return {
        **values,
        "utt2spk": clip.id,
        "utt2dur": format_seconds(samples / source.rate),
        "utt2num_samples": str(samples),
        "utt2num_spk": str(len({u.spk for u in clip.utterances})),
        "supervision": supervision(clip),
    }


def _write_signals(clip: Clip, recording: _Recording) -> tuple[int, dict[str, str]]:
    """Cut, resample and write the clip and its clean sources; return the number of samples, and the paths by map."""
    source, found, entries = recording.source, recording.info, recording.entries
    first, last = round(clip.start * found.rate), min(round(clip.end * found.rate), found.frames)
    samples = -(-(last - first) * source.rate // found.rate)
    paths = {
        name: source.out / "audio" / (f"{clip.id}.wav" if name == "wav.scp" else f"{Path(name).stem}/{clip.id}.wav")
        for name in entries
    }
    if not all(_fresh(paths[name], entries[name], source, samples) for name in entries):
        signals = {name: recording.read(name, first, last) for name in entries}
        peak = max(_peak(signal) for signal in signals.values())
        if peak > 1:
            log.warning("%s: scaled by %.4f, because resampling went beyond full scale", clip.id, 1 / peak)
        for name, signal in signals.items():
            write_audio(paths[name], to_float32(signal) / peak if peak > 1 else signal, source.rate)
    return samples, {name: str(path) for name, path in paths.items()}


def _peak(signal: np.ndarray) -> float:
    """Return the largest magnitude in full scales; 16-bit samples are never beyond one."""
    return 1.0 if signal.dtype == np.int16 else float(np.abs(signal).max(initial=0.0))


def _fresh(path: Path, entry: str, source: _Source, samples: int) -> bool:
    """Say whether an earlier run wrote this audio from the same source."""
    if is_pipe(entry) or not path.exists():
        return False
    written = path.stat().st_mtime
    origins = (entry, source.data.path / "wav.scp", source.data.path / "channel")
    if max(os.path.getmtime(f) for f in origins if os.path.exists(f)) > written:
        return False
    try:
        return info(path) == AudioInfo(source.rate, 1, samples)
    except UserError:
        return False


def _finish(out: Path, tables: dict[str, dict[str, str]], statistics: Statistics) -> None:
    """Write the dump dir, if there is anything to write."""
    if not tables["utt2spk"]:
        raise at(out, None, "there is no clip in which somebody speaks", "look at the segments of the data directory")
    _write(out, tables, statistics)


def _write(out: Path, tables: dict[str, dict[str, str]], statistics: Statistics) -> None:
    """Write the statistics and the maps; ``wav.scp`` last, because it says that the others are there."""
    utt2spk = tables["utt2spk"]
    for old in out.iterdir() if out.is_dir() else ():
        if old.is_file() and key_of(old.name) and old.name not in tables:
            old.unlink()
    statistics.write(out / STATISTICS)
    write_map(out / "spk2utt", spk2utt_of(utt2spk))
    for name in sorted(tables, key=lambda n: n == "wav.scp"):
        write_table(out / name, tables[name])
