"""Conversations to learn from: SmolTalk (Allal et al. 2025, arXiv:2502.02737), and the user's own files.

Nothing here can be graded: these tasks serve as training data, and their validation split for the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fledge.tasks.base import Example, Split, Task
from fledge.tasks.choice import split_records
from fledge.text.chat import Conversation, parse_conversation

FILES: dict[Split, str] = {"train": "smoltalk/train", "test": "smoltalk/test"}


def talk(conversation: Conversation) -> Example:
    """An example of a whole conversation; a last word by the user that nobody answers is left out."""
    kept = conversation if conversation[-1].role == "assistant" else conversation[:-1]
    return Example(messages=kept, answer=kept[-1].text if kept else "")


def talks(conversations: Iterable[Conversation]) -> list[Example]:
    """Those in which the assistant says something."""
    return [example for example in map(talk, conversations) if any(m.role == "assistant" for m in example.messages)]


def ungraded(example: Example, answer: str) -> float:
    """Raises: nobody knows whether such an answer is right."""
    raise ValueError("conversations without a grader serve for training; name a task that can be evaluated")


def make(name: str) -> Task:
    """The task; validation is taken out of train."""

    def load(split: Split) -> Sequence[Example]:
        records = split_records(FILES, split, key=lambda record: str(record["messages"][0]["content"]), task=name)
        return talks(parse_conversation(record, name) for record in records)

    return Task(name=name, load=load, grade=ungraded, source="Allal et al. 2025, arXiv:2502.02737")
