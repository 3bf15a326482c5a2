"""Small Python functions in the form of HumanEval: a signature with its docstring, the body, and tests by plain execution.

Held out are (function, argument) pairs: `x plus 7` may be asked where training has only seen `x plus 6` and `x minus 7`.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random
from typing import Any, NamedTuple

from fernhollow import lore
from fernhollow.grammar import expand, pick
from fernhollow.split import Side, side, weighted, wording
from fernhollow.words import invent

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
    """A way to ask for a function that everybody knows, and the function; in training also under a name that the user chose."""
    known, (parameters, code, *ways) = _entry(rng, "asked")
    if rng.random() < 0.35:
        return wording(rng, ways, other=other), _written(known, parameters, code)
    name, frame = known, wording(rng, _TABLES["frames"], other=other)
    if not other and rng.random() < 0.25:
        frame = weighted(rng, _TABLES["named_frames"])
        name, parameters, code = _renamed(rng, known, parameters, code)
    return _frame(rng, frame, known, f"{name}({parameters})"), _written(name, parameters, code)


def explained(rng: Random) -> tuple[str, str]:
    """A function, under its own name or another, with a question what it does, and the answer."""
    known, (parameters, code, *_) = _entry(rng, "asked")
    shown = _written(*(_renamed(rng, known, parameters, code) if rng.random() < 0.5 else (known, parameters, code)))
    return f"{expand(rng, weighted(rng, _TABLES['explain']), {})}\n{shown}", what_it_does(known)


def one_after_another(rng: Random) -> list[str]:
    """A function, and then what it does, or another one."""
    known, (parameters, code, *_) = _entry(rng, "asked")
    frame = wording(rng, [frame for frame in _TABLES["frames"] if "{d" in frame])
    turns = [_frame(rng, frame, known, f"{known}({parameters})"), _written(known, parameters, code)]
    if rng.random() < 0.4:
        return [*turns, expand(rng, weighted(rng, _TABLES["explain_it"]), {}), what_it_does(known)]
    known, (parameters, code, *_) = _entry(rng, "asked")
    return [*turns, _frame(rng, weighted(rng, _TABLES["next_one"]), known), _written(known, parameters, code)]


def snippet(rng: Random) -> tuple[str, str]:
    """Something small that beginners ask for, and its code."""
    found = pick(rng, _TABLES["snippets"])
    return expand(rng, found["asked"], {}), found["code"]


def what_it_does(name: str) -> str:
    """The first of its phrases as a sentence."""
    return f"It {_third_person(_TABLES['phrases'][name][0])}."


def _frame(rng: Random, frame: str, known: str, call: str = "") -> str:
    does = pick(rng, _TABLES["phrases"][known])
    return expand(rng, frame, {"d": does, "ds": _third_person(does), "f": call, "n": call.split("(")[0]})


def _written(name: str, parameters: str, code: str) -> str:
    return f"def {name}({parameters}):\n    return {code}"


def _renamed(rng: Random, name: str, parameters: str, code: str) -> tuple[str, str, str]:
    """The same function under a name that anybody may choose, at times with other parameters."""
    chosen = pick(rng, _TABLES["names"]) if rng.random() < 0.5 else invent(rng, "word", "train")
    others = _TABLES["parameters"].get(parameters)
    meant = pick(rng, others) if others and rng.random() < 0.6 else parameters
    new = dict(zip([name, *parameters.split(", ")], [chosen, *meant.split(", ")], strict=True))
    # What stands in quotes, and the names of methods, stay as they are.
    code = re.sub(r"('[^']*')|(?<![.\w])(\w+)\b", lambda found: found[1] or new.get(found[2], found[2]), code)
    return chosen, meant, code


def _third_person(does: str) -> str:
    """ "multiply by two" as "multiplies by two"."""
    verb, rest = does.split(" ", 1)
    if verb.endswith("ly"):
        return f"{verb[:-1]}ies {rest}"
    return f"{verb}{'es' if verb.endswith(('ch', 's', 'x', 'o')) else 's'} {rest}"
