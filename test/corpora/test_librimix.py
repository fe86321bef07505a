"""LibriMix: real CSV rows, checked sample by sample against the published rules in plain numpy, scipy and soundfile."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import librimix, librimix_files
from espnet_mt_llm.corpora.librimix import Selection, prepare
from espnet_mt_llm.corpora.librimix_files import read_rows
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.kaldi import DataDir, read_map
from espnet_mt_llm.datadir.validate import validate
from espnet_mt_llm.simulation.mixtures import MixtureReader, SourceCache, render
from espnet_mt_llm.simulation.write import write_mixtures

RATE = 16000
ROWS = 4  # of each CSV
# Seconds of the noises: some are repeated once or several times, one joint reaches into the one before.
NOISES = (0.55, 0.8, 1.1, 4.0)


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def babble(seconds: float, rng: np.random.Generator, level: float) -> np.ndarray:
    """Noise with syllables, after some silence."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.convolve(rng.normal(0, 1, len(time)), np.exp(-np.arange(30) / 8), "same")
    begin = rng.uniform(0.1, 0.4)
    return np.clip(noise * (0.1 + np.abs(np.sin(2 * np.pi * 3 * time))) * (time > begin) * level, -1, 1)


class Toy:
    """Toy audio for the first real rows of each CSV of dev: LibriSpeech, WHAM! and metadata in the official layout."""

    def __init__(self, root: Path, real: Path):
        self.root, self.librispeech, self.wham = root, root / "LibriSpeech", root / "wham_noise"
        self.metadata = root / "LibriMix" / "metadata"
        self.rows: dict[tuple[int, str], list[dict]] = {}
        for talkers, condition, folder in ((2, "plain", "metadata/Libri2Mix"), (3, "plain", "metadata/Libri3Mix"),
                                           (3, "offset", "Libri3Mix_offset")):
            name = f"libri{talkers}mix_dev-clean.csv"
            rows = read_csv(real / "librimix" / folder / name)[:ROWS]
            write_csv(root / "LibriMix" / folder / name, rows)
            self.rows[talkers, condition] = rows
        self.rows[2, "offset"] = self.rows[2, "plain"]
        rng = np.random.default_rng(0)
        noises = itertools.cycle(NOISES)
        for row in itertools.chain.from_iterable(self.rows.values()):
            for path in self.sources(row):
                self.flac(path, babble(rng.uniform(0.9, 2.2), rng, rng.choice([0.02, 0.1, 0.4])))
                chapter = Path(path).parent
                name = f"{chapter.parent.name}-{chapter.name}.trans.txt"
                shutil.copy(real / "librispeech" / "LibriSpeech" / chapter / name, self.librispeech / chapter / name)
            path = self.wham / row["noise_path"]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                samples = np.stack([babble(seconds := next(noises), rng, 0.05), babble(seconds, rng, 0.05)], axis=1)
                soundfile.write(path, samples, RATE, subtype="PCM_24" if seconds == 1.1 else "PCM_16")

    @staticmethod
    def sources(row: dict) -> list[str]:
        return [row[f"source_{k}_path"] for k in (1, 2, 3) if f"source_{k}_path" in row]

    def flac(self, path: str, samples: np.ndarray) -> None:
        (self.librispeech / path).parent.mkdir(parents=True, exist_ok=True)
        if not (self.librispeech / path).exists():
            soundfile.write(self.librispeech / path, samples, RATE)

    def prepare(self, out: Path, **options) -> None:
        select = Selection(**{"parts": ["dev"], **options.pop("select", {})})
        prepare(self.librispeech, self.metadata, out, **{"wham": self.wham, "select": select, **options})

    def copy(self, root: Path) -> "Toy":
        shutil.copytree(self.root, root)
        toy = object.__new__(Toy)
        toy.__dict__ = {k: root / v.relative_to(self.root) if isinstance(v, Path) else v
                        for k, v in self.__dict__.items()}
        return toy


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


def run(repository: Path, *args) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "espnet_mt_llm.bin.prepare_librimix", *map(str, args)],
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})


def test_sessions_with_problems_are_listed_and_the_others_prepared(toy, tmp_path, repository):
    toy = toy.copy(tmp_path / "toy")
    missing, corrupt, no_text = (toy.librispeech / row["source_1_path"] for row in toy.rows[2, "plain"][:3])
    missing.unlink()
    corrupt.write_bytes(corrupt.read_bytes()[:300])
    transcript = next(no_text.parent.glob("*.trans.txt"))
    lines = transcript.read_text().splitlines(keepends=True)
    transcript.write_text("".join(line for line in lines if not line.startswith(no_text.stem)))
    path = toy.metadata / "Libri2Mix/libri2mix_dev-clean.csv"
    good = path.read_text()
    fifth = good.splitlines()[4]
    path.write_text(good + fifth.replace("0026_", "9_").replace(fifth.split(",")[0], "same_reader").replace(
        fifth.split(",")[3], fifth.split(",")[1]) + "\n" + fifth + "\ncut_off,dev-clean/1/2/1-2-3.flac,0.5\n")
    options = ["--librispeech", toy.librispeech, "--metadata", toy.metadata, "--wham", toy.wham, "--num_talkers", "2",
               "--parts", "dev", "--conditions", "plain", "--out", tmp_path / "data"]
    ran = run(repository, *options)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "sessions have problems, see" in ran.stderr and "--allow_problems true" in ran.stderr
    problems = [line.split("\t") for line in (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]]
    of_set = {session: problem for name, session, problem in problems if name == "dev_2mix"}
    assert len(problems) == len(of_set) == 6 and "6 of 6 sessions have problems" in ran.stderr
    assert ran.stderr.count("no such audio file") == 1 and "fix_data_dir" not in ran.stderr
    ids = [row["mixture_ID"] for row in toy.rows[2, "plain"]]
    assert sorted(of_set) == sorted([*ids, "same_reader", "cut_off"])
    for session, words in ((ids[0], "libri2mix_dev-clean.csv:2: "), (ids[0], "no such audio file"),
                           (ids[1], corrupt.name), (ids[2], "has no transcript"), (ids[3], "is there twice"),
                           ("same_reader", "two sources are of one reader"), ("cut_off", "'source_2_path' is empty")):
        assert words in of_set[session]
    assert list(DataDir.read(tmp_path / "data/dev_2mix_both").wav) == [ids[3]]
    assert run(repository, *options, "--allow_problems", "true").returncode == 0
    path.write_text(good)


def test_missing_noise_files_are_problems_of_noisy_sets_alone(toy, tmp_path):
    toy = toy.copy(tmp_path / "toy")
    rows = toy.rows[2, "plain"]
    (toy.wham / rows[0]["noise_path"]).unlink()
    soundfile.write(toy.wham / rows[1]["noise_path"], np.zeros((8001, 2)), RATE)
    soundfile.write(toy.wham / rows[2]["noise_path"], np.zeros((80010, 2)), 8000)
    with pytest.raises(UserError, match="3 of 4 sessions have problems"):
        toy.prepare(tmp_path / "data", select={"num_talkers": [2], "conditions": ["plain"]})
    text = (tmp_path / "data/problems.tsv").read_text()
    for words in ("no such audio file", "8001 samples, too few", "has 8000 Hz"):
        assert words in text
    assert len(DataDir.read(tmp_path / "data/dev_2mix_clean").wav) == ROWS
    assert len(DataDir.read(tmp_path / "data/dev_2mix_both").wav) == 1


def test_without_wham_the_clean_sets_are_prepared(toy, tmp_path, repository):
    options = ["--librispeech", toy.librispeech, "--metadata", toy.root / "LibriMix", "--out", tmp_path / "data",
               "--num_talkers", "2", "--debug", "true"]
    for wham in ([], ["--wham", tmp_path / "absent"]):
        ran = run(repository, *options, *wham)
        assert ran.returncode == 0 and "not made: dev_2mix_both dev_2mix_both_offset: they need noise" in ran.stdout
        assert "wham_noise.zip from http" in ran.stdout and "not made: train_100_*: no " in ran.stdout
        assert sorted(f.name for f in (tmp_path / "data").iterdir()) == ["dev_2mix_clean", "dev_2mix_clean_offset"]
    ran = run(repository, *options, "--wham", toy.librispeech)
    assert ran.returncode == 1 and "(found in it: dev-clean); wanted: tr/*.wav" in ran.stderr
    assert "no WHAM! noise here" in (tmp_path / "data/problems.tsv").read_text()
    ran = run(repository, *options, "--types", "both")
    assert ran.returncode == 1 and "no WHAM! noise here" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("change, words", [
    ({"--metadata": "{toy}/wham_noise"}, "no metadata of LibriMix here (found in it: cv); wanted: Libri2Mix/"),
    ({"--metadata": "{toy}/none"}, "no metadata of LibriMix here (no such folder)"),
    ({"--librispeech": "{toy}/wham_noise"}, "no LibriSpeech here"),
    ({"--parts": "test"}, "nothing to prepare: test (no "),
    ({"--parts": "devel"}, "no part 'devel'; did you mean 'dev'?"),
    ({"--types": "cleen"}, "no type 'cleen'; did you mean 'clean'?"),
    ({"--rate": "44100"}, "no rate 44100"),
    ({"--mode": "mean"}, "no mode 'mean'"),
    ({"--num_talkers": "4"}, "no number of talkers 4"),
    ({"--conditions": "delayed"}, "no condition 'delayed'"),
])
def test_wrong_options_and_folders(toy, tmp_path, repository, change, words):
    options = {"--librispeech": toy.librispeech, "--metadata": toy.metadata, "--out": tmp_path / "data", **change}
    ran = run(repository, *itertools.chain.from_iterable(
        (key, str(value).format(toy=toy.root)) for key, value in options.items()))
    assert ran.returncode == 1 and words in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("content, words", [
    ("mixture_ID,speaker_1_ID\na,1.0\n", ":1: the columns source_1_path, .* are missing; .*_info.csv"),
    ("", ":1: the columns mixture_ID, "),
    ("\xff\xfe".encode("latin-1"), "no CSV file"),
])
def test_files_that_are_no_metadata(tmp_path, content, words):
    path = tmp_path / "libri2mix_dev-clean.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        read_rows(path, 2)
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.csv", 2)


@pytest.mark.parametrize("change, words", [
    ({"source_1_gain": "loud"}, "'source_1_gain' is 'loud', not a number"),
    ({"source_1_gain": "nan"}, "'source_1_gain' is 'nan', not a number"),
    ({"offset2": "nan"}, "'offset2' is 'nan', not a number"),
    ({"noise_gain": "inf"}, "'noise_gain' is 'inf', not a number"),
    ({"noise_path": ""}, "'noise_path' is empty"),
    ({"offset1": "-1.0"}, "cannot be negative"),
])
def test_broken_rows(toy, tmp_path, change, words):
    write_csv(tmp_path / "libri3mix.csv", [{**toy.rows[3, "offset"][0], **change}, toy.rows[3, "offset"][1]])
    rows = read_rows(tmp_path / "libri3mix.csv", 3)
    assert len(rows.good) == 1 and words in rows.bad[0][1] and "libri3mix.csv:2: " in rows.bad[0][1]


@pytest.fixture
def recipe(toy, tmp_path) -> Toy:
    """Rows of dev as train-100, dev and test, with the sources of dev."""
    toy = toy.copy(tmp_path / "toy")
    for part in ("train-clean-100", "test-clean"):
        (toy.librispeech / part).mkdir()
        for path in list((toy.root / "LibriMix").rglob("*_dev-clean.csv")):
            if path.parent.name != "Libri3Mix_offset" or part == "test-clean":
                shutil.copy(path, path.with_name(path.name.replace("dev-clean", part)))
    return toy


ARGUMENTS = {"parts": ["train_100", "dev", "test"]}


def made(out: Path) -> set[str]:
    return {path.parent.name for path in out.glob("*/wav.scp")}


def test_without_published_offsets_of_three_talkers_dev_and_test_are_not_made(recipe, tmp_path, capsys, caplog):
    recipe.prepare(tmp_path / "all", select=ARGUMENTS)
    assert "not made" not in capsys.readouterr().out
    assert caplog.text.count("has no offsets, they are drawn") == 4  # train of 2 and 3 talkers, dev and test of 2
    shutil.move(recipe.root / "LibriMix/Libri3Mix_offset", recipe.root / "metadta_Libri3Mix_offset")
    recipe.prepare(tmp_path / "data", select=ARGUMENTS)
    out = capsys.readouterr().out
    left = {f"{part}_{n}mix_{kind}_offset" for part in ("dev", "test") for n in (3, 23) for kind in ("clean", "both")}
    assert made(tmp_path / "all") - made(tmp_path / "data") == left
    line = next(line for line in out.splitlines() if line.startswith("not made: "))
    assert set(line.removeprefix("not made: ").split(": ")[0].split()) == left
    assert "hshi-speech/LibriMix-repo, local/metadta_Libri3Mix_offset" in line and "--draw_offsets true" in line
    assert out.splitlines()[-1].endswith(
        './run.sh --train_set train_100_2mix_both_offset --valid_set dev_2mix_both_offset '
        '--test_sets "dev_2mix_both_offset test_2mix_both_offset"')
    recipe.prepare(tmp_path / "drawn", select={**ARGUMENTS, "draw_offsets": True})
    assert made(tmp_path / "drawn") == made(tmp_path / "all") and "not made" not in capsys.readouterr().out
    capsys.readouterr()
    recipe.prepare(tmp_path / "drawn", select=ARGUMENTS)
    assert f"an earlier run has left sets that were not made now: rm -r {tmp_path}/drawn/dev_3mix_clean_offset " in (
        capsys.readouterr().out)
    recipe.prepare(tmp_path / "named", select=ARGUMENTS, offset_metadata=[recipe.root])
    for name in sorted(left):
        manifest = "mixtures.jsonl"
        assert (tmp_path / "named" / name / manifest).read_text() == (tmp_path / "all" / name / manifest).read_text()
    with pytest.raises(UserError, match="no set of mixtures was made"):
        recipe.prepare(tmp_path / "none", select={"parts": ["dev"], "num_talkers": [3], "conditions": ["offset"]})


def test_offset_folders_that_are_none(toy, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder; --offset_metadata"):
        toy.prepare(tmp_path / "data", offset_metadata=[tmp_path / "nowhere"])
    write_csv(tmp_path / "offsets/libri2mix_dev-clean.csv", toy.rows[2, "plain"])
    toy.prepare(tmp_path / "data", offset_metadata=[tmp_path / "offsets"], allow_problems=True)
    rows = (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]
    assert len(rows) == 1 and "libri2mix_dev-clean.csv:1: the columns offset " in rows[0]
    assert "dev_2mix_clean_offset" not in made(tmp_path / "data") and "dev_3mix_clean_offset" in made(tmp_path / "data")


def test_without_noise_the_way_on_is_the_last_line(recipe, tmp_path, capsys):
    recipe.prepare(tmp_path / "data", wham=tmp_path / "none", select=ARGUMENTS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(
        "./run.sh --train_set train_100_23mix_clean_offset --valid_set dev_23mix_clean_offset --test_sets "
        '"dev_2mix_clean_offset test_2mix_clean_offset dev_3mix_clean_offset test_3mix_clean_offset"')
    assert all(name in made(tmp_path / "data") for name in lines[-1].replace('"', "").split() if "mix" in name)
    assert "dev_23mix_both_offset" in lines[-2] and "they need noise" in lines[-2]


def test_metadata_of_two_talkers_alone(recipe, tmp_path, capsys):
    shutil.rmtree(recipe.metadata / "Libri3Mix")
    recipe.prepare(tmp_path / "data", select=ARGUMENTS)
    assert made(tmp_path / "data") == {f"{part}_2mix_{kind}{end}" for part in ("train_100", "dev", "test")
                                       for kind in ("clean", "both") for end in ("", "_offset")}
    out = capsys.readouterr().out
    assert "dev_23mix_both_offset" in out and f"no {recipe.metadata}/Libri3Mix/libri3mix_dev-clean.csv" in out
    assert "--valid_set dev_2mix_both_offset" in out.splitlines()[-1]


@pytest.mark.parametrize("content", [b"\x8b\xff\x00\x9d" * 50, b"", b"mixture_ID,source_1_path\na,b\n"])
def test_one_broken_csv_stops_nothing_else(recipe, tmp_path, content):
    (recipe.metadata / "Libri2Mix/libri2mix_train-clean-100.csv").write_bytes(content)
    recipe.prepare(tmp_path / "all", select={"parts": ["dev", "test"]})
    recipe.prepare(tmp_path / "data", select=ARGUMENTS, allow_problems=True)
    assert made(tmp_path / "all") < made(tmp_path / "data") and "train_100_3mix_both" in made(tmp_path / "data")
    assert not {name for name in made(tmp_path / "data") if name.startswith(("train_100_2mix", "train_100_23mix"))}
    rows = (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]
    assert len(rows) == 1 and rows[0].startswith("train_100_2mix\tlibri2mix_train-clean-100.csv\t")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_transcript_that_cannot_be_read_takes_its_mixtures_alone(toy, tmp_path, content, repository):
    toy = toy.copy(tmp_path / "toy")
    chapter = (toy.librispeech / toy.rows[2, "plain"][0]["source_1_path"]).parent
    transcript = next(chapter.glob("*.trans.txt"))
    transcript.unlink()
    if content:
        transcript.write_bytes(content)
    options = ["--librispeech", toy.librispeech, "--metadata", toy.metadata, "--wham", toy.wham, "--out",
               tmp_path / "data", "--prepare_librispeech", "true", "--allow_problems", "true"]
    ran = run(repository, *options)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr and "fix_data_dir" not in ran.stderr
    rows = [line.split("\t") for line in (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]]
    assert all(transcript.name in problem for name, _, problem in rows if name == "dev_2mix")
    session = "/".join(chapter.parts[-2:])  # other chapters lack recordings
    assert any(row[:2] == ["librispeech_dev_clean", session] and transcript.name in row[2] for row in rows)
    lost = {session for name, session, _ in rows if name == "dev_2mix"}
    assert toy.rows[2, "plain"][0]["mixture_ID"] in lost and len(lost) < ROWS
    assert lost.isdisjoint(DataDir.read(tmp_path / "data/dev_2mix_both").wav)


def test_librispeech_is_measured_once(toy, tmp_path, monkeypatch):
    toy.prepare(tmp_path / "measured")
    measured = []
    activity = librimix_files.sources.activity
    monkeypatch.setattr(librimix_files.sources, "activity", lambda wav: measured.append(wav) or activity(wav))
    toy.prepare(tmp_path / "data", prepare_librispeech=True, allow_problems=True)  # of what is not there
    measured = [wav for wav in measured if Path(wav).exists()]
    assert len(measured) == len(set(measured)) == len(list(toy.librispeech.rglob("*.flac")))
    assert made(tmp_path / "data") - made(tmp_path / "measured") == {"librispeech_dev_clean"}
    for path in (tmp_path / "measured").glob("*/*"):
        text = path.read_text().replace("measured/", "data/")
        assert (tmp_path / "data" / path.relative_to(tmp_path / "measured")).read_text() == text
        assert path.name != "source_dirs" or text == "librispeech_dev_clean\n"
    assert len(list((tmp_path / "data").glob("dev_*/source_dirs"))) == 12


def test_parts_choose_those_of_librispeech(recipe, tmp_path):
    shutil.copytree(recipe.librispeech / "dev-clean", recipe.librispeech / "dev-other")
    recipe.prepare(tmp_path / "dev", prepare_librispeech=True, allow_problems=True)
    assert {name for name in made(tmp_path / "dev") if "libri" in name} == {"librispeech_dev_clean"}


def test_sources_are_written_beside_mixtures_alone(toy, tmp_path):
    with pytest.raises(UserError, match="add --write true"):
        toy.prepare(tmp_path / "data", write_sources=True)


def test_talkers_that_say_nothing_before_the_end(toy, tmp_path, monkeypatch):
    toy.prepare(tmp_path / "late", select={"mode": "min", "types": ["clean"], "num_talkers": [3]})
    late = DataDir.read(tmp_path / "late/dev_3mix_clean_offset_min")
    assert len(late.wav) == ROWS and len(late.utterances) < 3 * ROWS
    assert {len(m.sources) for m in MixtureReader(late.path / "mixtures.jsonl").manifest.values()} == {3}
    monkeypatch.setattr(librimix_files.sources, "activity", lambda wav: (9.0, 10.0, 10.5 if "/1673/" in wav else 2.0))
    with pytest.raises(UserError, match="have problems"):
        toy.prepare(tmp_path / "data", select={"mode": "min", "num_talkers": [2], "types": ["clean"]})
    text = (tmp_path / "data/problems.tsv").read_text()
    assert "nobody says anything before the mixture ends; prepare mode max" in text
