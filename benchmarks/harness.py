"""What all comparisons share: one way to time, one way to print.

    ways = {"ours": lambda: encode(texts), "peer": lambda: peer.encode(texts)}
    timed = compare(ways, repeats=5)                  # each way in turn, five times over
    rows = [[name, str(one.time), one.time.times(timed["ours"].time)] for name, one in timed.items()]
    show("encoding", ["way", "seconds", "x ours"], rows)

Every time stands twice, by the clock / in CPU time of all threads: on a machine that does other work too, only the second can
be compared. Ways take turns, so that a machine that slows down slows all of them, and the median of the turns counts.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

from fledge.console import say
from fledge.settings import cores

Result = TypeVar("Result")


@dataclass(frozen=True)
class Time:
    """Seconds by the clock, and of processor time: of all threads, and of the child processes that have ended."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} / {self.cpu:.2f}"

    def rate(self, amount: float) -> str:
        """`amount` a second: rate(6e6) of Time(2, 3) is '3,000,000.0 / 2,000,000.0'."""
        return f"{amount / max(self.wall, 1e-9):,.1f} / {amount / max(self.cpu, 1e-9):,.1f}"

    def times(self, base: Time) -> str:
        """How many times as long as another."""
        return f"{self.wall / max(base.wall, 1e-9):.1f} / {self.cpu / max(base.cpu, 1e-9):.1f}"


@dataclass(frozen=True)
class Timed(Generic[Result]):
    """What a way returned, and how long it took."""

    result: Result
    time: Time


def timed(work: Callable[[], Result]) -> Timed[Result]:
    """Do the work once."""
    wall, cpu = time.perf_counter(), _processor_seconds()
    result = work()
    return Timed(result, Time(time.perf_counter() - wall, _processor_seconds() - cpu))


def compare(ways: Mapping[str, Callable[[], Result]], *, repeats: int = 1) -> dict[str, Timed[Result]]:
    """Every way in turn, `repeats` times over: its last result and its median time."""
    done = in_turns({name: lambda work=work: timed(work) for name, work in ways.items()}, repeats=repeats)
    return {name: Timed(turns[-1].result, median(turn.time for turn in turns)) for name, turns in done.items()}


def in_turns(ways: Mapping[str, Callable[[], Result]], *, repeats: int) -> dict[str, list[Result]]:
    """The results of every way: a, b, c, a, b, c, ... and never a, a, b, b, c, c."""
    results: dict[str, list[Result]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            results[name].append(work())
    return results


def median(times: Iterable[Time]) -> Time:
    """Of the clock and of the processor time, each by itself."""
    times = list(times)
    return Time(statistics.median(one.wall for one in times), statistics.median(one.cpu for one in times))


def apart(work: Callable[..., Result], *arguments: Any, environment: Mapping[str, str] | None = None) -> Result:
    """`work(*arguments)` in a fresh interpreter with these variables: nothing cached, memory and threads its own."""
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(work, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One table in Markdown, as docs/why.md has them, first column to the left; below it the machine."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    say(f"\n{title}\n")
    for first, *others in (columns, rule, *rows):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        say(f"| {' | '.join(cells)} |")
    say(f"\n{machine()}")


def machine() -> str:
    """The processor, how many cores this process may use, and how busy they are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{names[0] if names else platform.machine()}, {cores()} cores{load}; times by the clock / of the processor"


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
