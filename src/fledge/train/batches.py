"""Text becomes tensors here and nowhere else: documents, conversations and rollouts, each packed into `Batch`es.

    documents = open_documents(data, split="train", cursor=cursor and cursor["documents"])
    batches = document_batches(documents, tokenizer, rows=16, length=2048, cursor=cursor)
    for step in train(model, optimizer, batches, plan): ...          # step.cursor is where to go on

A row is `length + 1` tokens, of which the model reads all but the last and learns all but the first. It begins with bos, and so
does every document and every piece of one inside it; a bos is learned as well, since that is how a model tells that a text
ended. Documents of a row see each other (no document mask), as in the reference.

The streams are packed window by window: a bounded stretch of the data is read, packed into rows, and what does not fill a row
goes into the next window. So a cursor is exact and small: where the window began, what the one before left over, and how
many of its rows are used. Rows do not depend on how many of them make a batch, nor on how far a background thread read ahead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fledge.text.chat import Conversation, Rendered, encode_conversation
from fledge.text.documents import Document
from fledge.text.packing import fill_rows, pack_spans, pack_whole
from fledge.train.loop import Batch

if TYPE_CHECKING:
    from fledge.text.tokenizer import Tokenizer

Cursor = dict[str, Any]
Learn = Literal["answers", "all"]
T = TypeVar("T")

BOS = "<|bos|>"
WINDOW_ROWS = 128
"""Rows' worth of text packed together. More packs better, costs memory and delays the first batch."""
WINDOW_CHARACTERS = 1 << 18
"""At least so much text, so that the tokenizer's threads have something to share."""
PATIENCE = 1000
"""Conversations without a target in a row after which we no longer believe that one will come."""


@dataclass(frozen=True)
class _Row:
    """One row on its way into a batch: tokens, which of them are learned, and the cursor after it."""

    ids_C: npt.NDArray[np.int32]
    learn_C: npt.NDArray[np.bool_]
    cursor: Cursor


# Documents


def document_batches(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    rows: int,
    length: int,
    device: torch.device | str = "cpu",
    cursor: Cursor | None = None,
    background: bool = True,
) -> Iterator[Batch]:
    """Batches of completely filled rows; no token is dropped, a cut document goes on in a later row behind a new bos.

    Args:
        documents: from `open_documents`, begun where `cursor["documents"]` says. A finite stream ends in padded rows.
        length: targets per row.
        cursor: of the last batch that was used. Whatever `rows` was then, the rows that follow are the same.
        background: read and tokenize in a thread of its own; the batches are the same.

    Raises:
        ValueError: the documents do not begin where the cursor says.
    """
    capacity = length + 1
    windows = _windows(iter(documents), max(WINDOW_CHARACTERS, 4 * WINDOW_ROWS * capacity))
    if background:  # a thread that reads the files beside the one that tokenizes and packs
        windows = in_background(windows, ahead=1)
    stream = _document_rows(windows, tokenizer, capacity=capacity, cursor=cursor)
    return _batches(stream, rows=rows, pad=tokenizer.special[BOS], device=device, background=background)


def _windows(documents: Iterator[Document], characters: int) -> Iterator[list[Document]]:
    """Lists of documents that hold so many characters; the last one of a finite stream is shorter, and may be empty."""
    while True:
        texts, missing = [], characters
        while missing > 0 and (document := next(documents, None)) is not None:
            texts.append(document)
            missing -= len(document.text)
        yield texts
        if missing > 0:
            return


def _document_rows(
    windows: Iterator[list[Document]], tokenizer: Tokenizer, *, capacity: int, cursor: Cursor | None
) -> Iterator[_Row]:
    bos = tokenizer.special[BOS]
    place = cursor["documents"] if cursor else None
    carry = [np.array(piece, np.int32) for piece in cursor["carry"]] if cursor else []
    window, skip = (cursor["window"], cursor["row"]) if cursor else (0, 0)
    for texts in windows:
        first = texts[0].cursor if texts else None
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
            yield _Row(ids_RC[order[row]], learn_C, {**begin, "row": row + 1})
        carry = [flat[start:stop] for start, stop in rest]
        place, window, skip = texts[-1].cursor if texts else place, window + 1, max(0, skip - len(packed))
    if carry and not skip:
        end = {"documents": place, "first": None, "carry": [p.tolist() for p in carry], "window": window, "row": 1}
        tokens = np.concatenate([piece for part in carry for piece in ([bos], part)])
        ids_C = np.full(capacity, bos, np.int32)
        ids_C[: len(tokens)] = tokens
        yield _Row(ids_C, np.arange(capacity) < len(tokens), end)


# Conversations


def conversation_batches(
    conversations: Callable[[int], Conversation] | Sequence[Conversation],
    tokenizer: Tokenizer,
    *,
    rows: int,
    length: int,
    device: torch.device | str = "cpu",
    cursor: Cursor | None = None,
    learn: Learn = "answers",
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
    background: bool = True,
) -> Iterator[Batch]:
    """Endless batches of whole conversations, several to a row where they fit, padded with weight 0.

    A conversation longer than a row is cut after an answer; one whose first answer does not fit is dropped and counted in
    `cursor["dropped"]`.

    Args:
        conversations: index -> conversation, endless; or a sequence, shuffled anew in each epoch by `seed`.
        learn: "answers", the assistant's own tokens (fine-tuning), or "all" (midtraining).

    Raises:
        ValueError: there are no conversations, or none that leaves an answer within `length`.
    """
    pick = conversations if callable(conversations) else _shuffled_epochs(conversations, seed)
    stream = _conversation_rows(
        lambda step: pick(rank + ranks * step), tokenizer, capacity=length + 1, cursor=cursor, learn_all=learn == "all"
    )
    return _batches(stream, rows=rows, pad=tokenizer.special[BOS], device=device, background=background)


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


def _conversation_rows(
    pick: Callable[[int], Conversation],
    tokenizer: Tokenizer,
    *,
    capacity: int,
    cursor: Cursor | None,
    learn_all: bool,
) -> Iterator[_Row]:
    def render(index: int) -> Rendered:
        return encode_conversation(tokenizer, pick(index), max_tokens=capacity)

    cursor = cursor or {"next": 0, "carry": [], "window": 0, "row": 0, "dropped": 0}
    index, carry, window, skip = (cursor[name] for name in ("next", "carry", "window", "row"))
    before = cursor["dropped"] - cursor.get("dropped_here", 0)
    while True:
        first, dropped, futile = index, 0, 0
        taken = {index: render(index) for index in carry}
        tokens = sum(len(one.ids) for one in taken.values())
        while tokens < WINDOW_ROWS * capacity:
            rendered = render(index)
            if rendered.targets:
                taken[index], futile = rendered, 0
                tokens += len(rendered.ids)
            else:
                dropped, futile = dropped + 1, futile + 1
                if futile == PATIENCE:
                    raise ValueError(
                        f"{PATIENCE} conversations in a row have no answer that ends within length {capacity - 1}; "
                        "allowed are conversations whose first answer does: raise the length or shorten them"
                    )
            index += 1
        begin = {"next": first, "carry": carry, "window": window, "dropped": before + dropped, "dropped_here": dropped}
        keys = list(taken)
        *groups, left = pack_whole([len(taken[key].ids) for key in keys], capacity)
        order = np.random.default_rng(window).permutation(len(groups))
        for row in range(skip, len(groups)):
            members = [taken[keys[member]] for member in groups[order[row]]]
            yield _conversation_row(members, {**begin, "row": row + 1}, capacity, tokenizer.special[BOS], learn_all)
        carry, window, skip, before = [keys[member] for member in left], window + 1, 0, before + dropped


def _conversation_row(members: list[Rendered], cursor: Cursor, capacity: int, pad: int, learn_all: bool) -> _Row:
    ids = np.concatenate([one.ids for one in members])
    learn = np.ones(len(ids), np.bool_) if learn_all else np.concatenate([one.mask for one in members])
    ids_C, learn_C = np.full(capacity, pad, np.int32), np.zeros(capacity, np.bool_)
    ids_C[: len(ids)], learn_C[: len(ids)] = ids, learn
    return _Row(ids_C, learn_C, cursor)


# Rollouts


def rollout_batch(
    rows_of_ids: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]],
    advantages: Sequence[float],
    *,
    length: int,
    pad: int,
    cursor: Cursor,
    rows: int = 64,
    device: torch.device | str = "cpu",
) -> list[Batch]:
    """Policy-gradient batches of one step: each sampled token weighs its answer's advantage.

    Args:
        rows_of_ids: prompt and answer of each rollout.
        masks: 1 on the tokens the model sampled itself, which `tokens` counts.
        length: what goes beyond `length` targets is cut off.
        cursor: of the whole step, the same in every batch.
        rows: most rows of a batch. They are sorted by length, so that little is padding; sums do not depend on it.
    """
    order = sorted(range(len(rows_of_ids)), key=lambda index: len(rows_of_ids[index]), reverse=True)
    batches = []
    for begin in range(0, len(order), rows):
        chosen = order[begin : begin + rows]
        width = min(length + 1, max(2, len(rows_of_ids[chosen[0]])))
        ids_BC, mask_BC = np.full((len(chosen), width), pad, np.int32), np.zeros((len(chosen), width), np.float32)
        for row, index in enumerate(chosen):
            ids, mask = rows_of_ids[index][:width], masks[index][:width]
            ids_BC[row, : len(ids)], mask_BC[row, : len(mask)] = ids, mask
        advantages_B1 = np.array([[advantages[index]] for index in chosen], np.float32)
        tokens = int(mask_BC[:, 1:].sum())
        batches.append(_host(ids_BC, mask_BC * advantages_B1, tokens, cursor).to(device))
    return batches


# Validation


@dataclass(frozen=True, kw_only=True)
class ByteBatch:
    """Text to be scored: beside each target the UTF-8 bytes it stands for, 0 for padding."""

    inputs_BT: Int[Tensor, "B T"]
    targets_BT: Int[Tensor, "B T"]
    bytes_BT: Int[Tensor, "B T"]


def validation_batches(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    rows: int,
    length: int,
    device: torch.device | str = "cpu",
) -> Iterator[ByteBatch]:
    """Every byte of the documents once, each document in rows of its own that begin with bos.

    A document longer than `length` goes on in another row. Rows are sorted by length and padded to a power of two (at most
    `length`), so that a score costs little and depends on nothing but text, tokenizer and length: not on `rows`.
    """
    bos, bytes_V = tokenizer.special[BOS], np.asarray(tokenizer.bytes_per_token)
    ids, offsets = tokenizer.encode_batch([document.text for document in documents])
    pieces = [
        ids[start : min(start + length, stop)]
        for begin, stop in pairwise(offsets.tolist())
        for start in range(begin, stop, length)
    ]
    pieces.sort(key=len, reverse=True)
    for begin in range(0, len(pieces), rows):
        chosen = pieces[begin : begin + rows]
        width = min(length, max(32, 1 << (len(chosen[0]) - 1).bit_length()))
        targets_BT, bytes_BT = np.full((len(chosen), width), bos, np.int64), np.zeros((len(chosen), width), np.int64)
        for row, piece in enumerate(chosen):
            targets_BT[row, : len(piece)] = piece
            bytes_BT[row, : len(piece)] = bytes_V[piece]
        inputs_BT = np.concatenate([np.full((len(chosen), 1), bos, np.int64), targets_BT[:, :-1]], axis=1)
        yield ByteBatch(
            inputs_BT=torch.from_numpy(inputs_BT).to(device),
            targets_BT=torch.from_numpy(targets_BT).to(device),
            bytes_BT=torch.from_numpy(bytes_BT).to(device),
        )


# Rows become tensors


def _batches(
    stream: Iterator[_Row], *, rows: int, pad: int, device: torch.device | str, background: bool
) -> Iterator[Batch]:
    pinned = torch.device(device).type == "cuda"
    batches = _stack(stream, rows=rows, pad=pad, pinned=pinned)
    for batch in in_background(batches) if background else batches:
        yield batch.to(device)


def _stack(stream: Iterator[_Row], *, rows: int, pad: int, pinned: bool) -> Iterator[_HostBatch]:
    """Groups of `rows` rows; the last group of a finite stream is filled up with padding."""
    while group := [row for _, row in zip(range(rows), stream, strict=False)]:
        cursor = group[-1].cursor
        while len(group) < rows:
            group.append(_Row(np.full_like(group[0].ids_C, pad), np.zeros_like(group[0].learn_C), cursor))
        learn_BC = np.stack([row.learn_C for row in group])
        tokens = int(learn_BC[:, 1:].sum())
        batch = _host(np.stack([row.ids_C for row in group]), learn_BC, tokens, cursor)
        yield batch.pin() if pinned else batch


@dataclass(frozen=True)
class _HostBatch:
    """A batch before it moves to its device. Each has memory of its own, so that a late copy cannot meet the next one."""

    inputs_BT: Int[Tensor, "B T"]
    targets_BT: Int[Tensor, "B T"]
    weights_BT: Float[Tensor, "B T"]
    tokens: int
    cursor: Cursor

    def pin(self) -> _HostBatch:
        tensors = (self.inputs_BT, self.targets_BT, self.weights_BT)
        return _HostBatch(*(tensor.pin_memory() for tensor in tensors), tokens=self.tokens, cursor=self.cursor)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            inputs_BT=self.inputs_BT.to(device, non_blocking=True),
            targets_BT=self.targets_BT.to(device, non_blocking=True),
            weights_BT=self.weights_BT.to(device, non_blocking=True),
            tokens=self.tokens,
            cursor=self.cursor,
        )


def _host(ids_BC: npt.NDArray, weights_BC: npt.NDArray, tokens: int, cursor: Cursor) -> _HostBatch:
    """Inputs are all tokens but the last, targets all but the first; the weight of a token is that of learning it."""
    return _HostBatch(
        torch.from_numpy(ids_BC[:, :-1].astype(np.int64)),
        torch.from_numpy(ids_BC[:, 1:].astype(np.int64)),
        torch.from_numpy(weights_BC[:, 1:].astype(np.float32)),
        tokens,
        cursor,
    )


def in_background(items: Iterator[T], *, ahead: int = 4) -> Iterator[T]:
    """The same items, made in a thread that stays at most `ahead` items in front; what it raises is raised here.

    The thread ends with the generator that this returns: when it is exhausted, closed or collected.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
    done = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not done.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if done.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="fledge-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        done.set()
        thread.join(timeout=5)  # longer only in a download, which must not hold up a Ctrl-C
