"""Who answers in a terminal chat: a model in this process, or a server.

    talker = Local(model, tokenizer, name="sft")                        # or Remote("http://127.0.0.1:8000")
    for kind, text in talker.answer(conversation, Sampling(temperature=0.6)): ...
    talker.told                                             # how it ended: finish, tokens, seconds, turns dropped

Leaving the loop early ends the answer.
"""

from __future__ import annotations

import json
import queue
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fledge.config import Sampling
from fledge.text.chat import Conversation, PartReader, Piece, fit_prompt, to_json

if TYPE_CHECKING:
    from fledge.model.transformer import Transformer
    from fledge.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is known after an answer."""

    finish: str
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    seconds: float
    dropped: int
    context: int


class Talker(Protocol):
    """Answers conversations, one at a time."""

    name: str
    told: Told | None

    def answer(self, conversation: Conversation, sampling: Sampling) -> Generator[Piece]: ...

    def close(self) -> None: ...


class Local:
    """A model in this process; its engine runs in a thread, so that Ctrl-C is heard at once."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, *, name: str, run_tool: Callable[[str], str] | None = None
    ) -> None:
        from fledge.infer.engine import Engine

        self.name, self.tokenizer, self.told = name, tokenizer, None
        self.engine = Engine(model, tokenizer, slots=4, run_tool=run_tool)
        self.engine.start()

    def answer(self, conversation: Conversation, sampling: Sampling) -> Generator[Piece]:
        """Pieces of the answer as they come.

        Raises:
            ValueError: the last question alone is longer than the context.
        """
        from fledge.infer.engine import Request

        context = self.engine.context
        fitted = fit_prompt(self.tokenizer, conversation, context=context, room=min(sampling.max_tokens, context // 4))
        request = Request(prompt=fitted.ids, sampling=sampling)
        reader, news, sent = PartReader(self.tokenizer), queue.SimpleQueue[None](), 0
        self.told = None
        self.engine.submit(request, lambda _: news.put(None))
        try:
            while True:
                news.get()
                finish = request.finish
                end = len(request.mask)
                for token in request.answer[sent:end]:
                    yield from reader.feed(token)
                sent = end
                if finish:
                    break
            yield from reader.flush()
            if request.error is not None:
                raise request.error
        finally:
            self.engine.cancel(request)
            self.told = Told(
                finish=request.finish or "cancelled",
                prompt_tokens=len(request.prompt),
                cached_tokens=request.cached,
                tokens=len(request.answer),
                seconds=time.perf_counter() - request.submitted,
                dropped=fitted.dropped,
                context=context,
            )

    def close(self) -> None:
        self.engine.close()


class Remote:
    """A server with OpenAI's API; what this package's own server adds is used where it is there."""

    def __init__(self, url: str, *, api_key: str | None = None, model: str | None = None) -> None:
        self.url, self.told = url.rstrip("/").removesuffix("/v1"), None
        self.headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self.headers["Authorization"] = f"Bearer {api_key}"
        with closing(self._open("/v1/models")) as response:
            listed = json.load(response)["data"]
        default = next((entry for entry in listed if entry.get("fledge", {}).get("default")), listed[-1])
        chosen = next((entry for entry in listed if entry["id"] == model), None)
        if model is not None and chosen is None:
            raise ValueError(f"{self.url}: no model {model!r}; there are: {', '.join(entry['id'] for entry in listed)}")
        self.model = (chosen or default)["id"]
        self.context = (chosen or default).get("fledge", {}).get("context_tokens", 0)
        self.name = f"{self.model} at {self.url}"

    def answer(self, conversation: Conversation, sampling: Sampling) -> Generator[Piece]:
        """Pieces of the answer as they come.

        Raises:
            ValueError: the server refused, with its reason.
        """
        body = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        body |= to_json(conversation) | {name: value for name, value in vars(sampling).items() if value is not None}
        begin, usage, finish, dropped = time.perf_counter(), {}, "", 0
        self.told = None
        try:
            with closing(self._open("/v1/chat/completions", body)) as response:
                for line in response:
                    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                        continue
                    event = json.loads(line[len(b"data: ") :])
                    if "error" in event:
                        raise ValueError(f"{self.url}: {event['error']['message']}")
                    usage = event.get("usage") or usage
                    dropped = event.get("fledge", {}).get("dropped_turns", dropped)
                    for choice in event["choices"]:
                        finish = choice.get("finish_reason") or finish
                        yield from _pieces(choice["delta"])
        finally:
            self.told = Told(
                finish=finish or "cancelled",
                prompt_tokens=usage.get("prompt_tokens", 0),
                cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
                tokens=usage.get("completion_tokens", 0),
                seconds=time.perf_counter() - begin,
                dropped=dropped,
                context=self.context,
            )

    def _open(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=self.headers)
        try:
            return urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{self.url}: {_reason(error)}") from error
        except urllib.error.URLError as error:
            raise ValueError(f"{self.url}: no server answers ({error.reason}). `fledge serve` starts one.") from error

    def close(self) -> None:
        pass


def _pieces(delta: dict[str, Any]) -> list[Piece]:
    extension = delta.get("fledge")
    pieces: list[Piece] = [(extension["part"], extension["text"])] if extension else []
    return [*pieces, ("text", delta["content"])] if delta.get("content") else pieces


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"
