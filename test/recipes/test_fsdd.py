"""The fsdd recipe end to end in its debug size, on the real recordings; and without them."""

import json
from typing import Callable

import pytest


@pytest.mark.xdist_group("fsdd")
def test_real_digits_from_recordings_to_the_page(finished: Callable) -> None:
    recipe, printed = finished("fsdd")
    assert "cpWER" in printed
    found = {p.parent.name: json.loads(p.read_text())
             for p in (recipe.path / "debug").glob("exp/sctc/*/decode_sctc_oracle/*/score.json")}
    assert sorted(found) == ["test_2mix", "test_3mix"]
    spoken = {word for line in (recipe.path / "debug/data/test/text").read_text().splitlines()
              for word in line.split()[1:]}
    assert spoken <= set("zero one two three four five six seven eight nine".split())


def test_without_the_recordings_it_says_where_to_get_them(checkout: Callable) -> None:
    printed = checkout("fsdd").run("--debug", "true", code=1, FSDD="downloads/nothing")
    assert "git clone" in printed and "free-spoken-digit-dataset" in printed
