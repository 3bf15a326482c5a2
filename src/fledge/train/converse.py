"""Training on conversations: what midtraining and fine-tuning share. They differ in their settings and their mix alone."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge import console, ranks
from fledge.config import BATCH_TOKENS, Midtrain, Sft, check
from fledge.folder import open_stage
from fledge.origin import hash_of_draws, origin_of, text_of
from fledge.settings import shares_of
from fledge.tasks import find_task
from fledge.tasks.identity import is_identity
from fledge.tasks.mixture import EPOCHS, Conversations, Mixed, Solved, are_own, open_chats, with_identity
from fledge.text.chat import Conversation, encode_conversation
from fledge.text.conversations import CUT_SHARE, Chats, Tally, account, restore
from fledge.text.documents import open_documents
from fledge.text.packing import pack_whole
from fledge.text.split import split_of
from fledge.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fledge.train.batches import Cursor, Row
    from fledge.train.loop import Batch


EPOCH_STEPS = 10
"""Optimizer steps in each, as far as there are rows for so many."""
MANY_EPOCHS, MOST_EPOCHS = 10, 1_000
"""Above the first a line warns, above the second nobody can mean it."""
ENOUGH, HELD_OUT = 100, 20
"""Of so many own conversations one in twenty, by a hash of its first question, is held out and measured."""
SAMPLE = 1_000
"""Conversations that are encoded to say how long an epoch is."""
BITS, LEAST_BITS = "val_answer_bits_per_byte", 0.05
"""Of several sources the mean; what costs less than the second is known, and does not rule the others."""


def prepare(config: Midtrain) -> Conversations:
    """What the stage learns from; what is misspelt or missing is found here, before torch is loaded."""
    check(config)
    stage = "sft" if isinstance(config, Sft) else "midtrain"
    return open_chats(config.data, stage=stage, seed=config.seed, skip_bad=config.skip_bad)


def main(config: Midtrain) -> None:
    """Train the model of `config.start` on conversations, with text between them, and save it in the stage's folder."""
    config = with_identity(config)
    conversations = prepare(config)
    from fledge.checkpoint import load_pair
    from fledge.train.batches import batched, conversation_rows, document_rows, mixed
    from fledge.train.held_out import answer_batches, validation_bits_per_byte
    from fledge.train.resolve import Shape, resolved
    from fledge.train.session import Best, Session

    run = Path(config.run)
    model, tokenizer = load_pair(run, config.start)
    config = resolved(config)
    length, epochs = config.context or model.config.context, ""
    conversations, own = fitted(conversations, tokenizer, length=length, skip_bad=config.skip_bad)
    sizes, per_row = sizes_of(config.data, conversations), 0.0
    if sizes or isinstance(conversations, Mixed):  # of others nobody says how often they come
        per_row = conversations_per_row(conversations, tokenizer, length=length)
    if are_own(config.data):
        config, epochs = bounded(config, sizes, per_row=per_row, length=length)
        config = resolved(config)  # the rates follow from the batch, which follows from the conversations
    shape = Shape.of(config, length=length)
    text: dict[str, Any] = text_of(run) if config.replay else {}
    known: dict[str, Any] = {}
    if callable(conversations) and not isinstance(conversations, Mixed):  # of which the files are compared
        known = {"data": {config.data: hash_of_draws(conversations)}}
    origin = origin_of(config, known=known)
    model.pair_dropout = config.pair_dropout
    with open_stage(config, origin) as stage:
        session = Session(stage, config, model)
        shape = session.tried(shape)
        console.say(
            f"{stage.name}: {shape} on {epochs}conversations of {config.data}, learning {config.learn}, from {config.start}"
            + (f", {config.replay:.0%} text of {text['data']}" if config.replay else "")
        )
        if isinstance(conversations, Mixed):
            tell_parts(config, sizes, count=shape.steps * shape.total * (1 - config.replay) * per_row)
        session.foretell(shape.steps * shape.tokens)

        def chats(cursor: Cursor | None) -> Iterator[Row]:
            learned, seed = config.learn, config.seed
            return conversation_rows(
                conversations, tokenizer, length=shape.length, cursor=cursor, learn=learned, seed=seed
            )

        def texts(cursor: Cursor | None) -> Iterator[Row]:
            # Another seed than pretraining's: the world's text is new; files are read from the first on, as pretraining did.
            documents = open_documents(**text, seed=config.seed + 1, cursor=cursor["documents"] if cursor else None)
            return document_rows(documents, tokenizer, length=shape.length, cursor=cursor)

        def batches(cursor: Cursor | None) -> Iterator[Batch]:
            rows = mixed(chats, texts, share=config.replay, cursor=cursor)
            return batched(rows, rows=shape.rows, step_rows=shape.total, device=session.device)

        cut = {"rows": shape.rows, "length": shape.length, "device": session.device}
        held_out = {
            name: [*answer_batches(talks, tokenizer, **cut)]
            for name, talks in held_out_of(config.data, conversations, tokenizer, length=length).items()
        }
        best = Best(session, BITS) if held_out else None
        for done in session.train(batches, steps=shape.steps, micro=shape.micro):
            if best and session.due(done, config.eval_every):
                each = {name: validation_bits_per_byte(model, batches) for name, batches in held_out.items()}
                best.judge(done, together(each))
        measured = best.summary("answers") if best else {}
        drawn = (session.cursor.get("chats") or {}).get("dropped", 0)
        dropped = sum(each.left_out.counts.total() for each in own) or drawn
        session.finish(tokens=shape.steps * shape.tokens, steps=shape.steps, dropped_conversations=dropped, **measured)


def together(bits: Mapping[str, float]) -> dict[str, float]:
    """Of several sources each, and their geometric mean: a tenth of one counts as a tenth of another."""
    mean = math.prod(max(one, LEAST_BITS) for one in bits.values()) ** (1 / len(bits))
    each = {f"{BITS}_{number}_{Path(name).stem}": one for number, (name, one) in enumerate(bits.items(), 1)}
    return {BITS: mean} | (each if len(bits) > 1 else {})


def tell_parts(config: Midtrain, sizes: Mapping[str, int], *, count: float) -> None:
    """Of about `count` conversations that will be shown say how many are those of own files, and about who it is."""
    shares = shares_of(config.data)
    for name in shares:
        share = shares[name] / sum(shares.values())
        if name in sizes:
            epochs = share * count / sizes[name]
            told = f"{epochs:,.1f} epochs of its {sizes[name]:,}"
            told += f": more than about {EPOCHS} learn it by heart; lower its share or --tokens" * (
                epochs > MANY_EPOCHS
            )
        elif is_identity(name):
            told = "about who it is"
        else:
            continue
        console.say(f"{name}: {share:.0%} of the conversations, about {share * count:,.0f}, are {told}")


def held_out_of(
    data: str, conversations: Conversations, tokenizer: Tokenizer, *, length: int
) -> dict[str, list[Conversation]]:
    """What own files held out, and beside it of own questions and of who it is the validation split, by the names in `data`.

    Empty where nothing is held out of own conversations: the others are few, and tell little alone.
    """
    parts = conversations.sources if isinstance(conversations, Mixed) else (conversations,)
    found: dict[str, list[Conversation]] = {}
    for name, part in zip(shares_of(data), parts, strict=True):
        if isinstance(part, Fitting):
            found[name] = part.held_out
        elif isinstance(part, Solved) or is_identity(name):
            asked = [one.messages for one in find_task(name).load("validation")]
            found[name] = [one for one in asked if ends_within(tokenizer, one, length + 1)]
    is_chosen = any(isinstance(part, Fitting) and part.held_out for part in parts)
    return {name: talks for name, talks in found.items() if talks} if is_chosen else {}


class Fitting(Sequence[Conversation]):
    """Those of a file's conversations whose first answer to learn ends within a row, but for what is held out of them."""

    def __init__(self, chats: Chats, tokenizer: Tokenizer, *, length: int) -> None:
        self.chats, self.places, self.left_out = chats, array("Q"), Tally(chats.left_out)
        for place in range(len(chats)):
            record = chats.record(place)
            if ends_within(tokenizer, restore(record), length + 1):
                self.places.append(place)
            else:
                self.left_out.add(f"without an answer that ends within {length} tokens", record["where"])
        self.held_out = self._take_out()
        self.cut_share = filled(sample(self), tokenizer, length + 1)[1]
        """Of them that is longer than a row; by a sample."""

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        return self.chats[self.places[place]]

    def _take_out(self) -> list[Conversation]:
        sides = {place: split_of(first_question(self.chats[place]), one_in=HELD_OUT) for place in self.places}
        held_out = [place for place, side in sides.items() if side == "validation"]
        if len(self) < ENOUGH or 2 * len(held_out) > len(self):  # few, or all asked the same
            return []
        self.places = array("Q", (place for place in self.places if sides[place] != "validation"))
        return [self.chats[place] for place in held_out]


def sample(conversations: Conversations) -> list[Conversation]:
    """Some of them, from everywhere."""
    if callable(conversations):
        return [conversations(place) for place in range(SAMPLE)]
    return [conversations[place] for place in range(0, len(conversations), -(-len(conversations) // SAMPLE) or 1)]


def filled(drawn: Sequence[Conversation], tokenizer: Tokenizer, capacity: int) -> tuple[float, float]:
    """How many rows of so many tokens conversations fill, and the share of them that is longer."""
    whole = [len(encode_conversation(tokenizer, one).ids) for one in drawn]
    sizes = [
        size if size <= capacity else len(encode_conversation(tokenizer, one, max_tokens=capacity).ids)
        for one, size in zip(drawn, whole, strict=True)
    ]
    *full, last = pack_whole(sizes, capacity) or [[]]
    rows = len(full) + sum(sizes[place] for place in last) / capacity
    return rows, sum(size > capacity for size in whole) / max(1, len(drawn))


def conversations_per_row(conversations: Conversations, tokenizer: Tokenizer, *, length: int) -> float:
    """How many fit into a row of so many tokens, about."""
    drawn = sample(conversations)
    return len(drawn) / filled(drawn, tokenizer, length + 1)[0]


def sizes_of(data: str, conversations: Conversations) -> dict[str, int]:
    """How many conversations to learn from a stage's own files have, fitted, by their names in `--data`."""
    parts = conversations.sources if isinstance(conversations, Mixed) else (conversations,)
    return {name: len(part) for name, part in zip(shares_of(data), parts, strict=True) if not callable(part)}


def fitted(
    conversations: Conversations, tokenizer: Tokenizer, *, length: int, skip_bad: bool = False
) -> tuple[Conversations, list[Fitting]]:
    """The conversations with those of files cut to what fits (`those_that_fit`), and these."""
    if isinstance(conversations, Mixed):
        pairs = [fitted(each, tokenizer, length=length, skip_bad=skip_bad) for each in conversations.sources]
        sources = tuple(source for source, _ in pairs)
        return replace(conversations, sources=sources), [one for _, own in pairs for one in own]
    if isinstance(conversations, Chats):
        found = those_that_fit(conversations, tokenizer, length=length, skip_bad=skip_bad)
        return found, [found]
    return conversations, []


def those_that_fit(chats: Chats, tokenizer: Tokenizer, *, length: int, skip_bad: bool = False) -> Fitting:
    """Of a file's conversations those that leave an answer to learn in a row; says what is left out.

    Raises:
        ValueError: more are left out than `account` allows.
    """
    found = Fitting(chats, tokenizer, length=length)
    remedy = "Give a longer --context where the model's is longer, shorten them"
    most = 1.0 if skip_bad else CUT_SHARE
    usable = len(found) + len(found.held_out)
    console.say(account(chats, usable, found.left_out, most=most, remedy=remedy))
    if found.held_out:
        console.say(f"{chats.found.root}: {len(found.held_out)} are held out to choose the weights that remain")
    if found.cut_share:
        console.say(
            f"{chats.found.root}: {found.cut_share:.0%} are longer than a row, and learned as far as an answer fits"
        )
    if chats.noted.counts:
        console.say(f"{chats.found.root}: learned as they stand are {chats.noted}")
    return found


def first_question(conversation: Conversation) -> str:
    """What tells a conversation from others."""
    return next((said.text for said in conversation if said.role == "user"), "")


def ends_within(tokenizer: Tokenizer, conversation: Conversation, tokens: int) -> bool:
    """Whether the first answer to learn does."""
    first = next(place for place, said in enumerate(conversation, 1) if said.role == "assistant" and said.learn)
    begin = conversation[:first]
    # No token has less than a byte; every message and part has two marks. So most need not be encoded.
    most = 1 + sum(2 + sum(2 + len(part.text.encode()) for part in message.parts) for message in begin)
    return most <= tokens or len(encode_conversation(tokenizer, begin).ids) <= tokens


def bounded(config: Midtrain, sizes: Mapping[str, int], *, per_row: float, length: int) -> tuple[Midtrain, str]:
    """The settings with as many tokens as own conversations are good for where none are asked for; and the epochs, in words.

    Of several files an epoch draws as many conversations as all of them have, by their shares.

    Raises:
        ValueError: the tokens asked for are `MOST_EPOCHS` or more.
    """
    shares, count = shares_of(config.data), sum(sizes.values())
    drawn = count * sum(shares.values()) / sum(shares[name] for name in sizes)
    epoch = drawn / per_row / (1 - config.replay) * length
    rows = max(ranks.count(), min(BATCH_TOKENS, round(epoch / EPOCH_STEPS)) // length)  # each rank has one
    batch = config.batch_tokens or length * rows
    tokens = config.tokens or min(config.most_tokens, max(1, round(EPOCHS * epoch / batch)) * batch)
    epochs, every = tokens / epoch, f"{count:,} conversation{'s' * (count != 1)}"
    if epochs > MOST_EPOCHS:
        raise ValueError(
            f"tokens={tokens} are {epochs:,.0f} epochs of {every} of {config.data}; at most {MOST_EPOCHS:,} make sense, and "
            f"about {EPOCHS} are good: leave --tokens out, or add conversations"
        )
    told = f"about {epochs:,.1f} epochs of {count:,} "
    if epochs > MANY_EPOCHS:
        console.say(
            f"{config.data}: {epochs:,.0f} epochs of {every}: what it knew before may be forgotten; "
            f"about {EPOCHS} are {round(EPOCHS * epoch):,} --tokens"
        )
    return replace(config, batch_tokens=batch, tokens=tokens), told
