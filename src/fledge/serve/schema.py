"""The words of JSON Schema in which requests (fields.py, messages.py) and answers (openapi.py) are described.

an_object(name=TEXT, arguments=a_list(TEXT))           # with both of them
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
TEXT, COUNT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}


def an_object(optional: Json | None = None, **required: Any) -> Json:
    """An object with fields that it always has, and others."""
    found = {"type": "object", "properties": required | (optional or {})}
    return found | ({"required": [*required]} if required else {})


def a_list(of: Json, **bounds: Any) -> Json:
    """A list of such items; `minItems=1` and so on."""
    return {"type": "array", "items": of, **bounds}


def any_of(*kinds: Json) -> Json:
    """What is one of these."""
    return {"anyOf": [*kinds]}


def or_null(kind: Json) -> Json:
    """What may be null instead."""
    return any_of(kind, {"type": "null"})
