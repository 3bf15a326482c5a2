"""How fast the tools of the model are: `python -m benchmarks sandbox`.

The calculator answers the kinds of expressions of the training data; the judge decides small problems of HumanEval's kind;
programs print a number. Starting the workers is part of the times. That many programs leave nothing behind is a test.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from benchmarks.harness import compare, show
from fledge.console import say
from fledge.sandbox.sandbox import Sandbox
from fledge.sandbox.tools import calculate

WORK = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Calculator and judge: how fast they are."""

    workers: int | None = None
    """Programs at the same time. None: one per core."""
    calls: int = 100_000
    """Calls of the calculator."""
    checks: int = 500
    """Verdicts of the judge."""
    jobs: int = 1_000
    """Programs."""


def main(settings: Settings) -> None:
    """Measure and print a table.

    Raises:
        RuntimeError: a program that must pass did not.
    """
    works = {
        "calls of the calculator": (settings.calls, lambda: calculations(settings.calls)),
        "checks of the judge": (settings.checks, lambda: programs(settings.workers, check, settings.checks)),
        "programs": (settings.jobs, lambda: programs(settings.workers, run, settings.jobs)),
    }
    done = compare({name: way for name, (_, way) in works.items()})
    rows = [[name, f"{times:,}", done[name].time.rate(times)] for name, (times, _) in works.items()]
    show("speed of the tools", ["work", "times", "per second"], rows)
    say(f"isolation: {done['programs'].result}")


def calculations(times: int) -> None:
    for expression in islice(cycle(WORK["expressions"]), times):
        calculate(expression)


def programs(workers: int | None, work: Callable[[Sandbox, int], None], times: int) -> str:
    """Does the work so many times with all workers at once; the walls that stood."""
    with Sandbox(workers=workers) as sandbox, ThreadPoolExecutor(sandbox.workers) as pool:
        list(pool.map(lambda number: work(sandbox, number), range(times)))
        return sandbox.isolation


def check(sandbox: Sandbox, number: int) -> None:
    problem = WORK["problems"][number % len(WORK["problems"])]
    parts = (problem[part] for part in ("prompt", "completion", "test", "name"))
    verdict = sandbox.check(*parts, timeout_seconds=60)
    if not verdict.passed:
        raise RuntimeError(f"a right solution did not pass: {verdict}")


def run(sandbox: Sandbox, number: int) -> None:
    result = sandbox.run(f"print({number})", timeout_seconds=60)
    if result.stdout != f"{number}\n":
        raise RuntimeError(f"a right program did not print {number}: {result}")
