"""A toy of LibriMix' dev: made-up audio for the first real rows of its CSV files, in the official layout."""

import csv
import itertools
import shutil
from pathlib import Path

import numpy as np
import soundfile

from espnet_mt_llm.corpora.librimix import Selection, prepare

RATE = 16000
ROWS = 4  # of each CSV
# Seconds of the noises: some are repeated once or several times, one joint reaches into the one before.
NOISES = (0.55, 0.8, 1.1, 4.0)


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def babble(seconds: float, rng: np.random.Generator, level: float) -> np.ndarray:
    """Noise with syllables, after some silence."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.convolve(rng.normal(0, 1, len(time)), np.exp(-np.arange(30) / 8), "same")
    begin = rng.uniform(0.1, 0.4)
    return np.clip(noise * (0.1 + np.abs(np.sin(2 * np.pi * 3 * time))) * (time > begin) * level, -1, 1)


class Toy:
    """Toy audio for the first real rows of each CSV of dev: LibriSpeech, WHAM! and metadata in the official layout."""

    def __init__(self, root: Path, real: Path):
        self.root, self.librispeech, self.wham = root, root / "LibriSpeech", root / "wham_noise"
        self.metadata = root / "LibriMix" / "metadata"
        self.rows: dict[tuple[int, str], list[dict]] = {}
        for talkers, condition, folder in ((2, "plain", "metadata/Libri2Mix"), (3, "plain", "metadata/Libri3Mix"),
                                           (3, "offset", "Libri3Mix_offset")):
            name = f"libri{talkers}mix_dev-clean.csv"
            rows = read_csv(real / "librimix" / folder / name)[:ROWS]
            write_csv(root / "LibriMix" / folder / name, rows)
            self.rows[talkers, condition] = rows
        self.rows[2, "offset"] = self.rows[2, "plain"]
        rng = np.random.default_rng(0)
        noises = itertools.cycle(NOISES)
        for row in itertools.chain.from_iterable(self.rows.values()):
            for path in self.sources(row):
                self.flac(path, babble(rng.uniform(0.9, 2.2), rng, rng.choice([0.02, 0.1, 0.4])))
                chapter = Path(path).parent
                name = f"{chapter.parent.name}-{chapter.name}.trans.txt"
                shutil.copy(real / "librispeech" / "LibriSpeech" / chapter / name, self.librispeech / chapter / name)
            path = self.wham / row["noise_path"]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                samples = np.stack([babble(seconds := next(noises), rng, 0.05), babble(seconds, rng, 0.05)], axis=1)
                soundfile.write(path, samples, RATE, subtype="PCM_24" if seconds == 1.1 else "PCM_16")

    @staticmethod
    def sources(row: dict) -> list[str]:
        return [row[f"source_{k}_path"] for k in (1, 2, 3) if f"source_{k}_path" in row]

    def flac(self, path: str, samples: np.ndarray) -> None:
        (self.librispeech / path).parent.mkdir(parents=True, exist_ok=True)
        if not (self.librispeech / path).exists():
            soundfile.write(self.librispeech / path, samples, RATE)

    def prepare(self, out: Path, **options) -> None:
        select = Selection(**{"parts": ["dev"], **options.pop("select", {})})
        prepare(self.librispeech, self.metadata, out, **{"wham": self.wham, "select": select, **options})

    def copy(self, root: Path) -> "Toy":
        shutil.copytree(self.root, root)
        toy = object.__new__(Toy)
        toy.__dict__ = {k: root / v.relative_to(self.root) if isinstance(v, Path) else v
                        for k, v in self.__dict__.items()}
        return toy
