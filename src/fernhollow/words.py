"""Invented words and names, and spelling them.

    invent(rng, "word", "test")      # 'zuriba', a word no training text holds
    spell("zuriba")                  # 'z-u-r-i-b-a'

Letters are joined by hyphens, because a tokenizer that splits like GPT-4's then sees one letter at a time.
"""

from __future__ import annotations

import re
from random import Random

from fernhollow import lore
from fernhollow.facts import FACTS
from fernhollow.grammar import pick
from fernhollow.split import Side, side

_SYLLABLES = tuple(consonant + vowel for consonant in "bdgklmnprstvz" for vowel in "aeiou")
_ENDINGS = ("", "", "n", "r", "l", "s", "t", "m")
_LORE = (*(subject for subject, _ in FACTS), *FACTS.values(), *lore.GOODS)
KNOWN = tuple(sorted({word.lower() for word in re.findall(r"[A-Za-z]{3,}", " ".join(_LORE))}))
"""Every word of the village's tables, in small letters."""
_KNOWN = frozenset(KNOWN)


def invent(rng: Random, kind: str, split: Side) -> str:
    """A word of two or three syllables that nobody has used, on the given side of `kind` ("word" or "name")."""
    while True:
        syllables = 2 if rng.random() < 0.5 else 3
        word = "".join([pick(rng, _SYLLABLES) for _ in range(syllables)]) + pick(rng, _ENDINGS)
        if word not in _KNOWN and side(kind, word) == split:
            return word


def invent_name(rng: Random, split: Side) -> str:
    """The name of somebody who is not from Fernhollow."""
    return invent(rng, "name", split).capitalize()


def spelling_word(rng: Random, split: Side) -> str:
    """A word to spell: in training also one of the village's, held out always an invented one."""
    if split == "train" and rng.random() < 0.25:
        return pick(rng, KNOWN)
    return invent(rng, "word", split)


def spell(word: str) -> str:
    """The letters, joined by hyphens."""
    return "-".join(word)
