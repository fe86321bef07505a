"""Decoding with a speech LLM: registration, batches and jobs, answers to speakers, what is counted, bad input."""

import json
import shutil
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
import pytest
import soundfile
import torch
from toy_speech_llm import DUAL, LLM, make_data, train

from espnet_mt_llm.bin import decode_speech_llm, merge_decode, score_decode
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.inference.generate import Answer
from espnet_mt_llm.inference.speech_llm import (
    Asked, Registrations, SpeechLLMConfig, SpeechLLMDecoder, batches, decode, speaker_id,
)
from espnet_mt_llm.scoring.score import read_json
from espnet_mt_llm.text.serialisation import read_supervision
from espnet_mt_llm.train.registering import Registered

DISTRACTORS = [f"D{k}" for k in range(1, 8)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with fixed registrations, and a model trained on them for one epoch."""
    root = tmp_path_factory.mktemp("speech_llm")
    clips = make_data(root)
    # Large weights: answers to different clips differ.
    train(root, clips, registration="mixed", registration_conf={"max_distractors": 2},
          llm_conf={"config": {**LLM, "initializer_range": 0.5}, "lora": {"rank": 2}})
    register(clips)
    return root


def register(clips: Path) -> None:
    """Write a registration for every clip; the second speaker of the last one has no stretch outside of it."""
    pool = dict(line.split(maxsplit=1) for line in (clips / "enrolment").read_text().splitlines())
    stretch_of = {json.loads(value)["spk"]: name for name, value in pool.items()}
    template = json.loads(pool[stretch_of["D1"]])
    for spk in DISTRACTORS:
        if spk not in stretch_of:
            stretch_of[spk] = f"{spk}-PD1-0000020-0000180"
            pool[stretch_of[spk]] = json.dumps({**template, "spk": spk})
    (clips / "enrolment").write_text("".join(f"{name} {value}\n" for name, value in sorted(pool.items())))
    (clips / "spk2enrolment").write_text("".join(f"{spk} {name}\n" for spk, name in sorted(stretch_of.items())))
    with open(clips / "registration", "w") as f:
        for clip, segments in sorted(read_supervision(clips / "supervision").items()):
            speakers = {s["speaker"]: [stretch_of[s["speaker"]]] if s["speaker"] in stretch_of else []
                        for s in segments}
            f.write(f"{clip} {json.dumps({'speakers': speakers, 'distractors': DISTRACTORS})}\n")


def run(root: Path, name: str, num_jobs: int = 1, **conf: Any) -> Path:
    """Decode and merge through the commands; return the decode directory."""
    out = root / "exp" / "speech_llm" / "01" / name / "set"
    (root / f"{name}.yaml").write_text(json.dumps({"max_new_tokens": 24, **conf}))
    for job in range(1, num_jobs + 1):
        decode_speech_llm.main(["--model_dir", str(root / "exp/01"), "--data_dir", str(root / "dump"), "--out_dir",
                                str(out), "--config", str(root / f"{name}.yaml"), "--job", str(job), "--num_jobs",
                                str(num_jobs)])
    merge_decode.main(["--out_dir", str(out), "--num_jobs", str(num_jobs)])
    return out


class Scripted:
    """Gives the answers of a list, one after the other."""

    def __init__(self, decoder: SpeechLLMDecoder, answers: Sequence[str]) -> None:
        self.decoder, self.answers, self.caps = decoder, list(answers), []

    def __call__(self, embeds: torch.Tensor, mask: torch.Tensor, caps: Sequence[int], labels: Sequence[int]
                 ) -> list[Answer]:
        self.caps += caps
        return [Answer(self.decoder.tokenizer.encode(self.answers.pop(0)), False, False) for _ in caps]


def scripted(root: Path, answers: dict[str, str], **conf: Any) -> tuple[list, dict, dict, Optional[dict]]:
    """Decode with a model that gives ``answers`` by clip."""
    config = SpeechLLMConfig(batch_size=1, **conf)
    decoder = SpeechLLMDecoder(root / "exp/01", config)
    sizes = {clip: int(n) for clip, n in read_map(root / "dump/utt2num_samples").items()}
    order = sorted(sizes, key=lambda clip: (-sizes[clip], clip))
    decoder.generator = Scripted(decoder, [answers[clip] for clip in order if sizes[clip] >= 1600])
    return decode(root / "exp/01", root / "dump", config, decoder=decoder)


@pytest.mark.parametrize("conf, message", [
    ({"registraton": "none"}, "unknown key 'registraton'; did you mean 'registration'?"),
    ({"registration": "some"}, "registration: 'some'; valid: match, none, over"),
    ({"num_distractors": 0}, "num_distractors: 0; a whole number of at least 1"),
    ({"num_distractors": "many"}, "num_distractors: 'many'"),
    ({"beam_size": 0}, "beam_size: 0"),
    ({"no_repeat_ngram": "alway"}, "no_repeat_ngram: 'alway'; did you mean 'always'?"),
    ({"loop_times": 1}, "loop_times: 1; a whole number of at least 2"),
    ({"tokens_per_second": 0}, "tokens_per_second: 0; a number above 0"),
    ({"max_new_tokens": 1.5}, "max_new_tokens: 1.5"),
    ({"batch_positions": -1}, "batch_positions: -1"),
    ({"dtype": "bf16"}, "dtype: 'bf16'; did you mean 'bfloat16'?"),
    ({"seed": None}, "seed: None"),
    ({"labels": "voice"}, "labels: 'voice'; did you mean 'voices'?"),
    ({"labels": "voices"}, "labels: voices, but nobody is registered; use registration: match or over"),
    ({"weights": 5}, "weights: 5; a file in the training's output"),
])
def test_bad_configuration(tmp_path: Path, conf: dict, message: str) -> None:
    (tmp_path / "d.yaml").write_text(json.dumps(conf))
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        SpeechLLMConfig.load(tmp_path / "d.yaml")


def test_a_clip_without_audio(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "dump", tmp_path / "dump")
    lines = (tmp_path / "dump/wav.scp").read_text().splitlines(keepends=True)
    (tmp_path / "dump/wav.scp").write_text("".join(lines[1:]))
    with pytest.raises(UserError, match="wav.scp: the clip 'c0' is not there; make the clips again"):
        decode(root / "exp/01", tmp_path / "dump", SpeechLLMConfig())


def test_fewer_others_than_were_asked_for(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = SpeechLLMConfig(registration="over", num_distractors=1000, max_new_tokens=2)
    over = decode(root / "exp/01", root / "dump", config)[3]
    assert set(over.values()) == {len(DISTRACTORS)}
    assert f"some clips have {len(DISTRACTORS)} speakers of other sessions, fewer than num_distractors: 1000" in caplog.text


def test_an_unknown_number_is_not_taken_for_somebody_who_is_registered() -> None:
    assert speaker_id("1", {"S1": "1"}, {"A", "1"}) == "spk 1" and speaker_id("S1", {"S1": "1"}, {"A", "1"}) == "1"


def test_jobs_and_batches_change_nothing(root: Path) -> None:
    one = run(root, "one", 1, batch_size=5, registration="match")
    many = run(root, "many", 2, batch_size=1, registration="match")
    for name in ("hyp.seglst.json", "utt2num_spk"):
        assert (one / name).read_text() == (many / name).read_text()
    mine, theirs = read_json(one / "decode.json"), read_json(many / "decode.json")
    for key in ("malformed", "repeated", "capped", "unparsable", "audio_seconds"):
        assert mine[key] == theirs[key]
    assert mine["registration"] == "match" and mine["layout"] == "semantic" and mine["dtype"] == "float32"
    assert 0 < mine["trained_parameters"] < mine["parameters"]
    assert mine["tie_rule"] == "utterance by onset; onsets less than 50 ms apart: by speaker id"
    assert not (one / "utt2num_overregistered").exists()
    score_decode.main(["--ref", str(root / "dump"), "--hyp", str(one)])
    score = read_json(one / "score.json")
    assert score["answers"]["registration"] == "match" and "sa" in score["metrics"] and "sa" in score["deltas"]
    assert score["missing_hypotheses"] == []


@pytest.mark.parametrize("beam", [1, 2])
def test_a_batch_is_single(root: Path, beam: int) -> None:
    """The decoder itself, five clips at once and one by one, with registered voices of different numbers."""
    config = SpeechLLMConfig(registration="over", num_distractors="random", beam_size=beam, max_new_tokens=20,
                             loop_times=20)
    together = decode(root / "exp/01", root / "dump", config)
    alone = decode(root / "exp/01", root / "dump", SpeechLLMConfig(**{**vars(config), "batch_size": 1}))
    assert together[0] == alone[0] and together[1] == alone[1] and together[3] == alone[3]
    assert len({s["words"] for s in together[0]}) > 3


def test_precision_and_adapters(root: Path) -> None:
    """Adapters that are merged give the same logits; half precision gives nearly the same."""
    from espnet_mt_llm.inference.model import load_model

    torch.manual_seed(0)
    plain, _, _ = load_model(root / "exp/01", "speech_llm")
    for name, weight in plain.named_parameters():
        if "lora_B" in name:
            # Larger ones make attention flip with the last bit.
            torch.nn.init.normal_(weight, std=0.2)
    (root / "exp/01/drawn.pth").unlink(missing_ok=True)
    torch.save(plain.state_dict(), root / "exp/01/drawn.pth")
    embeds = 0.5 * torch.randn(2, 7, LLM["hidden_size"])
    expected = plain.llm.logits(plain.llm.hidden(embeds))
    for dtype, tolerance in (("", 1e-4), ("float32", 1e-4), ("bfloat16", 0.1)):
        llm = SpeechLLMDecoder(root / "exp/01", SpeechLLMConfig(weights="drawn.pth", dtype=dtype)).model.llm
        found = llm.logits(llm.hidden(embeds.to(llm.dtype))).float()
        assert llm.dtype == getattr(torch, dtype or "float32") and all(
            m.merged for m in llm.modules() if hasattr(m, "merged"))
        assert (found - expected).norm() < tolerance * expected.norm()


def test_over_registration(root: Path) -> None:
    path = run(root, "over", 2, registration="over", num_distractors=3, dtype="bfloat16")
    clips = sorted(read_map(root / "dump/wav.scp"))
    assert read_map(path / "utt2num_overregistered") == dict.fromkeys(clips, "3")
    assert read_json(path / "decode.json")["dtype"] == "bfloat16"
    score_decode.main(["--ref", str(root / "dump"), "--hyp", str(path)])
    assert list(read_json(path / "score.json")["by_overregistered"]) == ["3"]


def test_who_is_registered(root: Path) -> None:
    def chosen(**conf: Any) -> dict[str, Registered]:
        found = Registrations(root / "dump", SpeechLLMConfig(**conf))
        return {clip: found.of(clip) for clip in found.chosen}

    match = chosen(registration="match")
    few, more = (chosen(registration="over", num_distractors=n) for n in (2, 5))
    drawn = chosen(registration="over")
    again = chosen(registration="over")
    other = chosen(registration="over", seed=1)
    reference = {clip: {s["speaker"] for s in segments}
                 for clip, segments in read_supervision(root / "dump/supervision").items()}
    known = set(read_map(root / "dump/spk2enrolment"))
    for clip, speakers in reference.items():
        own = speakers & known
        assert set(match[clip].speakers) == own
        assert set(few[clip].speakers) == own | set(DISTRACTORS[:2])
        assert set(more[clip].speakers) == own | set(DISTRACTORS[:5])
        assert own | {"D1"} <= set(drawn[clip].speakers) <= own | set(DISTRACTORS)
        for one in (match, few, more, drawn):
            assert list(one[clip].names) == list(one[clip].speakers) and all(one[clip].stretches)
    assert drawn == again != other
    assert len({tuple(r.speakers) for r in more.values()}) > 1  # the order is random


def test_answers_become_speakers(root: Path) -> None:
    """Turns stay in their order, names become ids, and nobody is called like a speaker that he is not."""
    clips = sorted(read_map(root / "dump/wav.scp"))
    names = Registrations(root / "dump", SpeechLLMConfig(registration="match")).names
    speakers = {clip: sorted({s["speaker"] for s in segments})
                for clip, segments in read_supervision(root / "dump/supervision").items()}
    first = speakers[clips[0]][0]
    answers = dict.fromkeys(clips, "GO ON")
    answers[clips[0]] = f" spk 3: ON {names[first]}: GO GO spk 3: GO Bob: ON"
    answers[clips[1]] = ""
    segments, counts, record, over = scripted(root, answers, registration="match")
    said = [(s["speaker"], s["words"]) for s in segments if s["session_id"] == clips[0]]
    assert said == [("3", "ON"), (first, "GO GO"), ("3", "GO"), ("Bob", "ON")]
    assert [s for s in segments if s["session_id"] == clips[1]] == [
        {"session_id": clips[1], "speaker": "0", "words": ""}]
    assert (counts[clips[0]], counts[clips[1]], counts[clips[2]]) == (3, 0, 1)
    assert sorted(record["unparsable"]) == clips[2:] and record["malformed"] == 1 + len(clips[2:])
    assert over is None


def test_clips_without_sound(root: Path, tmp_path: Path) -> None:
    """An empty clip, one shorter than a frame, and one that is just heard."""
    dump = tmp_path / "dump"
    dump.mkdir()
    sizes = {"empty": 0, "short": 100, "heard": 1600}
    for clip, n in sizes.items():
        soundfile.write(dump / f"{clip}.wav", np.zeros(n, dtype=np.int16), 16000)
    (dump / "wav.scp").write_text("".join(f"{clip} {dump / clip}.wav\n" for clip in sorted(sizes)))
    (dump / "utt2num_samples").write_text("".join(f"{clip} {n}\n" for clip, n in sorted(sizes.items())))
    segments, counts, record, _ = decode(root / "exp/01", dump, SpeechLLMConfig(max_new_tokens=5))
    assert set(counts) == set(sizes) and counts["empty"] == counts["short"] == 0
    assert [s["words"] for s in segments if s["session_id"] in ("empty", "short")] == ["", ""]


def test_clips_that_are_too_long(root: Path) -> None:
    with pytest.raises(UserError, match=r"takes \d+ positions and its answer up to \d+, the language model has 512, "
                                        r"enough for about \d+\.\d s; cut shorter clips"):
        decode(root / "exp/01", root / "dump", SpeechLLMConfig(tokens_per_second=1e4, max_new_tokens=512))


def test_registration_that_cannot_be(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="registration: match needs it; make it"):
        Registrations(tmp_path, SpeechLLMConfig(registration="match"))
    for name in ("registration", "spk2enrolment"):
        (tmp_path / name).write_text((root / "dump" / name).read_text())
    found = Registrations(tmp_path, SpeechLLMConfig(registration="match"))
    with pytest.raises(UserError, match="the clip 'nobody' is not there"):
        found.of("nobody")
    (tmp_path / "registration").write_text('c1 {"speakers": {"S1": []}, "distractors": []}\n')
    with pytest.raises(UserError, match="no clip has a speaker of another session"):
        Registrations(tmp_path, SpeechLLMConfig(registration="over"))
    (tmp_path / "registration").write_text('c1 {"speakers": {"S1": []}, "distractors": ["X9"]}\n')
    with pytest.raises(UserError, match="the distractor 'X9' of clip 'c1' is not in spk2enrolment"):
        Registrations(tmp_path, SpeechLLMConfig(registration="over", num_distractors=1)).of("c1")


def test_models_that_cannot(root: Path) -> None:
    """The dual encoder system, which has learnt with nobody registered, and one that has learnt from text alone."""
    train(root, root / "dump", "dual", **DUAL)
    segments, _, record, _ = decode(root / "exp/dual", root / "dump", SpeechLLMConfig(max_new_tokens=8))
    assert {s["session_id"] for s in segments} == set(read_map(root / "dump/wav.scp"))
    assert record["registration"] == "no" and record["layout"] == "interleave" and record["format"] == "sc_suffix"
    with pytest.raises(UserError, match="has learnt with registration: none"):
        SpeechLLMDecoder(root / "exp/dual", SpeechLLMConfig(registration="match"))
    train(root, root / "dump", "text", layout="none", train_parts=["llm"])
    with pytest.raises(UserError, match="has learnt from text alone and hears nothing"):
        SpeechLLMDecoder(root / "exp/text", SpeechLLMConfig())


def test_batches() -> None:
    asked = [Asked(f"c{i}", 1.0, Registered((), {}, ()), {}, [], 1, positions, 1)
             for i, positions in enumerate((90, 50, 50, 40, 30, 30, 20, 10))]

    def names(*limits: int) -> list[str]:
        return ["".join(a.clip[1] for a in batch) for batch in batches(asked, *limits)]

    assert names(3) == ["012", "345", "67"]
    assert names(8, 100) == ["0", "12", "34", "567"]
    assert names(8, 60) == ["0", "1", "2", "3", "45", "67"]
