"""Which code made a number: version, commit, and hash of the source.

provenance()["commit"]                     # "a1b2...", "a1b2...+changes", or "fledge 0.1.0" where git knows nothing of it
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

from fledge import __version__


def provenance() -> dict[str, Any]:
    """What a number needs to be traced: version, commit, hash of the code, time, Python."""
    return {
        "fledge": __version__,
        "commit": commit(),
        "code": code_hash(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
    }


@cache
def commit() -> str:
    """The commit of our code, marked where files differ from it; our version where git knows nothing of them.

    An installed package may lie in a work tree of somebody else's: what is not among the files of a tree is not described by it.
    """
    # Without optional locks: looking must not keep the user from a commit at the same moment. `describe` and `diff` take one
    # all the same, `status` does not.
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent)]
    status = ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    # Within a hook these name the repository of the user.
    apart = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    settings: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "env": apart}
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], **settings)
        head, *rest = subprocess.run([*git, *status], **settings).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return f"fledge {__version__}"
    changed = any(not line.startswith("#") for line in rest)
    return head.removeprefix("# branch.oid ") + "+changes" * changed


@cache
def code_hash() -> str:
    """Hash of the package's own source, wherever it is installed."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def other_code(then: Any) -> str:
    """In words that something goes on with other code than it was begun with; empty where it is the same, or nobody knows."""
    if not isinstance(then, dict) or then.get("code") in (None, code_hash()):
        return ""
    return f"begun by other code (fledge {then.get('fledge')}, {str(then.get('commit'))[:12]}); goes on with this one"
