"""`fledge compare`: which training is better at equal tokens, steps, FLOPs and seconds, and whether chance explains it.

    first, other = groups_of(Path("runs/a")), groups_of(Path("runs/b"))       # a run, a folder of its seeds, or a sweep
    told = compare(first[0], other[0])
    told["sentence"]                    # "b is better by 0.0037 ± 0.0009 bits per byte"

Equal seeds read the same text in the same order, so differences are taken seed by seed, which leaves most of the noise out; the
interval is Student's over them. Between its measurements a curve is interpolated over the logarithm of what was spent.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fledge import console
from fledge.config import Compare
from fledge.evals.results import read_scores
from fledge.runs import begun, flat, is_done, metrics, summary
from fledge.storage import read_record

AXES = ("seconds", "tokens", "steps", "flops")
CONFIDENCE = 0.95
EQUAL = 0.98
"""Who has spent so much of what another has is as far as that."""
CHANCE, UNKNOWN = "cannot be told apart", "not measured"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished pretraining: held-out bits per byte, and what was spent until each of these measurements."""

    run: Path
    spent: Mapping[str, npt.NDArray[Any]]
    bits: Sequence[float]
    settings: Mapping[str, Any]
    done: Mapping[str, Any]
    code: str = ""
    core: float | None = None

    @classmethod
    def of(cls, run: Path) -> Trained:
        """Raises FileNotFoundError where there is no finished pretraining, ValueError where it was not measured."""
        stage = run / "pretrain"
        if not is_done(stage):
            raise FileNotFoundError(f"{run}: no finished pretraining. `fledge pretrain {run}` makes or finishes it.")
        lines, done, known = metrics(stage), summary(stage), begun(stage)
        steps = {line["step"]: line for line in lines if "loss_nats" in line}
        bits = {line["step"]: line["val_bits_per_byte"] for line in lines if "val_bits_per_byte" in line}
        places = [place for place, step in enumerate(steps) if step in bits]
        if not places:
            raise ValueError(f"{stage}: metrics.jsonl has no held-out bits per byte. Train it again with --fresh.")
        spent = {name: np.cumsum([line[name] for line in steps.values()])[places] for name in ("seconds", "tokens")}
        spent |= {"steps": np.array([*steps])[places], "flops": spent["tokens"] * done["flops_per_token"]}
        core = read_scores(run / "eval" / "pretrain.json").get("core")
        return cls(
            run=run,
            spent=spent,
            bits=[bits[step] for step in spent["steps"]],
            settings=known["settings"],
            done=done,
            code=str(known["provenance"].get("code")),
            core=core and core.accuracy,
        )

    def at(self, axis: str, spent: float) -> float:
        """Bits per byte after so much was spent; nan before the first measurement."""
        known = self.spent[axis]
        return float(np.interp(math.log(spent), np.log(known), self.bits)) if spent >= EQUAL * known[0] else math.nan


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trainings that differ in nothing but their seed, by which they are found."""

    label: str
    runs: Mapping[int, Trained]

    @classmethod
    def of(cls, label: str, runs: Sequence[Path]) -> Group:
        """Raises ValueError where two runs have the same seed."""
        by_seed = {one.settings["seed"]: one for one in map(Trained.of, runs)}
        if len(by_seed) < len(runs):
            raise ValueError(f"{label}: {len(runs)} runs have only {len(by_seed)} seeds; a group has one run per seed")
        return cls(label=label, runs=by_seed)

    @property
    def bits(self) -> list[float]:
        """What each seed ended with."""
        return [one.bits[-1] for one in self.runs.values()]


def groups_of(path: Path) -> list[Group]:
    """A run is a group, a folder of runs is one of several seeds, and a sweep has one per variant.

    Raises:
        FileNotFoundError: it is none of these, or nothing in it is finished.
        ValueError: see `Group.of`.
    """
    if (path / "pretrain").is_dir():
        return [Group.of(path.name, [path])]
    if (path / "sweep.json").exists():
        record = read_record(path / "sweep.json", advice="Start the sweep again: it writes it anew.")
        names = dict.fromkeys(point["variant"] for point in record["points"] if point["state"] == "done")
        return [group for name in names for group in groups_of(path / name.replace("/", "_"))]
    if runs := sorted(stage.parent for stage in path.glob("*/pretrain") if is_done(stage)):
        return [Group.of(path.name, runs)]
    raise FileNotFoundError(f"{path}: neither a run with a pretraining, nor a folder of finished runs, nor a sweep.")


def main(ask: Compare) -> dict[str, Any]:
    """Compare the first with each of the others, print it, and return it as JSON."""
    groups = [group for path in ask.runs for group in groups_of(Path(path))]
    if len(groups) < 2:
        raise ValueError(f"runs={' '.join(ask.runs)!r} is not two trainings or more; give another, or a sweep")
    found = [compare(groups[0], other) for other in groups[1:]]
    show(groups[0], found, markdown=ask.markdown)
    return {**found[0], "comparisons": found}


def compare(base: Group, other: Group) -> dict[str, Any]:
    """What `other` is to `base`, as JSON: differences of held-out bits per byte (below 0: better) at equal spending.

    Raises:
        ValueError: they have no seed in common, or were measured on other text.
    """
    pairs = [(base.runs[seed], other.runs[seed]) for seed in sorted(base.runs.keys() & other.runs.keys())]
    if not pairs:
        has = [f"{group.label} has {', '.join(map(str, group.runs))}" for group in (base, other)]
        raise ValueError(f"no seed in common: {'; '.join(has)}. Only equal seeds read the same text; train one again")
    for texts in ([(each.run, each.done.get("held_out")) for each in pair] for pair in pairs):
        if texts[0][1] != texts[1][1]:
            told = " and ".join(f"{run} on {text}" for run, text in texts)
            raise ValueError(f"measured on other held-out texts, {told}: give both the same --data and --eval-tokens")
    settings = [dict(flat(each.settings)) for each in pairs[0]]
    names = sorted(name for name in {**settings[0], **settings[1]} if settings[0].get(name) != settings[1].get(name))
    ends = {"minutes": "seconds", "flops": "flops"}
    axis = next((ends[name] for name in ends if all(each.get(name) for each in settings)), "tokens")
    core = [(one.core, two.core) for one, two in pairs]
    at = {name: _at_equal(name, pairs) for name in AXES}
    warnings = {
        "the tokenizers differ: equal tokens are not equal text": lambda each: each.done.get("tokenizer_hash"),
        "not all were trained by the same code": lambda each: each.code,
    }
    found = {
        "base": base.label,
        "other": other.label,
        "seeds": [one.settings["seed"] for one, _ in pairs],
        "metric": "val_bits_per_byte",
        "at": axis,
        **at[axis],
        "at_equal": at,
        "core": difference([two - one for one, two in core], sign=1) if None not in sum(core, ()) else None,  # pyright: ignore
        "bits_per_byte": statistics.fmean(other.bits),
        "noise_floor": statistics.stdev(base.bits) if len(base.bits) > 1 else None,
        "differs": [f"{name} {settings[0].get(name)} -> {settings[1].get(name)}" for name in names],
        "warnings": [
            told for told, look in warnings.items() if len({look(each) for pair in pairs for each in pair}) > 1
        ],
    }
    return found | {"sentence": sentence(found)}


def difference(values: Sequence[float], *, sign: int = -1) -> dict[str, Any]:
    """The mean of paired differences, its t interval (None for a single pair), and a verdict; `sign` of what is better."""
    mean, half = statistics.fmean(values), None
    if math.isnan(mean):
        return {"difference": None, "interval": None, "verdict": UNKNOWN}
    if len(values) > 1:
        half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    is_chance = half is None or abs(mean) <= half
    verdict = CHANCE if is_chance else "better" if mean * sign > 0 else "worse"
    return {"difference": mean, "interval": None if half is None else [mean - half, mean + half], "verdict": verdict}


def _at_equal(axis: str, pairs: Sequence[tuple[Trained, Trained]]) -> dict[str, Any]:
    """Differences where the first of each pair ends; early: the other had far to go, and is better than it looks there."""
    ends = [sorted(each.spent[axis][-1] for each in pair) for pair in pairs]
    found = difference(
        [two.at(axis, end) - one.at(axis, end) for (one, two), (end, _) in zip(pairs, ends, strict=True)]
    )
    return found | {"early": any(end < EQUAL * last for end, last in ends)}


def sentence(found: Mapping[str, Any]) -> str:
    """What was found, in words."""
    base, other, verdict, size = found["base"], found["other"], found["verdict"], _cell({**found, "early": False})
    if verdict in (CHANCE, UNKNOWN):
        more = " by one seed" * (found["interval"] is None)
        return f"{other} {CHANCE} from {base}{more} ({size} bits per byte)"
    return f"{other} is {verdict} by {size[1:]} bits per byte than {base}"


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t within which Student's distribution lies with this confidence; for 1 to a few hundred degrees of freedom.

    By bisection of its finite series (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4) in the angle atan(t / sqrt(freedom)).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        is_odd, cosine = freedom % 2, math.cos(angle)
        total, term = 0.0, cosine if is_odd else 1.0
        for power in range(2 + is_odd, freedom + 1, 2):
            total += term
            term *= (power - 1) / power * cosine**2
        inside = math.sin(angle) * total
        inside = 2 / math.pi * (angle + inside) if is_odd else inside
        low, high = (angle, high) if inside < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


# How it is shown


def show(base: Group, found: Sequence[Mapping[str, Any]], *, markdown: bool = False) -> None:
    """The table, a sentence for each comparison, and what else one must know."""
    columns: dict[tuple[str, ...], str] = {}
    for axis in AXES:  # where all steps are alike, equal steps are equal tokens
        cells = tuple(_cell(one["at_equal"][axis]) for one in found)
        columns[cells] = ", ".join(filter(None, (columns.get(cells), axis)))
    if any(one["core"] for one in found):
        columns[tuple(_cell(one["core"] or {"difference": None}) for one in found)] = "CORE"
    rows = [
        [one["other"], f"{one['bits_per_byte']:.4f}", *(cells[n] for cells in columns)] for n, one in enumerate(found)
    ]
    rows = [[base.label, f"{statistics.fmean(base.bits):.4f}", *[""] * len(columns)], *rows]
    title = f"held-out bits per byte, and differences from {base.label} at equal (paired by seed, {CONFIDENCE:.0%})"
    heads = ["", "at the end", *columns.values()]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in (heads, ["--", *["--:"] * (len(heads) - 1)], *rows)]
        console.say("\n".join([title, "", *lines, ""]))
    else:
        console.table(title, heads, rows)
    told = [
        f"{one['sentence']} at equal {one['at']}; {', '.join(one['differs']) or 'no setting differs'}" for one in found
    ]
    told += sorted({warning for one in found for warning in one["warnings"]})
    if noise := found[0]["noise_floor"]:
        told.append(f"noise floor: seeds of {base.label} have a standard deviation of {noise:.4f}")
    if any("*" in cells for column in columns for cells in column):
        told.append("*: one had far to go there, its rates still high: that flatters the other")
    if len(found) > 4:
        told.append(
            f"of {len(found)} such intervals about {len(found) * (1 - CONFIDENCE):.1f} miss the truth by chance"
        )
    for line in told:
        console.say(f"- {line}" if markdown else line)


def _cell(told: Mapping[str, Any]) -> str:
    """`-.0037 ± .0010`, with a star where one was early; `?` where it was not measured."""
    if told["difference"] is None:
        return "?"
    error = f" ± {(told['interval'][1] - told['interval'][0]) / 2:.4f}" if told["interval"] else ""
    return re.sub(r"\b0\.", ".", f"{told['difference']:+.4f}{error}") + "*" * told.get("early", False)
