"""Files that fledge writes: whole or not at all, and JSON with its own hash in it.

write_atomic(path, sealed({"step": 3}))
read_record(path, advice="Start the stage again with --fresh.")        # {"step": 3}, or what is wrong and what to do
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`, whole or not at all."""
    partial = partial_of(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def partial_of(path: Path) -> Path:
    """Where a file or folder lies until it is whole."""
    return path.with_name(path.name + ".partial")


@contextlib.contextmanager
def naming(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """A full disk does not say which file it could not take: this does, and removes what was written so far.

    Args:
        kinds: errors of a library that writes, beside OSError.
    """
    try:
        yield
    except (OSError, *kinds) as error:
        partial = partial_of(path)
        with contextlib.suppress(OSError):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        raise OSError(
            f"{path}: could not be written ({error}). What was there before is untouched; "
            f"{_remedy(error)} and start again, or choose another --run."
        ) from error


def _remedy(error: Exception) -> str:
    kind = getattr(error, "errno", None)
    if kind in (errno.ENOENT, errno.ENOTDIR):
        return "the folder was removed or moved meanwhile: put it back"
    if kind in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow writing there"
    return "free some space"


def sealed(record: Mapping[str, Any]) -> str:
    """JSON of a record with its own hash in it, so that damage is noticed when it is read."""
    whole = json.loads(json.dumps(record))  # as it will be read: tuples are lists
    return json.dumps({**whole, "seal": json_hash(whole)}, indent=1)


def json_hash(value: Any) -> str:
    """SHA-256 of what can be written as JSON, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError names the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def read_record(path: Path, *, advice: str, always_sealed: bool = False) -> dict[str, Any]:
    """The JSON object in a file that `sealed` wrote; else ValueError with the `advice`.

    always_sealed: one without a hash is refused too; else it may be of fledge before there were seals.
    """
    try:
        found = read_json(path)
    except (ValueError, OSError) as error:
        what = f"{path}: cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        raise ValueError(f"{what}. {advice}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {type(found).__name__} found, but one object {{...}} was written. {advice}")
    seal = found.pop("seal", None)
    if seal is None and always_sealed:
        raise ValueError(f"{path}: written before there was a hash in it, or edited. {advice}")
    if seal is not None and seal != json_hash(found):
        raise ValueError(f"{path}: damaged or edited, what it says does not give the hash in it. {advice}")
    return found
