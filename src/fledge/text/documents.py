"""Documents of a data set: generated, fetched by name, or read from .parquet, .jsonl(.gz, .zst) and .txt files.

    for document in open_documents("world"): document.text, document.cursor
    open_documents("corpus/", split="validation")
    open_documents("fineweb-edu", cursor=document.cursor)                      # goes on after that document

What is validation is decided by the hash of a document's text: the same text falls on the same side whatever the number of
files or the rows of a batch, and a text that occurs twice is never on both. The documents that a bits per byte is measured on
are pinned by `validation_documents(...).hash`, to be printed beside the number.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fledge.settings import shares_of
from fledge.text.chat import form_of
from fledge.text.datasets import HUB, find_data
from fledge.text.files import RECORDS, TEXTS, find_files, kind_of
from fledge.text.hub import Dataset, Shards
from fledge.text.records import check_parquet, read_records, without

Split = Literal["train", "validation"]
Cursor = dict[str, Any]
Files = Sequence[Path] | Shards

COLUMN = "text"
"""Of a file that holds more: what the data sets of the hub call it, and ours."""
VALIDATION_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where the data goes on after it."""

    text: str
    cursor: Cursor


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """The documents that every bits per byte of a data set is measured on, and the hash that names them."""

    documents: list[Document]
    bytes: int
    hash: str
    parts: Mapping[str, Pinned] = field(default_factory=dict)
    """Those of each source, where there are several."""


def open_documents(
    data: str, *, split: Split = "train", seed: int = 0, cursor: Cursor | None = None, column: str = COLUMN
) -> Iterator[Document]:
    """Documents of one split.

    Train repeats for ever, the files in another order from the second epoch on; validation of files ends, that of generated
    data does not.

    Args:
        data: as `find_data` knows it, or several of these with their shares, as `shares_of` reads them.
        seed: of generated data, and of the order of files in later epochs.
        cursor: of a document; what follows are the documents after it.
        column: of files of the user's that hold records.

    Raises:
        FileNotFoundError, ValueError: as `describe`; or the split has no document.
    """
    shares = shares_of(data)
    if len(shares) > 1:
        places: list[Cursor | None] = cursor["sources"] if cursor else [None] * len(shares)
        sources = [
            open_documents(name, split=split, seed=seed, cursor=place, column=column)
            for name, place in zip(shares, places, strict=True)
        ]
        read = cursor["characters"] if cursor else [0] * len(shares)
        return _mixed(sources, [*shares.values()], places=places, read=read)
    [data] = shares
    found = find_data(data)
    if isinstance(found, Path | Dataset):
        files = find_files(found, TEXTS).files if isinstance(found, Path) else Shards(found)
        column = COLUMN if data in HUB else column
        return _documents(data, files, split=split, seed=seed, cursor=cursor or {}, column=column)
    indices = itertools.count(cursor["index"] if cursor else 0)
    return (Document(found.document(seed, index, split=split), {"index": index + 1}) for index in indices)


def validation_documents(data: str, *, bytes_wanted: int, seed: int = 0, column: str = COLUMN) -> Pinned:
    """The first validation documents, in the order of the files, until they hold so many UTF-8 bytes; at least one.

    More files behind the first ones change nothing once these suffice. Of several sources each gives its share.
    """
    if len(shares := shares_of(data)) > 1:
        each = {name: math.ceil(bytes_wanted * share / sum(shares.values())) for name, share in shares.items()}
        parts = {
            name: validation_documents(name, bytes_wanted=wanted, seed=seed, column=column)
            for name, wanted in each.items()
        }
        documents = [document for part in parts.values() for document in part.documents]
        named = hashlib.sha256("".join(part.hash for part in parts.values()).encode()).hexdigest()[:16]
        return Pinned(documents=documents, bytes=sum(part.bytes for part in parts.values()), hash=named, parts=parts)
    documents, size, digest = [], 0, hashlib.sha256()
    for document in open_documents(data, split="validation", seed=seed, column=column):
        raw = document.text.encode()
        documents.append(document)
        digest.update(hashlib.sha256(raw).digest())
        size += len(raw)
        if size >= bytes_wanted:
            break
    return Pinned(documents=documents, bytes=size, hash=digest.hexdigest()[:16])


def describe(data: str, *, column: str = COLUMN) -> str:
    """What a `--data` stands for, in words; a cheap check that it can be read, before anything expensive begins.

    Nothing is downloaded, and of files little is read: the descriptions of parquet files, the first records of others.

    Raises:
        FileNotFoundError: neither a known name nor an existing folder or file.
        ValueError: it holds no file that we read, or one without the column.
    """
    shares = shares_of(data)
    if len(shares) > 1:
        told = (f"{share / sum(shares.values()):.0%} {describe(name, column=column)}" for name, share in shares.items())
        return " and ".join(told)
    [data] = shares
    found = find_data(data)
    if isinstance(found, Dataset):
        return f"{data} ({found.repo}, fetched shard by shard as the run needs it)"
    if not isinstance(found, Path):
        return f"{data} (generated, endless)"
    there = find_files(found, TEXTS)
    for path in there.files:
        if kind_of(path) == ".parquet":
            check_parquet(path, column=COLUMN if data in HUB else column)
        elif kind_of(path) in RECORDS:
            next(_read(path, 0, COLUMN if data in HUB else column), None)
    return f"{data} ({there})"


def _mixed(
    sources: Sequence[Iterator[Document]], shares: Sequence[float], *, places: list[Cursor | None], read: list[int]
) -> Iterator[Document]:
    """Always the next document of the source of which, for its share, the fewest characters were read; validation may end."""
    left = list(range(len(sources)))
    while left:
        chosen = min(left, key=lambda number: read[number] / shares[number])
        if (document := next(sources[chosen], None)) is None:
            left.remove(chosen)
            continue
        places, read = places.copy(), read.copy()  # a cursor stays as it is
        places[chosen] = document.cursor
        read[chosen] += len(document.text)
        yield Document(document.text, {"sources": places, "characters": read})


def _documents(data: str, files: Files, *, split: Split, seed: int, cursor: Cursor, column: str) -> Iterator[Document]:
    limit = _validation_limit(data, files, column)
    first, begin = cursor.get("file", 0), cursor.get("row", 0)
    for epoch in itertools.count(cursor.get("epoch", 0)):
        order = list(range(len(files)))
        if epoch:  # the first in order, so that shards can arrive while the first ones train
            random.Random(f"{seed}/{epoch}").shuffle(order)
        came = first > 0 or begin > 0
        for place in range(first, len(files)):
            for rows, text in _read(files[order[place]], begin, column):
                if (document_hash(text) < limit) == (split == "validation"):
                    came = True
                    yield Document(text, {"epoch": epoch, "file": place, "row": rows})
            begin = 0
        if not came:
            raise ValueError(f"data {data!r}: no document of {split}; add more documents")
        if split == "validation":
            return
        first, begin = 0, 0


def _read(path: Path, begin: int, column: str) -> Iterator[tuple[int, str]]:
    """Texts behind the first `begin` rows, each with the number of rows read with it; rows without text are left out."""
    if kind_of(path) not in RECORDS:  # a text as a whole
        column = COLUMN
    elif kind_of(path) == ".parquet":
        check_parquet(path, column=column)
    for record in read_records(path, columns=[column], begin=begin):
        if column not in record:
            raise without(column, record, record.where + form_of(record))
        text = record[column]
        if text is not None and not isinstance(text, str):  # None, as .parquet has it: a row without text
            raise record.wrong(column, f'{{"{column}": "..."}}')
        if text and not text.isspace():
            yield record.number, text


def _validation_limit(data: str, files: Files, column: str) -> int:
    """Texts with a hash below it are validation. Where no text has one below the share, it lies above the smallest."""
    limit = int(VALIDATION_SHARE * 2**64)
    hashes: set[int] = set()
    for path in files:
        for _, text in _read(path, 0, column):
            hashes.add(document_hash(text))
            if len(hashes) > 1 and min(hashes) < limit:
                return limit
    if len(hashes) < 2:
        raise ValueError(
            f"data {data!r}: {len(hashes)} different document{'s' * (not hashes)} found; at least two are needed, "
            "one of them for validation. Add text"
        )
    return min(hashes) + 1


def document_hash(text: str) -> int:
    """64 bits that depend on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
