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

_MOMENTS = (  # what is so, and a question for it
    ("{a} is at the {p}.", "Where is {a}?"),
    ("{a} went to the {p}.", "Where did {a} go?"),
    ("{a} waited at the {p}.", "Where did {a} wait?"),
    ("{a} has {n} {g}.", "How many {g} does {a} have?"),
    ("{a} finds {n} {g}.", "How many {g} does {a} find?"),
    ("{a} gives away {n} {g}.", "How many {g} does {a} give away?"),
    ("{a} found a {o}.", "What did {a} find?"),
    ("{a} had a {o}.", "What did {a} have?"),
    ("{a} gave the {o} to {b}.", "To whom did {a} give the {o}?"),
    ("{a} made the {o} for {b}.", "For whom did {a} make the {o}?"),
    ("{a} met {b}.", "Whom did {a} meet?"),
    ("{a} saw a {animal}.", "What did {a} see?"),
    ("{a} bought a {col} {o}.", "What did {a} buy?"),
    ("{a} wants the {col} {o}.", "Which {o} does {a} want?"),
)


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
            "p": pick(rng, _PLACES),
            "n": str(2 + int(rng.random() * 39)),
            "g": pick(rng, lore.GOODS),
            "o": pick(rng, _THINGS),
            "animal": pick(rng, _ANIMALS),
            "col": pick(rng, lore.COLOURS),
        }
        if slots["b"] != slots["a"]:
            pairs.append((expand(rng, asked, slots), expand(rng, said, slots)))
    text = " ".join(said for _, said in pairs)
    return Scene(text, tuple(rng.sample(pairs, len(pairs))))


_PLACES, _THINGS, _ANIMALS = tuple(lore.PLACES), tuple(lore.OBJECTS), tuple(lore.ANIMALS)
