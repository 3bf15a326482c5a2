"""An answer's tokens become text while they arrive, up to a stop string.

    reader = Reader(tokenizer, stop=("\\n\\n",))
    for token in answer:
        for kind, text in reader.feed(token): ...           # kind: text, python or output
    rest = reader.flush()

The parts are those of `text.chat.PartReader`. Never a piece that may turn out to be the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from fledge.text.chat import PartReader, Piece

if TYPE_CHECKING:
    from fledge.text.tokenizer import Tokenizer


class Reader(PartReader):
    """Stops at a stop string in the prose."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        super().__init__(tokenizer)
        self.stop = tuple(stop)
        self.held = ""
        """Prose that may be the beginning of a stop string."""
        self.stopped = False

    def feed(self, token: int) -> list[Piece]:
        return [] if self.stopped else super().feed(token)

    def flush(self) -> list[Piece]:
        """What was held back, at the end of a part."""
        pieces = super().flush()
        held, self.held = self.held, ""
        return [*pieces, ("text", held)] if held and not self.stopped else pieces

    def _piece(self, text: str) -> list[Piece]:
        if self.kind != "text" or not self.stop:
            return super()._piece(text)
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
    lengths = ((n for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])) for stop in stops)
    return max(chain.from_iterable(lengths), default=0)
