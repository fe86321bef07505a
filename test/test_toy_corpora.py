"""The toy corpora have the layout, channels, times, words and traps of the originals."""

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import soundfile
import toy_corpora
from toy_speech import RATE, TAG

from espnet_mt_llm.datadir.rttm import read_rttm
from espnet_mt_llm.datadir.textgrid import read_textgrid, read_tiers


def spoken(segments: list[dict]) -> list[tuple]:
    """Return start, end and words without tags, where there are any."""
    found = ((s["start_time"], s["end_time"], TAG.sub("", s["words"])) for s in segments)
    return sorted(row for row in found if row[2])


def sounds(path: Path, channels: int) -> np.ndarray:
    """Read audio and check its form: float (N, channels)."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE and samples.shape[1] == channels and soundfile.info(path).subtype == "PCM_16"
    assert 0.02 < np.abs(samples).max() < 1
    return samples


def overlap(segments: list[dict]) -> float:
    """Return the part of the speech of some sessions in which several speak."""
    several = some = 0
    for session in {s["session_id"] for s in segments}:
        speaking = np.zeros(6000)
        for s in segments:
            if s["session_id"] == session:
                speaking[round(100 * s["start_time"]):round(100 * s["end_time"])] += 1
        several, some = several + np.sum(speaking > 1), some + np.sum(speaking > 0)
    return several / some


def is_louder_where_it_speaks(samples: np.ndarray, segments: list[dict]) -> bool:
    """Compare the power within the intervals with that of the pauses."""
    speaking = np.zeros(len(samples), dtype=bool)
    for s in segments:
        speaking[round(s["start_time"] * RATE):round(s["end_time"] * RATE)] = True
    power = samples ** 2
    return np.mean(power[speaking]) > 20 * np.mean(power[~speaking])


def alone_of(segments: list[dict], speaker: str, length: int) -> np.ndarray:
    """Return the samples at which ``speaker`` speaks and nobody else: bool (length,)."""
    own, others = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
    for s in segments:
        (own if s["speaker"] == speaker else others)[round(s["start_time"] * RATE):round(s["end_time"] * RATE)] = True
    return own & ~others


def by_session(said: list[dict]) -> dict[str, list[dict]]:
    """Group segments."""
    sessions: dict[str, list[dict]] = {}
    for s in said:
        sessions.setdefault(s["session_id"], []).append(s)
    return sessions


def test_alimeeting(toy_corpus: Callable) -> None:
    root, truth = toy_corpus("alimeeting")
    tops = {"train": root, "eval": root / "Eval_Ali", "test": root / "Test_Ali"}
    assert {p.name for p in root.iterdir()} == {"Train_Ali_far", "Train_Ali_near", "Eval_Ali", "Test_Ali"}
    names = set()
    for part, said in truth.items():
        assert 0.15 < overlap(said) < 0.7
        far, near = (tops[part] / f"{part.title()}_Ali_{kind}" for kind in ("far", "near"))
        for meeting, segments in by_session(said).items():
            audio, = far.glob(f"audio_dir/{meeting}_MS[0-9][0-9][0-9].wav")
            samples = sounds(audio, 8)
            annotation = far / "textgrid_dir" / f"{meeting}.TextGrid"
            assert spoken(read_textgrid(annotation)) == spoken(segments)
            tiers = {re.search(r"SPK\d{4}$", t.name)[0] for t in read_tiers(annotation)}
            assert tiers == {s["speaker"] for s in segments}
            names |= {re.sub(r"\d{4}", "", t.name) for t in read_tiers(annotation)}
            assert all(is_louder_where_it_speaks(channel, segments) for channel in samples.T)
            assert len({channel.tobytes() for channel in samples.T}) == 8
            headsets = sorted(near.glob(f"audio_dir/{meeting}_*.wav"))
            assert [p.stem for p in headsets] == [p.stem for p in sorted(near.glob(f"textgrid_dir/{meeting}_*"))]
            assert {re.fullmatch(meeting + r"_[FN]_(SPK\d{4})", p.stem)[1] for p in headsets} == tiers
            for headset in headsets:
                own = [s for s in segments if headset.stem.endswith(s["speaker"])]
                note = near / "textgrid_dir" / f"{headset.stem}.TextGrid"
                assert len(read_tiers(note)) == 1 and spoken(read_textgrid(note)) == spoken(own)
                assert is_louder_where_it_speaks(sounds(headset, 1)[:, 0], own)
    assert names == {"R_M_F_SPK", "M_SPK", "F_SPK", "N_SPK"}
    raw = (root / "Train_Ali_far/textgrid_dir/R0003_M0046.TextGrid").read_text()
    assert '"<$>"' in raw and "<sil>ＯＫ" in raw


def test_aishell4(toy_corpus: Callable) -> None:
    root, truth = toy_corpus("aishell4")
    assert sorted(p.name for p in root.iterdir()) == ["test", "train_L", "train_M", "train_S"]
    local = []
    for part, said in truth.items():
        assert 0.1 < overlap(said) < 0.7
        sessions = by_session(said)
        assert (root / part / "wav_list.txt").read_text().split() == [f"{name}.flac" for name in sorted(sessions)]
        for session, segments in sessions.items():
            assert re.fullmatch(r"(\d{8}_)?[LMS]_R\d{3}S\d{2}C\d{2}", session)
            samples = sounds(root / part / "wav" / f"{session}.flac", 8)
            notes = root / part / "TextGrid" / session
            found = read_textgrid(notes.with_suffix(".TextGrid"))
            assert spoken(found) == spoken(segments) and max(s["end_time"] for s in found) <= len(samples) / RATE
            times = sorted((s["speaker"], s["start_time"], s["end_time"]) for s in found)
            again = read_rttm(notes.with_suffix(".rttm"))
            assert sorted((s["speaker"], s["start_time"], s["end_time"]) for s in again) == times
            local.append({s["speaker"] for s in segments})
            assert is_louder_where_it_speaks(samples[:, 3], segments)
    assert len(set.union(*local)) < sum(map(len, local)) / 2, "sessions reuse ids"
    raw = (root / "train_M/TextGrid" / f"{toy_corpora.INCONSISTENT}.TextGrid").read_text()
    ends = [float(x) for x in re.findall(r"^ {0,8}xmax = (\S+)", raw, re.M)]
    assert len(set(ends)) == 2 and max(ends) - min(ends) > 80, "the tiers end before the file says it does"


@pytest.mark.parametrize("names", ["readme", "archives"])
def test_aishell5(toy_corpus: Callable, real_data: Path, names: str) -> None:
    root, truth = toy_corpus("aishell5", names=names)
    folders = {"train": "train", "dev": "Dev", "eval_track1": "Eval1", "eval_track2": "Eval2"}
    if names == "readme":
        folders = {folder: folder for folder in folders}
    assert {p.name for p in root.iterdir()} == {*folders.values(), "noise"}
    zones = (real_data / "aishell5" / "spk_zone_id.txt").read_text()
    for part, said in truth.items():
        assert 0.02 < overlap(said) < 0.7
        for session, segments in by_session(said).items():
            into = root / folders[part] / session
            heard = {int(p.name[3]): sounds(p, 1)[:, 0] for p in into.glob("DX0[1-4]C01.wav")}
            assert sorted(heard) == [1, 2, 3, 4]
            assert len(list(into.glob("DX0[56]C01.wav"))) == (2 if (part, session) == ("train", "002") else 0)
            per_seat = part == "train" or names == "readme"
            notes = sorted(into.glob("*.TextGrid"))
            if not per_seat:
                assert len(notes) == 4 and len({note.read_text() for note in notes}) == 1, "the same four times"
                notes = notes[:1]
            tiers = [t for note in notes for t in read_tiers(note)]
            assert len(tiers) == (4 if (part, session) == ("train", "003") else 2)
            assert len(notes) == (len(tiers) if per_seat else 1)
            intervals = {(t.name, start, end) for t in tiers for start, end, text in t.spans
                         if text or part == "eval_track1"}
            assert intervals == {(s["speaker"], s["start_time"], s["end_time"]) for s in segments}
            if part != "eval_track1":
                assert spoken(s for note in notes for s in read_textgrid(note)) == spoken(segments)
            for note in notes if per_seat else []:
                speaker, seat = read_tiers(note)[0].name, int(note.stem[3])
                assert f"{speaker} {seat}\n" in zones
                own = [s for s in segments if s["speaker"] == speaker]
                if part in ("train", "dev"):
                    near = sounds(note.with_suffix(".wav"), 1)[:, 0]
                    assert is_louder_where_it_speaks(near, own)
                    alone = alone_of(segments, speaker, len(near))
                    if alone.any():
                        levels = {k: np.mean(far[alone] ** 2) for k, far in heard.items()}
                        assert max(levels, key=levels.get) == seat, "the microphone above the own door"
                else:
                    assert not note.with_suffix(".wav").exists()
    assert len(list((root / "noise").glob("*/noise_DX0[1-4]C01.wav"))) == 8


def test_librimix(toy_corpus: Callable, real_data: Path) -> None:
    root, truth = toy_corpus("librimix")
    transcripts = {}
    for path in (root / "LibriSpeech").rglob("*.trans.txt"):
        for line in path.read_text().splitlines():
            utterance, text = line.split(" ", 1)
            assert path.name == f"{utterance.rsplit('-', 1)[0]}.trans.txt"
            assert (path.parent / f"{utterance}.flac").exists()
            transcripts[utterance] = text
    shorter = set()
    for name, split in (("train_100", "train-clean-100"), ("train_360", "train-clean-360"), ("dev", "dev-clean"),
                        ("test", "test-clean")):
        for talkers in (2, 3):
            rows = list(csv.DictReader(open(root / f"metadata/Libri{talkers}Mix/libri{talkers}mix_{split}.csv")))
            lengths = []
            for row in rows:
                sources = [row[f"source_{k}_path"] for k in range(1, talkers + 1)]
                assert row["mixture_ID"] == "_".join(Path(s).stem for s in sources)
                said = [s["words"] for s in truth[f"{name}_{talkers}mix"] if s["session_id"] == row["mixture_ID"]]
                assert said == [transcripts[Path(s).stem] for s in sources]
                assert len({s.split("/")[1] for s in sources}) == talkers
                lengths.append(max(len(sounds(root / "LibriSpeech" / s, 1)) for s in sources))
                noise = root / "wham_noise" / re.sub("sp(08|12).wav", ".wav", row["noise_path"])
                shorter.add(len(sounds(noise, 2)) < lengths[-1])
                assert ("sp" in Path(row["noise_path"]).stem) <= name.startswith("train")
            assert max(lengths) < 10 * RATE and rows
            real = real_data / f"librimix/metadata/Libri{talkers}Mix/libri{talkers}mix_{split}.csv"
            if real.exists():
                lines = (root / "metadata" / real.parent.name / real.name).read_text().splitlines()
                assert set(lines) <= set(real.read_text().splitlines())
    assert shorter == {True, False}
    noises = {Path(p).name[-8:-4] for p in re.findall(r"tr/\S+?\.wav", (
        root / "metadata/Libri2Mix/libri2mix_train-clean-100.csv").read_text())}
    assert {"sp08", "sp12"} <= noises and len(noises) > 2
    offsets = list(csv.DictReader(open(root / "metadata/Libri3Mix_offset/libri3mix_dev-clean.csv")))
    assert len(offsets) == 3 and float(offsets[0]["offset2"]) > float(offsets[0]["offset1"]) > 0


def test_the_same_bytes_again_and_as_a_command(toy_corpus: Callable, real_data: Path, tmp_path: Path) -> None:
    root, _ = toy_corpus("librimix")
    command = [sys.executable, str(Path(toy_corpora.__file__)), "librimix"]
    made = subprocess.run([*command, str(tmp_path), str(real_data)], capture_output=True, text=True)
    assert made.returncode == 0 and "dev_3mix: 3 sessions, 9 utterances" in made.stdout, made.stderr
    files = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert "usage" not in made.stderr and subprocess.run(command, capture_output=True).returncode == 1
