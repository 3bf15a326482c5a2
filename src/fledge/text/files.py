"""Files of a user's: which ones a folder stands for, and the records in them, all in one way.

    found = find_files(Path("chats"), RECORDS); found.files, found.left_out
    for record in read_records(Path("gsm8k/train.jsonl.gz")): record.text("question"), record.where

A record is a line of a .jsonl, a row of a .parquet, or a piece of a .txt; plain or compressed (.gz, .zst). Every error names
the file and, where there is one, the line and the field, what was found there and what is allowed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import pyarrow.parquet as pq

TEXT_CUT = "<|endoftext|>"
"""Where a .txt says that a document ends, as the files of TinyStories do."""
TEXT_CHARACTERS = 2_000
"""A .txt without such marks is cut at the first blank line after so many characters."""
TEXT_LIMIT = 100_000
"""And at a line's end after so many; a longer line is cut at a blank."""
PARQUET_ROWS = 256
"""Rows of a .parquet that are turned into Python's objects at a time."""
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
RECORDS = (".parquet", ".jsonl", ".ndjson")
"""Endings of files that hold records with fields; all but .parquet also compressed, and all in capitals."""
TEXTS = (*RECORDS, ".txt")
HASHED_BYTES = 1 << 30
"""Data up to this size is told apart by every byte of it, more by what stands at both ends of each file."""
ENDS_BYTES = 1 << 16
HEAD_BYTES = 512
"""Of a file, to see what it is."""

Source = Path | zipfile.Path


# Which files


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
    or a backup or lock of some program.

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
            elif entry.is_file() and kind_of(entry) in endings:
                seen.add(real)
                files.append(entry)
            else:
                left_out.append(name)
    if not files:
        there = listed(sorted(left_out)) or "nothing"
        if hint := next((FORMS[kind_of(path / name)] for name in left_out if kind_of(path / name) in FORMS), ""):
            there += f" ({hint})"
        raise ValueError(f"{path}: holds {there}, but no {_allowed(endings)}; put at least one such file there")
    return Found(path, sorted(files), sorted(left_out))


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
    b"%PDF": "a PDF: save its text as .txt",
    b"\xff\xfe": "text in UTF-16: convert it to UTF-8",
    b"\xfe\xff": "text in UTF-16: convert it to UTF-8",
}
"""How files begin, what they are, and what to do."""
FORMS = {
    ".json": "a JSON file: `jq -c '.[]' FILE > FILE.jsonl` writes the objects of an array one to a line",
    ".csv": "a table: write its rows as objects, one to a line of a .jsonl",
    ".tsv": "a table: write its rows as objects, one to a line of a .jsonl",
    ".txt": "a text: let the name of a file with one object to a line end in .jsonl",
    ".md": "a text in Markdown: let its name end in .txt",
}
"""What files of other endings are."""
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
    if kind_of(path) != ".txt" and head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps the error of a server: fetch the file again"
    if path.suffix.lower() in COMPRESSED and head and not set(head) - PRINTABLE:
        return f"plain text, not compressed: take {path.suffix} off its name"
    return None


# What is in them


class Record(dict[str, Any]):
    """The fields of an object of a file, and where it stands there. What is missing or wrong is a ValueError that says so."""

    __slots__ = ("inside", "number", "path")

    def __init__(self, fields: Mapping[str, Any], path: Source, number: int, inside: str = "") -> None:
        super().__init__(fields)
        self.path, self.number = path, number  # from 1: so many lines, rows or pieces are read with it
        self.inside = inside

    @property
    def where(self) -> str:
        """`train.jsonl line 3`, for messages."""
        return f"{self.path} {'row' if kind_of(self.path) == '.parquet' else 'line'} {self.number}{self.inside}"

    def __missing__(self, field: str) -> Any:
        raise self.wrong(field, "it")

    def wrong(self, field: str, allowed: str) -> ValueError:
        """An error about a field: where, what was found, what is allowed, what to do."""
        found = (
            f"{field} is {shown(self[field])}" if field in self else f"no {field!r} among {', '.join(self) or 'none'}"
        )
        return ValueError(f"{self.where}: {found}; expected {allowed}. Correct it, or fetch the file again")

    def text(self, field: str) -> str:
        """A string with something in it."""
        value = self.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(field, "a text")
        return value

    def texts(self, field: str, *, most: int | None = None) -> tuple[str, ...]:
        """A list of strings to choose from."""
        values = self.get(field)
        if not isinstance(values, list) or len(values) < 2 or not all(isinstance(value, str) for value in values):
            raise self.wrong(field, "a list of 2 or more texts")
        if most is not None and len(values) > most:
            raise self.wrong(field, f"a list of {most} texts at most")
        return tuple(values)

    def place(self, field: str, count: int) -> int:
        """A number below `count`, the place in a list; also as a string."""
        value = self.get(field)
        if not isinstance(value, int | str) or isinstance(value, bool) or str(value) not in map(str, range(count)):
            raise self.wrong(field, f"a whole number from 0 to {count - 1}")
        return int(value)

    def one_of(self, field: str, allowed: Sequence[str]) -> int:
        """The place of the field's string among those allowed."""
        if (value := self.get(field)) not in allowed:
            raise self.wrong(field, f"one of {', '.join(allowed)}")
        return allowed.index(value)

    def object(self, field: str) -> Record:
        """The fields of an object in it."""
        value = self.get(field)
        if not isinstance(value, Mapping):
            raise self.wrong(field, "an object {...}")
        return Record(value, self.path, self.number, f"{self.inside} {field}")


def shown(value: Any, most: int = 60) -> str:
    """A value as a file has it, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:  # nested a thousand deep
        text = type(value).__name__
    # A half of a surrogate pair can be neither printed nor sent.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_records(path: Source, *, columns: list[str] | None = None, begin: int = 0) -> Iterator[Record]:
    """The objects of a .jsonl, the rows of a .parquet, or the pieces of a .txt as {"text": ...}.

    Args:
        columns: of a .parquet; None: all.
        begin: so many lines, rows or pieces are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or a line is not a JSON object; the message names the file and the line.
    """
    kind = kind_of(path)
    if kind == ".parquet" and isinstance(path, Path):
        return _parquet_records(path, columns, begin)
    if kind == ".txt":
        pieces = islice(enumerate(read_text_pieces(path), 1), begin, None)
        return (Record({"text": piece}, path, number) for number, piece in pieces)
    return _json_records(path, begin)


def _json_records(path: Source, begin: int) -> Iterator[Record]:
    decode = json.JSONDecoder(object_pairs_hook=_each_once).decode
    for number, line in read_lines(path):
        if number <= begin or line.isspace():
            continue
        try:
            fields = decode(line)
            fields = _whole(fields) if "\\ud" in line.lower() else fields
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} line {number}: not JSON ({error.msg}, column {error.colno}); each line must be one object, with no "
                "comma behind. `jq -c . FILE` writes objects one to a line, `jq -c '.[]' FILE` those of an array"
            ) from None
        except (ValueError, RecursionError) as error:  # ValueError alone: an integer of thousands of digits
            raise ValueError(
                f"{path} line {number}: not JSON to be read ({error}); each line must be one object"
            ) from None
        if not isinstance(fields, dict):
            raise ValueError(f"{path} line {number}: {shown(fields)} found; each line must be one object {{...}}")
        yield Record(fields, path, number)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two fields with one name JSON's reader would drop the first."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} stands twice in one object; one of them would be lost")
    return fields


def _whole(fields: Any) -> Any:
    """The fields with halves of surrogate pairs, which have no UTF-8 form, replaced by the mark of unknown characters."""
    raw = json.dumps(fields, ensure_ascii=False).encode("utf-16", "surrogatepass")
    return json.loads(raw.decode("utf-16", "replace"))


def read_lines(path: Source) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and the lines of UTF-8 text, with or without a byte order mark, compressed or not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8 text, or its compression is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of an existing one")
    number = 0
    try:
        with _open(path) as raw:
            head = raw.peek(HEAD_BYTES)[:HEAD_BYTES] if path.suffix.lower() not in COMPRESSED else b""
            if what := foreign(path, head):
                raise ValueError(f"{path}: {what}")
            with io.TextIOWrapper(raw, encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    yield number, line
    except UnicodeDecodeError:
        raise ValueError(_undecodable(path)) from None
    except OSError as error:
        if path.suffix.lower() not in COMPRESSED:
            raise
        if what := foreign(path):
            raise ValueError(f"{path}: {what}") from None
        raise ValueError(f"{path} after line {number}: {error}; the file is damaged, fetch it again") from None


def _open(path: Source) -> Any:
    """The bytes of a file, unpacked; they can be peeked at."""
    if path.suffix.lower() not in COMPRESSED:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression=COMPRESSED[path.suffix.lower()]))


def _undecodable(path: Source) -> str:
    """Which line is not UTF-8: a reader decodes many lines at a time, so when it fails it does not know."""
    with _open(path) as raw:
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape")
        number, found = next((n, f) for n, line in enumerate(lines, 1) if (f := re.search("[\udc80-\udcff]", line)))
    byte, column = ord(found[0]) - 0xDC00, found.start() + 1
    return (
        f"{path} line {number}: byte 0x{byte:02X} in column {column} is not UTF-8; "
        "convert the file, as in `iconv -f WINDOWS-1252 -t UTF-8`"
    )


def read_text_pieces(path: Source) -> Iterator[str]:
    """Documents of a .txt: between marks of end, else stretches of some paragraphs, so that one long file can be split.

    Joined, the pieces give the file back but for marks and blank ends.
    """
    piece: list[str] = []
    size = 0
    for number, line in read_lines(path):
        if number == 1 and re.match(r'\{\s*"(text|messages|conversations)"\s*:', line):
            raise ValueError(
                f"{path} line 1: {shown(line.strip())} found, an object: let the name of such a file end in .jsonl"
            )
        for place, part in enumerate(line.split(TEXT_CUT)):
            if place:  # a mark of end lies before it
                yield "".join(piece)
                piece, size = [], 0
            for stretch in _stretches(part):
                if size >= (TEXT_CHARACTERS if not stretch.strip() else TEXT_LIMIT):
                    yield "".join(piece)
                    piece, size = [], 0
                piece.append(stretch)
                size += len(stretch)
    yield "".join(piece)


def _stretches(part: str) -> list[str]:
    """The part of a line whole, or cut behind a blank after every TEXT_LIMIT characters."""
    if len(part) <= TEXT_LIMIT:
        return [part] if part else []
    return re.findall(rf"(?s).{{{TEXT_LIMIT}}}.*? |.+", part)


def _parquet_records(path: Path, columns: list[str] | None, begin: int) -> Iterator[Record]:
    """With at most a row group in memory."""
    with _open_parquet(path) as file:
        row = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows > begin:
                for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=columns):
                    first = max(row, begin)
                    for number, fields in enumerate(batch.slice(first - row).to_pylist(), first + 1):
                        yield Record(fields, path, number)
                    row += len(batch)
            else:
                row += rows


def check_parquet(path: Path, *, column: str) -> None:
    """Raise ValueError unless the file's own description can be read and has the column as text."""
    import pyarrow as pa

    with _open_parquet(path) as file:
        schema = file.schema_arrow
    if column not in schema.names:
        raise ValueError(
            f"{path}: columns {', '.join(schema.names)} found, but none called {column!r}; "
            f"rename the one that holds the text to {column!r}"
        )
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"{path}: column {column!r} holds {kind}; allowed is text (string)")


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Within, damage is a ValueError that names the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a text is not UTF-8 ({error.reason}); write the file again") from None
    except (pa.ArrowException, OSError) as error:
        what = foreign(path) if path.is_file() else None
        found = what or f"cannot be read ({error}); the file is damaged, fetch or write it again"
        raise ValueError(f"{path}: {found}") from None
