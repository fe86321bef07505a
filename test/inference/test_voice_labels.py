"""Labels by voice: which states tell whose voice, whose name a turn gets, and the decoder that asks for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech_llm import LLM, make_data, train

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.inference.generate import Answer
from espnet_mt_llm.inference.speech_llm import SpeechLLMConfig, SpeechLLMDecoder, decode
from espnet_mt_llm.inference.voice_labels import turn_voices
from espnet_mt_llm.text.targets import CHANGE, END, SPEAKER, TEXT, Encoded
from espnet_mt_llm.text.serialisation import read_supervision

VOICES: dict[str, Any] = {"model_conf": {"voice_weight": 1.0, "voice_layer": 1}, "registration": "mixed",
                          "registration_conf": {"max_distractors": 2}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in each of the formats that tells voices, one that does not, and everybody registered with each clip."""
    root = tmp_path_factory.mktemp("voice_labels")
    clips = make_data(root)
    llm = {"llm_conf": {"config": {**LLM, "initializer_range": 0.5}}}
    train(root, clips, "speakerlm", **VOICES, **llm)
    train(root, clips, "sc_suffix", format="sc_suffix", prompt="dual", **VOICES, **llm)
    train(root, clips, "none", **{**VOICES, "model_conf": {}})
    pool = [line.split()[0] for line in (clips / "enrolment").read_text().splitlines()]
    stretch_of = {name.split("-")[0]: name for name in pool}
    (clips / "spk2enrolment").write_text("".join(f"{spk} {name}\n" for spk, name in sorted(stretch_of.items())))
    with open(clips / "registration", "w") as f:
        for clip, segments in sorted(read_supervision(clips / "supervision").items()):
            speakers = {s["speaker"]: [stretch_of[s["speaker"]]] for s in segments}
            f.write(f"{clip} {json.dumps({'speakers': speakers, 'distractors': ['D1', 'D2']})}\n")
    return root


def test_voices_of_turns() -> None:
    """Each state counts for who has said the token before; one that predicts a label, for him whose label it is."""
    found = torch.arange(8.0).unsqueeze(1)
    # 0: x x | 1: x | 2: x | end
    first = Encoded(list(range(8)), [SPEAKER, TEXT, TEXT, SPEAKER, TEXT, SPEAKER, TEXT, END], [0.0] * 8, [False] * 8,
                    [*"0001122", ""])
    assert turn_voices(first, found).flatten().tolist() == [1.0, 3.5, 6.0]
    # x <SC> 0 | x x <SC> 2 | end; nobody has said anything before the first token
    second = Encoded(list(range(8)), [TEXT, CHANGE, SPEAKER, TEXT, TEXT, CHANGE, SPEAKER, END], [0.0] * 8, [False] * 8,
                     [*"0002222", ""])
    assert turn_voices(second, found).flatten().tolist() == [2.0, 5.5]
    empty = Encoded([0], [END], [0.0], [False], [""])
    assert turn_voices(empty, found).shape == (0, 1)


def decoded(root: Path, step: str, answer: str, **conf: Any) -> tuple[SpeechLLMDecoder, list]:
    """Return what becomes of ``answer`` to each clip."""
    config = SpeechLLMConfig(registration="over", num_distractors=2, **conf)
    decoder = SpeechLLMDecoder(root / "exp" / step, config)
    ids = decoder.tokenizer.encode(answer)
    decoder.generator = lambda embeds, *_: [Answer(ids, False, False)] * len(embeds)
    return decoder, decode(root / "exp" / step, root / "dump", config, decoder=decoder)[0]


# Numbers are for those who are not registered; a name that nobody has stands for one who is.
ANSWERS = {"speakerlm": " S2: GO ON S1: ON ON GO S1: GO ON nobody: GO spk 7: ON",
           "sc_suffix": " GO ON<SC> S2 ON ON<SC> S1 GO<SC> S1 GO GO<SC> nobody ON<SC>3"}


@pytest.mark.parametrize("step", ["speakerlm", "sc_suffix"])
def test_turns_get_the_name_of_the_nearest_voice(root: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Where all states tell one registered voice, all turns are of its speaker, in every clip, whatever was written."""
    _, plain = decoded(root, step, ANSWERS[step], batch_size=3)
    decoder, _ = decoded(root, step, ANSWERS[step], batch_size=3, labels="voices")
    voice = torch.nn.functional.normalize(torch.randn(decoder.model.speaker_encoder.embedding_size), dim=0)
    pool = {name.split("-")[0]: name for name in read_map(root / "dump/enrolment")}

    def told(self: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
        return voice.expand(len(states), -1)

    monkeypatch.setattr("espnet_mt_llm.nets.voice_loss.VoiceLoss.found", told)
    from espnet_mt_llm.inference.embeddings import stretch_embeddings

    embeddings = stretch_embeddings(root / "dump", decoder.model.speaker_encoder)
    segments = decoded(root, step, ANSWERS[step], batch_size=3, labels="voices")[1]
    assert [s["words"] for s in segments] == [s["words"] for s in plain]
    assert [s["speaker"] for s in segments] != [s["speaker"] for s in plain]
    for clip, registered in read_map(root / "dump/registration").items():
        chosen = json.loads(registered)
        known = [*chosen["speakers"], *chosen["distractors"]]
        nearest = max(known, key=lambda spk: float(voice @ torch.nn.functional.normalize(
            torch.from_numpy(embeddings[pool[spk]]), dim=0)))
        said = [s["speaker"] for s in segments if s["session_id"] == clip]
        assert said[:-1] == [nearest] * (len(said) - 1) and said[-1] in ("3", "7")


def test_neighbours_with_one_label_are_told_apart(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written as two turns has two voices, even where both have the same label."""
    pool = {name.split("-")[0]: name for name in read_map(root / "dump/enrolment")}
    for step, answer in (("speakerlm", " S1: GO GO S1: ON"), ("sc_suffix", " GO GO<SC> S1 ON<SC> S1")):
        decoder, _ = decoded(root, step, answer)
        from espnet_mt_llm.inference.embeddings import stretch_embeddings

        embeddings = stretch_embeddings(root / "dump", decoder.model.speaker_encoder)
        voices = torch.from_numpy(np.stack([embeddings[pool[spk]] for spk in ("D1", "D2")]))
        voices = torch.nn.functional.normalize(voices, dim=1)
        size = len(decoder.tokenizer.encode(answer)) // 2 + 1

        def told(self: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
            return torch.stack([voices[int(k >= size)] for k in range(len(states))])

        monkeypatch.setattr("espnet_mt_llm.nets.voice_loss.VoiceLoss.found", told)
        said = [s["speaker"] for s in decoded(root, step, answer, labels="voices")[1]]
        assert said and set(zip(said[::2], said[1::2])) == {("D1", "D2")}, step


def test_an_answer_too_long_to_be_read_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are no character become three tokens each: the clip keeps its labels, and no other clip is lost."""
    decoder, _ = decoded(root, "speakerlm", "")
    broken = decoder.tokenizer.tokenizer.convert_tokens_to_ids("<0xFF>")
    ids = [*decoder.tokenizer.encode(" S1:"), *[broken] * 200, *decoder.tokenizer.encode(" GO")]
    said = []
    for labels in ("written", "voices"):
        config = SpeechLLMConfig(registration="over", num_distractors=2, labels=labels)
        run = SpeechLLMDecoder(root / "exp/speakerlm", config)
        run.generator = lambda embeds, *_: [Answer(ids, False, False)] * len(embeds)
        said.append(decode(root / "exp/speakerlm", root / "dump", config, decoder=run)[0])
    assert said[0] == said[1] and "needs" in caplog.text and "keeps the names that were written" in caplog.text


@pytest.mark.parametrize("step", ["speakerlm", "sc_suffix"])
def test_clips_do_not_depend_on_each_other(root: Path, step: str) -> None:
    both = [decoded(root, step, ANSWERS[step], batch_size=size, labels="voices")[1] for size in (1, 5)]
    assert both[0] == both[1] and both[0]


def test_what_cannot_be_told(root: Path) -> None:
    """Answers without a label or without words stay what they are."""
    for answer in ("GO ON GO", ""):
        assert decoded(root, "speakerlm", answer, labels="voices")[1] == decoded(root, "speakerlm", answer)[1]


def test_models_without_voices_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match="has not learnt to tell voices while it writes; use labels: written"):
        decoded(root, "none", "", labels="voices")
