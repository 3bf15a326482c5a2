"""Spelling words, and counting letters with the calculator.

    TASKS: spelling    "Spell prelate."                            -> "The word prelate is spelled p-r-e-l-a-t-e."
           counting    'How many times is "e" in prelate?'         -> spells, counts with the tool, "#### 2"

Tokens hide letters from a model; spelling a word out brings them to light. The words are those of a word list among the user's
files where there is one, else a small list that comes along. A hash puts each word into one split, for both tasks alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from random import Random

from fledge.tasks.base import Example, Grade, Task
from fledge.tasks.numbers import strict
from fledge.text.chat import Part, say
from fledge.text.hub import data_home, find_at_home
from fledge.text.records import read_lines
from fledge.text.split import Split, split_of

WORD_LISTS = ("words/american-english.txt.gz", "words/words_alpha.txt.gz", "words.txt")
WORD = re.compile(r"[a-z]{3,12}")
SPELLED = re.compile(r"\b[a-z](?:-[a-z])+\b")
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
EXAMPLES: dict[Split, int] = {"train": 20_000, "validation": 500, "test": 500}
"""Most examples of a split."""
SPELL = ("How do you spell {}?", "Please spell {}.", "Spell {}.", "Spell the word {} letter by letter.")
COUNT = ('How many times is "{1}" in {0}?', 'How often does "{1}" appear in {0}?', 'Count the letter "{1}" in {0}.')


@lru_cache
def words(home: Path | None) -> tuple[str, ...]:
    """The words of the first list there is, in lower case, without names and apostrophes."""
    for path in filter(None, map(find_at_home, WORD_LISTS if home else ())):
        return tuple(dict.fromkeys(line.strip() for _, line in read_lines(path) if WORD.fullmatch(line.strip())))
    text = resources.files("fledge.tasks").joinpath("words.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def draw(split: Split) -> Iterator[tuple[Random, str]]:
    """Words of a split in a shuffled order that never changes, each with the generator for what is asked about it."""
    chosen = [word for word in words(data_home()) if split_of(word, one_in=20) == split]
    Random(f"spelling {split}").shuffle(chosen)
    for word in chosen[: EXAMPLES[split]]:
        yield Random(f"spelling {word}"), word


def spell(word: str) -> str:
    """ "cat" -> "c-a-t"."""
    return "-".join(word)


def spelling(rng: Random, word: str) -> Example:
    """How a word is spelled."""
    answer = f"The word {word} is spelled {spell(word)}."
    return Example(messages=(say("user", rng.choice(SPELL).format(word)), say("assistant", answer)), answer=spell(word))


def counting(rng: Random, word: str) -> Example:
    """How often a letter is in a word; mostly its commonest letter, sometimes any at all, so that 1 is no safe guess."""
    kind = rng.random()
    letter = max(word, key=word.count) if kind < 0.55 else rng.choice(word if kind < 0.75 else ALPHABET)
    count, spelled = str(word.count(letter)), spell(word)
    call = (Part("python", f"'{spelled}'.count('{letter}')"), Part("output", count))
    answer = say("assistant", f"The word {word} is spelled {spelled}. ", *call, f"{count}\n#### {count}")
    return Example(messages=(say("user", rng.choice(COUNT).format(word, letter)), answer), answer=f"#### {count}")


def same_spelling(example: Example, answer: str) -> float:
    """1 if the one word that is spelled out is spelled right."""
    return float(SPELLED.findall(answer) == SPELLED.findall(str(example.answer)))


def _task(name: str, ask: Callable[[Random, str], Example], grade: Grade, *, chance: float = 0.0) -> Task:
    def load(split: Split) -> Sequence[Example]:
        return [ask(rng, word) for rng, word in draw(split)]

    return Task(name=name, load=load, grade=grade, chance=chance, max_tokens=96, default_for=("chat",))


TASKS = (
    _task("spelling", spelling, same_spelling),
    _task("counting", counting, strict, chance=0.5),  # always saying 1 is right about half the time
)
