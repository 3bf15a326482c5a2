"""`fledge midtrain`: teach a base model conversations, multiple choice and tool use."""

from __future__ import annotations

from fledge.config import Midtrain, check
from fledge.runs import open_stage
from fledge.tasks.mixture import open_chats
from fledge.train.converse import converse


def main(config: Midtrain) -> None:
    """Teach a base model to converse."""
    check(config)
    with open_stage(config) as stage:
        converse(stage, config, open_chats(config.data, stage="midtrain", seed=config.seed))
