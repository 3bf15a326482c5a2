"""OpenAI's requests as plain data: what is allowed, what is meant. No network here.

    ask = parse_chat(body, Serve())         # raises ApiError that names the field, what it holds and what is allowed

`FIELDS`, `CHAT_FIELDS` and `COMPLETION_FIELDS` are all that is obeyed, with the settings of `Sampling`. What else would change
an answer (`UNMET`) is refused; other fields are ignored. Tool use travels beside the text under the key `fledge`, which foreign
clients skip.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any

from fledge.config import Sampling
from fledge.settings import within
from fledge.text.chat import Conversation, Message, Part, parse_message
from fledge.text.records import shown

CHOICES, PROMPTS = 16, 256
MESSAGES = 500
CONTINUE = "continue_final_message"
ALTERNATIVES = 20
STOPS, STOP_CHARS = 4, 200
Json = dict[str, Any]


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
    stream: bool = False
    include_usage: bool = False
    tools: bool = True
    top_logprobs: int | None = None
    """None: no log-probabilities."""
    plain: bool = False
    """Text to go on with, without roles and tools."""
    echo: bool = False
    """Whether the prompt is repeated before the answer."""


def parse_chat(body: Any, sampling: Sampling) -> Ask:
    """The request of POST /v1/chat/completions; `sampling` holds where it does not say."""
    found = _read(body, CHAT_FIELDS, sampling)
    is_begun = found["prompts"][0][-1].role == "assistant"
    if found.pop("continues", is_begun) != is_begun:
        role = found["prompts"][0][-1].role
        raise ApiError(f"the last message is by {role}; one by the assistant is gone on with", param=CONTINUE)
    if found.pop("logprobs", False):
        found.setdefault("top_logprobs", 0)
    elif found.pop("top_logprobs", 0):
        raise ApiError("top_logprobs needs logprobs to be true", param="top_logprobs")
    return Ask(**found)


def parse_completion(body: Any, sampling: Sampling) -> Ask:
    """The request of POST /v1/completions: plain text to go on with, no roles and no tools."""
    ask = Ask(**_read(body, COMPLETION_FIELDS, sampling, fewest=0), tools=False, plain=True)
    if ask.n * len(ask.prompts) > PROMPTS:
        raise ApiError(f"n={ask.n} answers to {len(ask.prompts)} prompts; allowed: {PROMPTS} in all", param="n")
    return ask


def _read(body: Any, fields: Mapping[str, Field], sampling: Sampling, *, fewest: int = 1) -> Json:
    """What the body says, under the names of `Ask`; null says nothing."""
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    for key, harmless in UNMET.items():
        if (value := body.get(key)) not in (None, *harmless):
            allowed = " or ".join(map(shown, harmless)) or "null"
            raise ApiError(
                f"{key} is {shown(value)}, which is not done here; allowed: {allowed}, or leave it out", param=key
            )
    numbers = {
        row["name"]: (row["name"], partial(within, low=row["low"], high=row["high"])) for row in sampling.table()
    }
    longest = ("max_tokens", partial(_tokens, low=fewest, high=sampling.max_tokens))
    numbers |= {"max_tokens": longest, "max_completion_tokens": longest}  # the newer name
    found: Json = {}
    for key, (name, read) in {**fields, **numbers}.items():
        try:
            if (value := body.get(key)) is not None or key == "messages":  # which alone must be there
                found[name] = read(key, value)
        except ValueError as problem:
            raise ApiError(str(problem), param=key) from None
    said = {name: found.pop(name) for name in Sampling.__dataclass_fields__ if name in found}
    return found | {"sampling": replace(Sampling.of(sampling), **said)}


# How a value is read: (name of the field, value) -> value; ValueError says what is allowed.


def _typed(name: str, value: Any, *, kind: type[Any], said: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {said}")
    return value


def _tokens(name: str, value: Any, *, low: int, high: int) -> int:
    """Whoever wants more than there can be gets the most, as with -1."""
    return high if value == -1 else min(high, within(name, value, low=low, high=math.inf))


_flag = partial(_typed, kind=bool, said="true or false")
_text = partial(_typed, kind=str, said="a string")


def _include_usage(name: str, value: Any) -> bool:
    usage = _typed(name, value, kind=dict, said="an object").get("include_usage")
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


def _biases(name: str, value: Any) -> dict[int, float]:
    tokens = _typed(name, value, kind=dict, said='an object of ids and numbers from -100 to 100, as in {"42": -100}')
    if strange := next((token for token in tokens if not re.fullmatch("[0-9]{1,9}", token)), None):
        raise ValueError(f"{name} has the key {shown(strange)}, which is no id of a token")
    return {int(token): within(f"{name} of {token}", bias, low=-100.0, high=100.0) for token, bias in tokens.items()}


def _prompts(name: str, value: Any) -> tuple[str | tuple[int, ...], ...]:
    prompts = value if isinstance(value, list) and not _are_ids(value) else [value]
    if not prompts or not all(isinstance(item, str) or _are_ids(item) for item in prompts):
        raise ValueError(f"{name} must be a string, a list of strings, a list of token ids or a list of such lists")
    _check_whole(name, [text for text in prompts if isinstance(text, str)])
    if len(prompts) > PROMPTS:
        raise ValueError(f"{name} has {len(prompts)} texts; allowed: {PROMPTS}")
    return tuple(text if isinstance(text, str) else tuple(text) for text in prompts)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(type(item) is int for item in value)


def _conversation(name: str, value: Any) -> tuple[Conversation]:
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
    conversation: list[Message] = []
    # Some clients send a message in several pieces: neighbours by the same side are one turn, and so is all of the system.
    for message in sorted(parsed, key=lambda message: message.role != "system"):
        if conversation and conversation[-1].role == message.role:
            edges = [part.kind for part in (*conversation[-1].parts[-1:], *message.parts[:1])]
            gap = (Part("text", "\n\n"),) * (edges == ["text", "text"])
            conversation[-1] = Message(message.role, conversation[-1].parts + gap + message.parts)
        else:
            conversation.append(message)
    if not any(message.role == "user" for message in conversation):
        raise ValueError(f"{name}: none is by the user, whom the assistant answers")
    return (tuple(conversation),)


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
    _check_whole(f"{where}: content", [part.text for part in parsed.parts])
    return parsed


def _calls(value: Any, where: str, results: dict[str, list[str]]) -> list[Part]:
    """Calls of the one tool and what they gave, as the model was taught to read them."""
    parts = []
    for call in _typed(where, [] if value is None else value, kind=list, said="a list"):
        match call:
            case {"id": str(key), "function": {"name": str(tool), "arguments": str(arguments)}}:
                if tool != "python":
                    raise ValueError(f"{where}: the tool {shown(tool)} is not known; allowed: python")
            case _:
                raise ValueError(f"{where}: a call has an id, and a function with name and arguments")
        try:
            code = json.loads(arguments)["code"]
        except (ValueError, LookupError, TypeError, RecursionError):
            code = None
        if not isinstance(code, str):
            raise ValueError(f'{where}: arguments of python must be JSON as in {{"code": "6 * 7"}}')
        if not results.get(key):
            raise ValueError(f"{where}: no message by tool has the tool_call_id {shown(key)}")
        parts += [Part("python", code), Part("output", results[key].pop(0))]
    return parts


def _check_whole(name: str, texts: Iterable[str]) -> None:
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise ValueError(f"{name} holds a lone surrogate, which is no character")


Field = tuple[str, Callable[[str, Any], Any]]
"""Its name in `Ask`, and how its value is read."""
FIELDS: dict[str, Field] = {
    "model": ("model", _text),
    "n": ("n", partial(within, low=1, high=CHOICES)),
    "stop": ("stop", _stops),
    "logit_bias": ("logit_bias", _biases),
    "stream": ("stream", _flag),
    "stream_options": ("include_usage", _include_usage),
}
CHAT_FIELDS = FIELDS | {
    "messages": ("prompts", _conversation),
    "logprobs": ("logprobs", _flag),
    "top_logprobs": ("top_logprobs", partial(within, low=0, high=ALTERNATIVES)),
    "tool_choice": ("tools", lambda _, value: value != "none"),
    CONTINUE: ("continues", _flag),
}
COMPLETION_FIELDS = FIELDS | {
    "prompt": ("prompts", _prompts),
    "echo": ("echo", _flag),
    "logprobs": ("top_logprobs", partial(within, low=0, high=ALTERNATIVES)),
}
UNMET: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "repetition_penalty": (1,),
    "best_of": (1,),
    "suffix": ("",),
    "modalities": (["text"],),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "prompt_logprobs": (),
}
"""Fields of OpenAI's and of other servers' that change an answer and are not obeyed, with the values that change nothing."""
