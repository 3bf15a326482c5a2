"""Training on conversations: what midtraining and fine-tuning share. They differ in their settings and their mix alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fledge import console
from fledge.checkpoint import load_model
from fledge.config import Midtrain
from fledge.runs import StageFolder, settings_of
from fledge.text.chat import Conversation
from fledge.text.documents import open_documents
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import conversation_batches, document_batches
from fledge.train.loop import Batch
from fledge.train.session import Session

Cursor = dict[str, Any]
Source = Callable[[Cursor | None], Iterator[Batch]]


def converse(
    stage: StageFolder, config: Midtrain, conversations: Callable[[int], Conversation] | Sequence[Conversation]
) -> None:
    """Train the model of `config.start` on conversations, with text between them, and save it in `stage`."""
    tokenizer = Tokenizer.load(stage.run / "tokenizer")
    model = load_model(stage.run / config.start)
    session = Session(stage, config, model)
    length = config.context or model.config.context
    rows, micro = session.micro(length)
    plan = session.plan(max(1, round(config.tokens / (rows * micro * length))), micro)
    text = text_of(stage) if config.replay else ""
    replay = f", {config.replay:.0%} text of {text}" if config.replay else ""
    console.say(
        f"{stage.name}: {plan.steps} steps of {rows * micro * length:,} tokens on conversations of {config.data}, "
        f"learning {config.learn}, from {config.start}{replay}"
    )

    def chats(cursor: Cursor | None) -> Iterator[Batch]:
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

    def texts(cursor: Cursor | None) -> Iterator[Batch]:
        begin = cursor["documents"] if cursor else None
        # Another seed than pretraining's: the world's text is new; files are read from the first on, as pretraining did.
        documents = open_documents(text, seed=config.seed + 1, cursor=begin)
        return document_batches(documents, tokenizer, rows=rows, length=length, device=session.device, cursor=cursor)

    for _ in session.train(lambda cursor: interleaved(chats, texts, share=config.replay, cursor=cursor), plan):
        pass
    dropped = (session.cursor.get("chats") or {}).get("dropped", 0)
    session.finish(tokens=plan.steps * rows * micro * length, steps=plan.steps, dropped_conversations=dropped)


def text_of(stage: StageFolder) -> str:
    """The text the run was pretrained on; the embedded world where the run has no pretraining of its own."""
    pretrain = stage.run / "pretrain"
    return settings_of(pretrain).get("data", "world") if (pretrain / "config.json").exists() else "world"


def interleaved(chats: Source, texts: Source, *, share: float, cursor: Cursor | None) -> Iterator[Batch]:
    """Batches of conversations, a `share` of them replaced by batches of text, evenly: .25 -> chat chat chat text.

    What is not rehearsed is forgotten: of the facts that no conversation mentions the demo kept .59 without text in between
    and .87 with a quarter of it (docs/why.md).
    """
    count, places = (cursor["count"], cursor) if cursor else (0, {"chats": None, "texts": None})
    sources: dict[str, Iterator[Batch]] = {}
    makers = {"chats": chats, "texts": texts}
    while True:
        name = "texts" if int((count + 1) * share) > int(count * share) else "chats"
        if name not in sources:
            sources[name] = makers[name](places[name])
        batch = next(sources[name])
        count, places = count + 1, {**places, name: batch.cursor}
        yield replace(batch, cursor={**places, "count": count})
