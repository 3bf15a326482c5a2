"""Training on conversations: what midtraining and fine-tuning share. They differ in their settings and their mix alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fledge import console
from fledge.config import Midtrain
from fledge.runs import StageFolder
from fledge.text.chat import Conversation
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import conversation_batches
from fledge.train.checkpoint import load_model
from fledge.train.loop import Batch
from fledge.train.session import Session


def converse(
    stage: StageFolder, config: Midtrain, conversations: Callable[[int], Conversation] | Sequence[Conversation]
) -> None:
    """Train the model of `config.start` on conversations and save it in `stage`."""
    tokenizer = Tokenizer.load(stage.run / "tokenizer")
    model = load_model(stage.run / config.start)
    session = Session(stage, config, model)
    length = config.context or model.config.context
    rows, micro = session.micro(length)
    plan = session.plan(max(1, round(config.tokens / (rows * micro * length))), micro)
    console.say(
        f"{stage.name}: {plan.steps} steps of {rows * micro * length:,} tokens on conversations of {config.data}, "
        f"learning {config.learn}, from {config.start}"
    )

    def batches(cursor: dict[str, Any] | None) -> Iterator[Batch]:
        return conversation_batches(
            conversations,
            tokenizer,
            rows=rows,
            length=length,
            device=session.device,
            cursor=cursor,
            learn=config.learn,
            seed=config.seed,
        )

    for _ in session.train(batches, plan):
        pass
    dropped = session.cursor.get("dropped", 0)
    session.finish(tokens=plan.steps * rows * micro * length, steps=plan.steps, dropped_conversations=dropped)
