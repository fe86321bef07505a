"""Names that speakers are registered under: what is a name, so that a labelled transcript has one reading."""

import re
import unicodedata
from typing import Iterable

from espnet_mt_llm.common import UserError

_MARKS = "-_.'’·"
_LOOKALIKE = re.compile("spk[-_.]?[0-9]*")


def check_name(name: str) -> str:
    """Return ``name``, which may stand in a transcript as a speaker's label.

    A name is one word of letters and digits of any script and the marks ``- _ . ' ’ ·``; at least one is a letter, and
    it does not look like the label ``spk <number>`` of a speaker without a name.

    >>> check_name("Mike"), check_name("张三"), check_name("R1_M8004")
    ('Mike', '张三', 'R1_M8004')

    Raises:
        UserError: it is no such name.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"a speaker is registered under the empty name {name!r}; give him a name")
    for c in name:
        if not _fits(c):
            raise UserError(f"the name {name!r} holds {c!r}; a name is one word of letters, digits and {_MARKS}, "
                            f"for example {as_name(name)!r}")
    if not _has_letter(name):
        raise UserError(f"the name {name!r} has no letter, so it could be a speaker's number; call him "
                        f"{as_name(name)!r}")
    if _LOOKALIKE.fullmatch(name):
        raise UserError(f"the name {name!r} looks like the label of a speaker without a name; call him "
                        f"{as_name(name)!r}")
    return name


def _fits(c: str) -> bool:
    return unicodedata.category(c)[0] in "LMN" or c in _MARKS


def _has_letter(name: str) -> bool:
    return any(unicodedata.category(c)[0] == "L" for c in name)


def as_name(speaker: str) -> str:
    """Return a name for a speaker whose id is none.

    >>> as_name("Mike B"), as_name("1272"), as_name("spk 1"), as_name("R8001")
    ('Mike_B', 'S1272', 'S1', 'R8001')
    """
    name = "_".join("".join(c if _fits(c) else " " for c in speaker).split())
    if _LOOKALIKE.fullmatch(name):
        name = re.sub("[^0-9]", "", name)
    return name if _has_letter(name) else f"S{name or 1}"


def name_speakers(speakers: Iterable[str]) -> dict[str, str]:
    """Give each speaker id the name it is registered under: itself where it is one, else the like.

    >>> name_speakers(["1272", "S1272", "Mike"])
    {'1272': 'S1272_2', 'S1272': 'S1272', 'Mike': 'Mike'}
    """
    speakers = list(dict.fromkeys(speakers))
    taken: set[str] = set()
    out = dict.fromkeys(speakers, "")
    # Who has a name keeps it.
    for speaker in sorted(speakers, key=lambda s: (as_name(s) != s, s)):
        name, again = as_name(speaker), 1
        while name_key(name) in taken:
            again += 1
            name = f"{as_name(speaker)}_{again}"
        taken.add(name_key(name))
        out[speaker] = name
    return out


def name_key(name: str) -> str:
    """Return what tells names apart: neither width nor case does.

    >>> name_key("Mike") == name_key("ＭＩＫＥ")
    True
    """
    return unicodedata.normalize("NFKC", name).casefold()


def check_names(names: Iterable[str]) -> list[str]:
    """Return the names that are registered for one clip.

    Raises:
        UserError: one that is no name, or one that is there twice; width and case do not tell two names apart.
    """
    names = [check_name(name) for name in names]
    seen: dict[str, str] = {}
    for name in names:
        if name_key(name) in seen:
            first = seen[name_key(name)]
            again = "" if first == name else f" as {first!r}"
            raise UserError(f"the name {name!r} is registered twice{again}; give the second speaker another name")
        seen[name_key(name)] = name
    return names
