"""Decoding: jobs add up, batches change nothing, counting options, messages, packing."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_mt_llm.bin import decode_sctc, merge_decode, pack_model, train_sctc
from espnet_mt_llm.common import UserError, load_yaml
from espnet_mt_llm.inference.decode import DecodeConfig, clip_batches, clip_samples, decode
from espnet_mt_llm.inference.merge import merge
from espnet_mt_llm.inference.model import find_weights, load_model
from espnet_mt_llm.inference.pack import pack


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for one epoch on seven clips of noise."""
    root = tmp_path_factory.mktemp("decode")
    dump = root / "dump"
    dump.mkdir()
    generator = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"wav.scp": [], "supervision": [], "utt2num_samples": [], "utt2num_spk": []}
    for i in range(7):
        samples = (generator.standard_normal(6000 + 1500 * i) * 2000).astype(np.int16)
        soundfile.write(dump / f"c{i}.wav", samples, 16000)
        count = 1 + i % 3
        segments = [{"spk": f"S{k}", "start": 0.1 * k, "end": 0.3, "text": "GO ON"} for k in range(count)]
        for name, value in (("wav.scp", dump / f"c{i}.wav"), ("supervision", json.dumps(segments)),
                            ("utt2num_samples", len(samples)), ("utt2num_spk", count)):
            lines[name].append(f"c{i} {value}\n")
    for name, rows in lines.items():
        (dump / name).write_text("".join(rows))
    (root / "tokens.txt").write_text("<blank>\n<unk>\nGO\nON\n<sos/eos>\n")
    (root / "train.yaml").write_text(
        "encoder_conf: {output_size: 16, num_blocks: 1, attention_heads: 2, mlp_size: 32, kernel: 3}\n"
        "separator_conf: {hidden_size: 16, num_layers: 1}\nbatch_bins: 50000\nnum_workers: 0\nmax_epoch: 1\n"
        "use_tensorboard: false\noptim: adam\n")
    train_sctc.main(["--config", str(root / "train.yaml"), "--token_list", str(root / "tokens.txt"), "--train_dir",
                     str(dump), "--valid_dir", str(dump), "--output_dir", str(root / "exp/sctc/01")])
    return root


def results(out: Path) -> tuple[list, dict, dict]:
    return (json.loads((out / "hyp.seglst.json").read_text()),
            dict(line.split() for line in (out / "utt2num_spk").read_text().splitlines()),
            json.loads((out / "decode.json").read_text()))


def run(root: Path, out: Path, num_jobs: int, **conf: object) -> tuple[list, dict, dict]:
    (root / "decode.yaml").write_text(json.dumps(conf))
    for job in range(1, num_jobs + 1):
        decode_sctc.main(["--model_dir", str(root / "exp/sctc/01"), "--data_dir", str(root / "dump"), "--out_dir",
                          str(out), "--config", str(root / "decode.yaml"), "--job", str(job), "--num_jobs",
                          str(num_jobs)])
    merge_decode.main(["--out_dir", str(out), "--num_jobs", str(num_jobs), "--command", "./run.sh"])
    return results(out)


def test_jobs_and_batches_change_nothing(trained: Path) -> None:
    one = run(trained, trained / "exp/sctc/01/decode_a/set", 1, batch_size=7)
    many = run(trained, trained / "exp/sctc/01/decode_b/set", 3, batch_size=1)
    assert one[0] == many[0] and one[1] == many[1]
    record = many[2]
    assert (record["system"], record["step"], record["decode"], record["set"]) == ("sctc", "01", "decode_b", "set")
    assert record["audio_seconds"] == pytest.approx(sum(6000 + 1500 * i for i in range(7)) / 16000, abs=0.01)
    assert record["wall_seconds"] > 0 and record["count"] == "head" and record["environment"]["commit"]


def test_oracle_and_forced_counts(trained: Path) -> None:
    segments, predicted, record = run(trained, trained / "exp/sctc/01/decode_o/set", 1, count="oracle")
    speakers = {f"c{i}": sum(s["session_id"] == f"c{i}" for s in segments) for i in range(7)}
    assert speakers == {f"c{i}": 1 + i % 3 for i in range(7)} and record["count"] == "oracle"
    assert set(predicted) == set(speakers)  # what the head would have said, for the confusion matrix
    segments, _, record = run(trained, trained / "exp/sctc/01/decode_f/set", 1, count="forced", num_talkers=2)
    assert len(segments) == 14 and record["count"] == "forced:2"
    with pytest.raises(UserError, match="num_talkers: 9: the model .* separates 3 talkers at most"):
        decode(trained / "exp/sctc/01", trained / "dump", DecodeConfig(count="forced", num_talkers=9))


@pytest.mark.parametrize("conf, message", [
    ({"batchsize": 3}, "unknown key 'batchsize'; did you mean 'batch_size'?"),
    ({"count": "guess"}, "it is head, oracle or forced"),
    ({"count": "forced"}, "num_talkers goes with count: forced"),
    ({"batch_size": 0}, "at least 1"),
    ({"batch_size": "16"}, "batch_size: '16'"),
    ({"count": "forced", "num_talkers": 0}, "num_talkers: 0"),
    ({"device": "tpu9"}, "device: 'tpu9'"),
])
def test_bad_configuration(tmp_path: Path, conf: dict, message: str) -> None:
    (tmp_path / "d.yaml").write_text(json.dumps(conf))
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        DecodeConfig.load(tmp_path / "d.yaml")


def test_options_win_over_the_file(trained: Path) -> None:
    (trained / "decode.yaml").write_text("batch_size: 3\n")
    out = trained / "exp/sctc/01/decode_p/set"
    decode_sctc.main(["--model_dir", str(trained / "exp/sctc/01"), "--data_dir", str(trained / "dump"),
                      "--out_dir", str(out), "--config", str(trained / "decode.yaml"), "--device", "cpu",
                      "--count", "forced", "--num_talkers", "2", "--weights", "latest.pth"])
    merge_decode.main(["--out_dir", str(out)])
    segments, _, record = results(out)
    assert len(segments) == 14 and record["batch_size"] == 3 and record["weights"].endswith("latest.pth")


def test_missing_part_is_named(trained: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        merge_decode.main(["--out_dir", str(trained / "exp/sctc/01/decode_x/set"), "--num_jobs", "2"])
    assert stopped.value.code == 1 and "job 1 of 2 is missing" in capsys.readouterr().err


def test_no_job_and_a_clip_without_audio(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 jobs: expected 1 or more"):
        merge(tmp_path, 0, {})
    shutil.copytree(trained / "dump", tmp_path / "dump")
    lines = (tmp_path / "dump/wav.scp").read_text().splitlines(keepends=True)
    (tmp_path / "dump/wav.scp").write_text("".join(lines[1:]))
    with pytest.raises(UserError, match=f"wav.scp: the clip '{lines[0].split()[0]}' is not there; make the clips"):
        decode(trained / "exp/sctc/01", tmp_path / "dump", DecodeConfig())


def test_model_of_another_task(trained: Path) -> None:
    for task in ("ume", "speech_llm"):
        with pytest.raises(UserError, match=f"config.yaml: this is no model of {task} but one of sctc; give a "):
            load_model(trained / "exp/sctc/01", task)


def test_model_that_is_not_there(trained: Path) -> None:
    with pytest.raises(UserError, match="train it with the stage 'train'"):
        decode(trained / "exp/sctc/99", trained / "dump", DecodeConfig())


def test_jobs_share_the_clips(trained: Path) -> None:
    parts = [sum(clip_batches(trained / "dump", 2, job, 3), []) for job in (1, 2, 3)]
    assert sorted(sum(parts, [])) == [f"c{i}" for i in range(7)]


@pytest.mark.parametrize("line, message", [("c0 abc", "'abc' is no number of samples"), ("c0 720.0", "'720.0' is no num"),
                                           ("c0", "1 columns, expected 2")])
def test_sizes_of_clips_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "utt2num_samples").write_text(f"b0 16000\n{line}\n")
    with pytest.raises(UserError, match=f"utt2num_samples:2: {message}.*; make the clips again"):
        clip_samples(tmp_path)


def test_packed_model_decodes_the_same(trained: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        pack_model.main(["--model_dir", str(trained / "exp/sctc/01"), "--out", str(tmp_path / name)])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path / "model")
    here, _, _ = decode(trained / "exp/sctc/01", trained / "dump", DecodeConfig())
    there, _, _ = decode(tmp_path / "model", trained / "dump", DecodeConfig())
    assert here == there


def test_what_cannot_be_read_is_not_packed(trained: Path, tmp_path: Path) -> None:
    model = shutil.copytree(trained / "exp/sctc/01", tmp_path / "model")
    weights = find_weights(model)
    whole = weights.read_bytes()
    for content in (b"", b"garbage", whole[: len(whole) // 2]):
        weights.write_bytes(content)
        with pytest.raises(UserError, match="not a file of weights"):
            pack(model, tmp_path / "a.zip")
    weights.write_bytes(whole)
    config = load_yaml(model / "config.yaml")
    for key, message in (("tokenizer", "no tokenizer: "), ("bpemodel", "gone: no such file; .*config.yaml names it")):
        (model / "config.yaml").write_text(json.dumps({**config, key: str(tmp_path / "gone")}))
        with pytest.raises(UserError, match=message):
            pack(model, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
