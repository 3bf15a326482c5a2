"""What a user sees while it works: one live line per stage, tables, and errors on one line.

    with Live("pretrain", total=500) as live:
        live.show(12, "loss 2.310 · 9,800 tokens/s")

In a terminal the line is redrawn in place; in a log a line is printed every `QUIET_SECONDS`. Whatever is shown here may hold text
from outside (a path, a sample, a server's answer): it arrives as letters, never as commands to the terminal or mark-up. Where the
output is closed or its disk is full, the work goes on without words. Of several ranks the first alone speaks.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fledge.ranks import is_first, number

QUIET_SECONDS = 15.0
# Unicode has a picture of each control character, ␛ for escape. Lines and tabs stay; what else has no picture is no text.
_PICTURES: dict[int, int] = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD)


class _Screen(Console):
    """rich's console, but for the end of its reader (`| head`), at which rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


console = _Screen(highlight=False)


def visible(text: str) -> str:
    """Text from outside with its control characters as pictures: they set a terminal's title or clipboard, or hide lines.

    visible("\\x1b[2Jgone") == "␛[2Jgone"
    """
    return text.translate(_PICTURES)


class Live(Progress):
    """The live line of one stage."""

    def __init__(self, name: str, *, total: int, done: int = 0) -> None:
        columns = (
            TextColumn("[bold]{task.description:<10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}", markup=False),
        )
        super().__init__(*columns, console=console, disable=not (console.is_terminal and is_first()))
        self.name, self.total, self.spoke = name, total, 0.0
        self.first: tuple[int, float] | None = None
        """Steps done, and when, at the first call of `show`: what went before was compilation too."""
        self.task = self.add_task(name, total=total, completed=done, text="")

    def show(self, done: int, text: str) -> None:
        """`done` of the total, and what is worth saying about it now."""
        self.update(self.task, completed=done, text=visible(text))
        now = time.monotonic()
        begun, began = self.first = self.first or (done, now)
        if self.disable and (now - self.spoke > QUIET_SECONDS or done == self.total):
            self.spoke = now
            each = (now - began) / (done - begun) if done > begun else 0.0
            left = f" · {duration(each * (self.total - done))} left" if each and done < self.total else ""
            say(f"{self.name} {done}/{self.total} · {text}{left}")


def say(text: str) -> None:
    """Print a line."""
    _show(Text(visible(text)), soft_wrap=True)


def notice(text: str, *, everywhere: bool = False) -> None:
    """Print a line about the work itself, on the error stream. `everywhere`: also where this is not the first rank."""
    with contextlib.suppress(OSError):
        if everywhere or is_first():
            rank = f"rank {number()}: " * (not is_first())
            print(f"fledge: {rank}{visible(text)}", file=sys.stderr, flush=True)


def heading(text: str) -> None:
    """A line that begins a part of the work."""
    _show(Text(f"\n{visible(text)}", style="bold"))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table, first column to the left, the others to the right."""
    drawn = Table(title=Text(visible(title)), title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        drawn.add_column(Text(visible(column)), justify="right" if place else "left")
    for row in rows:
        drawn.add_row(*(Text(visible(cell)) for cell in row))
    _show(drawn)


def _show(what: Text | Table, **how: Any) -> None:
    with contextlib.suppress(OSError):
        if is_first():
            console.print(what, **how)


def duration(seconds: float) -> str:
    """75 -> '1m 15s'; 3700 -> '1h 1m'; 400_000 -> '4d 15h'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24:,}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
