"""What is held out, measured: bits per byte of text, and of the answers of conversations.

batches = validation_batches(pinned.documents, tokenizer, rows=16, length=2048)
validation_bits_per_byte(model, batches)                                            # 2.1
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fledge import ranks
from fledge.model.head import LOGITS
from fledge.model.transformer import Transformer
from fledge.text.chat import Conversation, encode_conversation
from fledge.text.documents import Document
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import BOS, batch_of
from fledge.train.loop import Batch


@torch.no_grad()
def validation_bits_per_byte(model: Transformer, batches: Iterable[Batch]) -> float:
    """Loss per byte of text rather than per token, so that tokenizers can be compared.

    Args:
        batches: of `validation_batches`, weights being bytes; targets that stand for 0 bytes (special, padding) are left out.
            A batch that fits in memory when it is trained on does so here: there is no gradient, and logits are bounded.
            Several ranks share them.

    Returns:
        sum(nll) / (ln 2 * sum(bytes)). Guessing 256 equally likely bytes scores 8; lower is better.

    Raises:
        ValueError: no target stands for any byte.

    Source: bits per UTF-8 byte as in Gao et al. 2020, arXiv:2101.00027.
    """
    was, nats, count = model.training, 0.0, 0
    model.eval()  # training leaves out some pairs
    # Of a model in shards all ranks compute each batch together.
    first, step = (0, 1) if model.whole else (ranks.number(), ranks.count())
    for batch in itertools.islice(batches, first, None, step):
        rows = max(1, LOGITS // (batch.inputs_BT.size(1) * model.config.vocab))
        parts = zip(*(part.split(rows) for part in (batch.inputs_BT, batch.targets_BT, batch.weights_BT)), strict=True)
        for inputs_BT, targets_BT, bytes_BT in parts:
            kept = bytes_BT > 0
            nll = F.cross_entropy(model(inputs_BT)[kept], targets_BT[kept], reduction="none")
            nats += float(nll.double().sum())
        count += int(batch.weights_BT.double().sum())
    model.train(was)
    nats, count = ranks.sum_of([nats, count])
    if count == 0:
        raise ValueError(
            "no target stands for any byte of text; measure on text, not on special tokens or padding alone"
        )
    return nats / (math.log(2) * count)


def validation_batches(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    rows: int,
    length: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Every byte of the documents once, each document in rows of its own that begin with bos.

    The weight of a target is the number of UTF-8 bytes it stands for, 0 for padding. A document longer than `length` goes on in
    another row. Rows are sorted by length and padded to a power of two (at most `length`), so that a score costs little and
    depends on nothing but text, tokenizer and length: not on `rows`.
    """
    ids, offsets = tokenizer.encode_batch([document.text for document in documents])
    pieces = [
        ids[start : min(start + length, stop)]
        for begin, stop in pairwise(offsets.tolist())
        for start in range(begin, stop, length)
    ]
    measured = [(piece, tokenizer.bytes_per_token[piece]) for piece in pieces]
    return _by_length(measured, tokenizer.special[BOS], rows=rows, length=length, device=device)


def answer_batches(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    *,
    rows: int,
    length: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """As `validation_batches`: conversations in rows of their own, of which the bytes of the answers to learn are counted."""
    measured = []
    for one in conversations:
        rendered = encode_conversation(tokenizer, one, max_tokens=length + 1)
        ids, mask = np.asarray(rendered.ids[1:], np.int32), np.asarray(rendered.mask[1:])  # behind bos
        measured.append((ids, tokenizer.bytes_per_token[ids] * mask))
    return _by_length(measured, tokenizer.special[BOS], rows=rows, length=length, device=device)


def _by_length(
    pieces: list[tuple[npt.NDArray, npt.NDArray]], bos: int, *, rows: int, length: int, device: torch.device | str
) -> Iterator[Batch]:
    """Batches of pieces behind bos, each with the weights of its tokens, the longest first."""
    pieces.sort(key=lambda piece: len(piece[0]), reverse=True)
    for begin in range(0, len(pieces), rows):
        chosen = pieces[begin : begin + rows]
        width = min(length, max(32, 1 << (len(chosen[0][0]) - 1).bit_length()))
        ids_BC = np.full((len(chosen), 1 + width), bos, np.int32)
        weights_BC = np.zeros(ids_BC.shape, np.float32)
        for row, (ids, weights) in enumerate(chosen):
            ids_BC[row, 1 : 1 + len(ids)], weights_BC[row, 1 : 1 + len(ids)] = ids, weights
        yield batch_of(ids_BC, weights_BC, tokens=sum(len(ids) for ids, _ in chosen), cursor={}).to(device)
