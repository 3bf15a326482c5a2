"""Who answers in a terminal chat: a model in this process, or a server.

    client = LocalModel(model, tokenizer, name="sft")                   # or RemoteServer("http://127.0.0.1:8000")
    for kind, text in client.answer(conversation, Sampling(temperature=0.6)): ...
    client.outcome                                          # how it ended: finish, tokens, seconds, turns dropped

Leaving the loop early ends the answer. Nothing here imports torch before there is a model.
"""

from __future__ import annotations

import http.client
import json
import queue
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

from fledge.config import Sampling
from fledge.text.chat import Conversation, Kind, Part, fit_prompt, to_json

if TYPE_CHECKING:
    from fledge.model.transformer import Transformer
    from fledge.sandbox.tools import Tool
    from fledge.text.tokenizer import Tokenizer


@dataclass(kw_only=True)
class Outcome:
    """What is known of an answer, all of it when that has ended."""

    context: int
    finish: str = "cancelled"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    dropped: int = 0


class LocalModel:
    """A model in this process; its engine runs in a thread, so that Ctrl-C is heard at once."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        name: str,
        stages: Sequence[str] = (),
        run_tool: Tool | None = None,
        raw: bool = False,
        suggestions: Sequence[Sequence[str]] = (),
    ) -> None:
        from fledge.infer.engine import Engine

        self.name, self.tokenizer, self.suggestions, self.outcome = name, tokenizer, suggestions, None
        self.raw, self.stages = raw, stages
        self.engine = Engine(model, tokenizer, slots=4, run_tool=run_tool)
        self.engine.start()

    def answer(self, conversation: Conversation, sampling: Sampling) -> Generator[Part]:
        """Pieces of the answer as they come.

        Raises:
            ValueError: the last question alone is longer than the context.
        """
        from fledge.infer.request import Request
        from fledge.serve.stream import Choice

        context, news = self.engine.context, queue.SimpleQueue[None]()
        fitted = fit_prompt(self.tokenizer, conversation, context=context, max_tokens=sampling.max_tokens, raw=self.raw)
        request = Request(prompt=fitted.ids, sampling=sampling, tools=not self.raw)
        choice = Choice(0, request, self.tokenizer)
        outcome = self.outcome = Outcome(context=context, prompt_tokens=len(fitted.ids), dropped=fitted.dropped)
        self.engine.submit(request, lambda _: news.put(None))
        try:
            while not choice.done:
                news.get()
                if (update := choice.advance()) is not None:
                    yield from update.pieces
            if request.error is not None:
                raise request.error
        finally:
            self.engine.cancel(request)
            outcome.finish = request.finish or outcome.finish
            outcome.cached_tokens, outcome.tokens = request.cached, len(request.answer)
            outcome.seconds = time.perf_counter() - request.submitted

    def close(self) -> None:
        self.engine.close()


class RemoteServer:
    """A server with OpenAI's API; what this package's own server adds is used where it is there."""

    def __init__(self, url: str, *, api_key: str | None = None, model: str | None = None) -> None:
        self.url, self.outcome = url.rstrip("/").removesuffix("/v1"), None
        self.headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self.headers["Authorization"] = f"Bearer {api_key}"
        with self._open("/v1/models") as response:
            listed = {entry["id"]: entry.get("fledge", {}) for entry in json.load(response)["data"]}
            if model is not None and model not in listed:
                raise ValueError(f"{self.url}: no model {model!r}; there are: {', '.join(listed)}")
            self.model = model or next((name for name, about in listed.items() if about.get("default")), [*listed][-1])
            self.stages, about = [*listed], listed[self.model]
            self.context, self.suggestions = about.get("context_tokens", 0), about.get("suggestions", [])
        self.name = f"{self.model} at {self.url}"

    def answer(self, conversation: Conversation, sampling: Sampling) -> Generator[Part]:
        """Pieces of the answer as they come.

        Raises:
            ValueError: the server refused, with its reason.
        """
        body = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        body |= to_json(conversation) | {name: value for name, value in vars(sampling).items() if value is not None}
        begin, outcome = time.perf_counter(), Outcome(context=self.context)
        self.outcome = outcome
        try:
            with self._open("/v1/chat/completions", body) as response:
                for line in response:
                    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                        continue
                    event = json.loads(line[len(b"data: ") :])
                    if "error" in event:
                        raise ValueError(f"{self.url}: {event['error']['message']}")
                    if usage := event.get("usage"):
                        outcome.prompt_tokens, outcome.tokens = usage["prompt_tokens"], usage["completion_tokens"]
                        outcome.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
                    outcome.dropped = event.get("fledge", {}).get("dropped_turns", outcome.dropped)
                    for choice in event["choices"]:
                        ended = choice.get("fledge", {}).get("finish") or choice.get("finish_reason")
                        outcome.finish = ended or outcome.finish
                        delta = choice["delta"]
                        for part in delta.get("fledge", {}).get("parts", ()):
                            if part["type"] != "text":  # which is the content
                                yield Part(_TOOL_PARTS[part["type"]], str(part["text"]))
                        if delta.get("content"):
                            yield Part("text", str(delta["content"]))
        finally:
            outcome.seconds = time.perf_counter() - begin

    @contextmanager
    def _open(self, path: str, body: dict[str, Any] | None = None) -> Generator[Any]:
        """The response, to be read within. What is not OpenAI's protocol is told as such, not as an error of this program."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                yield response
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{self.url}: {_reason(error)}") from error
        except urllib.error.URLError as error:
            raise ValueError(f"{self.url}: no server answers ({error.reason}). `fledge serve` starts one.") from error
        except ODD as problem:
            what = f"{type(problem).__name__}: {short(str(problem))}"
            raise ValueError(
                f"{self.url}: what it answers is not OpenAI's protocol ({what}); is the address right?"
            ) from problem

    def close(self) -> None:
        pass


ODD = LookupError, TypeError, AttributeError, json.JSONDecodeError, UnicodeError, http.client.HTTPException
"""What reading an answer of another form raises."""
_TOOL_PARTS: dict[str, Kind] = {"python": "python", "output": "output"}
Client = LocalModel | RemoteServer


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"
