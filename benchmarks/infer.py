"""The engine beside full forward passes and `generate` of Hugging Face transformers: `python -m benchmarks infer`.

Greedy answers of one random model to the same prompts: one request, 32 of one length, 32 of mixed lengths. On a GPU also the
engine without variable-length attention and recorded steps. Needs transformers (group `bench`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.harness import compare, show
from fledge.bench.infer import make_engine, make_model
from fledge.commands import InferBench
from fledge.config import Sampling
from fledge.export.hf import architecture, names
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.model.device import find_device, threads
from fledge.model.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The engine beside full forward passes and transformers, on random weights of the classic architecture."""

    layers: int = 3
    """Layers of the random model."""
    width: int = 128
    """Its width."""
    heads: int = 2
    """Its heads."""
    vocab: int = 1536
    """Its vocabulary."""
    new: int = 32
    """Tokens to sample per request."""
    repeats: int = 5
    """Each way in turn, so many times; the median counts."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    threads: int = 1
    """CPU threads."""


@dataclass(frozen=True)
class Work:
    """Greedy answers to compare on: `new[r]` tokens are wanted after `prompts[r]`."""

    name: str
    prompts: list[list[int]]
    new: list[int]

    @property
    def tokens(self) -> int:
        return sum(self.new)


Answers = list[list[int]]
Way = Callable[[Work], Answers]


def main(settings: Settings) -> None:
    """Measure and print a line for each work and way."""
    threads(settings.threads)
    shape = InferBench(layers=settings.layers, width=settings.width, heads=settings.heads, vocab=settings.vocab)
    model = make_model(shape, context=4 * settings.new + 32).to(find_device(settings.device))
    rows = []
    for work in works(settings.new):
        answers = compare(
            {name: partial(way, work) for name, way in ways(model, work).items()}, repeats=settings.repeats
        )
        ours = answers["engine"]
        for name, found in answers.items():
            same = sum(one == other for one, other in zip(found.result, ours.result, strict=True))
            speed = [found.time.rate(work.tokens), found.time.times(ours.time)]
            rows.append([f"{work.name}: {name}", *speed, f"{same} of {len(work.new)}"])
    columns = ["requests: way", "tokens/s", "times as long as the engine", "same answers"]
    show(f"greedy answers, 32 prompt and {settings.new} new tokens or as said", columns, rows)


def works(new: int) -> list[Work]:
    """One request, 32 of one length, 32 of mixed lengths."""
    rng = random.Random(1)
    mixed = [[rng.randint(min(8, new), 2 * new) for _ in range(32)] for _ in range(2)]
    lengths = {"1": ([32], [new]), "32": ([32] * 32, [new] * 32), f"32 of {min(8, new)}-{2 * new}": mixed}
    return [
        Work(name, [[rng.randrange(256) for _ in range(length)] for length in prompts], wanted)
        for name, (prompts, wanted) in lengths.items()
    ]


def ways(model: Transformer, work: Work) -> dict[str, Way]:
    """All compute in the engine's type. Full forward passes are for answers of one length."""
    room: dict[str, Any] = {"slots": len(work.new), "context": model.config.context}
    engine = make_engine(model, **room)
    found: dict[str, Way] = {"engine": partial(by_engine, engine)}
    if engine.decoding is not None:
        found["engine, groups of similar length"] = partial(by_engine, make_engine(model, **room, kernel=None))
    found["transformers"] = partial(by_transformers, hugging_face(model).to(model.embedding.device, engine.dtype))
    model.compute_dtype = engine.dtype
    return found | ({"full forward passes": partial(by_forward, model)} if len(set(work.new)) == 1 else {})


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
        ValueError: transformers is not installed.
    """
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("transformers is not installed: uv run --group bench python -m benchmarks infer") from error
    shape = architecture(model.config, remote_code=False) | {"vocab_size": model.config.rows}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    peer = transformers.NanoChatForCausalLM(transformers.NanoChatConfig(**shape, **ends)).eval()
    weights = model.state_dict()
    peer.load_state_dict({theirs: weights[ours] for ours, theirs in names(model.config.layers).items()})
    return peer
