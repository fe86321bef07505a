"""Audio files of a folder as a Kaldi map."""

import subprocess
import sys

import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.lists import filter_scp, list_audio, read_lines
from espnet_mt_llm.datadir.maps import read_map


def test_audio_of_a_folder_gets_ids_of_its_path(tmp_path):
    for name in ("free sound/a.1.wav", "free sound/b.FLAC", "notes.txt", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_audio(tmp_path) == {"free_sound_a.1": str(tmp_path / "free sound/a.1.wav"),
                                    "free_sound_b": str(tmp_path / "free sound/b.FLAC")}
    out = tmp_path / "noise.scp"
    subprocess.run([sys.executable, "-m", "espnet_mt_llm.bin.list_audio", "--root", tmp_path, "--out", out], check=True)
    assert read_map(out) == list_audio(tmp_path)


def test_only_files_of_a_pattern_and_no_file_in_two_lists(tmp_path):
    for name in ("noise1.wav", "rir1.wav", "deep/noise2.flac", "deep/rir2.wav"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).touch()
    assert list(list_audio(tmp_path / "raw", "noise*")) == ["noise1", "deep_noise2"]
    assert list(list_audio(tmp_path / "raw", "deep/*.wav")) == ["deep_rir2"]
    with pytest.raises(UserError, match="no .wav or .flac file like 'x\\*' in it"):
        list_audio(tmp_path / "raw", "x*")
    command = [sys.executable, "-m", "espnet_mt_llm.bin.list_audio", "--root", tmp_path / "raw", "--out"]
    noise, rir = tmp_path / "noise.scp", tmp_path / "rir.scp"
    subprocess.run([*command, noise, "--pattern", "noise*"], check=True)
    subprocess.run([*command, rir, "--pattern", "rir*", "--apart_from", noise], check=True)
    assert list(read_map(rir)) == ["deep_rir2", "rir1"]
    rir.unlink()
    ran = subprocess.run([*command, rir, "--apart_from", noise], capture_output=True, text=True)
    assert ran.returncode == 1 and not rir.exists() and "Traceback" not in ran.stderr
    assert f"2 of its 4 files are in {noise} already, the first is {tmp_path}/raw/deep/noise2.flac" in ran.stderr


def test_an_empty_list_has_no_line(tmp_path):
    (tmp_path / "empty").write_text("")
    assert list(read_lines(tmp_path / "empty")) == [] == list(filter_scp(read_lines(tmp_path / "empty"), ["a"]))
    (tmp_path / "one").write_text("\n")
    assert list(read_lines(tmp_path / "one")) == [""]


def test_no_folder_no_audio_and_ids_that_meet(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_audio(tmp_path / "nothing")
    with pytest.raises(UserError, match="no .wav or .flac file in it"):
        list_audio(tmp_path)
    for name in ("a.wav", "a.flac"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="would get the id 'a' of"):
        list_audio(tmp_path)
