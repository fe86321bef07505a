"""Validation: a good directory is good, and each broken rule is named with file, line, rule and repair."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.clips import make_clips
from espnet_mt_llm.datadir.fix import fix
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map, write_map
from espnet_mt_llm.datadir.validate import validate

FIX = "; repair: utils/fix_data_dir.sh "


def problems(path, **options):
    return [str(p).replace(f"{path}/", "") for p in validate(path, **options)]


def edit(path, old, new):
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))


def swap(path, i, j):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[i], lines[j] = lines[j], lines[i]
    path.write_bytes(b"".join(lines))


def test_good_directories(data_dir, tmp_path):
    assert problems(data_dir) == []
    make_clips(data_dir, tmp_path / "dump")
    assert problems(tmp_path / "dump", rate=16000) == []
    with pytest.raises(UserError, match="no such data directory"):
        validate(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (
            "text",
            "四 五".encode(),
            "四 五".encode("gb18030"),
            "text:5: not UTF-8 (byte 0xcb in 's2-B-0000100-0000450') [utf-8]; convert it",
        ),
        ("text", b" three\n", b"\n", "text:4: the transcript of 's2-A-0000200-0000400' is empty [transcript]" + FIX),
        ("text", b" three\n", b" \n", "text:4: the transcript of 's2-A-0000200-0000400' is empty [transcript]" + FIX),
        ("text", b"three", b"a </s>", "text:4: the transcript has the reserved token '</s>' [transcript]"),
        ("text", b"s1-A", b"s0-A", "text:1: 's0-A-0000050-0000333' is not in utt2spk [text-without-audio]" + FIX),
        ("text", b"s1-A", b"s0-A", "utt2spk:1: 's1-A-0000050-0000333' is not in text [audio-without-text]" + FIX),
        ("text", b"s2-A", b"\ns2-A", "text:4: empty line [no-empty-line]" + FIX),
        ("text", b"three\n", b"three\r\n", "text:4: carriage returns (a Windows file?) [newline]" + FIX),
        ("text", b"s1-A", b" s1-A", "text:1: the line begins with white space [leading-space]" + FIX),
        ("wav.scp", b"B ", b"B/1 ", "wav.scp:2: the id 'B/1' has '/': only letters, digits and _.- are safe"),
        ("wav.scp", b"B ", b"$(B) ", "wav.scp:2: the id '$(B)' has '$'"),
        ("wav.scp", b"A.wav", b"C.wav", "raw/C.wav: no such audio file; restore it"),
        (
            "utt2spk",
            b"s1-A-0000050-0000333",
            b"s1 A",
            "utt2spk:1: expected '<utterance> <speaker>', found 3 columns: 's1 A s1' "
            "[two-columns]; an id must not hold a space",
        ),
        ("utt2spk", b"0000333 s1", b"0000333 t1", "utt2spk:1: the speaker 't1' is not a prefix of the utterance id"),
        (
            "spk2utt",
            b"s1-A",
            b"s1-X",
            "spk2utt:1: not the inverse of utt2spk: 's1-X-0000050-0000333' of 's1' is not there [inverse]" + FIX,
        ),
        (
            "spk2utt",
            b"s2 s2-A-0000200-0000400",
            b"s2",
            "spk2utt: not the inverse of utt2spk: 's2-A-0000200-0000400' of 's2' is missing",
        ),
        ("spk2utt", b"s2 ", b"s3 ", "spk2utt:2: the speaker 's3' has no utterance in utt2spk [inverse]" + FIX),
        (
            "segments",
            b"A 0.50 3.333",
            b"A 0.50 9.5",
            "segments:1: 's1-A-0000050-0000333' ends at 9.5 s, but 'A' lasts 5 s [inside-recording]" + FIX,
        ),
        ("segments", b"A 0.50 3.333", b"A 4 3", "segments:1: 's1-A-0000050-0000333' goes from 4 to 3 s, expected 0"),
        ("segments", b"A 0.50 3.333", b"A -1 3", "segments:1: 's1-A-0000050-0000333' goes from -1 to 3 s"),
        ("segments", b"A 0.50 3.333", b"A 0 nan", "segments:1: 's1-A-0000050-0000333' goes from 0 to nan s"),
        ("segments", b"A 0.50 3.333", b"A 0.50", "segments:1: expected '<utterance> <recording> <start> <end>', found"),
        (
            "segments",
            b"A 0.50",
            b"C 0.50",
            "segments:1: 's1-A-0000050-0000333' lies in 'C', which is not in wav.scp [text-without-audio]",
        ),
        ("reco2dur", b"A 5.00", b"A 6.00", "reco2dur: 'A' has 6 s here, but its audio 5 s [duration]" + FIX),
        ("reco2dur", b"A 5.00", b"A x", "'x' is not a number"),
        ("reco2dur", b"A 5.00\n", b"", "wav.scp:1: 'A' is not in reco2dur [same-ids]" + FIX),
    ],
)
def test_each_rule(data_dir, name, old, new, expected):
    edit(data_dir / name, old, new)
    found = problems(data_dir)
    assert any(expected in p for p in found), found


def test_last_line_cut_off_and_empty_file(data_dir):
    raw = (data_dir / "text").read_bytes()
    (data_dir / "text").write_bytes(raw[:-1])
    assert problems(data_dir) == [
        f"text:5: the last line does not end; the file may be cut off [newline]{FIX}{data_dir}"
    ]
    (data_dir / "text").write_bytes(b"")
    assert "text: the file is empty [not-empty]; make it again (stage 1)" in problems(data_dir)


def test_duplicates_and_order_name_the_pair_of_lines(data_dir):
    path = data_dir / "text"
    first = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(path.read_bytes() + first)
    found = problems(data_dir)
    assert found[0].startswith("text:6: the id 's1-A-0000050-0000333' is already on line 1 [unique-id]")
    assert (
        "text:6: lines 5 and 6 are not in the order of bytes (LC_ALL=C): 's1-A-0000050-0000333' must stand before "
        "'s2-B-0000100-0000450': they differ at character 2, where '1' sorts before '2' [sorted-C]" + FIX in found[1]
    )


def test_a_locale_that_sorted_is_recognised(tmp_path):
    ids = ["a-1", "B-1", "c-1"]
    (tmp_path / "d").mkdir()
    for name, value in (("utt2spk", "{0}"), ("wav.scp", "{0}.wav"), ("text", "x")):
        (tmp_path / "d" / name).write_text("".join(f"{i} {value.format(i)}\n" for i in ids))
    (tmp_path / "d" / "spk2utt").write_text("B-1 B-1\na-1 a-1\nc-1 c-1\n")
    found = problems(tmp_path / "d", audio=False)
    assert any(
        "lines 1 and 2 are not in the order of bytes" in p and "export LC_ALL=C before `sort`" in p for p in found
    )


def test_speakers_that_are_prefixes_of_each_other(data_dir):
    write_map(data_dir / "utt2spk", {"a-1": "a", "a-b-1": "a-b", "a-c": "a"})
    found = problems(data_dir)
    assert any(
        p.startswith("utt2spk:3: lines 2 and 3 are sorted by utterance but not by speaker: 'a-b' before 'a'")
        for p in found
    )
    assert not any("sorted-by-speaker" in p for p in problems(data_dir, speaker_prefix=False))


def test_audio_without_any_utterance(data_dir):
    raw = b"".join(
        line for line in (data_dir / "segments").read_bytes().splitlines(keepends=True) if b" A " not in line
    )
    (data_dir / "segments").write_bytes(raw)
    assert any(
        p.startswith("wav.scp:1: the recording 'A' has no utterance in segments [audio-without-text]")
        for p in problems(data_dir)
    )


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p: p.unlink(), "no such audio file"),
        (lambda p: p.write_bytes(b""), "holds no samples"),
        (lambda p: p.write_bytes(p.read_bytes()[:20000]), "is truncated or damaged"),
        (lambda p: p.write_bytes(b"hello"), "cannot be read as audio"),
        (
            lambda p: write_audio(p, np.zeros(40000, np.int16), 8000),
            "has 8000 Hz, expected 16000 Hz [rate]; resample it: `",
        ),
        (
            lambda p: soundfile.write(p, np.zeros((80000, 2)), 16000),
            "has 2 channels, and the file 'channel' chooses none [channel]; choose one there: `",
        ),
    ],
)
@pytest.mark.parametrize("name", ["A.wav", "B.flac"])
def test_bad_audio(data_dir, name, spoil, expected):
    spoil(data_dir.parent / "raw" / name)
    line = 1 if name == "A.wav" else 2
    found = [p for p in problems(data_dir, rate=16000) if p.startswith(f"wav.scp:{line}: ")]
    assert len(found) == 1 and expected in found[0] and name in found[0]
    assert problems(data_dir, audio=False) == []


def test_the_command_exits_with_1_and_no_traceback(data_dir, run):
    good = run("validate_data_dir.sh", "--no-feats", data_dir)
    assert (good.returncode, good.stdout, good.stderr) == (0, f"{data_dir}: valid\n", "")
    swap(data_dir / "text", 0, 1)
    bad = run("validate_data_dir", data_dir)
    assert bad.returncode == 1 and "text:2: lines 1 and 2 are not" in bad.stdout and "Traceback" not in bad.stderr
    assert "1 of 1 data directories are not valid" in bad.stderr
    assert run("validate_data_dir", data_dir, "--audio", "maybe").returncode == 2
    assert run("validate_data_dir", data_dir / "nowhere").returncode == 1


def test_pipes_are_not_run_but_their_program_is_looked_for(data_dir, tmp_path):
    entry = f'{sys.executable} -c \'open("{tmp_path}/ran", "w")\' |'
    write_map(data_dir / "wav.scp", {"A": entry, "B": "no-such-program x |"})
    assert problems(data_dir) == [
        "wav.scp:2: the program 'no-such-program' of the pipe is not installed [audio]; "
        "install it, e.g. apt install no-such-program"
    ]
    assert not (tmp_path / "ran").exists()


def test_signals_have_the_recordings_of_their_talkers(data_dir):
    write_map(data_dir / "utt2num_spk", {"A": "2", "B": "1"})
    write_map(data_dir / "spk1.scp", {"A": "x", "B": "y"})
    write_map(data_dir / "spk2.scp", {"A": "x"})
    assert problems(data_dir, audio=False) == []
    write_map(data_dir / "spk2.scp", {"C": "x"})
    assert [p.split(";")[0] for p in problems(data_dir, audio=False)] == [
        "spk2.scp:1: 'C' is not in wav.scp [same-ids]",
        "wav.scp:1: 'A' is not in spk2.scp [same-ids]",
    ]


def test_manifest_has_the_recordings(data_dir):
    (data_dir / "mixtures.jsonl").write_text(json.dumps({"id": "A"}) + "\n")
    assert [p.split(";")[0] for p in problems(data_dir)] == ["mixtures.jsonl: 'B' is not in mixtures.jsonl [same-ids]"]
    (data_dir / "mixtures.jsonl").write_text("{]\n")
    assert "mixtures.jsonl:1: not a JSON object" in problems(data_dir)[0]


def test_supervision_of_a_dump_dir(data_dir, tmp_path):
    make_clips(data_dir, tmp_path / "dump")
    edit(tmp_path / "dump" / "supervision", b'"end":3.333', b'"end":33.3')
    assert problems(tmp_path / "dump")[0].startswith("supervision:1: 'A' has no JSON list of spk")


def test_missing_files(data_dir):
    for name in ("spk2utt", "text"):
        (data_dir / name).unlink()
    assert problems(data_dir) == [
        f"spk2utt: no such file [required]{FIX}{data_dir}",
        "text: no such file [required]; make it in the preparation (stage 1)",
    ]
    assert len(problems(data_dir, text=False)) == 1


def test_many_problems_of_a_kind_are_counted(tmp_path):
    ids = [f"u{i:03d}" for i in range(50)]
    for name in ("utt2spk", "spk2utt"):
        write_map(tmp_path / "d" / name, {i: i for i in ids})
    write_map(tmp_path / "d" / "wav.scp", {i: f"{i}.wav" for i in ids})
    write_map(tmp_path / "d" / "text", {i: "" if i < "u049" else "x" for i in ids})
    found = problems(tmp_path / "d", audio=False)
    assert len(found) == 6 and found[-1] == "text: 44 more of this kind [transcript]"


@pytest.mark.parametrize("block", [1, 40, 100])
def test_blocks_of_lines_are_not_seen(data_dir, monkeypatch, block):
    """The same mistakes with the same lines, wherever a block ends; files that are not sorted and lack ids included."""
    edit(data_dir / "text", b" three\n", b"\n\n")
    edit(data_dir / "text", b"s1-A", b" s1-A")
    swap(data_dir / "segments", 0, 2)
    edit(data_dir / "segments", b"B 7.00 8.00", b"C 7.00 9.00")
    edit(data_dir / "utt2spk", b"0000600 s1", b"0000600 s2")
    (data_dir / "spk2utt").write_bytes((data_dir / "spk2utt").read_bytes() * 2)
    (data_dir / "mixtures.jsonl").write_text('{"id":"B"}\n{"id":"B"}\n')
    expected = problems(data_dir)
    monkeypatch.setattr("espnet_mt_llm.datadir.validate_maps._BLOCK", block)
    assert problems(data_dir) == expected and len(expected) > 8
    assert any(p.startswith("mixtures.jsonl:2: the id 'B' occurs twice [manifest]") for p in expected)


def test_many_recordings_are_checked_only_when_asked_for(data_dir, monkeypatch, caplog):
    monkeypatch.setattr("espnet_mt_llm.datadir.validate.MANY_RECORDINGS", 1)
    (data_dir.parent / "raw" / "A.wav").unlink()
    assert (
        problems(data_dir) == [] and "headers of 2 recordings are not looked at; do it with --audio true" in caplog.text
    )
    assert len(problems(data_dir, audio=True)) == 1


@pytest.mark.parametrize("options, rows", [(["--utterances", "2000", "--repeats", "1"], 1), (["--memory", "3000"], 2)])
def test_the_benchmark_runs(repository, tmp_path, options, rows):
    script = str(repository / "tools/bench/validate_data_dir.py")
    ran = subprocess.run(
        [sys.executable, script, *options, "--json", str(tmp_path / "rows.json")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    row, *more = json.loads((tmp_path / "rows.json").read_text())
    assert len(more) == rows - 1
    assert set(row) == {"name", "ours", "peer", "ratio", "unit", "machine"} and row["name"] in ran.stdout


def test_fix_repairs_what_it_promises(data_dir):
    """Many mistakes at once: after the repair the check is content, the rest is untouched, the old files are kept."""
    edit(data_dir / "text", b" three\n", b"\n")
    swap(data_dir / "utt2spk", 0, 2)
    edit(data_dir / "segments", b"B 7.00 8.00", b"B 7.00 9.00")
    edit(data_dir / "reco2dur", b"B 8.50", b"B 4.50")
    with open(data_dir / "text", "ab") as f:
        f.write(b"s1-A-0000050-0000333 again\n\nghost x\n\xff y\n")
    (data_dir / "spk2utt").unlink()
    assert problems(data_dir)
    changes = fix(data_dir)
    assert problems(data_dir) == []
    said = "\n".join(changes)
    for expected in (
        "text:6: removed 's1-A-0000050-0000333', which is there before",
        "text:9: removed, not UTF-8",
        "text: removed 's2-A-0000200-0000400', nothing behind the id",
        "cut from 9.00 to 8.50 s, where 'B' ends",
        "reco2dur: 'B' lasts 8.50 s",
    ):
        assert expected in said
    assert (data_dir / "text").read_text(encoding="utf-8").splitlines() == [
        "s1-A-0000050-0000333 one two",
        "s1-B-0000400-0000600 six",
        "s1-B-0000700-0000800 seven",
        "s2-B-0000100-0000450 四 五",
    ]
    assert b"ghost" in (data_dir / ".backup" / "text").read_bytes()
    before = {f.name: f.read_bytes() for f in data_dir.iterdir() if f.is_file()}
    assert fix(data_dir) == []
    assert before == {f.name: f.read_bytes() for f in data_dir.iterdir() if f.is_file()}


def test_fix_drops_unreadable_audio_but_never_everything(data_dir):
    raw = data_dir.parent / "raw"
    (raw / "A.wav").write_bytes(b"")
    changes = fix(data_dir)
    assert "wav.scp: removed 'A':" in changes[0] and problems(data_dir) == []
    before = {f.name: f.read_bytes() for f in data_dir.iterdir() if f.is_file()}
    shutil.rmtree(raw)
    with pytest.raises(UserError, match="no utterance would be left, so nothing was changed"):
        fix(data_dir)
    assert before == {f.name: f.read_bytes() for f in data_dir.iterdir() if f.is_file()}


def test_signals_are_there_and_as_long_as_their_recordings(data_dir):
    wav = dict(line.split() for line in (data_dir / "wav.scp").read_text().splitlines())
    (data_dir / "spk1.scp").write_text(f"A {wav['A']}\nB\n")
    assert ["spk1.scp:2: the recording 'B' has no audio" in str(p) for p in validate(data_dir)] == [True]
    (data_dir / "spk1.scp").write_text(f"A {wav['A']}\nB /nonexistent.wav\n")
    assert ["/nonexistent.wav: no such audio file" in str(p) for p in validate(data_dir)] == [True]
    (data_dir / "spk1.scp").write_text(f"A {wav['A']}\nB {wav['A']}\n")
    found = [str(p) for p in validate(data_dir)]
    assert len(found) == 1 and "spk1.scp:2: " in found[0] and "'B' 8.5 s" in found[0]
    (data_dir / "spk1.scp").write_text("".join(f"{rec} {path}\n" for rec, path in wav.items()))
    assert not validate(data_dir)


def test_fix_removes_what_is_empty_or_lacks_recordings(data_dir):
    (data_dir / "channel").write_text("")
    (data_dir / "utt2num_spk").write_text("A 2\n")
    (data_dir / "spk2utt").unlink()
    assert any("not in utt2num_spk" in str(problem) for problem in validate(data_dir))
    assert sorted(fix(data_dir)) == ["channel: removed, it is empty",
                                     "utt2num_spk: removed, it lacks recordings; make it again"]
    assert not validate(data_dir) and (data_dir / "spk2utt").exists() and not (data_dir / "channel").exists()
    (data_dir / "spk2utt").unlink()
    assert fix(data_dir) == ["sorted the files and wrote spk2utt again"] and fix(data_dir) == []


def test_fix_makes_utt2spk_from_spk2utt(data_dir, run):
    (data_dir / "utt2spk").unlink()
    ran = run("fix_data_dir.sh", data_dir)
    assert ran.returncode == 0 and "utt2spk: made from spk2utt" in ran.stdout
    assert problems(data_dir) == []
    (data_dir / "wav.scp").unlink()
    ran = run("fix_data_dir.sh", data_dir)
    assert ran.returncode == 1 and "wav.scp: no such file; make it in the preparation" in ran.stderr


def test_channels(data_dir):
    raw = data_dir.parent / "raw"
    soundfile.write(raw / "A.wav", np.zeros((80000, 8)), 16000)
    (data_dir / "channel").write_text("A 8\n")
    assert problems(data_dir) == []
    (data_dir / "channel").write_text("A 9\nB 1\n")
    (problem,) = problems(data_dir)
    assert problem == (
        f"channel:1: there is no channel 9 of 'A', {raw}/A.wav has 8 [channel]; choose another, or leave the line "
        "out for a mono file"
    )
    (data_dir / "channel").write_text("A left\nB 0\nC 1\n")
    found = problems(data_dir, audio=False)
    assert found[:2] == [
        f"channel:{line}: expected '<recording> <channel>', counted from 1, found '{text}' [channel]; correct it in "
        "the preparation (stage 1)" for line, text in ((1, "A left"), (2, "B 0"))
    ]
    assert found[2].startswith("channel:3: 'C' is not in wav.scp [same-ids]")
    assert len(found) == 3, "a file that chooses nonsense is not blamed for choosing nothing"
    (data_dir / "channel").write_text("B\n")
    assert any(p.startswith("channel:1: expected") for p in problems(data_dir))


def test_maps_of_some_recordings(data_dir):
    write_map(data_dir / "far2.scp", {"A": "a.wav"})
    write_map(data_dir / "reco2seats", {"B": "s1=1 s2=2"})
    assert problems(data_dir) == []
    write_map(data_dir / "echo1.scp", {"C": "c.wav"})
    assert problems(data_dir) == [f"echo1.scp:1: 'C' is not in wav.scp [same-ids]{FIX}{data_dir}"]
    fix(data_dir)
    assert problems(data_dir) == [] and not (data_dir / "echo1.scp").exists()


def test_a_set_for_diarization_alone(data_dir, run):
    write_map(data_dir / "text", {utt: "" for utt in read_map(data_dir / "utt2spk")})
    before = (data_dir / "text").read_bytes()
    assert problems(data_dir) == []
    assert run("validate_data_dir.sh", data_dir).returncode == 0
    assert fix(data_dir) == [] and (data_dir / "text").read_bytes() == before
    DataDir.read(data_dir).write(data_dir)
    assert (data_dir / "text").read_bytes() == before
    edit(data_dir / "text", b"0000333\n", b"0000333 one\n")
    assert sum("is empty [transcript]" in p for p in problems(data_dir)) == 4, "some empty ones are a mistake"
    assert any("text: removed" in change for change in fix(data_dir))


def test_each_line_of_the_manifest_is_looked_at(data_dir):
    lines = [f'{{"id":"{rec}","rate":16000,"num_samples":80000}}\n' for rec in "AB"]
    (data_dir / "mixtures.jsonl").write_text("".join(lines))
    assert problems(data_dir) == []
    (data_dir / "mixtures.jsonl").write_text(lines[0] + lines[1].replace(":16000", ":"))
    assert "mixtures.jsonl:2: not a JSON object [manifest]; make it again (stage 2)" in problems(data_dir)
    (data_dir / "mixtures.jsonl").write_text(lines[0] + lines[1][:20])
    assert any("mixtures.jsonl:2: not a JSON object with an 'id'" in p for p in problems(data_dir))
    (data_dir / "mixtures.jsonl").write_text(lines[0])
    assert any("mixtures.jsonl: 'B' is not in mixtures.jsonl [same-ids]" in p for p in problems(data_dir))
