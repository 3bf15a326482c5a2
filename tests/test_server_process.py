"""`fledge serve` as a process: what it says, how many clients it holds, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from processes import Child, Processes
from test_server import HELLO, serving, until

LONG: dict[str, object] = {"max_tokens": 20_000, "temperature": 0, "top_k": 0, "stream": True}


@contextmanager
def served(
    processes: Processes, run_folder: Path, *words: str, files: int | None = None
) -> Iterator[tuple[Child, str]]:
    """`fledge serve` and its address."""
    log = run_folder / f"{time.monotonic_ns()}.log"
    child = processes.start(
        "serve", str(run_folder), "--port", "0", *words, log=log, limits={"NOFILE": files} if files else None
    )
    try:
        until(lambda: "Page: " in child.output() or child.poll() is not None, seconds=60)
        yield child, re.search(r"Page: (\S+)/ ", child.output())[1]  # type: ignore[index]
    finally:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()


def begin_answer(url: str) -> socket.socket:
    """A client who has seen the beginning of an endless answer, and reads no further."""
    address = httpx.URL(url)
    client = socket.create_connection((address.host, address.port or 80), timeout=60)
    body = json.dumps(LONG | {"prompt": "Hello"}).encode()  # raw text, which may go round in a loop for ever
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    seen = b""
    while b'"text":"' not in seen:
        seen += (received := client.recv(65_536))
        assert received, seen
    return client


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_server_and_it_is_no_failure(processes: Processes, run_folder: Path, number: int) -> None:
    with served(processes, run_folder) as (child, url):
        assert httpx.get(url + "/health").status_code == 200
        os.kill(child.pid, number)
        assert child.wait() == 0
        assert len(child.output().splitlines()) == 1, child.output()


def test_the_second_signal_ends_running_answers_and_leaves_no_traceback(processes: Processes, run_folder: Path) -> None:
    with served(
        processes, run_folder, "--grace-seconds", "600", "--context", "30000", "--max-tokens", "20000", "--slots", "2"
    ) as (child, url):
        with begin_answer(url), begin_answer(url) as reading:
            os.kill(child.pid, signal.SIGINT)
            until(lambda: "2 answers have 600 s to end" in child.output(), seconds=30)
            os.kill(child.pid, signal.SIGINT)
            received = b""
            with contextlib.suppress(OSError):
                while part := reading.recv(65_536):
                    received += part
            assert b"the server is shutting down" in received
            assert child.wait(seconds=60) == 0
        assert "Traceback" not in child.output()
        assert len(child.output().splitlines()) == 2


def test_a_port_in_use_is_said_and_no_page(processes: Processes, run_folder: Path) -> None:
    with serving() as url:
        port = url.rpartition(":")[2]
        code, said = processes.run("serve", str(run_folder), "--port", port, log=run_folder / "taken.log")
    assert code == 2
    assert said.startswith(f"fledge: 127.0.0.1 port {port}: another program listens there")
    assert "Page" not in said


def test_more_clients_than_files_cost_one_line_and_nobody_waits_for_them(
    processes: Processes, run_folder: Path
) -> None:
    with served(processes, run_folder, files=256) as (child, url), contextlib.ExitStack() as clients:
        address = httpx.URL(url)
        for _ in range(400):
            clients.enter_context(socket.create_connection((address.host, address.port or 80), timeout=20))
        # They are all there, for ten seconds from now on, and this is quicker.
        answer = httpx.post(
            url + "/v1/chat/completions", json=LONG | {"messages": HELLO, "stream": False, "max_tokens": 3}, timeout=9
        )
        assert answer.status_code == 200
        for _ in range(3):
            assert httpx.get(url + "/health", timeout=9).status_code == 200
        assert len(child.output().splitlines()) == 2, child.output()[:2000]
        clients.close()
        # So it is with what is no HTTP, and what asks for another protocol: lines, not one for each.
        for sent in (
            b"nonsense\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ):
            for _ in range(50):
                with socket.create_connection((address.host, address.port or 80), timeout=20) as client:
                    client.sendall(sent)
                    assert client.recv(100).startswith(b"HTTP/1.1 ")
        assert len(child.output().splitlines()) <= 6, child.output()[:2000]
