"""Scenes: a few things that are so today, and questions about them.

    scene(rng)     # Scene('Mira is at the mill. Zubin finds 39 nuts.', (('Where is Mira?', 'Mira is at the mill.'), ...))

Nothing in a scene can be known beforehand. Every answer repeats a sentence of it, which is practice in reading, in remembering
what somebody said and in copying numbers, several answers to a scene where a story has one.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.grammar import expand, pick
from fernhollow.split import Side, wordings
from fernhollow.words import stranger

_TABLES = lore.read("documents")


class Scene(NamedTuple):
    """What is so, and questions with their answers."""

    text: str
    questions: tuple[tuple[str, str], ...]


def scene(rng: Random, split: Side = "train", *, strangers: float = 0.5, other: bool = False) -> Scene:
    """One to five moments, each of somebody else, or a tale of somebody, with a question for every sentence, in any order.

    Args:
        strangers: share of people, places and things that are not from Fernhollow.
        other: asked in words that training never uses.
    """
    told, is_tale = pick(rng, _TABLES["tales"]), rng.random() < 0.25
    # Where all do the same, who does it has to be read: "Sam has a red bike. Lucy has a blue bike."
    alike = _moment(rng) if rng.random() < 0.4 else None
    if not is_tale:
        told = [alike or _moment(rng) for _ in range(1 + int(rng.random() * 5))]
    pairs, slots = [], {}
    for person, (said, *questions) in zip(rng.sample(lore.PEOPLE, len(told)), told, strict=True):
        if not (is_tale and slots):
            slots = _slots(rng, split, person, strangers)
        ways = wordings(questions, other=other)
        asked = pick(rng, [way for way in ways if "{" in way] or ways if alike else ways)
        pairs.append((expand(rng, asked, slots), expand(rng, said, slots)))
    text = " ".join(said for _, said in pairs)
    return Scene(text, tuple(rng.sample(pairs, len(pairs))))


def _moment(rng: Random) -> list[str]:
    return pick(rng, _TABLES["moments" if rng.random() < 0.6 else "plain"])


def _slots(rng: Random, split: Side, person: str, strangers: float) -> dict[str, str]:
    """Who does what with what, where and when; of most things two."""
    hero, other = stranger(rng, split), stranger(rng, split)
    he = ("she", "her", "her") if hero in lore.OUTSIDE["names_women"] else ("he", "his", "him")
    slots = {"a": stranger(rng, split) if rng.random() < strangers else person, "z": hero, "y": other}
    slots["b"] = pick(rng, [each for each in lore.PEOPLE if each != person])
    slots |= dict(zip(("he", "his", "him"), he, strict=True))
    (slots["v"], slots["vd"]), (slots["v2"], slots["vd2"]) = rng.sample(_TABLES["verbs"], 2)
    for slot, (*at_home, outside) in _TABLES["slots"].items():
        table = outside if not at_home or rng.random() < strangers else at_home[0]
        slots[slot], slots[f"{slot}2"] = rng.sample(lore.listed(table), 2)
    return slots | {slot: str(2 + int(rng.random() * most)) for slot, most in _TABLES["numbers"].items()}
