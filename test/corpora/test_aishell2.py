"""AISHELL-2: the two archives' layouts, transcripts, lists that do not fit together."""

import os
import subprocess
import sys

import numpy as np
import pytest

from espnet_mt_llm.corpora import aishell2
from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.validate import validate

TEXTS = ["厨房用具", "ktv电蒸锅", "我去 ＫＴＶ 吧。"]


def write_set(folder, speakers, device="I"):
    samples = np.concatenate([np.zeros(3200), 0.1 * np.sin(np.arange(16000) * 0.3), np.zeros(1600)])
    wav, text = [], []
    for speaker in speakers:
        for number, words in enumerate(TEXTS, 1):
            utt = f"{device}{speaker}W{number:04d}"
            write_audio(folder / "wav" / speaker / f"{utt}.wav", samples.astype(np.float32), 16000)
            wav.append(f"{utt}\twav/{speaker}/{utt}.wav\n")
            text.append(f"{utt}\t{words}\n")
    (folder / "wav.scp").write_text("".join(wav))
    (folder / "trans.txt").write_text("".join(text), encoding="utf-8")


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "raw"
    write_set(root / "AISHELL-2" / "iOS" / "data", ["C0002", "C0001"])
    write_set(root / "AISHELL-DEV-TEST-SET" / "iOS" / "dev", ["D0011"])
    write_set(root / "AISHELL-DEV-TEST-SET" / "iOS" / "test", ["T0011"])
    write_set(root / "AISHELL-DEV-TEST-SET" / "Mic" / "test", ["T0011"], "M")
    return root


def run(repository, *arguments):
    command = [sys.executable, "-m", "espnet_mt_llm.bin.prepare_aishell2", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})


def test_data_directories(corpus, tmp_path):
    summaries = aishell2.prepare(corpus, tmp_path, nj=2)
    assert [(s.name, s.sessions, s.speakers) for s in summaries] == [
        ("aishell2_train", 6, 2), ("aishell2_dev", 3, 1), ("aishell2_test", 3, 1)]
    data = DataDir.read(tmp_path / "aishell2_train")
    assert not validate(data.path)
    assert [(u.utt, u.rec, u.spk, u.text) for u in data.utterances][:3] == [
        ("C0001-IC0001W0001", "IC0001W0001", "C0001", "厨房用具"),
        ("C0001-IC0001W0002", "IC0001W0002", "C0001", "KTV电蒸锅"),
        ("C0001-IC0001W0003", "IC0001W0003", "C0001", "我去KTV吧")]
    assert {(u.start, u.end) for u in data.utterances} == {(0.2, 1.2)}
    assert data.wav["IC0001W0001"] == str(corpus / "AISHELL-2/iOS/data/wav/C0001/IC0001W0001.wav")


def test_train_alone_without_the_outer_folder(corpus, tmp_path):
    aishell2.prepare(corpus / "AISHELL-2", tmp_path, trim=False, profile="none")
    data = DataDir.read(tmp_path / "aishell2_train")
    assert sorted(path.name for path in tmp_path.glob("aishell2_*")) == ["aishell2_train"]
    assert {(u.start, u.end) for u in data.utterances} == {(0.0, 1.3)} and data.utterances[1].text == "ktv电蒸锅"


def test_lists_that_do_not_fit_and_damaged_audio(corpus, tmp_path, repository):
    folder = corpus / "AISHELL-2" / "iOS" / "data"
    lines = (folder / "trans.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "trans.txt").write_text("".join(lines[1:] + ["IC0009W0001\t没有\n"]), encoding="utf-8")
    (folder / "wav" / "C0001" / "IC0001W0002.wav").write_bytes(b"RIFF")
    out = tmp_path / "data"
    ran = run(repository, "--root", corpus, "--out", out)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    rows = [line.split("\t") for line in (out / "problems.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [row[:2] for row in rows] == [["aishell2_train", name] for name in ("C0001", "C0002", "trans.txt")]
    for row, words in zip(rows, ("1 of 3 recordings cannot be read", "no words for 1 utterances, the first is "
                                 "'IC0002W0001'", "no audio for 1 utterances, the first is 'IC0009W0001'")):
        assert words in row[2]
    assert sorted(DataDir.read(out / "aishell2_train").wav) == ["IC0001W0001", "IC0001W0003", "IC0002W0002",
                                                               "IC0002W0003"]
    assert run(repository, "--root", corpus, "--out", out, "--allow_problems", "true").returncode == 0


def test_debug_takes_two_speakers(corpus, tmp_path):
    write_set(corpus / "AISHELL-2" / "iOS" / "data", ["C0003", "C0002", "C0001"])
    aishell2.prepare(corpus, tmp_path, debug=True)
    assert {u.spk for u in DataDir.read(tmp_path / "aishell2_train").utterances} == {"C0001", "C0002"}


def test_wrong_folder(corpus, tmp_path, repository):
    ran = run(repository, "--root", corpus / "AISHELL-2" / "iOS", "--out", tmp_path / "data")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "no AISHELL-2 here (found in it: data); wanted: iOS/data/{wav.scp" in ran.stderr
    assert aishell2.URL in ran.stderr and "AISHELL2=" in ran.stderr
