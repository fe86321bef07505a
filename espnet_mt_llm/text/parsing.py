"""What a model put out, read as turns: any string is parsed as far as it goes, and what is malformed is counted.

The formats, of which `targets` writes the strings:

- ``speakerlm``: ``spk 0: hi there spk 1: fine Mike: okay``; the label goes before the text (SpeakerLM,
  arXiv 2508.06372, Fig. 2);
- ``sc_suffix``: ``hi there <SC> 0 fine <SC> 1 okay <SC> Mike``; the label goes behind it (arXiv 2606.13095, Eq. 3);
- ``sot``: ``hi there <SC> fine``; nobody is named, and each turn counts as a talker.
"""

import re
from dataclasses import dataclass
from typing import List, Sequence, Tuple

from espnet_mt_llm.common import UserError, nearest

FORMATS = ("speakerlm", "sc_suffix", "sot")
CHANGE_TEXT = "<SC>"
Turns = List[Tuple[str, str]]

_CHANGE = re.compile("<sc>", re.IGNORECASE)
# A colon before a digit is a time of the day: texts keep such a one, see targets.clean.
_LABEL = re.compile(r"(?<![A-Za-z0-9])spk ?(?P<number>[0-9]+):(?![0-9])|(?<!\S)(?P<name>[^\s:]+):(?![0-9])")
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Parsed:
    """The turns of an output.

    Attributes:
        turns: (speaker, text) in the order of the output; a speaker is a number or a name.
        malformed: parts that do not follow the format: text without a label, a label without text or of nobody.
        unparsable: there is text, but not one label, so nobody knows who said it. It is given to the speaker 0.
    """

    turns: Turns
    malformed: int = 0
    unparsable: bool = False


def check_format(fmt: str) -> str:
    """Return ``fmt`` when it is a known format.

    Raises:
        UserError: it is not; the nearest one is named.
    """
    if fmt not in FORMATS:
        raise UserError(f"unknown format '{fmt}'; {nearest(str(fmt), FORMATS)}")
    return fmt


def parse_output(text: str, fmt: str, names: Sequence[str] = ()) -> Parsed:
    """Read ``text`` in one of :data:`FORMATS`; no text is an error.

    Args:
        names: the registered names. Another name is a speaker more, and counted as malformed.

    >>> parse_output("spk 0: hi, how are you? spk 1: fine Mike: ok", "speakerlm", ["Mike"]).turns
    [('0', 'hi, how are you?'), ('1', 'fine'), ('Mike', 'ok')]
    >>> parse_output("how is it? <SC> 0 okay <SC> 1 I think", "sc_suffix")
    Parsed(turns=[('0', 'how is it?'), ('1', 'okay I think')], malformed=1, unparsable=False)

    Raises:
        UserError: an unknown format.
    """
    if check_format(fmt) == "speakerlm":
        return _speakerlm(text, set(names))
    if fmt == "sc_suffix":
        return _sc_suffix(text, set(names))
    parts = [_words(part) for part in _CHANGE.split(text)] if text.strip() else []
    said = [part for part in parts if part]
    return Parsed([(str(i), part) for i, part in enumerate(said)], len(parts) - len(said))


def _words(text: str) -> str:
    return " ".join(text.split())


def _speakerlm(text: str, names: set) -> Parsed:
    turns: Turns = []
    labels = list(_LABEL.finditer(text))
    before = _words(text[: labels[0].start()] if labels else text)
    malformed = 0
    if before:
        turns.append(("0", before))
        malformed += 1
    ends = [m.start() for m in labels[1:]] + [len(text)]
    for m, end in zip(labels, ends):
        said = _words(text[m.end() : end])
        known = m["number"] is not None or m["name"] in names
        malformed += (not known) + (not said)
        if said:
            turns.append((m["number"] or m["name"], said))
    return Parsed(turns, malformed, bool(before) and not labels)


def _sc_suffix(text: str, names: set) -> Parsed:
    """Read the label behind each mark: a number, or with registered names a whole word.

    A turn without a label, also one after the last mark, goes to the speaker before it.
    """
    parts = _CHANGE.split(text)
    turns: Turns = []
    malformed, labels, said = 0, 0, _words(parts[0])
    for part in parts[1:]:
        part = part.strip()
        label = _suffix_label(part, names)
        malformed += (not said) + (not label)
        if label:
            labels += 1
            malformed += not label.isdecimal() and label not in names
            part = part[len(label) :]
            if said:
                turns.append((label, said))
        elif said:
            turns.append((turns[-1][0] if turns else "0", said))
        said = _words(part)
    if said:
        malformed += 1
        speaker, words = turns.pop() if turns else ("0", "")
        turns.append((speaker, f"{words} {said}".strip()))
    return Parsed(turns, malformed, bool(turns) and not labels)


def _suffix_label(text: str, names: set) -> str:
    word = text.split(maxsplit=1)[0] if text else ""
    number = _NUMBER.match(word)
    if names and (word in names or not number):
        return word
    return number.group() if number else ""
