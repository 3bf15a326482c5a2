"""How fast text becomes tensors, and what packing does to documents.

    fledge bench data                                   # on text of the embedded world, written to parquet first
    fledge bench data --data DIR --tokenizer runs/demo/tokenizer

Reading, tokenizing and packing are measured one by one and together, in wall time and in CPU time: the second does not depend
on what else the machine does. Packing is compared with cropping as nanochat does it: a document that does not fit is cut
to the row and its remainder dropped.
"""

from __future__ import annotations

import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np

from fledge.console import console, table
from fledge.text.documents import Document, open_documents
from fledge.text.packing import pack_spans
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import document_batches


@dataclass(frozen=True, kw_only=True)
class DataBench:
    """Settings of `fledge bench data`."""

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


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens per second of one part of the way."""

    part: str
    tokens: int
    seconds: float
    cpu_seconds: float

    @property
    def wall(self) -> float:
        return self.tokens / self.seconds

    @property
    def per_core(self) -> float:
        return self.tokens / self.cpu_seconds


def main(config: DataBench) -> None:
    """Measure and print two tables."""
    with tempfile.TemporaryDirectory() as folder:
        data = (
            _world_parquet(Path(folder), characters=min(8_000_000, 4 * config.tokens))
            if config.data == "world"
            else config.data
        )
        tokenizer = _tokenizer(config, data)
        sample = list(_documents_of(tokenizer, _open(data, config), config.tokens))
        sizes = [size for _, size in sample]
        documents = [document for document, _ in sample]
        speeds = _speeds(config, data, tokenizer, documents, sum(sizes))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text_bytes = sum(len(document.text.encode()) for document in documents)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    console.print(
        f"{len(sizes):,} documents, {sum(sizes):,} tokens of {text_bytes / sum(sizes):.2f} bytes; {cores} cores{load}"
    )
    rows = [[one.part, f"{one.wall / 1e6:.2f}", f"{one.per_core / 1e6:.2f}"] for one in speeds]
    table("Million tokens per second", ["part", "wall", "per CPU second"], rows)
    rows = [
        [name, f"{dropped:.1%}", f"{severed:.1%}"]
        for name, dropped, severed in (
            ("cut and go on (ours)", *packing_shares(sizes, config.length + 1)),
            ("cut and drop (nanochat)", cropping_share(sizes, config.length + 1), 0.0),
        )
    ]
    unavoidable = sum(max(0, size - config.length) for size in sizes) / sum(sizes)
    rows.append(["unavoidable: documents longer than a row", "", f"{unavoidable:.1%}"])
    table(f"Packing into rows of {config.length}", ["policy", "tokens dropped", "tokens without their beginning"], rows)


def packing_shares(sizes: list[int], capacity: int) -> tuple[float, float]:
    """Shares of tokens that our packing drops, and puts into a row without the beginning of their document."""
    ends = np.cumsum([0, *sizes]).tolist()
    rows, rest = pack_spans(pairwise(ends), capacity)
    beginnings, total = set(ends), ends[-1]
    spans = [span for row in [*rows, rest] for span in row]
    used = sum(stop - start for start, stop in spans)
    severed = sum(stop - start for start, stop in spans if start not in beginnings)
    return 1 - used / total, severed / total


def cropping_share(sizes: Iterable[int], capacity: int, *, buffer: int = 1000) -> float:
    """Share of tokens lost by cropping: the longest of `buffer` documents that fits goes in; else the shortest is cut.

    What a row has no room for is dropped. Rows are filled until the documents run out.
    """
    source = iter(sizes)
    waiting = sorted(islice(source, buffer))
    total, dropped = sum(waiting), 0
    room = capacity
    while waiting:
        fit = bisect_right(waiting, room - 1) - 1
        size = waiting.pop(max(0, fit))
        kept = min(size, room - 1)
        dropped += size - kept
        room -= kept + 1
        if room < 2:
            room = capacity
        if (following := next(source, None)) is not None:
            waiting.insert(bisect_right(waiting, following), following)
            total += following
    return dropped / max(1, total)


def _speeds(config: DataBench, data: str, tokenizer: Tokenizer, documents: list[Document], tokens: int) -> list[Speed]:
    _, offsets = tokenizer.encode_batch([document.text for document in documents])
    spans = list(pairwise(offsets.tolist()))

    def read() -> None:
        for _ in islice(_open(data, config), len(documents)):
            pass

    def encode() -> None:
        tokenizer.encode_batch([document.text for document in documents])

    def pack() -> None:
        pack_spans(spans, config.length + 1)

    def everything() -> None:
        stream = document_batches(_open(data, config), tokenizer, rows=config.rows, length=config.length)
        for _ in islice(stream, batches):
            pass
        stream.close()  # type: ignore[attr-defined]

    batches = max(1, tokens // (config.rows * config.length))
    parts: list[tuple[str, Callable[[], None], int]] = [
        ("read", read, tokens),
        ("tokenize", encode, tokens),
        ("pack", pack, tokens),
        ("all, from file to tensors", everything, batches * config.rows * config.length),
    ]
    return [_time(part, act, tokens) for part, act, tokens in parts]


def _time(part: str, act: Callable[[], None], tokens: int) -> Speed:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return Speed(part=part, tokens=tokens, seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


def _open(data: str, config: DataBench) -> Iterator[Document]:
    return open_documents(data)


def _tokenizer(config: DataBench, data: str) -> Tokenizer:
    if config.tokenizer:
        return Tokenizer.load(config.tokenizer)
    texts = (document.text for document in _open(data, config))
    return Tokenizer.train(texts, vocab=config.vocab, max_chars=20_000_000)


def _documents_of(tokenizer: Tokenizer, documents: Iterator[Document], tokens: int) -> Iterator[tuple[Document, int]]:
    """Documents and their sizes until they hold so many tokens."""
    while tokens > 0:
        some = list(islice(documents, 256))
        _, offsets = tokenizer.encode_batch([document.text for document in some])
        sizes = np.diff(offsets.astype(np.int64)).tolist()
        yield from zip(some, sizes, strict=True)
        tokens -= sum(sizes)


def _world_parquet(folder: Path, *, characters: int) -> str:
    """Text of the embedded world as a parquet file, repeated when more is wanted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fernhollow import document

    texts, size = [], 0
    for index in count():
        texts.append(document(0, index))
        size += len(texts[-1])
        if size >= characters:
            break
    pq.write_table(pa.table({"text": texts}), folder / "world.parquet", row_group_size=1024)
    return str(folder)
