"""The fields of requests: how each is read, and what /openapi.json says of it. One table per endpoint.

    field = chat_fields(Serve())["stop"]
    field.read("stop", "\\n")          # ("\\n",); ValueError says what is allowed
    field.schema                       # what JSON Schema says of the same values

What would change an answer and is not done stands here too, with the values that change nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fledge.config import Sampling
from fledge.serve import messages
from fledge.serve.messages import check_whole, read_conversation, read_items
from fledge.serve.schema import TEXT, Json, a_list, an_object, any_of
from fledge.settings import within
from fledge.text.records import shown

CHOICES, PROMPTS = 16, 256
CONTINUE = "continue_final_message"
ALTERNATIVES = 20
STOPS, STOP_CHARS = 4, 200


@dataclass(frozen=True)
class Field:
    """A field of a request; null stands for leaving it out."""

    name: str | None
    """What it is called in `Ask`. None: its values change nothing."""
    read: Callable[[str, Any], Any]
    """(name of the field, value) -> value; ValueError says what is allowed."""
    schema: Json
    """What JSON Schema says of the values that are read."""
    required: bool = False


def chat_fields(sampling: Sampling) -> dict[str, Field]:
    """Of POST /v1/chat/completions; `sampling` bounds the length of answers."""
    return REFUSED | COMMON | CHAT | _numbers(sampling, least=1)


def completion_fields(sampling: Sampling) -> dict[str, Field]:
    """Of POST /v1/completions, where an answer may have no tokens."""
    return REFUSED | COMMON | COMPLETION | _numbers(sampling, least=0)


def response_fields(sampling: Sampling) -> dict[str, Field]:
    """Of POST /v1/responses."""
    shared = {name: field for name, field in (COMMON | CHAT).items() if name in SHARED}
    others = refused(" ".join((COMMON | CHAT).keys() - SHARED - {"stream_options"})) | refused("n", 1)
    numbers = _numbers(sampling, least=1)
    numbers |= {"max_output_tokens": numbers.pop("max_completion_tokens"), **refused("max_tokens")}
    return REFUSED | others | shared | RESPONSE | numbers


def _numbers(sampling: Sampling, *, least: int) -> dict[str, Field]:
    """Settings of sampling with their bounds; whoever wants more tokens than there can be gets the most, as with -1."""

    def longest(name: str, value: Any) -> int:
        most = sampling.max_tokens
        return most if value == -1 else min(most, within(name, value, low=least, high=math.inf))

    tokens = Field("max_tokens", longest, any_of({"const": -1}, {"type": "integer", "minimum": least}))
    found = {
        row["name"]: number(row["name"], low=row["low"], high=row["high"], help=row["help"]) for row in sampling.table()
    }
    return found | {"max_tokens": tokens, "max_completion_tokens": tokens}  # the newer name


def number(name: str, *, low: float, high: float, help: str = "") -> Field:
    """A number from `low` to `high`, a whole one where `low` is an int."""
    schema: Json = {"type": "integer" if isinstance(low, int) else "number", "minimum": low, "maximum": high}
    return Field(name, partial(within, low=low, high=high), schema | ({"description": help} if help else {}))


def flag(name: str) -> Field:
    """True or false."""
    return Field(name, partial(_typed, kind=bool, said="true or false"), {"type": "boolean"})


def refused(names: str, *harmless: Any) -> dict[str, Field]:
    """Fields that would change an answer and are not done, with the values that change nothing."""

    def read(name: str, value: Any) -> None:
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in harmless):
            allowed = " or ".join(map(shown, harmless)) or "null"
            raise ValueError(f"{name} is {shown(value)}, which is not done here; allowed: {allowed}, or leave it out")

    field = Field(None, read, {"enum": [*harmless]} if harmless else {"type": "null"})
    return dict.fromkeys(names.split(), field)


def _typed(name: str, value: Any, *, kind: type[Any], said: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {said}")
    return value


_text = partial(_typed, kind=str, said="a string")
_an_object = partial(_typed, kind=dict, said="an object")


def _include_usage(name: str, value: Any) -> bool:
    usage = _an_object(name, value).get("include_usage")
    return usage is not None and flag(name).read("include_usage", usage)


def _tool_choice(name: str, value: Any) -> bool:
    REFUSED[name].read(name, value)
    return value != "none"


def _tools(name: str, value: Any) -> list[Any]:
    tools = _typed(name, value, kind=list, said="a list of objects")
    return [_an_object(f"{name}[{place}]", tool) for place, tool in enumerate(tools)]


def _format(name: str, value: Any) -> Json | None:
    """The JSON schema that is asked for; None: any text."""
    match value:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise ValueError(
        f'{name} is {shown(value)}; allowed: {{"type": "text"}}, {{"type": "json_object"}}, or '
        '{"type": "json_schema", "json_schema": {"schema": {...}}}'
    )


def _response_format(name: str, value: Any) -> Json | None:
    """The same in the form of /v1/responses, where the schema stands beside the type."""
    form = _an_object(name, value).get("format")
    if (verbosity := value.get("verbosity")) not in (None, "medium"):
        raise ValueError(f"{name}.verbosity is {shown(verbosity)}, which is not done here; leave it out")
    if form is None:
        return None
    is_schema = isinstance(form, dict) and form.get("type") == "json_schema"
    return _format(f"{name}.format", {"type": "json_schema", "json_schema": form} if is_schema else form)


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
    if strange := next((token for token in tokens if not re.fullmatch(ID, token)), None):
        raise ValueError(f"{name} has the key {shown(strange)}, which is no id of a token")
    return {int(token): within(f"{name} of {token}", bias, low=-100.0, high=100.0) for token, bias in tokens.items()}


def _prompts(name: str, value: Any) -> tuple[str | tuple[int, ...], ...]:
    prompts = value if isinstance(value, list) and not _are_ids(value) else [value]
    if not prompts or not all(isinstance(item, str) or _are_ids(item) for item in prompts):
        raise ValueError(f"{name} must be a string, a list of strings, a list of token ids or a list of such lists")
    check_whole(name, [text for text in prompts if isinstance(text, str)])
    if len(prompts) > PROMPTS:
        raise ValueError(f"{name} has {len(prompts)} texts; allowed: {PROMPTS}")
    return tuple(text if isinstance(text, str) else tuple(text) for text in prompts)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(type(item) is int for item in value)


ID = "[0-9]{1,9}"
_STOP = {"type": "string", "minLength": 1, "maxLength": STOP_CHARS}
_ONE_TEXT = any_of(TEXT, a_list({"type": "integer"}, minItems=1))
ONE_PROMPT = any_of(*_ONE_TEXT["anyOf"], a_list(_ONE_TEXT, minItems=1, maxItems=1))
"""The prompt of /tokenize."""
_BIAS = {"type": "number", "minimum": -100, "maximum": 100}
_BIASES = {"type": "object", "propertyNames": {"pattern": f"^{ID}$"}, "additionalProperties": _BIAS}
_IS_PLAIN, _IS_SCHEMA, _SCHEMA = {"enum": ["text", "json_object"]}, {"const": "json_schema"}, {"type": "object"}
_FORMAT = any_of(an_object(type=_IS_PLAIN), an_object(type=_IS_SCHEMA, json_schema=an_object(schema=_SCHEMA)))
_STREAM_OPTIONS = an_object({"include_usage": {"type": ["boolean", "null"]}})
COMMON = {
    "model": Field("model", _text, TEXT),
    "n": number("n", low=1, high=CHOICES),
    "stop": Field("stop", _stops, any_of(_STOP, a_list(_STOP, maxItems=STOPS))),
    "logit_bias": Field("logit_bias", _biases, _BIASES),
    "response_format": Field("schema", _format, _FORMAT),
    "stream": flag("stream"),
    "stream_options": Field("include_usage", _include_usage, _STREAM_OPTIONS),
}
CHAT = {
    "messages": Field("prompts", read_conversation, messages.SCHEMA, required=True),
    "logprobs": flag("logprobs"),
    "top_logprobs": number("top_logprobs", low=0, high=ALTERNATIVES),
    "tools": Field("declared", _tools, a_list({"type": "object"})),
    "tool_choice": Field("tools", _tool_choice, {"enum": ["auto", "none"]}),
    CONTINUE: flag("continues"),
}
COMPLETION = {
    "prompt": Field("prompts", _prompts, any_of(*_ONE_TEXT["anyOf"], a_list(_ONE_TEXT, minItems=1, maxItems=PROMPTS))),
    "echo": flag("echo"),
    "logprobs": number("top_logprobs", low=0, high=ALTERNATIVES),
}
SHARED = {"model", "stream", "tools", "tool_choice"}
"""What /v1/responses means as the chat does."""
_TEXT_FORMAT = any_of(an_object(type=_IS_PLAIN), an_object(type=_IS_SCHEMA, schema=_SCHEMA))
_TEXT_FIELD = an_object({"format": _TEXT_FORMAT, "verbosity": {"enum": ["medium", None]}})
RESPONSE = {
    "input": Field("items", read_items, messages.ITEMS, required=True),
    "instructions": Field("instructions", _text, TEXT),
    "text": Field("schema", _response_format, _TEXT_FIELD),
    "metadata": Field("metadata", _an_object, {"type": "object"}),
    # Nothing is kept here, and nothing runs on when nobody listens.
    **refused("store background", False),
    **refused("previous_response_id conversation prompt max_tool_calls"),
    **refused("include", []),
    **refused("reasoning", {}),
    **refused("truncation", "auto"),
}
REFUSED = {
    **refused("tools functions stop_token_ids", []),
    **refused("tool_choice function_call", "auto", "none"),
    **refused("reasoning_effort", "none"),
    **refused("verbosity", "medium"),
    **refused("suffix", ""),
    **refused("modalities", ["text"]),
    **refused("min_tokens", 0),
    **refused("ignore_eos", False),
    **refused("repetition_penalty repeat_penalty length_penalty typical_p best_of", 1),
    **refused("audio web_search_options prompt_logprobs bad_words allowed_token_ids"),
    # Other names for `response_format`.
    **refused("structured_outputs grammar json_schema guided_json guided_regex guided_choice guided_grammar"),
}
"""Of OpenAI's and of other servers'."""
