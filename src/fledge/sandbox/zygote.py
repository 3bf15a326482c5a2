"""The other side of the sandbox: a warm interpreter that forks one locked-in child per program.

    python -c "... from fledge.sandbox import zygote as z; z.main(z.prepare())"   # how sandbox.py starts it, stdin being a socket

The idea: a fork of an interpreter that has already imported the standard library costs a millisecond, where a new one
costs fifty, and a child can be locked in completely because it has nothing left to load. The zygote runs no stranger's
code itself. It hears one request at a time, starts its children, waits for them and reports exit codes.

A child has five files: 0 its job, 1 and 2 what it prints, 3 its result, 4 the other child of a check.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import gc
import importlib.machinery
import io
import json
import logging
import math
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
import types
from typing import Any, NoReturn

from fledge.sandbox.check import answer_calls, execute, judge
from fledge.sandbox.jail import Jail
from fledge.sandbox.wire import MODULE, send

GRACE_SECONDS = 0.5
"""How long a candidate may take to end behind its tester, which hangs up. One that somebody killed is gone for its tester before
anyone can see how it ended, and must not look as if it had been killed here."""
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
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    places = (os.path.dirname(sys.executable), *prefixes, *roots)
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
    """Until the last child ends, and the other within GRACE_SECONDS of it, time is up or the caller stops it; then kill the rest.

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

    while len(codes) < len(pids) and (left := deadline - time.monotonic()) > 0:
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
        if pids[-1] in codes:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    timed_out = pids[-1] not in codes
    kill()
    reap(0)
    # One that was ending by itself keeps its own code.
    ours = [pid in killed and codes[pid] == -signal.SIGKILL for pid in pids]
    return timed_out, [codes[pid] for pid in pids], ours


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
    name = "__main__" if job["role"] == "program" else MODULE
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


_ROLES = {
    "program": lambda job, scope: execute(job["program"], scope, name="<program>"),
    "candidate": answer_calls,
    "tester": judge,
    "attack": _attack,
}
