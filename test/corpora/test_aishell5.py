"""AISHELL-5 in its raw layouts: sets, seats, microphones, sessions that cannot be read."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import aishell5
from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.datadir.validate import validate

SECONDS = 6.0
# Real speakers and seats of three sessions, with speech that overlaps.
TALK = {"387": {"P0136": [(0.5, 2.0, "你好，去哪儿"), (3.1, 4.0, "嗯")], "P0135": [(1.6, 3.0, "去太行一中ＫＴＶ")]},
        "030": {"P0186": [(0.2, 1.0, "是")], "P0185": [(0.9, 2.5, "一中啊")]},
        "001": {"P0197": [(0.5, 1.5, "有点儿紧张")], "P0198": [(2.0, 5.9, "多读就好 <sil>"), (0.1, 0.4, "<%>")]}}
SEATS = {"387": {"P0136": 3, "P0135": 2}, "030": {"P0186": 4, "P0185": 2}, "001": {"P0197": 1, "P0198": 4}}


def textgrid(tiers, end=SECONDS):
    """Write Praat's long text format, with the silence between as empty intervals."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}",
             "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, spans) in enumerate(tiers.items(), 1):
        filled, last = [], 0.0
        for start, stop, text in sorted(spans):
            filled += [(last, start, "")] * (start > last) + [(start, stop, text)]
            last = stop
        filled += [(last, end, "")] * (last < end)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"',
                  "        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(filled)}"]
        for i, (start, stop, text) in enumerate(filled, 1):
            lines += [f"        intervals [{i}]:", f"            xmin = {start}", f"            xmax = {stop}",
                      f'            text = "{text}"']
    return "\n".join(lines) + "\n"


def write_session(folder, number, near=True, far_grids=True, echo=False, talk=None, seconds=SECONDS):
    """Write one session as the archives have it."""
    folder.mkdir(parents=True)
    talk = talk if talk is not None else TALK[number]
    noise = np.random.default_rng(1).normal(0, 0.01, round(16000 * seconds)).astype(np.float32)
    for mic in [1, 2, 3, 4] + [5, 6] * echo:
        write_audio(folder / f"DX0{mic}C01.wav", noise, 16000)
        if far_grids and mic < 5:
            (folder / f"DX0{mic}C01.TextGrid").write_text(textgrid(talk), encoding="utf-8")
    for speaker, spans in talk.items() if near else ():
        seat = SEATS[number][speaker]
        write_audio(folder / f"DA0{seat}.wav", noise, 16000)
        (folder / f"DA0{seat}.TextGrid").write_text(textgrid({speaker: spans}), encoding="utf-8")


@pytest.fixture
def corpus(tmp_path):
    """Archives unpacked: train with near audio and no far TextGrids, the others with far ones."""
    root = tmp_path / "raw"
    write_session(root / "train" / "387", "387", far_grids=False)
    write_session(root / "train" / "030", "030", far_grids=False, echo=True)
    write_session(root / "Dev" / "Dev" / "001", "001")
    write_session(root / "Eval1" / "001", "001", near=False)
    write_session(root / "Eval2" / "001", "001", near=False)
    for scene in ("N1A1", "场景 2"):
        write_audio(root / "noise" / scene / "noise_DX01C01.wav", np.full(800, 7, dtype=np.int16), 16000)
    return root


def run(repository, *arguments):
    command = [sys.executable, "-m", "espnet_mt_llm.bin.prepare_aishell5", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})


def spans(data, rec):
    return sorted((u.spk, u.start, u.end, u.text) for u in data.utterances if u.rec == rec)


def test_the_sets_of_the_archives(corpus, tmp_path):
    out = tmp_path / "data"
    summaries = {s.name: s for s in aishell5.prepare(corpus, out)}
    assert {name: (s.sessions, s.utterances, s.speakers) for name, s in summaries.items()} == {
        "train_far": (2, 5, 4), "train_near": (4, 5, 4), "dev_far": (1, 2, 2), "dev_near": (2, 2, 2),
        "eval1_far": (1, 2, 2), "eval2_far": (1, 2, 2)}
    for name in summaries:
        assert not validate(out / name)
    train = DataDir.read(out / "train_far")
    folder = corpus / "train" / "387"
    assert train.wav["train_387"] == str(folder / "DX01C01.wav")
    assert spans(train, "train_387") == [("P0135", 1.6, 3.0, "去太行一中KTV"), ("P0136", 0.5, 2.0, "你好去哪儿"),
                                         ("P0136", 3.1, 4.0, "嗯")]
    assert train.extra["reco2seats"] == {"train_030": "P0185=2 P0186=4", "train_387": "P0135=2 P0136=3"}
    assert [train.extra[f"far{k}.scp"]["train_387"] for k in (1, 2, 3, 4)] == [
        str(folder / f"DX0{k}C01.wav") for k in (1, 2, 3, 4)]
    assert {k: list(train.extra[f"echo{k}.scp"].items()) for k in (1, 2)} == {
        k: [("train_030", str(corpus / "train" / "030" / f"DX0{4 + k}C01.wav"))] for k in (1, 2)}
    # The tags of 001 are no speech.
    assert spans(DataDir.read(out / "dev_far"), "dev_001") == [("P0197", 0.5, 1.5, "有点儿紧张"),
                                                             ("P0198", 2.0, 5.9, "多读就好")]
    assert read_map(out / "noise" / "noise.scp") == {
        "N1A1_noise_DX01C01": str(corpus / "noise" / "N1A1" / "noise_DX01C01.wav"),
        "_2_noise_DX01C01": str(corpus / "noise" / "场景 2" / "noise_DX01C01.wav")}
    assert os.readlink(out / "aishell5_eval") == "eval2_far" and not (out / "problems.tsv").exists()


def test_near_and_far_agree(corpus, tmp_path):
    aishell5.prepare(corpus, tmp_path)
    for name in ("train", "dev"):
        far, near = DataDir.read(tmp_path / f"{name}_far"), DataDir.read(tmp_path / f"{name}_near")
        assert sorted((u.spk, u.start, u.end, u.text) for u in far.utterances) == sorted(
            (u.spk, u.start, u.end, u.text) for u in near.utterances)
        for rec, seats in near.extra["reco2seats"].items():
            speaker, seat = seats.split("=")
            assert rec.endswith(f"_DA0{seat}") and {u.spk for u in near.utterances if u.rec == rec} == {speaker}


def test_the_names_of_the_baseline_give_the_same(corpus, tmp_path):
    aishell5.prepare(corpus, tmp_path / "a")
    (corpus / "Eval1").rename(corpus / "eval_track1")
    (corpus / "Eval2").rename(corpus / "EVAL_TRACK2")
    (corpus / "Dev" / "Dev").rename(corpus / "dev2")
    (corpus / "Dev").rmdir()
    (corpus / "dev2").rename(corpus / "dev")
    aishell5.prepare(corpus, tmp_path / "b", nj=2)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    for name in files:
        if not name.name.endswith(".scp"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_another_microphone_and_a_second_run(corpus, tmp_path):
    aishell5.prepare(corpus, tmp_path, channel=3)
    first = {p: p.read_bytes() for p in tmp_path.glob("data/*/*")}
    assert DataDir.read(tmp_path / "dev_far").wav["dev_001"].endswith("DX03C01.wav")
    aishell5.prepare(corpus, tmp_path, channel=3)
    assert {p: p.read_bytes() for p in tmp_path.glob("data/*/*")} == first
    with pytest.raises(UserError, match="no far microphone 5"):
        aishell5.prepare(corpus, tmp_path, channel=5)


@pytest.mark.parametrize("label", [None, "-", "<X>"])
def test_eval1_without_text_is_for_diarization_alone(corpus, tmp_path, label):
    talk = {speaker: [(start, end, label or "") for start, end, _ in spans] for speaker, spans in TALK["001"].items()}
    # Without a label, only the intervals of speech are listed: there are gaps between them.
    text = textgrid(talk) if label else "\n".join(_speech_only(talk)) + "\n"
    for path in (corpus / "Eval1" / "001").glob("*.TextGrid"):
        path.write_text(text, encoding="utf-8")
    aishell5.prepare(corpus, tmp_path)
    data = DataDir.read(tmp_path / "eval1_far")
    assert [row[1:] for row in spans(data, "eval1_001")] == [(0.5, 1.5, ""), (0.1, 0.4, ""), (2.0, 5.9, "")]
    assert not validate(data.path)


def _speech_only(talk):
    yield from ['"ooTextFile"', '"TextGrid"', "0", str(SECONDS), "<exists>", str(len(talk))]
    for name, intervals in talk.items():
        yield from ['"IntervalTier"', f'"{name}"', "0", str(SECONDS), str(len(intervals))]
        for start, end, _ in sorted(intervals):
            yield from [str(start), str(end), '""']


def test_text_that_is_missing_elsewhere_is_a_problem(corpus, tmp_path):
    blank = textgrid({speaker: [(start, end, "") for start, end, _ in spans] for speaker, spans in TALK["001"].items()})
    for name in ("Eval1", "Eval2"):
        for path in (corpus / name / "001").glob("*.TextGrid"):
            path.write_text(blank, encoding="utf-8")
    with pytest.raises(UserError, match="2 of 10 sessions have problems"):
        aishell5.prepare(corpus, tmp_path)
    rows = (tmp_path / "problems.tsv").read_text().splitlines()[1:]
    assert "neither text nor gaps" in rows[0] and "no speech in its TextGrids" in rows[1]


def test_seats_from_the_list_of_the_baseline(corpus, tmp_path, caplog):
    for path in (corpus / "train" / "387").glob("DA*"):
        path.unlink()
    for mic in (1, 2, 3, 4):
        (corpus / "train" / "387" / f"DX0{mic}C01.TextGrid").write_text(textgrid(TALK["387"]), encoding="utf-8")
    aishell5.prepare(corpus, tmp_path / "without")
    assert read_map(tmp_path / "without" / "train_far" / "reco2seats") == {"train_030": "P0185=2 P0186=4"}
    zones = tmp_path / "zones.txt"
    zones.write_text("387 P0136 3\n387 P0135 2\n030 P0186 1\n030 P0185 2\n001 P0001 4\n")
    aishell5.prepare(corpus, tmp_path / "with", spk_zone_id=zones)
    assert read_map(tmp_path / "with" / "train_far" / "reco2seats") == {
        "train_030": "P0185=2 P0186=4", "train_387": "P0135=2 P0136=3"}
    assert "P0186 has the seat 4 in the folder and 1 in spk_zone_id" in caplog.text
    assert "P0001" not in caplog.text  # the list is of train alone


@pytest.mark.parametrize("name", ["", "1", "说话人", "speaker"])
def test_tiers_without_the_name_of_the_speaker(corpus, tmp_path, name):
    folder = corpus / "train" / "387"
    for seat, speaker in ((3, "P0136"), (2, "P0135")):
        (folder / f"DA0{seat}.TextGrid").write_text(textgrid({name: TALK["387"][speaker]}), encoding="utf-8")
    aishell5.prepare(corpus, tmp_path / "a")
    data = DataDir.read(tmp_path / "a" / "train_far")
    assert {u.spk for u in data.utterances if u.rec == "train_387"} == {"train_387_seat2", "train_387_seat3"}
    assert data.extra["reco2seats"]["train_387"] == "train_387_seat2=2 train_387_seat3=3"
    zones = tmp_path / "zones.txt"
    zones.write_text("387 P0136 3\n387 P0135 2\n")
    aishell5.prepare(corpus, tmp_path / "b", spk_zone_id=zones)
    assert {u.spk for u in DataDir.read(tmp_path / "b" / "train_near").utterances} == {"P0135", "P0136", "P0185",
                                                                                      "P0186"}


def test_far_textgrids_without_names_give_way_to_the_near_ones(corpus, tmp_path):
    folder = corpus / "Dev" / "Dev" / "001"
    for path in folder.glob("DX*.TextGrid"):
        path.write_text(textgrid(dict(zip("12", TALK["001"].values()))), encoding="utf-8")
    aishell5.prepare(corpus, tmp_path)
    assert {u.spk for u in DataDir.read(tmp_path / "dev_far").utterances} == {"P0197", "P0198"}
    for path in folder.glob("DA*"):
        path.unlink()
    aishell5.prepare(corpus, tmp_path)
    assert {u.spk for u in DataDir.read(tmp_path / "dev_far").utterances} == {"dev_001_spk1", "dev_001_spk2"}


def test_far_textgrids_that_differ_or_lack_a_speaker(corpus, tmp_path, caplog):
    folder = corpus / "Dev" / "Dev" / "001"
    for mic in (1, 2, 3, 4):
        one = {"P0197": [(0.5, 1.5 + (mic == 2), "有点儿紧张")]}
        (folder / f"DX0{mic}C01.TextGrid").write_text(textgrid(one), encoding="utf-8")
    aishell5.prepare(corpus, tmp_path)
    assert [row[:3] for row in spans(DataDir.read(tmp_path / "dev_far"), "dev_001")] == [("P0197", 0.5, 1.5),
                                                                                      ("P0198", 2.0, 5.9)]
    assert "DX02C01.TextGrid: the intervals of P0197 are not those of DX01C01.TextGrid" in caplog.text
    assert "DA04.TextGrid: P0198 is missing in the far TextGrids and is added" in caplog.text


def test_a_headset_without_textgrid(corpus, tmp_path, caplog):
    folder = corpus / "train" / "387"
    (folder / "DA03.TextGrid").unlink()
    write_audio(folder / "DA01.wav", np.zeros(16000, dtype=np.int16), 16000)
    (folder / "DX01C01.TextGrid").write_text(textgrid(TALK["387"]), encoding="utf-8")
    aishell5.prepare(corpus, tmp_path / "a")
    assert "train_387_DA03" not in DataDir.read(tmp_path / "a" / "train_near").wav
    assert f"{folder}: headsets without a TextGrid are left out: DA01, DA03; unpack the archive again" in caplog.text
    caplog.clear()
    zones = tmp_path / "zones.txt"
    zones.write_text("387 P0136 3\n387 P0135 2\n")
    aishell5.prepare(corpus, tmp_path / "b", spk_zone_id=zones)
    near = DataDir.read(tmp_path / "b" / "train_near")
    assert spans(near, "train_387_DA03") == spans(DataDir.read(tmp_path / "b" / "train_far"), "train_387")[1:]
    assert "train_387_DA01" not in near.wav and "DA01; unpack" in caplog.text  # an empty seat


def _utf16(path):
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))


def _crlf(path):
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("change", [_utf16, _crlf])
def test_textgrids_of_other_systems(corpus, tmp_path, change):
    aishell5.prepare(corpus, tmp_path / "a")
    for path in corpus.rglob("*.TextGrid"):
        change(path)
    aishell5.prepare(corpus, tmp_path / "b")
    for path in (tmp_path / "a").glob("*/*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_files_without_extension_resource_forks_and_upper_case(corpus, tmp_path):
    folder = corpus / "Dev" / "Dev" / "001"
    (folder / "DX01C01.wav").rename(folder / "DX01C01")
    (folder / "DX02C01.wav").rename(folder / "DX02C01.WAV")
    (folder / "._DX03C01.wav").write_bytes(b"Mac")
    (folder / "DX01C01.textgrid").write_text((folder / "DX01C01.TextGrid").read_text())
    aishell5.prepare(corpus, tmp_path)
    data = DataDir.read(tmp_path / "dev_far")
    assert data.wav == {"dev_001": str(folder / "DX01C01")}
    assert data.extra["far2.scp"] == {"dev_001": str(folder / "DX02C01.WAV")}


def _no_audio(folder):
    for path in folder.glob("*.wav"):
        path.unlink()


def _no_textgrid(folder):
    for path in folder.glob("*.TextGrid"):
        path.unlink()


def _truncated(folder, mic=1):
    path = folder / f"DX0{mic}C01.wav"
    path.write_bytes(path.read_bytes()[:9000])


def _empty_tiers(folder):
    for seat, speaker in ((3, "P0136"), (2, "P0135")):
        (folder / f"DA0{seat}.TextGrid").write_text(textgrid({speaker: []}), encoding="utf-8")


def _twice(folder):
    (folder / "DA02.TextGrid").write_text((folder / "DA03.TextGrid").read_text(encoding="utf-8"), encoding="utf-8")


def _broken(folder):
    path = folder / "DA02.TextGrid"
    path.write_text(path.read_text(encoding="utf-8")[:400], encoding="utf-8")


def _late(folder):
    write_audio(folder / "DX01C01.wav", np.zeros(16000, dtype=np.int16), 16000)


@pytest.mark.parametrize("damage, words", [
    (_no_audio, "387: no far audio (DX01C01.wav … DX04C01.wav)"),
    (_no_textgrid, "387: no TextGrid (DX01C01.TextGrid, or DA01.TextGrid …)"),
    (_truncated, "DX01C01.wav: is truncated"),
    (_empty_tiers, "387: no speech in its TextGrids"),
    (_twice, "the speaker P0136 is in DA02.TextGrid too"),
    (_broken, "DA02.TextGrid:"),
    (_late, "begin after the end of the audio (1 s)"),
    (lambda folder: (folder / "DX01C01.wav").unlink(), "no DX01C01.wav, only the far microphones 2, 3, 4"),
])
def test_a_session_with_a_problem_does_not_stop_the_others(corpus, tmp_path, damage, words):
    damage(corpus / "train" / "387")
    with pytest.raises(UserError, match="problems.tsv; everything else was prepared"):
        aishell5.prepare(corpus, tmp_path)
    rows = [line.split("\t") for line in (tmp_path / "problems.tsv").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["set", "session", "problem"] and {row[1] for row in rows[1:]} == {"387"}
    assert any(row[0] == "train_far" and words in row[2] for row in rows)
    data = DataDir.read(tmp_path / "train_far")
    assert list(data.wav) == ["train_030"] and not validate(data.path)


def test_the_exit_code_says_so_unless_allowed(corpus, tmp_path, repository):
    _truncated(corpus / "train" / "387")
    ran = run(repository, "--root", corpus, "--out", tmp_path, "--nj", 2)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert f"1 of 10 sessions has problems, see {tmp_path}/problems.tsv; everything else was prepared" in ran.stderr
    ran = run(repository, "--root", corpus, "--out", tmp_path, "--nj", 2, "--allow_problems", "true")
    assert ran.returncode == 0 and "train_387" not in DataDir.read(tmp_path / "train_far").wav


def test_of_far_files_only_the_chosen_one_is_needed(corpus, tmp_path, caplog):
    _truncated(corpus / "train" / "387", 3)
    _truncated(corpus / "train" / "030", 6)
    aishell5.prepare(corpus, tmp_path / "data")
    data = DataDir.read(tmp_path / "data/train_far")
    assert list(data.wav) == ["train_030", "train_387"] and not validate(data.path)
    assert list(data.extra["far3.scp"]) == ["train_030"] and list(data.extra["far4.scp"]) == ["train_030", "train_387"]
    assert list(data.extra["echo1.scp"]) == ["train_030"] and "echo2.scp" not in data.extra
    logged = [message for message in caplog.messages if "the session is used without it" in message]
    assert len(logged) == 2 and all("C01.wav: is truncated" in message for message in logged)
    assert [message.rsplit(" ", 1)[1] for message in logged] == ["echo2.scp", "far3.scp"]
    with pytest.raises(UserError, match="1 of "):
        aishell5.prepare(corpus, tmp_path / "data", channel=3)


def test_a_textgrid_whose_headset_is_missing(corpus, tmp_path):
    (corpus / "train" / "387" / "DA02.wav").unlink()
    aishell5.prepare(corpus, tmp_path, allow_problems=True)
    assert "train_near\t387" in (tmp_path / "problems.tsv").read_text()
    assert "train_387" in DataDir.read(tmp_path / "train_far").wav


def test_a_damaged_textgrid_of_a_headset_costs_the_near_session_alone(corpus, tmp_path, caplog):
    path = corpus / "Dev" / "Dev" / "001" / "DA04.TextGrid"
    path.write_bytes(b"\xff\xfe\x00")
    aishell5.prepare(corpus, tmp_path, allow_problems=True)
    assert "the far TextGrids are used without the near ones" in caplog.text
    rows = [line.split("\t")[:2] for line in (tmp_path / "problems.tsv").read_text().splitlines()[1:]]
    assert rows == [["dev_near", "001"]] and spans(DataDir.read(tmp_path / "dev_far"), "dev_001")


def test_a_copy_of_the_link_is_a_problem_and_stops_nothing(corpus, tmp_path, repository):
    aishell5.prepare(corpus, tmp_path)
    (tmp_path / "aishell5_eval").unlink()
    shutil.copytree(tmp_path / "eval2_far", tmp_path / "aishell5_eval")
    shutil.rmtree(tmp_path / "noise")
    with pytest.raises(UserError, match="everything else was prepared"):
        aishell5.prepare(corpus, tmp_path)
    text = (tmp_path / "problems.tsv").read_text()
    assert f"a folder stands where a link to eval2_far belongs, a copy of it perhaps; rm -r {tmp_path}/ais" in text
    assert (tmp_path / "noise" / "noise.scp").exists() and not list(tmp_path.glob(".tmp*"))


def test_damaged_noise(corpus, tmp_path):
    (corpus / "noise" / "N1A1" / "noise_DX02C01.wav").write_bytes(b"")
    aishell5.prepare(corpus, tmp_path, allow_problems=True)
    assert "noise\tN1A1/noise_DX02C01.wav" in (tmp_path / "problems.tsv").read_text()
    assert len(read_map(tmp_path / "noise" / "noise.scp")) == 2


def test_a_textgrid_that_was_cut_off(corpus, tmp_path):
    paths = [corpus / "train/387/DA02.TextGrid", corpus / "Eval1/001/DX02C01.TextGrid"]
    for path in paths:
        path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16")[:-1])
    aishell5.prepare(corpus, tmp_path, allow_problems=True)
    text = (tmp_path / "problems.tsv").read_text()
    assert all(f"{path}: begins as UTF-16" in text for path in paths)
    assert list(DataDir.read(tmp_path / "dev_far").wav) == ["dev_001"]


def test_sets_that_are_not_made_any_more_are_named(corpus, tmp_path, capsys, caplog):
    aishell5.prepare(corpus, tmp_path)
    assert "an earlier run" not in capsys.readouterr().out
    for path in (corpus / "Dev").rglob("DA0*"):
        path.unlink()
    shutil.rmtree(corpus / "noise")
    aishell5.prepare(corpus, tmp_path)
    assert f"sets that were not made now: rm -r {tmp_path}/dev_near\n" in capsys.readouterr().out
    assert f"the list of an earlier run stays: rm -r {tmp_path}/noise" in caplog.text


def test_wrong_folder(corpus, tmp_path, repository):
    ran = run(repository, "--root", corpus / "train", "--out", tmp_path / "data")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "no AISHELL-5 here (found in it: 030, 387); wanted: train/001/DX01C01.wav" in ran.stderr
    assert "Eval2.tar.gz" in ran.stderr and aishell5.URL in ran.stderr
    with pytest.raises(UserError, match="no AISHELL-5 here .no such folder."):
        aishell5.prepare(tmp_path / "none", tmp_path / "data")
    write_session(corpus / "eval_track1" / "001", "001")
    with pytest.raises(UserError, match="the set eval1 is there twice, the other one is .*Eval1"):
        aishell5.prepare(corpus, tmp_path / "data")


def test_debug_takes_a_few_sessions(corpus, tmp_path):
    for number in range(100, 104):
        write_session(corpus / "Dev" / "Dev" / str(number), "001")
    aishell5.prepare(corpus, tmp_path, debug=True)
    assert list(DataDir.read(tmp_path / "dev_far").wav) == ["dev_001", "dev_100"]


@pytest.mark.parametrize("line, words", [("387 P0136", "expected '<session> <speaker> <seat 1-4>'"),
                                         ("387 P0136 5", "expected '<session> <speaker> <seat 1-4>'"),
                                         ("001 P0002 1", "the seat 1 twice")])
def test_a_list_of_seats_that_cannot_be_read(tmp_path, line, words):
    path = tmp_path / "zones.txt"
    path.write_text(f"001 P0001 1\n{line}\n")
    with pytest.raises(UserError, match=f"zones.txt:2: .*{words}"):
        aishell5.read_zones(path)


def test_real_list_of_seats(real_data):
    zones = aishell5.read_zones(real_data / "aishell5" / "spk_zone_id.txt")
    assert sorted(zones) == [f"{session:03d}" for session in range(1, 569)]
    assert zones["387"] == [SEATS["387"]] and zones["030"] == [SEATS["030"]]
    # 18 sessions of another set come after those of train.
    assert [session for session in zones if len(zones[session]) > 1] == [s for s in zones if int(s) <= 18]
    assert zones["001"][1] == {"P0248": 3, "P0247": 4}
    sessions = [seats for listed in zones.values() for seats in listed]
    assert sum(map(len, sessions)) == 1273 and {len(seats) for seats in sessions} == {2, 3, 4}
    assert all(aishell5._SPEAKER.fullmatch(speaker) for seats in sessions for speaker in seats)


def test_the_real_list_fits_the_set_whose_speakers_it_has(corpus, tmp_path, real_data):
    folder = corpus / "Dev" / "Dev" / "001"
    for path in {*folder.glob("DA*"), *folder.glob("*.TextGrid")}:
        path.unlink()
    (folder / "DX01C01.TextGrid").write_text(textgrid(dict(zip(("P0248", "P0247"), TALK["001"].values()))))
    aishell5.prepare(corpus, tmp_path, spk_zone_id=real_data / "aishell5" / "spk_zone_id.txt")
    assert read_map(tmp_path / "dev_far" / "reco2seats") == {"dev_001": "P0247=4 P0248=3"}
    assert not (tmp_path / "eval2_far" / "reco2seats").exists()
