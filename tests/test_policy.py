"""What tokens weigh when a policy learns from its own answers: the gradient is the one that the formulas say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge import checkpoint
from fledge.config import OptimSettings
from fledge.infer.request import Request
from fledge.model.transformer import Transformer
from fledge.tasks.base import Example
from fledge.train.loop import Plan, train
from fledge.train.optim import build
from fledge.train.policy import Answer, Group, advantages, clipped, importance, token_weights, weigh
from fledge.train.rollouts import Rollouts, describe
from test_rl import answer, by_length, config_of, rollouts

LOGARITHM = st.floats(-8, 0)


def gradient(model: Transformer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def of_the_first_step(made: Rollouts) -> dict[str, torch.Tensor]:
    """The gradient that the loop steps along: how far plain descent at rate 1 goes."""
    before = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    descent = torch.optim.SGD([{"params": list(made.model.parameters()), "base_rate": 1.0}], lr=1.0)
    next(train(made.model, descent, made.batches(), Plan(steps=1, micro=made.micro)))
    return {name: before[name] - value.detach() for name, value in made.model.named_parameters()}


@pytest.mark.parametrize("about", [{}, {"advantage": "std", "device_tokens": 96}, {"advantage": "maxrl"}, {"kl": 0.3}])
def test_the_loops_gradient_is_that_of_the_formula(about: dict[str, Any]) -> None:
    made = rollouts(config_of(steps=1, **about), by_length)
    if made.start:  # a start that is elsewhere
        torch.manual_seed(0)
        for value in made.start.parameters():
            value.data.add_(0.03 * torch.randn(value.shape))
    found = of_the_first_step(made)
    model = rollouts(config_of()).model
    total, tokens = torch.zeros(()), 0
    for group in made.groups:
        for one, advantage in zip(group.answers, advantages(group.rewards, kind=made.config.advantage), strict=True):
            ids = torch.tensor([[*one.prompt, *one.ids]])
            span = slice(len(one.prompt) - 1, -1), torch.tensor(one.ids)
            ln = model(ids)[0].log_softmax(-1)[span[0]].gather(-1, span[1][:, None])[:, 0]
            reward = torch.full_like(ln, advantage)
            if made.start:
                there = made.start(ids)[0].log_softmax(-1)[span[0]].gather(-1, span[1][:, None])[:, 0]
                reward = reward - made.config.kl * (ln - there).detach()
            total, tokens = total - (reward * ln).sum(), tokens + len(ln)
    expected = gradient(model, total / tokens)
    assert max(value.abs().max() for value in expected.values()) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-6, msg=name)


def test_on_policy_every_importance_is_1() -> None:
    made = rollouts(config_of(steps=1), by_length)
    next(made.batches())
    told = [
        pair for group in made.groups for one in group.answers for pair in zip(one.policy or (), one.drawn, strict=True)
    ]
    assert len(told) > 10
    assert {importance(*pair) for pair in told} == {1.0}
    assert 0 < max(abs(now - then) for now, then in told) < 1e-5
    assert made.numbers["mismatch_nats"] == 0.0  # last bits are not logged


def test_what_is_logged_of_an_engine_that_differs_is_by_how_much() -> None:
    one = Answer(prompt=[1], ids=[2, 3, 4], mask=[1, 0, 1], drawn=[-1.0, 0.0, -3.0], finish="stop", reward=1.0)
    groups = [Group(0, [replace(one, policy=[-1.1, -9.0, -2.7]), replace(one, reward=0.0, policy=[-1.1, -9.0, -2.7])])]
    found = describe(groups, groups)
    assert (found["mismatch_nats"], found["entropy_nats"]) == (0.2, 2.0)  # of sampled tokens


@given(policy=LOGARITHM, drawn=LOGARITHM)
def test_importance_is_the_ratio_of_probabilities_up_to_2(policy: float, drawn: float) -> None:
    assert importance(policy, drawn) == pytest.approx(min(2.0, math.exp(policy - drawn)), rel=0.026)
    assert importance(policy, policy + 1e-6) == 1.0  # what rounding does must not reach the weights


def test_answers_cut_from_the_likeliest_tokens_weigh_by_what_they_were_drawn_from() -> None:
    """Of the reference they weigh as if drawn from all: here p / q is the share of the probability that the cut left."""
    made = rollouts(config_of(steps=1, top_k=5, temperature=1.0), by_length)
    next(made.batches())
    for one in (one for group in made.groups if group.teaches for one in group.answers):
        ids = torch.tensor([[*one.prompt, *one.ids]])
        best = made.model(ids)[0].softmax(-1)[len(one.prompt) - 1 : -1].topk(5).values.sum(-1)
        assert [math.exp(p - q) for p, q in zip(one.policy or (), one.drawn, strict=True)] == pytest.approx(
            best.tolist(), rel=1e-3
        )


@given(
    advantage=st.floats(-2, 2),
    moved=st.floats(-2, 2),
    clip_range=st.sampled_from([0.1, 0.2, 0.5]),
    ln=st.floats(-5, -1),
)
def test_a_later_update_has_the_gradient_of_the_clipped_surrogate(
    advantage: float, moved: float, clip_range: float, ln: float
) -> None:
    now = torch.tensor(ln + moved, dtype=torch.float64, requires_grad=True)
    ratio = (now - ln).exp()
    torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage).backward()
    weights = torch.tensor([advantage], dtype=torch.float64)
    found = clipped(weights, torch.tensor([moved], dtype=torch.float64), clip_range=clip_range)
    assert found.item() == pytest.approx(now.grad.item() if now.grad is not None else 0.0, abs=1e-9)


def test_forced_tokens_weigh_nothing_and_the_token_of_the_end_as_much_as_any() -> None:
    said = answer([256], [1, 2, 3, 4], mask=[1, 0, 0, 1], drawn=[-1.0, 0.0, 0.0, -2.0])
    assert token_weights(said, 0.5) == [0.5, 0, 0, 0.5]
    made = rollouts(config_of(steps=1), by_length)
    batch = next(made.batches())
    learned = {
        (*ids[:at], target)
        for ids, targets, weights in zip(
            *(each.tolist() for each in vars(batch).values() if torch.is_tensor(each)), strict=True
        )
        for at, (target, weight) in enumerate(zip(targets, weights, strict=True), 1)
        if weight
    }
    ended = [one for one, weights in weigh(made.groups) if weights[0] and one.finish == "stop"]
    assert ended
    assert {(*one.prompt, *one.ids) for one in ended} <= learned


def test_what_is_cut_off_or_invents_a_tools_result_earns_nothing() -> None:
    made = rollouts(config_of(samples=64, steps=1), lambda *_: 1.0)
    next(made.batches())
    finishes = {one.finish: one.reward for group in made.groups for one in group.answers}
    assert finishes["length"] == 0.0
    assert finishes["stop"] == 1.0
    assert 0 < made.numbers["cut_share"] < 0.5
    invented = Request(prompt=[256], answer=[65], mask=[1], logprobs=[-1.0], finish="tool_error")
    assert made._graded(0, invented).reward == 0.0  # pyright: ignore[reportPrivateUsage]


def flat_for_most(example: Example, answer: str) -> float:
    """A reward that differs for one question in three alone."""
    return by_length(example, answer) if example.question[-1].text[0] in "05" else 1.0


def test_groups_that_teach_nothing_are_replaced_and_the_reward_told_is_of_those_drawn_first() -> None:
    def learned(resample: int) -> tuple[float, dict[str, float]]:
        made = rollouts(config_of(prompts=3, samples=8, steps=1, resample=resample), flat_for_most, go_on=())
        next(made.batches())
        assert len(made.groups) == 3
        return made.numbers["learned_groups"], made.numbers

    counts = [learned(times)[0] for times in (0, 1, 4)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert learned(0)[1]["reward"] == learned(4)[1]["reward"]


def test_every_answer_of_every_step_is_drawn_with_a_seed_of_its_own() -> None:
    made, drawn = rollouts(config_of(), by_length), set()
    for step in range(3):
        made.sample(step)
        drawn |= {(one.drawn[0], tuple(one.ids)) for group in made.groups for one in group.answers}
    assert len(drawn) > 30


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_updates_of_the_same_answers_go_on_in_their_midst(tmp_path: Path, cut: int) -> None:
    """Three updates of one set of answers, and one of the next, resumed from what a checkpoint holds."""

    def run(steps: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        made = rollouts(config_of(steps=4, updates=3, clip_range=0.3), by_length)
        optimizer = build(made.model, OptimSettings(matrix_rate=1e-3, embedding_rate=0.01, unembedding_rate=3e-4))
        found = checkpoint.resume(tmp_path, made.model, optimizer) or checkpoint.Progress(0)
        batches = made.batches(first=found.step, begun=found.cursor.get("rollouts"))
        numbers, cursor = [], {}
        for step in train(made.model, optimizer, batches, Plan(steps=steps, micro=made.micro), start=found.step):
            numbers.append(made.numbers)
            cursor = step.cursor
        if steps == cut:
            checkpoint.copied(tmp_path, made.model, optimizer, checkpoint.Progress(steps, cursor), keep=1)()
        return numbers, made.model.state_dict()

    straight, wanted = run(4)
    assert [each["reward"] for each in straight[:3]] == [straight[0]["reward"]] * 3
    assert 0 < straight[2]["clipped_share"] < 1
    numbers, _ = run(cut)
    rest, weights = run(4)
    assert numbers + rest == straight
    assert all(torch.equal(value, wanted[name]) for name, value in weights.items())
