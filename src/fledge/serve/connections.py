"""Connections: where the server listens, how many clients there may be, how long it waits for them, and how it ends.

server = Server(create_app(pool), host="127.0.0.1", port=8000)      # listens already
print(server.url)
server.run()                                                        # until a signal
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from fledge import endings
from fledge.commands import Serve
from fledge.serve.access import EVERYWHERE
from fledge.serve.site import LOG

if TYPE_CHECKING:
    from fledge.serve.stream import Dispatcher

HEAD_SECONDS = 10.0  # for the first line and the headers of a request to arrive


class Sparing(logging.Filter):
    """Lets the same line pass once a minute: whoever sends nonsense shall not fill the disk with what is said about it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line = (record.msg, record.exc_info and record.exc_info[0])
        is_due = record.created - self.said.get(line, 0.0) > 60
        if is_due:
            self.said[line] = record.created
        return is_due


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol that knows how long its client has let it wait for a request, and the server whose bound it counts for."""

    def __init__(self, owner: Server, **settings: Any) -> None:
        super().__init__(**settings)
        self.owner = owner
        self.waits_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.owner.most:
            self.owner.make_room()

    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()

    def waits_for_head(self) -> bool:
        """Whether no request has begun that is not answered."""
        return self.cycle is None or self.cycle.response_complete

    def is_answered(self) -> bool:
        """Whether a request has come, all of it, and its answer has not ended."""
        return not self.waits_for_head() and not self.cycle.more_body


class Server(uvicorn.Server):
    """uvicorn's server with a bound on connections, which lets running answers finish for a while before it stops.

    It listens from the beginning; `run` returns after SIGINT, SIGTERM or SIGHUP, at once after the second.
    """

    def __init__(self, app: Starlette, *, host: str, port: int, grace_seconds: float = Serve.grace_seconds) -> None:
        self.dispatcher: Dispatcher | None = getattr(app.state, "dispatcher", None)
        """None: of a site without models, whose answers are short."""
        self.grace_seconds = grace_seconds
        self.most = most_connections()
        self.hurry = False
        self.socket = listen(host, port)
        # A browser cannot open "everywhere".
        name = "localhost" if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.socket.getsockname()[1]}"
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(BoundedProtocol, self),  # type: ignore[arg-type]  # h11 bounds headers, httptools would not
                # asyncio accepts so many at once, before anybody sees how many there are.
                backlog=max(1, self.most // 8),
                timeout_keep_alive=int(HEAD_SECONDS),
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=int(grace_seconds) + 5,
            )
        )

    # uvicorn's own knows no SIGHUP, and raises the signals again when all has ended.
    capture_signals = contextlib.nullcontext  # type: ignore[assignment]

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        endings.watch(self.handle_exit)
        sparing = Sparing()
        LOG.addFilter(sparing)
        try:
            super().run(sockets or [self.socket])
        finally:
            LOG.removeFilter(sparing)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(2048)  # those not accepted yet wait in the system, or they would try again a second later

    def make_room(self) -> None:
        """Close an eighth of the connections, those that have waited longest for their request to come."""
        LOG.warning("more than %d connections: those that send no request are closed", self.most)
        waiting = [one for one in self.connections() if not one.is_answered()]
        for one in sorted(waiting, key=lambda one: one.waits_since)[: max(1, self.most // 8)]:
            one.transport.close()

    def connections(self) -> list[BoundedProtocol]:
        return [one for one in self.server_state.connections if isinstance(one, BoundedProtocol)]

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, hang up on clients whose request does not come: slow ones and idle ones must not pile up."""
        due = asyncio.get_running_loop().time() - HEAD_SECONDS
        for one in self.connections():
            if one.waits_for_head() and one.waits_since < due:
                one.transport.close()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the server, the second its answers."""
        self.hurry = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.dispatcher is None:
            await super().shutdown(sockets)
            return
        self.dispatcher.closing = True
        ending = asyncio.create_task(self._end_answers(self.dispatcher))
        await super().shutdown(sockets)
        ending.cancel()
        await self.dispatcher.pool.close()

    async def _end_answers(self, dispatcher: Dispatcher) -> None:
        """When their time is over, or at the second signal."""
        if running := sum(one.is_answered() for one in self.connections()):
            LOG.warning("stopping: %d answers have %g s to end; once more to stop at once", running, self.grace_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.grace_seconds):
                while not self.hurry:
                    await asyncio.sleep(0.05)
        await dispatcher.pool.close()
        await asyncio.sleep(0.5)  # the answers' last words go out
        for one in self.connections():  # to clients who do not take them
            one.transport.abort()


def most_connections() -> int:
    """Half of the files that this process may open; the others are for models, tools, and clients about to be turned away."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if limit == resource.RLIM_INFINITY else min(4096, max(8, limit // 2))


def listen(host: str, port: int) -> socket.socket:
    """A socket where connections wait from now on; port 0: any that is free.

    Raises:
        ValueError: it is no address of this machine, or another program listens there.
    """
    try:
        # Of several addresses that of IPv4, which comes first by its number: browsers try both.
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found)
        return socket.create_server((address[0], port), family=family)
    except (socket.gaierror, UnicodeError):
        raise ValueError(
            f"host={host!r} is no name of this machine; 127.0.0.1 is for its own users, 0.0.0.0 for all"
        ) from None
    except OSError as error:
        why = "another program listens there" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise ValueError(f"{host} port {port}: {why}; --port names another, and 0 takes any that is free") from None
