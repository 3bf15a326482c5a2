"""The comparisons' command line and the harness they share."""

from __future__ import annotations

import ast
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.harness import Time, apart, compare, in_turns, median, show, timed
from test_dependencies import PROJECT, declared

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = {"__init__", "__main__", "harness"}


def test_every_module_is_a_command() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - SHARED == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_command_explains_its_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out


def test_a_mistake_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokeniser"]) == 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in BENCHMARKS)


def test_what_the_comparisons_import_is_declared() -> None:
    groups = [PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["bench"]]
    allowed = {name for group in groups for name in declared(group)} | {"benchmarks", "fernhollow", "fledge"}
    allowed |= {"awkward", "nanochat"}  # what gigatoken returns; a checkout of the user's
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
            outside = {name.split(".")[0] for name in names} - sys.stdlib_module_names
            assert outside <= allowed, f"{path.name} line {node.lineno}: {outside - allowed}"  # type: ignore[attr-defined]


def test_ways_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    results = in_turns({name: lambda name=name: order.append(name) for name in "abc"}, repeats=2)
    assert order == [*"abcabc"]
    assert results == {name: [None, None] for name in "abc"}
    assert median([Time(1, 9), Time(5, 2), Time(2, 3)]) == Time(2, 3)
    compared = compare({"one": lambda: 1, "two": lambda: 2}, repeats=3)
    assert {name: one.result for name, one in compared.items()} == {"one": 1, "two": 2}


def test_waiting_takes_time_by_the_clock_and_work_takes_processor_time() -> None:
    waited, worked = timed(lambda: time.sleep(0.2)).time, timed(lambda: sum(range(3_000_000))).time
    assert waited.cpu < 0.5 * waited.wall
    assert worked.cpu > waited.cpu
    assert Time(2, 3).rate(6) == "3.0 / 2.0"
    assert Time(2, 3).times(Time(1, 2)) == "2.0 / 1.5"


def test_tables_are_markdown_and_name_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    show("speeds", ["way", "s"], [["ours", "1.50"], ["theirs, slower", "2"]])
    title, *table, _, below = capsys.readouterr().out.strip().splitlines()
    assert title == "speeds"
    assert table[1:] == [
        "| way            |    s |",
        "| -------------- | ---: |",
        "| ours           | 1.50 |",
        "| theirs, slower |    2 |",
    ]
    assert "cores" in below


def test_work_apart_has_a_process_and_variables_of_its_own() -> None:
    pid, value = apart(os.getpid), apart(os.getenv, "FLEDGE_BENCH", environment={"FLEDGE_BENCH": "on"})
    assert pid != os.getpid()
    assert (value, os.getenv("FLEDGE_BENCH")) == ("on", None)
