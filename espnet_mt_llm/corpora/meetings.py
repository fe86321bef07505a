"""What the meeting corpora share: intervals to speech, checks against the audio, and data directories from sessions."""

import gc
import logging
import re
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, listed, progress
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.datadir.audio import check_channel, info
from espnet_mt_llm.datadir.kaldi import OVERSHOOT, DataDir, Utterance, make_utt_ids
from espnet_mt_llm.datadir.maps import key_of
from espnet_mt_llm.datadir.textgrid import Tier, read_tiers
from espnet_mt_llm.text.normalise import normalise, normalise_all

log = logging.getLogger(__name__)

# Marks of annotators: up to 16 characters in brackets of any kind, half or full width. Nobody says brackets: there are
# none in 6,382 intervals of AliMeeting's Eval meetings and 5,058 of AISHELL-4's test sessions.
_OPENING = re.compile(r"[<＜(（\[［{｛【]")
_TAG = re.compile(r"[<＜][^<>＜＞]{0,16}[>＞]|[(（][^()（）]{0,16}[)）]|[\[［][^\[\]［］]{0,16}[\]］]"
                  r"|[{｛][^{}｛｝]{0,16}[}｝]|【[^【】]{0,16}】")
# Those that the official scripts take out, and so are not worth a line in the log.
_KNOWN_TAG = re.compile(r"<(?:sil|%|-|\$|#|_|space)?>|\((?:~|sil|/?overlap)\)", re.IGNORECASE)
_WHOLE_RECORDING = ("wav.scp", "reco2dur")
# Up to this share of a session's utterances may begin after the end of its audio, as careless ends do; beyond it, the
# transcript belongs to another recording.
_LATE = 0.01
_SPOKEN = itemgetter("speaker", "start_time", "end_time", "words")
DEBUG_MEETINGS = 2


@dataclass(frozen=True)
class Session:
    """One recording to write.

    Attributes:
        id: the recording's id.
        audio: path of its file, or a command that ends in a pipe sign.
        segments: SegLST segments (``speaker, start_time, end_time, words``), words normalised.
        channel: which one of a file of several channels, from 1; None for a mono file.
        extra: file name of the data directory -> this recording's value there, e.g. ``far2.scp`` -> a path.
    """

    id: str
    audio: str
    segments: list[dict]
    channel: Optional[int] = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SetSummary:
    """What a set has become; ``seconds`` is the length of its recordings."""

    name: str
    sessions: int = 0
    utterances: int = 0
    speakers: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Prepared:
    """What comes back from a worker for one key: checked sessions with their length, log records, or a problem."""

    sessions: list[tuple[Session, float]]
    records: list[logging.LogRecord]
    problem: str = ""


def words_of(text: str, profile: str, unknown: Optional[dict[str, int]] = None) -> str:
    """Normalise an annotation; empty when it holds no speech (tags or punctuation alone).

    Tags that the profile does not know are no words either (``<laugh>``, ``[noise]``, ``（笑）``: up to 16 characters
    in brackets of any kind): they are taken out, and counted in ``unknown`` where it is given.
    """
    return _words_of_all([text], profile, unknown)[0]


def _words_of_all(texts: Sequence[str], profile: str, unknown: Optional[dict[str, int]]) -> list[str]:
    """Return :func:`words_of` of each text."""
    if _OPENING.search("\n".join(texts)):
        texts = [_without_tags(text, unknown) for text in texts]
    return [words if words and (words[0].isalnum() or any(map(str.isalnum, words))) else ""
            for words in normalise_all(texts, profile)]


def _without_tags(text: str, unknown: Optional[dict[str, int]]) -> str:
    # A tag may stand in another one, so the innermost go first.
    while _OPENING.search(text) and (tags := _TAG.findall(text)):
        for tag in tags:
            if unknown is not None and not _KNOWN_TAG.fullmatch(tag):
                unknown[tag] = unknown.get(tag, 0) + 1
        text = _TAG.sub("", text)
    return text


def log_unknown(where: Pathlike, unknown: Mapping[str, int]) -> None:
    """Log the tags that :func:`words_of` counted, if there are any."""
    if unknown:
        listed = ", ".join(f"{tag} ({number})" for tag, number in sorted(unknown.items()))
        log.warning("%s: unknown tags are taken out: %s", where, listed)


def speech_of(where: Pathlike, session: str, spans: Mapping[str, Iterable[tuple[float, float, str]]],
              profile: str) -> list[dict]:
    """Turn a meeting's intervals into SegLST segments, by speaker and time.

    Intervals without text are left out, and, counted in the log, those of tags or punctuation alone. A start before 0
    becomes 0. An interval that ends before it starts gets the start of the next one as its end; the last one is left
    out; both are logged. Intervals of one speaker that overlap are all kept and counted in the log; those of the same
    span, in the centiseconds of ids, become one.

    Args:
        where: the annotation file, for the log.
        spans: speaker -> (start, end, text), times in seconds.
    """
    unknown: dict[str, int] = {}
    silent, overlaps = 0, 0
    segments: list[dict] = []
    for speaker in sorted(spans):
        repaired = _repaired(spans[speaker], f"{where}: {speaker}")
        words = _words_of_all([text for _, _, text in repaired], profile, unknown)
        said = [(start, end, text) for (start, end, _), text in zip(repaired, words) if text]
        silent += len(repaired) - len(said)
        last_end = 0.0
        for start, end, _ in said:
            overlaps += start < last_end - 1e-6
            last_end = end if end > last_end else last_end
        segments += [{"session_id": session, "speaker": speaker, "start_time": start, "end_time": end, "words": text}
                     for start, end, text in _united(said, profile, f"{where}: {speaker}")]
    if silent:
        log.warning("%s: intervals without speech (tags or punctuation alone) are left out: %d", where, silent)
    log_unknown(where, unknown)
    if overlaps:
        log.warning("%s: intervals that overlap an earlier one of the same speaker, all kept: %d", where, overlaps)
    return segments


def _repaired(spans: Iterable[tuple[float, float, str]], where: str) -> list[tuple[float, float, str]]:
    """Return the intervals that have text, by time, with a start from 0 on and an end after it."""
    ordered = sorted(spans)
    spoken = [span for span in ordered if span[2] and not span[2].isspace()]
    if all([0 < start < end for start, end, _ in spoken]):
        return spoken
    repaired = []
    for index, span in enumerate(ordered):
        start, end, text = span
        if not text or text.isspace():
            continue
        if 0 < start < end:
            repaired.append(span)
            continue
        if end <= start:
            # The intervals of a tier follow one another without gaps.
            later = next((other for other, _, _ in ordered[index + 1:] if other > start), None)
            done = "is left out" if later is None else f"ends at {later:g} s now"
            log.warning("%s: '%s', which goes from %g to %g s, %s", where, text.strip(), start, end, done)
            if later is None:
                continue
            end = later
        if end > 0:
            repaired.append((max(start, 0.0) + 0.0, end, text))  # + 0.0 turns a negative zero into zero
    return repaired


def _united(said: list[tuple[float, float, str]], profile: str, where: str) -> Iterable[tuple[float, float, str]]:
    """Make one interval of those that have the same span in the centiseconds of ids; ``said`` is sorted by time."""
    # As a rule, intervals begin farther apart than rounding could bring together.
    if all(later[0] - earlier[0] > 0.011 for earlier, later in pairwise(said)):
        return said
    united: dict[tuple[int, int], tuple[float, float, str]] = {}
    for start, end, text in said:
        key = round(start * 100), round(end * 100)
        if key in united:
            log.warning("%s: two intervals from %g to %g s became one", where, start, end)
            first = united[key]
            if text != first[2]:
                text = normalise(f"{first[2]} {text}", profile)
            start, end = first[:2]
        united[key] = start, end, text
    return united.values()


def prepare_sets(sets: Mapping[str, tuple[Sequence[Any], Callable[[Any], list[Session]]]], out: Pathlike,
                 nj: int = 1, allow_problems: bool = False) -> list[SetSummary]:
    """Prepare every set (name -> keys and how to read one) in ``out`` and print a table.

    Raises:
        UserError: sessions with problems, listed in ``<out>/problems.tsv``, that are not allowed.
    """
    problems = Problems(out)
    summaries = make_sets(sets, Path(out), problems, nj)
    print(table(summaries), flush=True)
    problems.finish(allow_problems)
    return summaries


def make_sets(sets: Mapping[str, tuple[Sequence[Any], Callable[[Any], list[Session]]]], out: Path,
              problems: Problems, nj: int = 1) -> list[SetSummary]:
    """Prepare every set; sets are made side by side, since writing one is as much work as reading it.

    The log is in the order of the sets and keys whatever ``nj``, and so are the bytes.
    """
    if nj <= 1 or len(sets) < 2:
        return [prepare_set(name, keys, read, out, problems, nj) for name, (keys, read) in sets.items()]
    summaries = []
    with ProcessPoolExecutor(min(nj, len(sets))) as pool:
        # The largest sets first, so that no process is left alone with one in the end.
        started = {name: pool.submit(_set_alone, name, *sets[name], out, max(1, nj // len(sets)))
                   for name in sorted(sets, key=lambda name: -len(sets[name][0]))}
        for name in sets:
            summary, found, records = started[name].result()
            _hand_on(records)
            problems.merge(found)
            summaries.append(summary)
    return summaries


def _set_alone(name: str, keys: Sequence[Any], read: Callable[[Any], list[Session]], out: Path,
               nj: int) -> tuple[SetSummary, Problems, list[logging.LogRecord]]:
    """Prepare a set in a process of its own; the caller hands on what is logged and merges the problems."""
    problems = Problems(out)
    with _collected_log() as records:
        return prepare_set(name, keys, read, out, problems, nj), problems, records


@contextmanager
def _without_collector() -> Iterator[None]:
    """Hold back the collector of cycles: there are none in a set's utterances, and it looks at all of them often."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@_without_collector()
def prepare_set(name: str, keys: Sequence[Any], read: Callable[[Any], list[Session]], out: Path, problems: Problems,
                nj: int = 1) -> SetSummary:
    """Read, check and write the set ``out/name``.

    Args:
        keys: what ``read`` takes, one a meeting: a string, or an object whose ``id`` names it in the list of problems.
        read: returns the meeting's recordings (one for far, one a headset for near); it must be picklable.
    """
    data = DataDir(out / name, {}, [])
    for key, prepared in zip(keys, _mapped(partial(_prepare_one, read), keys, nj, name)):
        _hand_on(prepared.records)
        with problems.of(name, str(getattr(key, "id", key))):
            if prepared.problem:
                raise UserError(prepared.problem)
            _add(data, prepared.sessions)
    _remove_others(data)
    if not data.wav:
        log.warning("%s: no session of it could be prepared, so it is not written", name)
        return SetSummary(name)
    data.write(data.path)
    return SetSummary(name, len(data.wav), len(data.utterances), len({u.spk for u in data.utterances}),
                      sum(data.reco2dur.values()))


def _mapped(work: Callable[[Any], _Prepared], keys: Sequence[Any], nj: int, what: str) -> Iterator[_Prepared]:
    if nj <= 1 or len(keys) < 2:
        yield from map(work, progress(keys, what))
        return
    with ProcessPoolExecutor(min(nj, len(keys))) as pool:
        yield from progress(pool.map(work, keys, chunksize=max(1, min(8, len(keys) // (4 * nj)))), what, len(keys))


def _prepare_one(read: Callable[[Any], list[Session]], key: Any) -> _Prepared:
    """Read and check a meeting; what is wrong with it comes back as its problem.

    A number or a text that nobody foresaw (:class:`ValueError`, :class:`ArithmeticError`) is a problem, too, and says
    where in the program it came up, since that is to be reported; any other exception is a mistake of the program.
    """
    with _collected_log() as records:
        try:
            return _Prepared([_checked(session) for session in read(key)], records)
        except UnicodeDecodeError as e:
            return _Prepared([], records, f"its annotation cannot be decoded ({e}); copy it again")
        except (UserError, OSError) as e:
            return _Prepared([], records, str(e))
        except (ValueError, ArithmeticError) as e:
            place = traceback.extract_tb(e.__traceback__)[-1]
            return _Prepared([], records, f"unforeseen in its annotation or audio: {type(e).__name__}: {e} "
                             f"({Path(place.filename).name}:{place.lineno}); please report it with the files")


@contextmanager
def _collected_log() -> Iterator[list[logging.LogRecord]]:
    """Hold back what this package logs; the caller hands it on, in order and from one process."""
    records: list[logging.LogRecord] = []
    package = logging.getLogger(__name__.partition(".")[0])
    handler = logging.Handler()

    def keep(record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        records.append(record)

    handler.emit = keep  # type: ignore[method-assign]
    before = package.propagate, package.handlers
    package.propagate, package.handlers = False, [handler]
    try:
        yield records
    finally:
        package.propagate, package.handlers = before


def _hand_on(records: Iterable[logging.LogRecord]) -> None:
    for record in records:
        logging.getLogger(record.name).handle(record)


def _checked(session: Session) -> tuple[Session, float]:
    """Compare a session with the header of its audio; return it, ends clipped to the audio, and the seconds.

    Raises:
        UserError: no or damaged audio, a channel that is not there, no speech, or much that begins after the end.
    """
    found = info(session.audio)
    check_channel(found, session.channel, session.audio)
    if not session.segments:
        raise at(session.audio, None, "its annotation holds no speech", "copy the annotation again")
    segments = session.segments
    if max(map(itemgetter("end_time"), segments)) > found.duration:
        segments = _cut(session, found.duration)
    channel = session.channel if found.channels > 1 else None
    return replace(session, segments=segments, channel=channel), found.duration


def _cut(session: Session, seconds: float) -> list[dict]:
    """Return the segments with ends within the audio; what begins after it is left out.

    Raises:
        UserError: much begins after the end.
    """
    late = [s for s in session.segments if s["start_time"] >= seconds]
    if len(late) > _LATE * len(session.segments):
        raise at(session.audio, None,
                 f"{len(late)} of {len(session.segments)} utterances begin after the end of the audio ({seconds:g} s), "
                 f"the first one at {late[0]['start_time']:g} s",
                 "is it the transcript of this recording? copy both again")
    for s in late:
        log.warning("%s: %s: '%s' is left out, it begins at %g s, after the audio's end, %g s", session.id,
                    s["speaker"], s["words"], s["start_time"], seconds)
    segments = []
    for s in session.segments:
        if s["end_time"] > seconds + OVERSHOOT and s["start_time"] < seconds:
            log.warning("%s: %s: the end of '%s' was cut from %g to the audio's end, %g s", session.id, s["speaker"],
                        s["words"], s["end_time"], seconds)
        if s["start_time"] < seconds:
            segments.append({**s, "end_time": min(s["end_time"], seconds)})
    return segments


def _add(data: DataDir, sessions: Sequence[tuple[Session, float]]) -> None:
    """Put the sessions of one key into the directory, all or none.

    Raises:
        UserError: a recording's or an utterance's id occurs twice, or has characters that it may not have.
    """
    utterances: list[Utterance] = []
    ids: set[str] = set()
    for session, _ in sessions:
        if session.id in data.wav:
            raise UserError(f"{session.audio}: the recording '{session.id}' is there twice, as {data.wav[session.id]}, "
                            "too; keep one of the two")
        spk, start, end, words = zip(*map(_SPOKEN, session.segments))
        utts = make_utt_ids(spk, session.id, start, end)
        utterances += map(Utterance._make, zip(utts, repeat(session.id), spk, start, end, words))
        ids.update(utts)
        if len(ids) < len(utterances):
            twice = Counter(u.utt for u in utterances).most_common(1)[0][0]
            raise UserError(f"{session.audio}: two utterances get the id '{twice}'; correct the annotation")
    data.utterances.extend(utterances)
    for session, seconds in sessions:
        data.wav[session.id] = session.audio
        data.reco2dur[session.id] = seconds
        values = {**session.extra, **({} if session.channel is None else {"channel": str(session.channel)})}
        for name, value in values.items():
            data.extra.setdefault(name, {})[session.id] = value


def remove_set(path: Path) -> None:
    """Remove the files of a data directory that an earlier preparation made and this one cannot."""
    _remove_others(DataDir(path, {}, []))


def left_behind(out: Path, names: Iterable[str]) -> list[str]:
    """Return the line to print of sets that an earlier preparation made and this one does not; none without such sets.

    They are not removed: they may be of another copy of the corpus, or of other options.
    """
    old = [str(out / name) for name in names if (out / name / "wav.scp").exists()]
    return [f"an earlier run has left sets that were not made now: rm -r {' '.join(old)}"] if old else []


def _remove_others(data: DataDir) -> None:
    """Remove what an earlier preparation left and this one does not write: ``channel`` of files now mono, say."""
    if not data.path.is_dir():
        return
    kept = set(data.extra) | (set(_WHOLE_RECORDING) if data.wav else set())
    for path in data.path.iterdir():
        kind = key_of(path.name)
        if path.name not in kept and (kind == "rec" or (kind and not data.wav)):
            path.unlink()


def interval_tiers(path: Pathlike) -> list[Tier]:
    """Read the tiers of intervals of a TextGrid, but for those that have neither a name nor text."""
    return [tier for tier in read_tiers(path) if not tier.points
            and (tier.name.strip() or any(text.strip() for _, _, text in tier.spans))]


def files_by_id(folder: Path, suffixes: Sequence[str], name: Callable[[str], str] = str) -> dict[str, list[str]]:
    """Return id -> the files of a folder with these suffixes (any case), by name; the id is ``name(stem)``."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            found.setdefault(name(path.stem), []).append(str(path))
    return found


def only_file(files: Sequence[str], what: str, folder: Pathlike) -> str:
    """Return the one file of a session.

    Raises:
        UserError: there is none, or more than one.
    """
    if not files:
        raise at(folder, None, f"no {what} of this session", "unpack the archive again")
    if len(files) > 1:
        raise at(files[1], None, f"a second {what} of this session, beside {files[0]}", "keep one of the two")
    return files[0]


def absent(root: Pathlike, corpus: str, variable: str, tree: str, source: str) -> UserError:
    """Say that the folder does not hold the corpus: what was found, what was wanted, and where to get it."""
    root = Path(root)
    if root.is_dir():
        names = sorted(path.name for path in root.iterdir())
        found = listed(names, 8) or "nothing"
        found = f"found in it: {found}"
    else:
        found = "no such folder"
    return at(root, None, f"no {corpus} here ({found}); wanted: {tree}",
              f"get it: {source}; then set {variable}= in db.sh to the folder that holds it")


def table(summaries: Sequence[SetSummary]) -> str:
    """Return the counts of the sets as a table of text."""
    width = max(len(name) for name in ("set", *(s.name for s in summaries)))
    lines = [f"{'set':<{width}} {'sessions':>8} {'utterances':>10} {'speakers':>8} {'hours':>8}"]
    lines += [f"{s.name:<{width}} {s.sessions:>8} {s.utterances:>10} {s.speakers:>8} {s.seconds / 3600:>8.2f}"
              for s in summaries]
    return "\n".join(lines)
