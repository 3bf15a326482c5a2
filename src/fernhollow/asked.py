"""What a model of Fernhollow is asked: one task per skill, held out by construction.

    TASKS["world/problems"].load("test")[0].question
    TASKS["world/problems"].grade(example, "... #### 12")

Validation and test ask about keys that training text never shows in this form (`fernhollow.split`), train about the others.
Examples stand in a shuffled order that never changes, so that the first N are a fair sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from random import Random
from typing import Any

from fernhollow import chats, company, letters, stories
from fernhollow.facts import ASKED, FACTS, answer, ask
from fernhollow.functions import function
from fernhollow.grammar import pick
from fernhollow.problems import HARD, RISING, SEEN, UNSEEN, Grade, one_step, problem
from fernhollow.rhymes import is_rhyme
from fernhollow.split import apart, wording
from fernhollow.typed import CHANGES
from fledge.tasks import humaneval
from fledge.tasks.base import Example, Task, by_index
from fledge.tasks.numbers import strict
from fledge.tasks.spelling import same_spelling
from fledge.text.chat import Conversation, say
from fledge.text.split import Split

EXAMPLES: dict[Split, int] = {"train": 2_000, "validation": 960, "test": 320}
"""Examples of a split where the world could make any number; validation has several of each kind of problem."""

Draw = Callable[..., Example]


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


def recall(rng: Random, split: Split, *, other: bool = False) -> Example:
    """Small talk that ends in a question about what the user has said."""
    talk = chats.small_talk(rng, split, other=other)
    ends = [i for i, message in enumerate(talk) if message.role == "assistant" and message.text.startswith("You")]
    last = pick(rng, ends)
    return Example(messages=talk[: last + 1], answer=talk[last].text)


def story(rng: Random, split: Split, *, other: bool = False) -> Example:
    """A story on request."""
    told = stories.story(rng, split)
    asked = stories.request(rng, told, other=other)
    wanted = {"hero": told.hero, "animal": told.animal, "thing": told.thing}
    named = {part: name for part, name in wanted.items() if name.removeprefix("the ") in asked}
    return _exchange(asked, told.text, **named)


def program(rng: Random, split: Split, *, other: bool = False) -> Example:
    """A function to complete, or asked for in words, with its tests."""
    found = function(rng, split)
    templates = chats.FUNCTIONS_IN_WORDS if other else chats.FUNCTIONS
    asked = wording(rng, templates, other=other).format(f=found.name, d=found.words)
    asked = asked if other else f"{asked}\n{found.prompt.rstrip()}"
    return _exchange(asked, found.whole, prompt=found.prompt, test=found.test, entry_point=found.name)


def _exchange(question: str, reference: str, **facts: Any) -> Example:
    return Example(messages=(say("user", question), say("assistant", reference)), answer=reference, facts=facts)


def first_exchange(make: Callable[..., Conversation]) -> Draw:
    """The examples of a kind of conversation."""

    def draw(rng: Random, split: Split, *, other: bool = False) -> Example:
        talk = make(rng, split, other=other)
        return Example(messages=talk[:2], answer=talk[1].text)

    return draw


def word_problem(grade: Grade, practice: Grade | None = None) -> Draw:
    """Problems of a grade; those to practise on may be of another."""

    def draw(rng: Random, split: Split, *, other: bool = False) -> Example:
        found = problem(rng, practice if practice and split == "train" else grade, split, other=other)
        return Example(messages=chats.solved(found), answer=f"#### {found.number}", kinds=found.kinds)

    return draw


def short_problem(rng: Random, split: Split, *, other: bool = False) -> Example:
    """One sum in a sentence or two; each wording is a kind."""
    found = one_step(rng, split, other=other)
    return Example(messages=chats.one_sum(found), answer=f"#### {found.result}", kinds=(found.wording,))


def hard_problem(rng: Random, split: Split) -> Example:
    """A problem of three steps. What is practised is of every kind, so that none is forgotten: a third of it are short ones."""
    if split == "train" and rng.random() < 1 / 3:
        return short_problem(rng, split)
    return word_problem(HARD, RISING)(rng, split)


def same_text(example: Example, answer: str) -> float:
    """Whether the answer is the reference, word for word."""
    return float(answer.strip() == str(example.answer).strip())


def same_choice(example: Example, answer: str) -> float:
    """Whether the answer ends in the right choice followed by its letter."""
    return float(answer.strip().endswith(" " + example.facts["choice"]))


def true_story(example: Example, answer: str) -> float:
    """Whether the story keeps to a plot, to the facts of the village and to the request."""
    return float(stories.flaw(answer, **example.facts) is None)


def rhymes(example: Example, answer: str) -> float:
    """Whether the lines rhyme two by two."""
    return float(is_rhyme(answer))


def drawn(name: str, draw: Draw, *, has_train: bool = True, keyed: bool = True, **about: Any) -> Task:
    """A task whose examples are drawn: different ones, always the same, once, because every stage is measured on them.

    Args:
        keyed: a key of each example is held out; else what validation and test ask is kept apart by its text.
    """

    @lru_cache
    def load(split: Split) -> Sequence[Example]:
        if split == "train" and not has_train:
            raise ValueError(
                f"{name}: split 'train' does not exist, it is held out as a whole; allowed: validation, test"
            )
        found = _different(draw, Random(f"{name} {split}"), split)
        if not keyed:
            found = (example for example in found if apart(repr(example.question), has_train=has_train) == split)
        return tuple(islice(found, EXAMPLES[split]))

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


def reworded(name: str, draw: Draw, *, has_keys: bool = True, **about: Any) -> tuple[Task, Task]:
    """A task, and the same in words that training never uses; `has_keys`: the keys are held out there too."""
    other = {"has_train": False, "keyed": has_keys} | about
    return drawn(name, draw, **about), drawn(f"{name}_reworded", partial(draw, other=True), **other)


def typed_facts(change: str) -> Task:
    """Questions for facts that are asked for in training, with one change of how people type."""

    def draw(rng: Random, split: Split) -> Example:
        key = pick(rng, ASKED["train"])
        return _exchange(CHANGES[change](rng, ask(rng, key)), answer(key))

    return drawn(
        f"world/typed/{change}", draw, has_train=False, keyed=False, grade=same_text, max_tokens=48, default_for=()
    )


BESIDE = (
    "world/problems", "world/problems_short", "world/sums", "world/spelling", "world/counting", "world/facts", "world/letters",
    "world/unknown", "world/outside", "world/recall", "world/reading", "world/identity", "world/functions", "world/choice",
    "world/stories", "world/rhymes", "world/riddles",
)  # fmt: skip
"""What practising hard problems could break."""
_TASKS = (
    drawn("world/choice", choice, grade=by_index, chance=0.25, default_for=("base", "chat")),
    *reworded("world/facts", first_exchange(chats.facts), grade=same_text, max_tokens=48),
    drawn("world/letters", letter, grade=same_choice, chance=0.25, max_tokens=48),
    *reworded("world/problems", word_problem(Grade(SEEN)), grade=strict, max_tokens=192),
    drawn("world/problems_new", word_problem(UNSEEN), has_train=False, grade=strict, max_tokens=192),
    drawn("world/problems_hard", hard_problem, grade=strict, beside=BESIDE),
    *reworded("world/problems_short", short_problem, grade=strict, max_tokens=64),
    *reworded("world/sums", first_exchange(chats.arithmetic), grade=same_text, max_tokens=48),
    *reworded("world/spelling", first_exchange(chats.spelling), grade=same_spelling, max_tokens=64),
    # Always saying 1 is right half the time.
    *reworded("world/counting", first_exchange(chats.counting), grade=strict, chance=0.5, max_tokens=96),
    *reworded("world/identity", first_exchange(company.identity), has_keys=False, grade=same_text, max_tokens=64),
    *reworded("world/unknown", first_exchange(company.unknown), grade=same_text, max_tokens=48),
    *reworded("world/outside", first_exchange(company.outside), has_keys=False, grade=same_text, max_tokens=48),
    *reworded("world/recall", recall, grade=same_text, max_tokens=48),
    *reworded("world/reading", first_exchange(chats.reading), grade=same_text, max_tokens=48),
    *reworded("world/functions", program, grade=humaneval.grade, max_tokens=96, judged=True),
    *reworded("world/stories", story, keyed=False, grade=true_story, max_tokens=192),
    drawn("world/rhymes", first_exchange(chats.rhyming), keyed=False, grade=rhymes, max_tokens=96),
    drawn("world/riddles", first_exchange(chats.riddles), keyed=False, grade=same_text, max_tokens=32),
    *map(typed_facts, CHANGES),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""The tasks by their names, in the order of the report."""
