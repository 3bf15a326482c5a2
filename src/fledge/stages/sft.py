"""`fledge sft`: fine-tune on clean conversations, learning the assistant's words alone."""

from __future__ import annotations

from fledge.config import Sft, check
from fledge.runs import open_stage
from fledge.tasks.mixture import open_chats
from fledge.train.converse import converse


def main(config: Sft) -> None:
    """Fine-tune a chat model on clean answers."""
    check(config)
    with open_stage(config) as stage:
        converse(stage, config, open_chats(config.data, stage="sft", seed=config.seed))
