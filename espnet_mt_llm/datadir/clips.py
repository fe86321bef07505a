"""Cut sessions into clips: a data dir becomes a dump dir with one mono recording and one supervision line per clip."""

import heapq
import json
import logging
import math
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional, TextIO

import numpy as np

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, atomic_open, flush_disk, nearest, progress
from espnet_mt_llm.datadir.audio import AudioInfo, AudioReader, check_channel, info, is_pipe, to_float32, write_audio
from espnet_mt_llm.datadir.clip_policies import POLICIES, Rules
from espnet_mt_llm.datadir.kaldi import OVERSHOOT, Utterance
from espnet_mt_llm.datadir.maps import check_line, format_seconds, key_of, read_map, splitter
from espnet_mt_llm.datadir.problems import Problems
from espnet_mt_llm.datadir.sessions import MANIFEST, Session, Sessions
from espnet_mt_llm.datadir.statistics import Statistics

log = logging.getLogger(__name__)

STATISTICS = "statistics.json"
_NAMES = ("utt2spk", "spk2utt", "utt2dur", "utt2num_samples", "utt2num_spk", "supervision")
# What a job found wrong, until the parts are put together.
_PROBLEMS = "problems.json"
_WITHOUT_PROBLEMS = "./run.sh --allow_problems true"
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
    allow_problems: bool = False,
) -> Statistics:
    """Cut the sessions of ``data_dir`` and write a dump dir.

    A clip that is a whole mono recording at ``rate`` is referenced; every other one is written, resampled, as
    ``<out_dir>/audio/<clip>.wav``, together with its clean sources (``spk1.scp`` …); as FLAC it would take half the
    space and more time to write than all the rest. Of a recording with several channels the one that the file
    ``channel`` names is taken; each recording is read once, from begin to end. Audio that an earlier run left there is
    kept when it is newer than its source. A clip in which nobody speaks is left out; ``statistics.json`` says what came
    out. A recording that cannot be used stops no other; ``problems.tsv`` lists those.

    Args:
        policy: one of ``POLICIES``.
        max_clip, min_clip: seconds; the shortest length is for ``random_40_50`` alone.
        seed: of that policy's random cuts, which depend on it and the recording's id and nothing else.
        rate: samples per second of the clips.
        job, num_jobs: make every ``num_jobs``-th recording, begin with the ``job``-th (from 1); with more than one job,
            :func:`merge_clips` puts the parts together.
        allow_problems: go on without recordings that cannot be used; of several jobs, :func:`merge_clips` is told.

    Returns:
        What came out; what was cut is in the files.

    Raises:
        UserError: what the policy refuses, no clip at all, or recordings that cannot be used (audio, an utterance
            beyond the end) and are not allowed; the clips of the others have their audio then, and are not listed.
    """
    if policy not in POLICIES:
        raise UserError(f"unknown policy '{policy}'; {nearest(policy, POLICIES)}")
    if not 1 <= job <= num_jobs:
        raise UserError(f"job {job} of {num_jobs}: jobs count from 1 to num_jobs")
    out = Path(out_dir)
    sessions = Sessions(data_dir, out, job, num_jobs)
    problems = Problems(out, _WITHOUT_PROBLEMS)
    problems.count(sessions.path.name, len(sessions.recs))
    if rate < 1:
        raise UserError(f"{rate} samples per second: expected 1 or more")
    source = _Source(out, rate)
    where = out if num_jobs == 1 else out / "jobs" / f"{job}of{num_jobs}"
    total = Statistics.zero()
    names = [*_NAMES, *sessions.signals, *[MANIFEST] * sessions.simulated]
    with _Tables(where, names, out / "audio") as tables:
        for session in progress(sessions, f"clips of {sessions.path.name}", len(sessions.recs)):
            tables.write_before(session.rec)
            recording = None
            with problems.of(sessions.path.name, session.rec):
                recording = _Recording(source, session)
            if recording is None:
                continue
            with problems.of(sessions.path.name, session.rec):
                clips = _cut(recording, policy, Rules(max_clip, min_clip, Chance(seed, session.rec)))
                tables.add(_render(clips, recording))
                total += _statistics(clips, recording, max_clip)
        if num_jobs == 1:
            problems.finish(allow_problems)
            _check_any(out, total)
        else:
            found = {"set": sessions.path.name, "sessions": len(sessions.recs), "problems": problems.rows}
            with atomic_open(where / _PROBLEMS) as f:
                json.dump(found, f, ensure_ascii=False)
        _prepare(where, names, total)
    if num_jobs == 1:
        _remove_old_audio(out)
    return total


def merge_clips(out_dir: Pathlike, num_jobs: int, allow_problems: bool = False) -> Statistics:
    """Put together what ``num_jobs`` runs of :func:`make_clips` wrote, and remove the parts.

    Args:
        allow_problems: go on without the recordings that cannot be used; they are listed in ``problems.tsv``.

    Raises:
        UserError: the part of a job is not there, no clip at all, or recordings that cannot be used and are not
            allowed; the parts stay then.
    """
    out, problems, total = Path(out_dir), Problems(out_dir, _WITHOUT_PROBLEMS), Statistics.zero()
    parts = [out / "jobs" / f"{job}of{num_jobs}" for job in range(1, num_jobs + 1)]
    sessions = 0
    for job, part in enumerate(parts, 1):
        if not (part / "wav.scp").exists():
            raise at(part, None, "this job has not finished", f"run make_clips with --job {job} --num_jobs {num_jobs}")
        total += Statistics.read(part / STATISTICS)
        found = json.loads((part / _PROBLEMS).read_text(encoding="utf-8"))
        sessions += found["sessions"]
        problems.count(found["set"], sessions)
        problems.rows += map(tuple, found["problems"])
    problems.finish(allow_problems)
    _check_any(out, total)
    names = sorted({f.name for part in parts for f in part.iterdir() if key_of(f.name)}, key=lambda n: n != "wav.scp")
    with ExitStack() as opened:
        # What is opened first is closed last, and so appears last: wav.scp.
        for name in names:
            f = opened.enter_context(atomic_open(out / name))
            f.writelines(_merged([part / name for part in parts]))
        _prepare(out, names, total)
    shutil.rmtree(out / "jobs")
    _remove_old_audio(out)
    return total


def _remove_old_audio(out: Path) -> None:
    """Remove the audio of clips that an earlier run has cut in another way, and this one does not list."""
    if (out / "audio").is_dir():
        listed = {entry for scp in out.glob("*.scp") for entry in read_map(scp).values()}
        for path in (out / "audio").rglob("*.wav"):
            if str(path) not in listed:
                path.unlink()


def _merged(paths: list[Path]) -> Iterator[str]:
    """Yield the lines of sorted maps in the order of their ids."""
    split = splitter(paths[0])
    with ExitStack() as opened:
        files = [opened.enter_context(open(f, encoding="utf-8", newline="\n")) for f in paths if f.exists()]
        yield from heapq.merge(*files, key=lambda line: split(line)[0])


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
    """What all clips have in common: where they go, and how many samples a second has."""

    out: Path
    rate: int


@dataclass
class _Recording:
    """One recording and its clean sources; each file is opened when it is needed, and read once."""

    source: _Source
    session: Session
    info: AudioInfo = field(init=False)
    utterances: list[Utterance] = field(init=False)
    _readers: dict[str, AudioReader] = field(default_factory=dict)
    _opened: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        entry, channel = self.session.entries["wav.scp"], self.session.channel
        if self.session.manifest is not None and is_pipe(entry):
            # A mixture that is made on the fly is described by its manifest and not rendered.
            mixture = json.loads(self.session.manifest)
            self.info = AudioInfo(mixture["rate"], 1, mixture["num_samples"])
        else:
            self.info = info(entry)
        check_channel(self.info, channel, entry)
        self.utterances = _within(self.session, self.info.duration)

    def __enter__(self) -> "_Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def referenced(self, clip: Clip) -> bool:
        """Say whether the recording itself can serve as the clip's audio."""
        usable = not is_pipe(self.session.entries["wav.scp"]) or self.session.manifest is not None
        as_wanted = self.info.rate == self.source.rate and self.info.channels == 1
        return (clip.start, clip.end) == (0.0, self.info.duration) and usable and as_wanted

    def path(self, name: str, clip: Clip) -> Path:
        """Return where a signal of a clip goes, ``name`` is that of its map."""
        folder = self.source.out / "audio" / ("" if name == "wav.scp" else Path(name).stem)
        return folder / f"{clip.id}.wav"

    def read(self, name: str, first: int, last: int) -> np.ndarray:
        """Read a span (N,) of a signal, given in samples of the recording, at the rate that is wanted."""
        entry = self.session.entries[name]
        if name not in self._readers:
            channel = self.session.channel if name == "wav.scp" else None
            self._readers[name] = self._opened.enter_context(AudioReader(entry, channel))
        reader, rate, wanted = self._readers[name], self.info.rate, self.source.rate
        if reader.info.rate != rate:
            problem = f"has {reader.info.rate} Hz, its mixture {rate} Hz"
            raise at(entry, None, problem, "make the source signals again (stage 2)")
        samples = reader.read(*reader.span(first / rate, last / rate))
        if rate == wanted:
            return samples
        from scipy.signal import resample_poly

        common = math.gcd(rate, wanted)
        return resample_poly(to_float32(samples), wanted // common, rate // common).astype(np.float32)


class _Tables:
    """The maps of a dump dir, written line by line; they appear together when all goes well, ``wav.scp`` last.

    Clips come by recording, and the id of a clip begins with its recording's: once a recording's turn has come, no id
    before its own comes any more. Only what stands behind it is held, so that the lines of all are sorted.
    """

    def __init__(self, directory: Path, names: Iterable[str], audio: Path):
        self._directory, self._names, self._audio = directory, names, audio
        self._files: dict[str, TextIO] = {}
        self._held: list[tuple[str, dict[str, str]]] = []
        self._last = ""

    def __enter__(self) -> "_Tables":
        with ExitStack() as opened:
            # What is opened first is closed last.
            for name in sorted(self._names, key=lambda n: n != "wav.scp"):
                self._files[name] = opened.enter_context(atomic_open(self._directory / name, durable=False))
            opened.push(self._complete)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.__exit__(*exception)

    def _complete(self, failure: Optional[type], *_: object) -> None:
        """Write the rest and wait for the disk, once for all: no map may outlive a power failure without its audio.

        A clip that is cut short by one before the maps are there is found by its header, and made again.
        """
        if failure is None:
            self.write_before(None)
            for f in self._files.values():
                f.flush()
            flush_disk(self._directory, *(d for d in [self._audio] if d.exists()))

    def add(self, clips: Mapping[str, dict[str, str]]) -> None:
        """Take the values by map of some clips."""
        for clip in clips.items():
            heapq.heappush(self._held, clip)

    def write_before(self, rec: Optional[str]) -> None:
        """Write what stands before the clips of a recording; None: everything."""
        while self._held and (rec is None or self._held[0][0] < rec):
            clip, values = heapq.heappop(self._held)
            if clip == self._last:
                raise at(self._directory, None, f"two clips have the id '{clip}'", "rename one of their recordings")
            self._last = clip
            for name, value in values.items():
                check_line(self._directory / name, clip, value)
                line = value if name == MANIFEST else f"{clip} {value}" if value else clip
                self._files[name].write(line + "\n")


def _within(session: Session, duration: float) -> list[Utterance]:
    """Let utterances end where the recording does; refuse those that lie beyond it."""
    within = []
    for u in session.utterances:
        end = duration if math.isinf(u.end) else u.end
        if u.start >= duration or end > duration + OVERSHOOT:
            raise at(
                session.path / "segments",
                None,
                f"'{u.utt}' ends at {end:g} s but '{u.rec}' at {duration:g} s",
                f"repair: utils/fix_data_dir.sh {session.path}",
            )
        within.append(u if u.end <= duration else u._replace(end=duration))
    return within


def _cut(recording: _Recording, policy: str, rules: Rules) -> list[Clip]:
    """Apply a policy to a recording, and name the clips that have speech."""
    path, rec, duration = recording.session.path, recording.session.rec, recording.info.duration
    try:
        cuts = POLICIES[policy](recording.utterances, duration, rules)
    except UserError as e:
        raise at(path, None, f"the recording '{rec}' {e}") from None
    clips: dict[str, Clip] = {}
    for cut in cuts:
        if not cut.utterances:
            continue
        length, whole = cut.end - cut.start, (cut.start, cut.end) == (0.0, duration)
        if length > rules.max_clip + _TOLERANCE:
            why = "an utterance lasts so long" if policy == "oracle_segments" else (
                f"people overlap all the time, there is no point to cut at within {rules.max_clip:g} s"
            )
            log.warning(
                "%s: %s from %.2f to %.2f s is a clip of %.1f s: %s", path, rec, cut.start, cut.end, length, why
            )
        name = rec if whole else f"{rec}-{round(cut.start * 100):07d}-{round(cut.end * 100):07d}"
        # Two speakers (or, to the hundredth of a second, one of them twice) may begin and end together.
        if name in clips:
            name = f"{name}-{cut.utterances[0].spk}"
        while name in clips:
            name += ".2"
        clips[name] = Clip(name, rec, cut.start, cut.end, cut.utterances)
    return list(clips.values())


def _statistics(clips: list[Clip], recording: _Recording, max_clip: float) -> Statistics:
    """Sum up the clips of a recording."""
    total, covered, reach = Statistics.zero(), 0.0, 0.0
    for clip in clips:
        length = clip.end - clip.start
        too_long = int(length > max_clip + _TOLERANCE)
        total += replace(Statistics.of(clip.utterances, length, clip.start), too_long=too_long)
        # Clips of single utterances overlap.
        covered += max(0.0, clip.end - max(clip.start, reach))
        reach = max(reach, clip.end)
    split = sum(len(clip.utterances) for clip in clips) - len(recording.utterances)
    return total + Statistics(split=split, left_out=round(recording.info.duration - covered, 6))


def _render(clips: list[Clip], recording: _Recording) -> dict[str, dict[str, str]]:
    """Return the values of the clips for each map; writes the audio where the recording cannot be referenced.

    Raises:
        UserError: the recording cannot be read; none of its clips is left.
    """
    try:
        with recording:
            return {clip.id: _lines(clip, recording) for clip in clips}
    except UserError:
        for clip in clips:
            for name in recording.session.entries:
                recording.path(name, clip).unlink(missing_ok=True)
        raise


def _lines(clip: Clip, recording: _Recording) -> dict[str, str]:
    """Return the clip's value for each map; writes the audio where the recording cannot be referenced."""
    session, rate = recording.session, recording.source.rate
    if recording.referenced(clip):
        samples, values = recording.info.frames, dict(session.entries)
        if session.manifest is not None:
            values[MANIFEST] = session.manifest
    else:
        samples = _write_signals(clip, recording)
        values = {name: str(recording.path(name, clip)) for name in session.entries}
    return {
        **values,
        "utt2spk": clip.id,
        "spk2utt": clip.id,
        "utt2dur": format_seconds(samples / rate),
        "utt2num_samples": str(samples),
        "utt2num_spk": str(len({u.spk for u in clip.utterances})),
        "supervision": supervision(clip),
    }


def _write_signals(clip: Clip, recording: _Recording) -> int:
    """Cut, resample and write the clip and its clean sources; return the number of samples."""
    rate, found, entries = recording.source.rate, recording.info, recording.session.entries
    first, last = round(clip.start * found.rate), min(round(clip.end * found.rate), found.frames)
    samples = -(-(last - first) * rate // found.rate)
    paths = {name: recording.path(name, clip) for name in entries}
    if not all(_fresh(paths[name], entry, recording, samples) for name, entry in entries.items()):
        signals = {name: recording.read(name, first, last) for name in entries}
        peak = max(_peak(signal) for signal in signals.values())
        if peak > 1:
            log.warning("%s: scaled by %.4f, because resampling went beyond full scale", clip.id, 1 / peak)
        for name, signal in signals.items():
            write_audio(paths[name], to_float32(signal) / peak if peak > 1 else signal, rate, durable=False)
    return samples


def _peak(signal: np.ndarray) -> float:
    """Return the largest magnitude in full scales; 16-bit samples are never beyond one."""
    return 1.0 if signal.dtype == np.int16 else float(np.abs(signal).max(initial=0.0))


def _fresh(path: Path, entry: str, recording: _Recording, samples: int) -> bool:
    """Say whether an earlier run wrote this audio from the same source."""
    if is_pipe(entry) or not path.exists():
        return False
    written, data = path.stat().st_mtime, recording.session.path
    origins = (entry, data / "wav.scp", data / "channel")
    if max(_changed(f) for f in origins if os.path.exists(f)) > written:
        return False
    try:
        return info(path) == AudioInfo(recording.source.rate, 1, samples)
    except UserError:
        return False


def _changed(path: Pathlike) -> float:
    """Return when a file got its content: an archive that is unpacked again gives it the time of long ago."""
    found = os.stat(path)
    return max(found.st_mtime, found.st_ctime)


def _check_any(out: Path, statistics: Statistics) -> None:
    if not statistics.segments:
        raise at(out, None, "there is no clip in which somebody speaks", "look at the segments of the data directory")


def _prepare(out: Path, names: Iterable[str], statistics: Statistics) -> None:
    """Write the statistics, and remove the maps of another run that this one does not make."""
    for old in out.iterdir():
        if old.is_file() and key_of(old.name) and old.name not in names:
            old.unlink()
    statistics.write(out / STATISTICS)
