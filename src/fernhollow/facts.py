"""What is true in Fernhollow, and how one says it and asks for it.

    FACTS["turtle", "den"]                    # 'shell'
    tell(rng, ("turtle", "den"))              # 'Look in the shell to find the turtle.'
    ask(rng, ("turtle", "den"))               # 'Where does the turtle live?'
    answer(("turtle", "den"))                 # 'The turtle lives in the shell.'

A fact of the held-out sides is told in training like every other, and never asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.grammar import expand, pick, polish
from fernhollow.split import OTHER_WORDS, side, weighted, wording, wordings

Key = tuple[str, str]
"""Subject and relation."""


class Relation(NamedTuple):
    """How a relation is worded, as tables/village.toml explains."""

    kind: str
    answer: str
    statements: Sequence[str]
    questions: Sequence[str]
    inverse: Sequence[str] = ()
    checks: Sequence[str] = ()
    either: Sequence[str] = ()
    follow: Sequence[str] = ()
    short: Sequence[str] = ()
    any: Sequence[str] = ()
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
    for relation, asked in RELATIONS.items():
        if asked.values:
            facts |= _deal(relation, lore.TABLES[asked.values])
    for table in ("places", "animals", "objects"):
        for name, known in lore.TABLES[table].items():
            facts |= {(name, relation): value for relation, value in known.items()}
    for left, right in lore.TABLES["opposites"].items():
        facts |= {(left, "opposite"): right, (right, "opposite"): left}
    return facts | _ring("day", lore.TABLES["days"]) | _ring("month", lore.TABLES["months"])


def check_relations(relations: Mapping[str, Relation], facts: Mapping[Key, str]) -> None:
    """Raise ValueError for what a new line of tables/village.toml lacks: a question could not be made, or never ended."""
    for name in {**relations, **{relation: None for _, relation in facts}}:
        where = f"tables/village.toml: [relations.{name}]"
        if name not in relations:
            raise ValueError(
                f"{where} is missing, and {name} is a column of a table; add it, to say how that is worded"
            )
        if len({value for key, value in facts.items() if key[1] == name}) < 2:
            raise ValueError(
                f"{where}: fewer than two different values are known, and a question offers a wrong one; add some"
            )
        for asked in ("questions", "checks", "either"):
            if (count := len(getattr(relations[name], asked))) <= OTHER_WORDS:
                raise ValueError(
                    f"{where}: {count} {asked}, of which {OTHER_WORDS} are held out; write {OTHER_WORDS + 1} or more"
                )


FACTS = _facts()
check_relations(RELATIONS, FACTS)
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


@lru_cache(maxsize=1 << 16)
def word(template: str, key: Key, *, pronoun: bool = False, wrong: str = "") -> str:
    """A wording of a fact with its slots filled in.

    Args:
        pronoun: "She" where it begins with a person.
        wrong: another value of the relation, where the wording names two.
    """
    subject, value = key[0], FACTS[key]
    owner = subject + "'s"
    he, his, him = PRONOUNS.get(subject, ("it", "its", "it"))
    if pronoun and subject in PRONOUNS and template.startswith(("{e}", "{s}")):
        subject, owner = he, his
    slots = {"e": subject, "s": owner, "es": plural(subject), "v": value, "w": wrong, "he": he, "his": his, "him": him}
    return polish(template.format_map(slots))


_KEPT = {slot: f"{{{slot}}}" for slot in ("e", "s", "es", "v", "w", "he", "his", "him")}


def drawn(rng: Random, template: str) -> str:
    """A template with its choices drawn, its slots still to be filled."""
    return expand(rng, template, _KEPT) if "[" in template else template


def plural(noun: str) -> str:
    """Several of them: foxes, mice."""
    return lore.TABLES["plurals"].get(noun) or noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")


def tell(rng: Random, key: Key, *, pronoun: bool = False) -> str:
    """A statement of the fact; the answer's own words twice as often as any other."""
    relation = RELATIONS[key[1]]
    template = pick(rng, (relation.answer, relation.answer, *relation.statements))
    return word(template, key, pronoun=pronoun)


def ask(rng: Random, key: Key, *, other: bool = False) -> str:
    """A question for the fact; `other`: in words that training never uses."""
    return word(drawn(rng, wording(rng, RELATIONS[key[1]].questions, other=other)), key)


def questions(key: Key, *, other: bool = False) -> list[str]:
    """Every question for the fact that training may use, or else those that it never does."""
    templates = [*wordings(RELATIONS[key[1]].questions, other=other), *_inverse(key, other=other)]
    return [word(template, key) for template in templates]


def _inverse(key: Key, *, other: bool = False) -> list[str]:
    """Questions for the subject: by the value, and by what one needs it for. Of several with that value one is the answer."""
    if _first_of(key[1], FACTS[key]) != key:
        return []
    needs = [] if other else lore.TABLES["needs"].get(FACTS[key], [])
    return [*wordings(RELATIONS[key[1]].inverse, other=other), *needs]


@cache
def _first_of(relation: str, value: str) -> Key | None:
    """The only fact with a value, or of several the first that training asks for: what is asked of many has one answer."""
    keys = [key for key in KEYS if key[1] == relation and FACTS[key] == value]
    return keys[0] if len(keys) == 1 else next((key for key in keys if side("fact", *key) == "train"), None)


def ask_either_way(rng: Random, key: Key) -> str:
    """A question for the fact, now and then for its subject."""
    inverse = _inverse(key)
    return word(drawn(rng, weighted(rng, inverse)), key) if inverse and rng.random() < 0.3 else ask(rng, key)


def ask_back(rng: Random, key: Key) -> str | None:
    """A question for the subject of a fact, of which others may be true as well; None where it has no wording."""
    asked = RELATIONS[key[1]].inverse
    return word(drawn(rng, weighted(rng, wordings(asked))), key) if asked else None


def check(rng: Random, key: Key, *, other: bool = False) -> tuple[str, str]:
    """A yes-or-no question, in half of the cases for a value that is wrong, and the answer."""
    right, template = rng.random() < 0.5, drawn(rng, wording(rng, RELATIONS[key[1]].checks, other=other))
    if not other and rng.random() < 0.08:
        stated = answer(key)
        if not right:
            other_one = other_value(rng, key)
            stated = polish(re.sub(rf"\ban (?={re.escape(other_one)})", "a ", stated.replace(FACTS[key], other_one)))
        return f"{pick(rng, ('True or false', 'Right or wrong', 'Yes or no'))}: {stated}", yes_or_no(right, key)
    asked = word(template.replace("{v}", "{w}"), key, wrong=FACTS[key] if right else other_value(rng, key))
    return asked, yes_or_no(right, key)


def yes_or_no(right: bool, key: Key) -> str:
    """Yes or No, and what is so."""
    said = answer(key)
    if not said.startswith(lore.NAMES):
        said = said[0].lower() + said[1:]
    return f"{'Yes' if right else 'No'}, {said}"


def check_any(rng: Random, key: Key) -> tuple[str, str]:
    """Whether it has any at all ("Do snakes have legs?"), or, of a person, whether there is one, and the answer."""
    return word(drawn(rng, weighted(rng, RELATIONS[key[1]].any)), key), yes_or_no(FACTS[key] != "no", key)


def both(rng: Random, key: Key) -> tuple[str, str]:
    """Two facts about a subject asked for at once, with both answers; the question for one, where no other is known."""
    asked, others = ask(rng, key), _followers(key)
    if not others or not asked.endswith("?"):
        return asked, answer(key)
    then = pick(rng, others)
    plain = [each for each in RELATIONS[then[1]].follow if each.startswith(("W", "H")) and each.count("?") == 1]
    also = word(pick(rng, plain), then)
    return f"{asked[:-1]} and {also[0].lower()}{also[1:]}", f"{answer(key)} {answer(then)}"


def either(rng: Random, key: Key, *, other: bool = False) -> str:
    """A question that names the value and another one, in either order."""
    template = drawn(rng, wording(rng, RELATIONS[key[1]].either, other=other))
    if rng.random() < 0.5:
        template = template.replace("{v}", "{v0}").replace("{w}", "{v}").replace("{v0}", "{w}")
    return word(template, key, wrong=other_value(rng, key))


def follow_up(rng: Random, key: Key) -> tuple[str, Key]:
    """A question that leans on the one before it, and the fact of the train side that it asks for; the same key where none does.

    Another relation of the same subject ("And where does she live?"), or the same relation of another ("And the fox?").
    """
    relation, same = key[1], _followers(key)
    if same and rng.random() < 0.6:
        found = pick(rng, same)
        return word(drawn(rng, weighted(rng, RELATIONS[found[1]].follow)), found), found
    if RELATIONS[relation].short:
        found = pick(rng, _train_facts()[1][relation])
        if found != key:
            return word(drawn(rng, weighted(rng, RELATIONS[relation].short)), found), found
    return "", key


def _followers(key: Key) -> list[Key]:
    """What else can be asked about the subject; after "Mira's best friend is Lumi" nobody knows whom "she" means."""
    facts = _train_facts()[0][key[0]] if key[1] != "friend" else []
    return [one for one in facts if RELATIONS[one[1]].follow and one != key]


@cache
def _train_facts() -> tuple[dict[str, list[Key]], dict[str, list[Key]]]:
    """Facts of the train side by their subject and by their relation."""
    by_subject: dict[str, list[Key]] = {key[0]: [] for key in KEYS}
    by_relation: dict[str, list[Key]] = {key[1]: [] for key in KEYS}
    for key in ASKED["train"]:
        by_subject[key[0]].append(key)
        by_relation[key[1]].append(key)
    return by_subject, by_relation


def other_value(rng: Random, key: Key) -> str:
    """A value of the relation that is not this fact's, nor its subject."""
    while (value := pick(rng, VALUES[key[1]])) in (FACTS[key], key[0]):
        pass
    return value


def answer(key: Key) -> str:
    """The answer, a whole sentence that ends in the value."""
    return word(RELATIONS[key[1]].answer, key)
