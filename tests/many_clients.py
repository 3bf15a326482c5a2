"""Clients in processes of their own, so that they do not compete with the server for Python's lock.

python many_clients.py URL ask < bodies.json        # all at once, streaming; prints the texts
python many_clients.py URL watch                    # until its input ends; prints the seconds each /health took
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

import httpx


async def streamed(http: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """The text of one streamed answer; raises where the server sent an error."""
    text, ended = "", False
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line:
                event = json.loads(line.removeprefix("data: "))
                text += event["choices"][0]["delta"].get("content", "")
    assert ended
    return text


async def ask_all(url: str) -> None:
    """Ask everything on standard input at once; prints the texts."""
    bodies = json.load(sys.stdin)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as http:
        json.dump(await asyncio.gather(*(streamed(http, body) for body in bodies)), sys.stdout)


def watch(url: str) -> None:
    """Ask for the server's health until standard input ends; prints how many seconds each answer took."""
    seconds: list[float] = []
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with httpx.Client(base_url=url, timeout=60) as http:
        while not ended.wait(0.02):
            begin = time.perf_counter()
            assert http.get("/health").status_code == 200
            seconds.append(time.perf_counter() - begin)
    json.dump(seconds, sys.stdout)


if __name__ == "__main__":
    if sys.argv[2] == "watch":
        watch(sys.argv[1])
    else:
        asyncio.run(ask_all(sys.argv[1]))
