"""Fernhollow, a generated data set: text, facts, stories, problems and conversations of an invented village, from a seed.

    import fernhollow
    fernhollow.document(0, 41, split="train"); fernhollow.conversation(0, 41, stage="sft"); fernhollow.tasks()

The tables and templates lie in tables/*.toml. To add a fact, edit tables/village.toml: a line for another animal, place or
object, a column with its wording for another thing to know about them; questions, answers, riddles and tasks follow.
`lore` reads the tables; `facts`, `scenes`, `stories`, `problems`, `functions`, `letters` and `words` are one subject each;
`documents` and `chats` make training text of them, `split` decides what training never sees, `asked` asks for that, and
`suggestions` for what a chat may propose.
fledge finds it as `--data world` (fledge/text/datasets.py says what such a data set offers).

Text and conversations are functions of (seed, index), so that a cursor is a number and ranks take turns. Documents of the two
splits never coincide: a text that hashes to the other side is written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from random import Random
from typing import Literal

from fernhollow import lore
from fernhollow.chats import chat
from fernhollow.documents import write
from fernhollow.split import side
from fledge.tasks.base import Task
from fledge.text.chat import Conversation

NAME = lore.BOT
PROMPTS = ("Mira", "Question: Where does the turtle live? Answer:", "12+7=", "Once upon a time")
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


def conversation(seed: int, index: int, *, stage: str, without: frozenset[str] = frozenset()) -> Conversation:
    """The conversation at a place of an endless stream, of which every stage has its own.

    Args:
        without: questions about the model that somebody else answers, and with them those that have the same answer here.
    """
    return chat(Random(f"conversation {stage} {seed} {index}"), without=without)


def tasks(*, named: bool = True) -> Mapping[str, Task]:
    """What a model of Fernhollow is asked, by name; `named`: whether it is also asked who it is."""
    from fernhollow import asked, suggestions

    found = asked.TASKS | {suggestions.TASK.name: suggestions.TASK if named else suggestions.UNNAMED}
    return {name: task for name, task in found.items() if named or "/identity" not in name}


__all__ = ["NAME", "PROMPTS", "conversation", "document", "documents", "tasks"]
