"""Conversations to train on, by the name a user gives: the embedded world, a mixture of real tasks, or files of their own.

pick = open_chats("chat", stage="midtrain", seed=0)
pick(41)                                      # the 42nd conversation: a function of (seed, stage, index) alone
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from fledge import console
from fledge.config import Midtrain
from fledge.settings import shares_of
from fledge.tasks import find_task, public_tasks
from fledge.tasks.base import Example
from fledge.tasks.identity import asked_of, identities, identity_of, is_identity
from fledge.tasks.own import are_questions
from fledge.text.chat import Conversation
from fledge.text.conversations import Chats, account, open_conversations
from fledge.text.datasets import find_generated
from fledge.text.files import RECORDS, Found, find_files
from fledge.text.hub import data_home, locate
from fledge.text.records import read_records

ChatStage = Literal["midtrain", "sft"]
Conversations = Callable[[int], Conversation] | Sequence[Conversation]
"""A function of the index, endless, or a sequence that is walked in shuffled epochs."""
SMOLTALK = "smoltalk/train"
"""Allal et al. 2025, arXiv:2502.02737. Nobody can grade such talk, so it is no task."""
MIXES: dict[ChatStage, dict[str, int]] = {
    "midtrain": {
        "smoltalk": 50,
        "mmlu": 10,
        "arc-easy": 4,
        "arc-challenge": 2,
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


EPOCHS = 3
"""Own conversations are learned so many times where no tokens are asked for."""
IDENTITY_SHARE, IDENTITY_LEAST = 0.08, 2_000
"""Conversations about who the assistant is, for each other one; and beside few own ones so many, for fewer do not teach it."""


def with_identity(config: Midtrain) -> Midtrain:
    """The settings with the identity file among the data, with its share of what all others have together.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it has another ending.
    """
    if config.identity is None:
        return config
    if not is_identity(config.identity):
        raise ValueError(f"identity {config.identity!r}: allowed is a text file, as in me.txt")
    if not Path(config.identity).is_file():
        raise FileNotFoundError(f"identity {config.identity!r}: no such file; write one with a line `name = Pip`")
    shares, share = shares_of(config.data), IDENTITY_SHARE
    if are_own(config.data):
        enough = round(IDENTITY_LEAST / EPOCHS / IDENTITY_SHARE)
        own = [Path(name) for name in shares if not is_identity(name)]
        files = [file for path in own for file in find_files(path, RECORDS).files]
        read = partial(read_records, bad=lambda _: None)  # what is wrong with them is said when they are opened
        share = IDENTITY_LEAST / EPOCHS / max(1, sum(1 for _ in islice(chain.from_iterable(map(read, files)), enough)))
    return replace(config, data=f"{config.data},{config.identity}:{share * sum(shares.values()):.3g}", identity=None)


def open_chats(data: str, *, stage: ChatStage, seed: int, skip_bad: bool = False) -> Conversations:
    """Conversations of a stage.

    Args:
        data: "world"; "chat", the mixture of `MIXES`; a task with training examples, or a file of own questions; an identity file;
            a file of conversations, or a folder of them; or several of these with their shares, as `shares_of` reads them.
        skip_bad: leave out of files whatever cannot be learned from.

    Raises:
        FileNotFoundError, ValueError: no such data, or a line of it is wrong.
    """
    parts = shares_of(data)
    own = identities(data)
    opened = [_open(name, own, stage=stage, seed=seed, skip_bad=skip_bad) for name in parts]
    return Mixed(tuple(opened), tuple(parts.values()), seed) if len(parts) > 1 else opened[0]


def _open(data: str, own: Sequence[Path], *, stage: ChatStage, seed: int, skip_bad: bool) -> Conversations:
    """Those of one source. Where identity files stand beside it, they alone say who the assistant is."""
    if (source := find_generated(data)) is not None:
        if not own:
            return lambda index: source.conversation(seed, index, stage=stage)
        told = identity_of(own[0])
        without, name = asked_of(told), told.values.get("name", source.NAME)
        return lambda index: renamed(source.conversation(seed, index, stage=stage, without=without), source.NAME, name)
    if data == "chat":
        return mixture(
            {name: share for name, share in MIXES[stage].items() if name != "identity" or not own}, seed=seed
        )
    if is_identity(data) or (not Path(data).exists() and data in {"smoltalk", *public_tasks()}):
        talks = training_conversations(data, data_home())
        return lambda index: random.Random(f"{seed}/{index}").choice(talks)
    if are_questions(data):
        return Solved(find_task(data).examples("train"))
    return open_conversations(data, skip_bad=skip_bad)


class Solved(Sequence[Conversation]):
    """Examples with their answers, as conversations."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: Any) -> Any:
        return self.examples[place].messages


@dataclass(frozen=True)
class Mixed:
    """Conversations of several sources, drawn by their shares; a function of (seed, index) alone."""

    sources: tuple[Conversations, ...]
    shares: tuple[float, ...]
    seed: int

    def __call__(self, index: int) -> Conversation:
        rng = random.Random(f"{self.seed}/{index}")
        source = rng.choices(self.sources, self.shares)[0]
        return source(index) if callable(source) else rng.choice(source)


def are_own(data: str) -> bool:
    """Whether a `--data` of conversations names the user's own files alone: so many, and no more but for who the assistant is."""
    names = [name for name in shares_of(data) if not is_identity(name)]
    return bool(names) and all(map(is_own, names))


def is_own(name: str) -> bool:
    """Whether a part of it does: conversations or questions."""
    return name not in {"chat", "smoltalk", *public_tasks()} and not is_identity(name) and find_generated(name) is None


def renamed(conversation: Conversation, was: str, name: str) -> Conversation:
    """With another name for the assistant, as large or small as it was written."""

    def written(found: re.Match[str]) -> str:
        return name if found[0] == was else name.upper() if found[0].isupper() else name.lower()

    pattern = re.compile(rf"\b{re.escape(was)}\b", re.IGNORECASE)
    return tuple(
        replace(said, parts=tuple(part._replace(text=pattern.sub(written, part.text)) for part in said.parts))
        for said in conversation
    )


def mixture(shares: dict[str, int], *, seed: int) -> Callable[[int], Conversation]:
    """Training conversations of several tasks, drawn by their shares; a function of (seed, index) alone.

    With a data home the mixture is made of what lies there, and what is missing is named; without one a set that cannot be
    fetched is an error.
    """
    home = data_home()
    found: list[tuple[int, Sequence[Conversation]]] = []
    for name, share in shares.items():
        try:
            found.append((share, training_conversations(name, home)))
        except (FileNotFoundError, ConnectionError) as error:
            if home is None:
                raise
            console.say(f"left out of the mixture: {name} ({str(error).split(';')[0]})")
    found = [(share, talks) for share, talks in found if talks]
    if not found:
        raise ValueError(
            f"{home}: holds none of {', '.join(shares)}. Give a folder with some of them, or leave --local out."
        )
    weights, sets = zip(*found, strict=True)
    return Mixed(sets, weights, seed).__call__  # one source of a `--data`, not several


@cache
def training_conversations(name: str, home: Path | None) -> Sequence[Conversation]:
    """Of a task its training split; for `smoltalk` the dialogues under `chat/` of a data home that has no SmolTalk.

    A process reads each once: `fledge run` opens the mixture to see that nothing is missing, and several stages draw from it.
    """
    if name != "smoltalk":
        return Solved(find_task(name).load("train"))
    if home and not (home / "smoltalk").exists() and (home / "chat").is_dir():
        found = find_files(home / "chat", RECORDS)
    else:
        found = Found(Path(name), locate(SMOLTALK), [])
    chats = Chats(found, skip_bad=True)
    if len(chats):  # else nothing of it is mixed in
        console.say(account(chats, len(chats), chats.left_out, most=1.0))
    return chats
