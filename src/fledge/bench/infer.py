"""How fast answers come: `fledge bench infer`.

For batch sizes and prompt lengths: time to first token, tokens per second of one answer and of all, and how much of the
memory's bandwidth that is. `--mixed` adds 256 requests of 100-1024 prompt and 100-1024 new tokens; `--peers` compares with a
loop of full forward passes and with the `generate` of Hugging Face transformers on the same weights (group `bench`), on a GPU
also with the engine's way without variable-length attention and recorded steps.
The last line is everything as JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fledge.config import InferBench, Sampling
from fledge.console import table
from fledge.infer.engine import Engine, Request
from fledge.model.device import find_device, threads
from fledge.model.transformer import ModelConfig, Transformer
from fledge.text.tokenizer import Tokenizer

SPECIAL = Tokenizer([]).special
"""Ids 256 to 264 of every vocabulary, as far as the bench is concerned."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement."""

    batch: int
    prompt: str
    first_token_seconds: float
    """Median over the requests, from arrival."""
    tokens_per_second_each: float
    tokens_per_second: float
    bandwidth_share: float
    """Bytes of weights and cached keys that decoding had to read, per second, over what the memory can do."""


def main(config: InferBench) -> None:
    """Print the tables and one line of JSON."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}.get(config.clock)
    if clock is None:
        raise ValueError(f"clock={config.clock!r} is not one of wall, cpu")
    device = find_device(config.device)
    threads(config.threads)
    batches, lengths = (sorted(map(int, text.split(","))) for text in (config.batches, config.prompts))
    context = 2048 if config.mixed else max(512, max(lengths) + config.new)
    model = make_model(config, context=context).to(device)
    bandwidth = read_bandwidth(device)
    report: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(), "clock": config.clock}
    report |= {"model": asdict(model.config), "read_bytes_per_second": bandwidth, "rows": [], "peers": []}
    rng = random.Random(0)
    rows = []
    for length in lengths:
        for batch in batches:
            requests = [make_request(rng, model, length, config.new, seed) for seed in range(batch)]
            rows.append(measure(model, requests, str(length), bandwidth, clock, context=context))
    if config.mixed:
        sizes = [(rng.randint(100, 1024), rng.randint(100, 1024)) for _ in range(256)]
        requests = [make_request(rng, model, prompt, new, seed) for seed, (prompt, new) in enumerate(sizes)]
        rows.append(measure(model, requests, "100-1024", bandwidth, clock, context=context))
    show(f"engine on {device}, {model.parameter_counts()['total']:,} parameters", rows)
    report["rows"] = [asdict(row) for row in rows]
    if config.peers:
        report["peers"] = compare(model, config, clock)
    print(json.dumps(report))


def make_model(config: InferBench, *, context: int) -> Transformer:
    """The model to measure; none of its answers ends early."""
    if config.run is not None:
        from fledge.checkpoint import load_model

        model = load_model(Path(config.run))
    else:
        shape = ModelConfig(
            vocab=config.vocab,
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            kv_heads=config.heads,
            context=context,
        )
        model = Transformer(shape).init(seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():  # a fresh model's last matrices are 0 and every logit with them
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * model.config.width**-0.5)
    with torch.no_grad():
        # A logit of 0 is never the greatest of a thousand, and seldom drawn.
        model.unembedding[list(SPECIAL.values())] = 0
    return model


def make_request(rng: random.Random, model: Transformer, length: int, new: int, seed: int) -> Request:
    """A request with a random prompt that shares nothing with others."""
    prompt = [rng.randrange(256) for _ in range(length)]
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
    engine = Engine(model, Tokenizer([]), slots=slots, context=context, run_tool=None, **settings)
    engine.generate(
        [Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=3))]
    )  # what is allocated or tuned on first use
    return engine


def measure(
    model: Transformer,
    requests: list[Request],
    prompt: str,
    bandwidth: float,
    clock: Callable[[], float],
    *,
    context: int,
) -> Row:
    """All requests at once."""
    engine = make_engine(model, slots=len(requests), context=context)
    for request in requests:
        engine.enqueue(request)
    begin = clock()
    while not all(request.answer for request in requests):
        engine.step()
    decoding, before = clock(), {id(request): len(request.answer) for request in requests}
    read = 0
    weights = sum(
        matrix.nbytes for layer in engine.model.layers for matrix in (layer.qkv, layer.out, layer.up, layer.down)
    )
    weights += engine.model.unembedding.nbytes
    per_token = 2 * model.config.layers * model.config.kv_heads * model.config.channels * engine.dtype.itemsize
    while not all(request.finish for request in requests):
        read += weights + per_token * sum(request.computed for request in engine.running)
        engine.step()
    end = clock()
    tokens = sum(len(request.answer) for request in requests)
    later = tokens - sum(before.values())
    seconds = max(end - decoding, 1e-9)
    return Row(
        batch=len(requests),
        prompt=prompt,
        first_token_seconds=statistics.median(request.first_token - request.submitted for request in requests),
        tokens_per_second_each=later / len(requests) / seconds,
        tokens_per_second=tokens / (end - begin),
        bandwidth_share=read / seconds / bandwidth,
    )


def show(title: str, rows: list[Row]) -> None:
    header = ("requests", "prompt", "first token", "tokens/s each", "tokens/s", "bandwidth")
    lines = [
        (
            str(row.batch),
            row.prompt,
            f"{row.first_token_seconds * 1e3:,.1f} ms",
            f"{row.tokens_per_second_each:,.0f}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.bandwidth_share:.0%}",
        )
        for row in rows
    ]
    table(title, header, lines)


# Comparison with others


@dataclass(frozen=True)
class Work:
    """Greedy answers to compare on: `new[r]` tokens are wanted after `prompts[r]`."""

    name: str
    prompts: list[list[int]]
    new: list[int]

    @property
    def tokens(self) -> int:
        return sum(self.new)


Way = Callable[[Work], list[list[int]]]


def compare(model: Transformer, config: InferBench, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Greedy answers to the same prompts, in turns on one machine: the engine, full forward passes, transformers."""
    engine = make_engine(model, slots=32, context=4 * config.new + 32)
    ways: dict[str, Way] = {"engine": partial(by_engine, engine)}
    if engine.decoding is not None:
        grouped = make_engine(model, slots=32, context=4 * config.new + 32, kernel=None)
        ways["engine, groups of similar length"] = partial(by_engine, grouped)
    # All compute in the engine's type.
    ways["transformers"] = partial(by_transformers, hugging_face(model).to(model.embedding.device, engine.dtype))
    model.compute_dtype = engine.dtype
    rng, results = random.Random(1), []

    def work(name: str, prompts: list[int], new: list[int]) -> Work:
        return Work(name, [[rng.randrange(256) for _ in range(length)] for length in prompts], new)

    mixed = [rng.randint(8, 2 * config.new) for _ in range(32)], [rng.randint(8, 2 * config.new) for _ in range(32)]
    for todo in (
        work("1", [32], [config.new]),
        work("32", [32] * 32, [config.new] * 32),
        work(f"32 of 8-{2 * config.new}", *mixed),
    ):
        if len(set(todo.new)) == 1:
            ways["full forward passes"] = partial(by_forward, model)
        else:
            ways.pop("full forward passes", None)
        seconds = {name: float("inf") for name in ways}
        answers: dict[str, list[list[int]]] = {}
        for _ in range(config.repeats):
            for name, way in ways.items():
                begin = clock()
                answers[name] = way(todo)
                seconds[name] = min(seconds[name], clock() - begin)
        for name in ways:
            pairs = zip(answers[name], answers["engine"], strict=True)
            result = {
                "work": todo.name,
                "way": name,
                "tokens_per_second": todo.tokens / seconds[name],
                "engine_is_faster_by": seconds[name] / seconds["engine"],
                "same_answers": sum(mine == theirs for mine, theirs in pairs) / len(todo.new),
            }
            results.append(result)
    lines = [
        (
            r["work"],
            r["way"],
            f"{r['tokens_per_second']:,.0f}",
            f"{r['engine_is_faster_by']:.2f}",
            f"{r['same_answers']:.0%}",
        )
        for r in results
    ]
    header = ("requests", "way", "tokens/s", "engine is faster by", "same answers")
    table(f"greedy, 32 prompt and {config.new} new tokens or as said, best of {config.repeats}", header, lines)
    return results


def by_engine(engine: Engine, work: Work) -> list[list[int]]:
    engine.forget()  # or the prompts would be found in the cache
    requests = [
        Request(prompt=prompt, sampling=Sampling(max_tokens=new, temperature=0), tools=False)
        for prompt, new in zip(work.prompts, work.new, strict=True)
    ]
    return [request.answer for request in engine.generate(requests)]


@torch.inference_mode()
def by_forward(model: Transformer, work: Work) -> list[list[int]]:
    tokens = torch.tensor(work.prompts, device=model.embedding.device)
    for _ in range(work.new[0]):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    return tokens[:, -work.new[0] :].tolist()


@torch.inference_mode()
def by_transformers(peer: Any, work: Work) -> list[list[int]]:
    """One batch: shorter prompts are padded on the left, and all rows go on until the longest answer has ended."""
    longest, new = max(map(len, work.prompts)), max(work.new)
    prompts = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in work.prompts], device=peer.device)
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in work.prompts], device=peer.device
    )
    told = peer.generate(prompts, attention_mask=mask, do_sample=False, max_new_tokens=new, min_new_tokens=new)
    return [row[:wanted] for row, wanted in zip(told[:, longest:].tolist(), work.new, strict=True)]


def hugging_face(model: Transformer) -> Any:
    """transformers' own class for this architecture, with the same weights.

    Raises:
        ValueError: transformers is not installed, or the model has extras that its class does not know.
    """
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("--peers needs transformers: uv run --group bench fledge bench infer --peers") from error
    config = model.config
    if config.smear or config.key_filter or "S" in config.windows:
        raise ValueError("--peers: transformers' class knows the classic architecture alone; this model has extras")
    peer = transformers.NanoChatForCausalLM(
        transformers.NanoChatConfig(
            vocab_size=config.rows,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.context,
            rms_norm_eps=torch.finfo(torch.float32).eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
            final_logit_softcapping=config.softcap,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).eval()
    names = {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "out": "self_attn.o_proj",
    }
    weights = {"model.embed_tokens.weight": model.embedding, "lm_head.weight": model.unembedding}
    for index, block in enumerate(model.blocks):
        for name, theirs in names.items():
            weights[f"model.layers.{index}.{theirs}.weight"] = getattr(block.attention, name)
        weights[f"model.layers.{index}.mlp.fc1.weight"] = block.mlp.up  # pyright: ignore
        weights[f"model.layers.{index}.mlp.fc2.weight"] = block.mlp.down  # pyright: ignore
    peer.load_state_dict({name: tensor.detach() for name, tensor in weights.items()})
    return peer
