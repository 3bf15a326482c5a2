"""Multiple choice: ARC, MMLU, and the training sets of six more.

    task = find_task("arc-easy")                  # its files in the data home, else from the hub
    task.load("validation")[0].question

The user is shown lettered choices and the assistant answers with a letter; models are scored by the letters' logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from fledge.tasks.base import Example, Task
from fledge.tasks.records import Files, Record, from_records
from fledge.text.chat import say

LETTERS = "ABCDEFGHIJ"


class Asked(NamedTuple):
    """A question as every set has it."""

    question: str
    choices: tuple[str, ...]
    answer: int


class Source(NamedTuple):
    """Where the records of a set are, and how one is read."""

    files: Files
    read: Callable[[Record], Asked]
    chance: float
    default_for: tuple[Literal["chat"], ...] = ()


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
    return _asked(record, record.text("question"))


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


def boolq(record: Record) -> Asked:
    """{"passage", "question", "answer": yes or no}"""
    choices = ("yes", "no")
    asked = f"{record.text('passage')}\nQuestion: {record.text('question')}?"
    return Asked(asked, choices, record.one_of("answer", choices))


def winogrande(record: Record) -> Asked:
    """{"sentence" with a gap _, "choices", "answer": index}"""
    return _asked(record, f"Who or what is _ in: {record.text('sentence')}")


def _asked(record: Record, question: str) -> Asked:
    choices = record.texts("choices", most=len(LETTERS))
    return Asked(question, choices, record.place("answer", len(choices)))


def _arc(name: str) -> Files:
    return {"train": f"arc/{name}/train", "validation": f"arc/{name}/validation", "test": f"arc/{name}/test"}


def _extra(name: str, *, test: str = "validation") -> Files:
    """Sets of which items are in CORE: what is published as validation is only ever a test here."""
    return {"train": f"mc_extra/{name}/train", "test": f"mc_extra/{name}/{test}"}


MMLU_FILES: Files = {"train": "mmlu/auxiliary_train", "validation": "mmlu/validation", "test": "mmlu/test"}
CHAT = ("chat",)
SOURCES = {
    "arc-easy": Source(_arc("ARC-Easy"), arc, 0.25, CHAT),  # Clark et al. 2018, arXiv:1803.05457
    "arc-challenge": Source(_arc("ARC-Challenge"), arc, 0.25, CHAT),
    "mmlu": Source(MMLU_FILES, plain, 0.25, CHAT),  # Hendrycks et al. 2020, arXiv:2009.03300
    "boolq": Source(_extra("boolq"), boolq, 0.5),  # Clark et al. 2019, arXiv:1905.10044
    "commonsense-qa": Source(_extra("commonsense_qa"), plain, 0.2),  # Talmor et al. 2018, arXiv:1811.00937
    "openbook-qa": Source(_extra("openbookqa", test="test"), plain, 0.25),  # Mihaylov et al. 2018, arXiv:1809.02789
    "piqa": Source(_extra("piqa"), plain, 0.5),  # Bisk et al. 2019, arXiv:1911.11641
    "social-iqa": Source(_extra("social_i_qa"), plain, 1 / 3),  # Sap et al. 2019, arXiv:1904.09728
    "winogrande": Source(_extra("winogrande_xl"), winogrande, 0.5),  # Sakaguchi et al. 2019, arXiv:1907.10641
}


def _task(name: str, source: Source) -> Task:
    load = from_records(
        name,
        source.files,
        read=lambda record: example(source.read(record)),
        key=lambda record: source.read(record).question,
    )
    return Task(name=name, load=load, chance=source.chance, max_tokens=8, default_for=source.default_for)


TASKS = tuple(_task(name, source) for name, source in SOURCES.items())
