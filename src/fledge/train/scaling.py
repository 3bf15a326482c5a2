"""What depth decides beyond width, heads and tokens: batch, rates, decay and schedule, as laws relative to depth 12.

    horizon = reference_tokens(ratio=12, rows=32_768)        # 1.32e9: a depth of 12, at which rates and decay were tuned
    batch = batch_tokens(5.2e9, reference=horizon, context=2048)                 # 1_048_576
    rate_scale(batch), decay_scale(batch, tokens=5.2e9, reference=horizon)       # 1.41, .36

All of it in the form in which nanochat measured and runs it (its dev/LOG.md of January to March 2026, depth 10 to 26); below
depth 8 the laws are extrapolated. Whatever a user gives by hand stays as it was given.
"""

from __future__ import annotations

import math

REFERENCE_BATCH = 2**19
"""Tokens of a step at which the rates were tuned."""
REFERENCE_DEPTH, REFERENCE_WIDTH = 12, 768
WARMUP_STEPS, WARMUP = 40, 0.1
WARMDOWN, FINAL_SHARE = 0.65, 0.05


def reference_tokens(*, ratio: float, rows: int) -> float:
    """Tokens of a training at depth 12: `ratio` per weight of its matrices and unembedding (`rows` x width)."""
    return ratio * (12 * REFERENCE_DEPTH * REFERENCE_WIDTH**2 + rows * REFERENCE_WIDTH)


def batch_tokens(tokens: float, *, reference: float, context: int) -> int:
    """Tokens of a step: 2^19 (tokens / reference)^.383, to the nearest power of two, and in whole rows of `context`.

    Source: the best batch grows with the tokens as D^.383 (Bergsma et al. 2025, arXiv:2505.13738).
    """
    best = 2 ** round(math.log2(REFERENCE_BATCH * (tokens / reference) ** 0.383))
    return context * max(1, round(best / context))


def rate_scale(batch: float, *, at: float = REFERENCE_BATCH) -> float:
    """What rates tuned at `at` tokens per step are multiplied by: the root, as for Adam (Malladi et al. 2022, arXiv:2205.10287)."""
    return math.sqrt(batch / at)


def decay_scale(batch: float, *, tokens: float, reference: float) -> float:
    """What the decay is multiplied by, so that weights average over the same share of the training (arXiv:2505.13738)."""
    return rate_scale(batch) * reference / tokens


def warmup(steps: int) -> float:
    """The share of the steps in which the rates rise: 40 of them, or a tenth where those are fewer."""
    return min(WARMUP, WARMUP_STEPS / steps)
