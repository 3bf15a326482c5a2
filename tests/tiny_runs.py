"""Runs of random weights, as a stage leaves them: for what is about files and not about learning."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tiny_engine
from fledge.checkpoint import Progress, copied
from fledge.config import OptimSettings
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import made_from
from fledge.storage import sealed, write_atomic
from fledge.text.tokenizer import Tokenizer
from fledge.train.optim import build

TEXT = (
    "The owl of Fernhollow knows 12 songs and 345 riddles; it isn't shy. Größe, 你好! def f(x):\n    return x + 1\n\n"
)
PLAIN = ModelConfig(vocab=0, layers=3, width=64, heads=4, kv_heads=2, context=64, rope_base=100.0)
EXTRAS: dict[str, Any] = tiny_engine.EXTRAS | {"windows": "SL"}


@cache
def tokenizer_of(vocab: int = 320, digits: int = 1) -> Tokenizer:
    return Tokenizer.train([TEXT * 3, "a b ab abc bcd cde " * 9], vocab=vocab, digits=digits)


def random_model(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """Every parameter is drawn, so that none is without effect."""
    model, draw = Transformer(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.size(-1) ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * spread)
        model.unembedding.mul_(4)
        model.embedding.mul_(8)
    return model.eval()


def tiny_run(run: Path, *, stage: str = "sft", vocab: int = 320, digits: int = 1, **shape: Any) -> Transformer:
    """The model of a run whose tokenizer and stage are written to `run`."""
    tokenizer = tokenizer_of(vocab, digits)
    tokenizer.save(run / "tokenizer")
    model = random_model(replace(PLAIN, vocab=tokenizer.vocab, **shape))
    begun = {"settings": {"seed": 3, "data": "world"}, "origin": {"tokenizer": tokenizer.hash, "data": {"a.txt": "1f"}}}
    write_atomic(run / stage / "config.json", sealed({**begun, "provenance": {"commit": "abc"}}))
    progress = Progress(step=7, made_from=made_from(run / stage))
    copied(run / stage, model, build(model, OptimSettings()), progress, keep=1)()
    return model
