"""Draw mixtures at random from the utterances of a data directory; every mixture has a seed of its own."""

import math
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, derive_seed, progress
from espnet_mt_llm.datadir.audio import duration
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance, make_utt_id, read_map
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.manifest import MANIFEST, Mixture, Noise, Source, render_command
from espnet_mt_llm.simulation.mixtures import FULL_SCALE, PEAK, SourceCache, layers, render_sum

_ATTEMPTS = 100


def draw_mixtures(source_dir: DataDir, config: SimulationConfig, name: str) -> Iterator[Mixture]:
    """Draw the mixtures of the set ``name``, fewest talkers first; the same arguments give the same mixtures.

    Speakers are drawn evenly and without repetition, then one utterance of each.

    Raises:
        UserError: too few speakers, or the sources are too long for ``max_duration``.
    """
    drawer = _Drawer(source_dir, config, name)
    for talkers in sorted(config.num_mixtures):
        for index in range(config.num_mixtures[talkers]):
            yield drawer.draw(talkers, index)


class _Drawer:
    """The utterances of a directory by speaker, and the levels that were measured so far."""

    def __init__(self, source_dir: DataDir, config: SimulationConfig, name: str):
        self.config = config
        self.name = name
        self.sources = source_dir
        self.cache = SourceCache()
        by_speaker: dict[str, list[Utterance]] = defaultdict(list)
        for utterance in source_dir.utterances:
            by_speaker[utterance.spk].append(utterance)
        self.by_speaker = [by_speaker[spk] for spk in sorted(by_speaker)]
        most = max(config.num_mixtures)
        if len(self.by_speaker) < most:
            raise at(source_dir.path, None,
                     f"{len(self.by_speaker)} speakers for mixtures of {most} talkers (set '{name}')",
                     "lower num_mixtures or give a source with more speakers")
        self.noises = _entries(config.noise_scp)
        self.noise_seconds = {wav: duration(wav) for wav in self.noises}
        self.rirs = _entries(config.rir_scp)
        self._levels: dict[tuple, tuple[float, float]] = {}

    def draw(self, talkers: int, index: int) -> Mixture:
        """Draw one mixture; it depends on nothing but the arguments, the configuration and the sources."""
        mixture_id = f"{self.name}-{talkers}spk-{index:06d}"
        seed = derive_seed(self.config.seed, mixture_id)
        chance = Chance(seed)
        for _ in range(_ATTEMPTS):
            sources = self._sources(chance, talkers)
            end = max(s.offset + s.end - s.start for s in sources)
            if self.config.max_duration is None or end <= self.config.max_duration:
                break
        else:
            raise UserError(f"set '{self.name}': no {talkers}-talker mixture within max_duration: "
                            f"{self.config.max_duration} s in {_ATTEMPTS} draws; raise it or use shorter sources")
        onsets = [s.offset for s in sources]
        mixture = Mixture(mixture_id, self.config.rate, self._length(sources), tuple(sources), None, seed, 1.0,
                          overlap_share([(s.offset, s.offset + s.end - s.start) for s in sources]),
                          sum(b - a < self.config.tie for a, b in zip(onsets, onsets[1:])))
        mixture = self._with_noise(mixture, chance)
        return self._with_scale(mixture)

    def _sources(self, chance: Chance, talkers: int) -> list[Source]:
        chosen = [chance.pick(of_speaker) for of_speaker in chance.sample(self.by_speaker, talkers)]
        onsets = draw_onsets(chance, [u.end - u.start for u in chosen], self.config)
        sources = []
        for utterance, onset in sorted(zip(chosen, onsets), key=lambda pair: pair[1]):
            reverberate = bool(self.rirs) and chance.uniform(0, 1) < self.config.rir_probability
            rir = chance.pick(self.rirs) if reverberate else None
            source = Source(utterance.utt, utterance.spk, utterance.text, self.sources.wav[utterance.rec],
                            utterance.start, utterance.end, onset, 1.0, rir, self.sources.channel(utterance.rec))
            sources.append(replace(source, gain=self._gain(source, chance)))
        return sources

    def _gain(self, source: Source, chance: Chance) -> float:
        difference = chance.uniform(*self.config.level_db)
        rms, _ = self._level(source)
        if self.config.level is None or rms == 0:
            return float(f"{10 ** (difference / 20):.6g}")
        return float(f"{10 ** ((self.config.level + difference) / 20) / rms:.6g}")

    def _level(self, source: Source) -> tuple[float, float]:
        """Return RMS and peak of the dry source, full scale = 1."""
        key = (source.wav, source.start, source.end, source.channel)
        if key not in self._levels:
            signal = self.cache.source(source, self.config.rate).astype(np.float32)
            rms = math.sqrt(float(np.mean(np.square(signal, dtype=np.float64)))) if len(signal) else 0.0
            peak = float(np.max(np.abs(signal), initial=0.0))
            self._levels[key] = (rms / FULL_SCALE, peak / FULL_SCALE)
        return self._levels[key]

    def _length(self, sources: Sequence[Source]) -> int:
        rate = self.config.rate
        return max(round(s.offset * rate) + s.num_samples(rate)
                   + (len(self.cache.impulse_response(s.rir, rate)) - 1 if s.rir else 0) for s in sources)

    def _with_noise(self, mixture: Mixture, chance: Chance) -> Mixture:
        if not self.noises or chance.uniform(0, 1) >= self.config.noise_probability:
            return mixture
        wav = chance.pick(self.noises)
        snr = round(chance.uniform(*self.config.snr), 2)
        room = self.noise_seconds[wav] - mixture.num_samples / mixture.rate - 0.02
        start = math.floor(100 * chance.uniform(0, room if room > 0 else self.noise_seconds[wav])) / 100
        speech = float(np.mean(np.square(render_sum(mixture, self.cache), dtype=np.float64)))
        stretch = self.cache.noise(wav, start, mixture.num_samples, mixture.rate)
        power = float(np.mean(np.square(stretch, dtype=np.float64))) / FULL_SCALE ** 2
        gain = math.sqrt(speech / power / 10 ** (snr / 10)) if power > 0 else 0.0
        return replace(mixture, noise=Noise(wav, start, float(f"{gain:.6g}"), snr))

    def _with_scale(self, mixture: Mixture) -> Mixture:
        if mixture.noise is None and not any(s.rir for s in mixture.sources):
            if sum(s.gain * self._level(s)[1] for s in mixture.sources) <= PEAK:
                return mixture  # even if all peaks met, nothing would clip: no need to render
        total = np.zeros(mixture.num_samples, dtype=np.float32)
        peak = 0.0
        for begin, signal in layers(mixture, self.cache):
            peak = max(peak, float(np.max(np.abs(signal), initial=0.0)))
            total[begin:begin + len(signal)] += signal
        peak = max(peak, float(np.max(np.abs(total), initial=0.0))) / FULL_SCALE
        return mixture if peak <= PEAK else replace(mixture, scale=math.floor(PEAK / peak * 1e6) / 1e6)


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
    events = sorted(event for start, end in spans for event in ((start, 1), (end, -1)))
    speech = overlapped = 0.0
    active, before = 0, 0.0
    for time, change in events:
        speech += (time - before) * (active > 0)
        overlapped += (time - before) * (active > 1)
        active, before = active + change, time
    return round(overlapped / speech, 4) if speech else 0.0


def write_set(mixtures: Iterable[Mixture], config: SimulationConfig, out: Pathlike) -> int:
    """Write the data directory of a set: the manifest and its views; return the number of mixtures.

    The audio of an earlier, different manifest is removed first, so that a later step cannot keep a stale file.
    """
    out = Path(out)
    by_id = {m.id: m for m in mixtures}
    table = {key: by_id[key].to_json() for key in sorted(by_id)}
    text = "".join(line + "\n" for line in table.values())
    manifest = out / MANIFEST
    if not manifest.exists() or manifest.read_text(encoding="utf-8") != text:
        shutil.rmtree(out / "audio", ignore_errors=True)
    for stale in out.glob("*.scp"):
        stale.unlink()
    data = DataDir(out, {m.id: wav_entry(m, config, out) for m in by_id.values()}, mixture_utterances(by_id.values()),
                   {m.id: m.num_samples / m.rate for m in by_id.values()},
                   {"utt2num_spk": {m.id: str(len(m.speakers)) for m in by_id.values()}, MANIFEST: table,
                    **_part_views(by_id.values(), config, out)})
    data.write(out)
    return len(by_id)


def mixture_utterances(mixtures: Iterable[Mixture]) -> list[Utterance]:
    """Return the utterances of mixtures: each source from its offset to the end of its dry stretch."""
    utterances = []
    for m in mixtures:
        for s in m.sources:
            start, end = s.offset, min(round(s.offset + s.end - s.start, 6), m.num_samples / m.rate)
            utterances.append(Utterance(make_utt_id(s.spk, m.id, start, end), m.id, s.spk, start, end, s.text))
    return utterances


def wav_entry(mixture: Mixture, config: SimulationConfig, out: Path) -> str:
    """Return the audio of a mixture as `wav.scp` says it: a file, or a pipe that renders it."""
    if config.write:
        return str(audio_path(out, "mix", mixture.id))
    return render_command(out / MANIFEST, mixture.id)


def audio_path(out: Path, part: str, mixture_id: str) -> Path:
    """Return where a part (``mix``, ``spk1`` …, ``noise1``) of a mixture is written."""
    return out / "audio" / part / f"{mixture_id}.flac"


def _part_views(mixtures: Iterable[Mixture], config: SimulationConfig, out: Path) -> dict[str, dict[str, str]]:
    views: dict[str, dict[str, str]] = defaultdict(dict)
    if config.write and config.write_sources:
        for m in mixtures:
            for k in range(1, len(m.speakers) + 1):
                views[f"spk{k}.scp"][m.id] = str(audio_path(out, f"spk{k}", m.id))
            if m.noise is not None:
                views["noise1.scp"][m.id] = str(audio_path(out, "noise1", m.id))
    return dict(views)


def draw_sets(configs: Mapping[str, SimulationConfig], data_dir: Pathlike,
              sets: Optional[Sequence[str]] = None) -> dict[str, int]:
    """Draw and write the sets (all by default) below ``data_dir``; return set -> number of mixtures.

    Raises:
        UserError: an unknown set, a source directory that is not there, or what :func:`draw_mixtures` raises.
    """
    numbers = {}
    for name in sets or configs:
        if name not in configs:
            raise UserError(f"no set '{name}' in the configuration; it has: {', '.join(configs)}")
        config = configs[name]
        out = Path(data_dir) / name
        if (out / "wav.scp").exists() and not (out / MANIFEST).exists():
            raise at(out, None, "is a data directory that was not simulated; it is not overwritten",
                     "give the set another name in the configuration")
        source_dir = DataDir.read(Path(data_dir) / config.source)
        drawn = progress(draw_mixtures(source_dir, config, name), f"drawing {name}", sum(config.num_mixtures.values()))
        numbers[name] = write_set(drawn, config, out)
    return numbers


def _entries(scp: Optional[str]) -> list[str]:
    return [entry for _, entry in sorted(read_map(scp).items())] if scp else []
