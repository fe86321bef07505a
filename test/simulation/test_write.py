"""Written mixtures: equal to the streamed ones, complete after a kill, readable by any tool through their pipes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import fsdd
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import write_map
from espnet_mt_llm.datadir.validate import validate
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.draw import draw_sets
from espnet_mt_llm.simulation.manifest import Manifest
from espnet_mt_llm.simulation.mixtures import MixtureReader
from espnet_mt_llm.simulation.write import write_mixtures


@pytest.fixture
def data(sources, tmp_path, noise_scp, rir_scp):
    values = {"source": str(sources.path), "num_mixtures": {2: 3, 3: 3}, "noise_scp": noise_scp, "rir_scp": rir_scp}
    configs = {name: SimulationConfig.parse({**values, "write": name == "written"}, "test")
               for name in ("written", "piped")}
    draw_sets(configs, tmp_path)
    return tmp_path


def test_files_are_the_sum_of_their_sources_and_what_is_streamed(data):
    assert [write_mixtures(data / "written", job, 2) for job in (1, 2)] == [3, 3]
    read = DataDir.read(data / "written")
    reader = MixtureReader(data / "written" / "mixtures.jsonl")
    for mixture_id, (rate, streamed) in reader.items():
        mixture, found = read_audio(read.wav[mixture_id])
        parts = [read_audio(view[mixture_id])[0] for name, view in read.extra.items()
                 if name.endswith(".scp") and mixture_id in view]
        assert found == rate and np.array_equal(mixture, streamed)
        assert len(parts) == int(read.extra["utt2num_spk"][mixture_id]) + 1
        assert np.array_equal(np.sum(parts, axis=0), mixture)  # 16-bit numbers add up exactly in float32


def test_a_second_run_makes_what_is_missing_with_the_same_bytes(data):
    write_mixtures(data / "written")
    files = sorted((data / "written" / "audio").rglob("*.flac"))
    before = [f.read_bytes() for f in files]
    assert write_mixtures(data / "written") == 0
    for path in (files[0], files[4], files[-1]):
        path.unlink()
    (files[0].parent / ".tmp.half.flac").write_bytes(b"half")
    assert write_mixtures(data / "written") == 3
    assert [f.read_bytes() for f in files] == before


def test_nothing_is_written_of_a_streamed_set(data):
    assert write_mixtures(data / "piped") == 0 and not (data / "piped" / "audio").exists()


def test_the_pipe_gives_what_is_streamed(data, repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    mixture_id, entry = next(iter(DataDir.read(data / "piped").wav.items()))
    assert entry.endswith("|")
    samples, rate = read_audio(entry)
    expected = MixtureReader(data / "piped" / "mixtures.jsonl")[mixture_id]
    assert rate == expected[0] and np.array_equal(samples, expected[1])


def test_jobs(data):
    with pytest.raises(UserError, match="job 3 of 2"):
        write_mixtures(data / "written", 3, 2)


def test_a_damaged_source_stops_no_other_mixture(sources, tmp_path, repository):
    shutil.copytree(sources.path, tmp_path / "train")
    wav = {rec: path.replace(str(sources.path), str(tmp_path / "train")) for rec, path in sources.wav.items()}
    write_map(tmp_path / "train" / "wav.scp", wav)
    config = SimulationConfig.parse({"source": "train", "num_mixtures": {2: 8}, "write": True}, "test")
    draw_sets({"set": config}, tmp_path)
    damaged = wav["rec00"]
    content = Path(damaged).read_bytes()
    Path(damaged).write_bytes(content[:9000] + bytes(9000) + content[18000:])
    hit = {m.id for m in Manifest(tmp_path / "set" / "mixtures.jsonl").values() if damaged in {s.wav for s in m.sources}}
    assert 0 < len(hit) < 8
    words = f"set: {len(hit)} of 8 mixtures cannot be made, the first is {min(hit)}: .*rec00"
    with pytest.raises(UserError, match=words):
        write_mixtures(tmp_path / "set")
    wav = DataDir.read(tmp_path / "set").wav
    assert {key for key, path in wav.items() if not Path(path).exists()} == hit

    # Without them: the set is smaller, whole, and says so.
    command = ("write_mixtures", "--data_dir", tmp_path / "set")
    assert run(repository, *command, "--allow_problems", "true").returncode == 0
    ran = run(repository, *command, "--leave_out_missing", "true")
    assert (ran.returncode, ran.stdout) == (0, f"{tmp_path}/set: {len(hit)} mixtures left out\n")
    assert not validate(tmp_path / "set") and not DataDir.read(tmp_path / "set").wav.keys() & hit
    assert list(Manifest(tmp_path / "set" / "mixtures.jsonl")) == sorted(wav.keys() - hit)
    rows = [line.split("\t")[:2] for line in (tmp_path / "problems.tsv").read_text().splitlines()[1:]]
    assert rows == [["set/audio", key] for key in sorted(hit)]
    assert run(repository, *command, "--leave_out_missing", "true").stdout.endswith("0 mixtures left out\n")
    assert not (tmp_path / "problems.tsv").exists()


def test_full_disk_leaves_no_half_file(data, full_disk):
    full_disk(30000, "write_mixtures", "--data_dir", data / "written")
    files = sorted((data / "written" / "audio").rglob("*.*"))
    assert all(len(f.read_bytes()) < 30000 and not f.name.startswith(".tmp.") for f in files)
    before = {f: f.read_bytes() for f in files}
    assert write_mixtures(data / "written") > 0
    assert all(f.read_bytes() == content for f, content in before.items())
    assert all(len(read_audio(entry)[0]) for entry in DataDir.read(data / "written").wav.values())


def run(repository, module, *args):
    return subprocess.run([sys.executable, "-m", f"espnet_mt_llm.bin.{module}", *map(str, args)], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(repository)})


@pytest.mark.parametrize("module, args, words", [
    ("render_mixture", "--manifest {}/piped/mixtures.jsonl --id piped-2spk-0000", "no mixture 'piped-2spk-0000'; did"),
    ("render_mixture", "--manifest {}/piped/mixtures.jsonl --id piped-2spk-000000 --part spk7", "no such part"),
    ("render_mixture", "--manifest {}/none.jsonl --id a", "no such manifest"),
    ("write_mixtures", "--data_dir {}/absent", "no such manifest; draw the mixtures first"),
    ("draw_mixtures", "--config {}/absent.yaml", "absent.yaml: no such file"),
])
def test_commands_name_a_mistake_and_exit_with_1(data, repository, module, args, words):
    ran = run(repository, module, *args.format(data).split())
    assert ran.returncode == 1 and words in ran.stderr and "Traceback" not in ran.stderr and not ran.stdout


def test_commands_from_configuration_to_files(sources, tmp_path, repository):
    config = tmp_path / "simulate.yaml"
    config.write_text(f"mix: {{source: {sources.path}, num_mixtures: {{2: 9}}}}\n"
                      "debug: {mix: {num_mixtures: {2: 2}}}\n")
    ran = run(repository, "draw_mixtures", "--config", config, "--data_dir", tmp_path / "data", "--debug", "true")
    assert ran.returncode == 0 and "mix: 2 mixtures" in ran.stdout
    ran = run(repository, "write_mixtures", "--data_dir", tmp_path / "data" / "mix")
    assert ran.returncode == 0 and "2 mixtures written" in ran.stdout
    assert len(list((tmp_path / "data" / "mix" / "audio").rglob("*.flac"))) == 6


def test_real_speech_with_real_noise_and_rooms(real_data, tmp_path):
    rooms = {f"rir{k}": str(real_data / "noise_rir" / f"rir{k}.wav") for k in range(1, 5)}
    noises = {f"noise{k}": str(real_data / "noise_rir" / f"noise{k}.wav") for k in range(1, 6)}
    write_map(tmp_path / "rir.scp", rooms)
    write_map(tmp_path / "noise.scp", noises)
    fsdd.prepare(real_data / "fsdd", tmp_path / "data", {"test": 12})
    config = SimulationConfig.parse({"source": "test", "num_mixtures": {1: 2, 2: 4, 3: 4}, "level": -20,
                                     "noise_scp": tmp_path / "noise.scp", "rir_scp": tmp_path / "rir.scp"}, "test")
    draw_sets({"noisy": config}, tmp_path / "data")
    write_mixtures(tmp_path / "data" / "noisy")
    data = DataDir.read(tmp_path / "data" / "noisy")
    for mixture_id, entry in data.wav.items():
        mixture, _ = read_audio(entry)
        parts = [read_audio(view[mixture_id])[0] for name, view in data.extra.items()
                 if name.endswith(".scp") and mixture_id in view]
        assert np.abs(np.sum(parts, axis=0) - mixture).max() <= 1 / 32768 and 0.05 < np.abs(mixture).max() < 0.995
