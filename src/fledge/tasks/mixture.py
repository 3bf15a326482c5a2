"""Conversations to train on, by the name a user gives: the embedded world, a mixture of tasks, or a file of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from fledge.text.chat import Conversation
from fledge.text.shards import open_conversations


def open_chats(
    data: str, *, stage: Literal["midtrain", "sft"], seed: int, local: str | None
) -> Callable[[int], Conversation] | Sequence[Conversation]:
    """Conversations of a stage: a function of the index, endless, or a sequence that is walked in shuffled epochs.

    Args:
        data: "world"; or a .jsonl of conversations, or a folder of them.

    Raises:
        FileNotFoundError, ValueError: no such data, or a line of it is wrong.
    """
    if data == "world":
        from fledge.world import conversation

        return lambda index: conversation(seed, index, stage=stage)
    return open_conversations(data)
