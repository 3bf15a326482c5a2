"""GSM8K: word problems of grade school, whose reference answers call the calculator (Cobbe et al. 2021, arXiv:2110.14168).

In the data a calculation stands as `48/2 = <<48/2=24>>24 clips`; here `48/2` becomes a tool call and `24` its result, so that a
model learns to write the one and read the other. The answer that counts stands behind `####` at the end.
"""

from __future__ import annotations

import re

from fledge.sandbox.tools import calculate
from fledge.tasks.base import Example, Task
from fledge.tasks.numbers import MARK, lenient, marked_number, strict
from fledge.tasks.records import Files, Record, from_records
from fledge.text.chat import Part, say

FILES: Files = {"train": "gsm8k/train", "test": "gsm8k/test"}
CALCULATION = re.compile(r"<<([^<>]*)>>")


def answer_parts(answer: str) -> tuple[Part, ...]:
    """Prose, tool calls and results of a reference answer.

    "2*3 = <<2*3=6>>6" -> text "2*3 = ", python "2*3", output "6", text "6". The result is what our calculator says, which the
    model will see when it calls: people rounded and wrote 05 or .5 here and there. Where it has no answer theirs stays.
    """
    parts: list[Part] = []
    for place, piece in enumerate(CALCULATION.split(answer)):
        if place % 2 == 0:
            parts += [Part("text", piece)] if piece else []
            continue
        expression, _, result = piece.rpartition("=")
        parts += [Part("python", expression), Part("output", calculate(expression) or result)]
    return tuple(parts)


def example(record: Record) -> Example:
    """{"question", "answer" with a number behind ####}"""
    answer = record.text("answer")
    if marked_number(answer) is None:
        raise record.wrong("answer", f"a text that ends in {MARK} and a number, such as {MARK} 72")
    messages = (say("user", record.text("question")), say("assistant", *answer_parts(answer)))
    return Example(messages=messages, answer=f"{MARK} {answer.rpartition(MARK)[2].strip()}")


LOAD = from_records("gsm8k", FILES, read=example)
TASK = Task(name="gsm8k", load=LOAD, grade=strict, lenient=lenient, max_tokens=400, default_for=("chat",))
