"""docs/metrics.md is made of what is declared, and what is declared is what a run writes: `uv run python tests/test_metrics.py`."""

from __future__ import annotations

from pathlib import Path

from fledge.commands import TRAINED
from fledge.evals.results import Cost, Score
from fledge.runs import METRICS, metrics
from fledge.settings import help_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "metrics.md"
HEAD = """# What is measured

Made by `uv run python tests/test_metrics.py` from `METRICS` in `runs.py`, and from `Score` and `Cost` in `evals/results.py`.

## A line of `<run>/<stage>/metrics.jsonl`

One JSON object after each step, and one after each measurement; `fledge watch` draws them, `--log wandb` tells them to others.
Lines of rl also have `samples`, a question with two of its answers, and, at measurements, the accuracy on each task and kind of
problem under its own name, as in `world/facts`.

"""
SCORES = """
## A score in `<run>/eval/<stage>.json`

One for each task, under its name, by `fledge evaluate`; beside it stands a line for each example.

"""
COSTS = """
## What own conversations cost

Under `answers` in the same file, one for each file of conversations, by `fledge evaluate --tasks chats.jsonl`.

"""


def page() -> str:
    """The text of docs/metrics.md."""
    rows = [
        (f"`{name}`", one.stages, one.unit, one.meaning + f" ({one.when})" * bool(one.when))
        for name, one in METRICS.items()
    ]
    parts = HEAD + table(("name", "stage", "unit", "meaning"), rows), SCORES + fields_of(Score), COSTS + fields_of(Cost)
    return "".join(parts)


def fields_of(kind: type) -> str:
    """A table of what a class says of its fields."""
    return table(
        ("name", "meaning"),
        [(f"`{name}`", text.replace("\n", " ").rstrip(".")) for name, text in help_of(kind).items()],
    )


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, ("--",) * len(columns), *rows))


def test_the_page_says_what_is_declared() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: uv run python tests/test_metrics.py"


def test_a_run_writes_what_is_declared_and_nothing_else(toy_run: Path) -> None:
    from fernhollow.asked import TASKS

    for stage in TRAINED:
        written = {name for line in metrics(toy_run / stage) for name in line}
        written = {name for name in written if name.partition(": ")[0] not in {"samples", *TASKS}}
        declared = {
            name: one.when for name, one in METRICS.items() if one.stages == "all" or stage in one.stages.split()
        }
        assert written <= declared.keys()
        assert {name for name in declared.keys() - written if not declared[name]} == set()


def test_what_is_written_now_and_then_is_named_in_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/fledge").glob("*/*.py"))
    named = (name.rstrip("1248") if name.startswith("pass_at") else name for name, one in METRICS.items() if one.when)
    assert [name for name in named if name not in code] == []


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
