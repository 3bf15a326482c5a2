"""CONTRIBUTING says how many lines one reads for a change; the ranges are whole definitions and the sums are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = {
    "attention": 330,
    "the data set of `--data`": 180,
    "the optimizer": 350,
    "a task": 300,
    "a tool of the chat model": 330,
    "the sampling rule": 210,
}
"""What it takes to understand one thing must not grow beyond."""
ROWS = re.findall(
    r"^\| (.+?) \| (.+?:\d.*?) \| (\d+) \|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M
)


def test_every_change_has_its_ranges() -> None:
    assert [name for name, _, _ in ROWS] == list(MOST)


@pytest.mark.parametrize(("name", "ranges", "lines"), ROWS)
def test_ranges_are_whole_definitions_and_add_up(name: str, ranges: str, lines: str) -> None:
    total = 0
    for path, first, last in re.findall(r"(\S+):(\d+)-(\d+)", ranges):
        text = (ROOT / "src" / "fledge" / path).read_text(encoding="utf-8").splitlines()
        begin, end = int(first), int(last)
        assert begin == 1 or not text[begin - 2].strip(), f"{path}: line {begin} is in the middle of something"
        assert end == len(text) or not text[end].strip(), f"{path}: line {end} is in the middle of something"
        total += end - begin + 1
    assert total == int(lines), f"{name}: {total} lines"
    assert total <= MOST[name]
