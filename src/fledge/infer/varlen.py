"""Attention without padding, on GPUs: rows of any lengths in one kernel, every slot of the cache a page of it.

    kernel = find_kernel(config, device=device, dtype=torch.bfloat16)        # None: attend by groups (infer/cache.py)
    cache = VarlenCache(config, slots=256, context=2048, device=device, dtype=torch.bfloat16, kernel=kernel)

The kernel is torch's own (`torch.nn.attention.varlen`, FlashAttention behind it). What it supports depends on torch, driver and
card, so it is used only where it agrees with scaled_dot_product_attention on a step that has everything in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge import console
from fledge.infer.cache import SlotCache
from fledge.model.transformer import ModelConfig

PAGE = 256  # FlashAttention reads pages of a multiple of this many tokens
TOLERANCE = 0.05  # on values of size 1: bfloat16 keeps 8 bits

Kernel = Callable[..., Any]
"""Takes the arguments of `torch.nn.attention.varlen.varlen_attn`."""


class VarlenCache(SlotCache):
    """Slots as pages. A last slot beyond the others belongs to nobody: rows that fill up a replayed step write there."""

    def __init__(
        self, config: ModelConfig, *, slots: int, context: int, device: torch.device, dtype: torch.dtype, kernel: Kernel
    ) -> None:
        self.page, self.kernel = -(-context // PAGE) * PAGE, kernel
        super().__init__(config, slots=slots, context=context, device=device, dtype=dtype)

    def room(self, slots: int) -> Tensor:
        """Positions before heads, as the kernel reads pages; seen with heads first, like every cache."""
        config = self.config
        shape = (config.layers, slots + 1, self.page, config.kv_heads, config.channels)
        return torch.zeros(shape, device=self.device, dtype=self.dtype).transpose(2, 3)

    def room_for_raw(self, slots: int) -> Tensor:
        return super().room_for_raw(slots + 1)

    def plan(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        first = counts.cumsum() - counts
        positions = np.arange(counts.sum()) - np.repeat(first - starts, counts)
        self._place(self._tensor(np.repeat(slots, counts)), self._tensor(positions))
        begins = self._tensor(np.append(first, counts.sum()))
        self._rows(self._tensor(slots), self._tensor(starts + counts), begins, most=int(counts.max()))
        self.note_progress(slots, starts, counts)

    def plan_decoding(self, slots_R: Tensor, positions_R: Tensor) -> None:
        """Every row adds one token. Computed on the device alone, so that it can be recorded."""
        self._place(slots_R, positions_R)
        rows = torch.arange(len(slots_R) + 1, device=self.device)
        self._rows(slots_R, positions_R + 1, rows, most=1)

    def _place(self, slot_N: Tensor, position_N: Tensor) -> None:
        self.position_N, self.write_N = position_N, slot_N * self.page + position_N
        if self.raw is not None:
            self.raw_N = slot_N * (self.context + 1) + position_N

    def _rows(self, slots_R: Tensor, ends_R: Tensor, begins: Tensor, *, most: int) -> None:
        self.begins, self.most_queries = begins.int(), most
        self.pages_R1, self.ends_R = slots_R[:, None].int(), ends_R.int()
        # FlashAttention 2 looks keys up by page, and still refuses to run without these.
        self.page_begins = torch.arange(len(begins), device=self.device, dtype=torch.int32) * self.page

    def attend(self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor) -> Tensor:
        keys, values = (part[layer].transpose(1, 2) for part in (self.keys, self.values))
        keys.flatten(0, 1).index_copy_(0, self.write_N, k_NKC)
        values.flatten(0, 1).index_copy_(0, self.write_N, v_NKC)
        window = self.windows[layer]
        return self.kernel(
            q_NHC, keys, values, self.begins, self.page_begins, self.most_queries, self.page,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=True,
            seqused_k=self.ends_R,
            block_table=self.pages_R1,
        )  # fmt: skip


def find_kernel(config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """torch's variable-length attention, if this machine has it and it is right for a model of this shape."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    reason = ""
    # Keys in one piece: a row's attention then does not depend on how many others run. Else as torch likes.
    for settings in ({"num_splits": 1}, {}):
        try:
            from torch.nn.attention.varlen import varlen_attn

            kernel = partial(varlen_attn, **settings)
            worst = disagreement(kernel, config, device=device, dtype=dtype)
        except (ImportError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
        else:
            if worst <= TOLERANCE:
                return kernel
            reason = f"it differs from scaled_dot_product_attention by {worst:.2g}"
    console.say(f"variable-length attention is not used: {reason}")
    return None


@torch.inference_mode()
def disagreement(kernel: Kernel, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between the kernel and SDPA: prompts, chunks that go on, and decodes, in one step after another."""
    context, slots = min(config.context, 300), 4
    config = replace(config, context=context)
    settings = {"slots": slots, "context": context, "device": device, "dtype": dtype}
    caches = (VarlenCache(config, **settings, kernel=kernel), SlotCache(config, **settings))
    generator = torch.Generator().manual_seed(0)
    prompts, chunks, decodes = np.array([[context // 2, 1, context // 3], [context // 4, 1, 1], [1, 1, 1]])
    worst = 0.0
    for starts, counts in ((0 * prompts, prompts), (prompts, chunks), (prompts + chunks, decodes)):
        for cache in caches:
            cache.plan(np.array([3, 0, 2]), starts, counts)
        for layer in range(config.layers):
            heads = (config.heads, config.kv_heads, config.kv_heads)
            shapes = [(int(counts.sum()), count, config.channels) for count in heads]
            qkv = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
            mine, other = (cache.attend(layer, *qkv).float() for cache in caches)
            worst = max(worst, float((mine - other).abs().max()))
    return worst
