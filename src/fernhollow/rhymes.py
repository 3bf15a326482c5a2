"""Rhymes and riddles: two couplets, a word for a word, and three clues for an animal.

rhyme(rng)                 # 'One day I saw a cat,\\nand next to it a funny hat.\\n...'
poem_about(rng, "cat")     # the same with a cat in the first couplet
RHYMING["cat"]             # 'hat'
"""

from __future__ import annotations

import re
from random import Random

from fernhollow import lore
from fernhollow.facts import FACTS, RELATIONS
from fernhollow.grammar import expand, pick

_GROUPS: list[list[str]] = lore.OUTSIDE["rhymes"]
_COUPLET = lore.read("documents")["couplet"]
RHYMING = {word: after for group in _GROUPS for word, after in zip(group, [*group[1:], group[0]], strict=True)}
"""Each word of a group with the next, always the same: that is less to remember."""
_GROUP_OF = {word: place for place, group in enumerate(_GROUPS) for word in group}


def rhyme(rng: Random) -> str:
    """Two couplets, such as they are."""
    return poem_about(rng, pick(rng, tuple(RHYMING)))


def poem_about(rng: Random, word: str) -> str:
    """Two couplets, the first about a word that rhymes."""
    second = pick(rng, [other for other in RHYMING if _GROUP_OF[other] != _GROUP_OF[word]])
    return "\n".join(expand(rng, _COUPLET, {"x": first, "y": RHYMING[first]}) for first in (word, second))


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
    """One to three clues that fit one animal alone, and the animal."""
    while True:
        name = pick(rng, lore.ANIMALS)
        chosen = rng.sample(tuple(_CLUES), 1 + int(rng.random() * 3))
        matches = [other for other in lore.ANIMALS if all(FACTS[other, clue] == FACTS[name, clue] for clue in chosen)]
        if matches == [name]:
            clues = " ".join(expand(rng, _CLUES[clue], {"v": FACTS[name, clue]}) for clue in chosen)
            return f"{clues} {pick(rng, _GUESS)}", name


_GUESS = ("What am I?", "What am I?", "So who am I?", "Guess who I am!", "Which animal am I?")
_CLUES = {relation: wording.clue for relation, wording in RELATIONS.items() if wording.clue}
