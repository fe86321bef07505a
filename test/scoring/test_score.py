"""score_decode: from a decode directory to score.json."""

import json
import subprocess
import sys
import time

import pytest

from espnet_mt_llm.bin.score_decode import main
from espnet_mt_llm.common import UserError
from espnet_mt_llm.scoring.score import score_decode, summary


def run(*args):
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as e:
        main([str(a) for a in args])
    return e.value.code


def test_counts_by_hand(decoded):
    ref, hyp = decoded
    score = score_decode(ref, hyp, profile="en_libri", command="x")
    assert json.loads((hyp / "score.json").read_text()) == score
    # 3 + 7 + 4 words; one substitution, and one word of the third clip was not heard.
    assert score["metrics"]["cp"] == {"rate": round(2 / 14, 6), "errors": 2, "length": 14, "insertions": 0,
                                      "deletions": 1, "substitutions": 1}
    assert score["metrics"]["serialized_with_sc"]["length"] == 16
    assert score["metrics"]["serialized_with_sc"]["errors"] == 3
    assert score["count"] == {"accuracy": round(2 / 3, 6), "correct": 2, "total": 3,
                              "confusion": {"1": {"1": 1}, "2": {"1": 1, "2": 1}}}
    assert score["by_num_speakers"]["2"]["metrics"]["cp"]["length"] == 11
    assert score["speed"]["rtf"] == 0.025 and score["speed"]["batch_size"] == 4
    assert score["sessions"]["c2"]["cp"] == [1, 7, 0, 0, 1]
    assert score["sessions"]["c3"]["assignment"] == [["B", "0"], ["C", None]]
    conventions = score["conventions"]
    assert conventions["permutation_unit"] == "clip" and conventions["collar"] is None
    assert conventions["sot_order"] == "talker by onset; onsets less than 50 ms apart: by speaker id"
    assert score["system"] == "sctc" and score["command"] == "x" and score["environment"]["commit"]


SESSION = {"R1-0000000-0001000": [("A", 0.0, 2.0, "one two"), ("B", 3.0, 5.0, "three")],
           "R1-0001000-0002000": [("B", 0.5, 2.0, "four five"), ("A", 3.0, 4.0, "six")],
           "R2": [("A", 0.0, 1.0, "seven")]}


def test_by_session_a_label_is_one_speaker_in_all_clips(tmp_path, write):
    # Each clip is right by itself, but the second one numbers its speakers anew.
    said = [("R1-0000000-0001000", "0", "one two"), ("R1-0000000-0001000", "1", "three"),
            ("R1-0001000-0002000", "0", "four five"), ("R1-0001000-0002000", "1", "six"), ("R2", "0", "seven")]
    ref, hyp = write(tmp_path, "t", SESSION, said, {c: len(s) for c, s in SESSION.items()})
    assert score_decode(ref, hyp)["metrics"]["cp"]["errors"] == 0
    score = score_decode(ref, hyp, permutation_unit="session", sot_unit="utterance")
    # 0: one two four five, 1: three six; A: one two six, B: three four five. Either way 2 + 2 words are wrong.
    assert score["metrics"]["cp"]["errors"] == 4 and score["metrics"]["cp"]["length"] == 7
    assert score["metrics"]["serialized"]["errors"] == 0
    assert score["clips"] == 2 and set(score["sessions"]) == {"R1", "R2"}
    assert score["conventions"]["permutation_unit"] == "session"
    assert "2 sessions" in summary(score) and score["count"]["correct"] == 2
    # By name, over clips: a name that is right throughout costs nothing.
    names = [(c, {"0": "AB"[c == "R1-0001000-0002000"], "1": "BA"[c == "R1-0001000-0002000"]}[n], w) for c, n, w in said]
    ref, hyp = write(tmp_path, "t", SESSION, names, {c: len(s) for c, s in SESSION.items()})
    score = score_decode(ref, hyp, permutation_unit="session", speaker_attributed=True)
    assert score["metrics"]["sa"]["errors"] == 0 and score["metrics"]["cp"]["errors"] == 0


def test_by_session_times_go_on_and_lost_clips_are_named(tmp_path, write):
    said = [("R1-0000000-0001000", "0", "one two"), ("R1-0000000-0001000", "1", "three"), ("R2", "0", "seven")]
    ref, hyp = write(tmp_path, "t", SESSION, said, {})
    entries = [{**e, "start_time": 0.0, "end_time": 1.0} for e in json.loads((hyp / "hyp.seglst.json").read_text())]
    # In the second clip B comes first; by times from the begin of its clip he would come before the first one's A.
    entries += [{"session_id": "R1-0001000-0002000", "speaker": "1", "words": "four five", "start_time": 0.0,
                 "end_time": 2.0}]
    (hyp / "hyp.seglst.json").write_text(json.dumps(entries))
    score = score_decode(ref, hyp, permutation_unit="session")
    assert score["metrics"]["cp"]["errors"] == 1, "six alone is lost"
    (hyp / "hyp.seglst.json").write_text(json.dumps(entries[:-1]))
    score = score_decode(ref, hyp, permutation_unit="session")
    assert score["missing_hypotheses"] == ["R1-0001000-0002000"] and score["metrics"]["cp"]["deletions"] == 3
    with pytest.raises(UserError, match="permutation_unit: 'sesion'; did you mean 'session'"):
        score_decode(ref, hyp, permutation_unit="sesion")


def test_the_page_keeps_both_units_apart(tmp_path, write):
    from espnet_mt_llm.scoring.results import make_results

    said = [("R1-0000000-0001000", "0", "one two"), ("R2", "0", "seven")]
    rows = {}
    for unit in ("clip", "session"):
        ref, hyp = write(tmp_path, "t", SESSION, said, {c: len(s) for c, s in SESSION.items()})
        score_decode(ref, hyp, permutation_unit=unit)
        make_results(tmp_path, tmp_path / "exp", tmp_path / "README.md", tmp_path / "results.json",
                     tmp_path / "page.html")
        readme = (tmp_path / "README.md").read_text()
        assert f"speakers permuted by {unit}" in readme and f"| {unit}s |" in readme
        assert f"{dict(clip=3, session=2)[unit]} {unit}s" in (tmp_path / "page.html").read_text()
        rows = {(r["note"], r["metric"]) for r in json.loads((tmp_path / "results.json").read_text())}
    assert {("01_sctc_train/decode_sctc", "cpWER"), ("01_sctc_train/decode_sctc, by session", "cpWER")} <= rows


def test_the_same_bytes_twice(decoded):
    ref, hyp = decoded
    score_decode(ref, hyp)
    first = (hyp / "score.json").read_bytes()
    score_decode(ref, hyp)
    assert (hyp / "score.json").read_bytes() == first


def test_the_order_of_talkers_matters_to_the_serialized_rate_alone(tmp_path, write):
    clips = {"c": [("A", 0.0, 2.0, "one two"), ("B", 1.0, 3.0, "three four")]}
    ref, hyp = write(tmp_path, "t", clips, [("c", "0", "three four"), ("c", "1", "one two")], {"c": 2})
    score = score_decode(ref, hyp)
    assert score["metrics"]["cp"]["errors"] == 0 and score["metrics"]["orc"]["errors"] == 0
    assert score["metrics"]["serialized"]["errors"] == 4
    assert score_decode(ref, hyp, sot_order="speaker")["metrics"]["serialized"]["errors"] == 4
    ref, hyp = write(tmp_path, "t", clips, [("c", "0", "one two"), ("c", "1", "three four")], {"c": 2})
    assert score_decode(ref, hyp)["metrics"]["serialized_with_sc"]["errors"] == 0


def test_segments_of_a_talker_stay_in_the_order_of_the_output(tmp_path, write):
    clips = {"c": [("A", 0.0, 1.0, "we begin now"), ("A", 1.0, 2.0, "and go on"), ("B", 3.0, 4.0, "fine")]}
    said = [("c", "0", "we begin now"), ("c", "0", "and go on"), ("c", "1", "fine")]
    ref, hyp = write(tmp_path, "t", clips, said, {"c": 2})
    for unit in ("talker", "utterance"):
        assert score_decode(ref, hyp, sot_unit=unit)["metrics"]["serialized_with_sc"]["errors"] == 0


@pytest.mark.parametrize("recorded, errors", [("talker by onset; onsets less than 0 ms apart: by speaker id", 0),
                                              ("talker by onset; onsets less than 100 ms apart: by speaker id", 4)])
def test_the_reference_follows_the_recorded_width_of_ties(tmp_path, write, recorded, errors):
    clips = {"c": [("A", 0.08, 2.0, "one two"), ("B", 0.0, 3.0, "three four")]}
    ref, hyp = write(tmp_path, "t", clips, [("c", "0", "three four"), ("c", "1", "one two")], {"c": 2},
                     tie_rule=recorded)
    score = score_decode(ref, hyp)
    assert score["metrics"]["serialized"]["errors"] == errors and score["conventions"]["sot_order"] == recorded


def test_times_that_are_no_numbers(decoded):
    ref, hyp = decoded
    entries = json.loads((hyp / "hyp.seglst.json").read_text())
    for value in ("9.0", float("nan"), True):
        (hyp / "hyp.seglst.json").write_text(json.dumps([{**entries[0], "start_time": value}, *entries[1:]]))
        with pytest.raises(UserError, match="seglst.json: segment 1: start_time is .*no number of seconds"):
            score_decode(ref, hyp)


def test_more_speakers_than_tcp_compares(tmp_path, write):
    ref, hyp = write(tmp_path, "t", {"c": [("A", 0.0, 2.0, "one")]}, [("c", str(i), "one") for i in range(21)], {})
    entries = [{**e, "start_time": 0.0, "end_time": 1.0} for e in json.loads((hyp / "hyp.seglst.json").read_text())]
    (hyp / "hyp.seglst.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match="clip c: 21 speakers; tcp compares at most 20: leave --tcp_collar away"):
        score_decode(ref, hyp, tcp_collar=5)


@pytest.mark.parametrize("recorded", ["longest", "talker by onset; onsets less than 50 ms apart: longest first"])
def test_the_reference_follows_the_tie_rule_of_the_model(tmp_path, write, recorded):
    clips = {"c": [("A", 0.0, 2.0, "one two"), ("B", 0.01, 3.0, "three four")]}
    hypotheses = [("c", "0", "three four"), ("c", "1", "one two")]
    ref, hyp = write(tmp_path, "t", clips, hypotheses, {"c": 2}, tie_rule=recorded)
    score = score_decode(ref, hyp)
    assert score["metrics"]["serialized"]["errors"] == 0
    assert score["conventions"]["sot_order"].endswith("longest first")
    assert score_decode(ref, hyp, tie_rule="speaker")["metrics"]["serialized"]["errors"] == 4


def test_a_separator_in_the_hypothesis_is_no_word(tmp_path, write):
    ref, hyp = write(tmp_path, "t", {"c": [("A", 0.0, 2.0, "one two")]}, [("c", "0", "one <sc> two")], {"c": 1})
    assert score_decode(ref, hyp, profile="en_libri")["metrics"]["cp"]["errors"] == 0


def test_characters(tmp_path, write):
    clips = {"c": [("A", 0.0, 2.0, "好，嗯，我们开始吧。")]}
    ref, hyp = write(tmp_path, "t", clips, [("c", "0", "好我们开始 吧")], {"c": 1})
    score = score_decode(ref, hyp, unit="char", profile="zh_char")
    assert score["metrics"]["cp"]["errors"] == 1 and score["metrics"]["cp"]["length"] == 7
    assert "cpCER 14.29 %" in summary(score)


def test_names_are_compared_when_asked_for(tmp_path, write):
    clips = {"c": [("A", 0.0, 2.0, "a b c d"), ("B", 1.0, 2.0, "e f")]}
    ref, hyp = write(tmp_path, "t", clips, [("c", "A", "e f"), ("c", "B", "a b c d")], {"c": 2})
    assert "sa" not in score_decode(ref, hyp)["metrics"]
    assert score_decode(ref, hyp, speaker_attributed=True)["metrics"]["sa"]["errors"] == 8


def test_a_clip_without_hypothesis_is_deleted_and_reported(decoded, capsys):
    ref, hyp = decoded
    entries = [e for e in json.loads((hyp / "hyp.seglst.json").read_text()) if e["session_id"] != "c2"]
    (hyp / "hyp.seglst.json").write_text(json.dumps(entries))
    (hyp / "utt2num_spk").write_text("c1 1\nc3 1\n")
    main(["--ref", str(ref), "--hyp", str(hyp)])
    assert "clips without a hypothesis, counted as deleted: 1, the first is c2" in capsys.readouterr().out
    score = json.loads((hyp / "score.json").read_text())
    assert score["missing_hypotheses"] == ["c2"]
    assert score["sessions"]["c2"]["cp"] == [7, 7, 0, 7, 0] and score["sessions"]["c2"]["predicted"] == 0


@pytest.mark.parametrize("heads, length", [(["diarization"], 0), (["diarization", "recognition"], 2)])
def test_a_model_that_reads_nothing_has_no_rates_of_words(tmp_path, write, heads, length):
    ref, hyp = write(tmp_path, "test", {"c1": [("A", 0.0, 1.0, "red ship")]}, [], {"c1": 1}, heads=heads)
    score = score_decode(ref, hyp)
    assert score["metrics"]["cp"]["length"] == length and score["count"]["accuracy"] == 1
    assert (score["metrics"]["cp"]["rate"], score["missing_hypotheses"]) == ((1, ["c1"]) if length else (None, []))


def test_without_decode_json_and_counts(decoded):
    ref, hyp = decoded
    (hyp / "decode.json").unlink()
    (hyp / "utt2num_spk").unlink()
    score = score_decode(ref, hyp)
    found = [score[k] for k in ("system", "step", "decode", "set")]
    assert found == ["sctc", "01_sctc_train", "decode_sctc", "test"]
    assert score["speed"] is None and score["count"]["correct"] == 2
    assert score["conventions"]["talker_count"] == "hypothesis speakers with words"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("hyp.seglst.json", '[{"session_id":"zz","speaker":"0","words":"a"}]', "the clip 'zz' is not in"),
        ("hyp.seglst.json", '[{"session_id":"c1","speaker":"0"}]', "segment 1 lacks"),
        ("hyp.seglst.json", '[{"session_id":"c1","speaker":"0","words":null}]', "'words' is not a string"),
        ("hyp.seglst.json", '[\n{"session_id"', "hyp.seglst.json:2: not valid JSON"),
        ("hyp.seglst.json", "{}", "not a SegLST file"),
        ("utt2num_spk", "zz 1\n", "the clip 'zz' is not in"),
        ("utt2num_spk", "c1 two\n", "utt2num_spk:1: 'two' is not a number"),
        ("utt2num_spk", "c1 1\nc1 2\n", "utt2num_spk:2"),
        ("decode.json", '{"audio_seconds":"x","wall_seconds":1}', "are not numbers"),
    ],
)
def test_broken_decode_directories(decoded, capsys, name, content, message):
    ref, hyp = decoded
    (hyp / name).write_text(content)
    assert run("--ref", ref, "--hyp", hyp) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and "; " in error
    assert not (hyp / "score.json").exists()


def test_inputs_that_are_not_there(decoded, tmp_path, capsys):
    ref, hyp = decoded
    assert run("--ref", tmp_path / "none", "--hyp", hyp) == 1
    assert "supervision: no such file; make the clips again" in capsys.readouterr().err
    assert run("--ref", ref, "--hyp", tmp_path / "none") == 1
    assert "hyp.seglst.json: no such file; decode this set again" in capsys.readouterr().err
    (ref / "supervision").write_text("")
    assert run("--ref", ref, "--hyp", hyp) == 1
    assert "no clips" in capsys.readouterr().err


def test_words_with_a_constraint_on_their_times(tmp_path, write):
    clips = {"c": [("A", 0.0, 2.0, "one two"), ("B", 50.0, 52.0, "three four")], "d": [("A", 0.0, 1.0, "five")]}
    ref, hyp = write(tmp_path, "t", clips, [], {"c": 2, "d": 0})
    times = {"0": (0.5, 2.5), "1": (10.0, 12.0)}
    entries = [{"session_id": "c", "speaker": s, "words": w, "start_time": times[s][0], "end_time": times[s][1]}
               for s, w in (("0", "one two"), ("1", "Three four"))]
    (hyp / "hyp.seglst.json").write_text(json.dumps(entries))
    score = score_decode(ref, hyp, profile="en_libri", tcp_collar=5)
    # Half a minute beside its place, a word is as good as none; the clip without a hypothesis is deleted.
    assert score["metrics"]["tcp"] == {"rate": 1.0, "errors": 5, "length": 5, "insertions": 2, "deletions": 3,
                                       "substitutions": 0}
    assert score["metrics"]["cp"]["errors"] == 1 and "collar 5 s" in score["conventions"]["tcp"]
    wide = score_decode(ref, hyp, profile="en_libri", tcp_collar=100)
    assert wide["metrics"]["tcp"]["errors"] == wide["metrics"]["cp"]["errors"]
    assert "tcp" not in score_decode(ref, hyp)["metrics"]
    (hyp / "hyp.seglst.json").write_text(json.dumps([{k: v for k, v in entries[0].items() if k != "end_time"}]))
    with pytest.raises(UserError, match="a segment of the clip 'c' has no times; .*; leave --tcp_collar away"):
        score_decode(ref, hyp, tcp_collar=5)
    with pytest.raises(UserError, match="tcp_collar: -1; use seconds"):
        score_decode(ref, hyp, tcp_collar=-1)


def test_unknown_options(decoded, capsys):
    ref, hyp = decoded
    assert run("--ref", ref, "--hyp", hyp, "--unit", "words") == 2
    assert run("--ref", ref, "--hyp", hyp, "--sot_order", "onsets") == 1
    assert "did you mean 'onset'" in capsys.readouterr().err
    with pytest.raises(UserError, match="did you mean"):
        score_decode(ref, hyp, profile="en_libr")


def test_300_clips_take_under_two_seconds_and_no_torch(tmp_path, write):
    words = "the red ship sails seven green houses near an old town".split()
    clips = {f"c{i:03d}": [(f"S{j}", j * 1.0, j + 3.0, " ".join(words[j:j + 8])) for j in range(3)] for i in range(300)}
    hypotheses = [(c, str(j), " ".join(words[j + 1:j + 8])) for c in clips for j in range(3)]
    ref, hyp = write(tmp_path, "t", clips, hypotheses, dict.fromkeys(clips, 3))
    code = ("import sys; from espnet_mt_llm.bin.score_decode import main; main(sys.argv[1:]); "
            "sys.exit(3 if {'torch', 'espnet2', 'matplotlib'} & set(sys.modules) else 0)")
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, "--ref", ref, "--hyp", hyp], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Alone it takes 0.7 s with start-up; the bound leaves room for a busy machine.
    assert time.monotonic() - start < 5


def test_full_disk_keeps_the_earlier_score(decoded, full_disk):
    ref, hyp = decoded
    arguments = ("--ref", ref, "--hyp", hyp)
    score_decode(ref, hyp)
    before = (hyp / "score.json").read_bytes()
    full_disk(1000, "score_decode", *arguments)
    assert (hyp / "score.json").read_bytes() == before
    assert sorted(f.name for f in hyp.iterdir()) == ["decode.json", "hyp.seglst.json", "score.json", "utt2num_spk"]
    (hyp / "score.json").unlink()
    full_disk(1000, "score_decode", *arguments)
    assert not (hyp / "score.json").exists()
    main([str(a) for a in arguments])
    assert json.loads((hyp / "score.json").read_text())["metrics"] == json.loads(before)["metrics"]
