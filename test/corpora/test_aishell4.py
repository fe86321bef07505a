"""AISHELL-4: parts, the dev set of whole sessions, TextGrid against RTTM, and everything that can be wrong."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from toy_speech import textgrid

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import aishell4
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.rttm import read_rttm, write_rttm
from espnet_mt_llm.datadir.stm import read_stm
from espnet_mt_llm.datadir.validate import validate

RATE = 16000
SECONDS = 10
SAID = {"001-M": [(1, 2, "好，嗯"), (3, 4.5, "对<sil>吧")], "002-F": [(1.5, 3.5, "是的")]}


def session(root, part, name, said=SAID, seconds=SECONDS, rttm=True, channels=8):
    """Write a session of silence in the layout of the archives."""
    wav = root / part / "wav" / f"{name}.flac"
    wav.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(wav, np.zeros((round(seconds * RATE), channels), dtype=np.int16), RATE)
    textgrid(root / part / "TextGrid" / f"{name}.TextGrid", said, seconds)
    if rttm:
        write_rttm(root / part / "TextGrid" / f"{name}.rttm", [
            {"session_id": name, "speaker": spk, "start_time": s, "end_time": e}
            for spk, spans in said.items() for s, e, _ in spans])


@pytest.fixture
def corpus(tmp_path):
    """Two sessions a training part, one of test."""
    root = tmp_path / "a4"
    for part in ("train_L", "train_M", "train_S"):
        for k in (1, 2):
            session(root, part, f"2020070{k}_{part[-1]}_R001S0{k}C01")
    session(root, "test", "L_R003S01C02")
    (root / "train_L/wav_list.txt").write_text("20200701_L_R001S01C01.flac\n")
    return root


@pytest.fixture
def dev_list(tmp_path):
    path = tmp_path / "dev.txt"
    path.write_text("# why\n20200702_L_R001S02C01  # large\n\n20200701_M_R001S01C01\n")
    return path


def prepare(root, out, dev_list, **options):
    return {s.name: s for s in aishell4.prepare(root, out, dev_sessions=dev_list, **options)}


def test_sets(corpus, tmp_path, dev_list, caplog):
    out = tmp_path / "data"
    found = prepare(corpus, out, dev_list)
    assert {name: (s.sessions, s.utterances, s.speakers, s.seconds) for name, s in found.items()} == {
        "train_L": (1, 3, 2, 10), "train_M": (1, 3, 2, 10), "train_S": (2, 6, 4, 20), "dev": (2, 6, 4, 20),
        "test": (1, 3, 2, 10), "train": (4, 12, 8, 40)}
    dirs = {name: DataDir.read(out / name) for name in found}
    assert set(dirs["dev"].wav) == {"20200702_L_R001S02C01", "20200701_M_R001S01C01"}
    assert not set(dirs["dev"].wav) & set(dirs["train"].wav)
    assert dirs["train"].wav == {**dirs["train_L"].wav, **dirs["train_M"].wav, **dirs["train_S"].wav}
    assert [(u.utt, u.text) for u in dirs["test"].utterances] == [
        ("L_R003S01C02_001-M-L_R003S01C02-0000100-0000200", "好嗯"),
        ("L_R003S01C02_001-M-L_R003S01C02-0000300-0000450", "对吧"),
        ("L_R003S01C02_002-F-L_R003S01C02-0000150-0000350", "是的")]
    for name in found:
        assert validate(out / name) == [] and set(dirs[name].extra["channel"].values()) == {"1"}
    assert not caplog.messages


def test_the_same_local_name_is_another_speaker_in_another_session(corpus, tmp_path, dev_list):
    prepare(corpus, tmp_path / "data", dev_list)
    train = DataDir.read(tmp_path / "data/train")
    assert {(u.rec, u.spk) for u in train.utterances} == {
        (rec, f"{rec}_{tier}") for rec in train.wav for tier in SAID}


@pytest.mark.parametrize("nj", [2, 4])
def test_any_number_of_processes(corpus, tmp_path, dev_list, nj):
    for out, number in (("one", 1), ("many", nj)):
        prepare(corpus, tmp_path / out, dev_list, nj=number)
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert len(files) == 6 * 7
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "many" / f).read_bytes() for f in files)


def test_debug_and_parts_that_are_not_there(corpus, tmp_path, dev_list, capsys):
    session(corpus, "train_S", "20200703_S_R001S03C01")
    found = prepare(corpus, tmp_path / "data", dev_list, debug=True)
    assert {name: s.sessions for name, s in found.items()} == {
        "train_L": 1, "train_M": 1, "train_S": 2, "dev": 2, "test": 1, "train": 4}
    only_test = tmp_path / "only"
    session(only_test, "test", "L_R003S01C02")
    assert set(prepare(only_test, tmp_path / "data2", dev_list)) == {"test"}
    assert f"no sessions in {only_test} for train_L, train_M, train_S, dev, so not prepared" in capsys.readouterr().out


def test_dev_of_a_part_of_the_corpus(corpus, tmp_path, dev_list, caplog):
    dev_list.write_text("20200702_L_R001S02C01\n20200709_L_R002S01C01\n")
    assert prepare(corpus, tmp_path / "a", dev_list)["dev"].sessions == 1
    assert caplog.messages == [
        f"{dev_list}: 1 of 2 sessions are not in the corpus, so dev lacks them: 20200709_L_R002S01C01"]
    caplog.clear()
    # None is there: the last session of each part that has two.
    dev_list.write_text("20200709_L_R002S01C01\n")
    session(corpus, "train_M", "20200703_M_R001S03C01")
    for path in (corpus / "train_S").rglob("20200702*"):
        path.unlink()
    prepare(corpus, tmp_path / "b", dev_list)
    assert set(DataDir.read(tmp_path / "b/dev").wav) == {"20200702_L_R001S02C01", "20200703_M_R001S03C01"}
    assert caplog.messages == [
        f"{dev_list}: none of its sessions is in the corpus; dev is the last session of each part that has two: "
        "20200702_L_R001S02C01, 20200703_M_R001S03C01"]


def test_the_list_of_the_recipe(repository):
    path = repository / "egs2/aishell4/mtasr1/local/dev_sessions.txt"
    names = aishell4.read_dev_sessions(path)
    assert len(set(names)) == len(names) == 11
    assert all(re.fullmatch(r"2020\d{4}_[LMS]_R00[12]S0[1-8]C01", name) for name in names)
    sizes = [name.split("_")[1] for name in names]
    assert {size: sizes.count(size) for size in "LMS"} == {"L": 3, "M": 5, "S": 3}
    assert not {"20200622_M_R002S07C01", "20200710_M_R002S06C01"} & set(names)
    assert path.read_text().startswith("# ")


def test_a_bad_list(tmp_path):
    (tmp_path / "dev.txt").write_text("a\nb c\n")
    with pytest.raises(UserError, match="dev.txt:2: found 'b c'; write one session a line"):
        aishell4.read_dev_sessions(tmp_path / "dev.txt")
    with pytest.raises(UserError, match="no such file"):
        aishell4.read_dev_sessions(tmp_path / "none.txt")


def test_inconsistent_ends_are_repaired_not_dropped(corpus, tmp_path, dev_list, caplog):
    """As in 20200622_M_R002S07C01: tiers end, or say that they end, before the file does."""
    for k, (stated, cut) in enumerate(((8, False), (SECONDS, True))):
        name = f"20200622_M_R002S0{k}C01"
        session(corpus, "train_M", name, {"001-M": [(1, 2, "一"), (8.5, 9.5, "二")]})
        path = corpus / f"train_M/TextGrid/{name}.TextGrid"
        if cut:
            textgrid(path, {"001-M": [(1, 2, "一"), (8.5, 9.5, "二")]}, SECONDS, gaps=False)
        else:
            textgrid(path, {"001-M": [(1, 2, "一"), (8.5, 9.5, "二")]}, SECONDS, {"001-M": stated}, gaps=False)
    assert prepare(corpus, tmp_path / "data", dev_list)["train_M"].utterances == 3 + 4
    texts = [u.text for u in DataDir.read(tmp_path / "data/train_M").utterances if u.rec.startswith("20200622")]
    assert texts == ["一", "二"] * 2
    folder = corpus / "train_M/TextGrid"
    said = "repaired inconsistent ends: the file ends at 10 s, tiers at"
    used = "the times of the intervals are used, cut at the end of the audio"
    assert caplog.messages == [f"{folder}/20200622_M_R002S00C01.TextGrid: {said} 8, 9.5; {used}",
                               f"{folder}/20200622_M_R002S01C01.TextGrid: {said} 9.5; {used}"]


def test_rttm_is_compared(corpus, tmp_path, dev_list, caplog):
    name = "20200701_L_R001S01C01"
    path = corpus / "train_L/TextGrid" / f"{name}.rttm"
    lines = {"001-M": [(1.04, 2), (3, 4)], "003-F": [(7, 8)]}  # half a second short, 002-F missing, 003-F too many
    write_rttm(path, [{"session_id": name, "speaker": spk, "start_time": s, "end_time": e}
                      for spk, spans in lines.items() for s, e in spans])
    assert prepare(corpus, tmp_path / "data", dev_list)["train_L"].utterances == 3
    used = "the TextGrid is used"
    assert caplog.messages == [
        f"{name}: 001-M: the RTTM lacks 0.50 s of the TextGrid's speech and has 0.00 s more; {used}",
        f"{name}: 002-F: the RTTM lacks 2.00 s of the TextGrid's speech and has 0.00 s more; {used}",
        f"{name}: 003-F: the RTTM lacks 0.00 s of the TextGrid's speech and has 1.00 s more; {used}"]


def test_no_or_a_broken_rttm_is_logged(corpus, tmp_path, dev_list, caplog):
    (corpus / "train_L/TextGrid/20200701_L_R001S01C01.rttm").unlink()
    (corpus / "train_S/TextGrid/20200702_S_R001S02C01.rttm").write_text("SPEAKER a 1 x y\n")
    assert prepare(corpus, tmp_path / "data", dev_list)["train"].sessions == 4
    first, second = caplog.messages
    assert first == "20200701_L_R001S01C01: no RTTM to compare the TextGrid with"
    assert second.startswith("20200702_S_R001S02C01: the RTTM is not compared with the TextGrid, it cannot be read: ")


SPANS = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 30)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


@given(SPANS, SPANS)
def test_only_in_against_a_grid(first, second):
    """On whole seconds the difference is the count of seconds that one covers and the other does not."""
    cells = [{k for start, end in spans for k in range(start, end)} for spans in (first, second)]
    assert aishell4.only_in(first, second, 0) == len(cells[0] - cells[1])
    assert aishell4.only_in(first, first) == 0


def test_a_bad_session_does_not_stop_the_others(corpus, tmp_path, dev_list):
    part = corpus / "train_S"
    damage = {
        "R1": lambda wav, text: wav.unlink(), "R2": lambda wav, text: text.unlink(),
        "R3": lambda wav, text: wav.write_bytes(wav.read_bytes()[:60]), "R4": lambda wav, text: wav.write_bytes(b"x"),
        "R5": lambda wav, text: text.write_text("not a TextGrid"),
        "R6": lambda wav, text: (text.unlink(), text.with_suffix(".rttm").unlink()),
        "R7": lambda wav, text: soundfile.write(wav, np.zeros((9999, 1), dtype=np.int16), RATE),
        "R8": lambda wav, text: textgrid(text, {"001-M": [(1, 2, "<sil>")], "002-F": []}, SECONDS),
        "R9": lambda wav, text: textgrid(text, {"说话人": [(1, 2, "一")]}, SECONDS)}
    for name, spoil in damage.items():
        session(corpus, "train_S", name)
        spoil(part / f"wav/{name}.flac", part / f"TextGrid/{name}.TextGrid")
    out = tmp_path / "data"
    with pytest.raises(UserError, match="9 of 16 sessions have problems"):
        prepare(corpus, out, dev_list, channel=2)
    rows = [line.split("\t") for line in (out / "problems.tsv").read_text().splitlines()[1:]]
    assert {row[0] for row in rows} == {"train_S"}
    expected = {"R1": "no audio of this session", "R2": "no TextGrid of this session", "R3": "R3.flac",
                "R4": "cannot be read as audio", "R5": "not a TextGrid", "R6": "no TextGrid of this session",
                "R7": "has 1 channels, not a channel 2", "R8": "holds no speech", "R9": "names no speaker"}
    assert {row[1] for row in rows} == set(expected)
    for row in rows:
        assert expected[row[1]] in row[2], row
    assert set(DataDir.read(out / "train").wav) == {
        "20200701_L_R001S01C01", "20200702_M_R001S02C01", "20200701_S_R001S01C01", "20200702_S_R001S02C01"}


def test_a_session_of_two_parts_is_taken_from_the_first(corpus, tmp_path, dev_list):
    session(corpus, "train_S", "20200702_M_R001S02C01")
    (corpus / "train_L/TextGrid/20200701_L_R001S01C01.TextGrid").unlink()
    out = tmp_path / "data"
    with pytest.raises(UserError, match="2 of 8 sessions have problems"):
        prepare(corpus, out, dev_list)
    rows = [line.split("\t") for line in (out / "problems.tsv").read_text().splitlines()[1:]]
    assert [row[:2] for row in rows] == [["train_L", "20200701_L_R001S01C01"], ["train_S", "20200702_M_R001S02C01"]]
    assert rows[1][2] == (f"{corpus}/train_S: 20200702_M_R001S02C01 is in {corpus}/train_M, too, and is taken from there; "
                          "keep one of the two")
    assert set(DataDir.read(out / "train").wav) == {
        "20200702_M_R001S02C01", "20200701_S_R001S01C01", "20200702_S_R001S02C01"}


def test_train_of_an_earlier_run_is_named(corpus, tmp_path, dev_list, capsys):
    prepare(corpus, tmp_path / "data", dev_list)
    for path in corpus.glob("train_*"):
        shutil.rmtree(path)
    prepare(corpus, tmp_path / "data", dev_list)
    assert f"rm -r {tmp_path}/data/train {tmp_path}/data/train_L" in capsys.readouterr().out


def test_what_a_run_cannot_make_does_not_stay(corpus, tmp_path, dev_list):
    out = tmp_path / "data"
    prepare(corpus, out, dev_list)
    for path in corpus.glob("train_*/wav/*.flac"):
        path.write_bytes(b"x")
    found = prepare(corpus, out, dev_list, allow_problems=True)
    assert {name for name in found if found[name].sessions} == {"test"}
    assert [path.parent.name for path in out.glob("*/wav.scp")] == ["test"] and not list((out / "train").iterdir())


def test_textgrids_in_other_encodings(corpus, tmp_path, dev_list, caplog):
    names = ("20200701_S_R001S01C01", "20200702_S_R001S02C01")
    for name, encode in zip(names, (lambda text: text.encode("utf-16"),
                                    lambda text: text.replace("\n", "\r\n").encode())):
        path = corpus / "train_S/TextGrid" / f"{name}.TextGrid"
        path.write_bytes(encode(path.read_text(encoding="utf-8")))
    prepare(corpus, tmp_path / "data", dev_list)
    texts = [u.text for u in DataDir.read(tmp_path / "data/train_S").utterances]
    assert texts == ["好嗯", "对吧", "是的"] * 2 and not caplog.messages


def run(repository, *options):
    command = [sys.executable, "-m", "espnet_mt_llm.bin.prepare_aishell4", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})


def test_command(corpus, tmp_path, dev_list, repository):
    (corpus / "test/TextGrid/L_R003S01C02.TextGrid").unlink()
    options = ("--root", corpus, "--out", tmp_path / "data", "--dev_sessions", dev_list)
    ran = run(repository, *options)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("1 of 7 sessions has problems, see ")
    ran = run(repository, *options, "--allow_problems", "true", "--nj", 2)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1].split()[:2] == ["train", "4"]


@pytest.mark.parametrize("root, found", [("", "found in it: wav"), ("none", "no such folder")])
def test_wrong_folder(tmp_path, dev_list, repository, root, found):
    dev_list.rename(tmp_path.parent / f"{tmp_path.name}.txt")
    (tmp_path / "wav").mkdir()
    ran = run(repository, "--root", tmp_path / root, "--dev_sessions", tmp_path.parent / f"{tmp_path.name}.txt")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr and found in ran.stderr
    assert "train_L, train_M, train_S and test" in ran.stderr and aishell4.URL in ran.stderr
    assert "AISHELL4= in db.sh" in ran.stderr


def test_real_times_and_text(real_data, tmp_path, dev_list, caplog):
    """Real sessions, their STM turned into TextGrid and RTTM, come back as they were; and RTTM out equals RTTM in."""
    root = tmp_path / "a4"
    truth = {}
    for path in sorted((real_data / "aishell4/stm").glob("?_R003S01C0?.stm")):
        segments = [s for s in read_stm(path) if s["start_time"] < 900]
        said = {}
        for s in segments:
            said.setdefault(s["speaker"], []).append((s["start_time"], s["end_time"], s["words"].replace(" ", "")))
        session(root, "test", path.stem, said, max(s["end_time"] for s in segments) + 1, channels=1)
        truth[path.stem] = sorted((spk, *span) for spk, spans in said.items() for span in spans)
    prepare(root, tmp_path / "data", dev_list)
    data = DataDir.read(tmp_path / "data/test")
    assert len(truth) == 3
    for rec, expected in truth.items():
        found = sorted((u.spk.removeprefix(f"{rec}_"), u.start, u.end, u.text) for u in data.utterances if u.rec == rec)
        assert len(found) > 100 and found == [row for row in expected if row[3]]
        write_rttm(tmp_path / "x.rttm", [{**s, "speaker": s["speaker"].removeprefix(f"{rec}_")} for s in data.seglst()
                                         if s["session_id"] == rec])
        assert read_rttm(tmp_path / "x.rttm") == read_rttm(root / f"test/TextGrid/{rec}.rttm")
    assert not [message for message in caplog.messages if "the RTTM" in message]
