"""Arrows point down only: who may import whom, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import fledge

ROOT = Path(fledge.__file__).parent
LAYERS = (
    (
        "__init__",
        "settings",
        "config",
        "commands",
        "ranks",
        "console",
        "endings",
        "storage",
        "provenance",
        "trackers",
        "runs",
        "folder",
    ),
    ("text", "model", "sandbox"),
    ("checkpoint", "weights", "origin", "train", "infer", "tasks"),
    ("evals",),
    ("stages", "serve", "bench", "export"),
    ("cli", "plan", "recipes", "pipeline", "research", "__main__"),
)
APART = ("text", "model")
"""Packages of one layer that know nothing of each other: the model knows no tokenizer, the text no tensors."""
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


@cache
def modules() -> dict[str, ast.Module]:
    """Name below `fledge` -> its source."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name below `fledge` of what a module imports from it, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are written out in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "fledge" and not rest.startswith("__"):
                yield node.lineno, rest


def top(name: str) -> str:
    return name.split(".")[0]


def test_every_package_has_its_layer() -> None:
    there = {top(name) for name in modules()}
    assert there == set(HEIGHT), there ^ set(HEIGHT)


def test_arrows_point_down_only() -> None:
    offences = []
    for name, tree in modules().items():
        for line, wanted in imports(tree):
            one, other = top(name), top(wanted)
            apart = one != other and one in APART and other in APART
            if HEIGHT[other] > HEIGHT[one] or apart:
                offences.append(f"fledge/{name.replace('.', '/')}.py line {line} imports fledge.{wanted}")
    assert not offences, "\n".join(offences)


def test_stages_never_import_each_other() -> None:
    offences = [
        f"fledge/{name.replace('.', '/')}.py line {line} imports fledge.{wanted}"
        for name, tree in modules().items()
        if top(name) == "stages"
        for line, wanted in imports(tree)
        if top(wanted) == "stages"
    ]
    assert not offences, "\n".join(offences)


def test_only_one_module_reads_the_environment_for_the_machine() -> None:
    """Devices come from model/device.py; sandbox and hub have variables of their own."""
    readers = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    layers = {top(name) for name in readers}
    assert "train" not in layers
    assert "stages" not in layers
    assert {name for name in readers if top(name) == "model"} <= {"model.device"}
