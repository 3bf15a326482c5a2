"""docs/metrics.md says of every number what it is, and a run writes what stands there and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from fledge.commands import TRAINED
from fledge.evals.results import Cost, Score
from fledge.runs import metrics
from fledge.settings import help_of

ROOT = Path(__file__).parents[1]


def rows(columns: int) -> list[tuple[str, ...]]:
    """The rows of the page's tables with so many columns, their names without their marks."""
    lines = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    cells = [re.split(r" *\| *", line)[1:-1] for line in lines if line.startswith("| `")]
    return [(name.strip("`"), *others) for name, *others in cells if len(others) == columns - 1]


def test_the_page_says_of_scores_and_costs_what_their_fields_say() -> None:
    said = [*help_of(Score).items(), *help_of(Cost).items()]
    assert rows(2) == [(name, text.replace("\n", " ").rstrip(".")) for name, text in said]


def test_a_run_writes_what_is_declared_and_nothing_else(toy_run: Path) -> None:
    from fernhollow.asked import TASKS

    for stage in TRAINED:
        written = {name for line in metrics(toy_run / stage) for name in line}
        written = {name for name in written if name.partition(": ")[0] not in {"samples", *TASKS}}
        declared = {name: when for name, stages, *_, when in rows(5) if stages == "all" or stage in stages.split()}
        assert written <= declared.keys()
        assert {name for name in declared.keys() - written if declared[name] == "always"} == set()


def test_what_is_written_now_and_then_is_named_in_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/fledge").glob("*/*.py"))
    named = (re.sub(r"^pass_at_\d$", "pass_at_", name) for name, *_, when in rows(5) if when != "always")
    assert [name for name in named if name not in code] == []
