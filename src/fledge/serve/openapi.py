"""/openapi.json: what the API takes and gives, from the tables that requests are read by (fields.py).

    document(sampling, models=["base", "sft"])          # OpenAPI 3.1, a dictionary

What answers look like stands below, closed: `tests/test_openapi.py` finds a key that is sent and not named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fledge import __version__
from fledge.config import Sampling
from fledge.serve.fields import ONE_PROMPT, Field, chat_fields, completion_fields, response_fields
from fledge.serve.responses import FIXED
from fledge.serve.schema import COUNT, NUMBER, TEXT, Json, a_list, an_object, or_null

STATUSES = {
    "400": "The request is wrong, or asks for what is not done; the error names the field.",
    "401": "The key is missing or wrong.",
    "403": "Asked by a page of another site.",
    "404": "There is no such model.",
    "405": "The path does not answer this method.",
    "408": "The body took too long.",
    "413": "The body is too long.",
    "429": "Too many requests wait; Retry-After says when to come back.",
    "500": "The server failed; its log says more.",
    "503": "The server stops, or every model in memory is in use.",
}


def document(sampling: Sampling, *, models: Sequence[str], root_path: str = "") -> Json:
    """The description of the whole API, with the models and bounds of this server."""
    tables = chat_fields(sampling), completion_fields(sampling), response_fields(sampling)
    chat, completion, response = (_body(fields, models) for fields in tables)
    text = completion | {"properties": completion["properties"] | {"prompt": or_null(ONE_PROMPT)}}
    model = {"name": "name", "in": "path", "required": True, "schema": {"enum": [*models]}}
    stream = "text/event-stream"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fledge",
            "version": __version__,
            "description": "OpenAI's protocol over the models of a run.",
        },
        "servers": [{"url": "/" + root_path.strip("/")}],
        "components": {"schemas": ANSWERS, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/chat/completions": {"post": _says("ChatCompletion", stream, body=chat)},
            "/v1/completions": {"post": _says("Completion", stream, body=completion)},
            "/v1/responses": {"post": _says("Response", stream, body=response)},
            "/v1/models": {"get": _says("Models")},
            "/v1/models/{name}": {"get": _says("Model", parameters=[model])},
            "/tokenize": {"post": _says("Tokens", body={"anyOf": [chat, text]})},
            "/metrics": {"get": _says(None, "text/plain")},
            "/health": {"get": _says("Health", more={"503": _content("Stopping.", "Health")})},
            "/openapi.json": {"get": _says("Document")},
        },
    }


def _body(fields: Mapping[str, Field], models: Sequence[str]) -> Json:
    """The schema of a request; null stands for a field that is left out."""
    said = {name: field.schema for name, field in fields.items()} | {"model": {"enum": [*models]}}
    required = {name: said.pop(name) for name, field in fields.items() if field.required}
    return an_object({name: or_null(schema) for name, schema in said.items()}, **required)


def _says(answer: str | None, *text: str, body: Json | None = None, parameters: Any = (), more: Any = None) -> Json:
    """One method of a path: what it takes, and what it answers, as JSON named `answer` or as other types of text."""
    fails = {status: _content(about, "Error") for status, about in STATUSES.items()}
    done = _content("Done.", answer) if answer else {"description": "Done.", "content": {}}
    done["content"] |= {kind: {} for kind in text}
    asked = {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}} if body else {}
    return {"parameters": [*parameters], "responses": {"200": done} | fails | (more or {}), **asked}


def _content(about: str, answer: str) -> Json:
    schema = {"$ref": f"#/components/schemas/{answer}"}
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _object(**properties: Any) -> Json:
    """A closed object: JSON Schema by name, or a single value that it always has. `fledge` may be absent: what clients skip."""
    told = {name: kind if isinstance(kind, dict) else {"const": kind} for name, kind in properties.items()}
    required = [name for name in told if name != "fledge" or "owned_by" in told]
    return {"type": "object", "properties": told, "required": required, "additionalProperties": False}


_PART = _object(index=COUNT, type={"enum": ["text", "python", "output"]}, text=TEXT)
_TOKEN = {"token": TEXT, "logprob": or_null(NUMBER), "bytes": a_list(COUNT)}
_ENDED = {"enum": ["stop", "length"]}
_USAGE = _object(
    prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT, prompt_tokens_details=_object(cached_tokens=COUNT)
)
_DROPPED = _object(dropped_turns=COUNT)
_PARTS = _object(parts=a_list(_PART))
_MESSAGE = _object(role="assistant", content=TEXT, fledge=_PARTS)
_CHAT_LOGPROBS = _object(content=a_list(_object(**_TOKEN, top_logprobs=a_list(_object(**_TOKEN)))))
_TEXT_LOGPROBS = _object(
    tokens=a_list(TEXT),
    token_logprobs=a_list(or_null(NUMBER)),
    top_logprobs=a_list(or_null({"type": "object", "additionalProperties": NUMBER})),
    text_offset=a_list(COUNT),
)
_SETTING = _object(
    name=TEXT, type={"enum": ["integer", "number"]}, default=or_null(NUMBER), low=NUMBER, high=NUMBER, help=TEXT
)
_ABOUT_MODEL = an_object(
    context_tokens=COUNT, default={"type": "boolean"}, suggestions=a_list(a_list(TEXT)), sampling=a_list(_SETTING)
)
_MODEL = _object(id=TEXT, object="model", created=COUNT, owned_by="fledge", fledge=_ABOUT_MODEL)


def _answer(kind: str, **choice: Json) -> Json:
    """A list of choices, as both endpoints of completions give."""
    choices = a_list(_object(index=COUNT, finish_reason=_ENDED, fledge=_object(finish="tool_error"), **choice))
    return _object(id=TEXT, object=kind, created=COUNT, model=TEXT, choices=choices, usage=_USAGE, fledge=_DROPPED)


_STATUS = {"enum": ["completed", "incomplete"]}
_OUTPUT_TEXT = _object(type="output_text", text=TEXT, annotations=a_list({}), logprobs=a_list({}))
_OUTPUT = _object(
    id=TEXT, type="message", role="assistant", status=_STATUS, content=a_list(_OUTPUT_TEXT), fledge=_PARTS
)
_RESPONSE_USAGE = _object(
    input_tokens=COUNT,
    input_tokens_details=_object(cached_tokens=COUNT),
    output_tokens=COUNT,
    output_tokens_details=_object(reasoning_tokens=0),
    total_tokens=COUNT,
)
_RESPONSE = _object(
    id=TEXT,
    created_at=COUNT,
    status=_STATUS,
    error=None,
    incomplete_details=or_null(_object(reason="max_output_tokens")),
    model=TEXT,
    output=a_list(_OUTPUT),
    instructions=or_null(TEXT),
    metadata={"type": "object"},
    text={"type": "object"},
    max_output_tokens=COUNT,
    temperature=NUMBER,
    top_p=NUMBER,
    tool_choice={"enum": ["auto", "none"]},
    usage=_RESPONSE_USAGE,
    fledge=_DROPPED,
    **FIXED,
)
ANSWERS: dict[str, Json] = {
    "ChatCompletion": _answer("chat.completion", message=_MESSAGE, logprobs=or_null(_CHAT_LOGPROBS)),
    "Completion": _answer("text_completion", text=TEXT, logprobs=or_null(_TEXT_LOGPROBS)),
    "Response": _RESPONSE,
    "Model": _MODEL,
    "Models": _object(object="list", data=a_list(_MODEL)),
    "Tokens": _object(tokens=a_list(COUNT), count=COUNT, max_model_len=COUNT),
    "Health": _object(status={"enum": ["ok", "stopping"]}, running=COUNT, waiting=COUNT, models=a_list(TEXT)),
    "Document": {"type": "object", "required": ["openapi", "paths"]},
    "Error": _object(error=_object(message=TEXT, type=TEXT, param=or_null(TEXT), code=or_null(TEXT))),
}
"""What is answered, by name; the events of a stream stand in wire.py alone."""
