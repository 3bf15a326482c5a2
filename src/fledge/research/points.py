"""Which trainings a sweep has: every variant with every seed.

for point in points_of(Sweep(over=("model.heads=2,4", "seed=0,1"))): ...       # point.run, point.config
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from fledge.commands import Sweep
from fledge.config import Pretrain
from fledge.settings import check_bounds, nearest

BASE = "baseline"
T = TypeVar("T")


class Variant(NamedTuple):
    """Settings under a name."""

    name: str
    against: str
    """The name of what it is compared with; its own of one that others are compared with."""
    settings: Mapping[str, str]

    @property
    def folder(self) -> str:
        """The name of that of its runs."""
        return self.name.replace("/", "_")


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """One training of a sweep: a variant with a seed."""

    variant: str
    against: str
    settings: Mapping[str, str]
    config: Pretrain

    @property
    def run(self) -> Path:
        """Its folder."""
        return Path(self.config.run)

    def __str__(self) -> str:
        return f"{self.variant} seed {self.config.seed}"


def points_of(ask: Sweep) -> list[Point]:
    """The points in the order in which they are trained.

    Raises:
        ValueError: there is no such setting, it cannot have that value, or a name is given twice.
    """
    over = _once(_split(one, "=") for one in ask.over)
    seeded = [_changed(ask.base, ["seed"], word) for word in over.pop("seed", str(ask.base.seed)).split(",")]
    for one in seeded:
        check_bounds(one)
    seeds = [one.seed for one in seeded]
    variants = {variant.name: variant for variant in _once((one.folder, one) for one in _variants(ask, over)).values()}
    first = next(iter(variants))
    pairs = [(first, seed) for seed in [*seeds, seeds[0] + 1][:2]]
    pairs += [(name, seed) for seed in seeds for name in variants]
    return [_point(ask, variants[name], seed) for name, seed in dict.fromkeys(pairs)]


def _variants(ask: Sweep, over: Mapping[str, str]) -> Iterator[Variant]:
    """Those of the command line, in each cell of the grid; without any the cells themselves."""
    named = [*_ablated(ask.ablate), *([Variant(BASE, BASE, {})] if ask.variant else []), *_listed(ask.variant)]
    values = itertools.product(*(each.split(",") for each in over.values()))
    cells = [dict(zip(over, each, strict=True)) for each in values]
    labels = [",".join(f"{name}={value}" for name, value in cell.items()) for cell in cells]
    for label, cell in zip(labels, cells, strict=True):
        if not named:
            yield Variant(label or BASE, labels[0] or BASE, cell)
        for one in named:
            name, against = (",".join(filter(None, (label, each))) for each in one[:2])
            yield Variant(name, against, {**cell, **one.settings})


def _ablated(switches: str | None) -> Iterator[Variant]:
    """All on, and one off at a time; all off, and one on at a time. What was there already is not there again."""
    if not switches:
        return
    names = switches.split(",")
    for whole in map(_whole, names):
        if not isinstance(reduce(getattr, whole.split("."), Pretrain()), bool):
            raise ValueError(
                f"--ablate {whole}: allowed are settings that are on or off; list values of others, as in --over {whole}=1,2"
            )
    on, off = dict.fromkeys(names, "True"), dict.fromkeys(names, "False")
    found = [Variant("all", "all", on), *(Variant(f"no-{name}", "all", {**on, name: "False"}) for name in names)]
    found += [Variant("none", "all", off), *(Variant(f"only-{name}", "none", {**off, name: "True"}) for name in names)]
    for place, one in enumerate(found):
        if all(one.settings != before.settings for before in found[:place]):
            yield one


def _listed(given: Iterable[str]) -> Iterator[Variant]:
    """The baseline and what has a name, in a word or in a .toml or .json file: {"wide": {"model.width": 256}}."""
    for word in given:
        path = Path(word)
        if path.suffix in (".toml", ".json"):
            text = path.read_text(encoding="utf-8")
            named = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
            found = {name: {key: str(value) for key, value in _flat(settings)} for name, settings in named.items()}
        else:
            name, rest = _split(word, ":")
            found = {name: dict(_split(each, "=") for each in rest.split(","))}
        for name, settings in found.items():
            yield Variant(name, BASE, settings)


def _flat(settings: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield from _flat(value, f"{under}{name}.") if isinstance(value, dict) else [(under + name, value)]


def _split(word: str, mark: str) -> tuple[str, str]:
    name, found, rest = word.partition(mark)
    if not (name and found and rest):
        raise ValueError(
            f"{word!r}: no {mark!r} between a name and what it has, as in seed{mark}0,1 or wide:model.width=256"
        )
    return name, rest


def _once(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """The dictionary of pairs whose names differ: of two the first would be gone without a word."""
    found: dict[str, T] = {}
    for name, one in pairs:
        if found.setdefault(name, one) is not one:
            raise ValueError(
                f"{name!r} is given twice: list the values of a setting behind commas, and name variants apart"
            )
    return found


def _point(ask: Sweep, variant: Variant, seed: int) -> Point:
    config = replace(ask.base, seed=seed, run=str(Path(ask.out) / variant.folder / f"seed-{seed}"))
    for name, value in variant.settings.items():
        if (whole := _whole(name)) in ("run", "seed"):
            raise ValueError(f"{name}={value}: each point has its own run, and its seed by --over seed=0,1,2")
        config = _changed(config, whole.split("."), value)
    return Point(variant=variant.name, against=variant.against, settings=variant.settings, config=config)


def _whole(name: str) -> str:
    """The dotted name of a setting of pretraining, of which the end is enough: smear -> model.smear."""
    names = list(_names(Pretrain))
    found = [each for each in names if each == name] or [each for each in names if each.endswith(f".{name}")]
    if len(found) != 1:
        raise ValueError(
            f"{name!r} is {'not a' if not found else 'more than one'} setting of pretrain.{nearest(name, names)}"
        )
    return found[0]


def _names(kind: type[Any], under: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        if name in kind.__dataclass_fields__:
            yield from _names(hint, f"{under}{name}.") if is_dataclass(hint) else [under + name]  # type: ignore[arg-type]


def _changed(config: Any, path: Sequence[str], value: str) -> Any:
    """The config with one setting from a word, as the command line would read it."""
    name, *deeper = path
    if deeper:
        return replace(config, **{name: _changed(getattr(config, name), deeper, value)})
    import tyro

    hint = get_type_hints(type(config))[name]
    return replace(config, **{name: tyro.cli(hint, args=[value], prog=f"fledge sweep: {'.'.join(path)}")})
