"""Sampling: the right law, the right truncation, and nothing but (seed, position, logits) decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.config import Sampling
from fledge.infer.sampling import Settings, draw, exponential_noise, row_keys, seed_key, truncate

CPU = torch.device("cpu")


def row_of(**sampling: Any) -> Sampling:
    return Sampling(**({"temperature": 1.0, "top_k": 0} | sampling))


def keys(seeds: list[int], *, position: int = 0) -> torch.Tensor:
    return row_keys(np.array([seed_key(seed) for seed in seeds], np.uint64), np.full(len(seeds), position), CPU)


def kept(logits: list[float], row: Sampling) -> list[bool]:
    z = torch.tensor([logits])
    return truncate(z, Settings.of([row], CPU)).isfinite()[0].tolist()


def frequencies(logits: list[float], row: Sampling, *, draws: int = 40_000) -> torch.Tensor:
    z = torch.tensor(logits).expand(draws, len(logits))
    tokens = draw(z, Settings.of([row] * draws, CPU), keys(list(range(draws))))
    return torch.bincount(tokens, minlength=len(logits)) / draws


def test_draws_follow_the_softmax() -> None:
    logits = [0.0, 1.0, 2.0, 3.0, -1.0]
    # Five standard deviations of a share over 40,000 draws are at most 0.0125.
    assert (frequencies(logits, row_of()) - torch.tensor(logits).softmax(0)).abs().max() < 0.0125
    halved = torch.tensor(logits).div(0.5).softmax(0)
    assert (frequencies(logits, row_of(temperature=0.5)) - halved).abs().max() < 0.0125


def test_noise_is_exponential_and_uncorrelated_over_tokens_seeds_and_positions() -> None:
    noise = exponential_noise(keys(list(range(512))), 512)
    assert noise.isfinite().all()
    assert abs(noise.mean() - 1) < 0.01
    assert abs(noise.var() - 1) < 0.03
    centered = noise - 1
    others = (centered.roll(1, 0), centered.roll(1, 1), exponential_noise(keys(list(range(512)), position=1), 512) - 1)
    for other in others:
        assert (centered * other).mean().abs() < 0.01  # five standard deviations of 262,144 products


def test_top_k_keeps_the_k_best_and_top_p_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert kept(logits, row_of(top_k=2)) == [True, True, False, False]
    assert kept(logits, row_of(top_k=9)) == [True] * 4
    assert kept(logits, row_of(top_p=0.49)) == [True, False, False, False]
    assert kept(logits, row_of(top_p=0.51)) == [True, True, False, False]
    assert kept(logits, row_of(top_p=0.0)) == [True, False, False, False]
    assert kept(logits, row_of(min_p=0.2)) == [True, True, True, False]
    assert kept(logits, row_of(min_p=1.0)) == [True, False, False, False]
    assert kept(logits, row_of(top_k=3, top_p=0.9, min_p=0.5)) == [True, True, False, False]


def test_every_row_has_its_own_settings() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    rows = [row_of(), row_of(top_k=1), row_of(top_p=0.6), row_of(min_p=0.2), row_of(top_k=3)]
    together = truncate(logits.expand(5, 4), Settings.of(rows, CPU)).isfinite().tolist()
    assert together == [kept(logits.tolist(), row) for row in rows]


def test_greedy_and_every_truncation_to_one_token_agree() -> None:
    z = torch.randn(64, 300, generator=torch.Generator().manual_seed(0))
    best = z.argmax(-1)
    for row in (row_of(temperature=0), row_of(top_k=1), row_of(top_p=0.0), row_of(min_p=1.0)):
        assert torch.equal(draw(z, Settings.of([row] * 64, CPU), keys(list(range(64)))), best)
    mixed = Settings.of([row_of(temperature=0), row_of()] * 32, CPU)
    assert torch.equal(draw(z, mixed, keys(list(range(64))))[::2], best[::2])


@settings(max_examples=30, deadline=None)
@given(st.integers(), st.integers(0, 10_000), st.integers(1, 9), st.integers(0, 8))
def test_a_draw_depends_on_seed_position_and_logits_alone(seed: int, position: int, rows: int, place: int) -> None:
    z = torch.randn(rows, 50, generator=torch.Generator().manual_seed(1))
    place %= rows
    row = row_of(temperature=0.8, top_k=20, top_p=0.95, min_p=0.01)
    alone = draw(z[place : place + 1], Settings.of([row], CPU), keys([seed], position=position))
    company = [row_of(temperature=1.5) for _ in range(rows)]
    company[place] = row
    seeds = list(range(rows))
    seeds[place] = seed
    assert draw(z, Settings.of(company, CPU), keys(seeds, position=position))[place] == alone[0]
