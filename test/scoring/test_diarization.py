"""DER and JER against closed forms, an event sweep written from the definition, and numbers of other tools."""

import json
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from espnet_mt_llm.bin.score_decode import main
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.rttm import write_rttm
from espnet_mt_llm.datadir.stm import read_stm
from espnet_mt_llm.datadir.textgrid import read_textgrid
from espnet_mt_llm.scoring import diarization
from espnet_mt_llm.scoring.diarization import Scorer, everybody, merge_own, spans_of
from espnet_mt_llm.scoring.result_types import DiarizationErrors
from espnet_mt_llm.scoring.score import score_decode, summary

TIMES = st.integers(0, 40).map(lambda n: n / 4)


def spans(names):
    """Up to six segments of up to three speakers, in quarters of a second within 0 … 10 s."""
    one = st.tuples(st.sampled_from(names), TIMES, TIMES).map(lambda s: (s[0], min(s[1:]), max(s[1:])))
    return st.lists(one, max_size=6).map(merge_own)


def event_sweep(reference, hypothesis, duration, collar):
    """DER and JER from the definition: constant stretches between events, speakers assigned by time in common."""
    edges = [t for _, start, end in reference for t in (start, end)]
    events = {0.0, duration, *edges, *(t for _, start, end in hypothesis for t in (start, end))}
    events |= {t + sign * collar for t in edges for sign in (-1, 1)}
    events = sorted(t for t in events if 0 <= t <= duration)
    refs, hyps = (sorted({s[0] for s in side}) for side in (reference, hypothesis))
    common = np.zeros((len(refs), len(hyps)))
    stretches = []
    for begin, end in zip(events, events[1:]):
        middle = (begin + end) / 2
        if any(abs(middle - t) < collar for t in edges):
            continue
        r, h = ({s[0] for s in side if s[1] < middle < s[2]} for side in (reference, hypothesis))
        stretches.append((end - begin, r, h))
        for a in r:
            for b in h:
                common[refs.index(a), hyps.index(b)] += end - begin
    pairs = {(refs[i], hyps[j]) for i, j in zip(*linear_sum_assignment(common, maximize=True)) if common[i, j] > 0}
    both = [sum((a, b) in pairs for a in r for b in h) for _, r, h in stretches]
    missed = sum(t * max(len(r) - len(h), 0) for t, r, h in stretches)
    false_alarm = sum(t * max(len(h) - len(r), 0) for t, r, h in stretches)
    confusion = sum(t * (min(len(r), len(h)) - n) for (t, r, h), n in zip(stretches, both))
    there = {a for _, r, _ in stretches for a in r}
    jaccard = 0.0
    for a in there:
        b = next((b for x, b in pairs if x == a), None)
        either = sum(t for t, r, h in stretches if a in r or b in h)
        jaccard += 1 - sum(t for t, r, h in stretches if a in r and b in h) / either
    total = sum(t * len(r) for t, r, _ in stretches)
    return DiarizationErrors(missed, false_alarm, confusion, total, jaccard, len(there)), pairs


def assert_close(a, b, tolerance=1e-6, jaccard=True):
    names = ["missed", "false_alarm", "confusion", "total", "speakers"] + ["speaker_errors"] * jaccard
    for name in names:
        assert getattr(a, name) == pytest.approx(getattr(b, name), abs=tolerance), name


@pytest.mark.parametrize(
    "hypothesis, expected",
    [
        ([("0", 0.0, 6.0), ("1", 4.0, 10.0)], (0, 0, 0)),
        ([("1", 0.0, 6.0), ("0", 4.0, 10.0)], (0, 0, 0)),
        ([], (12, 0, 0)),
        ([("0", 0.0, 10.0)], (2, 0, 4)),  # one of the two talks for another 4 s
        ([("0", 0.0, 10.0), ("1", 0.0, 10.0)], (0, 8, 0)),
        ([("0", 0.0, 6.0), ("1", 4.0, 10.0), ("2", 1.0, 2.0)], (0, 1, 0)),
        ([("0", 0.0, 5.0), ("1", 5.0, 10.0)], (2, 0, 0)),
        ([("0", 0.0, 6.0), ("1", 4.0, 9.0), ("2", 9.0, 10.0)], (0, 0, 1)),
    ],
)
def test_by_hand(hypothesis, expected):
    reference = [("A", 0.0, 6.0), ("B", 4.0, 10.0)]
    d = Scorer(0.0)(reference, hypothesis, 10.0)
    assert (d.missed, d.false_alarm, d.confusion, d.total) == pytest.approx((*expected, 12.0))


def test_the_collar_is_on_each_side():
    # All errors lie within 0.25 s of a boundary, and 4 x 0.5 s of the reference (2 x 0.25 of it at the ends) go.
    reference, hypothesis = [("A", 1.0, 4.0), ("B", 6.0, 9.0)], [("0", 0.76, 4.24), ("1", 6.24, 8.76)]
    d = Scorer(0.25)(reference, hypothesis, 10.0)
    assert (d.der, d.total) == (0.0, pytest.approx(5.0))
    assert Scorer(0.2)(reference, hypothesis, 10.0).der > 0
    assert Scorer(0.0)(reference, hypothesis, 10.0).der == pytest.approx(4 * 0.24 / 6)


def test_jaccard_by_hand():
    # A: 4 of 5 s in common; B has nobody, which is an error of 1.
    d = Scorer(0.0)([("A", 0.0, 4.0), ("B", 8.0, 9.0)], [("0", 0.0, 5.0)], 10.0)
    assert (d.speaker_errors, d.speakers, d.jer) == (pytest.approx(1.2), 2, pytest.approx(0.6))


@given(spans("ABC"), spans("01"), st.sampled_from([0.0, 0.25]))
@settings(max_examples=150)
def test_equals_an_event_sweep(reference, hypothesis, collar):
    expected, pairs = event_sweep(reference, hypothesis, 10.0, collar)
    # Where two assignments have the same time in common, DER does not depend on the choice but JER does.
    shuffled = [("BAC"["ABC".index(s)], a, b) for s, a, b in reference]
    again, _ = event_sweep(sorted(shuffled), hypothesis, 10.0, collar)
    unique = again.speaker_errors == pytest.approx(expected.speaker_errors)
    other, _ = event_sweep(reference, [("10"[int(s)], a, b) for s, a, b in hypothesis], 10.0, collar)
    unique &= other.speaker_errors == pytest.approx(expected.speaker_errors)
    assert_close(Scorer(collar)(reference, hypothesis, 10.0), expected, jaccard=unique and len(pairs) < 2)


@given(spans("AB"), st.sampled_from([1.0, 1.5]))
@settings(max_examples=60)
def test_the_trivial_detector(reference, more):
    assume(reference)
    duration = max(s[2] for s in reference) + more
    d = Scorer(0.0)(reference, everybody(reference, duration), duration)
    speech = sum(end - start for _, start, end in reference)
    speakers = len({s[0] for s in reference})
    assert (d.missed, d.confusion) == pytest.approx((0, 0), abs=1e-6)
    assert d.false_alarm == pytest.approx(speakers * duration - speech) and d.total == pytest.approx(speech)
    assert d.speaker_errors == pytest.approx(speakers - speech / duration)


@given(spans("AB"), spans("01"))
@settings(max_examples=40)
def test_own_overlaps_change_nothing(reference, hypothesis):
    doubled = merge_own(reference + [(s, a, a + 0.6 * (b - a)) for s, a, b in reference] + reference)
    assert doubled == merge_own(reference)
    assert_close(Scorer(0.0)(doubled, hypothesis, 10.0), Scorer(0.0)(reference, hypothesis, 10.0))


def degraded(reference, seed):
    """A deterministic copy with shifted boundaries, lost segments and confused speakers."""
    draw = random.Random(seed)
    speakers = sorted({s[0] for s in reference})
    out = []
    for speaker, start, end in reference:
        if draw.random() < 0.08:
            continue
        who = draw.choice(speakers) if draw.random() < 0.1 else speaker
        begin, stop = max(0.0, start + draw.uniform(-0.6, 0.6)), end + draw.uniform(-0.6, 0.6)
        if stop > begin:
            out.append((f"hyp-{who}", round(begin, 3), round(stop, 3)))
    return merge_own(out)


# (missed, false alarm, confusion, total) in seconds, as md-eval counts them: by the Python port of md-eval
# (`pip install mdeval`, 0.1.3, -c 0 and -c 0.25, with a UEM from 0 to the last end) and, the same, by spy-der 0.4.1.
MD_EVAL = {
    ("aishell4/stm/L_R003S01C02.stm", 0): ((307.885, 100.02, 197.117, 2295.78), (200.627, 20.093, 159.326, 1870.91)),
    ("aishell4/stm/L_R004S01C01.stm", 1): ((314.849, 84.554, 157.74, 2040.5), (207.098, 18.316, 135.311, 1703.05)),
    ("R8001_M8004", 2): ((285.238, 113.946, 102.416, 2049.24), (119.922, 30.274, 59.245, 1298.75)),
    ("R8008_M8013", 3): ((350.324, 157.634, 180.479, 2350.77), (170.377, 37.765, 127.767, 1681.37)),
}


@pytest.mark.parametrize("name, seed", MD_EVAL)
def test_real_annotations_as_md_eval_scores_them(real_data, name, seed):
    if name.endswith(".stm"):
        reference = spans_of(read_stm(real_data / name))
    else:
        reference = spans_of(read_textgrid(real_data / f"alimeeting/Eval_Ali_far/textgrid_dir/{name}.TextGrid"))
    hypothesis = degraded(reference, seed)
    duration = max(s[2] for s in reference + hypothesis)
    for collar, expected in zip(diarization.COLLARS, MD_EVAL[name, seed]):
        d = Scorer(collar)(reference, hypothesis, duration)
        assert (d.missed, d.false_alarm, d.confusion, d.total) == pytest.approx(expected, abs=2e-3)
        assert_close(d, event_sweep(reference, hypothesis, duration, collar)[0], 1e-3)


def test_nothing_on_one_side_or_within_the_collar():
    for collar in diarization.COLLARS:
        score = Scorer(collar)
        assert score([], [], 5.0) == DiarizationErrors.zero()
        assert score([], [("0", 1.0, 2.0)], 5.0) == DiarizationErrors(false_alarm=1.0)
        assert score([], [("0", 1.0, 2.0)], 5.0).der is None
        assert score([("A", 1.0, 3.0)], [], 5.0).der == 1.0
    whole_in_collar = Scorer(0.25)([("A", 0.0, 0.3)], [("0", 0.0, 0.3)], 0.3)
    assert (whole_in_collar.total, whole_in_collar.der, whole_in_collar.jer) == (0.0, None, None)


def test_the_end_of_the_clip_ends_everything():
    d = Scorer(0.0)([("A", 0.0, 2.004)], [("0", 0.0, 2.4)], 2.0)
    assert d.der == 0.0 and d.total == 2.0


def write_times(hyp, rows):
    write_rttm(hyp / "hyp.rttm", [dict(zip(("session_id", "speaker", "start_time", "end_time"), r)) for r in rows])


def test_a_decode_directory_with_times(decoded, capsys):
    ref, hyp = decoded
    plain = score_decode(ref, hyp)
    assert "diarization" not in plain and "diarization" not in plain["conventions"]
    write_times(hyp, [("c1", "0", 0.0, 1.0), ("c2", "0", 0.0, 2.0), ("c2", "1", 1.0, 2.0)])
    score = score_decode(ref, hyp)
    exact, forgiving = score["diarization"]
    # c2: 0.5 s of B are missed; c3 has no line: its 1.5 + 1.8 s are missed. All: 1 + 3.5 + 3.3 s.
    assert (exact["collar"], exact["missed"], exact["total"]) == (0.0, 3.8, 7.8)
    assert exact["der"] == round(3.8 / 7.8, 6) and exact["speakers"] == 5
    assert exact["jer"] == pytest.approx((0 + 0 + 1 / 3 + 1 + 1) / 5, abs=1e-6)
    assert exact["trivial"]["false_alarm"] == pytest.approx(0 + (5 - 3.5) + (6 - 3.3))
    assert forgiving["collar"] == 0.25 and forgiving["total"] < exact["total"]
    parts = [score["by_num_speakers"][n]["diarization"][0] for n in "12"]
    assert sum(p["missed"] for p in parts) == exact["missed"] and parts[0]["der"] == 0.0
    assert score["sessions"]["c2"]["diarization"] == [0.5, 0.0, 0.0, 3.5]
    assert "overlap scored" in score["conventions"]["diarization"] and "DER 48.72 %" in summary(score)
    for name in ("diarization", "collar_note"):
        score["conventions"].pop(name)
        plain["conventions"].pop(name, None)
    assert score["conventions"] == plain["conventions"] and score["metrics"] == plain["metrics"]


def write_activity(hyp, arrays, frame_shift=0.1):
    np.savez(hyp / "activity.npz", **arrays)
    record = json.loads((hyp / "decode.json").read_text())
    (hyp / "decode.json").write_text(json.dumps({**record, "frame_shift": frame_shift}))


def test_the_sweep(tmp_path, write):
    clips = {"c": [("A", 0.0, 2.0, "a"), ("B", 1.0, 4.0, "b")]}
    ref, hyp = write(tmp_path, "t", clips, [("c", "0", "a")], {"c": 1})
    activity = np.full((40, 2), 0.35, np.float16)
    activity[10:, 0] = activity[:20, 1] = 0.65
    activity[12, 1] = 0.1  # one frame that the wide median mends
    write_activity(hyp, {"c": activity})
    score = score_decode(ref, hyp, sweep_diarization=True)
    best = score["diarization_sweep"]
    assert (best["median"], best["threshold"], best["der"]) == (11, 0.4, 0.0)
    assert "swept on the test set" in best["note"] and best["frame_shift"] == 0.1
    tried = {(m, t): d for m, t, d in best["tried"]}
    assert len(tried) == 10 and tried[1, 0.5] == pytest.approx(0.1 / 5) and tried[11, 0.7] == 1.0
    assert tried[11, 0.3] == pytest.approx(3 / 5)  # everybody always
    assert "diarization" not in score  # no hyp.rttm


@pytest.mark.parametrize(
    "arrays, frame_shift, message",
    [
        (None, 0.1, "activity.npz: no such file; the sweep needs frame probabilities"),
        ({"zz": np.zeros((3, 2))}, 0.1, "the clip 'zz' is not in"),
        ({"c1": np.zeros(3)}, 0.1, "the clip 'c1' has float64 (3,), expected probabilities (frames, speakers)"),
        ({"c1": np.full((3, 2), np.nan)}, 0.1, "values that are not between 0 and 1"),
        ({"c1": np.zeros((3, 2))}, None, "decode.json: no 'frame_shift' in seconds"),
        (b"no archive", 0.1, "not an .npz archive"),
    ],
)
def test_a_sweep_that_cannot_be(decoded, arrays, frame_shift, message):
    ref, hyp = decoded
    if isinstance(arrays, dict):
        write_activity(hyp, arrays, frame_shift)
    elif arrays:
        (hyp / "activity.npz").write_bytes(arrays)
    with pytest.raises(UserError) as e:
        score_decode(ref, hyp, sweep_diarization=True)
    assert message in str(e.value) and "; " in str(e.value)
    assert not (hyp / "score.json").exists()


@pytest.mark.parametrize(
    "lines, utt2dur, message",
    [
        ("SPEAKER zz 1 0 1 <NA> <NA> 0 <NA> <NA>\n", None, "hyp.rttm: the clip 'zz' is not in"),
        ("SPEAKER c1 1 0 -1 <NA> <NA> 0 <NA> <NA>\n", None, "hyp.rttm:1: the segment goes from"),
        ("SPEAKER c1 1 0\n", None, "hyp.rttm:1: 4 fields"),
        ("SPEAKER c1 1 0 1 <NA> <NA> 0 <NA> <NA>\n", "c1 1.0\n", "utt2dur: no length of the clip 'c2'; make the clips"),
        ("SPEAKER c1 1 0 1 <NA> <NA> 0 <NA> <NA>\n", "c1 x\n", "utt2dur:1: 'x' is not a number"),
    ],
)
def test_broken_times(decoded, capsys, lines, utt2dur, message):
    ref, hyp = decoded
    (hyp / "hyp.rttm").write_text(lines)
    if utt2dur:
        (ref / "utt2dur").write_text(utt2dur)
    with pytest.raises(SystemExit) as e:
        main(["--ref", str(ref), "--hyp", str(hyp)])
    error = capsys.readouterr().err
    assert e.value.code == 1 and message in error and "Traceback" not in error
    assert not (hyp / "score.json").exists()
