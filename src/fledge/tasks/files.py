"""The user's own conversations as a task: `{"messages": [...]}` per line of a .jsonl, or of all in a folder.

A hash of the conversation takes one in twenty as validation and one in twenty as test, so that a line stays on its side when
others are added.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fledge.tasks.base import Example, Split, Task
from fledge.tasks.smoltalk import talks, ungraded
from fledge.text.chat import Conversation, to_json
from fledge.text.conversations import open_conversations

SHARES = 20


def side(conversation: Conversation) -> Split:
    """The split a conversation belongs to."""
    text = json.dumps(to_json(conversation), sort_keys=True)
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % SHARES
    return {0: "validation", 1: "test"}.get(bucket, "train")  # pyright: ignore[reportReturnType]


def make(path: str) -> Task:
    """The task of a file or folder; which is read when a split is loaded, with errors that name the line."""

    def load(split: Split) -> Sequence[Example]:
        return talks(conversation for conversation in open_conversations(path) if side(conversation) == split)

    return Task(name=f"files/{Path(path).stem}", load=load, grade=ungraded, source=path)
