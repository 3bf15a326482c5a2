"""Who and what there is in Fernhollow: the tables everything else is written from, in tables/*.toml.

read("village")["animals"]["turtle"]["den"]     # 'shell'
PEOPLE[0]                                       # 'Mira'
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def read(name: str) -> dict[str, Any]:
    """One of the files in tables/."""
    return tomllib.loads(files("fernhollow").joinpath(f"tables/{name}.toml").read_text(encoding="utf-8"))


@cache
def listed(name: str) -> tuple[str, ...]:
    """A list of the tables, or the names that one has entries for: "village.animals"."""
    file, _, key = name.partition(".")
    return tuple(read(file)[key])


TABLES = read("village")
VILLAGE, BOT = TABLES["village"], TABLES["bot"]
WOMEN: tuple[str, ...] = tuple(TABLES["women"])
MEN: tuple[str, ...] = tuple(TABLES["men"])
PEOPLE = WOMEN + MEN
NAMES = (*PEOPLE, *TABLES["days"], *TABLES["months"])
"""What keeps its capital inside a sentence."""
PLACES: tuple[str, ...] = tuple(TABLES["places"])
ANIMALS: tuple[str, ...] = tuple(TABLES["animals"])
OBJECTS: tuple[str, ...] = tuple(TABLES["objects"])
JOBS: tuple[str, ...] = tuple(TABLES["jobs"])
FOODS: tuple[str, ...] = tuple(TABLES["foods"])
COLOURS: tuple[str, ...] = tuple(TABLES["colours"])
GOODS: tuple[str, ...] = tuple(TABLES["goods"])
OUTSIDE = read("world")
"""What there is outside of Fernhollow: names, words, creatures, things, topics."""
STRANGERS: tuple[str, ...] = (*OUTSIDE["names_women"], *OUTSIDE["names_men"])
