"""`--device-tokens` cuts a step into forward passes and changes nothing else: not the data, not the loss, in no stage."""

from __future__ import annotations

import importlib
import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fernhollow.asked import TASKS
from fledge.commands import RunRecipe
from fledge.config import Midtrain, Pretrain, Rl, Sft, TrainStage
from fledge.recipes import toy
from fledge.runs import checkpoints, metrics, stage_name
from fledge.weights import read_state
from processes import letters

CONTEXT = 128
STEP = {"batch_tokens": 4 * CONTEXT, "tokens": 3 * 4 * CONTEXT, "compile": "no", "device": "cpu", "dtype": "float32"}
MODEL = next(item.config.model for item in toy(RunRecipe()) if isinstance(item.config, Pretrain))
STAGES = [
    Pretrain(**STEP, model=MODEL, eval_tokens=500),
    Midtrain(**STEP, replay=0.4),
    Sft(**STEP, replay=0.25),
    Rl(
        task="world/spelling",
        steps=3,
        prompts=3,
        samples=3,
        replay_tokens=3 * CONTEXT,
        eval_examples=1,
        device="cpu",
        dtype="float32",
    ),
]


def trained(config: TrainStage, toy_run: Path, run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The steps of a stage that begins where the toy run's did, and the state of its last checkpoint."""
    name = stage_name(config)
    for before in ("tokenizer", getattr(config, "start", "tokenizer")):
        shutil.copytree(toy_run / before, run / before, dirs_exist_ok=True)
    importlib.import_module(f"fledge.stages.{name}").main(replace(config, run=str(run)))
    steps = [line for line in metrics(run / name) if "loss_nats" in line]
    return steps, read_state(checkpoints(run / name)[-1])


@pytest.mark.parametrize("config", STAGES, ids=stage_name)
def test_no_stage_depends_on_device_tokens(
    config: TrainStage, toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A reward that even this model gets now and then.
    monkeypatch.setitem(TASKS, "world/spelling", replace(TASKS["world/spelling"], grade=letters, max_tokens=12))
    tries = [
        trained(replace(config, device_tokens=tokens), toy_run, tmp_path / str(tokens))
        for tokens in (CONTEXT, 2 * CONTEXT, None)
    ]
    assert all(len(steps) == 3 and steps[2]["gradient_norm"] > 0 for steps, _ in tries)
    for (one, its_state), (other, state) in itertools.pairwise(tries):
        assert its_state["cursor"] == state["cursor"]
        for a, b in zip(one, other, strict=True):
            assert a["tokens"] == b["tokens"]
            assert a["loss_nats"] == pytest.approx(b["loss_nats"], rel=1e-4, abs=1e-6)
            assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
