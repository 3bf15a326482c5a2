"""Endless text and conversations, each a function of (seed, index), so that a cursor is a number and ranks take turns.

    document(seed=0, index=41)                            # always the same text
    documents(0, split="validation")                      # an iterator over document(0, 0), document(0, 1), ...
    conversation(seed=0, index=41, stage="sft")

Documents of the two splits never coincide: a text that hashes to the other side is written anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Literal

from fernhollow.chats import ChatStage, chat
from fernhollow.documents import write
from fernhollow.split import side
from fledge.text.chat import Conversation

DocumentSplit = Literal["train", "validation"]


def document(seed: int, index: int, *, split: DocumentSplit = "train") -> str:
    """The document at a place of the endless stream."""
    rng = Random(f"document {split} {seed} {index}")
    while True:
        text = write(rng)
        if (side("document", text) == "validation") == (split == "validation"):
            return text


def documents(seed: int, *, split: DocumentSplit = "train", start: int = 0) -> Iterator[str]:
    """Documents without end, from the place `start` on."""
    return (document(seed, index, split=split) for index in count(start))


def conversation(seed: int, index: int, *, stage: ChatStage) -> Conversation:
    """The conversation at a place of the endless stream of a stage."""
    return chat(Random(f"conversation {stage} {seed} {index}"), stage)
