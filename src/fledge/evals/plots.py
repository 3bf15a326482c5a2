"""Line plots as SVG text: no drawing library, readable in light and dark, small enough to stand inside an HTML page.

svg = line_plot("pretrain: loss", [(1, 7.2), (2, 6.9)], x="step", y="nats")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 260, 56, 38, 30, 14
Points = Sequence[tuple[float, float]]


def line_plot(title: str, points: Points, *, x: str, y: str) -> str:
    """An SVG of a line through the points that are finite; empty text when there are none."""
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return ""
    xs, ys = (ticks(min(values), max(values)) for values in zip(*points, strict=True))

    def across(value: float) -> str:
        return f"{LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT):.1f}"

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="11" fill="#7a7f87">',
        f'<text x="{LEFT}" y="18" font-size="13" font-weight="600">{escape(title)}</text>',
    ]
    for value in ys:
        ends = " ".join(f"{across(end)},{down(value):.1f}" for end in (xs[0], xs[-1]))
        parts.append(f'<polyline points="{ends}" stroke="#7a7f87" stroke-opacity=".22" fill="none"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in xs:
        parts.append(f'<text x="{across(value)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="18" text-anchor="end">{escape(y)}</text>')
    line = " ".join(f"{across(step)},{down(value):.1f}" for step, value in thinned(points))
    parts.append(f'<polyline points="{line}" stroke="#2f6fde" stroke-width="1.8" fill="none" stroke-linejoin="round"/>')
    return "\n".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose [low, high]: (0.3, 7.2) -> [0, 2, 4, 6, 8]."""
    if high - low <= 1e-8 * max(1.0, abs(low), abs(high)):  # a flat line, but for rounding
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.floor(low / step)
    return [round(step * number, 10) for number in range(first, math.ceil(high / step) + 1)]


def thinned(points: Points, most: int = 150) -> Points:
    """At most `most` points: the mean of each of as many equal stretches, so that a noisy line stays readable."""
    if len(points) <= most:
        return points
    size = len(points) / most
    pieces = [points[round(n * size) : round((n + 1) * size)] for n in range(most)]
    return [(piece[-1][0], sum(p[1] for p in piece) / len(piece)) for piece in pieces if piece]
