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
    Card("GB200", 2500e12, 186),
    Card("B200", 2250e12, 180),
    Card("GH200", 989e12, 96),
    Card("H200 NVL", 836e12, 141),
    Card("H200", 989e12, 141),
    Card("H100 NVL", 835e12, 94),
    Card("H100 PCIe", 756e12, 80),
    Card("H100", 989e12, 80),
    Card("A100-SXM4-40GB", 312e12, 40),
    Card("A100-PCIE-40GB", 312e12, 40),
    Card("A100 80GB PCIe", 312e12, 80),
    Card("A100", 312e12, 80),
    Card("A800", 312e12, 80),
    Card("A40", 149.7e12, 48),
    Card("A30", 165e12, 24),
    Card("L40S", 362e12, 48),
    Card("L40", 181e12, 48),
    Card("L4", 121e12, 24),
    Card("RTX 6000 Ada", 364e12, 48),
    Card("RTX A6000", 155e12, 48),
    Card("RTX 5090", 209e12, 32),
    Card("RTX 5080", 113e12, 16),
    Card("RTX 4090", 165e12, 24),
    Card("RTX 4080", 97.5e12, 16),
    Card("RTX 3090", 71e12, 24),
    Card("RTX 3080", 59.5e12, 10),
    Card("RTX 3060", 25.6e12, 12),
    Card("MI355X", 2500e12, 288),
    Card("MI325X", 1307e12, 256),
    Card("MI300X", 1307e12, 192),
]
"""A name that holds another stands before it."""
VARIANTS = {"NVL", "PCIE", "TI", "SUPER", "D", "LAPTOP", "MAX", "MIG", "GRID"}
"""Words that make another card of a name, or a slice of the card."""


def find_card(name: str) -> Card | None:
    """The card that a device's or a user's name stands for; None where it is not in the table."""
    words = name.upper().replace("-", " ").split()
    for card in CARDS:
        wanted = card.name.upper().replace("-", " ").split()
        is_named = any(words[start : start + len(wanted)] == wanted for start in range(len(words)))
        if is_named and not VARIANTS & set(words) - set(wanted):
            return card
    return None
