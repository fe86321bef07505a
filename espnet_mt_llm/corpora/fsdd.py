"""Free Spoken Digit Dataset: digit strings of one speaker each, made from its single digits.

Fact sheet. 3,000 recordings of English digits: 6 speakers x 10 digits x 50 takes, 8 kHz mono, 16 bits, 21.9 minutes,
CC BY-SA 4.0, https://github.com/Jakobovski/free-spoken-digit-dataset. Two layouts are read and give the same samples:
the original ``recordings/{digit}_{speaker}_{take}.wav`` and ``flac/{speaker}-{digit}-{take}.flac``.

Splits. The official test set is takes 0-4. Of the others, 5-7 are held out for development (our choice, the corpus has
no such set) and 8-49 train. All six speakers are in every split: what is unseen in test are the takes.

Strings. 3-5 takes of one speaker, drawn at random within the split, with gaps of 0.05-0.25 s of silence; the speakers
take turns. Each take is trimmed of silence, resampled to 16 kHz and set to -26 dB RMS (their levels differ by 40 dB).
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Chance, Pathlike, UserError, at
from espnet_mt_llm.corpora import speech
from espnet_mt_llm.datadir.audio import duration, read_audio, write_audio
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance, make_utt_id

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TAKES = {"train": range(8, 50), "dev": range(5, 8), "test": range(0, 5)}
NUM_STRINGS = {"train": 4000, "dev": 200, "test": 300}
DEBUG_NUM_STRINGS = {"train": 60, "dev": 12, "test": 12}
LENGTHS = (3, 4, 5)
GAP = (0.05, 0.25)
_VERSION = 1  # of the making; another one makes the recordings again
_LAYOUTS = (("recordings", re.compile(r"(?P<digit>\d)_(?P<speaker>[A-Za-z0-9]+)_(?P<take>\d+)\.wav")),
            ("flac", re.compile(r"(?P<speaker>[A-Za-z0-9]+)-(?P<digit>\d)-(?P<take>\d+)\.flac")))


@dataclass(frozen=True)
class _String:
    """One recording to make: the takes and the gap after each but the last, in samples."""

    out: str
    takes: tuple[str, ...]
    gaps: tuple[int, ...]
    rate: int


def prepare(root: Pathlike, out: Pathlike, num_strings: Optional[Mapping[str, int]] = None, seed: int = 1,
            rate: int = 16000, nj: int = 1) -> dict[str, int]:
    """Make ``out/{train,dev,test}`` with their audio; return set -> number of strings.

    A second run gives the same bytes and makes only what is missing.

    Raises:
        UserError: the corpus is not at ``root``, or a speaker has no takes for a split.
    """
    takes = find_takes(root)
    numbers = dict(num_strings or NUM_STRINGS)
    for name, number in numbers.items():
        folder = Path(out) / name / "audio"
        speech.same_making(folder, {"corpus": "fsdd", "version": _VERSION, "seed": seed, "rate": rate,
                                    "root": str(root), "takes": len(takes)})
        texts, strings = draw_strings(takes, name, number, folder, seed, rate)
        missing = [s for s in strings if not Path(s.out).exists()]
        speech.in_parallel(make_string, missing, nj, f"fsdd {name}")
        _write_data_dir(strings, texts, Path(out) / name)
    return numbers


def find_takes(root: Pathlike) -> dict[tuple[str, int, int], str]:
    """Return (speaker, digit, take) -> file, from either layout.

    Raises:
        UserError: no recordings below ``root``, or a take that occurs twice; says how to get the corpus.
    """
    root = Path(root)
    for folder, pattern in _LAYOUTS:
        found: dict[tuple[str, int, int], str] = {}
        for path in sorted((root / folder).glob("*")):
            match = pattern.fullmatch(path.name)
            if match:
                key = (match["speaker"], int(match["digit"]), int(match["take"]))
                if key in found:
                    raise at(path, None, f"the same take as {found[key]}", "keep one of the two")
                found[key] = str(path)
        if found:
            return found
    raise at(root, None, "no Free Spoken Digit Dataset here (neither recordings/*.wav nor flac/*.flac)",
             f"get it: git clone --depth 1 {URL} {root}   or set FSDD= in db.sh to where it is")


def draw_strings(takes: Mapping[tuple[str, int, int], str], name: str, number: int, folder: Path, seed: int,
                 rate: int) -> tuple[list[tuple[str, str]], list[_String]]:
    """Draw the strings of a split: [(speaker, text)] and what to make; the first ones do not depend on ``number``."""
    speakers = sorted({speaker for speaker, _, _ in takes})
    pools = {speaker: sorted(key for key in takes if key[0] == speaker and key[2] in TAKES[name])
             for speaker in speakers}
    for speaker, pool in pools.items():
        if not pool:
            raise UserError(f"the speaker '{speaker}' has none of the takes {TAKES[name][0]}-{TAKES[name][-1]} of the "
                            f"split '{name}'; the copy of the corpus is not complete: git clone --depth 1 {URL}")
    texts, strings = [], []
    for index in range(number):
        speaker = speakers[index % len(speakers)]
        chance = Chance(seed, "fsdd", name, index)
        chosen = [chance.pick(pools[speaker]) for _ in range(chance.pick(LENGTHS))]
        gaps = tuple(round(chance.uniform(*GAP) * rate) for _ in chosen[1:])
        texts.append((speaker, " ".join(WORDS[digit] for _, digit, _ in chosen)))
        out = str(folder / f"fsdd_{name}_{index:05d}.flac")
        strings.append(_String(out, tuple(takes[key] for key in chosen), gaps, rate))
    return texts, strings


def make_string(string: _String) -> None:
    """Join the takes of a string and write it."""
    pieces: list[np.ndarray] = []
    for path, gap in zip(string.takes, string.gaps + (0,)):
        pieces += [load_take(path, string.rate), np.zeros(gap, dtype=np.float32)]
    write_audio(string.out, speech.whole_centiseconds(np.concatenate(pieces), string.rate), string.rate)


@functools.lru_cache(maxsize=4096)
def load_take(path: str, rate: int) -> np.ndarray:
    """Read a take: trimmed, faded, at -26 dB RMS, resampled to ``rate``; float32 (N,)."""
    from math import gcd

    from scipy.signal import resample_poly

    samples, found = read_audio(path)
    samples = speech.fade(speech.trim(samples, found), found)
    if found != rate:
        common = gcd(found, rate)
        samples = resample_poly(samples, rate // common, found // common).astype(np.float32, copy=False)
    return speech.set_level(samples)


def _write_data_dir(strings: Sequence[_String], texts: Sequence[tuple[str, str]], out: Path) -> None:
    wav, utterances, reco2dur = {}, [], {}
    for string, (speaker, text) in zip(strings, texts):
        rec, end = Path(string.out).stem, duration(string.out)
        wav[rec], reco2dur[rec] = string.out, end
        utterances.append(Utterance(make_utt_id(speaker, rec, 0, end), rec, speaker, 0.0, end, text))
    DataDir(out, wav, utterances, reco2dur).write(out)
