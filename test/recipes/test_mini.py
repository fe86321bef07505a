"""The mini recipe end to end in its debug size: English, Mandarin, killed in the middle, on Slurm."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable

import pytest

SETS = ("test_1mix", "test_2mix", "test_3mix")


def scores(recipe: Path, top: str) -> dict[str, dict]:
    """The score of every test set of the only decoding."""
    found = {p.parent.name: json.loads(p.read_text()) for p in (recipe / top).glob("exp/sctc/*/decode_sctc/*/score.json")}
    assert sorted(found) == sorted(SETS)
    return found


def test_english_from_nothing_to_the_page(checkout: Callable) -> None:
    recipe = checkout("mini")
    printed = recipe.run("--debug", "true")
    assert "cpWER" in printed and "results.html" in printed
    for score in scores(recipe.path, "debug").values():
        assert score["metrics"]["cp"]["length"] > 0 and score["environment"]["commit"]
    top = recipe.path / "debug"
    page = (top / "exp/results.html").read_text()
    assert "<svg" in page and "https://" not in page.replace("https://www.w3.org", "")
    assert "results:begin" in (top / "README.md").read_text() and json.loads((top / "results.json").read_text())
    assert not (recipe.path / "exp").exists() and not (recipe.path / "data").exists()
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


def test_killed_anywhere_a_second_run_completes(checkout: Callable) -> None:
    recipe = checkout("mini")
    for seconds in (4, 9, 16):
        process = subprocess.Popen([recipe.path / "run.sh", "--debug", "true"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    recipe.run("--debug", "true")
    scores(recipe.path, "debug")
    left = [p for p in (recipe.path / "debug").rglob(".tmp.*") if p.suffix in (".json", ".scp")]
    for path in left:  # a killed writer may leave its temporary file, never under a name that is read
        assert path.name.startswith(".tmp.")


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
