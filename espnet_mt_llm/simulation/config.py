"""The configuration of a simulation: what `conf/simulate.yaml` may say about each set of mixtures."""

from dataclasses import dataclass, replace
from typing import Any, Mapping, Optional

from espnet_mt_llm.common import Pathlike, at, from_mapping, load_yaml, nearest

_RESERVED = ("defaults", "debug")


@dataclass(frozen=True)
class SimulationConfig:
    """One set of mixtures.

    Attributes:
        source: the data directory whose utterances are mixed, e.g. ``train``.
        num_mixtures: number of talkers -> number of mixtures.
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
        noise_scp, snr, noise_probability: noise recordings (a Kaldi map), range of the SNR in dB, how often.
        rir_scp, rir_probability: impulse responses (a Kaldi map), one drawn for each talker, how often.
    """

    source: str
    num_mixtures: Mapping[int, int]
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
    snr: tuple[float, float] = (5.0, 20.0)
    noise_probability: float = 1.0
    rir_scp: Optional[str] = None
    rir_probability: float = 1.0

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: Pathlike) -> "SimulationConfig":
        """Build from parsed YAML and check every value.

        Raises:
            UserError: an unknown key, a missing one, or a value that makes no sense.
        """
        config = from_mapping(cls, values, where)
        counts = config.num_mixtures
        if not isinstance(counts, Mapping) or not counts or not all(
                isinstance(k, int) and isinstance(n, int) and k >= 1 and n >= 0 for k, n in counts.items()):
            raise at(where, None, f"num_mixtures: {counts!r}", "write e.g. num_mixtures: {1: 200, 2: 500}")
        changes: dict[str, Any] = {}
        for key in ("overlap", "level_db", "snr"):
            if getattr(config, key) is not None:
                changes[key] = _range(getattr(config, key), key, where)
        if config.offsets is not None:
            if config.overlap is not None:
                raise at(where, None, "both 'overlap' and 'offsets' are given", "keep one of them")
            changes["offsets"] = tuple(_range(r, "offsets", where) for r in config.offsets)
            if len(config.offsets) < max(counts) - 1:
                raise at(where, None, f"{len(config.offsets)} offsets for {max(counts)} talkers",
                         f"give {max(counts) - 1} ranges, one for each talker after the first")
        elif config.overlap is None:
            changes["overlap"] = (0.1, 0.7)
        if changes.get("overlap", (0, 0))[1] > 1:
            raise at(where, None, f"overlap: {config.overlap}", "it is a share: at most 1")
        _check_scalars(config, where)
        return replace(config, **changes)


def _check_scalars(config: SimulationConfig, where: Pathlike) -> None:
    numbers = ("min_onset_gap", "tie", "noise_probability", "rir_probability")
    for key in numbers + ("level", "max_duration"):
        value = getattr(config, key)
        if value is None and key not in numbers:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (key != "level" and value < 0):
            raise at(where, None, f"{key}: {value!r}", "a number that is not negative is expected")
    for key in ("rate", "seed"):
        if isinstance(getattr(config, key), bool) or not isinstance(getattr(config, key), int):
            raise at(where, None, f"{key}: {getattr(config, key)!r}", "a whole number is expected")
    if config.rate <= 0:
        raise at(where, None, f"rate: {config.rate}", "a rate in Hz is expected, e.g. 16000")
    for key in ("write", "write_sources"):
        if not isinstance(getattr(config, key), bool):
            raise at(where, None, f"{key}: {getattr(config, key)!r}", "true or false is expected")


def _range(value: Any, key: str, where: Pathlike) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise at(where, None, f"{key}: {value!r}", "a range is expected, e.g. [0.1, 0.7]") from None
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
