"""The manifest: every mixture reads back as it was, whatever its text, and mistakes are named."""

import pickle
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.simulation.manifest import Manifest, Mixture, Noise, Source, render_command

SECONDS = st.floats(0, 1e4, allow_nan=False)
GAINS = st.floats(0, 100, allow_nan=False)
SOURCES = st.builds(Source, utt=st.text(), spk=st.text(), text=st.text(), wav=st.text(), start=SECONDS, end=SECONDS,
                    offset=SECONDS, gain=GAINS, rir=st.none() | st.text())
NOISES = st.builds(Noise, wav=st.text(), start=SECONDS, gain=GAINS, snr=st.floats(-50, 50))
MIXTURES = st.builds(Mixture, id=st.from_regex(r"[A-Za-z0-9_.-]+", fullmatch=True), rate=st.integers(1, 96000),
                     num_samples=st.integers(0), sources=st.lists(SOURCES, max_size=4).map(tuple),
                     noise=st.none() | NOISES, seed=st.integers(0, 2**48), scale=GAINS, overlap=GAINS,
                     ties=st.integers(0, 9))


@given(MIXTURES)
def test_json_reads_back(mixture):
    line = mixture.to_json()
    assert "\n" not in line and Mixture.from_json(line) == mixture


def write(path, mixtures):
    path.write_text("".join(m.to_json() + "\n" for m in mixtures), encoding="utf-8")
    return path


def example(name, text="好 words"):
    return Mixture(name, 16000, 100, (Source("u", "s", text, "a.wav", 0.0, 1.0, 0.5, 1.0),))


def test_random_access(tmp_path):
    mixtures = [example(f"m{i}", "long 好 " * (i * 400)) for i in range(5)]  # lines longer than a block that is read
    manifest = Manifest(write(tmp_path / "mixtures.jsonl", mixtures))
    assert list(manifest) == [m.id for m in mixtures] and len(manifest) == 5
    for mixture in reversed(mixtures):
        assert manifest[mixture.id] == mixture
    again = pickle.loads(pickle.dumps(manifest))
    assert again["m3"] == mixtures[3]
    assert "m9" not in manifest
    with pytest.raises(KeyError):
        manifest["m9"]


def test_the_command_of_a_path_with_a_space(tmp_path):
    words = shlex.split(render_command(tmp_path / "my data" / "mixtures.jsonl", "m1").removesuffix("|"))
    assert words[words.index("--manifest") + 1] == str(tmp_path / "my data" / "mixtures.jsonl")


def test_last_line_without_a_break(tmp_path):
    path = tmp_path / "mixtures.jsonl"
    path.write_text(example("a").to_json() + "\n" + example("b").to_json(), encoding="utf-8")
    assert Manifest(path)["b"] == example("b")


@pytest.mark.parametrize("line, words", [
    (b'{"rate": 1}\n', r":1: the line does not begin with an 'id'"),
    (b'{"id": "a", "rate": 1, "sources": []}\n{"id": "a"}\n', r":2: the id 'a' occurs twice"),
    (b'{"id": "a", "rate": 1, "num_samples": 1\n', "not a JSON line"),
    (b'{"id": "a", "rate": 1, "num_samples": 1, "sources": 3}\n', "not a mixture"),
    (b'{"id": "a", "rate": 1, "num_samples": 1, "sources": [], "seeds": 3}\n', "did you mean 'seed'?"),
    (b'{"id": "a", "num_samples": 1, "sources": []}\n', "'rate' is missing"),
])
def test_mistakes_are_named(tmp_path, line, words):
    path = tmp_path / "mixtures.jsonl"
    path.write_bytes(line)
    with pytest.raises(UserError) as caught:
        Manifest(path)["a"]
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)


def test_no_manifest(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        len(Manifest(tmp_path / "mixtures.jsonl"))
