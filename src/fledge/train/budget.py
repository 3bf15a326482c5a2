"""A training that ends by the clock: what of its time is spent, how the rates stand, and whether another step fits.

    budget = Budget(seconds=300.0, clock=CLOCKS["cpu"])
    plan = TimePlan(steps=1_000_000, warmup=0.1, warmdown=0.4, clock=budget.clock, budget=budget)
    for step in train(model, optimizer, batches, plan):
        budget.book(step.seconds)
        if budget.is_over(): break

Steps alone count, with the wait for their data: no compilation, measurement or checkpoint. A resumed stage has spent what it
had when its checkpoint was written. Processor seconds are those of all threads of the process, whatever else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fledge import ranks
from fledge.train.loop import Plan

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(kw_only=True)
class Budget:
    """Seconds that steps may take together; ranks agree on all of it."""

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    spent: float = 0.0
    before: float = 0.0
    """Of it, before the last step."""
    steps: int = 0

    def book(self, seconds: float) -> None:
        """Count a step, of so many seconds on this rank."""
        self.before, self.spent, self.steps = self.spent, self.spent + agreed(seconds), self.steps + 1

    def is_over(self) -> bool:
        """Whether another step would not fit, if it took as long as the mean one or the last, whichever was longer."""
        next_one = max(self.spent / max(1, self.steps), self.spent - self.before)
        return self.steps > 0 and self.spent + next_one > self.seconds

    def share(self, seconds: float = 0.0) -> float:
        """What is spent of it, with so many seconds of the step in progress, from 0 to 1."""
        return min(1.0, (self.spent + agreed(seconds)) / self.seconds)

    def passed(self, parts: int) -> bool:
        """Whether the last step led past one of so many equal parts of it."""
        return int(parts * self.spent / self.seconds) > int(parts * self.before / self.seconds)

    def state(self) -> dict[str, float]:
        """What a checkpoint carries, to be set as attributes again."""
        return {"spent": self.spent, "before": self.before, "steps": self.steps}


@dataclass(frozen=True, kw_only=True)
class TimePlan(Plan):
    """A plan whose rates move by the share of a budget; who walks the steps ends them when it is over."""

    budget: Budget

    def rate_share(self, step: int, seconds: float = 0.0) -> float:
        """As of a plan of steps, with time in their place; `seconds` of this step, so that the first moves the weights too."""
        share = self.budget.share(seconds)
        up = min(1.0, share / self.warmup) if self.warmup else 1.0
        down = min(1.0, (1 - share) / self.warmdown) if self.warmdown else 1.0
        return up * (self.final_share + (1 - self.final_share) * down)


def agreed(seconds: float) -> float:
    """The mean over the ranks."""
    return ranks.sum_of([seconds])[0] / ranks.count()
