"""Documents."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where the data goes on after it."""

    text: str
    cursor: dict[str, Any]
