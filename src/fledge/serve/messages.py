"""What clients send as a conversation, in all the forms of OpenAI's protocol, as the model reads it.

    (conversation,) = read_conversation("messages", [{"role": "user", "content": "Hi"}])

Calls of the one tool and what they gave come as parts of the answer, as this server sends them, or as messages of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fledge.serve.schema import TEXT, Json, a_list, an_object, any_of
from fledge.text.chat import KINDS, Conversation, Message, Part, join_turns, parse_message
from fledge.text.forms import code_of
from fledge.text.records import shown

MESSAGES = 500
_CALL = an_object(id=TEXT, function=an_object(name={"const": "python"}, arguments=TEXT))


def _content(*kinds: str) -> Json:
    """A text, or parts of such kinds."""
    return any_of(TEXT, a_list(an_object(type={"enum": [*kinds]}, text=TEXT)))


_BOUNDS = {"minItems": 1, "maxItems": MESSAGES, "contains": an_object(role={"const": "user"})}
_SAID = any_of(*_content(*KINDS)["anyOf"], {"type": "null"})
_CALLS = {"type": ["array", "null"], "items": _CALL}
SCHEMA = a_list(
    any_of(
        an_object(role={"enum": ["system", "developer", "user"]}, content=_content("text")),
        an_object({"content": _SAID, "tool_calls": _CALLS}, role={"enum": ["assistant"]}),
        an_object({"tool_call_id": TEXT}, role={"enum": ["tool"]}, content=_content("text")),
    ),
    **_BOUNDS,
)
"""Of a list of messages, for /openapi.json."""
_ITEM = an_object(
    {"type": {"const": "message"}},
    role={"enum": ["system", "developer", "user", "assistant"]},
    content=_content("input_text", "output_text", "text"),
)
_CALL_ITEM = an_object(type={"const": "function_call"}, call_id=TEXT, name={"const": "python"}, arguments=TEXT)
_RESULT_ITEM = an_object(type={"const": "function_call_output"}, call_id=TEXT, output=TEXT)
ITEMS = any_of(TEXT, a_list(any_of(_ITEM, _CALL_ITEM, _RESULT_ITEM), **_BOUNDS))
"""Of the input of /v1/responses."""


def read_conversation(name: str, value: Any) -> tuple[Conversation]:
    """A field's list of messages as the one conversation to answer.

    Raises:
        ValueError: what is wrong with it, and which of the messages it is.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list with at least one message")
    if len(value) > MESSAGES:
        raise ValueError(f"{name} has {len(value)} entries; allowed: {MESSAGES}")
    said = [(f"{name}[{place}]", message) for place, message in enumerate(value)]
    results: dict[str, list[str]] = {}
    for where, message in said:
        if _is_result(message):
            text = _message({"role": "user", "content": message.get("content")}, where, results).text
            results.setdefault(str(message.get("tool_call_id")), []).append(text)
    parsed = [_message(message, where, results) for where, message in said if not _is_result(message)]
    if any(results.values()):
        raise ValueError(f"{name}: what a tool gave needs the tool_call_id of a call in a message of the assistant")
    # Some clients send a message in several pieces: neighbours by the same side are one turn, and so is all of the system.
    conversation = join_turns(sorted(parsed, key=lambda message: message.role != "system"))
    if not any(message.role == "user" for message in conversation):
        raise ValueError(f"{name}: none is by the user, whom the assistant answers")
    return (tuple(conversation),)


def read_items(name: str, value: Any) -> list[Any]:
    """The input of /v1/responses as messages: a text, or items, among them what this server answered before.

    Raises:
        ValueError: which of the items is none of a conversation.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a string or a list of items")
    return [_item_message(item, f"{name}[{place}]") for place, item in enumerate(value)]


def _item_message(item: Any, where: str) -> Any:
    match item:
        case {"type": "function_call", "call_id": key, "name": tool, "arguments": arguments}:
            call = {"id": key, "function": {"name": tool, "arguments": arguments}}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case {"type": "function_call_output", "call_id": key, "output": output}:
            return {"role": "tool", "tool_call_id": key, "content": output}
        case {"fledge": {"parts": list(parts)}, "role": "assistant"}:
            return {"role": "assistant", "content": parts}
        case {"role": role, "content": content} if item.get("type") in (None, "message"):
            return {"role": role, "content": [*map(_plain, content)] if isinstance(content, list) else content}
        case {"type": "item_reference"}:
            raise ValueError(
                f"{where}: nothing is kept here that could be referred to; send it whole, as clients do with store=false"
            )
    kind = item.get("type") if isinstance(item, dict) else item
    raise ValueError(
        f"{where}: {shown(kind)} is not a message, a function_call with its name or a function_call_output"
    )


def _plain(part: Any) -> Any:
    is_text = isinstance(part, dict) and part.get("type") in ("input_text", "output_text")
    return {**part, "type": "text"} if is_text else part


def _is_result(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "tool"


def _message(message: Any, where: str, results: dict[str, list[str]]) -> Message:
    """One message; an answer takes what its calls gave out of `results`, by their ids."""
    calls: list[Part] = []
    if isinstance(message, dict) and message.get("role") == "developer":  # OpenAI's newer name for system
        message = message | {"role": "system"}
    elif isinstance(message, dict) and message.get("role") == "assistant":
        message = message | {"content": [] if message.get("content") is None else message["content"]}
        calls = _calls(message.get("tool_calls"), f"{where}.tool_calls", results)
    parsed = parse_message(message, where)
    parsed = replace(parsed, parts=(*parsed.parts, *calls))
    check_whole(f"{where}: content", [part.text for part in parsed.parts])
    return parsed


def _calls(value: Any, where: str, results: dict[str, list[str]]) -> list[Part]:
    """Calls of the one tool and what they gave, as the model was taught to read them."""
    parts = []
    if not isinstance(value, list | None):
        raise ValueError(f"{where} must be a list")
    for call in value or []:
        match call:
            case {"id": str(key), "function": {"name": str(tool), "arguments": str(arguments)}}:
                if tool != "python":
                    raise ValueError(f"{where}: the tool {shown(tool)} is not known; allowed: python")
            case _:
                raise ValueError(f"{where}: a call has an id, and a function with name and arguments")
        if (code := code_of(arguments)) is None:
            raise ValueError(f'{where}: arguments of python must be JSON as in {{"code": "6 * 7"}}')
        if not results.get(key):
            raise ValueError(f"{where}: no message by tool has the tool_call_id {shown(key)}")
        parts += [Part("python", code), Part("output", results[key].pop(0))]
    return parts


def check_whole(name: str, texts: Iterable[str]) -> None:
    """Raise ValueError for half of a character, which JSON can say and no text can hold."""
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise ValueError(f"{name} holds a lone surrogate, which is no character")
