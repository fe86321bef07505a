"""The Whisper encoder: equal to transformers on a saved model; clips shorter and longer than its window."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.encoders.whisper import Whisper

# A window of one second, 50 frames, instead of 30.
SIZES = {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 80,
         "max_source_positions": 50}
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 60,
           "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1}
WANTED = "download openai/whisper-large-v3, or another size, of huggingface.co"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """Return the directory of a tiny model as the hub has it, and the model; both are shared."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    root = tmp_path_factory.mktemp("hub") / "whisper"
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**SIZES, **DECODER)).eval()
    for value in model.model.encoder.parameters():
        torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(root)
    return root, model.model


def reference(model: torch.nn.Module, speech: torch.Tensor, frames: int) -> list[torch.Tensor]:
    """Return the outputs of transformers for one clip ``(N,)`` padded to the window, of ``frames`` positions."""
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    feats = WhisperFeatureExtractor(chunk_length=1)(speech.numpy(), sampling_rate=16000, return_tensors="pt")
    encoder = WhisperEncoder(model.config.__class__.from_dict({**model.config.to_dict(),
                                                               "max_source_positions": frames}))
    state = model.encoder.state_dict()
    state["embed_positions.weight"] = state["embed_positions.weight"][:frames]
    encoder.load_state_dict(state)
    with torch.no_grad():
        output = encoder.eval()(feats.input_features[..., : 2 * frames], output_hidden_states=True)
    return [*output.hidden_states[1:-1], output.last_hidden_state]


@pytest.mark.parametrize("size, frames", [(16000, 50), (15900, 50), (8000, 25), (7000, 22), (321, 2), (100, 1)])
def test_equals_transformers(saved: tuple[Path, torch.nn.Module], size: int, frames: int) -> None:
    speech = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.1
    encoder = Whisper(checkpoint=str(saved[0])).eval()
    assert (encoder.num_layers, encoder.output_size, encoder.frame_shift) == (3, 16, 0.02)
    hidden, lengths = encoder(speech[None], torch.tensor([size]))
    assert lengths.tolist() == [frames] and not any("decoder" in key for key in encoder.state_dict())
    for found, expected in zip(hidden, reference(saved[1], speech, frames)):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_long_clips_are_cut_into_windows(saved: tuple[Path, torch.nn.Module]) -> None:
    encoder = Whisper(checkpoint=str(saved[0])).eval()
    speech = torch.randn(2, 40000) * 0.1
    hidden, lengths = encoder(speech, torch.tensor([40000, 16000]))
    assert lengths.tolist() == [125, 50]
    for start, end, first in ((0, 16000, 0), (16000, 32000, 50), (32000, 40000, 100)):
        alone, (frames,) = encoder(speech[:1, start:end], torch.tensor([end - start]))
        torch.testing.assert_close(hidden[:, :1, first : first + frames], alone, atol=2e-5, rtol=1e-4)


def test_contract(saved: tuple[Path, torch.nn.Module], contract) -> None:
    def build(**conf: object) -> SpeechEncoder:
        return Whisper(checkpoint=str(saved[0]), **conf)

    assert contract.batch(build().eval(), [40000, 16001, 9613, 1]) == [125, 51, 31, 1]
    assert contract.batch(build().eval(), [9613, 399]) == [31, 2]
    contract.layers(build)
    contract.freezing(build, ("encoder.conv1.", "encoder.conv2.", "encoder.embed_positions."), "encoder.layers.0.")
    contract.saving(Whisper, {"checkpoint": str(saved[0]), "layers": [2, -1], "freeze_layers": 1})
    contract.adapters(build(freeze_layers=-1))


def test_other_files_of_weights(saved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    speech, lengths = torch.randn(1, 9000), torch.tensor([9000])
    expected = Whisper(checkpoint=str(saved[0])).eval()(speech, lengths)[0]
    state = saved[1].state_dict()
    config = json.loads((saved[0] / "config.json").read_text())

    def files(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return tmp_path / name

    torch.save(state, files("bin") / "pytorch_model.bin")
    torch.save(state, files("legacy") / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    shards = {"a": {k: v for k, v in state.items() if "conv" in k}, "b": {k: v for k, v in state.items()
                                                                        if "conv" not in k}}
    root = files("shards")
    for name, part in shards.items():
        torch.save(part, root / name)
    index = {"weight_map": {key: name for name, part in shards.items() for key in part}}
    (root / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name in ("bin", "legacy", "shards"):
        found = Whisper(checkpoint=str(tmp_path / name)).eval()(speech, lengths)[0]
        torch.testing.assert_close(found, expected)
    (root / "a").unlink()
    with pytest.raises(UserError, match="shards/a: no such file; pytorch_model.bin.index.json names it"):
        Whisper(checkpoint=str(root))


def test_weights_that_do_not_fit(saved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    root = tmp_path / "model"
    shutil.copytree(saved[0], root)
    (root / "config.json").write_text(json.dumps({**json.loads((root / "config.json").read_text()),
                                                  "encoder_layers": 4, "max_source_positions": 60}))
    with pytest.raises(UserError) as error:
        Whisper(checkpoint=str(root))
    assert "model.safetensors: the weights do not fit config.json: missing layers.3." in str(error.value)
    assert "of another shape embed_positions.weight (1 of" in str(error.value)
    assert Whisper(checkpoint=str(root), allow_missing=True).num_layers == 4


def test_what_is_found_and_wanted(saved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    config = json.loads((saved[0] / "config.json").read_text())
    for name, text in (("empty", None), ("text", "{"), ("list", "[]"), ("other", '{"model_type": "wavlm"}'),
                       ("bare", json.dumps(config)), ("odd", json.dumps({**config, "encoder_attention_heads": 3}))):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "config.json").write_text(text)
    shutil.copytree(tmp_path / "bare", tmp_path / "pointer")
    (tmp_path / "pointer" / "model.safetensors").write_text("a pointer of git lfs")
    for conf, message in (
        ({"checkpoint": "none"}, f"{tmp_path}/none: no such checkpoint; {WANTED}"),
        ({"checkpoint": "empty"}, f"{tmp_path}/empty/config.json: no such file; {WANTED}"),
        ({"checkpoint": "bare/config.json"}, f"{tmp_path}/bare/config.json/config.json: no such file; {WANTED}"),
        ({"checkpoint": "text"}, f"{tmp_path}/text/config.json:1: not JSON ("),
        ({"checkpoint": "list"}, f"{tmp_path}/list/config.json: not a mapping"),
        ({"checkpoint": "other"}, f"{tmp_path}/other/config.json: model_type is 'wavlm', wanted whisper; {WANTED}"),
        ({"checkpoint": "bare"}, f"{tmp_path}/bare: no model.safetensors and no pytorch_model.bin; {WANTED}"),
        ({"checkpoint": "pointer"}, f"{tmp_path}/pointer/model.safetensors: not weights of torch ("),
        ({"checkpoint": "odd"}, f"{tmp_path}/odd/config.json: transformers refuses it ("),
        ({"checkpoint": "bare", "rate": 8000}, "encoder_conf: whisper takes 16000 Hz, the data have 8000"),
        ({}, "encoder_conf: whisper needs 'checkpoint' or 'config', one of them; " + WANTED),
        ({"config": {"encoder_layer": 3}}, "encoder_conf: config: unknown key 'encoder_layer'; did you mean 'encoder_"),
    ):
        if "checkpoint" in conf:
            conf["checkpoint"] = str(tmp_path / conf["checkpoint"])
        with pytest.raises(UserError) as error:
            Whisper(**conf)
        assert str(error.value).startswith(message)
