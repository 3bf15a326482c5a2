"""Rollouts: groups of sampled answers, graded, and the policy-gradient batches made of them.

    rollouts = Rollouts(model, tokenizer, task, config)
    for step in train(model, optimizer, rollouts.batches(), Plan(steps=40, micro=rollouts.micro)):
        print(describe(rollouts.groups)["reward"])

A group holds the answers to one prompt. An answer's advantage is its reward minus the mean of its group (GRPO; Shao et al. 2024,
arXiv:2402.03300; without its division by the deviation unless asked for, Liu et al. 2025, arXiv:2503.20783), and every sampled
token weighs as much as its answer's advantage.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from fledge import ranks
from fledge.config import Rl, Sampling
from fledge.infer.engine import Engine, Request
from fledge.model.transformer import Transformer
from fledge.sandbox.sandbox import NotJudged
from fledge.tasks.base import Example, Task
from fledge.text.chat import decode_answer, encode_prompt
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import BOS, Row, batch_of, stack
from fledge.train.loop import Batch

Weighted = tuple[Request, float]
"""An answer and its advantage."""


@dataclass(frozen=True)
class Group:
    """The answers sampled to one prompt, and the reward of each; None of one that could not be judged."""

    requests: Sequence[Request]
    rewards: Sequence[float | None]

    @property
    def judged(self) -> list[float]:
        """The rewards there are."""
        return [reward for reward in self.rewards if reward is not None]


def advantages(rewards: Sequence[float | None], *, normalise: str = "none") -> list[float]:
    """Reward minus the mean of the group; with `std` divided by its deviation. Equal rewards give 0, and so does none.

    [1, 0, 0, 1] -> [.5, -.5, -.5, .5]; [1, None, 0] -> [.5, 0, -.5]
    """
    judged = [reward for reward in rewards if reward is not None] or [0.0]
    mean = statistics.fmean(judged)
    deviation = statistics.pstdev(judged) if normalise == "std" else 1.0
    return [0.0 if reward is None else (reward - mean) / (deviation or 1.0) for reward in rewards]


def describe(groups: Sequence[Group]) -> dict[str, float]:
    """What the rollouts of a step were like. A group of equal rewards is flat: it teaches nothing."""
    requests = [request for group in groups for request in group.requests]
    return {
        "reward": statistics.fmean(reward for group in groups for reward in group.judged),
        "flat_groups_share": statistics.fmean(len(set(group.judged)) < 2 for group in groups),
        "not_judged": sum(group.rewards.count(None) for group in groups),
        "answer_tokens": statistics.fmean(sum(request.mask) for request in requests),
        "cut_share": statistics.fmean(request.finish == "length" for request in requests),
    }


class Rollouts:
    """Samples answers with the newest weights, grades them, and makes the batches of each step."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, task: Task, config: Rl) -> None:
        self.model, self.tokenizer, self.task, self.config = model, tokenizer, task, config
        self.examples = task.load("train")
        self.engine = Engine(model, tokenizer)
        self.groups: list[Group] = []
        """Those of the last step."""
        self.reason: NotJudged | None = None
        """Why the last answer that was not judged was not."""
        self.length = model.config.context
        self.rows = max(1, (config.device_tokens or self.length) // self.length)
        many = ranks.count()
        self.passes = many * -(-config.prompts * config.samples // (self.rows * many))
        """In which the answers of a step are learned, on all ranks together: equally many on each."""
        self.replayed = -(-config.replay_tokens // self.length)
        """Rows of conversations in each step."""
        self.chat_rows = max(1, min(self.rows, -(-self.replayed // many)))

    @property
    def micro(self) -> int:
        """Forward passes of a step on each rank."""
        return -(-(self.passes + -(-self.replayed // self.chat_rows)) // ranks.count())

    def batches(
        self, *, first: int = 0, chats: Iterator[Row] | None = None, device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """`micro` batches for each step from `first` on: of its rollouts, then as many rows of `chats` as are replayed.

        Of several ranks each has its share of them, and the tokens of all.
        """
        many = ranks.count()
        for step in range(first, self.config.steps):
            self.groups = self.sample(step)
            chosen = list(islice(chats or (), self.replayed))
            cursor = {"step": step + 1, "chats": chosen[-1].cursor if chosen else None}
            weighted = weigh(self.groups, normalise=self.config.normalise)
            made = policy_batches(weighted, passes=self.passes, length=self.length, pad=self.tokenizer.special[BOS])
            made += [stack(chosen[at : at + self.chat_rows]) for at in range(0, len(chosen), self.chat_rows)]
            idle = replace(made[-1], weights_BT=torch.zeros_like(made[-1].weights_BT), tokens=0)
            made += [idle] * (-len(made) % many)
            for at in range(0, len(made), many):
                tokens = sum(batch.tokens for batch in made[at : at + many])
                yield replace(made[at + ranks.number()], tokens=tokens, cursor=cursor).to(device)

    def sample(self, step: int) -> list[Group]:
        """The groups of a step. What is drawn depends on (seed, step) alone, so that a resumed run draws the same."""
        config, rng = self.config, random.Random(f"{self.config.seed}/{step}")
        chosen = rng.sample(self.examples, config.prompts)
        groups = [[self._request(example, rng.getrandbits(62)) for _ in range(config.samples)] for example in chosen]
        self.model.eval()
        self.engine.forget()
        pairs = list(zip(chosen, groups, strict=True))
        self.engine.generate([request for _, group in ranks.share(pairs) for request in group])
        own = [Group(group, [self._grade(example, one) for one in group]) for example, group in ranks.share(pairs)]
        found = own if ranks.count() == 1 else gathered(own, groups)
        if not any(group.judged for group in found):
            raise RuntimeError(
                f"task {self.task.name}: none of the answers of step {step + 1} could be judged ({self.reason})"
            )
        return found

    def _request(self, example: Example, seed: int) -> Request:
        config = self.config
        return Request(
            prompt=encode_prompt(self.tokenizer, example.question),
            sampling=Sampling(
                max_tokens=min(config.max_tokens, self.task.max_tokens),
                temperature=config.temperature,
                top_k=config.top_k,
                seed=seed,
            ),
        )

    def _grade(self, example: Example, request: Request) -> float | None:
        parts = decode_answer(self.tokenizer, request.answer)
        try:
            return self.task.graded(example, "".join(part.text for part in parts if part.kind == "text"))
        except NotJudged as reason:
            self.reason = reason
            return None


def gathered(own: Sequence[Group], asked: Sequence[Sequence[Request]]) -> list[Group]:
    """All groups of a step, with the answers and rewards of the ranks to which they were dealt."""
    said = [([(one.answer, one.mask, one.finish) for one in group.requests], list(group.rewards)) for group in own]
    parts, found = ranks.gather(said), []
    for place, requests in enumerate(asked):
        answers, rewards = parts[place % ranks.count()][place // ranks.count()]
        for request, answer in zip(requests, answers, strict=True):
            request.answer, request.mask, request.finish = answer
        found.append(Group(requests, rewards))
    return found


def weigh(groups: Sequence[Group], *, normalise: str) -> list[Weighted]:
    """Every answer with its advantage."""
    return [
        (request, advantage)
        for group in groups
        for request, advantage in zip(group.requests, advantages(group.rewards, normalise=normalise), strict=True)
    ]


def policy_batches(weighted: Sequence[Weighted], *, passes: int, length: int, pad: int) -> list[Batch]:
    """The `passes` batches of one step's answers; their sums do not depend on how many there are.

    Args:
        length: what goes beyond `length` targets is cut off.
    """
    # What has no advantage has no gradient: it counts as tokens and is not computed.
    kept = [pair for pair in weighted if pair[1]] or list(weighted[:1])
    # By length, so that little is padding.
    kept.sort(key=lambda pair: len(pair[0].prompt) + len(pair[0].answer), reverse=True)
    rows = -(-len(kept) // passes)
    batches = [_policy_batch(kept[at : at + rows], length, pad) for at in range(0, len(kept), rows)]
    uncounted = sum(sum(request.mask) for request, _ in weighted) - sum(batch.tokens for batch in batches)
    batches[0] = replace(batches[0], tokens=batches[0].tokens + uncounted)
    # The loop takes equally many batches in every step.
    idle = replace(batches[-1], weights_BT=torch.zeros_like(batches[-1].weights_BT), tokens=0)
    return batches + [idle] * (passes - len(batches))


def _policy_batch(weighted: Sequence[Weighted], length: int, pad: int) -> Batch:
    longest = len(weighted[0][0].prompt) + len(weighted[0][0].answer)
    shape = len(weighted), min(length + 1, max(2, longest))
    ids_BC, mask_BC = np.full(shape, pad, np.int32), np.zeros(shape, np.float32)
    for row, (request, _) in enumerate(weighted):
        ids = [*request.prompt, *request.answer][: shape[1]]
        mask = [*[0] * len(request.prompt), *request.mask][: shape[1]]
        ids_BC[row, : len(ids)], mask_BC[row, : len(mask)] = ids, mask
    advantage_B1 = np.array([[advantage] for _, advantage in weighted], np.float32)
    return batch_of(ids_BC, mask_BC * advantage_B1, tokens=int(mask_BC[:, 1:].sum()), cursor={})
