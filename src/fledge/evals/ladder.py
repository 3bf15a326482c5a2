"""What a ladder says of larger trainings: the best size and the least bits per byte for a compute, as power laws of it.

    laws = fit([Rung(flops=1e17, parameters=4e6, tokens=4e9, depth=4, bits_per_byte=1.1), ...])   # sizes in each of some budgets
    laws["depth"].at(1e19)                       # (14.2, 12.1, 16.6): the best, and between which it lies

In each budget a parabola over the logarithm of a size says where bits per byte are fewest (Hoffmann et al. 2022, arXiv:2203.15556,
its second approach); a straight line through the logarithms of these places against that of the budget is the law. Its interval is
Student's, of a noise that is what rungs stray from the parabolas and places from the line. That the law goes on beyond the budgets,
and that bits per byte have no floor, no interval says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fledge.evals.plots import compact
from fledge.evals.student import t_quantile
from fledge.storage import read_record

SIZES = ("parameters", "tokens", "depth")
BITS = "bits_per_byte"
FEWEST_SIZES, FEWEST_BUDGETS = 4, 3
"""Three points make a parabola and two a line: one more says how well they fit."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A training of a ladder: what it might spend, how it spent it, and where it ended."""

    flops: float
    """The budget: what it was asked to spend."""
    parameters: float
    """Of matrices and unembedding, which FLOPs are counted by."""
    tokens: float
    depth: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class Law:
    """value = level (FLOPs / centre) ^ exponent; errors are standard errors, of the level that of its logarithm."""

    exponent: float
    exponent_error: float
    level: float
    level_error: float
    centre: float
    """FLOPs at which the errors of level and exponent do not depend on each other."""
    t: float
    """Standard errors to both sides that make the interval."""

    def at(self, flops: float) -> tuple[float, float, float]:
        """The value for a compute, and the ends of its interval."""
        away = math.log(flops / self.centre)
        middle = self.level * math.exp(self.exponent * away)
        half = self.t * math.hypot(self.level_error, self.exponent_error * away)
        return middle, middle * math.exp(-half), middle * math.exp(half)


@dataclass(frozen=True, kw_only=True)
class Parabola:
    """Bits per byte over the logarithm of a size, in one budget."""

    coefficients: npt.NDArray[Any]
    covariance: npt.NDArray[Any]
    """For a noise of 1."""
    centre: float
    inside: tuple[float, float]
    """Logarithms of the smallest and the largest size."""
    squares: float
    """Of what the rungs stray from it, summed."""
    freedom: int

    @classmethod
    def through(cls, sizes: Sequence[float], bits: Sequence[float]) -> Parabola:
        """By least squares."""
        x = np.log(sizes)
        coefficients, covariance = np.polyfit(x - x.mean(), bits, 2, cov="unscaled")
        return cls(
            coefficients=coefficients,
            covariance=covariance,
            centre=float(x.mean()),
            inside=(float(x.min()), float(x.max())),
            squares=float(((np.polyval(coefficients, x - x.mean()) - bits) ** 2).sum()),
            freedom=len(x) - 3,
        )

    def __call__(self, size: float) -> float:
        return float(np.polyval(self.coefficients, math.log(size) - self.centre))

    @property
    def has_best(self) -> bool:
        """Whether its lowest place lies within its sizes; outside it would be a guess."""
        return bool(self.coefficients[0] > 0) and self.inside[0] <= math.log(self.best) <= self.inside[1]

    @property
    def best(self) -> float:
        """The size at which it is lowest."""
        return math.exp(self.centre - self.coefficients[1] / (2 * self.coefficients[0]))

    def variances(self) -> tuple[float, float]:
        """Of the logarithm of the best size, and of that of the bits there, for a noise of 1 (linear in the coefficients)."""
        a, b, _ = self.coefficients
        place = -b / (2 * a)
        of_place = np.array([-place / a, -1 / (2 * a), 0.0])
        of_bits = np.array([place**2, place, 1.0]) / self(self.best)
        return float(of_place @ self.covariance @ of_place), float(of_bits @ self.covariance @ of_bits)


def check_ladder(sizes: Mapping[float, Sequence[Any]]) -> None:
    """Raise ValueError where there are too few sizes in each budget of FLOPs, or too few budgets."""
    if sum(len({*each}) >= FEWEST_SIZES for each in sizes.values()) < FEWEST_BUDGETS:
        found = ", ".join(f"{len({*each})} at {flops:g} FLOPs" for flops, each in sizes.items())
        raise ValueError(
            f"fit: sizes in budgets: {found or 'none'}; a law wants {FEWEST_SIZES} sizes or more in each of {FEWEST_BUDGETS} "
            "budgets or more, as in --over flops=1e17,3e17,1e18 model.depth=4,6,8,10"
        )


def by_budget(rungs: Sequence[Rung]) -> dict[float, list[Rung]]:
    """Rungs by what they might spend, the least first."""
    return {flops: [rung for rung in rungs if rung.flops == flops] for flops in sorted({rung.flops for rung in rungs})}


def parabolas(rungs: Sequence[Rung], size: str) -> dict[float, Parabola]:
    """By budget, of those with enough sizes."""
    found = {}
    for flops, each in by_budget(rungs).items():
        sizes = [getattr(rung, size) for rung in each]
        if len({*sizes}) >= FEWEST_SIZES:
            found[flops] = Parabola.through(sizes, [rung.bits_per_byte for rung in each])
    return found


def fit(rungs: Sequence[Rung]) -> dict[str, Law]:
    """Laws of parameters, tokens, depth (where it differs) and bits per byte.

    Raises:
        ValueError: too few rungs, or too few budgets whose best size lies within their sizes.
    """
    check_ladder({flops: [rung.parameters for rung in each] for flops, each in by_budget(rungs).items()})
    found: dict[str, Law] = {}
    for size in SIZES:
        curves = parabolas(rungs, size)
        good = {flops: curve for flops, curve in curves.items() if curve.has_best}
        if len(good) < FEWEST_BUDGETS:
            if size == "depth":
                continue
            raise ValueError(
                f"fit: of {len(curves)} budgets {len(good)} have their fewest bits per byte within their {size}, {FEWEST_BUDGETS} "
                "are wanted; add smaller or larger models, or other budgets"
            )
        places, levels = zip(*(curve.variances() for curve in good.values()), strict=True)
        noise = {"squares": sum(c.squares for c in good.values()), "freedom": sum(c.freedom for c in good.values())}
        found[size] = line([*good], [curve.best for curve in good.values()], places, **noise)
        if BITS not in found:
            found[BITS] = line([*good], [curve(curve.best) for curve in good.values()], levels, **noise)
    return {name: found[name] for name in (*SIZES, BITS) if name in found}


def line(
    flops: Sequence[float], values: Sequence[float], variances: Sequence[float], *, squares: float, freedom: int
) -> Law:
    """The power law through values whose logarithms have these variances for a noise of 1.

    Args:
        squares: what is known of the noise elsewhere: a sum of squares, with so many degrees of freedom.
    """
    x, y, weights = np.log(flops), np.log(values), 1 / np.asarray(variances)
    centre = np.average(x, weights=weights)
    (exponent, level), covariance = np.polyfit(x - centre, y, 1, w=np.sqrt(weights), cov="unscaled")
    freedom += len(x) - 2
    noise = math.sqrt((squares + float(weights @ (y - level - exponent * (x - centre)) ** 2)) / freedom)
    return Law(
        exponent=float(exponent),
        exponent_error=noise * math.sqrt(covariance[0, 0]),
        level=math.exp(level),
        level_error=noise * math.sqrt(covariance[1, 1]),
        centre=math.exp(centre),
        t=t_quantile(freedom),
    )


def next_dollars(
    laws: Mapping[str, Law], *, flops: float, seconds: float, hourly_cost: float, dollars: float = 100.0
) -> str:
    """What so many dollars more buy, at the speed and price of a training that took `flops` in `seconds`, in a sentence."""
    more = dollars / hourly_cost * 3600 * flops / seconds
    best = "; ".join(f"{name.replace('_', ' ')} {between(law.at(flops + more))}" for name, law in laws.items())
    return (
        f"${dollars:g} buy {more:.2g} FLOPs beside the {flops:.2g} that were spent. With all of them, "
        f"{(flops + more) / laws[BITS].centre:.3g} times the middle of the ladder, the best model has by its laws: {best}. "
        f"Of what was spent the best would have made {laws[BITS].at(flops)[0]:.4g} bits per byte."
    )


def between(told: tuple[float, float, float]) -> str:
    """`14.2 (12.1 to 16.6)`"""
    best, low, high = map(compact, told)
    return f"{best} ({low} to {high})"


def outlook(sweep: Path, *, done: Mapping[str, Any], hourly_cost: float | None) -> str:
    """What the next $100 buy, by the laws of a sweep, after a pretraining that ended with `done`.

    Raises:
        ValueError: the sweep has no laws, or nobody said what an hour costs, or nothing was pretrained.
    """
    record = read_record(sweep / "sweep.json", advice="Start the sweep again: it writes it anew.")
    if not (laws := record.get("fit", {}).get("laws")):
        raise ValueError(f"{sweep / 'sweep.json'}: has no laws; `fledge sweep ... --fit` writes them")
    if not (hourly_cost and done):
        raise ValueError(
            "ladder: what the next $100 buy follows from --hourly-cost and from the run's finished pretraining"
        )
    flops, seconds = done["tokens"] * done["flops_per_token"], done["total_seconds"]
    laws = {name: Law(**law) for name, law in laws.items()}
    return next_dollars(laws, flops=flops, seconds=seconds, hourly_cost=hourly_cost)
