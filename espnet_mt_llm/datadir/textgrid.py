"""Praat TextGrids: any text flavour (long, short, ELAN, UTF-8 or -16) is read by Praat's own rule, long is written."""

import codecs
import logging
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Iterable, Mapping, Optional, Sequence

from espnet_mt_llm.common import Pathlike, at, atomic_open
from espnet_mt_llm.datadir.maps import decode_utf8, read_bytes

log = logging.getLogger(__name__)

# Praat reads free-standing numbers, quoted strings (a quote inside is doubled) and flags, and skips every other word:
# so the long, the short and ELAN's file are the same sequence of tokens. What other programs write for a time that they
# do not know (nan, inf) counts as a number here, so that it can be refused.
_TOKEN = re.compile(
    r'"[^"]*(?:""[^"]*)*"|<(?:exists|absent)>'
    r"|(?<!\S)[-+]?(?:\.?\d[\d.]*(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?))(?!\S)"
)

# What Praat itself writes, the long form: its tiers and intervals are found five times faster by their labels.
_LONG_HEAD = re.compile(r'\s*File type = "ooTextFile"\s+Object class = "TextGrid"\s[^"]*\ssize = (\d+)\s[^"]*')
_LONG_TIER = re.compile(
    r'class = "IntervalTier"\s+name = "([^"]*)"\s+xmin = \S+\s+xmax = \S+\s+intervals: size = (\d+)\s'
)
# A text with a quote inside is left to Praat's own rule.
_LONG_INTERVAL = re.compile(r'xmin = (\S+)\s+xmax = (\S+)\s+text = "([^"]*)"(?!")')


@dataclass(frozen=True)
class Tier:
    """One line of annotation; ``spans`` are (start, end, text) in seconds, and start == end for a point."""

    name: str
    points: bool
    spans: list[tuple[float, float, str]]


def read_tiers(path: Pathlike) -> list[Tier]:
    """Read all tiers, with their empty intervals; the tier's and the file's own limits are not believed in.

    Raises:
        UserError: with the line, not a TextGrid, one that ends too early, or a time that is not finite (nan, inf).
    """
    text = _decoded(path)
    if (long := _long_tiers(text)) is not None:
        return long
    tokens = _TOKEN.findall(text)
    if tokens[1:2] != ['"TextGrid"'] and tokens[:1] != ['"TextGrid"']:
        raise at(path, 1, "not a TextGrid in a text format", "save it from Praat with 'Save as text file…'")
    i = tokens.index('"TextGrid"') + 3
    tiers = []
    try:
        count = int(tokens[i + 1]) if tokens[i] == "<exists>" else 0
        i += 2
        for _ in range(count):
            kind, name, size = tokens[i], _unquoted(tokens[i + 1]), int(tokens[i + 4])
            if kind not in ('"IntervalTier"', '"TextTier"'):
                raise ValueError
            width = 3 if kind == '"IntervalTier"' else 2
            body = tokens[i + 5 : i + 5 + width * size]
            starts, ends = list(map(float, body[::width])), list(map(float, body[width - 2 :: width]))
            if not all(map(math.isfinite, starts + ends)):
                raise _not_finite(path, text, i + 5, body, width)
            tiers.append(Tier(name, width == 2, list(zip(starts, ends, map(_unquoted, body[width - 1 :: width])))))
            if len(body) < width * size:
                raise IndexError
            i += 5 + width * size
    except IndexError:
        raise at(path, text.count("\n") + 1, "the file ends too early", "copy it again") from None
    except ValueError:
        raise _misplaced(path, text, i) from None
    return tiers


def _long_tiers(text: str) -> Optional[list[Tier]]:
    """Read a file of interval tiers in the long form; None where anything is not as Praat writes it."""
    head, *parts = _LONG_TIER.split(text)
    match = _LONG_HEAD.fullmatch(head)
    if match is None or 3 * int(match.group(1)) != len(parts):
        return None
    tiers = []
    for name, size, body in zip(parts[::3], parts[1::3], parts[2::3]):
        found = _LONG_INTERVAL.findall(body)
        if len(found) != int(size):
            return None
        # In columns: a few calls for all intervals, not for each.
        begins, stops, texts = zip(*found) if found else ((), (), ())
        try:
            starts, ends = list(map(float, begins)), list(map(float, stops))
        except ValueError:
            return None
        # One that is not finite makes the sum so.
        if not math.isfinite(sum(starts) + sum(ends)):
            return None
        tiers.append(Tier(name, False, list(zip(starts, ends, texts))))
    return tiers


def read_textgrid(path: Pathlike) -> list[dict]:
    """Read the intervals with text as SegLST segments: the file's stem is the session, the tier's name the speaker.

    White space and line breaks inside a text become single spaces. Points have no duration and are left out; an
    interval with text that ends before it starts is left out with a warning; a start before 0 becomes 0.
    """
    session = Path(path).name.rsplit(".", 1)[0]
    segments = []
    for tier in read_tiers(path):
        for start, end, text in tier.spans:
            words = " ".join(text.split())
            if not words or tier.points:
                continue
            start = max(start, 0.0) + 0.0  # + 0.0 turns a negative zero into zero
            if end <= start:
                log.warning(
                    "%s: tier %s: left out '%s', which goes from %g to %g s", path, tier.name, words, start, end
                )
                continue
            segments.append(
                {"session_id": session, "speaker": tier.name, "start_time": start, "end_time": end, "words": words}
            )
    return segments


def write_textgrid(path: Pathlike, segments: Iterable[Mapping], duration: Optional[float] = None) -> None:
    """Write SegLST segments of one session in Praat's long text format, a tier per speaker, atomically.

    Args:
        duration: seconds of the recording; None is the end of the last segment.

    Raises:
        UserError: what a tier cannot hold: segments of one speaker that overlap, without length, or without words.
    """
    tiers: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for s in segments:
        tiers[str(s["speaker"])].append((float(s["start_time"]), float(s["end_time"]), str(s["words"])))
    last = max((end for spans in tiers.values() for _, end, _ in spans), default=0.0)
    xmax = max(last, duration or 0.0)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0 ",
        f"xmax = {_number(xmax)} ",
        "tiers? <exists> " if tiers else "tiers? <absent> ",
        *([f"size = {len(tiers)} ", "item []: "] if tiers else []),
    ]
    for number, name in enumerate(sorted(tiers), 1):
        spans = _filled(path, name, sorted(tiers[name]), xmax)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier" ',
            f"        name = {_quoted(name)} ",
            "        xmin = 0 ",
            f"        xmax = {_number(xmax)} ",
            f"        intervals: size = {len(spans)} ",
        ]
        for i, (start, end, words) in enumerate(spans, 1):
            lines += [
                f"        intervals [{i}]:",
                f"            xmin = {_number(start)} ",
                f"            xmax = {_number(end)} ",
                f"            text = {_quoted(words)} ",
            ]
    with atomic_open(path) as f:
        f.write("\n".join(lines) + "\n")


def _filled(
    path: Pathlike, name: str, spans: Sequence[tuple[float, float, str]], xmax: float
) -> list[tuple[float, float, str]]:
    """Put empty intervals between those with words, for a tier has no holes; less than a microsecond is none."""
    filled: list[tuple[float, float, str]] = []
    for start, end, words in spans:
        before = filled[-1] if filled else (0.0, 0.0, "")
        if abs(start - before[1]) < 1e-6:
            start = before[1]
        this = f"tier {name}: '{words}' from {_number(start)} to {_number(end)} s"
        if not 0 <= start < end or not words.strip():
            raise at(path, None, f"{this} has no {'words' if 0 <= start < end else 'length'}", "leave it out first")
        if start < before[1]:
            other = f"'{before[2]}' from {_number(before[0])} to {_number(before[1])} s"
            raise at(path, None, f"{this} overlaps {other}", "correct the times, or write .rttm, .stm or .json")
        if start > before[1]:
            filled.append((before[1], start, ""))
        filled.append((start, end, words))
    if not filled or filled[-1][1] < xmax:
        filled.append((filled[-1][1] if filled else 0.0, xmax, ""))
    return filled


def _number(seconds: float) -> str:
    """Write the shortest decimals that read back as the same number, as Praat does: 2.0 is 2."""
    return repr(seconds).removesuffix(".0")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _decoded(path: Pathlike) -> str:
    raw = read_bytes(path)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError as e:
            raise at(path, None, f"begins as UTF-16 and cannot be decoded ({e.reason})", "copy it again") from None
    return decode_utf8(path, raw)


def _unquoted(token: str) -> str:
    if token[0] != '"':
        raise ValueError
    return token[1:-1].replace('""', '"')


def _not_finite(path: Pathlike, text: str, first: int, body: Sequence[str], width: int) -> Exception:
    """Name the line of the first time that is not finite; ``first`` is the token that ``body`` begins with."""
    offset = next(k for k, token in enumerate(body) if k % width < width - 1 and not math.isfinite(float(token)))
    return at(
        path,
        _line_of(text, first + offset),
        f"the time '{body[offset]}' is not a finite number",
        "open the file in a text editor, write the seconds there, or take the interval out",
    )


def _line_of(text: str, index: int) -> int:
    """Return the line of a token, which is counted from 0."""
    match = next(islice(_TOKEN.finditer(text), index, None), None)
    return text.count("\n", 0, match.start() if match else len(text)) + 1


def _misplaced(path: Pathlike, text: str, index: int) -> Exception:
    """Name the line of the tier, from its first token on, that does not read as one."""
    return at(
        path,
        _line_of(text, index),
        "what begins here is not a tier of intervals or points (class, name, limits, count, then times and "
        "text in quotes)",
        "open it in Praat, correct it there and save it as text",
    )
