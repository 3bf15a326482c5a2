"""How fast answers to learn from are drawn: `fledge bench rl`.

The same answers, of the same lengths, are drawn in two ways: in one flow through the engine, where an answer that ends makes room
for the next; and one prompt at a time, whose answers are all computed until the longest has ended, as without continuous
batching. The last line is everything as JSON.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fledge.bench.infer import CLOCKS, make_engine, make_model, make_request
from fledge.commands import RlBench
from fledge.console import say, table
from fledge.infer.engine import Engine
from fledge.model.device import find_device, threads
from fledge.model.transformer import Transformer

COLUMNS = {
    "way": "{way}",
    "rollouts/s": "{rollouts_per_second:,.1f}",
    "tokens/s": "{tokens_per_second:,.0f}",
    "forward passes": "{passes:,}",
}
"""Of the table: how a row is shown."""


def main(config: RlBench) -> None:
    """Print the table, how many times as fast the flow is, and one line of JSON."""
    device, clock = find_device(config.device), CLOCKS[config.clock]
    threads(config.threads)
    context = config.prompt + config.longest
    model = make_model(config, context=context).to(device)
    lengths = answer_lengths(config)
    flow = make_engine(model, slots=min(config.slots, config.prompts * config.samples), context=context)
    rows = [measure("in one flow", flow, model, [lengths], config, clock)]
    apart = make_engine(model, slots=config.samples, context=context)
    rows.append(measure("prompt by prompt", apart, model, [[own] for own in lengths], config, clock))
    times = rows[0]["rollouts_per_second"] / rows[1]["rollouts_per_second"]
    title = f"{config.prompts} prompts, {config.samples} answers to each, on {device}"
    table(title, list(COLUMNS), [[cell.format(**row) for cell in COLUMNS.values()] for row in rows])
    say(f"in one flow {times:.1f} times as fast")
    found = {"device": str(device), "threads": torch.get_num_threads(), "clock": config.clock, "times": times}
    print(json.dumps(found | {"rows": rows}))


def answer_lengths(config: RlBench) -> list[list[int]]:
    """Tokens of each answer, by prompt: as many between 10 and 20 as between 100 and 200, for some answers are long."""
    rng, ratio = random.Random(config.seed), config.longest / config.shortest
    return [
        [round(config.shortest * ratio ** rng.random()) for _ in range(config.samples)] for _ in range(config.prompts)
    ]


def measure(
    way: str,
    engine: Engine,
    model: Transformer,
    turns: Sequence[Sequence[Sequence[int]]],
    config: RlBench,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """The groups of a turn are drawn together; of a turn of one group every answer goes on until the longest has ended."""
    rng = random.Random(config.seed)
    waiting = []
    for groups in turns:
        waiting.append([])
        for lengths in groups:
            prompt = make_request(rng, model, config.prompt, 1, 0).prompt
            for length in lengths:
                tokens = length if len(turns) == 1 else max(lengths)
                waiting[-1].append(make_request(rng, model, 0, tokens, rng.getrandbits(62), prompt=prompt))
    before, begin = engine.counts["steps"], clock()
    for requests in waiting:
        engine.generate(requests)
    seconds = clock() - begin
    lengths = [length for groups in turns for group in groups for length in group]
    return {
        "way": way,
        "rollouts_per_second": len(lengths) / seconds,
        "tokens_per_second": sum(lengths) / seconds,  # that belong to answers
        "passes": engine.counts["steps"] - before,
    }
