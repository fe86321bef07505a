"""The SenseVoice encoder: equal to funasr on a model directory in the published format; what is wrong is told."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from toy_checkpoints import SENSEVOICE, save_sensevoice

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.encoders.sensevoice import SenseVoice
from espnet_mt_llm.nets.sanm import SanmStack

WANTED = "download iic/SenseVoiceSmall of modelscope.cn"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """Return a model directory and funasr's model; both are shared, so nothing is changed in them."""
    pytest.importorskip("funasr")
    root = tmp_path_factory.mktemp("hub") / "SenseVoiceSmall"
    return root, save_sensevoice(root)


def reference(model: torch.nn.Module, root: Path, speech: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return what funasr gives for one clip ``(N,)``: the encoder's output with prompts, and those of its blocks."""
    from funasr.frontends.wav_frontend import WavFrontend

    conf = {**SENSEVOICE["frontend_conf"], "cmvn_file": str(root / "am.mvn"), "dither": 0.0}
    feats, lengths = WavFrontend(**conf)(speech[None], torch.tensor([len(speech)]))
    rows = [model.lid_dict["auto"], 1, 2, model.textnorm_dict["woitn"]]
    outputs: list[torch.Tensor] = []
    encoder = model.encoder
    hooks = [block.register_forward_hook(lambda _m, _i, output: outputs.append(output[0]))
             for block in (*encoder.encoders0, *encoder.encoders, *encoder.tp_encoders)]
    with torch.no_grad():
        prompts = model.embed(torch.tensor([rows]))
        encoded, _ = encoder(torch.cat([prompts, feats], 1), lengths + 4)
    for hook in hooks:
        hook.remove()
    return encoded, outputs


@pytest.mark.parametrize("size", [400, 1399, 16000, 20011, 33333])
def test_equals_funasr(hub: tuple[Path, torch.nn.Module], size: int) -> None:
    speech = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.1
    encoded, outputs = reference(hub[1], hub[0], speech)
    encoder = SenseVoice(checkpoint=str(hub[0])).eval()
    assert (encoder.num_layers, encoder.output_size, encoder.frame_shift) == (5, 16, 0.06)
    hidden, lengths = encoder(speech[None], torch.tensor([size]))
    assert lengths.tolist() == [encoded.size(1) - 4] == [hidden.size(2)]
    outputs[2] = hub[1].encoder.after_norm(outputs[2])
    for found, expected in zip(hidden, [*outputs[:4], encoded]):
        torch.testing.assert_close(found, expected[:, 4:], atol=1e-4, rtol=1e-3)


def test_weights_of_the_published_size() -> None:
    pytest.importorskip("funasr")
    from funasr.models.sense_voice.model import SenseVoiceEncoderSmall

    with torch.device("meta"):
        theirs = SenseVoiceEncoderSmall(560, 512, 4, 2048, 50, 20, kernel_size=11)
        ours = SanmStack(560)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_contract(hub: tuple[Path, torch.nn.Module], contract) -> None:
    def build(**conf: object) -> SpeechEncoder:
        return SenseVoice(checkpoint=str(hub[0]), **conf)

    assert contract.batch(build().eval(), [16000, 9613, 399, 1]) == [17, 10, 1, 1]
    contract.layers(build)
    contract.freezing(build, ("embed.",), "encoder.encoders0.0.")
    contract.saving(SenseVoice, {"checkpoint": str(hub[0]), "layers": [2, -1], "freeze_layers": 1})
    contract.adapters(build(freeze_layers=-1))


def test_first_layers_alone_run(hub: tuple[Path, torch.nn.Module]) -> None:
    encoder = SenseVoice(checkpoint=str(hub[0]), layers=[2])
    encoder(torch.randn(1, 9000), torch.tensor([9000]))[0].sum().backward()
    assert encoder.encoder.encoders[0].norm1.weight.grad is not None
    assert encoder.encoder.encoders[1].norm1.weight.grad is None


def test_weights_that_do_not_fit(hub: tuple[Path, torch.nn.Module], tmp_path: Path,
                                 caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "model"
    shutil.copytree(hub[0], root)
    state = torch.load(root / "model.pt")
    del state["encoder.after_norm.weight"]
    state["encoder.encoders.2.norm1.bias"] = torch.zeros(16)
    state["embed.weight"] = torch.zeros(15, 560)
    torch.save({"state_dict": state}, root / "model.pt")
    with pytest.raises(UserError) as error:
        SenseVoice(checkpoint=str(root))
    message = str(error.value)
    assert message.startswith(f"{root / 'model.pt'}: the weights do not fit config.yaml: missing encoder.after_norm")
    assert "extra encoder.encoders.2.norm1.bias (1 of" in message and "of another shape embed.weight" in message
    encoder = SenseVoice(checkpoint=str(root), allow_missing=True)
    assert "missing encoder.after_norm.weight" in caplog.text
    torch.testing.assert_close(encoder.encoder.tp_norm.weight.data, state["encoder.tp_norm.weight"])


def test_what_is_found_and_wanted(hub: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    def damaged(name: str, **texts: object) -> Path:
        shutil.copytree(hub[0], tmp_path / name)
        for file, text in texts.items():
            path = tmp_path / name / file.replace("_", ".")
            path.unlink()
            if text is not None:
                path.write_text(text if isinstance(text, str) else yaml.safe_dump({**SENSEVOICE, **text}))
        return tmp_path / name

    for root, message in (
        (tmp_path / "none", f"{tmp_path}/none: no such checkpoint; {WANTED}"),
        (damaged("a", config_yaml=None), f"{tmp_path}/a/config.yaml: no such file; {WANTED}"),
        (damaged("b", model_pt=None), f"{tmp_path}/b/model.pt: no such file; {WANTED}"),
        (damaged("c", am_mvn=None), f"{tmp_path}/c/am.mvn: no such file; {WANTED}"),
        (damaged("d", am_mvn="<Nnet>\n"), f"{tmp_path}/d/am.mvn: no numbers of <AddShift>; {WANTED}"),
        (damaged("e", model_pt="pointer"), f"{tmp_path}/e/model.pt: not weights of torch ("),
        (damaged("f", config_yaml={"model": "Paraformer"}),
         f"{tmp_path}/f/config.yaml: model is 'Paraformer', wanted SenseVoiceSmall; {WANTED}"),
        (damaged("g", config_yaml={"encoder_conf": {"normalize_before": False}}),
         f"{tmp_path}/g/config.yaml: encoder_conf: normalize_before is 'False'; wanted True"),
        (damaged("h", config_yaml={"normalize": "utterance_mvn"}), f"{tmp_path}/h/config.yaml: normalize is"),
    ):
        with pytest.raises(UserError) as error:
            SenseVoice(checkpoint=str(root))
        assert str(error.value).startswith(message)
    for conf, message in (
        ({}, "encoder_conf: sensevoice needs 'checkpoint' or 'config', one of them; " + WANTED),
        ({"checkpoint": str(hub[0]), "rate": 8000}, "the model takes 16000 Hz, the data have 8000; change --rate"),
        ({"config": {"encoder": {}}}, "encoder_conf: config: unknown key 'encoder'; did you mean 'encoder_conf'?"),
        ({"config": {"encoder_conf": {"num_block": 3}}}, "unknown key 'num_block'; did you mean 'num_blocks'?"),
        ({"config": {"frontend_conf": {"n_mel": 3}}}, "unknown key 'n_mel'; did you mean 'n_mels'?"),
        ({"config": {"encoder_conf": {"attention_heads": 3}}}, "encoder_conf: sizes that do not fit (3 heads"),
        ({"config": {"encoder_conf": {"linear_units": "x"}}}, "encoder_conf: sizes that do not fit"),
        ({"config": {"encoder_conf": 3}}, "expected 'key: value' lines"),
    ):
        with pytest.raises(UserError) as error:
            SenseVoice(**conf)
        assert message in str(error.value)
