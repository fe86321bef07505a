"""What the benchmarks share: rows of ours against a peer, printed as a table and written as JSON."""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from espnet_mt_llm.common import atomic_open, cpu_name  # noqa: E402


def row(name: str, ours: float, peer: Optional[float], unit: str) -> dict:
    """Build a row; ``ratio`` is peer / ours for times (unit s, ms, us), ours / peer else: above 1 we are better."""
    ratio = None
    if peer:
        ratio = peer / ours if unit in ("s", "ms", "us") else ours / peer
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "machine": cpu_name()}


def interleaved(ours: Callable[[], object], peer: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Return the median seconds of both, see :func:`medians`."""
    first, second = medians((ours, peer), repeats)
    return first, second


def medians(functions: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter,
            warm_up: int = 0) -> list[float]:
    """Return the median seconds of each function, run in turn so that the machine's moods meet all.

    Args:
        clock: ``time.process_time`` for a machine that others use, too.
        warm_up: first calls of each that are not counted.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(warm_up + repeats):
        for function, taken in zip(functions, times):
            begin = clock()
            function()
            if turn >= warm_up:
                taken.append(clock() - begin)
    return [statistics.median(taken) for taken in times]


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
