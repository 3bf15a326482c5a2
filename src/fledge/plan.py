"""`fledge plan`: what a training takes, before anything is spent, on this machine or on cards that one may rent.

    fledge plan --depth 20 --ranks 8 --card H100 --price 24
    fledge plan classic-d20 --json

The figures are those of the laws that the stages themselves follow (train/scaling.py, train/memory.py, train/estimate.py).
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from fledge import console
from fledge.commands import PlanAhead, RunRecipe
from fledge.config import ModelSettings, Pretrain, RowStage, check
from fledge.evals.plots import compact
from fledge.model import device as machine
from fledge.model.cards import CARDS, find_card
from fledge.model.transformer import ModelConfig, Transformer
from fledge.recipes import WHERE, Item, Where, choose, derived
from fledge.settings import nearest
from fledge.train.estimate import Site, Text, here, measure_all
from fledge.train.memory import Memory, fitting
from fledge.train.resolve import Shape

COLUMNS = ("stage", "tokens", "batch", "steps", "passes x rows", "GB", "time", "cost")


def main(ask: PlanAhead) -> None:
    """Print the plan."""
    found = plan(ask)
    if ask.json:
        print(json.dumps(found, indent=1))
        return
    model = found["model"]
    console.say(
        f"depth {model['depth']}: width {model['width']}, {model['heads']} heads, vocabulary {model['vocab']:,}, context "
        f"{model['context']:,}; {model['parameters'] / 1e6:,.1f}M parameters, {model['matrices'] / 1e6:,.1f}M of them in "
        f"matrices; {model['flops_per_token'] / 1e9:.3g} GFLOP per token"
    )
    console.table(f"on {found['where']}", COLUMNS, [_row(stage) for stage in found["stages"]])
    first = found["stages"][0]
    sizes = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in first["memory_bytes"].items() if name != "peak")
    console.say(f"{first['stage']}: GB of a device: {sizes}; computed twice: {first['recompute']}")
    if first["epochs"]:
        console.say(f"{first['stage']}: {first['text']}")
    console.say(found["assumed"])


def plan(ask: PlanAhead) -> dict[str, Any]:
    """The model, the place, and what each stage that learns from rows takes there, as JSON.

    Raises:
        ValueError: no such recipe or card, or not one row fits on it.
    """
    check(ask)
    stages = _stages(ask)
    known = WHERE.get(ask.recipe or "", Where())
    site = _site(ask, ranks=ask.ranks or known.ranks, card=ask.card or known.card)
    price = known.dollars_per_hour if ask.price is None else ask.price
    base = next(item.config for item in stages if isinstance(item.config, Pretrain))
    config = ModelConfig.of(base.model, vocab=stages[0].config.vocab if ask.recipe else ask.vocab)  # type: ignore[attr-defined]
    with torch.device("meta"):
        model = Transformer(config)
    counts, flops = model.parameter_counts(), model.flops_per_token()
    data = ask.data or (base.data if ask.recipe else None)
    texts = measure_all(data, column=ask.column) if data else []
    peak = f"{site.flops / 1e12:.3g} TFLOP/s" if site.flops else "an unknown peak"
    more = "; evaluations and rl come on top" * any(item.module in ("rl", "evaluate") for item in stages)
    return {
        "model": {"depth": config.layers}
        | {name: getattr(config, name) for name in ("width", "heads", "vocab", "context")}
        | {"parameters": counts["total"], "matrices": counts["matrix"], "flops_per_token": flops},
        "where": f"{site.ranks} x {site.name}",
        "stages": [
            _taken(
                item, config, flops, site, price, texts if isinstance(item.config, Pretrain) else [], shard=ask.shard
            )
            for item in stages
            if isinstance(item.config, RowStage)
        ],
        "assumed": f"Time assumes that {site.share:.0%} of {peak} are used (--utilisation){more}. "
        "Nothing here was measured by a run.",
    }


def _stages(ask: PlanAhead) -> list[Item]:
    """The stages of the recipe, or a pretraining alone, resolved as on a machine without GPU: what fits on a card comes later."""
    if ask.recipe:
        return derived(choose(RunRecipe(recipe=ask.recipe, data=ask.data, device="cpu")))
    model = ModelSettings(depth=ask.depth, context=ask.context)
    config = Pretrain(run="", model=model, ratio=ask.ratio, data=ask.data or "world", device="cpu")
    return derived([Item("pretrain", config)], vocab=ask.vocab)


def _site(ask: PlanAhead, *, ranks: int, card: str) -> Site:
    if not card:
        device = machine.find_device(ask.device)
        machine.threads(ask.threads)
        return here(device, machine.find_dtype("auto", device), ranks=ranks, share=ask.utilisation)
    if (found := find_card(card)) is None:
        names = [card.name for card in CARDS]
        raise ValueError(f"card {card!r} is not one of {', '.join(names)}.{nearest(card, names)}")
    return Site.of(found, ranks=ranks, share=ask.utilisation)


def _taken(
    item: Item, config: ModelConfig, flops: float, site: Site, price: float | None, texts: list[Text], *, shard: bool
) -> dict[str, Any]:
    """What a stage takes, in plain numbers."""
    stage: Any = item.config
    length = config.context
    shape = Shape.of(stage, length=length)
    rows, recompute, compiled, shards = shape.rows, "no", True, site.ranks if shard else 1
    if site.free_bytes:
        rows, recompute = fitting(config, length=length, free_bytes=site.free_bytes, shards=shards)
        rows = min(rows, math.ceil(shape.rows * shape.micro / site.ranks))
    else:
        compiled = stage.compile == "yes"
    need = Memory.of(config, length=length, rows=rows, recompute=recompute, compiled=compiled, shards=shards)
    tokens = shape.tokens * shape.steps
    seconds = site.seconds(flops * tokens)
    return {
        "stage": item.name,
        "tokens": tokens,
        "epochs": max((text.epochs(tokens) for text in texts), default=None),
        "text": "; ".join(text.told(tokens) for text in texts) or None,
        "flops": flops * tokens,
        "batch_tokens": shape.tokens,
        "steps": shape.steps,
        "rate_scale": stage.optim.batch_scale,
        "rows": rows,
        "passes": math.ceil(shape.rows * shape.micro / (rows * site.ranks)),
        "recompute": recompute,
        "memory_bytes": vars(need) | {"peak": need.peak},
        "seconds": seconds,
        "dollars": price * seconds / 3600 if price and seconds else None,
    }


def _row(stage: dict[str, Any]) -> list[str]:
    seconds, dollars = stage["seconds"], stage["dollars"]
    return [
        stage["stage"],
        compact(stage["tokens"], digits=3),
        compact(stage["batch_tokens"], digits=3),
        f"{stage['steps']:,}",
        f"{stage['passes']} x {stage['rows']}",
        f"{stage['memory_bytes']['peak'] / 1e9:.1f}",
        console.duration(seconds) if seconds else "unknown",
        f"${dollars:,.2f}" if dollars else "-",
    ]
