"""What LibriMix is made of: the rows of its CSV files, and the speech and noise recordings that they name."""

import csv
import math
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Iterable, Mapping, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.corpora import librispeech, sources
from espnet_mt_llm.corpora.meetings import absent
from espnet_mt_llm.corpora.speech import in_parallel, same_making
from espnet_mt_llm.datadir.audio import read_audio, write_audio
from espnet_mt_llm.datadir.kaldi import read_segments
from espnet_mt_llm.datadir.maps import read_map, read_numbers
from espnet_mt_llm.simulation.librimix import JOIN, RATE, change_speed, no_sox

URL = "https://github.com/JorisCos/LibriMix"
WHAM_URL = "http://wham.whisper.ai"
# Who published CSV files with offsets for a number of talkers.
OFFSETS_FROM = {2: "https://github.com/espnet/espnet, egs2/librimix/sot_asr1/local/metadta_Libri2Mix_offset",
                3: "https://github.com/hshi-speech/LibriMix-repo, local/metadta_Libri3Mix_offset"}
PARTS = {"train_100": "train-clean-100", "train_360": "train-clean-360", "dev": "dev-clean", "test": "test-clean"}
_SPEEDS = {"sp08": 0.8, "sp12": 1.2}


@dataclass(frozen=True)
class Row:
    """One line of a CSV.

    Attributes:
        where: file and line.
        sources: (path below LibriSpeech, gain) of each talker.
        noise, noise_gain: path below WHAM! and its gain.
        offsets: seconds of the talkers after the first; None where the CSV has none.
    """

    id: str
    where: str
    sources: tuple[tuple[str, float], ...]
    noise: str
    noise_gain: float
    offsets: Optional[tuple[float, ...]] = None


@dataclass(frozen=True)
class Rows:
    """The good rows of a CSV, (id, problem) of the others, and whether it has columns of offsets."""

    good: list[Row]
    bad: list[tuple[str, str]]
    has_offsets: bool = False


@dataclass(frozen=True)
class Speech:
    """A source: its file, its words, where speech begins and ends in it, and its length, in seconds."""

    wav: str
    text: str
    onset: float
    end: float
    duration: float


@dataclass(frozen=True)
class NoiseFile:
    """A noise recording, how many times as fast it is played (None: as it is), and its samples then."""

    wav: str
    speed: Optional[float]
    samples: int


def metadata_home(root: Pathlike) -> Path:
    """Return the folder that has ``Libri2Mix`` or ``Libri3Mix``: ``root`` or ``root/metadata``.

    Raises:
        UserError: neither does; says what is there and what should be.
    """
    for folder in (Path(root), Path(root) / "metadata"):
        if any((folder / f"Libri{n}Mix").is_dir() for n in (2, 3)):
            return folder
    raise absent(root, "metadata of LibriMix", "LIBRIMIX", "Libri2Mix/libri2mix_train-clean-100.csv …, "
                 "Libri3Mix/libri3mix_train-clean-100.csv …", f"git clone --depth 1 {URL} (its folder metadata)")


def wham_home(root: Pathlike) -> Path:
    """Return the folder that has ``tr``, ``cv`` or ``tt``: ``root`` or ``root/wham_noise``.

    Raises:
        UserError: neither does; says what is there and what should be.
    """
    for folder in (Path(root), Path(root) / "wham_noise"):
        if any((folder / name).is_dir() for name in ("tr", "cv", "tt")):
            return folder
    raise absent(root, "WHAM! noise", "WHAM", "tr/*.wav, cv/*.wav, tt/*.wav",
                 f"wham_noise.zip from {WHAM_URL}, unpacked")


def csv_path(home: Path, talkers: int, part: str) -> Path:
    """Return where the CSV of a part (a key of :data:`PARTS`) is, or should be."""
    return home / f"Libri{talkers}Mix" / f"libri{talkers}mix_{PARTS[part]}.csv"


def offset_csv(home: Path, folders: Sequence[Pathlike], talkers: int, part: str) -> Path:
    """Return the CSV with offsets, else the usual one.

    It is looked for in ``folders``, and in folders named ``Libri<n>Mix_offset`` or ``metadta_Libri<n>Mix_offset`` (as
    published; with and without the slip) in these and in and beside ``home``.
    """
    usual = csv_path(home, talkers, part)
    given = list(map(Path, folders))
    named = [parent / f"{prefix}Libri{talkers}Mix_offset" for parent in (*given, home, home.parent)
             for prefix in ("", "metadta_", "metadata_")]
    return next((folder / usual.name for folder in (*given, *named) if (folder / usual.name).exists()), usual)


def chosen_parts(home: Path, root: Pathlike, wanted: Optional[Sequence[str]],
                 talkers: Sequence[int]) -> tuple[dict[str, dict[int, str]], dict[str, str]]:
    """Return which of the wanted parts (None: all) are there, and what the others lack.

    Returns:
        (part -> number of talkers -> the CSV that it lacks, part -> what it lacks altogether).

    Raises:
        UserError: none is there.
    """
    there: dict[str, dict[int, str]] = {}
    missing: dict[str, str] = {}
    for part in wanted or PARTS:
        csvs = {n: path for n in talkers if not (path := csv_path(home, n, part)).exists()}
        lacking = [str(path) for path in csvs.values()] if len(csvs) == len(set(talkers)) else []
        if PARTS[part] not in librispeech.parts(root):
            lacking.append(f"{librispeech.home(root) / PARTS[part]} ({PARTS[part]}.tar.gz from {librispeech.URL})")
        if lacking:
            missing[part] = f"no {', no '.join(lacking)}"
        else:
            there[part] = {n: f"no {path}" for n, path in csvs.items()}
    if not there:
        raise UserError("nothing to prepare: " + "; ".join(f"{part} ({lack})" for part, lack in missing.items()))
    return there, missing


def read_rows(path: Path, talkers: int, limit: Optional[int] = None) -> Rows:
    """Read a CSV; the columns ``offset`` or ``offset1, offset2`` are read where it has them.

    Args:
        limit: the first so many rows alone.

    Raises:
        UserError: no such file, or columns are missing.
    """
    seen: set[str] = set()
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:  # spreadsheets put a byte order mark in front
            reader = csv.DictReader(f)
            offsets = _check_columns(path, reader.fieldnames or (), talkers)
            rows = Rows([], [], bool(offsets))
            for values in reader:
                if limit is not None and len(seen) >= limit:
                    break
                name, where = values["mixture_ID"] or "", f"{path}:{reader.line_num}"
                try:
                    if name in seen:
                        raise at(where, None, f"the mixture '{name}' is there twice", "keep one of the two lines")
                    rows.good.append(_row(name, where, values, talkers, offsets))
                except UserError as e:
                    rows.bad.append((name, str(e)))
                seen.add(name)
    except FileNotFoundError:
        raise at(path, None, "no such file", f"get it again: git clone --depth 1 {URL}") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise at(path, None, f"no CSV file ({e})", f"get it again: git clone --depth 1 {URL}") from None
    return rows


def _check_columns(path: Path, columns: Sequence[str], talkers: int) -> list[str]:
    """Return the columns that hold offsets, one for each talker after the first; none where there are none."""
    numbers = range(1, talkers + 1)
    needed = ["mixture_ID", *(f"source_{k}_{what}" for k in numbers for what in ("path", "gain")), "noise_path",
              "noise_gain"]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise at(path, 1, f"the columns {', '.join(missing)} are missing", "is it a CSV of this number of talkers, and "
                 f"not the one that ends in _info.csv? get it again: git clone --depth 1 {URL}")
    if talkers == 2 and "offset" in columns:
        return ["offset"]
    several = [f"offset{k}" for k in numbers[:-1]]
    return several if set(several) <= set(columns) else []


def _row(name: str, where: str, values: Mapping[str, Optional[str]], talkers: int, offsets: Sequence[str]) -> Row:
    def text(column: str) -> str:
        if not values[column]:
            raise at(where, None, f"'{column}' is empty; the line is cut off", "get the CSV again")
        return values[column]

    def number(column: str) -> float:
        try:
            value = float(text(column))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise at(where, None, f"'{column}' is {values[column]!r}, not a number", "get the CSV again")
        return value

    parts = tuple((text(f"source_{k}_path"), number(f"source_{k}_gain")) for k in range(1, talkers + 1))
    delays = tuple(number(column) for column in offsets)
    if any(delay < 0 for delay in delays):
        raise at(where, None, f"offsets {delays}: they cannot be negative", "correct the CSV")
    return Row(text("mixture_ID"), where, parts, text("noise_path"), number("noise_gain"), delays or None)


def find_speech(rows: Iterable[Row], root: Pathlike, prepared: Path, nj: int = 1) -> dict[str, "Speech | str"]:
    """Return path below LibriSpeech -> its words and where speech is in it, or what is wrong with it.

    Args:
        prepared: the folder of the data directories ``librispeech_<part>``; what they know of is not measured again.
    """
    home, there = librispeech.home(root), librispeech.parts(root)
    paths = sorted({path for row in rows for path, _ in row.sources})
    texts: dict[str, Mapping[str, str] | UserError] = {}
    known: dict[str, sources.Span] = {}
    for part in sorted({path.split("/")[0] for path in paths} & set(there)):
        known.update(_prepared_activity(prepared / librispeech.set_name(part)))
    found: dict[str, Speech | str] = {}
    words: dict[str, str] = {}
    for path in paths:
        part, folder, utt = path.split("/")[0], os.path.dirname(path), Path(path).stem
        if part not in there:
            found[path] = f"{home / part}: no such part; get {part}.tar.gz from {librispeech.URL}"
            continue
        if folder not in texts:
            texts[folder] = _transcript(home / folder)
        of_chapter = texts[folder]
        if isinstance(of_chapter, UserError):
            found[path] = str(of_chapter)
        elif utt not in of_chapter:
            found[path] = f"{home / path}: has no transcript in its chapter's *.trans.txt; unpack {part}.tar.gz again"
        else:
            words[path] = of_chapter[utt]
    wavs = {path: str(home / path) for path in words}
    measured = [wav for wav in wavs.values() if wav not in known or not os.path.exists(wav)]
    spans: dict[str, sources.Span | str] = {**known}
    spans.update(zip(measured, in_parallel(_activity, measured, nj, "LibriSpeech")))
    for path, wav in wavs.items():
        span = spans[wav]
        found[path] = span if isinstance(span, str) else Speech(wav, words[path], *span)
    return found


def _transcript(folder: Path) -> "dict[str, str] | UserError":
    try:
        return librispeech.transcript(folder)
    except UserError as e:
        return e


def _prepared_activity(folder: Path) -> dict[str, sources.Span]:
    """Return file -> (onset, end, duration) of a data directory of LibriSpeech; nothing where there is none.

    Its files state microseconds; a sample is 62.5 of them, so the exact times come back.
    """
    if not (folder / "segments").exists():
        return {}
    wav, durations = read_map(folder / "wav.scp"), read_numbers(folder / "reco2dur")
    exact = {rec: (start, end, durations[rec]) for rec, start, end in read_segments(folder / "segments").values()
             if rec in wav and rec in durations}
    return {wav[rec]: tuple(round(seconds * RATE) / RATE for seconds in span) for rec, span in exact.items()}


def _activity(wav: str) -> "tuple[float, float, float] | str":
    try:
        return sources.activity(wav)
    except UserError as e:
        return str(e)


def find_noise(rows: Iterable[Row], root: Pathlike, made: Path, tool: str, nj: int = 1) -> dict[str, "NoiseFile | str"]:
    """Return path below WHAM! -> its recording, or what is wrong with it.

    Args:
        made: the folder for training noise at another speed that the official script has not made and ``sox`` makes;
            with the tool ``soxr`` nothing is written.

    Raises:
        UserError: the program sox is missing, and it is needed.
    """
    home = wham_home(root)
    paths = sorted({row.noise for row in rows})
    if tool == "sox":
        if any(_original(home, path) is not None for path in paths):
            if shutil.which("sox") is None:
                raise no_sox()
            same_making(made, {"corpus": "wham", "version": 1, "root": str(home)})
    return dict(zip(paths, in_parallel(partial(_noise_file, home, made, tool), paths, nj, "WHAM! noise")))


def _original(home: Path, path: str) -> Optional[tuple[str, float]]:
    """Return (file, speed) of which a missing recording at another speed is made."""
    stem, suffix = os.path.splitext(path)
    speed = _SPEEDS.get(stem[-4:])
    if speed is None or (home / path).exists() or not (home / (stem[:-4] + suffix)).exists():
        return None
    return str(home / (stem[:-4] + suffix)), speed


def _noise_file(home: Path, made: Path, tool: str, path: str) -> "NoiseFile | str":
    try:
        original = _original(home, path)
        if original is None:
            return _as_it_is(home / path)
        wav, speed = original
        if tool == "soxr":
            return NoiseFile(wav, speed, int(_as_it_is(wav).samples / speed))
        if not (made / path).exists():
            samples, rate = read_audio(wav, channel=1)
            write_audio(made / path, change_speed(samples.astype(np.float64), speed, tool), rate)
        return _as_it_is(made / path)
    except UserError as e:
        return str(e)


def _as_it_is(wav: Pathlike) -> NoiseFile:
    found = sources.raw_info(wav)
    if found.rate != RATE:
        raise at(wav, None, f"has {found.rate} Hz; LibriMix is made of WHAM!'s noise at {RATE} Hz",
                 f"get wham_noise.zip from {WHAM_URL}")
    return NoiseFile(str(wav), None, found.frames)


def reaches(noise: NoiseFile, length: int) -> bool:
    """Say whether a noise is long enough, or can be repeated, for so many samples."""
    return noise.samples >= length or noise.samples > JOIN
