"""Time simulated mixtures on one core, beside the plain way: soundfile reads every source, numpy pads, scales and adds.

Sources are self-made 16 kHz FLAC files of the size of the mini and fsdd recipes (1-3.5 s). Both ways make the same
samples, which is checked. "epoch" is what training sees after its first pass; "first pass" decodes each source once.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from report import add_arguments, interleaved, row, show

from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance, make_utt_id
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.draw import draw_mixtures, write_set
from espnet_mt_llm.simulation.manifest import Manifest, Mixture
from espnet_mt_llm.simulation.mixtures import MixtureReader
from espnet_mt_llm.simulation.sources import Sources
from espnet_mt_llm.simulation.write import write_mixtures

RATE = 16000


def make_sources(path: Path, number: int) -> DataDir:
    """Write sources of 40 speakers: noise with the slope and the level changes of speech, so FLAC works as hard."""
    rng = np.random.default_rng(0)
    wav, utterances, reco2dur = {}, [], {}
    for i in range(number):
        rec, spk, seconds = f"rec{i:04d}", f"S{i % 40:02d}", round(rng.uniform(1, 3.5), 2)
        time = np.arange(round(seconds * RATE)) / RATE
        noise = np.convolve(rng.standard_normal(len(time)), np.exp(-np.arange(30) / 8), "same")
        samples = noise * (0.02 + np.abs(np.sin(2 * np.pi * 2 * time))) * 0.05
        write_audio(path / "audio" / f"{rec}.flac", np.clip(samples, -0.9, 0.9).astype(np.float32), RATE)
        wav[rec], reco2dur[rec] = str(path / "audio" / f"{rec}.flac"), seconds
        utterances.append(Utterance(make_utt_id(spk, rec, 0, seconds), rec, spk, 0.0, seconds, "some words"))
    return DataDir(path, wav, utterances, reco2dur).write(path)


def plain_parts(mixture: Mixture) -> list[np.ndarray]:
    """Render the sources of a mixture the plain way: a list of float32 (N,)."""
    parts = []
    for source in mixture.sources:
        samples, _ = soundfile.read(source.wav, dtype="float32")
        part = np.zeros(mixture.num_samples, dtype=np.float32)
        begin = round(source.offset * mixture.rate)
        part[begin:begin + len(samples)] = samples * np.float32(source.gain * mixture.scale)
        parts.append(part)
    return parts


def plain_write(mixture: Mixture, folder: Path) -> None:
    """Write the mixture and its sources the plain way, straight to the final names."""
    parts = plain_parts(mixture)
    for name, samples in [("mix", np.sum(parts, axis=0)), *((f"spk{k}", part) for k, part in enumerate(parts, 1))]:
        (folder / name).mkdir(exist_ok=True)
        soundfile.write(folder / name / f"{mixture.id}.flac", samples, mixture.rate)


def benchmark(work: Path, talkers: int, number: int, repeats: int, num_sources: int) -> list[dict]:
    """Return the rows for mixtures of so many talkers."""
    sources = make_sources(work / "train", num_sources)
    values = {"source": "train", "num_mixtures": {talkers: number}, "overlap": [0.2, 0.6]}
    config = SimulationConfig.parse(values, "benchmark")
    mixtures = list(draw_mixtures(Sources.of(sources.path), config, f"mix{talkers}"))
    out = work / f"mix{talkers}"
    write_set(mixtures, config, out)
    reader = MixtureReader(out / "mixtures.jsonl")
    for mixture in mixtures[:20]:
        assert np.abs(reader[mixture.id][1] - np.sum(plain_parts(mixture), axis=0)).max() < 4 / 32768

    def streamed(a_reader: MixtureReader) -> None:
        for key in a_reader:
            a_reader[key]

    def plain() -> None:
        for mixture in Manifest(out / "mixtures.jsonl").values():
            np.sum(plain_parts(mixture), axis=0)

    rows = []
    streamed(reader)
    for name, ours in (("epoch", lambda: streamed(reader)),
                       ("first pass", lambda: streamed(MixtureReader(out / "mixtures.jsonl")))):
        seconds = interleaved(ours, plain, repeats)
        rows.append(row(f"{name}, {talkers} talkers, streamed", *(number / s for s in seconds), "mixtures/s"))

    def written() -> None:
        for path in (out / "audio").rglob("*.flac"):
            path.unlink()
        write_mixtures(out)

    def written_plainly() -> None:
        (work / "plain").mkdir(exist_ok=True)
        for mixture in Manifest(out / "mixtures.jsonl").values():
            plain_write(mixture, work / "plain")

    seconds = interleaved(written, written_plainly, repeats)
    rows.append(row(f"written with sources, {talkers} talkers", *(number / s for s in seconds), "mixtures/s"))
    seconds = interleaved(lambda: list(draw_mixtures(Sources.of(sources.path), config, "other")), lambda: None, repeats)
    rows.append(row(f"drawn (manifest), {talkers} talkers", number / seconds[0], None, "mixtures/s"))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixtures", type=int, default=500, help="mixtures of each kind")
    parser.add_argument("--sources", type=int, default=400, help="recordings that they are made of")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many runs is shown")
    add_arguments(parser)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for talkers in (2, 3):
        with tempfile.TemporaryDirectory() as work:
            rows += benchmark(Path(work), talkers, args.mixtures, args.repeats, args.sources)
    show(rows, args.json)


if __name__ == "__main__":
    main()
