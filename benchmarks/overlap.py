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
    known: dict[str, int] = {}
    items: list[str] = []
    hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    places: dict[str, range] = {}
    short: dict[str, int] = {}
    for name, texts in tests.items():
        first, short[name] = len(items), 0
        for item in map(words_of, texts):
            for word in item:
                known.setdefault(word, len(known) + 1)
            hashes.append(np.unique(_hashes(item, known, words)))
            owners.append(np.full(len(hashes[-1]), len(items)))
            short[name] += len(item) < words
            items.append(" ".join(["", *item, ""]))
        places[name] = range(first, len(items))
    hashes_N, owners_N = np.concatenate(hashes), np.concatenate(owners)
    order_N = np.argsort(hashes_N, kind="stable")
    hashes_N, owners_N = hashes_N[order_N], owners_N[order_N]
    seen: dict[int, str] = {}
    for document in documents:
        text = words_of(document)
        found = _hashes(text, known, words)
        begins, ends = np.searchsorted(hashes_N, found), np.searchsorted(hashes_N, found, side="right")
        for place in np.flatnonzero((ends > begins) & (found != 0)).tolist():
            run = " ".join(text[place : place + words])
            for owner in owners_N[begins[place] : ends[place]].tolist():
                if owner not in seen and f" {run} " in items[owner]:  # a hash alone may be a coincidence
                    seen[owner] = run
    overlaps = []
    for name, owned in places.items():
        those = [owner for owner in owned if owner in seen]
        overlaps.append(
            Overlap(
                name=name,
                items=len(owned),
                short=short[name],
                seen=tuple(owner - owned.start for owner in those),
                example=seen[those[0]] if those else "",
            )
        )
    return overlaps


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
