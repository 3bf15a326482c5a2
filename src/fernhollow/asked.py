"""What a model of Fernhollow is asked: one task per skill, held out by construction.

    TASKS["world/problems"].load("test")[0].question
    TASKS["world/problems"].grade(example, "... #### 12")

Validation and test ask about keys that training text never shows in this form (`fernhollow.split`), train about the others.
Examples stand in a shuffled order that never changes, so that the first N are a fair sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Any

from fernhollow import chats, letters, problems
from fernhollow.facts import ASKED, FACTS, Key, answer, ask, questions
from fernhollow.functions import function
from fernhollow.problems import Grade, problem
from fernhollow.stories import flaw, request, story
from fledge.sandbox.sandbox import passes
from fledge.tasks.base import Example, Task, by_index
from fledge.tasks.base import Grade as Grader
from fledge.text.chat import Conversation, say
from fledge.text.split import Split

EXAMPLES: dict[Split, int] = {"train": 2_000, "validation": 320, "test": 320}
"""Examples of a split where the world could make any number."""

Draw = Callable[[Random, Split], Example]


def facts(split: Split) -> Sequence[Example]:
    """Every question for every fact of the side."""
    asked = [(key, question) for key in ASKED[split] for question in questions(key)]
    Random(f"world/facts {split}").shuffle(asked)
    return [_exchange(question, answer(key)) for key, question in asked]


def choice(rng: Random, split: Split) -> Example:
    """A question and four answers as continuations of plain text."""
    key = letters.choice_keys(split)[int(rng.random() * len(letters.choice_keys(split)))]
    values = letters.choices_for(rng, key, count=4)
    sentences = tuple(" " + answer(key).removesuffix(FACTS[key] + ".") + value + "." for value in values)
    return Example(prompt=f"Question: {ask(rng, key)} Answer:", choices=sentences, answer=values.index(FACTS[key]))


def letter(rng: Random, split: Split) -> Example:
    """Multiple choice in a chat: the answer says the right choice, then its letter."""
    keys: Sequence[Key] = letters.choice_keys(split)
    key = keys[int(rng.random() * len(keys))]
    asked = letters.multiple_choice(rng, key, letters.choices_for(rng, key, count=4))
    return _exchange(letters.prompt(asked), asked.answer, choice=f"{FACTS[key]}={letters.LETTERS[asked.right]}")


def recall(rng: Random, split: Split) -> Example:
    """Small talk that ends in a question about what the user has said."""
    talk = chats.small_talk(rng, split)
    ends = [i for i, message in enumerate(talk) if message.role == "assistant" and message.text.startswith("You")]
    last = ends[int(rng.random() * len(ends))]
    return Example(messages=talk[: last + 1], answer=talk[last].text)


def tale(rng: Random, split: Split) -> Example:
    """A story on request."""
    told = story(rng, split)
    wish = {"hero": told.hero, "animal": told.animal, "thing": told.thing}
    return _exchange(request(rng, told), told.text, **wish)


def program(rng: Random, split: Split) -> Example:
    """A function to complete, with its tests."""
    found = function(rng, split)
    asked = f"Complete this function:\n{found.prompt.rstrip()}"
    facts_of = {"prompt": found.prompt, "test": found.test, "entry_point": found.name}
    return _exchange(asked, (found.prompt + found.body).rstrip(), **facts_of)


def number_after_hashes(text: str) -> str | None:
    """The number behind the last `####`, as GSM8K marks it: "... #### 12" -> "12"."""
    found = re.findall(r"####\s*(-?\d+)(?!\d)", text)
    return found[-1] if found else None


def same_number(example: Example, answer: str) -> float:
    """Whether the marked number is the reference's."""
    return float(number_after_hashes(answer) == number_after_hashes(str(example.answer)))


def same_text(example: Example, answer: str) -> float:
    """Whether the answer is the reference, word for word."""
    return float(answer.strip() == str(example.answer).strip())


def same_choice(example: Example, answer: str) -> float:
    """Whether the answer ends in the right choice followed by its letter."""
    return float(answer.strip().endswith(" " + example.facts["choice"]))


def same_letters(example: Example, answer: str) -> float:
    """Whether the one word that is spelled out is spelled right."""
    spelled = re.compile(r"\b[a-z](?:-[a-z])+\b")
    return float(spelled.findall(answer) == spelled.findall(str(example.answer)))


def true_story(example: Example, answer: str) -> float:
    """Whether the story keeps to a plot, to the facts of the village and to the request."""
    return float(
        flaw(answer, hero=example.facts["hero"], animal=example.facts["animal"], thing=example.facts["thing"]) is None
    )


def passes_tests(example: Example, answer: str) -> float:
    """Whether the function passes its tests in the judge."""
    wanted = example.facts
    return passes(wanted["prompt"], answer, wanted["test"], wanted["entry_point"])


def _exchange(question: str, reference: str, **facts: Any) -> Example:
    return Example(messages=(say("user", question), say("assistant", reference)), answer=reference, facts=facts)


def _of(make: Callable[[Random, Split], Conversation]) -> Draw:
    """The examples of a kind of conversation: its first exchange."""

    def draw(rng: Random, split: Split) -> Example:
        talk = make(rng, split)
        return Example(messages=talk[:2], answer=talk[1].text)

    return draw


def _problems(grade: Grade) -> Draw:
    return lambda rng, split: _problem_example(rng, grade, split)


def _problem_example(rng: Random, grade: Grade, split: Split) -> Example:
    found = problem(rng, grade, split)
    return Example(messages=chats.solved(found), answer=f"#### {found.number}")


def hard_problem(rng: Random, split: Split) -> Example:
    """A problem of three steps; for practice a shorter one as often."""
    return _problem_example(rng, problems.RISING if split == "train" else problems.HARD, split)


def _drawn(name: str, draw: Draw, *, has_train: bool = True) -> Callable[[Split], Sequence[Example]]:
    """A loader that draws different examples, always the same ones, once: every stage is measured on them."""

    @lru_cache
    def load(split: Split) -> Sequence[Example]:
        if split == "train" and not has_train:
            raise ValueError(
                f"{name}: split 'train' does not exist, it is held out as a whole; allowed: validation, test"
            )
        return tuple(islice(_different(draw, Random(f"{name} {split}"), split), EXAMPLES[split]))

    return load


def _different(draw: Draw, rng: Random, split: Split) -> Iterator[Example]:
    """Examples without repetition; ends when a hundred draws brought nothing new."""
    seen: set[tuple[object, ...]] = set()
    failures = 0
    while failures < 100:
        example = draw(rng, split)
        key = (example.question, example.prompt, example.choices)
        failures = failures + 1 if key in seen else 0
        if key not in seen:
            seen.add(key)
            yield example


def _task(name: str, load: Callable[[Split], Sequence[Example]], grade: Grader, max_tokens: int, **more: Any) -> Task:
    return Task(name=name, load=load, grade=grade, max_tokens=max_tokens, **{"default_for": ("chat",), **more})


def _drawn_task(name: str, draw: Draw, grade: Grader, max_tokens: int, *, has_train: bool = True, **more: Any) -> Task:
    return _task(name, _drawn(name, draw, has_train=has_train), grade, max_tokens, **more)


_LISTED = (
    _drawn_task("world/choice", choice, by_index, 256, chance=0.25, default_for=("base", "chat")),
    _task("world/facts", facts, same_text, 48),
    _drawn_task("world/letters", letter, same_choice, 48, chance=0.25),
    _drawn_task("world/problems", _problems(Grade(problems.SEEN)), same_number, 192),
    _drawn_task("world/problems_new", _problems(problems.UNSEEN), same_number, 192, has_train=False),
    _drawn_task("world/problems_hard", hard_problem, same_number, 256),
    _drawn_task("world/spelling", _of(chats.spelling), same_letters, 64),
    _drawn_task(
        "world/counting", _of(chats.counting), same_number, 96, chance=0.5
    ),  # always saying 1 is right half the time
    _drawn_task("world/identity", _of(chats.identity), same_text, 64),
    _drawn_task("world/unknown", _of(chats.unknown), same_text, 48),
    _drawn_task("world/recall", recall, same_text, 48),
    _drawn_task("world/reading", _of(chats.reading), same_text, 48),
    _drawn_task("world/functions", program, passes_tests, 96, judged=True),
    _drawn_task("world/stories", tale, true_story, 192),
)
TASKS: dict[str, Task] = {task.name: task for task in _LISTED}
"""The tasks by their names, in the order of the report."""
