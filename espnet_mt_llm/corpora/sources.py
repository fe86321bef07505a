"""What corpora of read speech share: where speech begins and ends, and data directories of one file an utterance."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Mapping, Optional, Sequence, Union

import numpy as np

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.corpora.meetings import SetSummary, remove_set
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.corpora.speech import in_parallel
from espnet_mt_llm.datadir.audio import AudioInfo, info, read_audio
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance

FRAME = 0.01  # seconds
REACH = 2.0  # seconds that are read at either end at first
RANGE_DB = 35.0  # speech is at most this much below the loud frames …
ABOVE_NOISE_DB = 8.0  # … and at least this much above the quiet ones, …
LOUD_DB = 15.0  # … unless that would take what is nearly as loud as the loud frames for noise
CONTRAST_DB = 15.0  # less between loud and quiet frames means that speech or silence has not been met yet
RUN = 5  # frames in a row that make speech; a click has fewer
_DIGITAL_SILENCE = 1e-10  # power that is added to a frame: 10 dB below one step of 16 bits


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance in a file of its own."""

    id: str
    speaker: str
    audio: str
    text: str


Span = tuple[float, float, float]  # onset, end and duration in seconds


def raw_info(path: Pathlike) -> AudioInfo:
    """Return the header of a file of a corpus; one that is missing has to come from the corpus' archive again.

    Raises:
        UserError: missing or damaged.
    """
    if not os.path.exists(path):
        raise at(path, None, "no such audio file", "unpack the corpus' archive again")
    return info(path)


def activity(path: str) -> Span:
    """Return (onset, end, duration) in seconds of a clean recording, by an energy rule that needs no model.

    The power of frames of 10 ms, without their mean, is compared with the loud and the quiet ones (the 95th and the
    5th percentile): speech is what lies above ``max(loud - 35 dB, quiet + 8 dB)``, and at most 15 dB below loud. Onset
    is the first frame of the first run of five such frames, so a click does not count; the end is that of the last
    run. Only the first and the last two seconds are read; where they hold no speech or no silence, twice as much, and
    so on. A recording without any contrast (a tone, silence, speech in less than a twentieth of what is read) counts
    from its begin to its end.

    Raises:
        UserError: missing, damaged, or several channels.
    """
    found = raw_info(path)
    frame = round(found.rate * FRAME)
    total = found.frames // frame
    reach = round(REACH / FRAME)
    while 2 * reach < total:
        head = _powers(path, 0, reach, frame, found.rate)
        tail = _powers(path, total - reach, total, frame, found.rate)
        first, last = _first_run(head, tail), _first_run(tail[::-1], head)
        if first is not None and last is not None:
            return first * frame / found.rate, (total - last) * frame / found.rate, found.duration
        reach *= 2
    powers = _powers(path, 0, total, frame, found.rate) if total else np.zeros(0)
    first, last = _first_run(powers), _first_run(powers[::-1])
    if first is None or last is None:
        return 0.0, found.duration, found.duration
    # The piece at the end that is no whole frame belongs to the last one.
    end = found.duration if last == 0 else (total - last) * frame / found.rate
    return first * frame / found.rate, end, found.duration


def _powers(path: str, first: int, last: int, frame: int, rate: int) -> np.ndarray:
    """Return the power of the frames [first, last) in dB of full scale: float64 (last - first,)."""
    samples, _ = read_audio(path, first * frame / rate, last * frame / rate)
    return 10 * np.log10(np.var(samples.reshape(-1, frame), axis=1, dtype=np.float64) + _DIGITAL_SILENCE)


def _first_run(powers: np.ndarray, others: Sequence[float] = ()) -> Optional[int]:
    """Return the first frame of the first run of speech; None without one, or without contrast to tell it by.

    Args:
        powers: (N,) dB, in the order to look.
        others: dB of further frames, which count for the loud and quiet level.
    """
    ordered = np.sort(np.concatenate([powers, others]))
    if not len(ordered):
        return None
    loud, quiet = ordered[int(0.95 * (len(ordered) - 1))], ordered[int(0.05 * (len(ordered) - 1))]
    if loud - quiet < CONTRAST_DB:
        return None
    speech = powers > min(max(loud - RANGE_DB, quiet + ABOVE_NOISE_DB), loud - LOUD_DB)
    runs = np.convolve(speech, np.ones(RUN, dtype=int), "valid") == RUN if len(speech) >= RUN else np.zeros(1, bool)
    return int(np.argmax(runs)) if runs.any() else None


def prepare_set(name: str, groups: Mapping[str, Sequence[Recording]], out: Path, problems: Problems, nj: int = 1,
                trim: bool = True) -> SetSummary:
    """Write the data directory ``out/name``: one recording for each utterance.

    An utterance goes from the onset to the end of its speech, or over the whole file. Files that cannot be read are
    left out; they are one problem for each group.

    Args:
        groups: recordings by what they are reported by: a chapter, a speaker.
        trim: measure the activity.
    """
    paths = [[recording.audio for recording in recordings] for recordings in groups.values()]
    wav, utterances, reco2dur = {}, [], {}
    for group, spans in zip(groups, in_parallel(partial(_spans, trim), paths, nj, name)):
        with problems.of(name, group):
            _complain(spans)
        for recording, span in zip(groups[group], spans):
            if not isinstance(span, str):
                onset, end, duration = span
                wav[recording.id], reco2dur[recording.id] = recording.audio, duration
                utterances.append(Utterance(_utt(recording), recording.id, recording.speaker, onset, end,
                                            recording.text))
    if wav:
        DataDir(out / name, wav, utterances, reco2dur).write(out / name)
    else:
        remove_set(out / name)
    return SetSummary(name, len(wav), len(utterances), len({u.spk for u in utterances}), sum(reco2dur.values()))


def _spans(trim: bool, paths: Sequence[str]) -> list[Union[Span, str]]:
    """Measure files; a message instead of the times of one that cannot be read."""
    found: list[Union[Span, str]] = []
    for path in paths:
        try:
            duration = 0.0 if trim else raw_info(path).duration
            found.append(activity(path) if trim else (0.0, duration, duration))
        except UserError as e:
            found.append(str(e))
    return found


def _complain(spans: Sequence[Union[Span, str]]) -> None:
    bad = [span for span in spans if isinstance(span, str)]
    if bad:
        raise UserError(f"{len(bad)} of {len(spans)} recordings cannot be read, the first is {bad[0]}")


def _utt(recording: Recording) -> str:
    """Name the utterance as its recording, with the speaker in front where the name does not begin so."""
    own = recording.id.startswith(recording.speaker)
    return recording.id if own else f"{recording.speaker}-{recording.id}"
