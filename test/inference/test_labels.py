"""Labels one by one: what is counted, as the training counts it; voices found and heard; the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_speech_llm import LLM, make_data, train

from espnet_mt_llm.bin import measure_labels
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.inference.labels import (
    FIRST, FOUND, HEARD, NEW, RETURNS, LabelAccuracy, LabelProbe, count_labels, labels_of,
)
from espnet_mt_llm.text.targets import END, SPEAKER, TEXT, Encoded
from espnet_mt_llm.train.collate import pad_batch
from espnet_mt_llm.train.registering import Registered

VOICES = {"model_conf": {"voice_weight": 1.0, "voice_layer": 1}, "registration": "mixed",
          "registration_conf": {"max_distractors": 2}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: one hears audio, one hears voices in its place, and one knows no voices."""
    root = tmp_path_factory.mktemp("labels")
    clips = make_data(root)
    train(root, clips, "audio", **VOICES)
    train(root, clips, "text", layout="none", train_parts=["llm", "speaker_adapter"], **VOICES)
    train(root, clips, "numbers", format="sc_suffix", prompt="dual", llm_conf={"config": {**LLM,
                                                                                         "initializer_range": 0.5}})
    return root


def test_labels_are_counted_by_kind() -> None:
    # A: x | B (two tokens): x | A: x | end
    types = [SPEAKER, TEXT, SPEAKER, SPEAKER, TEXT, SPEAKER, TEXT, END]
    target = Encoded(list(range(8)), types, [0.0] * 8, [False] * 8, ["A", "A", "B", "B", "B", "A", "A", ""])
    assert labels_of(target) == [(0, 1), (2, 4), (5, 6)]
    counts = LabelAccuracy()
    count_labels(target, [True, False, True, False, True, True, False, False], counts)
    assert (counts.right, counts.total) == ({FIRST: 1, NEW: 0, RETURNS: 1}, {FIRST: 1, NEW: 1, RETURNS: 1})
    assert counts.share() == pytest.approx(2 / 3) and np.isnan(counts.share([FOUND]))


def test_numbers_are_right_as_often_as_the_training_says(root: Path) -> None:
    """A number is one token, so that the share of labels is that of speaker tokens."""
    probe = LabelProbe(root / "exp/numbers", root / "dump")
    supervision = read_map(root / "dump/supervision")
    counts = probe(supervision, batch_size=2)
    assert sum(counts.total.values()) == sum(len(labels_of(probe.targets.target(probe.targets.segments([c], [line]))))
                                             for c, line in supervision.items())
    wav = read_map(root / "dump/wav.scp")
    batch = pad_batch([(clip, probe.targets(clip, {"supervision": line, "speech": read_audio(wav[clip])[::-1]}))
                       for clip, line in supervision.items()])[1]
    with torch.no_grad():
        stats = probe.model(**batch)[1]
    assert counts.share() == pytest.approx(float(stats["acc_spk"]))
    assert counts.total[FOUND] == 0 and "voice" not in counts.line()


@pytest.mark.parametrize("step", ["audio", "text"])
@pytest.mark.parametrize("registration", ["match", "over"])
def test_a_voice_is_found_where_the_states_tell_it(root: Path, monkeypatch: pytest.MonkeyPatch, step: str,
                                                   registration: str) -> None:
    supervision = read_map(root / "dump/supervision")
    probe = LabelProbe(root / f"exp/{step}", root / "dump", registration, num_distractors=2)
    counts = probe(supervision)
    assert 0 < counts.total[FOUND] <= sum(counts.total[kind] for kind in (FIRST, NEW, RETURNS))
    assert counts.total[HEARD] == (counts.total[FOUND] if step == "text" else 0)
    assert counts.total == probe(supervision, batch_size=1).total

    count, sign = probe._count_voices, 1.0

    def told(target: Encoded, registered: Registered, found: torch.Tensor, saying: list, enrolled: torch.Tensor,
             counts: LabelAccuracy) -> None:
        """Count with states that tell each speaker's own voice, or the opposite of it."""
        own = [registered.speakers.index(s) if s in registered.speakers else 0 for s in target.speakers]
        count(target, registered, sign * enrolled[own], saying, enrolled, counts)

    monkeypatch.setattr(probe, "_count_voices", told)
    assert probe(supervision).share([FOUND]) == 1.0
    sign = -1.0
    # Of one voice the nearest one is always right.
    assert probe(supervision).share([FOUND]) == 0.0 or registration == "match"


def test_the_voice_that_is_heard_is_that_of_the_label(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = LabelProbe(root / "exp/text", root / "dump", "match")
    # One voice for each speaker, whatever stretch is heard.
    axes = {spk: np.eye(8, dtype=np.float32)[k] for k, spk in enumerate(probe.targets.registrar.pool.speakers)}
    embeddings = {name: axes[name.split("-")[0]] for name in read_map(root / "dump/enrolment")}
    monkeypatch.setattr(probe.targets, "at_speed", {1.0: embeddings})
    assert probe(read_map(root / "dump/supervision")).share([HEARD]) == 1.0


def test_command(root: Path, capsys: pytest.CaptureFixture) -> None:
    data = ["--data_dir", str(root / "dump"), "--num_clips", "3"]
    measure_labels.main(["--model_dir", str(root / "exp/audio"), *data, "--registration", "none", "over",
                         "--num_distractors", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["registration none", "registration over, up to 2 others"]
    assert "voice found" in lines[1] and "voice" not in lines[0] and "first of the clip" in lines[0]
    with pytest.raises(SystemExit) as stopped:
        measure_labels.main(["--model_dir", str(root / "exp/numbers"), *data, "--registration", "match"])
    assert stopped.value.code == 1 and "nobody can be registered" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        measure_labels.main(["--model_dir", str(root / "exp/audio"), *data, "--batch_size", "0"])
    assert stopped.value.code == 1 and "--batch_size 0: a whole number of at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        measure_labels.main(["--model_dir", str(root / "exp/audio"), *data, "--device", "tpu9"])
    assert "measure_labels: device: 'tpu9'; use cpu, cuda or cuda:<n>" in capsys.readouterr().err
    with pytest.raises(UserError, match="wav.scp: the clip 'c9' is not there; make the clips again"):
        LabelProbe(root / "exp/audio", root / "dump")({"c9": "[]"})
    with pytest.raises(UserError, match="config.yaml: not a file of weights"):
        LabelProbe(root / "exp/audio", root / "dump", weights="config.yaml")
    with pytest.raises(UserError, match="no such model"):
        LabelProbe(root / "exp/none", root / "dump")
