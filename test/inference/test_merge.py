"""Joining the results of jobs: the order of turns, what is counted, what an earlier decoding left."""

from pathlib import Path
from typing import Any

import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.inference.merge import merge, write_part
from espnet_mt_llm.scoring.score import read_hypothesis, read_json


def turn(clip: str, speaker: str, words: str) -> dict:
    return {"session_id": clip, "speaker": speaker, "words": words}


def record(**more: Any) -> dict:
    return {"audio_seconds": 1.5, "wall_seconds": 0.25, **more}


def test_turns_stay_in_order(tmp_path: Path) -> None:
    write_part(tmp_path, 1, 2, [turn("c2", "B", "one"), turn("c2", "A", "two"), turn("c2", "B", "three")], {"c2": 2},
               record())
    write_part(tmp_path, 2, 2, [turn("c3", "1", "x"), turn("c1", "10", "y"), turn("c1", "9", "z")],
               {"c3": 1, "c1": 2}, record())
    assert merge(tmp_path, 2, {"set": "test"}) == 3
    found = read_hypothesis(tmp_path / "hyp.seglst.json")
    assert {clip: [(s["speaker"], s["words"]) for s in turns] for clip, turns in found.items()} == {
        "c1": [("10", "y"), ("9", "z")], "c2": [("B", "one"), ("A", "two"), ("B", "three")], "c3": [("1", "x")]}
    assert list(found) == ["c1", "c2", "c3"]
    decode = read_json(tmp_path / "decode.json")
    assert decode["set"] == "test" and decode["audio_seconds"] == 3.0 and "malformed" not in decode


def test_jobs_with_other_options_are_not_joined(tmp_path: Path) -> None:
    write_part(tmp_path, 1, 2, [turn("c1", "0", "x")], {"c1": 1}, record(registration="no", num_threads=1))
    write_part(tmp_path, 2, 2, [turn("c2", "0", "x")], {"c2": 1}, record(registration="match", num_threads=2))
    with pytest.raises(UserError, match="another registration than that of job 1, 'match' instead of 'no'; decode all"):
        merge(tmp_path, 2, {})
    assert not (tmp_path / "hyp.seglst.json").exists()
    write_part(tmp_path, 2, 2, [turn("c2", "0", "x")], {"c2": 1}, record(registration="no", num_threads=2))
    assert merge(tmp_path, 2, {}) == 2


def test_a_broken_result_of_a_job(tmp_path: Path) -> None:
    write_part(tmp_path, 1, 1, [turn("c1", "0", "x")], {"c1": 1}, record())
    part = tmp_path / "parts/part.1of1.json"
    part.write_text(part.read_text()[:20])
    with pytest.raises(UserError, match="part.1of1.json: no result of a job .*; remove it and decode again: rm"):
        merge(tmp_path, 1, {})


def test_what_a_speech_llm_counts(tmp_path: Path) -> None:
    for job, unparsable in ((1, ["c9", "c1"]), (2, []), (3, ["c4"])):
        write_part(tmp_path, job, 3, [turn(f"c{job}", "0", "x")], {f"c{job}": 1},
                   record(malformed=job, repeated=1, capped=0, unparsable=unparsable, registration="over"),
                   overregistered={f"c{job}": 10 + job})
    merge(tmp_path, 3, {})
    decode = read_json(tmp_path / "decode.json")
    assert (decode["malformed"], decode["repeated"], decode["capped"]) == (6, 3, 0)
    assert decode["unparsable"] == ["c1", "c4", "c9"] and decode["registration"] == "over"
    assert read_map(tmp_path / "utt2num_overregistered") == {"c1": "11", "c2": "12", "c3": "13"}
    # Decoded again with nobody registered.
    write_part(tmp_path, 1, 1, [turn("c1", "0", "x")], {"c1": 1},
               record(malformed=0, repeated=0, capped=0, unparsable=[]))
    merge(tmp_path, 1, {})
    assert not (tmp_path / "utt2num_overregistered").exists()
