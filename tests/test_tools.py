"""The tools as the model sees them (sandbox/tools.py)."""

import ast
import gzip
import json
import math
import re
import subprocess
import sys
import threading
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.sandbox.sandbox import Sandbox
from fledge.sandbox.tools import (
    CALCULATOR_ERROR,
    MAX_CHARS,
    MAX_OUTPUT_BYTES,
    calculate,
    format_number,
    python_tool,
    run_tool,
)

HOSTILE = tomllib.loads((Path(__file__).parent / "hostile" / "expressions.toml").read_text("utf-8"))
REPEATED = [start * times + end for start, times, end in HOSTILE["refused_repeated"]]
GSM8K = Path(__file__).resolve().parents[2].joinpath("shared/data/gsm8k")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("12*3", "36"),
        ("60/5", "12"),
        ("24.0", "24"),
        ("2.4*2", "4.8"),
        ("16-3-4", "9"),
        (".5*12", "6"),
        ("1,000*2", "2000"),
        ("0.2*50", "10"),
        ("10/3", "3.33333333333"),
        ("(1+2)*3", "9"),
        (" 7 // 2 ", "3"),
        ("'banana'.count('a')", "3"),
        ('"banana".count("an")', "2"),
        ('len("shell")', "5"),
        ("len('é😀')", "2"),
        ("1234567890123/2", "617283945061.5"),
    ],
)
def test_the_calculator_writes_results_as_the_training_data_does(expression: str, text: str) -> None:
    assert calculate(expression) == text
    assert run_tool(expression) == text


@pytest.mark.parametrize("expression", HOSTILE["refused"] + REPEATED)
def test_the_calculator_refuses_whatever_is_not_arithmetic_at_once(expression: str) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)  # of Python's functions and of those in C, entered and left
    try:
        answer = run_tool(expression)
    finally:
        sys.setprofile(None)
    assert answer == CALCULATOR_ERROR
    assert calls <= 40 + 4 * min(len(expression), MAX_CHARS)


@pytest.mark.parametrize(("expression", "text"), HOSTILE["answers"].items())
def test_the_calculator_answers_the_unusual_but_harmless(expression: str, text: str) -> None:
    assert calculate(expression) == text


@settings(deadline=None)
@given(st.text(alphabet="0123456789.,+-*/%() '\"acountlen", max_size=40) | st.text(max_size=40))
def test_no_text_makes_the_calculator_raise_or_answer_at_length(expression: str) -> None:
    value = calculate(expression)
    assert value is None or (len(value) < 100 and "e" not in value and Decimal(value).is_finite())


_numbers = st.integers(0, 999).map(str)
_operators = st.sampled_from(["+", "-", "*", "//", "%"])
_expressions = st.recursive(  # 12 factors below 1000 stay below the largest number of the calculator
    _numbers, lambda inner: st.tuples(inner, _operators, inner).map("({0[0]}{0[1]}{0[2]})".format), max_leaves=12
)


@settings(deadline=None)
@given(_expressions)
def test_whole_numbers_come_out_as_in_python(expression: str) -> None:
    try:
        truth = eval(compile(ast.parse(expression, mode="eval"), "", "eval"))
    except ZeroDivisionError:
        truth = None
    assert calculate(expression) == (None if truth is None else str(truth))


@settings(deadline=None)
@given(st.integers() | st.floats(-1e15, 1e15))
def test_a_formatted_number_reads_back_as_the_same_value(value: float) -> None:
    text = format_number(value)
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]*[1-9])?", text)
    assert math.isclose(float(text), value, rel_tol=1e-11)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_cannot_be_written(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        format_number(value)


def test_the_calculator_answers_in_any_thread_whatever_the_precision_there() -> None:
    answers = []

    def work() -> None:
        import decimal

        decimal.getcontext().prec = 3
        answers.extend(calculate(f"({n}0000000000+1)*10/10") for n in range(1, 200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted([f"{n}0000000001" for n in range(1, 200)] * 4)


def test_both_modules_import_the_standard_library_alone() -> None:
    code = "import fledge.sandbox.tools, fledge.sandbox.sandbox, sys; "
    code += "print([m for m in sys.modules if m[:5] in ('torch', 'numpy')])"
    source = str(Path(__file__).parents[1] / "src")
    program = f"import sys; sys.path.append({source!r}); {code}"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_python_tool_answers_arithmetic_and_programs_and_says_what_went_wrong() -> None:
    with Sandbox(workers=1) as sandbox:
        tool = python_tool(sandbox, timeout_seconds=60)
        assert tool("12*3") == "36"
        assert tool("for i in range(3):\n    print(i)") == "0\n1\n2"
        assert tool("x = 1") == "(no output; use print)"
        assert tool("print(1)\nprint(y)") == "1\nerror: NameError: name 'y' is not defined (line 2)"
        flood = tool("print('é' * 10_000)")
        assert flood == "é" * (MAX_OUTPUT_BYTES // 2) + " ... (19000 more bytes)"
        assert len(tool("raise ValueError('x' * 10_000)")) < 400


def test_the_calculator_reproduces_the_annotations_of_gsm8k() -> None:
    if not GSM8K.exists():
        pytest.skip("GSM8K is not on this machine")
    total = same_text = 0
    for split in ("train", "test"):
        with gzip.open(GSM8K / f"{split}.jsonl.gz", "rt") as lines:
            for line in lines:
                for annotation in re.findall(r"<<(.*?)>>", json.loads(line)["answer"]):
                    expression, _, gold = annotation.rpartition("=")
                    value = calculate(expression)
                    assert value is not None, annotation
                    numerator, _, denominator = gold.replace(",", "").partition("/")  # a few golds are fractions
                    assert math.isclose(float(value), float(numerator) / float(denominator or 1), rel_tol=1e-9), (
                        annotation
                    )
                    total += 1
                    same_text += value == gold
    assert total == 27_998
    assert same_text / total >= 0.97
