"""A web site of this machine: a page from `static`, what it asks for, who may ask, and how it is told what is wrong.

    app = site([Route("/health", health)], access=Access(), page="index.html")

Nothing may be embedded elsewhere or fetched from elsewhere: a strict Content-Security-Policy, and CORS for the sites of `--origins`
alone; pages of others are refused (access.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from fledge.serve.access import Access
from fledge.serve.api import ApiError

LOG = logging.getLogger("uvicorn.error")
STATIC = Path(__file__).parent / "static"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
FAILED = "the server failed; its log says more"


def site(
    routes: Sequence[Route | Mount], *, access: Access, root_path: str = "", page: str = "index.html"
) -> Starlette:
    """The ASGI application: routes, and a page of `static` at /; all of it below `root_path` too, as a proxy may show it."""
    routes = [*routes, Mount("/", _Page(page))]
    if root_path := root_path.strip("/"):
        routes.insert(0, Mount("/" + root_path, Router([*routes], redirect_slashes=False)))
    router = Router(routes, redirect_slashes=False)

    async def entrance(scope: Scope, receive: Receive, send: Send) -> None:
        access.check_origin(scope["method"], Request(scope).headers)
        await router(scope, receive, send)

    allowed: Any = {"allow_origins": [*access.origins], "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
    middleware = [Middleware(CORSMiddleware, **allowed)] if access.origins else []
    app = Starlette(routes=[Mount("/", entrance)], exception_handlers=ERRORS, middleware=middleware)
    app.router.redirect_slashes = False
    return app


async def answer_error(request: Request, error: Exception) -> Response:
    """The response for whatever an endpoint raised, in OpenAI's format."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # as nginx notes it; nobody reads it
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):  # starlette's: no route, or not by this method
        headers |= error.headers or {}
        what = f"does not answer {request.method}" if error.status_code == 405 else "does not exist here"
        error = ApiError(f"{request.url.path} {what}", status=error.status_code)
    if not isinstance(error, ApiError):
        error = ApiError(FAILED, status=500)  # starlette raises what it was again, and uvicorn logs it
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return JSONResponse(error.to_json(), error.status, headers=headers)


ERRORS: Any = dict.fromkeys((HTTPException, ApiError, ClientDisconnect, Exception), answer_error)


class _Page(StaticFiles):
    """The web page's files, with the headers that keep it to itself. Folders are not there: they would redirect."""

    def __init__(self, page: str) -> None:
        super().__init__(directory=STATIC)
        self.page = page

    async def get_response(self, path: str, scope: Scope) -> Response:
        return await super().get_response(self.page if path == "." else path, scope)

    def file_response(self, *args: Any, **settings: Any) -> Response:
        response = super().file_response(*args, **settings)
        response.headers.update(PAGE_HEADERS)
        response.headers["Cache-Control"] = "no-cache"
        return response
