"""Text becomes tensors: documents and conversations are packed into rows, and rows are stacked into `Batch`es.

    documents = open_documents(data, split="train", cursor=cursor and cursor["documents"])
    rows = document_rows(documents, tokenizer, length=2048, cursor=cursor)
    for step in train(model, optimizer, batched(rows, rows=16), plan): ...          # step.cursor is where to go on

A row is `length + 1` tokens, of which the model reads all but the last and learns all but the first. It begins with bos, and so
does every document and every piece of one inside it; a bos is learned as well, since that is how a model tells that a text
ended. Documents of a row see each other (no document mask), as in the reference.

The streams are packed window by window: a bounded stretch of the data is read, packed into rows, and what does not fill a row
goes into the next window. So a cursor is exact and small: where the window began, what the one before left over, and how
many of its rows are used. It travels with the row. Rows do not depend on how many of them make a batch, nor on how far a
background thread read ahead, and text and conversations are mixed row by row: so neither does a step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, pairwise, takewhile
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fledge import ranks
from fledge.tasks.mixture import Conversations
from fledge.text.chat import Conversation, Learn, Rendered, encode_conversation
from fledge.text.documents import Document
from fledge.text.packing import fill_rows, pack_spans, pack_whole, windows
from fledge.text.tokenizer import Tokenizer
from fledge.train.loop import Batch

Cursor = dict[str, Any]
T = TypeVar("T")

BOS = "<|bos|>"
WINDOW_ROWS = 128
"""Rows' worth of text packed together. More packs better, costs memory and delays the first batch."""
WINDOW_CHARACTERS = 1 << 18
"""At least so much text, so that the tokenizer's threads have something to share."""
PATIENCE = 1000
"""Conversations without a target in a row after which we no longer believe that one will come."""


@dataclass(frozen=True)
class Row:
    """One row on its way into a batch: tokens, which of them are learned, and the cursor after it."""

    ids_C: npt.NDArray[np.int32]
    learn_C: npt.NDArray[np.bool_]
    cursor: Cursor


# Documents


def document_rows(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    length: int,
    cursor: Cursor | None = None,
) -> Iterator[Row]:
    """Completely filled rows; no token is dropped, a cut document goes on in a later row behind a new bos.

    Args:
        documents: from `open_documents`, begun where `cursor["documents"]` says. What does not fill a row waits for more.
        length: targets per row.
        cursor: of the last row that was used.

    Raises:
        ValueError: the documents do not begin where the cursor says.
    """
    capacity, bos = length + 1, tokenizer.special[BOS]
    # About four characters make a token.
    characters = max(WINDOW_CHARACTERS, 4 * WINDOW_ROWS * capacity)
    place = cursor["documents"] if cursor else None
    carry = [np.array(piece, np.int32) for piece in cursor["carry"]] if cursor else []
    window, skip = (cursor["window"], cursor["row"]) if cursor else (0, 0)
    # Read in a thread of its own, beside the one that tokenizes and packs.
    for texts in in_background(windows(documents, characters, size=lambda document: len(document.text)), ahead=1):
        first = texts[0].cursor
        if cursor and first != cursor["first"]:
            raise ValueError(
                f"the documents begin before {first}, the cursor continues before {cursor['first']}: "
                f'open them with cursor=cursor["documents"], on the same data'
            )
        cursor = None
        begin = {"documents": place, "first": first, "carry": [p.tolist() for p in carry], "window": window}
        ids, offsets = tokenizer.encode_batch([document.text for document in texts])
        flat = np.concatenate([*carry, ids.astype(np.int32, copy=False)])
        ends = [0, *np.cumsum([len(piece) for piece in carry]).tolist()]
        ends += (offsets[1:].astype(np.int64) + ends[-1]).tolist()
        packed, rest = pack_spans(pairwise(ends), capacity)
        ids_RC = fill_rows(packed, flat, capacity=capacity, bos=bos)
        # Packing sorts by length; the steps should not.
        order = np.random.default_rng(window).permutation(len(packed))
        learn_C = np.ones(capacity, np.bool_)
        for row in range(skip, len(packed)):
            yield Row(ids_RC[order[row]], learn_C, {**begin, "row": row + 1})
        carry = [flat[start:stop] for start, stop in rest]
        place, window, skip = texts[-1].cursor, window + 1, 0


# Conversations


def conversation_rows(
    conversations: Conversations,
    tokenizer: Tokenizer,
    *,
    length: int,
    cursor: Cursor | None = None,
    learn: Learn = "answers",
    seed: int = 0,
) -> Iterator[Row]:
    """Endless rows of whole conversations, several to a row where they fit, padded with tokens that are not learned.

    A conversation longer than a row is cut after an answer; one whose first answer does not fit is dropped and counted in
    `cursor["dropped"]`.

    Args:
        conversations: index -> conversation, endless; or a sequence, shuffled anew in each epoch by `seed`.
        cursor: of the last row that was used.
        learn: "answers", the assistant's own tokens (fine-tuning), or "all" (midtraining).

    Raises:
        ValueError: there are no conversations, or none that leaves an answer within `length`.
    """
    pick = conversations if callable(conversations) else _shuffled_epochs(conversations, seed)
    capacity, pad = length + 1, tokenizer.special[BOS]
    cursor = cursor or {"next": 0, "carry": [], "window": 0, "row": 0, "dropped": 0}
    index, carry, window, skip, dropped = (cursor[name] for name in ("next", "carry", "window", "row", "dropped"))

    def render(index: int) -> Rendered:
        return encode_conversation(tokenizer, pick(index), max_tokens=capacity, learn=learn)

    while True:
        first, futile = index, 0
        taken = {index: render(index) for index in carry}
        tokens = sum(len(one.ids) for one in taken.values())
        while tokens < WINDOW_ROWS * capacity:
            rendered = render(index)
            if any(rendered.mask):
                taken[index], futile = rendered, 0
                tokens += len(rendered.ids)
            else:
                dropped += not skip  # a window of which rows were used is counted already
                futile += 1
                if futile == PATIENCE:
                    raise ValueError(
                        f"{PATIENCE} conversations in a row have no answer that ends within length {length}; "
                        "allowed are conversations whose first answer does: raise the length or shorten them"
                    )
            index += 1
        begin = {"next": first, "carry": carry, "window": window, "dropped": dropped}
        keys = list(taken)
        *groups, left = pack_whole([len(taken[key].ids) for key in keys], capacity)
        order = np.random.default_rng(window).permutation(len(groups))
        for row in range(skip, len(groups)):
            members = [taken[keys[member]] for member in groups[order[row]]]
            ids = np.concatenate([one.ids for one in members])
            mask = np.concatenate([one.mask for one in members])
            ids_C, learn_C = np.full(capacity, pad, np.int32), np.zeros(capacity, np.bool_)
            ids_C[: len(ids)], learn_C[: len(ids)] = ids, mask
            yield Row(ids_C, learn_C, {**begin, "row": row + 1})
        carry, window, skip = [keys[member] for member in left], window + 1, 0


def _shuffled_epochs(conversations: Sequence[Conversation], seed: int) -> Callable[[int], Conversation]:
    count = len(conversations)
    if count == 0:
        raise ValueError("no conversations to learn from: the data is empty")
    order: dict[int, npt.NDArray] = {}

    def pick(index: int) -> Conversation:
        epoch, place = divmod(index, count)
        if epoch not in order:
            order.clear()
            order[epoch] = np.random.default_rng([seed, epoch]).permutation(count)
        return conversations[int(order[epoch][place])]

    return pick


# Text between conversations


def mixed(
    chats: Callable[[Cursor | None], Iterator[Row]],
    texts: Callable[[Cursor | None], Iterator[Row]],
    *,
    share: float,
    cursor: Cursor | None = None,
) -> Iterator[Row]:
    """Rows of conversations, a `share` of them replaced by rows of text, evenly: .25 -> chat chat chat text.

    Replay keeps what the model learned before from being forgotten: of the facts that no conversation mentions the demo kept
    .59 without it and .87 with a quarter of text (docs/why.md).

    Args:
        chats, texts: what begins each stream at a cursor of its own; one that is not needed is not begun.
    """
    count, places = (cursor["rows"], cursor) if cursor else (0, {"chats": None, "texts": None})
    begin, streams = {"chats": chats, "texts": texts}, {}
    while True:
        # The number of the row alone decides, so that a step is the same however it is cut into batches.
        name = "texts" if int((count + 1) * share) > int(count * share) else "chats"
        if name not in streams:
            streams[name] = begin[name](places[name])
        row = next(streams[name])
        count, places = count + 1, {**places, name: row.cursor}
        yield replace(row, cursor={**places, "rows": count})


# Validation


# Rows become tensors


def batched(
    stream: Iterator[Row], *, rows: int, step_rows: int | None = None, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Batches of `rows` rows each, made in a thread of its own. What a finite stream leaves at its end is no batch.

    Of several ranks each reads the whole stream, and computes its part of every `rows` x ranks rows.

    Args:
        step_rows: rows of a step of all ranks, whose last pass may have fewer. None: every pass is full.
    """
    pinned, most = torch.device(device).type == "cuda", rows * ranks.count()
    step_rows = step_rows or most
    sizes = cycle(min(most, step_rows - at) for at in range(0, step_rows, most))
    groups = ((list(islice(stream, size)), size) for size in sizes)
    whole = takewhile(bool, (group if len(group) == size else [] for group, size in groups))
    batches = (own.pinned() if pinned else own for own in (part_of(group, each=rows) for group in whole))
    for batch in in_background(batches):
        yield batch.to(device)


def part_of(rows: Sequence[Row], *, each: int) -> Batch:
    """The `each` rows that this rank computes of those of all, whose tokens and cursor it has; what is missing weighs nothing."""
    if ranks.count() == 1:
        return stack(rows)
    idle = replace(rows[0], learn_C=np.zeros_like(rows[0].learn_C))
    own = [*rows[ranks.number() * each :][:each], *[idle] * each][:each]
    tokens = sum(int(row.learn_C[1:].sum()) for row in rows)
    return replace(stack(own), tokens=tokens, cursor=rows[-1].cursor)


def stack(rows: Sequence[Row]) -> Batch:
    """One batch of these rows, whose cursor is that of the last."""
    learn_BC = np.stack([row.learn_C for row in rows])
    tokens = int(learn_BC[:, 1:].sum())
    return batch_of(np.stack([row.ids_C for row in rows]), learn_BC, tokens=tokens, cursor=rows[-1].cursor)


def batch_of(ids_BC: npt.NDArray, weights_BC: npt.NDArray, *, tokens: int, cursor: Cursor) -> Batch:
    """Inputs are all tokens but the last, targets all but the first; the weight of a token is that of learning it."""
    return Batch(
        inputs_BT=torch.from_numpy(ids_BC[:, :-1].astype(np.int64)),
        targets_BT=torch.from_numpy(ids_BC[:, 1:].astype(np.int64)),
        weights_BT=torch.from_numpy(weights_BC[:, 1:].astype(np.float32)),
        tokens=tokens,
        cursor=cursor,
    )


def in_background(items: Iterator[T], *, ahead: int = 4) -> Iterator[T]:
    """The same items, made in a thread that stays at most `ahead` items in front; what it raises is raised here.

    The thread ends with the generator that this returns: when it is exhausted, closed or collected.
    """
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room, done = threading.Semaphore(ahead), threading.Event()

    def work() -> None:
        try:
            while room.acquire() and not done.is_set():
                ready.put((next(items), None))
        except BaseException as error:  # StopIteration too
            ready.put((None, error))

    thread = threading.Thread(target=work, name="fledge-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item
    finally:
        done.set()
        room.release()
        thread.join(timeout=5)  # longer only in a download, which must not hold up a Ctrl-C
