"""/openapi.json says what the server takes and gives, and schemathesis, which believes it, finds nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Mount, Route

from fledge.config import Sampling
from fledge.serve.fields import chat_fields
from fledge.serve.openapi import document
from fledge.serve.server import create_app
from test_server import client, pool, serving

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
SHORT = Sampling(max_tokens=8)
DOCUMENT = document(SHORT, models=["sft", "base"])
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
BEYOND = (
    "the context holds",
    "ids that are not tokens of ordinary text",
    "is not one of the ids",
    "allowed: 256 in all",
    "arguments of python must be JSON",
    "tool_call_id",
    "needs logprobs",
    "the last message is by",
    "is not gone on with",
    "response_format: ",
    "text: ",
    "allowed beside tool_choice none",
)
"""What JSON Schema cannot say of a request: what goes with what, sizes in all, and ids of this tokenizer."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(pool(engine={"slots": 64}), queue=1000, sampling=SHORT) as address:
        yield address


def paths(routes: Any, at: str = "") -> Iterator[str]:
    for route in routes:
        if isinstance(route, Mount):
            yield from paths(getattr(route.app, "routes", []), at + route.path)
        elif isinstance(route, Route):
            yield at + route.path


def test_every_route_and_every_field_that_is_read_is_described(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json").json() == DOCUMENT
    (entrance,) = create_app(pool()).routes
    assert isinstance(entrance, Mount)
    router = next(cell.cell_contents for cell in entrance.app.__closure__ if hasattr(cell.cell_contents, "routes"))  # type: ignore[attr-defined]
    assert {*paths(router.routes)} == DOCUMENT["paths"].keys()
    body = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"].keys() == chat_fields(SHORT).keys()
    assert body["required"] == ["messages"]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
@pytest.mark.filterwarnings("ignore")  # its own
def test_schemathesis_finds_nothing(url: str, path: str, method: str) -> None:
    """What the document allows is answered as it says, and what it does not allow is refused."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is in the group `compat`")
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method.upper()]
    modes = [*schemathesis.GenerationMode][: 1 if method == "get" else 2]
    answered = set()

    @given(case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]))
    @settings(max_examples=15 * len(modes), deadline=None, database=None, suppress_health_check=SLOW)
    def ask(case: Any) -> None:
        response = case.call(base_url=url)
        answered.add(response.status_code)
        is_beyond = response.status_code == 400 and any(words in response.text for words in BEYOND)
        case.validate_response(response, excluded_checks=[positive_data_acceptance] * is_beyond)

    ask()
    assert 200 in answered


def test_ids_that_are_none_are_refused_wherever_they_come(url: str) -> None:
    """Schemathesis found that /tokenize gave them back."""
    for path in ("/tokenize", "/v1/completions"):
        for ids in ([-1], [99_999], [1, 256]):
            assert "not tokens of ordinary text" in httpx.post(url + path, json={"prompt": ids, "max_tokens": 1}).text


def test_a_method_that_is_not_answered_is_told_which_are(url: str) -> None:
    assert {*httpx.put(f"{url}/v1/models").headers["allow"].split(", ")} == {"GET", "HEAD"}


def test_tools_are_taken_where_none_shall_be_called(url: str) -> None:
    """As beside the history of another model that had them."""
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    create = client(url).chat.completions.create
    hello: Any = [{"role": "user", "content": "Hello"}]
    settings: Any = {"model": "sft", "messages": hello, "max_tokens": 5, "seed": 1}
    said = create(tools=tools, tool_choice="none", **settings)
    assert said.choices[0].message.content == create(tool_choice="none", **settings).choices[0].message.content
