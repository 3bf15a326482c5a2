"""How much of the evaluation sets stands in the training text: overlap of 13 words in a row.

    python -m benchmarks contamination --data DIR --tasks arc-easy,gsm8k,core

An item counts as seen when any 13 consecutive words of it occur in a training document, after lower-casing and dropping
everything that is neither letter nor digit: the criterion of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C). Items of
fewer words cannot be judged and are counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from benchmarks.harness import show
from fledge.console import say
from fledge.tasks import find_tasks
from fledge.tasks.base import Example
from fledge.text.documents import describe, open_documents

WORDS = 13
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Look for the questions of evaluation sets in the training text."""

    data: str = "world"
    """Training text: "world", a name, a folder or a file."""
    tasks: str = "arc-easy,arc-challenge,mmlu,gsm8k,humaneval,core"
    """Tasks whose test split is looked for; `core` stands for the 22 tasks of CORE."""
    megabytes: float = 250.0
    """Training text to read, in million characters; a folder that holds less is read once."""


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


def main(settings: Settings) -> None:
    """Read the training text once, print one line per set."""
    description = describe(settings.data)
    overlaps = contamination(training_texts(settings), dict(evaluation_sets(settings.tasks)))
    say(f"training text: {description}")
    rows = [
        [one.name, f"{one.items:,}", f"{one.short:,}", f"{len(one.seen):,}", f"{one.share:.2%}", one.example]
        for one in overlaps
    ]
    columns = ["set", "items", "short", "seen", "share", "example"]
    show("13 words in a row that also stand in the training text", columns, rows)


def contamination(documents: Iterable[str], tests: Mapping[str, Iterable[str]], *, words: int = WORDS) -> list[Overlap]:
    """Overlap of each evaluation set with the documents, read once; memory grows with the sets, not with the documents."""
    owners: list[tuple[str, str]] = []  # set and words of every item
    runs, run_owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for name, texts in tests.items():
        for item in map(words_of, texts):
            runs.append(np.unique(run_hashes(item, words)))
            run_owners.append(np.full(len(runs[-1]), len(owners)))
            owners.append((name, " ".join(item)))
    runs_N, owners_N = np.concatenate(runs), np.concatenate(run_owners)
    order_N = np.argsort(runs_N, kind="stable")
    runs_N, owners_N = runs_N[order_N], owners_N[order_N]
    seen: dict[int, str] = {}
    for document in map(words_of, documents):
        found = run_hashes(document, words)
        begins, ends = np.searchsorted(runs_N, found), np.searchsorted(runs_N, found, side="right")
        for place in np.flatnonzero(ends > begins).tolist():
            run = " ".join(document[place : place + words])
            for owner in owners_N[begins[place] : ends[place]].tolist():
                if f" {run} " in f" {owners[owner][1]} ":  # equal hashes alone may be a coincidence
                    seen.setdefault(owner, run)
    overlaps = []
    for name in tests:
        own = [number for number, (owner, _) in enumerate(owners) if owner == name]
        those = [number for number in own if number in seen]
        overlap = Overlap(
            name=name,
            items=len(own),
            short=sum(len(owners[number][1].split()) < words for number in own),
            seen=tuple(number - own[0] for number in those),
            example=seen[those[0]] if those else "",
        )
        overlaps.append(overlap)
    return overlaps


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits.

    >>> words_of("It's 3 o'clock, Ana_B!")
    ['it', 's', '3', 'o', 'clock', 'ana', 'b']
    """
    return _WORD.findall(text.lower())


def run_hashes(text: list[str], words: int) -> npt.NDArray[np.int64]:
    """A hash of every run of `words` words; they are those of this process, whose strings hash alike."""
    return np.fromiter(map(hash, zip(*(text[place:] for place in range(words)), strict=False)), np.int64)


def evaluation_sets(tasks: str) -> Iterator[tuple[str, list[str]]]:
    """Name and questions of every set."""
    for name, task in find_tasks(tasks).items():
        yield name, [question(example) for example in task.load("test")]


def question(example: Example) -> str:
    """What a model is shown of an example."""
    messages = (message.text for message in example.question)
    return " ".join([example.prompt, *example.beginnings, *messages, *example.choices])


def training_texts(settings: Settings) -> Iterator[str]:
    """One epoch at most."""
    left = settings.megabytes * 1e6
    for document in takewhile(lambda one: one.cursor.get("epoch", 0) == 0, open_documents(settings.data)):
        yield document.text
        left -= len(document.text)
        if left <= 0:
            return
