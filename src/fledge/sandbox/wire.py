"""What travels between the processes of the sandbox: a line of JSON a message, and plain values that nobody has to trust.

    send(fd, pack([1, (2, 3)]))
    unpack(receive(open(fd, "rb")))  # [1, (2, 3)]

The idea: what arrives can only be a fresh built-in value. An object that equals everything, or a list whose comparison
lies, loses its methods on the way; code never travels. `unpack` and `receive` face hostile bytes and may raise anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

MAX_MESSAGE_BYTES = 16 << 20
STOP = b" "
"""Ends the job of a worker. Where it comes too late it stands before the seconds of the next job, and changes nothing."""
_SMALL = 1 << 53  # whole numbers below are exact in JSON, wherever it is read


def pack(value: Any) -> Any:
    """A JSON form of built-in values. Subclasses travel as their built-in base, iterators as what they yield.

    Raises:
        TypeError: the value has no plain form (a function, an instance of the program's own class).
    """
    if value is None or value is True or value is False or type(value) is str:
        return value
    if type(value) is int and -_SMALL < value < _SMALL:
        return value
    for name, (kind, content, _) in _KINDS.items():
        if isinstance(value, kind):
            return [name, content(value)]
    if hasattr(value, "__next__"):
        return ["iterator", _all(value)]
    raise TypeError(f"a {type(value).__name__} cannot leave the sandbox; return built-in values")


def unpack(form: Any) -> Any:
    """The value that `pack` put into JSON, built from scratch."""
    if type(form) is not list:
        return form
    name, content = form
    return _KINDS[name][2](content)


def _all(values: Any) -> list[Any]:
    return [pack(value) for value in values]


def _each(content: Iterable[Any]) -> list[Any]:
    return [unpack(form) for form in content]


# Of each kind: its type, the content of its JSON form, and the value made anew from that. What belongs to a value is asked of
# the type: a subclass may have an answer of its own.
_KINDS: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "str": (str, str.__str__, str),
    "int": (int, lambda value: format(int.__int__(value), "x"), lambda x: int(x, 16)),  # decimal digits cost n squared
    "float": (float, float.hex, float.fromhex),
    "complex": (complex, lambda z: [z.real.hex(), z.imag.hex()], lambda xs: complex(*map(float.fromhex, xs))),
    "bytes": (bytes | bytearray, lambda value: bytes(value).hex(), bytes.fromhex),
    "list": (list, lambda value: _all(list.__iter__(value)), _each),
    "tuple": (tuple, lambda value: _all(tuple.__iter__(value)), lambda xs: tuple(_each(xs))),
    "set": (set, lambda value: _all(set.__iter__(value)), lambda xs: set(_each(xs))),
    "frozenset": (frozenset, lambda value: _all(frozenset.__iter__(value)), lambda xs: frozenset(_each(xs))),
    "dict": (dict, lambda value: _all(dict.items(value)), lambda xs: dict(_each(xs))),
    "keys": (type({}.keys()), _all, lambda xs: dict.fromkeys(_each(xs)).keys()),
    "values": (type({}.values()), _all, lambda xs: dict(enumerate(_each(xs))).values()),
    "items": (type({}.items()), _all, lambda xs: dict(_each(xs)).items()),
    "range": (range, lambda value: _all((value.start, value.stop, value.step)), lambda xs: range(*_each(xs))),
    "iterator": ((), _all, lambda xs: iter(_each(xs))),
}


def send(fd: int, message: Any) -> None:
    """Write one message: JSON of its default form holds no line break."""
    with open(fd, "wb", closefd=False) as out:
        out.write(json.dumps(message).encode() + b"\n")


def receive(lines: BinaryIO) -> Any:
    """Read one message; EOFError where the other side is gone or does not come to an end, ValueError where it is not JSON."""
    line = lines.readline(MAX_MESSAGE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)
