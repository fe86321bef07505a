"""The trainer: atomic files, resumption after kill -9, damaged checkpoints, messages for people."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch

from espnet_mt_llm.bin import train_sctc
from espnet_mt_llm.common import UserError
from espnet_mt_llm.models.sctc import SCTCModel
from espnet_mt_llm.tasks.base import alone_in, check_keys
from espnet_mt_llm.train import trainer


# A file size limit fails as a full disk does: in the middle of a file.
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
from espnet_mt_llm.bin import train_sctc
train_sctc.main(sys.argv[1:])
"""


def arguments(clips: Path, out: str, *more: str) -> list[str]:
    return ["--config", str(clips / "train.yaml"), "--token_list", str(clips / "tokens.txt"),
            "--train_dir", str(clips / "dump"), "--valid_dir", str(clips / "dump"),
            "--output_dir", str(clips / out), *more]


def start(clips: Path, out: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "espnet_mt_llm.bin.train_sctc", *arguments(clips, out, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(clips: Path, out: str, *more: str) -> None:
    train_sctc.main(arguments(clips, out, *more))


def refused(clips: Path, out: str, capsys: pytest.CaptureFixture, *more: str) -> str:
    """Train, expect the exit code 1, and return what was printed."""
    with pytest.raises(SystemExit) as stopped:
        run(clips, out, *more)
    printed = capsys.readouterr().err
    assert stopped.value.code == 1, printed
    return printed


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_killed_training_ends_with_the_same_weights(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(clips, "whole")
    process = start(clips, "killed")
    deadline = time.time() + 100
    while not (clips / "killed" / "checkpoint.pth").exists() and time.time() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (clips / "killed" / "valid.loss.ave.pth").exists(), "killed too late to test anything"
    with caplog.at_level(logging.INFO):
        run(clips, "killed")
    assert "continuing after epoch" in caplog.text
    whole, killed = (weights(clips / out / "latest.pth") for out in ("whole", "killed"))
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, rtol=1e-6, atol=1e-7)
    history = [json.loads((clips / out / "history.json").read_text()) for out in ("whole", "killed")]
    assert [row["epoch"] for row in history[1]] == [1, 2, 3]
    assert history[0][-1]["valid"]["loss"] == pytest.approx(history[1][-1]["valid"]["loss"], rel=1e-5)


def test_damaged_checkpoint_falls_back_to_the_one_before(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(clips, "exp", "--max_epoch", "2")
    (clips / "exp" / "checkpoint.pth").write_bytes(b"half a file")
    with caplog.at_level(logging.INFO):
        run(clips, "exp")
    assert "going back to the one before" in caplog.text and "continuing after epoch 1" in caplog.text
    assert (clips / "exp" / "latest.pth").resolve().name == "3epoch.pth"


def test_other_model_in_the_directory(clips: Path, capsys: pytest.CaptureFixture) -> None:
    run(clips, "exp", "--max_epoch", "1")
    printed = refused(clips, "exp", capsys, "--separator_conf", "hidden_size=7")
    assert "checkpoint.pth: does not fit this model" in printed and "rm -r" in printed
    printed = refused(clips, "exp", capsys, "--max_talkers", "3")
    assert "this training was begun with max_talkers: 2, and goes on with 3" in printed and "rm -r" in printed


@pytest.mark.parametrize("line, message", [
    ("max_epochs: 3", "unknown key 'max_epochs'; did you mean 'max_epoch'?"),
    ("separator_conf: {hidden: 3}", "separator_conf: unknown key 'hidden'; did you mean 'hidden_size'?"),
    ("branch_conf: {blocks: 3, num_blocks: 1}", "branch_conf: unknown key 'blocks'; did you mean 'num_blocks'?"),
    ("model_conf: {ctc_wieght: 1}", "model_conf: unknown key 'ctc_wieght'; did you mean 'ctc_weight'?"),
    ("optim_conf: {learning_rate: 1}", "optim_conf: unknown key 'learning_rate'; "),
    ("scheduler: warmuplr\nscheduler_conf: {warmup: 3}",
     "scheduler_conf: unknown key 'warmup'; did you mean 'warmup_steps'?"),
    ("encoder_conf: {attention_heads: 3}", "encoder_conf: "),
    ("optim: adm", "unknown optim 'adm'"),
    ("max_talkers: 1", "has 2 talkers, the model takes 1 to 1"),
    ("rate: 8000", "has 16000 Hz, the model is for 8000 Hz"),
])
def test_bad_configuration(clips: Path, capsys: pytest.CaptureFixture, line: str, message: str) -> None:
    config = clips / "train.yaml"
    key = line.split(":")[0]
    kept = [text for text in config.read_text().splitlines() if not text.startswith(f"{key}:")]
    config.write_text("\n".join([*kept, line]) + "\n")
    printed = refused(clips, "exp", capsys)
    assert message in printed and "Traceback" not in printed


def test_bad_clip_in_a_loader_process_is_told_in_one_line(clips: Path, capsys: pytest.CaptureFixture) -> None:
    wav = clips / "dump" / "c05.wav"
    wav.write_bytes(wav.read_bytes()[:500])
    printed = refused(clips, "exp", capsys, "--num_workers", "1")
    assert "c05.wav" in printed and "Traceback" not in printed


def test_steps_of_the_schedule(clips: Path, capsys: pytest.CaptureFixture) -> None:
    config = clips / "train.yaml"
    config.write_text(config.read_text()
                      + "num_iters_per_epoch: 1\nscheduler: onecyclelr\nscheduler_conf: {max_lr: 0.01}\n")
    run(clips, "exp", "--max_epoch", "2")
    config.write_text(config.read_text().replace("{max_lr: 0.01}", "{max_lr: 0.01, total_steps: 1}"))
    assert "total_steps 1 are fewer than the 3 steps" in refused(clips, "other", capsys)


def test_debug_replaces_what_the_configuration_says(clips: Path, capsys: pytest.CaptureFixture) -> None:
    config = clips / "train.yaml"
    config.write_text(config.read_text() + "debug_conf: {batch_bins: 30000, encoder_conf: {output_size: 8}}\n")
    run(clips, "exp", "--debug", "true")
    sizes = {name: len(value) for name, value in weights(clips / "exp/latest.pth").items()}
    assert sizes["encoder.blocks.encoder.after_norm.weight"] == 8 and len(sizes) > 20
    config.write_text(config.read_text().replace("batch_bins: 30000", "batch_bin: 1"))
    assert "debug_conf: unknown key 'batch_bin'; did you mean 'batch_bins'?" in refused(
        clips, "other", capsys, "--debug", "true")


def test_mixed_precision_on_a_cpu(clips: Path) -> None:
    """Multiplications in bfloat16, weights and gradients in float32, and nearly the same loss."""
    seen = []
    forward = SCTCModel.forward

    def watched(self: SCTCModel, *args: object, **kwargs: object) -> object:
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return forward(self, *args, **kwargs)

    with mock.patch.object(SCTCModel, "forward", watched):
        run(clips, "mixed", "--use_amp", "true", "--max_epoch", "1")
        assert set(seen) == {(True, torch.bfloat16)}
        seen.clear()
        run(clips, "single", "--max_epoch", "1")
        assert {enabled for enabled, _ in seen} == {False}
    losses = [json.loads((clips / out / "history.json").read_text())[0]["valid"]["loss"] for out in ("mixed", "single")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]
    assert {value.dtype for value in weights(clips / "mixed" / "latest.pth").values()} <= {torch.float32, torch.int64}


def test_two_trainings_in_one_directory(clips: Path, capsys: pytest.CaptureFixture) -> None:
    with alone_in(clips / "exp"):
        printed = refused(clips, "exp", capsys)
    assert f"another training writes here (process {os.getpid()})" in printed
    run(clips, "exp", "--max_epoch", "1")
    assert json.loads((clips / "exp" / "environment.json").read_text())["commit"]


def test_full_disk_keeps_what_was_there(clips: Path) -> None:
    run(clips, "exp", "--max_epoch", "1")
    before = (clips / "exp" / "checkpoint.pth").read_bytes()
    limited = [sys.executable, "-c", FULL_DISK, *arguments(clips, "exp", "--max_epoch", "2")]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "run the command again" in done.stderr
    assert (clips / "exp" / "checkpoint.pth").read_bytes() == before
    run(clips, "exp", "--max_epoch", "2")
    assert (clips / "exp" / "latest.pth").resolve().name == "2epoch.pth"


def test_unknown_key_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1\nmax_epochs: 3\n")
    with pytest.raises(UserError, match=r"a.yaml:2: unknown key 'max_epochs'"):
        check_keys(path, ["seed", "max_epoch"])


def test_missing_clips_end_a_command_without_traceback(clips: Path) -> None:
    process = start(clips, "exp", "--train_dir", str(clips / "nothing"))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and "Traceback" not in output
    assert "make the clips with the stage 'clips'" in output


def test_save_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    trainer.save({"a": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        trainer.save({"a": lambda: 0}, path)
    assert torch.load(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["m.pth"]


def test_average(tmp_path: Path) -> None:
    for i, value in enumerate((1.0, 3.0)):
        trainer.save({"w": torch.full((2,), value), "n": torch.tensor(i)}, tmp_path / f"{i}.pth")
    mean = trainer.average([tmp_path / "0.pth", tmp_path / "1.pth"])
    assert mean["w"].tolist() == [2.0, 2.0] and mean["n"].item() == 0
