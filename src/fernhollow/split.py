"""What is held out: a hash of the key decides, so that the same key falls on the same side everywhere and for ever.

    side("word", "zuriba")        # "train", "validation" or "test"

Training text uses keys of the train side alone. Tasks ask about the other two, which never meet. Wordings are held out as keys
are: every question can be asked in ways that training never uses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from random import Random
from typing import Any, Literal

from fernhollow.grammar import pattern, variety
from fledge.text.split import rank

Side = Literal["train", "validation", "test"]

OTHER_WORDS = 2
"""Wordings of each question that training never uses; of long lists one in six."""
_HELD_TESTS, _HELD, _BUCKETS = 2, 3, 12


def side(kind: str, *key: object) -> Side:
    """The side a key belongs to: 3 in 4 train, 1 in 12 validation, 1 in 6 test."""
    bucket = rank(kind, *key) % _BUCKETS
    return "test" if bucket < _HELD_TESTS else "validation" if bucket < _HELD else "train"


def apart(text: str, *, has_train: bool) -> Side:
    """The side of what has no key that is held out, by its text: half train, if there is a train side, the rest halved."""
    sides: tuple[Side, ...] = ("validation", "test", "train", "train")
    return sides[rank("apart", text) % (4 if has_train else 2)]


def wordings(templates: Sequence[Any], *, other: bool = False) -> Sequence[Any]:
    """The ways of asking that training uses, or the OTHER_WORDS that it never does: those with the smallest hashes.

    The first of a list, which is the plainest, is always learned.
    """
    ranked = (
        _ranked(*templates) if isinstance(templates[0] if templates else "", str) else _ranked(*map(tuple, templates))
    )
    held = max(OTHER_WORDS, len(ranked) // 6)
    return ranked[:held] if other else ranked[held:]


def wording(rng: Random, templates: Sequence[Any], *, other: bool = False) -> Any:
    """One of the wordings."""
    return weighted(rng, wordings(templates, other=other))


def weighted(rng: Random, templates: Sequence[Any]) -> Any:
    """One of the templates: the more choices are in it the oftener, as the logarithm of how many texts it can say."""
    return rng.choices(templates, cum_weights=_weights(*templates))[0]


@cache
def _weights(*templates: Any) -> list[float]:
    return list(accumulate(math.log(1 + variety(_text(template))) for template in templates))


@cache
def _ranked(*templates: Any) -> list[Any]:
    free = {each: each.rstrip(_MARKS) for each in map(_text, templates) if variety(each) > 1}

    def place(template: Any) -> tuple[bool, int]:
        """What has choices, or can be said by one that has, is learned: else training might say by chance what is held out."""
        text = _text(template)
        said = re.sub(r"{\w+}", "x", text).rstrip(_MARKS)
        is_free = text in free or any(pattern(says).fullmatch(said) for says in free.values())
        return is_free, rank("wording", template)

    return [*sorted(templates[1:], key=place), *templates[:1]]


def _text(template: Any) -> str:
    return template if isinstance(template, str) else template[0]


_MARKS = "?.!"
