"""Data directories: what is written reads back, and what cannot be read is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.kaldi import _segment_lines, DataDir, Utterance, make_utt_id, spk2utt_of
from espnet_mt_llm.datadir.maps import format_seconds, write_map


def test_utterance_ids():
    assert make_utt_id("SPK8013", "R8001_M8004", 63.41, 65.2) == "SPK8013-R8001_M8004-0006341-0006520"
    for bad in ("a b", "a/b", "$(rm)", "", "é"):
        with pytest.raises(UserError, match="may hold letters"):
            make_utt_id(bad, "rec", 0, 1)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.sampled_from((2, 3, 5, 9))), max_size=6))
def test_segments_have_the_seconds_of_format_seconds(times):
    rounded = [round(seconds, digits) for seconds, digits in times]
    lines = _segment_lines([Utterance(f"u{i}", "r", "s", t, t + 0.5, "") for i, t in enumerate(rounded)])
    assert lines == "".join(f"u{i} r {format_seconds(t)} {format_seconds(t + 0.5)}\n" for i, t in enumerate(rounded))


def test_data_dir_reads_back_and_writes_the_same_bytes(data_dir, tmp_path):
    data = DataDir.read(data_dir)
    assert [u.utt for u in data.utterances] == sorted(u.utt for u in data.utterances)
    assert data.reco2dur == {"A": 5.0, "B": 8.5}
    data.write(tmp_path / "again")
    assert {f.name: f.read_bytes() for f in data_dir.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()
    }
    assert DataDir.from_seglst(data.seglst(), data.wav, data.reco2dur).utterances == data.utterances


def test_extra_files_travel_along(data_dir, tmp_path):
    write_map(data_dir / "spk1.scp", {"A": "x.wav", "B": "y.wav"})
    (data_dir / "mixtures.jsonl").write_text('{"id":"A","text":"a\u2028b"}\n{"id":"B"}\n', encoding="utf-8")
    data = DataDir.read(data_dir)
    assert set(data.extra) == {"spk1.scp", "mixtures.jsonl"}
    data.write(tmp_path / "again")
    for name in data.extra:
        assert (tmp_path / "again" / name).read_bytes() == (data_dir / name).read_bytes()


def test_without_segments_a_recording_is_an_utterance(tmp_path):
    data = DataDir(Path("x"), {"u1": "u1.wav"}, [Utterance("u1", "u1", "u1", 0.0, 2.5, "yes")], {"u1": 2.5})
    data.write(tmp_path / "d")
    assert not (tmp_path / "d" / "segments").exists()
    assert DataDir.read(tmp_path / "d").utterances == data.utterances


def test_two_utterances_with_one_id_are_refused(tmp_path):
    u = Utterance("u", "r", "s", 0.0, 1.0, "a")
    with pytest.raises(UserError, match="'u' occurs twice"):
        DataDir(Path("x"), {"r": "r.wav"}, [u, u], {"r": 1.0}).write(tmp_path / "d")


def test_missing_pieces_are_named(data_dir):
    (data_dir / "segments").write_text("u C 0 1\n")
    with pytest.raises(UserError, match="'C', which is not in wav.scp; repair: utils/fix_data_dir.sh"):
        DataDir.read(data_dir)
    (data_dir / "segments").write_text("u A 0\n")
    with pytest.raises(UserError, match="segments:1: found 'u A 0'; expected"):
        DataDir.read(data_dir)
    with pytest.raises(UserError, match="no such data directory"):
        DataDir.read(data_dir / "nowhere")


def test_spk2utt_is_the_inverse():
    assert spk2utt_of([("a-1", "a"), ("b-1", "b"), ("b-2", "b")]) == {"a": "a-1", "b": "b-1 b-2"}


def test_what_no_recording_has_is_not_written(data_dir):
    data = DataDir.read(data_dir)
    replace(data, extra={"channel": {"A": "2"}, "far2.scp": {}}).write(data_dir)
    assert DataDir.read(data_dir).channel("A") == 2 and DataDir.read(data_dir).channel("B") is None
    assert not (data_dir / "far2.scp").exists()
    data.write(data_dir)
    assert not (data_dir / "channel").exists(), "an earlier preparation's choice does not stay"
    (data_dir / "channel").write_text("A two\n")
    with pytest.raises(UserError, match="channel: 'A two'; expected '<recording> <number from 1 on>'"):
        DataDir.read(data_dir).channel("A")
