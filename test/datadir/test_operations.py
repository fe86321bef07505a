"""Subset, copy, combine, split: results are valid, ids add up, collisions are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.lists import filter_scp, spk2utt_to_utt2spk, split_scp, utt2spk_to_spk2utt
from espnet_mt_llm.datadir.maps import read_map, write_map
from espnet_mt_llm.datadir.operations import combine, copy, divide, make_reco2dur, make_utt2dur, split, subset
from espnet_mt_llm.datadir.validate import validate

ALL = [
    "s1-A-0000050-0000333",
    "s1-B-0000400-0000600",
    "s1-B-0000700-0000800",
    "s2-A-0000200-0000400",
    "s2-B-0000100-0000450",
]


def utts(path):
    return [u.utt for u in DataDir.read(path).utterances]


@pytest.mark.parametrize(
    ("how", "count", "expected"),
    [
        ("first", 2, ALL[:2]),
        ("last", 2, ALL[-2:]),
        ("shortest", 2, [ALL[2], ALL[1]]),
        ("spread", 2, [ALL[0], ALL[2]]),
        ("per_spk", 1, [ALL[0], ALL[3]]),
        ("speakers", 2, ALL[:3]),
        ("recordings", 1, [ALL[0], ALL[3]]),
        ("spread", 5, ALL),
    ],
)
def test_subset(data_dir, tmp_path, how, count, expected):
    assert subset(data_dir, tmp_path / "sub", count=count, how=how) == len(expected)
    assert utts(tmp_path / "sub") == sorted(expected)
    assert validate(tmp_path / "sub") == []


def test_subset_by_list(data_dir, tmp_path):
    (tmp_path / "list").write_text("s2\n")
    subset(data_dir, tmp_path / "sub", spk_list=tmp_path / "list")
    assert utts(tmp_path / "sub") == ALL[3:]
    (tmp_path / "list").write_text("B anything\n")
    subset(data_dir, tmp_path / "sub", rec_list=tmp_path / "list")
    assert utts(tmp_path / "sub") == [ALL[1], ALL[2], ALL[4]] and list(read_map(tmp_path / "sub" / "wav.scp")) == ["B"]
    (tmp_path / "list").write_text(f"{ALL[0]}\nghost\n")
    with pytest.raises(UserError, match="list:2: 'ghost' is not in"):
        subset(data_dir, tmp_path / "sub", utt_list=tmp_path / "list")
    with pytest.raises(UserError, match="6 asked for, but there are 5"):
        subset(data_dir, tmp_path / "sub", count=6)
    with pytest.raises(UserError, match="say how many"):
        subset(data_dir, tmp_path / "sub")


def test_copy_renames_everywhere_and_combine_keeps_all(data_dir, tmp_path):
    write_map(data_dir / "utt2num_spk", {"A": "2", "B": "2"})
    (data_dir / "mixtures.jsonl").write_text('{"id":"A"}\n{"id":"B"}\n')
    (data_dir / "NOTES").write_text("0\n")
    copy(data_dir, tmp_path / "far", utt_prefix="far-", spk_prefix="far-", rec_prefix="far-")
    far = DataDir.read(tmp_path / "far")
    assert (
        validate(tmp_path / "far") == []
        and set(far.wav) == {"far-A", "far-B"}
        and set(far.reco2dur) == {"far-A", "far-B"}
    )
    assert far.utterances[0].spk == "far-s1" and (tmp_path / "far" / "NOTES").read_text() == "0\n"
    assert [json.loads(v)["id"] for v in far.extra["mixtures.jsonl"].values()] == ["far-A", "far-B"]
    combine(tmp_path / "both", [data_dir, tmp_path / "far"])
    assert validate(tmp_path / "both") == []
    assert utts(tmp_path / "both") == sorted(ALL + [f"far-{utt}" for utt in ALL])


def test_what_some_recordings_have_travels(data_dir, tmp_path):
    write_map(data_dir / "channel", {"A": "3"})
    write_map(data_dir / "far2.scp", {"A": "a2.wav"})
    write_map(data_dir / "reco2seats", {"A": "s1=1 s2=4"})
    write_map(data_dir / "utt2sot_order", {"A": "s2 ~ s1"})
    write_map(data_dir / "reco2session", {"A": "meeting"})
    copy(data_dir, tmp_path / "new", utt_prefix="x-", spk_prefix="x-", rec_prefix="x-")
    extra = DataDir.read(tmp_path / "new").extra
    assert extra == {
        "channel": {"x-A": "3"},
        "far2.scp": {"x-A": "a2.wav"},
        "reco2seats": {"x-A": "x-s1=1 x-s2=4"},
        "utt2sot_order": {"x-A": "x-s2 ~ x-s1"},
        "reco2session": {"x-A": "x-meeting"},
    }
    first, second = split(data_dir, 2)
    assert DataDir.read(first).channel("A") == 3 and DataDir.read(second).extra == {}
    assert validate(second) == [], "a map without a line is no file"
    (tmp_path / "list").write_text("B\n")
    subset(data_dir, tmp_path / "sub", rec_list=tmp_path / "list")
    assert DataDir.read(tmp_path / "sub").extra == {}
    combine(tmp_path / "both", [tmp_path / "sub", tmp_path / "new"])
    assert DataDir.read(tmp_path / "both").extra == extra, "one of the two need not have it"


def test_copy_refuses_ids_that_would_not_sort(data_dir, tmp_path):
    with pytest.raises(UserError, match="would not begin with its speaker 's1'.*give --utt-prefix and --spk-prefix"):
        copy(data_dir, tmp_path / "new", utt_prefix="far-")


def test_combine_refuses_collisions_and_fills_segments(data_dir, tmp_path, caplog):
    with pytest.raises(UserError, match="is also in .*rename one: utils/copy_data_dir.sh"):
        combine(tmp_path / "both", [data_dir, data_dir])
    wav = read_map(data_dir / "wav.scp")
    other = tmp_path / "other"
    for name, value in (("utt2spk", "z"), ("text", "hi"), ("reco2dur", "8.50"), ("wav.scp", wav["B"])):
        write_map(other / name, {"z": value})
    write_map(other / "utt2lang", {"z": "en"})
    combine(tmp_path / "both", [data_dir, other])
    assert read_map(tmp_path / "both" / "segments")["z"] == "z 0.00 8.50"
    assert validate(tmp_path / "both") == [] and "utt2lang is left out: only" in caplog.text


@pytest.mark.parametrize(
    ("by", "folder", "parts"), [("rec", "split2reco", 2), ("spk", "split2", 2), ("utt", "split3utt", 3)]
)
def test_split(data_dir, by, folder, parts):
    made = split(data_dir, parts, by=by)
    assert made == [data_dir / folder / str(i) for i in range(1, parts + 1)]
    assert all(validate(part) == [] for part in made)
    assert sorted(utt for part in made for utt in utts(part)) == ALL
    with pytest.raises(UserError, match="cannot make 9 parts of"):
        split(data_dir, 9, by=by)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.data())
def test_divide_breaks_no_unit(sizes, data):
    parts = data.draw(st.integers(1, len(sizes)))
    pairs = [(f"u{i:02d}", f"{i}-{j}") for i, size in enumerate(sizes) for j in range(size)]
    groups = divide(pairs, parts, "x")
    assert [item for group in groups for item in group] == [item for _, item in pairs]
    assert len(groups) == parts and all(groups)
    units = [{item.split("-")[0] for item in group} for group in groups]
    assert sum(map(len, units)) == len(sizes)


def test_durations_from_headers(data_dir):
    (data_dir / "reco2dur").unlink()
    assert make_reco2dur(data_dir) == {"A": 5.0, "B": 8.5}
    assert read_map(data_dir / "reco2dur") == {"A": "5.00", "B": "8.50"}
    assert make_utt2dur(data_dir)["s1-A-0000050-0000333"] == pytest.approx(2.833)


def test_an_utterance_without_a_place_is_named(data_dir, tmp_path):
    raw = (data_dir / "segments").read_text().splitlines(keepends=True)
    (data_dir / "segments").write_text("".join(raw[1:]))
    with pytest.raises(
        UserError, match=f"segments: the utterance '{ALL[0]}' is missing; repair: utils/fix_data_dir.sh"
    ):
        split(data_dir, 2)


@given(st.dictionaries(st.text("abc", min_size=1), st.sampled_from("xyz"), min_size=1))
def test_utt2spk_there_and_back(mapping):
    lines = [f"{utt} {spk}" for utt, spk in sorted(mapping.items(), key=lambda kv: (kv[1], kv[0]))]
    assert list(spk2utt_to_utt2spk(utt2spk_to_spk2utt(lines))) == lines


def test_lists():
    assert list(filter_scp(["a 1", "b 2\n", "c 3"], ["b x", ""])) == ["b 2"]
    assert list(filter_scp(["a 1", "b 2", "c 3"], ["1", "3"], field=2, exclude=True)) == ["b 2"]
    assert split_scp(list("abcde"), 2) == [["a", "b"], ["c", "d", "e"]]
    assert split_scp(["a 1", "b 2", "c 3"], 2, ["a s", "b s", "c t"]) == [["a 1", "b 2"], ["c 3"]]
    for bad in (
        lambda: split_scp(["a"], 2),
        lambda: split_scp(["a"], 1, ["b s"]),
        lambda: list(filter_scp(["a"], [], field=2)),
        lambda: list(utt2spk_to_spk2utt(["a"])),
        lambda: list(spk2utt_to_utt2spk(["a"])),
    ):
        with pytest.raises(UserError):
            bad()
