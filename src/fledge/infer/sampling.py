"""Drawing tokens from logits: pure functions over a batch in which every row has its own settings.

    settings = Settings.of([request.sampling for request in requests], device)
    tokens_R = draw(logits_RV, settings, row_keys(seeds, positions, device))

A draw is a function of (seed, position, logits) alone. The noise comes from a counter-based hash instead of a generator with
state, and the token is the winner of an exponential race, argmax p / E: equal in law to sampling from p, and where rounding
differs between batch sizes (a matrix product of 1 row and of 64 rows agree to 1e-7 only) the winner changes with a
probability near 1e-6. Inverting the cumulative sum would change with V times that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fledge.config import Sampling

MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class Settings:
    """Settings of R rows as tensors; None where no row asks for it, so that its cost is not paid."""

    temperature_R1: Float[Tensor, "R 1"] | None
    """None: every row is greedy."""
    greedy_R: Tensor | None
    top_k_R1: Int[Tensor, "R 1"] | None
    top_p_R1: Float[Tensor, "R 1"] | None
    min_p_R1: Float[Tensor, "R 1"] | None
    max_k: int

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> Settings:
        def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        greedy = [row.temperature == 0 for row in rows]
        max_k = max(row.top_k for row in rows)
        # A row without top-k keeps everything: its threshold is the smallest of the max_k best, undone by `has_k` below.
        return cls(
            temperature_R1=None if all(greedy) else column([row.temperature or 1.0 for row in rows]),
            greedy_R=torch.tensor(greedy, device=device) if any(greedy) else None,
            top_k_R1=column([row.top_k for row in rows], torch.int64) if max_k else None,
            top_p_R1=column([row.top_p for row in rows]) if any(row.top_p < 1 for row in rows) else None,
            min_p_R1=column([row.min_p for row in rows]) if any(row.min_p > 0 for row in rows) else None,
            max_k=max_k,
        )


def draw(logits_RV: Float[Tensor, "R V"], settings: Settings, keys_R2: Int[Tensor, "R 2"] | None) -> Int[Tensor, " R"]:
    """One token per row: the likeliest where the temperature is 0, else drawn from the truncated distribution."""
    if settings.temperature_R1 is None:
        return logits_RV.argmax(-1)
    assert keys_R2 is not None, "rows with a temperature need keys"
    p = tempered(logits_RV, settings).softmax(-1)
    tokens = p.div_(exponential_noise(keys_R2, p.size(-1))).argmax(-1)
    if settings.greedy_R is not None:
        tokens = torch.where(settings.greedy_R, logits_RV.argmax(-1), tokens)
    return tokens


def tempered(logits_RV: Float[Tensor, "R V"], settings: Settings) -> Float[Tensor, "R V"]:
    """The logits of what is drawn from, where some row is."""
    return logits_RV if settings.temperature_R1 is None else truncate(logits_RV / settings.temperature_R1, settings)


def truncate(z_RV: Float[Tensor, "R V"], settings: Settings) -> Float[Tensor, "R V"]:
    """Logits with what top-k, then top-p, then min-p exclude set to -inf; at least the likeliest token stays.

    top-p keeps the smallest set whose probability reaches p (Holtzman et al. 2020, arXiv:1904.09751); min-p keeps tokens
    at least min_p times as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082).
    """
    if settings.top_k_R1 is not None:
        best = z_RV.topk(min(settings.max_k, z_RV.size(-1))).values
        threshold = best.gather(-1, (settings.top_k_R1 - 1).clamp(0, best.size(-1) - 1))
        z_RV = z_RV.masked_fill((z_RV < threshold) & (settings.top_k_R1 > 0), MINUS_INFINITY)
    if settings.top_p_R1 is not None:
        p, order = z_RV.softmax(-1).sort(dim=-1, descending=True, stable=True)
        # The mass before a token decides: the first to reach top_p is still inside, and the likeliest always.
        outside = (p.cumsum(-1) - p >= settings.top_p_R1) & (settings.top_p_R1 < 1)
        outside[:, 0] = False
        z_RV = z_RV.masked_fill(torch.zeros_like(outside).scatter_(-1, order, outside), MINUS_INFINITY)
    if settings.min_p_R1 is not None:
        floor = z_RV.amax(-1, keepdim=True) + settings.min_p_R1.log()
        z_RV = z_RV.masked_fill(z_RV < floor, MINUS_INFINITY)
    return z_RV


Judged = tuple[float, list[tuple[int, float]]]
"""ln p of a token, and the likeliest tokens with theirs."""


def judge(logits_RV: Float[Tensor, "R V"], tokens_R: Int[Tensor, " R"], *, best: int) -> list[Judged]:
    """What the model itself says of one token per row: temperature 1, nothing truncated."""
    logprobs_RV = logits_RV.log_softmax(-1)
    likeliest = logprobs_RV.topk(min(best, logprobs_RV.size(-1)))
    chosen = logprobs_RV.gather(-1, tokens_R[:, None])[:, 0].tolist()
    pairs = map(zip, likeliest.indices.tolist(), likeliest.values.tolist())
    return [(logprob, list(row)) for logprob, row in zip(chosen, pairs, strict=True)]


def seed_key(seed: int) -> int:
    """64 well mixed bits of any whole number."""
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little")


def row_keys(seed_keys: np.ndarray, positions: np.ndarray, device: torch.device) -> Int[Tensor, "R 2"]:
    """Two 32-bit keys per row from its `seed_key` and the position of the token to draw."""
    x = seed_keys + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al. 2014)
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return torch.from_numpy(x.view(np.int32).reshape(-1, 2)).to(device)


def exponential_noise(keys_R2: Int[Tensor, "R 2"], vocab: int) -> Float[Tensor, "R V"]:
    """Independent draws from the exponential distribution, a function of (key, token)."""
    x = torch.arange(vocab, dtype=torch.int32, device=keys_R2.device) * _signed(0x9E3779B9) ^ keys_R2[:, :1]
    # Multiply and xor-shift rounds (Wellons 2018, "lowbias32"), the second half of the key coming in between.
    x = _shift_xor(x, 16).mul_(0x7FEB352D).bitwise_xor_(keys_R2[:, 1:])
    x = _shift_xor(x, 15).mul_(_signed(0x846CA68B))
    x = _shift_xor(x, 16).bitwise_and_(0x7FFF_FFFF)
    # 31 bits as u in (0, 1); -log(1 - u) keeps full precision near 0, where races are won. u may round to 1: never wins.
    return x.float().add_(0.5).mul_(-(2.0**-31)).log1p_().neg_()


def _signed(x: int) -> int:
    return x - (1 << 32) if x >= 1 << 31 else x


def _shift_xor(x: Tensor, bits: int) -> Tensor:
    """x ^ (x >> bits) without the sign that torch shifts in."""
    return x.bitwise_xor_((x >> bits).bitwise_and_((1 << (32 - bits)) - 1))


LOOP, PERIOD = 48, 12
"""Tokens at the end of an answer that repeat themselves, and how many of them are repeated at most. Raw text may do so."""


def in_a_loop(answer: list[int]) -> bool:
    """Whether an answer has ended in the same few tokens over and over, from which no model finds out by itself."""
    end = answer[-LOOP:]
    return len(end) == LOOP and any(end[period:] == end[:-period] for period in range(1, PERIOD + 1))
