"""How much of the evaluation sets stands in the training text.

    fledge bench contamination --data DIR --local DATA --tasks arc-easy,gsm8k,core

Reads the training split once and looks for 13 words in a row of any test item (see text/contamination.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from benchmarks.overlap import contamination
from fledge.console import console, table
from fledge.evals.core import TASKS, open_bundle
from fledge.tasks import find_task
from fledge.tasks.base import Example
from fledge.text.documents import describe, open_documents
from fledge.text.hub import EVAL_BUNDLE, locate


@dataclass(frozen=True, kw_only=True)
class ContaminationBench:
    """Settings of `fledge bench contamination`."""

    data: str = "world"
    """Training text: "world", a name, a folder or a file."""
    tasks: str = "arc-easy,arc-challenge,mmlu,gsm8k,humaneval,core"
    """Tasks whose test split is looked for; `core` stands for the 22 tasks of CORE."""
    megabytes: float = 250.0
    """Training text to read, in million characters; a folder that holds less is read once."""


def main(config: ContaminationBench) -> None:
    """Read, compare, print one line per set."""
    description = describe(config.data)
    tests = dict(_tests(config))
    overlaps = contamination(_texts(config), tests)
    console.print(f"training text: {description}")
    rows = [
        [one.name, f"{one.items:,}", f"{one.short:,}", f"{len(one.seen):,}", f"{one.share:.2%}", one.example]
        for one in overlaps
    ]
    table(
        "13 words in a row that also stand in the training text",
        ["set", "items", "short", "seen", "share", "example"],
        rows,
    )


def _tests(config: ContaminationBench) -> Iterator[tuple[str, list[str]]]:
    for name in filter(None, map(str.strip, config.tasks.split(","))):
        if name == "core":
            read = open_bundle(locate(EVAL_BUNDLE))
            for task in TASKS:
                yield f"core/{task.label}", [" ".join(_strings(item)) for item in read(task)]
        else:
            yield name, [question(example) for example in find_task(name).load("test")]


def question(example: Example) -> str:
    """What a model is shown of an example."""
    return " ".join([example.prompt, *(message.text for message in example.question), *example.choices])


def _strings(value: object) -> Iterator[str]:
    """Every text inside a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _texts(config: ContaminationBench) -> Iterator[str]:
    """One epoch at most."""
    left = config.megabytes * 1e6
    documents = open_documents(config.data)
    for document in takewhile(lambda one: one.cursor.get("epoch", 0) == 0, documents):
        yield document.text
        left -= len(document.text)
        if left <= 0:
            return
