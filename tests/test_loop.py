"""The one loop: cut a step as you like, stop at what is not finite, move the rates as planned."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fledge.config import OptimSettings
from fledge.model.transformer import ModelConfig, Transformer
from fledge.train.loop import Batch, Plan, due, train
from fledge.train.optim import build


def tiny(seed: int = 0) -> Transformer:
    shape = ModelConfig(vocab=20, layers=2, width=16, heads=2, kv_heads=1, context=8, key_filter=True)
    return Transformer(shape).init(seed=seed)


def rows(begin: int, end: int, *, weights: torch.Tensor | None = None) -> Batch:
    """Rows `begin`..`end` of the same eight; every row has another number of targets."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (8, 9), generator=generator)
    learned = (torch.arange(8)[None, :] <= torch.arange(8)[:, None]).float() if weights is None else weights
    part = learned[begin:end]
    return Batch(
        inputs_BT=ids[begin:end, :-1],
        targets_BT=ids[begin:end, 1:],
        weights_BT=part,
        tokens=int((part != 0).sum()),
        cursor={"row": end},
    )


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for group in optimizer.param_groups:
        group["base_rate"] = 0.1
    return optimizer


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("cuts", [[0, 4, 8], [0, 1, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
def test_a_step_does_not_depend_on_how_it_is_cut_into_batches(cuts: list[int]) -> None:
    whole, cut = tiny(), tiny()
    [one] = train(whole, sgd(whole), iter([rows(0, 8)]), Plan(steps=1))
    pieces = [rows(begin, end) for begin, end in itertools.pairwise(cuts)]
    [many] = train(cut, sgd(cut), iter(pieces), Plan(steps=1, micro=len(pieces)))
    assert many.tokens == one.tokens == 36
    assert many.loss_nats == pytest.approx(one.loss_nats, rel=1e-6)
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    torch.testing.assert_close(weights(whole), weights(cut))


def test_the_loss_is_the_mean_over_the_targets_of_the_whole_step() -> None:
    model = tiny()
    batch = rows(0, 8)
    with torch.no_grad():
        by_hand = model.nll_sum(batch.inputs_BT, batch.targets_BT, batch.weights_BT) / 36
    [step] = train(model, sgd(model), iter([rows(0, 1), rows(1, 8)]), Plan(steps=1, micro=2))
    assert step.loss_nats == pytest.approx(by_hand.item(), rel=1e-6)


def test_a_target_of_weight_0_teaches_nothing() -> None:
    one, two = tiny(), tiny()
    batch = rows(0, 8)
    other = copy.copy(batch.targets_BT)
    other[batch.weights_BT == 0] = 7
    changed = Batch(
        inputs_BT=batch.inputs_BT, targets_BT=other, weights_BT=batch.weights_BT, tokens=batch.tokens, cursor={}
    )
    list(train(one, sgd(one), iter([batch]), Plan(steps=1)))
    list(train(two, sgd(two), iter([changed]), Plan(steps=1)))
    assert weights(one).keys() == weights(two).keys()
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))


def test_the_next_batch_is_asked_for_only_when_the_stage_comes_round() -> None:
    model, asked = tiny(), []

    def batches():
        for number in itertools.count():
            asked.append(number)
            yield rows(0, 8)

    for step in train(model, sgd(model), batches(), Plan(steps=3, micro=2)):
        assert len(asked) == 2 * (step.index + 1)


def test_a_step_says_where_the_data_stands() -> None:
    model = tiny()
    steps = list(
        train(model, sgd(model), iter([rows(0, 2), rows(2, 4), rows(4, 6), rows(6, 8)]), Plan(steps=2, micro=2))
    )
    assert [step.cursor for step in steps] == [{"row": 4}, {"row": 8}]
    assert [step.index for step in steps] == [0, 1]
    assert all(set(step.parts) == {"data", "forward", "backward", "optimizer"} for step in steps)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(bad: float) -> None:
    model = tiny()
    optimizer = build(model, OptimSettings())
    steps = train(
        model,
        optimizer,
        iter([rows(0, 8), rows(0, 4), rows(4, 8, weights=torch.full((8, 8), bad))]),
        Plan(steps=2, micro=1),
    )
    next(steps)
    before, momenta = weights(model), {name: value.clone() for name, value in optimizer.tensors().items()}
    poisoned = iter([rows(0, 4), rows(4, 8, weights=torch.full((8, 8), bad))])
    with pytest.raises(FloatingPointError, match=r"step 0: loss (nan|inf).* not updated.*--optim.rate-share"):
        list(train(model, optimizer, poisoned, Plan(steps=1, micro=2)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, momenta[name]) for name, value in optimizer.tensors().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_data_that_ends_too_early_is_an_error_that_says_so() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="step 1: the data ended, 2 steps are left"):
        list(train(model, sgd(model), iter([rows(0, 8), rows(0, 8), rows(0, 8)]), Plan(steps=3, micro=2)))


def test_the_gradient_is_cut_to_the_norm_asked_for() -> None:
    free, held = tiny(), tiny()
    [one] = train(free, sgd(free), iter([rows(0, 8)]), Plan(steps=1))
    [two] = train(held, sgd(held), iter([rows(0, 8)]), Plan(steps=1, clip=one.gradient_norm / 4))
    assert one.gradient_norm == two.gradient_norm  # what is reported is the norm before
    start = weights(tiny())
    for name, begun in start.items():
        torch.testing.assert_close(
            4 * (held.state_dict()[name] - begun), free.state_dict()[name] - begun, atol=1e-6, rtol=1e-3
        )


PLANS = st.builds(
    Plan,
    steps=st.integers(1, 3000),
    warmup=st.floats(0, 1),
    warmdown=st.floats(0, 1),
    final_share=st.floats(0, 1),
)


@given(plan=PLANS, at=st.floats(0, 1))
@example(plan=Plan(steps=1, warmup=1.0, warmdown=1.0), at=0.0)
@settings(max_examples=100, deadline=None)
def test_rates_stay_between_0_and_their_base(plan: Plan, at: float) -> None:
    assert 0.0 <= plan.rate_share(min(plan.steps - 1, int(at * plan.steps))) <= 1.0


@given(plan=PLANS)
@settings(max_examples=100, deadline=None)
def test_rates_rise_then_fall(plan: Plan) -> None:
    plan = Plan(
        steps=min(plan.steps, 200), warmup=plan.warmup / 2, warmdown=plan.warmdown / 2, final_share=plan.final_share
    )
    shares = [plan.rate_share(step) for step in range(plan.steps)]
    top = shares.index(max(shares))
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)


def test_rates_are_exact_at_the_beginning_the_middle_and_the_end() -> None:
    plan = Plan(steps=100, warmup=0.1, warmdown=0.4, final_share=0.2)
    assert plan.rate_share(0) == pytest.approx(0.1)  # the first of ten steps of rise
    assert plan.rate_share(9) == plan.rate_share(50) == plan.rate_share(60) == 1.0
    assert plan.rate_share(80) == pytest.approx(0.2 + 0.8 * 0.5)
    assert plan.rate_share(99) == pytest.approx(0.2 + 0.8 / 40)
    assert plan.rate_share(100) == pytest.approx(0.2)  # where the line ends, one step past the last
    flat = Plan(steps=100)
    assert [flat.rate_share(step) for step in (0, 50, 99)] == [1.0, 1.0, 1.0]
    fall = Plan(steps=100, warmdown=1.0)
    assert [fall.rate_share(step) for step in (0, 50, 100)] == [1.0, 0.5, 0.0]


def test_the_rates_of_the_plan_reach_the_optimizer() -> None:
    model = tiny()
    optimizer = sgd(model)
    plan = Plan(steps=4, warmdown=1.0)
    for step in train(model, optimizer, itertools.repeat(rows(0, 8)), plan):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * plan.rate_share(step.index))
        assert step.rate_share == plan.rate_share(step.index)


def test_due_is_every_so_often_and_at_the_end() -> None:
    assert [done for done in range(1, 11) if due(done, 4, 10)] == [4, 8, 10]
    assert [done for done in range(1, 11) if due(done, 0, 10)] == [10]


def test_training_lowers_the_loss() -> None:
    model = tiny()
    losses = [
        step.loss_nats
        for step in train(model, build(model, OptimSettings()), itertools.repeat(rows(0, 8)), Plan(steps=30, clip=1.0))
    ]
    assert losses[0] == pytest.approx(math.log(20), rel=1e-4)
    assert losses[-1] < 0.3 * losses[0]


def test_activations_in_bfloat16_train_like_float32_and_leave_the_weights_float32() -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny()
        model.compute_dtype = dtype
        steps = train(model, build(model, OptimSettings()), itertools.repeat(rows(0, 8)), Plan(steps=20, clip=1.0))
        losses[dtype] = [step.loss_nats for step in steps]
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # At the end, where little is left, what processors round differently is a tenth of it.
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.1, abs=0.02 * losses[torch.float32][0])
    assert losses[torch.bfloat16][-1] < 0.5 * losses[torch.bfloat16][0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler imports its own deprecated parts
def test_a_step_traced_for_the_compiler_is_the_eager_one_up_to_rounding() -> None:
    """Without generating machine code, which takes half a minute."""
    traced = torch.compile(Transformer.nll_sum, backend="aot_eager", dynamic=False)
    taken = []
    for loss in (Transformer.nll_sum, traced):
        model = tiny()
        [step] = train(model, sgd(model), iter([rows(0, 8)]), Plan(steps=1), loss=loss)
        taken.append((step.loss_nats, step.gradient_norm, weights(model)))
    (loss_nats, norm, eager), (its_loss, its_norm, fast) = taken
    assert (its_loss, its_norm) == pytest.approx((loss_nats, norm), rel=1e-4)
    torch.testing.assert_close(fast, eager, atol=1e-5, rtol=1e-4)
