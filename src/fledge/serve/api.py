"""OpenAI's requests as plain data: what is allowed, what is meant. No network here.

    ask = parse_chat(body, Serve())         # raises ApiError that names the field, what it holds and what is allowed

The tables of fields.py are all that is obeyed or refused by name; other fields are ignored. Tool use travels beside the text under
the key `fledge`, which foreign clients skip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from fledge.config import Sampling
from fledge.serve.fields import CONTINUE, PROMPTS, Field, Json, chat_fields, completion_fields
from fledge.text.chat import Conversation


@dataclass(eq=False)
class ApiError(Exception):
    """Answered in OpenAI's format."""

    message: str
    _: KW_ONLY
    status: int = 400
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None

    def to_json(self) -> Json:
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A checked request, and what holds where it does not say."""

    prompts: tuple[Conversation, ...] | tuple[str | tuple[int, ...], ...] = ("",)
    sampling: Sampling
    model: str | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    schema: Json | None = None
    """JSON Schema that answers follow."""
    schema_field: str = "response_format"
    """Where it was asked for."""
    stream: bool = False
    include_usage: bool = False
    tools: bool = True
    top_logprobs: int | None = None
    """None: no log-probabilities."""
    plain: bool = False
    """Text to go on with, without roles and tools."""
    echo: bool = False
    """Whether the prompt is repeated before the answer."""
    told_back: Json = field(default_factory=dict)
    """What the response repeats of the request."""


def parse_chat(body: Any, sampling: Sampling) -> Ask:
    """The request of POST /v1/chat/completions; `sampling` holds where it does not say."""
    found = read_fields(body, chat_fields(sampling), sampling)
    if found.pop("logprobs", False):
        found.setdefault("top_logprobs", 0)
    elif found.pop("top_logprobs", 0):
        raise ApiError("top_logprobs needs logprobs to be true", param="top_logprobs")
    return chat_of(found)


def chat_of(found: Json) -> Ask:
    """What is asked of a conversation, once each field is read and what goes with what is looked at."""
    is_begun = found["prompts"][0][-1].role == "assistant"
    if found.pop("continues", is_begun) != is_begun:
        role = found["prompts"][0][-1].role
        raise ApiError(f"the last message is by {role}; one by the assistant is gone on with", param=CONTINUE)
    if is_begun and found.get("schema"):
        raise ApiError(
            "the last message begins an answer, and JSON is not gone on with",
            param=found.get("schema_field", Ask.schema_field),
        )
    if found.pop("declared", []) and found.get("tools", True):
        raise ApiError(
            "tools is a list of functions, and no model here was taught to call them; allowed beside tool_choice none",
            param="tools",
        )
    return Ask(**found)


def parse_completion(body: Any, sampling: Sampling) -> Ask:
    """The request of POST /v1/completions: plain text to go on with, no roles and no tools."""
    ask = Ask(**read_fields(body, completion_fields(sampling), sampling), tools=False, plain=True)
    if ask.n * len(ask.prompts) > PROMPTS:
        raise ApiError(f"n={ask.n} answers to {len(ask.prompts)} prompts; allowed: {PROMPTS} in all", param="n")
    return ask


def read_fields(body: Any, fields: Mapping[str, Field], sampling: Sampling) -> Json:
    """What the body says, under the names of `Ask` and `sampling` with it; null says nothing."""
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    found: Json = {}
    for key, one in fields.items():
        try:
            if (value := body.get(key)) is not None or one.required:
                read = one.read(key, value)
                if one.name is not None:
                    found[one.name] = read
        except ValueError as problem:
            raise ApiError(str(problem), param=key) from None
    said = {name: found.pop(name) for name in Sampling.__dataclass_fields__ if name in found}
    return found | {"sampling": replace(Sampling.of(sampling), **said)}
