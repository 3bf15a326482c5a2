"""Multiple choice, and the lookup lists that teach it.

    Multiple choice: Where is the home of the turtle?      The turtle lives in the shell=A
    - shell=A
    - hollow oak=B

The answer says the choice and its letter right behind it: recalling a fact and looking up its letter at one position is too
much for three layers, but a letter that follows its own key is copied by one (keys that see the previous token help).
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.facts import ASKED, FACTS, KEYS, VALUES, Key, answer, ask, ask_back
from fernhollow.grammar import pick
from fernhollow.split import Side
from fernhollow.words import KNOWN, invent

LETTERS = "ABCDEF"


class Choice(NamedTuple):
    """A question with its list of choices, and its answer: `The turtle lives in the shell=A`."""

    question: str
    choices: tuple[str, ...]
    answer: str


@cache
def choice_keys(split: Side) -> list[Key]:
    """Facts of a side with enough other values for a list of four."""
    return [key for key in ASKED[split] if len(VALUES[key[1]]) >= 4]


def choices_for(rng: Random, key: Key, *, count: int) -> tuple[str, ...]:
    """The value of a fact among `count - 1` others of its relation, in any order; never the subject itself."""
    value = FACTS[key]
    others = [other for other in VALUES[key[1]] if other not in (value, key[0])]
    choices = [value, *rng.sample(others, min(count - 1, len(others)))]
    rng.shuffle(choices)
    return tuple(choices)


def back(rng: Random, key: Key, *, count: int) -> tuple[str, tuple[str, ...]] | None:
    """A question for the subject of a fact, which stands among others of whom it is not true; None where nobody asks so."""
    asked = ask_back(rng, key)
    others = [other[0] for other in KEYS if other[1] == key[1] and FACTS[key] not in (FACTS[other], other[0])]
    return (asked, tuple(rng.sample([key[0], *rng.sample(others, count - 1)], count))) if asked else None


def multiple_choice(rng: Random, key: Key, choices: tuple[str, ...]) -> Choice:
    """The question for a fact over the given choices."""
    letter = LETTERS[choices.index(FACTS[key])]
    return Choice(ask(rng, key), choices, f"{answer(key).removesuffix('.')}={letter}")


def same_list(rng: Random, key: Key, choices: tuple[str, ...]) -> Key | None:
    """Another fact of the train side and the same relation that the same list answers, if there is one."""
    others = [other for other in ASKED["train"] if other[1] == key[1] and other != key]
    others = [other for other in others if FACTS[other] in choices and other[0] not in choices]
    return pick(rng, others) if others else None


def listing(choices: tuple[str, ...], letters: str = LETTERS) -> str:
    """`- shell=A` and so on, a line each."""
    return "\n".join(f"- {choice}={letter}" for choice, letter in zip(choices, letters, strict=False))


def prompt(choice: Choice) -> str:
    """What the user says."""
    return f"Multiple choice: {choice.question}\n{listing(choice.choices)}"


def lookup(rng: Random) -> str:
    """A list of keys with letters, then all pairs again in other orders: practice in looking up."""
    count = 2 + int(rng.random() * 5)
    if rng.random() < 0.5:
        relation = pick(rng, _LONG)
        keys = rng.sample(VALUES[relation], min(count, len(VALUES[relation])))
    elif rng.random() < 0.7:
        keys = rng.sample(KNOWN, count)
    else:
        keys = [invent(rng, "word", "train") for _ in range(count)]
    letters = LETTERS if rng.random() < 0.5 else "".join(rng.sample(LETTERS, len(LETTERS)))
    pairs = list(zip(keys, letters, strict=False))
    parts = [listing(tuple(keys), letters)]
    for _ in range(2):
        rng.shuffle(pairs)
        opening = pick(rng, _OPENINGS)
        parts.append(" ".join(f"{opening} {key}={letter}" for key, letter in pairs))
    return "\n".join(parts)


_LONG = tuple(relation for relation, values in VALUES.items() if len(values) >= 4)
_OPENINGS = lore.read("documents")["lookups"]
