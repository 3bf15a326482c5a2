"""On GPUs: rows of any lengths attended by one kernel, and decoding steps recorded once and replayed.

    cache = FlatCache(config, slots=256, context=2048, device=device, dtype=torch.bfloat16, kernel=flash)
    steps = DecodingSteps(model, cache, most=256)
    logits_RV = steps(tokens, previous, slots, positions)                   # one new token for each of R rows

The kernel is the FlashAttention in torch, told where in the cache each row's keys begin and how many there are. It is called
below `torch.nn.attention.varlen`, which passes the second on from torch 2.12 on only. It is used where it is seen to be right
(`find_kernel` of infer/check.py).

A recorded step (CUDA graph) is one launch instead of hundreds. It has a fixed number of rows, so steps come in sizes 1, 2, 4,
... and rows are filled up with ones that read and write the cache's spare slot. Everything that changes between steps is one
small tensor of whole numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fledge import console
from fledge.infer.cache import SlotCache
from fledge.model.forward import Flat, InferenceModel
from fledge.model.transformer import ModelConfig

RECORDING = threading.Lock()

Kernel = Callable[..., Tensor]
"""Takes the arguments of `flash`."""


def flash(
    q_NHC: Float[Tensor, "N H C"],
    k_SKC: Float[Tensor, "S K C"],
    v_SKC: Float[Tensor, "S K C"],
    query_begins: Tensor,
    key_begins: Tensor,
    key_counts: Tensor,
    *,
    most_queries: int,
    most_keys: int,
    window: int | None,
) -> Float[Tensor, "N H C"]:
    """Causal attention of R rows: row r's queries lie at `query_begins[r]`, its keys at `key_begins[r]` of the whole cache.

    A row's last query is its newest token. Begins are R + 1 numbers, counts R, all int32; the last of `key_begins` is not read.
    """
    return torch.ops.aten._flash_attention_forward(
        q_NHC, k_SKC, v_SKC, query_begins, key_begins, most_queries, most_keys, 0.0, window is None, False,
        window_size_left=None if window is None else window - 1,
        window_size_right=None if window is None else 0,
        seqused_k=key_counts,
    )[0]  # fmt: skip


class FlatCache(SlotCache):
    """Slots end to end, for one kernel over all of them. A spare last slot is where idle rows of a replayed step write."""

    def __init__(
        self, config: ModelConfig, *, slots: int, context: int, device: torch.device, dtype: torch.dtype, kernel: Kernel
    ) -> None:
        self.kernel = kernel
        super().__init__(config, slots=slots, context=context, device=device, dtype=dtype)

    def room(self, slots: int) -> Tensor:
        """Positions before heads, as the kernel reads them; seen with heads first, like every cache."""
        config = self.config
        shape = (config.layers, slots + 1, self.context, config.kv_heads, config.channels)
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

    def _rows(self, slots_R: Tensor, counts_R: Tensor, begins: Tensor, *, most: int) -> None:
        self.query_begins, self.most_queries = begins.int(), most
        self.key_begins, self.key_counts = F.pad(slots_R * self.context, (0, 1)).int(), counts_R.int()

    def attend(self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor) -> Tensor:
        self.store(layer, k_NKC, v_NKC)
        keys, values = (part[layer].transpose(1, 2).flatten(0, 1) for part in (self.keys, self.values))
        return self.kernel(
            q_NHC, keys, values, self.query_begins, self.key_begins, self.key_counts,
            most_queries=self.most_queries, most_keys=self.context, window=self.windows[layer],
        )  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """A step of one size. `graph` None: it is computed anew from its inputs each time."""

    inputs: Tensor
    """tokens, tokens before them, slots, positions: (4, size)."""
    graph: torch.cuda.CUDAGraph | None
    logits: Tensor | None


class DecodingSteps:
    """Decoding steps of a model and a cache by size, recorded on their first use."""

    def __init__(self, model: InferenceModel, cache: FlatCache, *, most: int) -> None:
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
