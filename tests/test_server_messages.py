"""What clients send as a conversation, and what the model reads of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from fledge.commands import Serve
from fledge.serve.api import ApiError, parse_chat
from fledge.text.chat import Conversation, encode_prompt, encode_text, fit_prompt, say, talk
from test_server import HELLO, client, pool, serving
from tiny_engine import BYTES

CALCULATED = [{"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]


def read(*messages: dict[str, Any], **fields: Any) -> Conversation:
    (conversation,) = parse_chat({"messages": list(messages)} | fields, Serve()).prompts
    assert isinstance(conversation, tuple)
    return conversation  # type: ignore[return-value]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(content: Any, *calls: tuple[str, str, str]) -> dict[str, Any]:
    asked = [
        {"id": key, "type": "function", "function": {"name": name, "arguments": said}} for key, name, said in calls
    ]
    return {"role": "assistant", "content": content} | ({"tool_calls": asked} if asked else {})


def result(key: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": key, "content": text}


def test_an_answer_that_is_last_is_gone_on_with() -> None:
    begun = read(user("q"), assistant("The turtle"))
    assert begun == read(user("q"), assistant("The turtle"), continue_final_message=True)
    assert encode_prompt(BYTES, begun) == [*encode_prompt(BYTES, begun[:1]), *b"The turtle"]
    for messages, said in ((HELLO, True), ([*HELLO, assistant("Hi")], False)):
        with pytest.raises(ApiError, match="one by the assistant is gone on with"):
            parse_chat({"messages": messages, "continue_final_message": said}, Serve())


def test_calls_and_their_results_are_read_as_the_model_writes_them() -> None:
    ours = read(user("q"), assistant([*CALCULATED, {"type": "text", "text": "It is 42."}]), user("r"))
    code = json.dumps({"code": "6*7"})
    theirs = read(
        user("q"), assistant(None, ("a", "python", code)), result("a", "42"), assistant("It is 42."), user("r")
    )
    assert theirs == ours
    # Two calls at once, whose results come in another order, and an answer that begins with words.
    twice = read(
        user("q"),
        assistant("Well", ("a", "python", code), ("b", "python", '{"code": "1"}')),
        result("b", "1"),
        result("a", "42"),
    )
    more = [{"type": "python", "text": "1"}, {"type": "output", "text": "1"}]
    assert twice == read(user("q"), assistant([{"type": "text", "text": "Well"}, *CALCULATED, *more]))


def test_an_answer_may_be_empty_and_a_greeting_may_come_first() -> None:
    assert read(user("q"), assistant(None), user("r")) == (say("user", "q"), say("assistant"), say("user", "r"))
    system = {"role": "system", "content": "Be kind."}
    greeted = read(system, assistant("Welcome!"), user("q"))
    assert [message.role for message in greeted] == ["system", "assistant", "user"]
    text = BYTES.decode(encode_prompt(BYTES, greeted))
    assert text.index("Welcome!") < text.index("Be kind.\n\nq")
    # Where the beginning does not fit, the greeting goes with the first exchange.
    long = (*talk("u" * 20, "a" * 20, "v" * 20, "b" * 20, "last"),)
    for greeting in ((), (say("assistant", "hi"),)):
        fitted = fit_prompt(BYTES, (*greeting, *long), context=100, max_tokens=20)
        assert (fitted.ids, fitted.dropped) == (encode_prompt(BYTES, long[2:]), 1)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([assistant("x")], "none is by the user"),
        (
            [user("q"), assistant(None, ("a", "f", "{}")), result("a", "x")],
            'the tool "f" is not known; allowed: python',
        ),
        ([user("q"), assistant(None, ("a", "python", "6*7")), result("a", "x")], "arguments of python must be JSON"),
        ([user("q"), assistant(None, ("a", "python", "[" * 90_000))], "arguments of python must be JSON"),
        ([user("q"), assistant(None, ("a", "python", '{"code": "1"}'))], 'no message by tool has the tool_call_id "a"'),
        ([user("q"), result("a", "x")], "needs the tool_call_id of a call"),
        ([user("q"), {"role": "assistant", "content": "x", "tool_calls": 3}], "tool_calls must be a list"),
        ([user("q"), {"role": "assistant", "content": "x", "tool_calls": [3]}], "a call has an id"),
        ([{"role": "user", "content": None}], "content of user is null"),
        ([user("q"), {"role": "tool", "tool_call_id": [], "content": None}], "content of user is null"),
    ],
)
def test_what_the_template_cannot_say_is_named(messages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ApiError) as refusal:
        read(*messages)
    assert words in refusal.value.message
    assert refusal.value.param == "messages"


def test_the_base_stage_goes_on_with_the_text_of_a_conversation() -> None:
    """As /v1/completions does with the same text; the stage after it reads the template."""
    on = pool()
    base, sft = on.entries
    on.entries = [replace(base, raw=True, created=7), sft]
    messages = [{"role": "system", "content": "Old tales."}, user("Once"), assistant(" upon a time"), user("Then")]
    text = "Old tales.\n\nOnce upon a time\n\nThen"
    assert encode_text(BYTES, read(*messages)) == [BYTES.special["<|bos|>"], *text.encode()]
    settings: dict[str, Any] = {"model": "base", "max_tokens": 20, "seed": 4}
    with serving(on) as url:
        chat = httpx.post(f"{url}/v1/chat/completions", json={"messages": messages} | settings).json()
        plain = httpx.post(f"{url}/v1/completions", json={"prompt": text} | settings).json()
        assert chat["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"] == 1 + len(text)
        assert chat["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
        parts = chat["choices"][0]["message"].get("fledge", {}).get("parts")
        said = "".join(p["text"] for p in parts) if parts else chat["choices"][0]["message"]["content"]
        assert said == plain["choices"][0]["text"]
        assert [(model.id, model.created) for model in client(url).models.list().data] == [("sft", 0), ("base", 7)]
