"""Targets: order, merging, virtual marks, ids, cleaning, overlap, and their tokens."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.parsing import FORMATS
from espnet_mt_llm.text.targets import CHANGE, END, SPEAKER, TEXT, build_target, clean, encode_target, text_of


def segment(speaker, start, end, words):
    return {"session_id": "m1", "speaker": speaker, "start_time": start, "end_time": end, "words": words}


def string(segments, fmt, *args, **kwargs):
    return text_of(build_target(segments, fmt, *args, **kwargs))


class Letters:
    """A tokenizer of one token for each character."""

    end_id = 0

    def encode(self, text):
        return [ord(c) for c in text]


TALK = [segment("B", 0.0, 2.0, "hi"), segment("A", 2.5, 4.0, "fine and you"), segment("B", 3.0, 5.0, "so"),
        segment("C", 6.0, 7.0, "great")]
WORDS = st.text(alphabet="ab 好:<>", max_size=8)
SEGMENTS = st.lists(
    st.builds(lambda s, t, d, w: segment(s, t / 10, (t + d) / 10, w), st.sampled_from("ABCD"), st.integers(0, 100),
              st.integers(1, 40), WORDS), max_size=8,
    unique_by=lambda s: (s["speaker"], s["start_time"], s["end_time"], s["words"]))


def test_each_format():
    assert string(TALK, "speakerlm") == " spk 0: hi spk 1: fine and you spk 0: so spk 2: great"
    assert string(TALK, "sc_suffix") == " hi<SC>0 fine and you<SC>1 so<SC>0 great<SC>2"
    assert string(TALK, "sot") == " hi<SC> fine and you<SC> so<SC> great"
    types = {fmt: [p.type for p in build_target(TALK[:2], fmt)] for fmt in FORMATS}
    assert types == {"speakerlm": [SPEAKER, TEXT, SPEAKER, TEXT, END],
                     "sc_suffix": [TEXT, CHANGE, SPEAKER, TEXT, CHANGE, SPEAKER, END],
                     "sot": [TEXT, CHANGE, TEXT, END]}


def test_names_and_numbers_by_first_appearance():
    assert string(TALK, "speakerlm", {"B": "Mike"}) == " Mike: hi spk 0: fine and you Mike: so spk 1: great"
    assert string(TALK, "sc_suffix", {"B": "张三"}) == " hi<SC> 张三 fine and you<SC>0 so<SC> 张三 great<SC>1"


@given(SEGMENTS, st.sampled_from(FORMATS), st.randoms())
def test_the_order_of_segments_and_registrations_does_not_matter(segments, fmt, rng):
    names = {"A": "Mike", "B": "Lucy", "X": "Jack"}
    shuffled, mixed = segments[:], list(names.items())
    rng.shuffle(shuffled)
    rng.shuffle(mixed)
    assert build_target(segments, fmt, names) == build_target(shuffled, fmt, dict(mixed))


def test_neighbours_are_merged_and_long_pauses_part_them():
    a = [segment("A", 0.0, 1.0, "one"), segment("A", 1.9, 3.0, "two"), segment("A", 4.0, 5.0, "three")]
    assert string(a, "sc_suffix") == " one two<SC>0 three<SC>0"
    assert string(a, "sc_suffix", pause=0.5) == " one<SC>0 two<SC>0 three<SC>0"
    assert string(a, "sc_suffix", pause=math.inf) == " one two three<SC>0"
    assert string(a, "speakerlm") == " spk 0: one two three" and string(a, "sot") == " one two three"
    # The pause is counted from the latest end, and 1.1 - 0.1 is a second.
    nested = [segment("A", 0.0, 5.0, "long"), segment("A", 1.0, 2.0, "in"), segment("A", 5.5, 6.0, "end")]
    assert string(nested, "sc_suffix") == " long in end<SC>0"
    assert string([segment("A", 0.0, 0.1, "x"), segment("A", 1.1, 2.0, "y")], "sc_suffix") == " x<SC>0 y<SC>0"
    assert string([TALK[0], TALK[2]], "sc_suffix") == " hi<SC>0 so<SC>0"


def test_overlap_of_utterances():
    segments = [segment("A", 0.0, 2.0, "a"), segment("A", 2.5, 4.0, "b"), segment("B", 3.5, 5.0, "c"),
                segment("C", 5.0, 6.0, "d")]
    flags = [(p.text, p.overlapped) for p in build_target(segments, "sc_suffix")]
    # Words of one turn differ; its mark and label count as overlapped; touching ends are no overlap.
    assert flags == [(" a", False), (" b", True), ("<SC>", True), ("0", True), (" c", True), ("<SC>", True),
                     ("1", True), (" d", False), ("<SC>", False), ("2", False), ("", False)]


def test_nothing_said():
    counts = Counter()
    empty = [segment("A", 0.0, 1.0, " "), segment("B", 1.0, 2.0, "<sil>")]
    for fmt in FORMATS:
        assert [p.type for p in build_target([], fmt)] == [END]
        assert [p.type for p in build_target(empty, fmt, counts=counts)] == [END]
    assert counts == {"empty": 6, "cleaned": 3}
    # Who says nothing has no number.
    assert string([*empty, segment("C", 3.0, 4.0, "x")], "speakerlm") == " spk 0: x"


@pytest.mark.parametrize("text, fmt, expected, count", [
    ("see <SC> 0 there", "sc_suffix", "see 0 there", 1),
    ("see <sc> and <<sc>SC> there", "sot", "see and < SC> there", 2),
    ("spk 0: hi", "sc_suffix", "spk 0: hi", 0),
    ("spk 0: hi Mike: you", "speakerlm", "spk 0 hi Mike you", 2),
    ("10:30 he said: a:b ::", "speakerlm", "10:30 he said a b", 4),
    ("<|im_end|>a < b", "speakerlm", "a < b", 1),
])
def test_marks_in_the_text_are_cleaned_and_counted(text, fmt, expected, count):
    assert clean(text, fmt) == (expected, count)
    counts = Counter()
    build_target([segment("A", 0.0, 1.0, text)], fmt, counts=counts)
    assert counts["cleaned"] == count


@given(st.text(max_size=40), st.sampled_from(FORMATS))
def test_what_is_clean_stays(text, fmt):
    once, _ = clean(text, fmt)
    assert clean(once, fmt) == (once, 0)


def test_tokens_types_and_weights():
    ids, types, weights, overlapped, speakers = encode_target(build_target(TALK[:2], "sc_suffix"), Letters())
    assert "".join(map(chr, ids[:-1])) == " hi<SC>0 fine and you<SC>1" and ids[-1] == Letters.end_id
    assert types == [TEXT] * 3 + [CHANGE] * 4 + [SPEAKER] + [TEXT] * 13 + [CHANGE] * 4 + [SPEAKER, END]
    assert [w for w in weights if w] == [3.0, 13.0] and [t for t, w in zip(types, weights) if w] == [SPEAKER] * 2
    assert not any(overlapped)
    first, second = TALK[0]["speaker"], TALK[1]["speaker"]
    assert speakers == [first] * 8 + [second] * 18 + [""]


@given(SEGMENTS, st.sampled_from(FORMATS), st.sampled_from([0.5, math.inf]))
def test_tokens_fit_together(segments, fmt, pause):
    pieces = build_target(segments, fmt, pause=pause)
    encoded = encode_target(pieces, Letters())
    assert len({len(part) for part in encoded}) == 1
    assert "".join(map(chr, encoded.ids[:-1])) == text_of(pieces)
    # A label of k tokens has the length of its turn k times.
    turns = {p.segment for p in pieces if p.type == TEXT}
    total = sum(len(p.text) for p in pieces if p.type == TEXT)
    assert sum(sum(len(p.text) for p in pieces if p.type == TEXT and p.segment == q.segment) * len(q.text)
               for q in pieces if q.type == SPEAKER) == sum(encoded.weights)
    assert fmt == "sot" or sum(p.type == SPEAKER for p in pieces) == len(turns)
    assert encoded.types.count(TEXT) == total


@pytest.mark.parametrize("call, message", [
    (lambda: build_target([], "speakerml"), "did you mean 'speakerlm'"),
    (lambda: build_target([], "sot", pause=0), "no length of a pause"),
    (lambda: build_target(TALK, "sc_suffix", num_ids=2), "clip m1: 3 speakers for 2 ids; cut clips with fewer"),
    (lambda: build_target(TALK, "speakerlm", {"A": "spk 1"}), "holds ' '"),
    (lambda: build_target(TALK, "speakerlm", {"A": "Mike", "B": "mike"}), "registered twice as 'Mike'"),
])
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_named_speakers_need_no_number():
    assert string(TALK, "sc_suffix", {"A": "Mike"}, num_ids=2).count("<SC>") == 4


def test_a_long_clip_is_fast():
    import time

    rng = random.Random(0)
    segments = [segment(f"S{i % 8}", t := rng.uniform(0, 3600), t + 2, "word " * 8) for i in range(1000)]
    begin = time.perf_counter()
    build_target(segments, "speakerlm")
    assert time.perf_counter() - begin < 2
