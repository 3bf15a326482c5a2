"""Tasks of real data, on small files the tests write and on the real files when they are there."""

import json
import re
import tempfile
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.config import Rl
from fledge.sandbox.tools import calculate
from fledge.stages.rl import prepare
from fledge.tasks import all_tasks, choice, find_task, find_tasks, humaneval
from fledge.tasks.base import Example
from fledge.tasks.gsm8k import answer_parts
from fledge.tasks.numbers import lenient, marked_number, read_number, strict
from fledge.tasks.spelling import words
from fledge.text.chat import encode_conversation, say
from fledge.text.conversations import answered, open_conversations
from fledge.text.records import read_records
from fledge.text.split import Split
from fledge.text.tokenizer import Tokenizer

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")


def write(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in the layout of the real files, with a few records of each."""
    four = {"question": "2+2?", "choices": ["3", "4", "5", "6"], "answer": 1}
    arc = {"question": "Hot?", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "2"}
    for split in SPLITS:
        write(tmp_path / f"arc/ARC-Easy/{split}.jsonl", [arc])
        write(tmp_path / f"mmlu/{split}.jsonl", [four | {"subject": "sums"}])
    write(tmp_path / "mmlu/auxiliary_train.jsonl", [four])
    sums = [{"question": f"{n}+{n}?", "answer": f"It is <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}"} for n in range(200)]
    write(tmp_path / "gsm8k/train.jsonl", sums)
    write(tmp_path / "gsm8k/test.jsonl", [{"question": "Cost?", "answer": "$<<600*2=1200>>1,200\n#### 1,200"}])
    problem = {
        "task_id": "Toy/0",
        "prompt": 'import math\n\n\ndef area(r):\n    """Area of a circle."""\n',
        "canonical_solution": "    return math.pi * r * r\n",
        "test": "def check(candidate):\n    assert abs(candidate(1) - 3.14159) < 1e-3\n    assert candidate(0) == 0\n",
        "entry_point": "area",
    }
    write(tmp_path / "humaneval/HumanEval.jsonl", [problem])
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    return str(tmp_path)


def test_an_unknown_task_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"'arc-esay' is not one of .*Did you mean 'arc-easy'\?"):
        find_task("arc-esay")
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl"):
        find_task("missing.jsonl")
    with pytest.raises(ValueError, match=r"'croe' is not one of .* core, .*Did you mean 'core'\?"):
        find_task("croe")


def test_every_name_finds_its_task_and_every_group_its_tasks() -> None:
    for name in (tasks := all_tasks()):
        assert find_task(name).name == name
    assert {"world/facts", "arc-challenge", "humaneval", "core/copa"} < set(tasks)
    assert list(find_tasks("gsm8k, core,, core/copa")) == ["gsm8k", *(n for n in tasks if n.startswith("core/"))]


def test_a_question_shows_each_choice_with_its_letter_and_is_answered_by_a_letter(local) -> None:
    (example,) = find_task("arc-easy").load("test")
    assert example.question[0].text == "Multiple choice: Hot?\n- ice=A\n- fire=B\nAnswer with the letter alone."
    assert (example.choices, example.answer, example.reference.text) == (("A", "B"), 1, "B")
    assert example.form == "letter"


def test_mmlu_trains_on_the_auxiliary_set_and_not_on_what_it_tests(local) -> None:
    task = find_task("mmlu")
    assert [len(task.load(split)) for split in SPLITS] == [1, 1, 1]
    assert choice.MMLU_FILES["train"] == "mmlu/auxiliary_train"


RECORDS: dict[Any, dict[str, Any]] = {
    choice.arc: {"choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"},
    choice.plain: {"choices": ["3", "4"], "answer": 1},
}


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of every public task that has a train split, with questions enough for each side."""
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    for task, (files, read) in choice.SOURCES.items():
        for split, name in files.items():
            asked = [{"question": f"{task} {split} {n}"} for n in range(100)]
            write(tmp_path / f"{name}.jsonl", [RECORDS[read] | one for one in asked])
    for split in ("train", "test"):
        sums = [{"question": f"{split} {n}+{n}?", "answer": f"#### {2 * n}"} for n in range(200)]
        write(tmp_path / f"gsm8k/{split}.jsonl", sums)
    return tmp_path


GOOD: dict[str, dict[str, Any]] = {
    "gsm8k/test": {"question": "2+2?", "answer": "#### 4"},
    "arc/ARC-Easy/test": {"question": "Hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"},
    "mmlu/test": {"question": "2+2?", "choices": ["3", "4"], "answer": 1},
    "humaneval/HumanEval": {
        "task_id": "a", "prompt": "def f():\n", "canonical_solution": "    return 1", "test": "assert f()", "entry_point": "f"
    },
}  # fmt: skip
READ_BY = dict(zip(GOOD, ("gsm8k", "arc-easy", "mmlu", "humaneval"), strict=True))
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.floats(), st.text(max_size=3), st.just([]), st.just({}), st.just(["a"]),
    st.just({"text": ["a", "b"], "label": "AB"}), st.just({"text": ["a", "b"], "label": ["A"]}), st.just([1, 2]),
    st.just({"text": ["a", "b"], "label": ["B", "B"]}),
)  # fmt: skip


@pytest.mark.parametrize("file", GOOD)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_record_in_another_form_is_named_by_file_line_and_field(file: str, data: st.DataObject) -> None:
    good = GOOD[file]
    field = data.draw(st.sampled_from(list(good)))
    bad = {name: value for name, value in good.items() if name != field} | data.draw(
        st.sampled_from([{}, {field: None}])
    )
    if field in bad:
        bad[field] = data.draw(ODD)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_LOCAL", folder)
        path = Path(folder, f"{file}.jsonl")
        write(path, [good, bad])
        said = ""
        try:
            assert len(find_task(READ_BY[file]).load("test")) == 2
        except ValueError as error:
            said = str(error)
        # Another value of the right kind may be as good as the first, and a place may be written as a string.
        assert (f"{path} line 2" in said and field in said) if said else type(bad[field]) in (str, type(good[field]))


def test_a_reference_without_a_number_is_found_when_examples_are_read(many: Path) -> None:
    path = many / "gsm8k/train.jsonl"
    path.write_text(path.read_text() + '{"question": "q", "answer": "The answer is 2."}\n')
    with pytest.raises(ValueError, match=r'train.jsonl line 201: answer is "The answer is 2."; expected .* #### 72'):
        find_task("gsm8k").load("train")
    with pytest.raises(ValueError, match="line 201"):
        prepare(Rl(task="gsm8k"))


def test_a_table_may_hold_columns_that_nobody_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    row = {"question": "1+1?", "answer": "#### 2", "when": datetime.now(), "image": b"\xff", "price": Decimal("1.5")}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "test.parquet")
    assert [example.answer for example in find_task("gsm8k").load("test")] == ["#### 2"]


def test_reinforcement_has_choices_answered_in_words_and_refuses_what_nobody_grades(many: Path) -> None:
    assert prepare(Rl(task="arc-easy", prompts=4))[0].load("train")[0].form == "chat"
    (many / "own.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}')
    with pytest.raises(ValueError, match="conversations have no grader"):
        prepare(Rl(task=str(many / "own.jsonl")))


WHOLE = re.compile("core/.*|humaneval|world/(problems_new|suggestions|typed/.*|.*_reworded)")
"""Tasks that are held out as a whole, or are the same on every side."""
TRAINED_ON = [name for name in all_tasks() if not WHOLE.fullmatch(name)]


@pytest.mark.parametrize("name", TRAINED_ON)
def test_what_is_learned_and_what_is_measured_never_meet(name: str, many: Path) -> None:
    found = {split: find_task(name).load(split) for split in SPLITS}
    asked = {split: {(e.question, e.prompt, e.choices) for e in examples} for split, examples in found.items()}
    assert all(asked.values())
    assert not asked["train"] & (asked["validation"] | asked["test"])
    assert not asked["validation"] & asked["test"]


def test_an_example_stays_on_its_side_wherever_it_stands(many: Path) -> None:
    task, path = find_task("gsm8k"), many / "gsm8k/train.jsonl"
    before = {example.question for example in task.load("validation")}
    assert 0 < len(before) < 30
    assert len(task.load("train")) + len(before) == 200
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True)[:100])))
    assert {example.question for example in task.load("validation")} < before


def test_a_calculation_becomes_a_tool_call_and_its_result() -> None:
    parts = answer_parts("He has 2*3 = <<2*3=6>>6 and 6/2 = <<6/2=3>>3.\n#### 3")
    assert [(part.kind, part.text) for part in parts] == [
        ("text", "He has 2*3 = "), ("python", "2*3"), ("output", "6"), ("text", "6 and 6/2 = "), ("python", "6/2"),
        ("output", "3"), ("text", "3.\n#### 3"),
    ]  # fmt: skip


NUMBERS = {
    "72": ["72", "72.", "1,2 #### 72", "**72**", "#### 72 apples", "72 (48+24)", r"\boxed{72}", "$72$", "72!", "= 72", "+72"],
    "-3": ["-3", "-$3", "$-3", "\u22123", "- 3", "-3.00", "-6/2", "**-3**"],
    "1/2": ["1/2", ".5", "0.50", "\u00bd", r"\frac{1}{2}", r"\boxed{\frac{1}{2}}", r"\frac12", "5e-1", "2/4 cup", "0,5"],
    "3/2": ["1 1/2", "1\u00bd", "1.5 hours", "3/2"],
    "1000000": ["1e6", "1 000 000", "1,000,000", "1'000'000", "1\u202f000\u202f000", "1.000.000", "1 million", "1M dollars"],
    "1200": ["1,200", "$1,200.00", "1{,}200", "1.2e3", "1.2 x 10^3", "1.2 \u00d7 10\u00b3", r"1.2 \cdot 10^3",
             "$$1200$$", "USD 1200", "1200 \u20ac", "12 hundred"],
    "50": ["50", "50%", "50 percent", r"50\%"],
}  # fmt: skip


@pytest.mark.parametrize(("number", "text"), [(number, text) for number, texts in NUMBERS.items() for text in texts])
def test_a_number_is_read_however_it_is_written(number: str, text: str) -> None:
    assert marked_number(f"so it is #### {text}") == marked_number(f"#### {text}\nAs I said.") == Fraction(number)


@pytest.mark.parametrize(
    "text",
    ["10:30", "3-4", "3 + 4", "1,2,3", "1/0", "1/2/3", "3 or 4", "2**3", "--3", "2024-01-05", "3\u00b2", "x", ".", "", "5 feet 6",
     "1e999999999", "9" * 5000, r"\sqrt{3}", r"\sqrt 3", r"3\pi", "3\u03c0", "3x4", "3 and a half"],
)  # fmt: skip
def test_what_is_not_clearly_one_number_is_none(text: str) -> None:
    assert marked_number(f"#### {text}") is None


@pytest.mark.parametrize(
    ("wanted", "answer", "strictly", "leniently"),
    [
        ("72", "The answer is 72.", 0, 1), ("72", "48 + 24 = 72 clips", 0, 1), ("72", "It is 72. #### 71", 0, 0),
        ("2", "We have 7-5", 0, 0), ("5", "We have 7-5", 0, 1), ("3", r"So \boxed{3}, of 10", 0, 1), ("72", "", 0, 0),
        ("3", "3 million in all", 0, 0), ("2500000", "It earns $2.5M.", 0, 1),
        ("1200", "$1,200.00 in all", 0, 1), ("0.5", "#### 50%", 1, 1), ("50", "#### 50%", 1, 1), ("5000", "#### 50%", 0, 0),
        ("125", "#### 12,5", 0, 0), ("1", "#### 1/2", 0, 0), ("10", "#### 10:30", 0, 0), ("3", "#### 3-4", 0, 0),
    ],
)  # fmt: skip
def test_the_strict_grade_wants_the_mark_and_the_lenient_one_the_last_number(
    wanted, answer, strictly, leniently
) -> None:
    example = Example(answer=f"#### {wanted}")
    assert (strict(example, answer), lenient(example, answer)) == (strictly, leniently)


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_is_read_as_what_it_is(number: Fraction) -> None:
    assert read_number(str(number)) == number


def test_gsm8k_grades_the_marked_number_alone(local) -> None:
    task = find_task("gsm8k")
    (example,) = task.load("test")
    assert task.grade(example, example.reference.text) == 1
    assert [task.grade(example, answer) for answer in ("#### 1200.0", "1200", "#### 1201", "", "#### .", "####")] == [
        1, 0, 0, 0, 0, 0,
    ]  # fmt: skip


ANSWERS = {
    "body": "    return math.pi * r * r",
    "body without indentation": "return math.pi * r * r",
    "body whose first line was stripped": "half = r * r\n    return math.pi * half",
    "body that begins with a block": "if r:\n        return math.pi * r * r\n    return 0",
    "block without indentation": "if r:\n    return math.pi * r * r\nreturn 0",
    "whole function": 'def area(r):\n    """Area."""\n    return math.pi * r * r',
    "program": 'import math\n\n\ndef area(r):\n    """Area."""\n    return math.pi * r * r\n',
    "fence": "Sure!\n\n```python\ndef area(r):\n    return math.pi * r * r\n```\nIt multiplies.",
    "fence that never ends": "```py\ndef area(r):\n    return math.pi * r * r",
    "second block": "```\npip install x\n```\nThen:\n```Python\ndef area(r):\n    return math.pi * r * r\n```",
    "words around": "Here is the function:\n\ndef area(r):\n    return math.pi * r * r\n\nThis function multiplies.",
    "helper": "def square(x):\n    return x * x\n\ndef area(r):\n    return math.pi * square(r)",
    "body and words": "    return math.pi * r * r\n\nThis works because a circle is round.",
    "bash before python": "```bash\npip install x\n```\nCode:\n```python\ndef area(r):\n    return math.pi * r * r\n```",
    "text before a body": "```text\nmultiply\n```\n```python\nreturn math.pi * r * r\n```",
    "tildes": "~~~python\ndef area(r):\n    return math.pi * r * r\n~~~",
    "fence with a title": "```python title=area.py\ndef area(r):\n    return math.pi * r * r\n```",
    "fence in a list": "1. Like this:\n   ```python\n   def area(r):\n       return math.pi * r * r\n   ```",
    "fence that another ends": "```bash\npip install x\n```python\ndef area(r):\n    return math.pi * r * r\n```",
    "code outside the fences": "```bash\npip install x\n```\nThen:\n\ndef area(r):\n    return math.pi * r * r\n\nDone.",
    "body outside the fences": "```bash\nls\n```\n    return math.pi * r * r",
    "another language": "```javascript\nconst x = 1\n```\n```py\ndef area(r):\n    return math.pi * r * r\n```",
    "class Solution": "```python\nclass Solution:\n    def area(self, r):\n        return math.pi * r * r\n```",
    "class and words": "Here:\n\nclass Solution:\n    def area(self, r: float):\n        return math.pi * r * r\n\nIt works.",
    "no-break spaces": "```python\ndef\u00a0area(r):\n\u00a0\u00a0\u00a0\u00a0return\u00a0math.pi * r * r\n```",
    "body of no-break spaces": "\u00a0\u00a0\u00a0\u00a0return math.pi * r * r",
    "tabs": "\treturn math.pi * r * r",
    "two blanks": "  if r:\n    return math.pi * r * r\n  return 0",
    "lines of Windows": "```python\r\ndef area(r):\r\n    return math.pi * r * r\r\n```\r\n",
    "lambda": "```python\narea = lambda r: math.pi * r * r\n```",
    "constant": "```python\nPI = math.pi\n\ndef area(r):\n    return PI * r * r\n```",
    "helper in another block": "```py\ndef sq(x):\n    return x * x\n```\n```py\ndef area(r):\n    return math.pi * sq(r)\n```",
    "example in another block": "```python\ndef area(r):\n    return math.pi * r * r\n```\n```python\nprint(area(1))\n```",
    "fence in a docstring": "```py\ndef area(r):\n    '''Of:\n    ```py\n    area(1)\n    ```'''\n    return math.pi * r * r\n```",
    "fence that ends with the code": "```python\ndef area(r):\n    return math.pi * r * r```\nIt multiplies.",
    "annotations of the future": "from __future__ import annotations\n\ndef area(r: Radius):\n    return math.pi * r * r",
    "another name": "def area_of(r):\n    return math.pi * r * r\n\narea = area_of",
    "in a branch": "try:\n    import absent\nexcept ImportError:\n    def area(r):\n        return math.pi * r * r",
    "helper that speaks of it": "```py\ndef sq(x):\n    'For area.'\n    return x * x\n```\n"
    "```py\ndef area(r):\n    return math.pi * sq(r)\n```",
    "drafts": "<think>\n```py\ndef area(r):\n    return r\n```\nNo.</think>\n```py\ndef area(r):\n    return math.pi * r * r\n```",
    "body with a text of lines": "    said = '''a\nb'''\n    return math.pi * r * r",
    "prose that begins like code": "from the formula we get:\ndef area(r):\n    return math.pi * r * r",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_judge_finds_the_program_in_an_answer(kind, local) -> None:
    task = find_task("humaneval")
    (example,) = task.load("test")
    assert task.grade(example, ANSWERS[kind]) == 1


WRONG = [
    "", "    return 3", "def other(r):\n    return 3", "I cannot do that.", "```\n```", "```bash\npip install x\n```",
    "```python\ndef area(r)\n```", "class area:\n    pass",
]  # fmt: skip


@pytest.mark.parametrize("answer", WRONG)
def test_the_judge_refuses_a_program_that_is_wrong(answer, local) -> None:
    task = find_task("humaneval")
    assert task.grade(task.load("test")[0], answer) == 0


def test_humaneval_has_nothing_to_train_on(local) -> None:
    with pytest.raises(ValueError, match="humaneval: split 'train' does not exist; allowed: test"):
        find_task("humaneval").load("train")


@pytest.mark.parametrize("name", ["spelling", "counting"])
def test_words_are_learned_and_tested_apart_and_the_references_are_right(name) -> None:
    task = find_task(name)
    asked = {split: task.load(split) for split in SPLITS}
    seen = {}
    for split, examples in asked.items():
        spelled = [re.findall(r"\b[a-z](?:-[a-z])+\b", example.reference.text)[0] for example in examples]
        seen[split] = {word.replace("-", "") for word in spelled}
        assert all(task.grade(example, example.reference.text) == 1 for example in examples)
        assert not any(task.grade(example, "No idea.") for example in examples)
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert min(len(found) for found in seen.values()) > 20


def test_the_calculator_agrees_with_the_counts() -> None:
    for example in find_task("counting").load("test"):
        code, output = (part.text for part in example.reference.parts[1:3])
        assert calculate(code) == output


def test_the_words_come_from_a_list_among_the_files_when_there_is_one(tmp_path, monkeypatch) -> None:
    assert "ability" in words(None)
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    (tmp_path / "words.txt").write_text("zebra\nAda\nit's\nab\nzither\n")
    assert words(tmp_path) == ("zebra", "zither")


def test_conversations_are_no_task_and_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"smoltalk: conversations have no grader. Name a task"):
        find_task("smoltalk")
    with pytest.raises(ValueError, match=r"holds nothing, but no \.parquet"):
        find_task(str(tmp_path))


def test_a_conversation_ends_with_the_last_answer() -> None:
    hello, hi, thanks = say("user", "Hello"), say("assistant", "Hi"), say("user", "Thanks")
    assert answered((hello, hi, thanks)) == answered((hello, hi)) == (hello, hi)
    assert answered((hello,)) == ()


REAL = {
    "arc-easy": (2251, 570, 2376),
    "arc-challenge": (1119, 299, 1172),
    "mmlu": (None, 1531, 14042),
    "gsm8k": (7473, None, 1319),
    "humaneval": (None, None, 164),
}


@needs_data
@pytest.mark.parametrize("name", REAL)
def test_the_real_files_are_read_whole(name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(DATA))
    task = find_task(name)
    train, validation, test = REAL[name]
    examples = task.load("test")
    assert len(examples) == test
    if validation is not None:
        assert len(task.load("validation")) == validation
    if train is not None:
        assert len(task.load("train")) + (len(task.load("validation")) if validation is None else 0) == train
    if examples[0].choices:
        assert all(0 <= int(example.answer) < len(example.choices) for example in examples)
    else:
        some = examples if name == "gsm8k" else examples[:3]
        assert all(task.grade(example, example.reference.text) == 1 for example in some)


@needs_data
def test_results_in_gsm8k_are_those_of_our_calculator() -> None:
    """As people wrote them but for a few, which were rounded or written as 05 or .5."""
    path = DATA / "gsm8k" / "test.jsonl.gz"
    written = [call for record in read_records(path) for call in re.findall(r"<<([^<>]*)>>", record["answer"])]
    agree = 0
    for call in written:
        expression, output = answer_parts(f"<<{call}>>")
        assert output.text == (calculate(expression.text) or call.rpartition("=")[2])
        agree += output.text == call.rpartition("=")[2]
    assert agree / len(written) > 0.95


@needs_data
def test_real_dialogues_become_tokens() -> None:
    tokenizer = Tokenizer([])
    for name in ("topical_chat", "oasst_en100"):
        conversations = list(open_conversations(DATA / "chat" / f"{name}.jsonl.gz"))[:5]
        assert conversations
        assert all(any(encode_conversation(tokenizer, conversation).mask) for conversation in conversations)


def test_code_that_an_answer_replaces_stays_in_force() -> None:
    whole = humaneval.completion("f", "def f(x):\n    return g(x)")
    assert whole.startswith("    pass\n")
