"""Which tokens lie in which slot of a KV cache, and which slots are free: whole numbers alone, no keys.

slots = Slots(64, context=512)
slot, donor, n = slots.acquire(prompt)      # n tokens of the prompt are known: copy their keys from donor to slot
slots.note_progress(rows, ends)             # keys computed meanwhile
slots.release(slot, tokens)                 # free, yet its tokens stay for whoever continues them
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

WORTH_WAITING = 16  # tokens: shorter prefixes are computed twice rather than waited for


class Slots:
    """Slots of `context` positions, one per sequence; the least recently used is taken first."""

    def __init__(self, slots: int, context: int) -> None:
        self.tokens = np.full((slots, context), -1, np.int32)
        self.known = np.zeros(slots, np.int64)
        """Tokens recorded per slot: those in the cache, and those of a prompt that is being computed."""
        self.ready = np.zeros(slots, np.int64)
        """Of these, how many are in the cache."""
        self.free = deque(range(slots))

    def acquire(self, prompt: Sequence[int], *, reuse: bool = True) -> tuple[int, int, int] | None:
        """(slot, donor, n): copy n tokens from donor to slot, both may be the same. At least one token is left to compute.

        None: no slot is free, or another request is just computing a prefix worth waiting for.
        """
        if not self.free:
            return None
        wanted = np.asarray(prompt[: self.tokens.shape[1]], np.int32)
        limit = min(len(prompt) - 1, len(wanted)) if reuse else 0
        differs = self.tokens[:, :limit] != wanted[:limit]
        common = np.where(differs.any(1), differs.argmax(1), limit) if limit else np.zeros(len(self.tokens), np.int64)
        coming = np.minimum(common, self.known)
        present = np.minimum(common, self.ready)
        donor = int(present.argmax())
        n = int(present[donor])
        if int(coming.max()) - n > WORTH_WAITING:
            return None
        slot = self.free[0]
        if n == 0:
            donor = slot
        elif n == self.known[donor] and donor in self.free:
            slot = donor  # the same conversation goes on
        self.free.remove(slot)
        self.tokens[slot, : len(wanted)] = wanted
        self.known[slot], self.ready[slot] = len(wanted), n
        return slot, donor, n

    def note_progress(self, slots: np.ndarray, ends: np.ndarray) -> None:
        """Prompts are computed up to `ends`. Later requests may copy these keys: their turn comes after this step."""
        self.ready[slots] = np.minimum(ends, self.known[slots])

    def release(self, slot: int, tokens: Sequence[int]) -> None:
        """Free a slot in which the keys of exactly `tokens` lie."""
        n = len(tokens)
        self.tokens[slot, :n] = tokens
        self.known[slot] = self.ready[slot] = n
        self.free.append(slot)

    def forget(self) -> None:
        """Nothing in the slots is valid any more."""
        self.known[:] = self.ready[:] = 0
        self.tokens[:] = -1
