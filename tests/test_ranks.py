"""Several ranks are one training: the same losses on any number of them, stopped together, and none is waited for in vain."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from fledge import ranks
from fledge.config import ModelSettings, Pretrain
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import checkpoints, metrics
from fledge.storage import read_json
from fledge.train.batches import Row, batched
from fledge.train.resolve import Shape
from fledge.train.shared import deal, owner
from processes import Child, Processes, rendezvous
from test_recipes import TRAINED, begun_from, losses, until

PRETRAIN = [
    "--model.depth",
    "1",
    "--model.width",
    "32",
    "--model.heads",
    "2",
    "--model.context",
    "64",
    "--dtype",
    "float32",
]
PRETRAIN += [
    "--batch-tokens",
    "256",
    "--compile",
    "no",
    "--save-every",
    "1",
    "--eval-every",
    "0",
    "--eval-tokens",
    "512",
]


def pretrain(run: Path, steps: int) -> list[str]:
    return ["pretrain", "--run", str(run), "--tokens", str(256 * steps), *PRETRAIN]


def be(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))


def ends(children: list[Child]) -> list[int]:
    return [child.wait() for child in children]


def assert_alike(run: Path, other: Path, stage: str) -> None:
    """Metrics but for times: sums of several ranks are rounded elsewhere than those of one.

    AdamW makes a whole step of a rounding where a gradient is almost 0, and how often that happens is the processor's: one
    such step moved a loss by 3e-6 of it. A row weighted wrongly moves it by more than a thousandth.
    """
    for line, expected in zip(metrics(run / stage), metrics(other / stage), strict=True):
        for name in (name for name in expected if not re.search("second|memory|samples", name)):
            near = pytest.approx(expected[name], rel=2e-4 if name == "gradient_norm" else 2e-5, abs=2e-6)
            assert line[name] == near, f"{stage}: {name}"


# In every stage


def test_losses_rewards_and_scores_do_not_depend_on_the_number_of_ranks(
    processes: Processes, straight: Path, tmp_path: Path
) -> None:
    """Nor do weights differ between ranks: a checkpoint, of which there is one at each step, is refused where they do."""
    run = tmp_path / "small"
    children = processes.start_ranks(2, "run", "small", "--out", str(run), log=tmp_path / "log")
    assert ends(children) == [0, 0], children[0].output()
    for stage in TRAINED:
        assert_alike(run, straight, stage)
    asked = [(each / "eval" / "sft-world-choice.jsonl").read_text().splitlines() for each in (run, straight)]
    one, other = ([(line["index"], line["choice"]) for line in map(json.loads, lines)] for lines in asked)
    assert one == other
    assert children[0].output().count("Done in") == 1
    assert read_json(run / "rl" / "config.json")["settings"]["ranks"] == 2


def test_one_that_dies_is_missed_and_others_in_any_number_go_on_and_stop_at_one_step(
    processes: Processes, straight: Path, tmp_path: Path
) -> None:
    run = begun_from(straight, tmp_path / "small", "tokenizer")
    words, log = ["run", "small", "--out", str(run)], tmp_path / "log"

    def reached(step: int, children: list[Child]) -> None:
        assert until(children[0], lambda: len(losses(run, "pretrain")) >= step)

    reached(1, children := processes.start_ranks(2, *words, log=log))
    os.kill(children[1].pid, signal.SIGKILL)
    assert ends(children) == [1, -signal.SIGKILL], children[0].output()
    assert "rank 0 of 2 has lost the others" in children[0].output()
    reached(3, children := processes.start_ranks(4, *words, log=log))
    os.kill(children[2].pid, signal.SIGINT)
    assert ends(children) == [130] * 4, children[0].output()
    saved = re.findall(
        r"interrupted: pretrain is saved at step (\d+) of 8. The same command goes on", children[0].output()
    )
    assert len(saved) == 1, children[0].output()
    assert checkpoints(run / "pretrain")[-1].name == f"step-{int(saved[0]):06d}"
    child = processes.start(*words, log=log)
    until(child, (run / "pretrain" / "done.json").exists)
    os.kill(child.pid, signal.SIGINT)
    child.wait()
    assert_alike(run, straight, "pretrain")


# The launcher


def test_where_one_is_killed_the_launcher_starts_all_again_and_the_weights_are_those_of_a_run_in_one_go(
    processes: Processes, straight: Path, tmp_path: Path
) -> None:
    whole, broken = (begun_from(straight, tmp_path / name, "tokenizer") for name in ("whole", "broken"))
    assert ends(processes.start_ranks(2, *pretrain(whole, 12), log=tmp_path / "one")) == [0, 0]
    child = processes.start(*pretrain(broken, 12), "--ranks", "2", log=tmp_path / "two")
    assert until(child, lambda: len(losses(broken, "pretrain")) >= 2)
    started = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    [victim] = [pid for pid in started if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(victim), signal.SIGKILL)
    assert child.wait() == 0, child.output()
    assert (
        "rank 1 was ended by SIGKILL, as when memory runs out. All start again from the last checkpoint"
        in child.output()
    )
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = ((checkpoints(run / "pretrain")[-1] / name).read_bytes() for run in (whole, broken))
        assert one == other


# Errors


def test_hosts_that_differ_are_told_with_rank_and_value(processes: Processes, straight: Path, tmp_path: Path) -> None:
    run = begun_from(straight, tmp_path / "run", "tokenizer")
    words = ["--data", "texts", *pretrain(run, 2)[1:]]
    for rank, text in enumerate(("once upon a time\n", "once upon a tide\n")):
        (tmp_path / f"host{rank}" / "texts").mkdir(parents=True)
        (tmp_path / f"host{rank}" / "texts" / "a.txt").write_text(text * 20)
    places = [{"cwd": tmp_path / f"host{rank}"} for rank in range(2)]
    children = processes.start_ranks(2, "pretrain", *words, log=tmp_path / "log", each=places)
    assert ends(children) == [2, 2], children[0].output()
    assert re.search(
        r"rank 1 has a.txt of data '340 bytes, \w+', rank 0 '340 bytes, \w+'; all must", children[0].output()
    )
    assert not (run / "pretrain" / "config.json").exists()


def test_a_full_disk_of_the_one_that_writes_ends_all(processes: Processes, straight: Path, tmp_path: Path) -> None:
    run = begun_from(straight, tmp_path / "run", "tokenizer")
    children = processes.start_ranks(
        2, *pretrain(run, 2), log=tmp_path / "log", each=[{"limits": {"FSIZE": 50_000}}, {}]
    )
    assert ends(children) == [2, 1]
    assert re.search(r"step-000001: could not be written .*; free some space and start again", children[0].output())


def test_hosts_with_other_code_are_told_with_rank_and_value(
    processes: Processes, straight: Path, tmp_path: Path
) -> None:
    """The second runs a copy of the package that somebody changed. It does not wait for Python to end, where some were aborted."""
    run = begun_from(straight, tmp_path / "run", "tokenizer")
    shutil.copytree(Path(ranks.__file__).parent, tmp_path / "other" / "fledge")
    (tmp_path / "other" / "fledge" / "mine.py").touch()
    environment = rendezvous(2)
    first = processes.start(*pretrain(run, 1), log=tmp_path / "log", environment={**environment, "RANK": "0"})
    ends = "import atexit; atexit.register(print, 'Python ended'); from fledge.cli import main; main()"
    words = [sys.executable, "-c", ends, *pretrain(run, 1)]
    apart = {**os.environ, **environment, "RANK": "1", "PYTHONPATH": str(tmp_path / "other")}
    second = subprocess.run(words, env=apart, cwd=tmp_path, capture_output=True, text=True)
    assert [first.wait(), second.returncode, second.stdout] == [2, 2, ""], first.output() + second.stderr
    assert re.search(r"fledge: rank 1 has code '\w+', rank 0 '\w+'; all must have the same", first.output())
    assert not (run / "pretrain").exists()


def test_more_ranks_than_rows_is_told_by_each(processes: Processes, straight: Path, tmp_path: Path) -> None:
    run = begun_from(straight, tmp_path / "run", "tokenizer")
    children = processes.start_ranks(2, *pretrain(run, 1), "--batch-tokens", "64", log=tmp_path / "log")
    assert ends(children) == [2, 2], children[0].output()
    assert "batch_tokens=64 are 1 rows of 64, fewer than 2 ranks; give --batch-tokens 128" in children[0].output()
    assert not (run / "pretrain").exists()


def test_gpus_that_cannot_talk_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(ValueError, match=r"ranks=2: torch \S+ is built without NCCL.*give --device cpu or one rank"):
        ranks.join("auto")


def test_more_ranks_than_rows_is_refused_and_so_is_what_one_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, 4)
    with pytest.raises(
        ValueError, match=r"batch_tokens=512 are 2 rows of 256, fewer than 4 ranks; give --batch-tokens 1024"
    ):
        Shape.of(Pretrain(batch_tokens=512, tokens=512), length=256)


# How the work is dealt


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_ranks_rows_together_are_those_of_the_step_in_their_order(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    rows = [Row(np.full(5, number, np.int32), np.arange(5) <= number % 5, {"row": number + 1}) for number in range(18)]
    seen: list[list[int]] = []
    for rank in range(count):
        be(monkeypatch, rank, count)
        shape = Shape.of(Pretrain(batch_tokens=4 * 6, tokens=4 * 18, device_tokens=4 * 2), length=4)
        made = list(islice(batched(iter(rows), rows=shape.rows, step_rows=shape.total), 3 * shape.micro))
        cursors = [batch.cursor["row"] for batch in made][shape.micro - 1 :: shape.micro]
        assert cursors == [6, 12, 18]
        assert sum(batch.tokens for batch in made) == sum(int(row.learn_C[1:].sum()) for row in rows)
        assert {batch.inputs_BT.shape for batch in made} == {(shape.rows, 4)}
        learned = [(batch.inputs_BT[:, 0], batch.weights_BT.any(1)) for batch in made]
        seen.append([int(ids) for ids_B, is_B in learned for ids in ids_B[is_B]])
    assert sorted(number for own in seen for number in own) == [number for number in range(18) if number % 5]


def test_matrices_of_a_shape_are_dealt_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, 3)
    model = Transformer(ModelConfig.of(ModelSettings(depth=6, width=32, heads=2), vocab=64))
    deal(model.parameters())
    shapes: dict[torch.Size, list[int]] = {}
    for parameter in model.parameters():
        shapes.setdefault(parameter.shape, []).append(owner(parameter))
    for owners in shapes.values():
        shares = [owners.count(rank) for rank in range(3)]
        assert max(shares) - min(shares) <= 1


def test_alone_nothing_is_shared_and_torch_not_asked() -> None:
    assert ranks.sum_of([1.5, float("nan")])[0] == 1.5
    assert ranks.gather({"a": 1}) == [{"a": 1}]
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    ranks.meet()
    ranks.check_alike({"a": 1})
