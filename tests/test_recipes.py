"""`fledge run`: a chain that can be cut anywhere and goes on, and does what its switches say."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fledge.commands import RunRecipe
from fledge.config import ModelSettings, Pretrain, check
from fledge.pipeline import main
from fledge.recipes import RECIPES, choose
from fledge.runs import checkpoints, is_done, metrics
from fledge.storage import read_json
from killed import outcome
from processes import Child, Processes

TRAINED = ("pretrain", "midtrain", "sft", "rl")


def weights(run: Path) -> dict[str, str]:
    """A hash of each finished stage's newest weights, those kept and those in training, and of the tokenizer."""
    done = [name for name in TRAINED if is_done(run / name)]
    files = {name: sorted(checkpoints(run / name)[-1].glob("[mt]*.safetensors")) for name in done}
    files |= {"tokenizer": [run / "tokenizer" / "tokenizer.json"]}
    return {name: hashlib.sha256(b"".join(map(Path.read_bytes, each))).hexdigest() for name, each in files.items()}


def measured(run: Path) -> dict[str, list[dict[str, object]]]:
    """All metrics of every stage, without times."""
    return {
        stage: [
            {name: value for name, value in line.items() if not re.search("second|memory|mfu", name)}
            for line in metrics(run / stage)
        ]
        for stage in TRAINED
    }


def losses(run: Path, stage: str) -> list[tuple[int, float]]:
    return [(line["step"], line["loss_nats"]) for line in metrics(run / stage) if "loss_nats" in line]


def scores(run: Path) -> object:
    """The table of the report card."""
    return {
        name: value
        for name, value in read_json(run / "report.json").items()
        if name in ("final", "gains", "conversations", "level_ups")
    }


def until(child: Child, happened: Callable[[], bool], *, seconds: float = 120.0) -> bool:
    """Wait for something; False when the child ended before."""
    end = time.monotonic() + seconds
    while not happened():
        if child.poll() is not None:
            return False
        assert time.monotonic() < end, child.output()
        time.sleep(0.002)
    return True


def kill(child: Child) -> None:
    if child.poll() is None:
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0), child.output()


def partials(run: Path) -> list[Path]:
    return list(run.glob("*/checkpoints/*.partial"))


def begun_from(straight: Path, run: Path, *stages: str) -> Path:
    """A copy of a run as it was after some stages."""
    for stage in stages:
        shutil.copytree(straight / stage, run / stage)
    return run


def test_killed_anywhere_and_started_again_it_ends_with_the_same_weights(
    processes: Processes, straight: Path, tmp_path: Path
) -> None:
    """In every stage: at two random steps, and while a checkpoint is being written; also in the tokenizer and in between."""
    run, log, rng = tmp_path / "small", tmp_path / "small.log", random.Random(time.time_ns())
    steps = {stage: read_json(straight / stage / "done.json")["steps"] for stage in TRAINED}
    kills, torn = 0, 0

    def start() -> Child:
        return processes.start("run", "small", "--out", str(run), log=log)

    def strike(happened: Callable[[], bool], delay: float = 0.0) -> None:
        nonlocal kills, torn
        child = start()
        if until(child, happened):
            time.sleep(rng.random() * delay)
        kill(child)
        kills += child.code == -signal.SIGKILL
        torn += bool(partials(run))

    strike((run / "tokenizer" / "config.json").exists, 0.3)
    for stage in TRAINED:
        folder = run / stage
        for step in sorted(rng.sample(range(1, steps[stage]), 2)):
            strike(lambda folder=folder, step=step: len(losses(folder.parent, folder.name)) >= step, 0.05)
        attempts = 0
        while not partials(run) and not is_done(folder) and attempts < 4:
            strike(lambda: bool(partials(run)))
            attempts += 1
        strike((folder / "done.json").exists, 0.1)
    child = start()
    assert child.wait() == 0, child.output()
    assert kills >= 2 * len(TRAINED)
    assert torn >= 1
    assert weights(run) == weights(straight)
    assert set(weights(run)) == {"tokenizer", *TRAINED}
    assert measured(run) == measured(straight)
    assert scores(run) == scores(straight)
    assert not partials(run)
    assert (run / "report.md").exists()


def test_the_runs_compared_here_learn_something_in_every_stage(straight: Path) -> None:
    assert len(set(weights(straight).values())) == 5
    rewards = [line["reward"] for line in metrics(straight / "rl") if "reward" in line]
    assert len(rewards) == 5
    assert len(set(rewards)) > 1
    assert all(line["gradient_norm"] > 0 for line in metrics(straight / "rl") if "gradient_norm" in line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_saves_and_goes_on_bit_for_bit(
    processes: Processes, straight: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = begun_from(straight, tmp_path / "small", "tokenizer")
    words, log = ("run", "small", "--out", str(run)), tmp_path / "log"
    child = processes.start(*words, log=log)
    assert until(child, lambda: len(losses(run, "pretrain")) >= 2)
    os.kill(child.pid, number)
    assert child.wait() == 130
    saved = re.search(r"interrupted: pretrain is saved at step (\d+) of 8. The same command goes on", child.output())
    assert saved, child.output()
    assert checkpoints(run / "pretrain")[-1].name == f"step-{int(saved[1]):06d}"
    child = processes.start(*words, log=log)
    until(child, (run / "pretrain" / "done.json").exists)
    kill(child)
    assert f"pretrain: goes on from step {saved[1]} of 8" in child.output()
    assert weights(run)["pretrain"] == weights(straight)["pretrain"]
    assert measured(run)["pretrain"] == measured(straight)["pretrain"]


def test_compiled_and_on_two_threads_it_ends_the_same_too(processes: Processes, tmp_path: Path) -> None:
    """Weights, optimizer states, metrics and report: in one go, and killed in one stage and asked to stop in another."""
    processes.ask({"import": "torch._inductor.compile_fx"})  # or each of the four would, for three seconds
    straight, run, log = tmp_path / "straight", tmp_path / "run", tmp_path / "log"
    child = processes.start("run", "compiled", "--out", str(straight), "--threads", "2", log=log)
    assert child.wait(seconds=900.0) == 0, child.output()  # the first compiles, the others find that done
    words = ("run", "compiled", "--out", str(run), "--threads", "2")
    for stage, number, code in (("pretrain", signal.SIGKILL, -signal.SIGKILL), ("sft", signal.SIGTERM, 130)):
        child = processes.start(*words, log=log)
        assert until(child, lambda stage=stage: len(losses(run, stage)) >= 3, seconds=900.0)
        os.kill(child.pid, number)
        assert child.wait() == code, child.output()
    code, output = processes.run(*words, log=log)
    assert code == 0, output
    assert outcome(run) == outcome(straight)


def test_a_full_disk_loses_nothing_and_says_what_to_do(processes: Processes, straight: Path, tmp_path: Path) -> None:
    run = begun_from(straight, tmp_path / "small", "tokenizer")
    words, log = ("run", "small", "--out", str(run)), tmp_path / "log"
    child = processes.start(*words, log=log)
    until(child, lambda: len(losses(run, "pretrain")) >= 2)
    kill(child)
    there = [path.name for path in checkpoints(run / "pretrain")]
    code, output = processes.run(*words, log=tmp_path / "full", limits={"FSIZE": 100_000})
    assert code == 2
    assert "could not be written" in output
    assert "free some space" in output
    assert "Traceback" not in output
    assert [path.name for path in checkpoints(run / "pretrain")] == there
    child = processes.start(*words, log=log)
    until(child, (run / "pretrain" / "done.json").exists)
    kill(child)
    assert weights(run)["pretrain"] == weights(straight)["pretrain"]


def test_a_disk_too_full_for_a_line_of_metrics_is_named(processes: Processes, straight: Path, tmp_path: Path) -> None:
    run = begun_from(straight, tmp_path / "small", "tokenizer")
    code, output = processes.run("run", "small", "--out", str(run), log=tmp_path / "log", limits={"FSIZE": 900})
    assert code == 2
    assert re.search(r"small/pretrain/\S+: could not be written \(.*free some space", output.replace("\n", " ")), output


def test_a_second_process_in_the_same_stage_is_refused(processes: Processes, straight: Path, tmp_path: Path) -> None:
    run = begun_from(straight, tmp_path / "small", "tokenizer")
    first = processes.start("run", "small", "--out", str(run), log=tmp_path / "first")
    until(first, lambda: bool(losses(run, "pretrain")))
    os.kill(first.pid, signal.SIGSTOP)
    try:
        for extra in ([], ["--fresh"], ["--from", "pretrain"]):
            code, output = processes.run(
                "run", "small", "--out", str(run), *extra, log=tmp_path / f"second{len(extra)}"
            )
            assert code == 2
            assert f"pretrain: process {first.pid} is at work here. Wait for it, or use another --run." in output
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert losses(run, "pretrain")
    kill(first)


def test_finished_stages_are_skipped(processes: Processes, toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "toy"
    shutil.copytree(toy_run, run)
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/checkpoints/*/*")}
    code, output = processes.run("run", "toy", "--out", str(run), log=tmp_path / "log")
    assert code == 0
    for stage in ("tokenizer", *TRAINED):
        assert f"{stage}: done before, skipped" in output
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/checkpoints/*/*")} == before
    assert "fledge chat" in output


def test_a_changed_setting_is_refused_with_both_values(processes: Processes, toy_run: Path, tmp_path: Path) -> None:
    run = begun_from(toy_run, tmp_path / "toy", "tokenizer", "pretrain")
    code, output = processes.run("run", "toy", "--out", str(run), "--seed", "7", log=tmp_path / "log")
    assert code == 2
    assert "tokenizer: finished; since then data: world changed; seed changed (0 then, 7 now)." in output
    assert "begin again with --fresh" in output


def test_only_does_those_stages_again_and_leaves_the_others(
    processes: Processes, toy_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "toy"
    shutil.copytree(toy_run, run)
    before = {stage: (run / stage / "done.json").stat().st_mtime_ns for stage in ("tokenizer", *TRAINED)}
    code, output = processes.run("run", "toy", "--out", str(run), "--only", "rl,report", log=tmp_path / "log")
    assert code == 0, output
    after = {stage: (run / stage / "done.json").stat().st_mtime_ns for stage in ("tokenizer", *TRAINED)}
    assert [stage for stage in before if after[stage] != before[stage]] == ["rl"]
    assert weights(run) == weights(toy_run)
    assert "skipped" not in output


def test_from_does_a_stage_and_those_after_it_again(processes: Processes, toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "toy"
    shutil.copytree(toy_run, run)
    before = (run / "eval" / "rl.json").stat().st_mtime_ns
    code, output = processes.run("run", "toy", "--out", str(run), "--from=rl", log=tmp_path / "log")
    assert code == 0, output
    assert [stage for stage in ("tokenizer", *TRAINED) if f"{stage}: done before" in output] == [
        "tokenizer", "pretrain", "midtrain", "sft",
    ]  # fmt: skip
    assert (run / "eval" / "rl.json").stat().st_mtime_ns > before
    assert weights(run) == weights(toy_run)


def test_fresh_begins_again_and_spares_what_is_not_the_runs(
    processes: Processes, toy_run: Path, tmp_path: Path
) -> None:
    run = begun_from(toy_run, tmp_path / "toy", "tokenizer", "pretrain", "eval")
    (run / "notes.txt").write_text("mine")
    words = ("run", "toy", "--out", str(run), "--fresh")
    assert processes.run(*words, "--dry-run", log=tmp_path / "dry")[0] == 0
    assert is_done(run / "pretrain")
    child = processes.start(*words, log=tmp_path / "log")
    until(child, lambda: "vocabulary" in child.output())
    kill(child)
    assert not checkpoints(run / "pretrain")
    assert not is_done(run / "pretrain")
    assert read_json(run / "eval" / "sft.json")["scores"]  # until they are made anew: they name their weights
    assert (run / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("classic", [False, True])
def test_every_recipe_is_a_chain_of_valid_settings(name: str, classic: bool) -> None:
    items = choose(RunRecipe(recipe=name, classic=classic, out="runs/x", seed=3))
    for item in items:
        check(item.config)
        assert item.config.run == "runs/x"
    names = [item.name for item in items]
    assert names[0] == "tokenizer"
    assert names[-1] == "report"
    assert len(set(names)) == len(names)
    starts = [item.config.start for item in items if hasattr(item.config, "start")]  # type: ignore[attr-defined]
    assert starts == [name for name in TRAINED if name in names][: len(starts)]
    assert {getattr(item.config, "seed", None) for item in items if item.module in TRAINED} == {3}


def test_the_classic_recipe_has_no_extras() -> None:
    [pretrain] = [item.config for item in choose(RunRecipe(classic=True)) if item.name == "pretrain"]
    assert pretrain.run == "runs/demo-classic"
    assert (pretrain.model.smear, pretrain.model.key_filter) == (False, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RECIPES)
def test_classic_is_the_plain_model_of_every_recipe(name: str) -> None:
    [pretrain] = [item.config for item in choose(RunRecipe(recipe=name, classic=True)) if item.name == "pretrain"]
    assert isinstance(pretrain, Pretrain)
    kept = {part: getattr(pretrain.model, part) for part in ("depth", "width", "head_channels", "context")}
    assert pretrain.model == ModelSettings(**kept)
    assert (pretrain.optim.matrices, pretrain.optim.weight_decay) == ("muon", 0.0)


def test_the_speedrun_has_the_published_extras_that_there_are() -> None:
    [pretrain] = [item.config for item in choose(RunRecipe(recipe="speedrun")) if item.name == "pretrain"]
    assert isinstance(pretrain, Pretrain)
    model = pretrain.model
    assert (model.smear, model.residual_scales, model.backout) == (True, True, True)
    assert (model.qk_scale, model.rope_base, pretrain.optim.matrices) == (1.2, 100_000.0, "normuon")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (RunRecipe(recipe="dmeo"), "recipe 'dmeo' is not one of demo, .*Did you mean 'demo'"),
        (
            RunRecipe(recipe="toy", only="sff"),
            "stage 'sff' is not part of toy; it has: tokenizer, .*Did you mean 'sft'",
        ),
        (RunRecipe(recipe="toy", start="pretran"), "stage 'pretran' is not part of toy; .*Did you mean 'pretrain'"),
        (RunRecipe(recipe="toy", only="sft", start="rl"), "--only sft and --from rl contradict each other"),
    ],
)
def test_a_mistake_is_refused_with_the_nearest_valid_name(ask: RunRecipe, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choose(ask)


def test_what_a_later_stage_lacks_stops_the_run_before_its_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("One text.\n\nAnother text.\n")
    ask = RunRecipe(recipe="tiny", data=str(tmp_path / "texts"), out=str(tmp_path / "run"), device="cpu")
    with pytest.raises((FileNotFoundError, ConnectionError), match=r"eval_bundle"):
        main(ask)
    assert not (tmp_path / "run" / "tokenizer").exists()
