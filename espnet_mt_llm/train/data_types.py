"""The kinds of training data that ESPnet's dataset does not know: any Kaldi audio entry, and mixtures by manifest."""

from collections.abc import Iterator, Mapping

import numpy as np

from espnet_mt_llm.common import Pathlike
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.kaldi import read_map


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


def register() -> None:
    """Teach ESPnet's dataset the types ``audio`` (``wav.scp``) and ``mixture`` (``mixtures.jsonl``)."""
    from espnet2.train.dataset import DATA_TYPES

    from espnet_mt_llm.simulation.mixtures import MixtureReader

    DATA_TYPES["audio"] = {"func": AudioReader, "kwargs": [], "help": "wav.scp: id to path or pipe"}
    DATA_TYPES["mixture"] = {"func": MixtureReader, "kwargs": [], "help": "mixtures.jsonl: rendered when read"}
