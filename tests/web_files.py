"""Where the web page's files are, and the policy under which they must work."""

from pathlib import Path

import fledge

STATIC = Path(fledge.__file__).parent / "serve" / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
