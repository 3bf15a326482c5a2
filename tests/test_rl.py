"""Reinforcement: advantages, the loss they make, and a policy that learns what is rewarded."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.config import OptimSettings, Rl
from fledge.stages.rl import Rehearsal, Rollouts, advantages, passes_per_step
from fledge.tasks.base import Example, Task
from fledge.text.chat import say
from fledge.train.loop import Batch, Plan, nll, train
from fledge.train.optim import build
from tiny_engine import BYTES, tiny_model

REWARDS = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(rewards=REWARDS, normalise=st.sampled_from(["none", "std"]))
@settings(deadline=None)
def test_advantages_sum_to_0_in_a_group(rewards: list[float], normalise: str) -> None:
    found = advantages(rewards, normalise=normalise)
    assert len(found) == len(rewards)
    assert abs(math.fsum(found)) < 1e-6 * (1 + max(abs(value) for value in found)) * len(found)


@given(reward=st.floats(0, 1), count=st.integers(1, 20), normalise=st.sampled_from(["none", "std"]))
@settings(deadline=None)
def test_equal_rewards_give_no_advantage(reward: float, count: int, normalise: str) -> None:
    assert advantages([reward] * count, normalise=normalise) == pytest.approx([0.0] * count, abs=1e-12)


@given(rewards=REWARDS)
@settings(deadline=None)
def test_more_reward_is_more_advantage(rewards: list[float]) -> None:
    found = advantages(rewards)
    for (one, first), (two, second) in itertools.pairwise(sorted(zip(rewards, found, strict=True))):
        assert one <= two
        assert first <= second


def test_advantages_of_a_known_group() -> None:
    assert advantages([1, 0, 0, 1]) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([1, 0, 0, 1], normalise="std") == [1, -1, -1, 1]
    assert advantages([1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]


def starts_low(_: Example, answer: str) -> float:
    """1 for an answer whose first character is a lower-case letter up to m."""
    return float(answer[:1] != "" and answer[0] in "abcdefghijklm")


def task_of(grade: Any = starts_low, examples: int = 6) -> Task:
    asked = [
        Example(messages=(say("user", f"{number}?"), say("assistant", "a")), answer="a") for number in range(examples)
    ]
    return Task(name="toy/letter", load=lambda _: asked, grade=grade, max_tokens=2)


def rollouts(config: Rl, grade: Any = starts_low, *, seed: int = 0) -> Rollouts:
    return Rollouts(tiny_model(seed=seed, spread=0.1), BYTES, task_of(grade), config)


def config_of(**settings: Any) -> Rl:
    return Rl(**({"prompts": 3, "samples": 4, "max_tokens": 2, "steps": 3, "device": "cpu"} | settings))


def step_of(config: Rl, *, passes: int, grade: Any = starts_low) -> tuple[Rollouts, list[Batch]]:
    made = rollouts(config, grade)
    stream = made.batches(first=0, passes=passes, device=torch.device("cpu"))
    return made, list(itertools.islice(stream, passes))


def by_length(_: Example, answer: str) -> float:
    return len(answer.encode()) % 3 / 2


def test_a_step_of_rollouts_does_not_depend_on_the_number_of_passes() -> None:
    sums = []
    for passes in (1, 2, 5, 12):
        made, batches = step_of(config_of(), passes=passes, grade=by_length)
        assert len(batches) == passes
        tokens = sum(batch.tokens for batch in batches)
        with torch.no_grad():
            total = sum(
                float((nll(made.model, batch.inputs_BT, batch.targets_BT) * batch.weights_BT).sum())
                for batch in batches
            )
        sums.append((tokens, total))
    assert sums[0][0] == sum(sum(r.mask) for group in made.last.groups for r in group.requests)
    for tokens, total in sums[1:]:
        assert tokens == sums[0][0]
        assert total == pytest.approx(sums[0][1], rel=1e-4)


def test_only_sampled_tokens_carry_weight_and_it_is_their_answers_advantage() -> None:
    made, [batch] = step_of(config_of(), passes=1, grade=by_length)
    weighted = sorted(
        (advantage, sum(request.mask))
        for group in made.last.groups
        for request, advantage in zip(group.requests, group.advantages("none"), strict=True)
        if advantage
    )
    found = sorted(
        (row[row != 0].mean().item(), int((row != 0).sum())) for row in batch.weights_BT if bool((row != 0).any())
    )
    assert weighted
    assert [count for _, count in found] == [count for _, count in weighted]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in weighted])


def test_equal_rewards_leave_the_weights_as_they_are() -> None:
    config = config_of(steps=1)
    made = rollouts(config, lambda *_: 1.0)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    stream = made.batches(first=0, passes=1, device=torch.device("cpu"))
    [step] = train(made.model, build(made.model, OptimSettings()), stream, Plan(steps=1))
    assert (step.loss_nats, step.gradient_norm) == (0.0, 0.0)
    assert step.tokens > 0
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert made.last.metrics()["flat_groups_share"] == 1.0
    assert made.last.metrics()["reward"] == 1.0


def test_the_rollouts_of_a_step_are_those_of_its_number_whatever_came_before() -> None:
    config = config_of()
    here = torch.device("cpu")
    straight = list(rollouts(config, by_length).batches(first=0, passes=1, device=here))
    resumed = list(rollouts(config, by_length).batches(first=2, passes=1, device=here))
    assert len(straight) == 3
    assert len(resumed) == 1
    assert torch.equal(straight[2].inputs_BT, resumed[0].inputs_BT)
    assert torch.equal(straight[2].weights_BT, resumed[0].weights_BT)
    assert straight[2].cursor == resumed[0].cursor == {"step": 3}


def test_the_policy_gradient_raises_the_probability_of_what_is_rewarded() -> None:
    config = config_of(prompts=4, samples=16, steps=25, max_tokens=1)
    made = rollouts(config)
    rewards = []
    optimizer = build(made.model, OptimSettings(matrix_rate=0.01))
    stream = made.batches(first=0, passes=1, device=torch.device("cpu"))
    for _ in train(made.model, optimizer, stream, Plan(steps=25, clip=1.0)):
        rewards.append(made.last.metrics()["reward"])
    assert sum(rewards[:3]) / 3 < 0.25  # 13 of 265 tokens are rewarded
    assert sum(rewards[-3:]) / 3 > 0.6


def test_a_task_with_too_few_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="toy/letter has 6 training examples, fewer than prompts=7"):
        Rollouts(tiny_model(), BYTES, task_of(), config_of(prompts=7))


def test_the_passes_of_a_step_hold_all_its_answers() -> None:
    for prompts, samples, tokens in ((16, 16, None), (3, 5, 512), (1, 1, 1)):
        config = config_of(prompts=prompts, samples=samples, device_tokens=tokens)
        rows = max(1, (tokens or 16_384) // 256)
        assert passes_per_step(config, 256) * rows >= prompts * samples > (passes_per_step(config, 256) - 1) * rows


def test_what_is_rehearsed_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "config.json").write_text('{"settings": {"data": "world"}}')
    here = torch.device("cpu")

    def batches(first: int, chats: dict[str, Any] | None) -> list[Batch]:
        sampled = rollouts(config, by_length).batches(first=first, passes=2, device=here)
        return list(rehearsal.added(sampled, every=2, cursor=chats, device=here))

    config = config_of(steps=3, rehearse=1024, device_tokens=512)
    rehearsal = Rehearsal(tmp_path, BYTES, config, length=256)
    assert (rehearsal.rows, rehearsal.passes) == (2, 2)
    straight = batches(0, None)
    assert len(straight) == 3 * (2 + 2)
    assert all(bool((batch.weights_BT >= 0).all()) and batch.tokens > 20 for batch in (*straight[2:4], *straight[6:8]))
    resumed = batches(2, straight[7].cursor["chats"])
    assert [batch.cursor for batch in resumed] == [batch.cursor for batch in straight[8:]]
    assert all(torch.equal(a.inputs_BT, b.inputs_BT) for a, b in zip(resumed, straight[8:], strict=True))
