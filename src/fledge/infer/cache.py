"""The KV cache: keys and values of all layers, one slot of `context` positions per sequence.

    cache = SlotCache(config, slots=64, context=512, device=device, dtype=torch.float32)
    slot, reused = cache.acquire(prompt)                    # a free slot, the longest known prefix already in it
    cache.plan(slots, starts, counts)                       # which tokens the coming forward pass adds
    y_NHC = cache.attend(layer, q_NHC, k_NKC, v_NKC)        # a `Past` (model/attention.py)
    cache.slots.release(slot, tokens)                       # the tokens stay, for whoever continues them

Rows of one step differ in length. Neighbours that add equally many tokens form a rectangle, and `attend` runs one
scaled_dot_product_attention per rectangle: all decodes are one, over views of the cache; prompts of one length from the
beginning are another, attended like rows of training; most else is a rectangle of one row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fledge.infer.slots import Slots
from fledge.model.attention import attend
from fledge.model.transformer import ModelConfig, Transformer

Numbers = TypeVar("Numbers", np.ndarray, Tensor)
DENSE = 0.5  # share of a range of slots in use above which it is attended in place, idle slots included


@dataclass(frozen=True)
class Rectangle:
    """Neighbouring rows of a step that add equally many tokens, S rows of P queries over M keys."""

    place: slice
    """Of the step's tokens."""
    queries: int
    slots: slice | Tensor | None = None
    """Where the keys are. None: all rows begin at position 0, so that the step's own keys are all there is to see."""
    lines: Tensor | None = None
    """Lines of `slots` that are rows of the step, the others being idle. None: every one."""
    keys: int = 0
    biases: dict[int | None, Tensor | None] = field(default_factory=dict)
    """Additive mask by window; None: nothing to hide."""


def default_slots(model: Transformer, context: int, dtype: torch.dtype) -> int:
    """64 (CPU) or 256 (GPU) answers at once, or as many as fit into 2 GiB or a third of the free GPU memory."""
    config = model.config
    per_slot = 3 * config.layers * context * config.kv_heads * config.channels * dtype.itemsize
    if model.embedding.is_cuda:
        free, _ = torch.cuda.mem_get_info(model.embedding.device)
        return max(1, min(256, free // 3 // per_slot))
    return max(1, min(64, (2 << 30) // per_slot))


class SlotCache:
    """Keys and values of all layers, in slots."""

    def __init__(
        self, config: ModelConfig, *, slots: int, context: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self.context, self.device, self.dtype = config, context, device, dtype
        self.slots = Slots(slots, context)
        self.keys, self.values = self.room(slots), self.room(slots)
        self.raw = self.room(slots) if config.key_filter else None
        """Keys as they were before the two-tap filter."""
        self.windows = [config.window(layer) for layer in range(config.layers)]
        # Each layer once more as it lies in memory: a line of channels for every slot, head and position.
        size = (self.keys[0].numel() // config.channels, config.channels)
        self.tables = [
            [part[layer].as_strided(size, (size[1], 1)) for part in self.parts] for layer in range(config.layers)
        ]
        self.strides = [stride // config.channels for stride in self.keys[0].stride()[:3]]
        """Lines from one slot, head, position to the next."""

    def room(self, slots: int) -> Tensor:
        """Heads before positions: one head's keys lie together, which is what a decoding step streams through."""
        config = self.config
        shape = (config.layers, slots, config.kv_heads, self.context, config.channels)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    @property
    def parts(self) -> list[Tensor]:
        """Everything that is kept of a token."""
        return [part for part in (self.keys, self.values, self.raw) if part is not None]

    @property
    def bytes(self) -> int:
        """Memory of the whole cache."""
        return sum(part.nbytes for part in self.parts)

    def acquire(self, prompt: Sequence[int], *, reuse: bool = True) -> tuple[int, int] | None:
        """A slot and how many tokens of `prompt` are in it, the longest known prefix. None: the request has to wait."""
        found = self.slots.acquire(prompt, reuse=reuse)
        if found is None:
            return None
        slot, donor, n = found
        if n and slot != donor:
            for part in self.parts:
                part[:, slot, :, :n] = part[:, donor, :, :n]
        return slot, n

    def plan(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        """Lay out the coming step: row r adds `counts[r]` tokens from position `starts[r]` on to slot `slots[r]`.

        Fastest where decoding rows stand together, by slot, and others by length.
        """
        self.place(slots, starts, counts)
        kind = counts * 2 + ((starts == 0) & (counts > 1))
        edges = [0, *((kind[1:] != kind[:-1]).nonzero()[0] + 1).tolist(), len(kind)]
        self.rectangles, first = [], 0
        for begin, end in itertools.pairwise(edges):
            rows, count = slice(begin, end), int(counts[begin])
            place = slice(first, first + (end - begin) * count)
            self.rectangles.append(self._rectangle(place, slots[rows], starts[rows], count))
            first = place.stop

    def place(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        """Where the coming step's tokens go."""
        ends = counts.cumsum()
        positions = np.arange(ends[-1]) + (starts + counts - ends).repeat(counts)
        self.position_N = self._tensor(positions)
        self.write = self._tensor(self.index(slots.repeat(counts), positions, np.arange(self.config.kv_heads)))
        self.slots.note_progress(slots, starts + counts)

    def index(self, slot_N: Numbers, position_N: Numbers, heads: Numbers) -> Numbers:
        """Lines of a layer's table, one per token and head."""
        slot, head, position = self.strides
        return ((slot_N * slot + position_N * position)[:, None] + heads * head).reshape(-1)

    def _rectangle(self, place: slice, slots: np.ndarray, starts: np.ndarray, queries: int) -> Rectangle:
        if queries > 1 and not starts.any():
            return Rectangle(place, queries)
        low, span = int(slots[0]), int(slots[-1] - slots[0]) + 1
        keys = int(starts.max()) + queries
        where, lines = slice(low, low + span), None
        if len(slots) < DENSE * span or (slots[1:] <= slots[:-1]).any():
            where = self._tensor(slots)
        elif len(slots) < span:
            lines = self._tensor(slots - low)
            all_starts = np.full(span, keys - queries)  # an idle slot hides nothing
            all_starts[slots - low] = starts
            starts = all_starts
        biases = {window: self._bias(starts, queries, keys, window) for window in set(self.windows)}
        return Rectangle(place, queries, where, lines, keys, biases)

    def _bias(self, starts: np.ndarray, queries: int, keys: int, window: int | None) -> Tensor | None:
        """0 where a query may look, -inf elsewhere: (S, 1, P, M)."""
        if window is not None and window >= keys:
            window = None
        if window is None and queries == 1 and (starts == keys - 1).all():
            return None
        positions_SP = self._tensor(starts[:, None] + np.arange(queries))
        distance = positions_SP[:, :, None] - torch.arange(keys, device=self.device)
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        bias = torch.zeros(hidden.shape, device=self.device, dtype=self.dtype)
        return bias.masked_fill_(hidden, float("-inf"))[:, None]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64, copy=False)).to(self.device)

    def shift_keys(self, layer: int, k_NKC: Float[Tensor, "N K C"]) -> Float[Tensor, "N K C"]:
        """Store the raw keys; return the raw key before each token, 0 before the first."""
        raw = self.tables[layer][2]
        raw.index_copy_(0, self.write, k_NKC.flatten(0, 1))
        return raw[self.write - self.strides[2]].view(k_NKC.shape) * (self.position_N > 0)[:, None, None]

    def store(self, layer: int, k_NKC: Tensor, v_NKC: Tensor) -> None:
        # One index instead of the two of keys[slots, :, positions] = k: a step of one request gets a tenth faster.
        keys, values, *_ = self.tables[layer]
        keys.index_copy_(0, self.write, k_NKC.flatten(0, 1))
        values.index_copy_(0, self.write, v_NKC.flatten(0, 1))

    def attend(self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor) -> Tensor:
        """Store keys and values, then let every token look at its own sequence."""
        self.store(layer, k_NKC, v_NKC)
        window = self.windows[layer]
        found = []
        for rectangle in self.rectangles:
            new = (x if len(self.rectangles) == 1 else x[rectangle.place] for x in (q_NHC, k_NKC, v_NKC))
            if rectangle.slots is None:
                rows = (x.unflatten(0, (-1, rectangle.queries)) for x in new)
                found.append(attend(*rows, window=window).flatten(0, 1))
            else:
                found.append(self._attend_slots(layer, next(new), rectangle))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attend_slots(self, layer: int, q_NHC: Tensor, rectangle: Rectangle) -> Tensor:
        heads, shared, channels = self.config.heads, self.config.kv_heads, self.config.channels
        k, v = (part[layer][rectangle.slots, :, : rectangle.keys] for part in (self.keys, self.values))
        if rectangle.queries == 1:
            # Query heads that share a key head become its queries, so that keys are not repeated.
            q = q_NHC.reshape(-1, shared, heads // shared, channels)
        else:
            q = q_NHC.unflatten(0, (-1, rectangle.queries)).transpose(1, 2)
        lines = rectangle.lines
        if lines is not None:
            q = q.new_zeros(len(k), *q.shape[1:]).index_copy_(0, lines, q)
        bias = rectangle.biases[self.windows[layer]]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=q.size(1) != shared)
        y = y if lines is None else y[lines]
        return (y if rectangle.queries == 1 else y.transpose(1, 2)).reshape(q_NHC.shape)
