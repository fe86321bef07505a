"""A small session-level data directory with audio, to be broken in many ways."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir

SEGMENTS = [
    {"session_id": "A", "speaker": "s1", "start_time": 0.5, "end_time": 3.333, "words": "one two"},
    {"session_id": "A", "speaker": "s2", "start_time": 2.0, "end_time": 4.0, "words": "three"},
    {"session_id": "B", "speaker": "s2", "start_time": 1.0, "end_time": 4.5, "words": "四 五"},
    {"session_id": "B", "speaker": "s1", "start_time": 4.0, "end_time": 6.0, "words": "six"},
    {"session_id": "B", "speaker": "s1", "start_time": 7.0, "end_time": 8.0, "words": "seven"},
]


def noise(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Random int16 samples (N,)."""
    return np.random.default_rng(seed).normal(0, 2000, round(seconds * rate)).astype(np.int16)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two recordings (5 and 8.5 s), two speakers, five utterances."""
    write_audio(tmp_path / "raw" / "A.wav", noise(5.0), 16000)
    write_audio(tmp_path / "raw" / "B.flac", noise(8.5, seed=1), 16000)
    wav = {"A": str(tmp_path / "raw" / "A.wav"), "B": str(tmp_path / "raw" / "B.flac")}
    DataDir.from_seglst(SEGMENTS, wav).write(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run(repository: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a module of the project, or a program in ``utils/``, and return its code, output and errors."""

    def run_it(name: str, *args: object, stdin: str = "") -> subprocess.CompletedProcess:
        path = repository / "utils" / name
        command = [str(path)] if path.exists() else [sys.executable, "-m", f"espnet_mt_llm.bin.{name}"]
        search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            [*command, *map(str, args)],
            capture_output=True,
            text=True,
            input=stdin,
            env={**os.environ, "PATH": search, "PYTHONPATH": str(repository), "LC_ALL": "C.UTF-8"},
        )

    return run_it
