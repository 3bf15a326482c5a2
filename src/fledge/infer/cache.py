"""The KV cache: one slot of `context` positions per sequence, and what is known about the tokens in it.

    cache = SlotCache(config, slots=64, context=512, device=device, dtype=torch.float32)
    slot, reused = cache.acquire(prompt)                    # a free slot, the longest known prefix already in it
    cache.plan(slots, starts, counts)                       # which tokens the coming forward pass adds
    y_NHC = cache.attend(layer, q_NHC, k_NKC, v_NKC)        # a `Past` (model/attention.py)
    cache.release(slot, tokens)                             # the tokens stay, for whoever continues them

Rows of one step differ in length, and a Python loop over them would cost more than the attention. So `plan` sorts them into
few groups of similar length (all decodes are one group), pads each group to a rectangle, and `attend` runs one
scaled_dot_product_attention per group over views of the cache, or over a copy where the rows lie too far apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fledge.model.transformer import ModelConfig

WORTH_WAITING = 16  # tokens: shorter prefixes are computed twice rather than waited for
DENSE = 0.5  # share of a range of slots in use above which it is attended in place, idle slots included


class Found(NamedTuple):
    """A slot to fill, and how many of the prompt's tokens are in it already."""

    slot: int
    reused: int


class Slots:
    """Which tokens lie in which slot, and which slots are free (least recently used first)."""

    def __init__(self, slots: int, context: int) -> None:
        self.tokens = np.full((slots, context), -1, np.int32)
        self.known = np.zeros(slots, np.int64)
        """Tokens recorded per slot: those in the cache, and those of a prompt that is being computed."""
        self.ready = np.zeros(slots, np.int64)
        """Of these, how many are in the cache."""
        self.free = deque(range(slots))

    def acquire(self, prompt: Sequence[int]) -> tuple[int, int, int] | None:
        """(slot, donor, n): copy n tokens from donor to slot, both may be the same. At least one token is left to compute.

        None: no slot is free, or another request is just computing a prefix worth waiting for.
        """
        if not self.free:
            return None
        wanted = np.asarray(prompt[: self.tokens.shape[1]], np.int32)
        limit = min(len(prompt) - 1, len(wanted))
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


@dataclass(frozen=True)
class Group:
    """Rows padded to a rectangle of S slots x P queries x M keys."""

    shape: tuple[int, ...]
    """S, P."""
    place_SP: Tensor | None
    """For each query of the rectangle its place among the flat tokens; padding repeats a real one. None: in order."""
    kept: Tensor | None
    """Places of the rectangle, flattened, that are real; None: all."""
    flat: Tensor | None
    """Where the real ones go among the flat tokens; None: the group is the whole step, in order."""
    slots: slice | Tensor
    lines: np.ndarray
    """Lines of the rectangle that are rows of the step; the others are idle slots."""
    keys: int
    causal: bool
    biases: dict[int | None, Tensor | None]
    """Additive mask by window; None: nothing to hide but what `causal` says."""


class SlotCache:
    """Keys and values of all layers, in slots."""

    def __init__(
        self, config: ModelConfig, *, slots: int, context: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self.context, self.device, self.dtype = config, context, device, dtype
        self.slots = Slots(slots, context)
        self.keys, self.values = self.room(slots), self.room(slots)
        self.raw = self.room_for_raw(slots) if config.key_filter else None
        self._decoding = np.empty(0, np.int64)
        """Slots of the last step, if it only decoded."""
        self.windows = [config.window(layer) for layer in range(config.layers)]

    def room(self, slots: int) -> Tensor:
        """Heads before positions: one head's keys lie together, which is what a decoding step streams through."""
        config = self.config
        shape = (config.layers, slots, config.kv_heads, self.context, config.channels)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def room_for_raw(self, slots: int) -> Tensor:
        """Raw keys for the two-tap filter; position p lies at p + 1, so that what is before the first is 0."""
        config = self.config
        shape = (config.layers, slots, self.context + 1, config.kv_heads, config.channels)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    @property
    def bytes(self) -> int:
        """Memory of the whole cache."""
        return sum(part.nbytes for part in (self.keys, self.values, self.raw) if part is not None)

    def acquire(self, prompt: Sequence[int]) -> Found | None:
        """A slot holding the longest known prefix of `prompt`, or None if the request has to wait."""
        found = self.slots.acquire(prompt)
        if found is None:
            return None
        slot, donor, n = found
        if n and slot != donor:
            self.keys[:, slot, :, :n] = self.keys[:, donor, :, :n]
            self.values[:, slot, :, :n] = self.values[:, donor, :, :n]
            if self.raw is not None:
                self.raw[:, slot, : n + 1] = self.raw[:, donor, : n + 1]
        return Found(slot, n)

    def release(self, slot: int, tokens: Sequence[int]) -> None:
        """Free a slot; the keys of `tokens` stay in it."""
        self.slots.release(slot, tokens)

    def plan(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        """Lay out the coming step: row r adds `counts[r]` tokens from position `starts[r]` on to slot `slots[r]`."""
        first = counts.cumsum() - counts
        within = np.arange(counts.sum()) - np.repeat(first, counts)
        positions = within + np.repeat(starts, counts)
        slot_N = np.repeat(slots, counts)
        self.position_N = self._tensor(positions)
        heads = np.arange(self.config.kv_heads)
        self.write_NK = self._tensor(
            ((slot_N[:, None] * len(heads) + heads) * self.context + positions[:, None]).ravel()
        )
        if self.raw is not None:
            self.raw_N = self._tensor(slot_N * (self.context + 1) + positions)
        if counts.max() == 1 and np.array_equal(slots, self._decoding):
            # The same rows decode on: only positions and lengths have changed.
            self.groups = [self._longer(self.groups[0], positions)]
        else:
            self.groups = [
                self._group(rows, slots, starts, counts, first, whole=len(rows) == len(counts))
                for rows in self._similar(starts, counts)
            ]
            self._decoding = slots if counts.max() == 1 else np.empty(0, np.int64)
        self.note_progress(slots, starts, counts)

    def note_progress(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        """Later requests may copy these keys: their turn comes after this step's forward pass."""
        prompts = starts < self.slots.known[slots]
        self.slots.ready[slots[prompts]] = (starts + counts)[prompts]

    def _similar(self, starts: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
        """Rows of similar length: decodes, then by powers of two, those that begin at 0 apart."""
        if counts.max() == 1:
            return [np.arange(len(counts))]
        kind = 2 * np.ceil(np.log2(counts)).astype(np.int64) + (starts == 0)
        kind[counts == 1] = 0
        return [np.flatnonzero(kind == value) for value in np.unique(kind)]

    def _group(
        self,
        rows: np.ndarray,
        slots: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
        first: np.ndarray,
        *,
        whole: bool,
    ) -> Group:
        rows = rows[np.argsort(slots[rows], kind="stable")]
        span = int(slots[rows[-1]] - slots[rows[0]]) + 1
        if len(rows) >= DENSE * span:
            low = int(slots[rows[0]])
            where: slice | Tensor = slice(low, low + span)
            lines = slots[rows] - low
        else:
            where, span, lines = self._tensor(slots[rows]), len(rows), np.arange(len(rows))
        queries, keys = int(counts[rows].max()), int((starts + counts)[rows].max())
        last, begin, origin = (np.zeros(span, np.int64) for _ in range(3))  # an idle slot asks from position 0
        last[lines], begin[lines], origin[lines] = counts[rows] - 1, starts[rows], first[rows]
        offset = np.minimum(np.arange(queries), last[:, None])
        place = origin[:, None] + offset
        real = np.zeros((span, queries), bool)
        real[lines] = np.arange(queries) < counts[rows][:, None]
        flat = place[real]
        in_order = whole and bool((flat == np.arange(len(flat))).all())
        causal = queries > 1 and not starts[rows].any()
        if causal:
            keys = queries
        is_identity = in_order and bool(real.all())
        return Group(
            shape=real.shape,
            place_SP=None if is_identity else self._tensor(place),
            kept=None if real.all() else self._tensor(np.flatnonzero(real)),
            flat=None if in_order else self._tensor(flat),
            slots=where,
            lines=lines,
            keys=keys,
            causal=causal,
            biases=self._biases(begin[:, None] + offset, keys, causal=causal),
        )

    def _longer(self, group: Group, positions: np.ndarray) -> Group:
        """The same decoding rows, now at `positions`."""
        begin = np.zeros((group.shape[0], 1), np.int64)
        begin[group.lines, 0] = positions
        keys = int(positions.max()) + 1
        return replace(group, keys=keys, biases=self._biases(begin, keys, causal=False))

    def _biases(self, positions_SP: np.ndarray, keys: int, *, causal: bool) -> dict[int | None, Tensor | None]:
        return {window: self._bias(positions_SP, keys, window, causal=causal) for window in set(self.windows)}

    def _bias(self, positions_SP: np.ndarray, keys: int, window: int | None, *, causal: bool) -> Tensor | None:
        """0 where a query may look, -inf elsewhere: (S, 1, G * P, M), rows repeated for the G heads that share a key head."""
        if window is None or window >= keys:
            if causal or (positions_SP == keys - 1).all():
                return None
            window = None
        distance = self._tensor(positions_SP)[:, :, None] - torch.arange(keys, device=self.device)
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        bias = torch.zeros(hidden.shape, device=self.device, dtype=self.dtype).masked_fill_(hidden, float("-inf"))
        group = self.config.heads // self.config.kv_heads
        return bias[:, None].repeat(1, 1, group, 1) if group > 1 else bias[:, None]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64, copy=False)).to(self.device)

    def shift_keys(self, layer: int, k_NKC: Float[Tensor, "N K C"]) -> Float[Tensor, "N K C"]:
        """Store the raw keys; return the raw key before each token, 0 before the first."""
        assert self.raw is not None, "the model has no key filter"
        raw = self.raw[layer].flatten(0, 1)
        raw.index_copy_(0, self.raw_N + 1, k_NKC)
        return raw.index_select(0, self.raw_N)

    def attend(self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor) -> Tensor:
        """Store keys and values, then let every token look at its own sequence."""
        keys, values = self.keys[layer], self.values[layer]
        # One index instead of the two of keys[slots, :, positions] = k: a step of one request gets a tenth faster.
        keys.view(-1, self.config.channels).index_copy_(0, self.write_NK, k_NKC.flatten(0, 1))
        values.view(-1, self.config.channels).index_copy_(0, self.write_NK, v_NKC.flatten(0, 1))
        window = self.windows[layer]
        out = None if self.groups[0].flat is None else torch.empty_like(q_NHC)
        for group in self.groups:
            y = _attend_group(q_NHC, keys, values, group, group.biases[window])
            if out is None:
                return y
            out[group.flat] = y
        assert out is not None
        return out


def _attend_group(q_NHC: Tensor, keys: Tensor, values: Tensor, group: Group, bias: Tensor | None) -> Tensor:
    span, queries = group.shape
    shared, channels = keys.size(1), keys.size(3)
    q = q_NHC if group.place_SP is None else q_NHC[group.place_SP]
    # Query heads that share a key head join the queries, so that keys are not repeated.
    k, v = keys[:, :, : group.keys][group.slots], values[:, :, : group.keys][group.slots]
    if queries == 1:
        q = q.reshape(span, shared, -1, channels)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).reshape(span, -1, channels)
        return y if group.kept is None else y[group.kept]
    q = q.view(span, queries, shared, -1, channels).permute(0, 2, 3, 1, 4)
    per = q.size(2)
    if bias is None and group.causal:
        k, v = (part[:, :, None].expand(-1, -1, per, -1, -1).flatten(1, 2) for part in (k, v))
        y = F.scaled_dot_product_attention(q.flatten(1, 2), k, v, is_causal=True)
    else:
        y = F.scaled_dot_product_attention(q.reshape(span, shared, per * queries, channels), k, v, attn_mask=bias)
    y = y.reshape(span, shared, per, queries, channels).permute(0, 3, 1, 2, 4)
    y = y.reshape(span * queries, shared * per, channels)
    return y if group.kept is None else y[group.kept]
