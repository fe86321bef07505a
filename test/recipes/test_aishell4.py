"""The AISHELL-4 recipe on its toy corpus, from the archives' layout to the page; and without the corpus."""

from pathlib import Path
from typing import Callable

import pytest
import toy_corpora

from espnet_mt_llm.datadir.maps import read_map

pytestmark = pytest.mark.xdist_group("aishell4")
TRAIN = ("train_L", "train_M", "train_S")


def sessions(said: list[tuple]) -> set[str]:
    """Return the recordings."""
    return {rec for rec, *_ in said}


def test_sets_hold_what_was_annotated(finished: Callable, toy_corpus: Callable) -> None:
    recipe, _ = finished("aishell4")
    truth = sorted((s["session_id"], f"{s['session_id']}_{s['speaker']}", s["start_time"], s["end_time"])
                   for said in toy_corpus("aishell4")[1].values() for s in said)
    made = {name: recipe.said(name) for name in (*TRAIN, "train", "dev", "test")}
    for name, said in made.items():
        assert said and said == [row for row in truth if row[0] in sessions(said)], name
        assert set(read_map(recipe.path / f"debug/data/{name}/channel").values()) == {"1"}
    assert made["train"] == sorted(row for name in TRAIN for row in made[name])
    assert sessions(made["test"]) == {"L_R003S01C02", "M_R003S02C01"}


def test_dev_is_the_list_of_whole_sessions(finished: Callable) -> None:
    recipe, _ = finished("aishell4")
    listed = {line for line in (recipe.path / "local/dev_sessions.txt").read_text().splitlines()
              if line and not line.startswith("#")}
    dev, train = sessions(recipe.said("dev")), sessions(recipe.said("train"))
    assert dev == {session for _, session, *_ in toy_corpora.AISHELL4 if session in listed} and len(dev) == 2
    assert not train & listed


def test_inconsistent_ends_are_logged_and_nothing_is_lost(finished: Callable, toy_corpus: Callable) -> None:
    recipe, printed = finished("aishell4")
    session = toy_corpora.INCONSISTENT
    assert any(session in line and "ends at" in line for line in printed.splitlines())
    said = [s for s in toy_corpus("aishell4")[1]["train_M"] if s["session_id"] == session]
    assert len([row for row in recipe.said("train") if row[0] == session]) == len(said) > 10
    assert not Path(recipe.path / "debug/data/problems.tsv").exists()


def test_without_the_corpus_it_says_where_to_get_it(checkout: Callable) -> None:
    printed = checkout("aishell4").run("--debug", "true", code=1, AISHELL4="downloads/nothing")
    for word in ("train_L.tar.gz", "test.tar.gz", "openslr.org/111", "wav/*.flac", "AISHELL4="):
        assert word in printed
