"""Text before it is compared or learnt from: normalisation profiles, and the tokens that errors are counted in."""

import re
import unicodedata
from typing import Callable, Dict, List, Sequence, Tuple

from espnet_mt_llm.common import UserError, nearest

UNITS = ("word", "char", "mixed")

# AliMeeting's marks of noise, silence and the like; they are annotation, never speech.
_ALIMEETING_TAGS = re.compile(r"<(?:sil|%|-|\$|#|_|space)>", re.IGNORECASE)
_ALIMEETING_PUNCTUATION = dict.fromkeys(map(ord, "`&,，丶。、 ？"))
# The six full-width letters that the official script knows.
_ALIMEETING_LETTERS = str.maketrans("Ａａｂｃｋｔ", "Aabckt")
_APOSTROPHES = str.maketrans("’‘ʼ＇", "''''")
# One ideograph or kana is one token of Chinese (or Japanese) text.
_CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_MIXED = re.compile(f"[{_CJK}]|[^{_CJK}\\s]+")
# Most of what is said in Mandarin is ideographs and these marks alone; the mark \u4e36 is among the ideographs.
_HAN_ALONE = re.compile("[\u4e00-\u4e35\u4e37-\u9fa5]*")
_MARKS = "，。？！、 "
_SPACE_BESIDE_CJK = re.compile(f"(?<=[{_CJK}])\\s+|\\s+(?=[{_CJK}])")


def _none(text: str) -> str:
    return " ".join(text.split())


class _Spoken(Dict[int, int]):
    """What ``str.translate`` makes of each character; looked up in Unicode once, since texts have few kinds."""

    def __missing__(self, code: int) -> int:
        spoken = chr(code) == "'" or unicodedata.category(chr(code))[0] in "LMN"
        self[code] = code if spoken else ord(" ")
        return self[code]


_SPOKEN = _Spoken()


def _without_punctuation(text: str) -> str:
    """Turn every character that is no letter, mark, digit or apostrophe into a space."""
    return text.translate(_SPOKEN)


def _fold(text: str) -> str:
    """Half width, upper case, one kind of apostrophe; normalised twice because upper case can need it again."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper()).translate(_APOSTROPHES)


def _without_tags(text: str) -> str:
    while _ALIMEETING_TAGS.search(text):
        text = _ALIMEETING_TAGS.sub("", text)
    return text


def _en_libri(text: str) -> str:
    words = _without_punctuation(_fold(text)).split()
    return " ".join(w for w in words if w.strip("'"))


def _without_marks(text: str) -> str:
    for mark in _MARKS:
        text = text.replace(mark, "")
    return text


def _zh_char(text: str) -> str:
    if _HAN_ALONE.fullmatch(bare := _without_marks(text)):
        return bare
    words = _without_punctuation(_fold(_without_tags(text)).replace("丶", " ")).split()
    return _SPACE_BESIDE_CJK.sub("", " ".join(w for w in words if w.strip("'")))


def _zh_char_official(text: str) -> str:
    # Punctuation goes first, so that it cannot hide a tag.
    text = _without_tags("".join(text.translate(_ALIMEETING_PUNCTUATION).split())).translate(_ALIMEETING_LETTERS)
    # Only the Latin letters, as the script does: str.upper() would also change other alphabets.
    return re.sub("[a-z]+", lambda m: m.group().upper(), text)


_PROFILES: Dict[str, Callable[[str], str]] = {
    "none": _none,
    "en_libri": _en_libri,
    "zh_char": _zh_char,
    "zh_char_official": _zh_char_official,
}
PROFILES: Tuple[str, ...] = tuple(_PROFILES)


def check_profile(profile: str) -> str:
    """Return ``profile`` when it is a known one.

    Raises:
        UserError: it is not; the nearest one is named.
    """
    if profile not in _PROFILES:
        raise UserError(f"unknown normalisation profile '{profile}'; {nearest(profile, _PROFILES)}")
    return profile


def normalise(text: str, profile: str) -> str:
    """Bring ``text`` into the form that ``profile`` compares. Every profile is idempotent.

    ``none``: only white space is collapsed. ``en_libri``: LibriSpeech's form, upper case, letters, digits and
    apostrophes. ``zh_char``: AliMeeting's tags and all punctuation removed, NFKC (full width to half width), Latin in
    upper case, no space beside an ideograph. ``zh_char_official``: what AliMeeting's ``text_normalize.pl`` removes and
    maps (a short list of punctuation, six full-width letters, every space) and no more.

    >>> normalise("Well, I don’t  know!", "en_libri")
    "WELL I DON'T KNOW"
    >>> normalise("好，嗯 <sil>我们 用ＡＩ model 吧。", "zh_char")
    '好嗯我们用AI MODEL吧'
    >>> normalise("好，嗯！Ｂ b", "zh_char_official"), normalise("好，嗯！Ｂ b", "zh_char")
    ('好嗯！ＢB', '好嗯B B')

    Raises:
        UserError: an unknown profile.
    """
    return _PROFILES[check_profile(profile)](text)


def normalise_all(texts: Sequence[str], profile: str) -> List[str]:
    """Bring each of ``texts`` into the form of ``profile``, as :func:`normalise` does, Mandarin in less time.

    >>> normalise_all(["好，嗯。", "用Ａ I"], "zh_char")
    ['好嗯', '用A I']

    Raises:
        UserError: an unknown profile.
    """
    one = _PROFILES[check_profile(profile)]
    if one is _zh_char:
        # Marks are taken out of all texts at once. A text of several lines would be told by their number.
        bare = _without_marks("\n".join(texts)).split("\n")
        if len(bare) == len(texts):
            return [b if _HAN_ALONE.fullmatch(b) else _zh_char(text) for b, text in zip(bare, texts)]
    return [one(text) for text in texts]


def tokens(text: str, unit: str) -> List[str]:
    """Split normalised ``text`` into the units that errors are counted in.

    ``word``: by white space. ``char``: every character but white space. ``mixed``: one token for an ideograph, one for
    a Latin word.

    >>> tokens("我们用AI MODEL", "char")[:6], tokens("我们用AI MODEL", "mixed")
    (['我', '们', '用', 'A', 'I', 'M'], ['我', '们', '用', 'AI', 'MODEL'])

    Raises:
        UserError: an unknown unit.
    """
    if unit == "word":
        return text.split()
    if unit == "char":
        return [c for c in text if not c.isspace()]
    if unit == "mixed":
        return _MIXED.findall(text)
    raise UserError(f"unknown unit '{unit}'; {nearest(unit, UNITS)}")
