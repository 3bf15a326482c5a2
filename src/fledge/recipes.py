"""Recipes: which stages, in which order, with which settings. pipeline.py walks them.

for item in demo(RunRecipe()): ...            # Item("pretrain", Pretrain(run="runs/demo", ...))
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fledge import console
from fledge.commands import PlanAhead, RunRecipe
from fledge.config import (
    Evaluate,
    Midtrain,
    ModelSettings,
    OptimSettings,
    Pretrain,
    Report,
    Rl,
    Sft,
    Stage,
    Tokenizer,
    TrainStage,
)
from fledge.runs import stage_name
from fledge.settings import nearest
from fledge.tasks.mixture import with_identity

AS_TUNED = OptimSettings(batch_scale=1.0, warmup=0.0, warmdown=0.4, final_share=0.0)
"""Of the small recipes, which were tuned at their own batch and length: the laws of depth do not touch them."""


@dataclass(frozen=True)
class Item:
    """One stage of a recipe. `minutes` is about what it took on two CPU cores; None where nothing was measured."""

    name: str
    config: Stage
    minutes: float | None = None

    @property
    def module(self) -> str:
        """The stage that does the work: `evaluate sft` is done by `evaluate`."""
        return self.name.split()[0]


Recipe = Callable[[RunRecipe], list[Item]]
"""Its docstring is its line of `--list`."""


def chain(ask: RunRecipe, *stages: tuple[Stage, float | None]) -> list[Item]:
    """Items of a recipe from settings and minutes. Folder, seed and machine are those of the `fledge run` that asks."""
    asked = {"run": folder(ask), "seed": ask.seed, "device": ask.device, "threads": ask.threads, "ranks": ask.ranks}
    asked |= {"log": ask.log, "column": ask.column, "identity": ask.identity}
    items = []
    for config, minutes in stages:
        own = {field.name for field in fields(config)}
        name = stage_name(config)
        if isinstance(config, Evaluate):
            own, name = own - {"seed"}, f"evaluate {config.stage}"  # runs of all seeds are measured alike
        items.append(Item(name, replace(config, **{key: asked[key] for key in asked.keys() & own}), minutes))
    return items


def folder(ask: RunRecipe) -> str:
    """The run's folder: --out, or one named after the recipe."""
    return ask.out or f"runs/{ask.recipe}{'-classic' if ask.classic else ''}"


def demo(ask: RunRecipe) -> list[Item]:
    """Three million parameters that know the village of Fernhollow: everything, on a laptop, offline."""
    data, extras = ask.data or "world", not ask.classic
    model = ModelSettings(depth=3, width=128, head_channels=64, context=256, pairs=16_384 * extras)
    model = replace(model, smear=extras, key_filter=extras, value_embeddings=extras)
    # One shape for the three stages that learn from rows, compiled once with all pairs read and once without some.
    shape: dict[str, Any] = {"device_tokens": 2048, "batch_tokens": 2048}
    pretrain = Pretrain(**shape, data=data, model=model, tokens=950_000, eval_tokens=32_768)
    # From midtraining's middle on the rates fall in one line to 0. At its end they are at .44, where fine-tuning goes on.
    midtrain = Midtrain(**shape, tokens=8_200_000, learn="answers", replay=0.2)
    sft = Sft(**shape, tokens=3_200_000, replay=0.1)
    # Of 40 questions two in five are flat at first, and replaced.
    rl = Rl(steps=12, prompts=40, samples=8, replay_tokens=8192, eval_every=6, eval_examples=40)
    falling = replace(AS_TUNED, rate_share=0.2, warmdown=1.0)
    return chain(
        ask,
        (Tokenizer(data=data, vocab=1536, max_chars=4_000_000, digits=3), 0.1),
        (replace(pretrain, optim=replace(AS_TUNED, rate_share=0.8, final_share=0.1)), 1.0),
        (Evaluate(stage="pretrain"), 0.1),
        (replace(midtrain, optim=replace(AS_TUNED, rate_share=0.45, warmdown=0.5, final_share=0.44)), 5.6),
        (Evaluate(stage="midtrain", limit=160), 0.4),
        (replace(sft, optim=falling), 2.1),
        (Evaluate(stage="sft", limit=160), 0.3),
        (replace(rl, optim=replace(falling, rate_share=0.08)), 2.3),
        (Evaluate(stage="rl"), 0.6),
        (Report(), 0.1),
    )


def tiny(ask: RunRecipe) -> list[Item]:
    """Five million parameters on real text and real tasks: the whole way in about 40 minutes on 2 CPU cores."""
    data, extras = ask.data or "fineweb-edu", not ask.classic
    look_beside(data)
    model = ModelSettings(depth=4, width=256, head_channels=64, context=512, smear=extras, key_filter=extras)
    rates = replace(AS_TUNED, warmdown=0.5, final_share=0.1)
    chats = "arc-easy,arc-challenge,gsm8k,spelling,counting,identity"
    return chain(
        ask,
        (Tokenizer(data=data, vocab=4096), 0.5),
        (Pretrain(data=data, model=model, tokens=3_000_000, batch_tokens=8192, optim=rates), 21.0),
        (Evaluate(stage="pretrain", tasks="core", limit=100), 4.0),
        (Midtrain(data="chat", tokens=800_000, batch_tokens=8192, optim=rates), 6.0),
        (Evaluate(stage="midtrain", tasks=chats, limit=100), 1.0),
        (Sft(data="chat", tokens=500_000, batch_tokens=8192, optim=replace(AS_TUNED, rate_share=0.3)), 3.5),
        (Evaluate(stage="sft", tasks=chats, limit=100), 1.0),
        (Report(), 0.1),
    )


def look_beside(data: str) -> None:
    """Where the folder of texts lies among task files, they are used: data/pretrain stands beside data/gsm8k."""
    parent = Path(data).resolve().parent
    if Path(data).is_dir() and (parent / "gsm8k").is_dir():
        os.environ.setdefault("FLEDGE_LOCAL", str(parent))


def toy(ask: RunRecipe) -> list[Item]:
    """The demo's pipeline in a minute, too small to learn much: for tests and for trying a change."""
    steps: dict[str, Any] = {"batch_tokens": 1024, "device_tokens": None, "compile": "no"}
    extras = not ask.classic
    model = ModelSettings(depth=2, width=32, head_channels=16, context=128, pairs=128 * extras)
    model = replace(model, smear=extras, key_filter=extras, value_embeddings=extras)
    few = {"eval_examples": 2, "eval_each": 0, "beside": "world/choice,world/facts"}  # of 17 tasks
    smaller: dict[str, dict[str, Any]] = {
        "tokenizer": {"vocab": 512, "max_chars": 100_000},
        "pretrain": {"model": model, "tokens": 20_480, "eval_tokens": 2048, **steps},
        "midtrain": {"tokens": 12_288, **steps},
        "sft": {"tokens": 12_288, **steps},
        "rl": {"steps": 3, "prompts": 2, "samples": 3, "max_tokens": 24, "replay_tokens": 256, **few},
        "evaluate pretrain": {"limit": 4, "tasks": "world/choice"},
    }
    chats = {"limit": 4, "tasks": "world/choice,world/facts,world/problems_hard,world/suggestions"}
    return [
        Item(one.name, replace(one.config, **smaller.get(one.name, chats if one.module == "evaluate" else {})), 0.03)
        for one in demo(ask)
    ]


def chat_model(
    ask: RunRecipe, base: Pretrain, *, vocab: int, tokens: int = 30_000_000, late: OptimSettings | None = None
) -> list[Item]:
    """The chain that the recipes of GPUs share: a base, conversations as nanochat mixes them, and rl on GSM8K.

    Args:
        tokens: of midtraining.
        late: rates of fine-tuning. None: .3 of those that the law has for its batch.
    """
    data, chats = ask.data or base.data, "arc-easy,arc-challenge,mmlu,gsm8k,humaneval,spelling,identity"
    late = late or OptimSettings(rate_share=0.3, warmdown=1.0)
    return chain(
        ask,
        (Tokenizer(data=data, vocab=vocab), None),
        (replace(base, data=data), None),
        (Evaluate(stage="pretrain", tasks="core"), None),
        (Midtrain(data="chat", tokens=tokens, batch_tokens=base.batch_tokens or 131_072, replay=0.0), None),
        (Evaluate(stage="midtrain", tasks=chats), None),
        (Sft(data="chat", tokens=10_500_000, batch_tokens=16_384, optim=late), None),
        (Evaluate(stage="sft", tasks=chats), None),
        (Rl(task="gsm8k", steps=467, top_k=50, max_tokens=256, optim=OptimSettings(rate_share=0.05)), None),
        (Evaluate(stage="rl", tasks="gsm8k"), None),
        (Report(), None),
    )


def dialled(depth: int, about: str, *, ratio: float = 12.0, vocab: int = 32_768, tokens: int = 30_000_000) -> Recipe:
    """A recipe that leaves everything to the laws of depth, under its line of `--list`.

    But for `--classic` with the extras and initial scales of nanochat's speedrun of 2026.
    """

    def make(ask: RunRecipe) -> list[Item]:
        model, optim = ModelSettings(depth=depth), OptimSettings()
        if not ask.classic:
            optim = replace(optim, matrices="normuon", weight_decay=0.28)  # cautious
            model = replace(model, smear=True, residual_scales=True, backout=True, qk_scale=1.2, rope_base=100_000.0)
            model = replace(model, embedding_std=0.8, unembedding_std=0.001, up_scale=0.4)
        base = Pretrain(data="climbmix", model=model, ratio=ratio, optim=optim)
        return chat_model(ask, base, vocab=vocab, tokens=tokens)

    make.__doc__ = about
    return make


def classic_d20(ask: RunRecipe) -> list[Item]:
    """The article's $100 model, 561M parameters with 20 tokens for each. Published: CORE .22, and it talks like a child."""
    optim = OptimSettings(batch_scale=1.0, warmup=0.0, warmdown=0.2, final_share=0.0)
    model = ModelSettings(depth=20)
    base = Pretrain(data="fineweb-edu", model=model, tokens=11_200_000_000, batch_tokens=2**19, optim=optim)
    late = OptimSettings(batch_scale=1.0, rate_share=0.02, warmdown=1.0)
    return chat_model(ask, base, vocab=65_536, tokens=400_000_000, late=late)


def stories(ask: RunRecipe) -> list[Item]:
    """Simple stories (TinyStories, fetched by name): an evening of a laptop, or ten minutes of a GPU."""
    model = ModelSettings(depth=4, head_channels=64, context=512, smear=not ask.classic, key_filter=not ask.classic)
    return chain(
        ask,
        (Tokenizer(data=ask.data or "tinystories", vocab=4096, max_chars=50_000_000), None),
        (Pretrain(data=ask.data or "tinystories", model=model, batch_tokens=32_768), None),
        (Midtrain(data="chat", tokens=800_000, batch_tokens=8192), None),
        (Sft(data="chat", tokens=500_000, batch_tokens=8192), None),
        (Evaluate(stage="sft", tasks="spelling,identity", limit=100), None),
        (Report(), None),
    )


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a recipe was made for. Dollars are of all cards together, as rented in 2025."""

    card: str = ""
    """Empty: the machine that asks."""
    ranks: int = 1
    dollars_per_hour: float | None = None


RECIPES: dict[str, Recipe] = {
    "demo": demo,
    "tiny": tiny,
    "toy": toy,
    "stories": stories,
    "d8": dialled(8, "60M parameters on a small GPU: words and grammar, few facts."),
    "d12": dialled(
        12, "135M parameters, as GPT-2 small: a day of a small GPU or a quarter of an hour of eight large ones."
    ),
    "d16": dialled(16, "268M parameters on one large consumer GPU."),
    "classic-d20": classic_d20,
    "speedrun": dialled(
        24,
        "Towards GPT-2's CORE of .257 in the least time. Of the published one value embeddings, windows, fp8 are left out.",
        ratio=8.0,
    ),
    "d26": dialled(
        26,
        "A billion parameters, as many tokens as are best for them. Published with all extras: well above GPT-2.",
        tokens=100_000_000,
    ),
    "thousand": dialled(
        36,
        "The most that $1,000 buys: 2.5 billion parameters, which every card must hold whole.",
        vocab=49_152,
        tokens=400_000_000,
    ),
}
WHERE = {
    **dict.fromkeys(("d8", "d12"), Where(card="RTX 3060")),
    "d16": Where(card="RTX 4090"),
    **dict.fromkeys(("classic-d20", "speedrun", "d26", "thousand"), Where(card="H100", ranks=8, dollars_per_hour=24.0)),
}
"""Recipes for GPUs; the others run anywhere."""


def choose(ask: RunRecipe) -> list[Item]:
    """The recipe's items, or those of `--only`; ValueError where there is no such recipe or stage."""
    if ask.recipe not in RECIPES:
        raise ValueError(f"recipe {ask.recipe!r} is not one of {', '.join(RECIPES)}.{nearest(ask.recipe, [*RECIPES])}")
    if ask.only and ask.start:
        raise ValueError(f"--only {ask.only} and --from {ask.start} contradict each other: give one of them")
    items = [about_itself(item, ask.identity) for item in RECIPES[ask.recipe](ask)]
    names = [item.name for item in items]
    wanted = (ask.only or ask.start or names[0]).split(",")
    for asked in wanted:
        if asked not in [*names, *(item.module for item in items)]:
            raise ValueError(
                f"stage {asked!r} is not part of {ask.recipe}; it has: {', '.join(names)}.{nearest(asked, names)}"
            )
    return [item for item in items if not ask.only or item.name in wanted or item.module in wanted]


def about_itself(item: Item, identity: str | None) -> Item:
    """The item for an assistant with an identity file: it is learned beside the other data, and asked in place of the usual one."""
    config = item.config
    if isinstance(config, Midtrain):
        config = with_identity(config)
    elif isinstance(config, Evaluate) and identity and config.tasks and config.stage != "pretrain":
        config = replace(
            config, tasks=",".join([*(name for name in config.tasks.split(",") if name != "identity"), identity])
        )
    return replace(item, config=config)


def derived(items: list[Item], *, vocab: int | None = None) -> list[Item]:
    """The items with their settings as the stages will resolve them, as far as that is known before the first one ran.

    vocab: of the tokenizer, where none of the items makes it.
    """
    from fledge.train.resolve import resolved

    base, found = None, []
    for item in items:
        config = item.config
        vocab = config.vocab if isinstance(config, Tokenizer) else vocab
        if isinstance(config, TrainStage):
            config = resolved(config, vocab=vocab, base=base)
        base = config if isinstance(config, Pretrain) else base
        found.append(replace(item, config=config))
    return found


def listed(name: str) -> str:
    """A recipe's lines of `--list`: measured minutes where there are some, else what `fledge plan` says."""
    where, dollars, basis = "2 CPU cores", 0.0, "measured"
    seconds = 60 * sum(item.minutes or 0.0 for item in RECIPES[name](RunRecipe(recipe=name)))
    if not seconds:
        from fledge.plan import plan  # not before: it imports torch

        found = plan(PlanAhead(recipe=name))
        where, basis = found["where"], "estimated"
        seconds, dollars = (sum(stage[key] or 0.0 for stage in found["stages"]) for key in ("seconds", "dollars"))
    cost = f"${dollars:,.0f}" if dollars else ""
    return f"{name:<12} {where:<14} {console.duration(seconds):>8} {cost:>6}  {basis}\n    {summary_of(RECIPES[name])}"


def summary_of(make: Recipe) -> str:
    return (make.__doc__ or "").splitlines()[0]
