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

_MOMENTS = lore.read("documents")["moments"]


class Scene(NamedTuple):
    """What is so, and questions with their answers."""

    text: str
    questions: tuple[tuple[str, str], ...]


def scene(rng: Random, split: Side = "train", *, strangers: float = 0.5, other: bool = False) -> Scene:
    """One to five moments, each of somebody else, with a question for every one, in any order.

    Args:
        strangers: share of people, places and things that are not from Fernhollow.
        other: asked in words that training never uses.
    """
    people = rng.sample(lore.PEOPLE, 7)
    pairs = []
    # Where all do the same, who does it has to be read: "Sam has a red bike. Lucy has a blue bike."
    alike = pick(rng, _MOMENTS) if rng.random() < 0.4 else None
    for person in people[: 1 + int(rng.random() * 5)]:
        said, *questions = alike or pick(rng, _MOMENTS)
        ways = wordings(questions, other=other)
        asked = pick(rng, [way for way in ways if "{" in way] or ways if alike else ways)
        slots = {
            "a": stranger(rng, split) if rng.random() < strangers else person,
            "z": stranger(rng, split),
            "y": stranger(rng, split),
            "b": people[-1] if rng.random() < 0.5 else pick(rng, [each for each in people if each != person]),
            "p": pick(rng, lore.OUTSIDE["places"] if rng.random() < strangers else lore.PLACES),
            "n": str(2 + int(rng.random() * 39)),
            "hour": str(1 + int(rng.random() * 12)),
            "g": pick(rng, lore.OUTSIDE["goods"] if rng.random() < strangers else lore.GOODS),
            "o": pick(rng, lore.OUTSIDE["things"] if rng.random() < strangers else lore.OBJECTS),
            "animal": pick(rng, lore.OUTSIDE["creatures"] if rng.random() < strangers else lore.ANIMALS),
            "col": pick(rng, lore.COLOURS),
            "city": pick(rng, lore.OUTSIDE["topics_places"]),
            "age": str(3 + int(rng.random() * 90)),
            "mood": pick(rng, lore.OUTSIDE["moods"]),
            **dict(zip(("food", "food2"), rng.sample(lore.FOODS, 2), strict=True)),
            **dict(zip(("job", "job2"), rng.sample(lore.JOBS, 2), strict=True)),
        }
        pairs.append((expand(rng, asked, slots), expand(rng, said, slots)))
    text = " ".join(said for _, said in pairs)
    return Scene(text, tuple(rng.sample(pairs, len(pairs))))
