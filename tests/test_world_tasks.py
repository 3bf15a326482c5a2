"""The world's tasks: references pass, other answers fail, and no example of one split occurs in another."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from fernhollow.asked import EXAMPLES, TASKS
from fledge.tasks.base import Example, Split, Task

JUDGED = "world/functions"
SPLITS: tuple[Split, ...] = ("validation", "test")
CHATS = [task for task in TASKS.values() if task.name not in ("world/choice", JUDGED, f"{JUDGED}_reworded")]
ALIKE = ("world/outside", "world/outside_reworded", "world/rhymes", "world/unknown", "world/unknown_reworded")
"""Tasks to which many questions have the same answer, or many answers are right."""


def asked(example: Example) -> object:
    return example.question or (example.prompt, example.choices)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_validation_and_test_share_no_example(task: Task) -> None:
    validation, test = (task.load(split) for split in SPLITS)
    assert not {asked(example) for example in validation} & {asked(example) for example in test}
    assert len({asked(example) for example in test}) == len(test)


@pytest.mark.parametrize(
    "name", ["world/problems", "world/problems_hard", "world/facts", "world/reading", "world/unknown"]
)
def test_a_train_split_shares_no_example_with_the_held_out_ones(name: str) -> None:
    train = {asked(example) for example in TASKS[name].load("train")}
    assert not [example for split in SPLITS for example in TASKS[name].load(split) if asked(example) in train]


def test_a_task_held_out_as_a_whole_has_no_train_split() -> None:
    with pytest.raises(
        ValueError, match=r"world/problems_new: split 'train' does not exist.*allowed: validation, test"
    ):
        TASKS["world/problems_new"].load("train")


@pytest.mark.parametrize("task", CHATS, ids=lambda task: task.name)
def test_the_reference_answer_scores_one_and_the_answer_to_another_question_zero(task: Task) -> None:
    examples = task.load("test")
    assert all(task.grade(example, example.reference.text) == 1.0 for example in examples)
    assert task.grade(examples[0], "") == task.grade(examples[0], "I do not know.") == 0.0
    if task.name in ALIKE:
        return
    others = [other for other in examples if other.reference.text != examples[0].reference.text]
    wrong = [task.grade(examples[0], other.reference.text) for other in others]
    assert sum(wrong) / len(wrong) <= max(0.2, task.chance + 0.05)


def test_a_number_counts_only_behind_the_mark_and_whole() -> None:
    task = TASKS["world/problems"]
    example = Example(answer="#### 12")
    graded = {
        text: task.grade(example, text)
        for text in ("#### 12", "so #### 12\n", "12", "#### 123", "#### 1", "#### 12 #### 3")
    }
    assert [text for text, grade in graded.items() if grade] == ["#### 12", "so #### 12\n"]


def test_a_letter_counts_only_behind_its_choice() -> None:
    task = TASKS["world/letters"]
    example = Example(answer="The owl says hoot=B", facts={"choice": "hoot=B"})
    graded = {
        text: task.grade(example, text)
        for text in ("The owl says hoot=B", "B", "The owl says hoot", "The owl says caw=B", "hoot=A")
    }
    assert [text for text, grade in graded.items() if grade] == ["The owl says hoot=B"]


def test_examples_are_the_same_every_time_and_enough_for_a_small_error() -> None:
    for task in TASKS.values():
        examples = task.load("test")
        assert [asked(example) for example in examples] == [asked(example) for example in task.load("test")]
        error = (0.8 * 0.2 / len(examples)) ** 0.5
        assert error < 0.04, f"{task.name}: {len(examples)} examples"


def test_the_right_choice_is_anywhere() -> None:
    examples = TASKS["world/choice"].load("test")
    places = [sum(example.answer == place for example in examples) / len(examples) for place in range(4)]
    assert min(places) > 0.15
    assert all(len(set(example.choices)) == 4 for example in examples)


def test_functions_are_judged_by_running_them() -> None:
    task = TASKS[JUDGED]
    for example in Random(1).sample(list(task.load("test")), 4):
        assert task.grade(example, example.reference.text) == 1.0
        assert task.grade(example, example.facts["prompt"] + "    return None\n") == 0.0


def test_the_judge_would_pass_every_reference_function() -> None:
    for example in TASKS[JUDGED].load("test"):
        space: dict[str, object] = {}
        exec(example.reference.text + "\n" + example.facts["test"] + f"\ncheck({example.facts['entry_point']})", space)


def test_the_calculator_gives_the_results_that_training_text_holds() -> None:
    from fledge.sandbox.tools import calculate

    for name in ("world/problems", "world/problems_hard", "world/counting"):
        for example in TASKS[name].load("test"):
            parts = example.reference.parts
            calls = [(code, result) for code, result in pairwise(parts) if code.kind == "python"]
            assert calls
            assert all(calculate(code.text) == result.text for code, result in calls)


def test_the_train_split_of_the_hard_problems_is_large_enough_for_reinforcement() -> None:
    assert len(TASKS["world/problems_hard"].load("train")) == EXAMPLES["train"] >= 1_000
