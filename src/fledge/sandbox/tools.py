"""The tools as the model sees them: text in, text out, never an exception.

    calculate("60/5")                   # "12"
    calculate("'banana'.count('a')")    # "3"
    run_tool("import os")               # "error: ..."; what the engine feeds back to the model
    python_tool(sandbox)("print(1+1)")  # "2"; whole programs, in the jail of sandbox.py

The idea of the calculator: nothing is ever evaluated by Python. The text may hold a closed set of words, Python's
parser only decides precedence, and a short interpreter walks the tree. It needs no thread, signal or process, so it works
in any thread and costs microseconds. Numbers are decimals of 40 digits: 0.1*3 is 0.3, as a person would write it.
"""

from __future__ import annotations

import ast
import decimal
import re
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fledge.config import ToolName
    from fledge.sandbox.sandbox import Sandbox

MAX_CHARS = 512
"""Longest expression. With numbers of 40 digits it bounds the time of a call (measured worst: about a millisecond)."""
MAX_VALUE = Decimal(10) ** 40
"""Nothing as large is computed: 40 digits hold every integer below it exactly."""
SHOWN_DIGITS, SHOWN_DECIMALS = 12, 4
"""A number that is not whole is rounded to 12 significant digits, which hides what binary floats leave over, but never
to fewer than 4 after the point, which keeps the cents of a large sum."""
MAX_OUTPUT_BYTES = 1000
"""What a program printed is cut here before the model reads it. A byte is at most one token: half a context of 2,048."""
CALCULATOR_ERROR = "error: not arithmetic, 'text'.count('part') or len('text')"

# prec 40 and the trap on overflow are also what bounds `**`: 9**9**9 stops before it starts to be computed. Every operation
# goes through it: the operators of Decimal itself would round to the 28 digits of the thread's own context.
_CONTEXT = decimal.Context(
    prec=40,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-60,
    Emax=60,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)
# What may stand in an expression, outside strings and inside. No backslash and no prefix: a string holds what it shows.
_STRING = r""""[^"\\\n]*"|'[^'\\\n]*'"""
_ALLOWED = re.compile(rf"(?:[-+*/%(). 0-9]|{_STRING}|\.count\(|len\()*")
_STRING_OR_THOUSANDS = re.compile(rf"{_STRING}|(?<![0-9.])[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])")


class Tool(Protocol):
    """What runs the code that a model writes: code -> what the model reads as its result."""

    def __call__(self, code: str, stop: threading.Event | None = None) -> str:
        """Whoever sets `stop` waits for no result any more."""
        ...


class _Refused(Exception):
    """The expression is not one that the calculator answers."""


def calculate(expression: str) -> str | None:
    """The value of an arithmetic expression as text, or None where it is not one.

    Knows numbers (also 1,000 and .5), + - * / // % ** and parentheses with Python's precedence and floor, and
    "text".count("part"), len("text"). Safe to call from any thread with any text.
    """
    expression = expression.strip(" ")
    if len(expression) > MAX_CHARS:
        return None
    if "," in expression:  # 1,000*2 -> 1000*2, but 'a,b' and '1,000' in quotes stay what they are
        expression = _STRING_OR_THOUSANDS.sub(lambda m: m[0] if m[0][0] in "'\"" else m[0].replace(",", ""), expression)
    if not _ALLOWED.fullmatch(expression):
        return None
    try:
        return format_number(_value(ast.parse(expression, mode="eval").body))
    except (_Refused, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def format_number(value: int | float | Decimal) -> str:
    """A number as data and engine both write it: "24" rather than "24.0", "4.8", "0.25", never an exponent.

    Whole numbers are exact, others are rounded (SHOWN_DIGITS): format_number(0.1 * 3) == "0.3".

    Raises:
        ValueError: the value is not finite.
    """
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"format_number({value!r}): only finite numbers can be written")
    if number != number.to_integral_value():
        digits = max(SHOWN_DIGITS, number.adjusted() + 1 + SHOWN_DECIMALS)
        number = number.normalize(decimal.Context(prec=digits))
    if number == number.to_integral_value():
        return str(int(number))
    return format(number, "f")


def find_tool(name: ToolName, *, unsafe_exec: bool = False) -> Tool | None:
    """The tool of this name, None for none; SandboxUnavailable where programs would get out and `unsafe_exec` is not set."""
    if name == "none":
        return None
    if name == "calculator":
        return run_tool
    from fledge.sandbox.sandbox import Sandbox

    # Workers begin when they are needed; several models of a server, with threads of their own, shall not wait for each other.
    return python_tool(Sandbox(workers=16, unsafe_exec=unsafe_exec))


def run_tool(code: str, stop: threading.Event | None = None) -> str:
    """What the model reads after a call of the calculator: the value, or a short error. It is over before it could be stopped."""
    value = calculate(code.strip())
    return CALCULATOR_ERROR if value is None else value


def python_tool(sandbox: Sandbox, *, timeout_seconds: float = 10.0) -> Tool:
    """The tool of `--tools python`: arithmetic as above, anything else as a program whose prints are the answer."""

    def call(code: str, stop: threading.Event | None = None) -> str:
        value = calculate(code.strip())
        if value is not None:
            return value
        result = sandbox.run(code, timeout_seconds=timeout_seconds, stop=stop)
        shown = _cut(result.stdout.rstrip(), MAX_OUTPUT_BYTES)
        if result.status == "ok":
            return shown or "(no output; use print)"
        error = f"error: {_cut(result.error or result.status, 300)}"
        return f"{shown}\n{error}" if shown else error

    return call


def _cut(text: str, most: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= most else f"{raw[:most].decode('utf-8', 'ignore')} ... ({len(raw) - most} more bytes)"


def _value(node: ast.expr) -> Decimal:
    match node:
        case ast.Constant(value=int() | float() as number):
            value = Decimal(number if type(number) is int else str(number))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            value = _BINARY[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand).copy_negate()
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand)
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
            args=[ast.Constant(value=str() as part)],
        ):
            value = Decimal(text.count(part))
        case ast.Call(func=ast.Name(id="len"), args=[ast.Constant(value=str() as text)]):
            value = Decimal(len(text))
        case _:
            raise _Refused
    if value.copy_abs() >= MAX_VALUE:
        raise _Refused
    return value


def _power(a: Decimal, b: Decimal) -> Decimal:
    """Whole exponents are exact to 40 digits; for roots the precision of a float is enough and 20 times as fast."""
    if b == b.to_integral_value():
        return _CONTEXT.power(a, b) if b else Decimal(1)
    root = float(a) ** float(b)
    if isinstance(root, complex):
        raise _Refused
    return Decimal(str(root))


def _divmod(a: Decimal, b: Decimal) -> tuple[Decimal, Decimal]:
    """Rounds down as Python's integers do; Decimal itself rounds towards zero."""
    quotient, rest = _CONTEXT.divmod(a, b)
    down = rest and (rest < 0) != (b < 0)
    return (_CONTEXT.subtract(quotient, Decimal(1)), _CONTEXT.add(rest, b)) if down else (quotient, rest)


_BINARY: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: _CONTEXT.add,
    ast.Sub: _CONTEXT.subtract,
    ast.Mult: _CONTEXT.multiply,
    ast.Div: _CONTEXT.divide,
    ast.FloorDiv: lambda a, b: _divmod(a, b)[0],
    ast.Mod: lambda a, b: _divmod(a, b)[1],
    ast.Pow: _power,
}
