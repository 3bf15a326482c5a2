"""Recipes: which stages, in which order, with which settings; and `fledge run`, which walks them.

    for item in demo(RunRecipe()): ...            # Item("pretrain", Pretrain(run="runs/demo", ...))

Every stage is a folder of the run. A finished one is skipped, an interrupted one goes on, a changed setting is refused.
"""

from __future__ import annotations

import importlib
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fledge import console
from fledge.config import (
    STAGES,
    Evaluate,
    Midtrain,
    ModelSettings,
    OptimSettings,
    Pretrain,
    Report,
    Rl,
    RunRecipe,
    Sft,
    Stage,
    Tokenizer,
    nearest,
)
from fledge.runs import begin_again, has_result, open_stage


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


def demo(ask: RunRecipe) -> list[Item]:
    """A million parameters that know the village of Fernhollow: everything, on a laptop, offline."""
    run, shared = folder(ask), common(ask)
    model = ModelSettings(
        depth=3, width=128, head_channels=64, context=256, smear=not ask.classic, key_filter=not ask.classic
    )
    data = ask.data or "world"
    shape: dict[str, Any] = {"device_tokens": 2048}  # one shape for all stages: it is compiled once
    return [
        Item("tokenizer", Tokenizer(**on_cpu(ask), data=data, vocab=1536, max_chars=4_000_000, digits=3), 0.1),
        Item(
            "pretrain",
            Pretrain(
                **shared,
                **shape,
                data=data,
                model=model,
                tokens=1_800_000,
                batch_tokens=4096,
                optim=OptimSettings(warmdown=0.4, final_share=0.2),
                eval_tokens=32_768,
            ),
            3.0,
        ),
        Item("evaluate pretrain", Evaluate(run=run, stage="pretrain", **machine(ask)), 0.1),
        Item(
            "midtrain",
            Midtrain(
                **shared,
                **shape,
                tokens=2_000_000,
                batch_tokens=2048,
                replay=0.2,
                optim=OptimSettings(rate_share=0.7, warmdown=0.5, final_share=0.2),
            ),
            3.5,
        ),
        Item("evaluate midtrain", Evaluate(run=run, stage="midtrain", **machine(ask)), 0.4),
        Item(
            "sft",
            Sft(
                **shared,
                **shape,
                tokens=800_000,
                batch_tokens=2048,
                replay=0.1,
                optim=OptimSettings(rate_share=0.3, warmdown=1.0),
            ),
            1.5,
        ),
        Item("evaluate sft", Evaluate(run=run, stage="sft", **machine(ask)), 0.4),
        Item(
            "rl",
            Rl(
                **shared,
                optim=OptimSettings(rate_share=0.3, warmdown=1.0),
                steps=16,
                prompts=64,
                samples=8,
                replay_tokens=8192,
                eval_examples=100,
            ),
            3.0,
        ),
        Item("evaluate rl", Evaluate(run=run, stage="rl", **machine(ask)), 0.4),
        Item("report", Report(run=run), 0.1),
    ]


def tiny(ask: RunRecipe) -> list[Item]:
    """Five million parameters on real text and real tasks: the whole way in about 40 minutes on 2 CPU cores."""
    data = ask.data or "fineweb-edu"
    look_beside(data)
    shared = common(ask)
    rates = OptimSettings(warmdown=0.5, final_share=0.1)
    model = ModelSettings(
        depth=4, width=256, head_channels=64, context=512, smear=not ask.classic, key_filter=not ask.classic
    )
    checks = {"run": folder(ask), **machine(ask), "limit": 100}
    chats = "arc-easy,arc-challenge,gsm8k,spelling,counting,identity"
    return [
        Item("tokenizer", Tokenizer(**on_cpu(ask), data=data, vocab=4096), 0.5),
        Item(
            "pretrain",
            Pretrain(**shared, data=data, model=model, tokens=3_000_000, batch_tokens=8192, optim=rates),
            21.0,
        ),
        Item("evaluate pretrain", Evaluate(**checks, stage="pretrain", tasks="core"), 4.0),
        Item("midtrain", Midtrain(**shared, data="chat", tokens=800_000, batch_tokens=8192, optim=rates), 6.0),
        Item("evaluate midtrain", Evaluate(**checks, stage="midtrain", tasks=chats), 1.0),
        Item(
            "sft",
            Sft(**shared, data="chat", tokens=500_000, batch_tokens=8192, optim=OptimSettings(rate_share=0.3)),
            3.5,
        ),
        Item("evaluate sft", Evaluate(**checks, stage="sft", tasks=chats), 1.0),
        Item("report", Report(run=folder(ask)), 0.1),
    ]


def look_beside(data: str) -> None:
    """Where the folder of texts lies among task files, they are used: data/pretrain stands beside data/gsm8k."""
    parent = Path(data).resolve().parent
    if Path(data).is_dir() and (parent / "gsm8k").is_dir():
        os.environ.setdefault("FLEDGE_LOCAL", str(parent))


def toy(ask: RunRecipe) -> list[Item]:
    """The demo's pipeline in a minute, too small to learn much: for tests and for trying a change."""
    items = []
    steps: dict[str, Any] = {"batch_tokens": 1024, "device_tokens": None, "compile": "no"}
    for item in demo(ask):
        config = item.config
        if isinstance(config, Tokenizer):
            config = replace(config, vocab=512, max_chars=100_000)
        elif isinstance(config, Pretrain):
            small = replace(config.model, depth=2, width=32, head_channels=16, context=128)
            config = replace(config, model=small, tokens=20_480, eval_tokens=2048, **steps)
        elif isinstance(config, Midtrain):
            config = replace(config, tokens=12_288, **steps)
        elif isinstance(config, Rl):
            config = replace(config, steps=3, prompts=2, samples=3, max_tokens=24, replay_tokens=256, eval_examples=4)
        elif isinstance(config, Evaluate):
            tasks = "world/choice" if config.stage == "pretrain" else "world/choice,world/facts,world/problems_hard"
            config = replace(config, limit=4, tasks=tasks)
        items.append(Item(item.name, config))
    return items


RECIPES: dict[str, Callable[[RunRecipe], list[Item]]] = {"demo": demo, "tiny": tiny, "toy": toy}


def folder(ask: RunRecipe) -> str:
    """The run's folder: --out, or one named after the recipe."""
    return ask.out or f"runs/{ask.recipe}{'-classic' if ask.classic else ''}"


def machine(ask: RunRecipe) -> dict[str, Any]:
    return {"device": ask.device, "threads": ask.threads}


def on_cpu(ask: RunRecipe) -> dict[str, Any]:
    return {"run": folder(ask), "seed": ask.seed, "threads": ask.threads}


def common(ask: RunRecipe) -> dict[str, Any]:
    return {**on_cpu(ask), "device": ask.device}


def main(ask: RunRecipe) -> int:
    """`fledge run`: the stages of a recipe, one after the other."""
    if ask.list:
        for name, make in RECIPES.items():
            console.say(f"{name:<6} {summary_of(make)}")
        return 0
    items = choose(ask)
    run = Path(folder(ask))
    if ask.fresh and not ask.dry_run:
        for name in STAGES:
            begin_again(run, name)
    begun = forget(ask, items, run)
    announce(ask, items, run, begun)
    if ask.dry_run:
        for item in items:
            console.say(f"{item.name}: {item.config}")
        return 0
    left = [item for item in items if item.name in begun or not finished(item, run)]
    for item in left:
        find_data(item)
    started = time.perf_counter()
    for item in items:
        if item not in left:
            console.say(f"{item.name}: done before, skipped")
            continue
        console.heading(item.name)
        importlib.import_module(f"fledge.stages.{item.module}").main(item.config)
    farewell(run, time.perf_counter() - started)
    return 0


def choose(ask: RunRecipe) -> list[Item]:
    """The recipe's items, or those of `--only`.

    Raises:
        ValueError: no such recipe or stage.
    """
    if ask.recipe not in RECIPES:
        raise ValueError(
            f"recipe {ask.recipe!r} is not one of {', '.join(RECIPES)}.{nearest(ask.recipe, tuple(RECIPES))}"
        )
    if ask.only and ask.start:
        raise ValueError(f"--only {ask.only} and --from {ask.start} contradict each other: give one of them")
    items = RECIPES[ask.recipe](ask)
    for asked in [*(ask.only.split(",") if ask.only else []), *([ask.start] if ask.start else [])]:
        names = [item.name for item in items]
        if asked not in names and asked not in [item.module for item in items]:
            raise ValueError(
                f"stage {asked!r} is not part of {ask.recipe}; it has: {', '.join(names)}.{nearest(asked, names)}"
            )
    if ask.only:
        wanted = ask.only.split(",")
        items = [item for item in items if item.name in wanted or item.module in wanted]
    return items


def forget(ask: RunRecipe, items: list[Item], run: Path) -> set[str]:
    """With --from or --only, what those stages left is removed; returns their names."""
    if not (ask.start or ask.only):
        return set()
    first = next(place for place, item in enumerate(items) if not ask.start or ask.start in (item.name, item.module))
    for item in items[first:] if not ask.dry_run else []:
        begin_again(run, item.name)
    return {item.name for item in items[first:]}


def finished(item: Item, run: Path) -> bool:
    """Whether a stage may be skipped. Evaluations and the report look for themselves: they know what they already have.

    Raises:
        ValueError: it was done with other settings, or another process is at work in it.
    """
    if item.module in ("evaluate", "report") or not has_result(run, item.name):
        return False
    with open_stage(item.config):
        return True


def find_data(item: Item) -> None:
    """Find, or fetch, what a stage asks and talks about: what is missing stops a run before its first stage, not in its midst.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as the stage itself would.
    """
    stage = importlib.import_module(f"fledge.stages.{item.module}")
    if hasattr(stage, "prepare"):
        stage.prepare(item.config)


def announce(ask: RunRecipe, items: list[Item], run: Path, begun: set[str]) -> None:
    """What will happen, where, and about how long it takes."""
    left = [item for item in items if item.name in begun or not has_result(run, item.name)]
    minutes = sum(item.minutes or 0.0 for item in left)
    about = f", about {minutes:.0f} minutes on 2 CPU cores" if minutes else ""
    console.heading(f"fledge run {ask.recipe}{' --classic' if ask.classic else ''} -> {run}{about}")
    console.say(summary_of(RECIPES[ask.recipe]))
    stages = " > ".join(item.name for item in items)
    console.say(f"stages: {stages}")
    again = " without --fresh, --from and --only" if begun or ask.fresh else ""
    console.say(f"Stop it whenever you like (Ctrl-C): the same command{again} goes on where it was.")


def summary_of(make: Callable[[RunRecipe], list[Item]]) -> str:
    return (make.__doc__ or "").splitlines()[0]


def farewell(run: Path, seconds: float) -> None:
    """The next commands."""
    console.say(f"\nDone in {console.duration(seconds)}. Now talk to it:")
    path = shlex.quote(str(run))
    console.say(f"  fledge chat {path}\n  fledge serve {path}        # web page and API on 127.0.0.1:8000")
    console.say(f"The report card: {run / 'report.md'}")
