"""`fledge sweep ... --fit`: the laws of a ladder's points, shown and written as fit.md, fit.html and plots.

found = fitted(points, Path("runs/sweeps/ladder"), price=24.0)       # found["laws"]["depth"]["exponent"]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fledge import console
from fledge.evals import ladder
from fledge.evals.ladder import Law, Rung, between, by_budget, parabolas
from fledge.evals.page import images, paragraphs, publish, table
from fledge.evals.plots import line_plot
from fledge.research.points import Point
from fledge.runs import summary

AHEAD = 10.0
"""How far the laws are told beyond the largest budget, in its multiples."""


def check_points(points: Sequence[Point]) -> None:
    """Raise ValueError where the points of a sweep would be too few for a fit."""
    budgets = {point.config.flops for point in points if point.config.flops}
    ladder.check_ladder(
        {flops: [point.config.model for point in points if point.config.flops == flops] for flops in sorted(budgets)}
    )


def rung_of(point: Point) -> Rung:
    """A finished point as a rung."""
    done = summary(point.run / "pretrain")
    assert point.config.flops
    return Rung(
        flops=point.config.flops,
        parameters=done["parameters"]["matrix"] + done["parameters"]["unembedding"],
        tokens=done["tokens"],
        depth=point.config.model.depth,
        bits_per_byte=done["val_bits_per_byte"],
    )


def fitted(points: Sequence[Point], out: Path, *, price: float | None) -> dict[str, Any]:
    """Fit laws to the points that are finished, show and write them, and return them as JSON; where they are too few, why."""
    done = [point for point in points if summary(point.run / "pretrain") and point.config.flops]
    rungs = [rung_of(point) for point in done]
    try:
        if len(texts := {summary(point.run / "pretrain").get("held_out") for point in done}) > 1:
            raise ValueError(
                f"fit: measured on {len(texts)} held-out texts; give all points the same --data and --eval-tokens"
            )
        laws = ladder.fit(rungs)
    except ValueError as error:
        console.say(str(error))
        return {"error": str(error)}
    most = max(rung.flops for rung in rungs)
    found: dict[str, Any] = {"laws": {name: asdict(law) for name, law in laws.items()}}
    if price:
        last = [summary(point.run / "pretrain")["total_seconds"] for point in done if point.config.flops == most]
        found["next"] = ladder.next_dollars(laws, flops=most, seconds=statistics.fmean(last), hourly_cost=price)
    columns, rows = law_rows(laws, [*by_budget(rungs), AHEAD * most])
    title = "the best of a budget is proportional to its FLOPs to this power, and by that (95 %)"
    console.table(title, columns, rows)
    drawn = plots(rungs, laws)
    lines = paragraphs("# Scaling laws of a ladder", f"{title[0].upper()}{title[1:]}:", table(columns, rows))
    lines += paragraphs(f"The last column is beyond what was trained: {CAVEAT}", *([found["next"]] if price else []))
    lines += paragraphs("## Plots", images(drawn), "## Points", table(*rung_rows(rungs)))
    publish(out / "fit", title="Scaling laws", text="\n".join(lines), drawn=drawn)
    console.say(f"{found.get('next', '')}\nfit: {out / 'fit.html'}".strip())
    return found


CAVEAT = "its interval holds if the law goes on, and bits per byte have no floor in it, so they are too good far ahead."


def law_rows(laws: Mapping[str, Law], budgets: Sequence[float]) -> tuple[list[str], list[list[str]]]:
    """A row per law: its power, and what it says of each budget."""
    rows = [
        [
            name.replace("_", " "),
            f"{law.exponent:.3f} ± {law.t * law.exponent_error:.3f}",
            *(between(law.at(each)) for each in budgets),
        ]
        for name, law in laws.items()
    ]
    return ["best", "power", *(f"{flops:.3g} FLOPs" for flops in budgets)], rows


def rung_rows(rungs: Sequence[Rung]) -> tuple[list[str], list[list[str]]]:
    """A row per point."""
    columns = ["FLOPs", *ladder.SIZES, "bits per byte"]
    rows = [
        [f"{r.flops:g}", f"{r.parameters:,}", f"{r.tokens:,}", f"{r.depth}", f"{r.bits_per_byte:.4f}"] for r in rungs
    ]
    return columns, rows


def plots(rungs: Sequence[Rung], laws: Mapping[str, Law]) -> dict[str, str]:
    """SVG by name: the parabolas with their points, and each law with the places that it leads through."""
    dots = {f"{flops:g}": [(r.parameters, r.bits_per_byte) for r in each] for flops, each in by_budget(rungs).items()}
    curves = {
        f"{flops:g}": [(size, curve(size)) for size in np.exp(np.linspace(*curve.inside, 40)).tolist()]
        for flops, curve in parabolas(rungs, "parameters").items()
    }
    title = "bits per byte in each budget of FLOPs"
    drawn = {"budgets": line_plot(title, curves, x="parameters", y="bits per byte", dots=dots, log="x")}
    for name, law in laws.items():
        found = parabolas(rungs, "parameters" if name == ladder.BITS else name)
        best = [
            (flops, each(each.best) if name == ladder.BITS else each.best)
            for flops, each in found.items()
            if each.has_best
        ]
        ends = np.geomspace(min(found), AHEAD * max(found), 20).tolist()
        lines = {end: [(flops, law.at(flops)[n]) for flops in ends] for n, end in enumerate(("law", "from", "to"))}
        title = f"{name.replace('_', ' ')} of the best"
        drawn[f"best-{name}"] = line_plot(title, lines, x="FLOPs", y="", dots={"law": best}, log="xy")
    return drawn
