"""Words and names, real and invented, and spelling them.

    invent(rng, "word", "test")      # 'zuriba', a word no training text holds
    stranger(rng, "train")           # 'Sophia', or 'Zuriba': somebody who is not from Fernhollow
    spell("zuriba")                  # 'z-u-r-i-b-a'

Letters are joined by hyphens, because a tokenizer that splits like GPT-4's then sees one letter at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from random import Random

from fernhollow import lore
from fernhollow.facts import FACTS, PRONOUNS
from fernhollow.grammar import pick
from fernhollow.split import Side, side

_SYLLABLES = tuple(consonant + vowel for consonant in "bdgklmnprstvz" for vowel in "aeiou")
_ENDINGS = ("", "", "n", "r", "l", "s", "t", "m")
_LORE = (*(subject for subject, _ in FACTS), *FACTS.values(), *lore.GOODS, "Fernhollow")
KNOWN = tuple(sorted({word.lower() for word in re.findall(r"[A-Za-z]{3,}", " ".join(_LORE))}))
"""Every word of the village's tables, in small letters."""
_KNOWN = frozenset(KNOWN)
LONGEST = 12
"""Letters of an invented word."""


@cache
def real(kind: str, split: Side) -> tuple[str, ...]:
    """The "word"s or "name"s of the world outside that belong to a side, in small letters."""
    listed = lore.OUTSIDE["words"] if kind == "word" else lore.STRANGERS
    return tuple(
        word for word in dict.fromkeys(map(str.lower, listed)) if word not in _KNOWN and side(kind, word) == split
    )


def invent(rng: Random, kind: str, split: Side) -> str:
    """A word that nobody has used, on the given side of `kind` ("word" or "name"): of syllables, or of two real words.

    The halves of real words teach a small model to copy and to spell any piece that a tokenizer makes of them; from whole words
    alone it learned the words by heart.
    """
    while True:
        word = _of_syllables(rng) if rng.random() < 0.4 else _of_two(rng, real(kind, "train"))
        if word not in _KNOWN and len(word) <= LONGEST and side(kind, word) == split:
            return word


def _of_syllables(rng: Random) -> str:
    syllables = 2 if rng.random() < 0.5 else 3
    return "".join([pick(rng, _SYLLABLES) for _ in range(syllables)]) + pick(rng, _ENDINGS)


def _of_two(rng: Random, words: Sequence[str]) -> str:
    """The beginning of one word and the end of another: "strawberry" and "banana" give "strana"."""
    first, last = pick(rng, words), pick(rng, words)
    return first[: 2 + int(rng.random() * (len(first) - 2))] + last[max(1, len(last) - 2 - int(rng.random() * 4)) :]


def stranger(rng: Random, split: Side) -> str:
    """The name of somebody who is not from Fernhollow: one that people have, or an invented one."""
    return (pick(rng, real("name", split)) if rng.random() < 0.5 else invent(rng, "name", split)).capitalize()


def pronouns(name: str) -> tuple[str, str, str]:
    """he, his, him of somebody from Fernhollow or not."""
    return PRONOUNS.get(name) or (("she", "her", "her") if name in _WOMEN else ("he", "his", "him"))


_WOMEN = frozenset(lore.OUTSIDE["names_women"])


def spelling_word(rng: Random, split: Side) -> str:
    """A word to spell: a real or an invented one; in training also one of the village's."""
    kind = rng.random()
    if kind < 0.2 and split == "train":
        return pick(rng, KNOWN)
    return pick(rng, real("word", split)) if kind < 0.65 else invent(rng, "word", split)


def spell(word: str) -> str:
    """The letters, joined by hyphens."""
    return "-".join(word)
