"""Rollouts: groups of sampled answers, graded, and batches made of them (train/policy.py).

    rollouts = Rollouts(model, tokenizer, task, config)
    for step in train(model, optimizer, rollouts.batches(), Plan(steps=40, micro=rollouts.micro)):
        print(rollouts.numbers["reward"])

Groups whose answers all earned the same teach nothing and are replaced (Yu et al. 2025, arXiv:2503.14476). What is reported is of
those that were drawn first, or it would be of problems that are neither easy nor hard.
"""

from __future__ import annotations

import copy
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, pairwise
from typing import Any

import torch
from torch import Tensor

from fledge import ranks
from fledge.config import Rl, Sampling
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.model.transformer import Transformer
from fledge.sandbox.sandbox import NotJudged
from fledge.tasks.base import Example, Task
from fledge.text.chat import Message, decode_answer, encode_prompt
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import BOS, Row, stack
from fledge.train.loop import Batch
from fledge.train.policy import Answer, Group, clipped, logprobs_of, policy_batches, weigh

UNFINISHED = ("length", "tool_error")
"""Ends of answers that earn nothing: cut off, or with a tool's result that the model made up."""


def describe(drawn: Sequence[Group], learned: Sequence[Group]) -> dict[str, float]:
    """What the answers that were drawn first were like, and how many groups there are to learn from.

    A group of equal rewards is flat: it teaches nothing.
    """
    answers = [answer for group in drawn for answer in group.answers]
    sampled = [ln for one in answers for ln, mask in zip(one.drawn, one.mask, strict=True) if mask]
    taught = [one for group in learned for one in group.answers if one.policy]
    pairs = [zip(one.policy or (), one.drawn, one.mask, strict=True) for one in taught]
    apart = [abs(now - then) for now, then, mask in chain.from_iterable(pairs) if mask]
    return {
        "reward": statistics.fmean(chain.from_iterable(group.judged for group in drawn)),
        "flat_groups_share": statistics.fmean(not group.teaches for group in drawn),
        "learned_groups": sum(group.teaches for group in learned),
        "not_judged": sum(answer.reward is None for answer in answers),
        "answer_tokens": statistics.fmean(sum(answer.mask) for answer in answers),
        # Nothing is drawn where no prompt of the step leaves room.
        "entropy_nats": _to_digits(-statistics.fmean(sampled)) if sampled else 0.0,
        "cut_share": statistics.fmean(answer.finish == "length" for answer in answers),
        "invented_share": statistics.fmean(answer.finish == "tool_error" for answer in answers),
        "tool_calls": statistics.fmean(sum(a > b for a, b in pairwise(answer.mask)) for answer in answers),
        **({"mismatch_nats": _to_digits(statistics.fmean(apart))} if apart else {}),
    }


def _to_digits(nats: float) -> float:
    """Without the last bits of what the engine says, which depend on when a tool answered: a resumed run logs the same, but for
    one number in thousands that lies where rounding turns."""
    return round(nats, 5)


class Rollouts:
    """Samples answers with the newest weights, grades them, and makes the batches of each step."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, task: Task, config: Rl) -> None:
        self.model, self.tokenizer, self.task, self.config = model, tokenizer, task, config
        self.start = copy.deepcopy(model).eval() if config.kl else None
        self.examples = task.load("train")
        self.engine = Engine(model, tokenizer)
        self.groups: list[Group] = []
        """Those that the last step learned from."""
        self.numbers: dict[str, float] = {}
        """What is logged of the last step."""
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
        self,
        *,
        first: int = 0,
        begun: dict[str, Any] | None = None,
        chats: Iterator[Row] | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """`micro` batches for each step from `first` on: of its rollouts, then as many rows of `chats` as are replayed.

        Of several ranks each has its share of them, and the tokens of all.

        begun: the rollouts of a cursor, where some steps have learned from them and others are to follow.
        """
        many, pad, updates = ranks.count(), self.tokenizer.special[BOS], self.config.updates
        if begun:
            self.groups, self.numbers = [Group.of(state) for state in begun["groups"]], begun["numbers"]
        for step in range(first, self.config.steps):
            if step % updates == 0:
                self.sample(step // updates)
            chosen = list(islice(chats or (), self.replayed))
            cursor: dict[str, Any] = {"step": step + 1, "chats": chosen[-1].cursor if chosen else None}
            if (step + 1) % updates:
                cursor["rollouts"] = {"groups": [group.state() for group in self.groups], "numbers": self.numbers}
            weighted = weigh(self.groups, kind=self.config.advantage, kl=self.config.kl)
            made = policy_batches(weighted, passes=self.passes, length=self.length, pad=pad)
            talks = [stack(chosen[at : at + self.chat_rows]) for at in range(0, len(chosen), self.chat_rows)]
            made += [(talk, torch.zeros_like(talk.weights_BT)) for talk in talks]
            idle = replace(made[-1][0], weights_BT=torch.zeros_like(made[-1][0].weights_BT), tokens=0)
            made += [(idle, made[-1][1])] * (-len(made) % many)
            own = made[ranks.number() :: many]
            if step % updates:
                own = self.moved(own, device=device)
            for at, (batch, _) in zip(range(0, len(made), many), own, strict=True):
                tokens = sum(each.tokens for each, _ in made[at : at + many])
                yield replace(batch, tokens=tokens, cursor=cursor).to(device)

    def moved(self, own: list[tuple[Batch, Tensor]], *, device: torch.device | str) -> list[tuple[Batch, Tensor]]:
        """The batches of an update that is not the first, weighed by how far the weights have moved; logs the share that is cut."""
        found, cut, count = [], 0, 0
        for batch, policy_BT in own:
            where_BT = policy_BT < 0
            if bool(where_BT.any()):
                there = batch.to(device)
                now = self.model.logprobs(there.inputs_BT, there.targets_BT, where_BT.to(device)).float().cpu()
                weights_BT = batch.weights_BT.clone()
                before = weights_BT[where_BT]
                weights_BT[where_BT] = clipped(before, now - policy_BT[where_BT], clip_range=self.config.clip_range)
                cut += int(((weights_BT[where_BT] == 0) & (before != 0)).sum())
                count += int((before != 0).sum())
                batch = replace(batch, weights_BT=weights_BT)
            found.append((batch, policy_BT))
        cut, count = ranks.sum_of([cut, count])
        self.numbers = self.numbers | {"clipped_share": cut / max(1, count)}
        return found

    def sample(self, number: int) -> None:
        """Draw the groups to learn from. They depend on (seed, number) alone, so that a resumed run draws the same."""
        config, rng = self.config, random.Random(f"{self.config.seed}/{number}")
        self.model.eval()
        self.engine.forget()
        first = flat = self._groups(rng, config.prompts)
        if not any(group.judged for group in first):
            raise RuntimeError(
                f"task {self.task.name}: none of the answers of step {number * config.updates + 1} could be judged "
                f"({self.reason})"
            )
        taught = [group for group in first if group.teaches]
        for _ in range(config.resample):
            if missing := config.prompts - len(taught):
                flat = self._groups(rng, missing)
                taught += [group for group in flat if group.teaches]
        still_flat = [group for group in flat if not group.teaches]
        self.groups = [*taught, *still_flat][: config.prompts]
        self.numbers = describe(first, self.groups)

    def _groups(self, rng: random.Random, count: int) -> list[Group]:
        """Groups of answers to so many examples, graded; each rank answers its share of them."""
        asked = [
            (place, self._requests(self.examples[place], rng)) for place in rng.sample(range(len(self.examples)), count)
        ]
        own = ranks.share(asked)
        self.engine.generate([request for _, requests in own for request in requests])
        found = [Group(place, [self._graded(place, request) for request in requests]) for place, requests in own]
        parts = ranks.gather([group.state() for group in self._with_logprobs(found)])
        return [Group.of(parts[at % len(parts)][at // len(parts)]) for at in range(count)]

    def _requests(self, example: Example, rng: random.Random) -> list[Request]:
        config = self.config
        prompt = encode_prompt(self.tokenizer, example.question)
        drawn = Sampling(
            max_tokens=min(config.max_tokens, self.task.max_tokens), temperature=config.temperature, top_k=config.top_k
        )
        return [
            Request(prompt=prompt, sampling=replace(drawn, seed=rng.getrandbits(62)), top_logprobs=0, as_drawn=True)
            for _ in range(config.samples)
        ]

    def _graded(self, place: int, request: Request) -> Answer:
        reward, said = 0.0, Message("assistant", decode_answer(self.tokenizer, request.answer)).text
        try:
            if request.finish not in UNFINISHED:
                reward = self.task.graded(self.examples[place], said)
        except NotJudged as reason:
            reward, self.reason = None, reason
        return Answer(
            prompt=request.prompt,
            ids=request.answer,
            mask=request.mask,
            drawn=request.logprobs,
            finish=request.finish,
            reward=reward,
        )

    def _with_logprobs(self, groups: Sequence[Group]) -> list[Group]:
        """The groups; the answers of those that teach with what training's forward pass says of them."""
        answers = [answer for group in groups if group.teaches for answer in group.answers]
        cut = {"rows": self.rows, "length": self.length, "pad": self.tokenizer.special[BOS]}
        policy = logprobs_of(self.model, answers, **cut)
        start = logprobs_of(self.start, answers, **cut) if self.start else [None] * len(answers)
        told = (replace(one, policy=now, start=then) for one, now, then in zip(answers, policy, start, strict=True))
        return [
            replace(group, answers=[*islice(told, self.config.samples)]) if group.teaches else group for group in groups
        ]

    def transcript(self) -> dict[str, Any]:
        """A question of the last step with the best and the worst of its answers, as they stand, and what they earned."""
        group = self.groups[0]
        ranked = sorted(group.answers, key=lambda answer: -1.0 if answer.reward is None else answer.reward)
        return {
            "asked": self.examples[group.place].question[-1].text,
            "answers": [{"text": self._written(one), "reward": one.reward} for one in (ranked[-1], ranked[0])],
        }

    def _written(self, answer: Answer) -> str:
        marks = {"python": " [{}", "output": " = {}] ", "text": "{}"}
        parts = decode_answer(self.tokenizer, answer.ids)
        cut = " [cut off]" if answer.finish == "length" else ""
        return "".join(marks[part.kind].format(part.text) for part in parts) + cut
