"""`fledge run`: the stages of a recipe, one after the other.

Every stage is a folder of the run. A finished one is skipped, an interrupted one goes on, a changed setting or origin is refused.
What is to be done again is set aside only when all that can be checked is right.
"""

from __future__ import annotations

import importlib
import os
import shlex
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from fledge import console, ranks
from fledge.commands import TRAINED, RunRecipe
from fledge.config import Evaluate, Machine, Ranked, check
from fledge.folder import REPORT, begin_again, check_ours, check_unchanged, put_back
from fledge.origin import origin_of
from fledge.recipes import RECIPES, Item, choose, folder, listed, summary_of
from fledge.runs import choose_stage, is_done
from fledge.trackers import sign_in


def main(ask: RunRecipe) -> None:
    """`fledge run`: the stages of a recipe, one after the other."""
    if ask.list:
        for name in RECIPES:
            console.say(listed(name))
        return
    items = choose(ask)
    run = Path(folder(ask))
    again = done_again(ask, items)
    announce(ask, items, run, again)
    left: list[Item] = []
    for item in items:
        if item.name in again or not finished(item, run, {one.name for one in left}):
            left.append(item)
    check_ours(run, ["tokenizer", *TRAINED, *REPORT])
    for item in left:
        ready(item, {one.name for one in left})
    if ranks.is_first() and left:
        sign_in(ask.log)
    aside = [name for name in ("tokenizer", *TRAINED) if name in again or (ask.fresh and not ask.only)]
    ranks.meet()  # all have seen the same
    if ranks.is_first():
        begin_again(run, aside)
    started = time.perf_counter()
    try:
        work(items, run, left=left, again=again)
    except BaseException:
        if ranks.is_first():
            put_back(run, aside)
        raise
    farewell(run, time.perf_counter() - started)


def work(items: list[Item], run: Path, *, left: list[Item], again: set[str]) -> None:
    """The stages one after the other, but for those that are done. Of several ranks the first does what one can do alone."""
    for item in items:
        ranks.meet()  # what a stage has left is there for all
        if item not in left and finished(item, run, set()):  # a stage before it may have become another meanwhile
            console.say(f"{item.name}: done before, skipped")
            continue
        console.heading(item.name)
        fresh = {"fresh": True} if item.name in again and isinstance(item.config, Evaluate) else {}
        alone = not isinstance(item.config, Ranked)
        if not alone or ranks.is_first():
            with ranks.apart() if alone else nullcontext():
                importlib.import_module(f"fledge.stages.{item.module}").main(replace(item.config, **fresh))


def done_again(ask: RunRecipe, items: list[Item]) -> set[str]:
    """The names of the stages that --fresh, --from or --only ask for, whatever is finished."""
    if ask.start:
        first = next(place for place, item in enumerate(items) if ask.start in (item.name, item.module))
        return {item.name for item in items[first:]}
    return {item.name for item in items} if ask.fresh or ask.only else set()


def finished(item: Item, run: Path, left: set[str]) -> bool:
    """Whether a stage may be skipped. Evaluations and the report look for themselves: they know what they already have.

    Args:
        left: stages still to be done: what is made from them cannot be compared yet.

    Raises:
        ValueError: it was done with other settings, or made from what has changed since.
    """
    if not is_done(run / item.name):
        return False
    check_unchanged(run / item.name, item.config, origin_of(item.config, left=left, lenient=True))
    return True


def ready(item: Item, left: set[str]) -> None:
    """Find, or fetch, what a stage needs: what is missing or wrong stops a run before its first stage, not in its midst.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as the stage itself would.
    """
    check(item.config)
    if isinstance(item.config, Machine) and item.config.device not in ("auto", "cpu"):  # which are everywhere
        from fledge.model.device import find_device

        find_device(item.config.device)
    stage = importlib.import_module(f"fledge.stages.{item.module}")
    if hasattr(stage, "prepare"):
        stage.prepare(item.config)
    if isinstance(item.config, Evaluate) and item.config.stage not in left:
        choose_stage(Path(item.config.run), item.config.stage)
    elif item.module in ("tokenizer", *TRAINED):
        origin_of(item.config, left=left)


def announce(ask: RunRecipe, items: list[Item], run: Path, again: set[str]) -> None:
    """What will happen, where, and about how long it takes."""
    # A model that is there was probably measured too.
    left = [item for item in items if item.name in again or not is_done(run / item.name.split()[-1])]
    minutes = sum(item.minutes or 0.0 for item in left)
    about = f", about {minutes:.0f} minutes on 2 CPU cores" if minutes >= 0.5 else ""
    if left and all(item.minutes is None for item in items):
        about = f"; `fledge plan {ask.recipe}` says what it takes"
    console.heading(f"fledge run {ask.recipe}{' --classic' if ask.classic else ''} -> {run}{about}")
    console.say(summary_of(RECIPES[ask.recipe]))
    stages = " > ".join(item.name for item in items)
    console.say(f"stages: {stages}")
    without = " without --fresh, --from and --only" if again else ""
    console.say(f"Stop it whenever you like (Ctrl-C): the same command{without} goes on where it was.")


def farewell(run: Path, seconds: float) -> None:
    """The next commands."""
    console.say(f"\nDone in {console.duration(seconds)}. Now talk to it:")
    path = shlex.quote(str(run))
    fledge = "uv run fledge" if "UV" in os.environ else "fledge"  # what uv runs is told so
    console.say(f"  {fledge} chat {path}\n  {fledge} serve {path}        # web page and API on 127.0.0.1:8000")
    console.say(f"The report card: {run / 'report.md'}")
