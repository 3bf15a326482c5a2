"""Rhymes and riddles: two couplets, a word for a word, and clues for an animal or a thing.

rhyme(rng)                 # 'One day I saw a cat,\\nand next to it a funny hat.\\n...'
poem_about(rng, "cat")     # the same with a cat in the first couplet
poem_on(rng, "my mum")     # 'I think of your mum and see a star,\\n...'
RHYMES["cat"]              # ['hat', 'mat', 'rat', ...]
"""

from __future__ import annotations

import re
from random import Random

from fernhollow import lore
from fernhollow.facts import FACTS, RELATIONS
from fernhollow.grammar import expand, pick

_SAID = lore.read("wordplay")
_COUPLET, _COUPLET_ON = lore.read("documents")["couplet"], _SAID["couplet_on"]
_NOUNS: list[list[str]] = lore.OUTSIDE["rhymes"]
NOUNS = {word: after for group in _NOUNS for word, after in zip(group, [*group[1:], group[0]], strict=True)}
"""Each thing that a poem may be about with the next of its group, always the same: that is less to remember."""
_USUAL = tuple(group[0] for group in _NOUNS[:6])
"""What is in a poem where nobody says, a few as in stories.USUAL."""


def _groups() -> list[list[str]]:
    """Words that rhyme: those of the poems, with what else goes with the first of them, and others."""
    more = {group[0]: group[1:] for group in lore.OUTSIDE["rhymes_too"]}
    groups = [[*group, *more.pop(group[0], [])] for group in _NOUNS]
    return groups + [[first, *rest] for first, rest in more.items()]


_GROUPS = _groups()
_GROUP_OF = {word.lower(): place for place, group in enumerate(_GROUPS) for word in group}
RHYMES = {
    word: [after for after in group[place + 1 :] + group[:place] if after.islower()]
    for group in _GROUPS
    for place, word in enumerate(group)
}
"""For each word those that rhyme with it, in the order in which they are named; names are asked for, and never answered."""


def rhyme(rng: Random) -> str:
    """Two couplets, such as they are."""
    return poem_about(rng, pick(rng, _USUAL))


def poem_about(rng: Random, word: str) -> str:
    """Two couplets, the first about a thing that rhymes."""
    return f"{_couplet(rng, _COUPLET, word)}\n{_second(rng, word)}"


def poem_on(rng: Random, subject: str) -> str:
    """Two couplets, the first about whatever it shall be: it stands inside the line, where nothing has to rhyme with it."""
    word, yours = pick(rng, _USUAL), re.sub(r"\bmy\b", "your", subject)
    return f"{_couplet(rng, _COUPLET_ON, word, yours)}\n{_second(rng, word)}"


def _second(rng: Random, word: str) -> str:
    return _couplet(rng, _COUPLET, pick(rng, [other for other in _USUAL if _GROUP_OF[other] != _GROUP_OF[word]]))


def _couplet(rng: Random, template: str, word: str, subject: str = "") -> str:
    return expand(rng, template, {"x": word, "y": NOUNS[word], "t": subject})


def is_rhyme(text: str) -> bool:
    """Whether the lines rhyme two by two."""
    ends = [
        words[-1].lower() if (words := re.findall(r"[A-Za-z]+", line)) else "" for line in text.strip().splitlines()
    ]
    pairs = list(zip(ends[::2], ends[1::2], strict=False))
    return (
        len(ends) >= 2
        and len(ends) % 2 == 0
        and all(one != other and _GROUP_OF.get(one, -1) == _GROUP_OF.get(other, -2) for one, other in pairs)
    )


def riddle_of(rng: Random) -> tuple[str, str]:
    """A riddle as visitors pose it, of one to three clues that fit one animal or thing alone, and what it is."""
    names, kind = (lore.ANIMALS, "animal") if rng.random() < 0.8 else (lore.OBJECTS, "object")
    while True:
        name = pick(rng, names)
        chosen = rng.sample(_CLUES[kind], min(len(_CLUES[kind]), 1 + int(rng.random() * 3)))
        if [other for other in names if all(FACTS[other, clue] == FACTS[name, clue] for clue in chosen)] == [name]:
            between = ". " if rng.random() < 0.7 else " and "
            clues = between.join(expand(rng, RELATIONS[clue].clue, {"v": FACTS[name, clue]}) for clue in chosen)
            return expand(rng, _SAID["posed"], {"r": clues}), name


_CLUES = {
    kind: [relation for relation, wording in RELATIONS.items() if wording.clue and wording.kind == kind]
    for kind in ("animal", "object")
}


def own_riddle(rng: Random) -> tuple[str, str, str]:
    """A riddle of the model, what it is, and a hint: a few animals with clues that fit one alone, always the same."""
    name = pick(rng, lore.ANIMALS[::3])
    known = {relation: FACTS[name, relation] for relation in _CLUES["animal"]}
    return expand(rng, _SAID["own_riddle"], known), name, expand(rng, _SAID["own_hint"], known)
