"""Tasks by name.

find_task("gsm8k").load("train")
find_task("my/chats.jsonl")                       # the user's own conversations
find_task("my/identity.txt")                      # the user's own identity file
"""

from __future__ import annotations

from pathlib import Path

from fledge.config import nearest
from fledge.tasks.base import Task
from fledge.text.datasets import find_generated, generated
from fledge.text.hub import data_home

CHAT_FILES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def task_names() -> tuple[str, ...]:
    """Every task that has a name."""
    from fledge.tasks import choice

    made = [name for source in generated().values() for name in source.tasks()]
    return (*choice.SOURCES, "gsm8k", "humaneval", "smoltalk", "spelling", "counting", "identity", *made)


def find_task(name: str, *, others: tuple[str, ...] = ()) -> Task:
    """The task of a name, or of a file of the user's; nothing is read before a split is loaded.

    Args:
        others: what else the caller allows, for the message about a wrong name.

    Raises:
        ValueError: no such task; the nearest name is proposed.
        FileNotFoundError: a path that does not exist.
    """
    from fledge.tasks import choice, files, gsm8k, humaneval, identity, smoltalk, spelling

    makers = {
        "gsm8k": gsm8k.make,
        "humaneval": humaneval.make,
        "smoltalk": smoltalk.make,
        "spelling": spelling.make,
        "counting": spelling.make,
    }
    if (source := find_generated(name.partition("/")[0])) is not None and name in source.tasks():
        return source.tasks()[name]
    if name in choice.SOURCES:
        return choice.make(name)
    if name in makers:
        return makers[name](name)
    if name == "identity":
        own = home / "identity.txt" if (home := data_home()) else None
        return identity.make(name, path=own if own and own.is_file() else None)
    path = Path(name)
    if name.endswith((*CHAT_FILES, ".txt")) or path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{name}: no such file; give the path of existing conversations, or a task's name")
        return identity.make(f"identity/{path.stem}", path=path) if path.suffix == ".txt" else files.make(name)
    names = (*others, *task_names())
    raise ValueError(f"task {name!r} is not one of {', '.join(names)}.{nearest(name, names)}")
