"""AliMeeting (M2MeT): Mandarin meetings, an 8-channel array and one headset a speaker.

Fact sheet. OpenSLR 119 (https://www.openslr.org/119/), CC BY-SA 4.0; archives ``Train_Ali_far.tar.gz``,
``Train_Ali_near.tar.gz``, ``Eval_Ali.tar.gz``, ``Test_Ali.tar.gz``; ``Test_2023_Ali`` came with M2MeT 2.0. 118.75 h:
104.75 (212 sessions) train, 4 (8) eval, 10 (20) test; 15-30 minutes and 2-4 speakers a session; overlap of the far
recordings 42.27 / 34.76 / 42.8 %. 16 kHz.

Layout. ``Train_Ali_far``, ``Train_Ali_near``, ``Eval_Ali/Eval_Ali_{far,near}``, ``Test_Ali/Test_Ali_{far,near}`` (also
without the folder around), each with ``audio_dir`` and ``textgrid_dir``. Far: ``R0015_M0151_MS002.wav`` of 8 channels
belongs to ``R0015_M0151.TextGrid`` (Test 2023: no ``_MS`` part, and ``.textgrid``); one tier a speaker, named
``N_SPK8013``, ``F_SPK0093`` or ``R0003_M0046_F_SPK0093``. Near: a wav and a TextGrid of one tier for each headset,
``R0003_M0046_F_SPK0093``; the tier's name (``c1``, ``S1``) says nothing, the file's name is the speaker's.

Sets ``{train,eval,test,test2023}_{far,near}``. A far recording is named by its first two parts, a near one by its whole
name; speakers are ``SPKxxxx`` in both, so the same utterances stand in both (in the Eval meetings: equal in time and
text); ``reco2session`` has the far recording of each headset. Channel: the first one, unless another is chosen. Text:
``zh_char`` (NFKC) or ``zh_char_official`` (what the challenge's ``text_normalize.pl`` does).

Known errors. The far recording ``R1021_M1947_MS116`` (26 minutes) is not the one that ``R1021_M1947.TextGrid`` (30
minutes) describes (AliMeeting issue 10): it is left out of ``train_far`` with a log line. A few utterances of train end
after their audio does: they are cut there, and logged.
"""

import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional, Sequence

from espnet_mt_llm.common import Pathlike, at
from espnet_mt_llm.corpora.meetings import (DEBUG_MEETINGS, Session, SetSummary, absent, files_by_id, interval_tiers,
                                            left_behind, only_file, prepare_sets, speech_of)
from espnet_mt_llm.text.normalise import check_profile

log = logging.getLogger(__name__)

URL = "https://www.openslr.org/119/"
ARCHIVES = "Train_Ali_far.tar.gz, Train_Ali_near.tar.gz, Eval_Ali.tar.gz and Test_Ali.tar.gz"
TREE = ("Train_Ali_far/{audio_dir,textgrid_dir}, Train_Ali_near/…, Eval_Ali/{Eval_Ali_far,Eval_Ali_near}/…, "
        "Test_Ali/{Test_Ali_far,Test_Ali_near}/…; one of them at least")
PARTS = {"train": "Train_Ali", "eval": "Eval_Ali", "test": "Test_Ali", "test2023": "Test_2023_Ali"}
FIELDS = ("far", "near")
PROFILES = ("zh_char", "zh_char_official")
MISMATCHED = ("R1021_M1947",)
_SPEAKER = re.compile(r"SPK[A-Za-z0-9]+")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Recording:
    """One far session, or one headset of a session, with its files as they were found."""

    id: str
    meeting: str
    folder: str
    audio: tuple[str, ...]
    textgrids: tuple[str, ...]


def prepare(root: Pathlike, out: Pathlike, *, channel: int = 1, profile: str = "zh_char",
            fields: Sequence[str] = FIELDS, nj: int = 1, debug: bool = False,
            allow_problems: bool = False) -> list[SetSummary]:
    """Make ``out/{train,eval,test,test2023}_{far,near}`` of the parts that are there.

    Args:
        channel: which one of the far array's eight, from 1.
        profile: ``zh_char`` or ``zh_char_official``.
        fields: ``far``, ``near`` or both.
        debug: two meetings a set only.

    Raises:
        UserError: no part is there, an unknown profile, or problems that are not allowed (``out/problems.tsv``).
    """
    check_profile(profile)
    sets, missing = {}, []
    for part in PARTS:
        for field in fields:
            folder = find_folder(Path(root), PARTS[part], field)
            if folder is None:
                missing.append(f"{part}_{field}")
                continue
            recordings = find_recordings(folder, field)
            if debug:
                kept = sorted({recording.meeting for recording in recordings})[:DEBUG_MEETINGS]
                recordings = [recording for recording in recordings if recording.meeting in kept]
            read = partial(read_far, channel=channel, profile=profile) if field == "far" else \
                partial(read_near, profile=profile)
            sets[f"{part}_{field}"] = (recordings, read)
    if not sets:
        raise absent(root, "AliMeeting", "ALIMEETING", TREE, f"{URL} ({ARCHIVES}), unpacked into one folder")
    if missing:
        print(f"not in {root}, so not prepared: {', '.join(missing)}", *left_behind(Path(out), missing), sep="\n")
    return prepare_sets(sets, out, nj, allow_problems)


def find_folder(root: Path, part: str, field: str) -> Optional[Path]:
    """Return the folder of a part and field, e.g. ``Eval_Ali`` and ``far``; nested, direct, or with ``_release``."""
    for name in (f"{part}_{field}", f"{part}_{field}_release"):
        for folder in (root / name, root / part / name):
            if any((folder / kind).is_dir() for kind in ("audio_dir", "textgrid_dir")):
                return folder
    return None


def find_recordings(folder: Path, field: str) -> list[Recording]:
    """Pair audio and TextGrids, by the first two parts of the name (far) or the whole name (near)."""
    name = _meeting if field == "far" else str
    audio = files_by_id(folder / "audio_dir", (".wav", ".flac"), name)
    textgrids = files_by_id(folder / "textgrid_dir", (".textgrid",), name)
    recordings = []
    for rec in sorted({*audio, *textgrids}):
        if field == "far" and rec in MISMATCHED:
            log.warning("%s: %s is left out: its TextGrid describes another recording (known error)", folder, rec)
            continue
        recordings.append(Recording(rec, _meeting(rec), str(folder), tuple(audio.get(rec, ())),
                                    tuple(textgrids.get(rec, ()))))
    return recordings


def read_far(recording: Recording, channel: int, profile: str) -> list[Session]:
    """Read a session: one tier a speaker."""
    audio, textgrid = _files(recording)
    spans: dict[str, list] = {}
    for tier in interval_tiers(textgrid):
        spans.setdefault(_speaker(tier.name, recording.meeting, textgrid), []).extend(tier.spans)
    return [Session(recording.id, audio, speech_of(textgrid, recording.id, spans, profile), channel)]


def read_near(recording: Recording, profile: str) -> list[Session]:
    """Read a headset: all tiers are the speaker of the file's name; one who never speaks is left out and logged."""
    audio, textgrid = _files(recording)
    tiers = interval_tiers(textgrid)
    named = recording.id if _SPEAKER.search(recording.id) or not tiers else tiers[0].name
    spans = {_speaker(named, recording.meeting, textgrid): [span for tier in tiers for span in tier.spans]}
    segments = speech_of(textgrid, recording.id, spans, profile)
    if not segments:
        log.warning("%s: no speech, so the headset is left out", textgrid)
        return []
    return [Session(recording.id, audio, segments, extra={"reco2session": recording.meeting})]


def _files(recording: Recording) -> tuple[str, str]:
    """Return the audio and the TextGrid.

    Raises:
        UserError: one of them is missing, or there are two.
    """
    folder = Path(recording.folder)
    return (only_file(recording.audio, "audio", folder / "audio_dir"),
            only_file(recording.textgrids, "TextGrid", folder / "textgrid_dir"))


def _meeting(stem: str) -> str:
    return "_".join(stem.split("_")[:2])


def _speaker(name: str, meeting: str, textgrid: str) -> str:
    """Return the ``SPK…`` of a tier's or file's name; any other name is known in its meeting only.

    Raises:
        UserError: a name without a letter or digit.
    """
    match = _SPEAKER.search(name)
    if match:
        return match.group()
    local = _NOT_IN_IDS.sub("_", name).strip("_")
    if not local:
        raise at(textgrid, None, f"the tier {name!r} names no speaker", "write SPKxxxx there")
    return f"{meeting}_{local}"
