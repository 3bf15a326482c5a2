"""The sandbox (sandbox/sandbox.py): what it promises to callers. What it withstands is in test_sandbox_hostile.py."""

import asyncio
import gc
import gzip
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from fledge.sandbox import jail, zygote
from fledge.sandbox.sandbox import STOPPED, Result, Sandbox, SandboxUnavailable
from fledge.sandbox.wire import STOP, Wire

HUMANEVAL = Path(__file__).resolve().parents[2].joinpath("shared/data/humaneval/HumanEval.jsonl.gz")
PATIENCE = 60.0
"""Seconds for programs that end by themselves: what is asserted is the status, never the speed of a busy machine."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox refuses to run on Windows")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as sandbox:
        yield sandbox


def test_a_result_holds_what_was_printed_and_where_it_ran(sandbox: Sandbox) -> None:
    result = sandbox.run("import sys\nprint('out')\nprint('err', file=sys.stderr)", timeout_seconds=PATIENCE)
    assert (result.status, result.stdout, result.error) == ("ok", "out\nerr\n", None)
    assert result.isolation == sandbox.isolation != "none"


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("x = 1\n1 / 0", "error", "ZeroDivisionError: division by zero (line 2)"),
        ("def f(:", "error", "SyntaxError: invalid syntax (line 1)"),
        ("import sys; sys.exit(3)", "error", "SystemExit: 3"),
        ("import os; os._exit(0)", "crash", "ended with exit code 0 and without a result"),
        ("bytearray(10**11)", "memory", "MemoryError"),
        ("print('x' * 10**6)", "output", "printed more than 65536 bytes"),
    ],
)
def test_an_error_says_what_went_wrong(sandbox: Sandbox, code: str, status: str, error: str) -> None:
    result = sandbox.run(code, timeout_seconds=PATIENCE)
    assert (result.status, result.error) == (status, error)


def test_a_program_is_stopped_when_its_time_is_up(sandbox: Sandbox) -> None:
    result = sandbox.run("print('before', flush=True)\nwhile True: pass", timeout_seconds=0.5)
    assert (result.status, result.stdout) == ("timeout", "before\n")
    assert sandbox.run("print(1)", timeout_seconds=PATIENCE).stdout == "1\n"


def test_a_program_ends_when_its_caller_stops_it_and_the_worker_goes_on() -> None:
    with Sandbox(workers=1) as sandbox, ThreadPoolExecutor(3) as threads:
        own = f"import time; print({os.getpid()}); time.sleep({PATIENCE})"
        for _ in range(3):
            stop = threading.Event()
            jobs = [threads.submit(sandbox.run, own, timeout_seconds=PATIENCE, stop=stop) for _ in range(2)]
            time.sleep(0.1)
            assert not any(job.done() for job in jobs)
            stop.set()
            results = [job.result(PATIENCE / 2) for job in jobs]
            assert sorted(result.status for result in results) == ["refused", "timeout"]
            assert {result.error for result in results} == {STOPPED}
        worker = sandbox._idle.queue[0]
        assert worker is not None
        # A stop that comes when the job has just ended changes nothing for the next.
        worker._control.send(STOP)
        assert sandbox.run("print(1)", timeout_seconds=PATIENCE).stdout == "1\n"
        assert sandbox._idle.queue[0] is worker


def test_a_program_prints_the_same_in_every_worker() -> None:
    code = "print({'a', 'b', 'c', 'd'}, hash('x'))"
    printed = set()
    for _ in range(2):
        with Sandbox(workers=1) as sandbox:
            printed |= {sandbox.run(code, timeout_seconds=PATIENCE).stdout for _ in range(2)}
    assert len(printed) == 1


def test_chance_differs_between_programs_but_not_between_verdicts(sandbox: Sandbox) -> None:
    code = "import random; print(random.random())"
    assert len({sandbox.run(code, timeout_seconds=PATIENCE).stdout for _ in range(3)}) == 3
    test = "import random\nassert f(random.random()) and random.random() > 0.5"
    assert len({sandbox.check("def f(x):\n", "    return 1", test, "f").passed for _ in range(5)}) == 1


def test_a_test_may_call_by_name_use_helpers_of_the_prompt_and_expect_exceptions(sandbox: Sandbox) -> None:
    prompt = "import math\ndef half(x):\n    return x / 2\n\ndef f(x):\n"
    test = "assert f(4) == half(4)\ntry:\n    f('a')\n    assert False\nexcept TypeError as e:\n    assert 'unsupported' in str(e)"
    verdict = sandbox.check(prompt, "    return half(x)\n", test, "f", timeout_seconds=PATIENCE)
    assert (verdict.passed, verdict.status, verdict.error) == (True, "ok", None)


def test_a_test_that_never_calls_the_candidate_proves_nothing(sandbox: Sandbox) -> None:
    for test in ("", "def check(candidate): pass"):
        verdict = sandbox.check("def f(x):\n", "    return x", test, "f", timeout_seconds=PATIENCE)
        assert (verdict.passed, verdict.error) == (False, "ValueError: the test never called the candidate")


def test_a_failed_verdict_says_why(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def f(x):\n", "    return y", "assert f(1) == 1", "f", timeout_seconds=PATIENCE)
    assert verdict.error == "NameError: name 'y' is not defined"
    verdict = sandbox.check("def f(x):\n", "    retrun 1", "assert f(1) == 1", "f", timeout_seconds=PATIENCE)
    assert verdict.error == "SyntaxError: invalid syntax (line 2)"


PLAIN = [
    None, True, 0, -1, 2**53, -(10**4000), 0.1, -0.0, float("inf"), float("nan"), 1j, "é\ud800", b"\xff", [], [1, [2.5, None]],
    (1, (2,)), {1, 2}, frozenset({"a"}), {"a": {1: (2, 3)}, (1, 2): "b"}, range(3, 9, 2), ValueError, Decimal("NaN"),
    Fraction(1, 3), timedelta(days=1, microseconds=1), datetime(2024, 1, 2, fold=1, tzinfo=timezone(timedelta(hours=1))),
    deque([1, 2], maxlen=2), Counter("aab"), OrderedDict(b=1, a=2), bytearray(b"x"), slice(1, None), {1: 2}.items(),
]  # fmt: skip


def test_plain_values_survive_the_wire() -> None:
    for value in PLAIN:
        arrived = Wire(1, {}).read(json.loads(json.dumps(Wire(0, {}).write(value))))
        assert (repr(arrived), type(arrived)) == (repr(value), type(value))


def test_what_both_ends_have_stays_in_step_and_is_forgotten_with_its_last_user() -> None:
    ours, theirs = Wire(0, {}), Wire(1, {})
    rows: list[Any] = [[1], [2]]
    rows[0].append(rows)
    copy = theirs.read(ours.write((rows, rows[1])))
    assert copy[0][1] is copy[1]
    copy[0][0][0] = copy[1]
    assert ours.read(theirs.write(copy[1], forget=True)) is rows[1]
    assert rows[0][0] is rows[1]
    assert rows[0][1] is rows
    del copy, rows[0][1]
    theirs.read(ours.write(None))
    for _ in range(3):  # a row is unused when what holds it is forgotten
        ours.read(theirs.write(None, forget=True))
    assert not theirs.objects
    assert not ours.objects


def test_other_values_do_not_travel() -> None:
    for value in (object(), sys, [Wire(0, {})], {1: Wire}):
        with pytest.raises(TypeError, match="cannot cross"):
            Wire(0, {}).write(value)


def test_threads_share_the_workers_and_get_their_own_answers(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: sandbox.run(f"print({n})", timeout_seconds=PATIENCE).stdout, range(40)))
    assert results == [f"{n}\n" for n in range(40)]


def test_an_event_loop_goes_on_while_programs_run(sandbox: Sandbox) -> None:
    async def main() -> tuple[list[str], int]:
        jobs = [asyncio.to_thread(sandbox.run, f"import time; time.sleep(0.3); print({n})") for n in range(4)]
        waiting, ticks = asyncio.gather(*jobs), 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return [result.stdout for result in await waiting], ticks

    printed, ticks = asyncio.run(main())
    assert printed == ["0\n", "1\n", "2\n", "3\n"]
    assert ticks > 5


def test_a_closed_sandbox_refuses() -> None:
    sandbox = Sandbox(workers=1)
    sandbox.close()
    sandbox.close()
    assert sandbox.run("print(1)").status == "refused"
    assert not sandbox.check("def f(x):\n", "    return 1", "assert f(1)", "f").passed


def test_a_forgotten_sandbox_takes_its_workers_along() -> None:
    sandbox = Sandbox(workers=1)
    assert len(_workers()) == 1
    del sandbox
    gc.collect()
    assert not _workers()


def test_a_dead_worker_is_replaced() -> None:
    with Sandbox(workers=1) as sandbox:
        (worker,) = _workers()
        os.kill(worker, 9)
        assert sandbox.run("print(1)", timeout_seconds=PATIENCE).stdout == "1\n"
        assert _workers() != {worker}


def test_a_program_dies_with_its_worker() -> None:
    with Sandbox(workers=1) as sandbox, ThreadPoolExecutor(1) as pool:
        job = pool.submit(sandbox.run, "while True: pass", timeout_seconds=PATIENCE)
        (worker,) = _workers()
        program = _wait_for(lambda: _children(worker)).pop()
        os.kill(worker, 9)
        _wait_for(lambda: not Path(f"/proc/{program}").exists())
        successor = _wait_for(lambda: _workers() - {worker}).pop()  # the job is tried once more
        _wait_for(lambda: _children(successor))
        os.kill(successor, 9)
        result = job.result()
        assert (result.status, result.judged) == ("refused", False)
        assert "from outside (end of file), twice" in str(result.error)


def test_workers_die_with_their_caller() -> None:
    program = (
        "import sys; from fledge.sandbox.sandbox import Result, Sandbox; s = Sandbox(workers=1);"
        "print(s._idle.queue[0]._process.pid, flush=True); s.run('while True: pass', timeout_seconds=600)"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert caller.stdout
    worker = int(caller.stdout.readline())
    (child,) = _wait_for(lambda: _children(worker))
    caller.kill()
    caller.communicate()
    _wait_for(lambda: not (Path(f"/proc/{worker}").exists() or Path(f"/proc/{child}").exists()))


def test_many_jobs_leave_nothing_behind() -> None:
    with Sandbox(workers=2) as sandbox:
        before = None
        for n in range(500):
            if n % 5:
                sandbox.run("print(1)", timeout_seconds=PATIENCE)
            else:
                sandbox.check("def f(x):\n", "    return x", "assert f(1) == 1", "f", timeout_seconds=PATIENCE)
            if n == 50:
                before = _traces()
        files, children, memory = _traces()
        assert before
        assert (files, children) == before[:2]
        assert memory - before[2] < 2 << 20
        assert not any(_children(worker) for worker in _workers())
    assert not _workers()


def test_humaneval_reference_solutions_pass_and_wrong_ones_fail(sandbox: Sandbox) -> None:
    if not HUMANEVAL.exists():
        pytest.skip("HumanEval is not on this machine")
    with gzip.open(HUMANEVAL, "rt") as lines:
        problems = [json.loads(line) for line in lines]

    def check(problem: dict, completion: str) -> bool:
        return sandbox.check(
            problem["prompt"], completion, problem["test"], problem["entry_point"], timeout_seconds=PATIENCE
        ).passed

    with ThreadPoolExecutor(2) as pool:
        passed = list(pool.map(lambda p: check(p, p["canonical_solution"]), problems))
        mutated = list(pool.map(lambda p: check(p, _mutate(p["canonical_solution"])), problems))
    assert (len(problems), sum(passed), sum(mutated)) == (164, 164, 0)


def _mutate(solution: str) -> str:
    """The solution with everything it returns made wrong: a value becomes a pair of it."""
    return (
        re.sub(r"\breturn\b(.*)", r"return (0,\1)", solution, flags=re.DOTALL) if "return" in solution else "    pass"
    )


MACHINES_WITHOUT_WALLS = """
import ctypes, os, struct, sys
from fledge.sandbox import jail
from fledge.sandbox.sandbox import Sandbox, SandboxUnavailable
# A kernel that knows neither seccomp nor Landlock, as far as this process and its children can tell: a filter that
# answers prctl(PR_SET_SECCOMP) and landlock_create_ruleset with ENOSYS. The filter itself can only be added to.
libc = ctypes.CDLL(None)
prctl = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
lines = [(0x20, 0, 0, 0), (0x15, 3, 0, 444), (0x15, 0, 3, prctl), (0x20, 0, 0, 16), (0x15, 0, 1, 22),
         (0x06, 0, 0, 0x00050026), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code)), 0, 0) == 0
try:
    Sandbox(workers=1)
except SandboxUnavailable as problem:
    print(problem)
with Sandbox(workers=1, unsafe_exec=True) as sandbox:
    print(sandbox.isolation, sandbox.run("print(1)"), sandbox.check("def f(x):\\n", "    return 1", "assert f(1)", "f"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs seccomp to take seccomp away")
def test_where_attacks_succeed_the_sandbox_refuses_unless_told_otherwise_and_says_so() -> None:
    result = subprocess.run([sys.executable, "-c", MACHINES_WITHOUT_WALLS], capture_output=True, text=True, check=True)
    refusal, told = result.stdout.splitlines()
    assert re.search("a program in the sandbox could: read, write, socket, signal, exec; .*--unsafe-exec", refusal)
    assert told.startswith("none Result(status='ok', stdout='1\\n'")
    assert told.count("isolation='none'") == 2
    assert "isolation=none" in result.stderr


def test_what_cannot_start_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SandboxUnavailable, match="cannot be started"):
        Sandbox(workers=1)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no interpreter here >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(SandboxUnavailable, match="no interpreter here"):
        Sandbox(workers=1)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_what_is_listed_and_fails_everything_else(machine: str) -> None:
    column = ["x86_64", "aarch64"].index(machine)
    allowed = {numbers[column] for numbers in jail._ALLOWED.values()}
    mapping = {numbers[column] for numbers in jail._ALLOWED_UNLESS_EXECUTABLE.values()}
    allow, fail, kill = 0x7FFF0000, 0x00050001, 0x80000000
    for number in range(600):
        for protection in (0, 3, 4, 7):  # 4: may be executed
            may = number in allowed or (number in mapping and protection < 4)
            assert _filter(machine, number, protection=protection) == (allow if may else fail), (number, protection)
    assert _filter(machine, 0x40000000) == kill
    assert _filter(machine, 0, arch=0x40000003) == kill


def _filter(machine: str, number: int, *, arch: int | None = None, protection: int = 0) -> int:
    """What the BPF program says to a system call: an interpreter of the five instructions it uses."""
    lines = _lines(machine)
    data = struct.pack("=IIQ6Q", number, arch or jail._AUDIT_ARCH[machine], 0, 0, 0, protection, 0, 0, 0)
    at = value = 0
    while True:
        opcode, yes, no, constant = lines[at]
        at += 1
        match opcode:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, constant)
            case 0x15:
                at += yes if value == constant else no
            case 0x35:
                at += yes if value >= constant else no
            case 0x45:
                at += yes if value & constant else no
            case 0x06:
                return constant


@cache
def _lines(machine: str) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", jail.seccomp_filter(machine)))


@pytest.mark.parametrize("seconds", [0, float("inf"), 1e10, -1.0, float("nan")])
def test_a_time_limit_that_cannot_be_kept_is_refused(seconds: float, sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=f"timeout_seconds={re.escape(str(seconds))} is not positive, or above"):
        sandbox.run("1", timeout_seconds=seconds)


def _children(pid: int) -> set[int]:
    """Processes whose parent is `pid` and that are not dead."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(stat.parent.name))
    return found


def _workers() -> set[int]:
    """Processes that this test started; other tests' sandboxes may be open beside its own."""
    return _children(os.getpid()) - _started_before


_started_before: set[int] = set()


@pytest.fixture(autouse=True)
def _remember_what_was_started_before() -> None:
    _started_before.clear()
    _started_before.update(_children(os.getpid()))


def _wait_for(condition):
    """The first true value of `condition`, for at most PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def _traces() -> tuple[int, int, int]:
    """What this process holds: open files, children, resident bytes of the children."""
    children = _workers()
    resident = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in children]
    return len(os.listdir("/proc/self/fd")), len(children), sum(resident)


@pytest.mark.parametrize(
    "completion",
    [
        "    return {1: 2}.keys()\n",
        "    return {1: 2}.keys()\n\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()\n",
    ],
)
def test_views_and_programs_with_a_main_block_are_judged_like_others(completion: str, sandbox: Sandbox) -> None:
    verdict = sandbox.check("def f():\n", completion, "assert list(f()) == [1]", "f")
    assert verdict.passed, verdict


def test_half_a_character_pair_in_an_error_is_still_text(sandbox: Sandbox) -> None:
    result = sandbox.run("raise ValueError('\\ud800')")
    assert result.status == "error"
    assert (result.error or "").encode()


def test_a_sandbox_without_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="workers=-1"):
        Sandbox(workers=-1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for children in /proc")
def test_a_child_killed_from_outside_is_asked_again_and_its_fault_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    code, test = "def f(x):\n    import time; time.sleep(1)\n    return x", "assert f(1) == 1"
    with Sandbox(workers=1) as sandbox, ThreadPoolExecutor(1) as pool:
        for kills in (1, 2):
            for place in (0, 1):  # the program, the tester
                job = pool.submit(sandbox.check, "", code, test, "f", timeout_seconds=PATIENCE)
                seen: set[int] = set()
                for _ in range(kills):
                    children = _wait_for(partial(_new_pair, seen))
                    seen |= children
                    os.kill(sorted(children)[place], 9)
                verdict = job.result()
                if kills == 1:
                    assert verdict == Result("ok", "", None, sandbox.isolation)
                else:
                    assert (verdict.status, verdict.judged) == ("refused", False)
                    assert "from outside (killed by signal 9), twice" in str(verdict.error)
    assert caplog.text.count("from outside") == 6


def test_who_is_killed_from_outside_while_the_last_child_ends_was_not_killed_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zygote, "GRACE_SECONDS", PATIENCE)
    wake, woken = os.pipe()
    control, caller = socket.socketpair()
    waiting = subprocess.Popen(["sleep", "60"])
    ended = subprocess.Popen(["true"])

    def kill() -> None:
        os.write(woken, b" ")
        time.sleep(0.1)
        waiting.kill()
        os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)  # a busy machine may take a while to end it
        os.write(woken, b" ")

    with control, caller, open(wake, "rb"), open(woken, "wb"), ThreadPoolExecutor(1) as pool:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        pool.submit(kill)
        pids = [waiting.pid, ended.pid]
        until = time.monotonic() + PATIENCE
        assert zygote._wait(pids, deadline=until, control=control, wake=wake) == (False, [-9, 0], [False, False])
    for process in (waiting, ended):
        process.poll()  # tells it that somebody has waited for it


def _new_pair(seen: set[int]) -> set[int]:
    found = {child for worker in _workers() for child in _children(worker)} - seen
    return found if len(found) == 2 else set()


def test_a_program_that_time_ran_out_on_was_killed_here_and_is_judged(sandbox: Sandbox) -> None:
    verdict = sandbox.check("", "def f(x):\n    while True: pass", "assert f(1) == 1", "f", timeout_seconds=0.5)
    assert (verdict.status, verdict.judged) == ("timeout", True)


WHERE_IT_RUNS = """
import gc, json, os, sys, traceback, types
told = [sys.argv, sys.orig_argv, sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.path]
told += [str(vars(module)) for module in sys.modules.values() if module.__name__ != "__main__"]
told += [f.__code__.co_filename for f in gc.get_objects() if isinstance(f, types.FunctionType)]
frame = sys._getframe()
while frame:
    told.append(frame.f_code.co_filename)
    frame = frame.f_back
try:
    json.loads("[")
except ValueError:
    told.append(traceback.format_exc())
told += [dict(os.environ), str(sys.flags), str(sys.path_importer_cache), str(sys.meta_path)]
print([secret for secret in SECRETS if secret in str(told)], "json/decoder.py" in told[-5])
"""


def test_a_program_learns_nothing_of_where_it_runs(sandbox: Sandbox) -> None:
    secrets = [str(Path(sys.executable).parent), sys.prefix, sys.base_prefix, str(Path(jail.__file__).parents[2])]
    result = sandbox.run(f"SECRETS = {secrets}\n{WHERE_IT_RUNS}", timeout_seconds=PATIENCE)
    assert result.stdout == "[] True\n", result
    assert sandbox.run("import sys; print(sys.argv, repr(sys.executable + sys.prefix))").stdout == "[''] ''\n"
