"""How fast answers come: `fledge bench infer`.

For batch sizes and prompt lengths: time to first token, tokens per second of one answer and of all, and how much of the
memory's bandwidth that is. `--mixed` adds 256 requests of 100-1024 prompt and 100-1024 new tokens. The last line is everything
as JSON. `python -m benchmarks infer` (outside the package) compares with other programs.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fledge.commands import AnswerBench, InferBench
from fledge.config import Sampling
from fledge.console import table
from fledge.infer.check import draw_weights
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.model.device import find_device, threads
from fledge.model.transformer import ModelConfig, Transformer
from fledge.settings import counts_of
from fledge.text.tokenizer import Tokenizer

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SPECIAL = Tokenizer([]).special
"""Ids 256 to 264 of every vocabulary, as far as the bench is concerned."""


COLUMNS = {
    "requests": "{batch}",
    "prompt": "{prompt}",
    "first token, s": "{first_token_seconds:.4f}",
    "tokens/s each": "{tokens_per_second_each:,.0f}",
    "tokens/s": "{tokens_per_second:,.0f}",
    "bandwidth": "{bandwidth_share:.0%}",
}
"""Of the table: how a row is shown."""


def main(config: InferBench) -> None:
    """Print the tables and one line of JSON."""
    clock = CLOCKS[config.clock]
    device = find_device(config.device)
    threads(config.threads)
    batches, lengths = (sorted(counts_of(name, getattr(config, name))) for name in ("batches", "prompts"))
    context = 2048 if config.mixed else max(512, max(lengths) + config.new)
    model = make_model(config, context=context).to(device)
    bandwidth = read_bandwidth(device)
    report: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(), "clock": config.clock}
    report |= {"model": asdict(model.config), "read_bytes_per_second": bandwidth, "rows": []}
    rng = random.Random(0)
    works = [(str(length), [(length, config.new)] * batch) for length in lengths for batch in batches]
    if config.mixed:
        works.append(("100-1024", [(rng.randint(100, 1024), rng.randint(100, 1024)) for _ in range(256)]))
    for name, sizes in works:
        requests = [make_request(rng, model, prompt, new, seed) for seed, (prompt, new) in enumerate(sizes)]
        report["rows"].append(measure(model, requests, name, bandwidth, clock, context=context))
    title = f"engine on {device}, {model.parameter_counts()['total']:,} parameters"
    table(title, list(COLUMNS), [[cell.format(**row) for cell in COLUMNS.values()] for row in report["rows"]])
    print(json.dumps(report))


def make_model(config: AnswerBench, *, context: int) -> Transformer:
    """The model to measure; none of its answers ends early."""
    if config.run is not None:
        from fledge.checkpoint import load_model

        model = load_model(Path(config.run))
    else:
        size: dict[str, Any] = {"layers": config.layers, "width": config.width, "heads": config.heads}
        shape = ModelConfig(**size, kv_heads=config.heads, vocab=config.vocab, context=context)
        model = draw_weights(Transformer(shape))
    with torch.no_grad():
        # A logit of 0 is never the greatest of a thousand, and seldom drawn.
        model.unembedding[list(SPECIAL.values())] = 0
    return model


def make_request(
    rng: random.Random, model: Transformer, length: int, new: int, seed: int, *, prompt: list[int] | None = None
) -> Request:
    """A request with a random prompt that shares nothing with others, or with the one given."""
    prompt = prompt or [rng.randrange(256) for _ in range(length)]
    return Request(prompt=prompt, sampling=Sampling(temperature=1.0, top_k=0, max_tokens=new, seed=seed), tools=False)


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second that one pass over a large tensor reads; the best of ten."""
    block = torch.ones(64 << 20, device=device)
    best = 0.0
    for _ in range(10):
        begin = time.perf_counter()
        float(block.sum())
        best = max(best, block.nbytes / (time.perf_counter() - begin))
    return best


def make_engine(model: Transformer, *, slots: int, context: int, **settings: Any) -> Engine:
    """An engine that has allocated and tuned what it does on first use."""
    engine = Engine(model, Tokenizer([]), slots=slots, context=context, run_tool=None, **settings)
    engine.generate([Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=3))])
    return engine


def measure(
    model: Transformer,
    requests: list[Request],
    prompt: str,
    bandwidth: float,
    clock: Callable[[], float],
    *,
    context: int,
) -> dict[str, Any]:
    """All requests at once: a row of the report."""
    engine = make_engine(model, slots=len(requests), context=context)
    for request in requests:
        engine.submit(request)
    begin = clock()
    while not all(request.answer for request in requests):
        engine.step()
    decoding, before = clock(), sum(len(request.answer) for request in requests)
    read, weights = 0, engine.model.unembedding.nbytes
    for layer in engine.model.layers:
        weights += sum(matrix.nbytes for matrix in (layer.qkv, layer.out, layer.up, layer.down))
    per_token = 2 * model.config.layers * model.config.kv_heads * model.config.channels * engine.dtype.itemsize
    while not all(request.finish for request in requests):
        read += weights + per_token * sum(request.computed for request in engine.running)
        engine.step()
    end = clock()
    tokens = sum(len(request.answer) for request in requests)
    later, seconds = tokens - before, max(end - decoding, 1e-9)
    return {
        "batch": len(requests),
        "prompt": prompt,
        "first_token_seconds": statistics.median(request.first_token - request.submitted for request in requests),
        "tokens_per_second_each": later / len(requests) / seconds,
        "tokens_per_second": tokens / (end - begin),
        # Of weights and cached keys, what decoding had to read per second, over what the memory can do.
        "bandwidth_share": read / seconds / bandwidth,
    }
