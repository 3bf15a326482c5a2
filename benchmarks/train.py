"""A pretraining step beside nanochat's own model and optimizer: `python -m benchmarks train --nanochat DIR`.

DIR is a checkout of karpathy/nanochat (`git clone`); its gpt.py and optim.py run as its base_train.py calls them, compiled, on
random tokens of the shape of its runs/runcpu.sh. Ours is `fledge bench train` with the classic architecture, and once more with
what nanochat's has beyond it, which it cannot switch off. Every turn is a process of its own.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import apart, in_turns, show
from fledge.bench.train import report
from fledge.commands import TrainBench
from fledge.config import ModelSettings, OptimSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Training tokens a second beside nanochat."""

    nanochat: Path
    """Checkout of nanochat."""
    depth: int = 6
    """Layers, 64 channels of width for each; heads of 64."""
    context: int = 512
    """Tokens of a row."""
    vocab: int = 32_768
    """Entries of the vocabulary."""
    batch_tokens: int = 16_384
    """Tokens of a step: one pass of nanochat, ours cuts as it likes."""
    dtype: str = "bfloat16"
    """bfloat16 or float32, for both."""
    steps: int = 5
    """Steps of a turn, after a first that compiles; the median counts."""
    repeats: int = 3
    """Turns of each; the median counts."""
    threads: int | None = None
    """CPU threads. None: all."""


def main(settings: Settings) -> None:
    """Train all in turns and print a table.

    Raises:
        ValueError: DIR holds no nanochat.
    """
    if not (settings.nanochat / "nanochat" / "gpt.py").is_file():
        raise ValueError(f"{settings.nanochat} has no nanochat/gpt.py; git clone https://github.com/karpathy/nanochat")
    classic = ModelSettings(depth=settings.depth, head_channels=64, context=settings.context)
    extras = replace(classic, smear=True, residual_scales=True, backout=True, value_embeddings=True, qk_scale=1.2)
    ways = {
        "nanochat": partial(apart, by_nanochat, settings, environment={"NANOCHAT_DTYPE": settings.dtype}),
        "fledge, classic": partial(apart, by_fledge, settings, classic, OptimSettings()),
        "fledge, with the extras": partial(apart, by_fledge, settings, extras, OptimSettings(matrices="normuon")),
    }
    turns = in_turns(ways, repeats=settings.repeats)
    speeds = {name: sorted(found) for name, found in turns.items()}
    base = statistics.median(speeds["nanochat"])
    rows = [
        [
            name,
            f"{statistics.median(found):,.0f}",
            f"{found[0]:,.0f} to {found[-1]:,.0f}",
            f"{statistics.median(found) / base:.2f}",
        ]
        for name, found in speeds.items()
    ]
    title = f"depth {settings.depth}, context {settings.context}, vocabulary {settings.vocab:,}, {settings.dtype}"
    show(f"{title}: training", ["way", "tokens/s", "turns", "times nanochat"], rows)


def by_fledge(settings: Settings, model: ModelSettings, optim: OptimSettings) -> float:
    """Tokens a second of the median step."""
    shape: dict[str, Any] = {
        name: getattr(settings, name) for name in ("vocab", "batch_tokens", "dtype", "steps", "threads")
    }
    return report(TrainBench(model=model, optim=optim, **shape))["rows"][0]["tokens_per_second"]


def by_nanochat(settings: Settings) -> float:
    """Tokens a second of the median step, which is base_train.py's: forward, backward, optimizer, gradients dropped."""
    sys.path.insert(0, str(settings.nanochat))
    from nanochat.gpt import GPT, GPTConfig  # pyright: ignore[reportMissingImports]

    if settings.threads:
        torch.set_num_threads(settings.threads)
    width, rows = 64 * settings.depth, settings.batch_tokens // settings.context
    config = GPTConfig(
        sequence_len=settings.context,
        vocab_size=settings.vocab,
        n_layer=settings.depth,
        n_head=settings.depth,
        n_kv_head=settings.depth,
        n_embd=width,
        window_pattern="L",
    )
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")
    model.init_weights()
    optimizer, compiled = model.setup_optimizer(), torch.compile(model, dynamic=False)
    ids_BT = torch.randint(settings.vocab, (rows, settings.context + 1))
    x_BT, y_BT = ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous()
    seconds = []
    for _ in range(1 + settings.steps):
        began = time.perf_counter()
        loss = compiled(x_BT, y_BT)
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - began)
    return settings.batch_tokens / statistics.median(seconds[1:])
