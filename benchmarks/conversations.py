"""What conversations cost: memory and time to load them, and time to draw one.

    python -m benchmarks conversations                # the user's own, and the mixture of SmolTalk and MMLU at their full size

The files are written first: conversations of four messages and 1,700 bytes of invented words, and questions with four choices.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import apart, show, timed
from fledge.tasks.mixture import open_chats

DRAWS = 20_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Memory and time of conversations in files."""

    own: int = 87_000
    """Conversations in one file of the user's."""
    smoltalk: int = 460_000
    """Conversations of the mixture."""
    mmlu: int = 100_000
    """Questions of the mixture."""


def main(settings: Settings) -> None:
    """Measure in a process each, and print one table."""
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), random.Random(0)
        pool = [" ".join(f"word{rng.randrange(3000)}" for _ in range(50)) for _ in range(5000)]
        write(folder / "own.jsonl", (chat(rng, pool) for _ in range(settings.own)))
        write(folder / "home/smoltalk/train.jsonl", (chat(rng, pool) for _ in range(settings.smoltalk)))
        write(folder / "home/mmlu/auxiliary_train.jsonl", (question(rng, pool) for _ in range(settings.mmlu)))
        cases = {
            f"{settings.own:,} of the user's": (str(folder / "own.jsonl"), {}),
            f"mixture of {settings.smoltalk + settings.mmlu:,}": (
                "chat",
                {"FLEDGE_LOCAL": str(folder / "home"), "HF_HUB_OFFLINE": "1"},
            ),
        }
        rows = [[case, *apart(load_and_draw, data, environment=given)] for case, (data, given) in cases.items()]
    columns = [
        "data",
        "load, seconds",
        "memory of the process, MB",
        "with the file's pages, MB",
        "one draw, microseconds",
    ]
    show("conversations", columns, rows)


def load_and_draw(data: str) -> list[str]:
    """The cells of one row."""
    before, shared = memory("RssAnon"), memory("VmRSS")
    opened = timed(lambda: open_chats(data, stage="midtrain", seed=0))
    held, chats = memory("RssAnon") - before, opened.result
    rng = random.Random(0)
    pick = chats if callable(chats) else lambda index: chats[rng.randrange(len(chats))]
    drawn = timed(lambda: sum(len(pick(index)) for index in range(DRAWS)))
    pages = memory("VmRSS") - shared
    return [str(opened.time), f"{held:,.0f}", f"{pages:,.0f}", f"{drawn.time.cpu / DRAWS * 1e6:.0f}"]


def memory(kind: str) -> float:
    """MB of this process, as Linux counts them: RssAnon is its own, VmRSS also what it shares with files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(kind))


def chat(rng: random.Random, pool: list[str]) -> dict[str, Any]:
    """About what a conversation of SmolTalk's is like."""
    said = (("user", "assistant")[place % 2] for place in range(4))
    return {"messages": [{"role": role, "content": f"{rng.choice(pool)} {rng.random()}"} for role in said]}


def question(rng: random.Random, pool: list[str]) -> dict[str, Any]:
    """A record of MMLU's."""
    asked = f"{rng.choice(pool)[:200]} {rng.random()}"
    return {"question": asked, "choices": [rng.choice(pool)[:30] for _ in range(4)], "answer": rng.randrange(4)}


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """A .jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
