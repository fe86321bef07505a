"""What meeting corpora share: intervals to speech, checks against the audio, data directories, several processes."""

import logging
from functools import partial

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import meetings
from espnet_mt_llm.corpora.meetings import Session, prepare_set, prepare_sets, speech_of, words_of
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.stm import read_stm
from espnet_mt_llm.datadir.textgrid import read_tiers
from espnet_mt_llm.datadir.validate import validate
from espnet_mt_llm.text.normalise import normalise

RATE = 16000
TIMES = st.floats(-1, 20).map(lambda t: round(t, 3))
TEXTS = st.sampled_from(["", " ", "好。", "嗯，对", "<sil>", "。", "ok", "<笑>"])


def audio(path, seconds, channels=1):
    soundfile.write(path, np.zeros((round(seconds * RATE), channels), dtype=np.int16), RATE)
    return str(path)


def said(*spans):
    """Build segments of one speaker from (start, end, words)."""
    return [{"session_id": "m", "speaker": "A", "start_time": float(s), "end_time": float(e), "words": w}
            for s, e, w in spans]


def spans_of(segments):
    return [(s["start_time"], s["end_time"], s["words"]) for s in segments]


@pytest.mark.parametrize("text, words", [
    ("好，嗯 <sil>我们ＡＩ", "好嗯我们AI"), ("<%>", ""), ("。？", ""), ("<laugh>对", "对"), ("＜笑声＞", ""),
    ("<>好", "好"), ("(~)好(SIL)(/OVERLAP)", "好"), ("三(四)", "三"), ("[noise]喂", "喂"), ("{x}嘿", "嘿"),
    ("（笑）啊", "啊"), ("(笑）啊", "啊"), ("【咳嗽】", ""), ("［Noise］对｛y｝", "对"), ("<unk word>好", "好"),
    ("<[笑]>好[]", "好"), ("(没有)对 [还", "对还"), ("(笑]啊", "笑啊"),
    ("他说(这一句在括号里面有十七个字以上才算)", "他说这一句在括号里面有十七个字以上才算"), ("'", ""), ("", ""),
])
def test_words(text, words):
    assert words_of(text, "zh_char") == words


def test_unknown_tags_are_counted():
    unknown = {}
    words_of("<laugh>好<sil><$>(~)", "zh_char", unknown)
    words_of("<laugh><FOO>", "zh_char_official", unknown)
    words_of("[noise]好（笑）[noise]", "zh_char", unknown)
    assert unknown == {"<laugh>": 2, "<FOO>": 1, "[noise]": 2, "（笑）": 1}


def test_real_annotation_has_no_brackets(real_data):
    """Nothing real is lost with the tags: 6,382 intervals of AliMeeting and 5,058 of AISHELL-4."""
    texts = [text for path in sorted((real_data / "alimeeting").rglob("*.TextGrid")) for tier in read_tiers(path)
             for _, _, text in tier.spans if text.strip()]
    texts += [s["words"] for path in sorted((real_data / "aishell4/stm").glob("*.stm")) for s in read_stm(path)]
    unknown = {}
    for text in texts:
        assert words_of(text, "none", unknown) == normalise(text, "none") or not any(map(str.isalnum, text))
    assert not unknown and len(texts) > 11000


@pytest.mark.parametrize("nj", [1, 2])
def test_what_nobody_foresaw_is_a_problem_of_its_session(tmp_path, nj):
    audio(tmp_path / "m.wav", 2)
    problems = Problems(tmp_path)
    assert prepare_set("x", ["a1", "value", "number"], partial(_unforeseen, tmp_path), tmp_path, problems,
                       nj).sessions == 1
    found = {row[1]: row[2] for row in problems.rows}
    assert set(found) == {"value", "number"}
    assert "ValueError: could not convert string to float: 'x' (test_meetings.py:" in found["value"]
    assert "OverflowError: cannot convert float infinity" in found["number"]
    with pytest.raises(TypeError):
        prepare_set("x", ["bug", "a1"], partial(_unforeseen, tmp_path), tmp_path, problems, nj)


def _unforeseen(folder, key):
    if key in ("value", "number"):
        float("x") if key == "value" else round(float("inf"))
    if key == "bug":
        raise TypeError("a mistake of the program is not hidden")
    return read(folder, key)


def test_what_is_no_speech_is_left_out_and_counted(caplog):
    spans = {"A": [(0, 1, ""), (1, 2, "<sil>"), (2, 3, "好"), (3, 4, " \n"), (4, 5, "，。")], "B": [(0, 9, "")]}
    assert spans_of(speech_of("f", "m", spans, "zh_char")) == [(2, 3, "好")]
    assert caplog.messages == ["f: intervals without speech (tags or punctuation alone) are left out: 2"]


def test_broken_ends_are_repaired_or_left_out(caplog):
    spans = {"A": [(-0.5, 1, "一"), (2, 1.5, "二"), (3, 4, ""), (6, 6, "三")]}
    assert spans_of(speech_of("f", "m", spans, "zh_char")) == [(0, 1, "一"), (2, 3, "二")]
    assert caplog.messages == ["f: A: '二', which goes from 2 to 1.5 s, ends at 3 s now",
                               "f: A: '三', which goes from 6 to 6 s, is left out"]


def test_overlap_within_a_tier_is_kept(caplog):
    spans = {"A": [(0, 2, "一"), (1, 3, "二"), (1.5, 1.8, "三"), (4, 5, "四")]}
    assert spans_of(speech_of("f", "m", spans, "zh_char")) == spans["A"]
    assert caplog.messages == ["f: intervals that overlap an earlier one of the same speaker, all kept: 2"]


def test_the_same_span_twice_becomes_one_utterance(caplog):
    spans = {"A": [(1, 2, "一"), (1, 2, "一"), (3, 4, "二"), (3.001, 4, "三")]}
    assert spans_of(speech_of("f", "m", spans, "zh_char")) == [(1, 2, "一"), (3, 4, "二三")]
    assert "f: A: two intervals from 1 to 2 s became one" in caplog.messages


@given(st.lists(st.tuples(TIMES, TIMES, TEXTS), max_size=8), st.lists(st.tuples(TIMES, TIMES, TEXTS), max_size=4))
def test_any_intervals_give_utterances_with_ids_of_their_own(first, second):
    segments = speech_of("f", "m", {"A": first, "B": second}, "zh_char")
    data = DataDir.from_seglst(segments, {"m": "m.wav"})
    assert len({u.utt for u in data.utterances}) == len(segments)
    assert all(0 <= s["start_time"] < s["end_time"] and s["words"] for s in segments)
    speech = sum(words_of(text, "zh_char") != "" for _, _, text in first + second)
    assert len(segments) <= speech


def test_a_set(tmp_path):
    far2 = audio(tmp_path / "far2.wav", 4)
    sessions = {"b": Session("b", audio(tmp_path / "b.wav", 4, 8), said((0, 1.5, "二"), (2, 3, "三")), 2),
                "a": Session("a", audio(tmp_path / "a.wav", 4), said((1, 2, "一")), 1, {"far2.scp": far2})}
    problems = Problems(tmp_path / "data")
    summary = prepare_set("train", ["b", "a"], lambda key: [sessions[key]], tmp_path / "data", problems)
    assert summary == meetings.SetSummary("train", 2, 3, 1, 8.0)
    problems.finish(False)
    data = DataDir.read(tmp_path / "data/train")
    assert data.reco2dur == {"a": 4, "b": 4}
    assert [(u.utt, u.text) for u in data.utterances] == [
        ("A-a-0000100-0000200", "一"), ("A-b-0000000-0000150", "二"), ("A-b-0000200-0000300", "三")]
    assert data.channel("b") == 2 and data.channel("a") is None and data.extra["far2.scp"] == {"a": far2}


def test_files_of_an_earlier_preparation_go(tmp_path):
    segments = said((0, 1, "一"))
    eight, mono = audio(tmp_path / "8.wav", 2, 8), audio(tmp_path / "1.wav", 2)
    out = tmp_path / "data"
    prepare_set("x", ["m"], lambda _: [Session("m", eight, segments, 1, {"far2.scp": mono})], out, Problems(out))
    (out / "x/README").write_text("mine")
    assert {"channel", "far2.scp"} <= {path.name for path in (out / "x").iterdir()}
    prepare_set("x", ["m"], lambda _: [Session("m", mono, segments)], out, Problems(out))
    assert {path.name for path in (out / "x").iterdir()} == {
        "wav.scp", "segments", "text", "utt2spk", "spk2utt", "reco2dur", "README"}

    def gone(_):
        raise UserError("gone")

    assert prepare_set("x", ["m"], gone, out, Problems(out)) == meetings.SetSummary("x")
    assert [path.name for path in (out / "x").iterdir()] == ["README"]


def test_ends_beyond_the_audio_are_cut_and_logged(tmp_path, caplog):
    segments = said((0, 1, "一"), (1, 2.05, "二"), (1.5, 2.5, "三"))
    prepare_set("x", ["m"], lambda _: [Session("m", audio(tmp_path / "m.wav", 2), segments)], tmp_path,
                Problems(tmp_path))
    assert [u.end for u in DataDir.read(tmp_path / "x").utterances] == [1, 2, 2]
    assert caplog.messages == ["m: A: the end of '三' was cut from 2.5 to the audio's end, 2 s"]
    assert validate(tmp_path / "x") == []


def test_a_few_utterances_after_the_end_are_left_out_many_are_a_problem(tmp_path, caplog):
    wav = audio(tmp_path / "m.wav", 2)
    segments = said(*((k / 100, k / 100 + 0.5, "一") for k in range(150)), (2, 3, "二"))
    problems = Problems(tmp_path)
    assert prepare_set("x", ["m"], lambda _: [Session("m", wav, segments)], tmp_path, problems).utterances == 150
    assert "m: A: '二' is left out, it begins at 2 s, after the audio's end, 2 s" in caplog.messages
    prepare_set("x", ["m"], lambda _: [Session("m", wav, segments[-5:])], tmp_path, problems)
    assert "1 of 5 utterances begin after the end of the audio (2 s), the first one at 2 s" in problems.rows[0][2]


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.unlink(), "no such audio file"),
    (lambda path: path.write_bytes(b""), "holds no samples"),
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated"),
    (lambda path: path.write_bytes(b"not audio at all" * 9), "cannot be read as audio"),
    (lambda path: audio(path, 2, 1), "has 1 channels, not a channel 2"),
])
def test_bad_audio_is_a_problem_of_its_session(tmp_path, damage, words):
    good, bad = audio(tmp_path / "good.wav", 2, 2), tmp_path / "bad.wav"
    audio(bad, 2, 2)
    damage(bad)
    sessions = {"good": [Session("good", good, said((0, 1, "一")), 2)],
                "bad": [Session("bad", str(bad), said((0, 1, "一")), 2)]}
    problems = Problems(tmp_path)
    assert prepare_set("x", ["bad", "good"], sessions.get, tmp_path, problems).sessions == 1
    assert list(DataDir.read(tmp_path / "x").wav) == ["good"]
    (row,) = problems.rows
    assert row[:2] == ("x", "bad") and words in row[2] and "bad.wav" in row[2]


def test_other_problems_of_a_session(tmp_path):
    wav, eight = audio(tmp_path / "m.wav", 2), audio(tmp_path / "8.wav", 2, 8)
    one = said((0, 1, "一"))
    sessions = {"first": [Session("m", wav, one)], "again": [Session("m", wav, one)], "no": [Session("n", wav, [])],
                "twice": [Session("t", wav, one + one)], "name": [Session("ä", wav, one)],
                "all": [Session("all", eight, one)]}
    problems = Problems(tmp_path)
    assert prepare_set("x", list(sessions), sessions.get, tmp_path, problems).sessions == 1
    found = {row[1]: row[2] for row in problems.rows}
    for key, words in (("again", "the recording 'm' is there twice"), ("no", "holds no speech"),
                       ("twice", "two utterances get the id 'A-t-"),
                       ("name", "letters, digits and _.- only"), ("all", "8 channels and none is chosen")):
        assert words in found.pop(key)
    assert not found


def read(folder, key):
    """Read a made-up session and log, as a corpus does; every fifth has a problem."""
    number = int(key[1:])
    logging.getLogger("espnet_mt_llm.corpora.test").warning("reading %s", key)
    if number % 5 == 4:
        raise UserError(f"{key}: damaged")
    return [Session(key, str(folder / "m.wav"), said(*((k / 10, k / 10 + 0.3, f"字{number}") for k in range(9))))]


def test_any_number_of_processes_gives_the_same_bytes_log_and_problems(tmp_path, caplog, capsys):
    audio(tmp_path / "m.wav", 2)
    results = []
    for nj, names in ((1, "ab"), (2, "ab"), (3, "ab"), (1, "a"), (2, "a")):
        caplog.clear()
        keys = {"a": [f"r{k}" for k in range(23)], "b": [f"q{k}" for k in range(3)]}
        out = tmp_path / "data"
        with pytest.raises(UserError, match="4 of (23|26) sessions have problems"):
            prepare_sets({name: (keys[name], partial(read, tmp_path)) for name in names}, out, nj)
        files = {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
        results.append((files, caplog.messages, capsys.readouterr().out))
    assert results[0] == results[1] == results[2] and results[3] == results[4]
    messages, shown = results[0][1:]
    assert messages[:2] == ["reading r0", "reading r1"] and "a: r4 has a problem: r4: damaged" in messages
    assert [line.split()[:4] for line in shown.splitlines()] == [
        ["set", "sessions", "utterances", "speakers"], ["a", "19", "171", "1"], ["b", "3", "27", "1"]]


def test_wrong_folder_says_what_it_found(tmp_path):
    for k in range(10):
        (tmp_path / f"f{k}").touch()
    message = str(meetings.absent(tmp_path, "AliMeeting", "ALIMEETING", "Train_Ali_far", "https://x"))
    assert message == (f"{tmp_path}: no AliMeeting here (found in it: f0, f1, f2, f3, f4, f5, f6, f7 and 2 more); "
                       "wanted: Train_Ali_far; get it: https://x; then set ALIMEETING= in db.sh to the folder that "
                       "holds it")
    assert "(no such folder)" in str(meetings.absent(tmp_path / "no", "A", "A", "t", "u"))
