"""Registration: how many names, which and in what order."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import Chance
from espnet_mt_llm.nets.registration import RegistrationProjector, choose

SPEAKERS = ["anna", "bob", "spk 1"]
OTHERS = [f"other{i}" for i in range(80)]


@given(st.sampled_from(["none", "match", "over", "mixed"]), st.integers(0, 2 ** 40),
       st.lists(st.sampled_from(SPEAKERS), unique=True), st.integers(1, 50))
def test_number_of_names(mode: str, seed: int, speakers: list, most: int) -> None:
    """SpeakerLM Eq. 1."""
    names = choose(mode, speakers, OTHERS + SPEAKERS[:1], Chance(seed), most)
    assert names == choose(mode, speakers, OTHERS + SPEAKERS[:1], Chance(seed), most)
    assert len(set(names)) == len(names)
    if mode == "none":
        assert names == []
    if mode == "match":
        assert sorted(names) == sorted(speakers)
    if mode == "over":
        assert set(speakers) < set(names) and 1 <= len(names) - len(speakers) <= most
    if names:
        assert set(speakers) <= set(names) and not set(names) & set(SPEAKERS) - set(speakers) - {"anna"}


def test_a_third_each_and_every_number_of_distractors() -> None:
    counts = [len(choose("mixed", SPEAKERS, OTHERS, Chance(7, i))) for i in range(6000)]
    modes = Counter("none" if n == 0 else "match" if n == 3 else "over" for n in counts)
    assert all(abs(modes[mode] - 2000) < 3 * (6000 * 2 / 9) ** 0.5 for mode in ("none", "match", "over"))
    drawn = Counter(n - 3 for n in counts if n > 3)
    assert sorted(drawn) == list(range(1, 51))
    expected = modes["over"] / 50
    assert sum((n - expected) ** 2 / expected for n in drawn.values()) < 85  # chi-square, 49 degrees, p = .001


def test_orders_and_distractors_are_random() -> None:
    orders = Counter(tuple(choose("match", SPEAKERS, [], Chance(i))) for i in range(1200))
    assert len(orders) == 6 and min(orders.values()) > 150
    first = Counter(choose("over", SPEAKERS, OTHERS[:4], Chance(i), 1).index("anna") for i in range(1200))
    assert sorted(first) == [0, 1, 2, 3] and min(first.values()) > 240
    assert {n for i in range(200) for n in choose("over", [], OTHERS[:4], Chance(i), 1)} == set(OTHERS[:4])


def test_a_fixed_number_and_a_small_supply() -> None:
    assert len(choose("over", SPEAKERS, OTHERS, Chance(1), 10, 10)) == 13
    assert len(choose("over", SPEAKERS, OTHERS[:3] * 2, Chance(1), 10, 10)) == 6


@pytest.mark.parametrize("arguments, message", [
    (("mach", SPEAKERS, OTHERS), "did you mean 'match'"), (("match", ["a", "a"], OTHERS), "registered twice: a, a"),
    (("mixed", SPEAKERS, SPEAKERS), "no speaker from another session"), (("over", SPEAKERS, []), "mode 'over'"),
])
def test_wrong_values_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(*arguments, Chance(0))
    with pytest.raises(ValueError, match="between 5 and 2"):
        choose("over", SPEAKERS, OTHERS, Chance(0), 2, 5)


def test_projector_is_one_linear_layer() -> None:
    projector = RegistrationProjector(3, 5)
    embeddings = torch.randn(2, 4, 3)
    assert {k: tuple(v.shape) for k, v in projector.state_dict().items()} == {"weight": (5, 3), "bias": (5,)}
    torch.testing.assert_close(projector(embeddings), embeddings @ projector.weight.T + projector.bias)
