"""Answers that follow a JSON schema."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from fledge.infer.grammar import SCHEMA_CHARACTERS, compile_schema
from test_server import ask, client, pool, serving
from tiny_engine import BYTES, EXTRAS, asking, tiny_engine, tiny_model

pytest.importorskip("llguidance", reason="llguidance is in the extra `json` and in the group `compat`")
MODEL = tiny_model(**EXTRAS, context=600)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["owl", "hen", None]},
        "scores": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
        "mother": {"$ref": "#"},
    },
    "required": ["name", "age", "kind", "scores"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    PERSON,
    {"anyOf": [{"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"}, {"type": "integer"}]},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 4},
    {"type": "string", "format": "date"},
]
HOSTILE: list[tuple[Any, str]] = [
    ({"type": "strin"}, "Invalid type: strin"),
    ({"type": "array", "uniqueItems": True}, "Unimplemented keys"),
    ({"$ref": "#"}, "NoExtension"),
    ({"$ref": "http://127.0.0.1:9/x"}, "does not fetch"),
    ({"type": "string", "pattern": "(?=a)b"}, "regex parse error"),
    ({"enum": ["x" * SCHEMA_CHARACTERS]}, "characters; allowed"),
    ({"type": "object", "required": ["a"], "properties": {"a": False}}, "Unsatisfiable"),
    ({"type": "object", "properties": 3}, "properties"),
]


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(pool(context=600)) as address:
        yield address


def schema(said: Any, **further: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": said, **further}}


def test_a_finished_answer_follows_its_schema_whatever_is_beside_it() -> None:
    """A model of random weights, at every temperature, with tools and penalties; rows without a schema say what they say alone."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with the group `compat`")

    def free() -> list[Any]:
        return [asking([BYTES.special["<|bos|>"], 65 + n], seed=n, max_tokens=40) for n in range(4)]

    alone = tiny_engine(MODEL, slots=4).generate(free())
    compiled = [compile_schema(said, BYTES) for said in SCHEMAS]
    asked = []
    for n in range(60):
        settings = {"temperature": (0, 0.7, 2)[n % 3], "top_p": (1, 0.9)[n % 2], "frequency_penalty": n % 2 * 2.0}
        request = asking([BYTES.special["<|bos|>"], n], seed=n, max_tokens=(400, 30)[n % 4 == 3], **settings)
        request.grammar = compiled[n % len(SCHEMAS)].copy()
        asked.append(request)
    beside = free()
    tiny_engine(MODEL, slots=16).generate([*asked[:30], *beside, *asked[30:]])
    assert [request.answer for request in beside] == [request.answer for request in alone]
    whole = [0] * len(SCHEMAS)
    for n, request in enumerate(asked):
        assert request.finish in ("stop", "length")
        if request.finish == "stop":
            assert request.answer[-1] in (BYTES.special["<|assistant_end|>"], BYTES.special["<|bos|>"])
            jsonschema.validate(json.loads(BYTES.decode(request.answer[:-1])), SCHEMAS[n % len(SCHEMAS)])
            whole[n % len(SCHEMAS)] += 1
        else:
            assert len(request.answer) == request.sampling.max_tokens
    assert min(whole) > 0


def test_the_official_client_parses_what_comes_whole_in_pieces_and_many_times(url: str) -> None:
    settings: Any = {
        "n": 3,
        "max_tokens": 300,
        "top_k": 50,
        "logit_bias": {str(token): -100 for token in range(128, 256)},
    }
    short = {"type": "object", "properties": {"name": {"maxLength": 9, "type": "string"}, "age": {"enum": [1, 23]}}}
    format = schema(short | {"required": ["name", "age"], "additionalProperties": False}, strict=True)
    whole = ask(url, response_format=format, **settings)
    said = [choice.message.content for choice in whole.choices]
    assert [choice.finish_reason for choice in whole.choices] == ["stop"] * 3
    assert len({*said}) == 3
    for text in said:
        assert Person.model_validate_json(text).age in (1, 23)
    pieces = ["", "", ""]
    for chunk in ask(url, response_format=format, stream=True, **settings):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == said
    cut = ask(url, response_format=format, max_tokens=5).choices[0]
    assert cut.finish_reason == "length"
    assert isinstance(
        json.loads(ask(url, response_format={"type": "json_object"}, seed=1).choices[0].message.content), dict
    )


@pytest.mark.parametrize(("said", "words"), HOSTILE)
def test_a_schema_that_cannot_be_followed_is_refused(url: str, said: Any, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        ask(url, response_format=schema(said))
    assert caught.value.param == "response_format"


def test_what_is_not_a_format_or_not_there_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for format in ({"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": []}}):
        with pytest.raises(openai.BadRequestError, match="response_format is"):
            ask(url, response_format=format)
    begun = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "{"}]
    with pytest.raises(openai.BadRequestError, match="is not gone on with"):
        ask(url, messages=begun, response_format={"type": "json_object"})
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match="uv sync --extra json"):
        ask(url, response_format={"type": "json_object"})
    assert client(url).models.list().data
