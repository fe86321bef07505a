"""The configuration of a simulation: what `conf/simulate.yaml` may say about each set of mixtures or conversations."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Optional, Union

from espnet_mt_llm.common import Pathlike, at, from_mapping, is_number, is_whole, load_yaml, nearest

_RESERVED = ("defaults", "debug")

CONCATENATED, STATISTICS = "concatenated", "statistics"
# Keys of mixtures alone, and keys of conversations alone with what they are where nothing is said.
_OF_MIXTURES = ("overlap", "offsets", "max_duration")
_OF_CONVERSATIONS = {"duration": (50.0, 50.0), "gap": (0.1, 0.5), "statistics": None, "max_gap": 7.0}


@dataclass(frozen=True)
class SimulationConfig:
    """One set of mixtures, or of conversations.

    Attributes:
        source: the data directory whose utterances are mixed, e.g. ``train``; of several (a list) the speakers are
            pooled, and each one's name begins with that of the directory.
        same_source: true takes all speakers of a mixture from one of the directories, drawn by its number of speakers.
        num_mixtures: number of talkers -> number of mixtures (or conversations).
        alone: true takes only the utterances that nobody else of their recording talks over.
        rate: Hz of the mixtures; sources of another rate are resampled once.
        seed: other seeds give other mixtures; each mixture has its own, so more mixtures keep the first ones.
        write: true writes audio files; false streams from the manifest.
        write_sources: with ``write``: also each talker's signal (spk1.scp …) and the noise (noise1.scp).
        overlap: range of the share of the shorter of two neighbours (in onset order) in which both talk;
            negative: a pause of that share. Drawn for each neighbouring pair.
        offsets: instead of overlap: for each talker after the first, the range of its onset in seconds.
        min_onset_gap: least seconds between two onsets, so that their order is clear.
        tie: onsets closer than this count as simultaneous; their number is recorded in the manifest.
        level: RMS of each talker in dB below full scale before ``level_db``; null keeps the recording's own.
        level_db: range of the level difference in dB, drawn for each talker.
        max_duration: longest mixture in seconds; longer ones are drawn again.
        noise_scp, snr, noise_probability: noise recordings (a Kaldi map, beside the sources or a path), range of the
            SNR in dB ([5, 20] by default, [10, 20] for conversations), how often.
        rir_scp, rir_probability: impulse responses (a Kaldi map, too), one drawn for each talker, how often.
        conversation: null for mixtures; ``concatenated``: utterances of the speakers one after the other;
            ``statistics``: turns, pauses and overlaps as in real conversations.
        duration: the longest a conversation may get, seconds; it is filled with whole utterances. A range
            (``[3, 12]``) is drawn from for each, so that a model hears all lengths.
        gap: with ``concatenated``: range of the pauses between utterances, seconds.
        statistics: with ``statistics``: what to learn from, a data directory (beside ``source``, or a path) or an RTTM.
        max_gap: longer pauses and overlaps are not learned, seconds.
    """

    source: Union[str, tuple[str, ...]]
    num_mixtures: Mapping[int, int]
    alone: bool = False
    same_source: bool = False
    rate: int = 16000
    seed: int = 0
    write: bool = True
    write_sources: bool = True
    overlap: Optional[tuple[float, float]] = None
    offsets: Optional[tuple[tuple[float, float], ...]] = None
    min_onset_gap: float = 0.3
    tie: float = 0.05
    level: Optional[float] = -26.0
    level_db: tuple[float, float] = (-2.5, 2.5)
    max_duration: Optional[float] = None
    noise_scp: Optional[str] = None
    snr: Optional[tuple[float, float]] = None
    noise_probability: float = 1.0
    rir_scp: Optional[str] = None
    rir_probability: float = 1.0
    conversation: Optional[str] = None
    duration: Optional[tuple[float, float]] = None
    gap: Optional[tuple[float, float]] = None
    statistics: Optional[str] = None
    max_gap: Optional[float] = None

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: Pathlike) -> "SimulationConfig":
        """Build from parsed YAML and check every value.

        Raises:
            UserError: an unknown key, a missing one, or a value that makes no sense.
        """
        config = from_mapping(cls, values, where)
        counts = config.num_mixtures
        if not isinstance(counts, Mapping) or not counts or not all(
                is_whole(k) and is_whole(n) and k >= 1 and n >= 0 for k, n in counts.items()):
            raise at(where, None, f"num_mixtures: {counts!r}", "write e.g. num_mixtures: {1: 200, 2: 500}")
        changes: dict[str, Any] = {"source": _source(config.source, where)}
        if config.snr is None:
            changes["snr"] = (10.0, 20.0) if config.conversation else (5.0, 20.0)
        for key in ("level_db", "snr", "gap"):
            if getattr(config, key) is not None:
                changes[key] = _range(getattr(config, key), key, where)
        if config.duration is not None:
            changes["duration"] = _duration(config.duration, where)
        changes |= (_mixture if config.conversation is None else _conversation)(config, where)
        _check_scalars(config, where)
        return replace(config, **changes)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names of the source directories."""
        return (self.source,) if isinstance(self.source, str) else self.source


def _source(value: Any, where: Pathlike) -> Union[str, tuple[str, ...]]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, str) and n for n in names):
        raise at(where, None, f"source: {value!r}", "write e.g. source: train, or source: [train_near, aishell2_train]")
    if len({Path(n).name for n in names}) < len(names):
        raise at(where, None, f"source: {value!r} has a name twice",
                 "speakers are told apart by the directories' names")
    return value if isinstance(value, str) else tuple(names)


def _mixture(config: SimulationConfig, where: Pathlike) -> dict[str, Any]:
    """Check what is said about mixtures alone, and return the values to change."""
    for key in _OF_CONVERSATIONS:
        if getattr(config, key) is not None:
            raise at(where, None, f"'{key}' belongs to conversations, and this is a set of mixtures",
                     f"take it out, or add 'conversation: {CONCATENATED}' or 'conversation: {STATISTICS}'")
    if config.offsets is not None:
        if config.overlap is not None:
            raise at(where, None, "both 'overlap' and 'offsets' are given", "keep one of them")
        if not isinstance(config.offsets, (list, tuple)) or any(map(is_number, config.offsets)):
            raise at(where, None, f"offsets: {config.offsets!r}",
                     "a list of ranges is expected, one for each talker after the first, e.g. [[1.0, 1.5]]")
        if len(config.offsets) < max(config.num_mixtures) - 1:
            raise at(where, None, f"{len(config.offsets)} offsets for {max(config.num_mixtures)} talkers",
                     f"give {max(config.num_mixtures) - 1} ranges, one for each talker after the first")
        return {"offsets": tuple(_range(r, "offsets", where) for r in config.offsets)}
    overlap = (0.1, 0.7) if config.overlap is None else _range(config.overlap, "overlap", where)
    if overlap[1] > 1:
        raise at(where, None, f"overlap: {config.overlap}", "it is a share: at most 1")
    return {"overlap": overlap}


def _conversation(config: SimulationConfig, where: Pathlike) -> dict[str, Any]:
    """Check what is said about conversations alone, and return the values to change."""
    if config.conversation not in (CONCATENATED, STATISTICS):
        raise at(where, None, f"conversation: {config.conversation!r}",
                 nearest(str(config.conversation), (CONCATENATED, STATISTICS)))
    for key in _OF_MIXTURES:
        if getattr(config, key) is not None:
            raise at(where, None, f"'{key}' belongs to mixtures, and this is a set of conversations",
                     f"take it out; where it is one of the defaults, write '{key}: null' here")
    unused = ("statistics", "max_gap") if config.conversation == CONCATENATED else ("gap",)
    for key in unused:
        if getattr(config, key) is not None:
            raise at(where, None, f"'{key}' says nothing about a conversation that is '{config.conversation}'",
                     "take it out")
    if config.conversation == STATISTICS and not isinstance(config.statistics, str):
        raise at(where, None, "no 'statistics' to draw the conversation from",
                 "add 'statistics: …', a data directory or an RTTM of real conversations, e.g. train_far")
    if config.gap is not None and _range(config.gap, "gap", where)[0] < 0:
        raise at(where, None, f"gap: {config.gap}", "a pause is not negative; overlap comes with "
                                                    f"'conversation: {STATISTICS}'")
    return {key: default for key, default in _OF_CONVERSATIONS.items()
            if getattr(config, key) is None and key not in unused}


def _check_scalars(config: SimulationConfig, where: Pathlike) -> None:
    numbers = ("min_onset_gap", "tie", "noise_probability", "rir_probability")
    for key in numbers + ("level", "max_duration", "max_gap"):
        value = getattr(config, key)
        if value is None and key not in numbers:
            continue
        if not is_number(value) or not math.isfinite(value) or (key != "level" and value < 0):
            raise at(where, None, f"{key}: {value!r}",
                     "a number is expected" if key == "level" else "a number that is not negative is expected")
        if key.endswith("_probability") and value > 1:
            raise at(where, None, f"{key}: {value!r}", "it is a share: at most 1")
    for key in ("noise_scp", "rir_scp"):
        if not isinstance(getattr(config, key), (str, os.PathLike, type(None))):
            raise at(where, None, f"{key}: {getattr(config, key)!r}", "the name of a list of recordings is expected")
    for key in ("rate", "seed"):
        if not is_whole(getattr(config, key)):
            raise at(where, None, f"{key}: {getattr(config, key)!r}", "a whole number is expected")
    if config.rate <= 0:
        raise at(where, None, f"rate: {config.rate}", "a rate in Hz is expected, e.g. 16000")
    for key in ("alone", "same_source", "write", "write_sources"):
        if not isinstance(getattr(config, key), bool):
            raise at(where, None, f"{key}: {getattr(config, key)!r}", "true or false is expected")


def _duration(value: Any, where: Pathlike) -> tuple[float, float]:
    low, high = _range((value, value) if is_number(value) else value, "duration", where)
    if low <= 0:
        raise at(where, None, f"duration: {value!r}", "a conversation has some seconds, e.g. 50, or a range, [10, 50]")
    return low, high


def _range(value: Any, key: str, where: Pathlike) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high)):
        raise at(where, None, f"{key}: {value!r}", "a range is expected, e.g. [0.1, 0.7]")
    if low > high:
        raise at(where, None, f"{key}: {value!r}", "the lower end comes first")
    return low, high


def load_config(path: Pathlike, debug: bool = False) -> dict[str, SimulationConfig]:
    """Read `conf/simulate.yaml`: set name -> configuration.

    ``defaults:`` holds keys for every set, ``debug:`` holds, for each set, the keys to override when ``debug`` is true.

    Raises:
        UserError: the file is missing or says something that makes no sense; the set is named.
    """
    document = load_yaml(path)
    if not isinstance(document, Mapping):
        raise at(path, None, "expected '<set name>: {source: …, num_mixtures: …}'")
    defaults, overrides = ({} if document.get(k) is None else document[k] for k in _RESERVED)
    for key, value in (("defaults", defaults), ("debug", overrides)):
        if not isinstance(value, Mapping):
            raise at(path, None, f"'{key}' must hold 'key: value' lines, found {value!r}")
    sets = {name: values for name, values in document.items() if name not in _RESERVED}
    for name in overrides:
        if name not in sets:
            raise at(path, None, f"'debug' names the unknown set '{name}'", nearest(str(name), sets))
    configs = {}
    for name, values in sets.items():
        changes = overrides.get(name) or {}
        for part in (values, changes):
            if not isinstance(part, Mapping):
                raise at(path, None, f"set '{name}': expected 'key: value' lines, found {part!r}")
        merged = {**defaults, **values, **(changes if debug else {})}
        configs[str(name)] = SimulationConfig.parse(merged, f"{path}, set '{name}'")
    return configs
