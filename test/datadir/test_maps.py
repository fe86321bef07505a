"""Maps: what is written reads back, and what cannot be read is named by file and line."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.maps import Lookup, format_seconds, key_of, read_lines, read_map, write_map

IDS = st.text("ABCxyz019_.-", min_size=1, max_size=8)
VALUES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20).map(
    lambda s: s.replace("\xa0", " ").strip(" ")
)


@given(st.dictionaries(IDS, VALUES, max_size=6))
def test_map_reads_back(tmp_path_factory, mapping):
    path = tmp_path_factory.mktemp("map") / "text"
    write_map(path, mapping)
    assert read_map(path) == mapping
    assert list(read_map(path)) == sorted(mapping, key=lambda key: key.encode())


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfa 1\nb 2\n")
    assert read_map(tmp_path / "text") == dict(read_lines(tmp_path / "text")) == {"a": "1", "b": "2"}


def test_order_is_that_of_sort_in_the_c_locale(tmp_path):
    ids = ["b", "B", "a-1", "a_1", "a1", "a", "é", "中", "\U0001f600"]
    write_map(tmp_path / "m", {i: "x" for i in ids})
    ordered = subprocess.run(["sort", tmp_path / "m"], env={"LC_ALL": "C"}, capture_output=True, check=True).stdout
    assert ordered == (tmp_path / "m").read_bytes()


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"a 1\n\nb 2\n", 2, "empty line"),
        (b"a 1\nb 2\na 3\n", 3, "the id 'a' is already on line 1"),
        (b"a 1\nb \xff\xfe\n", 2, "not UTF-8 (byte 0xff)"),
    ],
)
def test_bad_map_names_file_and_line(tmp_path, content, line, message):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_map(path)
    assert str(error.value).startswith(f"{path}:{line}: ") and message in str(error.value)


@given(st.dictionaries(IDS, VALUES, max_size=8), st.lists(IDS, max_size=12), st.randoms(use_true_random=False))
def test_a_lookup_answers_as_the_map_does_in_any_order(tmp_path_factory, mapping, asked, random):
    path = tmp_path_factory.mktemp("map") / "text"
    write_map(path, mapping)
    for shuffle in (False, True):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if shuffle:
            random.shuffle(lines)
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        assert dict(read_lines(path)) == read_map(path)
        for questions in (sorted({*asked, *mapping}), asked):
            lookup = Lookup(path)
            assert [lookup.get(key) for key in questions] == [mapping.get(key) for key in questions]
            lookup.finish()


@pytest.mark.parametrize("content", [b"a 1\n\nb 2\n", b"a 1\nb 2\na 3\n", b"a 1\nb \xff\xfe\n", b"b 1\na 1\na 2\n"])
def test_bad_lines_are_named_as_in_a_map(tmp_path, content):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UserError) as expected:
        read_map(path)
    for read in (lambda: list(read_lines(path)), lambda: (Lookup(path).get("a"), Lookup(path).finish())):
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == str(expected.value)


def test_ideographic_space_belongs_to_the_transcript(tmp_path):
    (tmp_path / "text").write_text("a 好\u3000吗\nb\t x\n", encoding="utf-8")
    assert read_map(tmp_path / "text") == {"a": "好\u3000吗", "b": "x"}


@pytest.mark.parametrize("mapping", [{"a b": "x"}, {"": "x"}, {"a": "x\ny"}])
def test_a_map_that_would_not_read_back_is_not_written(tmp_path, mapping):
    with pytest.raises(UserError):
        write_map(tmp_path / "m", mapping)
    assert not (tmp_path / "m").exists()


@given(st.floats(0, 1e5))
def test_seconds_keep_microseconds(seconds):
    written = format_seconds(seconds)
    assert abs(float(written) - seconds) <= 5.1e-7 and len(written.split(".")[1]) >= 2


def test_kinds_of_files():
    assert [key_of(n) for n in ("wav.scp", "spk12.scp", "text", "spk2utt", "README", "spk.scp")] == [
        "rec",
        "rec",
        "utt",
        "spk",
        None,
        None,
    ]
