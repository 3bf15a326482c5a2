"""Run the hostile programs and completions against the sandbox and print what did not hold, as a JSON list.

    python attack.py programs | privileges | cheats

A process of its own, on the standard library alone, so that the tests can run it as any user with any interpreter.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from fledge.sandbox.sandbox import Result, Sandbox

HERE = Path(__file__).parent
SECRET, SECRET_OF_ENVIRONMENT = "opal-heron-41", "basalt-finch-77"
PATIENCE_SECONDS = 60.0  # for programs that should end by themselves: the machine may be busy


class World:
    """What hostile programs are after: a folder, a secret, a listener, a victim. Knows afterwards whether they got it."""

    def __init__(self) -> None:
        self.held = ExitStack()
        os.environ["FLEDGE_SECRET"] = SECRET_OF_ENVIRONMENT
        self.held.callback(os.environ.pop, "FLEDGE_SECRET")
        self.folder = self.held.enter_context(tempfile.TemporaryDirectory())
        os.chmod(self.folder, 0o777)
        self.secret_file = Path(self.folder, "secret")
        self.secret_file.write_text(SECRET)
        self.secret_file.chmod(0o666)
        self.listener = self.held.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = self.listener.getsockname()[1]
        self.datagrams = self.held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.datagrams.bind(("127.0.0.1", port))
        self.victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        folder, secret_file, victim = self.folder, str(self.secret_file), self.victim.pid
        self.names = f"{folder=}; {secret_file=}; {port=}; {victim=}\n"
        """The first line of a hostile program."""

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.victim.kill()
        self.victim.wait()
        self.held.close()

    def damage(self) -> list[str]:
        """What is not as it was."""
        found = []
        if self.victim.poll() is not None:
            found.append("the victim was killed")
        if os.listdir(self.folder) != ["secret"] or self.secret_file.read_text() != SECRET:
            found.append(f"the folder changed: {os.listdir(self.folder)}")
        if self.secret_file.stat().st_mode & 0o777 != 0o666:
            found.append("the secret's mode changed")
        self.listener.setblocking(False)
        self.datagrams.setblocking(False)
        for what, hear in (("connected", self.listener.accept), ("sent a datagram", lambda: self.datagrams.recv(1))):
            with suppress(BlockingIOError):
                hear()
                found.append(f"somebody {what}")
        return found


def secrets_in(text: str) -> list[str]:
    return [word for word in ("ESCAPED", SECRET, SECRET_OF_ENVIRONMENT) if word in text]


def attack_with_programs(*, privileges: bool = False) -> list[str]:
    """All programs, or those alone that root could do more with than others."""
    lists = tomllib.loads((HERE / "programs.toml").read_text("utf-8"))
    programs = [case for case in lists["program"] if case.get("privileges") or not privileges]
    broken: list[str] = []
    with World() as world, Sandbox(workers=3, memory_bytes=160 << 20) as sandbox, ThreadPoolExecutor(3) as pool:

        def run(case: dict) -> Result:
            patience = 1.0 if "timeout" in case.get("status", ()) else PATIENCE_SECONDS
            return sandbox.run(world.names + case["code"], timeout_seconds=patience)

        workers = children(os.getpid())
        cases = programs + [{**control, "status": ["ok"]} for control in lists["control"]]
        for case, result in zip(cases, pool.map(run, cases), strict=True):
            broken += [f"{case['name']}: {what}; {result}"[:2000] for what in _what_broke(case, result)]
        if not workers <= children(os.getpid()):
            broken.append("a worker was killed")
        if any(children(worker) for worker in children(os.getpid())):
            broken.append("a program outlived its job")
        broken += world.damage()
    return broken


def attack_with_cheats() -> list[str]:
    lists = tomllib.loads((HERE / "cheats.toml").read_text("utf-8"))
    broken = []
    with Sandbox(workers=3) as sandbox, ThreadPoolExecutor(3) as pool:

        def check(case: dict):
            patience = 2.0 if "timeout" in case.get("status", ()) else PATIENCE_SECONDS
            completion = case["completion"].removeprefix("\n")
            return sandbox.check(lists["prompt"], completion, lists["test"], "f", timeout_seconds=patience)

        for case, verdict in zip(lists["cheat"], pool.map(check, lists["cheat"]), strict=True):
            if verdict.passed or verdict.status not in case["status"]:
                broken.append(f"{case['name']}: {verdict}")
        for case, verdict in zip(lists["control"], pool.map(check, lists["control"]), strict=True):
            if not verdict.passed:
                broken.append(f"{case['name']}: {verdict}")
    return broken


def _what_broke(case: dict, result: Result) -> list[str]:
    said = result.stdout + (result.error or "")
    broken = [f"shows {word}" for word in secrets_in(said)]
    if result.status not in case["status"]:
        broken.append(f"status {result.status}")
    if "prints" in case and result.stdout != case["prints"]:
        broken.append(f"prints {result.stdout!r}")
    if "prints_length" in case and len(result.stdout) != case["prints_length"]:
        broken.append(f"prints {len(result.stdout)} characters")
    if case.get("error", "") not in (result.error or ""):
        broken.append(f"error {result.error!r}")
    if len(result.stdout) > 1 << 16 or len(result.error or "") > 2000:
        broken.append("too long")
    if result.isolation == "none":
        broken.append("no isolation")
    return broken


def children(pid: int) -> set[int]:
    """Processes whose parent is `pid`."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found


if __name__ == "__main__":
    attacks = {
        "programs": attack_with_programs,
        "privileges": lambda: attack_with_programs(privileges=True),
        "cheats": attack_with_cheats,
    }
    print(json.dumps(attacks[sys.argv[1]]()))
