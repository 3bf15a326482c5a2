"""What travels between the processes of the sandbox: a line of JSON a message, and values that nobody has to trust.

    send(fd, pack([1, (2, 3)]))
    unpack(receive(open(fd, "rb")))  # [1, (2, 3)]

The idea: what arrives can only be a fresh value of a known type. An object that equals everything, or a list whose comparison
lies, loses its methods on the way; code never travels. `unpack` and `receive` face hostile bytes and may raise anything.

A `Wire` is one end of a line on which both sides know some objects by a number. What can be changed (a list, a dict, an instance
of a class of the prompt) is copied, and each message says what has changed since, so that a list sorted in place is sorted on the
other side too, and comes back as the same object. What cannot be copied (functions, iterators, the program's own objects) stays
where it is and is asked (zygote.py).
"""

from __future__ import annotations

import array
import builtins
import datetime
import enum
import json
import sys
import types
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, BinaryIO

MAX_MESSAGE_BYTES = 16 << 20
STOP = b" "
"""Ends the job of a worker. Where it comes too late it stands before the seconds of the next job, and changes nothing."""
_SMALL = 1 << 53  # whole numbers below are exact in JSON, wherever it is read


class Wire:
    """One end: packs values for the other, and remembers what both know.

    Args:
        number: the first of its own numbers; the ends count in twos, one from 0 and one from 1.
        classes: those that the other end has under the same names.
        scope: where exceptions are looked up by their names.
        export: (object) -> what the other end is told of one that cannot be copied; TypeError where it must not be asked either.
        handle: (number, what was told) -> what stands for such an object of the other end.
    """

    def __init__(
        self,
        number: int = 0,
        classes: Mapping[str, Any] | None = None,
        scope: Mapping[str, Any] | None = None,
        export: Callable[[Any], Any] | None = None,
        handle: Callable[[int, Any], Any] | None = None,
    ) -> None:
        self.next, self.classes, self.scope, self.export, self.handle = (
            number,
            classes or {},
            scope or {},
            export,
            handle,
        )
        self.numbers: dict[int, int] = {}  # by the id of the object, which `objects` keeps alive
        self.objects: dict[int, Any] = {}
        self.kinds: dict[int, str] = {}  # of those that are copied
        self.known: dict[int, Any] = {}  # their content, as the other end has it
        self.made: dict[Any, type] = {}
        self.queue: list[int] = []
        self.told: list[list[Any]] = []

    def write(self, value: Any, *, forget: bool = False) -> list[Any]:
        """A message: the value, what both ends copy and has changed, what is told of new objects, and numbers to forget.

        Raises:
            TypeError: something in it can neither be copied nor asked.
        """
        self.queue, self.told, table = list(self.kinds), [], []
        form = self.pack(value)
        for number in self.queue:  # grows while their contents are packed
            content = _SHARED[self.kinds[number]][1](self, self.objects[number])
            if self.known.get(number) != content:
                self.known[number] = content
                table.append([number, self.kinds[number], content])
        return [form, table, self.told, self._forget_unused() if forget else []]

    def read(self, message: list[Any]) -> Any:
        """The value of a message, after all that has changed is changed here too."""
        form, table, told, forgotten = message
        for number, about in told:
            if self.handle is None or number in self.objects:
                raise ValueError(f"object {number} is told of in vain")
            self._register(self.handle(number, about), number)
        for number, kind, content in table:
            if number not in self.objects:
                self._register(_SHARED[kind][2](self, content), number)
                self.kinds[number] = kind
        # Objects before the sets and dicts that they are keys of.
        for number, _, content in sorted(table, key=lambda entry: _ORDER[entry[1]]):
            _SHARED[self.kinds[number]][3](self, self.objects[number], content)
            self.known[number] = content
        for number in forgotten:
            self._drop(number)
        return self.unpack(form)

    def pack(self, value: Any) -> Any:
        """The JSON form of a value; what is shared is a number in it."""
        kind: Any = type(value)
        if (
            value is None
            or value is True
            or value is False
            or kind is str
            or (kind is int and -_SMALL < value < _SMALL)
        ):
            return value
        if name := _EXACT.get(kind):
            return [name, _VALUES[name][1](self, value)]
        if (number := self.numbers.get(id(value))) is not None:
            return ["ref", number]
        if issubclass(kind, enum.Enum) and self.classes.get(kind.__name__) is kind:
            return ["member", [kind.__name__, value.name]]
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return ["named", [kind.__name__, list(value._fields), self.all(tuple.__iter__(value))]]
        if kind in (list, dict, set):
            return self._share(kind.__name__, value)
        builtin = issubclass(kind, type) and value is not object and getattr(builtins, value.__name__, None) is value
        if builtin or (issubclass(kind, type) and issubclass(value, BaseException)):
            return ["class", _lineage(value)]
        for name, (base, content, _) in _VALUES.items():
            if issubclass(kind, base):
                return [name, content(self, value)]
        for name, (base, *_) in _SHARED.items():
            if issubclass(kind, base) and (base is not object or self.classes.get(kind.__name__) is kind):
                return self._share(name, value)
        if self.export is None:
            raise TypeError(f"a {kind.__name__} cannot leave the sandbox; return built-in values")
        about = self.export(value)
        number = self._register(value)
        self.told.append([number, about])
        return ["ref", number]

    def unpack(self, form: Any) -> Any:
        """The value of a form, built from scratch."""
        if type(form) is not list:
            return form
        name, content = form
        if name == "ref":
            return self.objects[content]
        if name == "member":
            return self.classes[content[0]][content[1]]
        if name == "class":
            return self.find_class(content)
        if name == "named":
            kind, fields, items = content
            known: Any = self.classes.get(kind)
            if list(getattr(known, "_fields", ())) != fields:
                key = (kind, *fields)
                known = self.made.get(key) or self.made.setdefault(key, namedtuple(kind, fields, rename=True))
            return tuple.__new__(known, self.each(items))
        return _VALUES[name][2](self, content)

    def all(self, values: Iterable[Any]) -> list[Any]:
        """The forms of several values."""
        return [self.pack(value) for value in values]

    def each(self, content: Iterable[Any]) -> list[Any]:
        """The values of several forms."""
        return [self.unpack(form) for form in content]

    def find_class(self, lineage: list[str]) -> Any:
        """A built-in class; or an exception's by the names of its ancestors: one of the scope, else one of that name made here."""
        found = getattr(builtins, lineage[-1])
        for name in reversed(lineage[:-1]):
            module, _, inner = name.rpartition(":")
            known = getattr(sys.modules.get(module), inner, None) if module else self.scope.get(name)
            if not (isinstance(known, type) and issubclass(known, found)):
                key = (name, found)
                known = self.made.get(key) or self.made.setdefault(key, type(inner, (found,), {"__str__": _said}))
            found = known
        if not isinstance(found, type):
            raise ValueError(f"{lineage} is no class")
        return found

    def _share(self, name: str, value: Any) -> list[Any]:
        self.kinds[number := self._register(value)] = name
        self.queue.append(number)
        return ["ref", number]

    def _register(self, value: Any, number: int | None = None) -> int:
        if number is None:
            number, self.next = self.next, self.next + 2
        self.numbers[id(value)], self.objects[number] = number, value
        return number

    def _drop(self, number: int) -> None:
        self.numbers.pop(id(self.objects.pop(number)))
        del self.kinds[number], self.known[number]

    def _forget_unused(self) -> list[int]:
        """Numbers of copies that nothing but this table holds: nobody here will see or change them again."""
        alone = {0: object()}
        held = sys.getrefcount(alone[0])
        unused = [number for number in self.kinds if sys.getrefcount(self.objects[number]) <= held]
        for number in unused:
            self._drop(number)
        return unused


def _said(error: BaseException) -> str:
    """What the exception of the other end says of itself."""
    return vars(error).get("_said", "")


def _lineage(kind: type) -> list[str]:
    """The names of a class and its ancestors down to the first built-in one; `json.decoder:JSONDecodeError` of the library's."""
    names = []
    for base in kind.__mro__:
        library = base.__module__ != "builtins" and base.__module__.partition(".")[0] in sys.stdlib_module_names
        names.append(
            f"{base.__module__}:{base.__name__}" if library and base.__module__ != "__main__" else base.__name__
        )
        if base.__module__ == "builtins":
            break
    return names


def _pack_error(wire: Wire, error: BaseException) -> list[Any]:
    try:
        said = str(error)
    except Exception:
        said = ""
    state = [[name, wire.pack(value)] for name, value in vars(error).items() if name != "_said"]
    file = error.filename if isinstance(error, OSError) else None  # an argument that `args` leaves out
    arguments = error.args if file is None else (*error.args, file)
    return [_lineage(type(error)), wire.all(arguments), state, said[:10_000], wire.pack(error.__cause__)]


def _unpack_error(wire: Wire, content: list[Any]) -> BaseException:
    lineage, arguments, state, said, cause = content
    kind, arguments = wire.find_class(lineage), wire.each(arguments)
    try:
        error = kind(*arguments) if len(lineage) == 1 else kind.__new__(kind, *arguments)
    except TypeError:  # UnicodeDecodeError and others want arguments of their own
        error = kind.__new__(kind)
    if len(lineage) > 1:  # its own __init__ may want others and was not called
        error.args = tuple(arguments)
    vars(error).update({str(name): wire.unpack(form) for name, form in state} | {"_said": str(said)})
    error.__cause__ = wire.unpack(cause)
    return error


def _state(wire: Wire, value: Any) -> list[Any]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(value, name)]
    state = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
    return [type(value).__name__, [[name, wire.pack(inner)] for name, inner in state.items()]]


def _set_state(wire: Wire, value: Any, content: list[Any]) -> None:
    getattr(value, "__dict__", {}).clear()
    for name, form in content[1]:
        if callable(getattr(type(value), name, None)):
            raise ValueError(f"{name} is a method of {type(value).__name__}, and not to be replaced")
        object.__setattr__(value, name, wire.unpack(form))


def _of_iso(kind: Any) -> tuple[Any, Callable[[Wire, Any], Any], Callable[[Wire, Any], Any]]:
    return kind, lambda _, value: kind.isoformat(value), lambda _, text: kind.fromisoformat(text)


# Of each kind: its type, the content of its JSON form, and the value made anew from that. What belongs to a value is asked of
# the type: a subclass may have an answer of its own.
_VALUES: dict[str, tuple[Any, Callable[[Wire, Any], Any], Callable[[Wire, Any], Any]]] = {
    "str": (str, lambda _, value: str.__str__(value), lambda _, text: str(text)),
    # Decimal digits would cost n squared.
    "int": (int, lambda _, value: format(int.__int__(value), "x"), lambda _, digits: int(digits, 16)),
    "float": (float, lambda _, value: float.hex(value), lambda _, digits: float.fromhex(digits)),
    "complex": (complex, lambda _, z: [z.real.hex(), z.imag.hex()], lambda _, xs: complex(*map(float.fromhex, xs))),
    "bytes": (bytes, lambda _, value: bytes.hex(value), lambda _, digits: bytes.fromhex(digits)),
    "tuple": (tuple, lambda wire, value: wire.all(tuple.__iter__(value)), lambda wire, xs: tuple(wire.each(xs))),
    "frozenset": (
        frozenset, lambda wire, value: wire.all(frozenset.__iter__(value)), lambda wire, xs: frozenset(wire.each(xs))
    ),
    "keys": (type({}.keys()), Wire.all, lambda wire, xs: dict.fromkeys(wire.each(xs)).keys()),
    "values": (type({}.values()), Wire.all, lambda wire, xs: dict(enumerate(wire.each(xs))).values()),
    "items": (type({}.items()), Wire.all, lambda wire, xs: dict(wire.each(xs)).items()),
    "range": (range, lambda wire, r: wire.all((r.start, r.stop, r.step)), lambda wire, xs: range(*wire.each(xs))),
    "slice": (slice, lambda wire, s: wire.all((s.start, s.stop, s.step)), lambda wire, xs: slice(*wire.each(xs))),
    "Decimal": (Decimal, lambda _, value: Decimal.__str__(value), lambda _, text: Decimal(text)),
    "Fraction": (
        Fraction, lambda wire, value: wire.all((value.numerator, value.denominator)), lambda wire, xs: Fraction(*wire.each(xs))
    ),
    "datetime": _of_iso(datetime.datetime),
    "date": _of_iso(datetime.date),
    "time": _of_iso(datetime.time),
    "timedelta": (
        datetime.timedelta, lambda _, d: [d.days, d.seconds, d.microseconds], lambda _, xs: datetime.timedelta(*xs)
    ),
    "timezone": (
        datetime.timezone,
        lambda wire, zone: wire.pack(zone.utcoffset(None)),
        lambda wire, form: datetime.timezone(wire.unpack(form)),
    ),
    "uuid": (uuid.UUID, lambda _, value: value.hex, lambda _, digits: uuid.UUID(digits)),
    "path": (PurePosixPath, lambda _, value: str(value), lambda _, text: PurePosixPath(text)),
    "array": (
        array.array, lambda _, value: [value.typecode, bytes(value).hex()],
        lambda _, xs: array.array(xs[0], bytes.fromhex(xs[1])),
    ),
    "exception": (BaseException, _pack_error, _unpack_error),
    "NotImplemented": (type(NotImplemented), lambda *_: None, lambda *_: NotImplemented),
    "Ellipsis": (type(...), lambda *_: None, lambda *_: ...),
}  # fmt: skip

_EXACT = {base: name for name, (base, *_) in _VALUES.items()}


def _items(wire: Wire, value: dict[Any, Any]) -> list[Any]:
    return [wire.all(item) for item in dict.items(value)]


def _set_items(wire: Wire, value: dict[Any, Any], content: list[Any]) -> None:
    dict.clear(value)
    for key, inner in content:
        dict.__setitem__(value, wire.unpack(key), wire.unpack(inner))


def _refill(clear: Any, add: Any) -> Callable[[Wire, Any, Any], None]:
    def fill(wire: Wire, value: Any, content: list[Any]) -> None:
        clear(value)
        add(value, wire.each(content))

    return fill


def _set_default(wire: Wire, value: defaultdict[Any, Any], content: list[Any]) -> None:
    value.default_factory = wire.unpack(content[0])
    _set_items(wire, value, content[1])


# Of what can be changed: its type, its content, an empty one, and how that is filled. The order is that of filling.
_SHARED: dict[
    str, tuple[Any, Callable[[Wire, Any], Any], Callable[[Wire, Any], Any], Callable[[Wire, Any, Any], None]]
] = {
    "bytearray": (
        bytearray,
        lambda _, value: bytes(value).hex(),
        lambda *_: bytearray(),
        lambda _, value, digits: bytearray.__setitem__(value, slice(None), bytes.fromhex(digits)),
    ),
    "list": (list, lambda wire, value: wire.all(list.__iter__(value)), lambda *_: [], _refill(list.clear, list.extend)),
    "deque": (
        deque,
        lambda wire, value: [value.maxlen, wire.all(deque.__iter__(value))],
        lambda _, content: deque(maxlen=content[0]),
        lambda wire, value, content: _refill(deque.clear, deque.extend)(wire, value, content[1]),
    ),
    "namespace": (types.SimpleNamespace, _state, lambda *_: types.SimpleNamespace(), _set_state),
    "set": (set, lambda wire, value: wire.all(set.__iter__(value)), lambda *_: set(), _refill(set.clear, set.update)),
    "Counter": (Counter, _items, lambda *_: Counter(), _set_items),
    "OrderedDict": (
        OrderedDict,
        lambda wire, value: wire.all(OrderedDict.items(value)),
        lambda *_: OrderedDict(),
        lambda wire, value, xs: _refill(OrderedDict.clear, OrderedDict.update)(wire, value, xs),
    ),
    "defaultdict": (
        defaultdict,
        lambda wire, value: [wire.pack(value.default_factory), _items(wire, value)],
        lambda *_: defaultdict(),
        _set_default,
    ),
    "dict": (dict, _items, lambda *_: {}, _set_items),
    # Of a class that both ends know.
    "object": (object, _state, lambda wire, content: object.__new__(wire.classes[content[0]]), _set_state),
}
_ORDER = {name: place for place, name in enumerate(("object", *_SHARED))}
_ORDER["object"] = -1


def pack(value: Any) -> Any:
    """A JSON form of built-in values and those of the standard library's plain types. Subclasses travel as their base.

    Raises:
        TypeError: the value has no plain form (a function, an instance of the program's own class).
    """
    return Wire().write(value)


def unpack(form: Any) -> Any:
    """The value that `pack` put into JSON, built from scratch."""
    return Wire(1).read(form)


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
