"""Digit strings: the official split, both layouts, the same bytes on every run."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import fsdd
from espnet_mt_llm.datadir.audio import duration, read_audio, write_audio
from espnet_mt_llm.datadir.kaldi import DataDir

SMALL = {"train": 5, "dev": 3, "test": 4}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Two speakers, two digits, ten takes each, in both layouts: tones with silence around them."""
    root = tmp_path_factory.mktemp("fsdd")
    for speaker, base in (("ann", 200), ("bob", 120)):
        for digit in (3, 8):
            for take in range(10):
                tone = 0.01 * (take + 1) * np.sin(2 * np.pi * (base + 50 * digit + take) * np.arange(2400) / 8000)
                samples = np.concatenate([np.zeros(800), tone, np.zeros(1600)]).astype(np.float32)
                write_audio(root / "original" / "recordings" / f"{digit}_{speaker}_{take}.wav", samples, 8000)
                write_audio(root / "archive" / "flac" / f"{speaker}-{digit}-{take:02d}.flac", samples, 8000)
    (root / "original" / "recordings" / "README.md").touch()
    return root


def prepare(root, out, **options):
    fsdd.prepare(root, out, SMALL, **options)
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.flac"))}


def test_both_layouts_and_any_number_of_processes_give_the_same_bytes(toy, tmp_path):
    first = prepare(toy / "original", tmp_path / "a")
    assert len(first) == sum(SMALL.values())
    assert prepare(toy / "archive", tmp_path / "b", nj=2) == first
    assert prepare(toy / "archive", tmp_path / "c", seed=2) != first


def test_data_directories(toy, tmp_path):
    prepare(toy / "original", tmp_path)
    for name, number in SMALL.items():
        data = DataDir.read(tmp_path / name)
        assert len(data.utterances) == len(data.wav) == number
        for u in data.utterances:
            samples, rate = read_audio(data.wav[u.rec], u.start, u.end)
            assert rate == 16000 and len(samples) == round(16000 * data.reco2dur[u.rec]) and u.start == 0
            assert u.utt.startswith(f"{u.spk}-{u.rec}-0000000-") and u.spk in ("ann", "bob")
            words = u.text.split()
            assert 3 <= len(words) <= 5 and set(words) <= {"three", "eight"}
            # A take is its 0.3 s of tone and 0.02 s of margin on both sides; gaps have 0.05-0.25 s.
            takes, gaps = len(words), len(words) - 1
            assert 0.34 * takes + 0.05 * gaps - 0.02 <= u.end <= 0.36 * takes + 0.25 * gaps


def test_splits_share_no_take(toy, tmp_path):
    assert sorted(take for takes in fsdd.TAKES.values() for take in takes) == list(range(50))
    assert list(fsdd.TAKES["test"]) == [0, 1, 2, 3, 4]
    takes = fsdd.find_takes(toy / "original")
    for name in fsdd.TAKES:
        _, strings = fsdd.draw_strings(takes, name, 40, tmp_path, 1, 16000)
        used = {int(path.rsplit("_", 1)[1][:-4]) for string in strings for path in string.takes}
        assert used == set(fsdd.TAKES[name]) & set(range(10))


def test_a_second_run_makes_what_is_missing(toy, tmp_path):
    first = prepare(toy / "original", tmp_path)
    lost = tmp_path / sorted(first)[4]
    lost.unlink()
    kept = tmp_path / sorted(first)[0]
    before = kept.stat().st_mtime_ns
    assert prepare(toy / "original", tmp_path) == first and kept.stat().st_mtime_ns == before


def test_a_split_without_takes(toy, tmp_path):
    with pytest.raises(UserError, match="the speaker 'ann' has none of the takes 0-4 of the split 'test'"):
        takes = {key: path for key, path in fsdd.find_takes(toy / "archive").items() if key[2] > 4}
        fsdd.draw_strings(takes, "test", 2, tmp_path, 1, 16000)


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.write_bytes(b""), "holds no samples|cannot be read"),
    (lambda path: path.write_bytes(path.read_bytes()[:500]), "truncated"),
    (lambda path: soundfile.write(path, np.zeros((100, 2)), 8000), "has 2 channels"),
])
def test_a_damaged_take_is_named(tmp_path, damage, words):
    root = tmp_path / "corpus"
    for take in range(10):
        write_audio(root / "recordings" / f"1_ann_{take}.wav", np.full(2400, 900, dtype=np.int16), 8000)
    damage(root / "recordings" / "1_ann_0.wav")
    with pytest.raises(UserError, match="1_ann_0.wav") as caught:
        prepare(root, tmp_path / "data")
    assert any(word in str(caught.value) for word in words.split("|"))


def test_absent_corpus_is_a_message_with_the_command(tmp_path, repository):
    command = [sys.executable, "-m", "espnet_mt_llm.bin.prepare_fsdd", "--root", f"{tmp_path}/none",
               "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert f"git clone --depth 1 {fsdd.URL} {tmp_path}/none" in ran.stderr


def test_real_corpus(real_data, tmp_path):
    takes = fsdd.find_takes(real_data / "fsdd")
    assert len(takes) == 3000 and len({speaker for speaker, _, _ in takes}) == 6
    fsdd.prepare(real_data / "fsdd", tmp_path, {"train": 12, "dev": 6, "test": 30})
    rows = (real_data / "fsdd" / "utterances.tsv").read_text().splitlines()[1:]
    listed = dict(line.split("\t")[0::5] for line in rows)
    test = DataDir.read(tmp_path / "test")
    assert len({u.spk for u in test.utterances}) == 6 and {u.text.count(" ") for u in test.utterances} == {2, 3, 4}
    _, strings = fsdd.draw_strings(takes, "test", 30, tmp_path, 1, 16000)
    for string in strings:
        assert {listed[os.path.basename(path)[:-5]] for path in string.takes} == {"test"}
        assert duration(test.wav[os.path.basename(string.out)[:-5]]) < 16
    # The original layout of the same recordings gives the same takes.
    for (speaker, digit, take), path in list(takes.items())[::300]:
        copy = tmp_path / "wav" / "recordings" / f"{digit}_{speaker}_{take}.wav"
        write_audio(copy, read_audio(path)[0], 8000)
        assert np.array_equal(fsdd.load_take(str(copy), 16000), fsdd.load_take(path, 16000))
    assert len(fsdd.find_takes(tmp_path / "wav")) == 10
