"""What a decode directory holds beside text, scored: times (`hyp.rttm`) and separated signals (`separated/`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from espnet_mt_llm.common import at
from espnet_mt_llm.scoring import diarization, separation
from espnet_mt_llm.scoring.diarization import ClipDiarization
from espnet_mt_llm.scoring.result_types import ClipScore, Separation


def check_ids(known: Mapping, given: Mapping, path: Path, reference: Path) -> None:
    extra = sorted(set(given) - set(known))
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise at(path, None, f"the clip '{extra[0]}'{more} is not in {reference}",
                 "score against the set that was decoded (--ref), or decode it again (stage 7)")


@dataclass(frozen=True)
class Signals:
    """Scores of what a decode directory may hold beside text: times (hyp.rttm) and signals (separated/), by clip."""

    diarization: Optional[Mapping[str, ClipDiarization]] = None
    separation: Optional[Mapping[str, Separation]] = None
    sweep: Optional[Mapping[str, Any]] = None
    warnings: Tuple[str, ...] = ()

    def sections(self, clips: Iterable[ClipScore]) -> Dict[str, Any]:
        """Return the parts of score.json about these clips; nothing where there is nothing."""
        names = [c.clip for c in clips]
        out: Dict[str, Any] = {}
        if self.diarization is not None:
            out["diarization"] = diarization.section([self.diarization[name] for name in names])
        if self.separation is not None:
            out["separation"] = separation.section([self.separation[name] for name in names])
        return out

    def conventions(self) -> Dict[str, str]:
        """Say what the numbers of :meth:`sections` mean."""
        out = {}
        if self.diarization is not None:
            out = {"collar_note": "the error rates of words but tcp use no times; see diarization",
                   "diarization": diarization.CONVENTION}
        if self.separation is not None:
            out["separation"] = separation.CONVENTION
        return out

    def of_clip(self, clip: str) -> Dict[str, Any]:
        """Return the numbers of a clip in one line each, rounded: see `score._clip_dict`."""
        out: Dict[str, Any] = {}
        if self.diarization is not None:
            d = self.diarization[clip].system[0.0]
            out["diarization"] = [round(x, 3) for x in (d.missed, d.false_alarm, d.confusion, d.total)]
        if self.separation is not None:
            means = self.separation[clip].means
            out["separation"] = [None if name not in means or means[name].value is None else round(means[name].value, 3)
                                 for name in ("si_sdr_improvement", "sdr_improvement", "stoi")]
        return out


def score_signals(reference: Mapping[str, Sequence[Mapping]], ref: Path, hyp: Path, decode: Mapping[str, Any],
                  sweep_diarization: bool, nj: int) -> Signals:
    """Score hyp.rttm and separated/ where they are there.

    Raises:
        UserError: a clip that is not in the reference, files that cannot be compared, no pyannote.metrics or pystoi.
    """
    times = apart = swept = None
    warnings: List[str] = []
    durations: Dict[str, float] = {}
    if (hyp / diarization.RTTM).exists() or sweep_diarization:
        durations = diarization.read_durations(ref, reference)
    if (hyp / diarization.RTTM).exists():
        given = diarization.read_hypothesis_times(hyp / diarization.RTTM)
        check_ids(reference, given, hyp / diarization.RTTM, ref / "supervision")
        times = diarization.score_clips(reference, given, durations)
    if sweep_diarization:
        activity = diarization.read_activity(hyp / diarization.ACTIVITY)
        check_ids(reference, activity, hyp / diarization.ACTIVITY, ref / "supervision")
        swept = diarization.sweep_decode(reference, activity, hyp / "decode.json", decode, durations)
    if (hyp / separation.SEPARATED).is_dir():
        files = separation.find_separated(hyp / separation.SEPARATED)
        check_ids(reference, files, hyp / separation.SEPARATED, ref / "supervision")
        sources = separation.CleanSources(ref)
        if not sources:
            warnings.append(f"separated/ is not scored: {ref} has no clean sources (spk1.scp …, mixtures.jsonl)")
        else:
            speakers = {clip: len({s["speaker"] for s in segments}) for clip, segments in reference.items()}
            apart = separation.score_clips(speakers, files, sources, nj)
            lost = [clip for clip in reference if clip not in files]
            if lost:
                warnings.append(f"clips without separated signals, counted as silent: {len(lost)}, the first is "
                                f"{lost[0]}")
    return Signals(times, apart, swept, tuple(warnings))
