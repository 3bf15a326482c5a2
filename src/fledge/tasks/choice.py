"""Multiple choice: ARC and MMLU.

    task = find_task("arc-easy")                  # its files in the data home, else from the hub
    task.load("validation")[0].question

The user is shown lettered choices and the assistant answers with a letter; models are scored by the letters' logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fledge.tasks.base import Example, Task
from fledge.tasks.records import Files, Record, from_records
from fledge.text.chat import say

LETTERS = "ABCDEFGHIJ"


class Asked(NamedTuple):
    """A question as every set has it."""

    question: str
    choices: tuple[str, ...]
    answer: int


def example(asked: Asked) -> Example:
    """A conversation whose answer is a letter.

    "Multiple choice: Which is a fruit?\\n- pear=A\\n- stone=B\\nAnswer with the letter alone.": the letter directly behind its
    choice, where a model that reads the choice finds it next.
    """
    letters = tuple(LETTERS[: len(asked.choices)])
    lines = [f"- {choice}={letter}" for choice, letter in zip(asked.choices, letters, strict=True)]
    question = "\n".join((f"Multiple choice: {asked.question}", *lines, "Answer with the letter alone."))
    messages = (say("user", question), say("assistant", letters[asked.answer]))
    return Example(messages=messages, choices=letters, answer=asked.answer)


def arc(record: Record) -> Asked:
    """{"question", "choices": {"text", "label"}, "answerKey"}"""
    choices = record.object("choices")
    texts, labels = choices.texts("text", most=len(LETTERS)), choices.texts("label")
    if not len(labels) == len(set(labels)) == len(texts):
        raise choices.wrong("label", f"{len(texts)} different labels, one for each text")
    return Asked(record.text("question"), texts, record.one_of("answerKey", labels))


def plain(record: Record) -> Asked:
    """{"question", "choices", "answer": index}"""
    choices = record.texts("choices", most=len(LETTERS))
    return Asked(record.text("question"), choices, record.place("answer", len(choices)))


def own(record: Record) -> Asked:
    """As `plain` or `arc`; choices may be numbers too, and the answer the letter of one, which no index is."""
    choices, answer = record.get("choices"), record.get("answer")
    if isinstance(choices, Mapping):
        return arc(record)
    if isinstance(choices, list):
        choices = [str(each) if type(each) in (int, float) else each for each in choices]
        letters = LETTERS[: len(choices)]
        record = Record({**record, "choices": choices}, record.path, record.number)
        if isinstance(answer, str) and len(answer) == 1 and answer.upper() in letters:
            record["answer"] = letters.index(answer.upper())
    return plain(record)


def _arc(name: str) -> Files:
    return {"train": f"arc/{name}/train", "validation": f"arc/{name}/validation", "test": f"arc/{name}/test"}


MMLU_FILES: Files = {"train": "mmlu/auxiliary_train", "validation": "mmlu/validation", "test": "mmlu/test"}
SOURCES: dict[str, tuple[Files, Callable[[Record], Asked]]] = {
    "arc-easy": (_arc("ARC-Easy"), arc),  # Clark et al. 2018, arXiv:1803.05457
    "arc-challenge": (_arc("ARC-Challenge"), arc),
    "mmlu": (MMLU_FILES, plain),  # Hendrycks et al. 2020, arXiv:2009.03300
}
"""Where the records of a set are, and how one is read."""


def _task(name: str, files: Files, read: Callable[[Record], Asked]) -> Task:
    load = from_records(name, files, read=lambda record: example(read(record)))
    return Task(name=name, load=load, chance=0.25, max_tokens=8, default_for=("chat",))


TASKS = tuple(_task(name, *source) for name, source in SOURCES.items())
