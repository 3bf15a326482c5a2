"""The user's own conversations: `{"messages": [...]}` per line of a .jsonl(.gz, .zst), or of all in a folder.

open_conversations("chats.jsonl")[0]          # a Conversation (text/chat.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fledge.text.chat import Conversation, parse_conversation
from fledge.text.files import read_numbered


def open_conversations(path: str | Path) -> Sequence[Conversation]:
    """The conversations of a file or folder.

    Raises:
        FileNotFoundError, ValueError: what is wrong, with file and line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file; expected a .jsonl with one {{"messages": [...]}} per line')
    paths = [path] if path.is_file() else [file for file in sorted(path.iterdir()) if ".jsonl" in file.name]
    conversations = [
        parse_conversation(record, f"{file} line {number}") for file in paths for number, record in read_numbered(file)
    ]
    if not conversations:
        raise ValueError(f'{path}: no conversation found; expected .jsonl with one {{"messages": [...]}} per line')
    return conversations
