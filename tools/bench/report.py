"""What the benchmarks share: rows of ours against a peer, printed as a table and written as JSON."""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from espnet_mt_llm.common import atomic_open, cpu_name  # noqa: E402


def row(name: str, ours: float, peer: Optional[float], unit: str) -> dict:
    """Build a row; ``ratio`` is peer / ours for times (unit s, ms, us), ours / peer else: above 1 we are better."""
    ratio = None
    if peer:
        ratio = peer / ours if unit in ("s", "ms", "us") else ours / peer
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "machine": cpu_name()}


def interleaved(ours: Callable[[], object], peer: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Return the median seconds of both, run in turn so that the machine's moods meet both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, taken in zip((ours, peer), times):
            begin = time.perf_counter()
            function()
            taken.append(time.perf_counter() - begin)
    return statistics.median(times[0]), statistics.median(times[1])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that every benchmark has."""
    parser.add_argument("--json", help="write the rows to this file")


def show(rows: list[dict], path: Optional[str] = None) -> None:
    """Print the rows as a table and, with ``path``, write them as JSON."""
    cells = [["name", "ours", "peer", "ratio", "unit"]]
    cells += [[r["name"], *(_number(r[key]) for key in ("ours", "peer", "ratio")), r["unit"]] for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print(
            "  ".join(
                cell.ljust(width) if i in (0, 4) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
        )
    if rows:
        print(rows[0]["machine"])
    if path:
        with atomic_open(path) as f:
            json.dump(rows, f, indent=1)
            f.write("\n")


def _number(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
