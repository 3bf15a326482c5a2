"""Training on conversations: what midtraining and fine-tuning share. They differ in their settings and their mix alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fledge import console
from fledge.config import Midtrain, Sft, check
from fledge.runs import data_of, open_stage
from fledge.tasks.mixture import Conversations, open_chats
from fledge.text.documents import open_documents
from fledge.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fledge.train.batches import Cursor, Row
    from fledge.train.loop import Batch


def prepare(config: Midtrain) -> Conversations:
    """What the stage learns from; what is misspelt or missing is found here, before torch is loaded."""
    check(config)
    return open_chats(config.data, stage="sft" if isinstance(config, Sft) else "midtrain", seed=config.seed)


def main(config: Midtrain) -> None:
    """Train the model of `config.start` on conversations, with text between them, and save it in the stage's folder."""
    conversations = prepare(config)
    from fledge.checkpoint import load_model
    from fledge.train.batches import batched, conversation_rows, document_rows, mixed
    from fledge.train.session import Session, Shape, resolved

    run = Path(config.run)
    tokenizer, model = Tokenizer.load(run / "tokenizer"), load_model(run / config.start)
    config = resolved(config)
    shape = Shape.of(config, length=config.context or model.config.context)
    text = data_of(run / "pretrain")
    with open_stage(config) as stage:
        session = Session(stage, config, model)
        console.say(
            f"{stage.name}: {shape} on conversations of {config.data}, learning {config.learn}, from {config.start}"
            f"{f', {config.replay:.0%} text of {text}' if config.replay else ''}"
        )

        def chats(cursor: Cursor | None) -> Iterator[Row]:
            learned, seed = config.learn, config.seed
            return conversation_rows(
                conversations, tokenizer, length=shape.length, cursor=cursor, learn=learned, seed=seed
            )

        def texts(cursor: Cursor | None) -> Iterator[Row]:
            # Another seed than pretraining's: the world's text is new; files are read from the first on, as pretraining did.
            documents = open_documents(text, seed=config.seed + 1, cursor=cursor["documents"] if cursor else None)
            return document_rows(documents, tokenizer, length=shape.length, cursor=cursor)

        def batches(cursor: Cursor | None) -> Iterator[Batch]:
            rows = mixed(chats, texts, share=config.replay, cursor=cursor)
            return batched(rows, rows=shape.rows, device=session.device)

        for _ in session.train(batches, steps=shape.steps, micro=shape.micro):
            pass
        dropped = (session.cursor.get("chats") or {}).get("dropped", 0)
        session.finish(tokens=shape.steps * shape.tokens, steps=shape.steps, dropped_conversations=dropped)
