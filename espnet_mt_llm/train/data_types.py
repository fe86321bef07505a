"""The kinds of training data that ESPnet's dataset does not know: any Kaldi audio entry, mixtures, and their parts."""

from collections.abc import Iterator, Mapping

import numpy as np

from espnet_mt_llm.common import Pathlike
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.maps import read_map


class AudioReader(Mapping):
    """``wav.scp`` as a mapping of id to (rate, samples ``(N,)``); entries may be paths or Kaldi pipes."""

    def __init__(self, path: Pathlike) -> None:
        self._entries = read_map(path)

    def __getitem__(self, key: str) -> tuple[int, np.ndarray]:
        samples, rate = read_audio(self._entries[key])
        return rate, samples

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class PartReader(Mapping):
    """``mixtures.jsonl`` as a mapping of id to (rate, clean signals ``(N, S)``), one a speaker, sorted by their ids."""

    def __init__(self, path: Pathlike) -> None:
        from espnet_mt_llm.simulation.mixtures import MixtureReader

        self._mixtures = MixtureReader(path)

    def __getitem__(self, key: str) -> tuple[int, np.ndarray]:
        from espnet_mt_llm.simulation.mixtures import render

        mixture = self._mixtures.manifest[key]
        parts = render(mixture, self._mixtures.cache).sources
        order = sorted(range(len(parts)), key=mixture.speakers.__getitem__)
        return mixture.rate, np.stack([parts[k] for k in order], axis=1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._mixtures)

    def __len__(self) -> int:
        return len(self._mixtures)


def register() -> None:
    """Teach ESPnet's dataset ``audio`` (``wav.scp``), ``mixture`` and ``parts`` (both ``mixtures.jsonl``)."""
    from espnet2.train.dataset import DATA_TYPES

    from espnet_mt_llm.simulation.mixtures import MixtureReader

    DATA_TYPES["audio"] = {"func": AudioReader, "kwargs": [], "help": "wav.scp: id to path or pipe"}
    DATA_TYPES["mixture"] = {"func": MixtureReader, "kwargs": [], "help": "mixtures.jsonl: rendered when read"}
    DATA_TYPES["parts"] = {"func": PartReader, "kwargs": [], "help": "mixtures.jsonl: the speakers' clean signals"}
