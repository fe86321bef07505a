"""Tables of results: what scores say, the generated part of a recipe's README.md, and the terminal."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open
from espnet_mt_llm.datadir.statistics import Statistics
from espnet_mt_llm.scoring.answers import up_to
from espnet_mt_llm.scoring.rows import RATE_NAMES, Row, others_tables
from espnet_mt_llm.scoring.score import read_json

log = logging.getLogger(__name__)

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
Score = Dict[str, Any]
# What every score.json has.
_KEYS = ("system", "step", "decode", "set", "clips", "metrics", "count", "by_num_speakers", "speed", "conventions",
         "missing_hypotheses", "reference", "commit", "command", "environment", "decoding", "sessions")


def load_scores(exp: Pathlike) -> List[Score]:
    """Read every ``<system>/<step>/<decode>/<set>/score.json`` under ``exp``, sorted by path.

    The directory of each is added as ``dir``. Of two scores of one decoding and set that one is left out which lies
    elsewhere than it was made: a model that was set aside, and trained again.

    Raises:
        UserError: a file that is not a score.
    """
    out: Dict[Tuple[str, ...], Score] = {}
    for path in sorted(Path(exp).glob("*/*/*/*/score.json")):
        score = read_json(path)
        lacking = [key for key in _KEYS if not isinstance(score, dict) or key not in score]
        if lacking:
            raise at(path, None, f"not a score, or an old one: it lacks {', '.join(lacking[:3])}",
                     f"score it again (stage 8), or remove it: rm {path}")
        score = {**score, "dir": str(path.parent)}
        name = tuple(str(score[key]) for key in ("system", "step", "decode", "set"))
        if name in out:
            aside, score = sorted((out[name], score), key=lambda s: Path(s["dir"]).parts[-4:] == name)
            log.warning("%s: these are results of %s, as those of %s; they are left out", aside["dir"], "/".join(name),
                        score["dir"])
        out[name] = score
    return list(out.values())


def metric_names(unit: str) -> Dict[str, str]:
    """Return the name that a rate is printed under, by its key in score.json.

    >>> metric_names("char")["cp"], metric_names("word")["serialized_with_sc"]
    ('cpCER', 'WER with <sc>')
    """
    rate = RATE_NAMES[unit]
    return {"cp": f"cp{rate}", "orc": f"ORC-{rate}", "dicp": f"DI-cp{rate}", "serialized": rate,
            "serialized_with_sc": f"{rate} with <sc>", "sa": f"sa{rate}", "tcp": f"tcp{rate}"}


class Measure(NamedTuple):
    """A number beside the error rates of words: its name, its unit, its digits and its value in a part of a score."""

    name: str
    unit: str
    digits: int
    value: Optional[float]

    @property
    def head(self) -> str:
        """Return the head of its column: ``DER % (collar 0)``."""
        name, _, detail = self.name.partition(" (")
        return f"{name} {self.unit}".rstrip() + (f" ({detail}" if detail else "")

    @property
    def text(self) -> str:
        return "–" if self.value is None else f"{self.value:.{self.digits}f}"


def measures(part: Mapping[str, Any]) -> List[Measure]:
    """Return what a score, or its part for a number of talkers, says beside the error rates of words.

    >>> part = {"separation": {"si_sdr_improvement": 9.76, "sdr_improvement": None, "stoi": 0.826}}
    >>> [(m.head, m.text) for m in measures(part)]
    [('SI-SDRi dB', '9.76'), ('SDRi dB', '–'), ('STOI', '0.826')]
    """
    def rate(value: Optional[float]) -> Optional[float]:
        return None if value is None else 100 * value

    out = []
    entries = part.get("diarization", [])
    for entry in entries:
        out.append(Measure(f"DER (collar {entry['collar']:g})", "%", 2, rate(entry["der"])))
    if entries:
        out.append(Measure("JER", "%", 2, rate(entries[0]["jer"])))
        out.append(Measure("trivial DER", "%", 2, rate(entries[0]["trivial"]["der"])))
    if "separation" in part:
        means = part["separation"]
        out += [Measure("SI-SDRi", "dB", 2, means.get("si_sdr_improvement")),
                Measure("SDRi", "dB", 2, means.get("sdr_improvement")), Measure("STOI", "", 3, means.get("stoi"))]
    out += [Measure(f"Δ{key}", "%", 2, rate(d["rate"])) for key, d in part.get("deltas", {}).items()]
    out += [Measure(f"{key} by chance", "%", 2, rate(d["rate"])) for key, d in part.get("chance", {}).items()]
    if "answers" in part:
        given = part["answers"]
        out.append(Measure("unparsable", "%", 2, rate(given["unparsable"] / given.get("clips", part["clips"]))))
        out.append(Measure("repetitions stopped", "", 0, given["repeated"]))
    return out


def commit_of(score: Mapping[str, Any]) -> str:
    """Return the commit that made the hypothesis, else the one that scored it."""
    return score["decoding"].get("environment", {}).get("commit") or score["commit"]


def rows_of(score: Score) -> List[Row]:
    """Turn a score into rows: each metric for the whole set, then by number of talkers when it differs in the set."""
    name = f"{score['step']}/{score['decode']}"
    unit = score["conventions"]["permutation_unit"]
    name += "" if unit == "clip" else f", by {unit}"
    parts = [(name, score)]
    if len(score["by_num_speakers"]) > 1:
        parts += [(f"{name}, {n}-talker clips", part) for n, part in score["by_num_speakers"].items()]
    parts += [(f"{name}, {n} over-registered", part) for n, part in score.get("by_overregistered", {}).items()]
    command = score["decoding"].get("command") or score["command"]
    rows: List[Row] = []

    def add(metric: str, value: Optional[float], unit: str, note: str) -> None:
        if value is not None:
            rows.append(Row(score["system"], score["set"], metric, value, unit, commit_of(score), command, note))

    for note, part in parts:
        for key, metric in metric_names(score["conventions"]["unit"]).items():
            if key in part["metrics"] and part["metrics"][key]["rate"] is not None:
                add(metric, round(100 * part["metrics"][key]["rate"], 2), "%", note)
        if part["count"]["accuracy"] is not None:
            add("talker-count accuracy", round(100 * part["count"]["accuracy"], 2), "%", note)
        for m in measures(part):
            add(m.name, None if m.value is None else round(m.value, m.digits), m.unit, note)
    if score.get("diarization_sweep"):
        best = score["diarization_sweep"]["der"]
        add("DER, swept on the test set", None if best is None else round(100 * best, 2), "%", name)
    if score["speed"]:
        add("RTF", score["speed"]["rtf"], "", name)
    if score["decoding"].get("parameters"):
        # The size belongs to the model, not to a test set.
        rows.append(Row(score["system"], "", "parameters", score["decoding"]["parameters"], "", commit_of(score),
                        "", score["step"]))
    return rows


def percent(rate: Optional[float]) -> str:
    return "–" if rate is None else f"{100 * rate:.2f}"


def conventions_of(score: Score) -> Tuple[str, str, str]:
    """Numbers may stand in one column only when these agree: unit, profile and what was permuted."""
    c = score["conventions"]
    return c["unit"], c["profile"], c["permutation_unit"]


def by_convention(scores: Sequence[Score]) -> List[Tuple[Tuple[str, str, str], List[Score]]]:
    groups: Dict[Tuple[str, str, str], List[Score]] = {}
    for s in scores:
        groups.setdefault(conventions_of(s), []).append(s)
    return sorted(groups.items())


def table(scores: Sequence[Score]) -> List[List[str]]:
    """Return the results table of scores with one convention: a header and a line for each set and talker count."""
    names = metric_names(scores[0]["conventions"]["unit"])
    units = f"{scores[0]['conventions']['permutation_unit']}s"
    metrics = [m for m in ("cp", "orc", "serialized", "sa", "tcp") if any(m in s["metrics"] for s in scores)]
    sections = [{"clips": s["clips"], key: s[key]} for key in _CAPTIONS for s in scores if key in s]
    heads = list(dict.fromkeys(m.head for part in sections for m in measures(part)))
    out = [["system", "step", "decoding", "set", "talkers", units, *(f"{names[m]} %" for m in metrics),
            "count acc. %", *heads, "RTF"]]
    for s in scores:
        counts = s["by_num_speakers"]
        parts = [("–".join(dict.fromkeys([min(counts, key=int), max(counts, key=int)])), s)]
        if len(counts) > 1:
            parts += list(counts.items())
        for talkers, part in parts:
            rtf = s["speed"]["rtf"] if part is s and s["speed"] else None
            more = {m.head: m.text for m in measures(part)}
            out.append([s["system"], s["step"], s["decode"], s["set"], talkers, str(part["clips"]),
                        *(percent(part["metrics"][m]["rate"]) if m in part["metrics"] else "–" for m in metrics),
                        percent(part["count"]["accuracy"]), *(more.get(head, "–") for head in heads),
                        "" if rtf is None else f"{rtf:.4f}"])
    return out


def plain(lines: Sequence[Sequence[str]]) -> str:
    """Lay a table out for the terminal, numbers to the right.

    >>> print(plain([["set", "cpWER"], ["test", "5.10"], ["dev_clean", "12.00"]]))
    set        cpWER
    ---------  -----
    test        5.10
    dev_clean  12.00
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    right = [all(_is_number(line[i]) for line in lines[1:]) for i in range(len(lines[0]))]

    def one(line: Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)).rstrip()

    return "\n".join([one(lines[0]), "  ".join("-" * w for w in widths), *(one(line) for line in lines[1:])])


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("–", "").replace("-", "").isdecimal() or text in ("", "–")


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown; whatever a cell holds stays text.

    >>> print(markdown([["set", "cpWER"], ["a|b", "5.10"]]))
    | set | cpWER |
    |---|---:|
    | a\\|b | 5.10 |
    """
    right = [all(_is_number(line[i]) for line in lines[1:]) for i in range(len(lines[0]))]
    rows = [_md_line(lines[0]), "|" + "|".join("---:" if r else "---" for r in right) + "|"]
    return "\n".join(rows + [_md_line(line) for line in lines[1:]])


def _md_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_md(c) for c in cells) + " |"


def _md(text: Any) -> str:
    text = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def environments(scores: Sequence[Score]) -> List[Dict[str, str]]:
    """Return the different environments that the hypotheses were made in."""
    out: List[Dict[str, str]] = []
    for s in scores:
        env = {k: str(v) for k, v in (s["decoding"].get("environment") or s["environment"]).items()}
        if env not in out:
            out.append(env)
    return out


def caption(convention: Tuple[str, str, str], scores: Sequence[Score]) -> str:
    """Say in a sentence what the numbers of a table mean."""
    unit, profile, permutation = convention
    orders = "; ".join(dict.fromkeys(s["conventions"]["sot_order"] for s in scores))
    name = RATE_NAMES[unit]
    return (f"Unit {unit}, normalisation `{profile}`, speakers permuted by {permutation}, micro-averaged. "
            f"{name}: serialized transcript, reference order: {orders}; <sc> is stripped."
            + "".join(text for key, text in _CAPTIONS.items() if any(key in s for s in scores)) + _of_speed(scores))


def _of_speed(scores: Sequence[Score]) -> str:
    """Say what RTF means, and in which batches it was measured; nothing where there is none."""
    sizes = sorted({s["speed"].get("batch_size", 1) for s in scores if s["speed"] and s["speed"]["rtf"] is not None})
    if not sizes:
        return ""
    return (" RTF: seconds of decoding for a second of audio, without loading the model, in batches of "
            f"{' or '.join(map(str, sizes))}.")


_CAPTIONS = {
    "diarization": " DER, JER: overlap scored, collar in seconds on each side of a boundary (as md-eval's), JER at "
                   "collar 0; trivial: every reference speaker active for the whole clip (collar 0).",
    "separation": " SI-SDRi, SDRi: improvement over the mixture, mean over sources, best assignment by SI-SDR.",
    "deltas": " Δ: what speakers cost, the rate of cp or sa less that of the words in output order.",
    "chance": " By chance: each turn of the hypothesis given to a random one of the clip's speakers.",
    "answers": " Unparsable: clips whose answer has no label, counted as deleted.",
}


def overregistered_table(scores: Sequence[Score]) -> List[List[str]]:
    """Return the error rates by number of over-registered speakers of scores with one convention; [] without such.

    Those of one curve are together, the fewest speakers first.
    """
    names = metric_names(scores[0]["conventions"]["unit"])
    out = [["system", "step", "decoding", "set", "over-registered", "clips",
            *(f"{names[m]} %" for m in _REGISTERED), "Δsa %", "count acc. %", "unparsable %"]]
    rows = [(_curve(s), up_to(name), s, name, part)
            for s in scores for name, part in s.get("by_overregistered", {}).items()]
    for _, _, s, name, part in sorted(rows, key=lambda row: row[:2]):
        out.append([s["system"], s["step"], s["decode"], s["set"], name.replace("-", "–"), str(part["clips"]),
                    *(percent(part["metrics"][m]["rate"]) if m in part["metrics"] else "–" for m in _REGISTERED),
                    percent(part["deltas"].get("sa", {}).get("rate")), percent(part["count"]["accuracy"]),
                    percent(part["unparsable"] / part["clips"]) if "unparsable" in part else "–"])
    return out if len(out) > 1 else []


_REGISTERED = ("sa", "cp", "serialized")


def overregistered_curves(scores: Sequence[Score]) -> Dict[str, List[Tuple[str, float]]]:
    """Return (over-registered speakers, attributed rate in %) of each model and set, the fewest speakers first.

    Decodings with one number for all clips are points of one curve, one with many is a curve of its own.
    """
    out: Dict[str, List[Tuple[str, float]]] = {}
    for s in scores:
        for number, part in s.get("by_overregistered", {}).items():
            rate = part["metrics"].get("sa", {}).get("rate")
            if rate is not None:
                out.setdefault(" / ".join(_curve(s)), []).append((number, 100 * rate))
    return {name: sorted(points, key=lambda p: up_to(p[0])) for name, points in out.items()}


def _curve(score: Score) -> List[str]:
    """Return what the points of one curve share."""
    several = len(score.get("by_overregistered", {})) > 1
    how = ["labels by voice"] if score.get("answers", {}).get("labels") == "voices" else []
    beam = score.get("decoding", {}).get("beam_size") or 1
    how += [f"beam of {beam}"] if beam > 1 else []
    return [score["system"], score["step"], *([score["decode"]] if several else how), score["set"]]


def mermaid_chart(title: str, over: str, unit: str, points: Sequence[Tuple[str, float]]) -> str:
    """Draw a line in a README: a chart that GitHub and GitLab show."""
    labels = ", ".join(f'"{x}"' for x, _ in points)
    values = ", ".join(f"{y:.2f}" for _, y in points)
    top = max(y for _, y in points) * 1.2 or 1.0
    return "\n".join(["```mermaid", "xychart-beta", f'  title "{title}"', f'  x-axis "{over}" [{labels}]',
                      f'  y-axis "{unit}" 0 --> {top:.4g}', f"  line [{values}]", "```"])


def clips_table(dump: Pathlike) -> str:
    """Describe the clips of every ``<dump>/<set>/statistics.json``; empty where there is none."""
    found = {path.parent.name: Statistics.read(path) for path in sorted(Path(dump).glob("*/statistics.json"))}
    if not found:
        return ""
    rows = [["set", "clips", "hours", "average s", "average speakers", "overlap % of speech"]]
    for name, s in found.items():
        averages = s.averages()
        rows.append([name, f"{s.segments:,}", f"{s.seconds / 3600:.2f}", f"{averages['average_duration']:.2f}",
                     f"{averages['average_speakers']:.2f}", f"{averages['overlap_percent_of_speech']:.2f}"])
    return "**Clips**\n\n" + markdown(rows)


def readme_block(scores: Sequence[Score], rows: Sequence[Row], clips: str = "") -> str:
    """Write what stands between the markers: tables, other rows, the clips, environment and commands."""
    parts = ["<!-- This part is generated (bin/make_results.py); what is outside of the markers is kept. -->"]
    for convention, group in by_convention(scores):
        parts += [_md_sentence(caption(convention, group)), markdown(table(group))]
        bins = overregistered_table(group)
        if bins:
            parts += ["**By number of over-registered speakers**", markdown(bins)]
            unit = f"{metric_names(convention[0])['sa']} %"
            parts += [mermaid_chart(name, "over-registered speakers", unit, points)
                      for name, points in overregistered_curves(group).items() if len(points) > 1]
    made = {r.key for s in scores for r in rows_of(s)}
    others = [r for r in rows if r.key not in made]
    if others:
        parts += ["**Further results**", *(markdown(lines) for lines in others_tables(others))]
    if not scores and not others:
        parts.append("No results yet: `./run.sh` makes them.")
    if clips:
        parts.append(clips)
    models = dict.fromkeys((s["system"], s["step"], s["decoding"]["parameters"]) for s in scores
                           if s["decoding"].get("parameters"))
    if models:
        parts.append("\n".join(f"- `{system}/{step}`: {count:,} parameters" for system, step, count in models))
    for env in environments(scores):
        parts.append("Environment: " + ", ".join(f"{k} {_md(v)}" for k, v in env.items()))
    commands = dict.fromkeys(c for s in scores for c in (s["decoding"].get("command"), s["command"]) if c)
    commands |= dict.fromkeys(r.command for r in others if r.command)
    if commands:
        parts.append("<details><summary>Commands</summary>\n\n```\n" + "\n".join(commands) + "\n```\n\n</details>")
    return "\n\n".join(parts)


def _md_sentence(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;")


def insert_block(text: str, block: str, where: Pathlike = "README.md") -> str:
    """Replace what is between the markers; without markers the block is added at the end.

    >>> insert_block("# t\\n\\n<!-- results:begin -->\\nold\\n<!-- results:end -->\\nmine\\n", "new")
    '# t\\n\\n<!-- results:begin -->\\nnew\\n<!-- results:end -->\\nmine\\n'

    Raises:
        UserError: one marker without the other, in the wrong order or more than once.
    """
    lines = [line.strip() for line in text.split("\n")]
    begins, ends = (tuple(i for i, line in enumerate(lines, 1) if line == m) for m in (BEGIN, END))
    if not begins and not ends:
        gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
        return f"{text}{gap}{BEGIN}\n{block}\n{END}\n"
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise at(where, min(begins + ends), f"expected one '{BEGIN}' and after it one '{END}', each on its own line",
                 "remove the markers or put them right")
    kept = text.split("\n")
    return "\n".join(kept[:begins[0]] + [block] + kept[ends[0] - 1:])


def write_readme(path: Pathlike, block: str, title: str) -> None:
    """Put ``block`` between the markers of a README, which is made when there is none; equal bytes stay untouched."""
    path = Path(path)
    try:
        old = path.read_bytes().decode("utf-8") if path.exists() else f"# {title}\n"
    except UnicodeDecodeError as e:
        raise at(path, None, f"not UTF-8 ({e.reason} at byte {e.start})", "convert it with iconv") from None
    new = insert_block(old, block, path)
    if not path.exists() or new != old:
        with atomic_open(path, newline="") as f:
            f.write(new)


def terminal(scores: Sequence[Score], page: Optional[Pathlike] = None) -> str:
    """Return what ends a run: a table for each convention, then where the page is.

    Raises:
        UserError: there are no scores.
    """
    if not scores:
        raise UserError("no score.json was found; decode and score first: ./run.sh --stage 7")
    parts = []
    for convention, group in by_convention(scores):
        parts += [plain(table(group)), caption(convention, group)]
    if page is not None and Path(page).exists():
        parts.append(f"Results page: {Path(page).resolve()}")
    return "\n\n".join(parts)
