"""Parsers of what a model puts out: worked examples, any string, and the way back from what is learnt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.parsing import FORMATS, Parsed, parse_output
from espnet_mt_llm.text.targets import CHANGE, SPEAKER, TEXT, build_target, text_of

# Strings that are nearly right: the parts of the formats in any order.
PARTS = st.lists(st.sampled_from(["<SC>", "<sc>", "spk 0:", "spk 1", "Mike:", "Mike", "Zed:", "0", "12", " ", "a b",
                                  "好", ":", "<", "10:30", "spk", "\n", "张三:", "３"]), max_size=12).map("".join)
ANY = st.one_of(st.text(max_size=60), PARTS)
NAMES = {"M": "Mike", "Z": "张三", "N": "001-M"}


def segment(speaker, start, end, words):
    return {"session_id": "m1", "speaker": speaker, "start_time": start, "end_time": end, "words": words}


SEGMENTS = st.lists(
    st.builds(lambda s, t, d, w: segment(s, t / 10, (t + d) / 10, w), st.sampled_from("ABMZN"), st.integers(0, 100),
              st.integers(1, 40), ANY), max_size=7)


@pytest.mark.parametrize("text, turns, malformed", [
    ("spk 0: hi, how are you? spk 1: hi, I'm fine. spk 2: great.",
     [("0", "hi, how are you?"), ("1", "hi, I'm fine."), ("2", "great.")], 0),
    ("Mike: hi spk 0: so Mike: at 10:30", [("Mike", "hi"), ("0", "so"), ("Mike", "at 10:30")], 0),
    ("oh spk 0: hi", [("0", "oh"), ("0", "hi")], 1),
    ("spk 0: hi Zed: there", [("0", "hi"), ("Zed", "there")], 1),
    ("spk 0: spk 7: there spk 0:", [("7", "there")], 2),
    ("spk 0:你好spk1:好 spk", [("0", "你好"), ("1", "好 spk")], 0),
    ("", [], 0),
])
def test_labels_before_the_text(text, turns, malformed):
    assert parse_output(text, "speakerlm", ["Mike"]) == Parsed(turns, malformed)


@pytest.mark.parametrize("text, turns, malformed", [
    ("How is the weather today? <SC> 0 It's okay <SC> 1 I feel some cold <SC> 0",
     [("0", "How is the weather today?"), ("1", "It's okay"), ("0", "I feel some cold")], 0),
    ("how is it?<SC>0 okay<SC>1 I think", [("0", "how is it?"), ("1", "okay I think")], 1),
    ("a <SC> b <sc>3好", [("0", "a"), ("3", "b 好")], 2),
    ("<SC> 1 a <SC> 1", [("1", "a")], 1),
    ("a <SC> 12 5 apples <SC> 0", [("12", "a"), ("0", "5 apples")], 0),
    ("a <SC> Mike", [("0", "a Mike")], 2),
    ("", [], 0),
])
def test_labels_behind_the_text(text, turns, malformed):
    found = parse_output(text, "sc_suffix")
    assert (found.turns, found.malformed) == (turns, malformed)


def test_names_behind_the_text():
    text = "a <SC> Mike b <SC>001-M c <SC> Zed d <SC> 0"
    assert parse_output(text, "sc_suffix", ["Mike", "001-M"]) == Parsed(
        [("Mike", "a"), ("001-M", "b"), ("Zed", "c"), ("0", "d")], 1)


def test_turns_without_speakers():
    assert parse_output("good morning <sc> hello", "sot").turns == [("0", "good morning"), ("1", "hello")]
    assert parse_output("a <SC>b<sc> <sc> c", "sot") == Parsed([("0", "a"), ("1", "b"), ("2", "c")], 1)
    assert parse_output(" ", "sot") == Parsed([])


@pytest.mark.parametrize("fmt, text", [("speakerlm", "en en en"), ("sc_suffix", "en en en"), ("sc_suffix", "a <SC> b")])
def test_text_without_any_label_is_unparsable(fmt, text):
    found = parse_output(text, fmt)
    assert found.unparsable and found.malformed and {speaker for speaker, _ in found.turns} == {"0"}


@pytest.mark.parametrize("fmt", FORMATS)
@given(text=ANY, names=st.lists(st.sampled_from(["Mike", "张三", "001-M"]), unique=True))
@settings(max_examples=200)
def test_any_string_is_parsed(fmt, text, names):
    found = parse_output(text, fmt, names)
    assert all(speaker and said and said == " ".join(said.split()) for speaker, said in found.turns)
    # Nothing is invented, and nothing changes places.
    characters = iter("".join(text.split()))
    assert all(c in characters for _, said in found.turns for c in "".join(said.split()))
    assert not found.unparsable or found.malformed
    if found.malformed == 0 and fmt != "sot":
        assert all(speaker.isdecimal() or speaker in names for speaker, _ in found.turns)


@pytest.mark.parametrize("fmt", FORMATS)
@given(segments=SEGMENTS, named=st.booleans(), pause=st.sampled_from([0.5, 1.0, float("inf")]))
@settings(max_examples=200)
def test_what_is_learnt_is_parsed_back(fmt, segments, named, pause):
    names = NAMES if named else {}
    pieces = build_target(segments, fmt, names, pause)
    expected = []
    for i in range(max(p.segment for p in pieces) + 1):
        mine = [p for p in pieces if p.segment == i]
        label = "".join(p.text for p in mine if p.type == SPEAKER).strip().rstrip(":").removeprefix("spk ")
        assert fmt == "sot" or label
        expected.append((label or str(i), "".join(p.text for p in mine if p.type == TEXT).strip()))
        assert sum(p.type == CHANGE for p in mine) == {"speakerlm": 0, "sc_suffix": 1, "sot": int(i > 0)}[fmt]
    assert parse_output(text_of(pieces), fmt, list(names.values())) == Parsed(expected)


def test_an_unknown_format():
    with pytest.raises(UserError, match="unknown format 'sott'; did you mean 'sot'"):
        parse_output("", "sott")
