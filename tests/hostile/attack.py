"""Run the hostile programs and completions against the sandbox and print what did not hold, as a JSON list.

    python attack.py programs | cheats

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
from pathlib import Path

from fledge.infer.sandbox import Result, Sandbox

HERE = Path(__file__).parent
SECRET, SECRET_OF_ENVIRONMENT = "opal-heron-41", "basalt-finch-77"
PATIENCE_SECONDS = 60.0  # for programs that should end by themselves: the machine may be busy


def attack_with_programs() -> list[str]:
    lists = tomllib.loads((HERE / "programs.toml").read_text("utf-8"))
    broken: list[str] = []
    os.environ["FLEDGE_SECRET"] = SECRET_OF_ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        os.chmod(folder, 0o777)
        secret_file = Path(folder, "secret")
        secret_file.write_text(SECRET)
        secret_file.chmod(0o666)
        port = listener.getsockname()[1]
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", port))
        victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        world = f"{folder=}; secret_file={str(secret_file)!r}; {port=}; victim={victim.pid}\n"
        try:
            with Sandbox(workers=3) as sandbox:

                def run(case: dict) -> Result:
                    patience = 1.0 if "timeout" in case.get("status", ()) else PATIENCE_SECONDS
                    return sandbox.run(world + case["code"], timeout_seconds=patience)

                workers = _children(os.getpid())
                with ThreadPoolExecutor(3) as pool:
                    for case, result in zip(lists["program"], pool.map(run, lists["program"]), strict=True):
                        broken += [f"{case['name']}: {what}; {result}"[:2000] for what in _what_broke(case, result)]
                    for case, result in zip(lists["control"], pool.map(run, lists["control"]), strict=True):
                        expected = {**case, "status": ["ok"]}
                        broken += [f"{case['name']}: {what}; {result}"[:2000] for what in _what_broke(expected, result)]
                if not workers <= _children(os.getpid()):
                    broken.append("a worker was killed")
                if any(_children(worker) for worker in _children(os.getpid()) - {victim.pid}):
                    broken.append("a program outlived its job")
            if victim.poll() is not None:
                broken.append("the victim was killed")
            if os.listdir(folder) != ["secret"] or secret_file.read_text() != SECRET:
                broken.append(f"the folder changed: {os.listdir(folder)}")
            if secret_file.stat().st_mode & 0o777 != 0o666:
                broken.append("the secret's mode changed")
            broken += _heard(listener, datagrams)
        finally:
            victim.kill()
            victim.wait()
            datagrams.close()
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
    broken = [f"shows {word}" for word in ("ESCAPED", SECRET, SECRET_OF_ENVIRONMENT) if word in said]
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


def _children(pid: int) -> set[int]:
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


def _heard(listener: socket.socket, datagrams: socket.socket) -> list[str]:
    listener.setblocking(False)
    datagrams.setblocking(False)
    heard = []
    for name, hear in (("connected", listener.accept), ("sent a datagram", lambda: datagrams.recv(1))):
        try:
            hear()
            heard.append(f"somebody {name}")
        except BlockingIOError:
            pass
    return heard


if __name__ == "__main__":
    print(json.dumps({"programs": attack_with_programs, "cheats": attack_with_cheats}[sys.argv[1]]()))
