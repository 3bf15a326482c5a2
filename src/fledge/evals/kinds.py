"""Every kind of problem before and after: what a stage that improves one thing may have broken.

    checks = Checks(tasks, Scorer(model, tokenizer), examples=40, each=8)
    before = checks.grades()                          # and after some training:
    found = compare(checks.kinds(), before, checks.grades())      # [Change(task="world/facts", kind="", fell=True, ...), ...]
    choose({4: found_then, 8: found}, task="world/problems_hard")       # the step whose weights are to be kept; 0: those before all

A mean over a thousand problems hides the one kind in fifty that went from all right to all wrong. Kinds are small, so the same
problems are asked each time, and what counts is the difference of each one's grades.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from fledge.config import Sampling
from fledge.tasks.base import Example, Task

if TYPE_CHECKING:
    from fledge.evals.score import Scorer

CHANCE = 0.05
"""How likely a measurement finds a fall where no kind fell."""
PASS_SAMPLES = 8
"""Answers to an example from which pass@k is told."""
Grades = dict[tuple[str, int], float]
"""By task and index of the example; without those that could not be judged."""
Kinds = dict[tuple[str, str], list[int]]
"""Indices of the examples by task and kind; the kind "" is the whole task."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a kind of problem gained or lost: paired, on the same problems."""

    task: str
    kind: str
    """Empty: the whole task."""
    examples: int
    before: float
    after: float
    difference: float
    standard_error: float
    fell: bool
    """By more than the standard error allows, given how many kinds were looked at."""

    @property
    def name(self) -> str:
        """world/facts, or of a kind of it world/facts: kind."""
        return f"{self.task}: {self.kind}" if self.kind else self.task

    def __str__(self) -> str:
        return f"{self.name} {self.before:.2f} -> {self.after:.2f} ({self.difference:+.2f} ± {self.standard_error:.2f})"


class Checks:
    """A fair choice of the validation examples of tasks, of every kind some, and a model's grades on them.

    Args:
        examples: of each task at least so many, if it has them.
        each: of each kind at least so many, if there are.
    """

    def __init__(self, tasks: Sequence[Task], scorer: Scorer, *, examples: int, each: int) -> None:
        self.scorer = scorer
        self.chosen = [(task, choose_examples(task.load("validation"), examples, each=each)) for task in tasks]

    def grades(self) -> Grades:
        """The grades of the model as it is now, greedy."""
        found: Grades = {}
        for task, examples in self.chosen:
            greedy = Sampling(temperature=0.0, top_k=0, max_tokens=task.max_tokens, seed=0)
            records = self.scorer.ask(task, examples, [greedy])
            found |= {
                (task.name, index): one["correct"] for index, one in records.items() if one["correct"] is not None
            }
        return found

    def pass_at(self, way: Sampling, *, examples: int) -> dict[str, float]:
        """pass@1, 2, 4 and 8 of the first task, by k: of so many of its examples, answered in that way."""
        from fledge.evals.score import judged, pass_at

        task, chosen = self.chosen[0]
        records = self.scorer.ask(task, dict(islice(chosen.items(), examples)), [way] * PASS_SAMPLES)
        return pass_at([judged(one["correct"]) for one in records.values()], PASS_SAMPLES)

    def kinds(self) -> Kinds:
        """Which examples are of which kind."""
        found: Kinds = {}
        for task, examples in self.chosen:
            for index, example in examples.items():
                for kind in ("", *example.kinds):
                    found.setdefault((task.name, kind), []).append(index)
        return found


def choose_examples(examples: Sequence[Example], count: int, *, each: int) -> dict[int, Example]:
    """Index -> example: in their order, which is a shuffled one, as long as the task or a kind of the example wants more."""
    found, counts = {}, {}
    for index, example in enumerate(examples):
        if len(found) < count or any(counts.get(kind, 0) < each for kind in example.kinds):
            found[index] = example
            counts |= {kind: counts.get(kind, 0) + 1 for kind in example.kinds}
    return found


def compare(kinds: Kinds, before: Grades, after: Grades) -> list[Change]:
    """A change for each kind of which something was judged both times."""
    both = {
        (task, kind): [(task, index) for index in indices if (task, index) in before and (task, index) in after]
        for (task, kind), indices in kinds.items()
    }
    allowed = errors_allowed(len(both))
    return [
        change(task, kind, [before[key] for key in keys], [after[key] for key in keys], allowed=allowed)
        for (task, kind), keys in both.items()
        if keys
    ]


def change(task: str, kind: str, before: Sequence[float], after: Sequence[float], *, allowed: float) -> Change:
    """The change of one kind, from the grades of the same problems."""
    difference, error = paired(before, after)
    return Change(
        task=task,
        kind=kind,
        examples=len(before),
        before=statistics.fmean(before),
        after=statistics.fmean(after),
        difference=difference,
        standard_error=error,
        fell=difference < -allowed * error,
    )


def paired(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean difference of paired grades, and its standard error.

    The error counts two more pairs, one that gained and one that lost half of it: eight of eight lost would else have an error of
    0, and three of eight would be beyond chance, though three coins fall alike once in eight.

    Source: Agresti and Min 2005, doi 10.1002/sim.1781, who add 1/2 to each cell of the 2 x 2 table of pairs.
    """
    differences = [two - one for one, two in zip(before, after, strict=True)]
    total, count = math.fsum(differences), len(differences) + 2
    squares = math.fsum(difference**2 for difference in differences) + 1
    return total / len(differences), math.sqrt(squares - total**2 / count) / count


def errors_allowed(kinds: int) -> float:
    """How many standard errors a kind may fall: so many that by chance alone one of them all does so once in 20 measurements.

    errors_allowed(1) is 1.6, errors_allowed(200) is 3.5: of 200 kinds, five would fall by 2 with nothing wrong (Bonferroni).
    """
    return statistics.NormalDist().inv_cdf(1 - CHANCE / max(1, kinds))


def choose(measured: Mapping[int, Sequence[Change]], *, task: str) -> int:
    """The step after which `task` was best of those at which no kind had fallen, of equals the first; 0 where none was better."""
    gains = {
        step: next((change.difference for change in found if (change.task, change.kind) == (task, "")), 0.0)
        for step, found in measured.items()
        if not any(change.fell for change in found)
    }
    best = max(sorted(gains), key=lambda step: gains[step], default=0)
    return best if gains.get(best, 0) > 0 else 0
