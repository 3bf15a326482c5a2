"""How well a tokenizer compresses: bytes per token on several kinds of text, beside the vocabularies of GPT-2, GPT-4 and GPT-4o.

    python -m benchmarks compression --tokenizer runs/demo/tokenizer --vocabularies FOLDER

Short samples of news, code, mathematics and so on show tendencies (compression.toml); held-out text of the training data is the
measurement. The foreign vocabularies are tiktoken's files; one that is not in the folder is left out and named.
"""

from __future__ import annotations

import base64
import gzip
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tiktoken

from benchmarks.harness import show
from fledge.console import say
from fledge.text.documents import open_documents
from fledge.text.tokenizer import Tokenizer

_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SAMPLES: dict[str, str] = _DATA["samples"]
FOREIGN: dict[str, str] = {name: one["file"] for name, one in _DATA["vocabularies"].items()}
"""File of every foreign vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bytes per token beside the vocabularies of GPT-2, GPT-4 and GPT-4o; more is better."""

    tokenizer: str = "runs/demo/tokenizer"
    """Folder of the tokenizer."""
    vocabularies: str | None = None
    """Folder with r50k_base.tiktoken, cl100k_base.tiktoken, o200k_base.tiktoken, or these with .gz. None: ours alone."""
    data: str = "world"
    """Text of which validation documents are measured too: "world", a name, a folder or a file."""
    documents: int = 1_000
    """How many of them."""


def main(settings: Settings) -> None:
    """Print a line per kind of text."""
    tokenizer = Tokenizer.load(settings.tokenizer)
    documents = islice(open_documents(settings.data, split="validation"), settings.documents)
    texts = SAMPLES | {f"{settings.data}, validation": "\n".join(document.text for document in documents)}
    ratios = compare(tokenizer, texts, vocabularies=settings.vocabularies)
    rows = []
    for name, text in texts.items():
        ours, *others = (by_text[name] for by_text in ratios.values())
        beside = [f"{other:.2f} ({ours / other - 1:+.0%})" for other in others]
        rows.append([name, f"{len(text.encode()):,}", f"{ours:.2f}", *beside])
    show("bytes per token (ours has so much more)", ["text", "bytes", *ratios], rows)
    say(f"not found and left out: {', '.join(sorted(set(FOREIGN) - set(ratios))) or 'none'}")


def compare(
    tokenizer: Tokenizer, texts: Mapping[str, str], *, vocabularies: str | Path | None = None
) -> dict[str, dict[str, float]]:
    """Bytes per token by tokenizer ("ours", and those of FOREIGN whose file is in the folder) and text."""
    count = {"ours": lambda text: len(tokenizer.encode_batch([text])[0])}
    for name in FOREIGN:
        if (theirs := foreign(name, vocabularies)) is not None:
            count[name] = lambda text, theirs=theirs: len(theirs.encode_ordinary(text))
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    return {who: {name: sizes[name] / tokens(text) for name, text in texts.items()} for who, tokens in count.items()}


def foreign(name: str, folder: str | Path | None) -> tiktoken.Encoding | None:
    """A vocabulary of FOREIGN; None where its file is missing."""
    candidates = [Path(folder) / f"{FOREIGN[name]}{ending}" for ending in ("", ".gz")] if folder else []
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        return None
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in raw.splitlines() if line)}
    pattern = "|".join(_DATA["vocabularies"][name]["split"])
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
