"""Multiple choice: ARC, MMLU, and the training sets of six more.

    task = find_task("arc-easy")                  # its files in the data home, else from the hub
    task.load("validation")[0].question

The user is shown lettered choices and the assistant answers with a letter; models are scored by the letters' logits. Where a
data set has no validation split, a hash of the question takes one out of the training split: nothing is selected on test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fledge.tasks.base import Example, Task
from fledge.text.chat import say
from fledge.text.conversations import Stored
from fledge.text.hub import locate, read_jsonl
from fledge.text.split import Split, split_of

LETTERS = "ABCDEFGHIJ"
HELD_OUT = 20
"""One in so many training questions is the validation split where the data set has none."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A question as every set has it."""

    question: str
    choices: tuple[str, ...]
    answer: int


class Source(NamedTuple):
    """Where the records of a set are, and how one is read."""

    files: dict[Split, str]
    read: Callable[[Record], Asked]
    chance: float
    default_for: tuple[Literal["chat"], ...] = ()


def question(asked: Asked) -> str:
    """What the user says.

    "Multiple choice: Which is a fruit?\\n- pear=A\\n- stone=B\\nAnswer with the letter alone.": the letter directly behind its
    choice, where a model that reads the choice finds it next.
    """
    lines = [f"- {choice}={letter}" for choice, letter in zip(asked.choices, LETTERS, strict=False)]
    return "\n".join((f"Multiple choice: {asked.question}", *lines, "Answer with the letter alone."))


def example(asked: Asked) -> Example:
    """A conversation whose answer is a letter."""
    letters = tuple(LETTERS[: len(asked.choices)])
    messages = (say("user", question(asked)), say("assistant", letters[asked.answer]))
    return Example(messages=messages, choices=letters, answer=asked.answer)


def split_records(
    files: dict[Split, str], split: Split, *, key: Callable[[Record], str], task: str
) -> Iterator[Record]:
    """The records of a split; a missing validation split is taken out of train.

    Raises:
        ValueError: the set has no such split.
    """
    if split in files:
        name = files[split]
    elif split == "validation" and "train" in files:
        name = files["train"]
    else:
        allowed = [*files, *(["validation"] if "train" in files and "validation" not in files else [])]
        raise ValueError(f"{task}: split {split!r} does not exist; allowed: {', '.join(sorted(allowed))}")
    carved = split != "test" and "validation" not in files
    for record in read_jsonl(locate(name)):
        if not carved or (split_of(key(record), one_in=HELD_OUT) == "validation") == (split == "validation"):
            yield record


def arc(record: Record) -> Asked:
    """{"question", "choices": {"text", "label"}, "answerKey"}"""
    choices = record["choices"]
    return Asked(record["question"], tuple(choices["text"]), list(choices["label"]).index(record["answerKey"]))


def plain(record: Record) -> Asked:
    """{"question", "choices", "answer": index}"""
    return Asked(record["question"], tuple(record["choices"]), int(record["answer"]))


def boolq(record: Record) -> Asked:
    """{"passage", "question", "answer": yes or no}"""
    asked = f"{record['passage']}\nQuestion: {record['question']}?"
    return Asked(asked, ("yes", "no"), ("yes", "no").index(record["answer"]))


def winogrande(record: Record) -> Asked:
    """{"sentence" with a gap _, "choices", "answer": index}"""
    return Asked(f"Who or what is _ in: {record['sentence']}", tuple(record["choices"]), int(record["answer"]))


def _arc(name: str) -> dict[Split, str]:
    return {"train": f"arc/{name}/train", "validation": f"arc/{name}/validation", "test": f"arc/{name}/test"}


def _extra(name: str, *, test: str = "validation") -> dict[Split, str]:
    """Sets of which items are in CORE: what is published as validation is only ever a test here."""
    return {"train": f"mc_extra/{name}/train", "test": f"mc_extra/{name}/{test}"}


MMLU_FILES: dict[Split, str] = {"train": "mmlu/auxiliary_train", "validation": "mmlu/validation", "test": "mmlu/test"}
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
    def asked(split: Split) -> Iterator[Asked]:
        for record in split_records(source.files, split, key=lambda record: source.read(record).question, task=name):
            one = source.read(record)
            example(one)  # what is wrong with a record is found when it is loaded, not when it is drawn
            yield one

    def load(split: Split) -> Sequence[Example]:
        return Stored(asked(split), to_json=vars, from_json=lambda fields: example(Asked(**fields)))

    return Task(name=name, load=load, chance=source.chance, max_tokens=8, default_for=source.default_for)


TASKS = tuple(_task(name, source) for name, source in SOURCES.items())
