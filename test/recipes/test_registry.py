"""Every recipe has a row in test/recipes.tsv, runs as it says, and leaves behind what it says."""

import json
import re
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(p.parent.name for p in ROOT.glob("egs2/*/mtasr1") if p.parent.name != "TEMPLATE")


def test_every_recipe_has_a_row(rows: list) -> None:
    assert sorted({row.recipe for row in rows}) == RECIPES
    for row in rows:
        recipe = ROOT / "egs2" / row.recipe / "mtasr1"
        assert (recipe / "conf" / row.system).is_dir(), f"{row.recipe} has no system {row.system}"
        variables = {item.split("=")[0] for item in row.corpora.split() if item != "-"}
        known = {line.split("=")[0] for line in (recipe / "db.sh").read_text().splitlines()}
        assert variables <= known, f"{row.recipe}: db.sh has no {variables - known}"
        assert 0 <= float(row.low) < float(row.high) and "score.json" in row.files and row.long in ("yes", "-")


def test_recipe(row: Any, rows: list, finished: Callable) -> None:
    checkout, printed = finished(row.recipe, row.system)
    scores = []
    for pattern in row.files.split():
        found = list(checkout.path.glob(pattern))
        assert found, f"{row.command} made no {pattern}"
        scores += [json.loads(path.read_text()) for path in found if path.name == "score.json"]
    for score in scores:
        assert score["system"] == row.system
        rate = score["metrics"][row.metric]["rate"]
        assert float(row.low) <= rate <= float(row.high), f"{score['set']}: {row.metric} {rate}"
    block = (checkout.path / "debug/README.md").read_text().split("results:begin")[1].split("results:end")[0]
    assert all(f"| {score['set']} |" in block for score in scores)
    # The third stage prints what the clips are like, and stores it.
    for path in checkout.path.glob("debug/dump/*/statistics.json"):
        clips = json.loads(path.read_text())
        assert clips["segments"] > 0 and clips["seconds"] >= clips["speech"] >= clips["overlap"] >= 0
        assert re.search(rf"^debug/dump/{path.parent.name} +{clips['segments']} ", printed, re.MULTILINE), path
    # Every set that was made is whole: the recipe validates it itself; what it wrote lies under debug/.
    for path in checkout.path.glob("debug/data/*/wav.scp"):
        assert f"debug/data/{path.parent.name}: valid" in printed
    assert not [name for name in ("exp", "data", "dump") if (checkout.path / name).exists()]
    given = {name for other in rows if other.recipe == row.recipe for name in other.checkpoints.split()}
    assert {path.name for path in checkout.path.glob("downloads/*")} <= given
