"""The server: OpenAI's API and the web page over the models of one run.

    app = create_app(shelf, api_key=None)
    Server(app, host="127.0.0.1", port=8000).run()

Conversations are neither logged nor kept. Nothing may be embedded elsewhere or fetched from elsewhere: no CORS, a strict
Content-Security-Policy. A client who hangs up frees its slot before the next step of the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fledge.serve.api import ApiError, Ask, Json, Limits, parse_chat, parse_completion, usage
from fledge.serve.metrics import scalar
from fledge.serve.pool import Entry, Shelf
from fledge.serve.stream import Answers, Opened
from fledge.serve.wire import ChatShape, Shape, TextShape

STATIC = Path(__file__).parent / "static"
GRACE_SECONDS = 10.0
HEAD_SECONDS = 10.0  # for the first line and the headers of a request
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
FAILED = "the server failed; its log says more"
COMPACT = json.JSONEncoder(separators=(",", ":"))
Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    shelf: Shelf, *, api_key: str | None = None, limits: Limits | None = None, queue: int = 256, root_path: str = ""
) -> Starlette:
    """The ASGI application.

    Args:
        api_key: what clients must send as `Authorization: Bearer ...`. None: nothing.
        queue: requests that may wait for a slot before new ones are answered 429.
        root_path: the path below which a proxy shows the server, whether it passes that path on or cuts it off.
    """
    answers = Answers(shelf, queue=queue)
    api = Api(answers, limits or Limits())

    def guarded(handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            try:
                given = request.headers.get("authorization", "").removeprefix("Bearer ")
                if api_key is not None and not hmac.compare_digest(given.encode(), api_key.encode()):
                    raise ApiError("the API key is missing or wrong", status=401, code="invalid_api_key")
                return await handler(request)
            except ApiError as error:
                return error_response(error)
            except ClientDisconnect:
                return Response(status_code=499)

        return handle

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        answers.stop()
        await shelf.close()

    async def not_found(request: Request, _: Exception) -> Response:
        return error_response(ApiError(f"there is no {request.url.path} here", status=404))

    async def wrong_method(request: Request, _: Exception) -> Response:
        return error_response(ApiError(f"{request.url.path} does not answer {request.method}", status=405))

    async def failed(_: Request, __: Exception) -> Response:
        return error_response(ApiError(FAILED, status=500))  # starlette raises it again, and uvicorn logs it

    v1 = [
        Route("/chat/completions", guarded(api.chat), methods=["POST"]),
        Route("/completions", guarded(api.completions), methods=["POST"]),
        Route("/models", guarded(api.models)),
        Route("/models/{name}", guarded(api.model)),
    ]
    routes: list[Route | Mount] = [
        Mount("/v1", Router(v1, redirect_slashes=False)),
        Route("/metrics", guarded(api.metrics)),
        Route("/health", api.health),
    ]
    if (STATIC / "index.html").exists():
        routes.append(Mount("/", _Page(directory=STATIC)))
    handlers: Any = {404: not_found, 405: wrong_method, Exception: failed}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False  # where to would be the client's guess, and wrong behind a proxy
    app.state.answers = answers
    if root_path := root_path.strip("/"):
        app.add_middleware(BelowPath, root_path="/" + root_path)
    return app


class BelowPath:
    """Tells the application where it lies where the proxy passed the path on."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "").startswith(self.root_path + "/"):
            scope = {**scope, "root_path": self.root_path}
        await self.app(scope, receive, send)


def error_response(error: ApiError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return JSONResponse(error.to_json(), error.status, headers=headers)


class Prompt(H11Protocol):
    """uvicorn's protocol that hangs up on a client whose request does not come: slow ones must not pile up."""

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._relax()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._relax()
        elif self.late is None:
            self.late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _relax(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None


class Server(uvicorn.Server):
    """uvicorn's server that lets running answers finish for a while before it stops."""

    def __init__(self, app: Starlette, *, host: str, port: int, grace_seconds: float = GRACE_SECONDS) -> None:
        self.answers: Answers = app.state.answers
        self.grace_seconds = grace_seconds
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=Prompt,  # h11 also bounds the size of headers, which httptools would not
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=int(grace_seconds) + 5,
            )
        )

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        self.answers.closing = True
        asyncio.get_running_loop().call_later(self.grace_seconds, self.answers.stop)
        await super().shutdown(sockets)


class Api:
    """The routes."""

    def __init__(self, answers: Answers, limits: Limits) -> None:
        self.answers, self.shelf, self.limits = answers, answers.shelf, limits
        self.turn = asyncio.Lock()

    async def chat(self, request: Request) -> Response:
        ask = parse_chat(await self._body(request), self.limits)
        return await self._answer(request, ask, ChatShape(ask))

    async def completions(self, request: Request) -> Response:
        ask = parse_completion(await self._body(request), self.limits)
        return await self._answer(request, ask, TextShape(ask))

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._describe(entry) for entry in self.shelf.entries]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._describe(self.shelf.entry(request.path_params["name"])))

    def _describe(self, entry: Entry) -> Json:
        about = {"context_tokens": entry.context, "default": entry is self.shelf.default, **self.shelf.about}
        about["sampling"] = self.limits.table()
        return {"id": entry.name, "object": "model", "created": 0, "owned_by": "fledge", "fledge": about}

    async def health(self, _: Request) -> Response:
        engines = self.shelf.engines
        state = {
            "status": "stopping" if self.answers.closing else "ok",
            "running": sum(len(engine.running) for engine in engines),
            "waiting": sum(len(engine.waiting) for engine in engines),
            "models": list(self.shelf.loaded),
        }
        return JSONResponse(state, 503 if self.answers.closing else 200)

    async def metrics(self, _: Request) -> Response:
        engines, counts = self.shelf.engines, self.shelf.counts
        finished = {f'finish="{key[9:]}"': n for key, n in sorted(counts.items()) if key.startswith("finished_")}
        lines = [
            *scalar("fledge_running", "gauge", "Requests in a slot.", sum(len(e.running) for e in engines)),
            *scalar("fledge_waiting", "gauge", "Requests without a slot.", sum(len(e.waiting) for e in engines)),
            *scalar("fledge_finished_total", "counter", "Requests by finish reason.", finished),
            *scalar("fledge_rejected_total", "counter", "Requests answered 429.", self.answers.rejected),
            *scalar("fledge_prompt_tokens_total", "counter", "Tokens of prompts.", counts["prompt_tokens"]),
            *scalar("fledge_prefix_cache_hit_tokens_total", "counter", "Of these, reused.", counts["cached_tokens"]),
            *scalar("fledge_sampled_tokens_total", "counter", "Tokens sampled.", counts["sampled_tokens"]),
            *scalar("fledge_tool_tokens_total", "counter", "Tokens of tool results.", counts["forced_tokens"]),
            *scalar("fledge_steps_total", "counter", "Forward passes.", counts["steps"]),
            *scalar("fledge_memory_bytes", "gauge", "Weights and caches.", sum(engine.bytes for engine in engines)),
            *self.answers.first_token.lines(),
            *self.answers.between.lines(),
        ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def _body(self, request: Request) -> Any:
        most, body = self.limits.body_bytes, bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise ApiError(f"the body has more than {most} bytes, which is the most allowed", status=413)
        except TimeoutError as problem:
            raise ApiError(f"the body took longer than {self.limits.body_seconds:g} s", status=408) from problem
        # Of many requests that arrive at once, one begins per turn of the event loop, so that nobody waits for all of them.
        async with self.turn:
            await asyncio.sleep(0)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as problem:
            raise ApiError(f"the body is not JSON: {problem}") from problem

    async def _answer(self, request: Request, ask: Ask, shape: Shape) -> Response:
        # The model stays borrowed until the answer is out, which for a stream is after this function.
        held = contextlib.AsyncExitStack()
        opened = await held.enter_async_context(self.answers.open(ask))
        if ask.stream:
            return EventStream(_events(opened, ask, shape), held)
        async with held:
            work = asyncio.create_task(opened.complete())
            gone = asyncio.create_task(_hung_up(request.receive))
            try:
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise ClientDisconnect
                choices = [shape.choice(index, updates) for index, updates in enumerate(work.result())]
            finally:
                for task in (work, gone):
                    task.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)
            body = shape.head(opened.model.entry.name, whole=True) | {"choices": choices}
            return JSONResponse(body | {"usage": usage(*opened.usage())} | _dropped(opened))


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _dropped(opened: Opened) -> Json:
    return {"fledge": {"dropped_turns": opened.dropped}} if opened.dropped else {}


async def _events(opened: Opened, ask: Ask, shape: Shape) -> AsyncGenerator[bytes]:
    """What is sent of a stream. Its last event is [DONE], or an error."""
    head = shape.head(opened.model.entry.name, whole=False)
    left = len(opened.choices)
    try:
        yield b"".join(_event(head | {"choices": [first]}) for first in shape.first(left))
        async with contextlib.aclosing(opened.follow()) as updates:
            async for update in updates:
                events = [head | {"choices": [choice]} for choice in shape.chunks(update)]
                if update.finish:
                    left -= 1
                    end = shape.last(update.index, update.finish)
                    events.append(head | {"choices": [end]} | ({} if left else _dropped(opened)))
                yield b"".join(map(_event, events))
        if ask.include_usage:
            yield _event(head | {"choices": [], "usage": usage(*opened.usage())})
        yield b"data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.to_json())
    except Exception as error:
        opened.answers.log(error)
        yield _event(ApiError(FAILED, status=500).to_json())


def _event(event: Json) -> bytes:
    # ASCII: many clients take U+2028 or U+0085 within a string for the end of a line.
    return f"data: {COMPACT.encode(event)}\n\n".encode()


class EventStream(Response):
    """Server-sent events; stops the source and releases what is `held` at once when the client hangs up."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], held: contextlib.AsyncExitStack) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.events, self.held = events, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(_hung_up(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            await self.held.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self.events) as events:
            async for body in events:
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Page(StaticFiles):
    """The web page's files, with the headers that keep it to itself. Folders are not there: they would redirect."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        return await super().get_response("index.html" if path == "." else path, scope)

    def file_response(self, *args: Any, **settings: Any) -> Response:
        response = super().file_response(*args, **settings)
        response.headers.update(PAGE_HEADERS)
        response.headers["Cache-Control"] = "no-cache"
        return response
