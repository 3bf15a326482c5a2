"""Decoding steps that are recorded once and replayed: on a GPU one launch instead of hundreds (CUDA graphs).

    steps = DecodingSteps(model, cache, most=256)
    logits_RV = steps(tokens, previous, slots, positions)       # one new token for each of R rows

A recorded step has a fixed number of rows, so steps come in sizes 1, 2, 4, ... and rows are filled up with ones that read and
write the cache's spare slot. Everything that changes between steps is one small tensor of whole numbers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fledge import console
from fledge.infer.varlen import VarlenCache
from fledge.model.forward import InferenceModel
from fledge.model.transformer import Flat

RECORDING = threading.Lock()


@dataclass(frozen=True)
class Recorded:
    """A step of one size. `graph` None: it is computed anew from its inputs each time."""

    inputs: Tensor
    """tokens, tokens before them, slots, positions: (4, size)."""
    graph: torch.cuda.CUDAGraph | None
    logits: Tensor | None


class DecodingSteps:
    """Decoding steps of a model and a cache by size, recorded on their first use."""

    def __init__(self, model: InferenceModel, cache: VarlenCache, *, most: int) -> None:
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
        self.cache.note_progress(slots, positions, np.ones_like(positions))
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
