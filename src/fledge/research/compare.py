"""`fledge compare`: which training is better at equal tokens, steps, FLOPs and seconds, and whether chance explains it.

    (base, other), = arms_of([Path("runs/a"), Path("runs/b")])[""]     # runs, folders of their seeds, or sweeps (groups.py)
    told = compare(base, other)
    told["sentence"]                    # "b is better by .0037 ± .0009 bits per byte than a"

Equal seeds read the same text in the same order, so differences are taken seed by seed, which leaves most of the noise out; the
interval is Student's over them. Between its measurements a curve is interpolated over the logarithm of what was spent. Over a
ladder the difference is told in compute too: from where trainings ended alone, since on the way the rates of a longer one are high.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fledge import console
from fledge.commands import Compare
from fledge.config import check
from fledge.evals.page import images, paragraphs, publish, table
from fledge.evals.plots import line_plot
from fledge.evals.student import CONFIDENCE, t_quantile
from fledge.provenance import commits_differ
from fledge.research.groups import EQUAL, Group, Trained, arms_of
from fledge.runs import flat

AXES = ("seconds", "tokens", "steps", "flops")
CHANCE, UNKNOWN = "cannot be told apart", "not measured"
TITLE = f"held-out bits per byte, and differences from the baseline at equal (paired by seed, {CONFIDENCE:.0%})"
CURVES = 12
"""Trainings whose curves are drawn."""
Pairs = Sequence[tuple[Group, Group]]


def main(ask: Compare) -> dict[str, Any]:
    """Compare what belongs together, show it, and return it as JSON."""
    check(ask)
    arms = arms_of([Path(path) for path in ask.runs]) if ask.runs else {}
    if not any(arms.values()):
        raise ValueError(f"runs={' '.join(ask.runs)!r} is not two trainings or more; give another, or a sweep")
    return compared(arms, out=Path(ask.out) if ask.out else None)


def compared(arms: Mapping[str, Pairs], *, out: Path | None = None) -> dict[str, Any]:
    """Compare each pair, show and write it, and return it as JSON."""
    pairs = list(itertools.chain(*arms.values()))
    bases = [base.label for base, _ in pairs]
    pairs.sort(key=lambda pair: bases.index(pair[0].label))
    found = [compare(*pair) for pair in pairs]
    ladders = {arm: each for arm, each in arms.items() if len({base.label for base, _ in each}) > 1}
    saved = {arm: multiplier(each) for arm, each in ladders.items()}
    columns, rows = table_of(pairs, found)
    lines = [*remarks(pairs, found), *(multiple(arm, each) for arm, each in saved.items())]
    console.table(TITLE, columns, rows)
    for line in lines:
        console.say(line)
    if out:
        groups = list({group.label: group for pair in pairs for group in pair}.values())
        drawn = curves(groups[:CURVES])
        text = paragraphs("# Comparison", f"{TITLE[0].upper()}{TITLE[1:]}:", table(columns, rows))
        text += paragraphs([f"- {line}" for line in lines], "## Curves", images(drawn))
        publish(out / "compare", title="Comparison", text="\n".join([*text, *code_lines(groups)]), drawn=drawn)
        console.say(f"written: {out / 'compare.html'}")
    return {**found[0], "comparisons": found, "multipliers": saved}


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
        "not all were trained by the same code (--out shows the difference)": lambda each: each.made_by.get("code"),
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
        "differs": [f"{name} {_setting(settings[0].get(name))} -> {_setting(settings[1].get(name))}" for name in names],
        "warnings": [
            told for told, look in warnings.items() if len({look(each) for pair in pairs for each in pair}) > 1
        ],
    }
    return found | {"sentence": sentence(found)}


def _setting(value: Any) -> str:
    """Those that follow from others have all the digits of a root."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
    found = [two.at(axis, end) - one.at(axis, end) for (one, two), (end, _) in zip(pairs, ends, strict=True)]
    return difference(found) | {"early": any(end < EQUAL * last for end, last in ends)}


def sentence(found: Mapping[str, Any]) -> str:
    """What was found, in words."""
    base, other, verdict, size = found["base"], found["other"], found["verdict"], _cell({**found, "early": False})
    if verdict == UNKNOWN:
        return f"{other} and {base} were {UNKNOWN}"
    if verdict == CHANCE:
        more = " by one seed" * (found["interval"] is None)
        return f"{other} {CHANCE} from {base}{more} ({size} bits per byte)"
    return f"{other} is {verdict} by {size[1:]} bits per byte than {base}"


def multiplier(pairs: Pairs) -> dict[str, Any]:
    """FLOPs that the baseline takes to get as far as the other, over those of the other: above 1 the other saves compute.

    Over the ends of trainings of a ladder, seed by seed: the baseline's FLOPs for the same bits per byte are interpolated between
    its own, over logarithms; rungs of the other that end outside of these are left out, and counted.
    """
    seeds = sorted(set.intersection(*({*group.runs} for pair in pairs for group in pair)))
    logs, inside, rungs = [], 0, 0
    for seed in seeds:
        known, bits = frontier([base.runs[seed] for base, _ in pairs])
        taken, reached = frontier([other.runs[seed] for _, other in pairs])
        would_take = np.interp(-np.log(reached), -np.log(bits), np.log(known), left=math.nan, right=math.nan)
        ratios = would_take - np.log(taken)
        inside, rungs = inside + int(np.isfinite(ratios).sum()), rungs + len(ratios)
        logs.append(float(np.nanmean(ratios)) if np.isfinite(ratios).any() else math.nan)
    found = difference(logs, sign=1) if logs else difference([math.nan])
    times, ends = found.pop("difference"), found["interval"]
    return found | {
        "multiplier": None if times is None else math.exp(times),
        "interval": ends and [math.exp(end) for end in ends],
        "inside": inside,
        "rungs": rungs,
    }


def frontier(runs: Sequence[Trained]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """FLOPs and bits per byte where trainings ended, of those that no cheaper one was as good as."""
    ends = sorted((float(run.spent["flops"][-1]), run.bits[-1]) for run in runs)
    best = [end for place, end in enumerate(ends) if all(end[1] < before[1] for before in ends[:place])]
    flops, bits = np.array(best).T
    return flops, bits


# How it is shown


def table_of(pairs: Pairs, found: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """A row for each baseline, and under it those that are compared with it."""
    columns: dict[tuple[str, ...], str] = {}
    for axis in AXES:  # where all steps are alike, equal steps are equal tokens
        cells = tuple(_cell(one["at_equal"][axis]) for one in found)
        columns[cells] = ", ".join(filter(None, (columns.get(cells), axis)))
    if any(one["core"] for one in found):
        columns[tuple(_cell(one["core"] or {"difference": None}) for one in found)] = "CORE"
    rows, above = [], None
    for place, ((base, _), one) in enumerate(zip(pairs, found, strict=True)):
        if base.label != above:
            rows.append([above := base.label, f"{statistics.fmean(base.bits):.4f}", *[""] * len(columns)])
        rows.append([one["other"], f"{one['bits_per_byte']:.4f}", *(cells[place] for cells in columns)])
    return ["", "at the end", *columns.values()], rows


def remarks(pairs: Pairs, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each comparison, and what else one must know."""
    told = [
        f"{one['sentence']} at equal {one['at']}; {', '.join(one['differs']) or 'no setting differs'}" for one in found
    ]
    told += sorted({warning for one in found for warning in one["warnings"]})
    noise = {base.label: one["noise_floor"] for (base, _), one in zip(pairs, found, strict=True) if one["noise_floor"]}
    if noise:
        each = ", ".join(f"{label} {floor:.4f}" for label, floor in noise.items())
        told.append(f"noise floor: standard deviation of the seeds of {each}")
    if any(at["early"] and at["difference"] is not None for one in found for at in one["at_equal"].values()):
        told.append("*: one had far to go there, its rates still high: that flatters the other")
    if any(at["difference"] is None for one in found for at in one["at_equal"].values()):
        told.append("?: unknown, as one was first measured after the other had ended: more often by --eval-every")
    if len({bool(one["core"]) for one in found}) > 1:
        told.append("CORE ?: not both have it, `fledge evaluate RUN --stage pretrain --tasks core` measures it")
    if len(found) > 4:
        told.append(
            f"of {len(found)} such intervals about {len(found) * (1 - CONFIDENCE):.1f} miss the truth by chance"
        )
    return told


def multiple(arm: str, saved: Mapping[str, Any]) -> str:
    """The compute multiplier of a ladder in words."""
    if saved["multiplier"] is None:
        return f"compute of {arm}: unknown, none of its ends lies between two of the baseline"
    ends = " ({:.2f} to {:.2f})".format(*saved["interval"]) if saved["interval"] else " (of one seed)"
    on = f"{saved['inside']} of {saved['rungs']} ends"
    return (
        f"compute of {arm}: the baseline takes {saved['multiplier']:.2f} times the FLOPs{ends} to get as far, by {on}"
    )


def curves(groups: Sequence[Group]) -> dict[str, str]:
    """SVG by name: bits per byte of the first seed of each group, over what was spent."""
    firsts = {group.label: next(iter(group.runs.values())) for group in groups}
    drawn = {}
    for axis in ("flops", "seconds"):
        lines = {label: list(zip(run.spent[axis].tolist(), run.bits, strict=True)) for label, run in firsts.items()}
        drawn[f"bits-{axis}"] = line_plot("held-out bits per byte", lines, x=axis, y="bits per byte", log="x")
    return drawn


def code_lines(groups: Sequence[Group]) -> list[str]:
    """Markdown of what differs in the code of the first and of the others: between their commits, and what was in none."""
    codes = {run.made_by.get("code"): run for group in groups for run in group.runs.values()}
    if len(codes) < 2:
        return []
    first, *others = codes.values()
    text = [f"{run.run}: {run.made_by['commit']}\n\n{run.made_by['changes']}" for run in codes.values()]
    text += [commits_differ(first.made_by["commit"], run.made_by["commit"]) for run in others]
    # A block by indentation: no line of a difference can end it.
    return ["## Code", "", *(f"    {line}" for each in text for line in [*each.splitlines(), ""])]


def _cell(told: Mapping[str, Any]) -> str:
    """`-.0037 ± .0010`, with a star where one was early; `?` where it was not measured."""
    if told["difference"] is None:
        return "?"
    error = f" ± {(told['interval'][1] - told['interval'][0]) / 2:.4f}" if told["interval"] else ""
    return re.sub(r"\b0\.", ".", f"{told['difference']:+.4f}{error}") + "*" * told.get("early", False)
