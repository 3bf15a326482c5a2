"""Records from files: .jsonl and .txt, plain or compressed (.gz, .zst), and .parquet, all in one way.

    for record in read_records(Path("gsm8k/train.jsonl.gz")): record["question"], record.where

Every error names the file and, where there is one, the line and the field.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

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
COMPRESSED = (".gz", ".zst")


class Record(dict[str, Any]):
    """The fields of one object of a file, and where it stands there. A field that is missing is a ValueError that says so."""

    __slots__ = ("number", "path")

    def __init__(self, fields: dict[str, Any], path: Path | zipfile.Path, number: int) -> None:
        super().__init__(fields)
        self.path, self.number = path, number  # from 1: so many lines, rows or pieces are read with it

    @property
    def where(self) -> str:
        """`train.jsonl line 3`, for messages."""
        return f"{self.path} {'row' if self.path.suffix == '.parquet' else 'line'} {self.number}"

    def __missing__(self, field: str) -> Any:
        found = f"fields {', '.join(self) or 'none'} found"
        raise ValueError(f"{self.where}: {found}, but no {field!r}; fetch or write the file again")


def read_records(path: Path | zipfile.Path, *, columns: list[str] | None = None, begin: int = 0) -> Iterator[Record]:
    """The objects of a .jsonl, the rows of a .parquet, or the pieces of a .txt as {"text": ...}.

    Args:
        columns: of a .parquet; None: all.
        begin: so many lines, rows or pieces are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or a line is not a JSON object; the message names the file and the line.
    """
    if path.name.endswith(".parquet") and isinstance(path, Path):
        return _parquet_records(path, columns, begin)
    if ".txt" in path.name:
        pieces = islice(enumerate(read_text_pieces(path), 1), begin, None)
        return (Record({"text": piece}, path, number) for number, piece in pieces)
    return _json_records(path, begin)


def _json_records(path: Path | zipfile.Path, begin: int) -> Iterator[Record]:
    for number, line in read_lines(path):
        if number <= begin or line.isspace():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError alone: an integer of thousands of digits
            at = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path} line {number}: not JSON ({at}); each line must be one object") from None
        if not isinstance(fields, dict):
            raise ValueError(
                f"{path} line {number}: {type(fields).__name__} found; each line must be one object {{...}}"
            )
        yield Record(_whole(fields) if "\\ud" in line.lower() else fields, path, number)


def _whole(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with halves of surrogate pairs, which have no UTF-8 form, replaced by the mark of unknown characters."""
    raw = json.dumps(fields, ensure_ascii=False).encode("utf-16", "surrogatepass")
    return json.loads(raw.decode("utf-16", "replace"))


def read_lines(path: Path | zipfile.Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and the lines of UTF-8 text, with or without a byte order mark, compressed or not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, or its compression is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of an existing one")
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} after line {number}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        if path.suffix not in COMPRESSED:
            raise
        raise ValueError(f"{path} after line {number}: {error}; the file is damaged, fetch it again") from None


def _open(path: Path | zipfile.Path) -> TextIO:
    if path.suffix not in COMPRESSED:
        return path.open("r", encoding="utf-8-sig")
    import pyarrow as pa

    return io.TextIOWrapper(pa.input_stream(str(path)), encoding="utf-8-sig")  # the ending tells how to decompress


def read_text_pieces(path: Path | zipfile.Path) -> Iterator[str]:
    """Documents of a .txt: between marks of end, else stretches of some paragraphs, so that one long file can be split.

    Joined, the pieces give the file back but for marks and blank ends.
    """
    piece: list[str] = []
    size = 0
    for _, line in read_lines(path):
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
        raise ValueError(f"{path}: cannot be read ({error}); the file is damaged, fetch or write it again") from None
