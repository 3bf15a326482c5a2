"""`fledge rl`: improve a chat model on one task by its own graded answers (GRPO).

Each step draws prompts, samples a group of answers to each, and grades them. An answer's advantage is its reward minus the
mean of its group (Shao et al. 2024, arXiv:2402.03300; without its division by the deviation unless asked for, Liu et al. 2025,
arXiv:2503.20783), and the loss is the mean over the sampled tokens of advantage x negative log-likelihood. The answers come
from the newest weights, so the importance ratio is 1 and nothing needs clipping. A group whose rewards are all equal teaches
nothing; its share is reported. `rehearse` adds conversations to each step (Ouyang et al. 2022, arXiv:2203.02155, mix in text).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from fledge import console
from fledge.checkpoint import load_model
from fledge.config import Rl, check
from fledge.evals.score import Scorer
from fledge.infer.engine import Engine, Request
from fledge.runs import open_stage, settings_of
from fledge.tasks import find_task
from fledge.tasks.base import Example, Task
from fledge.tasks.mixture import open_chats
from fledge.text.chat import decode_answer, encode_prompt
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import conversation_batches, rollout_batch
from fledge.train.loop import Batch, due
from fledge.train.session import Session


def main(config: Rl) -> None:
    """Reinforce a chat model on one task."""
    check(config)
    task = find_task(config.task)
    with open_stage(config) as stage:
        tokenizer = Tokenizer.load(stage.run / "tokenizer")
        model = load_model(stage.run / config.start)
        session = Session(stage, config, model)
        passes = passes_per_step(config, model.config.context)
        rollouts = Rollouts(model, tokenizer, task, config)
        rehearsal = Rehearsal(stage.run, tokenizer, config, length=model.config.context)
        plan = session.plan(config.steps, passes + rehearsal.passes)
        console.say(
            f"rl: {config.steps} steps of {config.prompts} prompts x {config.samples} answers on {task.name}, from {config.start}"
        )

        def batches(cursor: dict[str, Any] | None) -> Iterator[Batch]:
            step, place = (cursor["step"], cursor["chats"]) if cursor else (0, None)
            sampled = rollouts.batches(first=step, passes=passes, device=session.device)
            return rehearsal.added(sampled, every=passes, cursor=place, device=session.device)

        def accuracy() -> dict[str, float]:
            score = Scorer(model, tokenizer).score(task, split="validation", limit=config.eval_examples)
            return {"validation": score.accuracy, "validation_standard_error": score.standard_error}

        before = accuracy()
        for step in session.train(batches, plan, fixed_shapes=False):
            stage.log(step=step.index + 1, **rollouts.last.metrics())
            if config.eval_every and due(step.index, config.eval_every, plan.steps):
                session.log(step, **accuracy())
        session.finish(task=task.name, steps=plan.steps, before=before, after=accuracy())


class Rehearsal:
    """Conversations that the model has learned from, so that it does not forget what the reward does not ask for."""

    def __init__(self, run: Path, tokenizer: Tokenizer, config: Rl, *, length: int) -> None:
        self.run, self.tokenizer, self.config, self.length = run, tokenizer, config, length
        tokens = min(config.rehearse, config.device_tokens or 4096)
        self.rows = max(1, tokens // length)
        self.passes = -(-config.rehearse // (self.rows * length))

    def added(
        self, sampled: Iterator[Batch], *, every: int, cursor: dict[str, Any] | None, device: torch.device
    ) -> Iterator[Batch]:
        """After `every` sampled batches, those of one step, the step's conversations, from `cursor` on."""
        chats = self._chats(cursor, device) if self.passes else iter(())
        while step := list(islice(sampled, every)):
            step += islice(chats, self.passes)
            place = {**step[0].cursor, "chats": step[-1].cursor if self.passes else None}
            yield from (replace(batch, cursor=place) for batch in step)

    def _chats(self, cursor: dict[str, Any] | None, device: torch.device) -> Iterator[Batch]:
        config = self.config
        data = settings_of(self.run / config.start).get("data", "world")
        # Another seed than fine-tuning's, or an endless source would begin with the same conversations.
        chats = open_chats(data, stage="sft", seed=config.seed + 1)
        shape = {"rows": self.rows, "length": self.length, "device": device, "cursor": cursor, "seed": config.seed}
        return conversation_batches(chats, self.tokenizer, **shape)


def passes_per_step(config: Rl, context: int) -> int:
    """Forward passes that the rollouts of a step take. The shorter share a pass, so that little of it is padding."""
    rows = max(1, (config.device_tokens or 16_384) // context)
    return -(-config.prompts * config.samples // rows)


@dataclass(frozen=True)
class Group:
    """The answers sampled to one prompt."""

    requests: Sequence[Request]
    rewards: Sequence[float]

    def advantages(self, normalise: str) -> list[float]:
        return advantages(self.rewards, normalise=normalise)


def advantages(rewards: Sequence[float], *, normalise: str = "none") -> list[float]:
    """Reward minus the mean of the group; with `std` divided by its deviation. Equal rewards give 0.

    [1, 0, 0, 1] -> [.5, -.5, -.5, .5]
    """
    mean = statistics.fmean(rewards)
    deviation = statistics.pstdev(rewards) if normalise == "std" else 1.0
    return [(reward - mean) / (deviation or 1.0) for reward in rewards]


@dataclass(frozen=True)
class Sampled:
    """What one step's rollouts were like."""

    groups: Sequence[Group]

    def metrics(self) -> dict[str, float]:
        requests = [request for group in self.groups for request in group.requests]
        return {
            "reward": statistics.fmean(reward for group in self.groups for reward in group.rewards),
            "flat_groups_share": statistics.fmean(len(set(group.rewards)) == 1 for group in self.groups),
            "answer_tokens": statistics.fmean(sum(request.mask) for request in requests),
            "cut_share": statistics.fmean(request.finish == "length" for request in requests),
        }


class Rollouts:
    """Samples groups of answers with the newest weights and makes batches of them."""

    def __init__(self, model: Any, tokenizer: Tokenizer, task: Task, config: Rl) -> None:
        self.model, self.tokenizer, self.task, self.config = model, tokenizer, task, config
        self.examples = list(task.load("train"))
        if len(self.examples) < config.prompts:
            raise ValueError(
                f"task {task.name} has {len(self.examples)} training examples, fewer than prompts={config.prompts}"
            )
        self.last = Sampled(())
        self.engine: Engine | None = None

    def batches(self, *, first: int, passes: int, device: torch.device) -> Iterator[Batch]:
        """The rollouts of each step in `passes` batches."""
        for step in range(first, self.config.steps):
            self.last = Sampled(self._sample(step))
            yield from self._step(passes, {"step": step + 1}, device)

    def _step(self, passes: int, cursor: dict[str, Any], device: torch.device) -> list[Batch]:
        weighted = [
            (request, advantage)
            for group in self.last.groups
            for request, advantage in zip(group.requests, group.advantages(self.config.normalise), strict=True)
        ]
        # What has no advantage has no gradient: it counts as tokens and is not computed.
        kept = [pair for pair in weighted if pair[1]] or weighted[:1]
        batches = rollout_batch(
            [[*request.prompt, *request.answer] for request, _ in kept],
            [[0] * len(request.prompt) + list(request.mask) for request, _ in kept],
            [advantage for _, advantage in kept],
            length=self.model.config.context,
            pad=self.tokenizer.special["<|bos|>"],
            rows=-(-len(kept) // passes),
            cursor=cursor,
            device=device,
        )
        tokens = sum(sum(request.mask) for request, _ in weighted) - sum(batch.tokens for batch in batches)
        batches[0] = replace(batches[0], tokens=batches[0].tokens + tokens)
        idle = replace(batches[-1], weights_BT=torch.zeros_like(batches[-1].weights_BT), tokens=0)
        return batches + [idle] * (passes - len(batches))

    def _sample(self, step: int) -> list[Group]:
        config = self.config
        # What is drawn depends on (seed, step) alone, so that a resumed run draws the same.
        rng = random.Random(f"{config.seed}/{step}")
        chosen = rng.sample(self.examples, config.prompts)
        groups = [[self._request(example, rng.getrandbits(62)) for _ in range(config.samples)] for example in chosen]
        self.model.eval()
        if self.engine is None:
            self.engine = Engine(self.model, self.tokenizer)
        else:
            self.engine.forget()
        self.engine.generate([request for group in groups for request in group])
        pairs = zip(chosen, groups, strict=True)
        return [Group(group, [self._grade(example, request) for request in group]) for example, group in pairs]

    def _request(self, example: Example, seed: int) -> Request:
        config = self.config
        return Request(
            prompt=encode_prompt(self.tokenizer, example.question),
            max_tokens=min(config.max_tokens, self.task.max_tokens),
            temperature=config.temperature,
            top_k=config.top_k,
            seed=seed,
        )

    def _grade(self, example: Example, request: Request) -> float:
        parts = decode_answer(self.tokenizer, request.answer)
        return self.task.grade(example, "".join(part.text for part in parts if part.kind == "text"))
