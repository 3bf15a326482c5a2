"""What is held out: a hash of the key decides, so that the same key falls on the same side everywhere and for ever.

    side("word", "zuriba")        # "train", "validation" or "test"

Training text uses keys of the train side alone. Tasks ask about the other two, which never meet. Wordings are held out as keys
are: every question can be asked in ways that training never uses.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

Side = Literal["train", "validation", "test"]

OTHER_WORDS = 2
"""Wordings of each question that training never uses; of long lists one in six."""
_HELD_TESTS, _HELD, _BUCKETS = 2, 3, 12


def side(kind: str, *key: object) -> Side:
    """The side a key belongs to: 3 in 4 train, 1 in 12 validation, 1 in 6 test."""
    bucket = _hash(kind, *key) % _BUCKETS
    return "test" if bucket < _HELD_TESTS else "validation" if bucket < _HELD else "train"


def apart(text: str, *, has_train: bool) -> Side:
    """The side of what has no key that is held out, by its text: half train, if there is a train side, the rest halved."""
    sides: tuple[Side, ...] = ("validation", "test", "train", "train")
    return sides[_hash("apart", text) % (4 if has_train else 2)]


def wordings(templates: Sequence[Any], *, other: bool = False) -> Sequence[Any]:
    """The ways of asking that training uses, or the OTHER_WORDS that it never does: those with the smallest hashes.

    The first of a list, which is the plainest, is always learned.
    """
    ranked = (
        _ranked(*templates) if isinstance(templates[0] if templates else "", str) else _ranked(*map(tuple, templates))
    )
    held = max(OTHER_WORDS, len(ranked) // 6)
    return ranked[:held] if other else ranked[held:]


@cache
def _ranked(*templates: Any) -> list[Any]:
    return [*sorted(templates[1:], key=lambda template: _hash("wording", template)), *templates[:1]]


def _hash(*key: object) -> int:
    return zlib.crc32("|".join(map(str, key)).encode())
