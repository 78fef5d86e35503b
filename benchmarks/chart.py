# SPDX-License-Identifier: Apache-2.0
"""Small charts as SVG, side by side, without a dependency; legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from itertools import count

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 300, 54, 16, 58, 56
Point = tuple[float, float, float]  # x, y, half an error bar (0 for none)
_STYLE = """
 .card { fill: #ffffff } text { fill: #333333; font: 12px system-ui, sans-serif }
 .title { font-weight: 600; font-size: 13px } .grid { stroke: #e3e3e3 } .axis { stroke: #888888 }
 .s0 { stroke: #1565c0; fill: #1565c0 } .s1 { stroke: #d1740a; fill: #d1740a }
 .s2 { stroke: #6b7280; fill: #6b7280 } polyline.line { fill: none; stroke-width: 2 }
 circle.dot { opacity: 0.25; stroke: none }
 @media (prefers-color-scheme: dark) {
  .card { fill: #15191f } text { fill: #d8dce2 } .grid { stroke: #2b313a } .axis { stroke: #8a929d }
  .s0 { stroke: #64a8f0; fill: #64a8f0 } .s1 { stroke: #f0a04b; fill: #f0a04b }
  .s2 { stroke: #a3abb7; fill: #a3abb7 } }
"""


@dataclass
class Panel:
    """One chart: named curves, and faint dots (x, y) behind them."""

    title: str
    x_label: str
    y_label: str
    ticks: list[float]  # of x; the first and the last are its ends
    names: list[str] = field(default_factory=list)  # of the ticks, else their numbers
    curves: dict[str, list[Point]] = field(default_factory=dict)  # an empty one keeps its colour
    dots: list[tuple[float, float]] = field(default_factory=list)
    log: bool = False  # x
    joined: bool = True  # False: the ticks are things, not amounts


def svg(panels: list[Panel], label: str) -> str:
    """The panels as one picture; `label` says what it is to those who cannot see it."""
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(label)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="card" width="{width}" height="{HEIGHT}" rx="6"/>',
    ]
    for i, panel in enumerate(panels):
        parts += [f'<g transform="translate({i * WIDTH} 0)">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(p: Panel) -> list[str]:
    values = [y + e * side for curve in p.curves.values() for _, y, e in curve for side in (-1, 1)]
    values += [y for _, y in p.dots]
    sizes = (s * 10**power for power in count() for s in (1, 2, 5))
    step = next(s for s in sizes if (max(values) - min(values)) / s <= 7)
    low, high = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
    place = math.log if p.log else float
    first, last = place(p.ticks[0]), place(p.ticks[-1])
    margin = (last - first) * (0.04 if p.joined else 0.5 / max(1, len(p.ticks) - 1)) or 1.0

    def at_x(x: float) -> float:
        share = (place(x) - first + margin) / (last - first + 2 * margin)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / max(high - low, step) * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 20, p.title, "start", 'class="title"')]
    for y in range(low, high + 1, step):
        parts.append(_line(LEFT, at_y(y), WIDTH - RIGHT, at_y(y), "axis" if y == low else "grid"))
        parts.append(_text(LEFT - 8, at_y(y) + 4, str(y), "end"))
    for x, name in zip(p.ticks, p.names or [f"{x:g}" for x in p.ticks], strict=True):
        lines = [name] if p.joined else name.split(" ", 1)
        for i, line in enumerate(lines):
            parts.append(_text(at_x(x), HEIGHT - BOTTOM + 16 + 14 * i, line))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, p.x_label))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text(16, middle, p.y_label, more=f'transform="rotate(-90 16 {middle:g})"'))
    for x, y in p.dots:
        parts.append(f'<circle class="s0 dot" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="2"/>')
    return parts + _curves(p, at_x, at_y)


def _curves(p: Panel, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> list[str]:
    parts, left = [], float(LEFT)
    for index, (name, curve) in enumerate(p.curves.items()):
        if not curve:
            continue
        kind = f"s{'102'[index % 3]}" if p.dots else f"s{index % 3}"  # not the colour of the dots
        aside = 0.0 if p.joined else 7.0 * (index - (len(p.curves) - 1) / 2)
        points = [(at_x(x) + aside, y, error) for x, y, error in curve]
        if name:
            parts.append(f'<circle class="{kind}" cx="{left + 5:g}" cy="36" r="4"/>')
            parts.append(_text(left + 14, 40, name, "start"))
            left += 32 + 6.5 * len(name)
        if p.joined:
            path = " ".join(f"{x:.1f},{at_y(y):.1f}" for x, y, _ in points)
            parts.append(f'<polyline class="{kind} line" points="{path}"/>')
        for x, y, error in points:
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{at_y(y):.1f}" r="3"/>')
            parts.append(_line(x, at_y(y - error), x, at_y(y + error), kind))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
