"""Line plots as SVG text: no drawing library, readable in light and dark, small enough to stand inside an HTML page.

svg = line_plot("pretrain: loss", {"": [(1, 7.2), (2, 6.9)]}, x="step", y="nats")
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 270, 56, 38, 40, 18
COLOURS = ("#2f6fde", "#d9622b", "#2a9d62", "#8a5cd1", "#b8860b", "#c23b3b", "#0f8f9e", "#7a7f87")
Points = Sequence[tuple[float, float]]


def line_plot(
    title: str,
    lines: Mapping[str, Points],
    *,
    x: str,
    y: str,
    dots: Mapping[str, Points] | None = None,
    log: str = "",
    above: Mapping[float, str] | None = None,
) -> str:
    """An SVG of lines through the points that are finite; empty text when there are none.

    Args:
        lines: by the name that stands beside the plot where there are several.
        dots: points that no line leads through, in the colour of the line of their name.
        log: axes that count in powers: "x", "y" or "xy".
        above: what stands over a place of the x axis, as its time does.
    """
    shown = [{name: _finite(points) for name, points in kind.items()} for kind in (lines, dots or {})]
    both = [point for kind in shown for points in kind.values() for point in points]
    if not both:
        return ""
    xs, across = _axis([point[0] for point in both], LEFT, WIDTH - RIGHT, is_log="x" in log)
    ys, down = _axis([point[1] for point in both], HEIGHT - BOTTOM, TOP, is_log="y" in log)
    names = [*dict.fromkeys(name for kind in shown for name in kind)]
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    beside = 8 + max(8 * len(name) for name in names) if len(names) > 1 else 0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + beside} {HEIGHT}" width="{WIDTH + beside}" '
        f'height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="11" fill="#7a7f87">',
        f'<text x="{LEFT}" y="16" font-size="13" font-weight="600">{escape(title)}</text>',
    ]
    for value in ys:
        ends = " ".join(f"{across(end):.1f},{down(value):.1f}" for end in (xs[0], xs[-1]))
        parts.append(f'<polyline points="{ends}" stroke="#7a7f87" stroke-opacity=".22" fill="none"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in xs:
        parts.append(
            f'<text x="{across(value):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{compact(value)}</text>'
        )
    for value, text in (above or {}).items():
        parts.append(f'<text x="{across(value):.1f}" y="{TOP - 4}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="16" text-anchor="end">{escape(y)}</text>')
    for name, points in shown[0].items():
        line = " ".join(f"{across(step):.1f},{down(value):.1f}" for step, value in thinned(points))
        style = 'stroke-width="1.8" fill="none" stroke-linejoin="round"'
        parts.append(f'<polyline points="{line}" stroke="{colours[name]}" {style}/>')
    single = {name: points for name, points in shown[0].items() if len(points) == 1}
    for name, points in [*single.items(), *shown[1].items()]:
        parts += [f'<circle cx="{across(a):.1f}" cy="{down(b):.1f}" r="3" fill="{colours[name]}"/>' for a, b in points]
    for n, name in enumerate(names if beside else ()):
        parts.append(f'<text x="{WIDTH}" y="{TOP + 10 + 15 * n}" fill="{colours[name]}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


def compact(number: float, *, digits: int = 4) -> str:
    """So many digits: .7077 -> 0.7077, 250_000 -> 250K, 3e17 -> 3e+17."""
    units = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
    unit, name = next(((unit, name) for unit, name in units if abs(number) >= unit), (1.0, ""))
    return f"{number / unit:.{digits}g}{name}" if abs(number) < 1e15 else f"{number:.{digits}g}"


def _finite(points: Points) -> Points:
    return [point for point in points if math.isfinite(point[1])]


def _axis(
    values: Sequence[float], start: float, end: float, *, is_log: bool
) -> tuple[list[float], Callable[[float], float]]:
    """Ticks that enclose the values, and where between two pixels a value lies."""
    marks = (powers if is_log else ticks)(min(values), max(values))
    scale = math.log if is_log else float
    low, high = scale(marks[0]), scale(marks[-1])
    return marks, lambda value: start + (scale(value) - low) / (high - low) * (end - start)


def powers(low: float, high: float) -> list[float]:
    """Round numbers above 0 that enclose [low, high] on a logarithmic axis: (30, 700) -> [20, 50, 100, 200, 500, 1000]."""
    if high < 4 * low and (near := ticks(low, high))[0] > 0:
        return near
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    marks = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    marks = [mark for mark, after in itertools.pairwise(marks) if after > low]
    marks = marks[: next(n for n, mark in enumerate(marks) if mark >= high and n) + 1]
    if len(marks) <= 7:
        return marks
    return [float(f"1e{power}") for power in range(first, math.ceil(math.log10(high)) + 1)]


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose [low, high]: (0.3, 7.2) -> [0, 2, 4, 6, 8]."""
    if high - low <= 1e-8 * max(1.0, abs(low), abs(high)):  # a flat line, but for rounding
        margin = max(0.5, 1e-3 * abs(low))
        low, high = low - margin, high + margin
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
