"""Conversations of files, kept on disk and made when they are drawn; and the user's own.

    chats = open_conversations("chats.jsonl")
    chats[0], chats.left_out                      # a Conversation (text/chat.py); what cannot be learned from, and why
    Stored(records, make=Example.from_record)     # any sequence of more items than memory should hold

As Python's objects a conversation takes several times the memory of its text, and half a million of them more than a laptop
has. As JSON in a memory-mapped file they cost the process 8 bytes each; the system keeps in memory what is drawn often.
"""

from __future__ import annotations

import errno
import json
import mmap
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from fledge.text.chat import Conversation, parse_conversation, to_json
from fledge.text.files import RECORDS, Found, find_files
from fledge.text.records import read_records

T = TypeVar("T")

USABLE_SHARE = 0.5
"""Where less of the conversations can be learned from, the form of the data is wrong rather than a few lines of it."""
NOTED = {
    "\ufffd": "with characters that got lost (\ufffd)",
    r"<\|\w+\|>": "with marks such as <|im_start|> in what is said, which are learned as letters",
}
"""What is learned as it stands, though it looks like a mistake; patterns of it."""


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
                    # A table may hold dates or bytes in columns that nobody asks for.
                    size = file.write(json.dumps(record, default=str).encode())
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
        return self.make(self.record(place))

    def record(self, place: int) -> Any:
        """What was stored, before something is made of it."""
        index = range(len(self))[place]  # counts from the end, and raises, as a list does
        return json.loads(self.raw[self.ends[index] : self.ends[index + 1]])


class Tally:
    """What happened to conversations, by what it was: how often, and where first."""

    def __init__(self, before: Tally | None = None) -> None:
        self.counts: Counter[str] = Counter(before.counts if before else ())
        self.first: dict[str, str] = dict(before.first if before else ())

    def add(self, what: str, where: str) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def __str__(self) -> str:
        return "; ".join(f"{count:,} {what} (first: {self.first[what]})" for what, count in self.counts.items())


class Chats(Stored[Conversation]):
    """Conversations of files that can be learned from, and what was left out of them."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.left_out, self.noted = Tally(), Tally()
        super().__init__(self._usable(), make=restore)

    def _usable(self) -> Iterator[dict[str, Any]]:
        for record in chain.from_iterable(map(read_records, self.found.files)):
            conversation, where = parse_conversation(record, record.where), f"{record.path.name} line {record.number}"
            for mark, what in NOTED.items():
                if any(re.search(mark, part.text) for message in conversation for part in message.parts):
                    self.noted.add(what, where)
            if reason := useless(conversation):
                self.left_out.add(reason, where)
            else:
                yield to_json(conversation) | {"where": where}


def useless(conversation: Conversation) -> str:
    """Why nothing can be learned from a conversation, whatever its length; or empty."""
    heard = answered(conversation)
    answers = [message for message in heard if message.role == "assistant"]
    if not answers:
        return "without an answer"
    if any(not "".join(part.text for part in message.parts).strip() for message in answers):
        return "with an empty answer"
    if any(message.role == "user" and not message.text.strip() for message in heard):
        return "with an empty question"
    if not any(message.learn for message in answers):
        return "whose answers all have weight 0"
    return ""


def answered(conversation: Conversation) -> Conversation:
    """The conversation up to the assistant's last message; empty where it says nothing."""
    last = max((place for place, message in enumerate(conversation, 1) if message.role == "assistant"), default=0)
    return conversation[:last]


def open_conversations(path: str | Path) -> Chats:
    """`{"messages": [...]}` per line of a .jsonl or row of a .parquet, or of all in a folder; checked now, made when asked for.

    Raises:
        FileNotFoundError, ValueError: what is wrong, with file and line; or too little is left (`enough`).
    """
    chats = Chats(find_files(Path(path), RECORDS))
    if not chats and not chats.left_out.counts:
        raise ValueError(f'{path}: no conversation found; expected one {{"messages": [...]}} per line')
    enough(str(path), len(chats), chats.left_out)
    return chats


def enough(path: str, usable: int, left_out: Tally, *, remedy: str = "correct them or take them out") -> str:
    """How many conversations there are to learn from, and what was left out why.

    Raises:
        ValueError: less than `USABLE_SHARE` of them is usable.
    """
    count = usable + left_out.counts.total()
    told = f"{path}: {count:,} conversation{'s' * (count != 1)}"
    if not left_out.counts:
        return told
    told += f", {usable:,} usable; left out are {left_out}"
    if usable < USABLE_SHARE * count:
        raise ValueError(f"{told}. At least {USABLE_SHARE:.0%} must be usable: {remedy}")
    return told


def restore(record: dict[str, Any]) -> Conversation:
    """The conversation that `to_json` wrote."""
    return parse_conversation(record, "a stored conversation")
