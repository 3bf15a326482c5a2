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
from fernhollow.words import invent_name

_MOMENTS = lore.read("documents")["moments"]


class Scene(NamedTuple):
    """What is so, and questions with their answers."""

    text: str
    questions: tuple[tuple[str, str], ...]


def scene(rng: Random) -> Scene:
    """Three to six moments, each of somebody else, with a question for every one, in any order."""
    people = rng.sample(lore.PEOPLE, 7)
    pairs = []
    for person in people[: 3 + int(rng.random() * 4)]:
        said, asked = pick(rng, _MOMENTS)
        slots = {
            "a": invent_name(rng, "train") if rng.random() < 0.3 else person,
            "b": people[-1] if rng.random() < 0.5 else pick(rng, people),
            "p": pick(rng, lore.PLACES),
            "n": str(2 + int(rng.random() * 39)),
            "g": pick(rng, lore.GOODS),
            "o": pick(rng, lore.OBJECTS),
            "animal": pick(rng, lore.ANIMALS),
            "col": pick(rng, lore.COLOURS),
        }
        if slots["b"] != slots["a"]:
            pairs.append((expand(rng, asked, slots), expand(rng, said, slots)))
    text = " ".join(said for _, said in pairs)
    return Scene(text, tuple(rng.sample(pairs, len(pairs))))
