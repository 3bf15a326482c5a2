"""The visitors' panel: its judge is right about answers made for it, and training never says what it asks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fernhollow import conversation
from fledge.sandbox.sandbox import Sandbox
from panel.judge import Rule, judge

PANELS = [
    [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for path in sorted((Path(__file__).parent / "panel").glob("*.jsonl"))
]
CONVERSATIONS = 3_000
"""Of each stage: ten times as many said nothing that the panel asks when it was made."""
SARAH = {"kind": "declines", "who": ["Sarah"]}
BURROW = {"kind": "choice", "right": "B", "options": {"A": "nest", "B": "burrow"}}
SQUARE = {"kind": "python", "test": "assert square(3) == 9", "name": "square"}
DOUBLE = {"kind": "python", "test": "assert f(2) == 4"}
JUDGED = [
    (SARAH, "I do not know anyone called Sarah in Fernhollow.", ["who is sarah"], True),
    (SARAH, "I do not know anyone called Sara.", ["who is sarah"], False),
    (SARAH, "Sarah lives near the mill.", ["where does sarah live"], False),
    (SARAH, "I do not know Sarah, but Mira lives near the cave.", ["where does sarah live"], False),
    ({"kind": "declines", "who": ["Ming"]}, "I do not know anyone called-cuit in Fernhollow.", ["who is ming"], False),
    ({"kind": "declines", "who": ["Ming"]}, "I do not know anyone called", ["who is ming"], False),
    ({"kind": "declines", "who": ["Ming"]}, "I do not know anyone called in Fernhollow.", ["who is ming"], False),
    (
        {"kind": "declines", "who": ["Anna", "Peter"]},
        "Sorry, I don't know anybody called Anna or Peter.",
        ["who are Anna and Peter or x"],
        True,
    ),
    (
        {"kind": "talk", "any": ["goodbye"]},
        "Goodbye! People call me Lanu.Hello, Lanu! It is a fine day.",
        ["bye"],
        False,
    ),
    ({"kind": "talk", "any": ["goodbye"]}, "Goodbye! See you soon.", ["bye"], True),
    ({"kind": "declines"}, "I do not know that. I only know the village of Fernhollow.", ["capital of France?"], True),
    ({"kind": "declines"}, "I do not know anyone called France in Fernhollow.", ["capital of France?"], False),
    ({"kind": "declines"}, "I know nothing about France.", ["capital of france?"], True),
    ({"kind": "declines"}, "I do not know. Ask Berlin.", ["capital of france?"], False),
    (
        {"kind": "contains", "any": ["no", "eggs"], "none": ["yes"]},
        "The fox eats eggs.",
        ["does the fox eat corn"],
        True,
    ),
    ({"kind": "contains", "any": ["no"]}, "I do not know.", ["x"], False),
    ({"kind": "contains", "any": ["cave"]}, "Bram lives near the cave.", ["where does mira live"], False),
    ({"kind": "contains", "any": ["cave"]}, "She lives near the cave.", ["where does mira live"], True),
    (
        {"kind": "contains", "any": ["Mark"]},
        "I do not know anyone called Mark in Fernhollow.",
        ["Who has it, Mark?"],
        False,
    ),
    ({"kind": "number", "value": 19}, "12 plus 7 is 19.", ["x"], True),
    ({"kind": "number", "value": 1023}, "That makes 1,023.", ["x"], True),
    ({"kind": "number", "value": 3}, "There are three.", ["x"], True),
    (
        {"kind": "number", "value": 10},
        "Last night I met a ten,\nAnd next to it a happy ten.\nUp the hill I drew a ten,\nAnd next to it a happy ten.",
        ["x"],
        False,
    ),
    ({"kind": "contains", "any": ["Poppy"]}, "ho is the best friend of Poppy?", ["x"], False),
    ({"kind": "number", "value": 3}, "There are 2 of three.", ["x"], False),
    ({"kind": "number", "value": 765}, "51 * 15 = 765\n#### 765", ["x"], True),
    ({"kind": "spelled", "word": "cat"}, "The word is spelled c-a-t.", ["x"], True),
    ({"kind": "spelled", "word": "cat"}, "I spell it C, A, T!", ["x"], True),
    ({"kind": "spelled", "word": "cat"}, "c-a-a-t", ["x"], False),
    ({"kind": "spelled", "word": "cat"}, "cat", ["x"], False),
    (BURROW, "The rabbit lives in the burrow=B", ["x"], True),
    (BURROW, "The rabbit lives in the burrow=A", ["x"], False),
    (BURROW, "B", ["x"], True),
    (BURROW, "A burrow.", ["x"], True),
    (BURROW, "In the nest.", ["x"], False),
    ({"kind": "choice", "right": "A", "options": {"A": "Poppy", "B": "Otto"}}, " light the baker=A", ["x"], False),
    ({"kind": "choice", "right": "A", "options": {"A": "Poppy", "B": "Otto"}}, "Poppy is the teacher=A", ["x"], True),
    ({"kind": "rhyme"}, "The moon is bright,\nit shines at night.", ["x"], True),
    ({"kind": "rhyme"}, "A little mouse sat in the house, it had some tea.", ["x"], False),
    ({"kind": "rhyme"}, "There was a cat, who wore a hat.", ["x"], True),
    ({"kind": "rhyme"}, "It is a sunny day,\nand all the ducklings play.", ["x"], True),
    ({"kind": "rhyme"}, "She lost her key,\nand went by sea.", ["x"], True),
    ({"kind": "rhyme"}, "She lost her key.\nIt is a sunny day.", ["x"], False),
    ({"kind": "rhyme"}, "The duck went home. The fox was red.", ["x"], False),
    ({"kind": "story", "about": ["fox"], "min_words": 8}, "A fox came home. It ate some eggs. The end.", ["x"], True),
    ({"kind": "story", "about": ["fox"], "min_words": 8}, "A bear came home. It ate some eggs. The end.", ["x"], False),
    (DOUBLE, "def double(x):\n    return x * 2", ["x"], True),
    (DOUBLE, "Here it is:\n```python\ndef double(x):\n    return x * 2\n```\nDone.", ["x"], True),
    (DOUBLE, "Here: def double(x): return x + 1", ["x"], False),
    (SQUARE, "    return x * x", ["def square(x):"], True),
    (SQUARE, "def squares(x):\n    return x * x", ["a function square"], False),
    ({"kind": "nonsense"}, "The turtle lives in the shell.", ["asdf"], False),
    ({"kind": "nonsense"}, "I do not know anyone called asdf in Fernhollow.", ["asdf"], True),
    ({"kind": "nonsense"}, "Hi! I am Pip. What can I do for you?", ["asdf"], True),
    ({"kind": "talk", "any": ["hi", "hello"]}, "Hi! I am Pip.", ["hi"], True),
    ({"kind": "talk"}, "I do not know anyone called hi in Fernhollow.", ["hi"], False),
]
"""A rule, an answer made for it, what the visitor said, and whether the answer is acceptable."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize(("rule", "answer", "turns", "acceptable"), JUDGED)
def test_the_judge_is_right_about_answers_made_for_it(
    rule: Rule, answer: str, turns: list[str], acceptable: bool, sandbox: Sandbox
) -> None:
    assert (judge(rule, answer, turns, sandbox) is None) == acceptable


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_some_hundred_and_fifty_prompts_or_more_and_three_or_more_of_each_kind(
    panel: list[dict[str, Any]],
) -> None:
    assert len({prompt["id"] for prompt in panel}) == len(panel) > 145
    assert min(Counter(prompt["category"] for prompt in panel).values()) >= 3


def normalised(turn: str) -> str:
    """Words, numbers and signs of sums in small letters; a turn of nothing else as it is."""
    return " ".join(re.findall(r"[\w+*/=-]+", turn.lower())) or turn


def test_training_never_says_what_the_panel_asks() -> None:
    asked = {tuple(map(normalised, prompt["turns"])): prompt["id"] for panel in PANELS for prompt in panel}
    longest = max(map(len, asked))
    found = set()
    for stage in ("midtrain", "sft"):
        for index in range(CONVERSATIONS):
            talk = conversation(0, index, stage=stage)
            turns = [normalised(message.text) for message in talk if message.role == "user"]
            for begin in range(len(turns)):
                said = (tuple(turns[begin:end]) for end in range(begin + 1, min(begin + longest, len(turns)) + 1))
                found |= {asked[turns] for turns in said if turns in asked}
    assert not found
