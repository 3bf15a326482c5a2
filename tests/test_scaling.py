"""What depth decides: laws relative to depth 12, settings by hand that stay, small recipes that say what they were tuned with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.commands import RunRecipe
from fledge.config import ModelSettings, OptimSettings, Pretrain, Rl, Sft, TrainStage
from fledge.recipes import choose, derived
from fledge.train import scaling
from fledge.train.optim import build
from fledge.train.resolve import resolved
from test_loop import tiny

HORIZON = scaling.reference_tokens(ratio=12, rows=32_768)


def of_depth(depth: int, **settings: object) -> Pretrain:
    config = Pretrain(run="nowhere", device="cpu", model=ModelSettings(depth=depth), **settings)  # type: ignore[arg-type]
    return resolved(config, vocab=32_768)


@pytest.mark.parametrize(
    ("depth", "billions", "batch", "steps"),
    [(8, 0.50, 18, 1920), (12, 1.32, 19, 2520), (16, 2.82, 19, 5376), (20, 5.22, 20, 4980), (26, 11.0, 20, 10510),
     (32, 20.1, 21, 9600)],
)  # fmt: skip
def test_batch_and_tokens_of_a_depth_are_those_of_the_published_law(
    depth: int, billions: float, batch: int, steps: int
) -> None:
    found = of_depth(depth)
    assert found.tokens == pytest.approx(billions * 1e9, rel=0.01)
    assert found.batch_tokens == 2**batch
    assert (found.tokens or 0) / 2**batch == pytest.approx(steps, rel=0.01)
    assert found.optim.batch_scale == pytest.approx(2 ** ((batch - 19) / 2))


def test_depth_12_has_the_rates_and_the_decay_it_was_tuned_with() -> None:
    optim = of_depth(12).optim
    assert (optim.batch_scale, optim.decay_scale) == (1.0, pytest.approx(1.0))
    assert (optim.warmup, optim.warmdown, optim.final_share) == (pytest.approx(40 / 2520, rel=0.01), 0.65, 0.05)


@given(tokens=st.floats(1e6, 1e12), context=st.integers(1, 5000))
def test_more_tokens_never_want_a_smaller_batch_and_a_step_is_whole_rows(tokens: float, context: int) -> None:
    batch = scaling.batch_tokens(tokens, reference=HORIZON, context=context)
    assert batch % context == 0
    assert batch <= scaling.batch_tokens(2 * tokens, reference=HORIZON, context=context)


@given(batch=st.integers(1, 2**24), tokens=st.floats(1e6, 1e12))
def test_weights_average_over_the_same_share_of_every_training(batch: int, tokens: float) -> None:
    """The decay of a step is rate x decay, so over a training it comes to the same: Bergsma et al.'s timescale."""
    steps = tokens / batch
    decayed = steps * scaling.rate_scale(batch) * scaling.decay_scale(batch, tokens=tokens, reference=HORIZON)
    assert decayed == pytest.approx(HORIZON / scaling.REFERENCE_BATCH)


def test_what_is_given_by_hand_stays_and_the_rest_follows_from_it() -> None:
    rates = OptimSettings(batch_scale=0.5, decay_scale=0.0, warmup=0.0, warmdown=0.2, final_share=0.0)
    assert of_depth(20, optim=rates).optim == rates
    small = of_depth(20, batch_tokens=2**17, tokens=2**30)
    assert (small.batch_tokens, small.tokens, small.optim.batch_scale) == (2**17, 2**30, 0.5)
    assert of_depth(4, tokens=2048).optim.warmup == 0.1


def test_the_scales_multiply_rates_and_decay_alone() -> None:
    plain = build(tiny(), OptimSettings(weight_decay=0.1)).param_groups
    scaled = build(tiny(), OptimSettings(weight_decay=0.1, batch_scale=0.25, decay_scale=0.5)).param_groups
    for one, other in zip(plain, scaled, strict=True):
        assert other["base_rate"] == one["base_rate"] / 4
        assert other["weight_decay"] == one["weight_decay"] / 2


def test_a_later_stage_in_a_smaller_batch_has_smaller_rates_and_none_has_larger_ones(tmp_path: Path) -> None:
    base = of_depth(12)

    def scale(config: TrainStage) -> float | None:
        return resolved(replace(config, run=str(tmp_path), device="cpu"), vocab=32_768, base=base).optim.batch_scale

    assert scale(Sft(batch_tokens=2**17)) == 0.5
    assert scale(Sft(batch_tokens=2**21)) == 1.0
    assert scale(Rl()) == 1.0
    assert scale(Sft(batch_tokens=2**17, optim=OptimSettings(batch_scale=1.0))) == 1.0


@pytest.mark.parametrize("recipe", ["demo", "tiny", "toy"])
def test_small_recipes_keep_the_rates_they_were_tuned_with(recipe: str) -> None:
    stages = [item.config for item in derived(choose(RunRecipe(recipe=recipe, device="cpu", out="runs/x")))]
    trained = [config for config in stages if isinstance(config, TrainStage)]
    assert {(config.optim.batch_scale, config.optim.warmup) for config in trained} == {(1.0, 0.0)}
    assert trained[0].optim.warmdown in (0.4, 0.5)
