"""Training curves and weights of layers as small inline SVG charts."""

import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from espnet_mt_llm.scoring.html import Html, el

Series = Dict[str, List[Tuple[float, float]]]
_WIDTH, _HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 10, 30


def ticks(low: float, high: float, about: int = 5) -> List[float]:
    """Return round numbers that cover ``low`` … ``high``.

    >>> ticks(0.0, 9.3), ticks(0.91, 0.97)
    ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [0.9, 0.92, 0.94, 0.96, 0.98])
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def curves(history: Sequence[Mapping[str, Any]]) -> Dict[str, Series]:
    """Sort a training history into charts: quantity → train/valid → (epoch, value), numbers only."""
    out: Dict[str, Series] = {}
    for i, entry in enumerate(history, 1):
        for split in ("train", "valid"):
            for name, value in (entry.get(split) or {}).items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                    points = out.setdefault(name, {}).setdefault(split, [])
                    points.append((float(entry.get("epoch", i)), float(value)))
    return out


def line_chart(title: str, series: Series, over: str = "epoch") -> Html:
    """Draw one quantity over epochs (or ``over``), a line for each of ``series``; each point says its value when
    pointed at."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    grid = ticks(min(ys), max(ys))
    low, high = grid[0], grid[-1]
    first, last = min(xs), max(xs)

    def px(x: float) -> float:
        return round(_LEFT + (x - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT), 1)

    def py(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts: List[Html] = []
    for y in grid:
        parts.append(el("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=py(y), y2=py(y)))
        parts.append(el("text", f"{y:g}", x=_LEFT - 7, y=py(y) + 4, text_anchor="end"))
    for x in [t for t in ticks(first, last, 6) if first <= t <= last and t == int(t)] or [first]:
        parts.append(el("text", f"{x:g}", x=px(x), y=_HEIGHT - _BOTTOM + 16, text_anchor="middle"))
    parts.append(el("text", over, x=_WIDTH - _RIGHT, y=_HEIGHT - 1, text_anchor="end"))
    colors = {split: f"s{i % 6 + 1}" for i, split in enumerate(series)}
    for split, points in series.items():
        color = colors[split]
        path = "M" + " L".join(f"{px(x)} {py(y)}" for x, y in points)
        parts.append(el("path", d=path, class_=color))
        for i, (x, y) in enumerate(points):
            tip = el("title", f"{split}, {over} {x:g}: {y:.4g}")
            if i == len(points) - 1:
                parts.append(el("circle", tip, class_=f"dot {color}", cx=px(x), cy=py(y), r=3.5))
            elif len(points) <= 200:
                parts.append(el("circle", tip, class_=f"dot hit {color}", cx=px(x), cy=py(y), r=6))
    legend = el("div", *(el("span", el("span", class_=f"key {colors[split]}"),
                            f"{split} {points[-1][1]:.4g}") for split, points in series.items()), class_="legend")
    return el("figure", el("h4", title), legend,
              el("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{title} by {over}"),
              style="margin:0")
