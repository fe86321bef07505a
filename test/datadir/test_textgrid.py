"""TextGrids: every flavour of the real files, the contents agree between flavours, broken ones are named by line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.textgrid import read_textgrid, read_tiers, write_textgrid


def long_form(tiers):
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0 ",
        "xmax = 9 ",
        "tiers? <exists> ",
        f"size = {len(tiers)} ",
        "item []: ",
    ]
    for t, (name, spans) in enumerate(tiers, 1):
        lines += [
            f"    item [{t}]:",
            '        class = "IntervalTier" ',
            f'        name = "{quoted(name)}" ',
            "        xmin = 0 ",
            "        xmax = 9 ",
            f"        intervals: size = {len(spans)} ",
        ]
        for i, (start, end, text) in enumerate(spans, 1):
            lines += [
                f"        intervals [{i}]:",
                f"            xmin = {start} ",
                f"            xmax = {end} ",
                f'            text = "{quoted(text)}" ',
            ]
    return "\n".join(lines) + "\n"


def short_form(tiers):
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "9", "<exists>", str(len(tiers))]
    for name, spans in tiers:
        lines += ['"IntervalTier"', f'"{quoted(name)}"', "0", "9", str(len(spans))]
        for start, end, text in spans:
            lines += [str(start), str(end), f'"{quoted(text)}"']
    return "\n".join(lines) + "\n"


def quoted(text):
    return text.replace('"', '""')


TEXTS = st.text('ab "=<>[]:!1.\n好', max_size=12)
TIERS = st.lists(
    st.tuples(TEXTS, st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), TEXTS), max_size=4)), max_size=3
)


@given(TIERS, st.sampled_from([long_form, short_form]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_both_forms_and_encodings_read_back(tmp_path_factory, tiers, form, encoding):
    path = tmp_path_factory.mktemp("grid") / "a.TextGrid"
    path.write_bytes(form(tiers).encode(encoding))
    assert [(t.name, t.spans) for t in read_tiers(path)] == tiers


def test_every_real_flavour(real_data):
    files = sorted((real_data / "textgrid").glob("*.TextGrid"))
    assert len(files) == 12
    for path in files:
        tiers = read_tiers(path)
        assert tiers and all(start <= end for tier in tiers for start, end, _ in tier.spans), path
        if "bobby_phones" not in path.name:
            assert len(tiers) == 3, path
    folder = real_data / "textgrid"
    for short, long in (
        ("mary", "mary_longfile"),
        ("mary_with_negative_zero", "mary_longfile_with_negative_zero"),
        ("textgrid_to_merge", "textgrid_to_merge_longfile"),
        ("bobby_words_with_newlines", "bobby_words_with_newlines_longfile"),
        ("bobby_words_with_newlines", "bobby_words_with_newlines_longfile_elan"),
    ):
        a, b = read_textgrid(folder / f"{short}.TextGrid"), read_textgrid(folder / f"{long}.TextGrid")
        assert [(s["speaker"], s["words"]) for s in a] == [(s["speaker"], s["words"]) for s in b], (short, long)


def test_newlines_quotes_points_and_negative_zero(real_data):
    segments = read_textgrid(real_data / "textgrid" / "bobby_words_with_newlines.TextGrid")
    assert [s["words"] for s in segments[:2]] == ['"""BOBBY""" Noun', "RIPPED Verb"]
    assert segments[0]["speaker"] == '"word"' and segments[0]["session_id"] == "bobby_words_with_newlines"
    tiers = read_tiers(real_data / "textgrid" / "mary.TextGrid")
    assert [(t.name, t.points, len(t.spans)) for t in tiers] == [
        ("phone", False, 16),
        ("word", False, 6),
        ("pitch", True, 4),
    ]
    for s in read_textgrid(real_data / "textgrid" / "mary_with_negative_zero.TextGrid"):
        assert str(s["start_time"])[0] != "-"
    same = read_textgrid(real_data / "textgrid" / "all_tiers_have_the_same_name.TextGrid")
    assert [(s["speaker"], s["words"]) for s in same][:2] == [("Mary", "Mary"), ("Mary", "Maary")]


def test_meetings_far_and_near_agree(real_data):
    """The far file of a meeting has what the near files of its speakers have."""
    files = sorted((real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir").glob("*.TextGrid"))
    assert files
    for far in files:
        segments = read_textgrid(far)
        total = 0
        for tier in read_tiers(far):
            near = read_textgrid(real_data / f"alimeeting/Eval_Ali_near/textgrid_dir/{far.stem}_{tier.name}.TextGrid")
            mine = [(s["start_time"], s["end_time"], s["words"]) for s in segments if s["speaker"] == tier.name]
            assert mine == [(s["start_time"], s["end_time"], s["words"]) for s in near]
            total += len(near)
        assert total == len(segments) > 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[: len(s) // 2], "the file ends too early"),
        (lambda s: s.replace('text = "a"', "text = a"), "a.TextGrid:10: what begins here is not a tier"),
        (lambda s: s.replace("IntervalTier", "PitchTier"), "a.TextGrid:10: what begins here is not a tier"),
        (lambda s: "hello\n", "a.TextGrid:1: not a TextGrid in a text format"),
        (lambda s: "", "a.TextGrid:1: not a TextGrid in a text format"),
    ],
)
def test_broken_files(tmp_path, change, message):
    path = tmp_path / "a.TextGrid"
    path.write_text(change(long_form([("s", [(0, 1, "a"), (1, 2, "b")])])))
    with pytest.raises(UserError) as error:
        read_textgrid(path)
    assert message in str(error.value)


def test_impossible_intervals_are_left_out_loudly(tmp_path, caplog):
    (tmp_path / "a.TextGrid").write_text(long_form([("s", [(-0.5, 1, "a"), (2, 1.5, "b"), (2, 2, "")])]))
    assert read_textgrid(tmp_path / "a.TextGrid") == [
        {"session_id": "a", "speaker": "s", "start_time": 0.0, "end_time": 1.0, "words": "a"}
    ]
    assert "left out 'b', which goes from 2 to 1.5 s" in caplog.text


@pytest.mark.parametrize("form", [long_form, short_form])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("index", [0, 1])
def test_times_that_are_not_finite(tmp_path, form, value, index):
    spans = [(0, 1, "inf"), (1, 2, "b")]
    spans.append((*((value, 3) if index == 0 else (2, value)), "c"))
    path = tmp_path / "a.TextGrid"
    path.write_text(form([("first", [(0, 1, "nan")]), ("s", spans)]))
    line = next(k for k, line in enumerate(path.read_text().split("\n"), 1) if line.split()[-1:] == [value])
    with pytest.raises(UserError, match=f"a.TextGrid:{line}: the time '{value}' is not a finite number"):
        read_tiers(path)
    path.write_text(form([("s", spans[:2])]).replace("9", value))  # the limits are not believed in
    assert read_tiers(path)[0].spans == spans[:2]


def test_not_utf8(tmp_path):
    (tmp_path / "a.TextGrid").write_bytes(long_form([("s", [(0, 1, "好")])]).encode("gb18030"))
    with pytest.raises(UserError, match="a.TextGrid:18: not UTF-8 .*iconv -f GB18030"):
        read_textgrid(tmp_path / "a.TextGrid")


def test_a_utf16_file_that_was_cut_off(tmp_path):
    whole = long_form([("s", [(0, 1, "好")])]).encode("utf-16")
    (tmp_path / "a.TextGrid").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="a.TextGrid: begins as UTF-16 and cannot be decoded"):
        read_textgrid(tmp_path / "a.TextGrid")


WORDS = st.text('ab "=<>[]:!1.好', min_size=1, max_size=8).filter(lambda words: words.split())


SPOKEN = st.lists(st.tuples(st.integers(1, 50000), st.integers(0, 9000), WORDS), max_size=5)


@given(
    st.dictionaries(WORDS, SPOKEN, max_size=4),
    st.sampled_from([None, 0.0, 1e4]),
)
def test_written_segments_read_back(tmp_path_factory, speakers, duration):
    segments = []
    for name, rows in speakers.items():
        now = 0
        for length, pause, words in rows:
            segments.append({
                "session_id": "a", "speaker": name, "start_time": (now + pause) / 1000,
                "end_time": (now + pause + length) / 1000, "words": " ".join(words.split()),
            })
            now += pause + length
    path = tmp_path_factory.mktemp("grid") / "a.TextGrid"
    write_textgrid(path, segments, duration)
    assert read_textgrid(path) == sorted(segments, key=lambda s: (s["speaker"], s["start_time"]))
    for tier in read_tiers(path):
        assert tier.spans[0][0] == 0 and all(a[1] == b[0] for a, b in zip(tier.spans, tier.spans[1:]))
        assert duration != 1e4 or tier.spans[-1][1] == 1e4
    first = path.read_bytes()
    write_textgrid(path, segments[::-1], duration)
    assert path.read_bytes() == first


def test_a_written_file_is_what_praat_writes(tmp_path):
    segment = {"session_id": "a", "speaker": "s", "start_time": 1.0, "end_time": 2.5, "words": 'say "好"'}
    write_textgrid(tmp_path / "a.TextGrid", [segment], 9)
    spans = [(0, 1, ""), (1, 2.5, 'say "好"'), (2.5, 9, "")]
    assert (tmp_path / "a.TextGrid").read_text() == long_form([("s", spans)])
    write_textgrid(tmp_path / "a.TextGrid", [], 9)
    assert read_tiers(tmp_path / "a.TextGrid") == []


@pytest.mark.parametrize(
    ("start", "end", "words", "message"),
    [
        (1.5, 3, "b", "tier s: 'b' from 1.5 to 3 s overlaps 'a' from 1 to 2 s; correct the times, or write .rttm"),
        (3, 3, "b", "tier s: 'b' from 3 to 3 s has no length"),
        (-1, 0.5, "b", "tier s: 'b' from -1 to 0.5 s has no length"),
        (3, 4, " ", "tier s: ' ' from 3 to 4 s has no words"),
    ],
)
def test_what_a_tier_cannot_hold(tmp_path, start, end, words, message):
    segments = [
        {"session_id": "a", "speaker": "s", "start_time": a, "end_time": b, "words": w}
        for a, b, w in ((1, 2, "a"), (start, end, words))
    ]
    with pytest.raises(UserError) as error:
        write_textgrid(tmp_path / "a.TextGrid", segments, 9)
    assert message in str(error.value) and not (tmp_path / "a.TextGrid").exists()


def test_times_that_computing_blurred_touch(tmp_path):
    rows = ((0.0, 0.1 + 0.2, "a"), (0.3, 0.5, "b"), (0.5 + 1e-9, 1.0, "c"))
    segments = [{"session_id": "a", "speaker": "s", "start_time": a, "end_time": b, "words": w} for a, b, w in rows]
    write_textgrid(tmp_path / "a.TextGrid", segments)
    (tier,) = read_tiers(tmp_path / "a.TextGrid")
    assert [text for _, _, text in tier.spans] == ["a", "b", "c"] and tier.spans[1][0] == 0.1 + 0.2
