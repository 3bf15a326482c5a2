"""A tiny model with random weights and the tokenizer of bytes, for the tests of engine, server and chat."""

from __future__ import annotations

from typing import Any

import torch

from fledge.config import Sampling
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.model.transformer import ModelConfig, Transformer
from fledge.text.tokenizer import Tokenizer

BYTES = Tokenizer([])
EXTRAS: dict[str, Any] = {
    "smear": True,
    "key_filter": True,
    "value_embeddings": True,
    "pairs": 60,
    "residual_scales": True,
    "backout": True,
    "qk_scale": 1.2,
}
"""Everything that the classic model leaves off."""


def tiny_model(*, seed: int = 0, spread: float = 0.3, **settings: Any) -> Transformer:
    """Two layers, every weight drawn at random: a fresh model would answer all tokens with equal probability."""
    shape: dict[str, Any] = {
        "vocab": BYTES.vocab,
        "layers": 2,
        "width": 32,
        "heads": 2,
        "kv_heads": 2,
        "context": 96,
    } | settings
    model = Transformer(ModelConfig(**shape)).init(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def endless_model(seed: int, *, context: int = 256) -> Transformer:
    """Greedy, it never says a token that ends an answer: their logits are 0, and some other is above."""
    model = tiny_model(seed=seed, context=context)
    with torch.no_grad():
        model.unembedding[[BYTES.special[f"<|{name}|>"] for name in ("bos", "assistant_end", "output_start")]] = 0
    return model


class Foreign:
    """The model as evaluation sees those of others: whole rows of ids in, all logits out."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.vocab, self.device = model, model.config.vocab, torch.device("cpu")

    @torch.no_grad()
    def __call__(self, ids_BT: torch.Tensor) -> torch.Tensor:
        return self.model(ids_BT)


def tiny_engine(model: Transformer | None = None, **settings: Any) -> Engine:
    settings.setdefault("slots", 8)
    return Engine(model or tiny_model(), BYTES, **settings)


def asking(
    prompt: list[int],
    *,
    stop: tuple[str, ...] = (),
    stop_tokens: tuple[int, ...] = (),
    tools: bool = True,
    top_logprobs: int | None = None,
    logit_bias: dict[int, float] | None = None,
    **sampling: Any,
) -> Request:
    """A request that draws from the whole distribution of the model with seed 0, where `sampling` does not say otherwise."""
    drawn = Sampling(**({"temperature": 1.0, "top_k": 0, "seed": 0} | sampling))
    about: dict[str, Any] = {"stop": stop, "stop_tokens": stop_tokens, "tools": tools, "top_logprobs": top_logprobs}
    return Request(prompt=prompt, sampling=drawn, logit_bias=logit_bias or {}, **about)
