"""What GPUs can do, by a part of their name; without torch.

find_card("NVIDIA H100 80GB HBM3")               # Card(name="H100", flops=989e12, gigabytes=80)
"""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """bf16 matrix peak in FLOP/s (dense, summed in float32) and memory, from the maker's data sheet."""

    name: str
    flops: float
    gigabytes: int


CARDS = [
    Card("B200", 2250e12, 180),
    Card("H200", 989e12, 141),
    Card("H100 PCIe", 756e12, 80),
    Card("H100", 989e12, 80),
    Card("A100-SXM4-40GB", 312e12, 40),
    Card("A100", 312e12, 80),
    Card("L40S", 362e12, 48),
    Card("L4", 121e12, 24),
    Card("RTX 5090", 209e12, 32),
    Card("RTX 4090", 165e12, 24),
    Card("RTX 3090", 71e12, 24),
    Card("RTX 3060", 25.6e12, 12),
]
"""A name that holds another stands before it."""


def find_card(name: str) -> Card | None:
    """The card that a device's or a user's name stands for; None where it is not in the table."""
    words = name.upper().replace("-", " ").split()
    for card in CARDS:
        wanted = card.name.upper().replace("-", " ").split()
        if any(words[start : start + len(wanted)] == wanted for start in range(len(words))):
            return card
    return None
