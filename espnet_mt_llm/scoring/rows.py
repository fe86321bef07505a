"""Rows of results.json: one number each, of the scores that are here and of those that were made elsewhere."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Tuple

from espnet_mt_llm.common import Pathlike, at, nearest
from espnet_mt_llm.scoring.score import read_json

RATE_NAMES = {"word": "WER", "char": "CER", "mixed": "MER"}


@dataclass(frozen=True)
class Row:
    """One number: what results.json holds. (system, set, metric, note) tells rows apart."""

    system: str
    set: str
    metric: str
    value: Any
    unit: str = ""
    commit: str = ""
    command: str = ""
    note: str = ""

    @property
    def key(self) -> Tuple[str, str, str, str]:
        return (self.system, self.set, self.metric, self.note)


def read_rows(path: Pathlike) -> List[Row]:
    """Read results.json; no file is no rows.

    Raises:
        UserError: an entry that is not a row, or a key given twice.
    """
    if not Path(path).exists():
        return []
    entries = read_json(path, "repair it by hand or restore it: git checkout")
    if not isinstance(entries, list):
        raise at(path, None, "a JSON list of rows is expected")
    names = [f.name for f in dataclasses.fields(Row)]
    rows: List[Row] = []
    for i, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not {"system", "set", "metric", "value"} <= set(entry):
            raise at(path, None, f"entry {i} lacks system, set, metric or value", "add them")
        for key in entry:
            if key not in names:
                raise at(path, None, f"entry {i}: unknown key '{key}'", nearest(key, names))
            if key != "value" and not isinstance(entry[key], str):
                raise at(path, None, f"entry {i}: {key} is {entry[key]!r}, no string", "put it in quotation marks")
        rows.append(Row(**entry))
    seen: Dict[tuple, int] = {}
    for i, row in enumerate(rows, 1):
        if row.key in seen:
            raise at(path, None, f"entries {seen[row.key]} and {i} have the same system, set, metric and note",
                     "give one another note")
        seen[row.key] = i
    return rows


def merge_rows(old: Iterable[Row], new: Iterable[Row]) -> List[Row]:
    """Put ``new`` over ``old`` by key and sort; a row that is in ``old`` alone stays.

    But not one of a decoding that ``new`` has other rows of: it was decoded anew, and does not say that any more. Those
    with another note are somebody's own.

    >>> notes = {"cpWER": "02/x", "saWER": "02/x, 1-10 over-registered", "WER": "01/x", "cpCER": "02/x, on a GPU"}
    >>> old = [Row("lm", "t", metric, 1, note=note) for metric, note in notes.items()]
    >>> [(r.metric, r.value) for r in merge_rows(old, [Row("lm", "t", "cpWER", 2, note="02/x")])]
    [('WER', 1), ('cpCER', 1), ('cpWER', 2)]
    """
    new = list(new)
    again = {(r.system, r.set, _decoding(r.note)) for r in new if r.set}
    merged = {r.key: r for r in old if (r.system, r.set, _decoding(r.note)) not in again}
    merged.update((r.key, r) for r in new)
    return [merged[k] for k in sorted(merged)]


# Behind step and decoding in a note: a part of the set, see ``rows_of`` in ``table.py``.
_PART = re.compile(r", \d+(-\d+)?( over-registered|-talker clips)$")


def _decoding(note: str) -> str:
    """Return what a note says of step, decoding and what was permuted, without the part of the set."""
    return _PART.sub("", note)


def others_tables(rows: Sequence[Row]) -> List[List[List[str]]]:
    """Return rows of results.json as tables, one for all systems with the same columns.

    There is a line for each system, note and set, and a column for each metric.

    >>> for line in others_tables([Row("sctc", "test", "RTF", 0.1, commit="c0ffee", note="02/greedy"),
    ...                            Row("sctc", "test", "cpWER", 5.1, "%", "c0ffee", note="02/greedy"),
    ...                            Row("sctc", "", "parameters", 1200, commit="c0ffee", note="02")])[0]:
    ...     print(" | ".join(line))
    system | note | set | cpWER % | RTF | parameters | commit
    sctc | 02/greedy | test | 5.1 | 0.1 | 1200 | c0ffee
    """
    tables: Dict[Tuple[str, ...], List[List[str]]] = {}
    for name in sorted({row.system for row in rows}):
        heads, *lines = _others_table([row for row in rows if row.system == name])
        tables.setdefault(tuple(heads), [heads]).extend(lines)
    return list(tables.values())


def _others_table(rows: Sequence[Row]) -> List[List[str]]:
    lines: Dict[Tuple[str, ...], Dict[str, str]] = {}
    for r in rows:
        if r.set:
            lines.setdefault((r.system, r.note, r.set, r.commit), {})[_head(r)] = str(r.value)
    for r in rows:
        if not r.set:
            # What is said of a model stands in the lines of its decodings.
            own = [values for (_, note, _, _), values in lines.items() if note.startswith(f"{r.note}/")]
            for values in own or [lines.setdefault((r.system, r.note, "", r.commit), {})]:
                values.setdefault(_head(r), str(r.value))
    heads = sorted({head for values in lines.values() for head in values}, key=_place)
    return [["system", "note", "set", *heads, "commit"]] + [
        [system, note, name, *(values.get(h, "") for h in heads), commit]
        for (system, note, name, commit), values in sorted(lines.items())]


def _head(row: Row) -> str:
    name, _, detail = row.metric.partition(" (")
    return f"{name} {row.unit}".rstrip() + (f" ({detail}" if detail else "")


def _place(head: str) -> Tuple[int, str]:
    """Return where the column ``head`` stands: error rates of words first, those with speakers before others."""
    name = head.split(" ")[0]
    return _COLUMNS.index(name if name in _COLUMNS else ""), head


_COLUMNS = [*(kind + rate for kind in ("cp", "sa", "tcp", "ORC-", "DI-cp", "") for rate in RATE_NAMES.values()),
            "", "RTF", "parameters"]
