"""Tasks by name."""

from __future__ import annotations

from fledge.config import nearest
from fledge.tasks.base import Task


def find_task(name: str, *, local: str | None = None) -> Task:
    """The task of a name; ValueError proposes the nearest one."""
    from fledge.tasks.world import TASKS

    if name not in TASKS:
        raise ValueError(f"task {name!r} is not one of {', '.join(TASKS)}.{nearest(name, tuple(TASKS))}")
    return TASKS[name]
