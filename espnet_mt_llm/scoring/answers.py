"""What the answers of a speech LLM are scored by beside the words: failures, registered speakers, chance level."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from espnet_mt_llm.common import Chance, at, is_whole
from espnet_mt_llm.scoring.result_types import ClipScore, Errors
from espnet_mt_llm.scoring.signals import check_ids

OVERREGISTERED = "utt2num_overregistered"
REGISTERED_MODES = ("match", "over")
_COUNTS = ("malformed", "repeated", "capped")
_REPAIR = "decode this set again (stage 7)"
# How many over-registered speakers share a bin (SpeakerLM, arXiv 2508.06372, Fig. 5).
BIN = 10


@dataclass(frozen=True)
class Answers:
    """What decoding counted.

    Attributes:
        registration: asr, no, match or over; empty where it is not said.
        labels: whose they are, ``written`` by the model or those of the nearest ``voices``; empty where it is not said.
        unparsable: number of clips without a label; their words count as deleted.
        unparsable_clips: their names, as far as decode.json has them.
        counts: malformed parts, answers that were stopped because they repeated themselves (``repeated``) or reached
            the length limit (``capped``).
        overregistered: speakers of other sessions that were registered, by clip; None where nobody is.
    """

    registration: str = ""
    unparsable: int = 0
    unparsable_clips: Tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    overregistered: Optional[Mapping[str, int]] = None
    labels: str = ""

    def section(self) -> Dict[str, Any]:
        """Return the part of score.json about the whole set."""
        return {"registration": self.registration, "labels": self.labels, "unparsable": self.unparsable, **self.counts}


def read_answers(decode: Mapping[str, Any], hyp: Path, reference: Mapping[str, Sequence], where: Path
                 ) -> Optional[Answers]:
    """Read the record of a speech LLM's decode directory; None for another system's, which counts nothing malformed.

    Raises:
        UserError: something that is no count, or a clip that is not in the reference (``where``).
    """
    if "malformed" not in decode:
        return None
    path = hyp / "decode.json"
    counts = {key: _count(decode.get(key, 0), key, path) for key in _COUNTS}
    unparsable = decode.get("unparsable", 0)
    clips = unparsable_clips(decode)
    if isinstance(unparsable, list):
        check_ids(reference, dict.fromkeys(clips), path, where)
        unparsable = len(set(clips))
    overregistered = _read_overregistered(hyp / OVERREGISTERED, reference, where)
    return Answers(str(decode.get("registration") or ""), _count(unparsable, "unparsable", path), clips, counts,
                   overregistered, str(decode.get("labels") or ""))


def unparsable_clips(decode: Mapping[str, Any]) -> Tuple[str, ...]:
    """Return the clips whose answer has no label; none where decode.json has but their number."""
    found = decode.get("unparsable")
    return tuple(str(clip) for clip in found) if isinstance(found, list) else ()


def _count(value: Any, key: str, path: Path) -> int:
    if not is_whole(value) or value < 0:
        raise at(path, None, f"{key}: {value!r} is no count", _REPAIR)
    return value


def _read_overregistered(path: Path, reference: Mapping[str, Sequence], where: Path) -> Optional[Dict[str, int]]:
    if not path.exists():
        return None
    from espnet_mt_llm.datadir.maps import read_map

    given = read_map(path)
    check_ids(reference, given, path, where)
    for number, (clip, value) in enumerate(given.items(), 1):
        if not value.isdecimal():
            raise at(path, number, f"'{value}' is not a number of speakers", _REPAIR)
    lost = [clip for clip in reference if clip not in given]
    if lost:
        raise at(path, None, f"the clip '{lost[0]}' is not there", _REPAIR)
    return {clip: int(value) for clip, value in given.items()}


def bin_name(number: int) -> str:
    """Name the bin of a number of over-registered speakers.

    >>> [bin_name(n) for n in (0, 1, 10, 11, 50)]
    ['0', '1-10', '1-10', '11-20', '41-50']
    """
    if number == 0:
        return "0"
    first = (number - 1) // BIN * BIN + 1
    return f"{first}-{first + BIN - 1}"


def up_to(number: str) -> int:
    """Return the last number of over-registered speakers of a bin.

    >>> up_to("11-20"), up_to("5")
    (20, 5)
    """
    return int(number.rpartition("-")[2])


def by_overregistered(clips: Iterable[ClipScore], numbers: Mapping[str, int]) -> Dict[str, List[ClipScore]]:
    """Sort clips by over-registered speakers, the fewest first: into the bins of :func:`bin_name`.

    Where all clips have the same number, that is the name of the only bin.
    """
    if len(set(numbers.values())) == 1:
        return {str(next(iter(numbers.values()))): list(clips)}
    out: Dict[str, List[ClipScore]] = {}
    for clip in sorted(clips, key=lambda c: numbers[c.clip]):
        out.setdefault(bin_name(numbers[clip.clip]), []).append(clip)
    return out


def random_speakers(clip: str, segments: Sequence[Mapping], speakers: Iterable[str], seed: int = 0) -> List[dict]:
    """Return the segments of a hypothesis, each with a random one of the clip's true speakers.

    >>> said = [{"speaker": "0", "words": w} for w in "abcdefgh"]
    >>> {s["speaker"] for s in random_speakers("c1", said, ["A", "B"])} == {"A", "B"}
    True
    """
    draw = Chance(seed, "speakers", clip)
    speakers = sorted(speakers)
    return [{**s, "speaker": draw.pick(speakers)} for s in segments] if speakers else [dict(s) for s in segments]


def deltas(errors: Mapping[str, Errors]) -> Dict[str, Dict[str, Any]]:
    """Return what speakers cost: errors beyond those of the words in output order, Δcp and Δsa (F.4).

    >>> deltas({"serialized": Errors(10, 1), "cp": Errors(10, 2, 1)})
    {'cp': {'rate': 0.2, 'errors': 2, 'length': 10}}
    """
    out = {}
    for key in ("cp", "sa"):
        if key in errors:
            more, length = errors[key].errors - errors["serialized"].errors, errors[key].length
            out[key] = {"rate": round(more / length, 6) if length else None, "errors": more, "length": length}
    return out


CONVENTIONS = {
    "unparsable": "an answer without any label: every reference token of the clip is a deletion, nobody is counted",
    "deltas": "errors of cp and sa less those of serialized, which compares the words in output order",
    "chance": "the segments of the hypothesis, each given to one of the clip's true speakers, uniform, one draw (seed "
              "0)",
}
