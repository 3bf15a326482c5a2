"""Where the web page's files are, and the policy under which they must work."""

from fledge.serve.site import PAGE_HEADERS, STATIC

POLICY = PAGE_HEADERS["Content-Security-Policy"]

__all__ = ["POLICY", "STATIC"]
