"""Who said what, in one order: the turns of a clip, the mark between them, and `supervision` lines.

A segment is meeteval's SegLST as a dict: ``session_id, speaker, start_time, end_time, words`` (seconds).
"""

import json
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, nearest

SC = "<sc>"
ORDERS = ("onset", "end", "duration", "speaker", "random", "input")
TIE_RULES = ("speaker", "longest", "loudest", "random", "input")
UNITS = ("talker", "utterance")
# In the words of Order.describe.
_TIE, _SEED = re.compile(r" less than (\d[\d.e+-]*) ms apart: "), re.compile(r" \(seed (-?\d+)\)$")


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
        """Return the order that :meth:`describe` puts so, or None.

        >>> Order.described(Order("end", "random", tie=0.1, seed=3).describe())
        Order(order='end', tie_rule='random', tie=0.1, unit='talker', seed=3)
        """
        tie, seed = _TIE.search(text), _SEED.search(text)
        drawn = {"tie": float(tie[1]) / 1000 if tie else cls.tie, "seed": int(seed[1]) if seed else cls.seed}
        every = (cls(o, t, unit=u, **drawn) for u in UNITS for o in ORDERS for t in TIE_RULES)
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
    if policy.unit == "talker":
        session = str(segments[0].get("session_id", "")) if segments else ""
        return _arrange(_talkers(segments), policy, session)
    return _merge_neighbours(utterances(segments, policy))


def utterances(segments: Sequence[Mapping], policy: Order = Order()) -> List[Turn]:
    """Put the segments of one clip in the order of ``policy``, each a turn of its own."""
    session = str(segments[0].get("session_id", "")) if segments else ""
    return _arrange([_turn([s]) for s in segments], policy, session)


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


_SC = re.compile(r"\s*<sc>\s*", re.IGNORECASE)


def strip_sc(text: str) -> str:
    """Remove every ``<sc>``, also one that is glued to a word, as other toolkits write it.

    >>> strip_sc("a <sc> b"), strip_sc("a<SC>b <sc> <sc>")
    ('a b', 'a b')
    """
    return " ".join(_SC.sub(" ", text).split())


def parse_supervision(value: str, session_id: str = "") -> List[dict]:
    """Read what stands after the clip id in a line of ``supervision`` as segments.

    >>> parse_supervision('[{"spk":"S1","start":0.0,"end":2.31,"text":"hi"}]', "clip7")
    [{'session_id': 'clip7', 'speaker': 'S1', 'start_time': 0.0, 'end_time': 2.31, 'words': 'hi'}]

    Of a segment there may also be the ``level`` in dB, for the tie rule ``loudest``.

    Raises:
        ValueError: not such a list.
    """
    try:
        return [_segment(s, session_id) for s in json.loads(value)]
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f'not a JSON list of {{"spk","start","end","text"}} ({e!r})') from None


def _segment(entry: Mapping, session_id: str) -> dict:
    for key in ("spk", "text"):
        if not isinstance(entry[key], str):
            raise ValueError(f"{key} is {entry[key]!r}, no string")
    out = {"session_id": session_id, "speaker": entry["spk"], "start_time": float(entry["start"]),
           "end_time": float(entry["end"]), "words": entry["text"]}
    if not (math.isfinite(out["start_time"]) and math.isfinite(out["end_time"])):
        raise ValueError(f"times are {out['start_time']} and {out['end_time']}")
    return {**out, "level": float(entry["level"])} if entry.get("level") is not None else out


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
