"""Tasks by name.

find_task("gsm8k").load("train")
find_task("my/identity.txt")                      # the user's own identity file; quiz.jsonl, reward.py:grade: tasks/own.py
find_tasks("core, gsm8k")                         # a name before the slash stands for all behind it: core/hellaswag, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fledge import console
from fledge.sandbox.sandbox import SandboxUnavailable, judge
from fledge.settings import nearest, shares_of
from fledge.tasks.base import Task
from fledge.text.datasets import MODULES, find_generated


def public_tasks() -> dict[str, Task]:
    """The tasks of public data sets; a new one is named here."""
    from fledge.tasks import choice, core, gsm8k, humaneval, identity, spelling

    listed = (*choice.TASKS, gsm8k.TASK, humaneval.TASK, *spelling.TASKS, identity.TASK, *core.TASKS)
    return {task.name: task for task in listed}


def tasks_of(data: str) -> Mapping[str, Task]:
    """What a model of a data set may be asked: generated sets and identity files bring their own, others share the public ones."""
    from fledge.tasks.identity import identities, task_of

    own = {task.name: task for task in map(task_of, identities(data))}
    found: dict[str, Task] = {}
    for source in filter(None, map(find_generated, shares_of(data))):
        found |= source.tasks(named=not own)
    public = {name: task for name, task in public_tasks().items() if not (own and name == "identity")}
    return (found or public) | own


def all_tasks() -> dict[str, Task]:
    """Every task that has a name."""
    found = public_tasks()
    for data in MODULES:
        found |= tasks_of(data)
    return found


def find_tasks(names: str) -> dict[str, Task]:
    """Tasks by their own names, for names with commas: of tasks, of groups of them, or of files; raises as `find_task`."""
    found = {}
    for name in filter(None, map(str.strip, names.split(","))):
        group = [task for task in all_tasks().values() if task.name.startswith(f"{name}/")]
        found |= {task.name: task for task in group or [find_task(name)]}
    return found


def gradable(tasks: Iterable[Task], *, otherwise: str, unsafe_exec: bool = False) -> dict[str, Task]:
    """Those of tasks nobody named that can be graded here: where the sandbox does not hold, `otherwise` says which cannot."""
    found = {task.name: task for task in tasks}
    judged = [name for name, task in found.items() if task.judged]
    try:
        if judged:
            judge(unsafe_exec=unsafe_exec)
    except SandboxUnavailable as error:
        console.say(f"{otherwise}: {', '.join(judged)} ({error})")
        return {name: task for name, task in found.items() if not task.judged}
    return found


def find_task(name: str) -> Task:
    """The task of a name, or of a file of the user's; examples are read when a split is loaded.

    Raises:
        ValueError: no such task; the nearest name is proposed. Or it is the name of conversations, which nobody can grade.
        FileNotFoundError: a path that does not exist.
    """
    from fledge.tasks import identity, own

    tasks, path = all_tasks(), Path(name)
    if name in tasks:
        return tasks[name]
    if identity.is_identity(name):
        if not path.exists():
            raise FileNotFoundError(f"{name}: no such file; give the path of an identity file, or a task's name")
        return identity.task_of(path)
    if own.file_of(name):
        return own.task_of(name)
    if name == "smoltalk":
        chats = [name for name, task in public_tasks().items() if "chat" in task.default_for]
        raise ValueError(f"{name}: conversations have no grader. Name a task with one, such as {', '.join(chats)}")
    if name.startswith("identity/"):
        raise ValueError(f"task {name!r} is that of a file; give its path, as in {name.removeprefix('identity/')}.txt")
    groups = {name.partition("/")[0] if name.startswith("core/") else name: None for name in tasks}
    raise ValueError(f"task {name!r} is not one of {', '.join(groups)}.{nearest(name, [*groups, *tasks])}")
