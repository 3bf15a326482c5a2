"""Data sets that are generated, not read: modules found by the name a user gives with --data.

    world = find_generated("world")                        # the module fernhollow, imported when first asked for
    world.document(seed=0, index=41, split="train")
    find_generated("texts/")                               # None: a name or path of another kind

To add one, write a module with the attributes of `Generated` and name it in `MODULES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from fledge.text.chat import Conversation

MODULES = {"world": "fernhollow"}


class Generated(Protocol):
    """What such a module offers. Text and conversations are functions of (seed, index), so a cursor is a number."""

    NAME: str
    """What its chat models call themselves."""
    SUGGESTIONS: Sequence[str]
    """First questions that a chat proposes."""
    PROMPTS: Sequence[str]
    """What a base model is asked to continue for samples."""

    def document(self, seed: int, index: int, *, split: Literal["train", "validation"]) -> str: ...

    def conversation(self, seed: int, index: int, *, stage: Literal["midtrain", "sft"]) -> Conversation: ...

    def tasks(self) -> Mapping[str, Any]:
        """Its `Task`s by name (fledge/tasks/base.py)."""
        ...


def find_generated(name: str) -> Generated | None:
    """The module of a generated data set; None where the name is not one of `MODULES`."""
    return cast(Generated, importlib.import_module(MODULES[name])) if name in MODULES else None


def generated() -> Mapping[str, Generated]:
    """All of them by name."""
    return {name: cast(Generated, importlib.import_module(module)) for name, module in MODULES.items()}
