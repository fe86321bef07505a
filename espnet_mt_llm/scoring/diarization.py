"""Who spoke when: DER and Jaccard error rate of `hyp.rttm` against the times of the reference, by pyannote.metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from espnet_mt_llm.common import UserError, at, progress
from espnet_mt_llm.scoring.result_types import DiarizationErrors

RTTM, ACTIVITY = "hyp.rttm", "activity.npz"
# Seconds left out on each side of a reference boundary: the meaning of md-eval's option -c.
COLLARS = (0.0, 0.25)
# What the diarization task of SUPERB tries (s3prl, downstream/diarization/score.sh); the median is in frames.
SWEEP_MEDIANS = (1, 11)
SWEEP_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
CONVENTION = ("unit clip (0 to its end, also for the permutation of speakers), overlap scored, a speaker's own "
              "overlapping segments merged, collar as in md-eval: seconds on each side of a reference boundary; "
              "micro-averaged: DER over seconds, JER over reference speakers; "
              "trivial: as many speakers as there are in the reference, each active for the whole clip")
SWEEP_NOTE = "swept on the test set: the best of all median widths and thresholds by this set's own reference, collar 0"

Span = Tuple[str, float, float]
Segments = Sequence[Mapping]


@dataclass(frozen=True)
class ClipDiarization:
    """Errors of the system and of the trivial detector in one clip, by collar."""

    system: Mapping[float, DiarizationErrors]
    trivial: Mapping[float, DiarizationErrors]


def merge_own(spans: Iterable[Span]) -> List[Span]:
    """Merge what overlaps or touches within a speaker; drop what has no length; by speaker and time.

    >>> merge_own([("A", 1.0, 2.0), ("B", 0.0, 9.0), ("A", 1.5, 3.0), ("A", 5.0, 5.0), ("A", 3.0, 4.0)])
    [('A', 1.0, 4.0), ('B', 0.0, 9.0)]
    """
    out: List[Span] = []
    for speaker, start, end in sorted(s for s in spans if s[2] > s[1]):
        if out and out[-1][0] == speaker and start <= out[-1][2]:
            out[-1] = (speaker, out[-1][1], max(out[-1][2], end))
        else:
            out.append((speaker, start, end))
    return out


def spans_of(segments: Segments) -> List[Span]:
    """Return the merged spans of SegLST segments."""
    return merge_own((s["speaker"], float(s["start_time"]), float(s["end_time"])) for s in segments)


def everybody(reference: Sequence[Span], duration: float) -> List[Span]:
    """Return what the trivial detector says: every reference speaker is active for the whole clip.

    >>> everybody([("A", 0.0, 1.0), ("B", 0.5, 2.0)], 3.0)
    [('A', 0.0, 3.0), ('B', 0.0, 3.0)]
    """
    return [(speaker, 0.0, duration) for speaker in dict.fromkeys(s[0] for s in reference)]


def _annotation(spans: Iterable[Span]) -> Any:
    from pyannote.core import Annotation, Segment

    annotation = Annotation()
    for track, (speaker, start, end) in enumerate(spans):
        annotation[Segment(start, end), track] = speaker
    return annotation


class Scorer:
    """Scores clips at one collar.

    Args:
        collar: seconds on each side of a reference boundary, as md-eval counts them. The assignment of speakers is
            found within what is scored (md-eval finds it within the whole clip).

    Raises:
        UserError: pyannote.metrics is not installed.
    """

    def __init__(self, collar: float):
        try:
            from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate
        except ImportError:
            raise UserError("DER needs pyannote.metrics; install it: tools/setup.sh --extras score") from None
        # pyannote's collar is the width of the whole gap around a boundary.
        self._der = DiarizationErrorRate(collar=2 * collar, skip_overlap=False)
        self._jer = JaccardErrorRate(collar=2 * collar, skip_overlap=False)

    def __call__(self, reference: Sequence[Span], hypothesis: Sequence[Span], duration: float) -> DiarizationErrors:
        """Compare merged spans within 0 … ``duration`` seconds.

        >>> Scorer(0.0)([("A", 0.0, 6.0), ("B", 4.0, 10.0)], [("0", 0.0, 5.0), ("1", 4.0, 10.0)], 10.0).der
        0.08333333333333333
        """
        from pyannote.core import Segment, Timeline

        whole = Timeline([Segment(0.0, duration)])
        ref, hyp = _annotation(reference), _annotation(hypothesis)
        der = self._der.compute_components(ref, hyp, uem=whole)
        jer = self._jer.compute_components(ref, hyp, uem=whole)
        return DiarizationErrors(float(der["missed detection"]), float(der["false alarm"]), float(der["confusion"]),
                                 float(der["total"]), float(jer["speaker error"]), int(jer["speaker count"]))


def score_clips(reference: Mapping[str, Segments], hypothesis: Mapping[str, Segments],
                durations: Mapping[str, float]) -> Dict[str, ClipDiarization]:
    """Score every clip of the reference; one that has no hypothesis is missed."""
    scorers = {collar: Scorer(collar) for collar in COLLARS}
    out = {}
    for clip, segments in progress(reference.items(), "diarization", len(reference)):
        ref, hyp, duration = spans_of(segments), spans_of(hypothesis.get(clip, ())), durations[clip]
        trivial = everybody(ref, duration)
        out[clip] = ClipDiarization({c: score(ref, hyp, duration) for c, score in scorers.items()},
                                    {c: score(ref, trivial, duration) for c, score in scorers.items()})
    return out


def section(clips: Sequence[ClipDiarization]) -> List[Dict[str, Any]]:
    """Add clips up: an entry of score.json for each collar."""
    return [{"collar": collar, **sum((c.system[collar] for c in clips), DiarizationErrors.zero()).as_dict(),
             "trivial": sum((c.trivial[collar] for c in clips), DiarizationErrors.zero()).as_dict()}
            for collar in COLLARS]


def read_durations(ref: Path, clips: Iterable[str]) -> Dict[str, float]:
    """Read the lengths of clips from ``utt2dur``, in seconds.

    Raises:
        UserError: no such file, or a clip that is not in it.
    """
    from espnet_mt_llm.datadir.maps import read_numbers

    path = ref / "utt2dur"
    durations = read_numbers(path)
    for clip in clips:
        if not durations.get(clip, 0.0) > 0.0:
            raise at(path, None, f"no length of the clip '{clip}'", "make the clips again (stage 3)")
    return durations


def read_hypothesis_times(path: Path) -> Dict[str, List[dict]]:
    """Read an RTTM file: clip → segments."""
    from espnet_mt_llm.datadir.rttm import read_rttm

    out: Dict[str, List[dict]] = {}
    for segment in read_rttm(path):
        out.setdefault(segment["session_id"], []).append(segment)
    return out


def read_activity(path: Path) -> Dict[str, Any]:
    """Read frame probabilities: clip → float (T, S).

    Raises:
        UserError: no such file, or not an .npz archive of arrays (T, S).
    """
    import zipfile

    import numpy as np

    repair = "decode this set again (stage 7) and have it write frame probabilities"
    try:
        with np.load(path, allow_pickle=False) as archive:
            out = {clip: archive[clip] for clip in archive.files}
    except FileNotFoundError:
        raise at(path, None, "no such file; the sweep needs frame probabilities", repair) from None
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise at(path, None, f"not an .npz archive of numbers ({e})", repair) from None
    for clip, probabilities in out.items():
        if probabilities.ndim != 2 or probabilities.dtype.kind != "f":
            raise at(path, None, f"the clip '{clip}' has {probabilities.dtype} {probabilities.shape}, "
                                 "expected probabilities (frames, speakers)", repair)
        if not np.all((probabilities >= 0) & (probabilities <= 1)):
            raise at(path, None, f"the clip '{clip}' has values that are not between 0 and 1", repair)
    return out


def sweep(reference: Mapping[str, Segments], activity: Mapping[str, Any], frame_shift: float,
          durations: Mapping[str, float]) -> Dict[str, Any]:
    """Try every median width and threshold, as SUPERB does, and say which one has the lowest DER at collar 0.

    It is chosen by the reference that it is scored against, so it is no fair result: the entry says so.
    """
    from espnet_mt_llm.inference.diarization import activity_to_segments

    score = Scorer(0.0)
    spans = {clip: spans_of(segments) for clip, segments in reference.items()}
    tried = []
    for median in SWEEP_MEDIANS:
        for threshold in SWEEP_THRESHOLDS:
            total = DiarizationErrors.zero()
            for clip, ref in spans.items():
                found = () if clip not in activity else activity_to_segments(
                    activity[clip].astype("float32"), frame_shift, threshold=threshold, median=median)
                hyp = merge_own((str(k), start, end) for k, start, end in found)
                total += score(ref, hyp, durations[clip])
            tried.append({"median": median, "threshold": threshold, **total.as_dict()})
    best = min(tried, key=lambda t: float("inf") if t["der"] is None else t["der"])
    return {"note": SWEEP_NOTE, "frame_shift": frame_shift, **best,
            "tried": [[t["median"], t["threshold"], t["der"]] for t in tried]}


def sweep_decode(reference: Mapping[str, Segments], activity: Mapping[str, Any], record: Path,
                 decode: Mapping[str, Any], durations: Mapping[str, float]) -> Dict[str, Any]:
    """Sweep over frame probabilities, at the frame shift that decode.json (``record``) gives.

    Raises:
        UserError: there is none.
    """
    shift = decode.get("frame_shift")
    if not isinstance(shift, (int, float)) or not shift > 0:
        raise at(record, None, "no 'frame_shift' in seconds", "decode this set again (stage 7)")
    return sweep(reference, activity, float(shift), durations)
