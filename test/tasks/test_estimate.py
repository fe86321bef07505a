"""The estimate of a training step against what autograd really keeps, and against published numbers of weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from espnet_mt_llm.common import UserError
from espnet_mt_llm.tasks.estimate import estimate

SENSEVOICE = {"encoder_conf": {"output_size": 32, "attention_heads": 4, "linear_units": 48, "num_blocks": 3,
                               "tp_blocks": 1}, "frontend_conf": {}}
WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "dropout": 0.1}
EXTRACTOR = {"num_mels": 24, "embedding_size": 8, "head_channels": 2, "init_channels": 8, "growth_rate": 4,
             "bn_size": 2, "num_layers": [1, 1, 1]}
LLM = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
       "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True}
SMALL: dict[str, Any] = {
    "encoder": "sensevoice", "encoder_conf": {"config": SENSEVOICE, "layers": [2, -1]}, "projector": "mlp",
    "layout": "semantic", "llm_conf": {"config": LLM, "lora": {"rank": 4}}, "train_parts": ["adapter", "llm_lora"],
}
DUAL = {"speaker_encoder": "campplus", "speaker_encoder_conf": EXTRACTOR, "layout": "interleave",
        "train_parts": ["adapter", "speaker_adapter", "llm_lora"]}
SECONDS, TARGETS, PROMPT = 3.0, 20, 6


def write(root: Path, **changes: Any) -> Path:
    """Write a configuration and a tokenizer."""
    from espnet_mt_llm.text.llm_tokenizer import train_tokenizer

    train_tokenizer(["GO ON", "ON GO"], root / "tokenizer", "word")
    path = root / "step.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "tokenizer": str(root / "tokenizer"), **changes}))
    return path


def measured(config: Path) -> tuple[int, int, int, int]:
    """Bytes that a real step keeps, each storage once, weights and inputs not; weights, trained weights, operations."""
    from espnet_mt_llm.tasks.speech_llm import SpeechLLMTask

    torch.manual_seed(0)
    model = SpeechLLMTask.build_model(SpeechLLMTask.get_parser().parse_args(["--config", str(config)])).train()
    target = torch.randint(0, 8, (1, TARGETS))
    batch = {"prompt": torch.tensor([[1, 2, 3, -1, 4, 5, 6]]), "prompt_lengths": torch.tensor([PROMPT + 1]),
             "target": target, "target_lengths": torch.tensor([TARGETS]), "types": torch.zeros(1, TARGETS).long(),
             "weights": torch.zeros(1, TARGETS), "speech": torch.randn(1, int(16000 * SECONDS)),
             "speech_lengths": torch.tensor([int(16000 * SECONDS)])}
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers(), *batch.values()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _, _ = model(**batch)
        size = sum(t.untyped_storage().nbytes() for t in kept.values())
        loss.backward()
    assert loss.isfinite()
    weights = list(model.parameters())
    return (size, sum(p.numel() for p in weights), sum(p.numel() for p in weights if p.requires_grad),
            counter.get_total_flops())


@pytest.mark.parametrize("changes", [
    {},
    {"train_parts": ["adapter"], "projector": "transformer", "projector_conf": {"heads": 4}},
    {"projector": "glu", "projector_conf": {"strides": [2]}, "train_parts": ["adapter", "llm"],
     "llm_conf": {"config": LLM}},
    {"llm_conf": {"config": LLM, "dtype": "bfloat16", "lora": {"rank": 4, "dropout": 0.0, "targets": [
        "q_proj", "o_proj", "gate_proj", "down_proj"]}}},
    {"llm_conf": {"config": LLM, "lora": {"rank": 4}, "gradient_checkpointing": True}},
    DUAL,
    {**DUAL, "layout_conf": {"speaker_ratio": 0.25}},
    {**DUAL, "layout": "feature_concat", "llm_conf": {"config": {**LLM, "tie_word_embeddings": False},
                                                      "lora": {"rank": 4, "dropout": 0.0}}},
    {**DUAL, "encoder_lora": {"rank": 4}, "train_parts": ["adapter", "speaker_adapter", "llm_lora", "encoder_lora"]},
    {"encoder_conf": {"config": SENSEVOICE}, "train_parts": ["adapter", "encoder", "llm_lora"]},
    {"encoder": "whisper", "encoder_conf": {"config": WHISPER}, "projector": "transformer",
     "projector_conf": {"heads": 4, "stride": 4}, "train_parts": ["adapter", "encoder"]},
    {"encoder": "whisper", "encoder_conf": {"config": WHISPER}, "encoder_lora": {"rank": 4},
     "train_parts": ["adapter", "encoder_lora"]},
], ids=str)
def test_a_small_step_keeps_what_is_computed(tmp_path: Path, changes: dict) -> None:
    config = write(tmp_path, **changes)
    result = estimate(config, SECONDS, TARGETS, PROMPT, gpu=False)
    kept, weights, trained, flops = measured(config)
    assert sum(part.weights for part in result.parts) == weights
    assert sum(part.trained for part in result.parts) == trained
    assert sum(part.clip_bytes for part in result.parts) == pytest.approx(kept, rel=0.02)
    assert sum(part.flops for part in result.parts) == pytest.approx(flops, rel=0.02)
    assert (result.again > 0) == bool(changes.get("llm_conf", {}).get("gradient_checkpointing"))
    assert result.lines()[-3] == f"positions of a clip: {result.positions}"


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from espnet_mt_llm.bin.estimate_memory import main

    main([str(write(tmp_path, **DUAL)), "--seconds", "3", "--cpu"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("  ")[0] for line in lines]
    first = rows.index("part")
    assert rows[first: first + 7] == ["part", "encoder (sensevoice)", "adapter, layout", "speaker encoder (campplus)",
                                      "speaker adapter", "language model", "all"]
    assert lines[first + 7].startswith("positions of a clip: ")


def test_a_language_model_that_hears_voices_alone(tmp_path: Path) -> None:
    config = write(tmp_path, **{**DUAL, "layout": "none", "train_parts": ["speaker_adapter", "llm_lora"],
                                "model_conf": {"voice_weight": 1.0}})
    found = {part.name: part for part in estimate(config, SECONDS, TARGETS, PROMPT).parts}
    assert found["speaker adapter"].trained == 8 * 48 + 48 and found["speaker encoder (campplus)"].trained == 0


def test_published_sizes_need_no_files(tmp_path: Path) -> None:
    config = tmp_path / "step.yaml"
    config.write_text(yaml.safe_dump({
        "encoder": "sensevoice", "encoder_conf": {"checkpoint": "absent/SenseVoiceSmall", "layers": [25, -1]},
        "speaker_encoder": "campplus", "speaker_encoder_conf": {"checkpoint": "absent/campplus_cn_common.bin"},
        "layout": "interleave", "new_tokens": ["<SC>", "<x>"],
        "llm_conf": {"checkpoint": "absent/Qwen2.5-0.5B-Instruct", "dtype": "bfloat16", "lora": {"rank": 16}},
        "train_parts": ["adapter", "speaker_adapter", "llm_lora"]}))
    result = estimate(config, targets=300, prompt=42)
    parts = {part.name: part for part in result.parts}
    llm = parts["language model"]
    # 494.0 million weights (model card), four adapters a layer: 2 x (896 + 896) and 2 x (896 + 128), two new rows.
    lora = 24 * 16 * (2 * (896 + 896) + 2 * (896 + 128))
    assert llm.weights - llm.trained == 494_032_768 and llm.trained == lora + 2 * 896
    assert parts["speaker encoder (campplus)"].weights == pytest.approx(6.85e6, rel=0.01)  # SYSTEMS D.1
    assert parts["encoder (sensevoice)"].trained == parts["encoder (sensevoice)"].clip_bytes == 0
    # 50 s: 834 frames of 60 ms in 42 chunks, both streams and two markers for each.
    assert result.positions == 2 * 834 + 2 * 42 + 342
    checkpointed = yaml.safe_load(config.read_text())
    checkpointed["llm_conf"]["gradient_checkpointing"] = True
    config.write_text(yaml.safe_dump(checkpointed))
    less = {part.name: part for part in estimate(config, targets=300, prompt=42).parts}
    assert less["language model"].clip_bytes < llm.clip_bytes / 4


@pytest.mark.parametrize("changes, message", [
    ({"llm_conf": {"checkpoint": "absent/Llama"}}, "absent/Llama/config.json: no such file"),
    ({"llm_conf": {"config": {**LLM, "model_type": "qwen3"}}, "train_parts": ["llm"]}, "no formula for the layers of"),
    ({"encoder": "e_branchformer", "encoder_conf": {"output_size": 16, "num_blocks": 1, "attention_heads": 2},
      "train_parts": ["encoder"]}, "no formula for what 'e_branchformer'"),
    ({"encodr": "whisper"}, "did you mean 'encoder'"),
    ({"model_conf": {"loss": "keep", "ctc_weight": 1.0}, "train_parts": ["encoder"],
      "init_param": ["words.pth:encoder:before"]}, "no formula for loss: keep, which asks no language model"),
])
def test_what_is_not_known_is_said(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate(write(tmp_path, **changes))


def test_a_tokenizer_and_lengths_that_are_none(tmp_path: Path) -> None:
    from toy_speech_llm import LLM

    from espnet_mt_llm.text.llm_tokenizer import train_tokenizer

    config = tmp_path / "step.yaml"
    config.write_text(yaml.safe_dump({"layout": "none", "llm_conf": {"config": LLM}, "train_parts": ["llm"]}))
    with pytest.raises(UserError, match="tokenizer is missing"):
        estimate(config)
    train_tokenizer(["GO ON"], tmp_path / "tokenizer", "word")
    assert estimate(config, tokenizer=tmp_path / "tokenizer").positions > 0
    with pytest.raises(UserError, match="-5 s, 300 tokens of target, 40 of prompt: expected more than 0 s"):
        estimate(config, -5, tokenizer=tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"takes \d+ positions, the language model has 512; estimate a shorter one"):
        estimate(config, targets=900, tokenizer=tmp_path / "tokenizer")
