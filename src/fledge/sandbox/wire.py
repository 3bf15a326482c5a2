"""What travels between the processes of the sandbox: requests, replies, and plain values that nobody has to trust.

    send(fd, pack([1, (2, 3)]))
    unpack(receive(fd))  # [1, (2, 3)]

The idea: what arrives can only be a fresh built-in value. An object that equals everything, or a list whose comparison
lies, loses its methods on the way; code never travels. `unpack` and `receive` face hostile bytes and may raise anything.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

REQUEST = struct.Struct("<d")
"""Caller to zygote: seconds the job may take. Three files per child come along: job, stdout, result."""
REPLY = struct.Struct("<?ii")
"""Zygote to caller: whether time ran out, the exit codes of the first child and of the last (which may be the same)."""
MAX_MESSAGE_BYTES = 16 << 20
_SMALL = 1 << 53
# How a collection is recognised, and how it is made anew from its items.
_COLLECTIONS: dict[str, tuple[type, Callable[[list[Any]], Any]]] = {
    "list": (list, list),
    "tuple": (tuple, tuple),
    "set": (set, set),
    "frozenset": (frozenset, frozenset),
    "keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
    "values": (type({}.values()), lambda items: dict(enumerate(items)).values()),
    "items": (type({}.items()), lambda items: dict(items).items()),
}


def pack(value: Any) -> Any:
    """A JSON form of built-in values. Subclasses travel as their built-in base, iterators as what they yield.

    Raises:
        TypeError: the value has no plain form (a function, an instance of the program's own class).
    """
    if value is None or value is True or value is False or type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -_SMALL < number < _SMALL else ["int", format(number, "x")]  # decimal digits cost n squared
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", [float.hex(value.real), float.hex(value.imag)]]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    for name, (kind, _) in _COLLECTIONS.items():
        if isinstance(value, kind):
            return [name, [pack(item) for item in kind.__iter__(value)]]
    if isinstance(value, dict):
        return ["dict", [[pack(key), pack(item)] for key, item in dict.items(value)]]
    if isinstance(value, range):
        return ["range", [pack(n) for n in (value.start, value.stop, value.step)]]
    if hasattr(value, "__next__"):
        return ["iterator", [pack(item) for item in value]]
    raise TypeError(f"a {type(value).__name__} cannot leave the sandbox; return built-in values")


def unpack(form: Any) -> Any:
    """The value that `pack` put into JSON, built from scratch."""
    if type(form) is not list:
        return form
    kind, content = form
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind][1]([unpack(item) for item in content])
    match kind:
        case "dict":
            return {unpack(key): unpack(value) for key, value in content}
        case "int":
            return int(content, 16)
        case "float":
            return float.fromhex(content)
        case "complex":
            return complex(*map(float.fromhex, content))
        case "bytes":
            return bytes.fromhex(content)
        case "range":
            return range(*map(unpack, content))
        case "iterator":
            return iter([unpack(item) for item in content])
    raise ValueError(f"a value of kind {kind!r} arrived")


def send(fd: int, message: Any) -> None:
    """Write one JSON message, preceded by its length."""
    body = json.dumps(message).encode()
    rest = memoryview(struct.pack("<I", len(body)) + body)
    while rest:
        rest = rest[os.write(fd, rest) :]


def receive(fd: int) -> Any:
    """Read one message; EOFError where the other side is gone, ValueError where it is too long or not JSON."""
    (length,) = struct.unpack("<I", _read(fd, 4))
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes arrived; at most {MAX_MESSAGE_BYTES} are read")
    return json.loads(_read(fd, length))


def _read(fd: int, count: int) -> bytearray:
    read = bytearray()
    while len(read) < count:
        part = os.read(fd, min(count - len(read), 1 << 20))
        if not part:
            raise EOFError
        read += part
    return read
