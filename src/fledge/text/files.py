"""Records from files, line by line: .jsonl and .txt, plain or compressed (.gz, .zst), and .parquet.

    for record in read_jsonl("gsm8k/train.jsonl.gz"): ...

Every error names the file and, where there is one, the line.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_CUT = "<|endoftext|>"
"""Where a .txt says that a document ends, as the files of TinyStories do."""
TEXT_CHARACTERS = 2_000
"""A .txt without such marks is cut at the first blank line after so many characters."""
TEXT_LIMIT = 100_000
"""And at a line's end after so many; a longer line is cut at a blank."""
PARQUET_ROWS = 256
"""Rows of a .parquet that are turned into Python's objects at a time."""


def open_text(path: str | Path) -> TextIO:
    """The file as UTF-8 text, with or without a byte order mark, decompressed if its name ends in .gz or .zst.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of an existing one")
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig")
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.TextIOWrapper(pa.input_stream(str(path), compression="zstd"), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and the lines that are not blank; raises as `open_text` and `_all_lines`."""
    return ((number, line) for number, line in _all_lines(path) if not line.isspace())


def _all_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and the lines.

    Raises:
        ValueError: the file is not UTF-8, or its compression is damaged.
    """
    number = 0
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} after line {number}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} after line {number}: {error}; the file is damaged, fetch it again") from None
    except OSError as error:
        if Path(path).suffix != ".zst":
            raise
        raise ValueError(f"{path} after line {number}: {error}; the file is damaged, fetch it again") from None


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl, .jsonl.gz or .jsonl.zst file.

    The hub keeps the same records as .parquet, sometimes as a folder of them: these are read alike.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a JSON object; the message names the file and the line.
    """
    path = Path(path)
    if path.is_dir():
        for file in sorted(path.iterdir()):
            yield from read_jsonl(file)
    elif path.suffix == ".parquet":
        for batch in _read_batches(path, columns=None, begin=0):
            yield from batch.to_pylist()
    else:
        for _, record in read_numbered(path):
            yield record


def read_numbered(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, with the number of the line before each object."""
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError alone: an integer of thousands of digits
            at = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path} line {number}: not JSON ({at}); each line must be one object") from None
        if not isinstance(record, dict):
            raise ValueError(
                f"{path} line {number}: {type(record).__name__} found; each line must be one object {{...}}"
            )
        yield number, _whole(record) if "\\ud" in line.lower() else record


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    """The record with halves of surrogate pairs, which have no UTF-8 form, replaced by the mark of unknown characters."""
    raw = json.dumps(record, ensure_ascii=False).encode("utf-16", "surrogatepass")
    return json.loads(raw.decode("utf-16", "replace"))


def read_text_pieces(path: str | Path) -> Iterator[str]:
    """Documents of a .txt: between marks of end, else stretches of some paragraphs, so that one long file can be split.

    Joined, the pieces give the file back but for marks and blank ends.
    """
    piece: list[str] = []
    size = 0
    for _, line in _all_lines(path):
        *closed, line = line.split(TEXT_CUT)
        for part in closed:
            *stretches, part = _stretches(part)
            for stretch in stretches:
                yield "".join([*piece, stretch])
                piece = []
            yield "".join([*piece, part])
            piece, size = [], 0
        for stretch in _stretches(line):
            if size >= (TEXT_CHARACTERS if not stretch.strip() else TEXT_LIMIT):
                yield "".join(piece)
                piece, size = [], 0
            piece.append(stretch)
            size += len(stretch)
    yield "".join(piece)


def _stretches(line: str) -> Iterator[str]:
    """The line whole, or cut behind a blank after every TEXT_LIMIT characters; at least one stretch."""
    begin = 0
    while (end := line.find(" ", begin + TEXT_LIMIT) + 1) > 0:
        yield line[begin:end]
        begin = end
    yield line[begin:]


def read_parquet(path: str | Path, *, column: str, begin: int = 0) -> Iterator[str | None]:
    """One column of a parquet file from row `begin` on, with at most a row group of it in memory.

    Raises:
        ValueError: the file is damaged or has no such column.
    """
    check_parquet(path, column=column)
    for batch in _read_batches(path, columns=[column], begin=begin):
        try:
            texts = batch.column(0).to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: a text is not UTF-8 ({error.reason}); write the file again") from None
        yield from texts


def _read_batches(path: str | Path, *, columns: list[str] | None, begin: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            groups, skip = [], begin
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if groups or skip < rows:
                    groups.append(group)
                else:
                    skip -= rows
            if not groups:
                return
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=columns):
                if skip < len(batch):
                    yield batch.slice(skip)
                skip = max(0, skip - len(batch))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); the file is damaged, fetch or write it again") from None


def check_parquet(path: str | Path, *, column: str) -> None:
    """Raise ValueError unless the file's own description can be read and has the column as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema: pa.Schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a parquet file ({error}); it is damaged, fetch or write it again") from None
    if column not in schema.names:
        raise ValueError(
            f"{path}: columns {', '.join(schema.names)} found, but none called {column!r}; "
            f"rename the one that holds the text to {column!r}"
        )
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"{path}: column {column!r} holds {kind}; allowed is text (string)")
