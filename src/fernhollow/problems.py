"""Word problems in the manner of GSM8K, solved sentence by sentence with the calculator.

    problem(rng, EASY, "train").solution
    # text 'Mira has 12 apples.\\nShe finds 5 more: ', python '12+5', output '17', text '17 apples.\\n#### 17'

Every line of a solution repeats the sentence it uses up to its number, so that the number is copied from behind the same words;
the running total stands right before. Held out are tuples of numbers, and orders of operations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, product
from random import Random
from typing import Any, NamedTuple

from fernhollow import lore
from fernhollow.grammar import expand, pick, two
from fernhollow.split import Side, side, wording
from fernhollow.words import pronouns, real
from fledge.sandbox.tools import calculate
from fledge.text.chat import Part

Order = tuple[str, ...]
SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_SAID = {"+": " plus ", "-": " minus ", "*": " times ", "/": " divided by "}
_PAIRS: tuple[Order, ...] = tuple(product(SIGNS, repeat=2))
NEW: tuple[Order, ...] = (("add", "mul"), ("div", "add"), ("mul", "sub"), ("sub", "div"))
"""Orders of two that no problem in training has, not even inside an order of three."""


def holds_new(order: Order) -> bool:
    """Whether two neighbouring operations are in a held-out order."""
    return any(pair in NEW for pair in pairwise(order))


SEEN: tuple[Order, ...] = (*((sign,) for sign in SIGNS), *(pair for pair in _PAIRS if not holds_new(pair)))
LONG: tuple[Order, ...] = tuple(order for order in product(SIGNS, repeat=3) if not holds_new(order))


class Grade(NamedTuple):
    """How hard a problem is: its orders of operations and how many sentences lead nowhere."""

    orders: tuple[Order, ...]
    distractors: tuple[int, ...] = (0,)


EASY = Grade((*SEEN, *SEEN, *SEEN, *SEEN, *LONG[::7]), (0, 0, 0, 1))
"""What SFT practises: one or two steps, seldom three, now and then a sentence too many."""
UNSEEN = Grade(NEW)
HARD = Grade(LONG, (0, 1, 1))
"""What RL is measured on: three steps, mostly with a sentence too many."""
RISING = Grade((*SEEN, *SEEN, *SEEN, *LONG), (0, 1, 1))
"""What RL practises: mostly one or two steps. With three alone it learned to make three of every problem (.99 became .48), and with
as many of three as of the others it repeated a step now and then."""

_WORDING = lore.read("problems")
_ALL_GOODS = (*lore.GOODS, *lore.OUTSIDE["goods"])


class Problem(NamedTuple):
    """A problem with its solution and the number it comes to."""

    question: str
    solution: tuple[Part, ...]
    number: int
    order: Order
    numbers: tuple[int, ...]
    happens: tuple[str, ...]
    """The wordings of what happens, one for each operation."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be forgotten by itself: an order of one or two operations, and each wording of what happens."""
        signs = " ".join(SIGNS[operation] for operation in self.order)
        return (*((signs,) if len(self.order) < 3 else ()), *dict.fromkeys(self.happens))

    @property
    def plain(self) -> str:
        """Question and solution as text without tool calls, for pretraining."""
        said = (part.text + " = " * (part.kind == "python") for part in self.solution if part.kind != "output")
        return f"{self.question}\n{''.join(said)}"


def problem(rng: Random, grade: Grade, split: Side, *, other: bool = False) -> Problem:
    """A problem whose numbers belong to the given side; `other`: in words that training never uses."""
    while True:
        order = pick(rng, grade.orders)
        numbers = _numbers(rng, order)
        if numbers and side("numbers", *numbers) == split:
            return _write(rng, order, numbers, pick(rng, grade.distractors), split, other=other)


class OneStep(NamedTuple):
    """A short question with its sum and the result."""

    question: str
    code: str
    result: str
    wording: str
    """That of the question, before names and numbers stand in it."""

    @property
    def said(self) -> str:
        """How the answer begins. Beginnings of their own (`The tickets cost`) had to be invented for what training never asked."""
        return re.sub("[-+*/]", lambda sign: _SAID[sign[0]], self.code) + " is"


def one_step(rng: Random, split: Side, *, other: bool = False) -> OneStep:
    """A question with one sum whose numbers belong to the given side."""
    asked, code = wording(rng, _WORDING["one_step"], other=other)
    known = re.search(r"\d+$", code)  # {x}*7 are the days of {x} weeks
    while True:
        x, y, z = (2 + int(rng.random() * most) for most in (38, 18, 5))
        y = int(known[0]) if known else y
        x = x * y if "/" in code else x + y + z if "-{y}" in code else x
        numbers = {"x": str(x), "y": str(y), "z": str(min(z, x))}
        found = code.format_map(numbers)
        if side("numbers", *map(int, re.findall(r"\d+", found))) == split:
            return OneStep(expand(rng, asked, _slots(rng, split) | numbers), found, calculate(found) or "", asked)


def step(operation: str, total: int, number: int) -> int:
    """The running total after an operation."""
    return {"add": total + number, "sub": total - number, "mul": total * number, "div": total // number}[operation]


def _numbers(rng: Random, order: Order) -> tuple[int, ...] | None:
    """A first number and one for each operation, all totals whole and from 1 to 999; None when the draw failed.

    No number is above 40: so few are frequent, and a tokenizer with digits=3 makes one token of each. A number of two tokens
    is copied wrong where another one begins with the same digit (8 of the 9 errors we looked at).
    """
    total = 3 + int(rng.random() * 38)
    numbers = [total]
    for operation in order:
        if operation == "add":
            number = 2 + int(rng.random() * 29)
        elif operation == "sub":
            number = 1 + int(rng.random() * min(30, total - 1)) if total > 1 else 0
        elif operation == "mul":
            number = 2 + int(rng.random() * 5)
        else:
            divisors = [divisor for divisor in range(2, 10) if total % divisor == 0]
            number = pick(rng, divisors) if divisors else 0
        if not number or not 0 < (total := step(operation, total, number)) < 1000:
            return None
        numbers.append(number)
    return tuple(numbers)


def _write(
    rng: Random, order: Order, numbers: tuple[int, ...], distractors: int, split: Side, *, other: bool
) -> Problem:
    slots = _slots(rng, split)
    goods = slots["goods"]

    def say(template: str, number: int) -> str:
        return expand(rng, template, slots | {"n": str(number)})

    def one_of(name: str, templates: Sequence[Any]) -> Any:
        return wording(rng, templates, other=other and name == words)

    # In other words is one part of a problem at a time.
    words = pick(rng, ("opening", "happens", "question"))
    opening = say(one_of("opening", _WORDING["openings"]), numbers[0]) + "."
    sentences = [opening]
    parts: list[Part] = []
    happens: list[str] = []
    text, total = opening + "\n", numbers[0]
    for operation, number in zip(order, numbers[1:], strict=True):
        head, rest = one_of("happens", _WORDING["sentences"][operation])
        happens.append(head + rest)
        said = say(head, number)
        clause = said + say(rest, number)
        joined = len(sentences) > 1 and clause.startswith(("He ", "She ")) and rng.random() < 0.25
        if joined and sentences[-1].startswith(("He ", "She ")):
            sentences[-1] = f"{sentences[-1].removesuffix('.')} and {clause.partition(' ')[2]}."
        else:
            sentences.append(clause + ".")
        before, total = total, step(operation, total, number)
        parts += [
            Part("text", f"{text}{said}: "),
            Part("python", f"{before}{SIGNS[operation]}{number}"),
            Part("output", str(total)),
        ]
        text = f"{total} {goods}.\n"
    parts.append(Part("text", f"{text}#### {total}"))
    for _ in range(distractors):
        sentences.insert(
            1 + int(rng.random() * len(sentences)),
            say(pick(rng, _WORDING["distractors"]), 2 + int(rng.random() * 39)) + ".",
        )
    question = " ".join(sentences) + " " + say(one_of("question", _WORDING["questions"]), 0)
    return Problem(question, tuple(parts), total, order, numbers, tuple(happens))


def _slots(rng: Random, split: Side) -> dict[str, str]:
    person, other = two(rng, lore.PEOPLE)
    if rng.random() < 0.4:
        person = pick(rng, real("name", split)).capitalize()
    goods, others = two(rng, _ALL_GOODS if rng.random() < 0.5 else lore.GOODS)
    he, _, him = pronouns(person)
    slots = {"p": person, "b": other, "goods": goods, "others": others, "he": he, "him": him}
    return slots | {"place": pick(rng, lore.PLACES), "animal": pick(rng, lore.ANIMALS)}
