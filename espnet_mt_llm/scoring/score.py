"""Score a decode directory against the reference of its set: `supervision` + `hyp.seglst.json` → `score.json`."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open, environment, is_number, nearest, progress
from espnet_mt_llm.scoring import answers, metrics
from espnet_mt_llm.scoring.answers import Answers
from espnet_mt_llm.scoring.joining import join_clips
from espnet_mt_llm.scoring.result_types import ClipScore, Errors, SetScore, Speed
from espnet_mt_llm.scoring.signals import Signals, check_ids, score_signals
from espnet_mt_llm.text.normalise import check_profile, normalise, tokens
from espnet_mt_llm.text.serialisation import SC, TIE_RULES, Order, read_supervision, strip_sc, turns

Segments = List[dict]
PERMUTATION_UNITS = ("clip", "session")
# What errors are called that a hypothesis with random speakers has.
_CHANCE = "chance_"


@dataclass(frozen=True)
class Convention:
    """What must be said beside a number: how text was compared and what was free to permute."""

    unit: str = "word"
    profile: str = "none"
    order: Order = Order()
    speaker_attributed: bool = False
    tcp_collar: Optional[float] = None
    chance: bool = False
    permutation_unit: str = "clip"

    def __post_init__(self) -> None:
        check_profile(self.profile)
        if self.permutation_unit not in PERMUTATION_UNITS:
            raise UserError(f"permutation_unit: '{self.permutation_unit}'; "
                            f"{nearest(self.permutation_unit, PERMUTATION_UNITS)}")
        if self.tcp_collar is not None and not self.tcp_collar >= 0:
            raise UserError(f"tcp_collar: {self.tcp_collar}; use seconds, for example 5")
        tokens("", self.unit)


def read_json(path: Pathlike, repair: str = "") -> Any:
    """Parse a JSON file.

    Raises:
        UserError: it does not exist, or is not JSON in UTF-8 (with the line).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise at(path, None, "no such file", repair) from None
    except json.JSONDecodeError as e:
        raise at(path, e.lineno, f"not valid JSON ({e.msg})", repair) from None
    except UnicodeDecodeError as e:
        raise at(path, None, f"not UTF-8 ({e.reason} at byte {e.start})", repair) from None


def write_json(path: Pathlike, value: Any) -> None:
    """Write JSON for people and for diffs: indented, with characters as they are, atomically."""
    with atomic_open(path) as f:
        f.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_hypothesis(path: Pathlike) -> Dict[str, Segments]:
    """Read a SegLST hypothesis: clip id → segments in the order they were put out. Times are optional.

    Raises:
        UserError: not a list of segments with ``session_id``, ``speaker`` and ``words``, or a time that is no number.
    """
    repair = "decode this set again (stage 7)"
    entries = read_json(path, repair)
    if not isinstance(entries, list):
        raise at(path, None, "not a SegLST file: a JSON list of segments is expected", repair)
    out: Dict[str, Segments] = {}
    for i, entry in enumerate(entries, 1):
        keys = ("session_id", "speaker", "words")
        if not isinstance(entry, dict) or any(k not in entry for k in keys):
            raise at(path, None, f"segment {i} lacks one of {', '.join(keys)}", repair)
        if not isinstance(entry["words"], str):
            raise at(path, None, f"segment {i}: 'words' is not a string", repair)
        for key in ("start_time", "end_time"):
            if entry.get(key) is not None and not (is_number(entry[key]) and math.isfinite(entry[key])):
                raise at(path, None, f"segment {i}: {key} is {entry[key]!r}, no number of seconds", repair)
        out.setdefault(str(entry["session_id"]), []).append({**entry, "speaker": str(entry["speaker"])})
    return out


def by_speaker(segments: Sequence[Mapping], convention: Convention) -> Dict[str, List[str]]:
    """Concatenate each speaker's tokens by start time (segments without times keep their order)."""
    timed = [s for s in segments if s.get("start_time") is not None]
    if len(timed) == len(segments):
        segments = sorted(segments, key=lambda s: s["start_time"])
    out: Dict[str, List[str]] = {}
    for s in segments:
        out.setdefault(s["speaker"], []).extend(_tokens(s["words"], convention))
    return out


def _tokens(text: str, convention: Convention) -> List[str]:
    return tokens(normalise(strip_sc(text), convention.profile), convention.unit)


def _with_sc(texts: Sequence[str], convention: Convention) -> List[str]:
    out: List[str] = []
    for i, text in enumerate(texts):
        out.extend(([SC] if i else []) + _tokens(text, convention))
    return out


def score_clip(clip: str, reference: Segments, hypothesis: Optional[Segments], predicted: Optional[int],
               convention: Convention) -> Tuple[ClipScore, bool]:
    """Score one clip; ``hypothesis`` None (there is none) makes every reference token a deletion.

    Returns the score and whether its ORC search was exact.
    """
    missing = hypothesis is None
    hypothesis = hypothesis or []
    ref, hyp = by_speaker(reference, convention), by_speaker(hypothesis, convention)
    cp, assignment = metrics.cp(ref, hyp)
    by_start = sorted(reference, key=lambda s: (s["start_time"], s["end_time"], s["speaker"]))
    orc, exact = metrics.orc([_tokens(s["words"], convention) for s in by_start], hyp)
    dicp = metrics.dicp(ref, [_tokens(s["words"], convention) for s in hypothesis])
    serial_ref = [t.text for t in turns(reference, convention.order)]
    # The hypothesis stays in the order in which the system put it out; that order is what this rate judges.
    serial_hyp = [t.text for t in turns([_numbered(s, i) for i, s in enumerate(hypothesis)],
                                        Order("input", unit=convention.order.unit))]
    ref_sc, hyp_sc = _with_sc(serial_ref, convention), _with_sc(serial_hyp, convention)
    errors: Dict[str, Errors] = {
        "cp": cp,
        # The assignment of cp is one that the other two may choose as well; a greedy search can miss it.
        "orc": min(cp, orc, key=lambda e: e.errors),
        "dicp": min(cp, dicp, key=lambda e: e.errors),
        "serialized": metrics.edit([t for t in ref_sc if t != SC], [t for t in hyp_sc if t != SC]),
        "serialized_with_sc": metrics.edit(ref_sc, hyp_sc),
    }
    if convention.speaker_attributed:
        errors["sa"] = metrics.speaker_attributed(ref, hyp)
    if convention.chance:
        drawn = by_speaker(answers.random_speakers(clip, hypothesis, ref), convention)
        errors[f"{_CHANCE}cp"] = metrics.cp(ref, drawn)[0]
        if convention.speaker_attributed:
            errors[f"{_CHANCE}sa"] = metrics.speaker_attributed(ref, drawn)
    if convention.tcp_collar is not None:
        try:
            errors["tcp"] = metrics.tcp(_spoken(reference, convention), _spoken(hypothesis, convention),
                                        convention.tcp_collar)
        except UserError as e:
            raise UserError(f"{convention.permutation_unit} {clip}: {e}") from None
    if predicted is None:
        predicted = sum(1 for words in hyp.values() if words)
    # Who says nothing that can be read is no talker of an answer; where nobody does, nothing was to be read.
    talkers = sum(1 for words in ref.values() if words) or len(ref)
    return ClipScore(clip, talkers, predicted, errors, assignment, missing), exact


def _spoken(segments: Segments, convention: Convention) -> Segments:
    """Return segments with their words as tokens, white space between them."""
    return [{**s, "words": " ".join(_tokens(s["words"], convention))} for s in segments]


def _check_times(hypothesis: Mapping[str, Segments], path: Path) -> None:
    for clip, segments in hypothesis.items():
        for s in segments:
            start, end = s.get("start_time"), s.get("end_time")
            if start is None or end is None or not 0 <= start <= end:
                raise at(path, None, f"a segment of the clip '{clip}' has no times; tcp needs start_time and end_time",
                         "leave --tcp_collar away, or decode with a system that gives times")


def _numbered(segment: Mapping, place: int) -> dict:
    """Return a segment whose time is its place in the output."""
    return {"speaker": segment["speaker"], "words": strip_sc(segment["words"]), "start_time": float(place),
            "end_time": float(place)}


def read_counts(path: Pathlike) -> Optional[Dict[str, int]]:
    """Read the predicted ``utt2num_spk`` of a decode directory; None when there is none.

    Raises:
        UserError: a line that is not ``<clip> <whole number>``.
    """
    if not Path(path).exists():
        return None
    from espnet_mt_llm.datadir.maps import read_map

    out = {}
    for number, (clip, value) in enumerate(read_map(path).items(), 1):
        if not value.isdecimal():
            raise at(path, number, f"'{value}' is not a number of speakers", "decode this set again (stage 7)")
        out[clip] = int(value)
    return out


def score_set(reference: Mapping[str, Segments], hypothesis: Mapping[str, Segments],
              counts: Optional[Mapping[str, int]], convention: Convention) -> Tuple[List[ClipScore], int]:
    """Score every reference clip, in order of the reference; also say how many ORC searches were exact."""
    out, num_exact = [], 0
    for clip, segments in progress(reference.items(), "score", len(reference)):
        given = None if counts is None else counts.get(clip, 0)
        one, exact = score_clip(clip, segments, hypothesis.get(clip), given, convention)
        out.append(one)
        num_exact += exact
    return out, num_exact


def _set_dict(clips: Sequence[ClipScore], convention: Convention) -> Dict[str, Any]:
    score = SetScore.of(clips)
    chance = {m: e for m, e in score.errors.items() if m.startswith(_CHANCE)}
    out = {"clips": score.clips, "metrics": {m: e.as_dict() for m, e in score.errors.items() if m not in chance},
           "count": score.counts.as_dict()}
    if convention.chance:
        out["deltas"] = answers.deltas(score.errors)
        out["chance"] = {m.removeprefix(_CHANCE): e.as_dict() for m, e in chance.items()}
    return out


def _conventions(convention: Convention, given: Optional[Answers], counts: Optional[Mapping], num_exact: int,
                 clips: int) -> Dict[str, Any]:
    greedy = clips - num_exact
    tcp = convention.tcp_collar
    return {
        "unit": convention.unit,
        "profile": convention.profile,
        "permutation_unit": convention.permutation_unit,
        **({} if convention.permutation_unit == "clip" else {
            "sessions": "the clips of a recording, by the times in their names; a label is one speaker in all"}),
        "collar": None,
        "collar_note": "no metric here uses times" if tcp is None else "only tcp uses times",
        "averaging": "micro: errors and reference lengths are summed over clips",
        "sot_order": convention.order.describe(),
        "serialized": "<sc> stripped; hypothesis in output order",
        "serialized_with_sc": "<sc> is one token",
        "orc": f"meeteval, exact for {num_exact} clips"
               + (f", greedy for {greedy} longer ones, never above cp" if greedy else ""),
        "dicp": "meeteval, greedy, never above cp",
        "talker_count": "predicted utt2num_spk" if counts is not None else "hypothesis speakers with words",
        **({} if tcp is None else {
            "tcp": f"meeteval, collar {tcp:g} s; times of words: their segment's, by their lengths"}),
        "missing_hypothesis": "every reference token of the clip is a deletion",
        **({} if given is None else answers.CONVENTIONS),
    }


def _clip_dict(c: ClipScore, signals: Signals, given: Optional[Answers]) -> Dict[str, Any]:
    """Return the counts of a clip: words by metric, seconds of diarization errors (missed, false alarm, confusion,
    total; collar 0), and means of separation (SI-SDR and SDR improvement in dB, STOI)."""
    out: Dict[str, Any] = {"num_speakers": c.num_speakers, "predicted": c.predicted}
    # [errors, length, insertions, deletions, substitutions]: a table of a whole test set stays readable by eye.
    out.update({m: [e.errors, e.length, e.insertions, e.deletions, e.substitutions] for m, e in c.errors.items()})
    out.update(signals.of_clip(c.clip))
    out["assignment"] = [list(pair) for pair in c.assignment]
    if given is not None and given.overregistered is not None:
        out["overregistered"] = given.overregistered[c.clip]
    if given is not None and c.clip in given.unparsable_clips:
        out["unparsable"] = True
    elif c.missing:
        out["missing"] = True
    return out


def _identity(hyp_dir: Path, decode: Mapping[str, Any]) -> Dict[str, Any]:
    """Say which system this is: from decode.json, else from ``<system>/<step>/<decode>/<set>`` in the path."""
    parts = (["", "", "", ""] + list(hyp_dir.resolve().parts))[-4:]
    return {key: decode.get(key) or part for key, part in zip(("system", "step", "decode", "set"), parts)}


def _speed(decode: Mapping[str, Any], path: Path) -> Optional[Dict[str, Any]]:
    if decode.get("audio_seconds") is None or decode.get("wall_seconds") is None:
        return None
    try:
        speed = Speed(float(decode["audio_seconds"]), float(decode["wall_seconds"]))
    except (TypeError, ValueError):
        raise at(path, None, "audio_seconds and wall_seconds are not numbers",
                 "decode this set again (stage 7)") from None
    return {**speed.as_dict(), "batch_size": decode.get("batch_size"), "device": decode.get("device"),
            "num_threads": decode.get("num_threads"), "model_load": "excluded"}


def _order(decode: Mapping[str, Any], path: Path, sot_order: Optional[str], tie_rule: Optional[str],
           sot_unit: Optional[str]) -> Order:
    """Choose the order of the serialized reference: what was asked for, else what decode.json says, else by onset.

    The ``tie_rule`` of decode.json is the name of a rule or a whole order in words (``Order.describe``).

    Raises:
        UserError: decode.json has something else there.
    """
    recorded = str(decode.get("tie_rule") or "speaker")
    order = Order.described(recorded)
    if order is None:
        if recorded not in TIE_RULES:
            raise at(path, None, f"tie_rule: '{recorded}' is no order of turns",
                     f"name a rule: {', '.join(TIE_RULES)}; or decode this set again (stage 7)")
        order = Order(decode.get("sot_order") or "onset", recorded)
    return replace(order, order=sot_order or order.order, tie_rule=tie_rule or order.tie_rule,
                   unit=sot_unit or order.unit)


def score_decode(ref: Pathlike, hyp: Pathlike, *, unit: str = "word", profile: str = "none",
                 sot_order: Optional[str] = None, tie_rule: Optional[str] = None, sot_unit: Optional[str] = None,
                 speaker_attributed: bool = False, tcp_collar: Optional[float] = None, sweep_diarization: bool = False,
                 permutation_unit: str = "clip", nj: int = 1, out: Optional[Pathlike] = None, command: str = ""
                 ) -> Dict[str, Any]:
    """Score the decode directory ``hyp`` against ``ref``/supervision and write ``score.json``.

    Args:
        tcp_collar: seconds; also score words with a constraint on their times (every segment needs times).
        permutation_unit: ``clip``, or ``session``: the clips of a recording count as one; of words alone.
        sweep_diarization: also try median widths and thresholds on the frame probabilities (activity.npz).
        nj: processes that compare separated signals.
        command: what the record says made it.

    Returns what was written.

    Raises:
        UserError: an input that is missing or broken, or a hypothesis for a clip that is not in the reference.
    """
    ref, hyp = Path(ref), Path(hyp)
    reference = read_supervision(ref / "supervision")
    if not reference:
        raise at(ref / "supervision", None, "no clips", "make the clips again (stage 3)")
    hypothesis = read_hypothesis(hyp / "hyp.seglst.json")
    check_ids(reference, hypothesis, hyp / "hyp.seglst.json", ref / "supervision")
    counts = read_counts(hyp / "utt2num_spk")
    check_ids(reference, counts or {}, hyp / "utt2num_spk", ref / "supervision")
    decode_path = hyp / "decode.json"
    decode = read_json(decode_path) if decode_path.exists() else {}
    if not isinstance(decode, dict):
        raise at(decode_path, None, "not a record: a JSON object is expected", "decode this set again (stage 7)")
    given = answers.read_answers(decode, hyp, reference, ref / "supervision")
    if given is not None:
        speaker_attributed = speaker_attributed or given.registration in answers.REGISTERED_MODES
        # Nobody knows who said what in an unparsable answer: it counts as none.
        for clip in given.unparsable_clips:
            hypothesis.pop(clip, None)
        counts = None if counts is None else {**counts, **dict.fromkeys(given.unparsable_clips, 0)}
    convention = Convention(unit, profile, _order(decode, decode_path, sot_order, tie_rule, sot_unit),
                            speaker_attributed, tcp_collar, given is not None, permutation_unit)
    if tcp_collar is not None:
        _check_times(hypothesis, hyp / "hyp.seglst.json")
    by_session = permutation_unit == "session"
    signals = Signals() if by_session else score_signals(reference, ref, hyp, decode, sweep_diarization, nj)
    reads = "recognition" in (decode.get("heads") or ["recognition"])
    # What a model was never asked to read is no error: without words to find there are no rates of words.
    words = reference if reads else {c: [{**s, "words": ""} for s in said] for c, said in reference.items()}
    unparsable = given.unparsable_clips if given else ()
    missing = [clip for clip in reference if reads and clip not in hypothesis and clip not in unparsable]
    if by_session:
        words, hypothesis, counts = join_clips(words), join_clips(hypothesis), None
        given = replace(given, overregistered=None) if given else None
    clips, num_exact = score_set(words, hypothesis, counts, convention)
    by_number = {str(n): [c for c in clips if c.num_speakers == n] for n in sorted({c.num_speakers for c in clips})}
    bins = answers.by_overregistered(clips, given.overregistered) if given and given.overregistered else {}
    now = environment()

    def section(part: Sequence[ClipScore]) -> Dict[str, Any]:
        lost = {} if given is None or by_session else {"unparsable": sum(c.clip in unparsable for c in part)}
        return {**_set_dict(part, convention), **lost}

    score = {
        **_identity(hyp, decode),
        **_set_dict(clips, convention),
        **signals.sections(clips),
        **({"diarization_sweep": signals.sweep} if signals.sweep else {}),
        **({"answers": {**given.section(), **({"clips": len(reference)} if by_session else {})}} if given else {}),
        "by_num_speakers": {n: {**section(part), **signals.sections(part)} for n, part in by_number.items()},
        **({"by_overregistered": {n: section(part) for n, part in bins.items()}} if bins else {}),
        "speed": _speed(decode, decode_path),
        "conventions": {**_conventions(convention, given, counts, num_exact, len(clips)), **signals.conventions()},
        "missing_hypotheses": missing,
        **({"warnings": list(signals.warnings)} if signals.warnings else {}),
        "reference": str(ref),
        "commit": now["commit"],
        "command": command,
        "environment": now,
        "decoding": decode,
        "sessions": {c.clip: _clip_dict(c, signals, given) for c in clips},
    }
    write_json(out or hyp / "score.json", score)
    return score


def summary(score: Mapping[str, Any]) -> str:
    """Say a score in a line, and what was missing in a second one."""
    cp, serialized, count = score["metrics"]["cp"], score["metrics"]["serialized"], score["count"]
    rate = {"word": "WER", "char": "CER", "mixed": "MER"}[score["conventions"]["unit"]]
    line = (f"{score['system']}/{score['step']}/{score['decode']}/{score['set']}: {score['clips']} "
            f"{score['conventions']['permutation_unit']}s, cp{rate} "
            f"{_percent(cp['rate'])} ({cp['errors']} / {cp['length']}), {rate} {_percent(serialized['rate'])}, "
            f"talker count {_percent(count['accuracy'])}")
    if "answers" in score:
        line += "".join(f", Δ{key} {_percent(d['rate'])}" for key, d in score["deltas"].items())
        chance, unparsable = score["chance"]["cp"]["rate"], score["answers"]["unparsable"]
        line += f", cp by chance {_percent(chance)}, unparsable: {unparsable}"
    if score["speed"]:
        line += f", RTF {score['speed']['rtf']}"
    if "diarization" in score:
        exact = score["diarization"][0]
        line += f", DER {_percent(exact['der'])} (everybody always: {_percent(exact['trivial']['der'])})"
    if "separation" in score:
        line += f", SI-SDRi {_number(score['separation'].get('si_sdr_improvement'))} dB"
    line += "".join(f"\nwarning: {text}" for text in score.get("warnings", ()))
    missing = score["missing_hypotheses"]
    if missing:
        line += f"\nwarning: clips without a hypothesis, counted as deleted: {len(missing)}, the first is {missing[0]}"
    return line


def _percent(rate: Optional[float]) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def _number(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.2f}"
