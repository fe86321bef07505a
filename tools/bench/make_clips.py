"""Time clips of a 30-minute 8-channel meeting beside one sequential read of its file.

Ours is all that make_clips does: one channel is taken out, cut, written as WAV and flushed to the disk. The peer of WAV
reads the file in blocks and does nothing with them, once from the disk and once from the page cache (no corpus fits
there); the peer of FLAC decodes all channels once with libsndfile.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import soundfile
from report import add_arguments, row, show

from espnet_mt_llm.common import Chance
from espnet_mt_llm.datadir.clips import make_clips
from espnet_mt_llm.datadir.kaldi import DataDir

RATE, CHANNELS = 16000, 8


def meeting(path: Path, minutes: float, seed: int) -> None:
    """Write a recording of coloured noise whose loudness changes as speech does; the channels differ a little."""
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", RATE, CHANNELS, "PCM_16") as f:
        for _ in range(round(minutes * 6)):
            envelope = np.repeat(rng.uniform(20, 2000, 50), RATE // 5)
            voice = np.convolve(rng.normal(0, 1, 10 * RATE), [0.3, 0.5, 0.6, 0.5, 0.3], "same") * envelope
            f.write((voice[:, None] + rng.normal(0, 20, (10 * RATE, CHANNELS))).astype(np.int16))


def talk(rec: str, minutes: float) -> list[dict]:
    """Return who says what: utterances of 1 to 6 s by four speakers, a third of which overlap the one before."""
    chance, now, segments, free = Chance(rec), 0.0, [], dict.fromkeys("abcd", 0.0)
    while now < minutes * 60 - 8:
        spk = chance.pick("abcd")
        start = max(now + chance.uniform(-0.5, 1.0), free[spk], 0.0)
        now = free[spk] = start + chance.uniform(1, 6)
        segments.append({"session_id": rec, "speaker": spk, "start_time": round(start, 2), "end_time": round(now, 2),
                         "words": "嗯我们开始吧" * 2})
    return segments


def data_dir(path: Path, audio: dict[str, Path], minutes: float) -> Path:
    """Write a data directory of meetings whose first channel is used."""
    segments = [s for rec in audio for s in talk(rec, minutes)]
    wav = {rec: str(file) for rec, file in audio.items()}
    utterances = DataDir.from_seglst(segments, wav).utterances
    DataDir(path, wav, utterances, extra={"channel": dict.fromkeys(wav, "1")}).write(path)
    return path


def forget(path: Path) -> None:
    """Let the system drop the file from its page cache."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def read_blocks(path: Path) -> None:
    """Read the file once, from begin to end."""
    with open(path, "rb", buffering=0) as f:
        while f.read(1 << 20):
            pass


def decode_blocks(path: Path) -> None:
    """Decode all channels once."""
    for _ in soundfile.blocks(path, 1 << 17, dtype="int16"):
        pass


def clips(data: Path, out: Path, policy: str) -> Callable[[], object]:
    """Return the work that is timed: all clips of a directory."""
    return lambda: make_clips(data, out, policy=policy)


def in_turn(ours: Callable, peer: Callable, out: Path, cold: Optional[Path], repeats: int) -> tuple[float, float]:
    """Return the median seconds of both; before each the clips are removed, and ``cold`` from the page cache."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, taken in zip((ours, peer), times):
            shutil.rmtree(out, ignore_errors=True)
            if cold:
                forget(cold)
            begin = time.perf_counter()
            function()
            taken.append(time.perf_counter() - begin)
    return statistics.median(times[0]), statistics.median(times[1])


def jobs(data: Path, out: Path, number: int) -> float:
    """Return the seconds that ``number`` processes side by side take for the same meetings."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "espnet_mt_llm.bin.make_clips", "--data_dir", str(data), "--out_dir", str(out),
               "--policy", "no_overlap_cut", "--num_jobs", str(number)]
    root = Path(__file__).resolve().parents[2]
    begin = time.perf_counter()
    started = [subprocess.Popen([*command, "--job", str(job)], cwd=root, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for job in range(1, number + 1)]
    assert not any(process.wait() for process in started)
    return time.perf_counter() - begin


def streamed(path: Path, number: int) -> Path:
    """Write a data directory of mixtures that are made on the fly, each with a manifest line of two kilobytes."""
    ids = [f"m{i:06d}" for i in range(number)]
    mixture = {"rate": RATE, "num_samples": 10 * RATE, "sources": "x" * 2000}
    manifest = {key: json.dumps({"id": key, **mixture}) for key in ids}
    segments = [{"session_id": key, "speaker": spk, "start_time": 0.0, "end_time": 9.0, "words": "some words"}
                for key in ids for spk in "ab"]
    wav = dict.fromkeys(ids, "false |")
    DataDir(path, wav, DataDir.from_seglst(segments, wav).utterances, dict.fromkeys(ids, 10.0),
            {"mixtures.jsonl": manifest}).write(path)
    return path


def peak_memory(data: Path, out: Path, policy: str) -> float:
    """Return the MiB that make_clips needs at most, in a process of its own."""
    code = ("import resource, sys; from espnet_mt_llm.datadir.clips import make_clips; "
            "make_clips(sys.argv[1], sys.argv[2], policy=sys.argv[3]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    shutil.rmtree(out, ignore_errors=True)
    ran = subprocess.run([sys.executable, "-c", code, str(data), str(out), policy], check=True, capture_output=True,
                         text=True, cwd=Path(__file__).resolve().parents[2])
    return int(ran.stdout) / 1024


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the meeting")
    parser.add_argument("--mixtures", type=int, default=100000, help="size of the set whose memory is measured")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many runs is shown")
    parser.add_argument("--dir", help="where the files are made; default: the system's folder for temporary files")
    add_arguments(parser)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.dir) as tmp:
        root, out = Path(tmp), Path(tmp, "dump")
        wav, flac = root / "m.wav", root / "m.flac"
        meeting(wav, args.minutes, 1)
        with soundfile.SoundFile(flac, "w", RATE, CHANNELS, "PCM_16") as f:
            for block in soundfile.blocks(wav, 1 << 17, dtype="int16"):
                f.write(block)
        for name, file, peer, cold in (
            ("WAV from the disk", wav, read_blocks, True),
            ("WAV from the page cache", wav, read_blocks, False),
            ("FLAC", flac, decode_blocks, False),
        ):
            data = data_dir(root / name.split()[0], {"m": file}, args.minutes)
            for policy in ("no_overlap_cut", "utterance_group"):
                both = clips(data, out, policy), partial(peer, file)
                times = in_turn(*both, out, file if cold else None, args.repeats)
                rows.append(row(f"{policy}, {args.minutes:g} min, 8-channel {name}", *times, "s"))
        many = data_dir(root / "many", {f"m{i}": wav for i in range(16)}, args.minutes)
        times = [(jobs(many, out, 2), jobs(many, out, 1)) for _ in range(args.repeats)]
        rows.append(row("two jobs against one, 16 meetings", *map(statistics.median, zip(*times)), "s"))
        rows.append(row("memory, one meeting", peak_memory(root / "WAV", out, "no_overlap_cut"), None, "MiB"))
        mixtures = streamed(root / "streamed", args.mixtures)
        rows.append(row(f"memory, {args.mixtures} mixtures", peak_memory(mixtures, out, "whole"), None, "MiB"))
    show(rows, args.json)


if __name__ == "__main__":
    main()
