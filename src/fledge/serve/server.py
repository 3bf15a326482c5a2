"""The application: OpenAI's API and the web page over the models of one run.

    app = create_app(pool, access=Access(host="127.0.0.1"))
    Server(app, host="127.0.0.1", port=8000).run()                      # connections.py

Conversations are neither logged nor kept; who may ask, and from where, is said in site.py and access.py. A client who hangs up
frees its slot before the next step of the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Receive

from fledge.commands import Serve
from fledge.config import Sampling
from fledge.serve.access import Access
from fledge.serve.api import ApiError, parse_chat, parse_completion
from fledge.serve.fields import Json
from fledge.serve.metrics import metric
from fledge.serve.openapi import document
from fledge.serve.pool import Entry, ModelPool
from fledge.serve.responses import ResponseFormat
from fledge.serve.site import FAILED, LOG, site
from fledge.serve.stream import Dispatcher, Generation, Update, text_ids
from fledge.serve.wire import ChatFormat, CompletionFormat, WireFormat
from fledge.text.chat import Message, encode_prompt, encode_text
from fledge.text.tokenizer import Tokenizer

BODY_BYTES, BODY_SECONDS = 1 << 20, 30.0
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
COMPACT = json.JSONEncoder(separators=(",", ":"))
Handler = Callable[[Request], Awaitable[ASGIApp]]


def create_app(
    pool: ModelPool,
    *,
    access: Access | None = None,
    sampling: Sampling | None = None,
    queue: int = Serve.queue,
    root_path: str = "",
) -> Starlette:
    """The ASGI application.

    Args:
        access: who may use it. None: whoever asks this machine by a name of its own.
        sampling: holds where a client does not say, and bounds the length of answers. None: as `fledge serve` begins.
        queue: requests that may wait for a slot before new ones are answered 429.
        root_path: the path below which a proxy shows the server, whether it passes that path on or cuts it off.
    """
    dispatcher = Dispatcher(pool, queue=queue)
    api, access = Api(dispatcher, sampling or Serve(), root_path), access or Access()

    def guarded(handler: Handler) -> Handler:
        async def handle(request: Request) -> ASGIApp:
            access.check_key(request.headers)
            return await handler(request)

        return handle

    v1 = [
        Route("/chat/completions", guarded(partial(api.answer, form=ChatFormat)), methods=["POST"]),
        Route("/completions", guarded(partial(api.answer, form=CompletionFormat)), methods=["POST"]),
        Route("/responses", guarded(partial(api.answer, form=ResponseFormat)), methods=["POST"]),
        Route("/models", guarded(api.models)),
        Route("/models/{name}", guarded(api.model)),
    ]
    app = site(
        [
            # Without redirects: where to would be the client's guess, and wrong behind a proxy.
            Mount("/v1", Router(v1, redirect_slashes=False)),
            Route("/tokenize", guarded(api.tokenize), methods=["POST"]),
            Route("/metrics", guarded(api.metrics)),
            Route("/openapi.json", guarded(api.openapi)),
            Route("/health", api.health),
        ],
        access=access,
        root_path=root_path,
    )
    app.state.dispatcher = dispatcher
    return app


class Api:
    """The routes."""

    def __init__(self, dispatcher: Dispatcher, sampling: Sampling, root_path: str) -> None:
        self.dispatcher, self.pool, self.sampling = dispatcher, dispatcher.pool, sampling
        self.root_path = root_path

    async def models(self, _: Request) -> Response:
        """The last stage first: many clients take the first."""
        found = [self._describe(entry) for entry in reversed(self.pool.entries)]
        return JSONResponse({"object": "list", "data": found})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._describe(self.pool.entry(request.path_params["name"])))

    def _describe(self, entry: Entry) -> Json:
        about = {"context_tokens": entry.context, "default": entry is self.pool.entries[-1], **self.pool.about}
        about |= {"suggestions": entry.suggestions, "sampling": self.sampling.table()}
        return {"id": entry.name, "object": "model", "created": entry.created, "owned_by": "fledge", "fledge": about}

    async def tokenize(self, request: Request) -> Response:
        """The ids of a text, or of the prompt that messages become."""
        body = await self._body(request)
        ask = (parse_chat if isinstance(body, dict) and "messages" in body else parse_completion)(body, self.sampling)
        entry, (prompt, *more) = self.pool.entry(ask.model), ask.prompts
        if more:
            raise ApiError("prompt holds several texts; allowed: one", param="prompt")
        ids = await asyncio.to_thread(encode, self.pool.tokenizer, prompt, raw=entry.raw)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": entry.context})

    async def openapi(self, _: Request) -> Response:
        names = [entry.name for entry in reversed(self.pool.entries)]
        return JSONResponse(document(self.sampling, models=names, root_path=self.root_path))

    async def health(self, _: Request) -> Response:
        engines = self.pool.engines
        state = {
            "status": "stopping" if self.dispatcher.closing else "ok",
            "running": sum(len(engine.running) for engine in engines),
            "waiting": sum(len(engine.waiting) for engine in engines),
            "models": list(self.pool.loaded),
        }
        return JSONResponse(state, 503 if self.dispatcher.closing else 200)

    async def metrics(self, _: Request) -> Response:
        engines, counts = self.pool.engines, self.pool.counts
        first, between = self.dispatcher.first_token, self.dispatcher.between
        ends = {f'{{finish="{key[9:]}"}}': n for key, n in sorted(counts.items()) if key.startswith("finished_")}
        table = (
            ("running", "gauge", "Requests in a slot.", sum(len(engine.running) for engine in engines)),
            ("waiting", "gauge", "Requests without a slot.", sum(len(engine.waiting) for engine in engines)),
            ("finished_total", "counter", "Requests by finish reason.", ends),
            ("rejected_total", "counter", "Requests answered 429.", self.dispatcher.rejected),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", counts["prompt_tokens"]),
            ("prefix_cache_hit_tokens_total", "counter", "Of these, reused.", counts["cached_tokens"]),
            ("sampled_tokens_total", "counter", "Tokens sampled.", counts["sampled_tokens"]),
            ("tool_tokens_total", "counter", "Tokens of tool results.", counts["forced_tokens"]),
            ("steps_total", "counter", "Forward passes.", counts["steps"]),
            ("memory_bytes", "gauge", "Weights and caches.", sum(engine.bytes for engine in engines)),
            ("time_to_first_token_seconds", "histogram", "From arrival to the first token.", first.samples()),
            ("inter_token_seconds", "histogram", "Time per token after the first.", between.samples()),
        )
        text = "".join(metric(*row) for row in table)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def _body(self, request: Request) -> Any:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > BODY_BYTES:
                        raise ApiError(f"the body has more than {BODY_BYTES} bytes, the most allowed", status=413)
        except TimeoutError as problem:
            raise ApiError(f"the body took longer than {BODY_SECONDS:g} s", status=408) from problem
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as problem:
            raise ApiError(f"the body is not JSON: {problem}") from problem

    async def answer(self, request: Request, form: type[WireFormat]) -> ASGIApp:
        """A stream or a whole answer, as the request says; the model stays borrowed until the client has it."""
        ask = form.parse(await self._body(request), self.sampling)

        async def send_answer(*asgi: Any) -> None:
            async with self.dispatcher.open(ask, client=request.client.host if request.client else "") as generation:
                wire = form(ask, generation)
                if ask.stream:
                    async with contextlib.aclosing(_events(wire)) as events:
                        response = StreamingResponse(events, headers=STREAM_HEADERS, media_type="text/event-stream")
                        with contextlib.suppress(ClientDisconnect):  # nobody is left to be told
                            await response(*asgi)
                else:
                    await JSONResponse(wire.answer(await _whole(generation, request.receive)))(*asgi)

        return send_answer


async def _whole(generation: Generation, receive: Receive) -> list[Update]:
    """Every choice, complete; the request is cancelled where the client hangs up before, with ClientDisconnect."""

    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = working, _ = asyncio.create_task(generation.complete()), asyncio.create_task(hang_up())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)  # the slots are free before the model is


async def _events(wire: WireFormat) -> AsyncGenerator[bytes]:
    """What is sent of a stream. Its last event says that it is the last, or is an error."""
    try:
        yield _stream(wire.begin())
        async with contextlib.aclosing(wire.generation.follow()) as updates:
            async for update in updates:
                yield _stream(wire.events(update))
        yield _stream(wire.end()) + wire.last
    except Exception as error:
        if not isinstance(error, ApiError):
            LOG.error("an answer failed", exc_info=error)
            error = ApiError(FAILED, status=500)
        yield _stream([wire.failed(error)])


def encode(tokenizer: Tokenizer, prompt: Any, *, raw: bool) -> list[int]:
    """A text without the <|bos|> that goes before it, ids as they are, or a conversation as the model reads it."""
    if isinstance(prompt, str) or not isinstance(prompt[0], Message):
        return text_ids(tokenizer, prompt)
    return (encode_text if raw else encode_prompt)(tokenizer, prompt)


def _stream(events: Iterable[Json]) -> bytes:
    """Server-sent events; those that have a type are called by it."""
    said = []
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        # ASCII: many clients take U+2028 or U+0085 within a string for the end of a line.
        said.append(f"{name}data: {COMPACT.encode(event)}\n\n")
    return "".join(said).encode()
