"""What a speech LLM's decode directory is scored by: worked examples, failures, names, bins, chance."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.scoring.metrics import cp, cp_of_many, speaker_attributed
from espnet_mt_llm.scoring.results import make_results
from espnet_mt_llm.scoring.score import score_decode, summary
from espnet_mt_llm.scoring.table import load_scores, overregistered_curves, overregistered_table

# F's worked checks: the words are characters here.
CLIP = [("A", 0.0, 2.0, "a b c d"), ("B", 3.0, 4.0, "e f")]
COUNTED = {"malformed": 0, "unparsable": [], "repeated": 0, "capped": 0, "registration": "no"}
TOKENS = st.lists(st.sampled_from("ab"), max_size=4)
SPEAKERS = st.dictionaries(st.sampled_from("ABCD"), TOKENS, max_size=4)


@pytest.fixture
def decode(tmp_path, write):
    """Write and score a decode directory of the speech LLM."""
    def run(clips, hypotheses, counts=None, over=None, name="test", **record):
        counts = counts or {c: len({s for clip, s, _ in hypotheses if clip == c}) for c in clips}
        ref, hyp = write(tmp_path, name, clips, hypotheses, counts, system="speakerlm", decode="decode_over",
                         **{**COUNTED, **record})
        if over is not None:
            (hyp / "utt2num_overregistered").write_text("".join(f"{c} {n}\n" for c, n in sorted(over.items())))
        return score_decode(ref, hyp)
    return run


def errors(score, *keys):
    part = score
    for key in keys:
        part = part[key]
    return part["errors"], part["length"]


def test_worked_examples(decode):
    score = decode({"c": CLIP}, [("c", "0", "e f"), ("c", "1", "a b c d")])
    assert errors(score, "metrics", "cp") == (0, 6) and "sa" not in score["metrics"]
    score = decode({"c": CLIP}, [("c", "0", "a b c d e f")])
    assert errors(score, "metrics", "cp") == (4, 6) and errors(score, "deltas", "cp") == (4, 6)
    score = decode({"c": CLIP}, [("c", "B", "a b c d"), ("c", "A", "e f")], registration="match")
    assert errors(score, "metrics", "sa") == (8, 6) and errors(score, "deltas", "sa") == (8, 6)
    assert errors(score, "metrics", "cp") == (0, 6) and errors(score, "metrics", "serialized") == (0, 6)


def test_absent_and_invented_names(decode):
    # B is not heard (2 deleted), Zed is invented (3 inserted), A has one word wrong.
    score = decode({"c": CLIP}, [("c", "A", "a b x d"), ("c", "Zed", "u v w")], registration="over")
    assert score["metrics"]["sa"] == {"rate": 1.0, "errors": 6, "length": 6, "insertions": 3, "deletions": 2,
                                      "substitutions": 1}
    # With a permutation Zed may be B.
    assert errors(score, "metrics", "cp") == (4, 6)
    assert errors(score, "metrics", "orc")[0] <= 4 and errors(score, "metrics", "dicp")[0] <= 4


def test_a_speaker_without_words_is_no_talker_that_an_answer_could_have(decode):
    clips = {"c": [("A", 0.0, 2.0, "a b"), ("B", 1.0, 3.0, "")], "d": [("A", 0.0, 1.0, "a"), ("B", 1.0, 2.0, "b")]}
    score = decode(clips, [("c", "0", "a b"), ("d", "0", "a"), ("d", "1", "b")])
    assert score["count"]["accuracy"] == 1.0 and list(score["by_num_speakers"]) == ["1", "2"]


def test_delta_may_be_negative(decode):
    # Overlapped words in another order cost CER, and no cpCER.
    clips = {"c": [("A", 0.0, 2.0, "a b"), ("B", 1.0, 3.0, "c d")]}
    score = decode(clips, [("c", "0", "c d"), ("c", "1", "a b")])
    assert errors(score, "deltas", "cp") == (-4, 4) and score["deltas"]["cp"]["rate"] == -1.0


def test_an_unparsable_answer_is_deleted(decode):
    clips = {"c": CLIP, "d": CLIP}
    said = [("c", "0", "a b c d"), ("c", "1", "e f"), ("d", "0", "a b c d e f")]
    score = decode(clips, said, unparsable=["d"], malformed=3, repeated=1)
    for metric in ("cp", "orc", "dicp", "serialized"):
        assert score["metrics"][metric]["deletions"] == 6 == score["metrics"][metric]["errors"], metric
    assert score["answers"] == {"registration": "no", "labels": "", "unparsable": 1, "malformed": 3, "repeated": 1, "capped": 0}
    assert score["missing_hypotheses"] == [] and score["sessions"]["d"]["unparsable"]
    assert score["count"]["confusion"] == {"2": {"0": 1, "2": 1}}
    assert "unparsable: 1" in summary(score) and "warning" not in summary(score)
    # As a number alone it is only said: decoding has left the words away.
    assert decode(clips, said, unparsable=1)["answers"]["unparsable"] == 1


def test_an_empty_answer_is_no_unparsable_one(decode):
    score = decode({"c": CLIP, "d": CLIP}, [("c", "0", "a b c d"), ("c", "1", "e f")])
    assert score["missing_hypotheses"] == ["d"] and score["answers"]["unparsable"] == 0


def test_the_parts_by_over_registered_speakers_add_up(decode):
    clips = {f"c{i}": CLIP for i in range(5)}
    hypotheses = [(c, "A", "a b c d") for c in clips] + [(c, "B", "e f x" if c > "c2" else "e f") for c in clips]
    score = decode(clips, hypotheses, over=dict(zip(clips, (0, 10, 11, 1, 37))), registration="over")
    bins = score["by_overregistered"]
    assert {name: part["clips"] for name, part in bins.items()} == {"0": 1, "1-10": 2, "11-20": 1, "31-40": 1}
    assert [part["metrics"]["sa"]["errors"] for part in bins.values()] == [0, 1, 0, 1]
    for key in ("errors", "length", "insertions"):
        assert sum(part["metrics"]["sa"][key] for part in bins.values()) == score["metrics"]["sa"][key]
        if key != "insertions":
            assert sum(part["chance"]["cp"][key] for part in bins.values()) == score["chance"]["cp"][key]
    assert score["sessions"]["c4"]["overregistered"] == 37


def test_random_speakers_are_wrong_half_of_the_time(decode):
    words = [f"w{i}" for i in range(20)]
    clips = {f"c{i}": [("AB"[k % 2], 2.0 * k, 2.0 * k + 1, w) for k, w in enumerate(words)] for i in range(40)}
    hypotheses = [(c, "BA"[k % 2], w) for c in clips for k, w in enumerate(words)]
    score = decode(clips, hypotheses, registration="match")
    assert errors(score, "metrics", "cp")[0] == 0 and errors(score, "metrics", "sa")[0] > 0
    # By names half of the words go to the wrong one of two speakers: an insertion and a deletion, or a substitution.
    assert 0.4 < score["chance"]["sa"]["rate"] < 1.1
    assert 0.2 < score["chance"]["cp"]["rate"] < score["chance"]["sa"]["rate"]
    assert decode(clips, hypotheses, registration="match")["chance"] == score["chance"]
    # One speaker is no chance.
    alone = decode({"c": [("A", 0.0, 1.0, "a b")]}, [("c", "0", "a b")])
    assert alone["chance"]["cp"]["errors"] == 0


def test_a_model_may_invent_many_speakers(decode):
    loop = [("c", str(k), "en") for k in range(2, 60)]
    score = decode({"c": CLIP}, [("c", "0", "a b c d"), ("c", "1", "e f"), *loop])
    assert errors(score, "metrics", "cp") == errors(score, "metrics", "orc") == (58, 6)
    assert score["metrics"]["cp"]["insertions"] == 58 and score["sessions"]["c"]["predicted"] == 60


@given(SPEAKERS, SPEAKERS)
@settings(max_examples=60)
def test_cp_of_many_is_cp(reference, hypothesis):
    errors, assignment = cp_of_many(reference, hypothesis)
    assert errors.errors == cp(reference, hypothesis)[0].errors and errors.length == sum(map(len, reference.values()))
    assert {r for r, _ in assignment} - {None} == set(reference)
    assert {h for _, h in assignment} - {None} == set(hypothesis)
    assert errors.errors <= speaker_attributed(reference, hypothesis).errors


@pytest.mark.parametrize("record, over, message", [
    ({"malformed": -1}, None, "decode.json: malformed: -1 is no count; decode this set again"),
    ({"repeated": "x"}, None, "repeated: 'x' is no count"),
    ({"unparsable": ["zz"]}, None, "decode.json: the clip 'zz' is not in"),
    ({}, {"zz": 1}, "utt2num_overregistered: the clip 'zz' is not in"),
    ({}, {"d": 1}, "utt2num_overregistered: the clip 'c' is not there; decode"),
    ({}, {"c": "x", "d": 1}, "utt2num_overregistered:1: 'x' is not a number"),
])
def test_broken_records(decode, record, over, message):
    with pytest.raises(UserError) as e:
        decode({"c": CLIP, "d": CLIP}, [("c", "0", "a")], over=over, **record)
    assert message in str(e.value)


def test_other_systems_are_scored_as_before(decoded):
    score = score_decode(*decoded)
    assert not {"answers", "deltas", "chance", "by_overregistered"} & set(score)
    assert not {"deltas", "chance"} & set(score["by_num_speakers"]["2"])


def test_results(decode, tmp_path, decoded):
    score_decode(*decoded)
    clips = {f"c{i}": CLIP for i in range(4)}
    hypotheses = [(c, n, w) for c in clips for n, w in (("A", "a b c d"), ("B", "e f x"))]
    decode(clips, hypotheses, name="over", over=dict(zip(clips, (1, 20, 30, 31))), registration="over",
           unparsable=["c3"])
    out = [tmp_path / "README.md", tmp_path / "results.json", tmp_path / "exp/results.html"]
    text = make_results(tmp_path, tmp_path / "exp", *out)
    head = next(line for line in text.splitlines() if line.startswith("system"))
    for column in ("saWER %", "Δcp %", "Δsa %", "cp by chance %", "unparsable %", "repetitions stopped"):
        assert column in head
    readme = out[0].read_text()
    assert "**By number of over-registered speakers**" in readme and "31–40" in readme
    rows = {(r["metric"], r["note"]): r["value"] for r in json.loads(out[1].read_text()) if r["system"] == "speakerlm"}
    name = "01_sctc_train/decode_over"
    assert rows["saWER", f"{name}, 11-20 over-registered"] == 16.67 and rows["saWER", name] == 37.5
    assert rows["unparsable", name] == 25.0 and rows["Δsa", name] == 0.0
    page = out[2].read_text()
    assert page.count("<svg") == 1 and "over-registered, up to" in page and "(unparsable)" in page
    chart = readme.split("```mermaid")[1].split("```")[0]
    assert '["1-10", "11-20", "21-30", "31-40"]' in chart and "line [16.67, 16.67, 16.67, 100.00]" in chart


def test_decodings_with_one_number_of_others_each_make_one_curve(decode, tmp_path):
    hypotheses = [("c0", "A", "a b c d"), ("c0", "B", "e f")]
    for number, said in ((20, "a b c x"), (1, "a b c d"), (5, "a b x x")):
        score = decode({"c0": CLIP}, [("c0", "A", said), hypotheses[1]], over={"c0": number}, registration="over",
                       name=f"test{number}")
        assert list(score["by_overregistered"]) == [str(number)]
    scores = [{**s, "set": "test", "decode": f"over_{i}"} for i, s in enumerate(load_scores(tmp_path / "exp"))]
    (name, points), = overregistered_curves(scores).items()
    assert name == "speakerlm / 01_sctc_train / test"
    assert [(number, round(rate, 2)) for number, rate in points] == [("1", 0.0), ("5", 33.33), ("20", 16.67)]
    assert [row[4] for row in overregistered_table(scores)] == ["over-registered", "1", "5", "20"]
    # Labels that come about in another way make another curve.
    by_voice = [{**s, "answers": {**s["answers"], "labels": "voices"}} for s in scores]
    beam = [{**s, "decoding": {**s["decoding"], "beam_size": 4}} for s in scores]
    assert list(overregistered_curves(scores + by_voice + beam)) == [
        name, name.replace("train /", "train / labels by voice /"), name.replace("train /", "train / beam of 4 /")]


def test_columns_of_answers_stand_only_where_a_row_has_them(decoded, tmp_path):
    score_decode(*decoded)
    text = make_results(tmp_path, tmp_path / "exp", None, None, None)
    assert "Δ" not in text and "chance" not in text and "unparsable" not in text
