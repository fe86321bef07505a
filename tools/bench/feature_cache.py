#!/usr/bin/env python3
"""A training epoch of a speech LLM on cached frames (`feature_cache: true`) against running the frozen encoders.

Random clips of 20 s; sizes for CPU recipes: an E-Branchformer and, in the dual system, a small CAM++, both frozen, and
a Qwen2 of 4 layers; adapters and LoRA are trained. What is saved is the share of the encoders: SpeakerLM's projector
leaves a position every 80 ms, the interleaved streams of the dual system have two every 40 ms, and the language model
takes longer over them. The second epoch is timed, so that the frames are there; what the first one pays for them has a
row of its own. One process, no workers; CPU time, so that other programs on the machine do not count.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from report import add_arguments, row, show

RATE, SECONDS = 16000, 20.0
WORDS = "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN".split()
ENCODER = {"output_size": 128, "num_blocks": 6, "mlp_size": 512, "frontend_conf": {"stack": 4}}
EXTRACTOR = {"embedding_size": 96, "head_channels": 8, "init_channels": 64, "growth_rate": 16, "bn_size": 4,
             "num_layers": [4, 8, 6]}
LLM = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
       "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True}
SYSTEMS = {
    "speakerlm": {"layout": "semantic", "projector": "transformer",
                  "projector_conf": {"num_layers": 1, "heads": 4, "feed_forward": 256},
                  "train_parts": ["adapter", "llm_lora"]},
    "dual": {"layout": "interleave", "speaker_encoder": "campplus", "speaker_encoder_conf": EXTRACTOR,
             "format": "sc_suffix", "prompt": "dual", "train_parts": ["adapter", "speaker_adapter", "llm_lora"]},
}


def make_data(root: Path, number: int) -> None:
    """Write clips of noise with three talkers in turn, and a tokenizer."""
    import numpy as np

    from espnet_mt_llm.datadir.audio import write_audio
    from espnet_mt_llm.text.llm_tokenizer import train_tokenizer

    random = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"wav.scp": [], "supervision": [], "utt2num_samples": []}
    for i in range(number):
        path = root / "dump" / f"c{i:03d}.wav"
        write_audio(path, (0.1 * random.standard_normal(round(SECONDS * RATE))).astype(np.float32), RATE)
        segments = [{"spk": f"S{k % 3}", "start": 2.0 * k, "end": 2.0 * k + 1.8,
                     "text": " ".join(random.choice(WORDS, 6))} for k in range(int(SECONDS // 2))]
        for name, value in zip(lines, (path, json.dumps(segments), round(SECONDS * RATE))):
            lines[name].append(f"c{i:03d} {value}\n")
    for name, rows in lines.items():
        (root / "dump" / name).write_text("".join(rows))
    train_tokenizer(WORDS, root / "tokenizer", "word")


def train(root: Path, system: str, cached: bool) -> list[float]:
    """Train two epochs of a system; return the CPU seconds before them, and of each."""
    from espnet_mt_llm.tasks.speech_llm import SpeechLLMTask
    from espnet_mt_llm.train.features import SpeechLLMTrainer

    config = {
        **SYSTEMS[system], "encoder": "e_branchformer", "encoder_conf": ENCODER,
        "llm_conf": {"config": LLM, "lora": {"rank": 8}},
        "tokenizer": str(root / "tokenizer"), "batch_positions": 6000, "num_workers": 0, "max_epoch": 2,
        "optim": "adam", "optim_conf": {"lr": 1e-4}, "use_tensorboard": False, "num_threads": 1,
        "feature_cache": cached}
    (root / "train.yaml").write_text(json.dumps(config))
    times, epoch = [], SpeechLLMTrainer.train_one_epoch.__func__
    begin = time.process_time()

    def timed(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not times:
            times.append(time.process_time() - begin)
        start = time.process_time()
        try:
            return epoch(cls, *args, **kwargs)
        finally:
            times.append(time.process_time() - start)

    SpeechLLMTrainer.train_one_epoch = classmethod(timed)
    try:
        SpeechLLMTask.train(["--config", str(root / "train.yaml"), "--train_dir", str(root / "dump"), "--valid_dir",
                             str(root / "dump"), "--output_dir", str(root / f"{system}{cached}")])
    finally:
        SpeechLLMTrainer.train_one_epoch = classmethod(epoch)
    return times


def main() -> None:
    """Time an epoch of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    add_arguments(parser)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "dump").mkdir()
        make_data(root, args.clips)
        rows = []
        for system in SYSTEMS:
            plain, cached = train(root, system, False), train(root, system, True)
            rows += [row(f"{system}: an epoch on cached frames", cached[2], plain[2], "s"),
                     row(f"{system}: what comes before the first epoch", cached[0], plain[0], "s")]
    show(rows, args.json)


if __name__ == "__main__":
    main()
