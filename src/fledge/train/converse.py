"""Training on conversations: what midtraining and fine-tuning share. They differ in their settings and their mix alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fledge import console
from fledge.checkpoint import load_model
from fledge.config import Midtrain
from fledge.runs import open_stage, settings_of
from fledge.tasks.mixture import Conversations
from fledge.text.documents import open_documents
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import Cursor, Row, batched, conversation_rows, document_rows, mixed
from fledge.train.loop import Batch
from fledge.train.session import Session, Shape, resolved


def converse(config: Midtrain, conversations: Conversations) -> None:
    """Train the model of `config.start` on conversations, with text between them, and save it in the stage's folder."""
    run = Path(config.run)
    tokenizer, model = Tokenizer.load(run / "tokenizer"), load_model(run / config.start)
    config = resolved(config)
    shape = Shape.of(config, length=config.context or model.config.context)
    with open_stage(config) as stage:
        session = Session(stage, config, model)
        text = text_of(run) if config.replay else ""
        replay = f", {config.replay:.0%} text of {text}" if config.replay else ""
        console.say(
            f"{stage.name}: {shape} on conversations of {config.data}, learning {config.learn}, from {config.start}{replay}"
        )

        def chats(cursor: Cursor | None) -> Iterator[Row]:
            settings = {"length": shape.length, "cursor": cursor, "learn": config.learn, "seed": config.seed}
            return conversation_rows(conversations, tokenizer, **settings)

        def texts(cursor: Cursor | None) -> Iterator[Row]:
            begin = cursor["documents"] if cursor else None
            # Another seed than pretraining's: the world's text is new; files are read from the first on, as pretraining did.
            documents = open_documents(text, seed=config.seed + 1, cursor=begin)
            return document_rows(documents, tokenizer, length=shape.length, cursor=cursor)

        def batches(cursor: Cursor | None) -> Iterator[Batch]:
            rows = mixed(chats, texts, share=config.replay, cursor=cursor)
            return batched(rows, rows=shape.rows, device=session.device)

        for _ in session.train(batches, session.plan(shape.steps, shape.micro)):
            pass
        dropped = (session.cursor.get("chats") or {}).get("dropped", 0)
        session.finish(tokens=shape.steps * shape.tokens, steps=shape.steps, dropped_conversations=dropped)


def text_of(run: Path) -> str:
    """The text the run was pretrained on; the embedded world where the run has no pretraining of its own."""
    pretrain = run / "pretrain"
    return settings_of(pretrain).get("data", "world") if (pretrain / "config.json").exists() else "world"
