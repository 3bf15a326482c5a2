"""Which code made a number: version, commit, and hash of the source.

provenance()["commit"]                     # "a1b2...", "a1b2...+changes", or "fledge 0.1.0" where git knows nothing of it
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import Any

from fledge import __version__

SOURCE = str(Path(__file__).resolve().parents[1])
"""Where our packages lie."""


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
    if not _is_in_git():
        return f"fledge {__version__}"
    # `describe` and `diff` take a lock all the same, `status` does not.
    head, *rest = _git("status", "--porcelain=v2", "--branch", "--untracked-files=no").splitlines()
    changed = any(not line.startswith("#") for line in rest)
    return head.removeprefix("# branch.oid ") + "+changes" * changed


@cache
def changes() -> str:
    """How our source differs from its commit, as git shows it, files that are in no commit included; empty where it does not."""
    if not _is_in_git():
        return ""
    new = _git("ls-files", "--others", "--exclude-standard", "--", "*.py").splitlines()
    found = _git("diff", "--no-ext-diff", "HEAD", "--", SOURCE)
    return found + "".join(
        _git("diff", "--no-ext-diff", "--no-index", "--", os.devnull, each, codes=(0, 1)) for each in new
    )


def commits_differ(one: str, other: str) -> str:
    """How our source differs between two of what `commit` gives, apart from their changes; empty where git does not know both."""
    ends = [each.removesuffix("+changes") for each in (one, other)]
    return _git("diff", "--no-ext-diff", *ends, "--", SOURCE, codes=range(256)) if _is_in_git() else ""


def _is_in_git() -> bool:
    try:
        return bool(_git("ls-files", "--error-unmatch", __file__))
    except (OSError, subprocess.CalledProcessError):
        return False


def _git(*words: str, codes: Container[int] = (0,)) -> str:
    """What git says in the folder of our source, where it ends with one of these codes."""
    # Without optional locks: looking must not keep the user from a commit at the same moment.
    git = ["git", "--no-optional-locks", "-C", SOURCE]
    # Within a hook these name the repository of the user.
    apart = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run([*git, *words], capture_output=True, text=True, errors="replace", env=apart)
    if done.returncode not in codes:
        done.check_returncode()
    return done.stdout


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
