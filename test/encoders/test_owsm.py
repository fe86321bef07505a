"""The OWSM encoder: equal to espnet2's S2T model on a checkpoint in the true format; what is wrong is told."""

import os
import shutil
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.owsm import Owsm

EXP = "exp/s2t_train_tiny"
WEIGHTS = f"{EXP}/valid.acc.ave.pth"
STATS = "exp/s2t_stats_raw/train/feats_stats.npz"
TOKENS = ["<blank>", "<unk>", "<na>", "a", "b", "<sos>", "<eos>", "<sop>"]
CONFIG = {
    "frontend": "default",
    "frontend_conf": {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80},
    "specaug": "specaug", "specaug_conf": {"apply_time_warp": False, "freq_mask_width_range": [0, 27],
                                           "time_mask_width_ratio_range": [0.0, 0.05], "num_time_mask": 10},
    "normalize": "global_mvn", "normalize_conf": {"stats_file": STATS},
    "preencoder": None, "preencoder_conf": {}, "postencoder": None, "postencoder_conf": {},
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 16, "attention_heads": 2, "attention_layer_type": "selfattn", "pos_enc_layer_type": "abs_pos",
        "rel_pos_type": "latest", "cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7, "use_linear_after_conv": False,
        "gate_activation": "identity", "num_blocks": 3, "dropout_rate": 0.1, "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1, "input_layer": "conv2d", "layer_drop_rate": 0.0, "linear_units": 32,
        "positionwise_layer_type": "linear", "use_ffn": True, "macaron_ffn": True, "merge_conv_kernel": 7,
    },
    "decoder": "transformer", "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    "ctc_conf": {}, "model": "espnet", "model_conf": {"ctc_weight": 0.3}, "init": None, "input_size": None,
    "token_list": TOKENS, "rate": 16000,
}


def make(root: Path, **changes: object) -> torch.nn.Module:
    """Train nothing, save all: an experiment directory as espnet2's S2T recipe leaves it; return its model."""
    from espnet2.tasks.s2t import S2TTask

    for folder in (EXP, Path(STATS).parent):
        (root / folder).mkdir(parents=True)
    generator = np.random.default_rng(0)
    frames = generator.normal(-5, 3, (100, 80)).astype(np.float32)
    np.savez(root / STATS, count=len(frames), sum=frames.sum(0), sum_square=np.square(frames).sum(0))
    config = {**CONFIG, **changes}
    (root / EXP / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    here = Path.cwd()
    os.chdir(root)
    try:
        model = S2TTask.build_model(Namespace(**yaml.safe_load(yaml.safe_dump(config))))
    finally:
        os.chdir(here)
    # Some of espnet2's weights start as good as zero; what they do would not be seen.
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    torch.save(model.state_dict(), root / WEIGHTS)
    return model.eval()


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """Return the directory of a tiny model and espnet2's own model; both are shared, so nothing is changed in them."""
    root = tmp_path_factory.mktemp("owsm")
    return root, make(root)


@pytest.fixture(scope="module")
def packed(exp: tuple[Path, torch.nn.Module]) -> Path:
    """Return a zip of the model zoo, packed by espnet2."""
    from espnet2.main_funcs.pack_funcs import pack

    here = Path.cwd()
    os.chdir(exp[0])
    try:
        pack({"s2t_model_file": WEIGHTS}, {"s2t_train_config": f"{EXP}/config.yaml"}, "model.zip", [STATS])
    finally:
        os.chdir(here)
    return exp[0] / "model.zip"


def reference(model: torch.nn.Module, speech: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return what espnet2's model gives for one clip: ``encode`` and the outputs of its blocks."""
    layers: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, output: layers.append(output[0]))
             for block in model.encoder.encoders]
    with torch.no_grad():
        encoded, _ = model.encode(speech.unsqueeze(0), torch.tensor([speech.numel()]))
    for hook in hooks:
        hook.remove()
    return encoded, layers


def test_equals_espnet(exp: tuple[Path, torch.nn.Module], packed: Path, tmp_path: Path) -> None:
    root, model = exp
    unpacked, plain = tmp_path / "unpacked", tmp_path / "plain"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(unpacked)
    shutil.copytree(root / EXP, plain)
    speech = torch.randn(20000, generator=torch.Generator().manual_seed(1)) * 0.1
    encoded, layers = reference(model, speech)
    for checkpoint in (packed, unpacked, plain, plain / "valid.acc.ave.pth", root / "exp"):
        encoder = Owsm(checkpoint=str(checkpoint)).eval()
        hidden, lengths = encoder(speech.unsqueeze(0), torch.tensor([20000]))
        assert hidden.shape == (3, 1, 30, 16) and lengths.tolist() == [30]
        assert (encoder.num_layers, encoder.output_size, encoder.frame_shift) == (3, 16, 0.04)
        torch.testing.assert_close(hidden[-1], encoded, atol=1e-6, rtol=1e-5)
        for found, expected in zip(hidden[:-1], layers[:-1]):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert not any(key.startswith(("decoder", "ctc")) for key in encoder.state_dict())


def test_batch_equals_single_and_espnet(exp: tuple[Path, torch.nn.Module]) -> None:
    encoder = Owsm(checkpoint=str(exp[0] / EXP)).eval()
    speech, lengths = torch.randn(4, 16000) * 0.1, torch.tensor([16000, 9613, 960, 1])
    together, frames = encoder(speech, lengths)
    assert frames.tolist() == [24, 14, 1, 1]
    for i, n in enumerate(lengths.tolist()):
        alone, count = encoder(speech[i : i + 1, :n], lengths[i : i + 1])
        assert count.tolist() == [frames[i]]
        torch.testing.assert_close(together[:, i, : frames[i]], alone[:, 0], atol=1e-5, rtol=1e-4)
        if n >= 960:
            torch.testing.assert_close(alone[-1], reference(exp[1], speech[i, :n])[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("changes", [
    {"normalize": "utterance_mvn", "normalize_conf": {}}, {"normalize": None, "normalize_conf": {}},
    {"encoder_conf": {**CONFIG["encoder_conf"], "attention_layer_type": "rel_selfattn",
                      "pos_enc_layer_type": "rel_pos", "input_layer": "conv2d8"}},
])
def test_other_configurations(tmp_path: Path, changes: dict) -> None:
    model = make(tmp_path, **changes)
    encoder = Owsm(checkpoint=str(tmp_path / EXP)).eval()
    speech = torch.randn(1, 16000) * 0.1
    torch.testing.assert_close(encoder(speech, torch.tensor([16000]))[0][-1], reference(model, speech[0])[0],
                               atol=1e-6, rtol=1e-5)
    assert encoder.frame_shift == pytest.approx(0.08 if "encoder_conf" in changes else 0.04)


def test_statistics_from_their_file(exp: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    shutil.copytree(exp[0] / "exp", tmp_path / "exp")
    state = torch.load(tmp_path / WEIGHTS)
    mean, std = state.pop("normalize.mean"), state.pop("normalize.std")
    torch.save(state, tmp_path / WEIGHTS)
    encoder = Owsm(checkpoint=str(tmp_path))
    torch.testing.assert_close(encoder.normalize.mean, mean.float())
    torch.testing.assert_close(encoder.normalize.std, std.float())
    (tmp_path / STATS).unlink()
    with pytest.raises(UserError, match=r"missing normalize.mean, normalize.std \(2 of"):
        Owsm(checkpoint=str(tmp_path))


def test_contract(exp: tuple[Path, torch.nn.Module], contract) -> None:
    def build(**conf: object) -> Owsm:
        return Owsm(checkpoint=str(exp[0] / EXP), **conf)

    contract.layers(build)
    contract.freezing(build, ("encoder.embed.",), "encoder.encoders.0.")
    contract.saving(Owsm, {"checkpoint": str(exp[0] / EXP), "allow_missing": True, "freeze_layers": 1,
                           "layers": [2, -1]})
    contract.adapters(build(freeze_layers=-1))


def test_masks_while_training_only_when_asked(exp: tuple[Path, torch.nn.Module]) -> None:
    speech = torch.randn(8000)
    for specaug in (False, True):
        encoder = Owsm(checkpoint=str(exp[0] / EXP), specaug=specaug).train()
        assert torch.equal(encoder._features(speech), encoder._features(speech)) is not specaug
        encoder.eval()
        assert torch.equal(encoder._features(speech), encoder._features(speech))


def test_weights_that_do_not_fit(exp: tuple[Path, torch.nn.Module], tmp_path: Path,
                                 caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(exp[0] / EXP, tmp_path / EXP)
    state = torch.load(tmp_path / WEIGHTS)
    del state["encoder.after_norm.weight"]
    state["encoder.encoders.3.merge_proj.bias"] = torch.zeros(16)
    state["encoder.after_norm.bias"] = torch.zeros(17)
    torch.save(state, tmp_path / WEIGHTS)
    with pytest.raises(UserError) as error:
        Owsm(checkpoint=str(tmp_path))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / WEIGHTS}: the weights do not fit config.yaml: missing encoder.after_norm")
    assert "extra encoder.encoders.3.merge_proj.bias (1 of" in message
    assert "of another shape encoder.after_norm.bias" in message and "allow_missing: true" in message
    encoder = Owsm(checkpoint=str(tmp_path), allow_missing=True)
    assert "missing encoder.after_norm.weight" in caplog.text
    torch.testing.assert_close(encoder.state_dict()["encoder.embed.out.0.bias"], state["encoder.embed.out.0.bias"])
    torch.testing.assert_close(encoder.encoder.after_norm.weight.data, torch.ones(16))


def test_what_is_found_and_wanted(exp: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    wanted = "give an ESPnet S2T model, e.g. OWSM v3.1: "
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("?")
    broken = tmp_path / "broken"
    shutil.copytree(exp[0] / EXP, broken)
    (broken / "valid.acc.ave.pth").write_bytes(b"a pointer of git lfs")
    two = tmp_path / "two"
    shutil.copytree(exp[0] / EXP, two)
    shutil.copy(two / "valid.acc.ave.pth", two / "latest.pth")
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "meta.yaml").write_text(yaml.safe_dump({"files": {"s2t_model_file": "exp/a.pth"},
                                                    "yaml_files": {"s2t_train_config": "exp/config.yaml"}}))
    for checkpoint, message in (
        (tmp_path / "none", f"{tmp_path / 'none'}: no such checkpoint; {wanted}"),
        (tmp_path / "data", f"{tmp_path / 'data'}: no model; found nothing; {wanted}"),
        (tmp_path / "README.md", f"{tmp_path / 'README.md'}: neither a directory nor a zip nor a .pth; {wanted}"),
        (broken, f"{broken}/valid.acc.ave.pth: not weights of torch ("),
        (two, f"{two}: several models: latest.pth, valid.acc.ave.pth; name the .pth itself"),
        (meta, f"{meta}/exp/config.yaml: no such file; {wanted}"),
        (tmp_path, f"{tmp_path}: several models: broken/config.yaml, two/config.yaml; name the .pth itself"),
    ):
        with pytest.raises(UserError) as error:
            Owsm(checkpoint=str(checkpoint))
        assert str(error.value).startswith(message)
    for conf, message in (({}, "encoder_conf: owsm needs 'checkpoint' or 'config', one of them"),
                          ({"checkpoint": str(exp[0] / EXP), "rate": 8000}, "config.yaml: the model takes 16000 Hz"),
                          ({"checkpoint": str(exp[0] / EXP), "freeze_layers": 4}, "freeze_layers 4 is not within"),
                          ({"config": {**CONFIG, "encoder": "conformer"}}, "encoder is 'conformer'; wanted e_branch"),
                          ({"config": {**CONFIG, "encoder_conf": {"sizes": 3}}}, "espnet2 refuses it"),
                          ({"config": {**CONFIG, "encoder_conf": {"input_layer": "linear"}}}, "wanted conv2d")):
        with pytest.raises(UserError) as error:
            Owsm(**conf)
        assert message in str(error.value)
