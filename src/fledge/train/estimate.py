"""What a training takes, before it begins: time by its FLOPs, and how often it comes round its data.

    seconds = site(device, dtype).seconds(model.flops_per_token() * tokens)
    text = measure("texts/", tokenizer)                         # about how much text there is; None: no end of it

Time is FLOPs over a share of what the machine can do. The share is assumed, and always said with the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fledge.console import duration
from fledge.model.cards import Card, find_card
from fledge.model.device import product_flops
from fledge.settings import shares_of
from fledge.text.datasets import find_data
from fledge.text.documents import COLUMN, open_documents
from fledge.text.files import TEXTS, find_files
from fledge.text.tokenizer import Tokenizer

GPU_SHARE = 0.4
"""Of a card's peak: .39 at depth 12 and .43 at depth 20 on one H200 (docs/why.md)."""
CPU_SHARE = {torch.float32: 0.3, torch.bfloat16: 0.15}
"""Of a product of matrices on the same processor when compiled: float32 .22 to .46, bfloat16 .14 to .25. Half of that eager."""
CHARACTERS = 4.0
"""Of a token, where no tokenizer says better."""
SAMPLE_CHARACTERS = 200_000
"""By which a tokenizer is judged."""
MOST_CHARACTERS = 1 << 25
"""That are read to say how much text there is: a second's work."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a training runs: `ranks` devices, of which one reaches `flops` FLOP/s in products of matrices."""

    name: str
    flops: float | None
    share: float
    free_bytes: float | None = None
    """Of one device; None: a CPU, whose memory sets no bound."""
    ranks: int = 1

    @classmethod
    def of(cls, card: Card, *, ranks: int = 1, share: float | None = None) -> Site:
        """Empty cards of a kind; the driver keeps .02 of their memory."""
        free = 0.98 * 2**30 * card.gigabytes
        return cls(name=card.name, flops=card.flops, share=share or GPU_SHARE, free_bytes=free, ranks=ranks)

    def seconds(self, flops: float) -> float | None:
        """For so many FLOPs; None where nobody knows what the device can do."""
        return flops / (self.flops * self.share * self.ranks) if self.flops else None

    def told(self, flops: float) -> str:
        """`seconds` in words, with what is assumed."""
        seconds = self.seconds(flops)
        if seconds is None or not self.flops:
            return f"how long on {self.name} is not known; the first steps will tell"
        return f"about {duration(seconds)}, {self._assumed}"

    def reach(self, seconds: float, cost: float) -> tuple[int, str]:
        """About how many tokens of so many FLOPs each one comes to in that time, and that in words; 0 where nobody knows."""
        spent = f"{duration(seconds)} of steps"
        if not self.flops:
            return 0, spent
        tokens = round(self.flops * self.share * self.ranks * seconds / cost)
        return tokens, f"{spent}, about {tokens / 1e6:,.3g}M tokens, {self._assumed}"

    @property
    def _assumed(self) -> str:
        return f"if {self.share:.0%} of {(self.flops or 0) / 1e12:.3g} TFLOP/s are used, as is assumed"


def here(device: torch.device, dtype: torch.dtype, *, ranks: int = 1, share: float | None = None) -> Site:
    """This machine's device. A CPU is measured in a fraction of a second, as busy as it is now."""
    if device.type == "cuda":
        name, (free, _) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
        card = find_card(name)
        flops = card.flops if card else None
        return Site(name=name, flops=flops, share=share or GPU_SHARE, free_bytes=free, ranks=ranks)
    flops = product_flops(device, dtype) if device.type == "cpu" else None
    return Site(name=f"this {device.type}", flops=flops, share=share or CPU_SHARE[dtype], ranks=ranks)


@dataclass(frozen=True, kw_only=True)
class Text:
    """About how much text a training finds."""

    documents: float
    tokens: float
    name: str = ""
    share: float = 1.0
    """Of the tokens of a training, where the text is one of several."""

    def epochs(self, tokens: float) -> float:
        """How often so many tokens of a training come round it."""
        return tokens * self.share / self.tokens

    def told(self, tokens: float) -> str:
        """The same in words."""
        what = f"{self.documents:,.0f} documents, {self.tokens / 1e6:,.3g}M tokens: {self.epochs(tokens):,.3g} epochs"
        return f"{self.name}: {what}" if self.share < 1 else what


def measure_all(data: str, tokenizer: Tokenizer | None = None, *, column: str = COLUMN) -> list[Text]:
    """The texts that a `--data` mixes, without those that have no end."""
    shares = shares_of(data)
    found = [
        (measure(name, tokenizer, column=column), name, share / sum(shares.values())) for name, share in shares.items()
    ]
    return [replace(text, name=name, share=share) for text, name, share in found if text]


def measure(data: str, tokenizer: Tokenizer | None = None, *, column: str = COLUMN) -> Text | None:
    """The text of one source's files, training split: counted where they are short, else by how far one comes in the first of it.

    None of what is generated or fetched, and so has no end.

    Raises:
        FileNotFoundError, ValueError: as `open_documents`.
    """
    [data] = shares_of(data)
    if not isinstance(found := find_data(data), Path):
        return None
    files = find_files(found, TEXTS).files
    sizes = [path.stat().st_size for path in files]
    documents = characters = place = 0
    before, sample, share = (0, 0), [], 1.0  # documents and characters of the files before this one
    for document in open_documents(data, column=column):
        if document.cursor["epoch"]:
            break
        if document.cursor["file"] != place:
            place, before = document.cursor["file"], (documents, characters)
        documents, characters = documents + 1, characters + len(document.text)
        if characters < SAMPLE_CHARACTERS:
            sample.append(document.text)
        if characters > MOST_CHARACTERS:
            share = min(sizes[0], characters / (1 if files[0].suffix in (".txt", ".jsonl") else 3)) / sum(sizes)
            if place:  # whole files tell best, however they are packed
                (documents, characters), share = before, sum(sizes[:place]) / sum(sizes)
            break
    per_character = 1 / CHARACTERS
    if tokenizer and sample:
        per_character = len(tokenizer.encode_batch(sample)[0]) / sum(map(len, sample))
    return Text(documents=documents / share, tokens=max(1.0, characters / share * per_character))
