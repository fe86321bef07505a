"""Repair a data directory: sort, remove what does not fit together, cut what is too long; every loss is reported."""

import shutil
from pathlib import Path
from typing import Callable, Optional

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.datadir.kaldi import OVERSHOOT
from espnet_mt_llm.datadir.maps import format_seconds, is_partial, key_of, read_table
from espnet_mt_llm.datadir.operations import Tables, recording_of, restrict, write_tables

Say = Callable[[str], None]


def fix(path: Pathlike, *, audio: Optional[bool] = None) -> list[str]:
    """Repair a data directory in place; the files as they were are kept in ``<path>/.backup``.

    Removed are lines that cannot be read, ids that occur again, recordings whose audio is missing, empty or truncated
    (by the headers), empty transcripts (unless all are, in a set for diarization), and then every utterance that is
    not in all of utt2spk, text, segments and wav.scp. Ids are not renamed, other sample rates and channels are left
    alone: those are the preparation's to repair.

    Args:
        audio: look at the audio headers; None does so up to the number of recordings that the check looks at.

    Returns:
        What was changed, one sentence each; empty when there was nothing to do.

    Raises:
        UserError: a file is missing that cannot be made, or nothing would be left; then nothing is changed.
    """
    from espnet_mt_llm.datadir.validate import MANY_RECORDINGS

    path = Path(path)
    if not path.is_dir():
        raise at(path, None, "no such data directory", "prepare it first (stage 1)")
    changes: list[str] = []
    tables = _read(path, changes.append)
    _columns(tables, changes.append)
    headers = len(tables["wav.scp"]) <= MANY_RECORDINGS if audio is None else audio
    durations = _durations(tables, headers, changes.append)
    if "segments" in tables:
        _cut_segments(tables, durations, changes.append)
    fixed = _intersect(tables, changes.append)
    if not fixed["utt2spk"]:
        raise at(
            path,
            None,
            "no utterance would be left, so nothing was changed: " + "; ".join(changes[:3]),
            "is the corpus where wav.scp says? do the files belong together?",
        )
    before = {f.name: f.read_bytes() for f in path.iterdir() if key_of(f.name) and f.is_file()}
    backup = path / ".backup"
    backup.mkdir(exist_ok=True)
    for name in before:
        shutil.copyfile(path / name, backup / name)
    write_tables(path, fixed)
    after = {f.name: f.read_bytes() for f in path.iterdir() if key_of(f.name) and f.is_file()}
    changes += [f"{name}: removed, it is empty" for name in sorted(before.keys() - after.keys()) if name in fixed]
    if not changes and before != after:
        changes.append("sorted the files and wrote spk2utt again")
    return changes


def _read(path: Path, say: Say) -> Tables:
    tables: Tables = {}
    for f in sorted(path.iterdir()):
        if f.is_file() and key_of(f.name) and f.name != "spk2utt":
            tables[f.name] = read_table(f) if f.suffix == ".jsonl" else _read_lenient(f, say)
    if "utt2spk" not in tables and (path / "spk2utt").exists():
        inverse = _read_lenient(path / "spk2utt", say)
        tables["utt2spk"] = {utt: spk for spk, utts in inverse.items() for utt in utts.split()}
        say("utt2spk: made from spk2utt")
    for name in ("wav.scp", "utt2spk"):
        if name not in tables:
            raise at(path / name, None, "no such file", "make it in the preparation (stage 1)")
    return tables


def _read_lenient(file: Path, say: Say) -> dict[str, str]:
    """Read the lines that can be read: UTF-8, not empty, the first of each id."""
    table: dict[str, str] = {}
    for number, raw in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            words = raw.decode("utf-8").replace("\t", " ").strip(" \r")
        except UnicodeDecodeError:
            say(f"{file.name}:{number}: removed, not UTF-8")
            continue
        key, _, value = words.partition(" ")
        if key in table:
            say(f"{file.name}:{number}: removed '{key}', which is there before")
        elif key:
            table[key] = value.strip(" ")
    return table


def _columns(tables: Tables, say: Say) -> None:
    for name, words in (("utt2spk", 1), ("segments", 3)):
        for key, value in list(tables.get(name, {}).items()):
            if len(value.split()) != words:
                say(f"{name}: removed '{key} {value}', expected {words + 1} columns")
                del tables[name][key]
    transcribed = any(tables.get("text", {}).values())
    for name in [*["text"] * transcribed, *filter(is_partial, tables), "wav.scp"]:
        for key, value in list(tables.get(name, {}).items()):
            if not value:
                say(f"{name}: removed '{key}', nothing behind the id")
                del tables[name][key]


def _durations(tables: Tables, headers: bool, say: Say) -> dict[str, float]:
    """Drop recordings that cannot be read, and return the seconds of the others; corrects reco2dur."""
    from espnet_mt_llm.datadir.audio import info, is_pipe

    durations = {}
    for rec, seconds in list(tables.get("reco2dur", {}).items()):
        try:
            durations[rec] = float(seconds)
        except ValueError:
            say(f"reco2dur: removed '{rec} {seconds}', not a number")
            del tables["reco2dur"][rec]
    for rec, entry in list(tables["wav.scp"].items()) if headers else ():
        if is_pipe(entry):
            continue
        try:
            found = info(entry).duration
        except (UserError, OSError) as e:
            say(f"wav.scp: removed '{rec}': {str(e).split(';')[0]}")
            del tables["wav.scp"][rec]
            continue
        if "reco2dur" in tables and abs(durations.get(rec, -1.0) - found) > 0.01:
            say(f"reco2dur: '{rec}' lasts {format_seconds(found)} s")
            tables["reco2dur"][rec] = format_seconds(found)
        durations[rec] = found
    if "reco2dur" in tables and set(tables["wav.scp"]) - set(tables["reco2dur"]):
        say("reco2dur: removed, some recordings are missing there; make it again: utils/get_reco2dur.sh")
        del tables["reco2dur"]
    return durations


def _cut_segments(tables: Tables, durations: dict[str, float], say: Say) -> None:
    for utt, value in list(tables["segments"].items()):
        rec, begin, finish = value.split()
        try:
            start, end = float(begin), float(finish)
        except ValueError:
            start = end = 0.0
        limit = durations.get(rec, float("inf"))
        if not 0 <= start < min(end, limit) or end == float("inf"):
            say(f"segments: removed '{utt} {value}', there is no such span in the recording")
            del tables["segments"][utt]
        elif end > limit + OVERSHOOT:
            say(f"segments: '{utt}' cut from {finish} to {format_seconds(limit)} s, where '{rec}' ends")
            tables["segments"][utt] = f"{rec} {begin} {format_seconds(limit)}"


def _intersect(tables: Tables, say: Say) -> Tables:
    """Keep utterances that every file of utterances has, with audio; recordings without an utterance go too."""
    of = recording_of(tables)
    required = [name for name in ("utt2spk", "text", "segments", "supervision") if name in tables]
    everywhere = set.intersection(*(set(tables[name]) for name in required))
    keep = {utt for utt in everywhere if of.get(utt, utt) in tables["wav.scp"]}
    fixed = restrict(tables, keep)
    for name, table in tables.items():
        lost = sorted(set(table) - set(fixed[name]))
        if lost:
            say(f"{name}: removed {len(lost)} of {len(table)} ids that other files lack, e.g. '{lost[0]}'")
    # A derived file that lacks some of what is left would break every reader: better none.
    for name in [n for n in fixed if key_of(n) == "utt" and n not in required and set(fixed[n]) != keep]:
        say(f"{name}: removed, it lacks utterances; make it again")
        del fixed[name]
    # Of recordings, or of utterances where it is of those.
    if "utt2num_spk" in fixed and set(fixed["utt2num_spk"]) not in (set(fixed["wav.scp"]), keep):
        say("utt2num_spk: removed, it lacks recordings; make it again")
        del fixed["utt2num_spk"]
    return fixed
