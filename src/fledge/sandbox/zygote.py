"""The other side of the sandbox: a warm interpreter that forks one locked-in child per program.

    python -c "... from fledge.sandbox import zygote as z; z.main(z.prepare())"   # how sandbox.py starts it, stdin being a socket

The idea: a fork of an interpreter that has already imported the standard library costs a millisecond, where a new one
costs fifty, and a child can be locked in completely because it has nothing left to load. The zygote runs no stranger's
code itself. It hears one request at a time, starts its children, waits for the last of them and reports exit codes.

A child has five files: 0 its job, 1 and 2 what it prints, 3 its result, 4 the other child of a check.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import functools
import gc
import importlib.machinery
import io
import json
import logging
import math
import os
import random
import re
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Collection
from typing import Any, NoReturn

from fledge.sandbox.jail import Jail
from fledge.sandbox.wire import Wire, receive, send

EXIT_LOST = 70
"""Exit code of a child that could not write its result."""

# What programs may import: nothing can be loaded once the walls stand. Modules that are of no use there (asyncio, sqlite3)
# are left out; socket, subprocess and ctypes are in, so that an attack meets the walls and not a missing module.
STANDARD_LIBRARY = """abc array ast base64 binascii bisect calendar cmath codecs collections collections.abc colorsys
contextlib copy csv ctypes dataclasses datetime decimal difflib doctest enum errno fnmatch fractions functools gc graphlib
hashlib heapq hmac html html.parser importlib inspect io ipaddress itertools json keyword linecache locale logging math
numbers operator os pathlib pickle platform pprint queue random re reprlib sched secrets select shlex signal socket
statistics string stringprep struct subprocess sys tempfile textwrap threading time timeit token tokenize traceback
types typing unicodedata unittest urllib.parse uuid warnings weakref zlib _strptime encodings.ascii encodings.latin_1
encodings.idna encodings.utf_16 encodings.utf_32 encodings.unicode_escape encodings.hex_codec encodings.cp1252
encodings.punycode encodings.rot_13 encodings.utf_8_sig"""


def prepare() -> Jail:
    """The walls. Import what programs may use, then forget where it came from: paths name the machine's folders and its user.

    What runs while this does keeps its file name, so `main` is called after it.
    """
    for name in STANDARD_LIBRARY.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _touch_what_loads_late()
    jail = Jail()
    roots = sorted(filter(None, sys.path), key=len, reverse=True)

    def bare(code: types.CodeType) -> types.CodeType:
        constants = tuple(bare(part) if isinstance(part, types.CodeType) else part for part in code.co_consts)
        return code.replace(co_filename=shown(code.co_filename), co_consts=constants)

    def shown(file: str) -> str:
        return next((file[len(root) :].lstrip("/") for root in roots if file.startswith(root)), file)

    for found in gc.get_objects():
        if isinstance(found, types.FunctionType) and found.__code__.co_filename.startswith("/"):
            found.__code__ = bare(found.__code__)
    modules = [(name, module) for name, module in sys.modules.items() if isinstance(module, types.ModuleType)]
    places = (
        os.path.dirname(sys.executable),
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        sys.base_exec_prefix,
        *roots,
    )
    for name, module in modules:
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=hasattr(module, "__path__"))
        module.__loader__ = None
        if hasattr(module, "__path__"):
            module.__path__ = []
        for attribute, value in list(vars(module).items()):
            if isinstance(value, str) and attribute != "__doc__" and value.startswith(places):
                setattr(module, attribute, "")
    logging._srcfile = shown(logging.addLevelName.__code__.co_filename)  # how it knows its own frames
    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.argv[:] = sys.orig_argv[:] = [""]
    return jail


def main(jail: Jail) -> None:
    """Serve requests until the caller closes its end.

    A request is the seconds it may take, as text, with three files per child: job, stdout, result. The reply says whether time
    ran out, the exit code of each child, and whether we ended it.
    """
    control = socket.socket(fileno=0)  # a child puts its job in this place
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, the kernel shall take us and not the training
    jail.settle()
    os.chdir("/")
    os.environ.clear()
    wake = _wake_on_child_exit()
    gc.collect()
    gc.freeze()  # children share these pages for longer
    send(0, "ready")
    while True:
        request, files, *_ = socket.recv_fds(control, 64, 6)
        if not request:
            return
        if not files:  # a stop for the job before, which had just ended
            continue
        deadline = time.monotonic() + float(request)
        pair = socket.socketpair() if len(files) == 6 else ()
        pids = []
        for at in range(0, len(files), 3):
            peer = [pair[at // 3].fileno()] if pair else []
            pids.append(_fork(files[at : at + 3] + peer, jail))
        for end in pair:
            end.close()
        for file in files:
            os.close(file)
        send(0, _wait(pids, deadline=deadline, control=control, wake=wake))


def _touch_what_loads_late() -> None:
    """Things that read a file on first use: the time zone, OpenSSL's digests, error messages of the parser."""
    import hashlib

    time.localtime()
    for name in hashlib.algorithms_guaranteed:
        with contextlib.suppress(ValueError):
            hashlib.new(name)
    with contextlib.suppress(SyntaxError):
        compile("(", "", "exec")
    traceback.format_exception(ValueError())


def _wake_on_child_exit() -> int:
    """A file that becomes readable when a child ends: select() then waits for children and requests alike."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read_end


def _wait(pids: list[int], *, deadline: float, control: socket.socket, wake: int) -> tuple[bool, list[int], list[bool]]:
    """Until the last child ends, time is up or the caller stops it, then kill whoever is left.

    Returns whether it did not end by itself, the exit codes, and who was killed here.
    """
    codes: dict[int, int] = {}
    killed: set[int] = set()

    def reap(flags: int) -> None:
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, flags)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)

    def kill() -> None:
        for pid in set(pids) - set(codes):  # not reaped, so the number is still theirs
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    while pids[-1] not in codes and (left := deadline - time.monotonic()) > 0:
        ready = select.select([wake, control], [], [], left)[0]
        if control in ready:
            kill()
            if not control.recv(1):  # no stop: the caller is gone
                os._exit(1)
            break
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        reap(os.WNOHANG)
    timed_out = pids[-1] not in codes
    kill()
    reap(0)
    return timed_out, [codes[pid] for pid in pids], [pid in killed for pid in pids]


def _fork(files: list[int], jail: Jail) -> int:
    """Start a child with the files of a job, stdout, result and perhaps of the other child; its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        job, stdout, *rest = files
        _renumber([job, stdout, stdout, *rest])
        _live(jail, parent)
    finally:
        os._exit(EXIT_LOST)


def _renumber(files: list[int]) -> None:
    """Make `files` the files 0, 1, 2 ... and close all others."""
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, 100) for file in files]
    for number, file in enumerate(apart):
        os.dup2(file, number)
    os.closerange(len(files), 1024)


def _live(jail: Jail, parent: int) -> NoReturn:
    """A child's whole life: read the job, close the door, play the role, write the result."""
    job = json.loads(os.pread(0, os.fstat(0).st_size, 0))
    stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = stdout
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO())
    builtins.exit = builtins.quit = sys.exit  # what the module site would have added
    # What a completion does "if __name__ == '__main__'" is no part of the function that is asked for.
    name = "__main__" if job["role"] == "program" else "solution"
    sys.modules[name] = module = types.ModuleType(name)
    if job["role"] == "tester":
        random.seed(0)  # a verdict must not depend on chance
    seconds = math.ceil(job["seconds"]) + 1
    jail.limit(memory_bytes=job["memory_bytes"], output_bytes=job["output_bytes"], seconds=seconds)
    jail.close(parent)
    status, error = "ok", None
    try:
        if missing := set(job["walls"]) - set(jail.walls):
            status, error = "refused", f"missing: {missing}"
        else:
            _ROLES[job["role"]](job | {"walls": jail.walls}, module.__dict__)
    except MemoryError:
        module.__dict__.clear()  # room to say so
        status, error = "memory", "MemoryError"
    except SystemExit as stop:
        if job["role"] != "program" or stop.code not in (None, 0):
            status, error = "error", f"SystemExit: {str(stop.code)[:200]}"
    except BaseException as problem:
        status, error = "error", _describe(problem)
    with contextlib.suppress(BaseException):
        stdout.flush()
    os.write(3, json.dumps([status, error]).encode())
    os._exit(0)


def _describe(problem: BaseException) -> str:
    """Like "NameError: name 'x' is not defined (line 3)"; the exception may be hostile, but only to its own child."""
    try:
        text = "".join(traceback.format_exception_only(problem)).strip().splitlines()[-1][:1000]
        steps = traceback.walk_tb(problem.__traceback__)
        lines = [line for frame, line in steps if frame.f_code.co_filename == "<program>"]
        if isinstance(problem, SyntaxError) and problem.filename == "<program>":
            lines = [problem.lineno]
        return f"{text} (line {lines[-1]})" if lines else text
    except BaseException:
        return "an exception that cannot be described"


def _execute(source: str, scope: dict[str, Any], *, name: str) -> None:
    exec(compile(source, name, "exec", dont_inherit=True), scope)


def _run_program(job: dict[str, Any], scope: dict[str, Any]) -> None:
    _execute(job["program"], scope, name="<program>")


class _Line:
    """The line between the two children of a check: each asks the other to use what it keeps, and answers meanwhile.

    Args:
        serves: the operations that it does for the other end; None: all. The tester lets itself be called, and no more:
            whoever could read an attribute of its functions would read the tests.
    """

    def __init__(self, wire: Wire, serves: Collection[str] | None) -> None:
        self.wire, self.serves, self.asked = wire, serves, 0
        self.messages, self.stdin, self.stdout = open(4, "rb"), sys.stdin, sys.stdout  # noqa: SIM115
        self.raised: BaseException | None = None
        self.strict = True
        """The task is a function: what it returns must speak for itself, and not be asked whether it is right."""
        self.stops = False
        """The test expects StopIteration, which would else end one of its loops in silence."""

    def ask(self, number: int, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """The value of an operation on an object of the other end; raises what it raised there."""
        self.asked += 1
        # What a test has redirected is read and filled by the other end.
        given = sys.stdin.read() if sys.stdin is not self.stdin else ""
        redirected = sys.stdout is not self.stdout
        self.send("do", (number, operation, arguments, tuple(keywords.items()), given, redirected))
        while (message := self.hear())[0] == "do":
            self._do(message[1])
        kind, (value, printed) = message
        if printed:
            sys.stdout.write(printed)
        if kind == "value":
            return value
        if kind != "raise" or not isinstance(value, BaseException):
            raise ValueError(f"{kind!r} is no answer")
        if isinstance(value, StopIteration | StopAsyncIteration) and operation != "__next__" and not self.stops:
            value = RuntimeError(f"{type(value).__name__} raised")
        self.raised = value
        raise value

    def serve(self) -> None:
        """Do what the other end asks until it is gone."""
        with contextlib.suppress(EOFError):
            while (message := self.hear())[0] == "do":
                self._do(message[1])

    def _do(self, request: Any) -> None:
        number, operation, arguments, keywords, given, redirected = request
        target, printed = self.wire.objects[number], io.StringIO()
        if self.serves is not None and operation not in self.serves:
            raise ValueError(f"{operation} asked of the test")
        before = sys.stdin, sys.stdout
        try:
            sys.stdin = io.StringIO(given) if given else sys.stdin
            sys.stdout = printed if redirected else sys.stdout
            # Special methods are asked of the type, as Python does.
            use = getattr if operation == "__getattribute__" else getattr(type(target), operation)
            kind, value = "value", use(target, *arguments, **dict(keywords))
        except BaseException as problem:
            kind, value = "raise", problem
        finally:
            sys.stdin, sys.stdout = before
        self.send(kind, (value, printed.getvalue()))

    def send(self, kind: str, value: Any) -> None:
        try:
            form = self.wire.write(value, forget=self.serves is not None)
        except (TypeError, RecursionError) as problem:
            self.give_up(str(problem))
        try:
            send(4, [kind, form])
        except OSError:
            raise self._gone() from None

    def hear(self) -> tuple[str, Any]:
        try:
            kind, form = receive(self.messages)
        except (EOFError, ConnectionError):
            raise self._gone() from None
        value = self.wire.read(form)
        if kind == "not judged":
            self.give_up(str(value)[:500])
        return kind, value

    def _gone(self) -> Exception:
        return EOFError() if self.serves is None else RuntimeError("the candidate is gone")

    def give_up(self, reason: str) -> NoReturn:
        """End the check without a verdict. Not by an exception, which a test or a program could catch."""
        if self.serves is None:
            send(4, ["not judged", Wire().write(reason)])
        else:
            os.write(3, json.dumps(["not judged", reason]).encode())
        os._exit(0)


def _answer_calls(job: dict[str, Any], scope: dict[str, Any]) -> None:
    """The candidate of a check: define the function, then do what the tester asks until it has its verdict."""
    wire = Wire(1, scope=scope, export=_describe_object)
    line = _Line(wire, None)
    wire.handle = lambda number, about: _Callback(line, number, *about)
    _, (classes, names) = line.hear()
    try:
        _execute(job["program"], scope, name="<program>")
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] in sys.stdlib_module_names:
            line.give_up(f"the sandbox does not have the module {problem.name}")
        raise
    wire.classes = {name: scope[name] for name in classes if isinstance(scope.get(name), type)}
    line.send("names", (scope[job["entry_point"]], tuple((name, scope[name]) for name in names if name in scope)))
    line.serve()


# What may be done with an object that stays with the candidate.
def _special(names: str, *prefixes: str) -> list[str]:
    return [f"__{prefix}{name}__" for name in names.split() for prefix in prefixes or ("",)]


_COMPARED = _special("eq ne lt le gt ge")
_BINARY = _special("add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor", "", "r", "i")
_PLAIN = _special("bool len int float complex index abs round trunc floor ceil neg pos invert contains iter")
_OTHER = _special("call next reversed getitem setitem delitem enter exit hash format bytes instancecheck")
_OPERATIONS = (*_COMPARED, *_BINARY, *_PLAIN, *_OTHER)
_OF_FUNCTIONS = {"cache_info", "cache_clear", "send", "throw", "close"}


def _describe_object(value: Any) -> list[Any]:
    """What the tester is told of an object of the candidate: whether it is a class, its type's name, what can be done with it."""
    kind = type(value)
    mine = [name for name in _OPERATIONS if getattr(kind, name, None) not in (None, getattr(object, name, None))]
    return [isinstance(value, type), kind.__name__[:100], mine]


def _describe_function(value: Any) -> list[Any]:
    """What the candidate is told of a function or iterator of the tester."""
    if isinstance(value, type) or not (callable(value) or hasattr(value, "__next__")):
        raise TypeError(f"the test gives the program a {type(value).__name__}, which it cannot have")
    about = (getattr(value, "__name__", type(value).__name__), getattr(value, "__doc__", None))
    return [text if isinstance(text, str) else None for text in about]


class _Callback:
    """A function or iterator of the tester, as the candidate has it: it can be called, or asked for the next item."""

    def __init__(self, line: _Line, number: int, name: str, doc: str | None) -> None:
        self._line, self._ask = line, functools.partial(line.ask, number)
        self.__name__, self.__qualname__, self.__doc__ = name, name, doc

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._ask("__call__", *arguments, **keywords)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._ask("__next__")

    def __getattr__(self, name: str) -> Any:
        if name in ("__code__", "__signature__", "__defaults__", "__closure__") or not name.startswith("__"):
            self._line.give_up(f"the program looks into a function of the test ({name})")
        raise AttributeError(name)


class _Object:
    """An object of the candidate, as the tester has it: everything is asked there, but never whether it is right."""

    def __init__(self, line: _Line, number: int, about: list[Any]) -> None:
        vars(self).update({"_line": line, "_number": number, "_about": about, "_touched": False})

    def __getattribute__(self, name: str) -> Any:
        if name in ("_line", "_number", "_about", "_touched", "__dict__"):
            return object.__getattribute__(self, name)
        if name in ("__mro_entries__", "__signature__"):
            self._line.give_up(f"the test looks into the program ({name})")
        value = self._line.ask(self._number, "__getattribute__", name)
        if self._line.strict and isinstance(value, _Object) and name not in _OF_FUNCTIONS and not name.startswith("__"):
            _refuse(self, name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self._line.ask(self._number, "__setattr__", name, value)

    def __delattr__(self, name: str) -> None:
        self._line.ask(self._number, "__delattr__", name)

    def __repr__(self) -> str:
        return str(self._line.ask(self._number, "__repr__"))

    def __str__(self) -> str:
        return str(self._line.ask(self._number, "__str__"))


def _refuse(found: _Object, name: str) -> None:
    found._line.give_up(f"the program returned a {str(found._about[1])[:100]}, whose own {name} would be the judge")


def _forward(name: str) -> Any:
    """An operation on an `_Object`.

    One that gives a truth or a number, asked about a value of the test (`found == 4`, `abs(found - 4) < 1e-9`, `4 in found`), lets
    the object say whether it is right. Between two objects of the candidate it may, where the task is a class.
    """

    def operate(self: Any, *arguments: Any, **keywords: Any) -> Any:
        other = arguments[0] if arguments else None
        ours = not isinstance(other, _Object)
        if (
            (name in _COMPARED and ours)
            or (name in _PLAIN and self._touched)
            or (name == "__contains__" and self._line.strict)
        ):
            _refuse(self, name)
        if name == "__exit__":  # a traceback stays here, and a failed assertion inside must not be swallowed
            value = self._line.ask(self._number, name, *arguments[:2], None)
            return value and not (isinstance(other, type) and issubclass(other, AssertionError))
        value = self._line.ask(self._number, name, *arguments, **keywords)
        if name in _BINARY and value is not NotImplemented:
            theirs = isinstance(value, _Object)
            if ours and (self._line.strict or not theirs):
                _refuse(self, name)
            if theirs and (ours or self._touched or other._touched):
                vars(value)["_touched"] = True
        return value

    return operate


@functools.cache
def _object_class(operations: tuple[str, ...]) -> type[_Object]:
    return type("_Object", (_Object,), {name: _forward(name) for name in operations})


def _judge(job: dict[str, Any], scope: dict[str, Any]) -> None:
    """The tester of a check: holds the tests and the verdict, and no line of the candidate's code."""
    entry_point, prompt = job["entry_point"], job["prompt"]
    _define_helpers(prompt, scope)
    module = scope["__name__"]
    classes = {
        name: kind
        for name, kind in scope.items()
        if isinstance(kind, type) and kind.__module__ == module and name != entry_point
    }
    test = compile(job["test"], "<test>", "exec", dont_inherit=True)
    # A test may use what only the program defines, an exception of its own for example.
    wanted = [name for name in _names(test) - {"check"} if name not in scope and not hasattr(builtins, name)]
    wire = Wire(0, classes, scope, _describe_function)
    line = _Line(wire, ("__call__", "__next__"))
    wire.handle = lambda number, about: _object_class(tuple(n for n in _OPERATIONS if n in about[2]))(
        line, number, about
    )
    line.send("names", (tuple(classes), tuple(wanted)))
    _, (target, found) = line.hear()
    line.stops = "Stop" in job["test"]
    declared = re.search(rf"(?m)^(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", prompt)
    line.strict = bool(declared) or not (isinstance(target, _Object) and target._about[0])
    scope.update({name: value for name, value in found if name in wanted})
    scope[entry_point] = target
    known = scope.get("check")  # the function asked for, or a helper of the prompt, may be called so
    try:
        exec(test, scope)
        if scope.get("check") is not known:
            scope["check"](target)
    except AssertionError:
        if not line.strict and "type" in _names(test):
            line.give_up("the test looks at the types of objects that stay with the program")
        raise
    except ImportError as problem:
        if problem is not line.raised:
            line.give_up(f"the test needs a module that the sandbox does not have ({problem})")
        raise
    if not line.asked:
        raise ValueError("the test never called the candidate")


def _names(code: types.CodeType) -> set[str]:
    """All names that a program uses, those of attributes too."""
    inner = (_names(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)


def _define_helpers(prompt: str, scope: dict[str, Any]) -> None:
    """What the prompt defines beside the function asked for. It may stop after "def f(x):" or in the middle of a line."""
    for ending in ("", "    pass"):
        with contextlib.suppress(SyntaxError):
            return _execute(prompt + ending, scope, name="<prompt>")
    return None


def _attack(job: dict[str, Any], scope: dict[str, Any]) -> None:
    """The self-test: try everything that must fail. Prints the walls, then the name of each attack that succeeded."""
    print("+".join(job["walls"]))
    tries = {
        "read": lambda: open("/etc/passwd").close(),
        "write": lambda: tempfile.TemporaryFile(dir="/tmp").close(),
        "socket": lambda: socket.socket().close(),
        "signal": lambda: os.kill(os.getppid(), 0),
        "fork": lambda: os.fork() or os._exit(0),
        "exec": lambda: os.execv("/bin/sh", ["sh", "-c", "echo exec"]),  # if it succeeds, no result is written
    }
    for name, attempt in tries.items():
        with contextlib.suppress(OSError):
            attempt()
            print(name)


_ROLES = {"program": _run_program, "candidate": _answer_calls, "tester": _judge, "attack": _attack}
