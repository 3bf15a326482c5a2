"""How fast a model trains, and what its time and memory go to: `fledge bench train`.

    fledge bench train --model.depth 6 --model.context 512 --vocab 32768 --ranks 1,2
    fledge bench train --json

It runs the loop of the stages (train/loop.py) on rows of random tokens, and shows the step of median time: its parts add up to it.
Speed is also given as a share of what products of matrices reach in the same process right after (the ceiling), and, for a card in
the table of model/cards.py, of its data sheet (MFU): by our count of FLOPs, which has attention's causal half, and by nanochat's,
which has the whole context. The loss head's share of the forward pass is timed apart. `data` is making and moving
tensors, not reading text; a checkpoint is written to the folder for temporary files. With several numbers of ranks each
has processes of its own, which its peak of memory needs. With --shard each of several ranks keeps a part of the weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge import checkpoint, ranks
from fledge.commands import TrainBench
from fledge.config import Pretrain, check
from fledge.console import say, table
from fledge.model import device as machine
from fledge.model import head
from fledge.model.transformer import ModelConfig, Transformer
from fledge.settings import counts_of, words_of
from fledge.train.batches import Row, batched
from fledge.train.loop import Loss, Plan, Step, train
from fledge.train.memory import Memory
from fledge.train.optim import MuonAdamW, build
from fledge.train.resolve import Shape, resolved, shards_of
from fledge.train.session import loss_of

PARTS = ("data", "forward", "loss head", "backward", "optimizer", "communication")
"""Of a step."""
ABOVE_PEAK = 1.25
"""A product this many times as fast as a card's data sheet was not made by that card: clocks exceed it by less."""


def main(config: TrainBench) -> None:
    """Print the table, or JSON."""
    counts = rank_counts(config)
    if ranks.count() > 1 or counts == [1]:
        found = report(config)
    elif len(counts) == 1:
        sys.exit(ranks.launch(["bench", "train", *words_of(config, TrainBench())], counts[0]))
    else:
        found = {"rows": []}
        for count in counts:
            words = words_of(replace(config, ranks=str(count), json=True), TrainBench())
            done = subprocess.run([sys.executable, "-m", "fledge", "bench", "train", *words], stdout=subprocess.PIPE)
            if done.returncode:  # what was wrong it has said
                sys.exit(done.returncode)
            one = json.loads(done.stdout)
            found = one | {"rows": [*found["rows"], *one["rows"]]}
    if ranks.is_first():
        if config.json:
            print(json.dumps(found))
        else:
            show(found)


def rank_counts(config: TrainBench) -> list[int]:
    """The numbers of ranks to measure; ValueError where there are none, or a step has fewer rows than ranks."""
    check(config)
    counts, rows = counts_of("ranks", config.ranks), config.batch_tokens // config.model.context
    if rows < max(counts):
        raise ValueError(
            f"batch_tokens={config.batch_tokens} are {rows} rows of {config.model.context}, fewer than {max(counts)} ranks; "
            f"give --batch-tokens {max(counts) * config.model.context} or more, or fewer ranks"
        )
    return counts


def report(config: TrainBench) -> dict[str, Any]:
    """What was measured by the ranks that are here, as JSON: model, machine, step, and a row."""
    how = ("recompute", "shard", "dtype", "compile", "device", "threads")
    alike = ("model", "optim", "batch_tokens", "device_tokens", *how)
    wanted = Pretrain(run="", tokens=config.batch_tokens, **{name: getattr(config, name) for name in alike})
    check(wanted)
    settings = resolved(wanted, vocab=config.vocab)
    shape = Shape.of(settings, length=settings.model.context)
    device = torch.device(settings.device)
    before = machine.peak_memory_bytes(device)
    model = Transformer(ModelConfig.of(settings.model, vocab=config.vocab)).init(seed=0)
    return {
        "model": asdict(model.config),
        "machine": machine.describe_machine(device),
        "parameters": model.parameter_counts()["total"],
        "step": {"tokens": shape.tokens}
        | {name: getattr(settings, name) for name in ("dtype", "compile", "recompute")},
        "rows": [measure(model, settings, shape, steps=config.steps, before=before)],
    }


def measure(model: Transformer, settings: Pretrain, shape: Shape, *, steps: int, before: int) -> dict[str, Any]:
    """What this number of ranks reaches, as JSON; sums over all of them but where a comment says otherwise.

    Trains for `steps` and one before, then times what cannot be seen from there. `before`: bytes held without the model.
    """
    device, shards = torch.device(settings.device), shards_of(settings)
    model = model if shards > 1 else model.to(device)
    model.compute_dtype = machine.find_dtype(settings.dtype, device)
    model.recompute = "no" if settings.recompute == "auto" else settings.recompute
    optimizer = Waited(build(model, settings.optim).param_groups)
    began = time.perf_counter()
    loss = loss_of(model, device, settings.compile, shards=shards)
    preparing = 0.0 if shards > 1 else time.perf_counter() - began  # dividing is no compiling
    first, *later = timed_steps(model, optimizer, shape, Plan(steps=1 + steps, micro=shape.micro), loss)
    held = machine.peak_memory_bytes(device)
    step = sorted(later, key=lambda one: one.seconds)[(len(later) - 1) // 2]
    ranks.meet()  # all at once, as in a step
    product = machine.product_flops(device, model.compute_dtype)
    ceiling, peak = sum(ranks.gather(product)), believable(machine.peak_flops(device), product)
    speed, peak = shape.tokens / step.seconds, peak * ranks.count() if peak else None
    ours, theirs = speed * model.flops_per_token(), speed * nanochat_flops_per_token(model)
    is_compiled = settings.compile == "yes"
    law = Memory.of(
        model.config,
        length=shape.length,
        rows=shape.rows,
        recompute=model.recompute,
        compiled=is_compiled,
        shards=shards,
    )
    return {
        "ranks": ranks.count(),
        "shards": shards,  # of the weights, of which a rank keeps one
        "passes": shape.micro,  # of a step on one rank
        "rows": shape.rows,  # of a pass
        "tokens_per_second": speed,
        "step_seconds": step.seconds,  # the median
        "parts": parts_of(step, head_share(loss, model, shape, settings)),  # seconds of that step on the first rank
        **checkpoint_seconds(model, optimizer),
        # What the first step took beyond the median; less where the compiler remembers an earlier process.
        "compile_seconds": max(0.0, preparing + first.seconds - step.seconds) if is_compiled else 0.0,
        "flops_per_second": ours,
        "product_flops": ceiling,  # per second
        "ceiling_share": ours / ceiling,
        "peak_flops": peak,  # per second, by the cards' data sheet; null: unknown, and so is MFU
        "mfu_share": ours / peak if peak else None,
        "nanochat_mfu_share": theirs / peak if peak else None,
        "peak_memory_bytes": max(ranks.gather(held)),  # the most that a rank held; on a CPU all of its process
        "before_bytes": max(ranks.gather(before)),  # of it, before there was a model: Python and torch
        "law_bytes": law.peak,  # what train/memory.py says that a rank needs: all of the optimizer, or its shard
    }


class Waited(MuonAdamW):
    """The optimizer, waited for, so that what a GPU still does of it is not booked under what comes next."""

    def step(self) -> None:
        super().step()
        machine.finish(self.param_groups[0]["params"][0].device)


def timed_steps(model: Transformer, optimizer: MuonAdamW, shape: Shape, plan: Plan, loss: Loss) -> Iterator[Step]:
    """The steps of a plan; their seconds are the clock's, a GPU waited for."""
    device, began = model.embedding.device, time.perf_counter()

    def waited(*batch: Any) -> Tensor:
        value = loss(*batch)
        machine.finish(device)
        return value

    batches = batched(random_rows(model.config), rows=shape.rows, step_rows=shape.total, device=device)
    for step in train(model, optimizer, batches, plan, loss=waited):
        machine.finish(device)
        now = time.perf_counter()
        yield replace(step, seconds=now - began)
        began = time.perf_counter()


def random_rows(config: ModelConfig) -> Iterator[Row]:
    """Rows of random tokens, without end."""
    rng, learn = np.random.default_rng(0), np.ones(config.context + 1, dtype=np.bool_)
    while True:
        yield Row(rng.integers(config.vocab, size=config.context + 1, dtype=np.int32), learn, {})


def parts_of(step: Step, head_share: float) -> dict[str, float]:
    """Seconds by PARTS, which add up to the step's: the head has its share of forward, the optimizer what nobody booked."""
    booked = {name: step.parts.get(name, 0.0) for name in PARTS}
    booked["loss head"] = head_share * booked["forward"]
    booked["forward"] -= booked["loss head"]
    booked["optimizer"] += max(0.0, step.seconds - sum(booked.values()))
    return booked


def head_share(loss: Loss, model: Transformer, shape: Shape, settings: Pretrain) -> float:
    """Of a forward pass, what the head takes: logits, loss and its gradient, which it makes at once.

    A ratio of best times, each from turns with the other, since what else the machine does would slow one and not the other.
    """
    config, device = model.config, torch.device(settings.device)
    ids_BT = torch.randint(config.vocab, (shape.rows, shape.length), device=device)
    weights_BT = torch.ones(ids_BT.shape, device=device)
    x_ND = torch.randn(ids_BT.numel(), config.width, device=device, dtype=model.compute_dtype, requires_grad=True)
    unembedding = torch.randn(
        model.unembedding.shape, device=device, requires_grad=True
    )  # the model's may be in shards
    nll_part = machine.compiled(head.nll_part, device, wanted=settings.compile)

    def part() -> None:
        rows = ids_BT.flatten(), weights_BT.flatten()
        head.nll_sum(x_ND, unembedding, *rows, vocab=config.vocab, softcap=config.softcap, part=nll_part)

    def whole() -> None:
        loss(model, ids_BT, ids_BT, weights_BT)

    part()  # compiles
    turns = [(seconds_of(part, device), seconds_of(whole, device)) for _ in range(3)]
    return min(1.0, min(one for one, _ in turns) / min(other for _, other in turns))


def checkpoint_seconds(model: Transformer, optimizer: MuonAdamW) -> dict[str, float]:
    """For one checkpoint, about one a minute: to be copied, while a step waits, and to be written, which a thread does."""
    device, writes = model.embedding.device, []
    with tempfile.TemporaryDirectory(prefix="fledge-bench-") as folder:

        def copy() -> None:
            writes.append(checkpoint.copied(Path(folder), model, optimizer, checkpoint.Progress(1), keep=1))

        return {"copy_seconds": seconds_of(copy, device), "write_seconds": seconds_of(lambda: writes[0](), device)}


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    machine.finish(device)
    began = time.perf_counter()
    function()
    machine.finish(device)
    return time.perf_counter() - began


def nanochat_flops_per_token(model: Transformer) -> float:
    """Forward and backward as nanochat counts (`estimate_flops` of its gpt.py): 6 per parameter but for embeddings, and
    attention over the whole of a layer's window instead of its causal half."""
    config, counts = model.config, model.parameter_counts()
    seen = sum(min(config.window(layer) or config.context, config.context) for layer in range(config.layers))
    multiplied = counts["total"] - counts["embedding"] - counts.get("pair", 0)
    return 6.0 * multiplied + 12.0 * config.heads * config.channels * seen


def believable(peak: float | None, product: float) -> float | None:
    """A card's peak in FLOP/s, or None where nobody knows it or a product was faster, so that it is another card's."""
    return peak if peak and product <= ABOVE_PEAK * peak else None


CELLS = {
    "shards of the weights": ("shards", 1, ".0f"),
    "tokens/s": ("tokens_per_second", 1, ",.0f"),
    "TFLOP/s": ("flops_per_second", 1e12, ".3g"),
    "products of matrices reach": ("product_flops", 1e12, ".3g"),
    "share of that": ("ceiling_share", 1, ".1%"),
    "the cards' peak": ("peak_flops", 1e12, ",.0f"),
    "MFU": ("mfu_share", 1, ".1%"),
    "MFU as nanochat counts": ("nanochat_mfu_share", 1, ".1%"),
    "most memory, GB": ("peak_memory_bytes", 1e9, ".2f"),
    "before the model": ("before_bytes", 1e9, ".2f"),
    "by the law": ("law_bytes", 1e9, ".2f"),
    "compiling, s": ("compile_seconds", 1, ".1f"),
    "copying a checkpoint, s": ("copy_seconds", 1, ".2f"),
    "writing it, s": ("write_seconds", 1, ".2f"),
    "a step, s": ("step_seconds", 1, ".3f"),
}
"""Of the table: which figure of a row, in which unit and format."""


def show(found: Mapping[str, Any]) -> None:
    """The table: a column for each number of ranks."""
    rows, step, config = found["rows"], found["step"], ModelConfig(**found["model"])
    say(
        f"{config.layers} layers of width {config.width}, context {config.context}, vocabulary {config.vocab:,}: "
        f"{found['parameters'] / 1e6:,.2f}M parameters; {step['tokens']:,} tokens per step, {step['dtype']}, "
        f"compiled: {step['compile']}, computed twice: {step['recompute']}"
    )
    lines = []
    for name, (figure, unit, form) in CELLS.items():
        if any(row[figure] is not None for row in rows) or figure == "peak_flops":
            lines.append(
                [name, *("unknown" if row[figure] is None else f"{row[figure] / unit:{form}}" for row in rows)]
            )
    for part in PARTS:
        spent = [(row["parts"][part], row["step_seconds"]) for row in rows]
        lines.append([f"- {part}", *(f"{seconds:.3f} ({seconds / whole:.0%})" for seconds, whole in spent)])
    names = [f"{row['ranks']} x {row['passes']} x {row['rows']}" for row in rows]
    table(f"training on {found['machine']['name']}", ["ranks x passes x rows", *names], lines)
