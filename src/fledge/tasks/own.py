"""Tasks of the user's own: questions in a file, or a grader beside its questions in a file of Python.

    find_task("quiz.jsonl")          # {"question", "choices", "answer": 1} or "B": by the likelihood of the letters
    find_task("sums.jsonl")          # {"question", "answer": "So it is #### 72", or 72 alone}: by the number
    find_task("code.jsonl")          # the fields of HumanEval: by unit tests, in the sandbox
    find_task("reward.py:grade")     # grade(example, answer) -> 0 to 1, asked about the `questions` of reward.py

A hash of the question deals the examples: a fifth is the test split, a fifth validation, of which `fledge rl` chooses the weights
that remain; rl learns from the others, as midtrain and sft do where the file stands in their --data.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, SupportsFloat

from fledge.tasks import all_tasks, choice, gsm8k, humaneval
from fledge.tasks.base import Example, Task
from fledge.tasks.numbers import MARK, lenient, marked_number, read_number, strict
from fledge.tasks.records import stored
from fledge.text.chat import form_of, say
from fledge.text.files import RECORDS, find_files
from fledge.text.forms import in_our_form
from fledge.text.records import Record, read_records
from fledge.text.split import Split, split_of

HELD_OUT = 5
"""One in so many questions is in each of the splits that are not learned from."""


def file_of(name: str) -> Path | None:
    """The file or folder behind the name of such a task; None: the name is that of none."""
    path = Path(name.rpartition(":")[0] if ".py:" in name else name)
    return (
        path
        if path.suffix == ".py" or any(ending in path.name.lower() for ending in RECORDS) or path.is_dir()
        else None
    )


def task_of(name: str) -> Task:
    """The task of a file.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or what stands in it is no such task; where, and what is expected.
    """
    path = file_of(name)
    assert path is not None
    if path.suffix == ".py":
        return _graded_by(path, name)
    first = next(_records(path), None)
    if first is None:
        raise ValueError(f"{path}: no question found; expected one object to a line, as README shows them")
    read, options = _reader(first)
    if "choices" in first:  # questions differ in how many they have
        options["chance"] = statistics.fmean(1 / len(read(record).choices) for record in _records(path))

    def load(split: Split) -> Sequence[Example]:
        return stored((one for one in _records(path) if _split(read(one), one) == split), read, path)

    return Task(name=name, load=load, **options)


def _records(path: Path) -> Iterator[Record]:
    return chain.from_iterable(map(read_records, find_files(path, RECORDS).files))


def are_conversations(name: str) -> bool:
    """Whether a name is of a file whose first record is a conversation, in a form of text/forms.py, and no question as above."""
    path = file_of(name)
    if path is None or path.suffix == ".py" or any(f"{task}/".startswith(f"{name}/") for task in all_tasks()):
        return False
    first = next(_records(path), Record({}, path, 0))
    is_question = {"choices", "entry_point"} & first.keys() or {"question", "answer"} <= first.keys()
    return not is_question and "messages" in in_our_form(first, first.where)[0]


def are_questions(name: str) -> bool:
    """Whether a name is of a file that is learned from as a task: choices, unit tests, or a number in every answer.

    Other answers beside questions are conversations to learn from: who asks the capital of France wants no number.
    """
    path = file_of(name)
    if path is None or path.suffix == ".py" or not path.exists():
        return False
    first = next(_records(path), Record({}, path, 0))
    if {"choices", "entry_point"} & first.keys():
        return True
    return {"question", "answer"} <= first.keys() and all(_is_number(record.get("answer")) for record in _records(path))


def _reader(first: Record) -> tuple[Callable[[Record], Example], dict[str, Any]]:
    """How the records of a file like its first are read, and what else its task says."""
    if "choices" in first:
        return lambda record: choice.example(choice.own(record)), {"max_tokens": 8}
    if "entry_point" in first:
        return humaneval.example, {"grade": humaneval.grade, "max_tokens": 512, "judged": True}
    if "question" in first and "answer" in first:
        return _number, {"grade": strict, "lenient": lenient, "max_tokens": 400}
    if "messages" in in_our_form(first, first.where)[0]:
        raise ValueError(
            f"{first.where}: conversations have no grader; they serve midtrain and sft as --data, and `fledge evaluate` measures "
            "what their answers cost. Give questions with answers, or a grader of your own (my.py:grade)"
        )
    raise ValueError(
        f"{first.where}: fields {', '.join(first)} found{form_of(first)}; expected are question, choices and answer, question and "
        "answer with a number, or the fields of HumanEval. Name them so"
    )


def _number(record: Record) -> Example:
    """{"question", "answer"}: a number, or a solution with one behind ####."""
    if "choices" in record:  # the answer would be the place of a choice
        raise record.wrong("choices", "none, as in the file's first question: one kind to a file")
    answer = record.get("answer")
    if _is_number(answer) and MARK not in str(answer):
        record = Record({**record, "answer": f"{MARK} {answer}"}, record.path, record.number)
    return gsm8k.example(record)


def _is_number(answer: Any) -> bool:
    """Whether an answer is a number, as such or as text, or ends in one behind ####."""
    if isinstance(answer, str):
        return (marked_number(answer) if MARK in answer else read_number(answer)) is not None
    return isinstance(answer, int | float) and not isinstance(answer, bool)


def _split(example: Example, fields: Mapping[str, Any]) -> Split:
    """By the question alone, for it may come again with its choices in another order."""
    asked = fields.get("question")
    return split_of(asked if isinstance(asked, str) else example.messages[0].text, one_in=HELD_OUT)


def _graded_by(path: Path, name: str) -> Task:
    """The task of a function of a file of Python, which is run here as any program of the user's."""
    function = name.rpartition(":")[2] if ":" in name else "grade"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of one with a function, as in reward.py:grade")
    spec = importlib.util.spec_from_file_location(f"task {path}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for it there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        beside = ", or write what it needs into it: a run remembers this file alone" * isinstance(error, ImportError)
        raise ValueError(f"{path}: {type(error).__name__} when it is run: {error}. Correct it{beside}") from error
    grade = getattr(module, function, None)
    if not callable(grade):
        raise ValueError(
            f"{path}: no function {function!r}; expected is {function}(example, answer) -> 0 to 1. Name one that is there"
        )
    examples = [*_questions(path, getattr(module, "questions", None))]

    def checked(example: Example, answer: str) -> float:
        found = grade(example, answer)
        # Numbers of numpy and torch too.
        if not isinstance(found, SupportsFloat) or not 0 <= float(found) <= 1:
            raise ValueError(f"{name} returned {found!r}; allowed are numbers from 0 to 1")
        return float(found)

    def load(split: Split) -> Sequence[Example]:
        return [example for example in examples if _split(example, example.facts) == split]

    return Task(name=name, load=load, grade=checked, max_tokens=getattr(module, "max_tokens", 256))


def _questions(path: Path, questions: Any) -> Iterator[Example]:
    if not isinstance(questions, Sequence) or isinstance(questions, str) or not questions:
        raise ValueError(
            f"{path}: `questions` is {type(questions).__name__}; expected is a list of texts, or of dicts with a question"
        )
    for place, each in enumerate(questions, 1):
        facts = {"question": each} if isinstance(each, str) else each
        asked = facts.get("question") if isinstance(facts, Mapping) else None
        if not isinstance(asked, str) or not asked.strip():
            raise ValueError(
                f"{path}: question {place} is {each!r}; expected is a text, or a dict with one as its question"
            )
        try:
            json.dumps(facts)
        except (TypeError, ValueError) as error:  # a set is written in another order each time
            raise ValueError(
                f"{path}: question {place} is {each!r}: {error}; expected is what JSON can say, so that a run knows it again"
            ) from None
        yield Example(messages=(say("user", asked),), answer=facts.get("answer", ""), facts=facts)
