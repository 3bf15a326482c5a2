"""Examples made of the records of files, one file per split, kept on disk until they are drawn.

    Task(name="gsm8k", load=from_records("gsm8k", {"train": "gsm8k/train", "test": "gsm8k/test"}, read=example), ...)

Where a data set has no validation split, a hash of the question takes one out of the training split: nothing is selected on test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from fledge.tasks.base import Example
from fledge.text.conversations import Stored
from fledge.text.hub import locate
from fledge.text.records import Record, read_records
from fledge.text.split import Split, split_of

HELD_OUT = 20
"""One in so many training questions is the validation split where the data set has none."""

Files = dict[Split, str]
"""A name of `text.hub.locate` for each split."""


def from_records(task: str, files: Files, *, read: Callable[[Record], Example]) -> Callable[[Split], Sequence[Example]]:
    """`Task.load` of a task whose examples `read` makes; raises as `split_records`, and what `read` raises, when it is called."""

    return lambda split: stored(split_records(task, files, split), read, Path(task))


def stored(records: Iterable[Record], read: Callable[[Record], Example], path: Path) -> Sequence[Example]:
    """The examples of records, all of them read once: what is wrong with one is found now, not when it is drawn."""
    checked = (record for record in records if read(record))
    return Stored(checked, make=lambda fields: read(Record(fields, path, 0)))  # where it stood plays no part any more


def split_records(task: str, files: Files, split: Split) -> Iterator[Record]:
    """The records of a split; a missing validation split is taken out of train, another is a ValueError."""
    carved = "train" in files and "validation" not in files
    allowed = [*files, *(["validation"] if carved else [])]
    if split not in allowed:
        raise ValueError(f"{task}: split {split!r} does not exist; allowed: {', '.join(sorted(allowed))}")
    records = chain.from_iterable(map(read_records, locate(files[split if split in files else "train"])))
    if split == "test" or not carved:
        return records
    held_out = split == "validation"
    sides = ((record, split_of(record.text("question"), one_in=HELD_OUT)) for record in records)
    return (record for record, side in sides if (side == "validation") == held_out)
