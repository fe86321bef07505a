"""Enrolment for registered speakers: the single-speaker stretches of a set, and what is registered for each clip.

A *stretch* is 2–10 s in which one speaker talks and nobody else of the session does: an utterance, or utterances of one
speaker with pauses of at most half a second between them; a longer one is divided evenly. A *session* is a recording,
or all recordings of a meeting: ``reco2session`` in the data dir says so of headsets (``<recording> <session>``), and
without it, beside another data dir, the id does (``R1_M1_N_SPK1`` beside ``R1_M1``). A dump dir gets

- ``enrolment``, the pool: ``<stretch> {"spk":…,"rec":…,"start":…,"end":…,"wav":…,"channel":…,"session":…}``, times in
  seconds, by speaker, recording and time; training draws from it on the fly;
- ``registration``, the fixed choice of a test set: ``<clip> {"speakers":{"<spk>":["<stretch>",…],…},
  "distractors":["<spk>",…]}``. Match is all of ``speakers``; Over adds the first N of ``distractors`` (SpeakerLM,
  arXiv 2508.06372, Eq. 1);
- ``spk2enrolment``: ``<spk> <stretch> …``, how a speaker is registered where he is a distractor.

What keeps train, test and clip apart, for tests and on the fly alike (:func:`register` is the one rule):

- The pool of a set holds speakers of that set alone, from its own sessions or from the data dirs named as its sources.
- Nothing of a clip is enrolled: what is nearer than a second to it in any recording of its session is left out. Of a
  mixture, the stretches that it was made from are left out, so the source dirs have to hold them.
- A distractor is a speaker of another session of the set who does not occur in the clip's session, wherever else he
  may. Ids that are local to a session name different people by construction.
- Mixtures enrol from the data dirs of their sources, which ``source_dirs`` in the data dir of the mixtures names.
- A speaker with no stretch outside of the clip has an empty list and is counted: never is he enrolled from inside, nor
  with less than the shortest stretch.
"""

import json
import logging
import math
import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Collection, Iterable, Iterator, Mapping, Optional, Sequence

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, atomic_open, progress
from espnet_mt_llm.datadir.kaldi import clip_times
from espnet_mt_llm.datadir.maps import write_map
from espnet_mt_llm.datadir.stretches import Pool, Span, Talk, find_stretches, one_line, read_rows, read_text_lines

log = logging.getLogger(__name__)

SOURCE_DIRS = "source_dirs"
# What a clip's id may add to that of its recording: its times in hundredths of a second, and what tells apart those of
# the same times.


@dataclass(frozen=True)
class Heard:
    """What a clip holds: its speakers by onset, all speakers of its session, and the spans that are heard in it."""

    clip: str
    speakers: Sequence[str]
    session: Collection[str]
    spans: Sequence[Span]


@dataclass(frozen=True)
class Registration:
    """What is registered for a clip: stretch ids by speaker, and speakers of other sessions in a random order."""

    speakers: Mapping[str, Sequence[str]]
    distractors: Sequence[str]


@dataclass(frozen=True)
class EnrolmentStatistics:
    """What :func:`make_enrolment` found; ``seconds`` of each speaker of the set, 0 for one without a stretch."""

    stretches: int
    seconds: tuple[float, ...]
    clips: Optional[int] = None
    complete: int = 0
    fewest_distractors: int = 0

    def __str__(self) -> str:
        ordered = sorted(self.seconds) or [0.0]
        lines = [
            f"{len(self.seconds)} speakers, {sum(s > 0 for s in self.seconds)} of them with a stretch",
            f"{self.stretches} stretches, {sum(self.seconds) / 3600:.2f} hours",
            f"seconds per speaker: {ordered[0]:.1f} to {ordered[-1]:.1f}, median {ordered[len(ordered) // 2]:.1f}",
        ]
        if self.clips is not None:
            share = 100 * self.complete / self.clips if self.clips else 0.0
            lines += [
                f"{self.complete} of {self.clips} clips ({share:.1f} %) with all speakers registered",
                f"{self.fewest_distractors} distractors for each clip, or more",
            ]
        return "\n".join(lines)


def make_enrolment(
    data_dir: Pathlike,
    dump_dir: Pathlike,
    *,
    source_dirs: Sequence[Pathlike] = (),
    shortest: float = 2.0,
    longest: float = 10.0,
    num_stretches: int = 3,
    num_distractors: int = 100,
    seed: int = 0,
    registration: bool = True,
) -> EnrolmentStatistics:
    """Write ``enrolment`` and, for a test set, ``registration`` and ``spk2enrolment`` into a dump dir.

    Args:
        data_dir: the session dir that the clips of ``dump_dir`` were cut from.
        source_dirs: where to enrol from instead; for mixtures those that :data:`SOURCE_DIRS` names, if none is given.
        shortest, longest: seconds of a stretch.
        num_stretches: at most so many are registered for a speaker.
        registration: False for a training set, which draws from the pool.

    Raises:
        UserError: numbers that make no sense, files that do not fit together, or none of the speakers in the sources.
    """
    if not 0.1 <= shortest <= longest < math.inf:
        raise UserError(f"stretches of {shortest:g} to {longest:g} s: expected 0.1 <= min <= max, both finite")
    if num_stretches < 1 or num_distractors < 0:
        raise UserError(f"{num_stretches} stretches, {num_distractors} distractors: expected at least 1 and 0")
    data_dir, dump_dir = Path(data_dir), Path(dump_dir)
    mixed = _is_mixed(data_dir)
    if mixed and not source_dirs:
        source_dirs = read_source_dirs(data_dir)
    talk = Talk.read(data_dir)
    source = Talk.read(*map(Path, source_dirs)) if source_dirs else talk
    if not mixed and source_dirs:
        talk, source = talk.beside(source), source.beside(talk)
    if not set(source.spks) & set(talk.spks):
        raise at(", ".join(map(str, source_dirs)) or data_dir, None, f"has no speaker of {data_dir}",
                 "name a data dir that these speakers are in: --source_dir")
    pool = find_stretches(source, talk.spks, shortest, longest, None if mixed or source is talk else talk)
    if not len(pool):
        log.warning("%s: no speaker talks alone for %g s, so none can be registered; try a smaller --min", data_dir,
                    shortest)
    seconds = tuple(pool.seconds(spk) for spk in talk.spks)
    # Read before anything is written: without clips there is no dump dir.
    clips = list(read_heard(dump_dir, data_dir, talk, source)) if registration else None
    pool.write(dump_dir / "enrolment")
    if clips is not None:
        return _write_registration(pool, clips, dump_dir, num_stretches, num_distractors, seed, seconds)
    for name in ("registration", "spk2enrolment"):
        (dump_dir / name).unlink(missing_ok=True)
    return EnrolmentStatistics(len(pool), seconds)


def _write_registration(pool: Pool, clips: Iterable[Heard], dump_dir: Path, num_stretches: int, num_distractors: int,
                        seed: int, seconds: tuple[float, ...]) -> EnrolmentStatistics:
    chosen = {}
    for spk in pool.speakers:
        numbers = _choose(pool.of(spk), num_stretches, Chance(seed, "distractor", spk))
        chosen[spk] = " ".join(pool.stretch(spk, n).id for n in numbers)
    write_map(dump_dir / "spk2enrolment", chosen)
    number, complete, fewest = 0, 0, num_distractors
    with atomic_open(dump_dir / "registration") as f:
        for heard in progress(clips, f"registration of {dump_dir.name}"):
            made = register(pool, heard, num_stretches, num_distractors, Chance(seed, heard.clip))
            f.write(f"{heard.clip} {one_line(vars(made))}\n")
            number += 1
            complete += all(made.speakers.values())
            fewest = min(fewest, len(made.distractors))
    return EnrolmentStatistics(len(pool), seconds, number, complete, fewest)


def register(pool: Pool, heard: Heard, num_stretches: int, num_distractors: int, chance: Chance,
             besides: Collection[str] = ()) -> Registration:
    """Choose what is registered for a clip, at random, by the rules of this module.

    Every speaker of the clip gets up to ``num_stretches`` from outside of it, none of ``besides`` while he has others;
    distractors are ``num_distractors`` speakers of other sessions, or as many as there are.
    """
    speakers = {}
    for spk in heard.speakers:
        numbers = pool.outside(spk, heard.spans)
        if besides:
            numbers = [n for n in numbers if pool.stretch(spk, n).id not in besides] or numbers
        numbers = _choose(numbers, num_stretches, chance)
        speakers[spk] = [pool.stretch(spk, n).id for n in numbers]
    taken = {spk for spk in (*heard.session, *heard.speakers) if pool.of(spk)}
    wanted = min(num_distractors, len(pool.speakers) - len(taken))
    distractors: dict[str, None] = {}
    # Draws that hit a taken one are repeated: the list of all others is not made for every clip.
    while len(distractors) < wanted:
        spk = chance.pick(pool.speakers)
        if spk not in taken:
            distractors.setdefault(spk)
    return Registration(speakers, list(distractors))


def read_registration(dump_dir: Pathlike) -> dict[str, Registration]:
    """Read the fixed choice of a test set: clip -> what is registered for it.

    Raises:
        UserError: no such file, or a line that is no registration.
    """
    path = Path(dump_dir) / "registration"
    found = {}
    for line, (clip, value) in read_rows(path, 2, "make it: python -m espnet_mt_llm.bin.make_enrolment"):
        try:
            made = Registration(**json.loads(value))
        except (ValueError, TypeError):
            made = None
        if made is None or not _is_registration(made):
            raise at(path, line, "not a registration", "make it again: bin/make_enrolment")
        if clip in found:
            raise at(path, line, f"the clip '{clip}' stands there twice", "make it again: bin/make_enrolment")
        found[clip] = made
    return found


def _is_registration(made: Registration) -> bool:
    """Say whether it has the types that it should have."""
    return isinstance(made.speakers, dict) and all(
        isinstance(given, list) and all(isinstance(item, str) for item in given)
        for given in (*made.speakers.values(), made.distractors))


def write_source_dirs(data_dir: Pathlike, names: Iterable[str]) -> None:
    """Note in the data dir of mixtures what they were made from: the names of data dirs beside it, or paths."""
    with atomic_open(Path(data_dir) / SOURCE_DIRS) as f:
        f.writelines(f"{name}\n" for name in names)


def read_source_dirs(data_dir: Path) -> list[Path]:
    """Return the data dirs that mixtures were made from.

    Raises:
        UserError: nothing says which, or one of them is not there.
    """
    path = data_dir / SOURCE_DIRS
    if not path.exists():
        raise at(data_dir, None, f"mixtures enrol from the data dirs of their sources, and no {SOURCE_DIRS} names them",
                 "name them: --source_dir data/…, or make the set again (stage 1 or 2)")
    found = []
    for line, (name,) in read_rows(path, 1, "name the data dirs: --source_dir data/…"):
        found.append(data_dir.parent / name)
        if not (found[-1] / "wav.scp").exists():
            raise at(path, line, f"no data dir {found[-1]} to enrol from",
                     "prepare it (stage 1), or name where the sources are: --source_dir data/…")
    return found


def read_heard(dump_dir: Path, data_dir: Path, talk: Talk, source: Talk) -> Iterator[Heard]:
    """Say for each clip of a dump dir what is heard in it, in terms of the sessions that are enrolled from.

    Raises:
        UserError: a clip that does not come from the data dir, or a mixture whose sources are not in the source dirs.
    """
    session_of, speakers_of = dict(zip(talk.recs, talk.sessions)), talk.speakers_of_sessions()
    mixed = _Mixed.read(data_dir / "mixtures.jsonl", source) if _is_mixed(data_dir) else None
    path = dump_dir / "supervision"
    for line, (clip, value) in read_rows(path, 2, "make the clips first (stage 3)"):
        span = _span(clip, session_of)
        if span is None:
            raise at(path, line, f"the clip '{clip}' is not of {data_dir}", "give the dir that it was cut from")
        rec, start, end = span
        try:
            speakers = list(dict.fromkeys(s["spk"] for s in json.loads(value)))
        except (ValueError, KeyError, TypeError):
            raise at(path, line, "not a list of segments with 'spk'", "make the clips again (stage 3)") from None
        spans = mixed.spans(rec) if mixed else [(session_of[rec], start, end)]
        yield Heard(clip, speakers, speakers_of.get(session_of[rec], ()), spans)


@dataclass(frozen=True)
class _Mixed:
    """The stretches that mixtures were made from, as columns; mixture k has those from ``first[k]`` on."""

    number: dict[str, int]
    first: "array[int]"
    sessions: list[str]
    rec: "array[int]"
    start: "array[float]"
    end: "array[float]"

    @classmethod
    def read(cls, path: Path, source: Talk) -> "_Mixed":
        """Read a manifest, and find its sources among the recordings by their audio or by the utterance's id."""
        mixed = cls({}, array("q", [0]), source.sessions, array("i"), array("d"), array("d"))
        by_name = {rec: [i] for i, rec in enumerate(source.recs)}
        # A file of several channels, or one that is in two source dirs, is several recordings of the same time.
        by_entry: dict[str, list[int]] = {}
        for i, (entry, _) in enumerate(source.audio):
            by_entry.setdefault(entry, []).append(i)
        for line, text in enumerate(read_text_lines(path, "make the mixtures first (stage 2)"), 1):
            try:
                mixture = json.loads(text)
                for s in mixture["sources"]:
                    recs = by_entry.get(s["wav"]) or by_name.get(s["utt"])
                    if not recs:
                        raise at(path, line, f"the source '{s['utt']}' of '{mixture['id']}' is in no --source_dir",
                                 "name all data dirs that the mixtures were made from")
                    for rec in recs:
                        mixed.rec.append(rec)
                        mixed.start.append(s["start"])
                        mixed.end.append(s["end"])
                mixed.number[mixture["id"]] = len(mixed.number)
            except (ValueError, KeyError, TypeError):
                raise at(path, line, "not a mixture", "make the manifest again (stage 2)") from None
            mixed.first.append(len(mixed.rec))
        return mixed

    def spans(self, mixture: str) -> list[Span]:
        """Return what is heard in a mixture."""
        k = self.number[mixture]
        return [(self.sessions[self.rec[i]], self.start[i], self.end[i])
                for i in range(self.first[k], self.first[k + 1])]


def _span(clip: str, recs: Collection[str]) -> Optional[Span]:
    """Return the recording and the times of a clip, by its id; None where it is of no recording of these.

    >>> _span("R1-0000150-0000275-SPK7", {"R1"}), _span("R1", {"R1"}), _span("R2", {"R1"})
    (('R1', 1.5, 2.75), ('R1', 0.0, inf), None)
    """
    if clip in recs:
        return clip, 0.0, math.inf
    for span in clip_times(clip):
        if span[0] in recs:
            return span
    # A whole recording twice, for two who talk all the time.
    beginnings = (clip[: match.start()] for match in re.finditer("[.-]", clip))
    return next(((rec, 0.0, math.inf) for rec in beginnings if rec in recs), None)


def _is_mixed(data_dir: Path) -> bool:
    return (data_dir / "mixtures.jsonl").exists()


def _choose(numbers: Sequence[int], count: int, chance: Chance) -> list[int]:
    return chance.sample(numbers, min(count, len(numbers)))
