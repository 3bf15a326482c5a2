"""A server that plays the network's side of the web page's contract: it answers as it was told to.

    with serving() as server:
        server.replies.append(Reply(says("Hello", " there")))
        ... open server.url ...
        server.requests[-1]["messages"]

It serves the static folder with the same Content-Security-Policy as the real server. Unscripted questions are echoed.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web_files import POLICY, STATIC

Event = dict[str, Any]
SUGGESTIONS = [
    ["Who is the baker?"],
    ["What is 12 times 3?"],
    ["I am Sophia.", "What is my name?"],
    ["I am Sophia.", "Who am I?"],
]
SAMPLING = [
    {"name": "temperature", "type": "number", "default": 0.6, "low": 0.0, "high": 2.0, "help": "More is more varied."},
    {"name": "top_k", "type": "integer", "default": 50, "low": 0, "high": 1000, "help": "The k likeliest; 0: all."},
    {"name": "top_p", "type": "number", "default": 1.0, "low": 0.0, "high": 1.0, "help": "This share of the mass."},
    {"name": "max_tokens", "type": "integer", "default": None, "low": 1, "high": 4096, "help": "Longest answer."},
    {"name": "seed", "type": "integer", "default": None, "low": 0, "high": 2**53 - 1, "help": "The same answer again."},
]


def stage(name: str, *, default: bool = False, sampling: list[Event] = SAMPLING) -> Event:
    about = {"context_tokens": 512, "tools": ["calculator"], "suggestions": SUGGESTIONS, "name": "Pip"}
    about["sampling"] = sampling
    return {"id": name, "object": "model", "created": 0, "owned_by": "fledge", "fledge": about | {"default": default}}


def delta(finish: str | None = None, logprobs: list[Event] | None = None, **fields: Any) -> Event:
    """One chunk: `delta(content="He")`, `delta(fledge={"parts": [{"type": "python", "text": "12*3"}]})`, `delta("stop")`."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"choices": [choice | ({"logprobs": {"content": logprobs}} if logprobs else {})]}


def says(*texts: str, finish: str = "stop", usage: tuple[int, int] = (20, 8), **last: Any) -> list[Event]:
    """The events of a whole answer; `usage` is (prompt tokens, completion tokens)."""
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return [*(delta(content=text) for text in texts), delta(finish) | last, {"choices": [], "usage": counts}]


def token(text: str, logprob: float, **others: float) -> Event:
    top = [{"token": other, "logprob": value} for other, value in others.items()]
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": top}


@dataclass
class Reply:
    """What to do with one question."""

    events: list[Event] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: str = ""
    pause: float = 0.0
    """Seconds between two events."""
    hold: threading.Event | None = None
    """Wait for it before the event number `hold_at`."""
    hold_at: int = 1
    breaks: bool = False
    """Close the connection where [DONE] should come."""


class Policy:
    """Adds the real server's Content-Security-Policy to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, guarded)


class ScriptedServer:
    """Replies in the order they were given; keeps what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ]
        self.app = Starlette(routes=routes, middleware=[Middleware(Policy)])

    def reset(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[Event] = []
        self.cancelled = 0
        self.key: str | None = None
        self.stages = [stage("base"), stage("midtrain"), stage("sft", default=True)]

    def refused(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "This server needs an API key.", "type": "auth"}}, 401)
        return None

    async def models(self, request: Request) -> Response:
        return self.refused(request) or JSONResponse({"object": "list", "data": self.stages})

    async def chat(self, request: Request) -> Response:
        if refusal := self.refused(request):
            return refusal
        body = await request.json()
        self.requests.append(body)
        echo = says(f"{body['model']} heard: ", str(body["messages"][-1]["content"]))
        reply = self.replies.pop(0) if self.replies else Reply(echo)
        if reply.status != 200:
            error = {"message": reply.error, "type": "server_error", "param": None, "code": None}
            return JSONResponse({"error": error}, reply.status, reply.headers)
        return StreamingResponse(self.stream(reply), media_type="text/event-stream")

    async def stream(self, reply: Reply) -> AsyncIterator[bytes]:
        try:
            for index, event in enumerate([*reply.events, None]):
                while reply.hold and index == reply.hold_at and not reply.hold.is_set():
                    await asyncio.sleep(0.005)
                if event is None and reply.breaks:
                    return
                text = "[DONE]" if event is None else json.dumps(event, ensure_ascii=False)
                yield f"data: {text}\n\n".encode()
                await asyncio.sleep(reply.pause)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


@contextmanager
def serving() -> Iterator[ScriptedServer]:
    """The server on a free port of 127.0.0.1, in a thread."""
    scripted = ScriptedServer()
    config = uvicorn.Config(
        scripted.app, port=0, log_level="error", ws="none", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    scripted.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    try:
        yield scripted
    finally:
        server.should_exit = True
        thread.join()
