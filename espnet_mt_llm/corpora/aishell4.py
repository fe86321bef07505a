"""AISHELL-4: Mandarin meetings in rooms of three sizes, recorded by an 8-channel circular array.

Fact sheet. OpenSLR 111 (https://www.openslr.org/111/), CC BY-SA 4.0; archives ``train_L.tar.gz``, ``train_M.tar.gz``,
``train_S.tar.gz``, ``test.tar.gz``. 211 sessions of about half an hour, 120 h: train 191 (30 large, 108 medium, 53
small; 5 rooms, 107.5 h), test 20 (12.72 h). 4-8 speakers a session, 36 in train, 25 in test; overlap 19 % in train,
9 % in test. 16 kHz.

Layout. ``train_L``, ``train_M``, ``train_S``, ``test``, each with ``wav/20200707_L_R001S01C01.flac`` (8 channels) and
``TextGrid/20200707_L_R001S01C01.{TextGrid,rttm}``; one tier a speaker (``001-M``).

Sets ``train_L train_M train_S dev test``, and ``train``, the first three together. The corpus has no dev set: whole
sessions of train are taken, by a fixed list (``local/dev_sessions.txt`` of the recipe gives the reason). Speaker ids
are local to a session, the same name is another person elsewhere, so ours are ``<session>_<tier>``. The TextGrid is
the truth; the RTTM is compared with it, speaker by speaker, and what they disagree in is logged.

Known errors. In ``20200622_M_R002S07C01`` and ``20200710_M_R002S06C01`` the tiers end before the file does (at 2104.492
of 2187.436 s, and at 1836.689 of 1846.773 s; AISHELL-4 issue 11), so that strict readers refuse them: the times of
the intervals are used, which is logged. Most recordings begin with 5-95 s of preparations (a few words are annotated).
"""

import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Iterable, Mapping, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.corpora.meetings import (DEBUG_MEETINGS, Session, SetSummary, absent, files_by_id, interval_tiers,
                                            left_behind, make_sets, only_file, remove_set, speech_of, table)
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.datadir.maps import read_text
from espnet_mt_llm.datadir.operations import combine
from espnet_mt_llm.datadir.rttm import read_rttm
from espnet_mt_llm.datadir.textgrid import Tier
from espnet_mt_llm.text.normalise import check_profile

log = logging.getLogger(__name__)

URL = "https://www.openslr.org/111/"
ARCHIVES = "train_L.tar.gz, train_M.tar.gz, train_S.tar.gz and test.tar.gz"
TREE = "train_L, train_M, train_S and test (one of them at least), each with wav/*.flac and TextGrid/*.{TextGrid,rttm}"
TRAIN = ("train_L", "train_M", "train_S")
PARTS = (*TRAIN, "test")
PROFILES = ("zh_char", "zh_char_official")
# Times of TextGrid and RTTM that differ by less, in seconds, agree.
TOLERANCE = 0.05
# The end that the file, and each tier, announces; in the long and in the short form.
_FILE_END = re.compile(r'"TextGrid"\s+(?:xmin\s*=\s*)?\S+\s+(?:xmax\s*=\s*)?(\d+\.?\d*)')
_TIER_END = re.compile(r'"IntervalTier"\s+(?:name\s*=\s*)?"[^"]*"\s+'
                       r"(?:xmin\s*=\s*)?\S+\s+(?:xmax\s*=\s*)?(\d+\.?\d*)")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_.-]+")

Span = tuple[float, float]


@dataclass(frozen=True)
class Meeting:
    """One session with its files as they were found."""

    id: str
    part: str
    folder: str
    audio: tuple[str, ...]
    textgrids: tuple[str, ...]
    rttms: tuple[str, ...]


def prepare(root: Pathlike, out: Pathlike, *, dev_sessions: Pathlike, channel: int = 1, profile: str = "zh_char",
            nj: int = 1, debug: bool = False, allow_problems: bool = False) -> list[SetSummary]:
    """Make ``out/{train,train_L,train_M,train_S,dev,test}`` of the parts that are there.

    Args:
        dev_sessions: file with the sessions of dev, one a line.
        channel: which one of the array's eight, from 1.
        profile: ``zh_char`` or ``zh_char_official``.
        debug: two sessions a set only.

    Raises:
        UserError: no part is there, an unknown profile, or problems that are not allowed (``out/problems.tsv``).
    """
    check_profile(profile)
    parts = {part: find_meetings(Path(root) / part) for part in PARTS}
    if not any(parts.values()):
        raise absent(root, "AISHELL-4", "AISHELL4", TREE, f"{URL} ({ARCHIVES}), unpacked into one folder")
    problems = Problems(out)
    _keep_first(parts, problems)
    chosen = choose_dev([m for part in TRAIN for m in parts[part]], read_dev_sessions(dev_sessions), dev_sessions)
    sets = {part: [m for m in parts[part] if m.id not in chosen] for part in TRAIN}
    sets["dev"] = [m for part in TRAIN for m in parts[part] if m.id in chosen]
    sets["test"] = parts["test"]
    missing = [name for name in sets if not sets[name]]
    if missing:
        old = missing if any(sets[part] for part in TRAIN) else ["train", *missing]
        print(f"no sessions in {root} for {', '.join(missing)}, so not prepared",
              *left_behind(Path(out), old), sep="\n")
    read = partial(read_meeting, channel=channel, profile=profile)
    summaries = make_sets({name: (meetings[:DEBUG_MEETINGS] if debug else meetings, read)
                           for name, meetings in sets.items() if meetings}, Path(out), problems, nj)
    summaries += _combined(summaries, Path(out))
    print(table(summaries), flush=True)
    problems.finish(allow_problems)
    return summaries


def _keep_first(parts: dict[str, list[Meeting]], problems: Problems) -> None:
    """Take a session out of the training parts behind the first one that has it: ``train`` is all of them."""
    first: dict[str, Meeting] = {}
    for part in TRAIN:
        for meeting in parts[part]:
            kept = first.setdefault(meeting.id, meeting)
            if kept is not meeting:
                problems.add(part, meeting.id, f"{meeting.folder}: {meeting.id} is in {kept.folder}, too, and is taken "
                             "from there; keep one of the two")
        parts[part] = [meeting for meeting in parts[part] if first[meeting.id] is meeting]


def _combined(summaries: Sequence[SetSummary], out: Path) -> list[SetSummary]:
    """Put the training parts together in ``train``; where all of them failed, an earlier ``train`` goes as they do."""
    tried = [summary for summary in summaries if summary.name in TRAIN]
    parts = [summary for summary in tried if summary.sessions]
    if not parts:
        if tried:
            remove_set(out / "train")
        return []
    combine(out / "train", [out / summary.name for summary in parts])
    numbers = [sum(getattr(summary, name) for summary in parts)
               for name in ("sessions", "utterances", "speakers", "seconds")]
    return [SetSummary("train", *numbers)]


def find_meetings(folder: Path) -> list[Meeting]:
    """Pair the audio, the TextGrids and the RTTMs of a part, by name."""
    audio = files_by_id(folder / "wav", (".flac", ".wav"))
    textgrids = files_by_id(folder / "TextGrid", (".textgrid",))
    rttms = files_by_id(folder / "TextGrid", (".rttm",))
    return [Meeting(rec, folder.name, str(folder), *(tuple(files.get(rec, ())) for files in (audio, textgrids, rttms)))
            for rec in sorted({*audio, *textgrids, *rttms})]


def read_dev_sessions(path: Pathlike) -> list[str]:
    """Read session names, one a line; ``#`` begins a comment.

    Raises:
        UserError: no such file, or more than one word on a line.
    """
    names = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise at(path, number, f"found {' '.join(words)!r}", "write one session a line")
        names += words
    return names


def choose_dev(meetings: Sequence[Meeting], listed: Sequence[str], where: Pathlike) -> set[str]:
    """Return the ids of the listed sessions that are there.

    Where none of them is (a small excerpt of the corpus), the last session of every part that has two or more takes
    their place, so that the choice is the same on every machine; this is logged, as listed sessions that are missing.
    """
    there = {meeting.id for meeting in meetings}
    chosen = there & set(listed)
    if chosen or not there or not listed:
        if missing := sorted(set(listed) - there) if there else []:
            log.warning("%s: %d of %d sessions are not in the corpus, so dev lacks them: %s", where, len(missing),
                        len(set(listed)), ", ".join(missing))
        return chosen
    by_part: dict[str, list[str]] = {}
    for meeting in meetings:
        by_part.setdefault(meeting.part, []).append(meeting.id)
    chosen = {max(ids) for ids in by_part.values() if len(ids) > 1}
    log.warning("%s: none of its sessions is in the corpus; dev is the last session of each part that has two: %s",
                where, ", ".join(sorted(chosen)) or "none has")
    return chosen


def read_meeting(meeting: Meeting, channel: int, profile: str) -> list[Session]:
    """Read the TextGrid, compare it with the RTTM, and log what is odd.

    Raises:
        UserError: no audio or no TextGrid, two of one, or one that cannot be read.
    """
    folder = Path(meeting.folder)
    audio = only_file(meeting.audio, "audio", folder / "wav")
    textgrid = only_file(meeting.textgrids, "TextGrid", folder / "TextGrid")
    tiers = interval_tiers(textgrid)
    _check_ends(textgrid, tiers)
    spans: dict[str, list] = {}
    for tier in tiers:
        spans.setdefault(_speaker(meeting.id, tier.name, textgrid), []).extend(tier.spans)
    _compare(meeting, spans)
    return [Session(meeting.id, audio, speech_of(textgrid, meeting.id, spans, profile), channel)]


def _speaker(session: str, tier: str, where: str) -> str:
    local = _NOT_IN_IDS.sub("_", tier).strip("_")
    if not local:
        raise at(where, None, f"the tier {tier!r} names no speaker", "give it a name of letters and digits")
    return f"{session}_{local}"


def _check_ends(path: str, tiers: Sequence[Tier]) -> None:
    """Log a file whose tiers end, or say that they end, at another time than the file says."""
    raw = Path(path).read_bytes()
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")
    match = _FILE_END.search(text)
    file_end = float(match.group(1)) if match else 0.0
    ends = {float(end) for end in _TIER_END.findall(text)} | {tier.spans[-1][1] for tier in tiers if tier.spans}
    odd = sorted(end for end in ends if abs(end - file_end) > TOLERANCE)
    if odd:
        log.warning("%s: repaired inconsistent ends: the file ends at %g s, tiers at %s; the times of the intervals "
                    "are used, cut at the end of the audio", path, file_end, ", ".join(f"{end:g}" for end in odd))


def _compare(meeting: Meeting, spans: Mapping[str, Sequence[tuple[float, float, str]]]) -> None:
    """Log where the RTTM says something else than the TextGrid, which is believed."""
    if not meeting.rttms:
        log.warning("%s: no RTTM to compare the TextGrid with", meeting.id)
        return
    try:
        lines = read_rttm(meeting.rttms[0])
        theirs: dict[str, list[Span]] = {}
        for line in lines:
            speaker = _speaker(meeting.id, line["speaker"], meeting.rttms[0])
            theirs.setdefault(speaker, []).append((line["start_time"], line["end_time"]))
    except UserError as e:
        log.warning("%s: the RTTM is not compared with the TextGrid, it cannot be read: %s", meeting.id, e)
        return
    ours = {speaker: [(start, end) for start, end, text in of_speaker if text.strip()]
            for speaker, of_speaker in spans.items()}
    for speaker in sorted({*ours, *theirs}):
        lacks = only_in(ours.get(speaker, []), theirs.get(speaker, []))
        more = only_in(theirs.get(speaker, []), ours.get(speaker, []))
        if lacks or more:
            log.warning("%s: %s: the RTTM lacks %.2f s of the TextGrid's speech and has %.2f s more; the TextGrid is "
                        "used", meeting.id, speaker.removeprefix(f"{meeting.id}_"), lacks, more)


def only_in(first: Iterable[Span], second: Iterable[Span], tolerance: float = TOLERANCE) -> float:
    """Return the seconds that the first list of spans covers and the second does not; pieces up to ``tolerance`` no.

    >>> only_in([(0, 2), (5, 6)], [(0.04, 1), (5, 5.96)])
    1.0
    """
    total = 0.0
    others = _union(second)
    for start, end in _union(first):
        for other_start, other_end in others:
            if other_end <= start or other_start >= end:
                continue
            if other_start - start > tolerance:
                total += other_start - start
            start = other_end
        if end - start > tolerance:
            total += end - start
    return total


def _union(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
