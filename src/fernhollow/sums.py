"""Sums as people write them, for the calculator: one to three operations, parentheses, signs or words.

    drawn = expression(rng, "train")     # Sum('12 x 7 + 3', '12*7+3', '87', (12, 7, 3))

The whole expression goes to the calculator in one call, so nothing has to be computed in the head. Held out are tuples of numbers.
"""

from __future__ import annotations

import re
from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.grammar import pick
from fernhollow.split import Side, side
from fledge.sandbox.tools import calculate

_TABLES = lore.read("chats")
_WORDS, _SPOKEN, _TENS = _TABLES["signs"], _TABLES["numbers"], _TABLES["tens"]
_SHAPES = ("{}{}{}", "{}{}{}", "{}{}{}", "{}{}{}{}{}", "({}{}{}){}{}", "{}{}({}{}{})", "{}{}{}{}{}{}{}")
DECIMALS = 6
"""More of them are not said: to copy twelve threes is to count them."""


class Sum(NamedTuple):
    """How it is written, what the calculator is given, its result, and the numbers."""

    written: str
    code: str
    result: str
    numbers: tuple[int, ...]


def expression(rng: Random, split: Side) -> Sum:
    """A sum whose numbers belong to a side; in training now and then one with a name of its own."""
    if split == "train" and rng.random() < 0.1:
        return named(rng, "named_sums")
    while True:
        shape = pick(rng, _SHAPES)
        count = shape.count("{}") // 2 + 1
        signs = [pick(rng, "++--**/") for _ in range(count - 1)]
        numbers = _numbers(rng, signs)
        if side("numbers", *numbers) != split:
            continue
        code = shape.format(*_between(list(map(str, numbers)), signs))
        result = calculate(code)
        if result is not None and "-" not in result:
            return Sum(_written(rng, shape, numbers, signs), code, result, numbers)


def named(rng: Random, table: str) -> Sum:
    """Half of 50, 20 percent of 60, add 3 and 4: for training alone, and never with the numbers of a sum that is held out."""
    while True:
        written, code = pick(rng, _TABLES[table])
        a, b = 1 + int(rng.random() * 97), 1 + int(rng.random() * 97)
        divisor = re.search(r"/(\d+)$", code)
        if divisor and rng.random() < 0.8:  # it comes out even
            a = int(divisor[1]) * (1 + a // int(divisor[1]))
        a, b = (max(a, b), min(a, b)) if code == "{a}-{b}" else (a, b)
        code = code.format(a=a, b=b)
        result, numbers = calculate(code), tuple(map(int, re.findall(r"\d+", code)))
        if result is not None and side("numbers", *numbers) == "train":
            return Sum(written.format(a=a, b=b), code, result, numbers)


def shown(result: str) -> str:
    """A result as an answer says it: 3.5, but 3.333... where the decimals go on."""
    whole, _, decimals = result.partition(".")
    return result if len(decimals) <= DECIMALS else f"{whole}.{decimals[:3]}..."


def _numbers(rng: Random, signs: list[str]) -> tuple[int, ...]:
    """Mostly small ones; a sum of two that divides comes out even four times in five."""
    most, factor = pick(rng, ((9, 9), (97, 18), (97, 18), (900, 18)))
    numbers = [1 + int(rng.random() * most)]
    for sign in signs:
        numbers.append(1 + int(rng.random() * (factor if sign in "*/" else most // 3 if most > 97 else most)))
    if signs[0] == "/" and rng.random() < 0.8:
        numbers[0] = numbers[1] * (2 + int(rng.random() * 30))
    return tuple(numbers)


def _written(rng: Random, shape: str, numbers: tuple[int, ...], signs: list[str]) -> str:
    """With or without blanks, with other signs, or in words where there are no parentheses."""
    style = rng.random()
    if style < 0.12 and "(" not in shape and max(numbers) < 100:
        said = [_spoken(rng, number) for number in numbers]
        return shape.format(*_between(said, [f" {pick(rng, _WORDS[sign][:2])} " for sign in signs]))
    if style < 0.35:
        return shape.format(*_between(list(map(str, numbers)), signs))
    if style < 0.6:
        return shape.format(*_between(list(map(str, numbers)), [f" {sign} " for sign in signs]))
    return shape.format(*_between(list(map(str, numbers)), [f" {pick(rng, _WORDS[sign])} " for sign in signs]))


def _spoken(rng: Random, number: int) -> str:
    """ "thirty-five", or "thirty five" as people type it."""
    tens, rest = divmod(number, 10)
    if number <= 20 or not rest:
        return _SPOKEN[number] if number <= 20 else _TENS[tens - 2]
    return f"{_TENS[tens - 2]}{pick(rng, '- ')}{_SPOKEN[rest]}"


def _between(numbers: list[str], signs: list[str]) -> list[str]:
    """Numbers and signs in turn."""
    return [part for pair in zip(numbers, [*signs, ""], strict=True) for part in pair][:-1]
