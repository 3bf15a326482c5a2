"""What an answer of a policy weighs when the policy learns from it, token by token, and the batches that say so.

    weighted = weigh(groups, kind="mean")                # [(Answer, [.5, .5, 0, .5]), ...]
    policy_batches(weighted, passes=4, length=256, pad=bos)

A group holds the answers to one prompt. An answer's advantage is its reward minus the mean of its group (GRPO; Shao et al. 2024,
arXiv:2402.03300; without its division by the deviation unless asked for, Liu et al. 2025, arXiv:2503.20783). Every sampled token,
that of the end among them, weighs as much as its answer's advantage, times how much likelier training's own forward pass finds it
than the engine that drew it. So the loop's weighted sum of -ln p has the gradient of the policy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge.model.transformer import Transformer
from fledge.train.batches import batch_of
from fledge.train.loop import Batch

MOST_IMPORTANCE, IMPORTANCE_STEP = 2.0, 0.05
"""Importance is cut off at the first (truncated importance sampling, Ionides 2008), and its logarithm rounded to the second: the
last bits of what the engine says depend on which answers it happened to compute together, and weights must not."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said to a prompt, and what it earned. Lists have an item for each token of the answer."""

    prompt: list[int]
    ids: list[int]
    mask: list[int]
    """1: sampled, 0: forced."""
    drawn: list[float]
    """ln of the probability with which the engine drew it."""
    finish: str
    reward: float | None
    """None: it could not be judged."""
    policy: list[float] | None = None
    """ln p by training's forward pass, with the weights that sampled it; of groups that teach."""
    start: list[float] | None = None
    """The same of the weights of the start, where distance from them costs."""

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.ids)


@dataclass(frozen=True)
class Group:
    """The answers to one example."""

    place: int
    """Of the example among those of the task."""
    answers: Sequence[Answer]

    @property
    def rewards(self) -> list[float | None]:
        return [answer.reward for answer in self.answers]

    @property
    def judged(self) -> list[float]:
        """The rewards there are."""
        return [reward for reward in self.rewards if reward is not None]

    @property
    def teaches(self) -> bool:
        """Whether some answer earned more than another."""
        return len(set(self.judged)) > 1

    def state(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {"place": self.place, "answers": [vars(answer) for answer in self.answers]}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Group:
        return cls(state["place"], [Answer(**answer) for answer in state["answers"]])


def advantages(rewards: Sequence[float | None], *, kind: str = "mean") -> list[float]:
    """Reward minus the mean of the group; `std` divides by its deviation, `maxrl` by that mean. Equal rewards give 0.

    With rewards of 0 and 1 `mean` follows the gradient of the share p that is right, and `maxrl` that of ln p, the likelihood of
    being right: a prompt that is answered right once in a hundred times counts as much as one half of whose answers are.

    [1, 0, 0, 1] -> [.5, -.5, -.5, .5]; [1, None, 0] -> [.5, 0, -.5]
    """
    judged = [reward for reward in rewards if reward is not None] or [0.0]
    mean = statistics.fmean(judged)
    divisor = {"mean": 1.0, "std": statistics.pstdev(judged), "maxrl": mean}[kind] or 1.0
    return [0.0 if reward is None else (reward - mean) / divisor for reward in rewards]


def importance(policy: float, drawn: float) -> float:
    """min(p of training / p of the engine, 2) from their logarithms: exactly 1 where they agree up to rounding."""
    steps = round((policy - drawn) / IMPORTANCE_STEP)
    return min(MOST_IMPORTANCE, math.exp(IMPORTANCE_STEP * steps))


def token_weights(answer: Answer, advantage: float, *, kl: float = 0.0) -> list[float]:
    """What each token of an answer weighs: its advantage, less the distance from the start, times its importance; 0 where forced.

    That distance, ln p - ln p of the start, in place of a reward has the gradient of the divergence from the start.
    """
    policy = answer.policy or answer.drawn
    start = answer.start or policy
    return [
        mask * (advantage - kl * (now - then)) * importance(now, drawn)
        for mask, now, then, drawn in zip(answer.mask, policy, start, answer.drawn, strict=True)
    ]


def clipped(weights: Tensor, moved: Tensor, *, clip_range: float) -> Tensor:
    """The weights of tokens that a later update learns: times how likely they have become, and 0 where that went far enough.

    The gradient of PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347).

    Args:
        moved: ln of how many times as likely each is as when it was sampled.
    """
    ratio = moved.exp()
    enough = torch.where(weights > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return (weights * ratio).masked_fill(enough, 0.0)


def weigh(groups: Sequence[Group], *, kind: str = "mean", kl: float = 0.0) -> list[tuple[Answer, list[float]]]:
    """Every answer with what its tokens weigh."""
    return [
        (answer, token_weights(answer, advantage, kl=kl) if group.teaches else [0.0] * len(answer.ids))
        for group in groups
        for answer, advantage in zip(group.answers, advantages(group.rewards, kind=kind), strict=True)
    ]


def logprobs_of(
    model: Transformer, answers: Sequence[Answer], *, rows: int, length: int, pad: int
) -> list[list[float]]:
    """ln p of the sampled tokens of each answer by training's forward pass, `rows` at a time; 0 where they are forced."""
    found: list[list[float]] = [[]] * len(answers)
    order = sorted(range(len(answers)), key=lambda place: answers[place].size, reverse=True)
    for at in range(0, len(order), rows):
        places = order[at : at + rows]
        chosen = [answers[place] for place in places]
        batch = batch_of(*laid_out(chosen, [one.mask for one in chosen], length, pad), tokens=0, cursor={})
        batch = batch.to(model.unembedding.device)
        said = iter(model.logprobs(batch.inputs_BT, batch.targets_BT, batch.weights_BT > 0).tolist())
        for place, answer in zip(places, chosen, strict=True):
            found[place] = [next(said) if mask else 0.0 for mask in answer.mask]
    return found


def laid_out(
    answers: Sequence[Answer], values: Sequence[Sequence[float]], length: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of prompts and answers, the longest first, and beside each token of an answer its value; others have 0."""
    shape = len(answers), min(length + 1, max(2, answers[0].size))
    ids_BC, values_BC = np.full(shape, pad, np.int32), np.zeros(shape, np.float32)
    for row, (answer, own) in enumerate(zip(answers, values, strict=True)):
        ids = [*answer.prompt, *answer.ids][: shape[1]]
        ids_BC[row, : len(ids)] = ids
        values_BC[row, len(answer.prompt) : len(ids)] = own[: len(ids) - len(answer.prompt)]
    return ids_BC, values_BC


def policy_batches(
    weighted: Sequence[tuple[Answer, Sequence[float]]], *, passes: int, length: int, pad: int
) -> list[tuple[Batch, Tensor]]:
    """The `passes` batches of one step's answers, their sums do not depend on how many there are; each with its tokens' ln p
    when they were sampled.

    Args:
        length: what goes beyond `length` targets is cut off.
    """
    # What has no weight has no gradient: it counts as tokens and is not computed.
    kept = [pair for pair in weighted if any(pair[1])] or list(weighted[:1])
    # By length, so that little is padding.
    kept.sort(key=lambda pair: pair[0].size, reverse=True)
    rows = -(-len(kept) // passes)
    batches = [_policy_batch(kept[at : at + rows], length, pad) for at in range(0, len(kept), rows)]
    # Those too that are not computed.
    tokens = sum(sum(answer.mask) for answer, _ in weighted)
    batches[0] = replace(batches[0][0], tokens=tokens), batches[0][1]
    # The loop takes equally many batches in every step.
    last, policy_BT = batches[-1]
    idle = replace(last, weights_BT=torch.zeros_like(last.weights_BT), tokens=0), torch.zeros_like(policy_BT)
    return batches + [idle] * (passes - len(batches))


def _policy_batch(weighted: Sequence[tuple[Answer, Sequence[float]]], length: int, pad: int) -> tuple[Batch, Tensor]:
    answers, weights = zip(*weighted, strict=True)
    ids_BC, weights_BC = laid_out(answers, weights, length, pad)
    _, policy_BC = laid_out(answers, [answer.policy or [0.0] * len(answer.ids) for answer in answers], length, pad)
    return batch_of(ids_BC, weights_BC, tokens=0, cursor={}), torch.from_numpy(policy_BC[:, 1:])
