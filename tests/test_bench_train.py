"""`fledge bench train`: the parts of a step add up to it, on any number of ranks, and where no peak is known none is divided by."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.bench.train import CELLS, PARTS, believable, nanochat_flops_per_token, parts_of, show
from fledge.cli import parse, run
from fledge.commands import TrainBench
from fledge.config import ModelSettings
from fledge.model.transformer import ModelConfig, Transformer
from fledge.settings import words_of
from fledge.train.loop import Step
from processes import Processes

MODEL = ModelSettings(depth=2, width=32, heads=2, context=32, smear=True)
TINY = TrainBench(model=MODEL, vocab=320, batch_tokens=256, device_tokens=64, steps=3, compile="no", threads=1)
WORDS = ["bench", "train", *words_of(replace(TINY, json=True, dtype="float32"), TrainBench())]


def check_row(row: dict[str, Any], *, ranks: int) -> None:
    """What holds on every machine."""
    parts = row["parts"]
    assert (row["ranks"], list(parts)) == (ranks, list(PARTS))
    assert all(seconds >= 0 for seconds in parts.values())
    assert sum(parts.values()) <= row["step_seconds"] * (1 + 1e-6)
    assert all(parts[name] > 0 for name in PARTS if name != "communication")
    assert (parts["communication"] > 0) == (ranks > 1)
    assert row["tokens_per_second"] == pytest.approx(256 / row["step_seconds"])
    assert row["ceiling_share"] == pytest.approx(row["flops_per_second"] / row["product_flops"])
    assert row["copy_seconds"] > 0
    assert row["compile_seconds"] == 0
    assert row["peak_memory_bytes"] >= row["before_bytes"] > 0
    assert row["law_bytes"] > 0


def test_the_parts_of_a_step_add_up_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(WORDS) == 0
    found = json.loads(capsys.readouterr().out)
    [row] = found["rows"]
    check_row(row, ranks=1)
    assert (row["passes"], row["rows"]) == (4, 2)
    assert found["step"] == {"tokens": 256, "dtype": "float32", "compile": "no", "recompute": "no"}
    assert ModelConfig(**found["model"]).width == 32


def test_every_number_of_ranks_has_its_row(tmp_path: Path, processes: Processes) -> None:
    log = tmp_path / "log"
    code, output = processes.run(*WORDS, "--ranks", "1,2", log=log)
    assert code == 0, output
    rows = json.loads(next(line for line in output.splitlines() if line.startswith("{")))["rows"]
    for ranks, row in zip((1, 2), rows, strict=True):
        check_row(row, ranks=ranks)
    assert [row["passes"] for row in rows] == [4, 2]


def test_a_model_in_shards_has_the_same_parts_and_needs_less_by_the_law(tmp_path: Path, processes: Processes) -> None:
    laws = []
    for words in ([], ["--shard"]):
        code, output = processes.run(*WORDS, "--ranks", "2", *words, log=tmp_path / f"log{words}")
        assert code == 0, output
        found = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        check_row(found["rows"][0], ranks=2)
        assert found["rows"][0]["shards"] == 1 + len(words)
        laws.append(found["rows"][0]["law_bytes"])
    assert laws[1] < laws[0]


def test_a_mistake_within_ranks_is_said_once_and_ends_the_command(tmp_path: Path, processes: Processes) -> None:
    code, output = processes.run(*WORDS, "--ranks", "1,2", "--device", "tpu", log=tmp_path / "log")
    assert code == 2
    assert output.count("device='tpu' is not on this machine") == 1


def test_the_command_line_of_settings_means_the_settings() -> None:
    changed = replace(TINY, model=replace(MODEL, windows="SL"), ranks="1,4", json=True)
    for config in (TrainBench(), TINY, changed):
        assert parse(TrainBench, "fledge bench train", words_of(config, TrainBench())) == config


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--ranks", "1,x"], "ranks='1,x' is not whole numbers of 1 or more with commas between, as in 1,2,4"),
        (["--ranks", "0"], "ranks='0' is not whole numbers of 1 or more"),
        (["--ranks", "1,9"], "batch_tokens=256 are 8 rows of 32, fewer than 9 ranks; give --batch-tokens 288 or more"),
        (["--batch-tokens", "250"], "batch_tokens=250 is not a multiple of context=32; nearest that is: 256"),
        (["--steps", "0"], "steps=0 is not a whole number of 1 or more"),
    ],
)
def test_a_mistake_ends_with_2_before_anything_is_measured(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*WORDS, *words]) == 2
    assert answer in capsys.readouterr().err


def test_what_nobody_booked_is_the_optimizers_and_the_head_is_part_of_the_forward_pass() -> None:
    step = Step(index=0, loss_nats=1.0, gradient_norm=1.0, rate_share=1.0, tokens=1, seconds=10.0)
    step = replace(step, parts={"data": 1.0, "forward": 3.0, "backward": 4.0, "optimizer": 0.5, "communication": 1.0})
    parts = {"data": 1.0, "forward": 1.0, "loss head": 2.0, "backward": 4.0, "optimizer": 1.0, "communication": 1.0}
    assert parts_of(step, 2 / 3) == pytest.approx(parts)


def test_nanochat_counts_the_whole_context_and_neither_embeddings_nor_its_padding() -> None:
    model = Transformer(
        ModelConfig(vocab=512, layers=2, width=64, heads=2, kv_heads=2, context=100, value_embeddings=True, pairs=99)
    )
    weights = 2 * 12 * 64**2 + 512 * 64 + 4  # blocks, unembedding, and two scales per layer
    assert nanochat_flops_per_token(model) == 6 * weights + 12 * 2 * 64 * 100
    assert model.flops_per_token() == pytest.approx(6 * (weights - 4) + 12 * 2 * 64 * 50.5)


def test_a_peak_that_a_product_exceeds_is_another_cards() -> None:
    assert believable(100.0, 90.0) == 100.0
    assert believable(100.0, 130.0) is None
    assert believable(None, 90.0) is None


@pytest.mark.parametrize("peak", [None, 1e15])
def test_only_a_known_card_has_an_mfu(peak: float | None, capsys: pytest.CaptureFixture[str]) -> None:
    share = 0.4 if peak else None
    row = {figure: 1.0 for figure, _, _ in CELLS.values()} | {"ranks": 1, "shards": 1, "passes": 1, "rows": 1}
    row |= {"parts": dict.fromkeys(PARTS, 0.1), "peak_flops": peak, "mfu_share": share, "nanochat_mfu_share": share}
    model = ModelConfig.of(MODEL, vocab=320)
    step = {"tokens": 1, "dtype": "float32", "compile": "no", "recompute": "no"}
    show({"model": asdict(model), "parameters": 1, "machine": {"name": "X"}, "step": step, "rows": [row]})
    text = capsys.readouterr().out
    assert ("unknown" in text) == (peak is None)
    assert text.count("MFU") == (2 if peak else 0)
    assert text.count("40.0%") == (2 if peak else 0)


def test_a_device_without_a_data_sheet_has_no_peak(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*WORDS, "--device", "cpu", "--no-json"]) == 0
    text = capsys.readouterr().out
    assert "unknown" in text
    assert "MFU" not in text
    assert torch.get_num_threads() == 1
