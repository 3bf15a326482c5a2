"""Endpoints that answer: how each reads a request, and how its stream or its whole answer looks on the wire.

wire = ChatFormat(ask, generation)                  # or CompletionFormat, for /v1/completions
[*wire.begin(), *wire.events(update), *wire.end()]  # a stream
wire.answer(updates)                                # or all at once
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from fledge.config import Sampling
from fledge.serve.api import ApiError, Ask, parse_chat, parse_completion
from fledge.serve.fields import Json
from fledge.serve.stream import Generation, Update
from fledge.text.chat import Part, join_pieces


class WireFormat(ABC):
    """An endpoint that answers, for one request."""

    parse: Callable[[Any, Sampling], Ask]
    """The body of a request -> what is asked."""
    prefix: str
    """Of the ids of answers."""
    last = b"data: [DONE]\n\n"
    """What a stream ends with that did not fail."""

    def __init__(self, ask: Ask, generation: Generation) -> None:
        self.ask, self.generation = ask, generation
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    def begin(self) -> list[Json]:
        """Events that a stream begins with."""
        return []

    @abstractmethod
    def events(self, update: Update) -> list[Json]:
        """Events of a stream for what is new in a choice; the last of a choice says why it ended."""

    @abstractmethod
    def end(self) -> list[Json]:
        """Events of a stream when every choice has ended."""

    @abstractmethod
    def answer(self, updates: Sequence[Update]) -> Json:
        """The response that is no stream: every choice, whole."""

    def failed(self, error: ApiError) -> Json:
        """The last event of a stream that failed."""
        return error.to_json()


class Choices(WireFormat):
    """An endpoint whose answers are lists of choices."""

    names: tuple[str, str]
    """What a chunk and what a whole answer is called."""

    def _body(self, choices: list[Json], *, whole: bool = False) -> Json:
        about = {"id": self.id, "object": self.names[whole], "created": self.created}
        return about | {"model": self.generation.model.entry.name, "choices": choices}

    def events(self, update: Update) -> list[Json]:
        events = [self._body([choice]) for choice in self.chunks(update)]
        if all(choice.done for choice in self.generation.choices):  # updates are told one by one, as they come
            events[-1] |= self.generation.dropped()
        return events

    def end(self) -> list[Json]:
        return [self._body([]) | {"usage": self.generation.usage()}] if self.ask.include_usage else []

    def answer(self, updates: Sequence[Update]) -> Json:
        body = self._body([*map(self.whole, updates)], whole=True)
        return body | {"usage": self.generation.usage()} | self.generation.dropped()

    def chunks(self, update: Update) -> list[Json]:
        """What a stream says of what is new in a choice."""
        return [self.whole(update)] if update.pieces or update.logprobs or update.finish else []

    @abstractmethod
    def whole(self, update: Update) -> Json:
        """A choice, or what is new in it."""


class ChatFormat(Choices):
    """/v1/chat/completions. Tool use travels beside the text."""

    parse = staticmethod(parse_chat)
    prefix = "chatcmpl"
    names = ("chat.completion.chunk", "chat.completion")

    def begin(self) -> list[Json]:
        said = {"role": "assistant", "content": ""}
        return [self._body([_choice(index, "delta", said)]) for index in range(len(self.generation.choices))]

    def __init__(self, ask: Ask, generation: Generation) -> None:
        super().__init__(ask, generation)
        self.parts: defaultdict[int, list[Part]] = defaultdict(list)
        """Of each choice so far."""

    def chunks(self, update: Update) -> list[Json]:
        chunks = [_choice(update.index, "delta", self._delta(self.parts[update.index], part)) for part in update.pieces]
        if update.logprobs:
            # They go with the first piece of prose; where its text is still held back, with an empty one.
            prose = next((chunk for chunk in chunks if "content" in chunk["delta"]), None)
            if prose is None:
                chunks.append(prose := _choice(update.index, "delta", {"content": ""}))
            prose["logprobs"] = {"content": update.logprobs}
        return [*chunks, _choice(update.index, "delta", {}, finish=update.finish)] if update.finish else chunks

    def _delta(self, parts: list[Part], part: Part) -> Json:
        """What is new. From the first use of the tool on, all of it in parts by their place too: SDKs add it up to the message."""
        before = len(parts)
        parts[-1:] = join_pieces([*parts[-1:], part])
        news = [(len(parts) - 1, part)]
        if {kind for kind, _ in parts[:-1]} == {"text"} and len(parts) > before and part.kind != "text":
            news.insert(0, (0, parts[0]))  # which was told as content alone
        delta = {"content": part.text} if part.kind == "text" else {}
        return delta | _parts(news if any(kind != "text" for kind, _ in parts) else [])

    def whole(self, update: Update) -> Json:
        message = {"role": "assistant", **said(update.pieces)}
        logprobs = {"content": update.logprobs} if self.ask.top_logprobs is not None else None
        return _choice(update.index, "message", message, logprobs=logprobs, finish=update.finish)


def said(pieces: Sequence[Part]) -> Json:
    """What an answer says, and beside it all its parts where the tool was used."""
    parts = join_pieces(pieces)
    content = "".join(text for kind, text in parts if kind == "text")
    return {"content": content} | _parts([*enumerate(parts)] if any(kind != "text" for kind, _ in parts) else [])


def _parts(placed: Sequence[tuple[int, Part]]) -> Json:
    told = [{"index": place, "type": kind, "text": text} for place, (kind, text) in placed]
    return {"fledge": {"parts": told}} if told else {}


class CompletionFormat(Choices):
    """/v1/completions: everything is text."""

    parse = staticmethod(parse_completion)
    prefix = "cmpl"
    names = ("text_completion", "text_completion")

    def __init__(self, ask: Ask, generation: Generation) -> None:
        super().__init__(ask, generation)
        self.written: Counter[int] = Counter()
        """Characters of each choice so far."""

    def whole(self, update: Update) -> Json:
        text = "".join(text for _, text in update.pieces)
        logprobs = None if self.ask.top_logprobs is None else self._logprobs(update)
        return _choice(update.index, "text", text, logprobs=logprobs, finish=update.finish or None)

    def _logprobs(self, update: Update) -> Json:
        """What `ChatFormat` sends as a list of tokens, here as a list of each thing that is known of them."""
        entries = update.logprobs
        tokens = [entry["token"] for entry in entries]
        # Special tokens stand for no text.
        lengths = (len(entry["token"]) if entry["bytes"] else 0 for entry in entries)
        places = [*accumulate(lengths, initial=self.written[update.index])]
        self.written[update.index] = places.pop()
        return {
            "tokens": tokens,
            "token_logprobs": [entry["logprob"] for entry in entries],
            # Tokens that are no whole characters may look alike: the likelier one stays.
            "top_logprobs": [
                None
                if entry["logprob"] is None
                else {best["token"]: best["logprob"] for best in reversed(entry["top_logprobs"])}
                for entry in entries
            ],
            "text_offset": places,
        }


def _choice(index: int, key: str, said: Json | str, *, logprobs: Json | None = None, finish: str | None = None) -> Json:
    """OpenAI's protocol knows no end by a tool's fault: clients that know no other word than its own are told it was an end."""
    choice = {"index": index, key: said, "logprobs": logprobs, "finish_reason": finish}
    return choice | ({"finish_reason": "stop", "fledge": {"finish": finish}} if finish == "tool_error" else {})
