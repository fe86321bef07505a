"""The task speaker: trained on humming voices it tells unseen ones apart; its model is an extractor's checkpoint."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from toy_stretches import make_pool

from espnet_mt_llm.bin import train_speaker
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.stretches import Pool
from espnet_mt_llm.encoders.campplus import CAMPPlus
from espnet_mt_llm.tasks.speaker import SpeakerTask
from espnet_mt_llm.train.stretches import CropBatch, StretchDataset, chosen_evenly, find, read_pool, talked_over

SYSTEMS = sorted(Path(__file__).resolve().parents[2].glob("egs2/*/mtasr1/conf/speaker_*/*.yaml"))
CONFIG: dict[str, Any] = {
    "encoder": "campplus", "crop": [0.5, 1.0], "batch_size": 8, "optim": "adam", "optim_conf": {"lr": 0.005},
    "encoder_conf": {"num_mels": 40, "embedding_size": 16, "head_channels": 4, "init_channels": 16, "growth_rate": 8,
                     "bn_size": 2, "num_layers": [1, 1, 1]},
    "max_epoch": 2, "num_iters_per_epoch": 15, "num_workers": 0, "seed": 3, "num_threads": 1, "use_tensorboard": False,
}


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pools")
    make_pool(root / "train", [90, 120, 160, 210, 280])
    make_pool(root / "valid", [100, 150, 240], stretches=3, prefix="v")
    return root


def train(root: Path, out: Path, **changes: Any) -> Path:
    config = {**CONFIG, **changes}
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.yaml").write_text(yaml.safe_dump(config))
    SpeakerTask.train(["--config", str(out / "train.yaml"), "--train_dir", str(root / "train"), "--valid_dir",
                       str(root / "valid"), "--output_dir", str(out / "exp")])
    return out / "exp"


def test_trained_extractor_tells_unseen_voices_apart(pools, tmp_path):
    exp = train(pools, tmp_path, speed_factors=[1.0, 0.9], num_iters_per_epoch=40)
    history = json.loads((exp / "history.json").read_text())
    assert history[-1]["valid"]["eer"] < 0.25
    assert history[-1]["train"]["loss"] < history[0]["train"]["loss"]
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["num_speakers"] == 10  # every voice at both speeds
    encoder = CAMPPlus(16000, str(exp))
    assert encoder.embedding_size == 16 and encoder.sizes.num_mels == 40
    state = torch.load(exp / "latest.pth", weights_only=True)
    assert torch.equal(encoder.state_dict()["xvector.dense.linear.weight"],
                       state["encoder.xvector.dense.linear.weight"])
    # A second training may begin from it; its sizes come with it.
    again = train(pools, tmp_path / "again", encoder_conf={"checkpoint": str(exp / "latest.pth")}, max_epoch=1,
                  num_iters_per_epoch=1)
    assert yaml.safe_load((again / "config.yaml").read_text())["encoder_conf"] == config["encoder_conf"]


def test_speakers_that_are_trained_on_are_told(pools, tmp_path, caplog):
    (tmp_path / "train").symlink_to(pools / "train")
    (tmp_path / "valid").symlink_to(pools / "train")
    with caplog.at_level(logging.WARNING):
        train(tmp_path, tmp_path / "out", max_epoch=1, num_iters_per_epoch=1)
    assert "5 of 5 speakers to validate on are trained on" in caplog.text


@pytest.mark.parametrize("changes, message", [
    ({"encoder": "campplus", "encoder_conf": {"embeding_size": 3}}, "did you mean 'embedding_size'"),
    ({"encoder_conf": {"checkpoint": "nowhere"}}, "nowhere: no such checkpoint"),
    ({"model_conf": {"marign": 0.1}}, "model_conf: unknown key 'marign'; did you mean 'margin'"),
    ({"model_conf": {"margin": 4.0}}, "model_conf: margin 4 is not within"),
    ({"crop": [2.0, 1.0]}, "crop: 2 to 1 s"),
    ({"crops": [2.0, 1.0]}, "unknown key 'crops'; did you mean 'crop'"),
])
def test_configurations_that_make_no_sense_are_refused(pools, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(pools, tmp_path, **changes)


def test_pools_that_are_no_use_are_refused(pools, tmp_path, capsys):
    make_pool(tmp_path / "train", [90])
    make_pool(tmp_path / "valid", [100, 145], stretches=1, prefix="v")
    with pytest.raises(UserError, match="enrolment: stretches of 1 speakers, at least 2 are needed"):
        train(tmp_path, tmp_path / "one")
    (tmp_path / "train" / "enrolment").unlink()
    with pytest.raises(SystemExit):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
        train_speaker.main(["--config", str(tmp_path / "c.yaml"), "--train_dir", str(tmp_path / "train"), "--valid_dir",
                            str(tmp_path / "valid"), "--output_dir", str(tmp_path / "none")])
    assert "--enrolment true" in capsys.readouterr().err
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "train").symlink_to(pools / "train")
    (tmp_path / "both" / "valid").symlink_to(tmp_path / "valid")
    with pytest.raises(UserError, match="validation: the equal error rate needs pairs of one speaker"):
        train(tmp_path / "both", tmp_path / "single", max_epoch=1, num_iters_per_epoch=1)


def test_stretches_are_drawn_cut_and_repeated(pools):
    pool = read_pool(pools / "valid")
    plain = StretchDataset(pool, 16000, 10.0)
    assert [find(pool, n)[0] for n in range(len(pool))] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    uid, data = plain["4"]
    assert uid == find(pool, 4)[1].id and len(data["speech"]) == round(2.1 * 16000) and data["speaker"].tolist() == [1]
    np.random.seed(0)
    drawn = StretchDataset(pool, 16000, 3.0, 3.0, [1.0, 2.0], train=True)
    items = [drawn["4"] for _ in range(20)]
    assert {int(d["speaker"][0]) for _, d in items} == {1, 4}
    assert all(len(d["speech"]) == 48000 for _, d in items)
    twice = next(d["speech"] for _, d in items if d["speaker"][0] == 4)
    # A cut of what repeats itself with the length of the stretch at its speed.
    period = len(np.arange(0, 33600 - 1, 2.0))
    np.testing.assert_array_equal(twice[period:], twice[:-period])
    names, batch = CropBatch(8000, 16000)(items[:4])
    assert names == [uid] * 4 and 8000 <= batch["speech"].size(1) <= 16000
    assert batch["speech_lengths"].unique().numel() == 1


def test_others_are_heard_in_a_part_of_a_stretch():
    np.random.seed(0)
    speech = np.random.default_rng(0).standard_normal((200, 100)).astype(np.float32)
    out = talked_over(speech, 0.5)
    assert out.dtype == np.float32 and out.shape == speech.shape
    changed = out != speech
    assert 0.35 < changed.any(1).mean() < 0.65
    for row in changed[changed.any(1)]:
        places = np.flatnonzero(row)
        assert len(places) <= 50 and len(places) == np.ptp(places) + 1 and (places[0] == 0 or places[-1] == 99)
    levels = [20 * np.log10(np.std(before[row]) / np.std((after - before)[row])) for before, after, row in
              zip(speech, out, changed) if row.sum() > 25]
    assert -9 < min(levels) < 0 and 10 < max(levels) < 19
    assert np.array_equal(talked_over(speech, 0.0), speech)


def test_few_stretches_of_many_are_spread():
    pool = Pool(["a", "b"], np.array([0, 7, 9]), ["r"], [("x.wav", None)], ["r"], np.zeros(9, np.int32),
                np.arange(9) * 200, np.arange(1, 10) * 200)
    assert chosen_evenly(pool, 3) == ["0", "2", "4", "7", "8"]


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda p: p.stem)
def test_configurations_of_the_recipes_build(pools, path, tmp_path):
    args = SpeakerTask.get_parser().parse_args(["--config", str(path), "--train_dir", str(pools / "train"),
                                                "--output_dir", str(tmp_path)])
    model = SpeakerTask.build_model(args)
    assert 0.1e6 < sum(p.numel() for p in model.encoder.parameters()) < 0.6e6
    assert path.stem.split("_", 1)[1].startswith("speaker_") and args.encoder in path.stem
