"""Who is answered: holders of the key, by names that lead here, and never a page of another site."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import openai
import pytest

from fledge.commands import Serve
from fledge.config import check
from fledge.serve.access import Access, find_key, find_origins, host_names, is_loopback
from fledge.serve.api import ApiError
from fledge.serve.connections import listen
from test_server import HELLO, client, pool, serving

CHAT = "/v1/chat/completions"
ASKED = {"messages": HELLO, "max_tokens": 2}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(access=Access(allowed_hosts=host_names("chat.example.org, Pip:8443"))) as address:
        yield address


def test_the_key_is_asked_for_as_a_bearer_in_any_case() -> None:
    with serving(access=Access(key="secret")) as url:
        with pytest.raises(openai.AuthenticationError):
            client(url, "wrong").models.list()
        assert client(url, "secret").models.list().data
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 401
        tries = {"Bearer secret": 200, "bearer secret": 200, "BEARER  secret": 200, "Basic secret": 401, "secret": 401}
        tries |= {"Bearer": 401, "": 401, "Bearer secret secret": 401, "Bearer Secret": 401}
        for header, status in tries.items():
            found = httpx.get(f"{url}/v1/models", headers={"Authorization": header}).status_code
            assert (header, found) == (header, status)


def test_a_key_that_is_none_is_refused_and_the_environment_may_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEDGE_API_KEY", raising=False)
    assert find_key(None) is None
    for wrong in ("", " ", "\n", "two words", "secret\n", "schlüssel"):
        with pytest.raises(ValueError, match=r"^api_key (is empty|holds a space)") as refusal:
            find_key(wrong)
        assert wrong.strip() == "" or wrong.strip() not in str(refusal.value), "a message must not show the key"
        monkeypatch.setenv("FLEDGE_API_KEY", wrong)
        with pytest.raises(ValueError, match=r"^FLEDGE_API_KEY"):
            find_key(None)
    monkeypatch.setenv("FLEDGE_API_KEY", "from-here")
    assert (find_key(None), find_key("said")) == ("from-here", "said")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/js/app.js"])
def test_a_name_that_was_pointed_here_is_not_answered(url: str, path: str) -> None:
    """DNS rebinding: the browser asks this machine and believes to talk to the page's own server."""
    port = url.rpartition(":")[2]
    for name in (
        "evil.test",
        f"evil.test:{port}",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "10.0.0.7",
        "a@localhost",
        "",
    ):
        answer = httpx.get(url + path, headers={"Host": name})
        assert (name, answer.status_code) == (name, 403)
        assert answer.json()["error"]["code"] == "host_not_allowed"
    for name in (f"127.0.0.1:{port}", "LocalHost", "localhost.", f"[::1]:{port}", "chat.example.org", "pip", "PIP:80"):
        assert httpx.get(url + path, headers={"Host": name}).status_code == 200, name


FOREIGN = [
    {"Origin": "http://evil.test", "Content-Type": "text/plain"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://evil.test", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


def test_a_foreign_page_sets_nothing_going() -> None:
    on = pool()
    with serving(on) as url:
        for headers in FOREIGN:
            answer = httpx.post(url + CHAT, json=ASKED, headers=headers)
            assert (headers, answer.status_code) == (headers, 403)
            assert answer.json()["error"]["code"] == "origin_not_allowed"
            assert "access-control-allow-origin" not in answer.headers
        assert not on.loaded


def test_its_own_page_and_programs_are_answered(url: str) -> None:
    own = (
        {"Origin": url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {},
        {"Content-Type": "text/plain"},
    )
    # A proxy may pass its own name on, or call the server by the address that it knows.
    proxied = (
        {"Origin": "https://chat.example.org"},
        {"Origin": "https://chat.example.org", "Host": "chat.example.org"},
    )
    for headers in own + proxied:
        assert httpx.post(url + CHAT, json=ASKED, headers=headers).status_code == 200, headers


def test_a_server_for_everybody_answers_by_any_address_and_the_machines_name() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5"):
        access = Access(host=host)
        for name in (
            "192.168.1.5:8000",
            "[fe80::1]:8000",
            "localhost",
            socket.gethostname(),
            f"{socket.gethostname()}.local",
        ):
            access.check_origin("GET", {"host": name})
        with pytest.raises(ApiError):
            access.check_origin("GET", {"host": "evil.test"})
    assert [is_loopback(host) for host in ("localhost", "127.0.0.9", "::1", "0.0.0.0", "pip.local")] == [True] * 3 + [
        False
    ] * 2


@pytest.mark.parametrize("given", ["https://chat.example.org", "*", "a,,b", "a b", "chat.example.org/pip", "[::1"])
def test_what_is_no_host_name_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        host_names(given)


def test_where_it_cannot_listen_is_said_before_it_begins() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1 port {port}: another program listens there; --port"):
            listen("127.0.0.1", port)
    for host in ("no.such.name.invalid", "a..b", "x" * 70):
        with pytest.raises(ValueError, match="is no name of this machine"):
            listen(host, 0)
    with pytest.raises(ValueError, match="port=80000 is not a whole number from 0 to 65535"):
        check(Serve(run="x", port=80_000))


def test_pages_of_named_origins_may_use_it_and_no_others() -> None:
    ours, others = "https://app.example.org", ["http://app.example.org", "https://app.example.org:8443", "null"]
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with serving(access=Access(origins=find_origins(f"{ours}, http://localhost:3000"), key="secret")) as url:
        key = {"Authorization": "Bearer secret", "Sec-Fetch-Site": "cross-site"}
        for origin, status in {ours: 200, "http://localhost:3000": 200, **dict.fromkeys(others, 403)}.items():
            answer = httpx.post(url + CHAT, json=ASKED, headers={"Origin": origin} | key)
            before = httpx.options(url + CHAT, headers={"Origin": origin} | asking)
            allowed = origin if status == 200 else None
            assert (origin, answer.status_code) == (origin, status)
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert before.headers.get("access-control-allow-origin") == allowed
        refused = httpx.post(url + CHAT, json=ASKED, headers={"Origin": ours})  # a page can read why
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ours)
    with serving(access=Access(origins=find_origins("*"))) as url:
        answer = httpx.post(url + CHAT, json=ASKED, headers={"Origin": "http://evil.test"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert find_origins(None) == frozenset()
    for wrong in ("app.example.org", "https://a/b", "https://a,", "ftp://a", "https://*"):
        with pytest.raises(ValueError, match="is no origin"):
            find_origins(wrong)


def test_texts_and_conversations_are_told_as_ids(url: str) -> None:
    def ids(**body: object) -> list[int]:
        found = httpx.post(f"{url}/tokenize", json=body).raise_for_status().json()
        assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 256)
        return found["tokens"]

    assert ids(prompt="Wörter") == [*"Wörter".encode()]
    assert ids(prompt=[1, 2]) == [1, 2]
    assert ids(prompt="") == []
    assert len(ids(messages=HELLO)) == httpx.post(url + CHAT, json=ASKED).json()["usage"]["prompt_tokens"]
    for wrong in ({"prompt": ["a", "b"]}, {"messages": []}, {"prompt": 3}):
        assert httpx.post(f"{url}/tokenize", json=wrong).status_code == 400
