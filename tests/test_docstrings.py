"""Examples in docstrings are true: what they call exists and takes those arguments, and `>>>` gives what it says."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from test_layers import modules

NAMES = [f"fledge.{name}".removesuffix(".__init__") for name in modules() if name not in ("__main__", "cli")]


class Instance:
    """An object that an example made: `engine` after `engine = Engine(model, tokenizer)`."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind


def examples(module: Any) -> Iterator[ast.Module]:
    """The indented blocks of a module's docstring that are Python; tables, shell commands and prose are not."""
    text = inspect.cleandoc(module.__doc__ or "") + "\n"
    for block in re.findall(r"(?:^    .*\n|^\n)+", text, re.M):
        code = textwrap.dedent(block.strip("\n"))
        open_ended = r"^((?: *)(?:async with|with|for|if)\b[^\n]*:)([ ]*#[^\n]*)?$(?!\n +)"
        try:
            yield ast.parse(re.sub(open_ended, r"\1 ...", code, flags=re.M))
        except SyntaxError:
            continue


def signature_of(node: ast.Call, known: dict[str, Any]) -> inspect.Signature | None:
    """How the thing called is called; None where it is not ours to know.

    Raises:
        AssertionError: it has no such attribute.
    """
    if isinstance(node.func, ast.Name):
        found = known.get(node.func.id)
        return method(found.kind, "__call__") if isinstance(found, Instance) else plain(found)
    if not (isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)):
        return None
    owner, name = known.get(node.func.value.id), node.func.attr
    if isinstance(owner, Instance):
        return method(owner.kind, name)
    if not (inspect.isclass(owner) or inspect.ismodule(owner)):
        return None
    assert hasattr(owner, name), f"{owner} has no {name}"
    return plain(getattr(owner, name))


def method(kind: type[Any], name: str) -> inspect.Signature | None:
    fields = getattr(kind, "__dataclass_fields__", {})
    assert hasattr(kind, name) or name in fields or f"self.{name}" in inspect.getsource(kind), f"{kind} has no {name}"
    found = inspect.getattr_static(kind, name, None)
    if not inspect.isfunction(found) or name in fields:
        return None
    signature = inspect.signature(found)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def plain(found: Any) -> inspect.Signature | None:
    is_ours = getattr(found, "__module__", "").startswith(("fledge", "fernhollow")) and callable(found)
    return inspect.signature(found) if is_ours and not isinstance(found, Instance) else None


def check(tree: ast.Module, known: dict[str, Any]) -> int:
    """Bind every call of the example to the signature of what it calls; returns how many there were."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            other = importlib.import_module(node.module or "")
            known |= {alias.asname or alias.name: getattr(other, alias.name) for alias in node.names}
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            made = known.get(ast.unparse(node.value.func))
            known[node.targets[0].id] = Instance(made) if inspect.isclass(made) else None
    for node in ast.walk(tree):
        left_out = isinstance(node, ast.Call) and any(ast.unparse(arg).strip("*") == "..." for arg in node.args)
        if not isinstance(node, ast.Call) or left_out or (signature := signature_of(node, known)) is None:
            continue
        count += 1
        try:
            signature.bind(*node.args, **{word.arg: None for word in node.keywords if word.arg})
        except TypeError as error:
            raise AssertionError(f"{ast.unparse(node)}: {error}; it is called as {signature}") from None
    return count


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    module = importlib.import_module(name)
    for tree in examples(module):
        check(tree, dict(vars(module)))
    assert doctest.testmod(module).failed == 0


def test_there_are_examples_to_check() -> None:
    found = [importlib.import_module(name) for name in NAMES]
    assert sum(check(tree, dict(vars(module))) for module in found for tree in examples(module)) > 50


def test_a_wrong_example_is_found() -> None:
    from fledge.text import packing

    for code in ("pack_whole([1, 2])", "pack_whole([1], room=3)"):
        with pytest.raises(AssertionError, match="it is called as"):
            check(ast.parse(code), dict(vars(packing)))
