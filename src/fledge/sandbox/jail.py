"""The walls of the sandbox: what a process does to itself before it runs a stranger's program.

    jail = Jail()       # once, in the zygote
    jail.settle()       # there: give up root, no new privileges, Landlock
    jail.limit(...)     # in each child: memory, CPU, output, files, processes
    jail.close(parent)  # in each child, last: seccomp (Linux) or seatbelt (macOS); jail.walls are those that stand

The idea: the wall that counts is seccomp's allow-list. A program that may only compute, read and write what is already
open, and sleep, has no way to a file, a socket or another process, whatever Python object or native function it digs up.
The other walls are there for the day when one of them has a hole. Nothing here needs root or a user namespace, so it
also works inside Docker's default profile. Every wall that stands is reported by name and checked by attack (sandbox.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import sys

NOBODY = 65534

# Linux system calls by architecture (x86_64, aarch64). Whatever is not listed fails with EPERM.
_ALLOWED = {
    "read": (0, 63), "write": (1, 64), "writev": (20, 66), "lseek": (8, 62), "close": (3, 57), "fstat": (5, 80),
    "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "futex": (202, 98), "rseq": (334, 293), "sched_yield": (24, 124),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "times": (100, 153), "getrusage": (98, 165), "setitimer": (38, 103),
    "getpid": (39, 172), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_ALLOWED_UNLESS_EXECUTABLE = {"mmap": (9, 222), "mprotect": (10, 226)}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_PROT_EXEC = 4

# Classic BPF: opcodes, offsets into struct seccomp_data, and the three answers.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_THIRD_ARGUMENT = 0, 4, 32
_ALLOW, _FAIL_WITH_EPERM, _KILL_PROCESS = 0x7FFF0000, 0x00050001, 0x80000000

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446


def seccomp_filter(machine: str) -> bytes:
    """The allow-list as a BPF program for `machine` (x86_64 or aarch64)."""
    column = _COLUMN[machine]
    # (opcode, where to go if true, if false, constant); "" is the next line.
    lines = [
        (_LOAD, "", "", _AT_ARCH),
        (_IF_EQUAL, "", "kill", _AUDIT_ARCH[machine]),
        (_LOAD, "", "", _AT_NUMBER),
        (_IF_AT_LEAST, "kill", "", _X32_BIT),  # a second numbering of the same calls on x86_64
        *((_IF_EQUAL, "allow", "", numbers[column]) for numbers in _ALLOWED.values()),
        *((_IF_EQUAL, "map", "", numbers[column]) for numbers in _ALLOWED_UNLESS_EXECUTABLE.values()),
        (_RETURN, "", "", _FAIL_WITH_EPERM),
    ]
    place = {"map": len(lines), "allow": len(lines) + 2, "fail": len(lines) + 3, "kill": len(lines) + 4}
    lines += [
        (_LOAD, "", "", _AT_THIRD_ARGUMENT),
        (_IF_ANY_BIT, "fail", "allow", _PROT_EXEC),
        (_RETURN, "", "", _ALLOW),
        (_RETURN, "", "", _FAIL_WITH_EPERM),
        (_RETURN, "", "", _KILL_PROCESS),
    ]
    return b"".join(
        struct.pack("=HBBI", opcode, *(place[label] - at - 1 if label else 0 for label in (yes, no)), constant)
        for at, (opcode, yes, no, constant) in enumerate(lines)
    )


class Jail:
    """The native calls, looked up before the walls stand: afterwards no library can be loaded."""

    def __init__(self) -> None:
        self.walls: list[str] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        machine = os.uname().machine
        self._filter = None
        if sys.platform == "linux" and machine in _COLUMN:
            code = seccomp_filter(machine)
            self._code = ctypes.create_string_buffer(code, len(code))
            self._filter = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(self._code))
        self._own_bytes = 256 << 20  # address space the interpreter holds, so that limits count what a program adds
        with contextlib.suppress(OSError), open("/proc/self/statm") as file:
            self._own_bytes = int(file.read().split()[0]) * resource.getpagesize()

    def settle(self) -> None:
        """In the zygote, once: the walls that all children inherit and that do not hinder forking them."""
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):  # a user namespace may hold no such user
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                self.walls.append("nobody")
        if sys.platform == "linux":
            self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            if self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and self._landlock():
                self.walls.append("landlock")

    def limit(self, *, memory_bytes: int, output_bytes: int, seconds: int) -> None:
        """In a child: resource limits, never above those already in force."""
        wanted = {
            "AS": self._own_bytes + memory_bytes,  # macOS accepts it and does not enforce it
            "CPU": seconds,  # a backstop: the zygote ends the job by the clock on the wall
            "FSIZE": output_bytes,  # stdout and the result are files in memory
            "NOFILE": 16,
            "NPROC": 0,  # no fork even without seccomp, unless root could not be given up
            "CORE": 0,
        }
        for name, value in wanted.items():
            with contextlib.suppress(ValueError, OSError):
                kind = getattr(resource, f"RLIMIT_{name}")
                hard = resource.getrlimit(kind)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(kind, (value, value))

    def close(self, parent: int) -> None:
        """In a child, last: lock the door. `parent` is the zygote, with which the child shall die."""
        if sys.platform == "linux":
            self._libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            if self._filter and self._libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._filter, 0, 0) == 0:
                self.walls.append("seccomp")
        elif sys.platform == "darwin":
            error = ctypes.c_char_p()
            if self._libc.sandbox_init(b"pure-computation", 1, ctypes.byref(error)) == 0:
                self.walls.append("seatbelt")

    def _landlock(self) -> bool:
        """Deny every access to files, TCP, abstract sockets and foreign processes that this kernel can deny."""
        version = self._libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
        if version < 1:
            return False
        file_rights = 13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16
        rules = struct.pack("QQQ", (1 << file_rights) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
        handle = self._libc.syscall(_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
        if handle < 0:
            return False
        try:
            return self._libc.syscall(_LANDLOCK_RESTRICT_SELF, handle, 0) == 0
        finally:
            os.close(handle)
