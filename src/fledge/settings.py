"""How a setting is declared: its default with bounds, its help, and what a wrong value is told.

temperature: float = bounded(0.6, 0.0, 2.0)            # a field of a dataclass in config.py
within("temperature", 9, low=0.0, high=2.0)            # ValueError: temperature=9 is not a number from 0.0 to 2.0
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from reprlib import repr as short
from typing import Any


class DoesNotFit(ValueError, MemoryError):
    """What is asked for takes more memory than there is."""


class NothingLearned(RuntimeError):
    """Reinforcement has nothing to learn from: all answers earn the same."""


def bounded(default: Any, low: float, high: float = math.inf) -> Any:
    """A field from `low` to `high`; where `low` is an int, whole numbers alone."""
    return field(default=default, metadata={"low": low, "high": high})


def within(name: str, value: Any, *, low: float, high: float) -> Any:
    """`value`, which a user gave for the setting `name`: an int where `low` is one, else a float.

    Raises:
        ValueError: `temperature=9 is not a number from 0.0 to 2.0`.
    """
    is_whole = isinstance(low, int)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # nan lies in no range. JSON writers of some languages know no whole numbers: 5.0 is 5.
    if not is_number or not low <= value <= high or value == math.inf or (is_whole and value % 1):
        allowed = f"from {low} to {high}" if high < math.inf else f"of {low} or more"
        raise ValueError(f"{name}={short(value)} is not a {'whole ' * is_whole}number {allowed}")
    return int(value) if is_whole else float(value)


def counts_of(name: str, text: str) -> list[int]:
    """The numbers of a setting that has several: "1,8" -> [1, 8]; ValueError where one of them is no count."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise ValueError(f"{name}={text!r} is not whole numbers of 1 or more with commas between, as in 1,2,4")
    return [int(word) for word in words]


def check_bounds(config: Any) -> None:
    """Raise ValueError for a number of a config, or of a config in it, that is not within its bounds."""
    for declared in dataclasses.fields(config):
        value = getattr(config, declared.name)
        if dataclasses.is_dataclass(value):
            check_bounds(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            # Where nothing is declared any number from 0 on is allowed: no rate, share or count here can be negative.
            within(declared.name, value, **(declared.metadata or {"low": type(value)(0), "high": math.inf}))


def check_multiple(batch_tokens: int, name: str, part: int | None) -> None:
    """Raise ValueError, with the nearest value that is allowed, unless a step divides into whole parts."""
    if part and batch_tokens % part:
        near = max(1, round(batch_tokens / part)) * part
        raise ValueError(f"batch_tokens={batch_tokens} is not a multiple of {name}={part}; nearest that is: {near}")


def cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has: what a setting's None stands for."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@cache
def help_of(kind: type[Any]) -> Mapping[str, str]:
    """Field -> the docstring under it, which tyro shows as the help of the command line."""
    import ast
    import inspect

    found: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        (tree,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(tree, ast.ClassDef)
        for line, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(line.target)] = ast.literal_eval(below.value)
    return found


def nearest(value: str, allowed: list[str] | tuple[str, ...]) -> str:
    """` Did you mean 'x'?` for the allowed value most like `value`, or nothing when none is."""
    import difflib

    close = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def words_of(config: Any, default: Any, under: str = "") -> list[str]:
    """The words of a command line that give a config's settings, where they are not the default."""
    words = []
    for name, value in vars(config).items():
        was = getattr(default, name)
        if hasattr(value, "__dataclass_fields__"):
            words += words_of(value, was, f"{under}{name}.")
        elif value != was:
            flag = f"{under}{'no-' * (value is False)}{name}".replace("_", "-")
            words += [f"--{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def shares_of(data: str) -> dict[str, float]:
    """What a `--data` is mixed of: `chats.jsonl:2,world` -> {"chats.jsonl": 2, "world": 1}.

    A number is the share of the conversations drawn, or of the characters of text, compared with the others'; 1 where none
    stands. What exists under the whole name is one path.

    Raises:
        ValueError: a name is missing or stands twice, or a share is 0.
    """
    if Path(data).exists() or not re.search(r",|:[\d.]+$", data):
        return {data: 1.0}
    parts: dict[str, float] = {}
    for word in map(str.strip, data.split(",")):
        name, _, share = word.rpartition(":")
        if not re.fullmatch(r"\d+(\.\d+)?", share) or Path(word).exists():
            name, share = word, "1"
        if not name or name in parts or not float(share):
            raise ValueError(
                f"data {data!r}: {word!r} found; expected are different names, each with a share above 0, as in a:2,b"
            )
        parts[name] = float(share)
    return parts


def with_paths(data: str, change: Callable[[str], str]) -> str:
    """A `--data` with the name of each of its parts changed, and the shares as they were."""
    shares = shares_of(data)
    if len(shares) == 1:
        return change(*shares)
    return ",".join(f"{change(name)}:{share:g}" for name, share in shares.items())
