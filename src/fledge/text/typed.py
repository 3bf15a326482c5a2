"""How people type: what a template says, as somebody would write it.

    typist = Typist(name="Pip", dear="little bird", capitals={"Mira"})
    typist.typed(rng, "Where does the turtle live?")             # 'hi, wheres the turtle live'
    typist.changes["small"](rng, "Where does Mira live?")        # 'where does mira live?'

One function changes the questions of training conversations, of a village (`src/fernhollow`) and of who the assistant is
(tasks/identity.py). Each change can be applied by itself too, to questions that are held out, so that it is measured.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from importlib.resources import files
from random import Random
from typing import Any

_WORD = re.compile(r"[A-Za-z]{4,}")
_BETWEEN = re.compile(r"(?<=[a-z])[.,] (?=[A-Za-z])")
UNCHANGED = 0.35
"""Share of questions that stay as they are."""
LONG = 100
"""Characters of a message that is more than a question."""
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


class Typist:
    """Somebody who writes to an assistant.

    Args:
        name: the assistant's.
        dear: what it is called with affection, as in `my friend`.
        capitals: words that keep their capital inside a sentence.
    """

    def __init__(self, *, name: str, dear: str, capitals: Collection[str] = ()) -> None:
        table = tomllib.loads(files("fledge.text").joinpath("typed.toml").read_text(encoding="utf-8"))
        self._capitals = {"I", *capitals}
        self._contractions, self._texted = (
            [(re.compile(rf"\b{long}\b"), short) for long, short in table[kind]] for kind in ("contractions", "texted")
        )
        self._greetings, self._thanks, self._wraps = (
            [each.format(name=name, dear=dear, Dear=dear.capitalize()) for each in table[kind]]
            for kind in ("greetings", "thanks", "wraps")
        )
        methods = (
            self.small, self.capitals, self.unmarked, self.contracted, self.texted, self.misspelled, self.greeted, self.thanked,
            self.wrapped,
        )  # fmt: skip
        self.changes: dict[str, Callable[[Random, str], str]] = {change.__name__: change for change in methods}

    def typed(self, rng: Random, text: str, *, exact: bool = False) -> str:
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
                text = self.changes[name](rng, text)
        case = rng.random()
        return text.lower() if case < 0.45 else text.upper() if case < 0.48 else text

    def small(self, rng: Random, text: str) -> str:
        """In small letters, as on a phone."""
        return text.lower()

    def capitals(self, rng: Random, text: str) -> str:
        """In capital letters."""
        return text.upper()

    def unmarked(self, rng: Random, text: str) -> str:
        """Without the mark at the end, at times without those between, as when nobody stops to breathe."""
        text = text.rstrip("?.!") or text
        return _BETWEEN.sub(" ", text) if rng.random() < 0.25 else text

    def contracted(self, rng: Random, text: str) -> str:
        """What's for What is, where there is something to contract; often without its apostrophe."""
        for long, short in self._contractions:
            text = long.sub(short, text)
        return text.replace("'", "") if rng.random() < 0.3 else text

    def texted(self, rng: Random, text: str) -> str:
        """In the short words of a phone, or without some articles, where there are such words."""
        for long, short in self._texted:
            text = long.sub(short, text) if rng.random() < 0.5 else text
        return text

    def misspelled(self, rng: Random, text: str) -> str:
        """One letter of one longer word is swapped with the next, lost or doubled."""
        words = list(_WORD.finditer(text))
        if not words:
            return text
        word = _pick(rng, words)
        at = word.start() + 1 + int(rng.random() * (len(word[0]) - 2))
        put = _pick(rng, (text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]))
        return text[:at] + put + text[at + 2 :]

    def greeted(self, rng: Random, text: str) -> str:
        """With a greeting before it."""
        return f"{_pick(rng, self._greetings)} {self.lower(text) if rng.random() < 0.5 else text}"

    def thanked(self, rng: Random, text: str) -> str:
        """With thanks or impatience behind it."""
        return f"{text} {_pick(rng, self._thanks)}"

    def wrapped(self, rng: Random, text: str) -> str:
        """Politely, as a part of a longer sentence: Please tell me: ..."""
        return f"{_pick(rng, self._wraps)} {self.lower(text)}"

    def lower(self, text: str) -> str:
        """With a small first letter, unless a name begins it."""
        first = re.split(r"\W", text, maxsplit=1)[0]
        return text if first in self._capitals else text[:1].lower() + text[1:]


def _pick(rng: Random, items: Sequence[Any]) -> Any:
    return items[int(rng.random() * len(items))]
