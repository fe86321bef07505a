"""Dump dirs whose pool has humming voices of different pitch, one stretch a recording."""

import json
from pathlib import Path
from typing import Sequence

import numpy as np

from espnet_mt_llm.datadir.audio import write_audio

RATE = 16000


def hum(pitch: float, seconds: float, seed: int) -> np.ndarray:
    """Return a tone with harmonics, in an uneven rhythm and some noise ``(N,)``."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    rhythm = 0.6 + 0.4 * np.sin(2 * np.pi * generator.uniform(2, 6) * time + generator.uniform(0, 6))
    return (0.05 * tone * rhythm + 0.003 * generator.standard_normal(len(time))).astype(np.float32)


def line(spk: str, rec: str, seconds: float, wav: Path, **more: object) -> str:
    """Return a line of ``enrolment``."""
    end = round(100 * seconds)
    fields = {"spk": spk, "rec": rec, "start": 0.0, "end": end / 100, "wav": str(wav), **more}
    return f"{spk}-{rec}-0000000-{end:07d} {json.dumps(fields)}\n"


def make_pool(out: Path, pitches: Sequence[float], stretches: int = 4, seconds: float = 2.0, prefix: str = "s"
              ) -> Path:
    """Write ``enrolment`` and what else a training asks of clips; ``<prefix>k`` hums at ``pitches[k]``."""
    out.mkdir(parents=True)
    lines, clips = [], []
    for k, pitch in enumerate(pitches):
        for i in range(stretches):
            rec, length = f"r{k}{i}", seconds + 0.1 * i
            write_audio(out / f"{rec}.wav", hum(pitch, length, seed=100 * k + i), RATE)
            lines.append(line(f"{prefix}{k}", rec, length, out / f"{rec}.wav"))
            segment = {"spk": f"{prefix}{k}", "start": 0.0, "end": length, "text": "HUM"}
            clips.append((rec, out / f"{rec}.wav", json.dumps([segment]), round(length * RATE)))
    (out / "enrolment").write_text("".join(lines))
    for name, column in (("wav.scp", 1), ("supervision", 2), ("utt2num_samples", 3)):
        (out / name).write_text("".join(f"{clip[0]} {clip[column]}\n" for clip in clips))
    return out
