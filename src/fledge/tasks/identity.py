"""Who the assistant is: conversations made from one text file that the user edits (identity.txt beside this file).

    TASK.load("train")[0]                         # "hi, who r u" -> "I am Fledge, a small language model."
    task_of(Path("my/identity.txt"))              # that of another file

The file gives values and facts; how people ask for them, and how they are answered, stands in identity.toml. Held out are wordings:
of each question two are asked in the test split alone and one in validation, by their hash, plainly and as people type them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from random import Random
from typing import NamedTuple

from fledge.settings import nearest, shares_of
from fledge.tasks.base import Example, Task
from fledge.tasks.claims import TABLE, Asked, states, words
from fledge.text.chat import talk
from fledge.text.datasets import find_generated
from fledge.text.hub import find_at_home
from fledge.text.records import read_lines
from fledge.text.split import Split, rank
from fledge.text.typed import Typist

ENDING = ".txt"
FORM = "expected `key = value`, `? question`, `! answer`, or a comment that begins with #"
KEYS = ("name", "maker", "kind", "personality", "can", "made", "home")
KIND = "a small language model"
"""Where the file does not say what it is; of what else is missing nobody speaks."""
HELD_OUT = 2
"""Wordings of each question in the test split, or one in six of many; half of so many are validation."""
TRAIN, TYPED = 2_000, 3
"""Conversations to learn, and how often each wording that is held out is asked as people type, beside once as it stands."""
SECOND = 0.3
"""Share of the questions that come second."""


class Subject(NamedTuple):
    """Ways to ask one thing, and ways to answer it."""

    questions: list[str]
    answers: list[str]
    key: str = ""
    """Of what it asks for; empty: it is the file's own."""
    denies: bool = False


class Identity(NamedTuple):
    """What a file says."""

    values: dict[str, str]
    subjects: list[Subject]


def read_identity(text: str, *, where: str = "identity.txt") -> Identity:
    """What an identity file says, its keys filled in, with what anybody asks.

    Raises:
        ValueError: a line has no known form, a key is unknown or comes twice, a {key} has no value, a subject lacks one half.
    """
    keys: dict[str, str] = {}
    lines: dict[str, int] = {}
    blocks = [Subject([], [])]
    for number, line in enumerate(text.split("\n"), 1):
        line, here = line.strip(), f"{where} line {number}"
        if line.startswith(("?", "!")):
            if line[0] == "?" and blocks[-1].answers:
                blocks.append(Subject([], []))
            said = blocks[-1].questions if line[0] == "?" else blocks[-1].answers
            said.append(fill(line[1:].strip(), keys, here))
        elif not line:
            blocks.append(Subject([], []))
        elif found := re.fullmatch(r"(\w+)\s*=\s*(.+)", line):
            key = found[1].lower()
            if key in keys:
                raise ValueError(f"{here}: {key!r} found again; it stands in line {lines[key]}. Keep one of them")
            keys[key], lines[key] = found[2], number
        elif not line.startswith("#"):
            raise ValueError(f"{here}: {line!r} found; {FORM}")
    for key in keys:
        if key not in KEYS and f"{{{key}}}" not in text:
            raise ValueError(
                f"{where} line {lines[key]}: key {key!r} found; allowed are {', '.join(KEYS)}, and those that a line below it "
                f"has in braces.{nearest(key, KEYS)}"
            )
    subjects = [block for block in blocks if any(block[:2])]
    for questions, answers, *_ in subjects:
        if not (questions and answers):
            given = (questions or answers)[0]
            raise ValueError(f"{where}: the subject with {given!r} needs both `?` lines and `!` lines")
    if not subjects and not keys:
        raise ValueError(f"{where}: nothing found; write `name = Pip`, and `? question` lines with `! answer` lines")
    return Identity({"kind": KIND} | keys, [*subjects, *_usual({"kind": KIND} | keys, subjects)])


def fill(text: str, keys: dict[str, str], where: str) -> str:
    """The text with each {key} replaced by its value."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in keys:
            raise ValueError(f"{where}: {{{match[1]}}} has no value; known: {', '.join(keys) or 'none'}")
        return keys[match[1]]

    return re.sub(r"\{(\w+)\}", value, text)


def _usual(values: dict[str, str], own: Sequence[Subject]) -> Iterator[Subject]:
    """What anybody asks, as far as the values answer it and the file's own subjects do not."""
    taken = {tuple(words(question)) for subject in own for question in subject.questions}
    slots = dict(values)
    if "made" in slots and not re.match(r"(in|on|at|by|from|during|with|near)\b", slots["made"]):
        slots["made"] = f"in {slots['made']}"
    for one in TABLE["subjects"]:
        known = [text for text in one["answers"] if {*re.findall(r"\{(\w+)\}", text)} <= slots.keys()]
        if one["key"] in slots and taken.isdisjoint(tuple(words(question)) for question in one["questions"]):
            answers = [
                re.sub(r"(^|[.!?] )([a-z])", lambda found: found[1] + found[2].upper(), text.format(**slots))
                for text in known
            ]
            yield Subject(one["questions"], answers, one["key"], one.get("denies", False))


def wordings(subject: Subject, split: Split) -> list[str]:
    """The ways of asking of a split. What stands in the file is learned, and of the usual questions the first."""
    if subject.key:
        plain, others = subject.questions[:1], subject.questions[1:]
    else:
        asked = [question.rstrip("?.! ") for question in subject.questions]
        said = [
            form.format(q=q[:1].lower() + q[1:], Q=q[:1].upper() + q[1:]) for form in TABLE["asides"] for q in asked
        ]
        plain, others = said[: len(asked)], said[len(asked) :]
    others = sorted(others, key=partial(rank, "wording"))
    test = max(HELD_OUT, len(others) // 6)
    validation = test + test // 2
    return {"test": others[:test], "validation": others[test:validation], "train": plain + others[validation:]}[split]


def examples(identity: Identity, split: Split) -> Iterator[Example]:
    """Questions of the split, each once, with one of their answers."""
    typist = Typist(
        name=identity.values.get("name", "friend"), dear="my friend", capitals=identity.values.get("name", "").split()
    )
    if split == "train":
        held_out = {one.question[-1].text for side in ("validation", "test") for one in examples(identity, side)}
        rng = Random("identity train")
        subjects = [rng.choice(identity.subjects) for _ in range(TRAIN)]
        drawn = ((rng, subject, rng.choice(wordings(subject, split)), True) for subject in subjects)
    else:
        held_out = set()
        drawn = (
            (Random(f"{wording} {number}"), subject, wording, number > 0)
            for subject in identity.subjects
            for wording in wordings(subject, split)
            for number in range(1 + TYPED)
        )
    own = [text for subject in identity.subjects if not subject.key for text in (*subject.questions, *subject.answers)]
    known, seen = " ".join((*identity.values.values(), *own)), set()
    for rng, subject, wording, as_typed in drawn:
        asked = typist.typed(rng, wording) if as_typed else wording
        before = _before(rng, identity, typist) if as_typed and rng.random() < SECOND else ()
        answer = rng.choice(subject.answers)
        messages = talk(*before, asked, answer)
        if asked not in held_out and messages[:-1] not in seen:
            seen.add(messages[:-1])
            _, answers, key, denies = subject
            facts = Asked(wording, key, answers, identity.values, known, denies)
            yield Example(messages=messages, answer=answer, facts={"asked": facts}, kinds=(subject.questions[0],))


def _before(rng: Random, identity: Identity, typist: Typist) -> tuple[str, str]:
    """What is said before a question: a greeting, or another question about the assistant."""
    if rng.random() < 0.5:
        return tuple(rng.choice(TABLE["around"]))
    other = rng.choice(identity.subjects)
    return typist.typed(rng, rng.choice(wordings(other, "train"))), rng.choice(other.answers)


def grade(example: Example, answer: str) -> float:
    """1 if the answer says what was asked for, and claims to be nobody else (claims.py)."""
    return float(states(example.facts["asked"], answer))


def task_of(path: Path | None) -> Task:
    """The task of an identity file; None: identity.txt of the data home, else the one that comes along."""

    def load(split: Split) -> Sequence[Example]:
        found = list(examples(identity_of(path), split))
        Random(f"identity {split}").shuffle(found)
        return found

    name = f"identity/{path.stem}" if path else "identity"
    return Task(name=name, load=load, grade=grade, max_tokens=96, default_for=("chat",))


def identity_of(path: Path | None) -> Identity:
    """What a file says; raises as `read_identity`, and FileNotFoundError."""
    own = path or find_at_home("identity.txt")
    file = own or Path(str(resources.files("fledge.tasks").joinpath("identity.txt")))
    return read_identity("".join(line for _, line in read_lines(file)), where=str(own or "identity.txt"))


def is_identity(name: str) -> bool:
    """Whether a part of a `--data` of conversations, or the name of a task, is an identity file."""
    return name.endswith(ENDING)


def identities(data: str) -> list[Path]:
    """The identity files of a `--data` of conversations."""
    return [Path(name) for name in shares_of(data) if is_identity(name)]


def asked_of(identity: Identity) -> frozenset[str]:
    """Every question that a file answers."""
    return frozenset(question for subject in identity.subjects for question in subject.questions)


def speaker(data: str, *, texts: bool = False) -> str | None:
    """What the models of a `--data` call themselves; empty where a file should say it and does not, None where nothing would.

    texts: the data are not conversations but texts, of which a .txt file is one and nobody's identity.
    """
    for path in [] if texts else identities(data):
        return identity_of(path).values.get("name", "") if path.is_file() else ""
    return next((source.NAME for name in shares_of(data) if (source := find_generated(name))), None)


TASK = task_of(None)
