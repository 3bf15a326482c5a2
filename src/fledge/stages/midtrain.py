"""`fledge midtrain`: teach a base model conversations, multiple choice and tool use."""

from __future__ import annotations

from fledge.config import Midtrain, check
from fledge.tasks.mixture import Conversations, open_chats


def prepare(config: Midtrain) -> Conversations:
    """What the stage learns from; what is misspelt or missing is found here, before torch is loaded."""
    check(config)
    return open_chats(config.data, stage="midtrain", seed=config.seed)


def main(config: Midtrain) -> None:
    """Teach a base model to converse."""
    conversations = prepare(config)
    from fledge.train.converse import converse

    converse(config, conversations)
