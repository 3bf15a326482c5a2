"""/v1/responses, OpenAI's newer form of a chat: input and instructions in, a list of output items out.

    ask = parse_response({"input": "Hello", "instructions": "Be kind."}, Serve())
    wire = ResponseFormat(ask, generation)              # as wire.py says

Nothing is kept: there is no answer to go on with by its id, and the whole conversation comes with every request.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from fledge.config import Sampling
from fledge.serve.api import ApiError, Ask, chat_of, read_fields
from fledge.serve.fields import Json, response_fields
from fledge.serve.messages import read_conversation
from fledge.serve.stream import Generation, Update
from fledge.serve.wire import WireFormat, said
from fledge.text.chat import Part

FIXED: Json = {"object": "response", "tools": [], "parallel_tool_calls": False, "previous_response_id": None}
FIXED |= {"store": False, "truncation": "auto"}
"""What every response says of itself."""


def parse_response(body: Any, sampling: Sampling) -> Ask:
    """The request of POST /v1/responses; `sampling` holds where it does not say."""
    found = read_fields(body, response_fields(sampling), sampling)
    messages, instructions = found.pop("items"), found.pop("instructions", None)
    told = {"instructions": instructions, "metadata": found.pop("metadata", {})}
    if instructions is not None:  # the system speaks first wherever it stands; so that errors count as the client does
        messages = [*messages, {"role": "system", "content": instructions}]
    try:
        found["prompts"] = read_conversation("input", messages)
    except ValueError as problem:
        raise ApiError(str(problem), param="input") from None
    return chat_of(
        found | {"schema_field": "text", "told_back": told | {"text": body.get("text") or {"format": {"type": "text"}}}}
    )


class ResponseFormat(WireFormat):
    """One message; its text is told in pieces between events that open and close what holds it."""

    parse = staticmethod(parse_response)
    prefix = "resp"
    last = b""

    def __init__(self, ask: Ask, generation: Generation) -> None:
        super().__init__(ask, generation)
        self.item = f"msg-{uuid.uuid4().hex}"
        self.whole = Update(0, [], [])
        self.number = 0

    def begin(self) -> list[Json]:
        begun = self._response("in_progress")
        return [
            self._event("created", response=begun),
            self._event("in_progress", response=begun),
            self._event("output_item.added", output_index=0, item=self._message("in_progress")),
            self._part_event("content_part.added", part=_text("")),
        ]

    def events(self, update: Update) -> list[Json]:
        self.whole.pieces += update.pieces
        self.whole.finish = update.finish
        texts = [text for kind, text in update.pieces if kind == "text"]
        return [self._part_event("output_text.delta", delta=text, logprobs=[]) for text in texts]

    def end(self) -> list[Json]:
        done = self.answer([self.whole])
        (message,) = done["output"]
        (part,) = message["content"]
        return [
            self._part_event("output_text.done", text=part["text"], logprobs=[]),
            self._part_event("content_part.done", part=part),
            self._event("output_item.done", output_index=0, item=message),
            self._event(done["status"], response=done),
        ]

    def answer(self, updates: Sequence[Update]) -> Json:
        (whole,) = updates
        status = "incomplete" if whole.finish == "length" else "completed"
        usage = self.generation.usage()
        told = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        output = [self._message(status, whole.pieces)]
        return self._response(status, output=output, usage=told) | self.generation.dropped()

    def failed(self, error: ApiError) -> Json:
        reason = {"code": "server_error", "message": error.message}
        return self._event("failed", response=self._response("failed", error=reason))

    def _response(self, status: str, **known: Any) -> Json:
        sampling = self.ask.sampling
        return {
            "id": self.id,
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.generation.model.entry.name,
            "output": [],
            "max_output_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "tool_choice": "auto" if self.ask.tools else "none",
            "usage": None,
            **FIXED,
            **self.ask.told_back,
            **known,
        }

    def _message(self, status: str, pieces: Sequence[Part] | None = None) -> Json:
        message: Json = {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": []}
        if pieces is None:
            return message
        told = said(pieces)
        return message | told | {"content": [_text(told["content"])]}

    def _event(self, kind: str, **about: Any) -> Json:
        self.number += 1
        return {"type": f"response.{kind}", "sequence_number": self.number - 1, **about}

    def _part_event(self, kind: str, **about: Any) -> Json:
        return self._event(kind, item_id=self.item, output_index=0, content_index=0, **about)


def _text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
