"""The results page: one HTML file that loads nothing, made from score.json, history.json and the decoded text."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from espnet_mt_llm.common import Pathlike, UserError, atomic_open
from espnet_mt_llm.scoring import sessions as show
from espnet_mt_llm.scoring.answers import unparsable_clips, up_to
from espnet_mt_llm.scoring.charts import curves, line_chart
from espnet_mt_llm.scoring.diarization import RTTM, read_hypothesis_times
from espnet_mt_llm.scoring.html import Html, el, html_table, join, page
from espnet_mt_llm.scoring.result_types import TalkerCounts
from espnet_mt_llm.scoring.rows import Row, others_tables
from espnet_mt_llm.scoring.joining import join_clips
from espnet_mt_llm.scoring.score import Convention, read_hypothesis, read_json
from espnet_mt_llm.scoring.table import (Score, by_convention, caption, environments, measures, metric_names,
                                         overregistered_curves, overregistered_table, percent, rows_of, table)
from espnet_mt_llm.text.serialisation import read_supervision

# The table of single sessions on the page; all of them stand in score.json.
MAX_SESSIONS = 50


def results_section(scores: Sequence[Score]) -> Html:
    """The same tables as in the README; the line of a whole set stands out."""
    parts: List[Html] = []
    for convention, group in by_convention(scores):
        lines = table(group)
        first = lines[0].index("talkers")
        body = []
        for line in lines[1:]:
            part = line[-1] == "" and bool(body) and body[-1][1][:4] == line[:4]
            body.append((part, line))
        rows = [el("tr", *(el("th", h, class_="num" if i >= first else None) for i, h in enumerate(lines[0])))]
        for part, line in body:
            cells = [el("td", "" if part and i < first else cell, class_=_cell_class(i, first, part))
                     for i, cell in enumerate(line)]
            rows.append(el("tr", *cells, class_="part" if part else None))
        whole = el("table", el("thead", rows[0]), el("tbody", *rows[1:]))
        parts.append(el("div", el("div", whole, class_="scroll"),
                        el("p", caption(convention, group).replace("`", ""), class_="soft small"), class_="card"))
    return join(parts or [el("p", "No results yet.", class_="soft")])


def _cell_class(i: int, first: int, part: bool) -> Any:
    # The column after talkers and clips is cp, the number that systems are compared by.
    return None if i < first else "num main" if i == first + 2 and not part else "num"


def confusion(count: Mapping[str, Any]) -> Html:
    """Draw the talker-count confusion matrix: a row for each reference count, shaded by its share of the row."""
    rows = count["confusion"]
    predicted = sorted({int(p) for row in rows.values() for p in row} | {int(r) for r in rows})
    head = el("tr", el("th", "talkers"), *(el("th", f"pred. {p}") for p in predicted))
    body = []
    for r in sorted(rows, key=int):
        total = sum(rows[r].values())
        cells = []
        for p in predicted:
            n = rows[r].get(str(p), 0)
            cells.append(el("td", str(n) if n else "·", class_=None if int(r) == p else "miss",
                            style=f"--share:{n / total:.3f}", title=f"{r} talkers taken for {p}: {n} of {total} clips"))
        body.append(el("tr", el("th", r), *cells))
    return el("table", el("thead", head), el("tbody", *body), class_="matrix")


def _parts(score: Score) -> List[Tuple[str, Mapping[str, Any]]]:
    """Return the whole set, where it has clips of several numbers of talkers, and then each of them."""
    counts = score["by_num_speakers"]
    return ([("all", score)] if len(counts) > 1 else []) + list(counts.items())


def set_table(score: Score) -> Html:
    """Every metric of a set in counts, then by number of talkers."""
    names = metric_names(score["conventions"]["unit"])
    lines: List[List[Any]] = [["talkers", "metric", "%", "errors", "tokens", "ins", "del", "sub"]]
    for talkers, part in _parts(score):
        for i, (key, e) in enumerate(part["metrics"].items()):
            lines.append(["" if i else f"{talkers} ({part['clips']} clips)", names[key], percent(e["rate"]),
                          *(e[k] for k in ("errors", "length", "insertions", "deletions", "substitutions"))])
    return html_table(lines, 2)


def times_table(score: Score) -> Html:
    """Diarization errors as shares of the reference speaker time, the trivial detector's below."""
    lines: List[List[Any]] = [["talkers", "collar s", "detector", "DER %", "missed %", "false alarm %", "confusion %",
                               "JER %", "speaker seconds"]]
    for talkers, part in _parts(score):
        for i, entry in enumerate(part["diarization"]):
            for name, d in (("system", entry), ("trivial", entry["trivial"])):
                shares = [percent(d[k] / d["total"] if d["total"] else None)
                          for k in ("missed", "false_alarm", "confusion")]
                lines.append([talkers if not i and d is entry else "", f"{entry['collar']:g}", name, percent(d["der"]),
                              *shares, percent(d["jer"]), f"{d['total']:.1f}"])
    notes = []
    if score.get("diarization_sweep"):
        best = score["diarization_sweep"]
        notes.append(el("p", f"Not a fair result, {best['note']}: DER {percent(best['der'])} % with a median of "
                             f"{best['median']} frames and the threshold {best['threshold']:g}.", class_="soft small"))
    return join([el("h4", "Who spoke when"), html_table(lines, 3), *notes])


def signals_table(score: Score) -> Html:
    """Means of separation by number of talkers."""
    columns = {"si_sdr_improvement": "SI-SDRi dB", "sdr_improvement": "SDRi dB", "stoi": "STOI", "si_sdr": "SI-SDR dB",
               "sdr": "SDR dB", "stoi_mixture": "STOI of the mixture", "sources": "sources",
               "silent_estimates": "silent estimates", "spare_estimates": "spare estimates",
               "silent_references": "silent sources"}
    lines: List[List[Any]] = [["talkers", *columns.values()]]
    for talkers, part in _parts(score):
        values = (part["separation"].get(key) for key in columns)
        lines.append([talkers, *("–" if v is None else v if isinstance(v, int) else f"{v:.3f}" for v in values)])
    return join([el("h4", "Separated signals"), html_table(lines, 1)])


def answers_table(score: Score) -> Html:
    """What speakers cost, and what random speakers would have got."""
    parts = [(talkers, measures({key: part[key] for key in ("deltas", "chance")})) for talkers, part in _parts(score)]
    lines: List[List[Any]] = [["talkers", *(m.head for m in parts[0][1])]]
    lines += [[talkers, *(m.text for m in found)] for talkers, found in parts]
    given = dict(score["answers"])
    modes = {key: given.pop(key, "") for key in ("registration", "labels")}
    given.pop("clips", None)
    facts = [f"{key}: {mode}" for key, mode in modes.items() if mode]
    facts += [f"{_ANSWERS[key]}: {n}" for key, n in given.items()]
    return join([el("h4", "Answers"), el("p", ", ".join(facts), class_="small"), html_table(lines, 1)])


_ANSWERS = {"unparsable": "answers without a label (deleted)", "malformed": "malformed parts",
            "repeated": "stopped because of a repetition", "capped": "stopped at the length limit"}


def overregistered_section(scores: Sequence[Score]) -> Html:
    """The attributed rate by number of over-registered speakers: a chart and a table for each convention."""
    cards = []
    for (unit, _, _), group in by_convention(scores):
        lines = overregistered_table(group)
        if not lines:
            continue
        series = {name: [(float(up_to(number)), rate) for number, rate in points]
                  for name, points in overregistered_curves(group).items()}
        chart = [line_chart(f"{metric_names(unit)['sa']} %", series, "over-registered, up to")] if series else []
        cards.append(el("div", *chart, html_table(lines, 4), class_="card"))
    return join([el("h2", "Over-registered speakers", id="overregistered"), *cards]) if cards else Html("")


def sessions_table(score: Score) -> Html:
    """The worst sessions of a set, one line each."""
    order = show.ranked(score["sessions"])
    lines: List[List[Any]] = [["session", "talkers", "predicted", "%", "errors", "tokens", "ins", "del", "sub"]]
    for clip in order[:MAX_SESSIONS]:
        s = score["sessions"][clip]
        errors, length, *operations = s["cp"]
        lines.append([clip + _why_deleted(s), s["num_speakers"], s["predicted"],
                      percent(errors / length), errors, length, *operations])
    what = "All sessions" if len(order) <= MAX_SESSIONS else f"The {MAX_SESSIONS} worst of {len(order)} sessions"
    return el("details", el("summary", f"{what}, by {metric_names(score['conventions']['unit'])['cp']}"),
              html_table(lines, 1))


def _why_deleted(session: Mapping[str, Any]) -> str:
    return " (unparsable)" if session.get("unparsable") else " (no hypothesis)" if session.get("missing") else ""


def _texts(score: Score, recipe: Path) -> Any:
    """Read what was said, what was understood and who was heard when; a message instead when a file is missing."""
    reference, hyp = recipe / score["reference"], Path(score["dir"])
    try:
        times = read_hypothesis_times(hyp / RTTM) if "diarization" in score else {}
        said, understood = read_supervision(reference / "supervision"), read_hypothesis(hyp / "hyp.seglst.json")
        for clip in unparsable_clips(score["decoding"]):
            understood.pop(clip, None)
        if score["conventions"]["permutation_unit"] == "session":
            said, understood = join_clips(said), join_clips(understood)
        return said, understood, times
    except UserError as e:
        return str(e)


def session_cards(score: Score, recipe: Path) -> List[Html]:
    """The worst and the median session: time line and alignment."""
    texts = _texts(score, recipe)
    if isinstance(texts, str):
        return [el("p", f"No time lines: {texts}", class_="soft small")]
    reference, hypothesis, times = texts
    out = []
    convention = Convention(score["conventions"]["unit"], score["conventions"]["profile"])
    name = metric_names(convention.unit)["cp"]
    for which, clip in show.worst_and_median(score["sessions"]).items():
        if clip not in reference:
            continue
        s = score["sessions"][clip]
        pairs = [tuple(pair) for pair in s["assignment"]]
        said = hypothesis.get(clip, [])
        shown = show.with_activity(said, times[clip]) if clip in times else said
        note = ("" if not shown or show.has_times(shown) else
                "Dashed: the system gives no times; drawn where the assigned reference speaker talks.")
        errors, length = s["cp"][:2]
        head = el("summary", f"The {which} session: {clip}, {name} {percent(errors / length)} % ({errors} / {length}), "
                             f"talkers: {s['num_speakers']}, predicted: {s['predicted']}", class_="session")
        out.append(el("details", head, show.timeline(reference[clip], shown, pairs), el("p", note, class_="soft small"),
                      show.legend(), show.alignment(reference[clip], said, pairs, convention), open="open"))
    return out


def _facts(score: Score) -> str:
    count, speed = score["count"], score["speed"]
    facts = [f"{score['clips']} {score['conventions']['permutation_unit']}s",
             f"talker count right in {percent(count['accuracy'])} % ({count['correct']} / {count['total']})"]
    if speed and speed["rtf"] is not None:
        facts.append(f"RTF {speed['rtf']:.4f} ({speed['audio_seconds']:.0f} s of audio in "
                     f"{speed['wall_seconds']:.1f} s on {speed['device']}, threads: {speed['num_threads']}, "
                     f"batch: {speed['batch_size']}, model load excluded)")
    if score["decoding"].get("count"):
        facts.append(f"number of talkers from: {score['decoding']['count']}")
    return ", ".join(facts)


def set_card(score: Score, recipe: Path) -> Html:
    """Everything about one test set decoded in one way."""
    missing = score["missing_hypotheses"]
    warning = [el("p", f"Clips without a hypothesis, counted as deleted: {len(missing)} ({', '.join(missing[:5])}"
                       + (", …)" if len(missing) > 5 else ")"), class_="mark tok del")] if missing else []
    warning += [el("p", text, class_="mark tok del") for text in score.get("warnings", ())]
    more = [make(score) for key, make in (("answers", answers_table), ("diarization", times_table),
                                          ("separation", signals_table)) if key in score]
    matrix = el("div", el("h4", "Talker count, clips"), confusion(score["count"]))
    records = el("details", el("summary", "Conventions and commands"), el("dl", *_definitions(score)))
    return el("div", el("h3", score["set"], id=_anchor(score)), el("p", _decoding(score), class_="soft small"),
              el("p", _facts(score), class_="small"), *warning,
              el("div", el("div", el("h4", "Errors"), set_table(score)), matrix, class_="two"), *more,
              *session_cards(score, recipe), sessions_table(score), records, class_="card")


def _anchor(score: Score) -> str:
    return "set-" + "-".join(score[k] for k in ("system", "step", "decode", "set"))


def _decoding(score: Score) -> str:
    return f"{score['system']} / {score['step']} / {score['decode']}"


def _decodings(scores: Sequence[Score]) -> Dict[str, List[Score]]:
    out: Dict[str, List[Score]] = {}
    for s in scores:
        out.setdefault(_decoding(s), []).append(s)
    return out


def counts_section(scores: Sequence[Score]) -> Html:
    """The talker-count confusion matrix of each decoding that has several test sets, over all of them."""
    parts = []
    for name, group in _decodings(scores).items():
        if len(group) > 1:
            total = sum((TalkerCounts.from_dict(s["count"]) for s in group), TalkerCounts.zero())
            note = (f"{total.correct} of {total.total} clips right ({percent(total.accuracy)} %), sets: "
                    + ", ".join(s["set"] for s in group))
            parts.append(el("div", el("h4", name), confusion(total.as_dict()), el("p", note, class_="soft small")))
    return el("div", el("h3", "Talker count, all test sets together"), *parts, class_="card") if parts else Html("")


def sets_nav(scores: Sequence[Score]) -> Html:
    """Links to the test sets, a line for each decoding."""
    return join([el("nav", el("span", name, class_="soft"), *(el("a", s["set"], href="#" + _anchor(s)) for s in group))
                 for name, group in _decodings(scores).items()])


def _definitions(score: Score) -> List[Html]:
    items: Dict[str, Any] = dict(score["conventions"])
    for key in ("model", "tie_rule", "command"):
        if score["decoding"].get(key):
            items[f"decoding {key}"] = score["decoding"][key]
    items.update({"scoring command": score["command"], "scoring commit": score["commit"]})
    out = []
    for key, value in items.items():
        out += [el("dt", key.replace("_", " ")), el("dd", "none" if value is None else value)]
    return out


def curves_section(exp: Path) -> Html:
    """Training curves of each step that has a history.json."""
    cards = []
    for path in sorted(exp.glob("*/*/history.json")):
        history = read_json(path, "remove it; the next training run writes it anew")
        entries = [e for e in history if isinstance(e, dict)] if isinstance(history, list) else []
        charts = [line_chart(name, series) for name, series in curves(entries).items()]
        charts += layers_chart(path.with_name("layer_weights.json"))
        if not charts:
            continue
        seconds = sum(e.get("seconds") or 0 for e in entries)
        took = f"{len(entries)} epochs, {seconds / 60:.1f} min" if seconds else f"{len(entries)} epochs"
        title = f"{path.parent.parent.name} / {path.parent.name}"
        cards.append(el("div", el("h3", title), el("p", took, class_="soft small"),
                        el("div", *charts, class_="charts"), class_="card"))
    return join([el("h2", "Training", id="training"), *cards]) if cards else Html("")


def layers_chart(path: Path) -> List[Html]:
    """What each task takes from each layer of the encoder after the last epoch, where a training has recorded it."""
    if not path.is_file():
        return []
    epochs = read_json(path, "remove it; the next training run writes it anew")
    last = max(epochs, key=int)
    series = {task: [(float(layer), weight) for layer, weight in enumerate(weights, 1)]
              for task, weights in epochs[last].items()}
    return [line_chart(f"weights of the layers after epoch {last}", series, "layer")] if series else []


def others_section(scores: Sequence[Score], rows: Sequence[Row]) -> Html:
    """Rows of results.json that no score.json here stands for, such as ablations run elsewhere."""
    made = {r.key for s in scores for r in rows_of(s)}
    others = [r for r in rows if r.key not in made]
    if not others:
        return Html("")
    found = [el("div", html_table(lines, 3), class_="card") for lines in others_tables(others)]
    return join([el("h2", "Further results", id="further"), *found])


def made_section(scores: Sequence[Score]) -> Html:
    """Environment and commands."""
    parts: List[Html] = []
    for env in environments(scores):
        parts.append(el("dl", *(x for k, v in env.items() for x in (el("dt", k), el("dd", v)))))
    commands = dict.fromkeys(c for s in scores for c in (s["decoding"].get("command"), s["command"]) if c)
    if commands:
        parts.append(el("pre", "\n".join(commands)))
    return join([el("h2", "How it was made", id="made"), el("div", *parts, class_="card")]) if parts else Html("")


def make_page(title: str, scores: Sequence[Score], rows: Sequence[Row], exp: Pathlike, recipe: Pathlike) -> str:
    """Return the page as one self-contained document; the same inputs give the same bytes."""
    models = dict.fromkeys((s["system"], s["step"], s["decoding"]["parameters"]) for s in scores
                           if s["decoding"].get("parameters"))
    facts = [f"test sets: {len({s['set'] for s in scores})}"]
    facts += [f"{system} / {step}: {n:,} parameters" for system, step, n in models]
    training, others = curves_section(Path(exp)), others_section(scores, rows)
    registered = overregistered_section(scores)
    sections = [("results", "Results", True), ("overregistered", "Over-registered speakers", registered),
                ("training", "Training", training),
                ("further", "Further results", others), ("sets", "Test sets", scores),
                ("made", "How it was made", scores)]
    nav = el("nav", *(el("a", name, href=f"#{key}") for key, name, there in sections if there))
    cards = [set_card(s, Path(recipe)) for s in scores]
    results = [el("h2", "Results", id="results"), results_section(scores), counts_section(scores), registered]
    return page(f"Results: {title}", el("h1", title), el("p", " · ".join(facts), class_="soft"), nav,
                *results, training, others,
                *([el("h2", "Test sets", id="sets"), sets_nav(scores)] if cards else []), *cards, made_section(scores))


def write_page(path: Pathlike, document: str) -> None:
    with atomic_open(path) as f:
        f.write(document)
