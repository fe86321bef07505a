"""Draw mixtures and conversations at random from the utterances of data directories; each has a seed of its own."""

import json
import logging
import math
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, atomic_open, derive_seed, progress
from espnet_mt_llm.datadir.audio import duration
from espnet_mt_llm.datadir.enrolment import write_source_dirs
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.datadir.problems import Problems
from espnet_mt_llm.simulation.config import STATISTICS, SimulationConfig
from espnet_mt_llm.simulation.conversations import TICK, FittedSteps, Pool, Turn, concatenated_steps, converse
from espnet_mt_llm.simulation.manifest import MANIFEST, Mixture, Noise, Source
from espnet_mt_llm.simulation.mixtures import FULL_SCALE, PEAK, SourceCache, Unreadable, layers
from espnet_mt_llm.simulation.sets import write_set
from espnet_mt_llm.simulation.sources import Sources, check_sources, read_sources
from espnet_mt_llm.simulation.turn_statistics import TurnStatistics, activity, read_conversations, read_statistics

log = logging.getLogger(__name__)

REPORT = "conversation_report.json"
_ATTEMPTS = 100
_CHUNK = 16  # mixtures that a process draws at a time
_CACHE_BYTES = 512 << 20  # of decoded sources, in all processes together
_MEASURED = 100_000  # sources whose levels are remembered
# What a recipe calls a list -> how stage 1 comes to make it.
_LISTS = {
    "noise.scp": "set NOISE= in db.sh to a folder of noise and run stage 1 again",
    "rir.scp": "set RIRS= in db.sh to a folder of impulse responses and run stage 1 again",
    "noise/noise.scp": "unpack noise.tar.gz of OpenSLR 159 beside AISHELL-5's other archives and run stage 1 again",
}


def draw_mixtures(sources: Sources, config: SimulationConfig, name: str,
                  statistics: Optional[TurnStatistics] = None, nj: int = 1,
                  unreadable: Optional[dict[str, str]] = None) -> Iterator[Mixture]:
    """Draw the mixtures of the set ``name``, fewest talkers first; the same arguments give the same mixtures.

    Speakers are drawn evenly and without repetition (with ``same_source``: of one directory, which is drawn by how many
    it has), then one utterance of each; or, for a conversation, as many as its duration holds.

    Args:
        statistics: what conversations are drawn from where the configuration says so.
        nj: how many processes draw; the mixtures are the same.
        unreadable: takes the recordings that could not be read, and why; a mixture that met one is drawn again.

    Raises:
        UserError: too few speakers, the sources are too long for ``max_duration`` or ``duration``, or hardly one of
            them can be read.
    """
    unreadable = {} if unreadable is None else unreadable
    drawer = _Drawer(sources, config, name, statistics, _CACHE_BYTES // max(nj, 1))
    wanted = [(talkers, index) for talkers in sorted(config.num_mixtures)
              for index in range(config.num_mixtures[talkers])]
    if nj <= 1 or len(wanted) <= _CHUNK:
        for talkers, index in wanted:
            yield drawer.draw(talkers, index)
            unreadable.update(drawer.unreadable)
        return
    chunks = [wanted[k:k + _CHUNK] for k in range(0, len(wanted), _CHUNK)]
    # Forked, so that the sources are handed over without a copy.
    with ProcessPoolExecutor(nj, get_context("fork"), initializer=_keep, initargs=(drawer,)) as pool:
        for chunk, found in pool.map(_draw_chunk, chunks):
            unreadable.update(found)
            yield from chunk


_kept: "Optional[_Drawer]" = None  # of a process that draws


def _keep(drawer: "_Drawer") -> None:
    global _kept
    _kept = drawer


def _draw_chunk(wanted: Sequence[tuple[int, int]]) -> tuple[list[Mixture], dict[str, str]]:
    assert _kept is not None
    return [_kept.draw(talkers, index) for talkers, index in wanted], _kept.unreadable


class _Drawer:
    """The sources, and the levels that were measured so far."""

    def __init__(self, sources: Sources, config: SimulationConfig, name: str, statistics: Optional[TurnStatistics],
                 cache_bytes: int):
        self.config = config
        self.name = name
        self.sources = sources
        self.cache = SourceCache(cache_bytes)
        # The speakers that may meet in a mixture.
        self.groups: list[Sequence[int]] = [range(len(sources.names))]
        if config.same_source:
            self.groups = [[k for k, source in enumerate(sources.source_of) if source == number]
                           for number in sorted(set(sources.source_of))]
        most = max((talkers for talkers, number in config.num_mixtures.items() if number), default=0)
        if (there := max(map(len, self.groups), default=0)) < most:
            raise at(sources.path, None, f"{there} speakers for mixtures of {most} talkers (set '{name}'"
                     f"{', same_source' if config.same_source else ''})",
                     "lower num_mixtures or give a source with more speakers")
        self.noises = _entries(config.noise_scp)
        self.noise_seconds = {wav: duration(wav) for wav in self.noises}
        self.rirs = _entries(config.rir_scp)
        self.unreadable: dict[str, str] = {}
        self._levels: dict[tuple, tuple[float, float]] = {}
        self._fitted = FittedSteps(statistics) if statistics is not None else None

    def draw(self, talkers: int, index: int) -> Mixture:
        """Draw one mixture; it depends on nothing but the arguments, the configuration and the sources."""
        mixture_id = f"{self.name}-{talkers}spk-{index:06d}"
        for attempt in range(_ATTEMPTS):
            try:
                return self._draw(talkers, mixture_id, derive_seed(self.config.seed, mixture_id,
                                                                   *([attempt] if attempt else [])))
            except Unreadable as e:
                self.unreadable[e.wav] = str(e)
        raise UserError(f"{mixture_id}: in {_ATTEMPTS} draws a recording could not be read each time; the last one is "
                        f"{list(self.unreadable.values())[-1]}")

    def _draw(self, talkers: int, mixture_id: str, seed: int) -> Mixture:
        chance = Chance(seed)
        sources = self._conversation(chance, talkers) if self.config.conversation else self._sources(chance, talkers)
        onsets = [s.offset for s in sources]
        mixture = Mixture(mixture_id, self.config.rate, self._length(sources), tuple(sources), None, seed, 1.0,
                          overlap_share([(s.offset, s.offset + s.end - s.start) for s in sources]),
                          sum(b - a < self.config.tie for a, b in zip(onsets, onsets[1:])))
        return self._with_noise(mixture, chance)

    def _sources(self, chance: Chance, talkers: int) -> list[Source]:
        for _ in range(_ATTEMPTS):
            sources = self._mixed(chance, talkers)
            end = max(s.offset + s.end - s.start for s in sources)
            if self.config.max_duration is None or end <= self.config.max_duration:
                return sources
        raise UserError(f"set '{self.name}': no {talkers}-talker mixture within max_duration: "
                        f"{self.config.max_duration} s in {_ATTEMPTS} draws; raise it or use shorter sources")

    def _mixed(self, chance: Chance, talkers: int) -> list[Source]:
        chosen = [(speaker, chance.pick(self.sources.of_speaker[speaker]))
                  for speaker in self._speakers(chance, talkers)]
        onsets = draw_onsets(chance, [self.sources.length(index) for _, index in chosen], self.config)
        sources = []
        for (speaker, index), onset in sorted(zip(chosen, onsets), key=lambda pair: pair[1]):
            source = self.sources.source(speaker, index, onset, self._rir(chance))
            sources.append(replace(source, gain=self._gain([source], chance)))
        return sources

    def _conversation(self, chance: Chance, talkers: int) -> list[Source]:
        """Draw the turns of a conversation; a speaker keeps his room and his level in all of them."""
        speakers, turns = self._turns(chance, talkers)
        rirs = [self._rir(chance) for _ in speakers]
        sources = [self.sources.source(speakers[turn.speaker], turn.utterance, turn.onset, rirs[turn.speaker])
                   for turn in turns]
        gains = [self._gain([source for turn, source in zip(turns, sources) if turn.speaker == k], chance)
                 for k in range(len(speakers))]
        return [replace(source, gain=gains[turn.speaker]) for turn, source in zip(turns, sources)]

    def _speakers(self, chance: Chance, talkers: int) -> list[int]:
        """Draw the speakers of a mixture."""
        groups = [group for group in self.groups if len(group) >= talkers]
        # A group is drawn by one of its speakers, so that larger ones are drawn more often.
        group = groups[0] if len(groups) == 1 else chance.pick([group for group in groups for _ in group])
        return chance.sample(group, talkers)

    def _turns(self, chance: Chance, talkers: int) -> tuple[list[int], list[Turn]]:
        """Draw the speakers of a conversation and their turns."""
        config = self.config
        for _ in range(_ATTEMPTS):
            speakers = self._speakers(chance, talkers)
            pools = [Pool(self.sources.seconds(k), self.sources.of_speaker[k].start) for k in speakers]
            low, high = config.duration
            longest = chance.uniform(low, high) if low < high else high
            if sum(pool.shortest + TICK for pool in pools) <= longest:
                steps = self._fitted(chance, talkers) if self._fitted else \
                    concatenated_steps(chance, talkers, config.gap)
                return speakers, converse(chance, pools, steps, longest)
        raise UserError(f"set '{self.name}': in {_ATTEMPTS} draws of {talkers} speakers, one utterance of each was "
                        f"never within duration: {config.duration[1]} s; raise it or use shorter sources")

    def _rir(self, chance: Chance) -> Optional[str]:
        reverberate = bool(self.rirs) and chance.uniform(0, 1) < self.config.rir_probability
        return chance.pick(self.rirs) if reverberate else None

    def _gain(self, sources: Sequence[Source], chance: Chance) -> float:
        """Draw the gain of a speaker, whose sources keep their levels relative to each other."""
        difference = chance.uniform(*self.config.level_db)
        if self.config.level is None:
            return float(f"{10 ** (difference / 20):.6g}")
        lengths = [source.num_samples(self.config.rate) for source in sources]
        energy = sum(n * self._level(source)[0] ** 2 for n, source in zip(lengths, sources))
        rms = self._level(sources[0])[0] if len(sources) == 1 else math.sqrt(energy / (sum(lengths) or 1))
        if rms == 0:
            return float(f"{10 ** (difference / 20):.6g}")
        return float(f"{10 ** ((self.config.level + difference) / 20) / rms:.6g}")

    def _level(self, source: Source) -> tuple[float, float]:
        """Return RMS and peak of the dry source, full scale = 1."""
        key = (source.wav, source.start, source.end, source.channel)
        if key not in self._levels:
            if len(self._levels) >= _MEASURED:
                self._levels.clear()
            signal = self.cache.source(source, self.config.rate).astype(np.float32)
            rms = math.sqrt(float(np.mean(np.square(signal, dtype=np.float64)))) if len(signal) else 0.0
            peak = float(np.max(np.abs(signal), initial=0.0))
            self._levels[key] = (rms / FULL_SCALE, peak / FULL_SCALE)
        return self._levels[key]

    def _length(self, sources: Sequence[Source]) -> int:
        rate = self.config.rate
        length = max(round(s.offset * rate) + s.num_samples(rate)
                     + (len(self.cache.impulse_response(s.rir, rate)) - 1 if s.rir else 0) for s in sources)
        # The reverberation of the last words may end with the conversation.
        return length if self.config.duration is None else min(length, round(self.config.duration[1] * rate))

    def _with_noise(self, mixture: Mixture, chance: Chance) -> Mixture:
        """Add the noise that is drawn and the scale that is needed; the mixture is rendered once for both."""
        noisy = bool(self.noises) and chance.uniform(0, 1) < self.config.noise_probability
        if not noisy and self._cannot_clip(mixture):
            return mixture
        speech, peak = self._rendered(mixture)
        total = speech
        if noisy:
            wav = chance.pick(self.noises)
            snr = round(chance.uniform(*self.config.snr), 2)
            room = self.noise_seconds[wav] - mixture.num_samples / mixture.rate - 0.02
            start = math.floor(100 * chance.uniform(0, room if room > 0 else self.noise_seconds[wav])) / 100
            power = float(np.mean(np.square(speech * np.float32(1 / FULL_SCALE), dtype=np.float64)))
            stretch = self.cache.noise(wav, start, mixture.num_samples, mixture.rate)
            noise_power = float(np.mean(np.square(stretch, dtype=np.float64))) / FULL_SCALE ** 2
            gain = math.sqrt(power / noise_power / 10 ** (snr / 10)) if noise_power > 0 else 0.0
            mixture = replace(mixture, noise=Noise(wav, start, float(f"{gain:.6g}"), snr))
            _, noise = next(layers(replace(mixture, sources=()), self.cache))
            peak, total = max(peak, _peak(noise)), speech + noise
        peak = max(peak, _peak(total)) / FULL_SCALE
        return mixture if peak <= PEAK else replace(mixture, scale=math.floor(PEAK / peak * 1e6) / 1e6)

    def _cannot_clip(self, mixture: Mixture) -> bool:
        """Say whether nothing would clip even if the peaks of all speakers met, so that there is no need to render."""
        if any(s.rir for s in mixture.sources):
            return False
        peaks: dict[str, float] = defaultdict(float)
        for s in mixture.sources:
            peaks[s.spk] = max(peaks[s.spk], s.gain * self._level(s)[1])
        return sum(peaks.values()) <= PEAK

    def _rendered(self, mixture: Mixture) -> tuple[np.ndarray, float]:
        """Return the sum of all sources on the 16-bit scale, and the highest peak of a single speaker."""
        total = np.zeros(mixture.num_samples, dtype=np.float32)
        alone = {spk: np.zeros(mixture.num_samples, dtype=np.float32) for spk in mixture.speakers}
        for source, (begin, signal) in zip(mixture.sources, layers(mixture, self.cache)):
            total[begin:begin + len(signal)] += signal
            alone[source.spk][begin:begin + len(signal)] += signal
        return total, max(_peak(signal) for signal in alone.values())


def _peak(signal: np.ndarray) -> float:
    return float(np.max(np.abs(signal), initial=0.0))


def draw_onsets(chance: Chance, durations: Sequence[float], config: SimulationConfig) -> list[float]:
    """Draw the onsets of talkers, in seconds, whole centiseconds, the first at 0.

    With ``overlap`` each talker enters while the one before still speaks, by a share of the shorter of the two, so the
    ends are in the order of the onsets, too; a third talker may overlap both. ``min_onset_gap`` wins over ``overlap``.
    """
    onsets = [0.0]
    for k in range(1, len(durations)):
        if config.offsets is not None:
            onset = chance.uniform(*config.offsets[k - 1])
        else:
            share = chance.uniform(*(config.overlap or (0.0, 0.0)))
            before = durations[k - 1]
            onset = max(onsets[-1] + before - share * min(before, durations[k]), onsets[-1] + config.min_onset_gap)
        onsets.append(math.ceil(onset * 100 - 1e-6) / 100)
    return onsets


def overlap_share(spans: Iterable[tuple[float, float]]) -> float:
    """Return the share of the time with speech in which two or more talk.

    >>> overlap_share([(0.0, 2.0), (1.0, 3.0)])
    0.3333
    """
    _, speech, overlapped = activity(spans)
    return round(overlapped / speech, 4) if speech else 0.0


def draw_sets(configs: Mapping[str, SimulationConfig], data_dir: Pathlike,
              sets: Optional[Sequence[str]] = None, nj: int = 1, allow_problems: bool = False) -> dict[str, int]:
    """Draw and write the sets (all by default) below ``data_dir``; return set -> number of mixtures.

    The data directory of conversations has a report besides (:func:`write_report`). ``nj`` processes draw. Of all sets
    those are left out, with a warning, whose sources are not there: corpora may be there in part. Recordings that
    cannot be read are in no mixture; they are listed in ``problems.tsv``.

    Raises:
        UserError: an unknown set, no sources for it or for any, what :func:`draw_mixtures` raises, or recordings that
            cannot be read and are not allowed.
    """
    numbers = {}
    problems = Problems(data_dir)
    why = ""
    for name in sets or configs:
        if name not in configs:
            raise UserError(f"no set '{name}' in the configuration; it has: {', '.join(configs)}")
        config = configs[name]
        out = Path(data_dir) / name
        if (out / "wav.scp").exists() and not (out / MANIFEST).exists():
            raise at(out, None, "is a data directory that was not simulated; it is not overwritten",
                     "give the set another name in the configuration")
        if not sets and (why := _absent(config, data_dir)):
            log.warning("%s is not drawn: %s", name, why)
            continue
        statistics = _statistics(config, data_dir) if config.conversation == STATISTICS else None
        sources = read_sources(data_dir, config.sources, config.alone)
        beside = replace(config, noise_scp=_list("noise_scp", config.noise_scp, data_dir),
                         rir_scp=_list("rir_scp", config.rir_scp, data_dir))
        unreadable: dict[str, str] = {}
        drawn = draw_mixtures(sources, beside, name, statistics, nj, unreadable)
        # For enrolment, which is from the same data dirs.
        write_source_dirs(out, config.sources)
        numbers[name] = write_set(progress(drawn, f"drawing {name}", sum(config.num_mixtures.values())), config, out)
        if config.conversation:
            write_report(config, statistics, out)
        problems.count(name, sources.num_recordings)
        for wav, problem in sorted(unreadable.items()):
            problems.add(name, wav, problem)
    problems.finish(allow_problems)
    if configs and not numbers:
        raise UserError(f"{why}, or go on without simulation: ./run.sh --simulate_config none")
    return numbers


def _absent(config: SimulationConfig, data_dir: Pathlike) -> str:
    """Say which source of a set is not there, if so."""
    try:
        check_sources(data_dir, config.sources)
        if config.conversation == STATISTICS and not _statistics_path(config, data_dir).exists():
            raise at(Path(data_dir) / str(config.statistics), None, "no such data directory",
                     "stage 1 makes it, where db.sh says where the corpus is")
    except UserError as e:
        return str(e)
    return ""


def _list(key: str, scp: Optional[str], data_dir: Pathlike) -> Optional[str]:
    """Return where a list of recordings is: beside the sources, or the path as it stands.

    Raises:
        UserError: neither.
    """
    if scp is None:
        return None
    beside = Path(data_dir) / scp
    path = beside if beside.exists() else Path(scp)
    if not path.exists():
        stage = f"{_LISTS[scp]}, or " if scp in _LISTS else ""
        raise at(beside, None, "no such list of recordings",
                 f"{stage}make it: python -m espnet_mt_llm.bin.list_audio --root <folder> --out {beside}   , or take "
                 f"{key} out of the configuration of the simulation")
    return str(path)


def _statistics(config: SimulationConfig, data_dir: Pathlike) -> TurnStatistics:
    path = _statistics_path(config, data_dir)
    statistics = read_statistics(path).limited(config.max_gap)
    if not any((statistics.same_pause, statistics.other_pause, statistics.takeover, statistics.within)):
        raise at(path, None, f"no pauses and no overlaps of at most {config.max_gap:g} s to learn from",
                 "give conversations in which one utterance follows another")
    return statistics


def _statistics_path(config: SimulationConfig, data_dir: Pathlike) -> Path:
    """Return where the conversations are that turns are learnt from: beside the sources, or the path as it stands."""
    beside = Path(data_dir) / str(config.statistics)
    return beside if beside.exists() else Path(str(config.statistics))


def write_report(config: SimulationConfig, statistics: Optional[TurnStatistics], out: Pathlike) -> dict:
    """Write and return what the conversations of a set should be like (``target``) and are like (``achieved``).

    Statistics are of conversations of several people: those of one alone do not count in what is achieved, as long as
    there are others.
    """
    if statistics is not None:
        target = statistics.summary()
        target["speech_per_conversation"] = round(target["speech_share"] * sum(config.duration) / 2, 4)
    else:
        total = sum(config.num_mixtures.values()) or 1
        mean = round(sum(config.gap) / 2, 4)
        target = {"overlap_share": 0.0, "overlap_at_change": 0.0, "other_pause_mean": mean, "other_pause_median": mean,
                  "same_pause_mean": mean, "same_pause_median": mean,
                  "same_speaker": round(sum(n / k for k, n in config.num_mixtures.items()) / total, 4)}
    everything = achieved = TurnStatistics.of(read_conversations(out))
    if statistics is not None and any(n for talkers, n in config.num_mixtures.items() if talkers > 1):
        achieved = TurnStatistics.of(c for c in read_conversations(out) if len({speaker for speaker, _, _ in c}) > 1)
    report = {"conversations": everything.conversations, "turns": everything.turns,
              "hours": round(everything.seconds / 3600, 4), "target": target, "achieved": achieved.summary()}
    with atomic_open(Path(out) / REPORT) as f:
        f.write(json.dumps(report, indent=2) + "\n")
    return report


def _entries(scp: Optional[str]) -> list[str]:
    return [entry for _, entry in sorted(read_map(scp).items())] if scp else []
