"""LibriMix: real CSV rows, checked sample by sample against the published rules in plain numpy, scipy and soundfile."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toy_librimix import RATE, ROWS, Toy, read_csv, write_csv

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import librimix, librimix_files
from espnet_mt_llm.corpora.librimix import Selection, prepare
from espnet_mt_llm.corpora.librimix_files import read_rows
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.datadir.validate import validate
from espnet_mt_llm.simulation.mixtures import MixtureReader, SourceCache, render
from espnet_mt_llm.simulation.write import write_mixtures


@pytest.fixture(scope="module")
def toy(real_data, tmp_path_factory) -> Toy:
    return Toy(tmp_path_factory.mktemp("librimix") / "toy", real_data)


def repeated(noise: np.ndarray, length: int) -> np.ndarray:
    """Join copies of a noise with a Hann window of a second, half of it falling, half of it rising."""
    hann = np.hanning(16001)
    rising, falling = hann[:8001], hann[8000::-1]
    result = noise
    while len(result) < length:
        middle = result[len(result) - 8001:] * falling + noise[:8001] * rising
        result = np.concatenate((result[:len(result) - 8001], middle, noise[8001:]))
    return result[:length]


def official(toy: Toy, row: dict, rate: int, mode: str, delays: list[float], folder: Path) -> dict[str, np.ndarray]:
    """Make all files of one row by the published rules: name -> what soundfile reads from what it wrote, int16 (N,)."""
    from scipy.signal import resample_poly

    signals, gains = [], []
    for k, (path, delay) in enumerate(zip(toy.sources(row), [0.0, *delays]), 1):
        samples, _ = soundfile.read(toy.librispeech / path, dtype="float32")
        signals.append(np.pad(samples, (int(delay * 16000), 0)))
        gains.append(float(row[f"source_{k}_gain"]))
    longest = max(len(s) for s in signals)
    noise, _ = soundfile.read(toy.wham / row["noise_path"], dtype="float32", stop=longest)
    noise = noise[:, 0] if noise.ndim > 1 else noise
    signals.append(repeated(noise, longest) if len(noise) < longest else noise)
    gains.append(float(row["noise_gain"]))
    signals = [resample_poly(s * gain, rate, 16000) for s, gain in zip(signals, gains)]
    if mode == "min":
        signals = [s[:min(map(len, signals))] for s in signals]
    else:
        signals = [np.pad(s, (0, max(map(len, signals)) - len(s))) for s in signals]
    files = {f"s{k}": s for k, s in enumerate(signals[:-1], 1)}
    files["noise"] = signals[-1]
    for name, chosen in (("clean", signals[:-1]), ("both", signals), ("single", [signals[0], signals[-1]])):
        total = np.zeros_like(signals[0])
        for signal in chosen:
            total += signal
        files[name] = total
    read = {}
    for name, signal in files.items():
        soundfile.write(folder / f"{name}.wav", signal, rate)
        read[name] = soundfile.read(folder / f"{name}.wav", dtype="int16")[0]
    return read


def words_of(home: Path) -> dict[str, str]:
    """Read utterance -> text of all transcripts."""
    return dict(line.split(" ", 1) for path in home.rglob("*.trans.txt") for line in path.read_text().splitlines())


def as_int16(samples: np.ndarray) -> np.ndarray:
    numbers = samples * 32768
    assert np.array_equal(numbers, np.rint(numbers))
    return numbers.astype(np.int16)


@pytest.mark.parametrize("rate, mode", itertools.product((16000, 8000), ("max", "min")))
def test_every_sample_is_the_official_one(toy, tmp_path, rate, mode):
    kinds = ["clean", "both", "single"]
    toy.prepare(tmp_path / "data", select={"types": kinds, "rate": rate, "mode": mode})
    suffix = ("_8k" if rate == 8000 else "") + ("_min" if mode == "min" else "")
    clipped = compared = 0
    for (talkers, condition), rows in toy.rows.items():
        end = ("_offset" if condition == "offset" else "") + suffix
        sets = {kind: tmp_path / f"data/dev_{talkers}mix_{kind}{end}" for kind in kinds}
        readers = {kind: MixtureReader(path / "mixtures.jsonl") for kind, path in sets.items()}
        for row in rows:
            mixtures = {kind: readers[kind].manifest[row["mixture_ID"]] for kind in kinds}
            delays = [s.offset for s in mixtures["both"].sources[1:]]
            files = official(toy, row, rate, mode, delays, tmp_path)
            parts = render(mixtures["both"], SourceCache())
            for name, part in zip(["noise", *(f"s{k}" for k in range(1, talkers + 1))], (parts.noise, *parts.sources)):
                assert np.array_equal(as_int16(part), files[name]), name
            for kind in kinds:
                found_rate, samples = readers[kind][row["mixture_ID"]]
                assert found_rate == rate and np.array_equal(as_int16(samples), files[kind]), kind
                clipped += int(np.sum(np.abs(files[kind].astype(int)) > 32766))
                compared += 1
    assert compared == 4 * ROWS * 3 and clipped > 0


def test_written_files_are_the_official_ones(toy, tmp_path):
    toy.prepare(tmp_path / "data", write=True, write_sources=True, select={"conditions": ["plain"]})
    for talkers in (2, 3):
        data = DataDir.read(tmp_path / f"data/dev_{talkers}mix_both")
        assert write_mixtures(data.path, 1, 2) + write_mixtures(data.path, 2, 2) == ROWS
        for row in toy.rows[talkers, "plain"]:
            files = official(toy, row, RATE, "max", [0.0, 0.0], tmp_path)
            names = {"wav.scp": "both", "noise1.scp": "noise"}
            names.update({f"spk{k}.scp": f"s{k}" for k in range(1, talkers + 1)})
            for scp, name in names.items():
                entry = read_map(data.path / scp)[row["mixture_ID"]]
                assert np.array_equal(as_int16(read_audio(entry)[0]), files[name])


def test_a_set_that_is_written_without_sources_lists_mixtures_alone(toy, tmp_path):
    toy.prepare(tmp_path / "data", write=True, select={"conditions": ["plain"], "num_talkers": [2]})
    data = tmp_path / "data/dev_2mix_both"
    assert sorted(f.name for f in data.glob("*.scp")) == ["wav.scp"]
    assert write_mixtures(data) == ROWS and len(list(data.rglob("*.wav"))) == ROWS


def test_published_offsets_are_used_and_others_are_drawn(toy, tmp_path):
    toy.prepare(tmp_path / "data", select={"types": ["clean"], "conditions": ["offset"]})
    for row in toy.rows[3, "offset"]:
        mixture = MixtureReader(tmp_path / "data/dev_3mix_clean_offset/mixtures.jsonl").manifest[row["mixture_ID"]]
        assert [s.offset * RATE for s in mixture.sources] == [
            0, int(float(row["offset1"]) * RATE), int(float(row["offset2"]) * RATE)]
    drawn = [m.sources[1].offset for m in MixtureReader(
        tmp_path / "data/dev_2mix_clean_offset/mixtures.jsonl").manifest.values()]
    assert all(1.0 <= offset <= 1.5 for offset in drawn) and len(set(drawn)) == ROWS
    three = librimix.offsets_of(read_rows(toy.metadata / "Libri3Mix/libri3mix_dev-clean.csv", 3).good[0], "offset")
    assert 1.0 <= three[0] <= 1.5 and 2.5 <= three[1] <= 3.0


def test_a_column_offset_of_two_talkers_is_used(toy, tmp_path):
    rows = [{**row, "offset": str(1.1 + k / 7)} for k, row in enumerate(toy.rows[2, "plain"])]
    write_csv(tmp_path / "offsets/libri2mix_dev-clean.csv", rows)
    toy.prepare(tmp_path / "data", offset_metadata=[tmp_path / "offsets"],
                select={"types": ["clean"], "conditions": ["offset"], "num_talkers": [2]})
    manifest = MixtureReader(tmp_path / "data/dev_2mix_clean_offset/mixtures.jsonl").manifest
    assert [manifest[row["mixture_ID"]].sources[1].offset * RATE for row in rows] == [
        int(float(row["offset"]) * RATE) for row in rows]


def test_session_dirs_say_who_speaks_when(toy, tmp_path):
    toy.prepare(tmp_path / "data", select={"types": ["both", "single"]}, nj=2)
    texts = words_of(toy.librispeech)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == sorted(f"dev_{n}mix_{kind}{end}" for n in (2, 3, 23) for kind in ("both", "single")
                           for end in ("", "_offset"))
    for name in names:
        assert not validate(tmp_path / "data" / name), name
    data = DataDir.read(tmp_path / "data/dev_23mix_both_offset")
    assert len(data.wav) == 2 * ROWS and all(entry.endswith("|") for entry in data.wav.values())
    orders = data.extra["utt2sot_order"]
    for row in toy.rows[2, "plain"] + toy.rows[3, "offset"]:
        utterances = sorted((u for u in data.utterances if u.rec == row["mixture_ID"]), key=lambda u: u.start)
        stems = [Path(path).stem for path in toy.sources(row)]
        assert [u.spk for u in utterances] == [stem.split("-")[0] for stem in stems]
        assert [u.text for u in utterances] == [texts[stem] for stem in stems]
        assert orders[row["mixture_ID"]] == " ".join(u.spk for u in utterances)
        manifest = json.loads(data.extra["mixtures.jsonl"][row["mixture_ID"]])
        for u, source in zip(utterances, manifest["sources"]):
            assert source["offset"] + 0.08 < u.start < source["offset"] + 0.5  # the silence of babble()
            assert u.end <= data.reco2dur[u.rec] + 1e-6
        assert data.extra["utt2num_spk"][row["mixture_ID"]] == str(len(stems))
    single = DataDir.read(tmp_path / "data/dev_3mix_single")
    assert len(single.utterances) == ROWS and set(single.extra["utt2num_spk"].values()) == {"1"}


def test_the_same_again_with_more_processes(toy, tmp_path):
    toy.prepare(tmp_path / "data", write=True, select={"conditions": ["plain"], "num_talkers": [2]})
    data = tmp_path / "data/dev_2mix_both"
    write_mixtures(data)
    before = {f: f.read_bytes() for f in sorted((tmp_path / "data").rglob("*")) if f.is_file()}
    toy.prepare(tmp_path / "data", write=True, nj=2, select={"conditions": ["plain"], "num_talkers": [2]})
    assert {f: f.read_bytes() for f in sorted((tmp_path / "data").rglob("*")) if f.is_file()} == before


def test_audio_of_another_manifest_is_not_kept(toy, tmp_path):
    toy = toy.copy(tmp_path / "toy")
    toy.prepare(tmp_path / "data", write=True, select={"conditions": ["plain"], "num_talkers": [2]})
    write_mixtures(tmp_path / "data/dev_2mix_both")
    path = toy.metadata / "Libri2Mix/libri2mix_dev-clean.csv"
    path.write_text(path.read_text().replace("0.2142791008161834", "0.5"))
    toy.prepare(tmp_path / "data", write=True, select={"conditions": ["plain"], "num_talkers": [2]})
    assert not list((tmp_path / "data/dev_2mix_both").rglob("*.wav"))
    toy.prepare(tmp_path / "data", select={"conditions": ["plain"], "num_talkers": [2], "debug": True})
    assert DataDir.read(tmp_path / "data/dev_2mix_both").wav.popitem()[1].endswith("|")


@pytest.mark.parametrize("tool", ["sox", "soxr"])
def test_training_noise_at_another_speed(toy, tmp_path, skip, tool):
    if shutil.which("sox") is None:
        skip("no sox; install: apt-get install sox")
    toy = toy.copy(tmp_path / "toy")
    rows = toy.rows[2, "plain"]
    for folder in (toy.librispeech, toy.wham):
        shutil.copytree(folder / ("dev-clean" if folder == toy.librispeech else "cv"),
                        folder / ("train-clean-100" if folder == toy.librispeech else "tr"))
    speeds = ["", "sp08", "sp12", "sp12"]
    train = [{**{key: value.replace("dev-clean", "train-clean-100") for key, value in row.items()},
              "noise_path": f"tr/{Path(row['noise_path']).stem}{speed}.wav"} for row, speed in zip(rows, speeds)]
    write_csv(toy.metadata / "Libri2Mix/libri2mix_train-clean-100.csv", train)
    # The official script was stopped: of the last row it has made the noise.
    own = toy.wham / train[3]["noise_path"]
    soundfile.write(own, np.full(30000, 0.25), RATE)
    select = {"parts": ["train_100"], "num_talkers": [2], "types": ["both"], "conditions": ["plain"]}
    toy.prepare(tmp_path / "data", select=select, speed_noise=tool, nj=2)
    manifest = MixtureReader(tmp_path / "data/train_100_2mix_both/mixtures.jsonl").manifest
    noises = [manifest[row["mixture_ID"]].noise for row in train]
    assert noises[0].wav == str(toy.wham / train[0]["noise_path"]) and noises[3].wav == str(own)
    assert [noise.speed for noise in noises] == ([None] * 4 if tool == "sox" else [None, 0.8, 1.2, None])
    raw = ["-t", "f64", "-r", "44100", "-c", "1", "-"]
    for row, speed in zip(train[1:3], ("0.8", "1.2")):
        samples = soundfile.read(str(toy.wham / row["noise_path"]).replace("sp08", "").replace("sp12", ""))[0][:, 0]
        made = subprocess.run(["sox", "-N", "-V1", *raw, *raw, "speed", speed], input=np.ascontiguousarray(
            samples).tobytes(), capture_output=True, check=True).stdout
        soundfile.write(toy.wham / row["noise_path"], np.frombuffer(made), RATE)
    if tool == "sox":
        reader = MixtureReader(tmp_path / "data/train_100_2mix_both/mixtures.jsonl")
        for row in train:
            files = official(toy, row, RATE, "max", [0.0], tmp_path)
            assert np.array_equal(as_int16(reader[row["mixture_ID"]][1]), files["both"])


def test_without_sox_the_way_out_is_named(toy, tmp_path, monkeypatch):
    toy = toy.copy(tmp_path / "toy")
    path = toy.metadata / "Libri2Mix/libri2mix_dev-clean.csv"
    path.write_text(path.read_text().replace(".wav", "sp08.wav"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="sox is missing.*--speed_noise soxr"):
        toy.prepare(tmp_path / "data", select={"num_talkers": [2]})
    toy.prepare(tmp_path / "data", select={"num_talkers": [2], "conditions": ["plain"]}, speed_noise="soxr")
    with pytest.raises(UserError, match="'sax'; did you mean 'sox'"):
        toy.prepare(tmp_path / "data", speed_noise="sax")


@pytest.mark.parametrize("part, talkers", itertools.product(("dev", "test"), (2, 3)))
def test_all_3000_rows_have_their_transcripts(real_data, part, talkers):
    texts = words_of(real_data / "librispeech" / "LibriSpeech" / librimix_files.PARTS[part])
    home = librimix_files.metadata_home(real_data / "librimix")
    plain = read_rows(librimix_files.csv_path(home, talkers, part), talkers)
    assert len(plain.good) == 3000 and not plain.bad
    for row in plain.good:
        stems = [Path(path).stem for path, _ in row.sources]
        assert row.id == "_".join(stems) and all(texts[stem] for stem in stems)
        assert len({stem.split("-")[0] for stem in stems}) == talkers and row.offsets is None
    path = librimix_files.offset_csv(home, [], talkers, part)
    assert (path.parent.name == "Libri3Mix_offset") == (talkers == 3)
    late = read_rows(path, talkers).good
    assert [row.id for row in late] == [row.id for row in plain.good]
    if talkers == 3:
        columns = [(float(row["offset1"]), float(row["offset2"])) for row in read_csv(path)]
        assert [row.offsets for row in late] == columns
        assert all(1 <= a <= 1.5 and 2.5 <= b <= 3 for a, b in columns)


def test_whole_dev_sets(real_data, tmp_path, monkeypatch):
    """All mixtures of dev, with the real texts; the audio is not there, so its measure is made up."""
    monkeypatch.setattr(librimix_files.sources, "activity", lambda wav: (int(wav[-6:-5]) / 10, 12.0, 12.5))
    prepare(real_data / "librispeech", real_data / "librimix", tmp_path,
            select=Selection(["dev"], types=["clean"], conditions=["plain"]))
    data = DataDir.read(tmp_path / "dev_23mix_clean")
    assert len(data.wav) == 6000 and len(data.utterances) == 15000 and len({u.spk for u in data.utterances}) == 40
    orders = data.extra["utt2sot_order"]
    mixtures = MixtureReader(tmp_path / "dev_23mix_clean/mixtures.jsonl").manifest
    onsets: dict = {}
    for u in data.utterances:
        onsets.setdefault(u.rec, {})[u.spk] = u.start
    for rec, order in orders.items():
        speakers = order.split()
        assert sorted(set(speakers) - {"~"}) == sorted(onsets[rec]) and speakers.count("~") == mixtures[rec].ties
        for before, after in zip(speakers, speakers[1:]):
            if before != "~" and after != "~":
                assert onsets[rec][before] < onsets[rec][after]
        if "~" in speakers:
            k = speakers.index("~")
            assert onsets[rec][speakers[k - 1]] == onsets[rec][speakers[k + 1]] and speakers[k - 1] < speakers[k + 1]
