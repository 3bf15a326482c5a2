"""Programs in JavaScript talk to the server: OpenAI's own client and the Vercel AI SDK, a script each in tests/node.

They want `npm install --prefix tests/node --no-package-lock`, as `.ci/run` does where npm reaches its registry.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from test_server import serving

SCRIPTS = Path(__file__).parent / "node"


@pytest.mark.parametrize("name", ["openai", "vercel"])
def test_the_script_gets_what_it_asks_for(name: str) -> None:
    if not (node := shutil.which("node")):
        pytest.skip("needs node, 20 or newer")
    if not (SCRIPTS / "node_modules").is_dir():
        pytest.skip("needs npm install --prefix tests/node --no-package-lock")
    pytest.importorskip("llguidance", reason="llguidance is in the extra `json` and in the group `compat`")
    with serving() as url:
        done = subprocess.run([node, f"{name}.mjs", url], cwd=SCRIPTS, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
