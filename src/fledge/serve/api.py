"""OpenAI's requests as plain data: what is allowed, what is meant. No network here.

    ask = parse_chat(body, limits)          # raises ApiError that names the field, what it holds and what is allowed

`FIELDS`, `CHAT_FIELDS` and `COMPLETION_FIELDS` are all that is obeyed, with the settings of `Sampling`; other fields are
ignored. Tool use travels beside the text under the key `fledge`, which foreign clients skip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fledge.config import Sampling, Serve
from fledge.settings import within
from fledge.text.chat import Conversation, Message, Part, check_turns, parse_message

CHOICES = 16
MESSAGES = 500
ALTERNATIVES = 20
STOPS, STOP_CHARS = 4, 200
Json = dict[str, Any]


class ApiError(Exception):
    """Answered in OpenAI's format."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def to_json(self) -> Json:
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    """How long a body may take to arrive."""
    sampling: Sampling = field(default_factory=Serve)
    """Where the client does not say; also the most tokens that it may ask for."""

    def table(self) -> list[Json]:
        """The settings of sampling as this server allows them."""
        rows = self.sampling.table()
        return [row | {"high": row["default"]} if row["name"] == "max_tokens" else row for row in rows]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A checked request."""

    prompts: tuple[Conversation, ...] | tuple[str | tuple[int, ...], ...]
    sampling: Sampling
    model: str | None
    n: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    tools: bool
    top_logprobs: int | None
    """None: no log-probabilities."""


def parse_chat(body: Any, limits: Limits) -> Ask:
    """The request of POST /v1/chat/completions."""
    found = _read(body, CHAT_FIELDS, limits)
    if not found.pop("logprobs"):
        if found["top_logprobs"]:
            raise ApiError("top_logprobs needs logprobs to be true", param="top_logprobs")
        found["top_logprobs"] = None
    return Ask(**found)


def parse_completion(body: Any, limits: Limits) -> Ask:
    """The request of POST /v1/completions: plain text to go on with, no roles and no tools."""
    return Ask(**_read(body, COMPLETION_FIELDS, limits), tools=False)


def _read(body: Any, fields: Mapping[str, Field], limits: Limits) -> Json:
    """What the body says of each field, under the name that `Ask` has for it; the default where it is missing or null."""
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    numbers = {
        row["name"]: Field(partial(within, low=row["low"], high=row["high"]), row["default"]) for row in limits.table()
    }
    if body.get("max_completion_tokens") is not None:  # the newer name
        numbers["max_completion_tokens"] = replace(numbers.pop("max_tokens"), name="max_tokens")
    found: Json = {}
    for name, one in {**fields, **numbers}.items():
        try:
            value = body.get(name)
            found[one.name or name] = one.default if value is None and not one.is_needed else one.read(name, value)
        except ValueError as problem:
            raise ApiError(str(problem), param=name) from None
    sampling = Sampling(**{name: found.pop(name) for name in Sampling.__dataclass_fields__})
    return found | {"sampling": sampling}


# How a value is read: (name of the field, value) -> value; ValueError says what is allowed.


def _tools(_: str, value: Any) -> bool:
    return value != "none"


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string")
    return value


def _include_usage(name: str, value: Any) -> bool:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")
    usage = value.get("include_usage")
    return usage is not None and _flag("include_usage", usage)


def _stops(name: str, value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise ValueError(f"{name} must be a string or a list of strings, none of them empty")
    if len(stops) > STOPS:
        raise ValueError(f"{name} has {len(stops)} strings; allowed: {STOPS}")
    if any(len(text) > STOP_CHARS for text in stops):
        raise ValueError(f"{name} has {max(map(len, stops))} characters; allowed: {STOP_CHARS}")
    return tuple(stops)


def _prompts(name: str, value: Any) -> tuple[str | tuple[int, ...], ...]:
    prompts = value if isinstance(value, list) else [value]
    if prompts and all(type(item) is int for item in prompts):
        return (tuple(prompts),)
    if not prompts or not all(isinstance(item, str) for item in prompts):
        raise ValueError(f"{name} must be a string, a list of strings or a list of token ids")
    if len(prompts) > CHOICES:
        raise ValueError(f"{name} has {len(prompts)} texts; allowed: {CHOICES}")
    return tuple(prompts)


def _conversation(name: str, value: Any) -> tuple[Conversation]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list with at least one message")
    if len(value) > MESSAGES:
        raise ValueError(f"{name} has {len(value)} entries; allowed: {MESSAGES}")
    parsed = [_message(message, f"{name}[{place}]") for place, message in enumerate(value)]
    conversation: list[Message] = []
    # Some clients send a message in several pieces: neighbours by the same side are one turn, and so is all of the system.
    for message in sorted(parsed, key=lambda message: message.role != "system"):
        if conversation and conversation[-1].role == message.role:
            gap = (Part("text", "\n\n"),)
            conversation[-1] = Message(message.role, conversation[-1].parts + gap + message.parts)
        else:
            conversation.append(message)
    check_turns(conversation, name)
    if conversation[-1].role != "user":
        raise ValueError("the last message must be by the user")
    return (tuple(conversation),)


def _message(message: Any, where: str) -> Message:
    if isinstance(message, dict) and message.get("role") == "developer":  # OpenAI's newer name for system
        message = message | {"role": "system"}
    parsed = parse_message(message, where)
    if any("\ud800" <= letter <= "\udfff" for part in parsed.parts for letter in part.text):
        raise ValueError(f"{where}: content holds a lone surrogate, which is no character")
    return parsed


Read = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Field:
    """A field of a request: how its value is read, and what holds where it is missing or null."""

    read: Read
    default: Any = None
    name: str = ""
    """In `Ask`, where it has another."""
    is_needed: bool = False


FIELDS = {
    "model": Field(_text),
    "n": Field(partial(within, low=1, high=CHOICES), 1),
    "stop": Field(_stops, ()),
    "stream": Field(_flag, False),
    "stream_options": Field(_include_usage, False, name="include_usage"),
}
CHAT_FIELDS = FIELDS | {
    "messages": Field(_conversation, name="prompts", is_needed=True),
    "logprobs": Field(_flag, False),
    "top_logprobs": Field(partial(within, low=0, high=ALTERNATIVES), 0),
    "tool_choice": Field(_tools, True, name="tools"),
}
COMPLETION_FIELDS = FIELDS | {
    "prompt": Field(_prompts, ("",), name="prompts"),
    "logprobs": Field(partial(within, low=0, high=ALTERNATIVES), name="top_logprobs"),
}
