"""Who said what, as one string and back: talkers put in order, SOT and the labelled formats, `supervision` lines.

A segment is meeteval's SegLST as a dict: ``session_id, speaker, start_time, end_time, words`` (seconds).
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from espnet_mt_llm.common import Pathlike, UserError, at, nearest

SC = "<sc>"
ORDERS = ("onset", "end", "duration", "speaker", "random", "input")
TIE_RULES = ("speaker", "longest", "loudest", "random", "input")
UNITS = ("talker", "utterance")
FORMATS = ("sot", "labelled", "suffix")


@dataclass(frozen=True)
class Turn:
    """One part of a serialised text: all that a talker said (unit ``talker``) or one stretch (``utterance``)."""

    speaker: str
    start: float
    end: float
    text: str
    level: Optional[float] = None


@dataclass(frozen=True)
class Order:
    """How the turns of a clip are put in order; what it says belongs beside every score made from serialised text.

    ``order``: ``onset`` (start time), ``end`` (end time), ``duration`` (longest first), ``speaker`` (by id),
    ``random`` (seeded, differs by session), ``input`` (as they come).
    ``tie_rule`` decides between turns whose times are less than ``tie`` seconds apart (orders by time only):
    ``speaker`` (by id), ``longest`` first, ``loudest`` first (segments need a ``level`` in dB), ``random`` (seeded),
    ``input``.
    """

    order: str = "onset"
    tie_rule: str = "speaker"
    tie: float = 0.05
    unit: str = "talker"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("order", self.order, ORDERS), ("tie_rule", self.tie_rule, TIE_RULES), ("unit", self.unit, UNITS)
        ):
            if value not in valid:
                raise UserError(f"unknown {name} '{value}'; {nearest(str(value), valid)}")
        if self.tie < 0:
            raise UserError(f"tie is a time in seconds, found {self.tie}; use 0 for exact times")

    def describe(self) -> str:
        """Say the order in words, for records.

        >>> Order().describe()
        'talker by onset; onsets less than 50 ms apart: by speaker id'
        >>> Order("end", "longest", unit="utterance").describe()
        'utterance by end; ends less than 50 ms apart: longest first'
        """
        if self.order not in ("onset", "end"):
            return f"{self.unit} by {self.order}" + (f" (seed {self.seed})" if self.order == "random" else "")
        rule = {"speaker": "by speaker id", "longest": "longest first", "loudest": "loudest first",
                "random": f"random (seed {self.seed})", "input": "as given"}[self.tie_rule]
        return f"{self.unit} by {self.order}; {self.order}s less than {self.tie * 1000:g} ms apart: {rule}"

    @classmethod
    def described(cls, text: str) -> Optional["Order"]:
        """Return the order (with the usual tie width and seed) that :meth:`describe` puts so, or None.

        >>> Order.described(Order("end", "longest").describe()) == Order("end", "longest")
        True
        """
        every = (cls(o, t, unit=u) for u in UNITS for o in ORDERS for t in TIE_RULES)
        return next((order for order in every if order.describe() == text), None)


def turns(segments: Sequence[Mapping], policy: Order = Order()) -> List[Turn]:
    """Gather the segments of one clip into turns, in the order of ``policy``.

    With unit ``talker`` a turn is all that a talker said, by start time. With unit ``utterance`` it is a segment;
    neighbours of the same speaker become one turn.
    Except for the order and tie rule ``input``, the order of ``segments`` does not matter.

    >>> a = {"session_id": "m", "speaker": "A", "start_time": 0.53, "end_time": 2.0, "words": "good morning"}
    >>> b = {"session_id": "m", "speaker": "B", "start_time": 0.50, "end_time": 1.0, "words": "hello"}
    >>> [t.text for t in turns([a, b])]  # 30 ms apart is a tie: by speaker id
    ['good morning', 'hello']
    >>> [t.text for t in turns([a, b], Order(tie=0.0))]
    ['hello', 'good morning']

    Raises:
        UserError: the tie rule ``loudest`` and a segment without ``level``.
    """
    session = str(segments[0].get("session_id", "")) if segments else ""
    if policy.unit == "talker":
        return _arrange(_talkers(segments), policy, session)
    return _merge_neighbours(_arrange([_turn([s]) for s in segments], policy, session))


def _turn(segments: Sequence[Mapping]) -> Turn:
    levels = [s["level"] for s in segments if s.get("level") is not None]
    return Turn(
        speaker=segments[0]["speaker"],
        start=min(s["start_time"] for s in segments),
        end=max(s["end_time"] for s in segments),
        text=" ".join(t for t in (" ".join(s["words"].split()) for s in segments) if t),
        level=max(levels) if levels else None,
    )


def _talkers(segments: Sequence[Mapping]) -> List[Turn]:
    by_speaker: Dict[str, List[Mapping]] = {}
    for s in segments:
        by_speaker.setdefault(s["speaker"], []).append(s)
    return [_turn(sorted(ss, key=lambda s: (s["start_time"], s["end_time"], s["words"])))
            for ss in by_speaker.values()]


def _by_id(turn: Turn) -> tuple:
    return (turn.speaker, turn.start, turn.end, turn.text)


def _arrange(items: List[Turn], policy: Order, session: str) -> List[Turn]:
    if policy.order == "input":
        return items
    if policy.order == "speaker":
        return sorted(items, key=_by_id)
    if policy.order == "duration":
        return sorted(items, key=lambda t: (t.start - t.end, *_by_id(t)))
    # The text seed makes each session its own draw, the same on every machine and in every process.
    draw = random.Random(f"{policy.seed}:{session}")
    if policy.order == "random":
        items = sorted(items, key=_by_id)
        draw.shuffle(items)
        return items
    time: Callable[[Turn], float] = (lambda t: t.start) if policy.order == "onset" else (lambda t: t.end)
    position = {id(t): i for i, t in enumerate(items)}
    out: List[Turn] = []
    for tied in _ties(sorted(items, key=lambda t: (time(t), *_by_id(t))), time, policy.tie):
        out.extend(_break_tie(tied, policy, draw, position))
    return out


def _ties(items: List[Turn], time: Callable[[Turn], float], tie: float) -> List[List[Turn]]:
    """Group turns that begin less than ``tie`` after the first of their group (so a group is never longer)."""
    groups: List[List[Turn]] = []
    for t in items:
        # Times are stored to 1 ms: a rounding error must not decide whether 50 ms are less than 50 ms.
        if groups and (round(time(t) - time(groups[-1][0]), 6) < tie or time(t) == time(groups[-1][0])):
            groups[-1].append(t)
        else:
            groups.append([t])
    return groups


def _break_tie(tied: List[Turn], policy: Order, draw: random.Random, position: Dict) -> List[Turn]:
    if len(tied) == 1:
        return tied
    if policy.tie_rule == "input":
        return sorted(tied, key=lambda t: position[id(t)])
    tied = sorted(tied, key=_by_id)
    if policy.tie_rule == "longest":
        tied.sort(key=lambda t: t.start - t.end)
    elif policy.tie_rule == "loudest":
        for t in tied:
            if t.level is None:
                raise UserError(f"speaker {t.speaker}: the tie rule 'loudest' needs a level for each segment; "
                                "choose another tie rule")
        tied.sort(key=lambda t: -t.level)
    elif policy.tie_rule == "random":
        draw.shuffle(tied)
    return tied


def _merge_neighbours(items: List[Turn]) -> List[Turn]:
    out: List[Turn] = []
    for t in items:
        if out and out[-1].speaker == t.speaker:
            last = out.pop()
            text = " ".join(x for x in (last.text, t.text) if x)
            t = Turn(t.speaker, min(last.start, t.start), max(last.end, t.end), text, last.level)
        out.append(t)
    return out


def _check(text: str, marker: "re.Pattern[str]", name: str) -> str:
    if marker.search(text):
        raise UserError(f"the transcript {text!r} holds {name}, which marks a turn; normalise the text first")
    return text


_SC = re.compile(r"\s*<sc>\s*", re.IGNORECASE)
_SUFFIX = re.compile(r"(?P<text>.*?)\s*<SC>\s*(?P<spk>\d+)", re.DOTALL)


def _label(names: Sequence[str]) -> "re.Pattern[str]":
    alternatives = [r"spk \d+"] + [re.escape(n) for n in sorted(names, key=len, reverse=True)]
    return re.compile(r"(?:^|(?<=\s))(" + "|".join(alternatives) + r"):(?:\s+|$)")


def to_sot(texts: Sequence[str]) -> str:
    """Join the texts of turns by ``<sc>``, a token of its own.

    >>> to_sot(["good morning", "hello"])
    'good morning <sc> hello'

    Raises:
        UserError: a text that holds ``<sc>`` itself.
    """
    return " ".join(f" {SC} ".join(_check(t, _SC, SC) for t in texts).split())


def from_sot(text: str) -> List[str]:
    """Split serialised text at ``<sc>``; ``<sc>`` glued to a word, as other toolkits write it, is understood.

    Empty turns between separators are kept; an empty string is no turn at all.

    >>> from_sot("good morning <sc> hello"), from_sot("a <SC>b<sc> <sc> c"), from_sot(" ")
    (['good morning', 'hello'], ['a', 'b', '', 'c'], [])
    """
    return [" ".join(t.split()) for t in _SC.split(text)] if text.strip() else []


def strip_sc(text: str) -> str:
    """Remove every ``<sc>``.

    >>> strip_sc("a <sc> b")
    'a b'
    """
    return " ".join(t for t in from_sot(text) if t)


Labelled = Tuple[str, str]


def number_speakers(items: Sequence[Turn]) -> List[Labelled]:
    """Name the speakers 0, 1, … by first appearance: ``(number, text)`` for each turn."""
    numbers: Dict[str, str] = {}
    return [(numbers.setdefault(t.speaker, str(len(numbers))), t.text) for t in items]


def to_labelled(items: Sequence[Labelled], names: Sequence[str] = ()) -> str:
    """Write ``spk 0: … spk 1: …``; a speaker whose label is one of ``names`` is written by name (``Mike: …``).

    >>> to_labelled([("0", "hi"), ("1", "great"), ("Mike", "ok")], names=["Mike"])
    'spk 0: hi spk 1: great Mike: ok'

    Raises:
        UserError: a text that holds a label itself, or a speaker that is neither a number nor a name.
    """
    marker = _label(names)
    for speaker, _ in items:
        if speaker not in names and not speaker.isdecimal():
            raise UserError(f"the speaker '{speaker}' is neither a number nor a registered name; register it")
    return " ".join(
        f"{s if s in names else 'spk ' + s}: {_check(' '.join(t.split()), marker, 'a speaker label')}".rstrip()
        for s, t in items
    )


def from_labelled(text: str, names: Sequence[str] = ()) -> List[Labelled]:
    """Parse ``spk 0: … Mike: …`` into (label, text) pairs; words before the first label belong to speaker ``0``.

    >>> from_labelled("spk 0: hi, how are you? spk 1: great Mike: ok", names=["Mike"])
    [('0', 'hi, how are you?'), ('1', 'great'), ('Mike', 'ok')]
    """
    parts = _label(names).split(text)
    out = [("0", " ".join(parts[0].split()))] if parts[0].strip() else []
    for label, words in zip(parts[1::2], parts[2::2]):
        out.append((label if label in names else label[len("spk "):], " ".join(words.split())))
    return out


def to_suffix(items: Sequence[Labelled]) -> str:
    """Write ``text <SC> 0 text <SC> 1``: the speaker's number follows its turn.

    >>> to_suffix([("0", "how is it today?"), ("1", "okay")])
    'how is it today? <SC> 0 okay <SC> 1'

    Raises:
        UserError: a text that holds ``<SC>`` itself, or a speaker that is not a number.
    """
    for speaker, _ in items:
        if not speaker.isdecimal():
            raise UserError(f"the speaker '{speaker}' is not a number; number the speakers by first appearance")
    return " ".join(f"{_check(' '.join(t.split()), _SC, SC)} <SC> {s}".strip() for s, t in items)


def from_suffix(text: str) -> List[Labelled]:
    """Parse ``text <SC> 0 …`` into (number, text) pairs; words after the last label belong to its speaker.

    >>> from_suffix("how is it? <SC> 0 okay <SC> 1 I think")
    [('0', 'how is it?'), ('1', 'okay I think')]
    """
    out: List[Labelled] = []
    end = 0
    for m in _SUFFIX.finditer(text):
        out.append((m["spk"], " ".join(m["text"].split())))
        end = m.end()
    rest = " ".join(text[end:].split())
    if rest:
        speaker, words = out.pop() if out else ("0", "")
        out.append((speaker, f"{words} {rest}".strip()))
    return out


def serialise(segments: Sequence[Mapping], policy: Order = Order(), fmt: str = "sot") -> str:
    """Write the segments of one clip as one string in one of :data:`FORMATS`.

    >>> a = {"session_id": "m", "speaker": "A", "start_time": 0.9, "end_time": 2.0, "words": "fine"}
    >>> b = {"session_id": "m", "speaker": "B", "start_time": 0.0, "end_time": 1.0, "words": "hello"}
    >>> serialise([a, b]), serialise([a, b], fmt="labelled"), serialise([a, b], fmt="suffix")
    ('hello <sc> fine', 'spk 0: hello spk 1: fine', 'hello <SC> 0 fine <SC> 1')
    """
    items = turns(segments, policy)
    if fmt == "sot":
        return to_sot([t.text for t in items])
    if fmt == "labelled":
        return to_labelled(number_speakers(items))
    if fmt == "suffix":
        return to_suffix(number_speakers(items))
    raise UserError(f"unknown format '{fmt}'; {nearest(fmt, FORMATS)}")


def parse(text: str, fmt: str = "sot") -> List[Labelled]:
    """Read a serialised string back as (speaker, text) pairs; the turns of ``sot`` are talkers 0, 1, ….

    >>> parse("hello <sc> fine"), parse("hello <SC> 0 fine <SC> 1", "suffix")
    ([('0', 'hello'), ('1', 'fine')], [('0', 'hello'), ('1', 'fine')])
    """
    if fmt == "sot":
        return [(str(i), t) for i, t in enumerate(from_sot(text))]
    if fmt == "labelled":
        return from_labelled(text)
    if fmt == "suffix":
        return from_suffix(text)
    raise UserError(f"unknown format '{fmt}'; {nearest(fmt, FORMATS)}")


def parse_supervision(value: str, session_id: str = "") -> List[dict]:
    """Read what stands after the clip id in a line of ``supervision`` as segments.

    >>> parse_supervision('[{"spk":"S1","start":0.0,"end":2.31,"text":"hi"}]', "clip7")
    [{'session_id': 'clip7', 'speaker': 'S1', 'start_time': 0.0, 'end_time': 2.31, 'words': 'hi'}]

    Raises:
        ValueError: not such a list.
    """
    try:
        return [
            {"session_id": session_id, "speaker": s["spk"], "start_time": float(s["start"]),
             "end_time": float(s["end"]), "words": s["text"]}
            for s in json.loads(value)
        ]
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f'not a JSON list of {{"spk","start","end","text"}} ({e!r})') from None


def read_supervision(path: Pathlike) -> Dict[str, List[dict]]:
    """Read a ``supervision`` file: clip id → segments, in the order of the file.

    Raises:
        UserError: no such file, a line that cannot be read, a clip given twice (with the line's number).
    """
    repair = f"make the clips again: python -m espnet_mt_llm.bin.make_clips --out_dir {Path(path).parent} …"
    out: Dict[str, List[dict]] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise at(path, None, "no such file", repair) from None
    except UnicodeDecodeError as e:
        raise at(path, None, f"not UTF-8 ({e.reason} at byte {e.start})", repair) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            if number < len(lines):
                raise at(path, number, "empty line", repair)
            continue
        clip, _, value = line.partition(" ")
        if clip in out:
            raise at(path, number, f"the clip '{clip}' is given twice", repair)
        try:
            out[clip] = parse_supervision(value, clip)
        except ValueError as e:
            raise at(path, number, str(e), repair) from None
    return out
