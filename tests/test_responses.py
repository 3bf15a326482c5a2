"""/v1/responses as the official client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from test_server import HELLO, ask, client, eager_model, pool, serving

EVENTS = ["created", "in_progress", "output_item.added", "content_part.added"]
LAST = ["output_text.done", "content_part.done", "output_item.done"]


class Bird(BaseModel):
    kind: Literal["owl", "hen"]
    tame: bool


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as address:
        yield address


def respond(url: str, **settings: Any) -> Any:
    asked = {"model": "sft", "input": "Hello", "max_output_tokens": 30, "temperature": 1, "extra_body": {"seed": 5}}
    return client(url).responses.create(**asked | settings)


def test_a_response_says_what_the_chat_says(url: str) -> None:
    chat = ask(url)
    plain = respond(url)
    assert plain.output_text == chat.choices[0].message.content
    assert (plain.status, plain.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (plain.usage.input_tokens, plain.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    assert respond(url, input=items).output_text == plain.output_text
    kind = [{"role": "system", "content": "Be kind."}, *HELLO]
    told = respond(url, instructions="Be kind.", metadata={"a": "b"})
    assert told.output_text == ask(url, messages=kind).choices[0].message.content
    assert (told.instructions, told.metadata, told.model) == ("Be kind.", {"a": "b"}, "sft")
    # What was answered goes back in as it came.
    more: Any = [*items, *plain.output, {"role": "user", "content": "And?"}]
    said = [*HELLO, {"role": "assistant", "content": plain.output_text}, {"role": "user", "content": "And?"}]
    assert respond(url, input=more).output_text == ask(url, messages=said).choices[0].message.content


def test_a_stream_opens_tells_and_closes_in_order(url: str) -> None:
    events = list(respond(url, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    middle = kinds[len(EVENTS) : -len(LAST) - 1]
    assert (kinds[: len(EVENTS)], kinds[-len(LAST) - 1 :]) == (EVENTS, [*LAST, "incomplete"])
    assert {*middle} == {"output_text.delta"}
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta")
        == respond(url).output_text
    )
    assert events[-1].response.output_text == respond(url).output_text
    with client(url).responses.stream(model="sft", input="Hello", max_output_tokens=100, text_format=Bird) as stream:
        bird = stream.get_final_response().output_parsed
    assert isinstance(bird, Bird)


def test_a_schema_is_followed(url: str) -> None:
    pytest.importorskip("llguidance", reason="llguidance is in the extra `json` and in the group `compat`")
    response = client(url).responses.parse(model="sft", input="Hello", max_output_tokens=100, text_format=Bird)
    assert response.status == "completed"
    assert response.output_parsed == Bird(**json.loads(response.output_text))
    with pytest.raises(openai.BadRequestError, match="text: Invalid type: strin") as caught:
        respond(url, text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "strin"}}})
    assert caught.value.param == "text"


def test_tool_use_comes_and_goes_back() -> None:
    with serving(pool(model=eager_model, engine={"run_tool": lambda code, stop=None: "42"})) as url:
        for seed in range(20):
            response = respond(url, max_output_tokens=60, extra_body={"seed": seed, "top_k": 0})
            parts = (response.output[0].model_dump().get("fledge") or {"parts": []})["parts"]
            if any(part["text"] == "42" for part in parts):
                break
        else:
            pytest.fail("no answer used the tool")
        history: Any = [{"role": "user", "content": "Hello"}, *response.output, {"role": "user", "content": "And?"}]
        chats = [*HELLO, {"role": "assistant", "content": parts}, {"role": "user", "content": "And?"}]
        counts = respond(url, input=history).usage.input_tokens, ask(url, messages=chats).usage.prompt_tokens
        assert counts[0] == counts[1]
        call = {"type": "function_call", "call_id": "a", "name": "python", "arguments": '{"code": "6*7"}'}
        gave = {"type": "function_call_output", "call_id": "a", "output": "42"}
        theirs = respond(url, input=[*HELLO, call, gave, {"role": "user", "content": "And?"}])
        ours = [{"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]
        said = [*HELLO, {"role": "assistant", "content": ours}, {"role": "user", "content": "And?"}]
        assert theirs.usage.input_tokens == ask(url, messages=said).usage.prompt_tokens


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"previous_response_id": "resp-1"}, "previous_response_id", "not done here"),
        ({"store": True}, "store", "allowed: false"),
        ({"background": True}, "background", "not done here"),
        ({"tools": [{"type": "web_search"}]}, "tools", "no model here was taught"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "not done here"),
        ({"truncation": "disabled"}, "truncation", 'allowed: "auto"'),
        ({"include": ["reasoning.encrypted_content"]}, "include", "not done here"),
        ({"extra_body": {"max_tokens": 3}}, "max_tokens", "not done here"),
        ({"extra_body": {"messages": HELLO}}, "messages", "not done here"),
        ({"input": []}, "input", "at least one message"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", 'input[0]: "reasoning" is not a message'),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input", "input[0]: part"),
        ({"input": [3]}, "input", "input[0]: 3 is not a message"),
        ({"input": [{"type": "item_reference", "id": "msg-1"}]}, "input", "input[0]: nothing is kept here"),
        ({"extra_body": {"verbosity": "low"}}, "verbosity", "not done here"),
        ({"text": {"format": {"type": "xml"}}}, "text", "text.format is"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens=0"),
    ],
)
def test_what_is_not_done_is_refused_by_name(url: str, settings: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(url, **settings)
    assert words in str(caught.value)
    assert caught.value.param == param
