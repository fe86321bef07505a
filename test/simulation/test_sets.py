"""The data directory of a simulated set: written as a stream, the same bytes as a data directory written at once."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.manifest import Manifest, Mixture, Noise, Source
from espnet_mt_llm.simulation.sets import write_set
from espnet_mt_llm.simulation.sorted_lines import SortedLines

CONFIG = SimulationConfig.parse({"source": "train", "num_mixtures": {2: 1}}, "test")


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.integers(0, 2000))
def test_lines_come_out_sorted(tmp_path_factory, lines, most):
    with SortedLines(tmp_path_factory.getbasetemp(), most) as kept:
        for line in lines:
            kept.add(line)
        assert list(kept) == list(kept) == sorted(lines)


def mixture(number, talkers=2, noise=True, **changes):
    sources = tuple(Source(f"u{k}", f"{'ab'[k % 2]}{'-' * (k % 3)}{k % talkers}", "" if k == 2 else f"wörter {k}",
                           "a.flac", 0.0, 1.5, round(1.6 * k, 2), 1.0) for k in range(2 * talkers))
    values = {"num_samples": 64000 * talkers, "sources": sources, "noise": Noise("n.wav", 0, 1, 10) if noise else None}
    return Mixture(f"set-{talkers}spk-{number:06d}", 16000, **{**values, **changes})


def test_the_same_bytes_as_a_data_directory(tmp_path):
    """Ten talkers sort before two, a speaker's name may begin with another's, and noise may be missing."""
    mixtures = [mixture(k, talkers, noise=k % 2 == 0) for talkers in (2, 3, 10) for k in range(4)]
    assert write_set(mixtures, CONFIG, tmp_path / "set") == 12
    read = DataDir.read(tmp_path / "set")
    read.write(tmp_path / "again")
    for file in (tmp_path / "set").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name
    assert len(read.utterances) == 4 * 30 and list(read.extra["noise1.scp"]) == [m.id for m in sorted(
        mixtures, key=lambda m: m.id) if m.noise]
    assert list(Manifest(tmp_path / "set" / "mixtures.jsonl").values()) == sorted(mixtures, key=lambda m: m.id)
    assert {key.split("-")[1] for key in read.extra["spk20.scp"]} == {"10spk"} and "spk21.scp" not in read.extra


def test_no_noise_no_map_of_it(tmp_path):
    write_set([mixture(0, noise=False)], CONFIG, tmp_path)
    assert not (tmp_path / "noise1.scp").exists() and (tmp_path / "spk2.scp").exists()


@pytest.mark.parametrize("mixtures, words", [
    ([mixture(0), mixture(0)], "the id 'set-2spk-000000' occurs twice"),
    ([mixture(0, sources=mixture(0).sources[:1] * 2)], "begin and end together|start and end together"),
    ([mixture(0, sources=(Source("u0", "a", "a\nb", "a.flac", 0, 1, 0, 1),))], "the text of 'u0' has a line break"),
    ([mixture(0, sources=(Source("u0", "a b", "", "a.flac", 0, 1, 0, 1),))], "the speaker id 'a b' may hold"),
])
def test_what_cannot_be_written_is_named(tmp_path, mixtures, words):
    with pytest.raises(UserError) as caught:
        write_set(mixtures, CONFIG, tmp_path)
    assert any(part in str(caught.value) for part in words.split("|"))


BIG = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_sets import CONFIG, mixture
from espnet_mt_llm.simulation.sets import write_set
write_set((mixture(k) for k in range(100)), CONFIG, sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_set((mixture(k, 8) for k in range(int(sys.argv[3]))), CONFIG, sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_set(tmp_path, repository):
    """96,000 utterances, with room for a few hundred lines at a time."""
    code = BIG.replace("from espnet_mt_llm.simulation.sets import write_set\n",
                       "from espnet_mt_llm.simulation import sets\n"
                       "from espnet_mt_llm.simulation.sorted_lines import SortedLines\n"
                       "sets.SortedLines = lambda out: SortedLines(out, 1 << 18)\n"
                       "write_set = sets.write_set\n")
    ran = subprocess.run([sys.executable, "-c", code, str(repository / "test" / "simulation"), str(tmp_path), "6000"],
                         capture_output=True, text=True, env={"PYTHONPATH": str(repository)})
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 20  # MiB; it was 6, and the mixtures alone would be 42 if they were kept
