"""OpenAI's requests and answers as plain data: what is allowed, what is meant, what it looks like. No network here.

    ask = parse_chat(body, limits)          # raises ApiError with the numbers
    chunk(head, index, {"content": "He"})   # one event of a stream

Unknown fields are ignored. Tool use travels beside the text under the key `fledge`, which foreign clients skip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any

from fledge.config import Sampling, Serve, within
from fledge.text.chat import KINDS, Conversation, Message, Part, check_turns, say

ALTERNATIVES = 20
STOPS, STOP_CHARS = 4, 200
Json = dict[str, Any]


class ApiError(Exception):
    """Answered in OpenAI's shape."""

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
    messages: int = 500
    choices: int = 16
    sampling: Sampling = field(default_factory=Serve)
    """Where the client does not say; also the most tokens that it may ask for."""

    def table(self) -> list[Json]:
        """The settings of sampling as this server allows them."""
        rows = self.sampling.table()
        return [row | {"high": row["default"]} if row["name"] == "max_tokens" else row for row in rows]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A checked request."""

    model: str | None
    prompts: tuple[Conversation, ...] | tuple[str | tuple[int, ...], ...]
    sampling: Sampling
    n: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    tools: bool
    top_logprobs: int | None
    """None: no log-probabilities."""


def parse_chat(body: Any, limits: Limits) -> Ask:
    """The request of POST /v1/chat/completions."""
    fields = _object(body)
    logprobs = _flag(fields, "logprobs")
    top = _number(fields, "top_logprobs", 0, low=0, high=ALTERNATIVES)
    if top and not logprobs:
        raise ApiError("top_logprobs needs logprobs to be true", param="top_logprobs")
    conversation = _conversation(fields.get("messages"), limits)
    return _ask(fields, limits, (conversation,), top_logprobs=top if logprobs else None)


def parse_completion(body: Any, limits: Limits) -> Ask:
    """The request of POST /v1/completions: plain text to go on with, no roles and no tools."""
    fields = _object(body)
    prompt = fields.get("prompt", "")
    if isinstance(prompt, str):
        prompts: tuple[str | tuple[int, ...], ...] = (prompt,)
    elif isinstance(prompt, list) and prompt and all(isinstance(item, str) for item in prompt):
        prompts = tuple(prompt)
    elif isinstance(prompt, list) and prompt and all(type(item) is int for item in prompt):
        prompts = (tuple(prompt),)
    else:
        raise ApiError("prompt must be a string, a list of strings or a list of token ids", param="prompt")
    if len(prompts) > limits.choices:
        raise ApiError(f"prompt has {len(prompts)} texts; allowed: {limits.choices}", param="prompt")
    top = _number(fields, "logprobs", None, low=0, high=ALTERNATIVES)
    return _ask(fields | {"tool_choice": "none"}, limits, prompts, top_logprobs=top)


def _ask(fields: Json, limits: Limits, prompts: Any, *, top_logprobs: int | None) -> Ask:
    model, stop, options = fields.get("model"), fields.get("stop"), fields.get("stream_options")
    if model is not None and not isinstance(model, str):
        raise ApiError("model must be a string", param="model")
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else ()
    if (stop is not None and not isinstance(stop, str | list)) or not all(isinstance(s, str) and s for s in stops):
        raise ApiError("stop must be a string or a list of strings, none of them empty", param="stop")
    if len(stops) > STOPS:
        raise ApiError(f"stop has {len(stops)} strings; allowed: {STOPS}", param="stop")
    if any(len(text) > STOP_CHARS for text in stops):
        raise ApiError(f"stop has {max(map(len, stops))} characters; allowed: {STOP_CHARS}", param="stop")
    if options is not None and not isinstance(options, dict):
        raise ApiError("stream_options must be an object", param="stream_options")
    newer = "max_completion_tokens" if fields.get("max_completion_tokens") is not None else "max_tokens"
    given = {**fields, "max_tokens": fields.get(newer)}
    sampling = {
        row["name"]: _number(given, row["name"], row["default"], low=row["low"], high=row["high"])
        for row in limits.table()
    }
    return Ask(
        model=model,
        prompts=prompts,
        sampling=Sampling(**sampling),
        n=_number(fields, "n", 1, low=1, high=limits.choices),
        stop=stops,
        stream=_flag(fields, "stream"),
        include_usage=_flag(options or {}, "include_usage"),
        tools=fields.get("tool_choice") != "none",
        top_logprobs=top_logprobs,
    )


def _object(body: Any) -> Json:
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    return body


def _number(fields: Mapping[str, Any], name: str, default: Any, *, low: float, high: float) -> Any:
    value = fields.get(name)
    try:
        return default if value is None else within(name, value, low=low, high=high)
    except ValueError as problem:
        raise ApiError(str(problem), param=name) from None


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(f"{name} must be true or false", param=name)
    return bool(value)


def _conversation(messages: Any, limits: Limits) -> Conversation:
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages must be a list with at least one message", param="messages")
    if len(messages) > limits.messages:
        raise ApiError(f"messages has {len(messages)} entries; allowed: {limits.messages}", param="messages")
    parsed = [_message(message, place) for place, message in enumerate(messages)]
    system = [message for message in parsed if message.role == "system"]
    conversation: list[Message] = [say("system", "\n\n".join(message.text for message in system))] if system else []
    for message in parsed:
        if message.role == "system":
            continue
        # Some clients send a message in several pieces: neighbours by the same side are one turn.
        if conversation and conversation[-1].role == message.role:
            gap = (Part("text", "\n\n"),)
            conversation[-1] = Message(message.role, conversation[-1].parts + gap + message.parts)
        else:
            conversation.append(message)
    try:
        check_turns(conversation, "messages")
    except ValueError as problem:
        raise ApiError(str(problem), param="messages") from problem
    if conversation[-1].role != "user":
        raise ApiError("the last message must be by the user", param="messages")
    return tuple(conversation)


def _message(message: Any, place: int) -> Message:
    where = f"messages[{place}]"
    if not isinstance(message, dict):
        raise ApiError(f"{where} is not an object", param=where)
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ("system", "user", "assistant"):
        raise ApiError(f"{where}: role {short(role)} is not one of system, user, assistant", param=where)
    content = message.get("content")
    if isinstance(content, str):
        parts: Sequence[Part] = (Part("text", content),)
    elif isinstance(content, list):
        parts = tuple(_part(part, where) for part in content)
    else:
        raise ApiError(f"{where}: content must be a string or a list of parts", param=where)
    if role != "assistant" and any(part.kind != "text" for part in parts):
        raise ApiError(f"{where}: only the assistant's messages have python and output parts", param=where)
    if any(not _is_text(part.text) for part in parts):
        raise ApiError(f"{where}: content holds a lone surrogate, which is no character", param=where)
    return Message(role, tuple(parts))


def _is_text(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _part(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in KINDS or not isinstance(part.get("text"), str):
        raise ApiError(f"{where}: a part must be {{'type': one of {', '.join(KINDS)}, 'text': '...'}}", param=where)
    return Part(kind, part["text"])


# Answers


def usage(prompt: int, completion: int, cached: int) -> Json:
    details = {"cached_tokens": cached}
    totals = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return totals | {"prompt_tokens_details": details}


def token_logprob(token: bytes, logprob: float, best: Sequence[tuple[bytes, float]]) -> Json:
    """One entry of `logprobs.content`. `bytes` is exact where `token` had to replace half a character."""

    def entry(raw: bytes, value: float) -> Json:
        # JSON knows no -inf: what is impossible is about as impossible as this.
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(value, -9999.0), "bytes": list(raw)}

    return entry(token, logprob) | {"top_logprobs": [entry(*pair) for pair in best]}


def old_logprobs(entries: Sequence[Json], offset: int) -> Json:
    """The same in the shape of /v1/completions."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{best["token"]: best["logprob"] for best in entry["top_logprobs"]} for entry in entries],
        "text_offset": offsets,
    }
