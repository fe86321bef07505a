"""The readers of training data: mixtures and their parts."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from toy_mixtures import make_clips

from espnet_mt_llm.simulation.manifest import Manifest
from espnet_mt_llm.simulation.mixtures import MixtureReader, SourceCache, render
from espnet_mt_llm.train.data_types import PartReader, register


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("parts") / "dump", (2, 1, 3))


def test_parts_add_up_to_the_mixture_in_the_order_of_the_ids(clips: Path) -> None:
    parts, mixtures = PartReader(clips / "mixtures.jsonl"), MixtureReader(clips / "mixtures.jsonl")
    manifest = Manifest(clips / "mixtures.jsonl")
    assert list(parts) == ["c0", "c1", "c2"] and len(parts) == 3
    for clip in parts:
        rate, signals = parts[clip]
        assert rate == 16000 and signals.dtype == np.float32 and signals.shape[1] == len(manifest[clip].speakers)
        assert np.array_equal(signals.sum(1), mixtures[clip][1])
        rendered = dict(zip(manifest[clip].speakers, render(manifest[clip], SourceCache()).sources))
        for k, speaker in enumerate(sorted(rendered)):
            assert np.array_equal(signals[:, k], rendered[speaker])
    assert manifest["c2"].speakers == ["S3", "S2", "S1"]  # the other way round in time


def test_parts_go_to_loader_processes(clips: Path) -> None:
    parts = PartReader(clips / "mixtures.jsonl")
    again = pickle.loads(pickle.dumps(parts))
    assert np.array_equal(again["c2"][1], parts["c2"][1])


def test_the_dataset_of_espnet_knows_them(clips: Path) -> None:
    from espnet2.train.dataset import ESPnetDataset

    register()
    dataset = ESPnetDataset([(str(clips / "mixtures.jsonl"), "speech", "mixture"),
                             (str(clips / "mixtures.jsonl"), "sources", "parts"),
                             (str(clips / "wav.scp"), "recorded", "audio")],
                            preprocess=lambda uid, data: {name: value[1] for name, value in data.items()})
    _, data = dataset["c0"]
    assert np.array_equal(data["speech"], data["sources"].sum(1)) and np.array_equal(data["speech"], data["recorded"])
