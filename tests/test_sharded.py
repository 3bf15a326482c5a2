"""Weights in shards train as whole ones do, and what they leave is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fledge.runs import checkpoints
from fledge.storage import read_json
from processes import Processes
from test_ranks import assert_alike, ends
from test_recipes import begun_from

STEPS = 4
WORDS = [
    *("--model.depth", "3", "--model.width", "32", "--model.heads", "2", "--model.context", "64", "--dtype", "float32"),
    *(
        "--model.smear",
        "--model.key-filter",
        "--model.value-embeddings",
        "--model.residual-scales",
        "--model.pairs",
        "51",
        "--model.windows",
        "SL",
    ),
    *("--tokens", str(STEPS * 256), "--batch-tokens", "256", "--device-tokens", "64", "--compile", "no"),
    *("--optim.batch-scale", ".05", "--optim.warmup", "0", "--optim.weight-decay", ".1"),
    *("--save-every", "1", "--keep", "9", "--eval-every", "2", "--eval-tokens", "1024", "--seed", "1"),
]


@pytest.fixture(scope="module")
def alone(processes: Processes, straight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    for name in ("torch._dynamo", "fledge.train.sharded"):  # or each rank would, for two seconds
        processes.ask({"import": name})
    run = begun_from(straight, tmp_path_factory.mktemp("alone") / "run", "tokenizer")
    code, output = processes.run("pretrain", "--run", str(run), *WORDS, log=run.with_name("log"))
    assert code == 0, output
    return run


def at_step(run: Path, place: Path, step: int) -> Path:
    """A copy of a run as it was after so many steps."""
    shutil.copytree(run, place)
    (place / "pretrain" / "done.json").unlink()
    for path in checkpoints(place / "pretrain")[step:]:
        shutil.rmtree(path)
    return place


def test_shards_give_the_losses_and_checkpoints_of_whole_weights_on_any_number_of_ranks(
    processes: Processes, straight: Path, alone: Path, tmp_path: Path
) -> None:
    """On one machine, on two of two ranks each, and again without shards: each goes on from a checkpoint of the one before."""
    run = begun_from(straight, tmp_path / "two", "tokenizer")
    for count, here, recompute in ((2, 2, "block"), (4, 2, "mlp")):
        words = ["pretrain", "--run", str(run), *WORDS, "--shard", "--recompute", recompute]
        machines = [{"environment": {"LOCAL_WORLD_SIZE": str(here)}}] * count
        children = processes.start_ranks(count, *words, log=tmp_path / "log", each=machines)
        assert ends(children) == [0] * count, children[0].output()
        assert f"each rank keeps one of {here} shards of the weights" in children[0].output()
        assert_alike(run, alone, "pretrain")
        one, other = (read_json(each / "pretrain" / "done.json") for each in (run, alone))
        assert one["parameters"] == other["parameters"]
        run = at_step(run, tmp_path / f"after {count}", count // 2)
    code, output = processes.run("pretrain", "--run", str(run), *WORDS, log=tmp_path / "whole")
    assert code == 0, output
    assert "goes on from step 2 of 4" in output
    assert_alike(run, alone, "pretrain")


def test_own_conversations_choose_among_weights_in_shards_as_among_whole_ones(
    processes: Processes, alone: Path, tmp_path: Path
) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        "".join(json.dumps({"question": f"Is {n} even?", "answer": ["yes", "no"][n % 2]}) + "\n" for n in range(120))
    )
    words = [
        *(
            "--start",
            "pretrain",
            "--data",
            str(chats),
            "--tokens",
            "1024",
            "--batch-tokens",
            "256",
            "--eval-every",
            "1",
        ),
        *("--device-tokens", "64", "--dtype", "float32", "--compile", "no", "--save-every", "1", "--keep", "9"),
    ]
    runs = [begun_from(alone, tmp_path / name / "run", "tokenizer", "pretrain") for name in ("whole", "shards")]
    code, output = processes.run("sft", "--run", str(runs[0]), *words, log=tmp_path / "log")
    assert code == 0, output
    children = processes.start_ranks(2, "sft", "--run", str(runs[1]), *words, "--shard", log=tmp_path / "ranks")
    assert ends(children) == [0, 0], children[0].output()
    assert_alike(runs[1], runs[0], "sft")
    one, other = (read_json(run / "sft" / "done.json") for run in runs)
    assert one["kept_step"] == other["kept_step"]
