"""Who may use the server: who holds its key, and pages that it served itself.

    access = Access(host="127.0.0.1", key=find_key(None))
    access.check_origin(request.method, request.headers)        # ApiError, 403: another host name, or a foreign page
    access.check_key(request.headers)                           # ApiError, 401

The idea: a browser lends its place on this machine to whatever page is open in it. A page whose own name was pointed at this
machine (DNS rebinding) gives itself away by Host, one that posts here unasked (no-cors) by Origin or Sec-Fetch-Site, which a
page cannot set. Programs send none of the two. Nothing here is a substitute for a key where others reach the server.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from reprlib import repr as short

from fledge.serve.api import ApiError

KEY = "FLEDGE_API_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")


def find_key(given: str | None) -> str | None:
    """The key as a setting gave it, else as the environment does, where other users of the machine do not see it.

    Raises:
        ValueError: it is empty, or holds what an HTTP header cannot carry. It is not shown.
    """
    key, where = (os.environ.get(KEY), KEY) if given is None else (given, "api_key")
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        wrong = "holds a space, a line break or a letter outside ASCII" if key.strip() else "is empty"
        raise ValueError(
            f"{where} {wrong}; a key is one word of ASCII letters, digits and signs; for none, leave it out and unset {KEY}"
        )
    return key


def host_names(given: str | None) -> frozenset[str]:
    """The names of the setting `allowed_hosts`: "chat.example.org, Pip:8000" -> chat.example.org and pip.

    Raises:
        ValueError: one of them is no host name.
    """
    names = [word.strip() for word in given.split(",")] if given else []
    for name in names:
        if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", name):
            raise ValueError(
                f"allowed_hosts: {name!r} is no host name; names with commas, as in chat.example.org,pip.local"
            )
    return frozenset(map(_name, names))


def find_origins(given: str | None) -> frozenset[str]:
    """The origins of the setting `origins`: "https://app.example.org, http://localhost:3000", or "*" for any.

    Raises:
        ValueError: one of them is no origin.
    """
    found = [word.strip().lower() for word in given.split(",")] if given else []
    for origin in found:
        if origin != "*" and not re.fullmatch(r"https?://(\w[\w.-]*|\[[0-9a-f:.]+\])(:\d+)?", origin):
            raise ValueError(
                f"origins: {origin!r} is no origin; they are scheme, host and port, as in https://app.example.org,http://localhost:3000"
            )
    return frozenset(found)


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a request must be like to be answered."""

    host: str = LOOPBACK[1]
    """What the server listens on."""
    allowed_hosts: Collection[str] = ()
    """Further names that lead here, as through a proxy."""
    origins: Collection[str] = ()
    """Other sites whose pages may use the API; "*" stands for any."""
    key: str | None = None
    remedy: str | None = None
    """What to do about a name that does not lead here. None: what `fledge serve` has for it."""

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """Raise ApiError for a name that does not lead here, and for what a page of another site wants done."""
        asked = headers.get("host")
        if asked is not None and not self._leads_here(name := _name(asked)):
            remedy = self.remedy or f"`fledge serve --allowed-hosts {short(name)}` lets it"
            raise ApiError(
                f"this server does not answer for the host {short(name)}; {remedy}",
                status=403,
                code="host_not_allowed",
            )
        if method in ("GET", "HEAD", "OPTIONS"):
            return  # they do nothing, and without CORS a foreign page cannot read what they say
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and ("*" in self.origins or origin.lower() in self.origins):
            return
        # Nothing for "null", the origin of a page that hides its own.
        place = (origin or "").partition("://")[2].lower()
        is_own = place != "" and (place == (asked or "").lower() or _name(place) in self.allowed_hosts)
        if (origin is not None and not is_own) or site not in ("none", "same-origin"):
            remedy = self.remedy or (
                "where that is its own page behind a proxy, `fledge serve --allowed-hosts` takes its host name, and "
                "`--origins` lets other sites"
            )
            raise ApiError(
                f"this server does nothing for pages of other sites, here {short(origin or site)}; {remedy}",
                status=403,
                code="origin_not_allowed",
            )

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Raise ApiError unless the request holds the key, where there is one."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        if self.key is not None and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise ApiError("the API key is missing or wrong", status=401, code="invalid_api_key")

    def _leads_here(self, name: str) -> bool:
        if name in (self.host.lower(), *LOOPBACK, *self.allowed_hosts):
            return True
        # Whoever asks by an address has looked up no name that could have been pointed here.
        machine = socket.gethostname().lower()
        return not is_loopback(self.host) and (is_address(name) or name in (machine, f"{machine}.local"))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """Whether it is an address rather than a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(place: str) -> str:
    """The host of host:port, as names are compared: "[::1]:8000" -> "::1", "LocalHost." -> "localhost"."""
    found = re.fullmatch(r"(?:\[([^\]@/]*)\]|([^:\[\]@/]*))(?::\d*)?", place)
    return (found[1] or found[2] or "").lower().rstrip(".") if found else place
