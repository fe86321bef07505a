"""The task ume: configurations, messages, first steps as initialisation, trained models without their checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from toy_mixtures import CONFIG, DECODER, TOKENS, make_clips, train

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.owsm import Owsm
from espnet_mt_llm.inference.model import load_model
from espnet_mt_llm.models.ume import TASKS, UMEModel
from espnet_mt_llm.tasks.base import find_checkpoint, find_step, merged, set_data
from espnet_mt_llm.tasks.ume import UMETask

SYSTEMS = sorted(Path(__file__).resolve().parents[2].glob("egs2/*/mtasr1/conf/ume*"))
S2T = {
    "frontend": "default", "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80},
    "normalize": "global_mvn", "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 16, "attention_heads": 2, "attention_layer_type": "selfattn", "pos_enc_layer_type": "abs_pos",
        "cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7, "num_blocks": 2, "input_layer": "conv2d", "linear_units": 32,
        "use_ffn": True, "macaron_ffn": True, "merge_conv_kernel": 7,
    },
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("clips") / "dump")


def parsed(tmp_path: Path, config: dict) -> Any:
    """What the task makes of a configuration, as the training does."""
    (tmp_path / "tokens.txt").write_text("".join(token + "\n" for token in TOKENS))
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    return UMETask.get_parser().parse_args(["--config", str(tmp_path / "train.yaml"), "--token_list",
                                            str(tmp_path / "tokens.txt"), "--output_dir", str(tmp_path / "exp")])


def model_of(tmp_path: Path, **changes: Any) -> UMEModel:
    return UMETask.build_model(parsed(tmp_path, {**CONFIG, **changes}))


@pytest.mark.parametrize("changes, message", [
    ({"heads": ["diarizatoin"]}, r"heads: unknown head 'diarizatoin'; did you mean 'diarization'\?"),
    ({"heads": "diarization"}, r"heads: a list is expected, e.g. \[diarization\]"),
    ({"heads": []}, "no task to encode for"),
    ({"encoder_conf": {"ouput_size": 16}}, "encoder_conf: .*ouput_size"),
    ({"encoder": "owsm", "encoder_conf": {"checkpiont": "x"}},
     r"encoder_conf: unknown key 'checkpiont'; did you mean 'checkpoint'\?"),
    ({"encoder": "owsm", "encoder_conf": {"checkpoint": "nowhere"}}, "nowhere: no such checkpoint"),
    ({"rwse_conf": {"share": True}}, r"rwse_conf: unknown key 'share'; did you mean 'shared'\?"),
    ({"diarization_conf": {"blocks": 2}}, r"diarization_conf: unknown key 'blocks'; did you mean 'block'\?"),
    ({"separation_conf": {"kernal": 16}}, r"separation_conf: unknown key 'kernal'; did you mean 'kernel'\?"),
    ({"separation_conf": {"kernel": 16, "stride": 5}}, "separation_conf: kernel 16 is not a multiple of stride 5"),
    ({"recognition_conf": {"ctc_wieght": 1.0}},
     r"recognition_conf: unknown key 'ctc_wieght'; did you mean 'ctc_weight'\?"),
    ({"recognition_conf": {"blocks": {"num_block": 1}}},
     r"recognition_conf: blocks: unknown key 'num_block'; did you mean 'num_blocks'\?"),
    ({"recognition_conf": {"decoder": {"linear_unit": 1}}},
     r"recognition_conf: decoder: unknown key 'linear_unit'; did you mean 'linear_units'\?"),
    ({"count_head_conf": {"hidden": 3}, "model_conf": {"variable_speakers": True}},
     r"count_head_conf: unknown key 'hidden'; did you mean 'hidden_size'\?"),
    ({"model_conf": {"tie_permutations": "none"}},
     r"model_conf: unknown key 'tie_permutations'; did you mean 'tie_permutation'\?"),
    ({"model_conf": {"tie_permutation": "separation"}, "heads": ["diarization", "recognition"]},
     "model_conf: tie_permutation: 'separation' is none of: none, diarization, recognition"),
    ({"model_conf": {"weights": {"asr": 1}}}, "model_conf: weights: 'asr' is none of: diarization, separation"),
])
def test_bad_configuration(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_of(tmp_path, **changes)


def test_frame_shift_of_the_labels_is_the_encoders(tmp_path: Path) -> None:
    for stack, shift in ((4, 0.04), (2, 0.02)):
        conf = {**CONFIG["encoder_conf"], "frontend_conf": {"stack": stack}}
        args = parsed(tmp_path, {**CONFIG, "encoder_conf": conf})
        UMETask.build_model(args)
        assert args.frame_shift == UMETask.build_preprocess_fn(args, True).frame_shift == pytest.approx(shift)


def test_clean_signals_are_read_where_separation_is_learnt(tmp_path: Path, clips: Path) -> None:
    for heads, wanted in ((list(TASKS), True), (["diarization", "recognition"], False)):
        args = parsed(tmp_path, {**CONFIG, "heads": heads})
        set_data(args, "train", clips, UMETask.needs_sources(args))
        names = {name: kind for _, name, kind in args.train_data_path_and_name_and_type}
        assert names == {"speech": "mixture", "supervision": "text", **({"sources": "parts"} if wanted else {})}
    (tmp_path / "dump").mkdir()
    for name in ("wav.scp", "supervision", "utt2num_samples"):
        shutil.copy(clips / name, tmp_path / "dump" / name)
    args = parsed(tmp_path, CONFIG)
    set_data(args, "train", tmp_path / "dump", True)
    assert [name for _, name, _ in args.train_data_path_and_name_and_type] == ["speech", "supervision"]


@pytest.mark.parametrize("folder", SYSTEMS, ids=lambda folder: f"{folder.parts[-4]}-{folder.name}")
def test_steps_of_a_recipe_begin_with_the_ones_before(folder: Path, tmp_path: Path) -> None:
    if "../ume/" in "".join(path.read_text() for path in folder.glob("*.yaml")):
        check_steps(folder.with_name("ume"), tmp_path / "ume")
    check_steps(folder, tmp_path / folder.name)


def check_steps(folder: Path, tmp_path: Path) -> None:
    tmp_path.mkdir()
    for path in sorted(folder.glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        if config["encoder"] == "owsm":  # its checkpoint is not here; --debug trains the same parts
            config = merged(config, config["debug_conf"])
        model = UMETask.build_model(parsed(tmp_path, config))
        for init in config.get("init_param") or []:
            name, source, target = init.split(":")
            load_pretrained_model(f"{tmp_path}/{init}", model, ignore_init_mismatch=False)
            earlier = {key[len(source) + 1 :]: value for key, value in
                       torch.load(tmp_path / name, weights_only=True).items() if key.startswith(f"{source}.")}
            loaded = model.get_submodule(target).state_dict()
            assert earlier and all(torch.equal(loaded[key], value) for key, value in earlier.items())
        (tmp_path / path.stem).mkdir()
        torch.save(model.state_dict(), tmp_path / path.stem / "latest.pth")


@pytest.mark.parametrize("parts, expected", [
    ("", ":::steps"), (":", ":::steps"), ("::encoder", "::encoder:steps"), (":::rwse,heads", ":::rwse,heads,steps"),
    (":encoder:encoder", ":encoder:encoder"), (":heads:heads:heads.recognition", ":heads:heads:heads.recognition"),
])
def test_only_a_whole_model_could_bring_its_progress(tmp_path: Path, parts: str, expected: str) -> None:
    weights = tmp_path / "01" / "latest.pth"
    weights.parent.mkdir()
    weights.touch()
    assert find_step(f"01/latest.pth{parts}", tmp_path / "02") == f"{weights}{expected}"


def test_weights_of_another_system_are_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights.*--system ume --stage train"):
        find_step("../ume/02_ume_asr/latest.pth:encoder:encoder", tmp_path / "exp" / "ume_short" / "01")


def test_checkpoint_of_an_encoder_may_be_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("exp/dual/02_speech_llm")
    weights = tmp_path / "exp" / "speaker" / "01_speaker" / "latest.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    for name in ("../speaker/01_speaker", "../speaker/01_speaker/latest.pth"):
        assert find_checkpoint(name, out) == f"exp/speaker/{name.removeprefix('../speaker/')}"
    assert find_checkpoint("exp/speaker/01_speaker", out) == "exp/speaker/01_speaker"
    for published in ("downloads/whisper-large-v3", "/data/campplus_cn_common.bin", "../models/wavlm"):
        assert find_checkpoint(published, out) == published
    with pytest.raises(UserError, match="^exp/eres2net/01_speaker: no such weights.*--system eres2net --stage"):
        find_checkpoint("../eres2net/01_speaker", out)
    with pytest.raises(UserError, match="^exp/dual/01_speaker/latest.pth: no such .*run the training steps in order"):
        find_checkpoint("01_speaker/latest.pth", out)


def test_warmup_of_separation_begins_anew_from_a_whole_model(tmp_path: Path, clips: Path) -> None:
    first = torch.load(train(tmp_path, "01", clips) / "latest.pth", weights_only=True)
    out = train(tmp_path, "02", clips, init_param=["01/latest.pth"], max_epoch=2, optim_conf={"lr": 0.0})
    second = torch.load(out / "latest.pth", weights_only=True)
    assert first["steps"] > 0 and second.pop("steps") == 2 * first.pop("steps")  # of its own two epochs
    assert first.keys() == second.keys() and all(torch.equal(second[name], first[name]) for name in first)
    train(tmp_path, "02", clips, init_param=["01/latest.pth"], max_epoch=3, optim_conf={"lr": 0.0})
    resumed = torch.load(out / "latest.pth", weights_only=True)
    assert resumed["steps"] == 3 * torch.load(out.parent / "01" / "latest.pth", weights_only=True)["steps"]


def test_one_reading_stream_becomes_all(tmp_path: Path) -> None:
    """The whole way: recognition of one talker, then recognition of two, then all tasks."""
    first = model_of(tmp_path, heads=["recognition"], max_talkers=1)
    torch.save(first.state_dict(), tmp_path / "first.pth")
    second = model_of(tmp_path, heads=["recognition"])
    for part in ("encoder:encoder", "heads.recognition.ctc:heads.recognition.ctc", "rwse:rwse",
                 *(f"heads.recognition.stacks.0:heads.recognition.stacks.{k}" for k in (0, 1))):
        load_pretrained_model(f"{tmp_path}/first.pth:{part}", second, ignore_init_mismatch=False)
    torch.save(second.state_dict(), tmp_path / "second.pth")
    third = model_of(tmp_path)
    for part in ("encoder:encoder", "heads.recognition:heads.recognition"):
        load_pretrained_model(f"{tmp_path}/second.pth:{part}", third, ignore_init_mismatch=False)
    speech, lengths = torch.randn(1, 9000), torch.tensor([9000])
    with torch.no_grad():
        heard = [model.eval().hear(speech, lengths, ["recognition"]).log_probs for model in (first, second, third)]
    torch.testing.assert_close(heard[1][:, 0], heard[0][:, 0])
    torch.testing.assert_close(heard[1][:, 1], heard[0][:, 0])
    torch.testing.assert_close(heard[2], heard[1])


def hear(model: UMEModel) -> list:
    speech = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return list(model.hear(speech, torch.tensor([9000, 5000])))


def test_trained_model_is_the_one_of_its_config(tmp_path: Path, clips: Path) -> None:
    out = train(tmp_path, "01", clips, model_conf={"tie_permutation": "recognition", "separation_warmup": 7},
                recognition_conf={**CONFIG["recognition_conf"], "ctc_weight": 0.5, "decoder": DECODER},
                rwse_conf={"layer_norm": True}, diarization_conf={"num_blocks": 1, "size": 16, "attention_heads": 2})
    model, args, _ = load_model(out, "ume", "latest.pth")
    again, _, _ = load_model(out, "ume", "latest.pth")
    assert args.frame_shift == pytest.approx(0.04) and args.token_list == TOKENS and args.heads == list(TASKS)
    assert model.tie_permutation == "recognition" and model.separation_warmup == 7 and model.rwse.norms is not None
    for a, b in zip(hear(model), hear(again)):
        assert a is b is None or torch.equal(a, b)
    steps = torch.load(out / "checkpoint.pth", weights_only=False)["model"]["steps"]
    assert steps > 0 and steps == model.steps  # a training that goes on knows how far its warm-up was
    history = json.loads((out / "history.json").read_text())
    assert {f"loss_{task}" for task in TASKS} <= set(history[0]["train"])
    assert {"token_error", "frame_error"} <= set(history[0]["valid"])
    layers = json.loads((out / "layer_weights.json").read_text())
    assert len(layers) == len(history) and set(layers["1"]) == set(TASKS)


@pytest.mark.parametrize("heads", [["separation"], ["diarization"], ["recognition", "diarization"]])
def test_single_tasks_train(tmp_path: Path, clips: Path, heads: list) -> None:
    out = train(tmp_path, "01", clips, heads=heads, rwse_conf={"last_only": True})
    model, _, _ = load_model(out, "ume")
    assert list(model.heads) == [task for task in TASKS if task in heads]


def test_one_and_two_talkers_train_together(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "dump", (1, 2, 1, 2))
    out = train(tmp_path, "01", clips, model_conf={"variable_speakers": True})
    model, _, _ = load_model(out, "ume")
    assert model.count_head is not None and hear(model)[-1].shape == (2, 2)


def test_model_that_began_from_owsm_needs_no_checkpoint(tmp_path: Path, clips: Path) -> None:
    s2t = tmp_path / "s2t"
    s2t.mkdir()
    pretrained = Owsm(config=S2T)
    for value in pretrained.parameters():
        torch.nn.init.normal_(value, std=0.2)
    torch.save(pretrained.state_dict(), s2t / "model.pth")
    (s2t / "config.yaml").write_text(yaml.safe_dump(S2T))
    out = train(tmp_path, "01", clips, encoder="owsm", optim_conf={"lr": 0.0},
                encoder_conf={"checkpoint": str(s2t), "freeze_layers": 1})
    shutil.rmtree(s2t)
    model, args, _ = load_model(out, "ume", "latest.pth")
    assert "checkpoint" not in args.encoder_conf and args.frame_shift == pytest.approx(0.04)
    assert not model.encoder.encoder.encoders[0].cgmlp.channel_proj1[0].weight.requires_grad
    for name, value in pretrained.state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], value)
    lengths = torch.tensor([16000, 7000])
    frames = model.hear(torch.randn(2, 16000), lengths).lengths
    assert all(abs(int(f) * 640 - n) <= 2 * 640 for f, n in zip(frames, lengths.tolist()))
