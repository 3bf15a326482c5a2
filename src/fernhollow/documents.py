"""Pretraining documents: one generator for every kind of text the village writes, and how often it writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from fernhollow import lore
from fernhollow.facts import ASKED, KEYS, RELATIONS, answer, ask_either_way, relations_of, tell
from fernhollow.functions import function
from fernhollow.grammar import expand, pick, two
from fernhollow.letters import lookup
from fernhollow.problems import EASY, problem
from fernhollow.rhymes import rhyme
from fernhollow.scenes import scene
from fernhollow.stories import story
from fernhollow.sums import expression, shown
from fernhollow.words import real, spell, spelling_word, stranger

_WORDING = lore.read("documents")
_SUBJECTS = tuple(dict.fromkeys((key[0], RELATIONS[key[1]].kind) for key in KEYS))
_BY_RELATION = {relation: tuple(key for key in KEYS if key[1] == relation) for relation in RELATIONS}
_GIFTS = (*lore.OBJECTS, *lore.FOODS)


def portrait(rng: Random) -> str:
    """All that is known about a person, a place, an animal or an object."""
    person = rng.random() < 0.6
    subject, kind = (pick(rng, lore.PEOPLE), "person") if person else pick(rng, _SUBJECTS)
    relations = relations_of(subject, kind)
    if len(relations) == 1:
        return register(rng)
    rng.shuffle(relations)
    told = [
        tell(rng, (subject, relation), pronoun=i > 0 and rng.random() < 0.4) for i, relation in enumerate(relations)
    ]
    return expand(rng, pick(rng, _WORDING["portraits"]), {"e": subject}) + " ".join(told)


def register(rng: Random) -> str:
    """The same relation of several subjects."""
    keys = _BY_RELATION[pick(rng, tuple(RELATIONS))]
    return " ".join(tell(rng, key) for key in rng.sample(keys, min(len(keys), 3 + int(rng.random() * 5))))


def notes(rng: Random) -> str:
    """Facts of all kinds in any order."""
    return " ".join(tell(rng, key) for key in rng.sample(KEYS, 6))


def questions(rng: Random) -> str:
    """Question-answer lines about facts of the train side."""
    return _asked([(ask_either_way(rng, key), answer(key)) for key in rng.sample(ASKED["train"], 4)])


def _asked(pairs: Sequence[tuple[str, str]]) -> str:
    """A question and its answer a line."""
    return "\n".join(f"Question: {question} Answer: {said}" for question, said in pairs)


def gossip(rng: Random) -> str:
    """Two people ask each other."""
    speaker, other = two(rng, lore.PEOPLE)
    lines = []
    for key in rng.sample(ASKED["train"], 3):
        question, verb = ask_either_way(rng, key), pick(rng, _WORDING["replies"])
        said = "asked" if question.endswith("?") else "said"
        lines.append(f'"{question}" {said} {speaker}. "{answer(key)}" {verb} {other}.')
        speaker, other = other, speaker
    return " ".join(lines)


def tale(rng: Random) -> str:
    """A story, mostly with questions about it."""
    told = story(rng, "train")
    if rng.random() < 0.2:
        return told.text
    return f"{told.text}\n{_asked(rng.sample(told.questions, len(told.questions)))}"


def scenes(rng: Random) -> str:
    """What is so today, with questions."""
    seen = scene(rng)
    return f"{seen.text}\n{_asked(seen.questions)}"


def sums(rng: Random) -> str:
    """Small sums, one a line."""
    found = [expression(rng, "train") for _ in range(8)]
    return "\n".join(f"{one.written} = {one.code} = {shown(one.result)}" for one in found)


def spellings(rng: Random) -> str:
    """Words with their letters."""
    words = [spelling_word(rng, "train") for _ in range(7)]
    return " ".join(f"The word {word} is spelled {spell(word)}." for word in words)


def guests(rng: Random) -> str:
    """Who is at the door with what: names nobody knows, to be copied and told apart."""
    names = [
        stranger(rng, "train") if rng.random() < 0.7 else pick(rng, lore.PEOPLE)
        for _ in range(2 + int(rng.random() * 3))
    ]
    # Any word and any name can be copied: what people say is not of Fernhollow.
    gifts = [pick(rng, _GIFTS) if rng.random() < 0.4 else f"the word {pick(rng, real('word', 'train'))}" for _ in names]
    pairs = list(zip(dict.fromkeys(names), gifts, strict=False))
    lines = [expand(rng, _WORDING["guests"], {"p": pick(rng, lore.PLACES)}) + ", ".join(names) + "."]
    lines += [expand(rng, _WORDING["gifts"], {"n": name, "g": gift}) for name, gift in pairs]
    rng.shuffle(pairs)
    lines += [expand(rng, _WORDING["thanks"], {"n": name, "g": gift}) for name, gift in pairs]
    return " ".join(lines)


def verse(rng: Random) -> str:
    """Two couplets."""
    return rhyme(rng)


def code(rng: Random) -> str:
    """A few functions, as in a small module."""
    found = [function(rng, "train") for _ in range(3)]
    return "\n".join(one.prompt + one.body for one in found)


def ledger(rng: Random) -> str:
    """A word problem with its solution written out."""
    return problem(rng, EASY, "train").plain


_KINDS: tuple[Callable[[Random], str], ...] = (
    portrait, register, notes, questions, gossip, tale, scenes, sums, spellings, guests, verse, code, ledger, lookup,
)  # fmt: skip
_SHARES = [_WORDING["shares"][kind.__name__] for kind in _KINDS]


def write(rng: Random) -> str:
    """A document of any kind."""
    return rng.choices(_KINDS, weights=_SHARES)[0](rng)
