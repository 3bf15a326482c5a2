"""What is held out: a hash of the example decides, so that it stays on its side wherever it stands and whatever comes beside it.

split_of("How do you spell owl?", one_in=20)      # "validation" for one key in twenty, "test" for another, else "train"
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Literal

Split = Literal["train", "validation", "test"]


def split_of(key: str, *, one_in: int) -> Split:
    """The split of an example, by what identifies it: its question, its word, its text.

    Where a data set brings its own test split, whatever is not "validation" belongs to train.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    bucket = int.from_bytes(digest[:8], "big") % one_in
    return "validation" if bucket == 0 else "test" if bucket == 1 else "train"


def rank(*key: object) -> int:
    """Where a key stands in an order that nobody chose. Of the ways to ask one thing those of the smallest ranks are held out."""
    return zlib.crc32("|".join(map(str, key)).encode())
