"""Conversations to train on, by the name a user gives: the embedded world, a mixture of real tasks, or files of their own.

pick = open_chats("chat", stage="midtrain", seed=0)
pick(41)                                      # the 42nd conversation: a function of (seed, stage, index) alone
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from fledge.tasks import find_task
from fledge.tasks.base import Example
from fledge.tasks.records import Files, split_records
from fledge.text.chat import Conversation, parse_conversation, to_json
from fledge.text.conversations import Stored, open_conversations, restore
from fledge.text.datasets import find_generated
from fledge.text.files import read_records
from fledge.text.hub import data_home

ChatStage = Literal["midtrain", "sft"]
Conversations = Callable[[int], Conversation] | Sequence[Conversation]
"""A function of the index, endless, or a sequence that is walked in shuffled epochs."""
SMOLTALK: Files = {"train": "smoltalk/train", "test": "smoltalk/test"}
"""Allal et al. 2025, arXiv:2502.02737. Nobody can grade such talk, so it is no task."""
MIXES: dict[ChatStage, dict[str, int]] = {
    "midtrain": {
        "smoltalk": 50,
        "mmlu": 10,
        "arc-easy": 4,
        "arc-challenge": 2,
        "openbook-qa": 4,
        "commonsense-qa": 4,
        "gsm8k": 10,
        "spelling": 6,
        "counting": 6,
        "identity": 4,
    },
    "sft": {
        "smoltalk": 40,
        "arc-easy": 14,
        "arc-challenge": 6,
        "gsm8k": 22,
        "spelling": 6,
        "counting": 6,
        "identity": 6,
    },
}
"""Shares of the conversations drawn, as in the article: talk first, then choice, sums with the tool, letters, and who it is."""


def open_chats(data: str, *, stage: ChatStage, seed: int) -> Conversations:
    """Conversations of a stage.

    Args:
        data: "world"; "chat", the mixture of `MIXES`; or a .jsonl of conversations, or a folder of them.

    Raises:
        FileNotFoundError, ValueError: no such data, or a line of it is wrong.
    """
    if (source := find_generated(data)) is not None:
        return lambda index: source.conversation(seed, index, stage=stage)
    if data == "chat":
        return mixture(MIXES[stage], seed=seed)
    return open_conversations(data)


def mixture(shares: dict[str, int], *, seed: int) -> Callable[[int], Conversation]:
    """Training conversations of several tasks, drawn by their shares; a function of (seed, index) alone.

    With a data home the mixture is made of what lies there, and what is missing is named; without one a set that cannot be
    fetched is an error.
    """
    from fledge import console

    examples: dict[str, Sequence[Example]] = {}
    for name in shares:
        try:
            examples[name] = training_examples(name, data_home())
        except (FileNotFoundError, ConnectionError) as error:
            if data_home() is None:
                raise
            console.say(f"left out of the mixture: {name} ({str(error).split(';')[0]})")
    names = [name for name in shares if examples.get(name)]
    if not names:
        raise ValueError(
            f"{data_home()}: holds none of {', '.join(shares)}. Give a folder with some of them, or leave --local out."
        )
    weights = [shares[name] for name in names]

    def pick(index: int) -> Conversation:
        rng = random.Random(f"{seed}/{index}")
        return rng.choice(examples[rng.choices(names, weights)[0]]).messages

    return pick


@cache
def training_examples(name: str, home: Path | None) -> Sequence[Example]:
    """The training split of a task; for `smoltalk` the dialogues under `chat/` of a data home that has no SmolTalk.

    A process reads each once: `fledge run` opens the mixture to see that nothing is missing, and several stages draw from it.
    """
    if name != "smoltalk":
        return find_task(name).load("train")
    if home and not (home / "smoltalk").exists() and (home / "chat").is_dir():
        return dialogues(home / "chat")
    records = split_records(name, SMOLTALK, "train", key=lambda record: str(record["messages"][0]["content"]))
    return _examples(parse_conversation(record, record.where) for record in records)


def dialogues(folder: Path) -> Sequence[Example]:
    """Conversations of every .jsonl in a folder; records in another form (other roles, tool schemas) are left out, counted."""
    from fledge import console

    strange = 0

    def read() -> Iterator[Conversation]:
        nonlocal strange
        for path in sorted(file for file in folder.iterdir() if ".jsonl" in file.name):
            for record in read_records(path):
                try:
                    yield parse_conversation(record, record.where)
                except ValueError:
                    strange += 1

    found = _examples(read())
    console.say(f"{len(found):,} dialogues from {folder} ({strange:,} records in another form left out)")
    return found


def answered(conversation: Conversation) -> Conversation:
    """The conversation up to the assistant's last message; empty where it says nothing."""
    last = max((place for place, message in enumerate(conversation, 1) if message.role == "assistant"), default=0)
    return conversation[:last]


def _examples(conversations: Iterable[Conversation]) -> Sequence[Example]:
    kept = map(to_json, filter(None, map(answered, conversations)))
    return Stored(kept, make=lambda record: Example(messages=restore(record)))
