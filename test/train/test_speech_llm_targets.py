"""Prompts and targets of clips, alone and in a row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.llm_tokenizer import LLMTokenizer, load_tokenizer, train_tokenizer
from espnet_mt_llm.train.registering import Registering, Registrar
from espnet_mt_llm.train.speech_llm_targets import SpeechLLMTargets, Writing

RATE = 16000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LLMTokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["GO ON", "WAIT"], path, "word")
    return load_tokenizer(path)


def line(*segments: tuple) -> str:
    return json.dumps([{"spk": s, "start": a, "end": b, "text": t} for s, a, b, t in segments])


ONE = line(("A", 0.0, 0.5, "GO"), ("B", 0.4, 0.9, "ON"))
TWO = line(("C", 0.0, 0.5, "WAIT"), ("A", 0.6, 0.9, "GO ON"))


def clip(seconds: float = 1.0) -> tuple:
    return RATE, np.ones(round(seconds * RATE), dtype=np.float32)


def text(targets: SpeechLLMTargets, arrays: dict) -> str:
    return targets.tokenizer.decode(arrays["target"].tolist()).strip()


@pytest.mark.parametrize("fmt, style, expected, prompt", [
    ("speakerlm", "speakerlm", "spk 0: GO spk 1: ON", "Transcribe by roles. <start>"),
    ("sc_suffix", "dual", "GO<SC>0 ON<SC>1", "<|im_start|>user\n"),
    ("sot", "speakerlm", "GO<SC> ON", "Transcribe the speech. <start>"),
])
def test_formats(tokenizer: LLMTokenizer, fmt: str, style: str, expected: str, prompt: str) -> None:
    targets = SpeechLLMTargets(tokenizer, Writing(fmt, style))
    arrays = targets("c1", {"speech": clip(), "supervision": ONE})
    assert text(targets, arrays) == expected and len(arrays["speech"]) == RATE
    places = arrays["prompt"].tolist()
    assert places.count(-1) == 1 and prompt in tokenizer.decode(places[: places.index(-1)])
    assert arrays["target"][-1] == tokenizer.end_id and arrays["types"][-1] == 3
    assert all(len(arrays[name]) == len(arrays["target"]) for name in ("types", "weights", "overlapped"))
    assert arrays["overlapped"].max() == 1 and "enrolled" not in arrays


def test_clips_in_a_row(tokenizer: LLMTokenizer) -> None:
    """Who is heard again has the number that he had."""
    targets = SpeechLLMTargets(tokenizer, Writing("sc_suffix"))
    arrays = targets("c1 c2", {"speech": (clip(1.0), clip(2.0)), "supervision": (ONE, TWO)})
    assert text(targets, arrays) == "GO<SC>0 ON<SC>1 WAIT<SC>2 GO ON<SC>0"
    assert len(arrays["speech"]) == 3 * RATE
    segments = targets.segments(["c1", "c2"], [ONE, TWO], [0.0, 1.0], 2.0)
    assert [(s["start_time"], s["end_time"]) for s in segments] == [(0, 0.25), (0.2, 0.45), (1, 1.25), (1.3, 1.45)]


@pytest.mark.parametrize("lines", [ONE, (ONE, TWO)])
def test_text_alone(tokenizer: LLMTokenizer, lines: Any) -> None:
    targets = SpeechLLMTargets(tokenizer, Writing("sc_suffix"), with_audio=False)
    arrays = targets("c1" if lines == ONE else "c1 c2", {"supervision": lines})
    assert text(targets, arrays).startswith("GO<SC>0 ON<SC>1") and "speech" not in arrays
    assert (arrays["prompt"] >= 0).all() and len(arrays["prompt"])
    assert ("WAIT<SC>2 GO ON<SC>0" in text(targets, arrays)) == (lines != ONE)


def test_speed_changes_the_audio_in_training_alone(tokenizer: LLMTokenizer) -> None:
    for train, expected in ((True, {RATE // 2}), (False, {RATE})):
        targets = SpeechLLMTargets(tokenizer, speed_factors=[2.0], train=train)
        found = {len(targets("c", {"speech": clip(), "supervision": ONE})["speech"]) for _ in range(3)}
        assert all(abs(a - b) <= 1 for a, b in zip(found, expected))


def pool(path: Path) -> Path:
    rows = [{"spk": s, "rec": f"P{s}", "start": 0.0, "end": 2.0, "wav": "x.wav"} for s in ("A", "B", "D", "F")]
    path.mkdir(exist_ok=True)
    (path / "enrolment").write_text("".join(f"{r['spk']}-{r['rec']}-0000000-0000200 {json.dumps(r)}\n" for r in rows))
    return path


def give_voices(targets: SpeechLLMTargets, speeds: Sequence[float] = (1.0,)) -> None:
    """Embeddings of the pool: 0, 1, 2 and 3 of A, B, D and F, and 10 more with each further speed."""
    targets.at_speed = {speed: {f"{s}-P{s}-0000000-0000200": np.full(3, 10 * n + i, dtype=np.float32)
                                for i, s in enumerate("ABDF")} for n, speed in enumerate(speeds)}
    targets.embedding_size = 3


def test_registered_names_stand_in_prompt_and_target(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    registrar = Registrar(pool(tmp_path), Registering("over", max_distractors=2))
    targets = SpeechLLMTargets(tokenizer, Writing(), registrar=registrar, train=True)
    give_voices(targets)
    orders = set()
    for _ in range(20):
        arrays = targets("c1", {"speech": clip(), "supervision": ONE})
        assert text(targets, arrays) == "A: GO B: ON"  # whatever the order of the registration
        places = [i for i in arrays["prompt"].tolist() if i <= -2]
        assert places == [-2 - k for k in range(len(places))] and len(arrays["enrolled"]) == len(places)
        asked = tokenizer.decode([i for i in arrays["prompt"].tolist() if i >= 0])
        names = [part.split("<start>")[0] for part in asked.split("<end>")[: len(places)]]
        assert [dict(zip("ABDF", range(4)))[n] for n in names] == arrays["enrolled"][:, 0].tolist()
        orders.add(tuple(names))
    assert len(orders) > 3


def test_who_is_heard_at_another_speed_is_registered_with_that_voice(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    registrar = Registrar(pool(tmp_path), Registering("match"))
    targets = SpeechLLMTargets(tokenizer, rate=RATE, speed_factors=[1.0, 2.0], registrar=registrar, train=True,
                               with_voices=True)
    give_voices(targets, [1.0, 2.0])
    targets.frame_shift = 0.1
    seen = set()
    for _ in range(30):
        arrays = targets("c1", {"speech": clip(), "supervision": ONE})
        fast = len(arrays["speech"]) < RATE
        assert sorted(arrays["enrolled"][:, 0]) == arrays["voices"][:, 0].tolist() == ([10, 11] if fast else [0, 1])
        seen.add(fast)
    assert seen == {False, True}


@pytest.mark.parametrize("stride, cached", [(1, False), (2, False), (1, True)])
def test_who_talks_alone_in_each_frame(tokenizer: LLMTokenizer, tmp_path: Path, stride: int, cached: bool) -> None:
    """A and B have voices, C has none; nobody counts where two talk."""
    registrar = Registrar(pool(tmp_path), Registering("none"))
    targets = SpeechLLMTargets(tokenizer, registrar=registrar, train=True, with_voices=True, cache_features=cached)
    give_voices(targets)
    targets.frame_shift, targets.stride = 0.1, stride
    frames = (np.zeros((10, 4), dtype=np.float16), np.zeros((10, 4), dtype=np.float16))
    audio = {"semantic": frames} if cached else {"speech": (clip(), clip())}
    arrays = targets("c1 c2", {**audio, "supervision": (ONE, TWO)})
    assert arrays["voices"].tolist() == [[0.0] * 3, [1.0] * 3] and len(arrays["enrolled"]) == 0
    fine = [1, 1, 1, 1, 0, 2, 2, 2, 2, 0]
    # Times are rounded to the nearest frame, here of 0.2 s.
    assert arrays["talking"].tolist()[:9] == (fine[:9] if stride == 1 else [1, 1, 2, 2, 0, 0, 0, 0, 1])
    assert len(arrays["talking"]) == 20 // stride
    assert len(arrays["saying"]) == len(arrays["target"]) and set(arrays["saying"]) == {0, 1, 2}


def test_voices_in_place_of_the_audio(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    """One for each label, in the order of the target; none for C, who has no stretch."""
    targets = SpeechLLMTargets(tokenizer, Writing("sc_suffix", "dual"), with_audio=False, train=True, with_voices=True,
                               registrar=Registrar(pool(tmp_path), Registering("match")))
    give_voices(targets)
    orders = set()
    for _ in range(20):
        arrays = targets("c1 c2", {"supervision": (ONE, TWO)})
        assert text(targets, arrays) == "GO<SC> A ON<SC> B WAIT<SC>0 GO ON<SC> A"
        places = [i for i in arrays["prompt"].tolist() if i < 0]
        assert places == [-2, -3, -4, -5, -6] and "talking" not in arrays and "speech" not in arrays
        assert arrays["enrolled"][2:, 0].tolist() == [0.0, 1.0, 0.0]  # A, B, A
        asked = tokenizer.decode([i for i in arrays["prompt"].tolist() if i >= 0])
        orders.add(tuple(arrays["enrolled"][:2, 0].astype(int)))
        assert "A" in asked and "B" in asked
        assert len(arrays["saying"]) == len(arrays["target"]) and set(arrays["saying"]) == {0, 1, 2}
    assert orders == {(0, 1), (1, 0)}


def test_nobody_is_heard_in_what_he_is_registered_from(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    """While he has another stretch; with one alone there is no choice."""
    rows = [{"spk": s, "rec": f"P{s}{k}", "start": 0.0, "end": 2.0, "wav": f"P{s}{k}.wav"}
            for s, number in (("A", 4), ("B", 1)) for k in range(number)]
    (tmp_path / "enrolment").write_text("".join(f"{r['spk']}-{r['rec']}-0000000-0000200 {json.dumps(r)}\n"
                                                for r in rows))
    registrar = Registrar(tmp_path, Registering("match", num_stretches=1))
    targets = SpeechLLMTargets(tokenizer, Writing("speakerlm", "speakerlm"), with_audio=False, train=True,
                               with_voices=True, registrar=registrar)
    targets.at_speed = {1.0: {f"{r['spk']}-{r['rec']}-0000000-0000200": np.full(3, i, dtype=np.float32)
                              for i, r in enumerate(rows)}}
    targets.embedding_size = 3
    for _ in range(40):
        first, second, *heard = targets("c1", {"supervision": ONE})["enrolled"][:, 0].tolist()
        registered = {first, second}
        assert 4.0 in registered and heard[1] == 4.0
        assert heard[0] not in registered and heard[0] < 4


def test_others_who_are_registered_have_voices_too(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    """They come after those of the clip, and nothing in the clip is theirs."""
    targets = SpeechLLMTargets(tokenizer, Writing("speakerlm", "speakerlm"), train=True, with_voices=True,
                               registrar=Registrar(pool(tmp_path), Registering("over", max_distractors=2)))
    give_voices(targets)
    targets.frame_shift = 0.1
    found = set()
    for _ in range(30):
        arrays = targets("c1 c2", {"speech": (clip(), clip()), "supervision": (ONE, TWO)})
        own, others = arrays["voices"][:2, 0].tolist(), arrays["voices"][2:, 0].tolist()
        assert own == [0.0, 1.0] and sorted(own + others) == sorted(arrays["enrolled"][:, 0].tolist())
        assert max(arrays["saying"]) == max(arrays["talking"]) == 2
        found.add(frozenset(others))
    assert found == {frozenset({2.0}), frozenset({3.0}), frozenset({2.0, 3.0})}


def test_a_turn_of_several_utterances_has_one_voice(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    targets = SpeechLLMTargets(tokenizer, Writing("speakerlm", "speakerlm"), with_audio=False, with_voices=True,
                               registrar=Registrar(pool(tmp_path), Registering("none")))
    give_voices(targets)
    turns = line(("A", 0.0, 0.5, "GO"), ("A", 0.6, 0.9, "ON"), ("B", 1.0, 1.5, "WAIT"), ("A", 1.6, 1.9, "GO"))
    arrays = targets("c1", {"supervision": turns})
    assert text(targets, arrays) == "spk 0: GO ON spk 1: WAIT spk 0: GO"
    assert arrays["enrolled"][:, 0].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("fmt, expected", [
    ("speakerlm", {"spk": "AB", "0": "A", "1": "B", ":": "AB", "GO": "A", "ON": "A", "WAIT": "B", "": "ABB"}),
    ("sc_suffix", {"GO": "-", "ON": "A", "<SC>": "AB", "0": "A", "WAIT": "A", "1": "B", "": "B"}),
])
def test_whose_voice_predicts_a_token(tokenizer: LLMTokenizer, tmp_path: Path, fmt: str, expected: dict) -> None:
    """His whose label it is, else his who has said the token before."""
    targets = SpeechLLMTargets(tokenizer, Writing(fmt), with_voices=True,
                               registrar=Registrar(pool(tmp_path), Registering("none")))
    give_voices(targets)
    targets.frame_shift = 0.1
    arrays = targets("c1", {"speech": clip(), "supervision": line(("A", 0.0, 0.5, "GO ON"), ("B", 0.6, 0.9, "WAIT"))})
    found: dict[str, str] = {}
    for token, k in zip(arrays["target"].tolist(), arrays["saying"].tolist()):
        word = "" if token == tokenizer.end_id else tokenizer.decode([token]).strip()
        found[word] = found.get(word, "") + "-AB"[k]
    assert found == expected


def test_validation_is_the_same_in_every_epoch(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    targets = SpeechLLMTargets(tokenizer, registrar=Registrar(pool(tmp_path), Registering("mixed")))
    data = {"speech": clip(), "supervision": ONE}
    first = {uid: targets(uid, data)["prompt"].tolist() for uid in ("c1", "c2", "c3", "c4", "c5")}
    assert first == {uid: targets(uid, data)["prompt"].tolist() for uid in first}
    assert len({tuple(ids) for ids in first.values()}) > 1


def test_expected_size_of_prompts(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    registrar = Registrar(pool(tmp_path), Registering("mixed", max_distractors=2))
    targets = SpeechLLMTargets(tokenizer, registrar=registrar, train=True)
    sizes = [len(targets("c1", {"speech": clip(), "supervision": ONE})["prompt"]) for _ in range(200)]
    assert abs(np.mean(sizes) - targets.prompt_size(2)) < 6


def test_bad_input(tokenizer: LLMTokenizer, tmp_path: Path) -> None:
    targets = SpeechLLMTargets(tokenizer, Writing(max_ids=1))
    with pytest.raises(UserError, match="clip c1: 2 speakers for 1 ids"):
        targets("c1", {"speech": clip(), "supervision": ONE})
    with pytest.raises(UserError, match="clip 'c2' has 8000 Hz"):
        targets("c1 c2", {"speech": (clip(), (8000, np.zeros(5))), "supervision": (ONE, TWO)})
    with pytest.raises(UserError, match="the format sot names nobody"):
        SpeechLLMTargets(tokenizer, Writing("sot"), registrar=Registrar(pool(tmp_path), Registering("match")))
    with pytest.raises(UserError, match="did you mean 'sc_suffix'"):
        SpeechLLMTargets(tokenizer, Writing("sc_sufix"))
    empty = SpeechLLMTargets(tokenizer)("c1", {"speech": clip(), "supervision": "[]"})
    assert empty["target"].tolist() == [tokenizer.end_id]
