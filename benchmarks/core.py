"""How much faster CORE is when prompts share what they have in common: `python -m benchmarks core`.

Asks a random model the first items of every task twice: all together (evals/likelihood.py), and one item per forward pass, as
the public reference does, its options padded to one batch. Prints both times per task, and how many answers differ: none may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Timed, compare, show
from fledge.evals.likelihood import evaluating, judge_rows
from fledge.evals.score import Scorer, ranked
from fledge.model.transformer import ModelConfig, Transformer
from fledge.tasks import core, find_tasks
from fledge.tasks.base import Example, Task
from fledge.text.tokenizer import Tokenizer

Answers = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """CORE with all prompts together beside one item per forward pass."""

    examples: int = 50
    """Items per task; the examples in their prompts come from the whole task."""
    tasks: tuple[str, ...] = ("core",)
    """Names of tasks, as core/squad; core: all 22."""
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


def main(settings: Settings) -> None:
    """Measure and print a line per task."""
    rows = []
    for label, way in measure(settings):
        together, single = way["together"], way["one by one"]
        differ = sum(map(differs, together.result, single.result))
        times = [str(together.time), str(single.time), single.time.times(together.time)]
        rows.append([label, str(len(together.result)), *times, str(differ)])
    columns = ["task", "items", "together, seconds", "one by one, seconds", "times faster", "answers that differ"]
    show("CORE", columns, rows)


def measure(settings: Settings) -> Iterator[tuple[str, dict[str, Timed[Answers]]]]:
    """Every task by its name, both ways.

    Raises:
        ValueError: an unknown task.
        FileNotFoundError, ConnectionError: the bundle is neither in FLEDGE_LOCAL nor to be had.
    """
    torch.set_num_threads(settings.threads)
    tasks = find_tasks(settings.tasks)
    tokenizer = Tokenizer.train(task_texts(), vocab=settings.vocab)
    scorer = Scorer(random_model(settings, tokenizer.vocab), tokenizer)
    for task in tasks.values():
        examples = task.load("test")
        count = min(settings.examples, len(examples))
        ways = {"together": together, "one by one": one_by_one}
        yield task.name, compare({name: partial(way, scorer, task, examples, count) for name, way in ways.items()})


def task_texts() -> Iterator[str]:
    """Prompts of 500 items of each task."""
    for task in core.TASKS:
        for example in task.load("test")[:500]:
            yield example.texts[-1]


def random_model(settings: Settings, vocab: int) -> Transformer:
    """A model that prefers some tokens to others; the initial one finds all equally likely."""
    heads = max(1, settings.width // 64)
    shape = ModelConfig(
        vocab=vocab, layers=settings.layers, width=settings.width, heads=heads, kv_heads=heads, context=2048
    )
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.size(-1) ** -0.5)
    return model


def together(scorer: Scorer, task: Task, examples: Sequence[Example], count: int) -> Answers:
    """As an evaluation asks."""
    return [outcome.record for outcome in scorer.rank(task, dict(enumerate(examples)), count=count).values()]


def one_by_one(scorer: Scorer, task: Task, examples: Sequence[Example], count: int) -> Answers:
    """One forward pass per item that computes every logit of its padded options."""
    model: Any = scorer.model
    model.device = model.embedding.device
    records = []
    with evaluating(model):
        for index in range(count):
            rows = scorer.rows(task, examples, index)
            judged = judge_rows(model, list(enumerate(rows)))
            records.append(ranked(task, examples[index], index, [judged[place] for place in range(len(rows))]).record)
    return records


def differs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """What has to agree: the choice, or whether the text was reproduced."""
    return one.get("choice", one["correct"]) != other.get("choice", other["correct"])
