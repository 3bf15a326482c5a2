"""Reinforcement: advantages, the loss they make, and a policy that learns what is rewarded."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fernhollow.asked import TASKS
from fledge.checkpoint import load_model
from fledge.config import OptimSettings, Rl
from fledge.runs import metrics, summary
from fledge.sandbox.sandbox import NotJudged
from fledge.settings import NothingLearned
from fledge.stages.rl import STUCK_STEPS, main, prepare
from fledge.tasks.base import Example, Task
from fledge.text.chat import say
from fledge.train.batches import conversation_rows
from fledge.train.loop import Batch, Plan, train
from fledge.train.optim import build
from fledge.train.policy import Answer, Group, advantages, policy_batches, token_weights, weigh
from fledge.train.rollouts import Rollouts, describe
from tiny_engine import BYTES, tiny_model

REWARDS = st.lists(st.floats(0, 1), min_size=1, max_size=20)


KINDS = st.sampled_from(["mean", "std", "maxrl"])


@given(rewards=REWARDS, kind=KINDS)
@settings(deadline=None)
def test_advantages_sum_to_0_in_a_group(rewards: list[float], kind: str) -> None:
    found = advantages(rewards, kind=kind)
    assert len(found) == len(rewards)
    assert abs(math.fsum(found)) < 1e-6 * (1 + max(abs(value) for value in found)) * len(found)


@given(reward=st.floats(0, 1), count=st.integers(1, 20), kind=KINDS)
@settings(deadline=None)
def test_equal_rewards_give_no_advantage(reward: float, count: int, kind: str) -> None:
    assert advantages([reward] * count, kind=kind) == pytest.approx([0.0] * count, abs=1e-12)


@given(rewards=REWARDS)
@settings(deadline=None)
def test_more_reward_is_more_advantage(rewards: list[float]) -> None:
    found = advantages(rewards)
    for (one, first), (two, second) in itertools.pairwise(sorted(zip(rewards, found, strict=True))):
        assert one <= two
        assert first <= second


def test_advantages_of_a_known_group() -> None:
    assert advantages([1, 0, 0, 1]) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([1, 0, 0, 1], kind="std") == [1, -1, -1, 1]
    assert advantages([1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]
    assert advantages([1, 0, 0, 0], kind="maxrl") == [3, -1, -1, -1]  # with one of two right it is [1, -1]


def test_maxrl_follows_the_likelihood_of_being_right() -> None:
    """Of a policy that is right with probability p the mean gradient of `mean` is p', of `maxrl` near p'/p, that of ln p."""
    for p, count in ((0.5, 400), (0.05, 4000)):
        right = [float(n < p * count) for n in range(count)]
        score = [1 / p if one else -1 / (1 - p) for one in right]  # d ln(probability of the outcome) / dp
        for kind, expected in (("mean", 1.0), ("maxrl", 1 / p)):
            weighted = zip(advantages(right, kind=kind), score, strict=True)
            assert math.fsum(a * s for a, s in weighted) / count == pytest.approx(expected)


def test_what_could_not_be_judged_is_no_reward_and_moves_nothing() -> None:
    assert advantages([1, None, 0]) == [0.5, 0.0, -0.5]
    assert advantages([None, None], kind="std") == [0.0, 0.0]

    def grade(_: Example, answer: str) -> float:
        if ord(answer[:1] or "a") % 2:
            raise NotJudged("the machine failed")
        return 1.0

    made = rollouts(config_of(), grade, go_on=())
    next(made.batches())
    found = made.numbers
    assert 0 < found["not_judged"] < 12
    assert (found["reward"], found["flat_groups_share"]) == (1.0, 1.0)


def test_a_step_that_nobody_can_judge_ends_the_run() -> None:
    def grade(_: Example, answer: str) -> float:
        raise NotJudged("the machine failed")

    with pytest.raises(RuntimeError, match=r"step 1 could be judged \(the machine failed\)"):
        next(rollouts(config_of(), grade).batches())


GO_ON = b"nopqrstuvwxyz0123456789"
"""Bytes behind which an answer goes on, to be cut off."""


def starts_low(_: Example, answer: str) -> float:
    """1 for an answer whose first character is a lower-case letter up to m."""
    return float(answer[:1] != "" and answer[0] in "abcdefghijklm")


def task_of(grade: Any = starts_low, examples: int = 6) -> Task:
    asked = [
        Example(messages=(say("user", f"{number}?"), say("assistant", "a")), answer="a") for number in range(examples)
    ]
    return Task(name="toy/letter", load=lambda _: asked, grade=grade, max_tokens=2)


def rollouts(config: Rl, grade: Any = starts_low, *, seed: int = 0, go_on: Iterable[int] = GO_ON) -> Rollouts:
    made = Rollouts(tiny_model(seed=seed, spread=0.1), BYTES, task_of(grade), config)
    # Of random weights hardly an answer would ever end: any token may end it, but for some.
    made.engine.ends |= {*range(BYTES.vocab)} - {*go_on, BYTES.special["<|output_start|>"]}
    return made


def config_of(**settings: Any) -> Rl:
    given: dict[str, Any] = {"prompts": 3, "samples": 4, "max_tokens": 2, "steps": 3, "device_tokens": 96 * 12}
    return Rl(**(given | settings))


def by_length(_: Example, answer: str) -> float:
    return len(answer.encode()) % 3 / 2


def test_a_step_of_rollouts_does_not_depend_on_the_number_of_passes() -> None:
    sums = []
    for rows in (12, 6, 3, 1):
        made = rollouts(config_of(device_tokens=96 * rows), by_length)
        batches = list(itertools.islice(made.batches(), made.micro))
        assert len(batches) == 12 // rows
        tokens = sum(batch.tokens for batch in batches)
        with torch.no_grad():
            total = sum(
                float(made.model.nll_sum(batch.inputs_BT, batch.targets_BT, batch.weights_BT)) for batch in batches
            )
        assert tokens == sum(sum(answer.mask) for group in made.groups for answer in group.answers)
        sums.append(total)
    assert sums == pytest.approx([sums[0]] * 4, rel=1e-4)


def test_only_sampled_tokens_carry_weight_and_it_is_their_answers_advantage() -> None:
    made = rollouts(config_of(), by_length)
    batch = next(made.batches())
    weighted = sorted((weights[0], sum(answer.mask)) for answer, weights in weigh(made.groups) if any(weights))
    found = sorted(
        (row[row != 0].mean().item(), int((row != 0).sum())) for row in batch.weights_BT if bool((row != 0).any())
    )
    assert weighted
    assert [count for _, count in found] == [count for _, count in weighted]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in weighted])


def answer(prompt: list[int], ids: list[int], **about: Any) -> Answer:
    count = len(ids)
    given: dict[str, Any] = {"mask": [1] * count, "drawn": [-1.0] * count, "finish": "stop", "reward": 0.0}
    return Answer(prompt=prompt, ids=ids, **(given | about))


def test_rollouts_weigh_advantage_times_mask_and_count_all_sampled_tokens() -> None:
    weighted = [
        (one, token_weights(one, advantage))
        for one, advantage in (
            (answer([256, 1], [2, 3]), 0.5),
            (answer([256, 4, 5], [6, 7, 8]), -1.0),
            (answer([256, 9], [10]), 0.0),
        )
    ]
    [(batch, _)] = policy_batches(weighted, passes=1, length=4, pad=0)
    assert batch.inputs_BT.tolist() == [[256, 4, 5, 6], [256, 1, 2, 3]]
    assert batch.targets_BT.tolist() == [[4, 5, 6, 7], [1, 2, 3, 0]]
    assert batch.weights_BT.tolist() == [[0, 0, -1, -1], [0, 0.5, 0.5, 0]]
    assert batch.tokens == 6  # the answer without advantage counts, and so does what was cut off
    first, second, idle = (made for made, _ in policy_batches(weighted, passes=3, length=4, pad=0))
    assert torch.equal(first.inputs_BT, batch.inputs_BT[:1])
    assert torch.equal(second.weights_BT, batch.weights_BT[1:, :3])
    assert (first.tokens + second.tokens, idle.tokens, idle.weights_BT.abs().sum()) == (6, 0, 0)


def test_a_step_whose_prompts_leave_no_room_is_described_too() -> None:
    told = describe([Group(0, [answer([256, 1], [], finish="length")])], [])
    assert (told["answer_tokens"], told["entropy_nats"], told["cut_share"]) == (0.0, 0.0, 1.0)


def test_equal_rewards_leave_the_weights_as_they_are() -> None:
    made = rollouts(config_of(steps=1), lambda *_: 1.0, go_on=())
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    [step] = train(made.model, build(made.model, OptimSettings()), made.batches(), Plan(steps=1))
    assert (step.loss_nats, step.gradient_norm) == (0.0, 0.0)
    assert step.tokens > 0
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert made.numbers["flat_groups_share"] == 1.0
    assert made.numbers["learned_groups"] == 0


def test_the_rollouts_of_a_step_are_those_of_its_number_whatever_came_before() -> None:
    straight = list(rollouts(config_of(), by_length).batches())
    resumed = list(rollouts(config_of(), by_length).batches(first=2))
    assert len(straight) == 3
    assert len(resumed) == 1
    assert torch.equal(straight[2].inputs_BT, resumed[0].inputs_BT)
    assert torch.equal(straight[2].weights_BT, resumed[0].weights_BT)
    assert straight[2].cursor == resumed[0].cursor == {"step": 3, "chats": None}


def test_the_policy_gradient_raises_the_probability_of_what_is_rewarded() -> None:
    config = config_of(prompts=4, samples=16, steps=25, max_tokens=1, device_tokens=96 * 64)
    made = rollouts(config)
    rewards = []
    optimizer = build(made.model, OptimSettings(matrix_rate=0.01))
    for _ in train(made.model, optimizer, made.batches(), Plan(steps=25, clip=1.0)):
        rewards.append(made.numbers["reward"])
    assert sum(rewards[:3]) / 3 < 0.25  # 13 of 265 tokens are rewarded
    assert sum(rewards[-3:]) / 3 > 0.6


def test_a_task_with_too_few_examples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has (\d+) training examples, fewer than prompts=100000; give --prompts \1"):
        prepare(config_of(task="spelling", prompts=100_000))


def test_the_passes_of_a_step_hold_all_its_answers() -> None:
    for prompts, samples, tokens in ((5, 16, None), (3, 5, 512), (1, 1, 1)):
        made = rollouts(config_of(prompts=prompts, samples=samples, device_tokens=tokens))
        assert made.passes * made.rows >= prompts * samples > (made.passes - 1) * made.rows


def replayed(config: Rl, *, first: int = 0, cursor: dict[str, Any] | None = None) -> tuple[Rollouts, list[Batch]]:
    made = rollouts(config, by_length)
    talks = [(say("user", f"{n}?"), say("assistant", "because " * (n % 9 + 1))) for n in range(40)]
    chats = conversation_rows(talks, BYTES, length=made.length, cursor=cursor, seed=5)
    return made, list(made.batches(first=first, chats=chats))


def test_replayed_conversations_go_on_where_they_were() -> None:
    config = config_of(replay_tokens=4 * 96, device_tokens=96 * 3)
    made, straight = replayed(config)
    assert (made.passes, made.replayed, made.micro) == (4, 4, 6)
    assert len(straight) == 3 * 6
    again = [*straight[4:6], *straight[10:12], *straight[16:18]]
    assert all(bool((batch.weights_BT >= 0).all()) and batch.tokens > 20 for batch in again)
    _, resumed = replayed(config, first=2, cursor=straight[11].cursor["chats"])
    assert [batch.cursor for batch in resumed] == [batch.cursor for batch in straight[12:]]
    assert all(torch.equal(a.inputs_BT, b.inputs_BT) for a, b in zip(resumed, straight[12:], strict=True))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_what_is_replayed_does_not_depend_on_device_tokens(rows: int) -> None:
    def again(rows: int) -> list[Batch]:
        made, batches = replayed(config_of(steps=2, replay_tokens=5 * 96, device_tokens=96 * rows))
        return [batch for step in range(2) for batch in batches[step * made.micro :][made.passes : made.micro]]

    whole, cut = again(12), again(rows)
    for name in ("inputs_BT", "targets_BT", "weights_BT"):
        assert torch.equal(
            torch.cat([getattr(one, name) for one in whole]), torch.cat([getattr(one, name) for one in cut])
        )
    assert sum(batch.tokens for batch in whole) == sum(batch.tokens for batch in cut)


def test_where_no_answer_is_ever_right_training_ends_and_says_so(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("tokenizer", "sft"):
        shutil.copytree(toy_run / stage, tmp_path / stage)
    short: dict[str, Any] = {
        "prompts": 2,
        "samples": 2,
        "max_tokens": 4,
        "eval_every": 0,
        "eval_examples": 2,
        "replay_tokens": 0,
        "beside": "",
        "eval_each": 0,
        "pass_examples": 0,
    }
    with pytest.raises(NothingLearned, match=f"in {STUCK_STEPS} steps in a row .* Take more --samples"):
        main(Rl(run=str(tmp_path), task="world/problems_hard", steps=40, **short))
    rewards = [line["reward"] for line in metrics(tmp_path / "rl") if "reward" in line]
    assert rewards == [0.0] * STUCK_STEPS
    assert "in 1 step all answers" in capsys.readouterr().out


def test_where_every_answer_is_right_the_training_is_finished_and_no_failure(toy_run: Path, tmp_path: Path) -> None:
    for stage in ("tokenizer", "sft"):
        shutil.copytree(toy_run / stage, tmp_path / stage)
    reward = tmp_path / "reward.py"
    reward.write_text("questions = [f'Say {n}.' for n in range(40)]\ndef grade(example, answer):\n    return 1\n")
    short = {"prompts": 2, "samples": 2, "max_tokens": 64, "eval_examples": 2, "pass_examples": 0, "eval_each": 0}
    flat: dict[str, Any] = {"steps": STUCK_STEPS + 1, **short}
    assert main(Rl(run=str(tmp_path), task=f"{reward}:grade", **flat))["exit_code"] == 0
    assert summary(tmp_path / "rl")["steps"] == STUCK_STEPS + 1


def vowels(_: Example, answer: str) -> float:
    return sum(letter in "aeiou" for letter in answer) / max(1, len(answer))


@pytest.mark.parametrize("harms", [False, True])
def test_what_is_better_remains_unless_another_kind_of_problem_fell(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harms: bool
) -> None:
    toy = replace(TASKS["world/spelling"], grade=vowels, max_tokens=8)
    monkeypatch.setitem(TASKS, "world/more", replace(toy, name="world/more", beside=("world/fewer",) * harms))
    monkeypatch.setitem(TASKS, "world/fewer", replace(toy, name="world/fewer", grade=lambda *each: 1 - vowels(*each)))
    for stage in ("tokenizer", "sft"):
        shutil.copytree(toy_run / stage, tmp_path / stage)
    short: dict[str, Any] = {"prompts": 4, "samples": 16, "steps": 8, "eval_every": 8, "eval_examples": 48}
    main(Rl(run=str(tmp_path), task="world/more", optim=OptimSettings(matrix_rate=0.05), **short))
    done, left = summary(tmp_path / "rl"), load_model(tmp_path / "rl").state_dict()
    start = load_model(tmp_path / "sft").state_dict()
    assert all(torch.equal(value, start[name]) for name, value in left.items()) == harms
    assert (done["kept_step"] == 0) == harms
    assert bool(done["fallen"]) == harms
    assert [kind["task"] for kind in done["kinds"] if kind["fell"]] == ["world/fewer"] * harms
