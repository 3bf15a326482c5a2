"""Templates with choices and slots: how the village varies its sentences.

    expand(Random(1), "[One|On a] quiet {time} a {animal} came.", {"time": "morning", "animal": "owl"})
    # 'One quiet morning an owl came.'
    pattern("A {animal} came.").fullmatch("An owl came.")["animal_1"]     # 'owl': the same template read backwards

`[x|y]` is a choice, which may hold choices; `{name}` is a slot. Afterwards articles and capitals are put right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import TypeVar

_PIECES = re.compile(r"[\[\]|]|\{\w+\}|[^\[\]|{}]+")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")
_SENTENCE = re.compile(r'(^|[.!?] |\n|(?:^| )")([a-z])', re.MULTILINE)

Item = TypeVar("Item")
Sequent = list["str | tuple[str] | list[Sequent]"]
"""A parsed template: text, `(slot,)`, or the list of a choice's alternatives, one after the other."""


def pick(rng: Random, items: Sequence[Item]) -> Item:
    """One of the items; several times faster than `Random.choice`."""
    return items[int(rng.random() * len(items))]


def two(rng: Random, items: Sequence[Item]) -> tuple[Item, Item]:
    """Two different items; several times faster than `Random.sample`."""
    first, second = int(rng.random() * len(items)), int(rng.random() * (len(items) - 1))
    return items[first], items[second + (second >= first)]


def expand(rng: Random, template: str, slots: Mapping[str, str]) -> str:
    """A sentence from a template: choices drawn, slots filled, articles and capitals put right."""
    out: list[str] = []
    _render(_parse(template), rng, slots, out)
    return polish("".join(out))


def polish(text: str) -> str:
    """ "a" before a vowel becomes "an", and sentences begin with a capital."""
    text = _ARTICLE.sub(r"\1n ", text)
    return _SENTENCE.sub(lambda found: found[1] + found[2].upper(), text)


def _render(nodes: Sequent, rng: Random, slots: Mapping[str, str], out: list[str]) -> None:
    for node in nodes:
        if type(node) is str:
            out.append(node)
        elif type(node) is tuple:
            out.append(slots[node[0]])
        else:
            _render(pick(rng, node), rng, slots, out)  # type: ignore[arg-type]


def variety(template: str) -> int:
    """How many texts a template can say with the same slots."""
    return _variety(_parse(template))


def _variety(nodes: Sequent) -> int:
    return math.prod(sum(map(_variety, node)) for node in nodes if isinstance(node, list))  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def _parse(template: str) -> Sequent:
    root: Sequent = []
    choices: list[list[Sequent]] = []
    here = root
    outer: list[Sequent] = []
    for piece in _PIECES.findall(template):
        if piece == "[":
            outer.append(here)
            choices.append([[]])
            here = choices[-1][-1]
        elif piece == "|" and choices:
            choices[-1].append([])
            here = choices[-1][-1]
        elif piece == "]":
            here = outer.pop()
            here.append(choices.pop())
        else:
            here.append((piece[1:-1],) if piece[0] == "{" else piece)
    assert not outer, f"unclosed [ in {template!r}"
    return root


@lru_cache(maxsize=1024)
def pattern(template: str) -> re.Pattern[str]:
    """The regular expression of everything a template can say; the n-th occurrence of a slot is the group `slot_n`."""
    out: list[str] = []
    seen: dict[str, int] = {}
    for piece in _PIECES.findall(template):
        if piece in "[]|":
            out.append({"[": "(?:", "|": "|", "]": ")"}[piece])
        elif piece[0] == "{":
            slot = piece[1:-1]
            seen[slot] = seen.get(slot, 0) + 1
            out.append(rf"(?P<{slot}_{seen[slot]}>[A-Za-z][A-Za-z ]*?)")
        else:
            out.append(re.sub(r"\b([aA])(?=\\ |$)", r"\1n?", re.escape(piece)))
    return re.compile("".join(out), re.IGNORECASE)
