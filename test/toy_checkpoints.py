"""Published models in small: random weights in the files, and by the names, that their authors publish."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from toy_speech_llm import save_published

# As in the published config.yaml, with smaller sizes.
SENSEVOICE: dict[str, Any] = {
    "encoder": "SenseVoiceEncoderSmall",
    "encoder_conf": {
        "output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 3, "tp_blocks": 2,
        "dropout_rate": 0.1, "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.1, "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder", "normalize_before": True, "kernel_size": 11, "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    },
    "model": "SenseVoiceSmall",
    "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
    "tokenizer": "SentencepiecesTokenizer",
    "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
    "frontend": "WavFrontend",
    "frontend_conf": {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10,
                      "lfr_m": 7, "lfr_n": 6, "cmvn_file": None},
    "ctc_conf": {"dropout_rate": 0.0, "ctc_type": "builtin", "reduce": True, "ignore_nan_grad": True},
    "normalize": None,
}
WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 80,
           "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 60,
           "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1}
# Released extractors have one size, which is slow here: those of the recipes' debug_conf.
CAMPPLUS = {"num_mels": 24, "embedding_size": 16, "head_channels": 4, "init_channels": 16, "growth_rate": 4,
            "bn_size": 2, "num_layers": [1, 1, 1]}
ERES2NETV2 = {"num_mels": 24, "embedding_size": 16, "channels": 8, "base_width": 26, "scale": 2, "expansion": 1,
              "num_blocks": [1, 1, 1, 1]}


def vector(name: str, values: np.ndarray) -> str:
    """Return a layer of am.mvn as Kaldi writes it."""
    numbers = " ".join(f"{v:.6f}" for v in values)
    return f"<{name}> {len(values)} {len(values)} \n<LearnRateCoef> 0 [ {numbers} ]\n"


def save_sensevoice(root: Path, **sizes: int) -> torch.nn.Module:
    """Save a tiny SenseVoice as funasr's hub has it, with ``sizes`` in its encoder; return funasr's own model."""
    from funasr.models.sense_voice.model import SenseVoiceSmall

    generator = np.random.default_rng(0)
    config = {**SENSEVOICE, "encoder_conf": {**SENSEVOICE["encoder_conf"], **sizes}}
    root.mkdir()
    (root / "am.mvn").write_text(
        "<Nnet> \n<Splice> 560 560 \n[ 0 ]\n" + vector("AddShift", generator.normal(-8, 1, 560))
        + vector("Rescale", generator.uniform(0.1, 0.4, 560)) + "</Nnet> \n")
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "configuration.json").write_text(json.dumps(
        {"framework": "pytorch", "model": {"type": "funasr"},
         "file_path_metas": {"init_param": "model.pt", "config": "config.yaml",
                             "frontend_conf": {"cmvn_file": "am.mvn"}}}))
    torch.manual_seed(0)
    model = SenseVoiceSmall(encoder=config["encoder"], encoder_conf=config["encoder_conf"], input_size=560,
                            ctc_conf=config["ctc_conf"], vocab_size=30, **config["model_conf"])
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    torch.save(model.state_dict(), root / "model.pt")
    return model.eval()


def save_whisper(root: Path) -> None:
    """Save a tiny Whisper as transformers does."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    WhisperForConditionalGeneration(WhisperConfig(**WHISPER)).save_pretrained(root)


def save_extractor(path: Path, name: str, sizes: dict) -> None:
    """Save a tiny speaker extractor as 3D-Speaker does: its weights alone."""
    from espnet_mt_llm.encoders.registry import speaker_encoder

    torch.manual_seed(0)
    torch.save(speaker_encoder(name)(frozen=False, **sizes).state_dict(), path)


# The name that the recipes' configurations give a checkpoint in downloads/ → what writes it.
WRITERS: dict[str, Callable[[Path], Any]] = {
    # As many blocks as the published one has in front of the layer that is heard.
    "SenseVoiceSmall": lambda path: save_sensevoice(path, num_blocks=26),
    "whisper-large-v3": save_whisper,
    "campplus_cn_common.bin": lambda path: save_extractor(path, "campplus", CAMPPLUS),
    "pretrained_eres2netv2.ckpt": lambda path: save_extractor(path, "eres2netv2", ERES2NETV2),
    "Qwen2.5-0.5B-Instruct": lambda path: save_published(path, positions=4096),
    "Qwen2.5-7B-Instruct": lambda path: save_published(path, tied=False, positions=4096),
}


def write_checkpoints(folder: Path, names: list[str]) -> None:
    """Write the checkpoints ``names`` to ``folder``, those that are not there yet."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if not (folder / name).exists():
            WRITERS[name](folder / name)
