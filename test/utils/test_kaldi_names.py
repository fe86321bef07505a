"""The tools under their Kaldi names: the options that Kaldi's callers give, exit codes, work from any directory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map


@pytest.fixture
def tool(repository, tmp_path):
    """Run a tool of ``utils/`` in ``tmp_path``, as `name arguments…`; PYTHONPATH is not set."""

    def run(line: str, stdin: str = "") -> subprocess.CompletedProcess:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        env["PATH"] = f"{repository / 'utils'}:{Path(sys.executable).parent}:{env['PATH']}"
        return subprocess.run(line.split(), cwd=tmp_path, env=env, input=stdin, capture_output=True, text=True)

    return run


@pytest.fixture
def data(tmp_path):
    """A data dir ``data`` of two recordings."""
    for rec in "AB":
        write_audio(tmp_path / f"{rec}.wav", np.full(32000, 9, np.int16), 16000)
    segments = [
        {"session_id": rec, "speaker": spk, "start_time": i, "end_time": i + 1, "words": "x"}
        for rec in "AB"
        for i, spk in enumerate(("s1", "s2"))
    ]
    DataDir.from_seglst(segments, {rec: f"{tmp_path}/{rec}.wav" for rec in "AB"}).write(tmp_path / "data")
    return tmp_path / "data"


def test_the_tools_that_change_directories(tool, data, tmp_path):
    for line in (
        "validate_data_dir.sh --no-feats --no-wav data",
        "fix_data_dir.sh data",
        "copy_data_dir.sh --utt-prefix=far- --spk-prefix far- --rec-prefix far- data far",
        "combine_data.sh --extra-files utt2num_spk both data far",
        "validate_data_dir.sh both",
        "subset_data_dir.sh --first both 3 few",
        "subset_data_dir.sh both 3 some",
        "subset_data_dir.sh --utt-list few/utt2spk both again",
        "subset_data_dir.sh --per-spk both 1 each",
        "split_data.sh both 4",
        "split_data.sh --per-utt both 2",
        "split_data.sh --per-reco both 2",
        "get_reco2dur.sh both",
        "get_utt2dur.sh --nj 4 both",
        "validate_data_dir.sh both both/split4/1 few each",
    ):
        ran = tool(line)
        assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
    assert set(read_map(tmp_path / "both" / "wav.scp")) == {"A", "B", "far-A", "far-B"}
    assert read_map(tmp_path / "few" / "utt2spk") == read_map(tmp_path / "again" / "utt2spk")
    assert read_map(tmp_path / "both" / "split4" / "3" / "spk2utt").keys() == {"s1"}


def test_the_tools_for_lists(tool, data, tmp_path):
    utt2spk = (data / "utt2spk").read_text()
    assert tool("utt2spk_to_spk2utt.pl data/utt2spk").stdout == (data / "spk2utt").read_text()
    assert tool("utt2spk_to_spk2utt.pl", stdin=utt2spk).stdout == (data / "spk2utt").read_text()
    assert tool("spk2utt_to_utt2spk.pl data/spk2utt").stdout == utt2spk
    (tmp_path / "ids").write_text(utt2spk.split()[0] + "\n")
    assert tool("filter_scp.pl ids data/utt2spk").stdout.split() == utt2spk.split()[:2]
    assert tool("filter_scp.pl --exclude ids", stdin=utt2spk).stdout.split() == utt2spk.split()[2:]
    assert tool("filter_scp.pl -f 2 data/spk2utt data/utt2spk").stdout == utt2spk
    assert tool("split_scp.pl data/utt2spk p1 p2 p3").returncode == 0
    assert "".join((tmp_path / f"p{i}").read_text() for i in (1, 2, 3)) == utt2spk
    assert tool("split_scp.pl -j 3 1 data/utt2spk").stdout == (tmp_path / "p2").read_text()
    assert tool("split_scp.pl -j 3 2 --one-based data/utt2spk p").returncode == 0
    assert (tmp_path / "p").read_text() == (tmp_path / "p2").read_text()
    assert tool("split_scp.pl --utt2spk=data/utt2spk data/utt2spk p1 p2").returncode == 0
    assert {line.split()[1] for line in (tmp_path / "p1").read_text().splitlines()} == {"s1"}


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("validate_data_dir.sh nowhere", 1, "nowhere: no such data directory; prepare it first"),
        ("validate_data_dir.sh", 2, "the following arguments are required"),
        ("fix_data_dir.sh --nope data", 2, "unrecognized arguments: --nope"),
        ("subset_data_dir.sh data 2", 2, "expected <source> <target> with a list"),
        ("subset_data_dir.sh data two out", 2, "the count 'two' is not a number"),
        ("subset_data_dir.sh data 99 out", 1, "data: 99 asked for, but there are 4; ask for fewer"),
        ("copy_data_dir.sh --utt-prefix x- data out", 1, "give --utt-prefix and --spk-prefix the same value"),
        ("combine_data.sh out data data", 1, "is also in data; rename one"),
        ("split_data.sh data 9", 1, "cannot make 9 parts of 2"),
        ("split_scp.pl -j 3 3 data/utt2spk", 2, "job 3 of 3"),
        ("split_scp.pl data/text", 2, "expected <scp>"),
        ("filter_scp.pl missing data/text", 1, "missing: no such file"),
        ("utt2spk_to_spk2utt.pl data/segments", 1, "utt2spk:1: expected '<utterance> <speaker>'"),
    ],
)
def test_mistakes_have_a_code_and_a_message(tool, data, line, code, message):
    ran = tool(line)
    assert (ran.returncode, message in ran.stderr, "Traceback" in ran.stderr) == (code, True, False), ran.stderr
