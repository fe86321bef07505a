"""AISHELL-5: Mandarin conversations in a moving car.

Fact sheet. More than 100 hours, 165 speakers, 16 kHz, 16 bits: train 94 h (568 sessions), dev 3.3 h, eval1 3.3 h, eval2
3.58 h (18 sessions each), 2-4 speakers a session of about 10 minutes, and 40 h of in-car noise. OpenSLR 159, CC BY-SA
4.0; Dai et al., Interspeech 2025, arXiv 2505.23036. Users of the archives count more audio than the paper: dev 3.93 h,
eval1 3.57 h, eval2 3.89 h, two speakers in every session, speech in about 80 % of the time. The AISHELL5-Eval set of
speaker-attributed recognition papers is eval2 (3.58 h): ``aishell5_eval`` here.

Channels. Far: one microphone above each door handle, four files of their own (seat 1 driver, 2 front passenger, 3 rear
right, 4 rear left). Near: a headset for each speaker. Echo: left and right of the car stereo, where it was on.

Layout. ``train dev eval_track1 eval_track2`` in the baseline, ``train Dev Eval1 Eval2`` in the archives; below,
``<session>/DX0{1-4}C01.wav`` (far), ``DX05C01.wav DX06C01.wav`` (echo), ``DA0{1-4}.wav`` (near; the number is the seat)
and TextGrids: ``DA0x.TextGrid`` with one tier, ``DX0xC01.TextGrid`` with a tier for each speaker, the same four times.
``noise/<scene>/noise_DX0{1-4}C01.wav``. Session numbers repeat in every set, so recordings are ``<set>_<session>``.
A scenario code has the windows (N1-N3 open, M closed), the car's state (A-L) and 1 day or 0 night; the mapping that the
baseline's README names is not published.

Known errors. Near audio is promised for train alone and found in others; either is fine. The TextGrids of eval_track1
may have times without text: then eval1 is for diarization alone, with empty transcripts. Intervals like ``*情景三。``
are scenario prompts; their words are kept.
"""

import logging
import os
import re
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Iterator, Mapping, Optional

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.corpora.meetings import (DEBUG_MEETINGS, Session, SetSummary, absent, left_behind, prepare_set,
                                            speech_of, table, words_of)
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.datadir.audio import info
from espnet_mt_llm.datadir.maps import read_text, write_map
from espnet_mt_llm.datadir.textgrid import Tier, read_tiers

log = logging.getLogger(__name__)

URL = "https://www.openslr.org/159"
SEATS = (1, 2, 3, 4)
_FOLDERS = {"train": "train", "dev": "dev", "eval1": "eval1", "eval_track1": "eval1", "eval2": "eval2",
            "eval_track2": "eval2", "noise": "noise"}
_FILE = re.compile(r"DA0[1-4]|DX0[1-6]C01")
_AUDIO = ("", "wav", "flac")  # the baseline's README lists the far files without an extension
_SPEAKER = re.compile(r"[A-Za-z]{1,4}\d{3,}")
_GAP = 1e-3  # seconds between intervals that do not touch


@dataclass(frozen=True)
class Key:
    """A session to read: its folder, the recording's id, and what ``spk_zone_id`` says of it (speaker -> seat)."""

    id: str
    folder: str
    rec: str
    zones: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """What lies in a session's folder: ``DA01``, ``DX01C01`` … -> path."""

    audio: Mapping[str, str]
    grids: Mapping[str, str]


@dataclass(frozen=True)
class Voice:
    """A speaker's intervals in a TextGrid; ``seat`` is None where the file does not tell.

    ``named`` says that the speaker is known beyond this session, by the tier's name or by the seat.
    """

    speaker: str
    spans: list[tuple[float, float, str]]
    where: str
    seat: Optional[int]
    named: bool


def prepare(root: Pathlike, out: Pathlike, *, channel: int = 1, profile: str = "zh_char",
            spk_zone_id: Optional[Pathlike] = None, nj: int = 1, debug: bool = False,
            allow_problems: bool = False) -> list[SetSummary]:
    """Make ``out/{train,dev,eval1,eval2}_far``, ``…_near`` where there is near audio, ``aishell5_eval`` and ``noise``.

    ``wav.scp`` of a far set is the microphone ``channel``; ``far<K>.scp`` has all of them, ``echo1.scp`` and
    ``echo2.scp`` the left and right echo reference where recorded, ``reco2seats`` lines like ``train_387 P0135=2``;
    ``reco2session`` has the far recording of each headset: ``train_387_DA02 train_387``.

    Args:
        channel: far microphone, which is also a seat: 1-4.
        spk_zone_id: the baseline's list (``<session> <speaker> <seat>``); gives seats, or checks them.
        debug: only the first sessions of each set.

    Raises:
        UserError: no AISHELL-5 at ``root``, or sessions with problems (``problems.tsv``) that are not allowed.
    """
    if channel not in SEATS:
        raise UserError(f"there is no far microphone {channel}; --channel is one of 1, 2, 3, 4")
    folders = find_sets(root)
    zones = read_zones(spk_zone_id) if spk_zone_id else {}
    problems, out, summaries = Problems(out), Path(out), []
    for name, folder in folders.items():
        if name == "noise":
            continue
        keys = [_key(name, folder, session, zones.get(session, []))
                for session in _sessions(folder)[:DEBUG_MEETINGS if debug else None]]
        # Of eval1 alone it is known that there are copies without text; elsewhere text that is missing is a mistake.
        transcribed = name != "eval1" or any(_has_words(key, profile) for key in keys)
        near = [key for key in keys if any(stem.startswith("DA") for stem in list_files(key.folder).audio)]
        read = partial(read_far, channel=channel, profile=profile, transcribed=transcribed)
        summaries.append(prepare_set(f"{name}_far", keys, read, out, problems, nj))
        if near:
            read = partial(read_near, profile=profile, transcribed=transcribed)
            summaries.append(prepare_set(f"{name}_near", near, read, out, problems, nj))
        if not transcribed:
            log.warning("%s: its TextGrids have no text; transcripts are empty, it is for diarization alone", name)
    if "eval2" in folders:
        try:
            _link(out / "aishell5_eval", "eval2_far")
        except UserError as e:
            problems.add("eval2_far", "aishell5_eval", str(e))
    if "noise" in folders:
        _list_noise(folders["noise"], out / "noise", problems)
    elif (out / "noise" / "noise.scp").exists():
        log.warning("no noise in %s; the list of an earlier run stays: rm -r %s", root, out / "noise")
    made = {summary.name for summary in summaries}
    names = [f"{name}_{kind}" for name in dict.fromkeys(_FOLDERS.values()) for kind in ("far", "near")]
    print(table(summaries), *left_behind(out, [name for name in names if name not in made]), sep="\n", flush=True)
    problems.finish(allow_problems)
    return summaries


def find_sets(root: Pathlike) -> dict[str, str]:
    """Return set (train, dev, eval1, eval2, noise) -> its folder, whatever the naming, one level deeper as well.

    Raises:
        UserError: there is none, or one set twice.
    """
    found: dict[str, str] = {}
    for path in _folders(root) + [deeper for path in _folders(root) for deeper in _folders(path)]:
        name = _FOLDERS.get(os.path.basename(path).lower())
        if name is None or not _holds_set(path, name):
            continue
        if name in found:
            raise at(path, None, f"the set {name} is there twice, the other one is {found[name]}",
                     "move one of them away")
        found[name] = path
    if not set(found) - {"noise"}:
        raise absent(root, "AISHELL-5", "AISHELL5",
                     "train/001/DX01C01.wav …, and so on for dev, eval1 or eval_track1, eval2 or eval_track2, noise, "
                     "in upper or lower case",
                     f"train.tar.gz, Dev.tar.gz, Eval1.tar.gz, Eval2.tar.gz and noise.tar.gz from {URL}, unpacked")
    return {name: found[name] for name in dict.fromkeys(_FOLDERS.values()) if name in found}


def read_zones(path: Pathlike) -> dict[str, list[dict[str, int]]]:
    """Read ``spk_zone_id.txt``: session -> speaker -> seat, for each session of this number, in the list's order.

    The official list has the 568 sessions of train, and after them 18 of another set, whose numbers it had already.

    Raises:
        UserError: with the line: other columns, or a seat that is taken.
    """
    zones: dict[str, list[dict[str, int]]] = {}
    last = ""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 3 or columns[2] not in map(str, SEATS):
            raise at(path, number, f"found '{line}'", "expected '<session> <speaker> <seat 1-4>'")
        session, speaker, seat = columns[0], columns[1], int(columns[2])
        if session != last:
            zones.setdefault(session, []).append({})
        last, seats = session, zones[session][-1]
        if speaker in seats or seat in seats.values():
            raise at(path, number, f"the session {session} has the speaker {speaker} or the seat {seat} twice",
                     "take the official list")
        seats[speaker] = seat
    return zones


def list_files(folder: Pathlike) -> Files:
    """List audio and TextGrids of a session."""
    audio, grids = {}, {}
    for name in sorted(os.listdir(folder)):
        stem, _, suffix = name.upper().partition(".")
        if _FILE.fullmatch(stem) and suffix.lower() in (*_AUDIO, "textgrid"):
            (grids if suffix == "TEXTGRID" else audio)[stem] = os.path.join(folder, name)
    return Files(audio, grids)


def read_far(key: Key, channel: int, profile: str, transcribed: bool) -> list[Session]:
    """Read a session as the far microphones heard it.

    Raises:
        UserError: no audio, no microphone ``channel``, no or unreadable TextGrids, no speech. Another microphone's file
            that is damaged is logged and left out.
    """
    files = list_files(key.folder)
    far = {seat: files.audio[f"DX0{seat}C01"] for seat in SEATS if f"DX0{seat}C01" in files.audio}
    if not far:
        raise at(key.folder, None, "no far audio (DX01C01.wav … DX04C01.wav)", "unpack the archive again")
    if channel not in far:
        raise at(key.folder, None, f"no DX0{channel}C01.wav, only the far microphones {', '.join(map(str, far))}",
                 "choose another --channel, or unpack the archive again")
    others = {f"far{seat}.scp": path for seat, path in far.items()}
    others.update({f"echo{side}.scp": files.audio[f"DX0{4 + side}C01"] for side in (1, 2)
                   if f"DX0{4 + side}C01" in files.audio})
    extra = {name: path for name, path in others.items() if path == far[channel] or _readable(path, name)}
    voices, seats = _annotation(key, files)
    segments = [s for voice in voices for s in _speech(voice, key.rec, profile, transcribed)]
    if not segments:
        raise at(key.folder, None, "no speech in its TextGrids", "unpack the archive again")
    if seats:
        extra["reco2seats"] = " ".join(f"{speaker}={seats[speaker]}" for speaker in sorted(seats))
    return [Session(key.rec, far[channel], segments, extra=extra)]


def _readable(path: str, name: str) -> bool:
    """Say whether a recording beside the chosen one can be read, and log it where not."""
    try:
        info(path)
    except UserError as e:
        log.warning("%s; the session is used without it, it is left out of %s", e, name)
        return False
    return True


def read_near(key: Key, profile: str, transcribed: bool) -> list[Session]:
    """Read a session's headsets, one recording each; one without speech is left out with a log line.

    A headset without TextGrid gets the far transcript of the speaker who has its seat by ``spk_zone_id``; without
    that it is left out with a warning.

    Raises:
        UserError: a TextGrid whose headset is missing, or what cannot be read.
    """
    files = list_files(key.folder)
    near = _voices(key, files, "DA")
    sessions, unknown = [], []
    for seat in SEATS:
        stem = f"DA0{seat}"
        if stem in files.grids and stem not in files.audio:
            raise at(files.grids[stem], None, f"there is no {stem}.wav beside it", "unpack the archive again")
        if stem not in files.audio:
            continue
        rec = f"{key.rec}_{stem}"
        voices = [v for v in near if v.seat == seat]
        if not voices and seat in key.zones.values():
            voices = [v for v in _voices(key, files, "DX") if key.zones.get(v.speaker) == seat]
        segments = [s for voice in voices for s in _speech(voice, rec, profile, transcribed)]
        if segments:
            seats = " ".join(f"{speaker}={seat}" for speaker in sorted({s["speaker"] for s in segments}))
            sessions.append(Session(rec, files.audio[stem], segments,
                                    extra={"reco2seats": seats, "reco2session": key.rec}))
        elif stem in files.grids or seat in key.zones.values():
            log.info("%s: nobody is annotated on this seat, so it is left out", files.audio[stem])
        else:
            unknown.append(stem)
    if unknown:
        log.warning("%s: headsets without a TextGrid are left out: %s; unpack the archive again, or say who sits where "
                    "(--spk_zone_id)", key.folder, ", ".join(unknown))
    return sessions


def _annotation(key: Key, files: Files) -> tuple[list[Voice], dict[str, int]]:
    """Return the speakers of a session and the seats that are known.

    The far TextGrids come first: they are those of the whole car. The near ones add who is missing there, and stand in
    for far ones that are absent or do not name their speakers; where these are there, near ones that cannot be read
    are logged and left out.
    """
    far = _voices(key, files, "DX")
    try:
        near = _voices(key, files, "DA")
    except UserError as e:
        if not far:
            raise
        log.warning("%s; the far TextGrids are used without the near ones", e)
        near = []
    if not far and not near:
        raise at(key.folder, None, "no TextGrid (DX01C01.TextGrid, or DA01.TextGrid …)", "unpack the archive again")
    voices = far
    if not far or (any(v.named for v in near) and not any(v.named for v in far)):
        voices = near
    there = {v.speaker for v in voices}
    for voice in near:
        if voice.named and voice.speaker not in there and any(text.strip() for _, _, text in voice.spans):
            log.warning("%s: %s is missing in the far TextGrids and is added", voice.where, voice.speaker)
            voices = voices + [voice]
    seats = {v.speaker: v.seat for v in far + near if v.seat is not None}
    for speaker in sorted(key.zones.keys() & {v.speaker for v in voices}):
        seat = seats.setdefault(speaker, key.zones[speaker])
        if seat != key.zones[speaker]:
            log.warning("%s: %s has the seat %d in the folder and %d in spk_zone_id; the folder's is taken", key.folder,
                        speaker, seat, key.zones[speaker])
    if key.zones and not key.zones.keys() & {v.speaker for v in voices}:
        log.warning("%s: none of the speakers that spk_zone_id has (%s) is in its TextGrids", key.folder,
                    ", ".join(sorted(key.zones)))
    return voices, {speaker: seats[speaker] for speaker in seats if speaker in {v.speaker for v in voices}}


def _voices(key: Key, files: Files, kind: str) -> list[Voice]:
    """Read the near (``DA``) or far (``DX``) TextGrids of a session; far ones that repeat an earlier one are skipped.

    Raises:
        UserError: unreadable, or one speaker on two seats.
    """
    grids = {seat: files.grids[stem] for seat in SEATS for stem in (f"DA0{seat}", f"DX0{seat}C01")
             if stem.startswith(kind) and stem in files.grids}
    contents = {seat: Path(path).read_bytes() for seat, path in grids.items()}
    voices: dict[str, Voice] = {}
    for seat, path in grids.items():
        if kind == "DX" and contents[seat] in [contents[s] for s in grids if s < seat]:
            continue
        tiers = [tier for tier in read_tiers(path) if not tier.points]
        own = kind == "DA" or (len(tiers) == 1 and list(contents.values()).count(contents[seat]) == 1)
        here: dict[str, Voice] = {}
        for number, tier in enumerate(tiers, 1):
            speaker, named = _speaker(key, tier.name.strip(), seat if own else None, number)
            here.setdefault(speaker, Voice(speaker, [], path, seat if own else None, named)).spans.extend(tier.spans)
        for speaker, voice in here.items():
            if voices.setdefault(speaker, voice) is not voice:
                _compare(voices[speaker], voice, kind)
    return list(voices.values())


def _compare(earlier: Voice, voice: Voice, kind: str) -> None:
    """Decide on a speaker who was found in an earlier TextGrid already."""
    if kind == "DA":
        raise at(voice.where, None, f"the speaker {voice.speaker} is in {os.path.basename(earlier.where)} too",
                 "one of the two tiers has the wrong name: correct it, or unpack the archive again")
    if voice.spans != earlier.spans:
        log.warning("%s: the intervals of %s are not those of %s, which are taken", voice.where, voice.speaker,
                    os.path.basename(earlier.where))


def _speaker(key: Key, name: str, seat: Optional[int], number: int) -> tuple[str, bool]:
    """Return a tier's speaker, and whether the name holds beyond this session."""
    if _SPEAKER.fullmatch(name):
        return name, True
    for speaker, zone in key.zones.items():
        if zone == seat:
            return speaker, True
    return (f"{key.rec}_spk{number}" if seat is None else f"{key.rec}_seat{seat}"), False


def _speech(voice: Voice, rec: str, profile: str, transcribed: bool) -> list[dict]:
    """Return a speaker's segments; without words in a set that has no transcripts.

    Raises:
        UserError: a tier without text whose intervals fill the time without gaps: where is the speech?
    """
    if transcribed:
        return speech_of(voice.where, rec, {voice.speaker: voice.spans}, profile)
    spans = sorted(voice.spans)
    marked = [span for span in spans if span[2].strip()]
    if not marked and spans:
        filled = spans[0][0] < _GAP and all(after[0] - before[1] < _GAP for before, after in zip(spans, spans[1:]))
        if filled and len(spans) > 1:
            raise at(voice.where, None, f"the tier of {voice.speaker} has neither text nor gaps, so nothing tells its "
                     "speech from silence", "get a copy with text or with the intervals of speech alone")
        marked = [] if filled else spans  # one interval from begin to end: an empty tier
    return [{"session_id": rec, "speaker": voice.speaker, "start_time": max(start, 0.0), "end_time": end, "words": ""}
            for start, end, _ in marked if end > start]


def _key(name: str, folder: str, session: str, listed: list[dict[str, int]]) -> Key:
    """Name a session; outside of train, the list's entry is the one that has a speaker of its TextGrids."""
    key = Key(session, os.path.join(folder, session), f"{name}_{session}")
    if name == "train":
        return replace(key, zones=listed[0]) if listed else key
    names = {tier.name.strip() for tier in _tiers(key)} if listed else set()
    return next((replace(key, zones=zones) for zones in listed[1:] if zones.keys() & names), key)


def _has_words(key: Key, profile: str) -> bool:
    return any(words_of(text, profile) for tier in _tiers(key) for _, _, text in tier.spans)


def _tiers(key: Key) -> Iterator[Tier]:
    """Yield the tiers of a session, for a look at the whole set; what is wrong with them is found later."""
    for path in list_files(key.folder).grids.values():
        try:
            yield from read_tiers(path)
        except UserError:
            log.debug("%s: cannot be read", path)


def _link(path: Path, target: str) -> None:
    """Make a relative link, atomically, where there is none to this target.

    Raises:
        UserError: something else has its name.
    """
    if path.is_symlink() and os.readlink(path) == target or not (path.parent / target).is_dir():
        return
    if path.is_dir() and not path.is_symlink():
        raise at(path, None, f"a folder stands where a link to {target} belongs, a copy of it perhaps",
                 f"rm -r {path}")
    new = path.with_name(f".tmp.{path.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, path)


def _list_noise(folder: str, out: Path, problems: Problems) -> None:
    """Write ``noise.scp``: every recording below the folder whose header is good."""
    paths = sorted(os.path.join(base, name) for base, _, names in os.walk(folder) for name in names
                   if name.lower().endswith((".wav", ".flac")) and not name.startswith("."))
    scp: dict[str, str] = {}
    for path in paths:
        with problems.of("noise", os.path.relpath(path, folder)):
            info(path)
            key = re.sub(r"[^A-Za-z0-9_.-]+", "_", os.path.splitext(os.path.relpath(path, folder))[0])
            if key in scp:
                raise at(path, None, f"gets the same id '{key}' as {scp[key]}", "rename one of the two")
            scp[key] = path
    if scp:
        write_map(out / "noise.scp", scp)
    log.info("noise: %d recordings", len(scp))


def _folders(path: Pathlike) -> list[str]:
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir())


def _holds_set(path: str, name: str) -> bool:
    """Tell a set from the folder around it that some archives have: sessions are numbered, scenes of noise are not."""
    if name == "noise":
        return not any(os.path.basename(inner).lower() == "noise" for inner in _folders(path))
    return bool(_sessions(path))


def _sessions(folder: Pathlike) -> list[str]:
    return [name for name in map(os.path.basename, _folders(folder)) if name.isdigit()]
