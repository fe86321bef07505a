"""conf/simulate.yaml: what is accepted, what is refused and with which words."""

import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.simulation.config import SimulationConfig, load_config

GOOD = """
defaults: {seed: 3, overlap: [0.2, 0.6]}
train_mix: {source: train, num_mixtures: {1: 5, 2: 7}, write: false}
test_mix: {source: test, num_mixtures: {2: 4}, seed: 9}
debug:
  train_mix: {num_mixtures: {2: 1}}
"""


def test_defaults_and_debug(tmp_path):
    path = tmp_path / "simulate.yaml"
    path.write_text(GOOD)
    full, debug = load_config(path), load_config(path, debug=True)
    assert list(full) == ["train_mix", "test_mix"]
    assert full["train_mix"].num_mixtures == {1: 5, 2: 7} and full["train_mix"].overlap == (0.2, 0.6)
    assert full["train_mix"].seed == 3 and full["test_mix"].seed == 9
    assert debug["train_mix"].num_mixtures == {2: 1} and not debug["train_mix"].write
    assert debug["test_mix"] == full["test_mix"]


@pytest.mark.parametrize("values, words", [
    ({"num_mixtures": {1: 2}}, "'source' is missing"),
    ({"source": "train", "num_mixtures": {1: 2}, "overlp": [0, 1]}, "did you mean 'overlap'?"),
    ({"source": "train", "num_mixtures": 5}, "num_mixtures: 5"),
    ({"source": "train", "num_mixtures": {0: 5}}, "num_mixtures"),
    ({"source": "train", "num_mixtures": {2: 5}, "overlap": [0.5, 0.1]}, "the lower end comes first"),
    ({"source": "train", "num_mixtures": {2: 5}, "overlap": 0.5}, "a range is expected"),
    ({"source": "train", "num_mixtures": {2: 5}, "overlap": [0.5, 1.5]}, "at most 1"),
    ({"source": "train", "num_mixtures": {3: 5}, "offsets": [[1.0, 1.5]]}, "give 2 ranges"),
    ({"source": "train", "num_mixtures": {2: 5}, "offsets": [[1.0, 1.5]], "overlap": [0, 1]}, "keep one of them"),
    ({"source": "train", "num_mixtures": {2: 5}, "min_onset_gap": -1}, "not negative"),
    ({"source": "train", "num_mixtures": {2: True}}, "num_mixtures: {2: True}"),
    ({"source": "train", "num_mixtures": {2: 5}, "offsets": 1.0}, "one for each talker after the first"),
    ({"source": "train", "num_mixtures": {3: 5}, "offsets": [1.0, 1.5]}, "e.g. [[1.0, 1.5]]"),
    ({"source": "train", "num_mixtures": {2: 5}, "noise_scp": 5}, "the name of a list of recordings"),
    ({"source": "train", "num_mixtures": {2: 5}, "rir_scp": ["a"]}, "the name of a list of recordings"),
    ({"source": "train", "num_mixtures": {2: 5}, "noise_probability": 2}, "it is a share: at most 1"),
    ({"source": "train", "num_mixtures": {2: 5}, "snr": [float("nan"), 10]}, "a range is expected"),
    ({"source": "train", "num_mixtures": {2: 5}, "level": float("nan")}, "level: nan; a number is expected"),
    ({"source": "train", "num_mixtures": {2: 5}, "rate": "16k"}, "a whole number"),
    ({"source": "train", "num_mixtures": {2: 5}, "write": "yes please"}, "true or false"),
    ({"source": [], "num_mixtures": {2: 5}}, "write e.g. source: train, or source: [train_near, aishell2_train]"),
    ({"source": {"a": 1}, "num_mixtures": {2: 5}}, "source: {'a': 1}"),
    ({"source": ["a", "b", "a"], "num_mixtures": {2: 5}}, "has a name twice"),
    ({"source": ["x/train", "y/train"], "num_mixtures": {2: 5}}, "told apart by the directories' names"),
    ({"source": "a", "num_mixtures": {2: 5}, "duration": 30}, "'duration' belongs to conversations"),
    ({"source": "a", "num_mixtures": {2: 5}, "statistics": "dev"}, "add 'conversation: concatenated' or"),
])
def test_mistakes_are_named(values, words):
    with pytest.raises(UserError, match="^conf.yaml: ") as caught:
        SimulationConfig.parse(values, "conf.yaml")
    assert words in str(caught.value)


CONVERSATION = {"source": "train", "num_mixtures": {2: 5}, "conversation": "concatenated"}


def test_defaults_of_conversations():
    simple = SimulationConfig.parse(CONVERSATION, "conf.yaml")
    assert (simple.duration, simple.gap, simple.snr) == ((50, 50), (0.1, 0.5), (10, 20))
    assert simple.max_gap is None and simple.overlap is None
    values = {"conversation": "statistics", "statistics": "dev_far", "snr": [0, 5], "source": ["a", "b"]}
    fitted = SimulationConfig.parse({**CONVERSATION, **values}, "conf.yaml")
    assert (fitted.duration, fitted.gap, fitted.snr, fitted.max_gap) == ((50, 50), None, (0, 5), 7)
    assert SimulationConfig.parse({**CONVERSATION, "duration": [3, 12.5]}, "conf.yaml").duration == (3, 12.5)
    assert fitted.sources == ("a", "b") and simple.sources == ("train",)
    assert SimulationConfig.parse({"source": "a", "num_mixtures": {1: 1}}, "conf.yaml").snr == (5, 20)


@pytest.mark.parametrize("values, words", [
    ({"conversation": "concatenate"}, "did you mean 'concatenated'?"),
    ({"conversation": True}, "conversation: True; "),
    ({"conversation": "statistics"}, "add 'statistics: …'"),
    ({"conversation": "statistics", "statistics": 3}, "add 'statistics: …'"),
    ({"conversation": "statistics", "statistics": "dev", "gap": [0, 1]}, "'gap' says nothing about a conversation"),
    ({"statistics": "dev"}, "'statistics' says nothing about a conversation that is 'concatenated'"),
    ({"max_gap": 3}, "'max_gap' says nothing"),
    ({"overlap": [0, 0.5]}, "'overlap' belongs to mixtures"),
    ({"offsets": [[1, 2]]}, "write 'offsets: null' here"),
    ({"max_duration": 20}, "'max_duration' belongs to mixtures"),
    ({"duration": 0}, "a conversation has some seconds"),
    ({"duration": -3}, "a conversation has some seconds"),
    ({"duration": [0, 5]}, "a conversation has some seconds"),
    ({"duration": [5, 3]}, "the lower end comes first"),
    ({"duration": "long"}, "duration: 'long'"),
    ({"gap": 0.5}, "a range is expected"),
    ({"gap": [-0.5, 0.5]}, "a pause is not negative; overlap comes with 'conversation: statistics'"),
    ({"conversations": "concatenated"}, "unknown key 'conversations'; did you mean 'conversation'?"),
    ({"durations": 30}, "did you mean 'duration'?"),
])
def test_mistakes_in_conversations(values, words):
    with pytest.raises(UserError, match="^conf.yaml: ") as caught:
        SimulationConfig.parse({**CONVERSATION, **values}, "conf.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize("text, words", [
    ("- a list\n", "expected '<set name>"),
    ("train_mix: 3\n", "set 'train_mix'"),
    ("a: {source: b, num_mixtures: {1: 1}}\ndebug: {c: {}}\n", "did you mean 'a'?|valid: a"),
    ("a: {source: b, num_mixtures: {1: 1}, sed: 1}\n", "set 'a': unknown key 'sed'; did you mean 'seed'?"),
    ("a: {source: b\n", "not valid YAML"),
])
def test_mistakes_in_the_file(tmp_path, text, words):
    path = tmp_path / "simulate.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert any(part in str(caught.value) for part in words.split("|"))


def test_recipes_have_good_configurations(repository):
    for recipe in ("mini", "fsdd"):
        path = repository / "egs2" / recipe / "mtasr1" / "conf" / "simulate.yaml"
        full, debug = load_config(path), load_config(path, debug=True)
        assert set(full) == set(debug) and not full["train_mix"].write
        assert all(sum(c.num_mixtures.values()) <= 40 for c in debug.values())
        # The training material is never that of a test.
        assert all(full[name].source.startswith("test") == name.startswith("test") for name in full)
