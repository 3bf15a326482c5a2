"""`fledge sft`: fine-tune on clean conversations, learning the assistant's words alone."""

from __future__ import annotations

from fledge.config import Sft, check
from fledge.tasks.mixture import Conversations, open_chats


def prepare(config: Sft) -> Conversations:
    """What the stage learns from; what is misspelt or missing is found here, before torch is loaded."""
    check(config)
    return open_chats(config.data, stage="sft", seed=config.seed)


def main(config: Sft) -> None:
    """Fine-tune a chat model on clean answers."""
    conversations = prepare(config)
    from fledge.train.converse import converse

    converse(config, conversations)
