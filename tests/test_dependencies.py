"""What is imported is declared and what is declared is imported; nothing runs on import; nothing can run what it loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from test_layers import modules

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = {"huggingface-hub": "huggingface_hub", "markdown-it-py": "markdown_it"}
LIGHT = (
    "__init__",
    "__main__",
    "settings",
    "config",
    "runs",
    "origin",
    "cli",
    "recipes",
    "pipeline",
    "console",
    "text",
    "tasks",
    "sandbox",
)
HEAVY = ("torch", "pyarrow", "transformers", "starlette", "uvicorn", "huggingface_hub")


def declared(requirements: list[str]) -> set[str]:
    """Import names of requirements: "huggingface-hub>=0.34" -> huggingface_hub."""
    found = {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in requirements}
    return {NAMES.get(name, name) for name in found}


def imported() -> dict[str, set[str]]:
    """Outside package -> modules that import it anywhere."""
    found: dict[str, set[str]] = {}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
            for outside in (
                {imported.split(".")[0] for imported in names} - sys.stdlib_module_names - {"fledge", "fernhollow"}
            ):
                found.setdefault(outside, set()).add(name)
    return found


def test_imports_are_declared() -> None:
    project = PROJECT["project"]
    required = declared(project["dependencies"])
    extras = {name for extra in project["optional-dependencies"].values() for name in declared(extra)}
    for package, users in imported().items():
        assert package in required | extras, f"{package} is imported by {sorted(users)} and not declared"


def test_declared_dependencies_are_imported() -> None:
    unused = declared(PROJECT["project"]["dependencies"]) - set(imported())
    assert not unused, f"declared in pyproject.toml and imported nowhere: {sorted(unused)}"


def test_nothing_can_run_what_it_loads() -> None:
    """No pickle and no eval of text, except by the sandbox's own interpreter, which is there to run programs."""
    offences = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            outside = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            outside += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            unsafe = {"pickle", "dill", "shelve", "marshal", "joblib"} & {module.split(".")[0] for module in outside}
            if unsafe and isinstance(node, ast.Import | ast.ImportFrom):
                offences.append(f"{name} line {node.lineno}: {outside}")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                runs = called in ("eval", "exec") and not name.startswith("sandbox.")
                is_pickle = called == "torch.load" and "weights_only=True" not in ast.unparse(node)
                if runs or is_pickle or called == "torch.save":
                    offences.append(f"{name} line {node.lineno}: {called}(")
    assert not offences, "\n".join(offences)


def test_importing_does_nothing_but_define() -> None:
    """At the top level stand definitions and constants; no bare call but in the constants, no loop, no print."""
    offences = []
    for name, tree in modules().items():
        for node in tree.body:
            call = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            if call or isinstance(node, ast.For | ast.While | ast.With | ast.Try):
                offences.append(f"{name} line {node.lineno}: {ast.unparse(node)[:80]}")
    assert not offences, "\n".join(offences)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_light_modules_import_without_torch() -> None:
    names = [name for name in modules() if name.split(".")[0] in LIGHT]
    code = "import importlib, sys\n"
    code += f"for name in {names!r}:\n importlib.import_module('fledge.' + name if name != '__init__' else 'fledge')\n"
    code += f" heavy = [h for h in {HEAVY!r} if h in sys.modules]\n"
    code += " assert not heavy, f'{name} imports {heavy}'\nprint(len(sys.modules))"
    assert int(run(code)) > 0


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"], ["run", "--help"], ["pretrian"]])
def test_help_and_mistakes_answer_without_torch(words: list[str]) -> None:
    code = f"import sys\nfrom fledge.cli import run\nrun({words!r})\n"
    code += f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy"
    began = time.process_time()
    run(code)
    assert time.process_time() - began < 1.0


def test_the_sandbox_needs_the_standard_library_alone() -> None:
    for package, users in imported().items():
        inside = {user for user in users if user.startswith("sandbox.")}
        assert not inside, f"{inside} import {package}"
