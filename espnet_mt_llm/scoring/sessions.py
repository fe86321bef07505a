"""Sessions to look at on the results page: the worst and the median one, on a time line and word by word.

meeteval's own visualisation loads its drawing library from the network, so the page draws these itself.
"""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from espnet_mt_llm.scoring.charts import ticks
from espnet_mt_llm.scoring.html import Html, el, join
from espnet_mt_llm.scoring.metrics import align
from espnet_mt_llm.scoring.score import Convention, by_speaker

Pair = Tuple[Optional[str], Optional[str]]


def ranked(sessions: Mapping[str, Mapping[str, Any]]) -> List[str]:
    """Return the sessions that have reference tokens, from the worst cp rate to the best."""
    scored = [c for c, s in sessions.items() if s["cp"][1]]
    return sorted(scored, key=lambda c: (-sessions[c]["cp"][0] / sessions[c]["cp"][1], -sessions[c]["cp"][0], c))


def worst_and_median(sessions: Mapping[str, Mapping[str, Any]]) -> Dict[str, str]:
    """Name the worst and the median session by cp rate; a set of one session has but a worst one.

    >>> worst_and_median({c: {"cp": [e, 10]} for c, e in (("a", 1), ("b", 9), ("c", 3))})
    {'worst': 'b', 'median': 'c'}
    """
    order = ranked(sessions)
    if not order:
        return {}
    chosen = {"worst": order[0], "median": order[len(order) // 2]}
    return chosen if chosen["worst"] != chosen["median"] else {"worst": order[0]}


def _colors(reference: Sequence[Mapping], assignment: Sequence[Pair]) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Give each reference speaker a colour, and each hypothesis speaker that of the one it was assigned to."""
    speakers = dict.fromkeys(s["speaker"] for s in sorted(reference, key=lambda s: s["start_time"]))
    of_ref = {name: f"s{i % 5 + 1}" for i, name in enumerate(speakers)}
    return of_ref, {h: of_ref.get(r, "s6") for r, h in assignment if h is not None}


def has_times(hypothesis: Sequence[Mapping]) -> bool:
    """Say whether segments tell when something was said: not without times, nor when each spans the whole clip.

    >>> has_times([{"start_time": 0.0, "end_time": 9.0}, {"start_time": 0.0, "end_time": 9.0}])
    False
    """
    spans = {(s.get("start_time"), s.get("end_time")) for s in hypothesis}
    if any(start is None or end is None for start, end in spans):
        return False
    return not (len(spans) == 1 and next(iter(spans))[0] == 0)


def with_activity(hypothesis: Sequence[Mapping], activity: Sequence[Mapping]) -> List[Mapping]:
    """Return segments where the system says that somebody speaks: a speaker's words stand in his longest one.

    >>> said = [{"speaker": "0", "words": "a b"}]
    >>> times = [{"speaker": "0", "start_time": t, "end_time": 2 * t, "words": ""} for t in (1.0, 3.0)]
    >>> [(s["start_time"], s["words"]) for s in with_activity(said, times)]
    [(1.0, '…'), (3.0, 'a b')]
    """
    out: List[Mapping] = []
    for speaker in sorted({s["speaker"] for s in [*hypothesis, *activity]}):
        words = " ".join(s["words"] for s in hypothesis if s["speaker"] == speaker)
        spans = [s for s in activity if s["speaker"] == speaker]
        longest = max(spans, key=lambda s: s["end_time"] - s["start_time"], default=None)
        # Words of somebody who is never active stand at the begin, as narrow as can be.
        spans = spans or [{"speaker": speaker, "start_time": 0.0, "end_time": 0.0}]
        out += [{**s, "words": words if longest is None or s is longest else "…"} for s in spans]
    return out


def timeline(reference: Sequence[Mapping], hypothesis: Sequence[Mapping], assignment: Sequence[Pair]) -> Html:
    """Draw a lane for each reference speaker and below it one for each hypothesis speaker.

    A hypothesis without times is drawn, dashed, where its reference speaker talks.
    """
    of_ref, of_hyp = _colors(reference, assignment)
    last = max([s["end_time"] for s in reference] + [s.get("end_time") or 0.0 for s in hypothesis] + [0.1])
    lanes: List[Html] = []
    for speaker, color in of_ref.items():
        segments = [s for s in reference if s["speaker"] == speaker]
        lanes.append(_lane(f"reference {speaker}", [(s["start_time"], s["end_time"], s["words"]) for s in segments],
                           last, color))
    timed = has_times(hypothesis)
    ref_of = {h: r for r, h in assignment if h is not None}
    for speaker in dict.fromkeys(s["speaker"] for s in hypothesis):
        segments = [s for s in hypothesis if s["speaker"] == speaker]
        if timed:
            spans = [(s["start_time"], s["end_time"], s["words"]) for s in segments]
        else:
            there = [s for s in reference if s["speaker"] == ref_of.get(speaker)]
            spans = [(min((s["start_time"] for s in there), default=0.0),
                      max((s["end_time"] for s in there), default=last), " ".join(s["words"] for s in segments))]
        lanes.append(_lane(f"hypothesis {speaker}", spans, last, of_hyp.get(speaker, "s6"),
                           "" if timed else " untimed"))
    marks = [t for t in ticks(0.0, last, 8) if t <= last]
    # The last label is kept inside when it stands at the very end.
    scale = el("div", *(el("span", f"{t:g} s", style=f"left:{100 * t / last:.2f}%",
                            class_="end" if t > 0.97 * last else None) for t in marks), class_="ticks")
    return join([*lanes, el("div", el("div"), scale, class_="lane")])


def _lane(label: str, spans: Sequence[Tuple[float, float, str]], last: float, color: str, kind: str = "") -> Html:
    bars = [el("div", words or "(nothing)", class_=f"seg {color}{kind}", title=f"{start:.2f}–{end:.2f} s: {words}",
               style=f"left:{100 * start / last:.2f}%;width:{100 * max(end - start, 0) / last:.2f}%")
            for start, end, words in spans]
    return el("div", el("div", label, class_="who", title=label), el("div", *bars, class_="track"), class_="lane")


def alignment(reference: Sequence[Mapping], hypothesis: Sequence[Mapping], assignment: Sequence[Pair],
              convention: Convention) -> Html:
    """Set each reference speaker's words above those of the hypothesis speaker that cp assigned to it."""
    ref, hyp = by_speaker(reference, convention), by_speaker(hypothesis, convention)
    of_ref, of_hyp = _colors(reference, assignment)
    order = {name: i for i, name in enumerate(of_ref)}
    parts: List[Html] = []
    for r, h in sorted(assignment, key=lambda p: order.get(p[0], len(order))):
        color = of_ref.get(r) or of_hyp.get(h, "s6")
        left = "(no reference speaker)" if r is None else r
        right = "(nothing)" if h is None else f"hypothesis {h}"
        parts.append(el("h4", el("span", class_=f"key {color}"), f"{left} ↔ {right}"))
        tokens = [_token(a, b) for a, b in align(ref.get(r, []), hyp.get(h, []))]
        parts.append(el("div", *(tokens or [el("span", "(no words)", class_="soft")]), class_="pair"))
    return join(parts)


def _token(reference: Optional[str], hypothesis: Optional[str]) -> Html:
    kind = ("ins" if reference is None else "del" if hypothesis is None
            else "" if reference == hypothesis else "sub")
    return el("span", el("span", reference or "·", class_="ref"), el("span", hypothesis or "·", class_="hyp"),
              class_=f"tok {kind}".rstrip())


def legend() -> Html:
    """Explain the colours of :func:`alignment`."""
    marks = [("", "same"), ("sub", "substituted"), ("del", "deleted"), ("ins", "inserted")]
    return el("div", "above: reference, below: hypothesis", *(el("span", text, class_=f"mark tok {kind}".rstrip())
                                                            for kind, text in marks), class_="legend")
