"""The WavLM encoder: equal to transformers on a saved model, of the kind of Base and of the kind of Large."""

import shutil
from pathlib import Path

import pytest
import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.encoders.wavlm import WavLM

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
         "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
# As in the published config.json and preprocessor_config.json.
KINDS = {"base": ({"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}, False),
         "large": ({"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": False}, True)}
WANTED = "download microsoft/wavlm-large, or wavlm-base-plus, of huggingface.co"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, torch.nn.Module]]:
    """Return directories of tiny models as the hub has them, and the models; all are shared."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    found = {}
    for name, (conf, normalize) in KINDS.items():
        root = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        model = WavLMModel(WavLMConfig(**SIZES, **conf)).eval()
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3)
        model.save_pretrained(root)
        Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True).save_pretrained(root)
        found[name] = root, model
    return found


@pytest.mark.parametrize("kind", list(KINDS))
def test_equals_transformers(saved: dict, kind: str) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    root, model = saved[kind]
    encoder = WavLM(checkpoint=str(root)).eval()
    assert (encoder.num_layers, encoder.output_size, encoder.frame_shift) == (3, 16, 0.02)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(root)
    for size in (16000, 9613, 400):
        speech = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.1 + 0.05
        values = extractor(speech.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            output = model(values, output_hidden_states=True)
        hidden, lengths = encoder(speech[None], torch.tensor([size]))
        assert lengths.tolist() == [output.last_hidden_state.size(1)]
        for found, expected in zip(hidden, [*output.hidden_states[1:3], output.last_hidden_state]):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", list(KINDS))
def test_contract(saved: dict, kind: str, contract) -> None:
    root = saved[kind][0]

    def build(**conf: object) -> SpeechEncoder:
        return WavLM(checkpoint=str(root), **conf)

    assert contract.batch(build().eval(), [16000, 9613, 399, 1]) == [49, 29, 1, 1]
    contract.layers(build)
    inputs = ["model.feature_extractor.", "model.feature_projection.", "model.encoder.pos_conv_embed."]
    if kind == "base":
        inputs.append("model.encoder.layer_norm.")
    contract.freezing(build, tuple(inputs), "model.encoder.layers.0.")
    contract.saving(WavLM, {"checkpoint": str(root), "layers": [2, -1], "freeze_layers": 1})
    contract.adapters(build(freeze_layers=-1))


def test_older_names_of_weights(saved: dict, tmp_path: Path) -> None:
    root, model = saved["large"]
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(root / name, tmp_path)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {"masked_spec_embed": torch.zeros(16), "lm_head.weight": torch.zeros(3, 16)}
    for key, value in model.state_dict().items():
        for new, old in names.items():
            key = key.replace(new, old)
        state[f"wavlm.{key}"] = value
    torch.save(state, tmp_path / "pytorch_model.bin")
    speech, lengths = torch.randn(1, 9000), torch.tensor([9000])
    assert torch.equal(WavLM(checkpoint=str(tmp_path)).eval()(speech, lengths)[0],
                       WavLM(checkpoint=str(root)).eval()(speech, lengths)[0])
    del state["wavlm.encoder.layers.1.attention.out_proj.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin: the weights do not fit config.json: missing encoder.layers"
                                        r".1.attention.out_proj.bias \(1 of"):
        WavLM(checkpoint=str(tmp_path))


def test_what_is_found_and_wanted(saved: dict, tmp_path: Path) -> None:
    root = tmp_path / "model"
    shutil.copytree(saved["base"][0], root)
    (root / "preprocessor_config.json").unlink()
    for conf, message in (
        ({"checkpoint": str(tmp_path / "none")}, f"{tmp_path}/none: no such checkpoint; {WANTED}"),
        ({"checkpoint": str(root)}, f"{root}/preprocessor_config.json: no such file; {WANTED}"),
        ({"checkpoint": str(root), "rate": 8000}, "encoder_conf: wavlm takes 16000 Hz, the data have 8000"),
        ({"config": {"hidden": 3}}, "encoder_conf: config: unknown key 'hidden'; did you mean 'hidden_"),
        ({"config": {**SIZES, "num_attention_heads": 3}}, "encoder_conf: config: transformers refuses it ("),
        ({"config": {"feat_extract_norm": "none"}}, "encoder_conf: config: transformers refuses it ("),
        ({}, "encoder_conf: wavlm needs 'checkpoint' or 'config', one of them; " + WANTED),
    ):
        with pytest.raises(UserError) as error:
            WavLM(**conf)
        assert str(error.value).startswith(message)
