"""RTTM, STM, SegLST: written segments read back, real files read whole, bad lines are named."""

import json

import meeteval
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.convert import convert, format_of
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import write_map
from espnet_mt_llm.datadir.rttm import read_rttm, write_rttm
from espnet_mt_llm.datadir.seglst import read_seglst, write_seglst
from espnet_mt_llm.datadir.stm import read_stm, write_stm
from espnet_mt_llm.datadir.textgrid import read_tiers
from espnet_mt_llm.datadir.validate import validate

NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=6)
TIMES = st.tuples(st.integers(0, 10**9), st.integers(0, 10**8)).map(lambda t: (t[0] / 1e6, (t[0] + t[1]) / 1e6))
WORDS = st.lists(st.text("abc好的<>", min_size=1, max_size=4), max_size=4).map(" ".join)


@st.composite
def segments(draw):
    rows = draw(st.lists(st.tuples(NAMES, NAMES, TIMES, WORDS), max_size=5))
    return [
        {"session_id": rec, "speaker": spk, "start_time": t[0], "end_time": t[1], "words": words}
        for rec, spk, t, words in rows
    ]


def order(rows):
    return sorted(rows, key=lambda s: (s["session_id"], s["start_time"], s["end_time"], s["speaker"], s["words"]))


@given(segments())
def test_seglst_reads_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("seglst") / "a.json"
    write_seglst(path, rows)
    assert read_seglst(path) == rows


@given(segments())
def test_rttm_reads_back_without_words(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rttm") / "a.rttm"
    write_rttm(path, rows)
    assert all(len(line.split()) == 10 for line in path.read_text().splitlines())
    expected = order([{**row, "words": ""} for row in rows])
    read = order(read_rttm(path))
    assert [(r["session_id"], r["speaker"]) for r in read] == [(e["session_id"], e["speaker"]) for e in expected]
    for r, e in zip(read, expected):
        assert abs(r["start_time"] - e["start_time"]) < 2e-6 and abs(r["end_time"] - e["end_time"]) < 2e-6


@given(segments())
def test_stm_reads_back(tmp_path_factory, rows):
    rows = [{**row, "words": "w " + row["words"] if row["words"].startswith("<") else row["words"]} for row in rows]
    path = tmp_path_factory.mktemp("stm") / "a.stm"
    write_stm(path, rows)
    assert order(read_stm(path)) == order(rows)


def test_other_tools_read_what_we_write(tmp_path):
    rows = [{"session_id": "r", "speaker": "s", "start_time": 0.5, "end_time": 1.25, "words": "a b"}]
    write_stm(tmp_path / "a.stm", rows)
    write_rttm(tmp_path / "a.rttm", rows)
    write_seglst(tmp_path / "a.json", rows)
    assert [
        (s["speaker"], float(s["start_time"]), s["words"]) for s in meeteval.io.load(tmp_path / "a.stm").to_seglst()
    ] == [("s", 0.5, "a b")]
    assert float(meeteval.io.load(tmp_path / "a.rttm").to_seglst()[0]["end_time"]) == 1.25
    assert meeteval.io.load(tmp_path / "a.json").to_seglst()[0]["words"] == "a b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPEAKER r 1 0.0 1.0 <NA> s\n", "a.rttm:1: 7 fields, expected 10"),
        (";; note\nSPEAKER r 1 zero 1.0 <NA> <NA> s <NA> <NA>\n", "a.rttm:2: the times 0 and 'zero' are not numbers"),
        ("SPEAKER r 1 0 -1 <NA> <NA> s <NA> <NA>\n", "a.rttm:1: the segment goes from 0 to -1 s"),
        ("SPEAKER r 1 0 16000 <NA> <NA> s <NA>\nSPEAKER r 1 <NA> <NA> <NA> <NA> <NA> END\n", "a.rttm:2: an END row"),
    ],
)
def test_bad_rttm(tmp_path, text, message):
    (tmp_path / "a.rttm").write_text(text)
    with pytest.raises(UserError) as error:
        read_rttm(tmp_path / "a.rttm")
    assert message in str(error.value)


def test_rttm_leaves_other_lines_out(tmp_path):
    (tmp_path / "a.rttm").write_text(
        "SPKR-INFO r 1 <NA> <NA> <NA> unknown s <NA> <NA>\n\nSPEAKER r 1 0.1 0.2 <NA> <NA> s <NA> <NA>\n"
    )
    assert read_rttm(tmp_path / "a.rttm") == [
        {"session_id": "r", "speaker": "s", "start_time": 0.1, "end_time": 0.3, "words": ""}
    ]


def test_stm_labels_comments_and_empty_text(tmp_path):
    (tmp_path / "a.stm").write_text(";; x\nr 1 s 0 1 <o,f0,male> a b\nr 1 s 1 2 <unk> c\nr A s 2 3\nr 1 s 3 4 <O>\n")
    assert [s["words"] for s in read_stm(tmp_path / "a.stm")] == ["a b", "<unk> c", "", ""]
    (tmp_path / "b.stm").write_text("r 1 s 0\n")
    with pytest.raises(UserError, match="b.stm:1: 4 fields, expected"):
        read_stm(tmp_path / "b.stm")
    (tmp_path / "c.stm").write_text("r 1 s 2 1 a\n")
    with pytest.raises(UserError, match="c.stm:1: the segment goes from 2 to 1 s"):
        read_stm(tmp_path / "c.stm")


def test_names_with_spaces_are_refused(tmp_path):
    rows = [{"session_id": "r", "speaker": "Ann Lee", "start_time": 0, "end_time": 1, "words": ""}]
    for write, name in ((write_stm, "a.stm"), (write_rttm, "a.rttm")):
        with pytest.raises(UserError, match="speaker 'Ann Lee' is empty or has white space"):
            write(tmp_path / name, rows)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"session_id": "a"}]', "segment 1 has no 'speaker'"),
        ('{"a": 1}', "expected a JSON list"),
        ("[\n{,", "a.json:2: not valid JSON"),
        ("[3]", "segment 1 is not a JSON object"),
        ('[{"session_id":"a","speaker":"b","start_time":2,"end_time":1}]', "goes from 2 to 1"),
    ],
)
def test_bad_seglst(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError) as error:
        read_seglst(tmp_path / "a.json")
    assert message in str(error.value)


def test_seglst_of_hypotheses_may_lack_times(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps(
            [
                {"session_id": "a", "speaker": 1, "words": "x", "score": 2},
                {"session_id": "a", "speaker": "b", "start_time": "0.5", "end_time": "1"},
            ]
        )
    )
    first, second = read_seglst(tmp_path / "a.json")
    assert first == {"session_id": "a", "speaker": "1", "words": "x", "score": 2}
    assert (second["start_time"], second["end_time"], second["words"]) == (0.5, 1.0, "")


def test_real_stm_reads_whole_and_back(real_data, tmp_path):
    files = sorted((real_data / "aishell4" / "stm").glob("*.stm"))
    assert len(files) == 10
    for path in files:
        rows = read_stm(path)
        assert len(rows) == len(path.read_text(encoding="utf-8").splitlines())
        write_stm(tmp_path / path.name, rows)
        assert order(read_stm(tmp_path / path.name)) == order(rows)


def test_convert_round_the_formats(data_dir, tmp_path):
    assert convert([data_dir], tmp_path / "a.stm") == 5
    assert convert([tmp_path / "a.stm"], tmp_path / "b.json") == 5
    assert convert([tmp_path / "b.json"], tmp_path / "back", wav_scp=data_dir / "wav.scp") == 5
    assert DataDir.read(tmp_path / "back").utterances == DataDir.read(data_dir).utterances
    with pytest.raises(UserError, match="give --wav_scp"):
        convert([tmp_path / "b.json"], tmp_path / "back")
    with pytest.raises(UserError, match="holds one session, and there are 2; name a folder.*--output_format textgrid"):
        convert([tmp_path / "b.json"], tmp_path / "x.TextGrid")
    with pytest.raises(UserError, match="no such file"):
        format_of(tmp_path / "nothing.xyz")


def test_convert_to_textgrids_and_back(data_dir, tmp_path, run):
    ran = run("convert_segments", "--input", data_dir, "--output", tmp_path / "grids", "--output_format", "textgrid")
    assert (ran.returncode, ran.stderr) == (0, "")
    files = sorted((tmp_path / "grids").iterdir())
    assert [f.name for f in files] == ["A.TextGrid", "B.TextGrid"]
    assert "xmax = 8.5 \n" in files[1].read_text(), "the recording goes on after the last word"
    convert(files, tmp_path / "back", wav_scp=data_dir / "wav.scp")
    assert DataDir.read(tmp_path / "back").utterances == DataDir.read(data_dir).utterances
    convert([tmp_path / "grids"], tmp_path / "folder", "textgrid", wav_scp=data_dir / "wav.scp")
    assert DataDir.read(tmp_path / "folder").utterances == DataDir.read(data_dir).utterances
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="bare: no TextGrid in this folder"):
        convert([tmp_path / "bare"], tmp_path / "x.rttm", "textgrid")
    convert(files[:1], tmp_path / "one.TextGrid")
    ran = run("convert_segments", "--input", *files, "--output", tmp_path / "one.TextGrid")
    assert ran.returncode == 1 and "a TextGrid holds one session, and there are 2" in ran.stderr


def test_a_data_dir_keeps_the_channels_beside_its_audio(data_dir, tmp_path):
    (data_dir / "channel").write_text("A 1\nB 3\n")
    convert([data_dir], tmp_path / "a.rttm")
    (tmp_path / "a.rttm").write_text("".join(line for line in open(tmp_path / "a.rttm") if " B " in line))
    convert([tmp_path / "a.rttm"], tmp_path / "back", wav_scp=data_dir / "wav.scp")
    assert (tmp_path / "back" / "channel").read_text() == "B 3\n"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """Forty minutes of silence at 100 Hz: a header, for sessions whose audio is not here."""
    path = tmp_path_factory.mktemp("quiet") / "quiet.wav"
    write_audio(path, np.zeros(2400 * 100, np.int16), 100)
    return path


CENTISECONDS = st.lists(
    st.tuples(st.sampled_from(["r1", "r2"]), st.sampled_from(["a", "b.c"]), st.integers(0, 1000), st.integers(1, 500)),
    min_size=1, max_size=12, unique=True,
)


@given(CENTISECONDS)
def test_rttm_to_data_dir_to_rttm(tmp_path_factory, quiet, rows):
    path = tmp_path_factory.mktemp("round")
    write_map(path / "wav.scp", {"r1": str(quiet), "r2": str(quiet)})
    write_rttm(path / "a.rttm", [
        {"session_id": rec, "speaker": spk, "start_time": start / 100, "end_time": (start + length) / 100}
        for rec, spk, start, length in rows
    ])
    convert([path / "a.rttm"], path / "data", wav_scp=path / "wav.scp")
    assert validate(path / "data") == [], "a set for diarization alone"
    convert([path / "data"], path / "b.rttm")
    assert (path / "b.rttm").read_bytes() == (path / "a.rttm").read_bytes()


def test_real_meetings_go_round(real_data, tmp_path, quiet):
    """TextGrid to data dir to TextGrid, and on to RTTM and back by a data dir without words."""
    files = sorted((real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir").glob("*.TextGrid"))
    write_map(tmp_path / "wav.scp", {f.stem: str(quiet) for f in files})
    count = convert(files, tmp_path / "data", wav_scp=tmp_path / "wav.scp")
    assert validate(tmp_path / "data") == [] and count > 3000
    convert([tmp_path / "data"], tmp_path / "grids", output_format="textgrid")
    for f in files:
        before, after = read_tiers(f), read_tiers(tmp_path / "grids" / f.name)
        spoken = {t.name: [(s, e, " ".join(x.split())) for s, e, x in t.spans if x.strip()] for t in before}
        assert {t.name: [span for span in t.spans if span[2]] for t in after} == spoken
        for tier in after:
            assert tier.spans[0][0] == 0 and tier.spans[-1][1] == 2400
            assert all(a[1] == b[0] for a, b in zip(tier.spans, tier.spans[1:])), "a tier has no holes"
    convert([tmp_path / "data"], tmp_path / "a.rttm")
    convert([tmp_path / "a.rttm"], tmp_path / "mute", wav_scp=tmp_path / "wav.scp")
    assert validate(tmp_path / "mute") == []
    convert([tmp_path / "mute"], tmp_path / "b.rttm")
    assert (tmp_path / "b.rttm").read_bytes() == (tmp_path / "a.rttm").read_bytes()
