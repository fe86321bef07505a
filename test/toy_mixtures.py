"""Clips that are mixtures of noise bursts, as the stages `simulate` and `clips` leave them, and a tiny ume model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.simulation.manifest import Mixture, Source
from espnet_mt_llm.simulation.mixtures import MixtureReader

RATE = 16000
TOKENS = ["<blank>", "<unk>", "GO", "ON", "<sos/eos>"]
BLOCKS = {"num_blocks": 1, "attention_heads": 2, "mlp_size": 32, "kernel": 3, "dropout": 0.0}
CONFIG: dict[str, Any] = {
    "heads": ["diarization", "separation", "recognition"], "max_talkers": 2, "encoder_conf": {**BLOCKS,
                                                                                              "output_size": 16},
    "recognition_conf": {"blocks": BLOCKS, "ctc_weight": 1.0},
    "separation_conf": {"filters": 16, "bottleneck": 8, "hidden": 16, "layers": 2, "stacks": 1, "projection": 8},
    "optim": "adam", "optim_conf": {"lr": 0.003}, "batch_bins": 60000, "num_workers": 0, "max_epoch": 1, "seed": 3,
    "num_threads": 1, "use_tensorboard": False,
}
DECODER = {"num_blocks": 1, "attention_heads": 2, "linear_units": 16}


def make_clips(out: Path, counts: tuple[int, ...] = (2, 2, 2, 2, 2)) -> Path:
    """Write clips ``c0``, ``c1`` ... with so many talkers each: the later a speaker's id, the earlier his onset."""
    out.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"wav.scp": [], "supervision": [], "utt2num_samples": [], "utt2num_spk": [],
                                   "utt2dur": []}
    manifest = []
    for i, count in enumerate(counts):
        sources = []
        for k in range(count):
            spk, seconds = f"S{count - k}", 0.3 + 0.05 * i
            wav = out / "audio" / f"u{i}{k}.wav"
            burst = generator.standard_normal(round(seconds * RATE)).cumsum() if k else generator.standard_normal(
                round(seconds * RATE))
            write_audio(wav, (0.3 * burst / np.abs(burst).max()).astype(np.float32), RATE)
            sources.append(Source(f"u{i}{k}", spk, ("GO", "ON")[k % 2], str(wav), 0.0, seconds, 0.15 * k, 1.0))
        length = max(round(s.offset * RATE) + s.num_samples(RATE) for s in sources)
        manifest.append(Mixture(f"c{i}", RATE, length, tuple(sources)))
        segments = [{"spk": s.spk, "start": s.offset, "end": round(s.offset + s.end, 3), "text": s.text}
                    for s in sources]
        for name, value in (("wav.scp", out / "audio" / f"c{i}.wav"), ("supervision", json.dumps(segments)),
                            ("utt2num_samples", length), ("utt2num_spk", count), ("utt2dur", length / RATE)):
            lines[name].append(f"c{i} {value}\n")
    (out / "mixtures.jsonl").write_text("".join(mixture.to_json() + "\n" for mixture in manifest))
    for clip, (rate, samples) in MixtureReader(out / "mixtures.jsonl").items():
        write_audio(out / "audio" / f"{clip}.wav", samples, rate)
    for name, rows in lines.items():
        (out / name).write_text("".join(rows))
    return out


def train(root: Path, step: str, clips: Path, **changes: Any) -> Path:
    """Train a step of a tiny model in ``root/exp/ume/<step>`` and return its directory; ``changes`` of CONFIG."""
    from espnet_mt_llm.bin import train_ume

    (root / "tokens.txt").write_text("".join(token + "\n" for token in TOKENS))
    (root / f"{step}.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
    out = root / "exp" / "ume" / step
    train_ume.main(["--config", str(root / f"{step}.yaml"), "--token_list", str(root / "tokens.txt"),
                    "--train_dir", str(clips), "--valid_dir", str(clips), "--output_dir", str(out)])
    return out
