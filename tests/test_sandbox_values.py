"""What tests and programs exchange: values that people's own tasks use cross, and what cannot cross is never a wrong answer."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fledge.sandbox.sandbox import NotJudged, Result, Sandbox, passes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox refuses to run on Windows")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as sandbox:
        yield sandbox


SOLUTIONS = tomllib.loads((Path(__file__).parent / "hostile" / "solutions.toml").read_text("utf-8"))["solution"]


def test_there_are_enough_of_them() -> None:
    assert len(SOLUTIONS) >= 42


@pytest.mark.parametrize("case", SOLUTIONS, ids=lambda case: case["name"])
def test_a_right_program_is_right_whatever_it_exchanges_and_a_wrong_one_wrong(case: dict, sandbox: Sandbox) -> None:
    def check(program: str) -> Result:
        entry_point = case.get("entry_point", "f")
        return sandbox.check(case.get("prompt", ""), program, case["test"], entry_point, timeout_seconds=60.0)

    right, wrong = check(case["program"]), check(case["wrong"])
    if case.get("judged", True):
        assert right == Result("ok", "", None, sandbox.isolation)
        assert (wrong.status, wrong.judged) == ("error", True), wrong
    else:
        assert (right.status, right.judged) == ("error", False), right
        assert not wrong.passed


OWN = "class Own:\n    def __getattr__(self, name): return lambda *a: True\n"
OPERATORS = "".join(
    f"    def __{name}__(self, *other): return {value}\n"
    for name, value in {
        "eq": "True", "ne": "True", "lt": "True", "gt": "True", "sub": "self", "rsub": "0", "abs": "0", "contains": "True",
        "len": "0", "float": "0.0", "and": "self", "bool": "False",
    }.items()
)  # fmt: skip
UNSURE = {
    "an object that equals everything": "assert f(1) == 5",
    "an object whose difference is small": "assert abs(f(1) - 5) < 1e-9",
    "an object that is taken from the right value": "assert abs(5 - f(1)) < 1e-9",
    "an object that contains everything": "assert 5 in f(1)",
    "an object that says yes": "assert f(1).startswith('abc')",
    "an object less than all": "assert f(1) < 5",
    "an object of which nothing is left": "assert not (f(1) - {1, 2})",
}


@pytest.mark.parametrize("name", UNSURE)
@pytest.mark.parametrize("prompt", ["def f(x):\n", ""])
def test_an_object_is_never_asked_whether_it_is_right(name: str, prompt: str, sandbox: Sandbox) -> None:
    program = ("    return Own()\n" if prompt else "def f(x): return Own()\n") + OWN + OPERATORS
    verdict = sandbox.check(prompt, program, UNSURE[name], "f", timeout_seconds=60.0)
    assert (verdict.passed, verdict.judged, verdict.status) == (False, False, "error"), verdict


def test_a_program_that_ends_is_no_exception_that_a_test_expects(sandbox: Sandbox) -> None:
    test = "try: f(1)\nexcept BaseException: pass"
    verdict = sandbox.check("", "import os\ndef f(x): os._exit(0)", test, "f", timeout_seconds=60.0)
    assert (verdict.passed, verdict.judged, verdict.status) == (False, True, "crash")


def test_loops_of_a_test_do_not_end_in_silence(sandbox: Sandbox) -> None:
    program = "def f(x): raise StopIteration"
    test = "for found, wanted in zip(map(f, [1, 2]), [2, 4]): assert found == wanted"
    assert sandbox.check("", program, test, "f", timeout_seconds=60.0).status == "error"


FORGED = """    import json, os
    yes = [5, "function", ["yes", None], []]
    table = [[7, "dict", [], [["tuple", "holds", ["ref", 5]]]], [9, "object", ["Box"], [["tuple", "NAME", ["ref", 7]]]]]
    os.write(4, json.dumps(["value", [["ref", 9], [yes, *table], []]]).encode() + b"\\n")
    return Box(0)
"""


@pytest.mark.parametrize("name", ["__dict__", "__class__", "holds"])
def test_a_method_of_the_prompt_is_not_replaced_by_the_program(name: str, sandbox: Sandbox) -> None:
    prompt = (
        "class Box:\n    def __init__(self, n): self.n = n\n    def holds(self, n): return self.n == n\n\ndef f(n):\n"
    )
    for program in ("    b = Box(0)\n    b.holds = lambda n: True\n    return b\n", FORGED.replace("NAME", name)):
        assert not sandbox.check(prompt, program, "assert f(1).holds(1)", "f", timeout_seconds=60.0).passed
    assert sandbox.check(prompt, "    return Box(n)\n", "assert f(1).holds(1)", "f", timeout_seconds=60.0).passed


def test_the_program_cannot_look_into_what_the_test_gives_it(sandbox: Sandbox) -> None:
    program = "def f(g):\n    try: return g.__globals__['expected']\n    except AttributeError: return g.secret"
    verdict = sandbox.check("", program, "expected = 41\nassert f(lambda: 1) == expected", "f", timeout_seconds=60.0)
    assert not verdict.passed


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(dog): return dog.speak()", "class Dog:\n    def speak(self): return 'wau'\nassert f(Dog()) == 'wau'"),
        ("import inspect\ndef f(g): return len(inspect.signature(g).parameters)", "assert f(lambda a, b: 0) == 2"),
        ("def f(a, b): return a", "import inspect\nassert list(inspect.signature(f).parameters) == ['a', 'b']"),
        ("class f: pass", "class Sub(f): pass\nassert Sub()"),
        ("class f: pass", "assert type(f()) is f"),
        ("import asyncio\ndef f(): return asyncio.run(asyncio.sleep(0, 7))", "assert f() == 7"),
        ("def f(): return 1", "import numpy\nassert f() == 1"),
        ("def f(x): return x", "x = ()\nfor _ in range(5000): x = (x,)\nassert f(x) == x"),
    ],
)
def test_what_cannot_cross_is_not_judged_and_never_wrong(program: str, test: str, sandbox: Sandbox) -> None:
    verdict = sandbox.check("", program, test, "f", timeout_seconds=60.0)
    assert (verdict.passed, verdict.judged) == (False, False), verdict
    with pytest.raises(NotJudged):
        passes("", program, test, "f")
