"""The judge of code that a model wrote, one for the process: its workers stay warm between tasks.

score = passes(prompt, completion, test, entry_point)      # 1.0 or 0.0
isolation()                                                # what held the programs, for the report card
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fledge.sandbox.sandbox import Sandbox

TIMEOUT_SECONDS = 10.0
_allowed: set[str] = set()


def allow_unsafe_exec() -> None:
    """Judge even where the sandbox does not hold; every result and the report card will say so."""
    _allowed.add("unsafe_exec")


@lru_cache(maxsize=1)
def judge() -> Sandbox:
    """The sandbox, started when first needed; raises SandboxUnavailable where it does not hold."""
    from fledge.sandbox.sandbox import Sandbox

    return Sandbox(unsafe_exec="unsafe_exec" in _allowed)


def isolation() -> str | None:
    """The walls around the programs judged so far; None when none was."""
    return judge().isolation if judge.cache_info().currsize else None


def passes(prompt: str, completion: str, test: str, entry_point: str) -> float:
    """1 if the function passes its tests, else 0.

    Raises:
        RuntimeError: the program was never run; a fault of the machine must not look like a wrong answer.
    """
    verdict = judge().check(prompt, completion, test, entry_point, timeout_seconds=TIMEOUT_SECONDS)
    if verdict.status == "refused":
        raise RuntimeError(f"the judge refused to run a program: {verdict.error}")
    return float(verdict.passed)
