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
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from fledge.text.chat import Conversation, parse_conversation, to_json
from fledge.text.files import RECORDS, Found, find_files
from fledge.text.forms import in_our_form
from fledge.text.records import read_records

T = TypeVar("T")

LEFT_OUT_SHARE, CUT_SHARE = 0.05, 0.5
"""Where more of the conversations cannot be learned from, or end too late for a model, the data is another than is believed."""
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

    def __init__(self, found: Found, *, skip_bad: bool = False) -> None:
        self.found, self.skip_bad = found, skip_bad
        self.left_out, self.noted = Tally(), Tally()
        self.forms: Counter[str] = Counter()
        """In which form they were, by text/forms.py."""
        super().__init__(self._usable(), make=restore)

    def _usable(self) -> Iterator[dict[str, Any]]:
        def bad(error: str) -> None:
            self.left_out.add("not JSON", error)

        read = partial(read_records, bad=bad if self.skip_bad else None)
        for record in chain.from_iterable(map(read, self.found.files)):
            where = record.where.removeprefix(f"{record.path.parent}/")
            try:
                fields, form = in_our_form(record, record.where)
                conversation = parse_conversation(fields, record.where, joined=True)
            except ValueError as error:
                self.left_out.add("in a form that cannot be learned", str(error))
                continue
            self.forms[form] += 1
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


def open_conversations(path: str | Path, *, skip_bad: bool = False) -> Chats:
    """A conversation per record of a file, or of all in a folder, in a form of text/forms.py; checked now, made when asked for.

    skip_bad: learn from what is usable, however little that is.

    Raises:
        FileNotFoundError, ValueError: what is wrong, with file and line; or too much of it is (`account`).
    """
    chats = Chats(find_files(Path(path), RECORDS), skip_bad=skip_bad)
    if not chats and not chats.left_out.counts:
        raise ValueError(f'{path}: no conversation found; expected one {{"messages": [...]}} per line')
    account(chats, len(chats), chats.left_out, most=1.0 if skip_bad else LEFT_OUT_SHARE)
    return chats


def account(
    chats: Chats, usable: int, left_out: Tally, *, most: float, remedy: str = "Give --skip-bad to do without"
) -> str:
    """How many conversations there are to learn from, in which form they were, and what was left out why.

    Raises:
        ValueError: none is usable, or a larger share than `most` is not.
    """
    count, forms = usable + left_out.counts.total(), ", ".join(form for form in chats.forms if form != "messages")
    said = f"{chats.found.root} ({chats.found}): {count:,} conversation{'s' * (count != 1)}"
    said += f" (fields: {forms})" if forms else ""
    if not left_out.counts:
        return said
    said += f", {usable:,} usable; left out are {left_out}"
    if not usable or left_out.counts.total() > most * count:
        limit = f"At most {most:.0%} may be left out. {remedy}, correct" if usable else "Correct"
        raise ValueError(f"{said}. {limit} them or take them out")
    return said


def restore(record: dict[str, Any]) -> Conversation:
    """The conversation that `to_json` wrote."""
    return parse_conversation(record, "a stored conversation")
