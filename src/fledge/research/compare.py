"""`fledge compare`: which training is better at equal tokens, steps, FLOPs and seconds, and whether chance explains it.

    first, other = groups_of(Path("runs/a")), groups_of(Path("runs/b"))       # a run, a folder of its seeds, or a sweep
    told = compare(first[0], other[0])
    told["sentence"]                    # "b is better by 0.0037 ± 0.0009 bits per byte"

Equal seeds read the same text in the same order, so differences are taken seed by seed, which leaves most of the noise out; the
interval is Student's over them. Between its measurements a curve is interpolated over the logarithm of what was spent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fledge import console
from fledge.config import Compare
from fledge.evals.results import read_scores
from fledge.runs import begun, flat, is_done, metrics, summary
from fledge.storage import read_record

AXES = ("seconds", "tokens", "steps", "flops")
CONFIDENCE = 0.95
EQUAL = 0.98
"""Of what one has spent the other may lack so much and count as finished too."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished pretraining: its held-out bits per byte by what was spent until each measurement."""

    run: Path
    spent: Mapping[str, Sequence[float]]
    bits: Sequence[float]
    settings: Mapping[str, Any]
    done: Mapping[str, Any]
    code: str
    core: float | None

    @classmethod
    def of(cls, run: Path) -> Trained:
        """Raises FileNotFoundError where the run has no finished pretraining, ValueError where it was never measured."""
        stage = run / "pretrain"
        if not is_done(stage):
            raise FileNotFoundError(
                f"{run}: no finished pretraining. `fledge pretrain --run {run}` makes or finishes it."
            )
        lines, done = metrics(stage), summary(stage)
        steps = [line for line in lines if "loss_nats" in line]
        after = {line["step"]: place for place, line in enumerate(steps)}
        measured = {line["step"]: line["val_bits_per_byte"] for line in lines if "val_bits_per_byte" in line}
        measured = {step: bits for step, bits in measured.items() if step in after}
        if not measured:
            raise ValueError(f"{stage}: metrics.jsonl has no held-out bits per byte. Train it again with --fresh.")
        places = [after[step] for step in measured]
        tokens = np.cumsum([line["tokens"] for line in steps])[places]
        spent = {
            "seconds": np.cumsum([line["seconds"] for line in steps])[places],
            "tokens": tokens,
            "steps": np.array([*measured]),
            "flops": tokens * done["flops_per_token"],
        }
        known = begun(stage)
        core = read_scores(run / "eval" / "pretrain.json").get("core")
        return cls(
            run=run,
            spent=spent,  # pyright: ignore[reportArgumentType]
            bits=[*measured.values()],
            settings=known["settings"],
            done=done,
            code=str(known["provenance"].get("code")),
            core=core.accuracy if core else None,
        )

    def at(self, axis: str, spent: float) -> float:
        """Bits per byte after so much was spent."""
        return float(np.interp(math.log(spent), np.log(self.spent[axis]), self.bits))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trainings that differ in nothing but their seed."""

    label: str
    runs: Mapping[int, Trained]

    @classmethod
    def of(cls, label: str, runs: Sequence[Path]) -> Group:
        """Raises ValueError where two runs have the same seed."""
        found = [Trained.of(run) for run in runs]
        by_seed = {one.settings["seed"]: one for one in found}
        if len(by_seed) < len(found):
            raise ValueError(
                f"{label}: of {len(found)} runs only {len(by_seed)} seeds differ; give folders of one run per seed"
            )
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
        return [group for name in names for group in groups_of(path / name)]
    if runs := sorted(stage.parent for stage in path.glob("*/pretrain") if is_done(stage)):
        return [Group.of(path.name, runs)]
    raise FileNotFoundError(f"{path}: neither a run with a pretraining, nor a folder of finished runs, nor a sweep.")


def main(ask: Compare) -> dict[str, Any]:
    """Compare the first with each of the others, print it, and return it as JSON."""
    base, *others = [group for path in ask.runs for group in groups_of(Path(path))]
    if not others:
        raise ValueError(f"runs={' '.join(ask.runs)}: one training cannot be compared; give another, or a sweep")
    found = [compare(base, other) for other in others]
    show(base, found, markdown=ask.markdown)
    return {**found[0], "comparisons": found}


def compare(base: Group, other: Group) -> dict[str, Any]:
    """What `other` is to `base`, as JSON: differences of held-out bits per byte (below 0: better) at equal spending.

    Raises:
        ValueError: they have no seed in common, or were measured on other text.
    """
    seeds = sorted(base.runs.keys() & other.runs.keys())
    if not seeds:
        has = [f"{group.label} has {', '.join(map(str, group.runs))}" for group in (base, other)]
        raise ValueError(
            f"no seed in common: {'; '.join(has)}. Only equal seeds read the same text; train one of them again"
        )
    pairs = [(base.runs[seed], other.runs[seed]) for seed in seeds]
    for one, two in pairs:
        texts = [each.done.get("held_out") for each in (one, two)]
        if texts[0] != texts[1]:
            raise ValueError(
                f"{one.run} and {two.run} were measured on other held-out texts ({' and '.join(map(str, texts))}); "
                "only the same --data and --eval-tokens can be compared"
            )
    first, second = pairs[0]
    budget = {"minutes": "seconds", "flops": "flops"}
    axis = next((budget[name] for name in budget if first.settings.get(name) and second.settings.get(name)), "tokens")
    at = {name: difference([_at_equal(name, one, two) for one, two in pairs]) for name in AXES}
    core = [(one.core, two.core) for one, two in pairs if one.core is not None and two.core is not None]
    found = {
        "base": base.label,
        "other": other.label,
        "seeds": seeds,
        "metric": "val_bits_per_byte",
        "at": axis,
        **at[axis],
        "at_equal": {name: told | {"early": _is_early(name, pairs)} for name, told in at.items()},
        "core": difference([two - one for one, two in core]) if core else None,
        "bits_per_byte": statistics.fmean(other.bits),
        "differs": sorted(_differing(first.settings, second.settings)),
        "warnings": _warnings(pairs),
    }
    return found | {"sentence": sentence(found)}


def difference(values: Sequence[float]) -> dict[str, Any]:
    """The mean of paired differences with its t interval (None for a single pair), and whether it is better, worse or neither."""
    mean, half = statistics.fmean(values), None
    if len(values) > 1:
        half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    is_chance = half is None or abs(mean) <= half
    verdict = "cannot be told apart" if is_chance else "better" if mean < 0 else "worse"
    return {"difference": mean, "interval": None if half is None else [mean - half, mean + half], "verdict": verdict}


def sentence(found: Mapping[str, Any]) -> str:
    """What was found, in words."""
    base, other, size = found["base"], found["other"], f"{found['difference']:+.4f}".replace("0.", ".", 1)
    if found["interval"] is None:
        return f"{other} cannot be told apart from {base} by one seed ({size} bits per byte): give more"
    error = _error(found)
    if found["verdict"] == "cannot be told apart":
        return f"{other} cannot be told apart from {base} ({size}{error} bits per byte)"
    return f"{other} is {found['verdict']} by {size[1:]}{error} bits per byte than {base}"


def _at_equal(axis: str, one: Trained, two: Trained) -> float:
    spent = min(one.spent[axis][-1], two.spent[axis][-1])
    return two.at(axis, spent) - one.at(axis, spent)


def _is_early(axis: str, pairs: Sequence[tuple[Trained, Trained]]) -> bool:
    """Whether one had far to go when the other ended: its rates were high then, and it is better than it looks."""
    ends = [(one.spent[axis][-1], two.spent[axis][-1]) for one, two in pairs]
    return any(min(pair) < EQUAL * max(pair) for pair in ends)


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = dict(flat(was)), dict(flat(now))
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return [f"{name} {before.get(name)} -> {after.get(name)}" for name in names]


def _warnings(pairs: Sequence[tuple[Trained, Trained]]) -> list[str]:
    told = []
    if any(one.done.get("tokenizer_hash") != two.done.get("tokenizer_hash") for one, two in pairs):
        told.append("the tokenizers differ: bits per byte can be compared, equal tokens are not equal text")
    if len({each.code for pair in pairs for each in pair}) > 1:
        told.append("not all were trained by the same code")
    return told


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
        columns[tuple(_cell(one["core"]) if one["core"] else "" for one in found)] = "CORE"
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
    if len(base.bits) > 1:
        told.append(
            f"noise floor: seeds of {base.label} have a standard deviation of {statistics.stdev(base.bits):.4f}"
        )
    if any("*" in cells for column in columns for cells in column):
        told.append("*: one had far to go there, its rates still high: that flatters the other")
    if len(found) > 4:
        told.append(
            f"of {len(found)} such intervals about {len(found) * (1 - CONFIDENCE):.1f} miss the truth by chance"
        )
    for line in told:
        console.say(f"- {line}" if markdown else line)


def _cell(told: Mapping[str, Any]) -> str:
    return f"{told['difference']:+.4f}".replace("0.", ".", 1) + _error(told) + "*" * told.get("early", False)


def _error(told: Mapping[str, Any]) -> str:
    if told["interval"] is None:
        return ""
    return f" ± {(told['interval'][1] - told['interval'][0]) / 2:.4f}".replace("0.", ".", 1)
