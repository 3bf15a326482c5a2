"""How much memory a training takes, by a law, and what of it fits on a device.

    need = Memory.of(config, length=2048, rows=8)                # bytes by part
    rows, recompute = fitting(config, length=2048, free_bytes=24 << 30)

Per token a compiled pass keeps 38 bytes for each layer and channel: relu squared and its input 16, normed inputs 6, q, k, v 6 and
q, k before their norm 4, attention's output 4, the stream 2. The tests count them in the graph. For each vocabulary entry it keeps
2, the gradient of the logits, which are there for a chunk of the tokens alone. On one H200, when they were there for all, peaks
were .87 (depth 12) and .94 (depth 20) of the law compiled, and 1.0 eager (docs/why.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from fledge.config import Recompute
from fledge.model.head import CHUNK
from fledge.model.transformer import ModelConfig, Transformer
from fledge.settings import DoesNotFit

FREE_SHARE = 0.9
"""Of what is free: the allocator's pieces do not fit together without a gap."""
ENOUGH_ROWS = 4
"""With fewer in a pass, computing a part of it twice is quicker: MLPs twice cost 2 % at depth 20 (docs/why.md)."""
BODY: dict[Recompute, tuple[int, int]] = {"no": (38, 0), "mlp": (20, 18), "block": (2, 46)}
"""Bytes per token that a compiled backward pass needs: per layer and channel, and per channel while one layer is computed again."""
EAGER_BODY: dict[Recompute, tuple[int, int]] = {"no": (44, 18), "mlp": (26, 36), "block": (2, 70)}
HEAD, LOGITS, EAGER_LOGITS = 2, 2, 24
"""Bytes per vocabulary entry: for each token, and for each of a chunk, in eager code in float32."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a training on one device, by part."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    """The matrices in bfloat16, and the unembedding's gradient until it is added to the others."""
    activations: int
    logits: int
    transient: int
    """What the optimizer needs beside its state while it moves the largest shape, when activations and logits are gone."""

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        *,
        length: int,
        rows: int,
        recompute: Recompute = "no",
        compiled: bool = True,
        shards: int = 1,
    ) -> Memory:
        """Of passes of `rows` x `length` tokens with Muon in bfloat16, where each device keeps one of `shards` of the states."""
        with torch.device("meta"):  # counts without memory
            counts = Transformer(config).parameter_counts()
        matrix, total = counts["matrix"], counts["total"]
        layer, once = (BODY if compiled else EAGER_BODY)[recompute]
        layer += 2 * (config.key_filter + config.residual_scales)
        once += 2 * (config.backout + bool(config.pairs))
        tokens = rows * length
        copies, moved = 2 * matrix + 6 * counts["unembedding"], 0
        if shards > 1:  # whole are a layer, the next, and what is no layer; then what the optimizer moves
            copies, moved = 8 * (2 * matrix // config.layers + total - matrix), 8 * total
        return cls(
            weights=4 * total // shards,
            gradients=4 * total // shards,
            optimizer=(4 * matrix + 8 * (total - matrix)) // shards,  # Muon keeps one average, AdamW two
            copies=copies,
            activations=tokens * config.width * (layer * config.layers + once),
            logits=config.rows * (HEAD * tokens + (LOGITS if compiled else EAGER_LOGITS) * min(tokens, CHUNK)),
            transient=(16 * 4 * config.width**2 * config.layers + moved) // shards,
        )

    @property
    def states(self) -> int:
        """What stays from step to step."""
        return self.weights + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        """The most that is held at a time."""
        return self.states + max(self.copies + self.activations + self.logits, self.transient)


def fitting(
    config: ModelConfig,
    *,
    length: int,
    free_bytes: float,
    compiled: bool = True,
    rows: int | None = None,
    recompute: Recompute | None = None,
    shards: int = 1,
) -> tuple[int, Recompute]:
    """Most rows of a pass that fit, a power of two, and what must be computed twice for four of them to fit.

    Args:
        rows: wanted instead of the most.
        recompute: wanted instead of the least.

    Raises:
        DoesNotFit: not one row does; says what it takes.
    """
    most, needed = 0, partial(Memory.of, config, length=length, compiled=compiled, shards=shards)
    policy: Recompute = recompute or "no"
    for policy in (recompute,) if recompute else BODY:
        most = _rows(partial(needed, recompute=policy), FREE_SHARE * free_bytes)
        if most >= (rows or ENOUGH_ROWS):
            break
    if not most:
        need = needed(rows=1, recompute=policy)
        raise DoesNotFit(
            f"depth {config.layers}, width {config.width}: weights, gradients and optimizer take {need.states / 1e9:.1f} GB, "
            f"{need.peak / 1e9:.1f} with a single row of {length} tokens (--recompute {policy}); {free_bytes / 1e9:.1f} GB "
            f"are free, of which {FREE_SHARE:.0%} can be used. Lower "
            f"{'--model.pairs, ' * bool(config.pairs)}--model.depth or --model.context, or take a larger "
            "device, or several with --shard"
        )
    return rows or most, policy


def _rows(needed: Callable[..., Memory], usable: float) -> int:
    rows = 1
    while needed(rows=rows).peak <= usable:
        rows *= 2
    return rows // 2
