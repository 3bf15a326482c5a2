"""A training that ends by the clock or by its FLOPs: kept to 2 %, the rates move with it, and a resume goes on where it was."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.checkpoint import load_pair
from fledge.cli import run
from fledge.config import ModelSettings, OptimSettings, Pretrain, check
from fledge.folder import StageFolder
from fledge.model import head
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import checkpoints, metrics, summary
from fledge.stages import pretrain
from fledge.storage import file_hash
from fledge.text.documents import validation_documents
from fledge.train.batches import Row, batched
from fledge.train.budget import CLOCKS, Budget, TimePlan
from fledge.train.held_out import validation_batches, validation_bits_per_byte
from fledge.train.loop import Plan, train
from fledge.train.resolve import Shape, resolved
from fledge.train.session import Session
from test_loop import rows, sgd, tiny


class Ticking:
    """A clock that moves when it is read, and may end whoever reads it, as a kill at that moment would."""

    def __init__(self, seed: int | None = None, *, dies_at: int = 0) -> None:
        self.now, self.calls, self.dies_at = 0.0, 0, dies_at
        self.random = random.Random(seed) if seed is not None else None

    def __call__(self) -> float:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.now += self.random.uniform(0.5, 1.5) / 64 if self.random else 1 / 64  # sums of 64ths are exact
        return self.now


@pytest.fixture
def tiny_run(toy_run: Path, tmp_path: Path) -> Pretrain:
    shutil.copytree(toy_run / "tokenizer", tmp_path / "run" / "tokenizer")
    shape = ModelSettings(depth=1, width=32, heads=2, context=32)
    config = Pretrain(run=str(tmp_path / "run"), model=shape, batch_tokens=64, eval_tokens=200, compile="no", threads=1)
    return replace(config, clock="cpu", minutes=0.05, save_every=1)


@given(seed=st.integers(0, 1000), seconds=st.floats(100.0, 400.0))
@settings(max_examples=50, deadline=None)
def test_steps_of_any_length_end_within_2_percent_of_the_time(seed: int, seconds: float) -> None:
    drawn = random.Random(seed)
    budget = Budget(seconds=seconds)
    while not budget.is_over():
        budget.book(drawn.uniform(0.5, 1.5))
    assert 0.98 * seconds <= budget.spent <= 1.005 * seconds


def test_the_loop_ends_within_2_percent_and_leaves_out_what_happens_between_steps() -> None:
    model, clock = tiny(), Ticking(0)
    budget = Budget(seconds=10.0, clock=clock)
    plan = TimePlan(steps=10**6, warmup=0.1, warmdown=0.5, clock=clock, budget=budget)
    shares = []
    for step in train(model, sgd(model), itertools.repeat(rows(0, 8)), plan):
        clock.now += 5.0  # a measurement, a checkpoint
        budget.book(step.seconds)
        shares.append(step.rate_share)
        if budget.is_over():
            break
    assert budget.spent == pytest.approx(10.0, rel=0.02)
    top = shares.index(max(shares))
    assert shares[0] > 0
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert shares[-1] < 0.05


def test_steps_of_equal_length_have_the_rates_of_a_plan_of_steps() -> None:
    by_steps = Plan(steps=200, warmup=0.1, warmdown=0.4, final_share=0.2)
    budget = Budget(seconds=100.0)
    by_time = TimePlan(steps=0, warmup=0.1, warmdown=0.4, final_share=0.2, budget=budget)
    for step in range(200):
        assert by_time.rate_share(step, 0.5) == pytest.approx(by_steps.rate_share(step), abs=0.02)
        budget.book(0.5)
    assert budget.is_over()


def test_a_training_killed_at_any_moment_has_spent_what_its_checkpoint_says(
    tiny_run: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the clock ticks alike it is the same training to the bit, with measurements at the same tenths."""
    straight = Path(tiny_run.run) / "pretrain"
    monkeypatch.setitem(CLOCKS, "cpu", Ticking())  # type: ignore[misc]
    pretrain.main(tiny_run)
    killed = Path(tiny_run.run).with_name("killed")
    shutil.copytree(straight.with_name("tokenizer"), killed / "tokenizer")
    for dies_at in (40, 77, 0):
        monkeypatch.setitem(CLOCKS, "cpu", Ticking(dies_at=dies_at))  # type: ignore[misc]
        try:
            pretrain.main(replace(tiny_run, run=str(killed)))
        except KeyboardInterrupt:
            assert dies_at
    apart = {"samples": 0, "peak_memory_bytes": 0}
    lines, others = metrics(straight), metrics(killed / "pretrain")
    assert [line | apart for line in lines] == [line | apart for line in others]
    assert sum(line.get("seconds", 0.0) for line in lines) == pytest.approx(3.0, rel=0.02)
    assert sum("val_bits_per_byte" in line for line in lines) in (9, 10)
    assert summary(straight)["steps"] == max(line["step"] for line in lines) > 20
    one, other = (checkpoints(path)[-1] / "model.safetensors" for path in (straight, killed / "pretrain"))
    assert file_hash(one) == file_hash(other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler imports its own deprecated parts
def test_the_step_is_compiled_once_and_before_the_first_so_that_no_budget_pays_for_it(tiny_run: Pretrain) -> None:
    compiled = []

    def count(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    config = resolved(tiny_run)
    model = Transformer(ModelConfig.of(config.model, vocab=512)).init(seed=0)
    row = Row(np.arange(33, dtype=np.int32), np.ones(33, np.bool_), {})
    (stage := Path(config.run) / "pretrain").mkdir()
    session = Session(StageFolder(stage, "pretrain"), replace(config, minutes=None), model)
    session.compile = "yes"
    hidden, part = (torch.compile(each, backend=count, dynamic=False) for each in (Transformer.hidden, head.nll_part))
    session.loss = partial(Transformer.nll_sum, hidden=hidden, part=part)  # type: ignore[assignment]
    shape = session.tried(Shape.of(config, length=32))
    assert len(compiled) == 2  # body and head
    steps = session.train(lambda _: batched(itertools.repeat(row), rows=shape.rows), steps=3, micro=shape.micro)
    assert list(steps) == [1, 2, 3]
    assert len(compiled) == 2  # body and head


def test_flops_give_tokens_by_what_the_model_takes_for_one(tiny_run: Pretrain) -> None:
    asked = replace(tiny_run, minutes=None, flops=1e9)
    each = Transformer(ModelConfig.of(tiny_run.model, vocab=512)).flops_per_token()
    assert resolved(asked).tokens == round(1e9 / each)
    wider = resolved(replace(asked, model=replace(asked.model, width=64)))
    assert (wider.tokens or 0) < (resolved(asked).tokens or 0)


def test_a_time_leaves_tokens_open_and_the_batch_to_the_law_of_depth(tiny_run: Pretrain) -> None:
    open_ended, by_ratio = (resolved(replace(tiny_run, minutes=minutes, batch_tokens=None)) for minutes in (1.0, None))
    assert (open_ended.tokens, open_ended.eval_every) == (None, None)
    assert open_ended.batch_tokens == by_ratio.batch_tokens
    assert open_ended.optim == replace(by_ratio.optim, warmup=0.1)


def test_two_ends_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tokens=100, minutes=1.0: each says when to end; give one"):
        check(Pretrain(tokens=100, minutes=1.0))
    assert run(["pretrain", "runs/x", "--flops", "1e9", "--minutes", "1"]) == 2


def test_an_own_text_that_comes_round_is_foretold_and_the_weights_remain_at_which_held_out_text_costs_least(
    tiny_run: Pretrain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"The owl of house {each} sees mouse {each * 7}." for each in range(60)))
    loud = OptimSettings(batch_scale=1.0)  # else so short a training learns nothing by heart
    config = replace(tiny_run, data=str(book), minutes=None, tokens=64 * 60, eval_every=6, optim=loud)
    config = replace(config, save_every=9, keep=9)
    pretrain.main(config)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    epochs = re.search(r"documents, [\d.e-]+M tokens: ([\d,.]+) epochs; about", said)
    assert epochs, said
    assert float(epochs[1]) > 8
    assert "4 epochs learn a text by heart; 4 are" in said
    stage = Path(config.run) / "pretrain"
    measured = {line["step"]: line["val_bits_per_byte"] for line in metrics(stage) if "val_bits_per_byte" in line}
    found, best = summary(stage), min(measured, key=measured.__getitem__)
    assert (found["kept_step"], found["val_bits_per_byte"]) == (best, measured[best])
    assert best < 60 == found["steps"], measured  # else nothing was seen of what remains
    pinned = validation_documents(str(book), seed=0, bytes_wanted=600)
    model, tokenizer = load_pair(Path(config.run), "pretrain")
    batches = validation_batches(pinned.documents, tokenizer, rows=2, length=32)
    assert validation_bits_per_byte(model, batches) == pytest.approx(measured[best], rel=1e-5)
    # Killed before the best step and after it, it ends with the same.
    whole = file_hash(checkpoints(stage)[-1] / "model.safetensors")
    for number in (best - 6, best + 6):
        (stage / "done.json").unlink()
        for later in [one for one in checkpoints(stage) if int(one.name[-6:]) > number]:
            shutil.rmtree(later)
        pretrain.main(config)
        assert summary(stage)["kept_step"] == best
        assert file_hash(checkpoints(stage)[-1] / "model.safetensors") == whole
    capsys.readouterr()
    pretrain.main(replace(config, fresh=True, tokens=None, minutes=0.002))
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert re.search(r"epochs; 0s of steps, about [\d.e-]+M tokens, if \d+% of", said), said
