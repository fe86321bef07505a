"""What the toy corpora share: pieces of real conversations, espeak-ng speech at their times, rooms, TextGrids."""

import re
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

import numpy as np
import soundfile
from scipy.signal import resample_poly

from espnet_mt_llm.common import Chance, derive_seed
from espnet_mt_llm.corpora.espeak import speak
from espnet_mt_llm.corpora.speech import fade, set_level, trim

RATE = 16000
VARIANTS = "m1 f1 m3 f2 m5 f4 m7 f3 m2 f5 m4 m8".split()
CHARACTERS_PER_SECOND = 0.0235  # that espeak-ng's Mandarin speaks for each word per minute asked for
TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Piece:
    """Some seconds of a real conversation: SegLST segments from 0 on, all of them whole."""

    seconds: int
    segments: list[dict]

    @property
    def speakers(self) -> list[str]:
        """Return the speakers, sorted."""
        return sorted({s["speaker"] for s in self.segments})

    def as_session(self, session: str, names: Mapping[str, str]) -> "Piece":
        """Return the same conversation under another session id, of the speakers in ``names`` under their new names."""
        return Piece(self.seconds, [{**s, "session_id": session, "speaker": names[s["speaker"]]}
                                    for s in self.segments if s["speaker"] in names])


def pieces(segments: Sequence[dict], seconds: int, speakers: int = 3, overlap: float = 0.15) -> Iterator[Piece]:
    """Cut a conversation into pieces and keep the lively ones: enough speakers, speech and overlap.

    What crosses a boundary is left out, as is what a speaker says into his own words.
    """
    for begin in range(0, int(max(s["end_time"] for s in segments)) - seconds, seconds):
        kept: dict[str, list[dict]] = {}
        for s in sorted(segments, key=lambda s: s["start_time"]):
            start, end = round(s["start_time"] - begin, 2), round(s["end_time"] - begin, 2)
            own = kept.setdefault(s["speaker"], [])
            if 0 < start < end < seconds and (not own or own[-1]["end_time"] <= start):
                own.append({**s, "start_time": start, "end_time": end})
        speaking = np.zeros(100 * seconds)
        for own in kept.values():
            for s in own:
                speaking[round(100 * s["start_time"]):round(100 * s["end_time"])] += 1
        found = sorted((s for own in kept.values() for s in own), key=lambda s: (s["start_time"], s["speaker"]))
        piece = Piece(seconds, found)
        if (len(piece.speakers) >= speakers and np.mean(speaking > 0) > 0.7
                and np.sum(speaking > 1) >= overlap * np.sum(speaking > 0)):
            yield piece


def say(text: str, speaker: str, language: str = "cmn", seconds: Optional[float] = None) -> np.ndarray:
    """Speak ``text`` with the one voice of ``speaker``: float (N,) at 16 kHz.

    Args:
        seconds: of the interval that the speech has to fill; it is spoken faster or slower, then cut or padded.
    """
    chance = Chance("toy voice", speaker)
    voice, pitch = f"{language}+{chance.pick(VARIANTS)}", 25 + chance.index(51)
    words = TAG.sub("", text)
    speed = 175
    if seconds is not None:
        speed = round(min(max(len(words) / seconds / CHARACTERS_PER_SECOND, 80), 450))
    spoken, rate = speak(voice, words, speed, pitch, pitch_range=50)
    common = gcd(rate, RATE)
    samples = resample_poly(spoken.astype(np.float32) / 32768, RATE // common, rate // common)
    samples = set_level(trim(samples.astype(np.float32, copy=False), RATE))
    if seconds is None:
        return samples
    samples = samples[:round(seconds * RATE)]
    return fade(np.pad(samples, (0, round(seconds * RATE) - len(samples))), RATE)


def say_piece(piece: Piece) -> dict[str, np.ndarray]:
    """Speak a conversation at its times: speaker -> float (N,), as long as the piece."""
    tracks = {speaker: np.zeros(piece.seconds * RATE, dtype=np.float32) for speaker in piece.speakers}
    for s in piece.segments:
        samples = say(s["words"], s["speaker"], seconds=s["end_time"] - s["start_time"])
        first = round(s["start_time"] * RATE)
        tracks[s["speaker"]][first:first + len(samples)] += samples[:len(tracks[s["speaker"]]) - first]
    return tracks


def record(tracks: Sequence[np.ndarray], channels: int, seed: str, noise: float = 0.001,
           gains: Optional[np.ndarray] = None) -> np.ndarray:
    """Put microphones before the speakers: tracks of (N,) -> float (N, channels), with delays, gains and some noise.

    Args:
        gains: (speakers, channels); None draws them.
    """
    chance = Chance("toy room", seed)
    length = max(map(len, tracks))
    generator = np.random.default_rng(derive_seed("toy noise", seed))
    heard = generator.standard_normal((channels, length), dtype=np.float32) * np.float32(noise)
    for k, track in enumerate(tracks):
        for c in range(channels):
            delay = chance.index(24)  # samples: half a metre
            gain = chance.uniform(0.25, 0.5) if gains is None else gains[k, c]
            heard[c, delay:len(track)] += np.float32(gain) * track[:len(track) - delay]
    return np.clip(heard, -0.99, 0.99).T


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    """Write float (N,) or (N, channels) as 16 bits, WAV or FLAC by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def textgrid(path: Path, tiers: Mapping[str, Sequence[tuple]], seconds: float,
             ends: Optional[Mapping[str, float]] = None, gaps: bool = True) -> None:
    """Write intervals (start, end, text) of each tier as Praat's long text.

    Args:
        ends: tier -> the end it states, where that is not the file's ``seconds``.
        gaps: write the empty intervals between, as Praat does.
    """
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {seconds} ",
             "tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for number, (name, spoken) in enumerate(tiers.items(), 1):
        end = (ends or {}).get(name, seconds)
        intervals = list(_with_gaps(spoken, end)) if gaps else list(spoken)
        lines += [f"    item [{number}]:", '        class = "IntervalTier" ', f'        name = "{name}" ',
                  "        xmin = 0 ", f"        xmax = {end} ", f"        intervals: size = {len(intervals)} "]
        for i, (start, stop, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{i}]:", f"            xmin = {start} ", f"            xmax = {stop} ",
                      f'            text = "{quoted}" ']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _with_gaps(spoken: Sequence[tuple], end: float) -> Iterator[tuple]:
    last = 0
    for start, stop, text in sorted(spoken):
        if start > last:
            yield last, start, ""
        yield start, stop, text
        last = stop
    if end > last:
        yield last, end, ""


def tier(piece: Piece, speaker: str) -> list[tuple]:
    """Return what a speaker says as intervals."""
    return [(s["start_time"], s["end_time"], s["words"]) for s in piece.segments if s["speaker"] == speaker]
