"""Small Python functions in the form of HumanEval: a signature with its docstring, the body, and tests by plain execution.

Held out are (function, argument) pairs: `x plus 7` may be asked where training has only seen `x plus 6` and `x minus 7`.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from fernhollow.grammar import pick
from fernhollow.split import Side, side

_NUMBERS = {
    "plus": ("x plus {n}", "x + {n}"),
    "minus": ("x minus {n}", "x - {n}"),
    "times": ("x times {n}", "x * {n}"),
    "rest": ("the remainder of x divided by {n}", "x % {n}"),
    "more": ("True if x is greater than {n}", "x > {n}"),
    "less": ("True if x is less than {n}", "x < {n}"),
    "fits": ("True if x is divisible by {n}", "x % {n} == 0"),
    "square": ("the square of x plus {n}", "x * x + {n}"),
}
_TEXTS = {
    "shout": ("s in capital letters {n} times", "s.upper() * {n}"),
    "repeat": ("s repeated {n} times", "s * {n}"),
    "first": ("the first {n} letters of s", "s[:{n}]"),
    "last": ("the last {n} letters of s", "s[-{n}:]"),
    "long": ("True if s has more than {n} letters", "len(s) > {n}"),
    "back": ("the first {n} letters of s reversed", "s[:{n}][::-1]"),
}
_TOTALS = {
    "total": ("the sum of", "sum({xs})"),
    "largest": ("the largest of", "max({xs})"),
    "smallest": ("the smallest of", "min({xs})"),
    "size": ("the number of", "len({xs})"),
    "ordered": ("a sorted list of", "sorted({xs})"),
}
_LISTS = {
    "even": ("the even numbers in xs", "[y for y in xs if y % 2 == 0]"),
    "odd": ("the odd numbers in xs", "[y for y in xs if y % 2 == 1]"),
    "above": ("the numbers in xs above {n}", "[y for y in xs if y > {n}]"),
    "below": ("the numbers in xs below {n}", "[y for y in xs if y < {n}]"),
    "double": ("the doubles of xs", "[y * 2 for y in xs]"),
    "add": ("the numbers in xs with {n} added", "[y + {n} for y in xs]"),
}
_INPUTS = {
    "x": ("0", "7", "12", "30", "-3"),
    "s": ('"fernhollow"', '"abc"', '"lantern"'),
    "xs": ("[30, 3, 8, 21, -2, 5]", "[22, 40, 1, 2, 25, 0]", "[-1, 6, 33, 30, -4]"),
}


class Function(NamedTuple):
    """A function to complete: `prompt + body` runs."""

    name: str
    prompt: str
    body: str
    parameter: str
    key: tuple[str, ...]

    @property
    def test(self) -> str:
        """`def check(candidate)`, comparing with the reference on fixed inputs."""
        lines = [f"    reference = lambda {self.parameter}: {self.body.strip().removeprefix('return ')}"]
        lines += [f"    assert candidate({given}) == reference({given})" for given in _INPUTS[self.parameter]]
        return "def check(candidate):\n" + "\n".join(lines) + "\n"


def function(rng: Random, split: Side) -> Function:
    """A function of the given side."""
    while True:
        found = _draw(rng)
        if side("function", *found.key) == split:
            return found


def _draw(rng: Random) -> Function:
    kind = rng.random()
    if kind < 0.4:
        name, number, parameter = pick(rng, tuple(_NUMBERS)), 1 + int(rng.random() * 20), "x"
        words, code = _NUMBERS[name]
        key = (name, str(number))
    elif kind < 0.65:
        name, number, parameter = pick(rng, tuple(_TEXTS)), 2 + int(rng.random() * 8), "s"
        words, code = _TEXTS[name]
        key = (name, str(number))
    else:
        total, chosen, number, parameter = (
            pick(rng, tuple(_TOTALS)),
            pick(rng, tuple(_LISTS)),
            1 + int(rng.random() * 20),
            "xs",
        )
        words = f"{_TOTALS[total][0]} {_LISTS[chosen][0]}"
        code = _TOTALS[total][1].replace("{xs}", _LISTS[chosen][1])
        name, key = f"{total}_{chosen}", (total, chosen)
    words, code = words.replace("{n}", str(number)), code.replace("{n}", str(number))
    return Function(
        name, f'def {name}({parameter}):\n    """Return {words}."""\n', f"    return {code}\n", parameter, key
    )
