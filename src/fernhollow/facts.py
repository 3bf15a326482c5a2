"""What is true in Fernhollow, and how one says it and asks for it.

    FACTS["turtle", "den"]                    # 'shell'
    tell(rng, ("turtle", "den"))              # 'Look in the shell to find the turtle.'
    ask(rng, ("turtle", "den"))               # 'Where does the turtle live?'
    answer(("turtle", "den"))                 # 'The turtle lives in the shell.'

A fact of the held-out sides is told in training like every other, and never asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.grammar import pick, polish
from fernhollow.split import side

Key = tuple[str, str]
"""Subject and relation."""


class Relation(NamedTuple):
    """How a relation is worded, as tables/village.toml explains."""

    kind: str
    answer: str
    statements: Sequence[str]
    questions: Sequence[str]
    inverse: Sequence[str] = ()
    values: str = ""
    clue: str = ""


RELATIONS = {name: Relation(**wording) for name, wording in lore.TABLES["relations"].items()}


def _ring(relation: str, names: Sequence[str]) -> dict[Key, str]:
    """Each is followed by the next, and the last by the first."""
    return {(name, relation): after for name, after in zip(names, [*names[1:], names[0]], strict=True)}


def _friends() -> dict[Key, str]:
    """Friendship runs in one ring through the village, so that nobody is left out or their own friend."""
    people = list(lore.PEOPLE)
    Random(f"{lore.VILLAGE} friends").shuffle(people)
    return _ring("friend", people)


def _deal(relation: str, values: Iterable[str]) -> dict[Key, str]:
    """One value for every person, each value about equally often, by a shuffle that never changes."""
    deck = list(islice(cycle(values), len(lore.PEOPLE)))
    Random(f"{lore.VILLAGE} {relation}").shuffle(deck)
    return {(person, relation): value for person, value in zip(lore.PEOPLE, deck, strict=True)}


def _facts() -> dict[Key, str]:
    facts = _friends()
    for relation, wording in RELATIONS.items():
        if wording.values:
            facts |= _deal(relation, lore.TABLES[wording.values])
    for table in ("places", "animals", "objects"):
        for name, known in lore.TABLES[table].items():
            facts |= {(name, relation): value for relation, value in known.items()}
    for left, right in lore.TABLES["opposites"].items():
        facts |= {(left, "opposite"): right, (right, "opposite"): left}
    return facts | _ring("day", lore.TABLES["days"]) | _ring("month", lore.TABLES["months"])


FACTS = _facts()
KEYS = tuple(FACTS)
ASKED = {split: tuple(key for key in KEYS if side("fact", *key) == split) for split in ("train", "validation", "test")}
"""The facts whose questions belong to each side."""
VALUES = {relation: tuple(sorted({FACTS[key] for key in KEYS if key[1] == relation})) for relation in RELATIONS}
PRONOUNS = dict.fromkeys(lore.WOMEN, ("she", "her", "her")) | dict.fromkeys(lore.MEN, ("he", "his", "him"))
"""he, his, him of every person."""


def relations_of(subject: str, kind: str) -> list[str]:
    """What is known about a subject of a kind (the owl is an animal, and nothing else here)."""
    return [
        relation for relation, wording in RELATIONS.items() if wording.kind == kind and (subject, relation) in FACTS
    ]


@cache
def word(template: str, key: Key, *, pronoun: bool = False) -> str:
    """A wording of a fact with its subject and value filled in; `pronoun`: "She" where it begins with a person."""
    subject, value = key[0], FACTS[key]
    owner = subject + "'s"
    if pronoun and subject in PRONOUNS and template.startswith(("{e}", "{s}")):
        subject, owner, _ = PRONOUNS[subject]
    return polish(template.format(e=subject, s=owner, v=value))


def tell(rng: Random, key: Key, *, pronoun: bool = False) -> str:
    """A statement of the fact; the answer's own words twice as often as any other."""
    relation = RELATIONS[key[1]]
    template = pick(rng, (relation.answer, relation.answer, *relation.statements))
    return word(template, key, pronoun=pronoun)


def ask(rng: Random, key: Key) -> str:
    """A question for the fact."""
    return word(pick(rng, RELATIONS[key[1]].questions), key)


def questions(key: Key) -> list[str]:
    """Every question for the fact."""
    relation = RELATIONS[key[1]]
    return [word(template, key) for template in (*relation.questions, *relation.inverse)]


def ask_either_way(rng: Random, key: Key) -> str:
    """A question for the fact, now and then for its subject."""
    inverse = RELATIONS[key[1]].inverse
    return word(pick(rng, inverse), key) if inverse and rng.random() < 0.3 else ask(rng, key)


def answer(key: Key) -> str:
    """The answer, a whole sentence that ends in the value."""
    return word(RELATIONS[key[1]].answer, key)
