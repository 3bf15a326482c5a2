"""How much faster CORE is when prompts share what they have in common: `fledge bench core --bundle eval_bundle.zip`.

Asks a random model the first items of every task twice: all together (evals/likelihood.py), and one item per forward pass, as
the public reference does, its options padded to one batch. Prints both times per task, and how many answers differ: none may.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fledge.evals.core import TASKS, CoreTask, Item, ask, item_rows, open_bundle, outcome, prompts, shuffled
from fledge.evals.likelihood import evaluating, judge_rows
from fledge.evals.score import Scorer
from fledge.model.transformer import ModelConfig, Transformer
from fledge.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class CoreBench:
    """Time CORE batched and one example per forward pass."""

    bundle: str = "eval_bundle.zip"
    """eval_bundle.zip, the unpacked folder, or a folder that holds one of them."""
    examples: int = 50
    """Items per task; the examples in their prompts come from the whole task."""
    tasks: tuple[str, ...] = ()
    """Tasks. None named: all 22."""
    layers: int = 3
    """Layers of the random model."""
    width: int = 128
    """Its width; the weights are float32."""
    vocab: int = 32_768
    """Its vocabulary, trained on the tasks' own text."""
    threads: int = 1
    """CPU threads."""
    seed: int = 0
    """Seed of its weights."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One task, both ways."""

    label: str
    items: int
    batched_seconds: float
    single_seconds: float
    differ: int
    """Items whose answers differ."""


def main(config: CoreBench) -> None:
    """Measure and print a line per task."""
    print(
        f"{'task':<34}{'items':>6}{'batched s':>11}{'one by one s':>14}{'times faster':>14}{'answers that differ':>21}"
    )
    for timing in measure(config):
        faster = timing.single_seconds / timing.batched_seconds
        seconds = f"{timing.batched_seconds:>11.2f}{timing.single_seconds:>14.2f}{faster:>14.1f}"
        print(f"{timing.label:<34}{timing.items:>6}{seconds}{timing.differ:>21}", flush=True)


def measure(config: CoreBench) -> Iterator[Timing]:
    """Time every task both ways; the last is the sum of all.

    Raises:
        ValueError: an unknown task.
        FileNotFoundError: there is no bundle.
    """
    torch.set_num_threads(config.threads)
    bundle = open_bundle(config.bundle)
    unknown = set(config.tasks) - {task.label for task in TASKS}
    if unknown:
        raise ValueError(f"tasks: {', '.join(sorted(unknown))} is not among {', '.join(task.label for task in TASKS)}")
    chosen = [task for task in TASKS if not config.tasks or task.label in config.tasks]
    tokenizer = Tokenizer.train(task_texts(bundle), vocab=config.vocab)
    scorer = Scorer(random_model(config, tokenizer.vocab), tokenizer)
    timings = []
    for task in chosen:
        timings.append(time_task(scorer, task, bundle, config.examples))
        yield timings[-1]
    yield Timing(
        label="all",
        items=sum(timing.items for timing in timings),
        batched_seconds=sum(timing.batched_seconds for timing in timings),
        single_seconds=sum(timing.single_seconds for timing in timings),
        differ=sum(timing.differ for timing in timings),
    )


def task_texts(bundle: Callable[[CoreTask], list[Item]]) -> Iterator[str]:
    """Prompts of 500 items of each task."""
    for task in TASKS:
        for item in shuffled(bundle(task), 500):
            yield prompts(task, item, ())[-1]


def random_model(config: CoreBench, vocab: int) -> Transformer:
    """A model that prefers some tokens to others; the initial one finds all equally likely."""
    heads = max(1, config.width // 64)
    shape = ModelConfig(
        vocab=vocab, layers=config.layers, width=config.width, heads=heads, kv_heads=heads, context=2048
    )
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.size(-1) ** -0.5)
    return model


def time_task(scorer: Scorer, task: CoreTask, bundle: Callable[[CoreTask], list[Item]], count: int) -> Timing:
    """Ask the first `count` items both ways."""
    items = shuffled(bundle(task), None)
    count = min(count, len(items))
    begin = time.perf_counter()
    batched, _ = ask(scorer, task, items, count=count)
    middle = time.perf_counter()
    single = one_by_one(scorer, task, items, count)
    end = time.perf_counter()
    return Timing(
        label=task.label,
        items=count,
        batched_seconds=middle - begin,
        single_seconds=end - middle,
        differ=sum(answer(left) != answer(right) for left, right in zip(batched, single, strict=True)),
    )


def one_by_one(scorer: Scorer, task: CoreTask, items: list[Item], count: int) -> list[dict[str, Any]]:
    """The records of `ask`, from one forward pass per item that computes every logit of its padded options."""
    model: Any = scorer.model
    model.device = model.embedding.device
    records = []
    with evaluating(model):
        for index in range(count):
            rows = item_rows(scorer, task, items, index)
            judged = judge_rows(model, list(enumerate(rows)))
            records.append(outcome(task, items[index], index, [judged[place] for place in range(len(rows))]))
    return records


def answer(record: dict[str, Any]) -> Any:
    """What has to agree: the choice, or whether the text was reproduced."""
    return record.get("choice", record["correct"])
