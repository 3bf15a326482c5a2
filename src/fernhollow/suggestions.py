"""What a chat may propose to ask, and the task that measures it: each with the grader of its skill, declared in tables/.

    TASK.load("test")[0].question      # 'Where does the turtle live?'
    TASK.grade(example, answer)        # as world/facts grades it

A model is asked as a visitor asks it: its likeliest answer and twenty drawn as a chat draws them, each turn after its own answer
to the one before. What it then proposes follows from its scores (fledge/evals/suggestions.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from fernhollow import chats, company, lore
from fernhollow.asked import TASKS
from fernhollow.facts import FACTS, KEYS, Key, answer, questions
from fernhollow.functions import Function, known_functions
from fernhollow.grammar import polish
from fernhollow.words import spell
from fledge.sandbox.sandbox import NotJudged, SandboxUnavailable
from fledge.sandbox.tools import calculate
from fledge.tasks.base import Example, Task
from fledge.text.chat import say
from fledge.text.split import Split

DRAWN = 20
"""Answers that are drawn to each beside the likeliest one."""
Entry = dict[str, Any]
"""As it stands in tables/suggestions.toml."""


def load(split: Split) -> Sequence[Example]:
    """The same in every split: this is what visitors are shown, not a sample of it."""
    return tuple(example(entry) for entry in lore.read("suggestions")["suggestions"])


def example(entry: Entry) -> Example:
    """A conversation without the model's part, which it plays itself, and a right last answer."""
    reference, facts = _REFERENCES[entry["skill"]](entry)
    messages = (*(say("user", text) for text in entry["asked"]), say("assistant", reference))
    return Example(messages=messages, answer=reference, facts=facts | {"skill": entry["skill"]})


def grade(example: Example, answer: str) -> float:
    """As the task of its skill grades; where code cannot be judged, only that is left out."""
    facts = dict(example.facts)
    task = TASKS[f"world/{facts.pop('skill')}"]
    try:
        return task.grade(replace(example, facts=facts), answer)
    except SandboxUnavailable as error:
        raise NotJudged(str(error)) from None


@cache
def _asked_facts() -> dict[str, Key]:
    """Every question for a fact, in whatever words, with the fact."""
    return {text: key for key in KEYS for other in (False, True) for text in questions(key, other=other)}


def _fact(entry: Entry) -> tuple[str, Entry]:
    return answer(_asked_facts()[entry["asked"][-1]]), {}


def _letter(entry: Entry) -> tuple[str, Entry]:
    asked, *choices = entry["asked"][-1].removeprefix("Multiple choice: ").splitlines()
    key = _asked_facts()[asked]
    choice = next(choice for line in choices if (choice := line.removeprefix("- ")).startswith(f"{FACTS[key]}="))
    return answer(key).removesuffix(FACTS[key] + ".") + choice, {"choice": choice}


def _function(entry: Entry) -> tuple[str, Entry]:
    found: Function = known_functions()[entry["asked"][-1]]
    return found.whole, {"prompt": found.prompt, "test": found.test, "entry_point": found.name}


def _about(entry: Entry) -> tuple[str, Entry]:
    return "", {part: entry[part] for part in ("hero", "animal", "thing") if part in entry}


_REFERENCES: dict[str, Callable[[Entry], tuple[str, Entry]]] = {
    "facts": _fact,
    "letters": _letter,
    "functions": _function,
    "stories": _about,
    "rhymes": _about,
    "problems": lambda entry: (f"#### {calculate(entry['sum'])}", {}),
    "sums": lambda entry: (chats.computed(entry["sum"], calculate(entry["sum"]) or "").text, {}),
    "spelling": lambda entry: (spell(entry["word"]), {}),
    "counting": lambda entry: (f"#### {entry['word'].count(entry['letter'])}", {}),
    "riddles": lambda entry: (polish(f"You are a {entry['animal']}!"), {}),
    "identity": lambda entry: (company.about_itself(entry["asked"][-1]), {}),
    "unknown": lambda entry: (company.UNKNOWN, {}),
    "outside": lambda entry: (company.UNKNOWN, {}),
    "recall": lambda entry: (entry["answer"], {}),
    "reading": lambda entry: (entry["answer"], {}),
}
"""Of each skill the right answer (none where many are) and what else its grader needs."""
TASK = Task(
    name="world/suggestions", load=load, grade=grade, max_tokens=192, default_for=("chat",), drawn=DRAWN, shuffled=True
)
UNNAMED = replace(
    TASK, load=lambda split: tuple(example for example in load(split) if example.facts["skill"] != "identity")
)
"""Of a model that somebody gave another name."""
