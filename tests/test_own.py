"""Tasks of the user's own: a file is recognised, dealt to splits that share nothing, and graded; what is wrong is said by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from fledge.config import Evaluate, Rl
from fledge.origin import origin_of
from fledge.stages import evaluate
from fledge.stages.rl import prepare
from fledge.tasks import find_task
from fledge.tasks.base import Task, freely
from fledge.text.split import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
QUIZ = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "answer": n % 2} for n in range(60)]
SUMS = [{"question": f"{n} + 1?", "answer": n + 1 if n % 2 else f"One more is #### {n + 1}"} for n in range(60)]
REWARD = """
from __future__ import annotations
from dataclasses import dataclass

questions = [f"Say {n}." for n in range(40)] + [{"question": "Say owl.", "answer": "owl", "weight": 3}]
max_tokens = 7

def grade(example, answer):
    return float(example.facts["question"] == f"Say {answer}.")

def fails(example, answer):
    return {}["nothing"]

def too_much(example, answer):
    return 7

def leaves(example, answer):
    exit()

@dataclass
class Half:
    value: float = 0.5

    def __float__(self):
        return self.value

def half(example, answer):
    return Half()
"""


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def questions(task: Task) -> list[list[str]]:
    return [[example.question[-1].text for example in task.load(split)] for split in SPLITS]


@pytest.mark.parametrize("records", [QUIZ, SUMS])
def test_every_question_is_in_one_split_whatever_stands_beside_it(tmp_path: Path, records: list[Any]) -> None:
    dealt = questions(find_task(str(write(tmp_path / "a.jsonl", records))))
    assert all(dealt)
    assert len({one for split in dealt for one in split}) == sum(map(len, dealt)) == len(records)
    fewer = questions(find_task(str(write(tmp_path / "b.jsonl", records[::-2]))))
    assert all(set(some) <= set(whole) for some, whole in zip(fewer, dealt, strict=True))


def test_a_question_stays_on_its_side_whatever_the_order_of_its_choices(tmp_path: Path) -> None:
    turned = [one | {"choices": one["choices"][::-1], "answer": 1 - one["answer"]} for one in QUIZ]
    dealt = questions(find_task(str(write(tmp_path / "a.jsonl", QUIZ + turned))))
    asked = [{question.splitlines()[0] for question in split} for split in dealt]
    assert sum(map(len, asked)) == len(set.union(*asked)) == len(QUIZ)


def test_choices_are_asked_by_letter_and_in_reinforcement_answered_in_words(tmp_path: Path) -> None:
    task = find_task(str(write(tmp_path / "a.jsonl", QUIZ)))
    example = task.load("train")[0]
    assert (example.form, task.chance, task.grade(example, str(example.answer))) == ("letter", 0.5, 1.0)
    said = freely(task).load("train")[0]
    assert (said.form, said.question) == ("chat", example.question)
    right, wrong = ("AB", "BA")[int(example.answer)]
    answers = (right, f"{right}. ", wrong, f"{right}{wrong}", "")
    assert [freely(task).grade(said, answer) for answer in answers] == [1, 1, 0, 0, 0]
    loaded = prepare(Rl(task=task.name, prompts=4, run=str(tmp_path)))[0].load("train")[0]
    assert loaded == said


def test_choices_may_be_numbers_answers_letters_and_guessing_is_known_of_mixed_counts(tmp_path: Path) -> None:
    asked = [{"question": f"{n} + {n}?", "choices": [n, 2 * n, 0.5], "answer": "b"} for n in range(1, 31)]
    asked += [{"question": f"Is {n} odd?", "choices": ["yes", "no"], "answer": "A"} for n in range(1, 61, 2)]
    task = find_task(str(write(tmp_path / "quiz.jsonl", asked)))
    assert task.chance == pytest.approx((30 / 3 + 30 / 2) / 60)
    found = [example for split in SPLITS for example in task.load(split)]
    assert {(len(example.choices), example.answer) for example in found} == {(3, 1), (2, 0)}
    assert any("- 6=B" in example.question[-1].text for example in found)


def test_numbers_are_compared_by_value(tmp_path: Path) -> None:
    task = find_task(str(write(tmp_path / "a.jsonl", SUMS)))
    zero = [{"question": f"{n} - {n}?", "answer": "0"} for n in range(40)]
    assert find_task(str(write(tmp_path / "b.jsonl", zero))).load("test")[0].answer == "#### 0"
    for example in task.load("test"):
        wanted = int(example.question[-1].text.split()[0]) + 1
        assert [task.grade(example, f"#### {said}") for said in (wanted, f"{wanted}.0", wanted + 1, "none")] == [
            1,
            1,
            0,
            0,
        ]
        assert task.lenient
        assert task.lenient(example, f"I say {wanted}.") == 1


def test_a_function_of_the_user_s_rewards_answers_to_the_questions_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "reward.py"
    path.write_text(REWARD)
    task = find_task(f"{path}:grade")
    assert sum(map(len, questions(task))) == 41
    assert task.max_tokens == 7
    example = task.load("train")[0]
    assert task.graded(example, example.question[-1].text[4:-1]) == 1.0
    assert task.graded(example, "no") == 0.0
    assert find_task(f"{path}:half").graded(example, "no") == 0.5
    errors = {
        "leaves": "SystemExit",
        "fails": r"KeyError\('nothing'\)",
        "too_much": "returned 7; allowed are numbers from 0 to 1",
    }
    for name, error in errors.items():
        broken = find_task(f"{path}:{name}")
        with pytest.raises(
            RuntimeError, match=rf"the grader raised .*{error}.* on the answer 'no' to Example.*Say \w+"
        ):
            broken.graded(example, "no")
    assert prepare(Rl(task=task.name, prompts=4, run=str(tmp_path)))[0].load("train") == task.load("train")


def test_a_stage_knows_the_file_that_it_was_rewarded_by(tmp_path: Path) -> None:
    path, hashes = tmp_path / "reward.py", []
    for text in (REWARD, REWARD, REWARD + "#"):
        path.write_text(text)
        hashes.append(origin_of(Rl(task=f"{path}:grade", run=str(tmp_path), replay_tokens=0), lenient=True)["task"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_folder_of_a_task_s_name_is_not_what_it_was_rewarded_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gsm8k").mkdir()
    write(Path("gsm8k/a.jsonl"), SUMS)
    assert "task" not in origin_of(Rl(task="gsm8k", run="run", replay_tokens=0), lenient=True)
    assert "task" in origin_of(Rl(task="gsm8k/a.jsonl", run="run", replay_tokens=0), lenient=True)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "", r"a\.jsonl: no question found"),
        (
            "a.jsonl",
            '{"question": "Hi?", "reply": "Hello"}',
            r"line 1: fields question, reply found; expected are quest",
        ),
        (
            "a.jsonl",
            '{"question": "Hi?", "answer": "Hello"}',
            r'line 1: answer is "Hello"; expected a text that ends in #',
        ),
        (
            "a.jsonl",
            '{"question": "Hi?", "choices": ["a", "b"], "answer": 2}',
            r"line 1: answer is 2; expected a whole",
        ),
        ("a.jsonl", '{"messages": []}', r"line 1: conversations have no grader"),
        ("a.jsonl", '{"prompt": "Hi", "response": "Hello"}', r"line 1: conversations have no grader"),
        ("a.py", "questions = [", r"a\.py: SyntaxError when it is run"),
        ("a.py", "questions = ['Hi?']", r"a\.py: no function 'grade'; expected is grade\(example, answer\)"),
        (
            "a.py",
            "def grade(example, answer): return 1",
            r"a\.py: `questions` is NoneType; expected is a list of texts",
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": 2}\n{"question": "Hi?", "choices": ["a", "b"], "answer": 1}',
            r"line 2: choices is .*; expected none, as in the file's first question",
        ),
        ("a.py", "import sys; sys.exit()", r"a\.py: SystemExit when it is run"),
        ("a.py", "import neighbour", r"a\.py: ModuleNotFoundError .* a run remembers this file alone"),
        ("a.py", "questions = [{'question': 'Hi?', 'words': {1}}]\ndef grade(e, a): return 1", r"question 1 is .*JSON"),
        ("a.py", "questions = ['', 1]\ndef grade(e, a): return 1", r"a\.py: question 1 is ''; expected is a text"),
    ],
)
def test_what_is_no_task_is_refused_in_a_sentence(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        find_task(str(tmp_path / name)).load("train")


def test_questions_too_few_for_a_split_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    few = write(tmp_path / "sums.jsonl", SUMS[:1])
    split: Literal["validation", "test"] = "test" if find_task(str(few)).load("validation") else "validation"
    with pytest.raises(ValueError, match=rf"sums.jsonl: the {split} split is empty; .* one in five into test"):
        evaluate.prepare(Evaluate(run=str(tmp_path), tasks=str(few), split=split))


def test_a_file_that_is_not_there_is_missed_by_name(tmp_path: Path) -> None:
    for name in ("quiz.jsonl", "reward.py:grade", "me.txt"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            find_task(str(tmp_path / name))
