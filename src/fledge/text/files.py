"""Files of a user's: which ones a folder stands for, what tells them from others, and what they are where they are none of ours.

found = find_files(Path("chats"), RECORDS); found.files, found.left_out, found.fingerprints()
foreign(Path("chats.parquet"))                    # "a web page, perhaps the error of a server: fetch the file again"
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
RECORDS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Endings of files that hold records with fields; all but .parquet also compressed, and all in capitals."""
TEXTS = (*RECORDS, ".txt", ".md")
HASHED_BYTES = 1 << 30
"""Data up to this size is told apart by every byte of it, more by what stands at both ends of each file."""
ENDS_BYTES = 1 << 16
HEAD_BYTES = 512
"""Of a file, to see what it is."""

Source = Path | zipfile.Path


class Found(NamedTuple):
    """The files that a path stands for."""

    root: Path
    files: list[Path]
    left_out: list[str]
    """What else lies in the folder: hidden and backup files, other endings, links to what is read already."""

    def __str__(self) -> str:
        size = sum(file.stat().st_size for file in self.files)
        count = f"{len(self.files)} file{'s' * (len(self.files) > 1)}, {size / 1e6:,.1f} MB"
        return count + (f"; left out: {listed(self.left_out)}" if self.left_out else "")

    def fingerprints(self) -> dict[str, str]:
        """What tells each file from others, by its name in the folder: bytes and hash. Where the folder lies plays no part."""
        sizes = {file: file.stat().st_size for file in self.files}
        whole = sum(sizes.values()) <= HASHED_BYTES
        return {self._name(file): f"{size} bytes, {_hash(file, size, whole=whole)}" for file, size in sizes.items()}

    def _name(self, file: Path) -> str:
        return file.name if file == self.root else file.relative_to(self.root).as_posix()


def find_files(path: Path, endings: Sequence[str]) -> Found:
    """A file, or all files of a folder with such an ending, sorted; of texts and conversations alike.

    Subfolders are read too, also behind symbolic links, but nothing twice. Names that begin with `.`, `~` or `#` are hidden,
    or a backup or lock of some program. What describes a data set stays out: a README, a .json that holds no array.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: the file has another ending, or the folder no file with one.
        OSError: a folder in it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give one with {_allowed(endings)}")
    if path.is_file():
        if kind_of(path) not in endings:
            found = foreign(path) or FORMS.get(kind_of(path), f"a file of type {path.suffix or 'unknown'}")
            raise ValueError(f"{path}: {found}; allowed are {_allowed(endings)}")
        return Found(path, [path], [])
    if not path.is_dir():
        raise ValueError(f"{path}: neither a file nor a folder; allowed are those, so write it to a file and give that")
    files: list[Path] = []
    left_out: list[str] = []
    seen, folders = {os.path.realpath(path)}, deque([path])
    while folders:
        for entry in sorted(folders.popleft().iterdir()):
            real, name = os.path.realpath(entry), entry.relative_to(path).as_posix()
            if entry.name.startswith((".", "~", "#")):
                left_out.append(name)
            elif real in seen:
                left_out.append(f"{name} (is read already)")
            elif entry.is_dir():
                seen.add(real)
                # Links come last, so that what lies in the folder itself is read under its own name.
                (folders.append if entry.is_symlink() else folders.appendleft)(entry)
            elif entry.is_file() and kind_of(entry) in endings and not _describes(entry):
                seen.add(real)
                files.append(entry)
            else:
                left_out.append(name)
    if not files:
        there = listed(sorted(left_out)) or "nothing"
        kinds = dict.fromkeys(kind_of(path / name) for name in left_out)
        hints = [FORMS[kind] for kind in kinds if kind in FORMS and (kind == ".json" or kind not in endings)]
        there += f" ({'; '.join(hints)})" if hints else ""
        raise ValueError(f"{path}: holds {there}, but no {_allowed(endings)}; put at least one such file there")
    return Found(path, sorted(files), sorted(left_out))


def _describes(file: Path) -> bool:
    if kind_of(file) == ".json" and file.suffix.lower() not in COMPRESSED:
        with file.open("rb") as raw:
            return not raw.read(HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    return file.stem.lower() == "readme"


def kind_of(path: Source) -> str:
    """The ending that says how a file is read, without that of its compression: `.jsonl` of Chats.JSONL.gz."""
    name = path.name.lower()
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return os.path.splitext(name)[1]


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _allowed(endings: Sequence[str]) -> str:
    return f"{', '.join(endings)} (all but .parquet also with .gz or .zst behind)"


def _hash(file: Path, size: int, *, whole: bool) -> str:
    with file.open("rb") as raw:
        if whole:
            return hashlib.file_digest(raw, "blake2b").hexdigest()[:16]
        digest = hashlib.blake2b(raw.read(ENDS_BYTES))
        raw.seek(max(0, size - ENDS_BYTES))
        digest.update(raw.read(ENDS_BYTES))
        return digest.hexdigest()[:16]


# What a file is that is not what its name says


MARKS = {
    b"version https://git-lfs": "a pointer of Git LFS instead of the file itself: `git lfs pull` fetches that",
    b"PAR1": "a parquet file: let its name end in .parquet",
    b"\x1f\x8b": "compressed by gzip: let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: let its name end in .zst",
    b"BZh": "compressed by bzip2: unpack it",
    b"\xfd7zXZ": "compressed by xz: unpack it",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"%PDF": "a PDF: save its text as .txt instead",
    b"\xff\xfe": "text in UTF-16: convert it to UTF-8",
    b"\xfe\xff": "text in UTF-16: convert it to UTF-8",
}
"""How files begin, what they are, and what to do."""
FORMS = {
    ".txt": "a text: let the name of a file with one object to a line end in .jsonl",
    ".md": "a text in Markdown, for tokenizer and pretrain",
    ".json": "no array, so what describes a data set: let the name of one with an object to a line end in .jsonl",
}
"""What files are that a folder is not read for."""
PRINTABLE = {*range(32, 127), *b"\t\r\n"}


def foreign(path: Source, head: bytes | None = None) -> str | None:
    """What a file is instead of that which its name says, and what to do; None: nothing strange. By its first bytes."""
    if head is None:
        with path.open("rb") as file:
            head = cast(bytes, file.read(HEAD_BYTES))
    for mark, what in MARKS.items():
        if head.startswith(mark) and not what.endswith(f" {path.suffix.lower()}"):
            return what
    if 3 * max(head[::2].count(0), head[1::2].count(0)) > len(head):
        return "text in UTF-16, or no text at all: convert it to UTF-8"
    if kind_of(path) not in (".txt", ".md") and head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps the error of a server: fetch the file again"
    if path.suffix.lower() in COMPRESSED and head and not set(head) - PRINTABLE:
        return f"plain text, not compressed: take {path.suffix} off its name"
    return None
