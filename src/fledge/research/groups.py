"""What is compared: finished trainings, in groups that differ in nothing but the seed, and which group with which.

for arm, pairs in arms_of([Path("runs/sweeps/heads")]).items(): ...      # "grouped", [(baseline, grouped)]
groups_of(Path("runs/a"))[0].runs[0].at("flops", 1e15)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fledge.evals.results import read_scores
from fledge.folder import CHANGES
from fledge.runs import begun, is_done, metrics, summary
from fledge.storage import read_record

EQUAL = 0.98
"""Who has spent so much of what another has is as far as that."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished pretraining: held-out bits per byte, and what was spent until each of these measurements."""

    run: Path
    spent: Mapping[str, npt.NDArray[Any]]
    bits: Sequence[float]
    settings: Mapping[str, Any]
    done: Mapping[str, Any]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Version, commit and hash of the code, and what of it was in no commit."""
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
        changes = stage / CHANGES
        core = read_scores(run / "eval" / "pretrain.json").get("core")
        return cls(
            run=run,
            spent=spent,
            bits=[bits[step] for step in spent["steps"]],
            settings=known["settings"],
            done=done,
            made_by=known["provenance"] | {"changes": changes.read_text("utf-8") if changes.exists() else ""},
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
        return [group for name in _against(path) for group in groups_of(path / name.replace("/", "_"))]
    if runs := sorted(stage.parent for stage in path.glob("*/pretrain") if is_done(stage)):
        return [Group.of(path.name, runs)]
    if variants := sorted({stage.parent.parent.name for stage in path.glob("*/*/pretrain")}):
        raise FileNotFoundError(
            f"{path}: a sweep that is not finished; its own command goes on. Its variants can be compared before: "
            f"{', '.join(str(path / name) for name in variants[:4])}"
        )
    raise FileNotFoundError(f"{path}: neither a run with a pretraining, nor a folder of finished runs, nor a sweep.")


def arms_of(paths: Sequence[Path]) -> dict[str, list[tuple[Group, Group]]]:
    """Pairs of a baseline and what is compared with it, under the name of what is tried; of a ladder a pair for each rung.

    One sweep says itself what it compares. Of two sweeps with the same variants these are the rungs; else all are compared with
    the first.
    """
    first, *others = (groups_of(path) for path in paths)
    ends = ends_of(paths)
    arms: dict[str, list[tuple[Group, Group]]] = {}
    if len(first) > 1 and not others:
        groups = dict(zip(against := _against(paths[0]), first, strict=True))
        for name, base in against.items():
            if base != name and base in groups and groups[base].runs.keys() & groups[name].runs.keys():
                arms.setdefault(name.rpartition(",")[2], []).append((groups[base], groups[name]))
        return arms
    for path, end, groups in zip(paths[1:], ends[1:], others, strict=True):
        arms[str(path)] = [
            (_in(ends[0], one), _in(end, two)) for one in first for two in groups if one.label == two.label
        ]
    if len(first) > 1 and all(arms.values()):
        return arms
    found = list(zip(paths, ends, (first, *others), strict=True))
    labels = [one.label for _, _, groups in found for one in groups]
    is_plain = len({*labels}) == len(labels)  # variants of several sweeps may be named alike
    told = [
        replace(one, label=end) if one.label == path.name else one if is_plain else _in(end, one)
        for path, end, groups in found
        for one in groups
    ]
    return {"": [(told[0], other) for other in told[1:]]}


def ends_of(paths: Sequence[Path]) -> list[str]:
    """The last names of paths, as many as tell them apart: one/seed-0 and two/seed-0."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    tails = (["/".join(each[-names:]) for each in parts] for names in range(1, max(map(len, parts)) + 1))
    return next(ends for ends in tails if len({*ends}) == len({*parts}))


def _in(sweep: str, group: Group) -> Group:
    return replace(group, label=f"{sweep}/{group.label}")


def _against(sweep: Path) -> dict[str, str]:
    """The variants of a sweep with finished points, and the baseline of each."""
    record = read_record(sweep / "sweep.json", advice="Start the sweep again: it writes it anew.")
    return {point["variant"]: point["against"] for point in record["points"] if point["state"] == "done"}
