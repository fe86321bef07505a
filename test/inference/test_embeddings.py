"""Embeddings of stretches: computed once, in jobs, again when the pool changes; what cannot be enrolled is told."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from toy_stretches import hum, line, make_pool

from espnet_mt_llm.bin import extract_embeddings
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import read_audio, write_audio
from espnet_mt_llm.encoders.campplus import CAMPPlus
from espnet_mt_llm.inference.embeddings import encoder_key, extract, speaker_vector, stretch_embeddings
from espnet_mt_llm.train.preprocess import change_speed

SIZES = {"num_mels": 16, "embedding_size": 8, "head_channels": 4, "init_channels": 8, "growth_rate": 4, "bn_size": 2,
         "num_layers": [1, 1, 1]}


class Counting(CAMPPlus):
    """An extractor that counts the clips it gets."""

    clips = 0

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        self.clips += len(speech)
        assert not self.training
        return super().forward(speech, lengths)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return make_pool(tmp_path / "dump", [90, 150, 220], stretches=2)


@pytest.fixture
def encoder() -> Counting:
    torch.manual_seed(0)
    return Counting(frozen=False, **SIZES).train()


def names(pool: Path) -> list[str]:
    return [text.split()[0] for text in (pool / "enrolment").read_text().splitlines()]


def test_embeddings_are_those_of_the_stretches_and_computed_once(pool, encoder):
    found = stretch_embeddings(pool, encoder)
    assert list(found) == names(pool) and encoder.clips == 6 and encoder.training
    encoder.eval()
    with torch.no_grad():
        for k, name in enumerate(names(pool)):
            samples = torch.from_numpy(read_audio(pool / f"r{k // 2}{k % 2}.wav")[0])
            wanted = encoder(samples[None], torch.tensor([len(samples)]))[0]
            np.testing.assert_allclose(found[name], wanted, atol=1e-4)
            faster = torch.from_numpy(change_speed(samples.numpy(), 1.1))
            wanted = encoder(faster[None], torch.tensor([len(faster)]))[0]
            np.testing.assert_allclose(stretch_embeddings(pool, encoder, speed=1.1)[name], wanted, atol=1e-4)
    encoder.clips = 0
    again = stretch_embeddings(pool, encoder)
    assert encoder.clips == 0
    folder = pool / "enroll" / encoder_key(encoder)
    assert sorted(p.name for p in folder.glob("[!.]*")) == ["enroll.ark", "enroll.scp"]
    direct = kaldiio.load_scp(str(folder / "enroll.scp"))
    for name in names(pool):
        np.testing.assert_array_equal(again[name], direct[name])
    np.testing.assert_allclose(speaker_vector(found, names(pool)[:2]),
                               (found[names(pool)[0]] + found[names(pool)[1]]) / 2, rtol=1e-6)


def test_key_follows_weights_and_sizes(encoder):
    same = Counting(frozen=False, **SIZES)
    same.load_state_dict(encoder.state_dict())
    assert encoder_key(same) == encoder_key(encoder)
    with torch.no_grad():
        same.head.conv1.weight[0, 0, 0, 0] += 1e-3
    assert encoder_key(same) != encoder_key(encoder)
    assert encoder_key(encoder).startswith("campplus-")


def test_a_pool_that_changed_is_computed_again(pool, encoder):
    stretch_embeddings(pool, encoder, "k")
    lines = (pool / "enrolment").read_text().splitlines(keepends=True)
    (pool / "enrolment").write_text("".join(lines[:-1]))
    later = (pool / "enroll/k/enroll.scp").stat().st_mtime + 5
    os.utime(pool / "enrolment", (later, later))
    encoder.clips = 0
    assert list(stretch_embeddings(pool, encoder, "k")) == names(pool) and encoder.clips == 5
    # An older pool with one more: that one alone is missing.
    (pool / "enrolment").write_text("".join(lines))
    os.utime(pool / "enrolment", (1, 1))
    encoder.clips = 0
    found = stretch_embeddings(pool, encoder, "k")
    assert list(found) == names(pool) and encoder.clips == 1
    assert all(np.isfinite(found[name]).all() for name in found)


def test_jobs_share_the_work(pool, encoder, capsys):
    alone = {name: vector.copy() for name, vector in stretch_embeddings(pool, encoder, "alone").items()}
    encoder.clips = 0
    parts = [extract(pool, encoder, "jobs", job=job, num_jobs=4) for job in (3, 1, 4)]
    assert [list(part) for part in parts] == [names(pool)[2:3], names(pool)[0::4], names(pool)[3:4]]
    assert extract(pool, encoder, "jobs", job=1, num_jobs=4) == parts[1] and encoder.clips == 4
    together = stretch_embeddings(pool, encoder, "jobs")  # the second job was lost: it is done here
    assert encoder.clips == 6 and list(together) == names(pool)
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], atol=1e-4)
    assert sorted(p.name for p in (pool / "enroll/jobs").glob("[!.]*")) == ["enroll.ark", "enroll.scp"]


JOB = '''
import sys, time
from pathlib import Path
import torch
from espnet_mt_llm.encoders.campplus import CAMPPlus
from espnet_mt_llm.inference.embeddings import stretch_embeddings

pool, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

class Slow(CAMPPlus):
    def forward(self, speech, lengths):
        with open(pool / f"{name}.clips", "a") as f:
            f.write("x" * len(speech))
        time.sleep(seconds)
        return super().forward(speech, lengths)

encoder = Slow(16000, str(pool / "weights"))
(pool / f"{name}.ready").touch()
while not (pool / f"{name}.go").exists():
    time.sleep(0.01)
print(len(stretch_embeddings(pool, encoder, "k")))
'''


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_that_ask_at_once_share_one_computation(pool, encoder):
    (pool / "weights").mkdir()
    torch.save(encoder.state_dict(), pool / "weights" / "latest.pth")
    (pool / "weights" / "config.yaml").write_text(json.dumps({"encoder": "campplus", "encoder_conf": SIZES}))
    jobs = {name: subprocess.Popen([sys.executable, "-c", JOB, str(pool), name, seconds], stdout=subprocess.PIPE)
            for name, seconds in (("killed", "1000"), ("a", "0.3"), ("b", "0.3"))}
    try:
        wait_for(lambda: all((pool / f"{name}.ready").exists() for name in jobs))
        (pool / "killed.go").touch()
        wait_for((pool / "killed.clips").exists)
        for name in ("a", "b"):
            (pool / f"{name}.go").touch()
        time.sleep(1)
        assert not list(pool.glob("[ab].clips"))  # they wait, until the one that computes is no more
        jobs["killed"].kill()
        assert [jobs[name].communicate(timeout=120)[0] for name in ("a", "b")] == [b"6\n", b"6\n"]
    finally:
        for job in jobs.values():
            job.kill()
            job.wait()
    assert "".join(path.read_text() for path in pool.glob("[ab].clips")) == "x" * 6


def test_command(pool, encoder, tmp_path, capsys):
    torch.save({f"encoder.{key}": value for key, value in encoder.state_dict().items()}, tmp_path / "latest.pth")
    (tmp_path / "config.yaml").write_text(json.dumps({"encoder": "campplus", "encoder_conf": SIZES}))
    for job in ("1", "2"):
        extract_embeddings.main(["--dump_dir", str(pool), "--checkpoint", str(tmp_path), "--job", job, "--num_jobs",
                                 "2"])
    extract_embeddings.main(["--dump_dir", str(pool), "--checkpoint", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == ["3 embeddings of 8 numbers"] * 2 + ["6 embeddings of 8 numbers"]
    encoder.clips = 0
    assert len(stretch_embeddings(pool, encoder)) == 6 and encoder.clips == 0
    with pytest.raises(SystemExit):
        extract_embeddings.main(["--dump_dir", str(pool), "--checkpoint", str(tmp_path), "--job", "2"])


def add(pool: Path, text: str) -> None:
    with open(pool / "enrolment", "a") as f:
        f.write(text)


def test_short_and_silent_audio_is_refused_by_name(pool, encoder):
    write_audio(pool / "quiet.wav", np.zeros(48000, np.int16), 16000)
    write_audio(pool / "level.wav", np.full(48000, 9000, np.int16), 16000)  # of a microphone that is not connected
    broken = np.random.default_rng(0).normal(0, 0.1, 48000).astype(np.float32)
    broken[100] = np.nan
    soundfile.write(pool / "broken.wav", broken, 16000, subtype="FLOAT")
    add(pool, line("zed", "quiet", 2.5, pool / "quiet.wav"))
    add(pool, line("zek", "level", 2.5, pool / "level.wav"))
    add(pool, line("zen", "broken", 2.5, pool / "broken.wav"))
    with pytest.raises(UserError, match="enrolment: silent: zed-quiet-0000000-0000250, zek-level-.*, zen-broken-.*; noth"):
        stretch_embeddings(pool, encoder)
    assert encoder.clips == 6
    with pytest.raises(UserError, match="silent: zed-quiet"):
        stretch_embeddings(pool, encoder)
    assert encoder.clips == 6  # the others are kept
    add(pool, line("zoe", "r00", 0.99, pool / "r00.wav"))
    with pytest.raises(UserError, match=r"less than 1 s: zoe-r00-0000000-0000099 \(0.99 s\)"):
        stretch_embeddings(pool, encoder)


def test_missing_audio_and_other_rates_are_told(pool, encoder):
    add(pool, line("zed", "gone", 2.0, pool / "gone.wav"))
    with pytest.raises(UserError, match="gone.wav: no such audio file"):
        stretch_embeddings(pool, encoder)
    write_audio(pool / "gone.wav", hum(100, 4, 0), 8000)
    with pytest.raises(UserError, match="zed-gone-0000000-0000200' has 8000 Hz, the model is for 16000"):
        stretch_embeddings(pool, encoder)
    with pytest.raises(UserError, match="no such file; make it"):
        stretch_embeddings(pool.parent, encoder)


def test_two_speakers_are_warned_of(pool, encoder, caplog):
    with caplog.at_level(logging.WARNING):
        stretch_embeddings(pool, encoder, "clean")
    assert not caplog.text
    with open(pool / "supervision", "a") as f:
        # 0.5 s of r00 in a clip that begins at 1 s.
        f.write('r00-0000100-0000250 [{"spk":"guest","start":0.2,"end":0.7,"text":"x"}]\n')
        f.write('r01-0000000-0000150 [{"spk":"guest","start":0.0,"end":0.05,"text":"x"}]\n')
    with caplog.at_level(logging.WARNING):
        stretch_embeddings(pool, encoder, "guest")
    assert "another speaker talks in: s0-r00-0000000-0000200 (0.5 s); they are enrolled all the same" in caplog.text
    caplog.clear()
    # Headsets of one meeting: two stretches at the same time.
    for spk in ("ann", "bob"):
        add(pool, line(spk, f"m_{spk}", 2.0, pool / "r00.wav", session="m"))
    with caplog.at_level(logging.WARNING):
        stretch_embeddings(pool, encoder, "meeting")
    assert "ann-m_ann-0000000-0000200 (2.0 s), bob-m_bob-0000000-0000200 (2.0 s)" in caplog.text


def test_a_speaker_without_a_stretch_is_told(pool, encoder):
    with pytest.raises(UserError, match="no stretch to be registered from"):
        speaker_vector({}, [])
    with pytest.raises(UserError, match="the stretch 'x' is not in the pool"):
        speaker_vector(stretch_embeddings(pool, encoder), ["x"])
