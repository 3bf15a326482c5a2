"""How people type: what a template says, as a visitor would write it.

    typed(rng, "Where does the turtle live?")            # 'hi, wheres the turtle live'
    CHANGES["small"](rng, "Where does Mira live?")       # 'where does mira live?'

One function changes every question of a training conversation; the tasks `world/typed/...` apply one change at a time to
questions that are held out, so that each is measured by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from fernhollow import lore
from fernhollow.grammar import pick

_WORDING = lore.read("typed")
_CONTRACTIONS, _TEXTED = (
    [(re.compile(rf"\b{long}\b"), short) for long, short in _WORDING[table]] for table in ("contractions", "texted")
)
_WORD = re.compile(r"[A-Za-z]{4,}")
_BETWEEN = re.compile(r"(?<=[a-z])[.,] (?=[A-Za-z])")
UNCHANGED = 0.35
"""Share of questions that stay as they are."""
LONG = 100
"""Characters of a message that is more than a question."""


def small(rng: Random, text: str) -> str:
    """In small letters, as on a phone."""
    return text.lower()


def capitals(rng: Random, text: str) -> str:
    """In capital letters."""
    return text.upper()


def unmarked(rng: Random, text: str) -> str:
    """Without the mark at the end, at times without those between, as when nobody stops to breathe."""
    text = text.rstrip("?.!") or text
    return _BETWEEN.sub(" ", text) if rng.random() < 0.25 else text


def contracted(rng: Random, text: str) -> str:
    """What's for What is, where there is something to contract; often without its apostrophe."""
    for long, short in _CONTRACTIONS:
        text = long.sub(short, text)
    return text.replace("'", "") if rng.random() < 0.3 else text


def texted(rng: Random, text: str) -> str:
    """In the short words of a phone, or without some articles, where there are such words."""
    for long, short in _TEXTED:
        text = long.sub(short, text) if rng.random() < 0.5 else text
    return text


def misspelled(rng: Random, text: str) -> str:
    """One letter of one longer word is swapped with the next, lost or doubled."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = pick(rng, words)
    at = word.start() + 1 + int(rng.random() * (len(word[0]) - 2))
    put = pick(rng, (text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]))
    return text[:at] + put + text[at + 2 :]


def greeted(rng: Random, text: str) -> str:
    """With a greeting before it."""
    return f"{pick(rng, _WORDING['greetings'])} {_lower(text) if rng.random() < 0.5 else text}"


def thanked(rng: Random, text: str) -> str:
    """With thanks or impatience behind it."""
    return f"{text} {pick(rng, _WORDING['thanks'])}"


def wrapped(rng: Random, text: str) -> str:
    """Politely, as a part of a longer sentence: Please tell me: ..."""
    return f"{pick(rng, _WORDING['wraps'])} {_lower(text)}"


def _lower(text: str) -> str:
    """With a small first letter, unless a name begins it."""
    first = re.split(r"\W", text, maxsplit=1)[0]
    return text if first in lore.PEOPLE or first == "I" else text[:1].lower() + text[1:]


CHANGES: dict[str, Callable[[Random, str], str]] = {
    change.__name__: change
    for change in (small, capitals, unmarked, contracted, texted, misspelled, greeted, thanked, wrapped)
}
_SHARES = {
    "greeted": 0.1,
    "wrapped": 0.1,
    "texted": 0.12,
    "contracted": 0.35,
    "thanked": 0.06,
    "misspelled": 0.12,
    "unmarked": 0.35,
}
"""How often a question that is changed has each change; the letters' case comes last."""


def typed(rng: Random, text: str, *, exact: bool = False) -> str:
    """A question as people type it.

    Args:
        exact: no misspelling, because the answer copies words of the question.
    """
    if rng.random() < UNCHANGED:
        return text
    left_out = {"misspelled"} if exact else set()
    if not text.endswith("?"):
        left_out.add("wrapped")
    if len(text) > LONG:  # a text to read is no question to be wrapped
        left_out |= {"greeted", "wrapped", "misspelled"}
    for name, share in _SHARES.items():
        if rng.random() < share and name not in left_out:
            text = CHANGES[name](rng, text)
    case = rng.random()
    return text.lower() if case < 0.45 else text.upper() if case < 0.48 else text
