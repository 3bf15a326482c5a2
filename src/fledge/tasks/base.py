"""A task: examples and a grader, declared once; evaluation, training data and RL's reward all come from it.

    TASK = Task(name="gsm8k", load=load, grade=grade, max_tokens=400, default_for=("chat",))
    for example in TASK.load("train"): ...
    TASK.grade(example, answer)            # in [0, 1]: accuracy of `fledge evaluate`, reward of `fledge rl`

To add one, write a module with such a `TASK` and name it in tasks/__init__.py. The forms of an example, told apart by what
they hold:

    chat          `messages` ends with the reference answer; the model answers freely and `grade` judges the text
    letter        a chat example with `choices`: the model's next-token logits over the choices' first tokens decide
    continuation  `prompt` and `choices`, no messages: the likeliest continuation of plain text decides (base models)
    beginning     `beginnings` and one choice: the beginning after which that choice is the likeliest decides
    exact         `prompt` and one choice: right when each of its tokens is the likeliest
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fledge.sandbox.sandbox import NotJudged
from fledge.text.chat import Conversation, Message
from fledge.text.split import Split

Form = Literal["chat", "letter", "continuation", "beginning", "exact"]
SHUFFLE_SEED, SHOT_SEED = 1337, 1234
"""Of the order in which a limit takes examples, and of those shown in prompts: as in the public CORE code."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item of a task.

    `answer` is the index of the right choice (or beginning) where there are some, else the reference the grader compares with.
    `facts` holds what else a grader needs (unit tests, what the story must contain).
    """

    messages: Conversation = ()
    prompt: str = ""
    beginnings: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer: int | str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = field(default=(), repr=False)  # no part of what is asked, of which `repr` is hashed
    """Names of what it is an instance of, each of which a model can forget by itself: `fledge rl` looks after every one."""

    @property
    def form(self) -> Form:
        """How a model is asked: see the module's docstring."""
        if self.messages:
            return "letter" if self.choices else "chat"
        if self.beginnings:
            return "beginning"
        return "exact" if len(self.choices) == 1 else "continuation"

    @property
    def texts(self) -> list[str]:
        """Plain text to be ranked: one per choice, or per beginning."""
        if self.beginnings:
            return [beginning + self.choices[0] for beginning in self.beginnings]
        return [self.prompt + choice for choice in self.choices]

    @property
    def question(self) -> Conversation:
        """The conversation up to the user's last message: what the model sees.

        Where messages of the user follow each other the model answers each of them itself, and the last answer is graded.
        """
        return self.messages[:-1] if self.messages and self.messages[-1].role == "assistant" else self.messages

    @property
    def reference(self) -> Message:
        """The answer a teacher would give."""
        return self.messages[-1]


Grade = Callable[[Example, str], float]


def by_index(example: Example, answer: str) -> float:
    """Grader of examples with choices: the answer is the index of the choice taken, as text."""
    return float(answer == str(example.answer))


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data and grader under one name.

    Args:
        name: as on the command line and in metrics, e.g. `world/facts`.
        load: split -> examples, in a fixed order.
        grade: (example, answer text without tool parts) -> [0, 1]. NotJudged (sandbox/sandbox.py) leaves the answer out and counts
            it; what else it raises stops the run.
        lenient: a second grade, shown beside the first, of models that were never taught how answers are marked.
        chance: score of guessing, for centered means.
        max_tokens: longest answer worth waiting for.
        default_for: models that are asked it when nobody names tasks: base, chat or both.
        judged: the grader runs the model's code in the sandbox.
        shots: solved examples shown in the prompt of each; for plain text.
        per_token: choices are compared by their mean ln p per token; else by the sum, the likelihood of the text.
        drawn: answers drawn as a chat draws them (config.Sampling) beside the likeliest one, whatever else is asked for: how a chat
            measures what it may propose. The examples' facts name the "skill".
        beside: names of other tasks that reinforcement on this one could break.
        shuffled: examples come in a shuffled order, of which a limit takes the first; else a limit shuffles them itself.
    """

    name: str
    load: Callable[[Split], Sequence[Example]]
    grade: Grade = by_index
    lenient: Grade | None = None
    chance: float = 0.0
    max_tokens: int = 256
    default_for: tuple[Literal["base", "chat"], ...] = ()
    judged: bool = False
    shots: int = 0
    per_token: bool = False
    drawn: int = 0
    beside: tuple[str, ...] = ()
    shuffled: bool = False

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split; ValueError where it has none."""
        if not (found := self.load(split)):
            raise ValueError(
                f"task {self.name}: the {split} split is empty; choose another, or, if the questions are your own, give more: "
                "a hash puts one in five into test and one in five into validation"
            )
        return found

    def graded(self, example: Example, answer: str) -> float:
        """The grade of an answer. A grader that raises is a RuntimeError here: it must not look like a wrong answer."""
        try:
            return float(self.grade(example, answer))
        except NotJudged:
            raise
        except (Exception, SystemExit) as error:  # exit() would end the run as if all were well
            what = f"task {self.name}: the grader raised {error!r} on the answer {answer!r}"
            raise RuntimeError(f"{what} to {example}") from error


def freely(task: Task) -> Task:
    """The task with its lettered choices to be answered in words, as a reward needs it: right is the letter alone."""
    if task.grade is not by_index:
        return task

    def load(split: Split) -> Sequence[Example]:
        return [
            replace(each, choices=(), answer=each.reference.text) if each.form == "letter" else each
            for each in task.load(split)
        ]

    return replace(task, load=load, grade=lambda example, answer: float(answer.strip().rstrip(".") == example.answer))


def shots(examples: Sequence[Example], place: int, *, count: int) -> list[Example]:
    """The solved examples shown before the one at `place`: drawn from all others, or all of them where they are too few."""
    others = len(examples) - 1
    drawn = random.Random(SHOT_SEED + place).sample(range(others), min(count, others))
    return [examples[other + (other >= place)] for other in drawn]


def centered(score: float, chance: float) -> float:
    """0 for guessing, 1 for perfect: (score - chance) / (1 - chance)."""
    return (score - chance) / (1.0 - chance)
