"""An answer's tokens become text while they arrive.

    reader = Reader(tokenizer, stop=("\\n\\n",))
    for token in answer:
        for kind, text in reader.feed(token): ...           # kind: text, python or output, as in text/chat.py
    rest = reader.flush()

Text comes in whole characters, and never a piece that may turn out to be the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fledge.text.chat import Kind

if TYPE_CHECKING:
    from fledge.text.tokenizer import Tokenizer

Piece = tuple[Kind, str]


class Reader:
    """Splits an answer into prose, code and results; stops at a stop string in the prose."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        special = tokenizer.special
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.decoder = tokenizer.incremental_decoder()
        self.kind: Kind = "text"
        self.held = ""
        """Prose that may be the beginning of a stop string."""
        self.stopped = False
        self.marks: dict[int, Kind] = {
            special["<|python_start|>"]: "python",
            special["<|output_start|>"]: "output",
            special["<|python_end|>"]: "text",
            special["<|output_end|>"]: "text",
        }
        self.silent = set(special.values())

    def feed(self, token: int) -> list[Piece]:
        """The pieces that are certain now. Marks of a part give an empty piece of its kind, other special tokens nothing."""
        if self.stopped:
            return []
        if token in self.marks:
            rest = self._close()
            self.kind = self.marks[token]
            return rest if self.kind == "text" else [*rest, (self.kind, "")]
        if token in self.silent:
            return []
        return self._take(self.decoder.feed(token))

    def flush(self) -> list[Piece]:
        """What was held back, at the end of the answer."""
        return self._close()

    def _close(self) -> list[Piece]:
        pieces = self._take(self.decoder.flush())
        held, self.held = self.held, ""
        return [*pieces, ("text", held)] if held and not self.stopped else pieces

    def _take(self, text: str) -> list[Piece]:
        if not text:
            return []
        if self.kind != "text" or not self.stop:
            return [(self.kind, text)]
        self.held += text
        found = [place for place in map(self.held.find, self.stop) if place >= 0]
        if found:
            self.stopped = True
            certain = self.held[: min(found)]
        else:
            certain = self.held[: len(self.held) - held_back(self.held, self.stop)]
        self.held = self.held[len(certain) :]
        return [("text", certain)] if certain else []


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a stop string: held_back("to be", ("bee",)) == 2."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
