"""Small Python functions in the form of HumanEval: a signature with its docstring, the body, and tests by plain execution.

Held out are (function, argument) pairs: `x plus 7` may be asked where training has only seen `x plus 6` and `x minus 7`.
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any, NamedTuple

from fernhollow import lore
from fernhollow.grammar import expand, pick
from fernhollow.split import Side, side, wording

_TABLES = lore.read("functions")


class Function(NamedTuple):
    """A function to complete: `prompt + body` runs."""

    name: str
    words: str
    """What it returns."""
    prompt: str
    body: str
    parameter: str
    key: tuple[str, ...]

    @property
    def whole(self) -> str:
        """What a model shall answer."""
        return (self.prompt + self.body).rstrip()

    @property
    def test(self) -> str:
        """`def check(candidate)`, comparing with the reference on fixed inputs."""
        lines = [f"    reference = lambda {self.parameter}: {self.body.strip().removeprefix('return ')}"]
        lines += [f"    assert candidate({given}) == reference({given})" for given in _TABLES["inputs"][self.parameter]]
        return "def check(candidate):\n" + "\n".join(lines) + "\n"


def function(rng: Random, split: Side) -> Function:
    """A function of the given side."""
    while True:
        found = _draw(rng)
        if side("function", *found.key) == split:
            return found


def _draw(rng: Random) -> Function:
    kind = rng.random()
    if kind < 0.65:
        parameter, least, many = ("x", 1, 20) if kind < 0.4 else ("s", 2, 8)
        name, (words, code), number = *_entry(rng, parameter), least + int(rng.random() * many)
        key = (name, str(number))
    else:
        parameter, (total, (words, code)), (chosen, (of, xs)) = "xs", _entry(rng, "totals"), _entry(rng, "lists")
        number = 1 + int(rng.random() * 20)
        words, code = f"{words} {of}", code.replace("{xs}", xs)
        name, key = f"{total}_{chosen}", (total, chosen)
    words, code = words.replace("{n}", str(number)), code.replace("{n}", str(number))
    prompt = f'def {name}({parameter}):\n    """Return {words}."""\n'
    return Function(name, words, prompt, f"    return {code}\n", parameter, key)


def _entry(rng: Random, table: str) -> tuple[str, Any]:
    """A name with its words and code."""
    return pick(rng, tuple(_TABLES[table].items()))


@cache
def known_functions() -> dict[str, Function]:
    """Functions that everybody knows, by every way to ask for them; those of two arguments have no tests."""
    found = {}
    for name, (parameters, code, *ways) in _TABLES["asked"].items():
        prompt = f"def {name}({parameters}):\n"
        found |= dict.fromkeys(ways, Function(name, "", prompt, f"    return {code}\n", parameters, ()))
    return found


def well_known(rng: Random, *, other: bool = False) -> tuple[str, str]:
    """A way to ask for a function that everybody knows, and the function."""
    name, (parameters, code, *ways) = _entry(rng, "asked")
    asked = wording(rng, ways, other=other)
    if rng.random() < 0.65:
        frame = wording(rng, _TABLES["frames"], other=other)
        does = pick(rng, _TABLES["phrases"][name])
        asked = expand(rng, frame, {"d": does, "ds": _third_person(does), "f": f"{name}({parameters})"})
    return asked, f"def {name}({parameters}):\n    return {code}"


def _third_person(does: str) -> str:
    """ "multiply by two" as "multiplies by two"."""
    verb, rest = does.split(" ", 1)
    return f"{verb[:-1] + 'ies' if verb.endswith('ly') else verb + 'es' if verb.endswith('ch') else verb + 's'} {rest}"
