#!/usr/bin/env python3
"""Toy corpora in the raw layouts of the originals, driven by real annotation; to try a recipe by hand, too.

usage: tools/venv/bin/python test/toy_corpora.py alimeeting|aishell4|aishell5|librimix DIR [REAL_DATA]
"""

import csv
import os
import re
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from typing import Callable, Iterable, Mapping, Sequence

import numpy as np
import soundfile
from toy_speech import RATE, Piece, pieces, record, say, say_piece, textgrid, tier, write

from espnet_mt_llm.common import Chance
from espnet_mt_llm.datadir.rttm import write_rttm
from espnet_mt_llm.datadir.stm import read_stm
from espnet_mt_llm.datadir.textgrid import read_textgrid

# Set -> SegLST segments of its sessions, as they were annotated: what a preparation has to find.
Truth = dict[str, list[dict]]

# Set, meeting, microphone array, real meeting and number of its piece, first made-up speaker (0: the real ones), how
# the far TextGrid and the near ones call their tiers.
ALIMEETING = (
    ("Train", "R0003_M0046", "MS002", "R8001_M8004", 0, 93, "{rec}_F_{spk}", "{rec}_F_{spk}"),
    ("Train", "R0015_M0151", "MS004", "R8007_M8010", 0, 501, "M_{spk}", "c1"),
    ("Train", "R0018_M0164", "MS009", "R8003_M8001", 1, 612, "F_{spk}", "S1"),
    ("Eval", "R8003_M8001", "MS801", "R8003_M8001", 0, 0, "N_{spk}", "c1"),
    ("Eval", "R8008_M8013", "MS807", "R8008_M8013", 0, 0, "N_{spk}", "S1"),
    ("Test", "R8002_M8002", "MS802", "R8001_M8004", 1, 9001, "N_{spk}", "c1"),
    ("Test", "R8009_M8020", "MS810", "R8007_M8010", 1, 9015, "N_{spk}", "c1"),
)
# Part, session, real session and number of its piece. The second of train_L and the first of train_M are dev sessions
# of the recipe; the TextGrid of the second of train_M is one of the two whose ends disagree.
AISHELL4 = (
    ("train_L", "20200706_L_R001S01C01", "L_R003S01C02", 1),
    ("train_L", "20200709_L_R002S01C01", "L_R003S02C02", 0),
    ("train_M", "20200620_M_R002S06C01", "M_R003S02C01", 0),
    ("train_M", "20200622_M_R002S07C01", "M_R003S01C01", 0),
    ("train_S", "20200623_S_R001S01C01", "S_R003S02C01", 0),
    ("train_S", "20200624_S_R001S03C01", "S_R003S01C01", 0),
    ("test", "L_R003S01C02", "L_R003S01C02", 0),
    ("test", "M_R003S02C01", "M_R003S02C01", 1),
)
INCONSISTENT = "20200622_M_R002S07C01"
# Folder by the baseline's README and of the archives; session; the lines of spk_zone_id.txt whose speakers and seats it
# gets (a session number occurs in several sets); real AliMeeting meeting and number of its piece.
AISHELL5 = (
    ("train", "train", "001", ("001", 0, 2), "R8001_M8004", 0),
    ("train", "train", "002", ("002", 0, 2), "R8007_M8010", 0),
    ("train", "train", "003", ("566", 0, 4), "R8007_M8010", 2),
    ("dev", "Dev", "001", ("001", 2, 4), "R8003_M8001", 0),
    ("eval_track1", "Eval1", "001", ("560", 0, 2), "R8001_M8004", 1),
    ("eval_track2", "Eval2", "001", ("564", 0, 2), "R8007_M8010", 1),
    ("eval_track2", "Eval2", "002", ("568", 0, 2), "R8008_M8013", 1),
)
STEREO_ON = "002"  # the train session in which the car's stereo plays
# Split of LibriSpeech, its sets, what it is made of, what its ids begin with, folder of WHAM!, mixtures of 2 and of 3.
LIBRIMIX = (
    ("train-clean-100", "train_100", "dev-clean", "1", "tr", 16, 8),
    ("train-clean-360", "train_360", "test-clean", "2", "tr", 4, 2),
    ("dev-clean", "dev", "dev-clean", "", "cv", 4, 3),
    ("test-clean", "test", "test-clean", "", "tt", 4, 3),
)
LONGEST = 62  # characters of a LibriSpeech transcript, so that the audio stays small


def alimeeting(root: Path, real: Path) -> Truth:
    """Write 4 minutes of AliMeeting: far arrays of 8 channels, a headset for each speaker, tags, full-width letters."""
    truth: Truth = {}
    for part, rec, array, source, number, base, far_tier, near_tier in ALIMEETING:
        piece = _alimeeting_piece(real, source, number)
        names = {s: f"SPK{base + k:04d}" if base else s for k, s in enumerate(piece.speakers)}
        if part == "Train":
            piece = _annotated(piece)
        piece = piece.as_session(rec, names)
        truth.setdefault(part.lower(), []).extend(piece.segments)
        top = root if part == "Train" else root / f"{part}_Ali"
        far, near = top / f"{part}_Ali_far", top / f"{part}_Ali_near"
        tiers = {spk: tier(piece, spk) for spk in piece.speakers}
        if part == "Train":
            tiers[piece.speakers[0]] = _with_tag_alone(tiers[piece.speakers[0]])
        textgrid(far / "textgrid_dir" / f"{rec}.TextGrid",
                 {far_tier.format(rec=rec, spk=spk): said for spk, said in tiers.items()}, piece.seconds)
        tracks = say_piece(piece)
        write(far / "audio_dir" / f"{rec}_{array}.wav", record(list(tracks.values()), 8, rec))
        for spk, track in tracks.items():
            name = f"{rec}_{'F' if part == 'Train' else 'N'}_{spk}"
            textgrid(near / "textgrid_dir" / f"{name}.TextGrid", {near_tier.format(rec=rec, spk=spk): tiers[spk]},
                     piece.seconds)
            write(near / "audio_dir" / f"{name}.wav", record([track], 1, name)[:, 0])
    return truth


@lru_cache(maxsize=None)
def _alimeeting_meeting(real: Path, source: str, speakers: int) -> list[Piece]:
    segments = read_textgrid(real / "alimeeting" / "Eval_Ali_far" / "textgrid_dir" / f"{source}.TextGrid")
    return list(pieces([{**s, "speaker": s["speaker"].removeprefix("N_")} for s in segments], 30, speakers))


def _alimeeting_piece(real: Path, source: str, number: int, speakers: int = 3) -> Piece:
    return _alimeeting_meeting(real, source, speakers)[number]


def _annotated(piece: Piece) -> Piece:
    """Add what annotators of Train wrote as well: tags, full-width letters."""
    segments = [{**s, "words": s["words"] + ("<sil>ＯＫ" if k % 6 == 5 else "")} for k, s in enumerate(piece.segments)]
    segments[0]["words"] = "<%>" + segments[0]["words"]
    return Piece(piece.seconds, segments)


def _with_tag_alone(spoken: Sequence[tuple]) -> list[tuple]:
    """Add an interval that holds no speech: a tag in the silence before the first words."""
    return [(0, round(spoken[0][0] / 2, 3), "<$>"), *spoken]


def aishell4(root: Path, real: Path) -> Truth:
    """Write 4 minutes of AISHELL-4: FLACs of 8 channels, TextGrid and RTTM; sessions reuse the ids of speakers."""
    truth: Truth = {}
    for part, session, source, number in AISHELL4:
        segments = [{**s, "words": s["words"].replace(" ", "")}
                    for s in read_stm(real / "aishell4" / "stm" / f"{source}.stm")]
        piece = list(pieces(segments, 30, overlap=0.1))[number]
        piece = piece.as_session(session, {s: s for s in piece.speakers})
        truth.setdefault(part, []).extend(piece.segments)
        notes = root / part / "TextGrid" / session
        end, ends = piece.seconds, {}
        if session == INCONSISTENT:  # its tiers end 83 seconds before the file says it does
            end, ends = piece.seconds + 82.944, {spk: piece.seconds for spk in piece.speakers}
        textgrid(notes.with_suffix(".TextGrid"), {spk: tier(piece, spk) for spk in piece.speakers}, end, ends)
        write_rttm(notes.with_suffix(".rttm"), piece.segments)
        write(root / part / "wav" / f"{session}.flac", record(list(say_piece(piece).values()), 8, session))
    for part in sorted(truth):
        names = sorted({s["session_id"] for s in truth[part]})
        (root / part / "wav_list.txt").write_text("".join(f"{name}.flac\n" for name in names))
    return truth


def aishell5(root: Path, real: Path, names: str = "readme") -> Truth:
    """Write 4 minutes of AISHELL-5: a file for each seat, headsets in train, the stereo's signals in one session.

    Args:
        names: ``readme`` (dev, eval_track1 …; a TextGrid for each headset) or ``archives`` (Dev, Eval1 …; headsets in
            train alone, elsewhere ``DX0xC01.TextGrid`` with a tier for each speaker, the same four times).
    """
    truth: Truth = {}
    for folder, archive, session, zone, source, number in AISHELL5:
        seats = {spk: int(seat) for spk, seat in _zones(real)[zone[0]][zone[1]:zone[2]]}
        piece = _alimeeting_piece(real, source, number)
        lively = sorted(piece.speakers, key=lambda s: -len(tier(piece, s)))
        piece = piece.as_session(session, dict(zip(lively, seats)))
        truth.setdefault(folder, []).extend(piece.segments)
        into = root / (archive if names == "archives" else folder) / session
        tracks = say_piece(piece)
        tiers = {spk: tier(piece, spk) for spk in piece.speakers}
        if folder == "eval_track1":
            tiers = {spk: [(start, end, "") for start, end, _ in said] for spk, said in tiers.items()}
        if folder == "train" or names == "readme":
            for spk, said in tiers.items():
                near = into / f"DA{seats[spk]:02d}"
                textgrid(near.with_suffix(".TextGrid"), {spk: said}, piece.seconds, gaps=folder != "eval_track1")
                if folder in ("train", "dev"):
                    write(near.with_suffix(".wav"), record([tracks[spk]], 1, str(near.relative_to(root)))[:, 0])
        else:
            for seat in range(1, 5):
                textgrid(into / f"DX{seat:02d}C01.TextGrid", tiers, piece.seconds, gaps=folder != "eval_track1")
        _write_seats(into, tracks, seats, f"{folder} {session}")
    _write_car_noise(root / "noise", real)
    return truth


@lru_cache(maxsize=None)
def _zones(real: Path) -> dict[str, list[list[str]]]:
    """Read session -> (speaker, seat) of the real corpus."""
    zones: dict[str, list[list[str]]] = {}
    for line in (real / "aishell5" / "spk_zone_id.txt").read_text().splitlines():
        session, *speaker_and_seat = line.split()
        zones.setdefault(session, []).append(speaker_and_seat)
    return zones


def _write_seats(into: Path, tracks: Mapping[str, np.ndarray], seats: Mapping[str, int], seed: str) -> None:
    chance = Chance("toy car", seed)
    sounds = [tracks[spk] for spk in tracks]
    gains = [[0.5 if seats[spk] == seat else chance.uniform(0.08, 0.25) for seat in range(1, 5)] for spk in tracks]
    if into.name == STEREO_ON and into.parent.name == "train":
        time = np.arange(len(sounds[0])) / RATE
        for k, tones in enumerate(((220, 277, 330), (222, 280, 333)), 5):
            music = sum(0.04 * np.sin(2 * np.pi * tone * time) * (np.sin(2 * np.pi * time) > 0) for tone in tones)
            write(into / f"DX{k:02d}C01.wav", music)
            sounds.append(music.astype(np.float32))
            gains.append([0.1] * 4)
    heard = record(sounds, 4, f"car {seed}", noise=0.003, gains=np.array(gains))
    for seat in range(1, 5):
        write(into / f"DX{seat:02d}C01.wav", heard[:, seat - 1])


def _write_car_noise(into: Path, real: Path) -> None:
    for number, scene in enumerate(("A1", "M1")):
        for seat in range(1, 5):
            samples = _noise(real, 4 * number + seat, 10 * RATE)
            write(into / scene / f"noise_DX{seat:02d}C01.wav", samples)


def _noise(real: Path, number: int, length: int) -> np.ndarray:
    """Cut ``length`` samples out of the real noises, repeated where they are shorter."""
    files = sorted((real / "noise_rir").glob("noise*.wav"))
    samples, rate = soundfile.read(files[number % len(files)], dtype="float32", always_2d=True)
    assert rate == RATE
    first = (number * 7919) % len(samples)
    return 0.1 * np.take(samples[:, 0], range(first, first + length), mode="wrap")


def librimix(root: Path, real: Path) -> Truth:
    """Write LibriSpeech and WHAM! as far as some rows of LibriMix's metadata name them, and these rows.

    The dev and test rows are real ones with short sources. The training rows are made of such rows, too, their speakers
    under other ids. WHAM!'s noise is stereo; every third one is shorter than its mixture; the copies of other speed
    that training rows name are not there, as in the archive.
    """
    truth: Truth = {}
    said = _transcripts(real)
    texts: dict[str, str] = {}  # path of a source below LibriSpeech -> what it says
    for split, name, source, prefix, folder, *numbers in LIBRIMIX:
        for talkers, number in zip((2, 3), numbers):
            table = f"libri{talkers}mix_{source}"
            short = [row for row in _read_csv(real / f"librimix/metadata/Libri{talkers}Mix/{table}.csv")
                     if max(len(said[Path(path).stem]) for path in _sources(row)) <= LONGEST]
            info = {row["mixture_ID"]: row for row in _read_csv(
                real / f"librimix/metadata/Libri{talkers}Mix/{table}_info.csv")}
            short = short[-number:] if prefix else short[:number]
            rows = [_renamed(row, split, prefix, folder, k) for k, row in enumerate(short)]
            for row, original in zip(rows, short):
                texts.update({path: said[Path(old).stem] for path, old in zip(_sources(row), _sources(original))})
            metadata = root / f"metadata/Libri{talkers}Mix/libri{talkers}mix_{split}"
            _write_csv(Path(f"{metadata}.csv"), rows)
            _write_csv(Path(f"{metadata}_info.csv"), [
                {"mixture_ID": row["mixture_ID"], **{key: prefix + value if key.endswith("_ID") else value
                 for key, value in info[original["mixture_ID"]].items() if key != "mixture_ID"}}
                for row, original in zip(rows, short)])
            if talkers == 3 and not prefix:
                kept = {row["mixture_ID"] for row in rows}
                _write_csv(root / f"metadata/Libri3Mix_offset/{table}.csv", [
                    row for row in _read_csv(real / f"librimix/Libri3Mix_offset/{table}.csv")
                    if row["mixture_ID"] in kept])
            truth[f"{name}_{talkers}mix"] = [
                {"session_id": row["mixture_ID"], "speaker": Path(path).stem.split("-")[0], "words": texts[path]}
                for row in rows for path in _sources(row)]
            _write_sources(root / "LibriSpeech", rows, texts)
            _write_noises(root, rows, real)
    _write_transcripts(root / "LibriSpeech", texts, real)
    return truth


def _sources(row: Mapping[str, str]) -> list[str]:
    return [value for key, value in row.items() if re.fullmatch(r"source_\d_path", key)]


def _renamed(row: Mapping[str, str], split: str, prefix: str, folder: str, number: int) -> dict[str, str]:
    """Make a training row of a real one: other ids, and for some the noise of another speed."""
    if not prefix:
        return dict(row)
    made = dict(row)
    for key, value in row.items():
        if re.fullmatch(r"source_\d_path", key):
            speaker, chapter, utterance = Path(value).stem.split("-")
            stem = f"{prefix}{speaker}-{chapter}-{utterance}"
            made[key] = f"{split}/{prefix}{speaker}/{chapter}/{stem}.flac"
    made["mixture_ID"] = "_".join(Path(path).stem for path in _sources(made))
    made["noise_path"] = f"{folder}/{Path(row['noise_path']).stem}{('', 'sp08', '', 'sp12')[number % 4]}.wav"
    return made


def _write_sources(root: Path, rows: Iterable[Mapping[str, str]], texts: Mapping[str, str]) -> None:
    """Speak the sources, with some silence before the first word, so that talkers do not begin at the same time."""
    for path in sorted({path for row in rows for path in _sources(row)}):
        if not (root / path).exists():
            silence = Chance("toy silence", path).uniform(0.1, 0.8)
            samples = say(texts[path], Path(path).stem.split("-")[0], "en-us")
            write(root / path, np.pad(samples, (round(silence * RATE), RATE // 5)))


def _write_noises(root: Path, rows: Iterable[Mapping[str, str]], real: Path) -> None:
    for number, row in enumerate(rows):
        path = root / "wham_noise" / re.sub(r"sp(08|12)\.wav$", ".wav", row["noise_path"])
        if path.exists():
            continue
        longest = max(soundfile.info(root / "LibriSpeech" / source).frames for source in _sources(row))
        length = round(longest * (0.6 if number % 3 == 0 else 1.3))
        write(path, np.stack([_noise(real, number, length), _noise(real, number + 1, length)], axis=1))


def _write_transcripts(root: Path, texts: Mapping[str, str], real: Path) -> None:
    """Write the transcripts of each chapter, and the lists beside the splits."""
    chapters: dict[Path, list[str]] = {}
    for path, text in texts.items():
        chapters.setdefault((root / path).parent, []).append(f"{Path(path).stem} {text}\n")
    for chapter, lines in chapters.items():
        name = f"{chapter.parent.name}-{chapter.name}.trans.txt"
        (chapter / name).write_text("".join(sorted(lines)))
    for name in ("SPEAKERS.TXT", "CHAPTERS.TXT", "BOOKS.TXT"):
        shutil.copyfile(real / "librispeech" / "LibriSpeech" / name, root / name)


@lru_cache(maxsize=None)
def _transcripts(real: Path) -> dict[str, str]:
    """Read utterance -> text of the real LibriSpeech."""
    files = sorted((real / "librispeech").rglob("*.trans.txt"))
    return dict(line.split(" ", 1) for path in files for line in path.read_text().splitlines())


def _read_csv(path: Path) -> list[dict]:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


CORPORA: dict[str, Callable[[Path, Path], Truth]] = {
    "alimeeting": alimeeting, "aishell4": aishell4, "aishell5": aishell5, "librimix": librimix}


def main() -> None:
    """Write one of the corpora."""
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in CORPORA:
        sys.exit(__doc__.split("usage: ")[1].strip())
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    real = Path(sys.argv[3] if len(sys.argv) == 4 else os.environ.get("MT_TEST_DATA") or shared)
    if not real.is_dir():
        sys.exit(f"{real}: no such directory; name the real annotation as the last argument or in MT_TEST_DATA")
    for name, said in CORPORA[sys.argv[1]](Path(sys.argv[2]), real).items():
        print(f"{name}: {len({s['session_id'] for s in said})} sessions, {len(said)} utterances")


if __name__ == "__main__":
    main()
