"""What a user sees while it works: one live line per stage, tables, and errors on one line.

    with Live("pretrain", total=500) as live:
        live.show(12, "loss 2.310 · 9,800 tokens/s")

In a terminal the line is redrawn in place; in a log a line is printed every `QUIET_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

QUIET_SECONDS = 15.0
console = Console(highlight=False)


class Live:
    """The live line of one stage."""

    def __init__(self, name: str, *, total: int, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self.spoke = 0.0
        self.bar: Progress | None = None

    def __enter__(self) -> Live:
        if console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description:<10}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[text]}"),
            )
            self.bar = Progress(*columns, console=console)
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, completed=self.done, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, done: int, text: str) -> None:
        """`done` of the total, and what is worth saying about it now."""
        if self.bar:
            self.bar.update(self.task, completed=done, text=text)
        elif time.monotonic() - self.spoke > QUIET_SECONDS or done == self.total:
            self.spoke = time.monotonic()
            say(f"{self.name} {done}/{self.total} · {text}")


def say(text: str) -> None:
    """Print a line; square brackets are text, not mark-up."""
    console.print(text, markup=False, soft_wrap=True)


def heading(text: str) -> None:
    """A line that begins a part of the work."""
    console.print(f"\n[bold]{text}[/bold]")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table, first column to the left, the others to the right."""
    drawn = Table(title=title, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        drawn.add_column(column, justify="right" if place else "left")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


def duration(seconds: float) -> str:
    """75 -> '1m 15s'; 3700 -> '1h 1m'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
