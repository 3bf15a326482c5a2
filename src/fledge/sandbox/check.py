"""The two processes of a check: one runs the program, the other holds the tests and the verdict.

    tester -> candidate    ["call", (3, (2,), ())]    f(2), where 3 is the number of f
    candidate -> tester    ["value", 4]               or "raise" and an exception; before that it may ask back in the same way

The idea: the tester holds no line of the program's code and sees copies alone (wire.py). Of what stays in the other process it
can call a function and ask an iterator for its next item, and so can the program. Where a test needs more of it there is no
verdict: "not judged", which no exception handler of a test or a program can turn into another end.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from fledge.sandbox.wire import CANNOT, MAX_MESSAGE_BYTES, REMOTE, Wire, receive

_OPERATIONS = {"call": lambda function, *arguments, **keywords: function(*arguments, **keywords), "next": next}


def execute(source: str, scope: dict[str, Any], *, name: str) -> None:
    """Run a program; tracebacks name it so."""
    exec(compile(source, name, "exec", dont_inherit=True), scope)


def answer_calls(job: dict[str, Any], scope: dict[str, Any]) -> None:
    """The candidate of a check: do what the tester asks until it has its verdict."""

    def load(name: str) -> tuple[Any, Any]:
        execute(job["program"], scope, name="<program>")
        return scope[name], scope.__getitem__

    line = _Line(1, scope)
    line.pack(load)
    with contextlib.suppress(EOFError):
        while True:
            line.do(*line.hear())


def judge(job: dict[str, Any], scope: dict[str, Any]) -> None:
    """The tester of a check: holds the tests and the verdict, and no line of the candidate's code."""
    entry_point = job["entry_point"]
    _define_helpers(job["prompt"], scope)
    line = _Line(0, {name: kind for name, kind in scope.items() if isinstance(kind, type) and name != entry_point})
    target, find = line.ask(1, "call", entry_point)
    line.asked = 0
    scope |= {entry_point: target, "__builtins__": _Names(find)}
    known = scope.get("check")  # the function asked for, or a helper of the prompt, may be called so
    try:
        execute(job["test"], scope, name="<test>")
        if scope.get("check") is not known:
            scope["check"](target)
    except ImportError as problem:
        if problem is not line.raised:
            line.refuse(f"the test needs a module that the sandbox does not have ({problem})")
        raise
    if not line.asked:
        raise ValueError("the test never called the candidate")


def _define_helpers(prompt: str, scope: dict[str, Any]) -> None:
    """What the prompt defines beside the function asked for. It may stop after "def f(x):" or in the middle of a line."""
    for ending in ("", "    pass"):
        with contextlib.suppress(SyntaxError):
            return execute(prompt + ending, scope, name="<prompt>")
    return None


class _Names(dict[str, Any]):
    """Built-in names of a test, and behind them those of the program: an exception or a second function of its own."""

    def __init__(self, find: Any) -> None:
        super().__init__(vars(builtins))
        self.find = find

    def __missing__(self, name: str) -> Any:
        return self.find(name)


class _Line(Wire):
    """One end of the line between the two processes: asks, and does meanwhile what it is asked."""

    def __init__(self, number: int, classes: Mapping[str, Any]) -> None:
        super().__init__(number, classes)
        self.is_tester, self.asked, self.console = number == 0, 0, _console()
        self.raised: BaseException | None = None
        self.messages = open(4, "rb")  # noqa: SIM115

    def ask(self, number: int, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """What the use of a function or iterator of the other end returns; raises what it raised there."""
        self.asked += 1
        if self.console != _console():
            self.refuse(f"what is read and printed {CANNOT}")
        self.send(operation, (number, arguments, tuple(keywords.items())))
        while (message := self.hear())[0] in _OPERATIONS:
            self.do(*message)
        kind, value = message
        if kind == "value":
            return value
        if kind != "raise" or not isinstance(value, BaseException):
            raise ValueError(f"{kind!r} is no answer")
        if operation == "call" and isinstance(value, StopIteration | StopAsyncIteration):
            self.refuse(f"{type(value).__name__} may end a loop in silence")
        self.raised = value
        raise value

    def do(self, operation: str, request: Any) -> None:
        """Do what the other end asks for, and send what came of it."""
        number, arguments, keywords = request
        if self.kinds[number] not in REMOTE:  # methods of a test's own objects are not the program's to call
            raise ValueError(f"{operation} of a {self.kinds[number]}")
        try:
            kind, value = "value", _OPERATIONS[operation](self.objects[number], *arguments, **dict(keywords))
        except BaseException as problem:
            kind, value = "raise", problem
            missing = problem.name if isinstance(problem, ModuleNotFoundError) and not self.is_tester else None
            if missing and missing.partition(".")[0] in sys.stdlib_module_names:
                self.refuse(f"the sandbox does not have the module {missing}")
        self.send(kind, value)

    def send(self, kind: str, value: Any) -> None:
        """Send a message, or give up where it cannot be made."""
        try:
            data = json.dumps([kind, self.write(value, forget=not self.is_tester)]).encode()
        except (RecursionError, MemoryError):
            self.refuse("a value is too large or nested too deeply")
        if len(data) >= MAX_MESSAGE_BYTES:
            self.refuse(f"a value is larger than {MAX_MESSAGE_BYTES >> 20} MiB")
        with contextlib.suppress(OSError), open(4, "wb", closefd=False) as out:  # `hear` finds out who is gone
            out.write(data + b"\n")

    def hear(self) -> tuple[str, Any]:
        """The next message. The tester ends where the candidate is gone: a test may take any exception for a right one."""
        try:
            kind, form = receive(self.messages)
        except (EOFError, ConnectionError):
            if self.is_tester:
                self._end("error", "the candidate is gone")
            raise EOFError from None
        if kind == "not judged":
            self.refuse(str(form))
        try:
            return kind, self.read(form)
        except RecursionError:
            self.refuse("a value is nested too deeply")

    def stand_in(self, number: int, kind: str, name: str, doc: str | None) -> Any:
        """A function or iterator of the other end."""
        return (_Function if kind == "function" else _Iterator)(self, number, kind, name, doc)

    def refuse(self, reason: str) -> NoReturn:
        """End the check without a verdict."""
        self._end("not judged", reason[:500])

    def _end(self, status: str, reason: str) -> NoReturn:
        os.write(3 if self.is_tester else 4, json.dumps([status, reason]).encode() + b"\n")
        os._exit(0)


def _console() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr, builtins.print, builtins.input


class _Remote:
    """What stays in the other process, as far as it can be told: its kind, name and documentation."""

    def __init__(self, line: _Line, number: int, kind: str, name: str, doc: str | None) -> None:
        vars(self).update(_line=line, _number=number, _kind=kind, __name__=name, __qualname__=name, __doc__=doc)

    __class__ = property(lambda self: REMOTE[self._kind])  # pyright: ignore

    def __getattr__(self, name: str) -> Any:
        if name in functools.WRAPPER_ASSIGNMENTS:  # functools.wraps takes what there is
            raise AttributeError(name)
        self._line.refuse(f"{name} of a {self._kind} {CANNOT}")

    def __setattr__(self, name: str, value: Any) -> None:
        self._line.refuse(f"{name} of a {self._kind} {CANNOT}")


class _Function(_Remote):
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._line.ask(self._number, "call", *arguments, **keywords)


class _Iterator(_Remote):
    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._line.ask(self._number, "next")
