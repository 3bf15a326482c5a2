"""Records from files, line by line: .jsonl and .txt, plain or compressed (.gz, .zst), and .parquet.

    for record in read_records(Path("gsm8k/train.jsonl.gz")): ...

Every error names the file and, where there is one, the line.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

TEXT_CUT = "<|endoftext|>"
"""Where a .txt says that a document ends, as the files of TinyStories do."""
TEXT_CHARACTERS = 2_000
"""A .txt without such marks is cut at the first blank line after so many characters."""
TEXT_LIMIT = 100_000
"""And at a line's end after so many; a longer line is cut at a blank."""
PARQUET_ROWS = 256
"""Rows of a .parquet that are turned into Python's objects at a time."""
COMPRESSED = (".gz", ".zst")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl, .jsonl.gz or .jsonl.zst file; the hub keeps the same as .parquet, which is read alike.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or a line is not a JSON object; the message names the file and the line.
    """
    if path.suffix == ".parquet":
        return read_parquet(path)
    return (record for _, record in read_numbered(path))


def read_numbered(path: Path | zipfile.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl, with the number of the line before each; raises as `read_records`."""
    for number, line in read_lines(path):
        if line.isspace():
            continue
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


def read_text_pieces(path: Path) -> Iterator[str]:
    """Documents of a .txt: between marks of end, else stretches of some paragraphs, so that one long file can be split.

    Joined, the pieces give the file back but for marks and blank ends.
    """
    piece: list[str] = []
    size = 0
    for _, line in read_lines(path):
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


def read_parquet(path: Path, *, columns: list[str] | None = None, begin: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file from row `begin` on, all columns or some, with at most a row group of it in memory.

    Raises:
        ValueError: the file is damaged or a text in it is not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            row = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows > begin:
                    for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=columns):
                        yield from batch.slice(max(0, begin - row)).to_pylist()
                        row += len(batch)
                else:
                    row += rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a text is not UTF-8 ({error.reason}); write the file again") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); the file is damaged, fetch or write it again") from None


def check_parquet(path: Path, *, column: str) -> None:
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
