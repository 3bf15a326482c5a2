"""Who the assistant is: conversations made from one text file that the user edits (identity.txt beside this file).

    TASK.load("train")[0]                         # "Hi! Who are you?" -> "I am Fledge, ..."
    task_of(Path("my/identity.txt"))              # that of another file

Held out are combinations of greeting, question and ending, by a hash; every answer is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from random import Random
from typing import NamedTuple

from fledge.tasks.base import Example, Task
from fledge.text.chat import say
from fledge.text.hub import find_at_home
from fledge.text.records import read_lines
from fledge.text.split import Split, split_of

HELLOS = ("", "Hi! ", "Hello. ", "Hey, ", "Good morning. ", "Excuse me, ", "Hi there, ", "So, ", "Quick question: ")
ENDS = ("?", "? I am curious.", ", please?", "? Thanks!", "??", "? Just wondering.", "? Be honest.")
FORM = "expected `key = value`, `? question`, `! answer`, or a comment that begins with #"


class Subject(NamedTuple):
    """Ways to ask one thing, and ways to answer it."""

    questions: list[str]
    answers: list[str]


def read_subjects(text: str, *, where: str = "identity.txt") -> list[Subject]:
    """The subjects of an identity file, its keys filled in.

    Raises:
        ValueError: a line has no known form, a {key} no value, a subject no question or no answer.
    """
    keys: dict[str, str] = {}
    blocks = [Subject([], [])]
    for number, line in enumerate(text.split("\n"), 1):
        line, here = line.strip(), f"{where} line {number}"
        if line.startswith(("?", "!")):
            kind = "?!".index(line[0])
            if kind == 0 and blocks[-1].answers:
                raise ValueError(f"{here}: a question after an answer; part subjects by a blank line")
            blocks[-1][kind].append(fill(line[1:].strip(), keys, here))
        elif not line:
            blocks.append(Subject([], []))
        elif found := re.fullmatch(r"(\w+)\s*=\s*(.+)", line):
            keys[found[1]] = found[2]
        elif not line.startswith("#"):
            raise ValueError(f"{here}: {line!r} found; {FORM}")
    subjects = [block for block in blocks if any(block)]
    for questions, answers in subjects:
        if not (questions and answers):
            given = (questions or answers)[0]
            raise ValueError(f"{where}: the subject with {given!r} needs both `?` lines and `!` lines")
    if not subjects:
        raise ValueError(f"{where}: no subject found; write `? question` lines and `! answer` lines")
    return subjects


def fill(text: str, keys: dict[str, str], where: str) -> str:
    """The text with each {key} replaced by its value."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in keys:
            raise ValueError(f"{where}: {{{match[1]}}} has no value; known: {', '.join(keys) or 'none'}")
        return keys[match[1]]

    return re.sub(r"\{(\w+)\}", value, text)


def examples(subjects: Sequence[Subject], split: Split) -> Iterator[Example]:
    """Every way to ask of the split, with one of the answers."""
    for questions, answers in subjects:
        for question, hello, end in product(questions, HELLOS, ENDS):
            if split_of("\0".join((hello, question, end)), one_in=10) == split:
                asked = hello + question.removesuffix("?") + end
                asked = asked[0].upper() + asked[1:] if not hello else asked
                answer = Random(asked).choice(answers)
                messages = (say("user", asked), say("assistant", answer))
                yield Example(messages=messages, answer=answer, facts={"answers": answers})


def grade(example: Example, answer: str) -> float:
    """1 if the answer is one that the file gives."""
    return float(answer.strip() in example.facts["answers"])


def task_of(path: Path | None) -> Task:
    """The task of an identity file; None: identity.txt of the data home, else the one that comes along."""

    def load(split: Split) -> Sequence[Example]:
        own = path or find_at_home("identity.txt")
        file = own or Path(str(resources.files("fledge.tasks").joinpath("identity.txt")))
        text = "".join(line for _, line in read_lines(file))
        found = list(examples(read_subjects(text, where=str(own or "identity.txt")), split))
        Random(f"identity {split}").shuffle(found)
        return found

    name = f"identity/{path.stem}" if path else "identity"
    return Task(name=name, load=load, grade=grade, max_tokens=96, default_for=("chat",))


TASK = task_of(None)
