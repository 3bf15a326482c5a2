"""What travels between the processes of the sandbox: a line of JSON a message, and copies of values that nobody has to trust.

    send(fd, Wire(0, {}).write([1, (2, 3)]))
    Wire(1, {}).read(receive(open(fd, "rb")))  # [1, (2, 3)]

The idea: what arrives can only be a fresh value of a known type. An object that equals everything, or a list whose comparison
lies, loses its methods on the way; code never travels. `read` and `receive` face hostile bytes and may raise anything.

What can be changed (a list, a dict, an instance of a class of the prompt) has a number on both sides, and each message says what
has changed since: a list sorted in place is sorted on the other side too, and comes back as the same object. Functions and
iterators have a number as well; they stay where they are and are used by messages (check.py). Nothing else crosses.
"""

from __future__ import annotations

import builtins
import datetime
import enum
import json
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any, BinaryIO

MAX_MESSAGE_BYTES = 16 << 20
STOP = b" "
"""Ends the job of a worker. Where it comes too late it stands before the seconds of the next job, and changes nothing."""
CANNOT = "cannot cross between the program and its tests"
MODULE = "solution"
"""The name of the module that a program and its tests believe to be."""
REMOTE = {"function": types.FunctionType, "generator": types.GeneratorType, "iterator": type(iter(()))}
"""What is used where it is, and what it looks like to `isinstance` elsewhere."""
_RAW: tuple[Any, ...] = (type(None), bool, str, float)
_SMALL = 1 << 53  # whole numbers below are exact in JSON, wherever it is read


class Wire:
    """One end: packs values for the other, and knows by number what both have.

    Args:
        number: the first of its own numbers; the ends count in twos, one from 0 and one from 1.
        classes: those that the other end has under the same names.
    """

    def __init__(self, number: int, classes: Mapping[str, Any]) -> None:
        self.next, self.classes = number, classes
        self.objects: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}  # by the id of the object, which `objects` keeps alive
        self.kinds: dict[int, str] = {}
        self.known: dict[int, list[Any]] = {}  # what was last said of it, by either end
        self.made: dict[tuple[str, ...], Any] = {}  # classes of named tuples and exceptions
        self.queue: list[int] = []

    def refuse(self, reason: str) -> Any:
        """What happens where a value cannot cross."""
        raise TypeError(reason)

    def stand_in(self, number: int, kind: str, name: str, doc: str | None) -> Any:
        """What a function or iterator of the other end is here."""
        return self.refuse(f"a {kind} {CANNOT}")

    def write(self, value: Any, *, forget: bool = False) -> list[Any]:
        """A message: the value, what is new or has changed, and the numbers that both ends forget."""
        self.queue, table = list(self.kinds), []
        form = self.pack(value)
        for number in self.queue:  # grows while contents are packed
            about = self._describe(number)
            if self.known.get(number) != about:
                self.known[number] = about
                table.append([number, *about])
        return [form, table, self._forget_unused() if forget else []]

    def read(self, message: list[Any]) -> Any:
        """The value of a message, after all that has changed is changed here too."""
        form, table, forgotten = message
        for number, kind, options, _ in table:
            if number not in self.objects:
                self._register(self._make(number, kind, options), kind, number)
        # Objects before the sets and dicts that they are keys of.
        for number, *about in sorted(table, key=lambda entry: self.kinds[entry[0]] != "object"):
            self._fill(number, [self.unpack(part) for part in about[2]])
            self.known[number] = about
        for number in forgotten:
            self._drop(number)
        return self.unpack(form)

    def pack(self, value: Any) -> Any:
        """The JSON form of a value; what has a number is that number in it."""
        kind = type(value)
        if kind in _RAW or (kind is int and -_SMALL < value < _SMALL):
            return value
        if (number := self.numbers.get(id(value))) is not None:
            return ["ref", number]
        if issubclass(kind, type):
            return ["class", *self._names(value)]
        name = _find_kind(kind)
        is_own = kind.__module__ == MODULE and self.classes.get(kind.__name__) is kind
        if is_own and issubclass(kind, enum.Enum):
            return ["member", kind.__name__, value.name]
        if name == "tuple" and (fields := getattr(kind, "_fields", None)):
            self.made.setdefault((kind.__name__, *fields), kind)
            return ["named", kind.__name__, self.pack(fields), self.pack(tuple(tuple.__iter__(value)))]
        if is_own and name != "exception":  # one that derives from a list would lose its methods as a list
            return self.refuse(f"a {kind.__name__} {CANNOT}") if name else self._share("object", value)
        if name in _VALUES:
            return [name, *map(self.pack, _VALUES[name][1](value))]
        if name and name in _SHARED:
            return self._share(name, value)
        if stays := _find_remote(value):
            return self._share(stays, value)
        return self.refuse(f"a {kind.__name__} {CANNOT}")

    def unpack(self, form: Any) -> Any:
        """The value of a form, built from scratch."""
        if type(form) is not list:
            return form
        name, *parts = form
        if name == "ref":
            return self.objects[parts[0]]
        if name == "class":
            return self._find_class(*parts)
        parts = [self.unpack(part) for part in parts]
        if name == "member":
            return enum.EnumMeta.__getitem__(self._find_own(parts[0]), parts[1])
        if name == "named":
            return tuple.__new__(self._find_named(*parts[:2]), parts[2])
        return _VALUES[name][2](*parts)

    def _describe(self, number: int) -> list[Any]:
        """Kind, options and content of what has a number: what the other end needs to make it, and to fill it."""
        kind, value = self.kinds[number], self.objects[number]
        if kind in REMOTE:
            texts = (getattr(value, "__name__", kind), getattr(value, "__doc__", None))
            return [kind, [text if type(text) is str else None for text in texts], []]
        if kind == "object":
            options, parts = [type(value).__name__], _state(value).items()
        else:
            options = [] if kind not in _OPTIONS else [self.pack(option) for option in _OPTIONS[kind](value)]
            base = _SHARED[kind]
            parts = base.items(value) if issubclass(base, dict) else base.__iter__(value)
        return [kind, options, [self.pack(part) for part in parts]]

    def _make(self, number: int, kind: str, options: list[Any]) -> Any:
        if kind in REMOTE:
            return self.stand_in(number, kind, *options)
        if kind == "object":
            return object.__new__(self._find_own(options[0]))
        return _SHARED[kind](*map(self.unpack, options))

    def _fill(self, number: int, parts: list[Any]) -> None:
        kind, value = self.kinds[number], self.objects[number]
        if kind == "object":
            getattr(value, "__dict__", {}).clear()
            _set_state(value, parts)
        elif kind not in REMOTE:
            base = _SHARED[kind]
            base.clear(value)
            if issubclass(base, dict):
                for key, inner in parts:
                    base.__setitem__(value, key, inner)
            else:
                (base.update if base is set else base.extend)(value, parts)

    def _share(self, kind: str, value: Any) -> list[Any]:
        number, self.next = self.next, self.next + 2
        self._register(value, kind, number)
        self.queue.append(number)
        return ["ref", number]

    def _register(self, value: Any, kind: str, number: int) -> None:
        self.numbers[id(value)], self.objects[number], self.kinds[number] = number, value, kind

    def _drop(self, number: int) -> None:
        self.numbers.pop(id(self.objects.pop(number)))
        del self.kinds[number], self.known[number]

    def _forget_unused(self) -> list[int]:
        """Numbers of copies that nothing but this table holds: nobody here will see or change them again."""
        alone = {0: object()}
        held = sys.getrefcount(alone[0])
        unused = [
            number
            for number, kind in self.kinds.items()
            if kind not in REMOTE and sys.getrefcount(self.objects[number]) <= held
        ]
        for number in unused:
            self._drop(number)
        return unused

    def _names(self, kind: Any) -> list[str]:
        """What finds a built-in class, or one of exceptions: `solution:Poor`, `json.decoder:JSONDecodeError`, `ValueError`."""
        names = []
        for base in kind.__mro__:
            if getattr(builtins, base.__name__, None) is base:
                names.append(base.__name__)
                break
            if issubclass(base, BaseException):
                names.append(f"{base.__module__}:{base.__name__}")
        if len(names) > 1:
            self.made.setdefault(tuple(names), kind)
        elif getattr(builtins, names[0], None) is not kind:
            self.refuse(f"the class {kind.__name__} {CANNOT}")
        return names

    def _find_class(self, name: str, *bases: str) -> Any:
        if not bases:
            kind = getattr(builtins, name)
            return kind if isinstance(kind, type) else self.refuse(f"{name} is no class")
        base = self._find_class(*bases)
        if not issubclass(base, BaseException):
            raise ValueError(f"{bases} are no exceptions")
        module, _, own = name.partition(":")
        known = self.made.get((name, *bases)) or getattr(sys.modules.get(module), own, None)
        if not (isinstance(known, type) and issubclass(known, base)):
            known = self._make_class(own, base, __module__=module, __str__=_said)
        return self.made.setdefault((name, *bases), known)

    def _find_named(self, name: str, fields: tuple[str, ...]) -> Any:
        known = self.made.get((name, *fields)) or self.classes.get(name)
        if getattr(known, "_fields", None) != fields:
            known = self._make_class(name, namedtuple(name, fields, rename=True))
        return self.made.setdefault((name, *fields), known)

    def _find_own(self, name: str) -> Any:
        kind = self.classes.get(name)
        return kind if isinstance(kind, type) else self.refuse(f"a {name} {CANNOT}")

    def _make_class(self, name: str, base: type, **attributes: Any) -> Any:
        """A class that only the other end has, of which no methods crossed."""

        def look(value: Any, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return self.refuse(f"{attribute} of a {name} {CANNOT}")

        return type(name, (base,), {"__getattr__": look, **attributes})


@cache
def _find_kind(kind: type) -> str | None:
    """The name of the first type in the tables that it is or derives from."""
    types = {name: base for name, (base, *_) in _VALUES.items()} | _SHARED
    return next((name for name, base in types.items() if issubclass(kind, base)), None)


def _find_remote(value: Any) -> str | None:
    """What kind of thing that is used where it is; None of anything that can do more than be called, or give a next item."""
    if type(value) is types.GeneratorType:
        return "generator"
    if type(value).__module__ not in ("builtins", "functools", "itertools", "operator"):
        return None
    return "iterator" if hasattr(type(value), "__next__") else "function" if callable(value) else None


def _state(value: Any) -> dict[str, Any]:
    state: Any = vars(value) if isinstance(value, BaseException) else object.__getstate__(value)
    own, slots = state if isinstance(state, tuple) else (state, None)
    return {name: inner for name, inner in ((own or {}) | (slots or {})).items() if not name.startswith("__")}


def _set_state(value: Any, state: Any) -> None:
    for name, inner in state:
        if name.startswith("__") or callable(getattr(type(value), name, None)):
            raise ValueError(f"{name} is a method of {type(value).__name__}, and not to be replaced")
        object.__setattr__(value, name, inner)


def _said(error: BaseException) -> str:
    """What the exception of the other end says of itself."""
    return vars(error).get("_said", "")


def _error_parts(error: BaseException) -> tuple[Any, ...]:
    kind = type(error)
    base: Any = next(base for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)
    try:
        said = str(error)[:10_000]
    except Exception:
        said = ""
    # What pickle would call it with: `args` leaves the name of a file out.
    return kind, base.__reduce__(error)[1], tuple(_state(error).items()), said, error.__cause__


def _make_error(kind: Any, arguments: Any, state: Any, said: str, cause: Any) -> BaseException:
    if not issubclass(kind, BaseException):
        raise ValueError(f"{kind} is no exception")
    # The __init__ of another class may want other arguments than those that it handed on.
    error: Any = kind(*arguments) if kind.__module__ == "builtins" else kind.__new__(kind, *arguments)
    _set_state(error, state)
    vars(error)["_said"], error.__cause__ = str(said), cause
    return error


def _find_arguments(kind: Any) -> Callable[[Any], Any]:
    """What a value of the library is made with, as pickle would be told."""
    return lambda value: kind.__reduce_ex__(value, 4)[1]


_TIMES = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
# Of each kind: its type, the parts of its form, and the value made anew from them. What belongs to a value is asked of
# the type: a subclass may have an answer of its own.
_VALUES: dict[Any, tuple[Any, Callable[[Any], Any], Callable[..., Any]]] = {
    "str": (str, lambda value: [str.__str__(value)], str),
    # Decimal digits would cost n squared.
    "int": (int, lambda value: [format(int.__int__(value), "x")], lambda digits: int(digits, 16)),
    "float": (float, lambda value: [float.__float__(value)], float),
    "complex": (complex, lambda value: (value.real, value.imag), complex),
    "bytes": (bytes, lambda value: [bytes.hex(value)], bytes.fromhex),
    "tuple": (tuple, tuple.__iter__, lambda *parts: parts),
    "frozenset": (frozenset, frozenset.__iter__, lambda *parts: frozenset(parts)),
    "keys": (type({}.keys()), iter, lambda *parts: dict.fromkeys(parts).keys()),
    "values": (type({}.values()), iter, lambda *parts: dict(enumerate(parts)).values()),
    "items": (type({}.items()), iter, lambda *parts: dict(parts).items()),
    "exception": (BaseException, _error_parts, _make_error),
    **{kind.__name__: (kind, _find_arguments(kind), kind) for kind in (range, slice, Decimal, Fraction, *_TIMES)},
}
# Of what can be changed: its type, and what an empty one is made with.
_SHARED: dict[Any, Any] = {
    kind.__name__: kind for kind in (bytearray, list, deque, set, Counter, OrderedDict, defaultdict, dict)
}
_OPTIONS = {"deque": lambda value: ((), value.maxlen), "defaultdict": lambda value: (value.default_factory,)}


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
