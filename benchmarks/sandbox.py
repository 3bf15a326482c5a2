"""How fast the tools of the model are, and whether they leave anything behind: `python -m benchmarks sandbox`.

The calculator answers the kinds of expressions of the training data; the judge decides small problems of HumanEval's kind;
then many programs run one after the other while files, processes and memory are watched (on Linux alone). Starting the
workers is part of the times.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from benchmarks.harness import show, timed
from fledge.console import say
from fledge.sandbox.sandbox import Sandbox
from fledge.sandbox.tools import calculate

Traces = dict[str, float]
WORK = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Calculator and judge: speed, and what many programs leave behind."""

    workers: int | None = None
    """Programs at the same time. None: one per core."""
    calls: int = 100_000
    """Calls of the calculator."""
    checks: int = 500
    """Verdicts of the judge."""
    jobs: int = 10_000
    """Programs whose traces are watched. 0: none."""


def main(settings: Settings) -> None:
    """Measure and print two tables.

    Raises:
        RuntimeError: a program that must pass did not.
    """
    work = {
        "calls of the calculator": (settings.calls, lambda: calculations(settings.calls)),
        "checks of the judge": (settings.checks, lambda: programs(settings.workers, check, settings.checks)),
        "programs": (settings.jobs, lambda: programs(settings.workers, run, settings.jobs)),
    }
    done = {name: timed(each) for name, (times, each) in work.items() if times}
    rows = [[name, f"{work[name][0]:,}", one.time.rate(work[name][0])] for name, one in done.items()]
    show("speed of the tools", ["work", "times", "per second"], rows)
    if "programs" in done:
        isolation, before, after = done["programs"].result
        say(f"isolation: {isolation}")
        rows = [[name, f"{before[name]:.4g}", f"{after[name]:.4g}"] for name in before]
        show(f"{settings.jobs:,} programs", ["traces", "before", "after"], rows)


def calculations(times: int) -> None:
    for expression in islice(cycle(WORK["expressions"]), times):
        calculate(expression)


def programs(workers: int | None, work: Callable[[Sandbox, int], None], times: int) -> tuple[str, Traces, Traces]:
    """Does the work so many times with all workers at once; the isolation, and what was held before and after."""
    with Sandbox(workers=workers) as sandbox, ThreadPoolExecutor(sandbox.workers) as pool:
        list(pool.map(lambda _: sandbox.run("import time; time.sleep(0.2)"), range(sandbox.workers)))  # start them all

        def share(first: int) -> None:
            """One thread per worker; a future per job would be the very growth of memory that is looked for."""
            for n in range(first, times, sandbox.workers):
                work(sandbox, n)

        before = traces()
        list(pool.map(share, range(sandbox.workers)))
        return sandbox.isolation, before, traces()


def check(sandbox: Sandbox, n: int) -> None:
    problem = WORK["problems"][n % len(WORK["problems"])]
    parts = (problem[part] for part in ("prompt", "completion", "test", "name"))
    verdict = sandbox.check(*parts, timeout_seconds=60)
    if not verdict.passed:
        raise RuntimeError(f"a right solution did not pass: {verdict}")


def run(sandbox: Sandbox, n: int) -> None:
    result = sandbox.run(f"print({n})", timeout_seconds=60)
    if result.stdout != f"{n}\n":
        raise RuntimeError(f"a right program did not print {n}: {result}")


def traces() -> Traces:
    """What this process and its workers hold, from /proc; nothing where there is none. Shared pages count in each worker."""
    if not Path("/proc/self/statm").exists():
        return {}
    workers = list(children(os.getpid()))
    return {
        "open files": len(os.listdir("/proc/self/fd")),
        "workers and running programs": len(workers) + sum(1 for worker in workers for _ in children(worker)),
        "memory here, MB": resident_megabytes(os.getpid()),
        "memory of all workers, MB": sum(map(resident_megabytes, workers)),
    }


def children(pid: int) -> Iterator[int]:
    """Of all threads of a process."""
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, listed.read_text().split())


def resident_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
