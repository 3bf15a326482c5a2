"""How answers look on the wire: the chunks of a stream and the choices of a whole answer, for both endpoints.

shape = ChatShape(ask)                                  # or TextShape, for /v1/completions
shape.head(model, whole=False) | {"choices": shape.chunks(update)}
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod

from fledge.serve.api import Ask, Json, old_logprobs
from fledge.serve.stream import Update
from fledge.text.chat import join_pieces


class Shape(ABC):
    """How answers look on the wire."""

    prefix = ""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    def head(self, model: str, *, whole: bool) -> Json:
        return {"id": self.id, "object": self.object(whole=whole), "created": self.created, "model": model}

    @abstractmethod
    def object(self, *, whole: bool) -> str:
        """What the answer, or a chunk of it, is called."""

    def first(self, choices: int) -> list[Json]:
        return []

    @abstractmethod
    def chunks(self, update: Update) -> list[Json]:
        """Events of a stream for what was added."""

    @abstractmethod
    def last(self, index: int, finish: str) -> Json:
        """The event that says why choice `index` ended."""

    @abstractmethod
    def choice(self, index: int, updates: list[Update]) -> Json:
        """A whole choice, where nothing is streamed."""


class ChatShape(Shape):
    """/v1/chat/completions."""

    prefix = "chatcmpl"

    def object(self, *, whole: bool) -> str:
        return "chat.completion" if whole else "chat.completion.chunk"

    def first(self, choices: int) -> list[Json]:
        return [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(choices)]

    def chunks(self, update: Update) -> list[Json]:
        deltas: list[Json] = []
        for kind, text in update.pieces:
            deltas.append({"content": text} if kind == "text" else {"fledge": {"part": kind, "text": text}})
        chunks = [self._chunk(update.index, delta) for delta in deltas]
        if update.logprobs:
            # They go with the first piece of prose; where its text is still held back, with an empty one.
            prose = next((chunk for chunk in chunks if "content" in chunk["delta"]), None)
            if prose is None:
                chunks.append(prose := self._chunk(update.index, {"content": ""}))
            prose["logprobs"] = {"content": update.logprobs}
        return chunks

    def last(self, index: int, finish: str) -> Json:
        return self._chunk(index, {}) | {"finish_reason": finish}

    def choice(self, index: int, updates: list[Update]) -> Json:
        pieces = join_pieces(piece for update in updates for piece in update.pieces)
        parts = [{"type": kind, "text": text} for kind, text in pieces]
        content = "".join(part["text"] for part in parts if part["type"] == "text")
        message: Json = {"role": "assistant", "content": content}
        if any(part["type"] != "text" for part in parts):
            message["fledge"] = {"parts": parts}
        entries = [entry for update in updates for entry in update.logprobs]
        logprobs = {"content": entries} if self.ask.top_logprobs is not None else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": updates[-1].finish}

    def _chunk(self, index: int, delta: Json) -> Json:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


class TextShape(Shape):
    """/v1/completions: everything is text."""

    prefix = "cmpl"

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self.offsets: dict[int, int] = {}

    def object(self, *, whole: bool) -> str:
        return "text_completion"

    def chunks(self, update: Update) -> list[Json]:
        text = "".join(text for _, text in update.pieces)
        if not text and not update.logprobs:
            return []
        logprobs = None
        if self.ask.top_logprobs is not None:
            logprobs = old_logprobs(update.logprobs, self.offsets.get(update.index, 0))
            self.offsets[update.index] = self.offsets.get(update.index, 0) + sum(map(len, logprobs["tokens"]))
        return [{"index": update.index, "text": text, "logprobs": logprobs, "finish_reason": None}]

    def last(self, index: int, finish: str) -> Json:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish}

    def choice(self, index: int, updates: list[Update]) -> Json:
        text = "".join(text for update in updates for _, text in update.pieces)
        entries = [entry for update in updates for entry in update.logprobs]
        logprobs = old_logprobs(entries, 0) if self.ask.top_logprobs is not None else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": updates[-1].finish}
