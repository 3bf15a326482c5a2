"""On GPUs: rows of any lengths attended by one kernel, and decoding steps recorded once and replayed.

    kernel = find_kernel(config, device=device, dtype=torch.bfloat16)        # None: attend by groups (infer/cache.py)
    cache = PagedCache(config, slots=256, context=2048, device=device, dtype=torch.bfloat16, kernel=kernel)
    steps = DecodingSteps(model, cache, most=256)
    logits_RV = steps(tokens, previous, slots, positions)                   # one new token for each of R rows

The kernel is torch's own (`torch.nn.attention.varlen`, FlashAttention behind it); every slot of the cache is a page of it.
What it supports depends on torch, driver and card, so it is used only where it agrees with scaled_dot_product_attention on a
step that has everything in it.

A recorded step (CUDA graph) is one launch instead of hundreds. It has a fixed number of rows, so steps come in sizes 1, 2, 4,
... and rows are filled up with ones that read and write the cache's spare slot. Everything that changes between steps is one
small tensor of whole numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fledge import console
from fledge.infer.cache import SlotCache
from fledge.model.forward import Flat, InferenceModel
from fledge.model.transformer import ModelConfig

PAGE = 256  # FlashAttention reads pages of a multiple of this many tokens
TOLERANCE = 0.05  # on values of size 1: bfloat16 keeps 8 bits
RECORDING = threading.Lock()

Kernel = Callable[..., Any]
"""Takes the arguments of `torch.nn.attention.varlen.varlen_attn`."""


class PagedCache(SlotCache):
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

    def plan(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        self.place(slots, starts, counts)
        begins = self._tensor(np.append(0, counts.cumsum()))
        self._rows(self._tensor(slots), self._tensor(starts + counts), begins, most=int(counts.max()))

    def plan_decoding(self, slots_R: Tensor, positions_R: Tensor) -> None:
        """Every row adds one token. Computed on the device alone, so that it can be recorded."""
        self.position_N = positions_R
        self.write = self.index(slots_R, positions_R, torch.arange(self.config.kv_heads, device=self.device))
        rows = torch.arange(len(slots_R) + 1, device=self.device)
        self._rows(slots_R, positions_R + 1, rows, most=1)

    def _rows(self, slots_R: Tensor, ends_R: Tensor, begins: Tensor, *, most: int) -> None:
        self.begins, self.most_queries = begins.int(), most
        self.pages_R1, self.ends_R = slots_R[:, None].int(), ends_R.int()
        # FlashAttention 2 looks keys up by page, and still refuses to run without these.
        self.page_begins = torch.arange(len(begins), device=self.device, dtype=torch.int32) * self.page

    def attend(self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor) -> Tensor:
        self.store(layer, k_NKC, v_NKC)
        keys, values = (part[layer].transpose(1, 2) for part in (self.keys, self.values))
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
    caches = (PagedCache(config, **settings, kernel=kernel), SlotCache(config, **settings))
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


@dataclass(frozen=True)
class Recorded:
    """A step of one size. `graph` None: it is computed anew from its inputs each time."""

    inputs: Tensor
    """tokens, tokens before them, slots, positions: (4, size)."""
    graph: torch.cuda.CUDAGraph | None
    logits: Tensor | None


class DecodingSteps:
    """Decoding steps of a model and a cache by size, recorded on their first use."""

    def __init__(self, model: InferenceModel, cache: PagedCache, *, most: int) -> None:
        """most: rows of the largest step."""
        self.model, self.cache, self.most = model, cache, most
        self.record = cache.device.type == "cuda"
        self.recorded: dict[int, Recorded] = {}
        self.aside = torch.cuda.Stream(cache.device) if self.record else None
        self.pool = torch.cuda.graph_pool_handle() if self.record else None

    def forget(self) -> None:
        """The model's matrices are others now."""
        self.recorded.clear()
        if self.record:
            self.pool = torch.cuda.graph_pool_handle()  # torch refuses a pool whose recordings are all gone

    @torch.inference_mode()
    def __call__(
        self, tokens: np.ndarray, previous: np.ndarray, slots: np.ndarray, positions: np.ndarray
    ) -> Float[Tensor, "R V"]:
        """Logits of every row. They are valid until the next call."""
        rows = len(tokens)
        size = min(1 << (rows - 1).bit_length(), self.most)
        step = self.recorded.get(size) or self._new(size)
        filled = idle_rows(size, spare=self.cache.keys.size(1) - 1)
        filled[:, :rows] = tokens, previous, slots, positions
        step.inputs.copy_(torch.from_numpy(filled))
        self.cache.slots.note_progress(slots, positions + 1)
        if step.graph is None or step.logits is None:
            return self._compute(step.inputs)[:rows]
        step.graph.replay()
        return step.logits[:rows]

    def _compute(self, inputs: Tensor) -> Tensor:
        tokens_R, previous_R, slots_R, positions_R = inputs.unbind()
        self.cache.plan_decoding(slots_R, positions_R)
        every = torch.arange(inputs.size(1), device=inputs.device)
        flat = Flat(tokens_N=tokens_R, previous_N=previous_R, positions_N=positions_R, last_R=every)
        return self.model.extend(flat, self.cache)

    def _new(self, size: int) -> Recorded:
        inputs = torch.from_numpy(idle_rows(size, spare=self.cache.keys.size(1) - 1)).to(self.cache.device)
        step = Recorded(inputs, None, None)
        if self.record:
            try:
                step = self._recording(inputs)
            except RuntimeError as error:
                self.record = False
                console.say(f"decoding steps are not recorded: {str(error).partition(chr(10))[0]}")
        self.recorded[size] = step
        return step

    def _recording(self, inputs: Tensor) -> Recorded:
        # One recording at a time in a process: torch waits for the whole GPU before each, which breaks another one's.
        with RECORDING, torch.cuda.device(self.cache.device):
            aside = self.aside
            assert aside is not None
            aside.wait_stream(torch.cuda.current_stream())
            # The outer `stream` leads back also where recording fails; torch's own way out does not.
            with torch.cuda.stream(aside):
                # What is allocated or chosen on first use, by stream even, must not happen while recording.
                for _ in range(2):
                    self._compute(inputs)
                graph = torch.cuda.CUDAGraph()
                # Without `stream` torch records on a stream of whichever GPU recorded first. Other threads may allocate meanwhile.
                with torch.cuda.graph(graph, pool=self.pool, stream=aside, capture_error_mode="thread_local"):
                    logits = self._compute(inputs)
            torch.cuda.current_stream().wait_stream(aside)
        return Recorded(inputs, graph, logits)


def idle_rows(size: int, *, spare: int) -> np.ndarray:
    """Rows that put token 0 at the beginning of the spare slot."""
    return np.array([[0], [-1], [spare], [0]]).repeat(size, 1)
