"""The AISHELL-5 recipe on its toy corpus, from the archives' layout to the page; and without the corpus."""

import os
from typing import Callable

import pytest

from espnet_mt_llm.datadir.maps import read_map

pytestmark = pytest.mark.xdist_group("aishell5")
SETS = {"train": "train", "dev": "dev", "eval_track1": "eval1", "eval_track2": "eval2"}


def check_far(recipe: object, truth: dict) -> None:
    """Compare the far sets with what was annotated."""
    for folder, name in SETS.items():
        made = recipe.said(f"{name}_far")
        there = {rec for rec, *_ in made}
        assert made and made == sorted(row for s in truth[folder] if (row := (
            f"{name}_{s['session_id']}", s["speaker"], s["start_time"], s["end_time"]))[0] in there)
        maps = [read_map(recipe.path / f"debug/data/{name}_far/{file}") for file in (
            "wav.scp", "far1.scp", "far2.scp", "far3.scp", "far4.scp")]
        assert maps[0] == maps[1] and all(set(found) == there for found in maps)
        assert all(path.endswith(f"DX0{k}C01.wav") for k, found in enumerate(maps[1:], 1) for path in found.values())


def test_sets_hold_what_was_annotated(finished: Callable, toy_corpus: Callable) -> None:
    recipe, printed = finished("aishell5")
    truth = toy_corpus("aishell5")[1]
    check_far(recipe, truth)
    data = recipe.path / "debug/data"
    assert os.readlink(data / "aishell5_eval") == "eval2_far"
    near = recipe.said("train_near")
    assert sorted((rec[:9], *rest) for rec, *rest in near) == [tuple(row) for row in recipe.said("train_far")]
    assert set(read_map(data / "train_far/echo1.scp")) == set(read_map(data / "train_far/echo2.scp")) == {"train_002"}
    seats = read_map(data / "train_far/reco2seats")
    assert seats["train_001"] == "P0089=3 P0090=2", "as in spk_zone_id.txt"
    noises = read_map(data / "noise/noise.scp")
    assert len(noises) == 8 and all(os.path.exists(path) for path in noises.values())


def test_sessions_without_text_are_for_diarisation_alone(finished: Callable) -> None:
    recipe, printed = finished("aishell5")
    texts = read_map(recipe.path / "debug/data/eval1_far/text")
    assert set(texts.values()) == {""} and len(texts) == len(recipe.said("eval1_far")) > 5
    assert any("eval1" in line and "no text" in line for line in printed.splitlines())


def test_archives_under_their_own_names(checkout: Callable, toy_corpus: Callable) -> None:
    root, truth = toy_corpus("aishell5", names="archives")
    recipe = checkout("aishell5")
    recipe.run("--debug", "true", "--stop_stage", "data", AISHELL5=str(root))
    check_far(recipe, truth)
    assert not (recipe.path / "debug/data/dev_near").exists()


def test_without_the_corpus_it_says_where_to_get_it(checkout: Callable) -> None:
    printed = checkout("aishell5").run("--debug", "true", code=1, AISHELL5="downloads/nothing")
    for word in ("train.tar.gz", "Eval2.tar.gz", "noise.tar.gz", "openslr.org/159", "DX01C01.wav", "AISHELL5="):
        assert word in printed
