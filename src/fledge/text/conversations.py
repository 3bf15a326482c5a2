"""Conversations of files, kept on disk and made when they are drawn; and the user's own.

    open_conversations("chats.jsonl")[0]          # a Conversation (text/chat.py)
    Stored(records, make=Example.from_record)     # any sequence of more items than memory should hold

As Python's objects a conversation takes several times the memory of its text, and half a million of them more than a laptop
has. As JSON in a memory-mapped file they cost the process 8 bytes each; the system keeps in memory what is drawn often.
"""

from __future__ import annotations

import errno
import json
import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from fledge.text.chat import Conversation, parse_conversation, to_json
from fledge.text.files import read_records

T = TypeVar("T")


class Stored(Sequence[T]):
    """`make(record)` for each record: written as JSON into a temporary file (TMPDIR says where), read and made when asked for.

    The file has no name, so it goes with the process, however that ends.
    """

    def __init__(self, records: Iterable[Any], *, make: Callable[[Any], T]) -> None:
        self.make = make
        self.ends = array("Q", [0])
        with tempfile.TemporaryFile() as file:
            try:
                for record in records:
                    size = file.write(json.dumps(record).encode())
                    self.ends.append(self.ends[-1] + size)
                file.flush()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                place = f"no space left in {tempfile.gettempdir()} after {len(self):,} conversations"
                raise OSError(errno.ENOSPC, f"{place}; set TMPDIR to a folder that has some") from error
            # An empty file cannot be mapped.
            self.raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if len(self) else b""

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        index = range(len(self))[place]  # counts from the end, and raises, as a list does
        return self.make(json.loads(self.raw[self.ends[index] : self.ends[index + 1]]))


def open_conversations(path: str | Path) -> Sequence[Conversation]:
    """`{"messages": [...]}` per line of a .jsonl(.gz, .zst) file, or of all in a folder; checked now, made when asked for.

    Raises:
        FileNotFoundError, ValueError: what is wrong, with file and line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file; expected a .jsonl with one {{"messages": [...]}} per line')
    paths = [path] if path.is_file() else [file for file in sorted(path.iterdir()) if ".jsonl" in file.name]
    records = chain.from_iterable(map(read_records, paths))
    found = Stored((to_json(parse_conversation(record, record.where)) for record in records), make=restore)
    if not found:
        raise ValueError(f'{path}: no conversation found; expected .jsonl with one {{"messages": [...]}} per line')
    return found


def restore(record: dict[str, Any]) -> Conversation:
    """The conversation that `to_json` wrote."""
    return parse_conversation(record, "a stored conversation")
