"""A sweep: its points, its pairs, and that neither a crash of one of them nor a kill changes the table at its end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from fledge.cli import parse, run, with_folder
from fledge.commands import Sweep
from fledge.config import ModelSettings, Pretrain
from fledge.research.compare import compared
from fledge.research.groups import arms_of
from fledge.research.points import Point, points_of
from fledge.research.sweep import record_of
from fledge.runs import checkpoints, summary
from fledge.settings import words_of
from fledge.stages import pretrain
from fledge.storage import read_json, sealed
from processes import Processes
from test_recipes import kill, until

WORDS = shlex.split("""
    pretrain --over model.heads=2,4,3 seed=5 --vocab 320 --data text.txt --model.depth 1 --model.width 32 --model.context 32
    --batch-tokens 64 --tokens 256 --save-every 1 --eval-tokens 200 --compile no --threads 1
""")
TIMES = ("seconds", "total_seconds")


def in_one_go() -> list[Point]:
    """The points of the same sweep in another folder, trained one after the other by this process."""
    ask = parse(Sweep, "", with_folder("sweep", [*WORDS, "--out", "straight"]))
    for point in points_of(ask):
        shutil.copytree("killed/tokenizer", point.run / "tokenizer")
        with contextlib.suppress(ValueError):
            pretrain.main(point.config)
    Path("straight/sweep.json").write_text(sealed({"points": [record_of(point, {}) for point in points_of(ask)]}))
    return points_of(ask)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if name not in TIMES}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def test_a_killed_sweep_ends_with_the_table_of_one_in_one_go_and_a_point_that_crashes_ends_neither(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n\n".join(f"The number {n} is followed by {n + 1}. " * 40 for n in range(60)))
    words, log = ("sweep", *WORDS, "--out", "killed"), tmp_path / "log"
    child = processes.start(*words, log=log)
    assert until(child, lambda: any(Path("killed").glob("*/*/pretrain/checkpoints/*")))
    time.sleep(random.Random(os.getpid()).uniform(0, 2))
    kill(child)  # whoever trains a point goes on, and is waited for
    assert processes.run(*words, log=log)[0] == 5
    record, points = read_json(Path("killed/sweep.json")), in_one_go()
    done = [summary(point.run / "pretrain").get("val_bits_per_byte") for point in points]
    assert [point.get("val_bits_per_byte") for point in record["points"]] == done
    assert timeless(record["comparisons"]) == timeless(compared(arms_of([Path("straight")]))["comparisons"])
    assert [(point["variant"][-1], point["seed"], point["state"]) for point in record["points"]] == [
        ("2", 5, "done"),
        ("2", 6, "done"),
        ("4", 5, "done"),
        ("3", 5, "failed"),
    ]
    assert "width=32 does not divide into 3 heads" in record["points"][-1]["error"]
    cursors = [
        read_json(checkpoints(path)[-1] / "state.json")["cursor"]
        for path in Path().glob("*/*/seed-5/pretrain")
        if checkpoints(path)
    ]
    assert len(cursors) == 4  # of two variants in two folders
    assert all(cursor == cursors[0] for cursor in cursors)  # equal seeds have read the same


def labels(**asked: Any) -> list[tuple[str, str]]:
    return [(point.variant, point.against) for point in points_of(Sweep(out="out", **asked))]


def test_two_seeds_of_the_baseline_come_first_and_then_seed_by_seed() -> None:
    points = points_of(Sweep(out="out", over=("model.heads=2,4", "seed=0,1,2")))
    assert [(point.config.model.heads, point.config.seed) for point in points] == [
        (2, 0),
        (2, 1),
        (4, 0),
        (4, 1),
        (2, 2),
        (4, 2),
    ]
    assert points[2].run == Path("out/model.heads=4/seed-0")
    alone = points_of(Sweep(out="out", over=("model.heads=2,4",), base=Pretrain(seed=7)))
    assert [(point.config.model.heads, point.config.seed) for point in alone] == [(2, 7), (2, 8), (4, 7)]


def test_what_is_no_switch_is_not_ablated() -> None:
    with pytest.raises(ValueError, match=r"--ablate model\.pairs: allowed are settings that are on or off; .*--over"):
        points_of(Sweep(out="out", ablate="smear,pairs"))


def test_an_ablation_turns_one_off_of_all_and_one_on_of_none() -> None:
    three = points_of(Sweep(out="out", ablate="smear,key_filter,model.backout"))[1:]
    on = {point.variant: point.config.model for point in three}
    states = {name: [getattr(model, each) for each in ("smear", "key_filter", "backout")] for name, model in on.items()}
    assert states == {
        "all": [True, True, True],
        "no-smear": [False, True, True],
        "no-key_filter": [True, False, True],
        "no-model.backout": [True, True, False],
        "none": [False, False, False],
        "only-smear": [True, False, False],
        "only-key_filter": [False, True, False],
        "only-model.backout": [False, False, True],
    }
    assert labels(ablate="smear")[2:] == [("no-smear", "all")]
    assert dict(labels(ablate="smear,key_filter,backout"))["only-smear"] == "none"


def test_variants_are_named_in_words_and_in_files_and_stand_in_every_cell_of_the_grid(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text('[wide.model]\nwidth = 256\n\n[slow]\n"optim.matrix_rate" = 0.01\n')
    points = points_of(
        Sweep(
            out="out", variant=(str(tmp_path / "some.toml"), "still:optim.matrix_rate=0.0,clip=2"), over=("depth=2,3",)
        )
    )
    by_name = {point.variant: point for point in points}
    assert list(by_name)[:5] == [
        "depth=2,baseline",
        "depth=2,wide",
        "depth=2,slow",
        "depth=2,still",
        "depth=3,baseline",
    ]
    assert by_name["depth=3,wide"].against == "depth=3,baseline"
    assert by_name["depth=3,wide"].config.model == ModelSettings(depth=3, width=256)
    assert (by_name["depth=2,still"].config.optim.matrix_rate, by_name["depth=2,still"].config.optim.clip) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["sft", "--out", "x"], "sweep 'sft' is not a sweep of a stage"),
        (
            ["pretrain", "--over", "model.hats=2,4"],
            "'model.hats' is not a setting of pretrain. Did you mean 'model.heads'?",
        ),
        (["pretrain", "--over", "model.heads"], "'model.heads': no '=' between"),
        (["pretrain", "--over", "model.heads=2,many"], "many"),
        (["pretrain", "--over", "matrices=muon,sgd"], "adamw"),
        (["pretrain", "--mintues", "5"], "--base.minutes"),
        (["pretrain", "--over", "seed=0,x"], "seed"),
        (["pretrain", "--over", "seed=0", "seed=1"], "'seed' is given twice"),
        (["pretrain", "--variant", "wide:width=64", "wide:heads=2"], "'wide' is given twice"),
        (["pretrain", "--variant", "wide:width=64", "--variant", "few:heads=2"], "--variant is given twice"),
        (["pretrain", "--over=seed=0", "--over=model.heads=2,4"], "--over is given twice"),
        (["pretrain", "--variant", "a/b:width=64", "a_b:heads=2"], "'a_b' is given twice"),
        (["pretrain", "--over", "run=a,b"], "run=a: each point has its own run"),
        (["pretrain", "--variant", "other:seed=3"], "seed=3: each point has its own run, and its seed by --over"),
        (["pretrain", "--minutes", "-1"], "minutes=-1.0 is not"),
        (["pretrain", "--minutes", "1", "--tokens", "512"], "each says when to end; give one"),
        (["pretrain", "--price", "-3"], "price=-3.0 is not"),
        (["pretrain", "--fit"], "a law wants 4 sizes"),
        (["pretrain", "--threads", "0"], "threads=0 is not a whole number of 1 or more"),
        (["pretrain", "--over", "threads=0"], "threads=0 is not a whole number of 1 or more"),
        (["pretrain", "--over", "seed=-1"], "seed=-1 is not a whole number of 0 or more"),
        (["pretrain", "--data", "nowhere"], "data 'nowhere': neither a name"),
    ],
)
@pytest.mark.parametrize("last", [[], ["--dry-run"]])
def test_a_mistake_ends_before_anything_is_trained(
    last: list[str],
    words: list[str],
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sweep", *words, *last]) == 2
    captured = capsys.readouterr()
    assert answer in " ".join((captured.out + captured.err).replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_the_words_of_a_point_are_read_as_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    config = Pretrain(
        run="x", minutes=2.0, clock="cpu", model=ModelSettings(smear=True, heads=4, windows="SL"), threads=1
    )
    assert run(["pretrain", *words_of(config, Pretrain()), "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["minutes"], shown["clock"], shown["run"]) == (2.0, "cpu", "x")
    assert (shown["model"]["smear"], shown["model"]["heads"], shown["model"]["windows"]) == (True, 4, "SL")


def test_the_plan_has_points_time_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            [
                "sweep",
                "pretrain",
                "--over",
                "model.depth=1,2",
                "seed=0,1,2",
                "--minutes",
                "5",
                "--price",
                "6",
                "--dry-run",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert len(found["points"]) == 6
    assert found["seconds"] == 1800
    assert found["dollars"] == pytest.approx(3.0)


def test_the_plan_says_which_points_will_fail(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--over", "data=world,nowhere", "model.depth=0,1", "--tokens", "64", "--dry-run"]
    assert run(["sweep", "pretrain", *words]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    told = {point["point"]: point.get("error", "") for point in points}
    assert told["data=world,model.depth=1 seed 0"] == ""
    assert told["data=world,model.depth=0 seed 0"] == "depth=0 is not a whole number of 1 or more"
    assert told["data=nowhere,model.depth=1 seed 0"].startswith("data 'nowhere': neither a name")


def test_a_tracker_without_a_key_ends_a_sweep_once_and_before_anything_is_trained(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="`uv sync --group compat` brings wandb")
    words = [sys.executable, "-m", "fledge", "sweep", *WORDS, "--out", "out", "--log", "wandb"]
    (tmp_path / "text.txt").write_text("A text.")
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")} | {"HOME": str(tmp_path)}
    told = subprocess.run(words, cwd=tmp_path, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert told.returncode == 2
    assert "log=wandb: No API key configured" in told.stderr
    assert not (tmp_path / "out").exists()


def test_names_of_points_are_never_the_same_folder() -> None:
    points = points_of(Sweep(out="out", over=("model.heads=2,4", "seed=0,1"), ablate="smear,key_filter"))
    assert all(one.run != other.run for one, other in combinations(points, 2))
