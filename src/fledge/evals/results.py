"""Scores, and where they are kept: `eval/<stage>.json` of a run.

    results = Results(run / "eval" / "sft.json", weights=weights_hash(run / "sft"), settings={"split": "test", "limit": None})
    if not results.holds("gsm8k", asked): results.add("gsm8k", score, examples=asked)      # asked: hash of the task's examples
    results.scores["gsm8k"].accuracy

Nothing here imports torch: the report reads the same scores.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fledge.console import notice
from fledge.provenance import provenance
from fledge.ranks import is_first
from fledge.sandbox.sandbox import isolation
from fledge.storage import read_record, sealed, write_atomic
from fledge.tasks.base import centered
from fledge.tasks.core import CHANCE_V2, LISTED

SUGGESTED = 6
"""Conversations that are proposed at most."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """How a conversation went that a chat may propose."""

    skill: str
    asked: Sequence[str]
    """What the user says, turn by turn; the last answer is graded."""
    likeliest: bool
    """Whether the likeliest answer is right."""
    right: int
    """Right ones among the drawn answers."""
    drawn: int

    @property
    def holds(self) -> bool:
        """Whether it may be proposed: the likeliest answer is right, and 19 of 20 that are drawn as in a chat."""
        return self.likeliest and 0 < 19 * self.drawn <= 20 * self.right


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model reached on a task: the form in which it is kept and shown."""

    accuracy: float
    """Mean grade over examples; with several samples of an example, the mean of its samples counts."""
    standard_error: float
    """Of the accuracy, over examples: their standard deviation / sqrt(examples)."""
    examples: int
    chance: float
    seconds: float
    truncated_share: float = 0.0
    """Share of free answers cut off at the task's longest answer."""
    lenient: float | None = None
    """Mean of the task's second grade, which takes answers whose form was never taught; None where it has none."""
    not_judged: int = 0
    """Answers that count neither as right nor as wrong: the machine failed, or what was returned could not be compared."""
    pass_at: Mapping[str, float] = field(default_factory=dict)
    """"k" -> unbiased pass@k, for k = 1, 2, 4 ... up to the number of samples."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How the task was asked: split, limit, samples, temperature, seed."""
    asked: str = ""
    """Hash of the examples of the split."""
    suggestions: Sequence[Suggestion] = ()
    """Of a task that measures what a chat may propose to ask: one for each example."""

    @property
    def centered(self) -> float:
        """0 for guessing, 1 for perfect."""
        return centered(self.accuracy, self.chance)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the answers of own conversations cost a model. No accuracy: lower is better, and no grade or rank counts it."""

    bits_per_byte: float
    """Bits (-log2 p) of all answers together, per byte of UTF-8 in them; lower is better."""
    standard_error: float
    """Of that ratio, over conversations."""
    conversations: int
    """Those scored."""
    usable: int
    """Those of the file that the model can see."""
    learned: bool
    """Whether the model was trained on those scored."""

    @classmethod
    def of(cls, measured: Sequence[tuple[float, int]], **about: Any) -> Cost:
        """From the bits and bytes of each conversation."""
        bits, counts = map(sum, zip(*measured, strict=True))
        ratio, many = bits / counts, len(measured)
        off = sum((each - ratio * count) ** 2 for each, count in measured)
        error = math.sqrt(off * many / max(1, many - 1)) / counts
        return cls(bits_per_byte=ratio, standard_error=error, conversations=many, **about)

    @property
    def scored(self) -> str:
        """Which part was scored, in words."""
        return f"{self.conversations:,} of {self.usable:,}, {'learned' if self.learned else 'never learned'}"


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is 0, since nothing can be said."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def mean_score(scores: Sequence[Score]) -> Score:
    """Scores of different tasks as one, each 0 for guessing and 1 for perfect; their errors are taken as independent."""
    errors = [score.standard_error / (1 - score.chance) for score in scores]
    return Score(
        accuracy=statistics.fmean(score.centered for score in scores),
        standard_error=math.hypot(*errors) / len(scores),
        examples=sum(score.examples for score in scores),
        chance=0.0,
        seconds=0.0,  # those of the tasks count already
        settings=scores[0].settings,
    )


def core_scores(scores: Mapping[str, Score]) -> dict[str, Score]:
    """`core`, comparable with published scores, and `core_v2`; empty unless all 22 tasks were asked alike."""
    parts = {listed.label: scores.get(f"core/{listed.label}") for listed in LISTED}
    found = {label: score for label, score in parts.items() if score is not None}
    if len(found) < len(LISTED) or len({json.dumps(dict(score.settings)) for score in found.values()}) > 1:
        return {}
    second = [replace(score, chance=CHANCE_V2.get(label, score.chance)) for label, score in found.items()]
    return {"core": mean_score(list(found.values())), "core_v2": mean_score(second)}


def read_scores(path: Path, *, weights: str | None = None) -> dict[str, Score]:
    """The scores of a file, by task; raises as `read_results`."""
    return read_results(path, weights=weights)[0]


def read_results(path: Path, *, weights: str | None = None) -> tuple[dict[str, Score], dict[str, Cost]]:
    """Scores by task and costs by conversations; none where there is no file, or where it is of other weights than asked for.

    Raises:
        ValueError: the file is not as it was written.
    """
    if not path.exists():
        return {}, {}
    advice = "Move it away, and `fledge evaluate` makes it anew."
    record = read_record(path, advice=advice)
    try:
        found = {}
        for task, score in record["scores"].items():
            held = [Suggestion(**each) for each in score.get("suggestions", ())]
            one = found[task] = Score(**score | {"suggestions": held})
            numbers = (one.accuracy, one.standard_error, one.chance, one.seconds, one.examples)
            if not all(map(math.isfinite, numbers)) or one.chance >= 1 or not isinstance(one.settings, dict):
                raise TypeError("a number, a chance or settings are none")
        costs = {name: Cost(**each) for name, each in record.get("answers", {}).items()}
        if not all(math.isfinite(each.bits_per_byte + each.standard_error) for each in costs.values()):
            raise TypeError("bits per byte are none")
        same = weights in (None, record["weights"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: holds scores in another form ({error!r}). {advice}") from None
    return (found, costs) if same else ({}, {})


def proposed(path: Path, *, weights: str) -> list[Sequence[str]]:
    """What a chat proposes to ask a model, in every place the same: of what it was measured on, what holds (`Suggestion.holds`).

    One of each skill comes before a second one, and SUGGESTED are enough; none where nothing was measured with these weights.
    A conversation is what the user says in it, turn by turn.

    Args:
        path: the scores of its stage, `eval/<stage>.json`; a damaged file is named, and nothing proposed.
    """
    try:
        scores = read_scores(path, weights=weights)
    except ValueError as error:
        notice(str(error))
        return []
    right = [each for score in scores.values() for each in score.suggestions if each.holds]
    first = {each.skill: each for each in reversed(right)}
    right.sort(key=lambda each: each is not first[each.skill])
    return [each.asked for each in right[:SUGGESTED]]


class Results:
    """Scores of one stage on the disk: written after every task, so that an interrupted evaluation goes on.

    A score belongs to the weights, the examples and the settings it was asked with. With other weights all are gone; with other
    examples or settings a task asked again gets a new score, and those of other tasks stay.
    """

    def __init__(self, path: Path, *, weights: str, settings: Mapping[str, Any]) -> None:
        self.path, self.weights, self.settings = path, weights, settings
        self.scores, self.costs = read_results(path, weights=weights)

    def holds(self, task: str, examples: str | None) -> bool:
        """Whether the task was asked with these settings and these examples; None: whichever they were."""
        score = self.scores.get(task)
        return score is not None and score.settings == self.settings and examples in (None, score.asked)

    def add(self, task: str, score: Score, *, examples: str) -> None:
        """Keep a score."""
        self.scores[task] = replace(score, seconds=round(score.seconds, 3), settings=self.settings, asked=examples)
        parts = {task: score for task, score in self.scores.items() if task not in ("core", "core_v2")}
        self.scores = core_scores(parts) | parts  # never an aggregate of parts that have changed
        self._write()

    def add_cost(self, name: str, cost: Cost) -> None:
        """Keep what the answers of conversations cost."""
        self.costs[name] = cost
        self._write()

    def _write(self) -> None:
        """Of several ranks the first does."""
        record = {
            "weights": self.weights,
            "scores": {task: asdict(score) for task, score in self.scores.items()},
            "answers": {name: asdict(cost) for name, cost in self.costs.items()},
            "isolation": isolation(),
            "provenance": provenance(),
            "finished": time.time(),
        }
        if is_first():
            write_atomic(self.path, sealed(record))


def folder_hash(folder: Path) -> str:
    """Hash of the names, sizes and times of a foreign model's files: another model in its place has another."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    listing = "\n".join(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()
