"""`fledge tokenizer`: train the tokenizer on the text the model will read, and measure it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from fledge import console
from fledge.config import Tokenizer as Config
from fledge.config import check
from fledge.folder import open_stage
from fledge.origin import origin_of
from fledge.settings import shares_of, with_paths
from fledge.text.datasets import find_generated
from fledge.text.documents import describe, open_documents
from fledge.text.tokenizer import Tokenizer

TEXT_CHARS = 2_000_000_000
WORLD_CHARS = 4_000_000
"""More of a world brings no more words, and it would never end."""


def prepare(config: Config) -> str:
    """What the tokenizer learns from; what is misspelt or missing is found here."""
    check(config)
    return describe(config.data, column=config.column)


def main(config: Config) -> None:
    """Train the tokenizer of a run."""
    description = prepare(config)
    with open_stage(config, origin_of(config)) as stage:
        console.say(f"tokenizer: vocabulary {config.vocab:,} from {description}")
        began = time.perf_counter()
        with console.Live("tokenizer", total=100) as live:
            tokenizer = Tokenizer.train(
                texts(config),
                vocab=config.vocab,
                max_chars=config.max_chars
                or (WORLD_CHARS if all(map(find_generated, shares_of(config.data))) else TEXT_CHARS),
                doc_cap=config.doc_cap,
                digits=config.digits,
                threads=config.threads,
                # Counting is bounded by max_chars, of which a folder may hold less; merging knows its end.
                progress=lambda phase, done, total: live.show(100 * done // (total or done), f"{phase} {done:,}"),
            )
        seconds = time.perf_counter() - began
        tokenizer.save(stage.path)
        held_out = next(open_documents(config.data, split="validation", seed=config.seed, column=config.column)).text
        ids = tokenizer.encode(held_out)
        assert tokenizer.decode(ids) == held_out, "the tokenizer does not give back every byte"
        bytes_per_token = len(held_out.encode()) / max(1, len(ids))
        console.say(
            f"tokenizer: {tokenizer.vocab:,} entries in {console.duration(seconds)}, {bytes_per_token:.2f} bytes per token"
        )
        stage.finish(
            total_seconds=round(seconds, 3),
            vocab=tokenizer.vocab,
            bytes_per_token=bytes_per_token,
            tokenizer_hash=tokenizer.hash,
            data=with_paths(config.data, lambda name: Path(name).name),
        )


def texts(config: Config) -> Iterator[str]:
    """Training text, once: a folder repeats for ever, so we stop where its first epoch ends, and that of all sources."""
    for document in open_documents(config.data, seed=config.seed, column=config.column):
        mix = document.cursor if "sources" in document.cursor else {"sources": [document.cursor], "characters": [0]}
        read = zip(mix["sources"], mix["characters"], strict=True)
        if all((place or {"epoch": 0}).get("epoch", size > WORLD_CHARS) for place, size in read):
            return
        yield document.text
