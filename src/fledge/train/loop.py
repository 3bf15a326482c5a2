"""The one training loop, shared by every stage.

A stage hands over a model, an optimizer and an iterator of batches, and gets back an iterator of steps. What should happen
between steps (log, save, evaluate, sample) the stage writes in its own `for` body: no callbacks, no trainer class.

    for step in train(model, optimizer, batches, plan):
        run.log(step)
        if due(step.index + 1, config.save_every, plan.steps): ...

The loop asks for the next batch only when the stage comes round, so rollouts are always made by the newest weights.

The loss is a weighted sum of negative log-likelihoods over the number of target tokens of the whole step. Pretraining
weighs every token 1, fine-tuning the answers' tokens 1, policy gradient each token by its advantage.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fledge import ranks
from fledge.model.transformer import Transformer
from fledge.train.optim import MuonAdamW
from fledge.train.shared import reduce_gradients, send_weights

REMEDY = "Lower the rates: with a smaller --optim.rate-share the same command goes on from the last checkpoint"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One forward pass worth of training data on one device.

    `tokens` counts the target tokens the batch stands for (those of a rollout with advantage 0 and of other ranks too), known to
    whoever made the batch, so that the loop need not ask the device. `cursor` is JSON and says where the data stands after this
    batch: it travels with the batch, so prefetching cannot corrupt a resume.
    """

    inputs_BT: Int[Tensor, "B T"]
    targets_BT: Int[Tensor, "B T"]
    weights_BT: Float[Tensor, "B T"]
    tokens: int
    cursor: dict[str, Any]

    def pinned(self) -> Batch:
        """In memory that a GPU copies from while it works. It is the batch's own: a late copy cannot meet the next batch."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str) -> Batch:
        """On a device; from pinned memory without waiting for the copy."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {name: move(getattr(self, name)) for name in ("inputs_BT", "targets_BT", "weights_BT")}
        return replace(self, **tensors)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many steps, how large, and how the rates move.

    `warmup` and `warmdown` are shares of `steps`; the rates fall to `final_share` of their base. `clock` times the steps.
    """

    steps: int
    micro: int = 1
    warmup: float = 0.0
    warmdown: float = 0.0
    final_share: float = 0.0
    clip: float = math.inf
    clock: Callable[[], float] = time.perf_counter

    def rate_share(self, step: int, seconds: float = 0.0) -> float:
        """Share of the base rates in force at a step (0-based): linear rise, flat, linear fall; always in [0, 1]."""
        rise = max(1, round(self.warmup * self.steps))
        fall = max(1, round(self.warmdown * self.steps))
        up = min(1.0, (step + 1) / rise)
        down = max(0.0, min(1.0, (self.steps - step) / fall))
        return up * (self.final_share + (1 - self.final_share) * down)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one optimizer step did, and where its time went."""

    index: int
    loss_nats: float
    gradient_norm: float
    rate_share: float
    tokens: int
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of `data`, `forward`, `backward`, `optimizer`, and of several ranks `communication`, waiting included."""
    cursor: dict[str, Any] = field(default_factory=dict)
    votes: tuple[bool, ...] = ()
    """What was asked of every rank: whether one of them said yes."""


Loss = Callable[[Transformer, Tensor, Tensor, Tensor], Tensor]


def train(
    model: Transformer,
    optimizer: torch.optim.Optimizer | MuonAdamW,
    batches: Iterator[Batch],
    plan: Plan,
    *,
    start: int = 0,
    loss: Loss = Transformer.nll_sum,
    votes: Callable[[], tuple[bool, ...]] = tuple,
) -> Iterator[Step]:
    """Take optimizer steps `start`..`plan.steps - 1`, yielding after each.

    Gradients of the step's `plan.micro` batches are summed and divided by the number of target tokens in all of them, so a
    step does not depend on how it is cut into batches. Of several ranks each has batches of its own, whose `tokens` are those of
    all: neither does it depend on how it is dealt to them.

    Args:
        optimizer: each parameter group carries its base rate as `base_rate`.
        loss: `Transformer.nll_sum`, or its compiled form.
        votes: what ranks must decide alike; asked once per step, and the answer is in the step.

    Raises:
        FloatingPointError: the loss or the gradient is not finite. The weights are those before the step.
        ValueError: the batches end before the steps do.
    """
    parameters = model.whole or list(model.parameters())
    for index in range(start, plan.steps):
        clock = Stopwatch(plan.clock)
        model.train()
        group = list(itertools.islice(batches, plan.micro))
        if len(group) < plan.micro:
            raise ValueError(f"step {index}: the data ended, {plan.steps - index} steps are left. Give more data.")
        clock.lap("data")
        tokens = max(1, sum(batch.tokens for batch in group))
        total = 0.0
        for batch in group:
            # The divisor belongs to the whole step; dividing the weights keeps it out of the compiled function.
            value = loss(model, batch.inputs_BT, batch.targets_BT, batch.weights_BT / tokens)
            clock.lap("forward")
            value.backward()
            total += value.item()
            clock.lap("backward")
        reduce_gradients(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        agreed: tuple[bool, ...] = ()
        if ranks.count() > 1:  # all that they must agree about, in one sum
            total, squares, *counts = ranks.sum_of([total, norm.item() ** 2, *votes()])
            norm, agreed = torch.tensor(math.sqrt(squares)), tuple(map(bool, counts))
            clock.lap("communication")
        nn.utils.clip_grads_with_norm_(parameters, plan.clip, norm)
        gradient_norm = norm.item()
        share = plan.rate_share(index, clock.total())
        if not (math.isfinite(total) and math.isfinite(gradient_norm)):
            model.zero_grad()
            raise FloatingPointError(
                f"step {index}: loss {total}, gradient norm {gradient_norm}. The weights were not updated. "
                f"The rates were at {share:.0%} of their base. {REMEDY}"
            )
        for param_group in optimizer.param_groups:
            param_group["lr"] = param_group["base_rate"] * share
        optimizer.step()
        model.zero_grad()
        clock.lap("optimizer")
        if ranks.count() > 1:
            send_weights(parameters)
            clock.lap("communication")
        yield Step(
            index=index,
            loss_nats=total,
            gradient_norm=gradient_norm,
            rate_share=share,
            tokens=tokens,
            seconds=clock.total(),
            parts=clock.laps,
            cursor=group[-1].cursor,
            votes=agreed or votes(),
        )


class Stopwatch:
    """Adds up where the time goes: `lap(name)` books the time since the last lap under a name."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.began = self.last = clock()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self.clock()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now

    def total(self) -> float:
        return self.clock() - self.began


def due(done: int, every: int, steps: int) -> bool:
    """Whether what happens every `every` steps, and after the last, happens after step `done` of 1..steps. 0: after the last."""
    return done == steps or (every > 0 and done % every == 0)
