"""Documents of the embedded world, of a dataset known by name, or of a folder of .parquet, .jsonl(.gz, .zst) and .txt files.

    for document in open_documents("world"): document.text, document.cursor
    open_documents("corpus/", split="validation")
    open_documents("fineweb-edu", rank=3, ranks=8, cursor=document.cursor)     # goes on after that document

What is validation is decided by the hash of a document's text: the same text falls on the same side whatever the number of
files, ranks or rows of a batch, and a text that occurs twice is never on both. The documents that a bits per byte is
measured on are pinned by `validation_documents(...).hash`, to be printed beside the number.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from fledge.text import hub
from fledge.text.chat import Conversation, parse_conversation
from fledge.text.files import check_parquet, read_numbered, read_parquet, read_text_pieces
from fledge.text.generated import MODULES, Generated, find_generated

Split = Literal["train", "validation"]
Cursor = dict[str, Any]

COLUMN = "text"
ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".txt.gz", ".txt.zst")
VALIDATION_SHARE = 0.005
VALIDATION_BYTES = 2_000_000
"""Default size of the pinned set: at 3.5 bytes a token, about 570,000 tokens."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where the data goes on after it."""

    text: str
    cursor: Cursor


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a `--data` stands for, found without reading it."""

    name: str
    files: int
    bytes: int

    def __str__(self) -> str:
        if self.name in MODULES:
            return f"{self.name} (generated, endless)"
        if not self.files:
            return f"{self.name} ({hub.DATASETS[self.name].repo}, fetched shard by shard as the run needs it)"
        return f"{self.name} ({self.files} file{'s' * (self.files > 1)}, {self.bytes / 1e6:,.1f} MB)"


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """The documents that every bits per byte of a data set is measured on, and the hash that names them."""

    documents: list[Document]
    bytes: int
    hash: str


def open_documents(
    data: str,
    *,
    split: Split = "train",
    rank: int = 0,
    ranks: int = 1,
    seed: int = 0,
    cursor: Cursor | None = None,
) -> Iterator[Document]:
    """Documents of one split, for one of `ranks` readers that share them.

    Train repeats for ever, the files in another order from the second epoch on; validation of files ends, that of the world
    does not.

    Args:
        data: "world", a name of `hub.DATASETS`, a folder or a file.
        seed: of the world, and of the order of files in later epochs.
        cursor: of a document; what follows are the documents after it. Readers may have changed in number: then the files go
            on where this reader stood.

    Raises:
        FileNotFoundError, ValueError: as `describe`; or the split has no document, or none for this rank.
    """
    if (source := find_generated(data)) is not None:
        return _generated(source, split, rank=rank, ranks=ranks, seed=seed, cursor=cursor)
    return _documents(data, _files(data), split=split, rank=rank, ranks=ranks, seed=seed, cursor=cursor or {})


def validation_documents(data: str, *, bytes_wanted: int = VALIDATION_BYTES, seed: int = 0) -> Pinned:
    """The first validation documents, in the order of the files, until they hold so many UTF-8 bytes; at least one.

    More files behind the first ones change nothing once these suffice.
    """
    documents, size, digest = [], 0, hashlib.sha256()
    for document in open_documents(data, split="validation", seed=seed):
        raw = document.text.encode()
        documents.append(document)
        digest.update(hashlib.sha256(raw).digest())
        size += len(raw)
        if size >= bytes_wanted:
            break
    return Pinned(documents=documents, bytes=size, hash=digest.hexdigest()[:16])


def manifest_hash(data: str, split: Split, *, seed: int = 0) -> str:
    """16 hex digits that name the data: of validation the texts of `validation_documents`, of train the files and sizes."""
    if split == "validation":
        return validation_documents(data, seed=seed).hash
    if data in MODULES:
        return hashlib.sha256(f"{data}/{seed}".encode()).hexdigest()[:16]
    if (folder := _local_folder(data)) is None:
        return hashlib.sha256(hub.DATASETS[data].repo.encode()).hexdigest()[:16]
    listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in _list_files(folder))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def describe(data: str) -> Description:
    """A cheap check that the data can be read, before anything expensive begins. Nothing is downloaded.

    Raises:
        FileNotFoundError: neither a known name nor an existing folder or file.
        ValueError: it holds no file that we read, or one without the column `text`.
    """
    if data in MODULES:
        return Description(name=data, files=0, bytes=0)
    if (folder := _local_folder(data)) is None:
        return Description(name=data, files=0, bytes=0)
    paths = _list_files(folder)
    for path in paths:
        if path.suffix == ".parquet":
            check_parquet(path, column=COLUMN)
    return Description(name=data, files=len(paths), bytes=sum(path.stat().st_size for path in paths))


def open_conversations(path: str | Path) -> Sequence[Conversation]:
    """The user's own conversations, `{"messages": [...]}` per line of a .jsonl(.gz, .zst) file or of all in a folder.

    Raises:
        FileNotFoundError, ValueError: what is wrong, with file and line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file; expected a .jsonl with one {{"messages": [...]}} per line')
    paths = [path] if path.is_file() else [file for file in sorted(path.iterdir()) if ".jsonl" in file.name]
    conversations = [
        parse_conversation(record, f"{file} line {number}") for file in paths for number, record in read_numbered(file)
    ]
    if not conversations:
        raise ValueError(f'{path}: no conversation found; expected .jsonl with one {{"messages": [...]}} per line')
    return conversations


# Generated data sets


def _generated(
    source: Generated, split: Split, *, rank: int, ranks: int, seed: int, cursor: Cursor | None
) -> Iterator[Document]:
    begin = cursor["index"] if cursor else 0
    index = begin + (rank - begin) % ranks
    while True:
        yield Document(source.document(seed, index, split=split), {"index": index + 1})
        index += ranks


# Files


def _files(data: str) -> Sequence[Path]:
    folder = _local_folder(data)
    return hub.Shards(hub.DATASETS[data]) if folder is None else _list_files(folder)


def _local_folder(data: str) -> Path | None:
    """The folder or file that holds the data; None: a name that has to be fetched."""
    if data in hub.DATASETS:
        return hub.find_dataset(data)
    path = Path(data)
    if path.exists():
        return path
    names = [*MODULES, *hub.DATASETS]
    close = get_close_matches(data, names, n=1)
    hint = f"did you mean {close[0]}?" if close else "give an existing path or one of the names"
    raise FileNotFoundError(
        f"data {data!r}: neither a name ({', '.join(names)}) nor an existing folder or file; {hint}"
    )


def _list_files(path: Path) -> list[Path]:
    if path.is_file():
        if not path.name.endswith(ENDINGS):
            raise ValueError(f"{path}: a file of type {path.suffix or 'unknown'}; allowed are {', '.join(ENDINGS)}")
        return [path]
    found = [file for file in sorted(path.rglob("*")) if file.is_file()]
    files = [file for file in found if file.name.endswith(ENDINGS) and not file.name.startswith(".")]
    if not files:
        seen = ", ".join(file.name for file in found[:3]) or "nothing"
        raise ValueError(f"{path}: holds {seen}, but no {', '.join(ENDINGS)}; put at least one such file there")
    return files


def _documents(
    data: str, files: Sequence[Path], *, split: Split, rank: int, ranks: int, seed: int, cursor: Cursor
) -> Iterator[Document]:
    chosen = _Validation(data, files)
    epoch, first, begin = cursor.get("epoch", 0), cursor.get("file", 0), cursor.get("row", 0)
    while True:
        order = _file_order(len(files), seed=seed, epoch=epoch)
        came = first > 0 or begin > 0
        for place in range(first, len(files)):
            for row, text in _read(files[order[place]], begin):
                if (order[place] + row) % ranks == rank and chosen.holds(text) == (split == "validation"):
                    came = True
                    yield Document(text, {"epoch": epoch, "file": place, "row": row + 1})
            begin = 0
        if not came:
            raise ValueError(
                f"data {data!r}: no document of {split} for reader {rank + 1} of {ranks}; "
                "use fewer ranks or more documents"
            )
        if split == "validation":
            return
        epoch, first, begin = epoch + 1, 0, 0


def _file_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The first epoch in order, so that shards can arrive while the first ones train; later ones shuffled."""
    order = list(range(count))
    if epoch:
        random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def _read(path: Path, begin: int) -> Iterator[tuple[int, str]]:
    """Rows from `begin` on and their texts; rows without text are left out."""
    if path.suffix == ".parquet":
        texts: Iterator[tuple[int, str | None]] = enumerate(read_parquet(path, column=COLUMN, begin=begin), begin)
    elif ".jsonl" in path.name:
        texts = ((number - 1, _text_of(record, path, number)) for number, record in read_numbered(path))
    else:
        texts = enumerate(read_text_pieces(path))
    return ((row, text) for row, text in texts if row >= begin and text and not text.isspace())


def _text_of(record: dict[str, Any], path: Path, number: int) -> str:
    text = record.get(COLUMN, 0)
    if text is None:  # as in a .parquet: a row without text
        return ""
    if not isinstance(text, str):
        raise ValueError(
            f'{path} line {number}: fields {", ".join(record) or "none"} found; expected {{"{COLUMN}": "..."}} '
            "(conversations are given to midtrain and sft)"
        )
    return text


class _Validation:
    """Which texts are validation: those with a small hash, or where there is none, the one with the smallest."""

    def __init__(self, data: str, files: Sequence[Path]) -> None:
        self.limit = int(VALIDATION_SHARE * 2**64)
        smallest, distinct = 2**64, set()
        for path in files:
            for _, text in _read(path, 0):
                value = document_hash(text)
                distinct.add(value)
                smallest = min(smallest, value)
                if smallest < self.limit and len(distinct) > 1:
                    return
        if len(distinct) < 2:
            raise ValueError(
                f"data {data!r}: {len(distinct)} document found; at least two different ones are needed, "
                "one of them for validation. Add text"
            )
        self.limit = smallest + 1

    def holds(self, text: str) -> bool:
        return document_hash(text) < self.limit


def document_hash(text: str) -> int:
    """64 bits that depend on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
