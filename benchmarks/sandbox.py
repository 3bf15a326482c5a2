"""How fast the tools of the model are, and whether they leave anything behind: `fledge bench sandbox`.

The calculator answers the kinds of expressions of the training data; the judge decides small problems of HumanEval's kind;
then many programs run one after the other while files, processes and memory are watched (the last two on Linux alone).
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fledge.console import table
from fledge.sandbox.sandbox import Sandbox
from fledge.sandbox.tools import calculate

EXPRESSIONS = (
    "12*3",
    "60/5",
    "16-3-4",
    ".5*12",
    "1,000*2",
    "'banana'.count('a')",
    'len("shell")',
    "48/2",
    "2.5*4",
    "48+24",
)
PROBLEMS = (  # prompt, completion, test, name
    (
        'def mean(xs):\n    """The mean of a list."""\n',
        "    return sum(xs) / len(xs)\n",
        "def check(candidate):\n    for n in range(1, 9):\n        assert candidate(list(range(n))) == (n - 1) / 2\n",
        "mean",
    ),
    (
        'def words(text):\n    """Words by length, then by letters."""\n',
        "    return sorted(text.split(), key=lambda w: (len(w), w))\n",
        "def check(candidate):\n    assert candidate('bb a cc') == ['a', 'bb', 'cc']\n    assert candidate('') == []\n",
        "words",
    ),
    (
        'def primes(n):\n    """Primes below n."""\n',
        "    return [p for p in range(2, n) if all(p % q for q in range(2, p))]\n",
        "def check(candidate):\n    assert candidate(30) == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]\n    assert candidate(2) == []\n",
        "primes",
    ),
)


@dataclass(frozen=True, kw_only=True)
class SandboxBench:
    """Measure the calculator and the sandbox."""

    workers: int | None = None
    """Programs at the same time. None: one per core."""
    calls: int = 100_000
    """Calls of the calculator."""
    checks: int = 500
    """Verdicts of the judge."""
    jobs: int = 10_000
    """Programs whose traces are watched. 0: none."""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What this process and its workers hold."""

    open_files: int
    processes: int
    caller_bytes: int
    worker_bytes: int
    """Resident memory of all workers together, shared pages counted in each."""
    cpu_seconds: float
    """Of this process, its workers and the programs that have ended."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured."""

    calls_per_second: float
    checks_per_second: float
    programs_per_second: float
    isolation: str
    workers: int
    cpu_seconds_per_check: float
    """Independent of what else the machine does. 0: unknown."""
    before: Traces | None
    after: Traces | None


def main(config: SandboxBench) -> None:
    """Measure and print."""
    figures = measure(config)
    rows = [
        ("calculator calls per second", f"{figures.calls_per_second:,.0f}"),
        (f"checks per second, {figures.workers} workers", f"{figures.checks_per_second:,.1f}"),
        (f"programs per second, {figures.workers} workers", f"{figures.programs_per_second:,.1f}"),
        ("isolation", figures.isolation),
    ]
    if figures.before and figures.after:
        rows.append(("processor time of one check", f"{figures.cpu_seconds_per_check * 1e3:.1f} ms"))
        rows.append(("memory of one worker", f"{figures.before.worker_bytes / figures.workers / 1e6:.1f} MB"))
        for name, word in (("open files", "open_files"), ("processes", "processes")):
            rows.append((name, f"{getattr(figures.before, word)} -> {getattr(figures.after, word)}"))
        for name, word in (("memory here", "caller_bytes"), ("memory of all workers", "worker_bytes")):
            before, after = getattr(figures.before, word), getattr(figures.after, word)
            rows.append((name, f"{before / 1e6:.1f} -> {after / 1e6:.1f} MB"))
    table(f"sandbox, before -> after {config.jobs:,} programs", ("what", "figure"), rows)


def measure(config: SandboxBench) -> Figures:
    """The figures.

    Raises:
        RuntimeError: a program that must pass did not.
    """
    started = time.perf_counter()
    for expression in itertools.islice(itertools.cycle(EXPRESSIONS), config.calls):
        calculate(expression)
    calls_per_second = config.calls / (time.perf_counter() - started)
    with Sandbox(workers=config.workers) as sandbox, ThreadPoolExecutor(sandbox.workers) as pool:
        list(pool.map(lambda _: sandbox.run("import time; time.sleep(0.2)"), range(sandbox.workers)))  # start them all

        def check(n: int) -> None:
            verdict = sandbox.check(*PROBLEMS[n % len(PROBLEMS)], timeout_seconds=60)
            if not verdict.passed:
                raise RuntimeError(f"a right solution did not pass: {verdict}")

        def run(n: int) -> None:
            result = sandbox.run(f"print({n})", timeout_seconds=60)
            if result.stdout != f"{n}\n":
                raise RuntimeError(f"a right program did not print {n}: {result}")

        def repeat(work: Callable[[int], None], times: int) -> None:
            """One thread per worker; a future per job would be the very growth of memory that is looked for."""

            def share(first: int) -> None:
                for n in range(first, times, sandbox.workers):
                    work(n)

            list(pool.map(share, range(sandbox.workers)))

        at_first = _traces()
        started = time.perf_counter()
        repeat(check, config.checks)
        checks_per_second = config.checks / (time.perf_counter() - started)
        before = _traces()
        cpu_seconds = before.cpu_seconds - at_first.cpu_seconds if before and at_first else 0.0
        started = time.perf_counter()
        repeat(run, config.jobs)
        programs_per_second = config.jobs / (time.perf_counter() - started)
        return Figures(
            calls_per_second=calls_per_second,
            checks_per_second=checks_per_second,
            programs_per_second=programs_per_second,
            isolation=sandbox.isolation,
            workers=sandbox.workers,
            cpu_seconds_per_check=cpu_seconds / config.checks,
            before=before,
            after=_traces(),
        )


def _traces() -> Traces | None:
    """From /proc; None where there is none."""
    if not Path("/proc/self/statm").exists():
        return None
    stats = {int(stat.parent.name): _stat(stat) for stat in Path("/proc").glob("[0-9]*/stat")}
    parents = {pid: int(fields[1]) for pid, fields in stats.items() if fields}
    workers = [pid for pid, parent in parents.items() if parent == os.getpid()]
    programs = [pid for pid, parent in parents.items() if parent in workers]
    ticks = sum(int(ticks) for pid in [os.getpid(), *workers] for ticks in stats[pid][11:15])
    return Traces(
        open_files=len(os.listdir("/proc/self/fd")),
        processes=len(workers) + len(programs),
        caller_bytes=_resident(os.getpid()),
        worker_bytes=sum(map(_resident, workers)),
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
    )


def _stat(path: Path) -> list[str]:
    """The fields after the name: 1 is the parent, 11 to 14 are times; none where the process ended meanwhile."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
