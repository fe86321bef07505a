"""The mini recipe end to end in its debug size: English, Mandarin, killed in every stage, on Slurm."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable

import pytest

from espnet_mt_llm.cluster.stamp import started_of

SETS = ("test_1mix", "test_2mix", "test_3mix")
# Stamp of the work that is killed (under debug/, as mtasr.sh names it) → the file that it has to have made before, or
# the seconds that it is given.
KILLED = {
    "data/.done/data": 0.7,
    "data/.done/simulate.simulate": 0.7,
    "dump/.done/clips.dev_mix": 0.3,
    "exp/.done/train.sctc.01_sctc_single": 2.0,
    "exp/.done/train.sctc.02_sctc_multi": "exp/sctc/02_sctc_multi/checkpoint.pth",
    "exp/.done/decode.sctc.02_sctc_multi.decode_sctc.test_2mix": 1.0,
    "exp/.done/score.sctc.02_sctc_multi.decode_sctc.test_3mix": 0.2,
    "exp/.done/results": 0.1,
}


def scores(recipe: Path, top: str) -> dict[str, dict]:
    """The score of every test set of the only decoding."""
    paths = (recipe / top).glob("exp/sctc/*/decode_sctc/*/score.json")
    found = {path.parent.name: json.loads(path.read_text()) for path in paths}
    assert sorted(found) == sorted(SETS)
    return found


def hypotheses(recipe: Path) -> dict[str, list]:
    """What was decoded of every test set."""
    paths = recipe.glob("debug/exp/sctc/*/decode_sctc/*/hyp.seglst.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def losses(recipe: Path) -> list[float]:
    """The validation loss after every epoch of every step; a debug model's transcripts alone say little."""
    paths = sorted(recipe.glob("debug/exp/sctc/*/history.json"))
    return [epoch["valid"]["loss"] for path in paths for epoch in json.loads(path.read_text())]


@pytest.fixture(scope="module")
def english(finished: Callable) -> tuple:
    """The recipe after an uninterrupted run, and what it printed."""
    return finished("mini")


@pytest.mark.xdist_group("mini")
def test_english_from_nothing_to_the_page(english: tuple) -> None:
    recipe, printed = english
    assert "cpWER" in printed and "results.html" in printed
    for score in scores(recipe.path, "debug").values():
        assert score["metrics"]["cp"]["length"] > 0 and score["environment"]["commit"]
    top = recipe.path / "debug"
    page = (top / "exp/results.html").read_text()
    assert "<svg" in page and "https://" not in page.replace("https://www.w3.org", "")
    assert "results:begin" in (top / "README.md").read_text() and json.loads((top / "results.json").read_text())
    # Everything is under debug/, the recordings as well.
    assert not [name for name in ("exp", "data", "dump", "downloads") if (recipe.path / name).exists()]
    # The model decodes without the experiment it came from; a second run has nothing to do.
    assert list((top / "exp/sctc").glob("*.zip"))
    again = recipe.run("--debug", "true")
    assert again.count("nothing changed, skipped") >= 8


def test_mandarin_is_scored_by_characters(checkout: Callable) -> None:
    recipe = checkout("mini")
    printed = recipe.run("--debug", "true", "--lang", "zh", "--stop_stage", "results")
    assert "cpCER" in printed and "cpWER" not in printed
    tokens = (recipe.path / "debug/zh/data/token_list/char/tokens.txt").read_text().split()
    assert len(tokens) > 20 and all(len(t) == 1 for t in tokens[2:-1])
    assert scores(recipe.path, "debug/zh")["test_2mix"]["metrics"]["cp"]["length"] > 0


def kill_in(recipe: Path, stamp: Path, until: object) -> str:
    """Run the recipe and kill all its processes while the work of ``stamp`` runs; return what was printed.

    Args:
        until: seconds to wait after it has begun, or the path of a file that appears in its course.
    """
    log = recipe / "killed.log"
    with open(log, "w") as out:
        process = subprocess.Popen([recipe / "run.sh", "--debug", "true"], stdout=out, stderr=out,
                                   start_new_session=True)
        try:
            while process.poll() is None and not started_of(stamp).exists():
                time.sleep(0.005)
            begun = time.monotonic()
            while process.poll() is None and started_of(stamp).exists() and not (
                    until.exists() if isinstance(until, Path) else time.monotonic() > begun + until):
                time.sleep(0.005)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return log.read_text()


@pytest.mark.xdist_group("mini")
def test_killed_in_every_stage_it_completes_with_the_same_result(checkout: Callable, english: tuple,
                                                                 record_property: Callable) -> None:
    recipe = checkout("mini")
    top = recipe.path / "debug"
    hit = set()
    for name, until in KILLED.items():
        printed = kill_in(recipe.path, top / name, top / until if isinstance(until, str) else until)
        assert "Traceback" not in printed and "stopped in stage" not in printed, printed
        # Nobody finishes the work after the kill: what was hit has the stamp of work that has begun, and no other.
        if started_of(top / name).exists() and not (top / name).exists():
            hit.add(Path(name).name.split(".")[0])
    record_property("killed in", " ".join(sorted(hit)))
    # The last two stages take less than a second: not every machine is caught in them.
    assert {"data", "simulate", "clips", "train", "decode"} <= hit, hit
    recipe.run("--debug", "true")
    scores(recipe.path, "debug")
    assert not list(top.glob("*/.done/*.started"))
    assert hypotheses(recipe.path) == hypotheses(english[0].path) and set(hypotheses(recipe.path)) == set(SETS)
    assert len(losses(recipe.path)) == 4
    assert losses(recipe.path) == pytest.approx(losses(english[0].path), rel=1e-4)


def test_whole_recipe_on_slurm(checkout: Callable, slurm: dict) -> None:
    recipe = checkout("mini")
    recipe.run("--debug", "true", "--cmd_backend", "slurm", **slurm)
    scores(recipe.path, "debug")
    log = next((recipe.path / "debug/exp").rglob("train.log")).read_text()
    assert "# Started at" in log and "# Ended (code 0)" in log


@pytest.mark.parametrize("options, message", [
    (["--stop_stage", "9", "--stage", "decode"], "run stage 6 (train) first"),
    (["--stage", "clips"], "run stage 2 (simulate) first"),
    (["--no_such_option", "1"], "no_such_option"),
    (["--lang", "fr"], "fr"),
])
def test_mistakes_are_told(checkout: Callable, options: list[str], message: str) -> None:
    assert message in checkout("mini").run("--debug", "true", *options, code=1)
