"""Maps and data directories: what is written reads back, and what cannot be read is named by file and line."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.kaldi import (
    _segment_lines,
    DataDir,
    Lookup,
    Utterance,
    format_seconds,
    key_of,
    make_utt_id,
    read_lines,
    read_map,
    spk2utt_of,
    write_map,
)

IDS = st.text("ABCxyz019_.-", min_size=1, max_size=8)
VALUES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20).map(
    lambda s: s.replace("\xa0", " ").strip(" ")
)


@given(st.dictionaries(IDS, VALUES, max_size=6))
def test_map_reads_back(tmp_path_factory, mapping):
    path = tmp_path_factory.mktemp("map") / "text"
    write_map(path, mapping)
    assert read_map(path) == mapping
    assert list(read_map(path)) == sorted(mapping, key=lambda key: key.encode())


def test_order_is_that_of_sort_in_the_c_locale(tmp_path):
    ids = ["b", "B", "a-1", "a_1", "a1", "a", "é", "中", "\U0001f600"]
    write_map(tmp_path / "m", {i: "x" for i in ids})
    ordered = subprocess.run(["sort", tmp_path / "m"], env={"LC_ALL": "C"}, capture_output=True, check=True).stdout
    assert ordered == (tmp_path / "m").read_bytes()


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"a 1\n\nb 2\n", 2, "empty line"),
        (b"a 1\nb 2\na 3\n", 3, "the id 'a' is already on line 1"),
        (b"a 1\nb \xff\xfe\n", 2, "not UTF-8 (byte 0xff)"),
    ],
)
def test_bad_map_names_file_and_line(tmp_path, content, line, message):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_map(path)
    assert str(error.value).startswith(f"{path}:{line}: ") and message in str(error.value)


@given(st.dictionaries(IDS, VALUES, max_size=8), st.lists(IDS, max_size=12), st.randoms(use_true_random=False))
def test_a_lookup_answers_as_the_map_does_in_any_order(tmp_path_factory, mapping, asked, random):
    path = tmp_path_factory.mktemp("map") / "text"
    write_map(path, mapping)
    for shuffle in (False, True):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if shuffle:
            random.shuffle(lines)
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        assert dict(read_lines(path)) == read_map(path)
        for questions in (sorted({*asked, *mapping}), asked):
            lookup = Lookup(path)
            assert [lookup.get(key) for key in questions] == [mapping.get(key) for key in questions]
            lookup.finish()


@pytest.mark.parametrize("content", [b"a 1\n\nb 2\n", b"a 1\nb 2\na 3\n", b"a 1\nb \xff\xfe\n", b"b 1\na 1\na 2\n"])
def test_bad_lines_are_named_as_in_a_map(tmp_path, content):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UserError) as expected:
        read_map(path)
    for read in (lambda: list(read_lines(path)), lambda: (Lookup(path).get("a"), Lookup(path).finish())):
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == str(expected.value)


def test_ideographic_space_belongs_to_the_transcript(tmp_path):
    (tmp_path / "text").write_text("a 好\u3000吗\nb\t x\n", encoding="utf-8")
    assert read_map(tmp_path / "text") == {"a": "好\u3000吗", "b": "x"}


@pytest.mark.parametrize("mapping", [{"a b": "x"}, {"": "x"}, {"a": "x\ny"}])
def test_a_map_that_would_not_read_back_is_not_written(tmp_path, mapping):
    with pytest.raises(UserError):
        write_map(tmp_path / "m", mapping)
    assert not (tmp_path / "m").exists()


def test_utterance_ids():
    assert make_utt_id("SPK8013", "R8001_M8004", 63.41, 65.2) == "SPK8013-R8001_M8004-0006341-0006520"
    for bad in ("a b", "a/b", "$(rm)", "", "é"):
        with pytest.raises(UserError, match="may hold letters"):
            make_utt_id(bad, "rec", 0, 1)


@given(st.floats(0, 1e5))
def test_seconds_keep_microseconds(seconds):
    written = format_seconds(seconds)
    assert abs(float(written) - seconds) <= 5.1e-7 and len(written.split(".")[1]) >= 2


@given(st.lists(st.tuples(st.floats(0, 1e5), st.sampled_from((2, 3, 5, 9))), max_size=6))
def test_segments_have_the_seconds_of_format_seconds(times):
    rounded = [round(seconds, digits) for seconds, digits in times]
    lines = _segment_lines([Utterance(f"u{i}", "r", "s", t, t + 0.5, "") for i, t in enumerate(rounded)])
    assert lines == "".join(f"u{i} r {format_seconds(t)} {format_seconds(t + 0.5)}\n" for i, t in enumerate(rounded))


def test_kinds_of_files():
    assert [key_of(n) for n in ("wav.scp", "spk12.scp", "text", "spk2utt", "README", "spk.scp")] == [
        "rec",
        "rec",
        "utt",
        "spk",
        None,
        None,
    ]


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
    assert spk2utt_of({"b-2": "b", "a-1": "a", "b-1": "b"}) == {"a": "a-1", "b": "b-1 b-2"}


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
