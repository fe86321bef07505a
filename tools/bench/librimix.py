"""Time LibriMix on one core (16 kHz, max, mix_both from FLAC), beside the way of working of its published script.

That way: all six files of a row are made (s1, s2, noise, mix_clean, mix_both, mix_single), the SNR of every signal in
every mixture is computed, and for each mixture a row is appended to two pandas tables, which takes the longer the more
rows there are: they have as many as in the middle of train-360, the largest set (``--rows``). Ours: the mixture alone,
written by the job of stage 2, or rendered when it is read. The samples of mix_both are the same, which is checked.
Sources are self-made FLAC files of 10-16 s, as long as LibriSpeech's, each used in one mixture, and stereo noises of
6-16 s, so a part of them has to be repeated.
"""

import argparse
import csv
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas
import soundfile
from report import add_arguments, interleaved, row, show
from scipy.signal import resample_poly

from espnet_mt_llm.corpora.librimix import Selection, prepare
from espnet_mt_llm.simulation.mixtures import MixtureReader
from espnet_mt_llm.simulation.write import write_mixtures

RATE = 16000


def speechlike(rng: np.random.Generator, seconds: float, level: float) -> np.ndarray:
    """Return noise with the slope and the level changes of speech, so that FLAC works as hard: (N,)."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.convolve(rng.standard_normal(len(time)), np.exp(-np.arange(30) / 8), "same")
    return np.clip(noise * (0.02 + np.abs(np.sin(2 * np.pi * 2 * time))) * level, -1, 1)


def make_corpora(work: Path, number: int) -> None:
    """Write LibriSpeech, WHAM! and the CSV of Libri2Mix in their layouts: ``number`` mixtures."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number):
        values = {}
        utts = [f"{100 + speaker}-1-{index:04d}" for speaker in (index % 20, 20 + index % 19)]
        for k, utt in enumerate(utts, 1):
            speaker = utt.split("-")[0]
            folder = work / "LibriSpeech" / "dev-clean" / speaker / "1"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{utt}.flac", speechlike(rng, rng.uniform(10, 16), 0.05), RATE)
            with open(folder / f"{speaker}-1.trans.txt", "a", encoding="utf-8") as f:
                f.write(f"{utt} SOME WORDS\n")
            values[f"source_{k}_path"] = f"dev-clean/{speaker}/1/{utt}.flac"
            values[f"source_{k}_gain"] = rng.uniform(0.3, 1.5)
        noise = f"cv/noise{index:04d}.wav"
        (work / "wham_noise" / "cv").mkdir(parents=True, exist_ok=True)
        left = speechlike(rng, rng.uniform(6, 16), 0.02)
        soundfile.write(work / "wham_noise" / noise, np.stack([left, left[::-1]], axis=1), RATE)
        rows.append({"mixture_ID": "_".join(utts), **values, "noise_path": noise, "noise_gain": rng.uniform(0.5, 2)})
    path = work / "metadata" / "Libri2Mix" / "libri2mix_dev-clean.csv"
    path.parent.mkdir(parents=True)
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def repeat(noise: np.ndarray, length: int) -> np.ndarray:
    """Join a noise to itself by concatenation."""
    window = np.hanning(RATE + 1)
    half = RATE // 2 + 1
    long = noise
    while len(long) < length:
        joint = long[-half:] * window[half - 1::-1] + noise[:half] * window[:half]
        long = np.concatenate((long[:-half], joint, noise[half:]))
    return long[:length]


def published_row(line: pandas.Series, work: Path, out: Path, tables: dict) -> None:
    """Make the six files of one row and append to the tables, as the published script works."""
    signals = [soundfile.read(work / "LibriSpeech" / line[f"source_{k}_path"], dtype="float32")[0] for k in (1, 2)]
    longest = max(map(len, signals))
    noise = soundfile.read(work / "wham_noise" / line["noise_path"], dtype="float32", stop=longest)[0][:, 0]
    signals.append(noise if len(noise) == longest else repeat(noise, longest))
    gains = [line["source_1_gain"], line["source_2_gain"], line["noise_gain"]]
    signals = [resample_poly(signal * gain, RATE, RATE) for signal, gain in zip(signals, gains)]
    signals = [np.pad(signal, (0, longest - len(signal))) for signal in signals]
    paths = {name: str(out / name / f"{line['mixture_ID']}.wav")
             for name in ("s1", "s2", "noise", "mix_clean", "mix_both", "mix_single")}
    for name, signal in zip(("s1", "s2", "noise"), signals):
        soundfile.write(paths[name], signal, RATE)
    for name, parts in (("mix_clean", signals[:2]), ("mix_both", signals), ("mix_single", signals[::2])):
        mixture = np.zeros_like(parts[0])
        for part in parts:
            mixture += part
        soundfile.write(paths[name], mixture, RATE)
        snrs = [10 * np.log10(np.mean(part ** 2) / (np.mean((mixture - part) ** 2) + 1e-10) + 1e-10)
                for part in parts]
        metrics, mixtures = tables[name]
        metrics.loc[len(metrics)] = [line["mixture_ID"], *snrs]
        mixtures.loc[len(mixtures)] = [line["mixture_ID"], paths[name], *(paths[f"s{k}"] for k in (1, 2)),
                                       paths["noise"], len(mixture)]


def make_tables(rows: int) -> dict[str, tuple[pandas.DataFrame, pandas.DataFrame]]:
    """Return the tables of metrics and of paths of each kind of mixture, with some rows."""
    tables = {}
    for name, count in (("mix_clean", 2), ("mix_both", 3), ("mix_single", 2)):
        names = [f"mixture {index}" for index in range(rows)]
        paths = {column: [f"/a/path/{column}/{name}.wav" for name in names]
                 for column in ("mixture_path", "source_1_path", "source_2_path", "noise_path")}
        tables[name] = (pandas.DataFrame({"mixture_ID": names, **{f"snr_{k}": 0.5 for k in range(count)}}),
                        pandas.DataFrame({"mixture_ID": names, **paths, "length": 200000}))
    return tables


def published(work: Path, out: Path, tables: dict) -> None:
    """Make all mixtures as the published script works, in one process; only new rows of the tables are written."""
    for name in ("s1", "s2", "noise", "mix_clean", "mix_both", "mix_single"):
        (out / name).mkdir(parents=True, exist_ok=True)
    tables = {name: [frame.copy() for frame in frames] for name, frames in tables.items()}
    lines = pandas.read_csv(work / "metadata" / "Libri2Mix" / "libri2mix_dev-clean.csv", engine="python")
    for _, line in lines.iterrows():
        published_row(line, work, out, tables)
    for name, both in tables.items():
        for kind, frame in zip(("metrics", "mixture"), both):
            frame.tail(len(lines)).to_csv(out / f"{kind}_{name}.csv", index=False)


def benchmark(work: Path, number: int, repeats: int, table_rows: int) -> list[dict]:
    """Return the rows."""
    make_corpora(work, number)
    select = Selection(["dev"], [2], ["both"], ["plain"])
    sets = {write: work / f"data_{write}" / "dev_2mix_both" for write in (False, True)}

    def prepared(write: bool) -> None:
        prepare(work / "LibriSpeech", work / "metadata", sets[write].parent, wham=work / "wham_noise", select=select,
                write=write)

    def written() -> None:
        shutil.rmtree(sets[True] / "audio", ignore_errors=True)
        assert write_mixtures(sets[True]) == number

    def streamed() -> None:
        reader = MixtureReader(sets[False] / "mixtures.jsonl", cache_mb=16)
        for key in reader:
            reader[key]

    prepared(False)
    prepared(True)
    tables = make_tables(table_rows)
    rows = []
    for name, ours in (("mix_both, written", written), ("mix_both, on the fly", streamed)):
        seconds = interleaved(ours, lambda: published(work, work / "published", tables), repeats)
        rows.append(row(f"{name} (published: six files)", *(number / s for s in seconds), "mixtures/s"))
    for key, (_, samples) in MixtureReader(sets[False] / "mixtures.jsonl").items():
        for folder in (sets[True] / "audio" / "mix", work / "published" / "mix_both"):
            assert np.array_equal(soundfile.read(folder / f"{key}.wav", dtype="float32")[0], samples), key
    seconds = interleaved(lambda: prepared(False), lambda: None, repeats)
    rows.append(row("data directory prepared", number / seconds[0], None, "mixtures/s"))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixtures", type=int, default=150)
    parser.add_argument("--rows", type=int, default=25400, help="rows that the published script's tables have")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many runs is shown")
    add_arguments(parser)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as work:
        rows = benchmark(Path(work), args.mixtures, args.repeats, args.rows)
    show(rows, args.json)


if __name__ == "__main__":
    main()
