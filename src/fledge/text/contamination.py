"""How much of an evaluation set stands in the training text: overlap of 13 words in a row.

    tests = {"gsm8k": [question, ...], "arc-easy": [...]}
    for overlap in contamination(documents, tests): print(overlap)

An item counts as seen when any 13 consecutive words of it occur in a training document, after lower-casing and dropping
everything that is neither letter nor digit: the criterion of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C). Items of
fewer words cannot be judged and are counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WORDS = 13
_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What the training text holds of one evaluation set."""

    name: str
    items: int
    short: int
    """Items of fewer than 13 words, which are not judged."""
    seen: tuple[int, ...]
    """Indices of the items with 13 words in a row that occur in the training text."""
    example: str = ""
    """Such words, of the first of them."""

    @property
    def share(self) -> float:
        """Seen items among those that can be judged."""
        return len(self.seen) / max(1, self.items - self.short)


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits.

    >>> words_of("It's 3 o'clock, Ana_B!")
    ['it', 's', '3', 'o', 'clock', 'ana', 'b']
    """
    return _WORD.findall(text.lower())


def contamination(documents: Iterable[str], tests: Mapping[str, Iterable[str]], *, words: int = WORDS) -> list[Overlap]:
    """Overlap of each evaluation set with the documents, read once; memory grows with the sets, not with the documents."""
    sets = {name: [words_of(item) for item in items] for name, items in tests.items()}
    known: dict[str, int] = {}
    grams: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for name, items in sets.items():
        for index, item in enumerate(items):
            for word in item:
                known.setdefault(word, len(known) + 1)
            for gram in _grams(item, words):
                grams.setdefault(gram, []).append((name, index))
    hashes = np.unique(
        np.concatenate([_hashes(item, known, words) for items in sets.values() for item in items] or [[]])
    )
    seen: dict[str, dict[int, tuple[str, ...]]] = {name: {} for name in sets}
    for document in documents:
        text = words_of(document)
        found = _hashes(text, known, words)
        for place in np.flatnonzero(_among(found, hashes)).tolist():
            gram = tuple(text[place : place + words])
            for name, index in grams.get(gram, ()):  # a hash alone may be a coincidence
                seen[name].setdefault(index, gram)
    return [
        Overlap(
            name=name,
            items=len(items),
            short=sum(len(item) < words for item in items),
            seen=tuple(sorted(seen[name])),
            example=" ".join(seen[name][min(seen[name])]) if seen[name] else "",
        )
        for name, items in sets.items()
    ]


def _grams(item: list[str], words: int) -> Iterable[tuple[str, ...]]:
    return (tuple(item[place : place + words]) for place in range(len(item) - words + 1))


def _hashes(text: Iterable[str], known: Mapping[str, int], words: int) -> npt.NDArray[np.uint64]:
    """A hash of every run of `words` words; runs with a word that no evaluation set uses become 0."""
    ids = np.fromiter((known.get(word, 0) for word in text), np.uint64)
    count = len(ids) - words + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    total, strange = np.zeros(count, np.uint64), np.zeros(count, np.bool_)
    for place in range(words):
        part = ids[place : place + count]
        total = total * _BASE + part * (part ^ _BASE)
        strange |= part == 0
    return np.where(strange, np.uint64(0), total)


def _among(values: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether each value is in the sorted array `known`; 0 never is."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return (known[places] == values) & (values != 0)
