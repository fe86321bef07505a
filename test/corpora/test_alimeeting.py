"""AliMeeting: layouts, names of tiers and files, the real meetings, and everything that can be wrong with one."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from toy_speech import textgrid

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import alimeeting
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.textgrid import read_textgrid, read_tiers
from espnet_mt_llm.datadir.validate import validate
from espnet_mt_llm.text.normalise import normalise

RATE = 16000
SECONDS = 20


def silence(path, seconds=SECONDS, channels=8):
    """Write 16-bit silence that takes no room on the disk."""
    size = round(seconds * RATE) * channels * 2
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f:
        f.write(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, channels, RATE,
                            RATE * channels * 2, channels * 2, 16, b"data", size))
        f.truncate(44 + size)


def far(root, folder, meeting, array="_MS002", suffix=".TextGrid", **tiers):
    """Write a far session; tiers: name -> intervals."""
    textgrid(root / folder / "textgrid_dir" / f"{meeting}{suffix}", tiers, SECONDS)
    silence(root / folder / "audio_dir" / f"{meeting}{array}.wav")


def near(root, folder, name, spans, tier="c1"):
    """Write a headset."""
    textgrid(root / folder / "textgrid_dir" / f"{name}.TextGrid", {tier: spans}, SECONDS)
    silence(root / folder / "audio_dir" / f"{name}.wav", channels=1)


@pytest.fixture
def corpus(tmp_path):
    """Two train meetings, one of eval with its headsets, in the layout of the archives."""
    root = tmp_path / "ali"
    far(root, "Train_Ali_far", "R0003_M0046", **{
        "R0003_M0046_F_SPK0093": [(1, 2, "好，嗯"), (3, 4.5, "ＯＫ<sil>吧")], "M_SPK0094": [(1.5, 3.5, "是<%>的！")]})
    far(root, "Train_Ali_far", "R0015_M0151", "_MS004", **{"F_SPK0501": [(0, 5, "对")], "SPK0502": []})
    far(root, "Eval_Ali/Eval_Ali_far", "R8001_M8004", "_MS801", N_SPK8013=[(1, 2, "一")], N_SPK8014=[(5, 9, "二")])
    near(root, "Eval_Ali/Eval_Ali_near", "R8001_M8004_N_SPK8013", [(1, 2, "一")])
    near(root, "Eval_Ali/Eval_Ali_near", "R8001_M8004_N_SPK8014", [(5, 9, "二")], "S1")
    return root


def prepare(root, out, **options):
    summaries = alimeeting.prepare(root, out, **options)
    return {s.name: s for s in summaries}


def problems(out):
    lines = (out / "problems.tsv").read_text().splitlines()
    return {line.split("\t")[1]: line.split("\t")[2] for line in lines[1:]}


def test_sets(corpus, tmp_path, capsys):
    out = tmp_path / "data"
    found = prepare(corpus, out)
    assert {name: (s.sessions, s.utterances, s.speakers, s.seconds) for name, s in found.items()} == {
        "train_far": (2, 4, 3, 40), "eval_far": (1, 2, 2, 20), "eval_near": (2, 2, 2, 40)}
    shown = capsys.readouterr().out
    missing = "train_near, test_far, test_near, test2023_far, test2023_near"
    assert f"not in {corpus}, so not prepared: {missing}\n" in shown and "eval_near" in shown
    train = DataDir.read(out / "train_far")
    assert [(u.utt, u.spk, u.text) for u in train.utterances] == [
        ("SPK0093-R0003_M0046-0000100-0000200", "SPK0093", "好嗯"),
        ("SPK0093-R0003_M0046-0000300-0000450", "SPK0093", "OK吧"),
        ("SPK0094-R0003_M0046-0000150-0000350", "SPK0094", "是的"),
        ("SPK0501-R0015_M0151-0000000-0000500", "SPK0501", "对")]
    assert train.wav["R0015_M0151"] == str(corpus / "Train_Ali_far/audio_dir/R0015_M0151_MS004.wav")
    assert train.channel("R0003_M0046") == 1
    headsets = DataDir.read(out / "eval_near")
    assert {u.rec: u.spk for u in headsets.utterances} == {
        "R8001_M8004_N_SPK8013": "SPK8013", "R8001_M8004_N_SPK8014": "SPK8014"}
    assert headsets.channel("R8001_M8004_N_SPK8013") is None
    for name in found:
        assert validate(out / name) == []


def test_options(corpus, tmp_path):
    out = tmp_path / "data"
    assert set(prepare(corpus, out, channel=8, profile="zh_char_official", fields=["far"])) == {"train_far", "eval_far"}
    train = DataDir.read(out / "train_far")
    assert train.channel("R0003_M0046") == 8
    assert [u.text for u in train.utterances] == ["好嗯", "ＯＫ吧", "是的！", "对"]  # the official list has neither
    with pytest.raises(UserError, match="unknown normalisation profile 'zh'"):
        prepare(corpus, out, profile="zh")


def test_other_layouts(corpus, tmp_path):
    flat = tmp_path / "flat"
    for part in ("far", "near"):
        shutil.copytree(corpus / f"Eval_Ali/Eval_Ali_{part}", flat / f"Eval_Ali_{part}")
    far(flat, "Test_2023_Ali_far_release", "R1014_M1710", "", ".textgrid", SPK1=[(1, 2, "三")])
    far(flat, "Test_Ali/Test_Ali_far", "R8002_M8002", "_MS802", F_SPK7=[(1, 2, "三")])
    found = prepare(flat, tmp_path / "data")
    assert {name: s.sessions for name, s in found.items()} == {
        "eval_far": 1, "eval_near": 2, "test_far": 1, "test2023_far": 1}
    assert DataDir.read(tmp_path / "data/test2023_far").wav["R1014_M1710"].endswith("audio_dir/R1014_M1710.wav")


def test_tiers_that_name_no_speaker(tmp_path):
    root = tmp_path / "ali"
    far(root, "Eval_Ali_far", "R1_M1", S1=[(1, 2, "一")])
    far(root, "Eval_Ali_far", "R2_M2", **{"张三": [(1, 2, "一")]})
    near(root, "Eval_Ali_near", "R1_M1_SPK5", [(1, 2, "一")], "c1")
    near(root, "Eval_Ali_near", "R2_M2_x", [(1, 2, "一")], "N_SPK6")
    with pytest.raises(UserError, match="1 of 4 sessions has problems"):
        prepare(root, tmp_path / "data")
    assert "the tier '张三' names no speaker" in problems(tmp_path / "data")["R2_M2"]
    # A name without SPK is known within its meeting only.
    assert {u.spk for u in DataDir.read(tmp_path / "data/eval_far").utterances} == {"R1_M1_S1"}
    assert {u.spk for u in DataDir.read(tmp_path / "data/eval_near").utterances} == {"SPK5", "SPK6"}


def test_debug_takes_the_same_meetings_of_far_and_near(tmp_path):
    root = tmp_path / "ali"
    for k in range(4):
        far(root, "Eval_Ali_far", f"R{k}_M{k}", F_SPK1=[(1, 2, "一")], F_SPK2=[(1, 2, "二")])
        for spk in (1, 2):
            near(root, "Eval_Ali_near", f"R{k}_M{k}_F_SPK{spk}", [(1, 2, "一")])
    found = prepare(root, tmp_path / "data", debug=True)
    assert found["eval_far"].sessions == 2 and found["eval_near"].sessions == 4
    assert set(DataDir.read(tmp_path / "data/eval_far").wav) == {"R0_M0", "R1_M1"}


def test_annotations_of_every_kind(tmp_path, caplog):
    root = tmp_path / "ali"
    tiers = {"N_SPK1": [(1, 2, "一"), (3, 4, "二")], "N_SPK2": [(1.5, 2.5, '说"三"')]}
    kinds = {"utf16": lambda text: text.encode("utf-16"), "crlf": lambda text: text.replace("\n", "\r\n").encode(),
             "bom": lambda text: b"\xef\xbb\xbf" + text.encode(), "plain": str.encode}
    for number, kind in enumerate(kinds):
        far(root, "Eval_Ali_far", f"R{number}_{kind}", **tiers)
        path = root / f"Eval_Ali_far/textgrid_dir/R{number}_{kind}.TextGrid"
        path.write_bytes(kinds[kind](path.read_text(encoding="utf-8")))
    prepare(root, tmp_path / "data")
    data = DataDir.read(tmp_path / "data/eval_far")
    texts = {rec: [u.text for u in data.utterances if u.rec == rec] for rec in data.wav}
    assert len(texts) == 4 and all(of_rec == ["一", "二", "说三"] for of_rec in texts.values())
    assert not caplog.messages


def test_odd_intervals_are_logged(tmp_path, caplog):
    root = tmp_path / "ali"
    path = root / "Eval_Ali_far/textgrid_dir/R1_M1.TextGrid"
    silence(root / "Eval_Ali_far/audio_dir/R1_M1_MS1.wav")
    textgrid(path, {"N_SPK1": [(1, 3, "一"), (2, 4, "二"), (6, 5, "坏"), (7, 8, "<laugh>")],
                    "N_SPK2": [], "N_SPK3": [(18, 21, "末")]}, SECONDS, gaps=False)
    prepare(root, tmp_path / "data")
    data = DataDir.read(tmp_path / "data/eval_far")
    assert [(u.start, u.end, u.text) for u in data.utterances] == [
        (1, 3, "一"), (2, 4, "二"), (6, 7, "坏"), (18, 20, "末")]
    assert caplog.messages == [
        f"{path}: SPK1: '坏', which goes from 6 to 5 s, ends at 7 s now",
        f"{path}: intervals without speech (tags or punctuation alone) are left out: 1",
        f"{path}: unknown tags are taken out: <laugh> (1)",
        f"{path}: intervals that overlap an earlier one of the same speaker, all kept: 1",
        "R1_M1: SPK3: the end of '末' was cut from 21 to the audio's end, 20 s"]


def test_tiers_without_a_name(tmp_path):
    root = tmp_path / "ali"
    path = root / "Eval_Ali_far/textgrid_dir/R1_M1.TextGrid"
    silence(root / "Eval_Ali_far/audio_dir/R1_M1_MS1.wav")
    textgrid(path, {"N_SPK1": [(1, 3, "一")], "": []}, SECONDS)
    assert prepare(root, tmp_path / "data")["eval_far"].sessions == 1, "an empty one tells nothing"
    textgrid(path, {"N_SPK1": [(1, 3, "一")], "": [(4, 5, "二")]}, SECONDS)
    with pytest.raises(UserError):
        prepare(root, tmp_path / "data")
    assert f"{path}: the tier '' names no speaker; write SPKxxxx there" in problems(tmp_path / "data")["R1_M1"]


def test_sets_that_are_not_made_any_more_are_named(corpus, tmp_path, capsys):
    prepare(corpus, tmp_path, channel=3)
    capsys.readouterr()
    shutil.rmtree(corpus / "Eval_Ali" / "Eval_Ali_near")
    prepare(corpus, tmp_path, channel=3)
    assert f"an earlier run has left sets that were not made now: rm -r {tmp_path}/eval_near\n" in (
        capsys.readouterr().out)


def test_a_bad_session_does_not_stop_the_others(corpus, tmp_path, caplog):
    folder = corpus / "Train_Ali_far"
    damage = {"R1_M1": lambda audio, text: audio.unlink(), "R2_M2": lambda audio, text: text.unlink(),
              "R3_M3": lambda audio, text: audio.write_bytes(audio.read_bytes()[:9000]),
              "R4_M4": lambda audio, text: text.write_text(text.read_text()[:600]),
              "R5_M5": lambda audio, text: text.write_bytes(b"\xff\xfe\x00"),
              "R6_M6": lambda audio, text: shutil.copy(audio, str(audio).replace("MS002", "MS003")),
              "R7_M7": lambda audio, text: silence(audio, 1),
              "R8_M8": lambda audio, text: textgrid(text, {"N_SPK1": []}, SECONDS),
              "R9_M9": lambda audio, text: silence(audio, channels=2),
              "R10_M10": lambda audio, text: text.write_text(text.read_text().replace("xmax = 3", "xmax = nan"))}
    for meeting, spoil in damage.items():
        far(corpus, "Train_Ali_far", meeting, N_SPK1=[(2, 3, "一"), (4, 5, "二")])
        spoil(folder / f"audio_dir/{meeting}_MS002.wav", folder / f"textgrid_dir/{meeting}.TextGrid")
    out = tmp_path / "data"
    with pytest.raises(UserError, match=r"10 of 15 sessions have problems, see .*problems.tsv; everything else"):
        prepare(corpus, out, channel=3)
    found = problems(out)
    expected = {"R1_M1": "no audio of this session", "R2_M2": "no TextGrid of this session", "R3_M3": "truncated",
                "R4_M4": "R4_M4.TextGrid:", "R5_M5": "begins as UTF-16 and cannot be decoded",
                "R6_M6": "a second audio of this session",
                "R7_M7": "2 of 2 utterances begin after the end of the audio (1 s)", "R8_M8": "holds no speech",
                "R9_M9": "has 2 channels, not a channel 3", "R10_M10": "the time 'nan' is not a finite number"}
    assert set(found) == set(expected)
    for meeting, words in expected.items():
        assert words in found[meeting], found[meeting]
    assert set(DataDir.read(out / "train_far").wav) == {"R0003_M0046", "R0015_M0151"}
    assert {path.name for path in out.iterdir()} == {"train_far", "eval_far", "eval_near", "problems.tsv"}
    assert prepare(corpus, out, channel=3, allow_problems=True)["train_far"].sessions == 2
    # Repaired, and run again: the list is gone.
    for meeting in damage:
        for kind in ("audio_dir", "textgrid_dir"):
            for path in (folder / kind).glob(f"{meeting}*"):
                path.unlink()
    prepare(corpus, out, channel=3)
    assert not (out / "problems.tsv").exists()


def test_the_known_wrong_recording_is_left_out(corpus, tmp_path, caplog):
    far(corpus, "Train_Ali_far", "R1021_M1947", "_MS116", N_SPK1=[(1, 2, "一")])
    assert prepare(corpus, tmp_path / "data")["train_far"].sessions == 2
    assert "R1021_M1947 is left out: its TextGrid describes another recording (known error)" in caplog.text


def test_a_silent_headset_is_left_out(corpus, tmp_path, caplog):
    near(corpus, "Eval_Ali/Eval_Ali_near", "R8001_M8004_N_SPK8015", [(1, 2, "<sil>")])
    assert prepare(corpus, tmp_path / "data")["eval_near"].sessions == 2
    assert "R8001_M8004_N_SPK8015.TextGrid: no speech, so the headset is left out" in caplog.text


def run(repository, *options):
    command = [sys.executable, "-m", "espnet_mt_llm.bin.prepare_alimeeting", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})


def test_command(corpus, tmp_path, repository):
    (corpus / "Train_Ali_far/audio_dir/R0015_M0151_MS004.wav").unlink()
    ran = run(repository, "--root", corpus, "--out", tmp_path / "data", "--nj", 2, "--fields", "far")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("1 of 3 sessions has problems, see ")
    ran = run(repository, "--root", corpus, "--out", tmp_path / "data", "--allow_problems", "true")
    assert ran.returncode == 0 and "train_far        1" in ran.stdout
    first = {path: path.read_bytes() for path in sorted((tmp_path / "data").rglob("*")) if path.is_file()}
    run(repository, "--root", corpus, "--out", tmp_path / "data", "--allow_problems", "true", "--nj", 3)
    assert first == {path: path.read_bytes() for path in sorted((tmp_path / "data").rglob("*")) if path.is_file()}


@pytest.mark.parametrize("root, found", [("", "found in it: README, data_aishell"), ("none", "no such folder")])
def test_wrong_folder(tmp_path, repository, root, found):
    (tmp_path / "data_aishell").mkdir()
    (tmp_path / "README").touch()
    ran = run(repository, "--root", tmp_path / root, "--out", tmp_path / "data")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr and found in ran.stderr
    assert "Train_Ali_far/{audio_dir,textgrid_dir}" in ran.stderr and "Eval_Ali.tar.gz" in ran.stderr
    assert alimeeting.URL in ran.stderr and "ALIMEETING= in db.sh" in ran.stderr


@pytest.fixture(scope="module")
def eval_set(real_data, tmp_path_factory):
    """The four real Eval meetings, with silent audio of their length, prepared: (the corpus, the data directories)."""
    root = tmp_path_factory.mktemp("ali")
    for field, array, channels in (("far", "_MS801", 8), ("near", "", 1)):
        folder = real_data / "alimeeting" / f"Eval_Ali_{field}"
        shutil.copytree(folder, root / "Eval_Ali" / folder.name)
        for path in sorted((folder / "textgrid_dir").glob("*.TextGrid")):
            end = max(tier.spans[-1][1] for tier in read_tiers(path))
            silence(root / f"Eval_Ali/Eval_Ali_{field}/audio_dir/{path.stem}{array}.wav", end, channels)
    alimeeting.prepare(root, root / "data", nj=2)
    return root / "Eval_Ali", root / "data"


def test_real_far_sessions_hold_exactly_the_annotated_intervals(eval_set):
    raw, out = eval_set
    data = DataDir.read(out / "eval_far")
    assert len(data.wav) == 4 and validate(out / "eval_far") == []
    for rec in data.wav:
        annotated = read_textgrid(raw / f"Eval_Ali_far/textgrid_dir/{rec}.TextGrid")
        expected = sorted((s["speaker"].removeprefix("N_"), s["start_time"], s["end_time"]) for s in annotated)
        found = sorted((u.spk, u.start, u.end) for u in data.utterances if u.rec == rec)
        assert len(found) == len(expected) > 500
        for ours, theirs in zip(found, expected):
            assert ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= 0.01 and abs(ours[2] - theirs[2]) <= 0.01
        texts = {(s["speaker"].removeprefix("N_"), s["start_time"]): normalise(s["words"], "zh_char")
                 for s in annotated}
        assert all(u.text == texts[u.spk, u.start] for u in data.utterances if u.rec == rec)


def test_real_near_and_far_agree(eval_set):
    """Speaker by speaker, near and far hold the same utterances: times, text, and so all counts."""
    _, out = eval_set
    utterances = {field: DataDir.read(out / f"eval_{field}").utterances for field in ("far", "near")}
    spoken = {field: sorted(("_".join(u.rec.split("_")[:2]), u.spk, u.start, u.end, u.text) for u in of_field)
              for field, of_field in utterances.items()}
    assert len(spoken["far"]) == 3191 and spoken["far"] == spoken["near"]
    assert len({u.rec for u in utterances["near"]}) == len({u.spk for u in utterances["near"]}) == 15


def test_real_text_in_both_profiles(eval_set, tmp_path):
    raw, out = eval_set
    alimeeting.prepare(raw.parent, tmp_path, profile="zh_char_official", fields=["far"])
    ours = {u.utt: u.text for u in DataDir.read(out / "eval_far").utterances}
    official = {u.utt: u.text for u in DataDir.read(tmp_path / "eval_far").utterances}
    assert ours.keys() == official.keys()
    assert all(normalise(official[utt], "zh_char") == text for utt, text in ours.items())


def test_textgrid_to_data_dir_and_back(eval_set, tmp_path):
    """What the data directory holds, written as TextGrid, reads back as the same utterances."""
    data = DataDir.read(eval_set[1] / "eval_far")
    for rec in data.wav:
        segments = [s for s in data.seglst() if s["session_id"] == rec]
        tiers = {}
        for s in segments:
            tiers.setdefault(s["speaker"], []).append((s["start_time"], s["end_time"], s["words"]))
        textgrid(tmp_path / f"{rec}.TextGrid", tiers, data.reco2dur[rec])
        again = read_textgrid(tmp_path / f"{rec}.TextGrid")
        assert sorted(again, key=lambda s: (s["start_time"], s["end_time"], s["speaker"])) == segments


def test_stage_1_of_the_recipe(corpus, tmp_path, repository):
    """Fields with a comma; noise and impulse responses of one folder, told apart by name, and not told apart."""
    for name in ("noise1.wav", "rir1.wav"):
        silence(tmp_path / "raw" / name, 1, 1)

    def data_sh(out, noise, rirs, *options):
        environment = {**os.environ, "ALIMEETING": str(corpus), "NOISE": str(noise), "RIRS": str(rirs),
                       "AISHELL2": "", "LIBRISPEECH": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = ["bash", "local/data.sh", "--datadir", str(tmp_path / out), *options]
        return subprocess.run(command, cwd=repository / "egs2/alimeeting/mtasr1", env=environment, capture_output=True,
                              text=True)

    raw = tmp_path / "raw"
    ran = data_sh("a", raw / "noise*.wav", raw / "rir*.wav", "--fields", "far,near")
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "train_far", "eval_far", "eval_near", "noise.scp", "rir.scp"}
    assert (tmp_path / "a/noise.scp").read_text() == f"noise1 {raw}/noise1.wav\n"
    assert (tmp_path / "a/rir.scp").read_text() == f"rir1 {raw}/rir1.wav\n"
    ran = data_sh("b", raw, raw, "--fields", "far")
    assert ran.returncode == 1 and "2 of its 2 files are in" in ran.stderr and "Traceback" not in ran.stderr
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"train_far", "eval_far", "noise.scp"}
