"""A task: examples and a grader, declared once; evaluation, training data and RL's reward all come from it.

    task = Task(name="gsm8k", load=load, grade=grade, chance=0.0, source="Cobbe et al. 2021, arXiv:2110.14168")
    for example in task.load("train"): ...
    task.grade(example, answer)            # in [0, 1]: accuracy of `fledge evaluate`, reward of `fledge rl`

Three forms of example, told apart by what they hold:
    chat          `messages` ends with the reference answer; the model answers freely and `grade` judges the text
    letter        a chat example with `choices`: the model's next-token logits over the choices' first tokens decide
    continuation  `prompt` and `choices`, no messages: the likeliest continuation of plain text decides (base models)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fledge.text.chat import Conversation, Message

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Form = Literal["chat", "letter", "continuation"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item of a task.

    `answer` is the index of the right choice where there are choices, else the reference the grader compares with.
    `facts` holds what else a grader needs (unit tests, what the story must contain).
    """

    messages: Conversation = ()
    prompt: str = ""
    choices: tuple[str, ...] = ()
    answer: int | str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> Form:
        """How a model is asked: see the module's docstring."""
        if not self.messages:
            return "continuation"
        return "letter" if self.choices else "chat"

    @property
    def question(self) -> Conversation:
        """The conversation up to the user's last message: what the model sees."""
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
        grade: (example, answer text without tool parts) -> [0, 1]. What it raises stops the run.
        chance: score of guessing, for centered means.
        source: paper or generator, for the report card.
        max_tokens: longest answer worth waiting for.
    """

    name: str
    load: Callable[[Split], Sequence[Example]]
    grade: Grade = by_index
    chance: float = 0.0
    source: str = ""
    max_tokens: int = 256


def centered(score: float, chance: float) -> float:
    """0 for guessing, 1 for perfect: (score - chance) / (1 - chance)."""
    return (score - chance) / (1.0 - chance)
