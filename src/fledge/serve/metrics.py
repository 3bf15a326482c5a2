"""Counters and histograms in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """How often a value fell below each bound."""

    def __init__(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> None:
        self.name, self.text, self.bounds = name, text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, *, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def lines(self) -> list[str]:
        lines, below = [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} histogram"], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            lines.append(f'{self.name}_bucket{{le="{bound}"}} {below}')
        return [*lines, f"{self.name}_sum {self.total:.6f}", f"{self.name}_count {below}"]


def scalar(name: str, kind: str, text: str, values: Mapping[str, float] | float) -> list[str]:
    """A counter or gauge; `values` by label set, as in {'finish="stop"': 3}."""
    rows = values if isinstance(values, Mapping) else {"": values}
    labelled = [f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in rows.items()]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *labelled]
