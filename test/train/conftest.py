"""A tiny directory of clips and a tiny model to train on it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

CONFIG = """\
encoder_conf: {output_size: 16, num_blocks: 1, attention_heads: 2, mlp_size: 32, kernel: 3}
separator_conf: {hidden_size: 16, num_layers: 1}
max_talkers: 2
token_type: word
optim: adam
optim_conf: {lr: 0.003}
batch_bins: 60000
num_workers: 0
max_epoch: 3
seed: 3
num_threads: 1
use_tensorboard: false
"""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Twelve clips of noise and silence with one or two talkers each, in ``tmp_path/dump``; a configuration beside."""
    generator = np.random.default_rng(0)
    out = tmp_path / "dump"
    out.mkdir()
    files: dict[str, list[str]] = {"wav.scp": [], "supervision": [], "utt2num_samples": [], "utt2num_spk": []}
    for i in range(12):
        samples = (generator.standard_normal(8000 + 200 * i) * 3000).astype(np.int16)
        samples[2000:4000] = 0
        soundfile.write(out / f"c{i:02d}.wav", samples, 16000)
        segments = [{"spk": f"S{k}", "start": 0.1 * k, "end": 0.4, "text": "GO ON"[: 2 + 3 * k]}
                    for k in range(1 + i % 2)]
        files["wav.scp"].append(f"c{i:02d} {out}/c{i:02d}.wav")
        files["supervision"].append(f"c{i:02d} {json.dumps(segments)}")
        files["utt2num_samples"].append(f"c{i:02d} {len(samples)}")
        files["utt2num_spk"].append(f"c{i:02d} {1 + i % 2}")
    for name, lines in files.items():
        (out / name).write_text("".join(line + "\n" for line in lines))
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nGO\nON\n<sos/eos>\n")
    (tmp_path / "train.yaml").write_text(CONFIG)
    return tmp_path
