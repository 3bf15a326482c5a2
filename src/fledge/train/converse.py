"""Training on conversations: what midtraining and fine-tuning share. They differ in their settings and their mix alone."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge import console
from fledge.config import Midtrain, Sft, check
from fledge.runs import data_of, open_stage
from fledge.tasks.mixture import Conversations, open_chats
from fledge.text.chat import Conversation, encode_conversation
from fledge.text.conversations import Chats, Tally, enough, restore
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
    fitting = those_that_fit(conversations, tokenizer, length=shape.length)
    with open_stage(config) as stage:
        session = Session(stage, config, model)
        console.say(
            f"{stage.name}: {shape} on conversations of {config.data}, learning {config.learn}, from {config.start}"
            f"{f', {config.replay:.0%} text of {text}' if config.replay else ''}"
        )

        def chats(cursor: Cursor | None) -> Iterator[Row]:
            learned, seed = config.learn, config.seed
            return conversation_rows(fitting, tokenizer, length=shape.length, cursor=cursor, learn=learned, seed=seed)

        def texts(cursor: Cursor | None) -> Iterator[Row]:
            # Another seed than pretraining's: the world's text is new; files are read from the first on, as pretraining did.
            documents = open_documents(text, seed=config.seed + 1, cursor=cursor["documents"] if cursor else None)
            return document_rows(documents, tokenizer, length=shape.length, cursor=cursor)

        def batches(cursor: Cursor | None) -> Iterator[Batch]:
            rows = mixed(chats, texts, share=config.replay, cursor=cursor)
            return batched(rows, rows=shape.rows, device=session.device)

        for _ in session.train(batches, steps=shape.steps, micro=shape.micro):
            pass
        drawn = (session.cursor.get("chats") or {}).get("dropped", 0)
        dropped = fitting.left_out.counts.total() if isinstance(fitting, Fitting) else drawn
        session.finish(tokens=shape.steps * shape.tokens, steps=shape.steps, dropped_conversations=dropped)


class Fitting(Sequence[Conversation]):
    """Those of a file's conversations whose first answer to learn ends within a row."""

    def __init__(self, chats: Chats, tokenizer: Tokenizer, *, length: int) -> None:
        self.chats, self.places, self.left_out = chats, array("Q"), Tally(chats.left_out)
        for place in range(len(chats)):
            record = chats.record(place)
            if ends_within(tokenizer, restore(record), length + 1):
                self.places.append(place)
            else:
                self.left_out.add(f"without an answer that ends within {length} tokens", record["where"])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        return self.chats[self.places[place]]


def those_that_fit(conversations: Conversations, tokenizer: Tokenizer, *, length: int) -> Conversations | Fitting:
    """Of a file's conversations those that leave an answer to learn in a row; says what is left out. Others stay as they are.

    Raises:
        ValueError: fewer are left than `enough` demands.
    """
    if not isinstance(conversations, Chats):
        return conversations
    found = Fitting(conversations, tokenizer, length=length)
    remedy = "correct them, shorten them or take them out, or give a longer --context where the model's is longer"
    console.say(
        enough(f"{conversations.found.root} ({conversations.found})", len(found), found.left_out, remedy=remedy)
    )
    if conversations.noted.counts:
        console.say(f"{conversations.found.root}: learned as they stand are {conversations.noted}")
    return found


def ends_within(tokenizer: Tokenizer, conversation: Conversation, tokens: int) -> bool:
    """Whether the first answer to learn does."""
    first = next(place for place, said in enumerate(conversation, 1) if said.role == "assistant" and said.learn)
    begin = conversation[:first]
    # No token has less than a byte; every message and part has two marks. So most need not be encoded.
    most = 1 + sum(2 + sum(2 + len(part.text.encode()) for part in message.parts) for message in begin)
    return most <= tokens or len(encode_conversation(tokenizer, begin).ids) <= tokens
