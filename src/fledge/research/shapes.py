"""What a file of JSON must be like for those who rely on it: `fledge watch` shows runs that somebody may have edited.

    misfit({"steps": "40"}, {"steps": Number})          # "steps is text, not a number"; empty where all fits

A shape is one of the kinds below, `{name: shape}` of an object, where "*" stands for every other name, or `[shape]` of a list.
A field that is missing or null fits: training leaves much out.
"""

from __future__ import annotations

from typing import Any

MOST = 1e300
"""Numbers beyond it, and those that are none, cannot be summed or sent."""
Number, Text, Plain = "a number", "text", "a value"
"""Kinds; a plain value is any but a list or an object."""
KNOWN = {dict: "an object", list: "a list", str: Text, bool: "true or false", int: Number, float: Number}
KNOWN[type(None)] = "null"
WHOLE: dict[str, Any] = {"*": Plain}
SETTINGS = dict.fromkeys(("model", "optim"), WHOLE) | dict.fromkeys(
    ("steps", "tokens", "batch_tokens", "minutes"), Number
)
SAMPLES = [{"prompt": Text, "text": Text}]
CONFIG = {"settings": SETTINGS | WHOLE}
DONE = {"peak_memory_bytes": Number, "samples": SAMPLES}
SCORE = ("accuracy", "standard_error", "examples")
SCORES = {"scores": {"*": dict.fromkeys(SCORE, Number)}}
REPORT = {"rank": {"title": Text, "points": Number}}
SWEEP = {
    "points": [{"variant": Text, "seed": Number, "state": Text, "error": Text}],
    "comparisons": [{"sentence": Text, "at": Text}],
}


def misfit(value: Any, shape: Any, name: str = "") -> str:
    """Where a value is not of a shape, in words; empty where it is."""
    found = KNOWN[type(value)]
    if found == Number and not abs(value) < MOST:
        found = "not finite"
    kind = KNOWN[type(shape)] if isinstance(shape, dict | list) else shape
    if found != kind and (kind != Plain or found in ("an object", "a list", "not finite")):
        return f"{name or 'it'} is {found}, not {kind}"
    if isinstance(shape, list):
        parts = ((f"{name}[{place}]", each, shape[0]) for place, each in enumerate(value))
    elif isinstance(shape, dict):
        each = ((one, shape.get(one, shape.get("*"))) for one in value)
        known = ((one, inner) for one, inner in each if inner and value[one] is not None)
        parts = ((f"{name}.{one}".strip("."), value[one], inner) for one, inner in known)
    else:
        return ""
    return next(filter(None, (misfit(each, inner, called) for called, each, inner in parts)), "")
