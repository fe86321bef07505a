"""The task speech_llm: steps of both systems, small checkpoints, resumption, cached frames, messages."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_speech_llm import CONFIG, DUAL, EXTRACTOR, LLM, arguments, make_data, parsed, save_published, train

from espnet_mt_llm.bin import pack_model
from espnet_mt_llm.common import UserError, load_yaml
from espnet_mt_llm.inference.model import load_model
from espnet_mt_llm.inference.pack import pack
from espnet_mt_llm.models.speech_llm import SpeechLLM
from espnet_mt_llm.tasks.speech_llm import PARTS, SpeechLLMTask
from espnet_mt_llm.text.llm_tokenizer import train_tokenizer
from espnet_mt_llm.train import features

S2T = {
    "frontend": "default", "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80},
    "normalize": "utterance_mvn", "encoder": "e_branchformer",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "attention_layer_type": "selfattn",
                     "pos_enc_layer_type": "abs_pos", "cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7, "num_blocks": 1,
                     "input_layer": "conv2d", "linear_units": 32, "use_ffn": True, "merge_conv_kernel": 7},
}
LORA = {"rank": 2, "alpha": 4}
BALANCED = {"loss": "balanced", "floor": 1.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, a tokenizer, and a published language model."""
    root = tmp_path_factory.mktemp("speech_llm")
    make_data(root)
    save_published(root / "qwen")
    return root


@pytest.fixture
def work(root: Path, tmp_path: Path) -> Path:
    """A directory of one's own with the tokenizer; the clips stay in ``root``."""
    shutil.copytree(root / "tokenizer", tmp_path / "tokenizer")
    return tmp_path


def steps(root: Path) -> dict[str, dict]:
    """Four steps as those of the dual-encoder system, on a published language model."""
    llm = {"tokenizer": None, "llm_conf": {"checkpoint": str(root / "qwen"), "lora": LORA}, "new_tokens": ["<here>"]}
    joint = {**DUAL, **llm, "train_parts": ["adapter", "speaker_adapter", "llm_lora"]}
    return {
        "01": {**llm, "format": "sc_suffix", "prompt": "dual", "train_parts": ["adapter", "llm_lora"]},
        "02": {**joint, "init_param": ["01/latest.pth"]},
        "03": {**joint, "init_param": ["02/latest.pth"], "model_conf": {"loss": "asr_spk"}, "registration": "mixed",
               "concatenate": {"seconds": 2.0, "speakers": 4}, "batch_positions": 400, "max_epoch": 3,
               "speed_factors": [0.9, 1.0]},
        "04": {**joint, "init_param": ["03/latest.pth"], "model_conf": BALANCED, "registration": "mixed",
               "encoder_lora": LORA, "train_parts": [*joint["train_parts"], "encoder_lora"]},
    }


def state(path: Path, name: str = "latest.pth") -> dict[str, torch.Tensor]:
    return torch.load(path / name, weights_only=True)


def history(out: Path) -> list[dict]:
    return json.loads((out / "history.json").read_text())


def logits(model: SpeechLLM) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    speech, lengths = torch.randn(2, 8000, generator=g), torch.tensor([8000, 5000])
    with torch.no_grad():
        embeds, mask = model.prepare(speech, lengths, torch.tensor([[3, -1, 4]] * 2), torch.tensor([3, 3]))
        return model.llm.logits(model.llm.hidden(embeds, mask))


def test_four_steps_and_a_resumption_in_the_third(root: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained moves; what is published is in no checkpoint; a killed step ends as an uninterrupted one."""
    clips, found = root / "dump", {}
    for step, conf in steps(root).items():
        found[step] = state(train(work, clips, step, **conf))
        frozen = {name for name in found[step] if name.startswith("llm.") and "lora_" not in name}
        assert frozen == {f"llm.model.{part}.new_rows" for part in ("model.embed_tokens", "lm_head")}
    moved = {step: {name.split(".")[0] if "lora_" not in name else name.split(".")[0] + "_lora"
                    for name, value in found[step].items()
                    if name not in found[before] or not torch.equal(value, found[before][name])}
             for before, step in (("01", "02"), ("02", "03"), ("03", "04"))}
    joint = {"adapter", "layout", "speaker_stream", "speaker_adapter", "llm", "llm_lora"}
    assert moved["02"] == joint | {"speaker_encoder"} and moved["03"] == joint | {"registration"}
    assert moved["04"] == moved["03"] | {"encoder_lora"}
    assert {"masked_clean", "masked_overlapped", "acc", "acc_spk"} <= set(history(work / "exp" / "04")[0]["valid"])

    shutil.copytree(work / "exp" / "03", work / "whole")
    shutil.rmtree(work / "exp" / "03")
    train(work, clips, "03", **{**steps(root)["03"], "max_epoch": 1})
    forward, calls = SpeechLLM.forward, []

    def killed(self: SpeechLLM, **batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(SpeechLLM, "forward", killed)
    with pytest.raises(KeyboardInterrupt):  # in the second epoch, behind its first batch
        train(work, clips, "03", **steps(root)["03"])
    monkeypatch.setattr(SpeechLLM, "forward", forward)
    train(work, clips, "03", **steps(root)["03"])
    again, whole = state(work / "exp" / "03"), state(work / "whole")
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)


def test_reloaded_adapters_give_the_same_logits(root: Path, work: Path) -> None:
    out = train(work, root / "dump", "01", **{**steps(root)["01"], "optim_conf": {"lr": 0.1}})
    model, args, path = load_model(out, "speech_llm", "latest.pth")
    assert args.llm_conf["checkpoint"] and path.name == "latest.pth"
    again = SpeechLLMTask.build_model(parsed(work, root / "dump", "again", **steps(root)["01"])).eval()
    assert not torch.allclose(logits(model), logits(again))
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(again))
    merged = {name: value.clone() for name, value in model.llm.state_dict().items()}
    assert any("base_layer" in name for name in merged)  # all of it is in the part itself


def test_a_frozen_encoder_that_an_earlier_step_has_trained_is_written(root: Path, work: Path) -> None:
    """It is not as published any more."""
    import yaml

    from espnet_mt_llm.encoders.owsm import Owsm

    (work / "s2t").mkdir()
    pretrained = Owsm(config=S2T)
    torch.save(pretrained.state_dict(), work / "s2t" / "model.pth")
    (work / "s2t" / "config.yaml").write_text(yaml.safe_dump(S2T))
    conf = {"encoder": "owsm", "encoder_conf": {"checkpoint": str(work / "s2t")}}
    frozen = state(train(work, root / "dump", "01", **conf))
    assert not any(name.startswith("encoder.") for name in frozen)
    trained = train(work, root / "dump", "02", **conf, init_param=["01/latest.pth"],
                    train_parts=["adapter", "llm", "encoder"])
    assert "checkpoint" not in load_model(trained, "speech_llm")[1].encoder_conf
    out = train(work, root / "dump", "03", **conf, init_param=["02/latest.pth"])
    written = {name for name in state(out) if name.startswith("encoder.")}
    changed = {f"encoder.{name}" for name, value in pretrained.state_dict().items()
               if not torch.equal(value, state(trained)[f"encoder.{name}"])}
    assert written == changed and changed
    model = load_model(out, "speech_llm", "latest.pth")[0]
    assert all(torch.equal(model.state_dict()[name], state(trained)[name]) for name in written)
    part = train(work, root / "dump", "04", **conf, init_param=["02/latest.pth:encoder:encoder"])
    assert {name for name in state(part) if name.startswith("encoder.")} == changed


def test_half_a_checkpoint_to_begin_from_is_named(root: Path, work: Path) -> None:
    first = train(work, root / "dump", "01")
    whole = (first / "latest.pth").read_bytes()
    (first / "latest.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"01/latest\.pth: torch cannot read this checkpoint; copy it again, or train"):
        train(work, root / "dump", "02", init_param=["01/latest.pth"])


def test_parts_that_are_frozen_stay_as_they_are(root: Path, work: Path) -> None:
    conf = {**DUAL, "llm_conf": {"config": LLM, "lora": LORA}, "encoder_lora": LORA}
    groups = {"adapter": ("adapter.", "layout."), "speaker_adapter": ("speaker_stream.", "speaker_adapter."),
              "encoder": ("encoder.",), "llm": ("llm.",), "speaker_encoder": ("speaker_encoder.",)}
    for parts in (["adapter"], ["encoder", "encoder_lora"], ["llm_lora", "speaker_adapter"], ["speaker_encoder"],
                  list(PARTS)):
        model = SpeechLLMTask.build_model(parsed(work, root / "dump", **{**conf, "train_parts": parts})).train()
        learns = set()
        for name, p in model.named_parameters():
            group = next(g for g, prefixes in groups.items() if name.startswith(prefixes))
            learns |= {group + ("_lora" if "lora_" in name else "")} if p.requires_grad else set()
        assert learns == set(parts)
        for part, module in (("encoder", model.encoder), ("speaker_encoder", model.speaker_encoder)):
            modes = {m.training for n, m in module.named_modules() if n and "lora" not in n}
            assert modes == ({True} if part in parts else {False}), (part, parts)


def test_adapters_that_are_not_trained_have_no_dropout(root: Path, work: Path) -> None:
    lora = {**LORA, "dropout": 0.9}
    conf = {**DUAL, "llm_conf": {"config": LLM, "lora": lora}, "encoder_lora": lora}
    given = torch.randn(1, 5, LLM["hidden_size"], generator=torch.Generator().manual_seed(0))
    for parts in (["adapter"], ["adapter", "llm"], ["encoder", "llm_lora"], ["encoder_lora"]):
        model = SpeechLLMTask.build_model(parsed(work, root / "dump", **{**conf, "train_parts": parts}))
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights.data)
        for _ in range(2):  # as the task gives it, and in a later epoch
            for part in ("encoder", "llm"):
                modes = {m.training for n, m in getattr(model, part).named_modules() if ".lora_dropout" in n}
                assert modes == {f"{part}_lora" in parts}, (part, parts)
            same = torch.equal(model.llm.hidden(given), model.llm.hidden(given))
            assert same == ("llm_lora" not in parts)
            model.eval()
            assert torch.equal(model.llm.hidden(given), model.llm.hidden(given))
            model.train()


def test_text_first_then_both_systems(root: Path, work: Path) -> None:
    """A small language model of one's own: a text step, then adapters with registration."""
    clips = root / "dump"
    first = train(work, clips, "01", layout="none", train_parts=["llm"], registration="mixed")
    assert all(name.startswith("llm.") for name in state(first))
    second = train(work, clips, "02", init_param=["01/latest.pth"], train_parts=["adapter", "speaker_adapter"],
                   num_workers=1, registration="mixed", registration_conf={"max_distractors": 2},
                   projector="transformer", projector_conf={"heads": 2, "feed_forward": 16})
    words = {name: value for name, value in state(first).items()}
    assert all(torch.equal(state(second)[name], value) for name, value in words.items())
    out = train(work, clips, "03", **{**DUAL, "layout": "time_concat", "layout_conf": {"anchors": 40}},
                init_param=["01/latest.pth"], feature_cache=True)
    model, args, _ = load_model(out, "speech_llm")
    assert args.frame_shift == pytest.approx(0.04) and model.layout.length(40) == 2 * (1 + 40 + 2)
    assert logits(model).shape[-1] == len(SpeechLLMTask.tokenizer(args))
    archive = work / "model.zip"
    assert "tokenizer/tokenizer.json" in pack(out, archive)
    with zipfile.ZipFile(archive) as f:
        f.extractall(work / "packed")
    # What lies at the tokenizer's old place by now may be another recipe's.
    train_tokenizer(["SOME OTHER WORDS"], work / "tokenizer", "word")
    assert load_model(work / "packed", "speech_llm")[1].tokenizer == str(work / "packed" / "tokenizer")
    shutil.rmtree(work / "tokenizer")
    torch.testing.assert_close(logits(load_model(work / "packed", "speech_llm")[0]), logits(model))


def test_voices_first_then_voices_in_the_audio(root: Path, work: Path) -> None:
    """Whom a voice belongs to is learnt without audio; what has learnt it goes on where it has to be heard."""
    clips, voices = work / "dump", {"loss": "asr_spk", "voice_weight": 1.0, "voice_layer": 1}
    shutil.copytree(root / "dump", clips)
    everything = ["adapter", "speaker_adapter", "llm"]
    first = train(work, clips, "01", layout="none", registration="mixed", registration_conf={"max_distractors": 2},
                  train_parts=everything, model_conf=voices)
    assert {"registration", "answer_voice", "llm"} <= {name.split(".")[0] for name in state(first)}
    assert 0 < history(first)[0]["valid"]["loss_answer_voice"] < 2
    init = {"init_param": [f"01/latest.pth:{part}:{part}" for part in ("llm", "answer_voice")]}
    heard = train(work, clips, "02", **init, train_parts=everything, model_conf=voices, registration="mixed",
                  registration_conf={"max_distractors": 2}, concatenate={"seconds": 2.0, "speakers": 4, "shared": True},
                  batch_positions=400, feature_cache=True)
    stream = train(work, clips, "03", **{**DUAL, **init}, model_conf=voices)
    for out, names in ((heard, {"loss_voice", "loss_answer_voice"}), (stream, {"loss_answer_voice"})):
        assert {name for name in history(out)[0]["valid"] if "voice" in name} == names
        assert not torch.equal(state(out)["answer_voice.weight"], state(first)["answer_voice.weight"])


def test_the_encoder_learns_voices_and_words_by_itself_and_keeps_what_it_knows(root: Path, work: Path) -> None:
    """At several speeds, with the voices of those speeds; the next step goes on from it."""
    clips = work / "dump"
    shutil.copytree(root / "dump", clips, ignore=shutil.ignore_patterns("enroll"))
    words = train(work, clips, "01", train_parts=["adapter", "llm"])
    keep = {"loss": "keep", "voice_weight": 2.0, "ctc_weight": 1.0}
    init = ["01/latest.pth", "01/latest.pth:encoder:before"]
    first = train(work, clips, "02", train_parts=["encoder"], model_conf=keep, speed_factors=[0.9, 1.0],
                  init_param=init)
    assert set(history(first)[0]["valid"]) == {"loss", "loss_keep", "loss_voice", "loss_ctc"}
    assert len(list((clips / "enroll").glob("*-0.9"))) == 1
    old, new = state(words), state(first)
    for name, value in old.items():
        if name.startswith("encoder."):
            assert torch.equal(new[name.replace("encoder.", "before.", 1)], value)
        else:
            assert torch.equal(new[name], value)
    assert any(not torch.equal(new[name], old[name]) for name in old if name.startswith("encoder."))
    init = ["01/latest.pth", "02/latest.pth:encoder:encoder"]
    second = state(train(work, clips, "03", init_param=init, train_parts=["adapter"], model_conf={"voice_weight": 1.0}))
    assert all(torch.equal(second[name], new[name]) for name in old if name.startswith("encoder."))
    assert not any(name.startswith("before.") for name in second)


def test_voices_are_learnt_beside_a_frozen_speech_encoder(root: Path, work: Path) -> None:
    """No encoder from before is needed; frames are cached for the next step, each mean_window its own."""
    clips = work / "dump"
    shutil.copytree(root / "dump", clips, ignore=shutil.ignore_patterns("enroll", "features"))
    words = state(train(work, clips, "01", train_parts=["adapter", "llm"]))
    aware = {"encoder": "speaker_aware", "encoder_conf": {"speech_conf": CONFIG["encoder_conf"], "layers": [-1],
                                                          "extractor_conf": EXTRACTOR}}
    frozen = {**aware, "encoder_conf": {**aware["encoder_conf"], "freeze_layers": -1}}
    init = ["01/latest.pth:encoder:encoder.speech", "01/latest.pth:llm:llm"]
    out = train(work, clips, "02", **frozen, train_parts=["encoder"], init_param=init,
                model_conf={"loss": "keep", "voice_weight": 1.0})
    first = state(out)
    assert history(out)[0]["valid"]["loss_keep"] == 0 < history(out)[0]["valid"]["loss_voice"]
    assert not any(name.startswith("before.") for name in first)
    assert all(torch.equal(first[name.replace("encoder.", "encoder.speech.", 1)], value)
               for name, value in words.items() if name.startswith("encoder."))
    init = ["02/latest.pth:encoder:encoder", "01/latest.pth:llm:llm"]
    for step, window in (("03", 1.0), ("04", 0.5)):
        conf = {**aware, "encoder_conf": {**aware["encoder_conf"], "mean_window": window}}
        out = train(work, clips, step, **conf, train_parts=["adapter"], feature_cache=True, init_param=init,
                    model_conf={"voice_weight": 1.0})
        assert all(torch.equal(value, first[name]) for name, value in state(out).items() if name.startswith("encoder."))
    assert len(list((clips / "features").iterdir())) == 2


def test_an_extractor_of_ones_own_is_written_into_the_checkpoints(root: Path, work: Path) -> None:
    from espnet_mt_llm.encoders.campplus import CAMPPlus

    step = work / "exp" / "speaker"
    step.mkdir(parents=True)
    torch.save(CAMPPlus(frozen=False, **EXTRACTOR).state_dict(), step / "latest.pth")
    (step / "config.yaml").write_text(json.dumps({"encoder": "campplus", "encoder_conf": EXTRACTOR, "rate": 16000}))
    (step / "history.json").write_text("[]")
    conf = {**DUAL, "speaker_encoder_conf": {"checkpoint": "speaker/latest.pth"}}  # beside the step's own directory
    out = train(work, root / "dump", "01", **conf)
    published = work / "campplus_cn_common.bin"
    torch.save(torch.load(step / "latest.pth"), published)
    other = train(work, root / "dump", "02", **{**conf, "speaker_encoder_conf": {**EXTRACTOR, "checkpoint":
                                                                              str(published)}})
    shutil.rmtree(step)
    model, args, _ = load_model(out, "speech_llm")
    assert "checkpoint" not in args.speaker_encoder_conf
    torch.testing.assert_close(model.speaker_encoder.state_dict(), torch.load(published))
    assert not any(name.startswith("speaker_encoder") for name in state(other))
    torch.testing.assert_close(load_model(other, "speech_llm")[0].speaker_encoder.state_dict(), torch.load(published))


def test_cached_frames(root: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = work / "dump"
    shutil.copytree(root / "dump", clips)
    conf = {**DUAL, "num_workers": 0}
    losses = {flag: history(train(work, clips, f"cache_{flag}", **conf, feature_cache=flag))[0]["valid"]["loss"]
              for flag in (True, False)}
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    folders = list((clips / "features").iterdir())
    assert len(folders) == 1 and {p.name for p in folders[0].iterdir()} == {
        f"{name}.0.{kind}" for name in ("semantic", "speaker") for kind in ("ark", "scp")}

    heard = []
    monkeypatch.setattr(SpeechLLM, "hear", lambda self, *a: heard.append(1))
    train(work, clips, "cache_True", **{**conf, "max_epoch": 2}, feature_cache=True)
    assert not heard  # neither in the epoch nor before
    monkeypatch.undo()

    train(work, clips, "layers", **{**conf, "encoder_conf": {**CONFIG["encoder_conf"], "num_blocks": 2}},
          feature_cache=True)
    assert len(list((clips / "features").iterdir())) == 2
    later = folders[0].stat().st_mtime + 100
    os.utime(clips / "mixtures.jsonl", (later, later))
    assert not any(features._entries(folders[0], ("semantic", "speaker"), clips / "mixtures.jsonl").values())


ERES2NETV2 = {"embedding_size": 8, "channels": 4, "base_width": 26, "scale": 2, "expansion": 1,
              "num_blocks": [1, 1, 1, 1]}


@pytest.mark.parametrize("extractor, ratio", [
    ({}, 2.0),  # CAM++ with frames of 20 ms, beside 40
    ({"speaker_encoder": "eres2netv2", "speaker_encoder_conf": ERES2NETV2}, 0.5),  # frames of 80 ms
])
def test_cached_frames_of_clips_in_a_row(root: Path, work: Path, monkeypatch: pytest.MonkeyPatch, extractor: dict,
                                         ratio: float) -> None:
    rows: dict[str, list] = {}
    forward = SpeechLLM.forward

    def keep(self: SpeechLLM, *args: Any, **batch: Any) -> Any:
        if self.training:
            rows.setdefault(name, []).append(batch)
        return forward(self, *args, **batch)

    monkeypatch.setattr(SpeechLLM, "forward", keep)
    conf = {**DUAL, **extractor, "num_workers": 0, "concatenate": {"seconds": 6, "speakers": 4, "shared": True}}
    for name, flag in (("cached", True), ("heard", False)):
        train(work, root / "dump", name, **conf, feature_cache=flag)
    seen = 0
    for cached, heard in zip(rows["cached"], rows["heard"], strict=True):
        assert cached["utt_id"] == heard["utt_id"] and torch.equal(cached["target"], heard["target"])
        for i, row in enumerate(cached["utt_id"]):
            seen += " " in row
            seconds = heard["speech_lengths"][i] / 16000
            frames, voices = cached["semantic_lengths"][i], cached["speaker_lengths"][i]
            assert frames == pytest.approx(seconds / 0.04, abs=2 + 2 * row.count(" "))
            assert abs(voices - ratio * frames) <= 2  # side by side to the end
    assert seen


def test_debug_run(root: Path, work: Path) -> None:
    out = train(work, root / "dump", "01", debug=True, max_epoch=9, llm_conf={"checkpoint": "nowhere"},
                debug_conf={"llm_conf": {"config": LLM, "checkpoint": None}}, format="sot")
    assert len(history(out)) == 2


def test_options_of_the_command_win_over_debug(root: Path, work: Path) -> None:
    command = arguments(work, root / "dump", "01", debug=True, debug_conf={"batch_positions": 200})
    SpeechLLMTask.train([*command, "--max_epoch", "1", "--batch_positions=240"])
    made = load_yaml(work / "exp/01/config.yaml")
    assert (made["max_epoch"], made["batch_positions"], made["num_iters_per_epoch"]) == (1, 240, 3)
    # The driver gives every step a tokenizer; so it can be taken back.
    command = arguments(work, root / "dump", "02", debug=True)
    SpeechLLMTask.train([*command, "--max_epoch", "1", "--debug_conf", "max_epoch=2"])
    assert load_yaml(work / "exp/02/config.yaml")["max_epoch"] == 2


@pytest.mark.parametrize("changes, message", [
    ({"train_parts": ["adaptor"]}, r"train_parts: unknown part 'adaptor'; did you mean 'adapter'\?"),
    ({"train_parts": "adapter"}, r"train_parts: 'adapter'; a list is expected, e.g. \[adapter\]"),
    ({"train_parts": []}, "train_parts is empty; say what this step trains; this model has adapter, llm"),
    ({"train_parts": ["llm_lora"]}, "this model has no llm_lora to train; it has adapter, llm"),
    ({"layout": "none"}, "this model has no adapter to train; it has llm"),
    ({"layout": "interleave", "speaker_encoder": None}, "speaker_encoder is missing; the layout 'interleave' needs"),
    ({"registration": "match", "speaker_encoder": None}, "speaker_encoder is missing; the registration 'match' needs"),
    ({"registration": "match", "train_parts": ["speaker_encoder"]}, "registration takes embeddings from a frozen"),
    ({"registration": "match", "format": "sot"}, "the format sot names nobody"),
    ({"registration": "over", "registration_conf": {"max_distractor": 3}}, "did you mean 'max_distractors'"),
    ({"layout_conf": {"chunks": 3}, "layout": "interleave"}, r"layout_conf: unknown key 'chunks'; did you mean"),
    ({"projector_conf": {"hiden": 3}}, r"projector_conf: unknown key 'hiden'; did you mean 'hidden'\?"),
    ({"encoder_conf": {"layer": [1]}}, "encoder_conf: "),
    ({"encoder_lora": {"targets": ["linear_x"]}}, "encoder_lora: targets: there is no layer 'linear_x'"),
    ({"llm_conf": {"checkpiont": "x"}}, r"llm_conf: unknown key 'checkpiont'; did you mean 'checkpoint'\?"),
    ({"model_conf": {"thresold": 0}}, r"model_conf: unknown key 'thresold'; did you mean 'threshold'\?"),
    ({"chunk_conf": {"sizes": 0.4}, "layout": "interleave"}, "chunk_conf: sizes: 0.4 is no list of seconds"),
    ({"tokenizer": None}, "tokenizer is missing; make one"),
    ({"feature_cache": True, "train_parts": ["encoder"]}, "feature_cache .* excludes train_parts: encoder"),
    ({"feature_cache": True, "speed_factors": [0.9]}, "feature_cache .* excludes speed_factors"),
    ({"model_conf": {"loss": "keep"}}, "loss: keep is that of the encoder alone; give train_parts encoder or"),
    ({"model_conf": {"loss": "keep"}, "layout": "none", "train_parts": ["encoder"]}, "loss: keep .* and a layout"),
    ({"model_conf": {"loss": "keep", "ctc_weight": 1.0}, "train_parts": ["encoder"]},
     "loss: keep: .* init_param .*:encoder:before"),
    ({"model_conf": {"loss": "keep"}, "train_parts": ["encoder"]},
     "loss: keep alone teaches the encoder nothing; give model_conf voice_weight or ctc_weight"),
    ({"model_conf": {"loss": "keep", "ctc_weight": 1.0}, "train_parts": ["encoder"], "encoder": "speaker_aware",
      "encoder_conf": {"freeze_layers": -1}}, "the speech encoder is frozen and learns no words"),
    ({"model_conf": {"loss": "keep", "voice_weight": 1.0}, "train_parts": ["encoder_lora"], "encoder": "speaker_aware",
      "encoder_conf": {"freeze_layers": -1}, "encoder_lora": LORA}, "loss: keep: .* init_param .*:encoder:before"),
    ({"encoder": "speaker_aware", "encoder_conf": {"speech_conf": {"blocks": 2}}}, "encoder_conf: .*blocks"),
    ({"encoder": "speaker_aware", "encoder_conf": {"extractor_conf": {"size": 2}}}, "campplus: .*size"),
    ({"encoder": "speaker_aware", "encoder_conf": {"mean_window": -1}}, "mean_window: -1; seconds above 0"),
    ({**DUAL, "chunk_conf": {"mean_window": "1 s"}}, "chunk_conf: mean_window: '1 s' are no seconds above 0"),
    ({"model_conf": {"ctc_weight": 1.0}}, "ctc_weight is of the encoder that learns by itself; give loss: keep"),
    ({"model_conf": {"loss": "keep", "ctc_weight": "much"}, "train_parts": ["encoder"]},
     "ctc_weight: 'much'; a number from 0 on"),
    ({"model_conf": {"voice_weight": 1}, "speaker_encoder": None}, "voice_weight: speaker_encoder is missing"),
    ({"model_conf": {"voice_weight": 1, "voice_layer": 9}}, "voice_layer: 9 of 2 layers, with voice_weight"),
    ({"model_conf": {"voice_layer": 1}}, "expected 1 to 2, and a weight above 0"),
    ({"model_conf": {"voice_weight": 1, "voice_scale": 0}}, "voice_scale: 0, with voice_weight 1; expected both"),
    ({"model_conf": {"voice_scale": 20}}, "voice_scale: 20, with voice_weight 0"),
    ({"concatenate": {"second": 3}}, r"concatenate: unknown key 'second'; did you mean 'seconds'\?"),
    ({"concatenate": {"seconds": 3}, "batch_positions": 0}, "concatenate needs batch_positions"),
    ({"mixed_batches": True}, "mixed_batches and batch_positions are two ways"),
    ({"batch_positions": 10}, "clip 'c0' of .* s takes .* positions, a batch has 10"),
    ({"max_talkers": 1}, "2 speakers for 1 ids"),
    # Values of a wrong type; the line is named where the value is one of the first level.
    ({"train_parts": None}, r"yaml:\d+: train_parts: None; a list is expected"),
    ({"new_tokens": "<SC>"}, r"yaml:\d+: new_tokens: '<SC>'; a list is expected, e.g. \[<SC>\]"),
    ({"new_tokens": [5]}, r"new_tokens: \[5\]; a list is expected"),
    ({"init_param": "01_x/latest.pth"}, r"init_param: '01_x/latest.pth'; a list is expected, e.g. \[01_x/latest.pth\]"),
    ({"speed_factors": 1.1}, r"speed_factors: 1.1; a list is expected"),
    ({"talkers": 2}, r"talkers: 2; a list is expected"),
    ({"concatenate": True}, "concatenate: True; 'key: value' lines are expected"),
    ({"tokenizer": 5}, "tokenizer: 5; a word is expected"),
    ({"encoder_conf": {"checkpoint": 5}}, "encoder_conf: checkpoint: 5; a file or folder is expected"),
    ({"ngpu": 1}, "ngpu: 1, but torch finds no GPU here; give --ngpu 0"),
    ({"max_epoch": 0}, "max_epoch: 0; a whole number of at least 1 is expected"),
    ({"max_epoch": "many"}, "max_epoch: 'many'; a whole number is expected"),
    ({"grad_clip": "1e-1"}, "grad_clip: '1e-1'; a number is expected; with an exponent YAML reads 1.0e-3"),
    ({"feature_cache": "maybe"}, "feature_cache: 'maybe'; true or false is expected"),
    ({"layout": "interleaved"}, r"layout: 'interleaved'; did you mean 'interleave'\?"),
    ({"model_conf": {"voice_weight": "abc"}}, "model_conf: voice_weight: 'abc'; a number from 0 on"),
    ({"model_conf": {"floor": "two"}}, "model_conf: floor: 'two' is no number"),
    ({"model_conf": {"voice_weight": 1.0, "voice_layer": 1.5}}, "voice_layer: 1.5 is no whole number"),
    ({"layout": "time_concat", "layout_conf": {"anchors": "many"}}, "anchors: 'many'; a whole number of at least 1"),
    ({"layout": "interleave", "layout_conf": {"chunk": 5.5}}, "layout_conf: chunk: 5.5 is no whole number"),
    ({"layout": "interleave", "chunk_conf": {"sizes": ["a"]}}, "sizes: .* is no list of seconds"),
    ({"layout": "time_concat", "layout_conf": {"anchors": 1, "chunk": 2},
      "train_parts": ["adapter", "speaker_adapter", "llm"]}, "layout: .* see layout_conf, or cut shorter clips"),
    ({"registration": "match", "registration_conf": {"num_stretches": 1.5}}, "num_stretches: 1.5 is no whole number"),
    ({"registration": "match", "registration_conf": {"shuffle_names": True, "names": 5}}, "names: 5 is no file"),
    ({"llm_conf": {"config": {**LLM, "num_attention_heads": 3}}}, "hidden_size 16 is no multiple of .* 3; change one"),
])
def test_bad_configuration(root: Path, work: Path, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
                           ) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        train(work, root / "dump", **changes)


@pytest.mark.parametrize("changes, words", [
    ({"llm_conf": {"config": LLM, "lora": {"rank": 3}}, "train_parts": ["adapter", "llm_lora"]}, "lora_A.*size mismatch"),
    ({"projector_conf": {"hidden": 7}}, "adapter.*size mismatch"),
    ({"llm_conf": {"config": LLM}, "train_parts": ["adapter", "llm"]}, "Unexpected key.*lora_"),
])
def test_weights_that_do_not_fit_a_step(root: Path, work: Path, changes: dict, words: str) -> None:
    first = {"llm_conf": {"config": LLM, "lora": {"rank": 2}}, "train_parts": ["adapter", "llm_lora"]}
    train(work, root / "dump", "01", **first)
    with pytest.raises(UserError, match="exp/02: weights do not fit this configuration: ") as caught:
        train(work, root / "dump", "02", **{**first, **changes}, init_param=["01/latest.pth"])
    said = str(caught.value)
    assert "01/latest.pth" in said and re.search(words, said) and len(said) < 1500


def test_a_clip_without_its_transcript(root: Path, work: Path) -> None:
    clips = work / "dump"
    shutil.copytree(root / "dump", clips)
    lines = (clips / "supervision").read_text().splitlines(keepends=True)
    (clips / "supervision").write_text("".join(lines[1:]))
    with pytest.raises(UserError, match="supervision: the clip 'c0' is not there; make the clips again"):
        train(work, clips)


def test_a_longer_training_goes_on_in_the_new_schedule(root: Path, work: Path) -> None:
    conf = {"optim": "adam", "optim_conf": {}, "scheduler": "onecyclelr", "num_iters_per_epoch": 4,
            "scheduler_conf": {"max_lr": 0.01, "pct_start": 0.5, "cycle_momentum": False}}
    whole = train(work, root / "dump", "whole", **conf, max_epoch=3)
    out = train(work, root / "dump", "01", **conf, max_epoch=1)
    first = history(out)[0]["train"]["optim0_lr0"]
    out = train(work, root / "dump", "01", **conf, max_epoch=3)
    rates = [h["train"]["optim0_lr0"] for h in history(out)]
    assert len(rates) == 3 and rates[0] == first
    # The rates of the steps to come are those of a training that was as long from the start.
    assert rates[1:] == pytest.approx([h["train"]["optim0_lr0"] for h in history(whole)][1:])


def test_parts_with_a_learning_rate_of_their_own(root: Path, work: Path) -> None:
    conf = {"optim": "adamw", "optim_conf": {}, "scheduler": "onecyclelr", "num_iters_per_epoch": 4,
            "scheduler_conf": {"max_lr": [0.001, 0.02], "cycle_momentum": False}, "rate_groups": ["llm"]}
    rates = history(train(work, root / "dump", "01", **conf, max_epoch=2))[1]["train"]
    assert rates["optim0_lr1"] == pytest.approx(20 * rates["optim0_lr0"])


@pytest.mark.parametrize("changes, message", [
    ({"rate_groups": ["lm"]}, "rate_groups: nothing of 'lm' learns; did you mean 'llm'"),
    ({"rate_groups": ["llm"], "optim": "muon", "optim_conf": {}}, "rate_groups: muon has two groups of its own"),
    ({"rate_groups": ["llm"], "scheduler": "onecyclelr", "scheduler_conf": {"max_lr": [0.1, 0.1, 0.1]},
      "num_iters_per_epoch": 2}, r"max_lr: \[0.1, 0.1, 0.1\]; the parameters are in 2 groups: give one value, or 2"),
    ({"scheduler": "onecyclelr", "scheduler_conf": {"max_lr": [0.1, 0.1]}, "num_iters_per_epoch": 2},
     "the parameters are in 1 group: give one value, or 1"),
])
def test_learning_rates_that_fit_no_parts(root: Path, work: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(work, root / "dump", "01", **changes)


@pytest.mark.parametrize("change", [{"format": "sc_suffix"}, {"prompt": "dual"}, {"optim_conf": {"lr": 0.5}},
                                    {"new_tokens": ["x", "y"]}])
def test_a_training_does_not_go_on_as_another_one(root: Path, work: Path, change: dict) -> None:
    out = train(work, root / "dump", "01")
    before = (out / "config.yaml").read_text()
    with pytest.raises(UserError, match=f"exp/01: this training was begun with {next(iter(change))}: .* --on_change rest"):
        train(work, root / "dump", "01", max_epoch=2, **change)
    assert (out / "config.yaml").read_text() == before
    train(work, root / "dump", "01", max_epoch=2, num_workers=1)
    assert len(history(out)) == 2


def test_a_package_names_what_it_needs(root: Path, work: Path, capsys: pytest.CaptureFixture) -> None:
    published = save_published(work / "Qwen")
    out = train(work, root / "dump", "01", tokenizer=None, llm_conf={"checkpoint": str(published), "lora": {"rank": 2}},
                train_parts=["adapter", "llm_lora"])
    pack_model.main(["--model_dir", str(out), "--out", str(work / "model.zip")])
    said = capsys.readouterr().out
    assert f"it needs beside it, under this name: {published}\n" in said and "config.yaml" in said
