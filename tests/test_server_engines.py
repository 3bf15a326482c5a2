"""Several engines behind one server, as with one GPU each; here two on the CPU."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from fledge.infer.engine import Engine
from fledge.serve.pool import ModelPool
from test_server import HELLO, pool, serving, until

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"max_tokens": 4000, "temperature": 0, "top_k": 0, "stream": True}


def pair(**settings: Any) -> ModelPool:
    return pool(devices=("cpu", "cpu"), **settings)


def loads(on: ModelPool) -> list[int]:
    return [len(engine.running) + len(engine.waiting) for engine in on.engines]


def text(url: str, body: dict[str, Any]) -> str:
    """The text of a stream, which must end well."""
    response = httpx.post(url + CHAT, json=body, timeout=60)
    *events, end = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert end == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events)


@contextmanager
def talking(url: str) -> Iterator[Iterator[str]]:
    """The lines of a long answer that has begun: of raw text, which may go round in a loop for ever."""
    with httpx.stream("POST", url + "/v1/completions", json=LONG | {"prompt": "Hello"}, timeout=60) as response:
        lines = response.iter_lines()
        next(line for line in lines if '"text":' in line)
        yield lines


def test_many_requests_are_spread_over_the_engines_and_each_says_what_it_would_say_alone() -> None:
    bodies = [LONG | {"messages": HELLO, "max_tokens": 16, "seed": seed, "temperature": 1} for seed in range(12)]
    with serving() as url:
        alone = [text(url, body) for body in bodies]
    on = pair(engine={"slots": 3})
    with serving(on) as url:
        with ThreadPoolExecutor(len(bodies)) as clients:
            assert list(clients.map(lambda body: text(url, body), bodies)) == alone
        requests = [engine.counts["requests"] for engine in on.engines]
        assert sum(requests) == len(bodies)
        assert min(requests) >= len(bodies) // 3
        # What /metrics tells is the sum.
        sampled = [engine.counts["sampled_tokens"] for engine in on.engines]
        assert min(sampled) > 0
        assert f"fledge_sampled_tokens_total {sum(sampled)}\n" in httpx.get(f"{url}/metrics").text
        assert f"fledge_memory_bytes {2 * on.engines[0].bytes}\n" in httpx.get(f"{url}/metrics").text


def test_a_request_goes_to_the_engine_with_the_least_to_do_and_hanging_up_reaches_its_engine() -> None:
    on = pair(engine={"context": 10_000, "slots": 4})
    with serving(on) as url, ExitStack() as later:
        with talking(url):
            first = loads(on)
            assert sorted(first) == [0, 1]
            later.enter_context(talking(url))
            assert loads(on) == [1, 1]
            assert "fledge_running 2\n" in httpx.get(f"{url}/metrics").text
            assert httpx.get(f"{url}/health").json()["running"] == 2
        until(lambda: sum(loads(on)) == 1)
        assert [a + b for a, b in zip(first, loads(on), strict=True)] == [1, 1]
        with talking(url):
            assert loads(on) == [1, 1]
        # The four copies of one question are shared out too.
        later.close()
        until(lambda: loads(on) == [0, 0])
        before = [engine.counts["requests"] for engine in on.engines]
        with httpx.stream("POST", url + CHAT, json=LONG | {"messages": HELLO, "n": 4}, timeout=60):
            until(lambda: sum(engine.counts["requests"] for engine in on.engines) == sum(before) + 4)
            after = [engine.counts["requests"] for engine in on.engines]
            assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2]
        until(lambda: loads(on) == [0, 0])


def test_shutting_down_stops_all_engines() -> None:
    on = pair(engine={"context": 10_000, "slots": 4})
    ended: list[str] = []

    def listen(url: str, begun: threading.Barrier) -> None:
        with talking(url) as lines:
            begun.wait(20)
            ended.append([line for line in lines if line][-1])

    threads, engines = [], list[Engine]()
    with serving(on, grace=0.3) as url:
        begun = threading.Barrier(5)
        for _ in range(4):
            threads.append(threading.Thread(target=listen, args=(url, begun)))
            threads[-1].start()
        begun.wait(20)
        engines += on.engines
        assert loads(on) == [2, 2]
    for thread in threads:
        thread.join(20)
    assert len(ended) == 4
    assert all("shutting down" in line for line in ended)
    assert len(engines) == 2
    assert all(engine.thread is None and not engine.running for engine in engines)
    assert on.counts["finished_cancelled"] == 4
