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

from fernhollow import chats, letters, stories
from fernhollow.facts import ASKED, FACTS, answer, ask, questions
from fernhollow.functions import function
from fernhollow.grammar import pick
from fernhollow.problems import HARD, RISING, SEEN, UNSEEN, Grade, problem
from fledge.tasks import humaneval
from fledge.tasks.base import Example, Task, by_index
from fledge.tasks.numbers import strict
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
    key = pick(rng, letters.choice_keys(split))
    values = letters.choices_for(rng, key, count=4)
    sentences = tuple(" " + answer(key).removesuffix(FACTS[key] + ".") + value + "." for value in values)
    return Example(prompt=f"Question: {ask(rng, key)} Answer:", choices=sentences, answer=values.index(FACTS[key]))


def letter(rng: Random, split: Split) -> Example:
    """Multiple choice in a chat: the answer says the right choice, then its letter."""
    key = pick(rng, letters.choice_keys(split))
    asked = letters.multiple_choice(rng, key, letters.choices_for(rng, key, count=4))
    return _exchange(letters.prompt(asked), asked.answer, choice=f"{FACTS[key]}={asked.answer[-1]}")


def recall(rng: Random, split: Split) -> Example:
    """Small talk that ends in a question about what the user has said."""
    talk = chats.small_talk(rng, split)
    ends = [i for i, message in enumerate(talk) if message.role == "assistant" and message.text.startswith("You")]
    last = pick(rng, ends)
    return Example(messages=talk[: last + 1], answer=talk[last].text)


def story(rng: Random, split: Split) -> Example:
    """A story on request."""
    told = stories.story(rng, split)
    return _exchange(stories.request(rng, told), told.text, hero=told.hero, animal=told.animal, thing=told.thing)


def program(rng: Random, split: Split) -> Example:
    """A function to complete, with its tests."""
    found = function(rng, split)
    asked = f"Complete this function:\n{found.prompt.rstrip()}"
    return _exchange(asked, found.whole, prompt=found.prompt, test=found.test, entry_point=found.name)


def _exchange(question: str, reference: str, **facts: Any) -> Example:
    return Example(messages=(say("user", question), say("assistant", reference)), answer=reference, facts=facts)


def first_exchange(make: Callable[[Random, Split], Conversation]) -> Draw:
    """The examples of a kind of conversation."""

    def draw(rng: Random, split: Split) -> Example:
        talk = make(rng, split)
        return Example(messages=talk[:2], answer=talk[1].text)

    return draw


def word_problem(grade: Grade, practice: Grade | None = None) -> Draw:
    """Problems of a grade; those to practise on may be of another."""

    def draw(rng: Random, split: Split) -> Example:
        found = problem(rng, practice if practice and split == "train" else grade, split)
        return Example(messages=chats.solved(found), answer=f"#### {found.number}")

    return draw


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
    return float(stories.flaw(answer, **example.facts) is None)


def drawn(name: str, draw: Draw, *, has_train: bool = True, **about: Any) -> Task:
    """A task whose examples are drawn: different ones, always the same, once, because every stage is measured on them."""

    @lru_cache
    def load(split: Split) -> Sequence[Example]:
        if split == "train" and not has_train:
            raise ValueError(
                f"{name}: split 'train' does not exist, it is held out as a whole; allowed: validation, test"
            )
        return tuple(islice(_different(draw, Random(f"{name} {split}"), split), EXAMPLES[split]))

    return Task(name=name, load=load, **{"default_for": ("chat",), **about})


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


_TASKS = (
    drawn("world/choice", choice, grade=by_index, chance=0.25, default_for=("base", "chat")),
    Task(name="world/facts", load=facts, grade=same_text, max_tokens=48, default_for=("chat",)),
    drawn("world/letters", letter, grade=same_choice, chance=0.25, max_tokens=48),
    drawn("world/problems", word_problem(Grade(SEEN)), grade=strict, max_tokens=192),
    drawn("world/problems_new", word_problem(UNSEEN), has_train=False, grade=strict, max_tokens=192),
    # For practice a shorter problem as often as one of three steps.
    drawn("world/problems_hard", word_problem(HARD, RISING), grade=strict),
    drawn("world/spelling", first_exchange(chats.spelling), grade=same_letters, max_tokens=64),
    # Always saying 1 is right half the time.
    drawn("world/counting", first_exchange(chats.counting), grade=strict, chance=0.5, max_tokens=96),
    drawn("world/identity", first_exchange(chats.identity), grade=same_text, max_tokens=64),
    drawn("world/unknown", first_exchange(chats.unknown), grade=same_text, max_tokens=48),
    drawn("world/recall", recall, grade=same_text, max_tokens=48),
    drawn("world/reading", first_exchange(chats.reading), grade=same_text, max_tokens=48),
    drawn("world/functions", program, grade=humaneval.grade, max_tokens=96, judged=True),
    drawn("world/stories", story, grade=true_story, max_tokens=192),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""The tasks by their names, in the order of the report."""
