"""Records in files of a user's, all read in one way.

    for record in read_records(Path("gsm8k/train.jsonl.gz")): record.text("question"), record.where

A record is a line of a .jsonl, an entry of the array of a .json, a row of a .csv, .tsv or .parquet, or a piece of a .txt or .md;
plain or compressed (.gz, .zst). Every error names the file and, where there is one, the line and the field, what was found there
and what is allowed.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.settings import nearest
from fledge.text.files import COMPRESSED, HEAD_BYTES, Source, foreign, kind_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

TEXT_CUT = "<|endoftext|>"
"""Where a .txt says that a document ends, as the files of TinyStories do."""
TEXT_CHARACTERS = 2_000
"""A .txt without such marks is cut at the first blank line after so many characters."""
TEXT_LIMIT = 100_000
"""And at a line's end after so many; a longer line is cut at a blank."""
STRETCH = re.compile(rf"(?s).{{{TEXT_LIMIT}}}.*? |.+")
"""A line, or so much of a longer one: to a blank behind TEXT_LIMIT characters."""
UNITS = {".parquet": "row", ".csv": "row", ".tsv": "row", ".json": "entry"}
"""What is counted in files that are not read by lines."""
PARQUET_ROWS = 256
"""Rows of a .parquet that are turned into Python's objects at a time."""


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
        return f"{self.path} {UNITS.get(kind_of(self.path), 'line')} {self.number}{self.inside}"

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
            raise self.wrong(field, f"one of {shown(list(allowed))}")
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


def read_records(
    path: Source, *, columns: list[str] | None = None, begin: int = 0, bad: Callable[[str], None] | None = None
) -> Iterator[Record]:
    """The objects of a .jsonl or .json, the rows of a table, or the pieces of a .txt as {"text": ...}.

    Args:
        columns: of a .parquet; None: all.
        begin: so many lines, rows or pieces are left out.
        bad: hears of a line of a .jsonl that is not a JSON object, and the lines after it are read; None: it is an error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or a line is not a JSON object; the message names the file and the line.
    """
    match kind_of(path):
        case ".parquet" if isinstance(path, Path):
            return _parquet_records(path, columns, begin)
        case ".txt" | ".md":
            found = ({"text": piece} for piece in read_text_pieces(path))
        case ".csv" | ".tsv":
            found = _table_records(path)
        case ".json":
            found = _array_records(path)
        case _:
            return _json_records(path, begin, bad)
    return islice((Record(fields, path, number) for number, fields in enumerate(found, 1)), begin, None)


def _array_records(path: Source) -> Iterator[dict[str, Any]]:
    """The objects of an array, which is read whole."""
    text = "".join(line for _, line in read_lines(path))
    try:
        entries = json.loads(text, object_pairs_hook=_each_once)
        entries = _whole(entries) if "\\ud" in text.lower() else entries
    except (ValueError, RecursionError) as error:
        remedy = "Correct it, or let its name end in .jsonl where each line is an object"
        raise ValueError(f"{path}: not JSON ({error}); expected is an array of objects. {remedy}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {shown(entries)} found; expected is an array of objects [{{...}}, ...]")
    for number, fields in enumerate(entries, 1):
        if not isinstance(fields, dict):
            raise ValueError(f"{path} entry {number}: {shown(fields)} found; each must be one object {{...}}")
        yield fields


def _table_records(path: Source) -> Iterator[dict[str, Any]]:
    """The rows of a table under its first one, which names the columns."""
    csv.field_size_limit(1 << 30)  # a document is longer than what the library takes for a mistake
    lines = (line for _, line in read_lines(path))
    first = next((line for line in lines if line.strip()), "")
    mark = "\t" if kind_of(path) == ".tsv" else ";" if ";" in first and "," not in first else ","
    columns = [name.strip() for name in next(csv.reader([first], delimiter=mark), [])]
    if len(set(columns)) < len(columns) or not all(columns):
        raise ValueError(
            f"{path} row 0: columns {shown(columns)}; the first row must name each column, by another name"
        )
    try:
        for number, row in enumerate(csv.reader(lines, delimiter=mark, strict=True), 1):
            if len(row) not in (0, len(columns)):
                raise ValueError(
                    f"{path} row {number}: {len(row)} fields found, expected {len(columns)} ({', '.join(columns)})"
                )
            if any(row):  # Excel writes ;;; where people left a row free
                yield dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise ValueError(
            f"{path}: {error}; expected are fields in quotes where they need some. Write it again"
        ) from None


def _json_records(path: Source, begin: int, bad: Callable[[str], None] | None) -> Iterator[Record]:
    decode = json.JSONDecoder(object_pairs_hook=_each_once).decode
    for number, line in read_lines(path):
        if number <= begin or line.isspace():
            continue
        try:
            record = _json_record(decode, path, number, line)
        except ValueError as error:
            if bad is None:
                raise
            bad(str(error))
        else:
            yield record


def _json_record(decode: Callable[[str], Any], path: Source, number: int, line: str) -> Record:
    try:
        fields = decode(line)
        fields = _whole(fields) if "\\ud" in line.lower() else fields
    except (ValueError, RecursionError) as error:  # ValueError alone: an integer of thousands of digits
        # As a whole the error would speak of line 1.
        what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise ValueError(
            f"{path} line {number}: not JSON ({what}); each line must be one object, with no comma behind. "
            "`jq -c . FILE` writes objects one to a line, `jq -c '.[]' FILE` those of an array"
        ) from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} line {number}: {shown(fields)} found; each line must be one object {{...}}")
    return Record(fields, path, number)


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
            for stretch in STRETCH.findall(part):
                if size >= (TEXT_CHARACTERS if not stretch.strip() else TEXT_LIMIT):
                    yield "".join(piece)
                    piece, size = [], 0
                piece.append(stretch)
                size += len(stretch)
    yield "".join(piece)


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


def without(column: str, there: Iterable[str], where: str) -> ValueError:
    """An error about a column of text that is not there."""
    there = list(there)
    return ValueError(
        f"{where}: columns {', '.join(there) or 'of no name'} found, but none called {column!r}; "
        f"rename the one that holds the text, or name it with --column.{nearest(column, there)}"
    )


def check_parquet(path: Path, *, column: str) -> None:
    """Raise ValueError unless the file's own description can be read and has the column as text."""
    import pyarrow as pa

    with _open_parquet(path) as file:
        schema = file.schema_arrow
    if column not in schema.names:
        raise without(column, schema.names, str(path))
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
