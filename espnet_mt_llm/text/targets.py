"""What a speech LLM learns to write: the turns of a clip as pieces of text, each with its type, and as token ids.

A target is the concatenation of its pieces, a string in one of the formats of `parsing`. Every piece of words begins
with a space, so that a tokenizer sees the same words at the beginning and in the middle.
"""

import math
import re
from collections import Counter
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.names import check_names
from espnet_mt_llm.text.parsing import CHANGE_TEXT, check_format
from espnet_mt_llm.text.serialisation import Order, Turn, utterances

TEXT, CHANGE, SPEAKER, END = range(4)
# Overlapping turns stand by the start of their segments, as annotated; arXiv 2606.13095 has timed them anew.
ORDER = Order("onset", unit="utterance")

_TAG = re.compile(r"<[^<>\s]*>")
_COLON = re.compile(r"(?<![0-9]):|:(?![0-9])")


class Piece(NamedTuple):
    """A part of a target.

    Attributes:
        text: empty for END, the token that ends an answer.
        type: TEXT, CHANGE (``<SC>``), SPEAKER (a label) or END.
        segment: which turn it belongs to, from 0; -1 for END.
        overlapped: somebody else speaks during the utterance. It is known for whole utterances, since words have no
            times; a mark or label is overlapped when an utterance of its turn is.
        speaker: who says it; empty for END.
    """

    text: str
    type: int
    segment: int
    overlapped: bool
    speaker: str = ""


class Encoded(NamedTuple):
    """A target as tokens, U of each.

    Attributes:
        ids: token ids.
        types: of the pieces.
        weights: on the tokens of a label the number of text tokens of its turn (L_i of arXiv 2606.13095, Eq. 4),
            elsewhere 0.
        overlapped, speakers: of the pieces.
    """

    ids: List[int]
    types: List[int]
    weights: List[float]
    overlapped: List[bool]
    speakers: List[str]


def clean(text: str, fmt: str) -> Tuple[str, int]:
    """Take out of a transcript what a format gives a meaning, and say how many marks that were.

    Everything in angle brackets goes, as it may be a special token, ``<SC>`` the first of them; in ``speakerlm`` also
    every colon but those between two digits, so that no text looks like a label.

    >>> clean("see spk 1: at 10:30 <SC> or <sil> so", "speakerlm")
    ('see spk 1 at 10:30 or so', 3)
    """
    text, count = _TAG.subn(" ", text)
    if fmt == "speakerlm":
        text, found = _COLON.subn(" ", text)
        count += found
    return " ".join(text.split()), count


def build_target(segments: Sequence[Mapping], fmt: str, names: Optional[Mapping[str, str]] = None,
                 pause: float = 1.0, *, num_ids: Optional[int] = None,
                 counts: Optional[Counter] = None) -> List[Piece]:
    """Write the segments of one clip in one of the formats, utterances by start, END at the end.

    Speakers without a name get the numbers 0, 1, … by first appearance. Neighbouring utterances of one speaker become
    one turn. In ``sc_suffix`` a pause of ``pause`` s or more between them parts them by a virtual ``<SC>``, and the
    label stays the same (arXiv 2606.13095, third stage).

    Args:
        segments: SegLST dicts in any order; one without words is left out.
        names: speaker → the name he is registered under.
        pause: seconds; ``math.inf`` for no virtual ``<SC>``.
        num_ids: how many numbers there are for speakers; as many as are needed when None.
        counts: gets what was ``cleaned`` out of the texts (see :func:`clean`) and how many were ``empty``.

    >>> a = {"session_id": "m", "speaker": "A", "start_time": 0.9, "end_time": 2.0, "words": "fine"}
    >>> b = {"session_id": "m", "speaker": "B", "start_time": 0.0, "end_time": 1.0, "words": "hello"}
    >>> text_of(build_target([a, b], "sc_suffix")), text_of(build_target([a, b], "speakerlm", {"B": "Mike"}))
    (' hello<SC>0 fine<SC>1', ' Mike: hello spk 0: fine')

    Raises:
        UserError: an unknown format, names that cannot be labels, or more speakers than numbers.
    """
    check_format(fmt)
    if not pause > 0:
        raise UserError(f"pause: {pause} is no length of a pause in seconds; use 1.0, or .inf for none")
    names = dict(names or {})
    check_names(names.values())
    counts = Counter() if counts is None else counts
    ordered = utterances(segments, ORDER)
    labels: Dict[str, str] = {}
    pieces: List[Piece] = []
    for i, turn in enumerate(_turns(ordered, fmt, pause if fmt == "sc_suffix" else math.inf, counts)):
        speaker = turn[0].speaker
        label = names.get(speaker) or labels.setdefault(speaker, str(len(labels)))
        overlaps = [_overlapped(u, ordered) for u in turn]
        said = [Piece(f" {u.text}", TEXT, i, overlap, speaker) for u, overlap in zip(turn, overlaps)]
        pieces += _turn_pieces(fmt, label, said, any(overlaps))
    if num_ids is not None and len(labels) > num_ids:
        where = f"clip {segments[0].get('session_id', '')}: "
        raise UserError(f"{where}{len(labels)} speakers for {num_ids} ids; cut clips with fewer speakers, or raise the "
                        "number of ids")
    return [*pieces, Piece("", END, -1, False)]


def _turns(ordered: Sequence[Turn], fmt: str, pause: float, counts: Counter) -> List[List[Turn]]:
    """Group utterances that have words into turns."""
    out: List[List[Turn]] = []
    for utterance in ordered:
        text, cleaned = clean(utterance.text, fmt)
        counts["cleaned"] += cleaned
        if not text:
            counts["empty"] += 1
            continue
        utterance = Turn(utterance.speaker, utterance.start, utterance.end, text)
        # Times are stored to 1 ms: a rounding error must not decide whether a pause is long.
        if (out and out[-1][0].speaker == utterance.speaker
                and round(utterance.start - max(u.end for u in out[-1]), 6) < pause):
            out[-1].append(utterance)
        else:
            out.append([utterance])
    return out


def _overlapped(utterance: Turn, others: Sequence[Turn]) -> bool:
    return any(o.speaker != utterance.speaker and o.start < utterance.end and utterance.start < o.end for o in others)


def _turn_pieces(fmt: str, label: str, said: List[Piece], overlapped: bool) -> List[Piece]:
    segment, speaker = said[0].segment, said[0].speaker
    named = not label.isdecimal()
    change = Piece(CHANGE_TEXT, CHANGE, segment, overlapped, speaker)
    if fmt == "speakerlm":
        return [Piece(f" {label}:" if named else f" spk {label}:", SPEAKER, segment, overlapped, speaker), *said]
    if fmt == "sc_suffix":
        return [*said, change, Piece(f" {label}" if named else label, SPEAKER, segment, overlapped, speaker)]
    return ([change] if segment else []) + said


def turns_again(turns: Sequence[Tuple[str, str]], fmt: str) -> List[Piece]:
    """Write turns that were read from an answer, (label, text), as they should stand there, END at the end.

    Each turn is by itself, also beside one with the same label; one of which :func:`clean` leaves nothing is left out.
    The speaker of a piece is the number of its turn.

    >>> text_of(turns_again([("0", "hello: there"), ("Mike", "fine"), ("Mike", "<sil>")], "speakerlm"))
    ' spk 0: hello there Mike: fine'
    """
    pieces: List[Piece] = []
    for i, (label, words) in enumerate(turns):
        text, _ = clean(words, fmt)
        if text:
            pieces += _turn_pieces(fmt, label, [Piece(f" {text}", TEXT, i, False, str(i))], False)
    return [*pieces, Piece("", END, -1, False)]


def text_of(pieces: Sequence[Piece]) -> str:
    """Return the string that pieces make up."""
    return "".join(piece.text for piece in pieces)


def encode_target(pieces: Sequence[Piece], tokenizer: Any) -> Encoded:
    """Turn pieces into tokens, each piece by itself, so that no token crosses a border.

    Args:
        tokenizer: an ``LLMTokenizer``.
    """
    encoded = [[tokenizer.end_id] if p.type == END else tokenizer.encode(p.text) for p in pieces]
    lengths = Counter()
    for piece, ids in zip(pieces, encoded):
        if piece.type == TEXT:
            lengths[piece.segment] += len(ids)
    out = Encoded([], [], [], [], [])
    for piece, ids in zip(pieces, encoded):
        weight = float(lengths[piece.segment]) if piece.type == SPEAKER else 0.0
        out.ids.extend(ids)
        out.types.extend([piece.type] * len(ids))
        out.weights.extend([weight] * len(ids))
        out.overlapped.extend([piece.overlapped] * len(ids))
        out.speakers.extend([piece.speaker] * len(ids))
    return out
