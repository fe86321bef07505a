"""Names that speakers are registered under: what is a name, so that a labelled transcript has one reading."""

import re
import unicodedata
from typing import Iterable

from espnet_mt_llm.common import UserError

_MARKS = "-_.'’·"


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
        if unicodedata.category(c)[0] not in "LMN" and c not in _MARKS:
            raise UserError(f"the name {name!r} holds {c!r}; a name is one word of letters, digits and {_MARKS}, "
                            f"for example {_repaired(name)!r}")
    if not any(unicodedata.category(c)[0] == "L" for c in name):
        raise UserError(f"the name {name!r} has no letter, so it could be a speaker's number; call him 'S{name}'")
    if re.fullmatch(r"spk[-_.]?[0-9]*", name):
        raise UserError(f"the name {name!r} looks like the label of a speaker without a name; call him "
                        f"{'S' + re.sub('[^0-9]', '', name)!r}")
    return name


def _repaired(name: str) -> str:
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in _MARKS else " " for c in name)
    return "_".join(kept.split()) or "S1"


def check_names(names: Iterable[str]) -> list[str]:
    """Return the names that are registered for one clip.

    Raises:
        UserError: one that is no name, or one that is there twice; width and case do not tell two names apart.
    """
    names = [check_name(name) for name in names]
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold()
        if key in seen:
            again = "" if seen[key] == name else f" as {seen[key]!r}"
            raise UserError(f"the name {name!r} is registered twice{again}; give the second speaker another name")
        seen[key] = name
    return names
