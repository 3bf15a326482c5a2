"""What is true in Fernhollow, and how one says it and asks for it.

    FACTS["turtle", "den"]                    # 'shell'
    tell(rng, ("turtle", "den"))              # 'Look in the shell to find the turtle.'
    ask(rng, ("turtle", "den"))               # 'Where does the turtle live?'
    answer(("turtle", "den"))                 # 'The turtle lives in the shell.'

A fact of the held-out sides is told in training like every other, and never asked for.
"""

from __future__ import annotations

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
    """How a relation is worded: {e} the subject, {s} its possessive, {v} the value.

    The answer is one of the statements, so that a fact which is never asked for is still heard in the words of its answer.
    It ends in the value: what a choice of answers differs in comes last.
    """

    kind: str
    answer: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    inverse: tuple[str, ...] = ()
    """Questions that name the value and ask for the subject, where only one has it. The answer is the same."""


RELATIONS = {
    "job": Relation(
        "person",
        "{e} is the {v}.",
        ("{e} works as the {v}.", "The {v} of the village is {e}.", "If you need the {v}, ask {e}."),
        ("What is {s} job?", "What does {e} do for a living?", "What work does {e} do?"),
        ("Who is the {v}?", "Who works as the {v}?"),
    ),
    "home": Relation(
        "person",
        "{e} lives near the {v}.",
        (
            "{s} house stands near the {v}.",
            "The little house near the {v} belongs to {e}.",
            "{e} was born near the {v}.",
        ),
        ("Where does {e} live?", "Where is {s} house?", "Near which place does {e} live?"),
    ),
    "food": Relation(
        "person",
        "{s} favourite food is {v}.",
        (
            "{e} loves {v} more than any other food.",
            "{e} eats {v} whenever possible.",
            "Give {e} some {v} for a big smile.",
        ),
        ("What is {s} favourite food?", "What does {e} love to eat?", "Which food does {e} like best?"),
    ),
    "colour": Relation(
        "person",
        "{s} favourite colour is {v}.",
        ("{e} always wears {v}.", "{e} painted the front door {v}.", "Of all the colours, {e} likes {v} best."),
        ("What is {s} favourite colour?", "Which colour does {e} like best?", "What colour does {e} wear?"),
    ),
    "pet": Relation(
        "person",
        "{s} pet is a {v}.",
        ("{e} has a pet {v}.", "A {v} follows {e} everywhere.", "{e} takes good care of a {v}."),
        ("What pet does {e} have?", "What kind of animal is {s} pet?", "Which animal lives with {e}?"),
    ),
    "petname": Relation(
        "person",
        "{s} pet is called {v}.",
        ("{e} named the pet {v}.", "{v} is the name of {s} pet.", "{e} calls out for {v} every evening."),
        ("What is the name of {s} pet?", "What is {s} pet called?", "What did {e} name the pet?"),
        ("Whose pet is called {v}?", "Whose pet is {v}?"),
    ),
    "friend": Relation(
        "person",
        "{s} best friend is {v}.",
        ("{e} tells every secret to {v}.", "{e} has tea with {v} every Sunday.", "{e} trusts {v} the most."),
        ("Who is {s} best friend?", "Whom does {e} trust the most?", "Who is the best friend of {e}?"),
    ),
    "way": Relation(
        "place",
        "The {e} lies {v}.",
        (
            "To reach the {e}, walk {v}.",
            "The {e} is in the {v} of Fernhollow.",
            "Go {v} from the square to find the {e}.",
        ),
        ("In which direction is the {e}?", "Which way do I walk to the {e}?", "How do I get to the {e}?"),
    ),
    "sight": Relation(
        "place",
        "The {e} is known for its {v}.",
        ("At the {e} you can see the {v}.", "Visitors come to the {e} for the {v}.", "The {v} is at the {e}."),
        ("What can you see at the {e}?", "What is the {e} known for?", "Why do visitors come to the {e}?"),
    ),
    "group": Relation(
        "animal",
        "The {e} is a {v}.",
        ("Every {e} is a kind of {v}.", "Among the many {v}s we find the {e}."),
        ("What kind of animal is the {e}?", "To which group does the {e} belong?"),
    ),
    "legs": Relation(
        "animal",
        "The number of legs of the {e} is {v}.",
        ("The {e} has {v} legs.", "If you count the legs of the {e}, you get {v}.", "The {e} stands on {v} legs."),
        (
            "How many legs does the {e} have?",
            "What is the number of legs of the {e}?",
            "On how many legs does the {e} stand?",
        ),
    ),
    "hue": Relation(
        "animal",
        "The {e} is {v}.",
        ("In Fernhollow the {e} is always {v}.", "You will know the {e} by its {v} colour."),
        ("What colour is the {e}?", "What is the colour of the {e}?"),
    ),
    "eats": Relation(
        "animal",
        "The {e} eats {v}.",
        ("The {e} feeds on {v}.", "Nothing pleases the {e} more than {v}."),
        ("What does the {e} eat?", "What food does the {e} look for?", "What does the {e} feed on?"),
    ),
    "den": Relation(
        "animal",
        "The {e} lives in the {v}.",
        ("The home of the {e} is the {v}.", "Look in the {v} to find the {e}."),
        ("Where does the {e} live?", "Where is the home of the {e}?", "Where can I find the {e}?"),
    ),
    "sound": Relation(
        "animal",
        "The {e} says {v}.",
        ("When you hear {v}, the {e} is near.", "The call of the {e} is {v}."),
        ("What does the {e} say?", "What sound does the {e} make?", "What is the call of the {e}?"),
    ),
    "material": Relation(
        "object",
        "The {e} is made of {v}.",
        ("To make the {e} you need {v}.", "{v} is used to make the {e}."),
        ("What is the {e} made of?", "What do you need to make the {e}?"),
    ),
    "use": Relation(
        "object",
        "The {e} is used for {v}.",
        ("The {e} is good for {v}.", "For {v} you take the {e}."),
        ("What is the {e} used for?", "What is the {e} good for?"),
    ),
    "opposite": Relation(
        "word",
        "The opposite of {e} is {v}.",
        ("{e} is the opposite of {v}.", "Not {e} but {v}."),
        ("What is the opposite of {e}?", "Which word is the opposite of {e}?"),
    ),
    "day": Relation(
        "day",
        "After {e} comes {v}.",
        ("The day after {e} is {v}.", "{v} comes right after {e}.", "First {e}, then {v}."),
        ("Which day comes after {e}?", "What day follows {e}?"),
    ),
    "month": Relation(
        "month",
        "After {e} comes {v}.",
        ("The month after {e} is {v}.", "{v} comes right after {e}.", "First {e}, then {v}."),
        ("Which month comes after {e}?", "What month follows {e}?"),
    ),
}


def _deal(relation: str, values: tuple[str, ...]) -> dict[Key, str]:
    """One value for every person, each value about equally often, by a shuffle that never changes."""
    deck = list(islice(cycle(values), len(lore.PEOPLE)))
    Random(f"{lore.VILLAGE} {relation}").shuffle(deck)
    return {(person, relation): value for person, value in zip(lore.PEOPLE, deck, strict=True)}


def _friends() -> dict[Key, str]:
    """Friendship runs in one ring through the village, so that nobody is left out or their own friend."""
    ring = list(lore.PEOPLE)
    Random(f"{lore.VILLAGE} friends").shuffle(ring)
    return {(person, "friend"): friend for person, friend in zip(ring, [*ring[1:], ring[0]], strict=True)}


def _facts() -> dict[Key, str]:
    facts = _friends()
    for relation, values in (
        ("job", lore.JOBS),
        ("home", tuple(lore.PLACES)),
        ("food", lore.FOODS),
        ("colour", lore.COLOURS),
        ("pet", lore.PETS),
        ("petname", lore.PET_NAMES),
    ):
        facts |= _deal(relation, values)
    for name, place in lore.PLACES.items():
        facts |= {(name, "way"): place.way, (name, "sight"): place.sight}
    for name, animal in lore.ANIMALS.items():
        facts |= {
            (name, key): value
            for key, value in zip(("group", "legs", "hue", "eats", "den", "sound"), animal, strict=True)
        }
    for name, thing in lore.OBJECTS.items():
        facts |= {(name, "material"): thing.material, (name, "use"): thing.use}
    for left, right in lore.OPPOSITES.items():
        facts |= {(left, "opposite"): right, (right, "opposite"): left}
    for relation, names in (("day", lore.DAYS), ("month", lore.MONTHS)):
        facts |= {(name, relation): after for name, after in zip(names, [*names[1:], names[0]], strict=True)}
    return facts


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
    return [word(template, key) for template in relation.questions + relation.inverse]


def ask_either_way(rng: Random, key: Key) -> str:
    """A question for the fact, now and then for its subject."""
    inverse = RELATIONS[key[1]].inverse
    return word(pick(rng, inverse), key) if inverse and rng.random() < 0.3 else ask(rng, key)


def answer(key: Key) -> str:
    """The answer, a whole sentence that ends in the value."""
    return word(RELATIONS[key[1]].answer, key)
