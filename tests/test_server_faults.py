"""What the server does when something fails, on either side of the connection."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import pytest

from fledge.sandbox.calls import TOOL_THREADS
from fledge.serve import connections, server
from fledge.serve.fields import STOP_CHARS
from fledge.text.tokenizer import Tokenizer
from test_server import HELLO, eager_model, pool, serving, until
from tiny_engine import BYTES

LONG: dict[str, Any] = {"messages": HELLO, "max_tokens": 4000, "temperature": 0, "top_k": 0}
CHAT = "/v1/chat/completions"


class Breaking(Tokenizer):
    """Fails to decode once it is told to."""

    breaks = False

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        if self.breaks:
            raise RuntimeError("no such file: /secret/place")
        return super().decode_bytes(ids)


def raw(url: str, sent: bytes, *, seconds: float = 10.0) -> bytes:
    """What the server answers to these bytes until it hangs up."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), timeout=seconds) as connection:
        connection.sendall(sent)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, serving() as address:
        patch.setattr(server, "BODY_SECONDS", 0.5)
        yield address


def test_an_unexpected_failure_is_told_without_what_it_was_and_frees_its_slot() -> None:
    """A stream ends with one error event, a whole answer is a 500."""
    tokenizer, told = Breaking([]), {"message": server.FAILED, "type": "server_error", "param": None, "code": None}
    on = pool(tokenizer=tokenizer, engine={"context": 10_000})
    with serving(on) as url:
        with httpx.stream("POST", url + CHAT, json=LONG | {"stream": True}, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            tokenizer.breaks = True
            events = [line for line in lines if line]
        assert [event for event in events if "error" in event] == events[-1:]
        assert json.loads(events[-1].removeprefix("data: "))["error"] == told
        response = httpx.post(url + CHAT, json=LONG, timeout=30)
        tokenizer.breaks = False
        assert (response.status_code, response.json()["error"]) == (500, told)
        until(lambda: on.counts["finished_cancelled"] == 2)
        assert httpx.get(f"{url}/health").json()["running"] == 0
        assert httpx.post(url + CHAT, json=LONG | {"max_tokens": 3}, timeout=30).status_code == 200


def test_a_failing_tool_tells_its_kind_of_error_and_no_path() -> None:
    def broken(_: str, stop: threading.Event) -> str:
        raise FileNotFoundError("/secret/place")

    with serving(pool(model=eager_model, engine={"run_tool": broken})) as url:
        response = httpx.post(url + CHAT, json=LONG | {"max_tokens": 60, "n": 8, "temperature": 1}, timeout=30)
        assert response.status_code == 500
        assert "FileNotFoundError" in response.json()["error"]["message"]
        assert "secret" not in response.text


def test_a_client_who_hangs_up_is_cancelled_at_once() -> None:
    on = pool(engine={"context": 10_000})
    body = json.dumps(LONG | {"stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(on) as url:
        address = httpx.URL(url)
        for done in range(5):
            with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
                connection.sendall(head + body)
                while b'"delta":{"content":"' not in connection.recv(65_536):
                    pass
            until(lambda: on.counts["finished_cancelled"] > done)  # noqa: B023
        # Of 5 times 4000 tokens only those were drawn that came before the hang-up and while it was noticed.
        assert on.counts["sampled_tokens"] < 5 * 4000 / 10


def test_tools_end_with_their_requests_and_one_client_leaves_threads_for_others() -> None:
    begun: list[threading.Event] = []

    def endless(_: str, stop: threading.Event) -> str:
        begun.append(stop)
        stop.wait(60)
        return ""

    on = pool(model=eager_model, engine={"run_tool": endless, "slots": 40})
    body = LONG | {"model": "sft", "max_tokens": 200, "temperature": 1, "stream": True}
    with serving(on) as url, contextlib.ExitStack() as clients:

        def ask(seed: int, address: str) -> None:
            web = clients.enter_context(httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=30))
            clients.enter_context(web.stream("POST", url + CHAT, json=body | {"seed": seed}))

        for seed in range(16):
            ask(seed, "127.0.0.1")
        engine = on.loaded["sft"].engines[0]
        until(lambda: sum(request.tool is not None for request in engine.running) > TOOL_THREADS)
        assert len(begun) == TOOL_THREADS // 2
        for seed in range(16):
            ask(seed, "127.0.0.2")
        until(lambda: len(begun) == TOOL_THREADS)
        clients.close()
        until(lambda: not engine.tools or not engine.tools.running)
        assert all(stop.is_set() for stop in begun)


def test_requests_that_never_arrive_are_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n".encode()
    answer = raw(url, endless)
    assert b" 408 " in answer
    assert b"the body took longer than 0.5 s" in answer
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(url, b"") == raw(url, b"GET /hea") == b""
    assert raw(url, whole + whole[:20]).count(b" 200 OK") == 1


def test_a_body_that_is_too_long_is_not_read_to_its_end(url: str) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert b" 413 " in raw(url, head + chunk + chunk[:100])  # and it hangs up, or this would take until the timeout


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 30_000,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000,
        b"\x16\x03\x01 what is this\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http_and_floods_of_headers_are_refused(url: str, sent: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # refused before all of it was sent
        assert b" 400 " in raw(url, sent)
    assert httpx.get(f"{url}/health").status_code == 200


def test_no_method_and_no_path_fails_or_leads_elsewhere(url: str) -> None:
    paths = (
        "/",
        "//",
        "/v1",
        "/v1//models",
        "/v1/models/",
        "/v1/models/a/b",
        "/v1/models/a%2Fb",
        "/v1/models/%00",
        "*",
    )
    paths += ("/../../etc/passwd", "/js/..%2f..%2fserver.py", "/js", "/js/%00", "/%ff", "//evil.example/%2e%2e")
    for path in paths:
        allowed = (200, 404, 405) if path in ("/", "//", "//evil.example/%2e%2e") else (404, 405)
        for method in ("GET", "HEAD", "OPTIONS", "POST", "TRACE"):
            sent = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            status = int(raw(url, sent.encode()).split()[1])
            assert status in allowed, (method, path, status)


def test_slashes_around_the_root_path_do_not_matter() -> None:
    for root_path in ("/", "pip/", "//pip"):
        with serving(root_path=root_path) as url:
            assert httpx.get(f"{url}/{root_path.strip('/')}/health".replace("//health", "/health")).status_code == 200
            assert httpx.get(f"{url}//evil.example/health").status_code == 404


MANY_DIGITS = "9" * 4000


@pytest.mark.parametrize(
    "field",
    [
        '"temperature": NaN',
        '"temperature": -Infinity',
        '"top_p": 1e999',
        '"seed": NaN',
        f'"seed": {MANY_DIGITS}',
        f'"temperature": {MANY_DIGITS}',
        '"seed": 1.5',
        '"max_tokens": -2',
        '"n": 17',
        '"n": true',
        '"top_logprobs": 20',
        '"logprobs": 3',
        '"stop": [""]',
        '"stop": {"a": 1}',
        f'"stop": "{"y" * (STOP_CHARS + 1)}"',
        f'"model": "{"m/" * 4000}"',
        '"model": "\\ud800"',
        f'"messages": [{{"role": "{"r" * 5000}", "content": "x"}}]',
        '"messages": [{"role": "user", "content": "\\ud800"}]',
        '"messages": [{"role": "user", "content": [{"type": "\\ud800", "text": "x"}]}]',
        '"messages": {"role": "user"}',
    ],
)
def test_odd_values_are_refused_briefly(url: str, field: str) -> None:
    body = f'{{"messages": [{{"role": "user", "content": "Hi"}}], "max_tokens": 2, {field}}}'
    response = httpx.post(url + CHAT, content=body.encode(), timeout=10)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["type"] in ("invalid_request_error", "not_found_error")
    assert len(response.content) < 400


def test_a_long_stop_string_costs_little() -> None:
    """Once each token compared all beginnings of every stop string, which is quadratic: 100,000 letters took minutes."""
    from fledge.text.chat import held_back

    class Counted(str):
        compared = 0

        def endswith(self, *beginning: Any) -> bool:
            Counted.compared += 1
            return super().endswith(*beginning)

    assert held_back(Counted("ab" + "y" * 50), ["y" * 1_000_000] * 4) == 50
    assert Counted.compared <= 4 * 52


def test_names_of_special_tokens_are_ordinary_text_in_every_field(url: str) -> None:
    typed = "".join(BYTES.special)
    size = len(typed)
    messages = [
        {"role": "system", "content": typed},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": [{"type": kind, "text": typed[:20]} for kind in ("text", "python", "output")]},
        {"role": "user", "content": "q"},
    ]
    body = {"messages": messages, "max_tokens": 1, "stop": typed[:50], "user": typed, "model": "sft"}
    with serving(pool(engine={"context": 1000}, context=1000)) as roomy:
        chat = httpx.post(roomy + CHAT, json=body, timeout=30).json()
        text = httpx.post(f"{roomy}/v1/completions", json={"prompt": typed, "max_tokens": 1}, timeout=30).json()
    # bos, and two marks for each of three messages and of two tool parts, and where the answer begins
    assert chat["usage"]["prompt_tokens"] == 1 + (2 + size + 2 + 1) + (2 + 60 + 4) + (2 + 1) + 1
    assert text["usage"]["prompt_tokens"] == 1 + size
