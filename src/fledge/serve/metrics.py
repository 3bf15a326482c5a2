"""Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """How many values fell below each of `SECONDS`, and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, value: float, *, times: int = 1) -> None:
        self.counts[bisect_left(SECONDS, value)] += times
        self.total += value * times

    def samples(self) -> dict[str, float]:
        below = [*accumulate(self.counts)]
        buckets = zip((*SECONDS, "+Inf"), below, strict=True)
        rows: dict[str, float] = {f'_bucket{{le="{bound}"}}': count for bound, count in buckets}
        return rows | {"_sum": round(self.total, 6), "_count": below[-1]}


def metric(name: str, kind: str, text: str, samples: Mapping[str, float] | float) -> str:
    """One metric; `samples` by what follows the name, as in {'{finish="stop"}': 3}, where it is not one number."""
    rows = samples if isinstance(samples, Mapping) else {"": samples}
    head = f"# HELP fledge_{name} {text}\n# TYPE fledge_{name} {kind}\n"
    return head + "".join(f"fledge_{name}{suffix} {value}\n" for suffix, value in rows.items())
