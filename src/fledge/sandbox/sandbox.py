"""Hostile Python, run where it can do no harm: programs for chat, verdicts for HumanEval and rewards on code.

    with Sandbox(workers=2) as sandbox:
        sandbox.run("print(6 * 7)").stdout                                   # "42\\n"
        sandbox.check("def f(x):\\n", "    return x + 1", "assert f(1) == 2", "f").passed   # True
        await asyncio.to_thread(sandbox.run, code)                           # from asyncio; any thread may call

The idea: a verdict is never taken from the process that ran the candidate. The candidate lives in one locked-in child and
only answers calls; the tests live in another that holds no line of it and sees built-in values only (check.py).
Before the first program runs, the sandbox attacks itself, and refuses to work where an attack succeeds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from fledge.sandbox.wire import STOP, receive
from fledge.settings import cores

NOT_JUDGED = "not judged"  # what the tests say when they cannot compare
STATUSES = ("ok", "error", "timeout", "memory", "crash", "output", "refused")
MAX_OUTPUT_BYTES = 1 << 16  # of what a program prints
MAX_RESULT_BYTES = 1 << 16
MAX_SECONDS = 86_400.0
STOP_SECONDS = 0.05
"""A job that nobody waits for any more runs on for this long."""
STOPPED = "stopped, nobody waits for it any more"
_FROM_OUTSIDE = {-1, -3, -9, -10, -12, -15}
"""Exit codes of signals that no program can send, itself included: the kernel that needs memory does, or a person."""

_log = logging.getLogger(__name__)


class NotJudged(Exception):
    """An answer that a grader can call neither right nor wrong; whoever counts leaves it out and says so."""


class SandboxUnavailable(RuntimeError):
    """This machine cannot hold a hostile program."""


@dataclass(frozen=True)
class Result:
    """What became of a program, or of the tests of a candidate.

    After `run`, status and stdout are the program's own words. After `check` they are those of the tests.
    """

    status: str
    """ok; error (an exception, sys.exit(1)); timeout; memory; crash (a signal, os._exit); output (printed too much);
    refused (never started: the sandbox is closed, or a wall is missing; or killed from outside, twice)."""
    stdout: str
    """What it printed, stderr included, cut at 64 KiB. Bytes that are not UTF-8 are replaced."""
    error: str | None
    isolation: str
    """The walls that stood, such as "nobody+landlock+seccomp"; "none" where --unsafe-exec allowed that."""
    judged: bool = True
    """Whether it says anything about the program: False where the machine failed, or where a value that the tests compare could
    not cross between their process and the program's."""

    @property
    def passed(self) -> bool:
        return self.status == "ok"


class Sandbox:
    """A pool of workers, each running one job at a time. Callers wait for a free worker; any thread may call.

    Args:
        workers: jobs at the same time; None: one per core.
        memory_bytes: what a program may allocate beyond the interpreter itself.
        unsafe_exec: run even where the self-test shows that programs can get out.

    Raises:
        ValueError: a number of workers that leaves nothing to do the jobs.
        SandboxUnavailable: programs could get out of the sandbox on this machine, and unsafe_exec is not set.
    """

    def __init__(self, *, workers: int | None = None, memory_bytes: int = 256 << 20, unsafe_exec: bool = False) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers={workers}: at least 1 has to do the jobs; None: one per core")
        self.workers = workers or cores()
        self.isolation = "none"  # until the self-test is passed
        self._limits = {"memory_bytes": memory_bytes, "output_bytes": MAX_OUTPUT_BYTES, "walls": []}
        self._closed = False
        self._idle: queue.LifoQueue[_Zygote | None] = queue.LifoQueue()  # the last used is the warmest
        for _ in range(self.workers):
            self._idle.put(None)  # started when needed
        try:
            self.isolation = self._test_itself(unsafe_exec)
        except BaseException:
            self.close()
            raise

    def run(self, code: str, *, timeout_seconds: float = 10.0, stop: threading.Event | None = None) -> Result:
        """Run a program and return what it printed. Never raises for anything the program does.

        Whoever sets `stop` has it ended at once, whether it runs or waits for a worker.
        """
        return self._work([{"role": "program", "program": code}], timeout_seconds, stop)[0]

    def check(
        self, prompt: str, completion: str, test: str, entry_point: str, *, timeout_seconds: float = 10.0
    ) -> Result:
        """Whether the function `entry_point` of prompt + completion passes `test`, as in HumanEval.

        `prompt` and `test` are trusted; `completion` is not. `test` calls the function or class by its name, or defines
        check(candidate). Arguments and return values travel between processes (wire.py): values of the standard library's plain
        types and of the prompt's classes as copies that stay in step; functions and iterators are used where they are. Where
        a test needs anything else of a program, its own objects for example, there is no verdict (`judged`).
        """
        candidate = {"role": "candidate", "program": prompt + completion}
        tester = {"role": "tester", "prompt": prompt, "test": test, "entry_point": entry_point}
        own, verdict = self._work([candidate, tester], timeout_seconds)
        # Say why, if the candidate's own words explain an error; they do not touch the verdict.
        if verdict.status == "error" and verdict.judged and own.status != "ok":
            return replace(verdict, status=own.status, error=f"{verdict.error}; the candidate: {own.error}")
        return verdict

    def close(self) -> None:
        """End all workers; waits for running jobs."""
        if self._closed:
            return
        self._closed = True
        for zygote in [self._idle.get() for _ in range(self.workers)]:
            if zygote is not None:
                zygote.close()
            self._idle.put(None)  # whoever still waits finds the sandbox closed

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _test_itself(self, unsafe_exec: bool) -> str:
        """Attack; returns the walls that stood, or raises."""
        if sys.platform == "win32":
            raise SandboxUnavailable("programs of a model cannot be run on Windows: use WSL or Docker")
        if sys.platform == "darwin":
            _log.warning("the sandbox is experimental on macOS")
        (attack,) = self._work([{"role": "attack"}], 60.0)
        walls, *succeeded = attack.stdout.split("\n")[:-1] or [""]
        if attack.status != "ok" and not succeeded:
            succeeded = [f"end the self-test ({attack.status}: {attack.error})"]
        if not succeeded:
            self._limits["walls"] = walls.split("+")
            return walls
        found = f"a program in the sandbox could: {', '.join(succeeded)}; walls that stood: {walls or 'none'}"
        if not unsafe_exec:
            raise SandboxUnavailable(
                f"{found}. Needed: Linux on x86_64 or aarch64 with seccomp, or macOS. "
                "Run in Docker, or accept the risk with --unsafe-exec, which is recorded in every result."
            )
        _log.warning("--unsafe-exec: %s. Programs of the model run with the rights of this user. isolation=none", found)
        return "none"

    def _work(self, jobs: list[dict[str, Any]], seconds: float, stop: threading.Event | None = None) -> list[Result]:
        """Wait for a worker and let it do the jobs; a worker that died is replaced, once per call."""
        if not 0 < seconds <= MAX_SECONDS:
            raise ValueError(f"timeout_seconds={seconds} is not positive, or above {MAX_SECONDS:.0f}, a day")
        jobs = [{**self._limits, "seconds": seconds, **job} for job in jobs]
        zygote, reason = self._idle.get(), ""
        try:
            for _ in range(2):
                if self._closed or (stop and stop.is_set()):
                    return self._refuse("the sandbox is closed" if self._closed else STOPPED, jobs)
                try:
                    zygote = zygote or _Zygote()
                    return zygote.work(jobs, seconds, stop, isolation=self.isolation)
                except BaseException as problem:
                    # After an interrupt too: the reply to come would be taken for the next job's.
                    if zygote is not None:
                        zygote.close()
                        zygote = None
                    if not isinstance(problem, _Died):
                        raise
                    reason = f"a worker of the sandbox or its program ended from outside ({problem})"
                    _log.warning("%s: out of memory? It is asked again", reason)
            return self._refuse(f"{reason}, twice: the machine may lack memory", jobs)
        finally:
            self._idle.put(zygote)

    def _refuse(self, error: str, jobs: list[dict[str, Any]]) -> list[Result]:
        return [Result("refused", "", error, self.isolation, judged=False)] * len(jobs)


class _Died(Exception):
    """A worker ended or does not answer, or a program was killed and neither by itself nor by its worker."""


class _Zygote:
    """The process that forks (zygote.py), seen from here. One caller at a time."""

    def __init__(self) -> None:
        control, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        start = "import sys; sys.path.append(sys.argv[1]); from fledge.sandbox import zygote as z; z.main(z.prepare())"
        # -s -P -S is -I without its disregard for PYTHONHASHSEED: what a program prints must not depend on chance.
        options = ["-s", "-P", "-S", "-B", "-X", "utf8", "-W", "ignore"]
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, *options, "-c", start, root],
                    env={"PYTHONHASHSEED": "0"},
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,  # of the start alone; later it is closed
                    start_new_session=True,  # Ctrl+C is for the training
                )
            except OSError as problem:
                control.close()
                raise SandboxUnavailable(f"{sys.executable} cannot be started: {problem}") from problem
        self._control, self._replies, self._process = control, control.makefile("rb"), process
        # It ends also when it was forgotten, and at exit.
        self.close = weakref.finalize(self, _end, control, self._replies, process)
        control.settimeout(120)
        assert process.stderr
        with process.stderr as errors:
            try:
                receive(self._replies)
            except (OSError, EOFError):
                self.close()
                said = errors.read().decode("utf-8", "replace").strip()[-2000:]
                raise SandboxUnavailable(f"{sys.executable} did not start as a sandbox worker: {said}") from None

    def work(
        self, jobs: list[dict[str, Any]], seconds: float, stop: threading.Event | None, *, isolation: str
    ) -> list[Result]:
        """Let one child per job run; the request ends soon after the last one, and so does it by `stop`.

        Raises:
            _Died: the process is gone, or says nothing for a minute after time is up; or a child was killed from outside.
        """
        with contextlib.ExitStack() as held:
            children = [[held.enter_context(_file()) for _ in range(3)] for _ in jobs]  # job, stdout, result
            for job, (given, *_) in zip(jobs, children, strict=True):
                given.write(json.dumps(job).encode())
                given.flush()
            try:
                files = [file.fileno() for files in children for file in files]
                socket.send_fds(self._control, [str(seconds).encode()], files)
                self._await_reply(seconds + 60, stop or threading.Event())
                timed_out, codes, killed = receive(self._replies)
            except (OSError, EOFError) as problem:
                raise _Died(str(problem) or "end of file") from problem
            results = []
            for (_, stdout, result), code, ours in zip(children, codes, killed, strict=True):
                if code in _FROM_OUTSIDE and not ours:
                    raise _Died(f"killed by signal {-code}")
                printed = os.pread(stdout.fileno(), MAX_OUTPUT_BYTES, 0)
                if timed_out:
                    status, error = "timeout", STOPPED if stop and stop.is_set() else "time ran out"
                elif ours:  # a candidate whose tester had its verdict
                    status, error = "ok", None
                elif len(printed) >= MAX_OUTPUT_BYTES:
                    status, error = "output", f"printed more than {MAX_OUTPUT_BYTES} bytes"
                else:
                    status, error = _status(os.pread(result.fileno(), MAX_RESULT_BYTES, 0), code)
                judged = status != NOT_JUDGED
                status = status if judged else "error"
                results.append(Result(status, printed.decode("utf-8", "replace"), error, isolation, judged))
            return results

    def _await_reply(self, seconds: float, stop: threading.Event) -> None:
        """Until a reply is there or time is up; where the job is stopped meanwhile, have it ended."""
        self._control.settimeout(STOP_SECONDS)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not stop.is_set():
            with contextlib.suppress(TimeoutError):
                self._control.recv(1, socket.MSG_PEEK)
                break
        else:
            self._control.send(STOP)
        self._control.settimeout(60)


def _end(control: socket.socket, replies: BinaryIO, process: subprocess.Popen[bytes]) -> None:
    """End a worker: it stops when its caller hangs up."""
    replies.close()
    control.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _status(result: bytes, code: int) -> tuple[str, str | None]:
    """Status and error of a child; the result was written by a stranger, so only known words pass."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        status, error = json.loads(result)
        if code == 0 and status in (*STATUSES, NOT_JUDGED) and (error is None or isinstance(error, str)):
            # half a character pair is valid JSON but no text that could be written anywhere
            return status, error and error.encode("utf-8", "replace").decode()
    if code < 0:
        return "crash", f"killed by signal {-code}"
    return "crash", f"ended with exit code {code} and without a result"


def _file() -> IO[bytes]:
    """A file without a name."""
    return open(os.memfd_create("fledge"), "w+b") if sys.platform == "linux" else tempfile.TemporaryFile()


_judges: list[Sandbox] = []


def judge(*, unsafe_exec: bool = False) -> Sandbox:
    """The judge of code that a model wrote, one for the process and started when first asked for: its workers stay warm.

    Raises:
        SandboxUnavailable: it does not hold here, and `unsafe_exec` is not set.
    """
    if not _judges:
        _judges.append(Sandbox(unsafe_exec=unsafe_exec))
    return _judges[0]


def isolation() -> str | None:
    """The walls around the programs judged so far, for the report card; None when none was."""
    return _judges[0].isolation if _judges else None


def passes(prompt: str, completion: str, test: str, entry_point: str) -> float:
    """1 if the function passes its tests (`Sandbox.check`), else 0.

    Raises:
        NotJudged: a fault of the machine must not look like a wrong answer, nor must a value that cannot be compared.
    """
    verdict = judge().check(prompt, completion, test, entry_point)
    if not verdict.judged:
        raise NotJudged(verdict.error)
    return float(verdict.passed)
