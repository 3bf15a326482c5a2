"""Writes src/fledge/text/unicode.txt: the letters, numbers and spaces of Unicode 16, one range a line ("L 0041 005A").

    uv run --no-project --with unicodedata2==16.0.0 bpe/unicode_table.py

The version is pinned (and equals that of tiktoken's regex engine) because a newer table would split text differently from
the table a tokenizer was trained with. Both implementations of the tokenizer read the file this writes.
"""

from itertools import groupby
from pathlib import Path

import unicodedata2  # pyright: ignore[reportMissingImports]

VERSION = "16.0.0"
TABLE = Path(__file__).parents[1] / "src" / "fledge" / "text" / "unicode.txt"
# The property White_Space, what \s means in Rust's regex, Oniguruma and Python's `regex`. No category equals it.
WHITE_SPACE = frozenset([*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000])  # fmt: skip  # noqa: E501


def kind(code: int) -> str:
    """L letter, N number, S space, or "" for all the rest."""
    category = unicodedata2.category(chr(code))[0]
    return category if category in "LN" else "S" if code in WHITE_SPACE else ""


if __name__ == "__main__":
    if unicodedata2.unidata_version != VERSION:
        raise SystemExit(f"unicodedata2 holds Unicode {unicodedata2.unidata_version}; install unicodedata2=={VERSION}")
    runs = [(name, list(codes)) for name, codes in groupby(range(0x110000), key=kind)]
    TABLE.write_text("".join(f"{name} {codes[0]:04X} {codes[-1]:04X}\n" for name, codes in runs if name))
