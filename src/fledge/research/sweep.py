"""`fledge sweep`: a pretraining for each point of a grid, an ablation or a list of variants, and what they show.

    fledge sweep pretrain --out runs/sweeps/heads --over model.heads=2,4 seed=0,1,2 --minutes 5 --data texts/

The folder has one tokenizer, a run for each point (`model.heads=2/seed-0`, with its output in `log`) and sweep.json. A point is
trained by a process of its own: what is done is skipped, and one that crashes leaves the others alone. Two seeds of the first
variant come first, since what differs by no more than they do is noise; then all variants of a seed before the next seed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fledge import console
from fledge.commands import Sweep
from fledge.config import Pretrain, Tokenizer, check
from fledge.folder import locked
from fledge.pipeline import finished
from fledge.recipes import Item
from fledge.research.compare import compared
from fledge.research.groups import arms_of
from fledge.research.ladder import check_points, fitted
from fledge.research.points import Point, points_of
from fledge.runs import is_done, summary
from fledge.settings import cores, shares_of, words_of
from fledge.storage import sealed, write_atomic
from fledge.text.datasets import find_data
from fledge.trackers import sign_in

LOOK_SECONDS = 0.2


def main(ask: Sweep) -> dict[str, Any]:
    """Train every point that is not finished, compare the variants, and return all of it as JSON."""
    ahead = plan(ask)
    ask = replace(ask, base=replace(ask.base, dtype=ahead["dtype"]))
    points, out, base = points_of(ask), Path(ask.out), ask.base
    length = f"about {console.duration(ahead['seconds'])} of steps" if ahead["seconds"] else "nobody knows how long"
    cost = f", ${ahead['dollars']:,.2f}" if ahead["dollars"] else ""
    console.say(f"sweep: {len(points)} points in {out}, {length}{cost}; measurements come on top")
    for row in ahead["points"]:
        if "error" in row:
            console.say(f"{row['point']}: will fail: {row['error']}")
    for tracker in {one.config.log for one in points if not is_done(one.run / "pretrain")}:
        sign_in(tracker)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if not (out / "tokenizer" / "tokenizer.json").exists():
            from fledge.stages import tokenizer

            vocab, seed, threads = ask.vocab, base.seed, base.threads
            data, column = base.data, base.column
            tokenizer.main(Tokenizer(run=ask.out, data=data, column=column, vocab=vocab, seed=seed, threads=threads))
        left = [one for one in points if base.fresh or not finished(Item("pretrain", one.config), one.run, set())]
        if len(left) < len(points):
            console.say(f"sweep: {len(points) - len(left)} points are done")
        failed = train_all(left, at_once=ask.at_once or slots_of(base))
        found: dict[str, Any] = {"points": [record_of(point, failed) for point in points]}
        write_atomic(out / "sweep.json", sealed({"settings": asdict(base), **found}))
        found |= what_it_shows(ask, points)
        write_atomic(out / "sweep.json", sealed({"settings": asdict(base), **found}))
    for point, (_, why) in failed.items():
        console.say(f"failed: {point}: {why}")
    return {"run": ask.out, **found, "failed": len(failed), "exit_code": 5 if failed else 0}


def plan(ask: Sweep) -> dict[str, Any]:
    """What each point takes, in seconds of steps and tokens, and all of them together, as JSON; None where nobody knows.

    A point that cannot be trained has its `error`.

    Raises:
        ValueError: a setting of the sweep, or of all points, is wrong.
    """
    import torch

    from fledge.model import device as machine
    from fledge.model.transformer import ModelConfig, Transformer
    from fledge.train.estimate import here
    from fledge.train.resolve import resolved

    check(ask)
    check(ask.base)
    points = points_of(ask)
    if ask.fit:
        check_points(points)
    device = machine.find_device(ask.base.device)
    dtype = machine.find_dtype(ask.base.dtype, device)  # one for all points, where each would try products of its own
    site = here(device, dtype, ranks=ask.base.ranks)
    rows = []
    for point in points:
        row: dict[str, Any] = {"point": str(point), "tokens": None, "seconds": None}
        try:
            check(point.config)
            for name in shares_of(point.config.data):
                find_data(name)
            config = resolved(replace(point.config, run=ask.out), vocab=ask.vocab)
            with torch.device("meta"):
                flops = Transformer(ModelConfig.of(config.model, vocab=ask.vocab)).flops_per_token()
            row |= {"tokens": config.tokens, "seconds": site.seconds(flops * config.tokens) if config.tokens else None}
        except (ValueError, FileNotFoundError) as error:  # it fails when its turn comes, and is told then
            row["error"] = str(error)
        if point.config.minutes and "error" not in row:
            row["seconds"] = 60 * point.config.minutes
        rows.append(row)
    if all("error" in row for row in rows):
        raise ValueError(f"no point can be trained: {rows[0]['point']}: {rows[0]['error']}")
    seconds = sum(row["seconds"] or 0.0 for row in rows) / (ask.at_once or slots_of(ask.base))
    dollars = ask.price and ask.price * seconds / 3600
    return {"points": rows, "seconds": seconds, "dollars": dollars, "dtype": str(dtype).removeprefix("torch.")}


def slots_of(config: Pretrain) -> int:
    """Points that can be trained at the same time: one per GPU, or set of as many as a point has ranks; on a CPU one."""
    return max(1, len(_gpus(config)) // config.ranks)


def _gpus(config: Pretrain) -> list[str]:
    if config.device not in ("auto", "cuda"):  # another, or one that was chosen
        return []
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",") if shown else [str(number) for number in range(torch.cuda.device_count())]


# How they are trained


def train_all(points: Sequence[Point], *, at_once: int) -> dict[Point, tuple[int, str]]:
    """Train points, so many at a time; exit code and last words of those that failed.

    One that another process is at work in, as one of a killed sweep may be, is left for later.
    """
    waiting, running, failed = list(points), dict[int, tuple[Point, subprocess.Popen[bytes]]](), dict[Point, Any]()
    try:
        while waiting or running:
            for slot in range(at_once):
                if slot not in running and (point := next((one for one in waiting if not _is_held(one)), None)):
                    waiting.remove(point)
                    console.say(f"{point}: begins ({len(points) - len(waiting)} of {len(points)})")
                    running[slot] = point, begin(point, slot=slot, at_once=at_once)
            time.sleep(LOOK_SECONDS)
            for slot, (point, child) in list(running.items()):
                if (code := child.poll()) is not None:
                    del running[slot]
                    if code:
                        failed[point] = code, _last_words(point, code)
                    bits = summary(point.run / "pretrain").get("val_bits_per_byte", 0.0)
                    console.say(f"{point}: " + (f"failed: {failed[point][1]}" if code else f"{bits:.4f} bits per byte"))
    except BaseException:
        for _, child in running.values():  # each saves what it has
            child.terminate()
        for _, child in running.values():
            child.wait()
        raise
    return failed


def begin(point: Point, *, slot: int, at_once: int) -> subprocess.Popen[bytes]:
    """A process that trains a point, on its part of the GPUs or cores."""
    point.run.mkdir(parents=True, exist_ok=True)
    if not (link := point.run / "tokenizer").exists():
        link.symlink_to(Path("../../tokenizer"), target_is_directory=True)
    config, environment = point.config, dict(os.environ)
    if gpus := _gpus(config):
        first = slot % slots_of(config) * config.ranks
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + config.ranks])
    elif at_once > 1 and config.threads is None:
        config = replace(config, threads=max(1, cores() // at_once))
    words = [sys.executable, "-m", "fledge", "pretrain", *words_of(config, Pretrain())]
    with (point.run / "log").open("ab") as log:
        # In a session of its own: what ends the terminal's programs ends the sweep, which tells it once.
        return subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)


def _is_held(point: Point) -> bool:
    stage = point.run / "pretrain"
    if not stage.is_dir():
        return False
    try:
        with locked(stage):
            return False
    except ValueError:
        return True


def _last_words(point: Point, code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}, as when memory runs out"
    text = (point.run / "log").read_text(encoding="utf-8", errors="replace").strip()
    return text.splitlines()[-1].removeprefix("fledge: ") if text else f"exit code {code}"


# What they show


def what_it_shows(ask: Sweep, points: Sequence[Point]) -> dict[str, Any]:
    """Each variant against its own, where both have a finished seed in common, and the laws of a ladder."""
    arms = arms_of([Path(ask.out)]) if any(is_done(point.run / "pretrain") for point in points) else {}
    found = compared(arms) if arms else {}
    shown = {name: found.get(name, []) for name in ("comparisons", "multipliers")}
    return shown | ({"fit": fitted(points, Path(ask.out), price=ask.price)} if ask.fit else {})


def record_of(point: Point, failed: Mapping[Point, tuple[int, str]]) -> dict[str, Any]:
    """A point of sweep.json."""
    done = summary(point.run / "pretrain")
    names = ("val_bits_per_byte", "tokens", "steps", "flops_per_token", "held_out", "tokenizer_hash", "total_seconds")
    code, why = failed.get(point, (0, ""))
    return {
        "variant": point.variant,
        "against": point.against,
        "seed": point.config.seed,
        "settings": point.settings,
        "state": "done" if done else "failed" if code else "left",
        **({"exit_code": code, "error": why} if code else {}),
        **{name: done[name] for name in names if name in done},
    }
