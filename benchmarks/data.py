"""How fast text becomes tensors.

    python -m benchmarks data                                   # on text of the embedded world, written to parquet first
    python -m benchmarks data --data DIR --tokenizer runs/demo/tokenizer

Reading, tokenizing and packing are measured one by one and together.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fernhollow
from benchmarks.harness import compare, show
from fledge.console import say
from fledge.text.documents import open_documents
from fledge.text.packing import pack_spans
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import batched, document_rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    """From files to training batches."""

    data: str = "world"
    """"world", a name, a folder or a file."""
    tokenizer: str | None = None
    """Folder of a trained tokenizer. None: one is trained on the text's beginning."""
    vocab: int = 32_768
    """Of the tokenizer that is trained here."""
    length: int = 2048
    """Targets per row."""
    rows: int = 32
    """Rows per batch."""
    tokens: int = 10_000_000
    """Tokens to measure on."""
    repeats: int = 1
    """Turns of every measurement; the median counts."""


def main(settings: Settings) -> None:
    """Measure and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        data = settings.data
        if data == "world":
            data = write_world(Path(folder), documents=settings.tokens // 200)  # read three times over
        tokenizer = tokenizer_for(settings, data)
        texts, sizes = texts_of(tokenizer, data, settings.tokens)
        tokens = sum(sizes)
        spans = list(pairwise(np.cumsum([0, *sizes]).tolist()))
        batches = max(1, tokens // (settings.rows * settings.length))

        def everything() -> None:
            rows = document_rows(open_documents(data), tokenizer, length=settings.length)
            stream = batched(rows, rows=settings.rows)
            for _ in islice(stream, batches):
                pass
            stream.close()  # type: ignore[attr-defined]

        ways = {
            "read": lambda: sum(1 for _ in islice(open_documents(data), len(texts))),
            "tokenize": lambda: tokenizer.encode_batch(texts),
            "pack": lambda: pack_spans(spans, settings.length + 1),
            "all, from file to tensors": everything,
        }
        done = compare(ways, repeats=settings.repeats)
    text_bytes = sum(len(text.encode()) for text in texts)
    say(f"{len(texts):,} documents, {tokens:,} tokens of {text_bytes / tokens:.2f} bytes")
    moved = dict.fromkeys(ways, tokens) | {"all, from file to tensors": batches * settings.rows * settings.length}
    rows = [[name, one.time.rate(moved[name] / 1e6), str(one.time)] for name, one in done.items()]
    show("from files to tensors", ["part", "million tokens per second", "seconds"], rows)


def tokenizer_for(settings: Settings, data: str) -> Tokenizer:
    """The one that was named, or one trained on the text's beginning."""
    if settings.tokenizer:
        return Tokenizer.load(settings.tokenizer)
    texts = (document.text for document in open_documents(data))
    return Tokenizer.train(texts, vocab=settings.vocab, max_chars=20_000_000)


def texts_of(tokenizer: Tokenizer, data: str, tokens: int) -> tuple[list[str], list[int]]:
    """Documents and their sizes until they hold so many tokens."""
    texts, sizes, documents = [], [], open_documents(data)
    while sum(sizes) < tokens:
        texts += [document.text for document in islice(documents, 256)]
        _, offsets = tokenizer.encode_batch(texts[len(sizes) :])
        sizes += np.diff(offsets.astype(np.int64)).tolist()
    return texts, sizes


def write_world(folder: Path, *, documents: int) -> str:
    """Text of the embedded world as a parquet file."""
    texts = list(islice(fernhollow.documents(0), documents))
    pq.write_table(pa.table({"text": texts}), folder / "world.parquet", row_group_size=1024)
    return str(folder)
