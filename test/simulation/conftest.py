"""Sources for simulations: four speakers with three recordings each, noises and impulse responses."""

from pathlib import Path

import numpy as np
import pytest

from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance, make_utt_id
from espnet_mt_llm.datadir.maps import write_map

RATE = 16000


def make_sources(path: Path, speakers: int = 4, recordings: int = 3, level: float = 0.1) -> DataDir:
    """Write a data directory of noise bursts, each with a second of silence before it and some after it."""
    rng = np.random.default_rng(0)
    wav, utterances, reco2dur = {}, [], {}
    for s in range(speakers):
        for r in range(recordings):
            rec, length = f"rec{s}{r}", 0.5 + 0.21 * r + 0.1 * s
            end = round(1 + length, 6)
            samples = np.zeros(round((length + 1.5) * RATE), dtype=np.float32)
            burst = rng.standard_normal(round(length * RATE)).astype(np.float32) * level
            samples[RATE:RATE + len(burst)] = np.clip(burst, -1, 0.999)
            write_audio(path / "audio" / f"{rec}.flac", samples, RATE)
            wav[rec], reco2dur[rec] = str(path / "audio" / f"{rec}.flac"), len(samples) / RATE
            utterances.append(Utterance(make_utt_id(f"S{s}", rec, 1, end), rec, f"S{s}", 1.0, end, f"words of {s} {r}"))
    return DataDir(path, wav, utterances, reco2dur).write(path)


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> DataDir:
    """A directory of sources that no test changes."""
    return make_sources(tmp_path_factory.mktemp("sources") / "train")


@pytest.fixture(scope="session")
def noise_scp(tmp_path_factory) -> str:
    """A short and a long noise."""
    path = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(1)
    for name, seconds in (("short", 0.3), ("long", 70)):
        write_audio(path / f"{name}.wav", (rng.standard_normal(round(seconds * RATE)) * 0.05).astype(np.float32), RATE)
    write_map(path / "noise.scp", {name: str(path / f"{name}.wav") for name in ("short", "long")})
    return str(path / "noise.scp")


@pytest.fixture(scope="session")
def rir_scp(tmp_path_factory) -> str:
    """An impulse response with 100 samples before the direct sound and an exponential tail, and one at 8 kHz."""
    path = tmp_path_factory.mktemp("rir")
    rng = np.random.default_rng(2)
    for name, rate in (("room", RATE), ("narrow", RATE // 2)):
        tail = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 400) * 0.2
        response = np.concatenate([np.zeros(100), [0.9], tail]).astype(np.float32)
        write_audio(path / f"{name}.wav", np.clip(response, -1, 0.999), rate)
    write_map(path / "rir.scp", {name: str(path / f"{name}.wav") for name in ("room", "narrow")})
    return str(path / "rir.scp")
