"""`fledge report`: write the report card of a run."""

from __future__ import annotations

from pathlib import Path

from fledge import console
from fledge.config import Report, check
from fledge.evals.report import gather, show, write


def main(config: Report) -> None:
    """Write report.md, report.html and report.json into the run's folder, and print the summary."""
    check(config)
    run = Path(config.run)
    card = gather(run, hourly_cost=config.hourly_cost, ladder=config.ladder)
    write(card, run)
    show(card)
    console.say(f"report card: {run / 'report.md'}")
