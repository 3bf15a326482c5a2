"""HumanEval: complete a Python function, judged by unit tests in the sandbox (Chen et al. 2021, arXiv:2107.03374).

It has 164 problems and all of them are the test split: there is nothing to train on.
"""

from __future__ import annotations

import re
from textwrap import dedent

from fledge.sandbox.sandbox import passes
from fledge.tasks.base import Example, Task
from fledge.tasks.records import Record, from_records
from fledge.text.chat import say

FENCED = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)
CODE = re.compile(
    r"\s|[#@)\]}]|(?:async|def|class|import|from|if|elif|else|for|while|try|except|finally|with|assert|return|del|pass)\b"
    r"|[A-Za-z_][\w.]*(?:\(|\[|\s*[-+*/|&^%]?=|\s*:[^:\n]*=)"
)
"""How a line of a program begins; "This function adds them." does not."""


def completion(entry_point: str, answer: str) -> str:
    """What to put behind a problem's prompt so that the program is the one the answer means.

    Chat models answer with a fenced block, with words around the code, with the whole function or with its body alone. A whole
    function goes behind the prompt and replaces the unfinished one there, so that the prompt's imports and helpers stay in
    force; of several blocks the first that defines the function counts, else the first of all. A body that lost its
    indentation gets it back.
    """
    blocks = [dedent(block) for block in FENCED.findall(answer)] or [answer]
    defines = re.compile(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)
    code = next((block for block in blocks if defines.search(block)), blocks[0])
    if defines.search(code):
        # `pass` gives the function of the prompt a body whether or not it has a docstring.
        return "    pass\n\n" + "\n".join(_program(code.split("\n"))) + "\n"
    lines = [line for line in code.split("\n") if line.strip()]
    return "\n".join(_indented(lines)) + "\n"


def _program(lines: list[str]) -> list[str]:
    """From the first definition or import to where words begin again."""
    first = next(
        place for place, line in enumerate(lines) if re.match(r"(?:async|def|import|from|class)\b.*[\w:)]|@", line)
    )
    rest = lines[first:]
    end = next((place for place, line in enumerate(rest) if line and not CODE.match(line)), len(rest))
    return rest[:end]


def _indented(lines: list[str]) -> list[str]:
    """A function's body, four blanks deep."""
    if not lines or lines[0][0].isspace():
        inside = [place for place, line in enumerate(lines) if not line[0].isspace()]
        return lines[: inside[0]] if inside else lines
    deep = [len(line) - len(line.lstrip()) for line in lines[1:]]
    if deep and min(deep) >= 4 and (deep[0] > 4 or not lines[0].rstrip().endswith(":")):  # only the first was stripped
        return ["    " + lines[0], *lines[1:]]
    return ["    " + line for line in lines]


def grade(example: Example, answer: str) -> float:
    """1 if the function passes its unit tests."""
    facts = example.facts
    code = completion(facts["entry_point"], answer)
    return passes(facts["prompt"], code, facts["test"], facts["entry_point"])


def example(record: Record) -> Example:
    """{"task_id", "prompt", "canonical_solution", "test", "entry_point"}"""
    facts = {name: record.text(name) for name in ("prompt", "test", "entry_point")}
    if not facts["entry_point"].isidentifier():
        raise record.wrong("entry_point", "the name of a function")
    asked = say("user", f"Complete this function:\n{facts['prompt'].rstrip()}")
    solved = say("assistant", facts["prompt"] + record.text("canonical_solution").rstrip())
    return Example(messages=(asked, solved), answer=record.text("task_id"), facts=facts)


LOAD = from_records("humaneval", {"test": "humaneval/HumanEval"}, read=example)
TASK = Task(name="humaneval", load=LOAD, grade=grade, max_tokens=512, default_for=("chat",), judged=True)
