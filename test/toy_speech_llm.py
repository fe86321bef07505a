"""A tiny speech LLM on the clips of toy_mixtures: tokenizer, pool of stretches, configuration."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from toy_mixtures import BLOCKS, RATE, make_clips

from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.text.llm_tokenizer import train_tokenizer

LLM = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
       "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": True}
EXTRACTOR = {"num_mels": 24, "embedding_size": 8, "head_channels": 2, "init_channels": 8, "growth_rate": 4,
             "bn_size": 2, "num_layers": [1, 1, 1]}
CONFIG: dict[str, Any] = {
    "encoder": "e_branchformer", "encoder_conf": {**BLOCKS, "output_size": 16, "frontend_conf": {"stack": 4}},
    "projector": "mlp", "speaker_encoder": "campplus", "speaker_encoder_conf": EXTRACTOR,
    "layout": "semantic", "llm_conf": {"config": LLM}, "train_parts": ["adapter", "llm"],
    "optim": "adam", "optim_conf": {"lr": 0.003}, "batch_positions": 250, "num_workers": 0, "max_epoch": 1, "seed": 3,
    "num_threads": 1, "use_tensorboard": False,
}
DUAL = {"layout": "interleave", "layout_conf": {"chunk": 5}, "format": "sc_suffix", "prompt": "dual",
        "train_parts": ["adapter", "speaker_adapter", "llm"]}


def make_data(root: Path, counts: tuple[int, ...] = (2, 1, 2, 2, 2)) -> Path:
    """Write clips to ``root/dump``, a tokenizer to ``root/tokenizer``, and a pool of stretches; return the clips."""
    clips = make_clips(root / "dump", counts)
    train_tokenizer(["GO ON", "ON GO"], root / "tokenizer", "word")
    generator = np.random.default_rng(1)
    with open(clips / "enrolment", "w") as f:
        for spk in ("D1", "D2", "S1", "S2"):
            wav = root / "pool" / f"{spk}.wav"
            write_audio(wav, (0.1 * generator.standard_normal(2 * RATE)).astype(np.float32), RATE)
            stretch = {"spk": spk, "rec": f"P{spk}", "start": 0.2, "end": 1.8, "wav": str(wav)}
            f.write(f"{spk}-P{spk}-0000020-0000180 {json.dumps(stretch)}\n")
    return clips


def save_published(path: Path, tied: bool = True, spare: int = 5, positions: int = 512) -> Path:
    """Write a language model as transformers does, with more rows than tokens, as Qwen2.5 has."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = train_tokenizer(["GO ON", "ON GO"], path, "word")
    torch.manual_seed(0)
    conf = {**LLM, "tie_word_embeddings": tied, "max_position_embeddings": positions}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=size + spare, **conf)).save_pretrained(path)
    return path


def arguments(root: Path, clips: Path, step: str = "01", **changes: Any) -> list[str]:
    """Return the command line of a step; ``changes`` of CONFIG are in its YAML file."""
    config = {**CONFIG, "tokenizer": str(root / "tokenizer"), **changes}
    (root / f"{step}.yaml").write_text(yaml.safe_dump(config))
    return ["--config", str(root / f"{step}.yaml"), "--train_dir", str(clips), "--valid_dir", str(clips),
            "--output_dir", str(root / "exp" / step)]


def train(root: Path, clips: Path, step: str = "01", **changes: Any) -> Path:
    """Train a step and return its directory."""
    from espnet_mt_llm.tasks.speech_llm import SpeechLLMTask

    SpeechLLMTask.train(arguments(root, clips, step, **changes))
    return root / "exp" / step


def parsed(root: Path, clips: Path, step: str = "01", **changes: Any) -> Any:
    """Return what the task makes of a configuration, as the training does."""
    from espnet_mt_llm.tasks.speech_llm import SpeechLLMTask

    return SpeechLLMTask.get_parser().parse_args(arguments(root, clips, step, **changes))
