"""Scenes: a few things that are so today, and questions about them.

    scene(rng)     # Scene('Mira is at the mill. Zubin finds 39 nuts.', (('Where is Mira?', 'Mira is at the mill.'), ...))

Nothing in a scene can be known beforehand. An answer repeats a sentence of it, or of one that holds two facts says the one that
is asked for: practice in reading, in remembering what somebody said and in copying numbers, several answers to a scene where a
story has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from fernhollow import lore
from fernhollow.grammar import Item, expand, pick
from fernhollow.split import Side, wordings
from fernhollow.words import pronouns, stranger

_TABLES = lore.read("documents")


class Scene(NamedTuple):
    """What is so, and questions with their answers."""

    text: str
    questions: tuple[tuple[str, str], ...]


def scene(rng: Random, split: Side = "train", *, strangers: float = 0.5, other: bool = False) -> Scene:
    """One to five moments, each of somebody else, or a tale of somebody, with a question for every sentence, in any order; or a few
    sentences that belong together, with several questions.

    Args:
        strangers: share of people, places and things that are not from Fernhollow.
        other: asked in words that training never uses.
    """
    if rng.random() < 0.3:
        return _passage(rng, split, strangers, other)
    told, is_tale = pick(rng, _TABLES["tales"]), rng.random() < 0.25
    # Where all do the same, who does it has to be read: "Sam has a red bike. Lucy has a blue bike."
    alike = _moment(rng) if rng.random() < 0.4 else None
    if not is_tale:
        told = [alike or _moment(rng) for _ in range(1 + int(rng.random() * 5))]
    pairs, sentences, slots, has_others = [], [], {}, not is_tale and len(told) > 1
    for person, (said, *questions) in zip(rng.sample(lore.PEOPLE, len(told)), told, strict=True):
        if not (is_tale and slots):
            slots = _slots(rng, split, person, strangers)
        ways = wordings(questions, other=other)
        # Among others it has to say of whom it is.
        asked = pick(rng, [way for way in ways if "{" in _question(way)] or ways if has_others else ways)
        sentences.append(expand(rng, said, slots))
        pairs.append((expand(rng, _question(asked), slots), _answer(rng, asked, slots) or sentences[-1]))
    return Scene(" ".join(sentences), tuple(rng.sample(pairs, len(pairs))))


def _passage(rng: Random, split: Side, strangers: float, other: bool) -> Scene:
    said, *questions = pick(rng, _TABLES["passages"])
    slots, ways = _slots(rng, split, pick(rng, lore.PEOPLE), strangers), wordings(questions, other=other)
    asked = rng.sample(ways, min(len(ways), 4))
    pairs = ((expand(rng, _question(each), slots), _answer(rng, each, slots)) for each in asked)
    return Scene(expand(rng, said, slots), tuple(pairs))


def _question(way: Any) -> str:
    return way if isinstance(way, str) else way[0]


def _answer(rng: Random, way: Any, slots: dict[str, str]) -> str:
    """What a way to ask has for its answer; nothing where that is the sentence itself."""
    return "" if isinstance(way, str) else expand(rng, way[1], slots)


def _moment(rng: Random) -> list[Any]:
    return pick(rng, _TABLES[rng.choices(("moments", "plain", "shorts"), (5, 3, 4))[0]])


def _slots(rng: Random, split: Side, person: str, strangers: float) -> dict[str, str]:
    """Who does what with what, where and when; of most things two."""
    hero, other = stranger(rng, split), stranger(rng, split)
    slots = {"a": stranger(rng, split) if rng.random() < strangers else person, "z": hero, "y": other}
    slots["b"] = pick(rng, [each for each in lore.PEOPLE if each != person])
    slots |= dict(zip(("he", "his", "him"), pronouns(hero), strict=True))
    (slots["v"], slots["vd"]), (slots["v2"], slots["vd2"]) = _two(rng, _TABLES["verbs"])
    for slot, (*at_home, outside) in _TABLES["slots"].items():
        table = outside if not at_home or rng.random() < strangers else at_home[0]
        slots[slot], slots[f"{slot}2"] = _two(rng, lore.listed(table))
    numbers = {slot: 2 + int(rng.random() * most) for slot, most in _TABLES["numbers"].items()}
    for slot in ("n", "hour"):
        numbers[f"{slot}2"] += numbers[f"{slot}2"] == numbers[slot]
    return slots | {slot: str(number) for slot, number in numbers.items()}


def _two(rng: Random, items: Sequence[Item]) -> tuple[Item, Item]:
    """Two different ones; several times faster than `Random.sample`."""
    one = pick(rng, items)
    while (other := pick(rng, items)) == one:
        pass
    return one, other
