"""The command line: help at once, mistakes explained before anything expensive, one exit code for each kind of end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fledge import __version__
from fledge.cli import ENDS, code_of, long_form, run
from fledge.commands import SETTINGS
from fledge.evals.results import read_scores
from fledge.runs import summary
from fledge.settings import DoesNotFit
from processes import Processes


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Output and errors as one line, without the frames that boxes draw."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).replace("│", " ").split())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    text = said(capsys)
    assert all(command in text for command in SETTINGS)
    assert "--dry-run" in text


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert said(capsys) == f"fledge {__version__}"


def test_help_is_quick_and_the_module_is_the_command() -> None:
    began = time.perf_counter()
    for words in (["--help"], ["--help"], ["pretrain", "--help"]):
        done = subprocess.run([sys.executable, "-m", "fledge", *words], capture_output=True, text=True, check=True)
        assert "usage: fledge" in done.stdout
    assert time.perf_counter() - began < 15  # half a second each where the machine is idle


@pytest.mark.parametrize("command", SETTINGS)
def test_every_setting_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    text = said(capsys)
    for name in SETTINGS[command].__dataclass_fields__:
        if name not in ("model", "optim"):
            assert f"--{name.replace('_', '-')}" in text


def test_a_dry_run_shows_the_settings_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrain", "runs/x", "--model.depth", "4", "--optim.matrices", "adamw", "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["run"], shown["model"]["depth"], shown["optim"]["matrices"]) == ("runs/x", 4, "adamw")
    assert (shown["model"]["width"], shown["model"]["heads"]) == (256, 2)  # derived from the depth
    assert run(["run", "toy", "--dry-run", "--fresh"]) == 0
    stages = json.loads(capsys.readouterr().out)
    assert list(stages)[:2] == ["tokenizer", "pretrain"]
    assert (stages["pretrain"]["run"], stages["pretrain"]["model"]["heads"]) == ("runs/toy", 2)
    assert not Path("runs").exists()


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--list"]) == 0
    text = said(capsys)
    assert "demo" in text
    assert "toy" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["pretrian"], "'pretrian' is not a command; there are: run, plan, tokenizer, pretrain,"),
        (["pretrian"], "Did you mean 'pretrain'?"),
        (["run", "dmeo"], "recipe 'dmeo' is not one of demo,"),
        (["run", "toy", "--only", "pretrian"], "stage 'pretrian' is not part of toy;"),
        (["run", "toy", "--from", "evaluat"], "Did you mean 'evaluate"),
        (["run", "toy", "--only", "sft", "--from=rl"], "contradict each other"),
        (["bench", "infre"], "Did you mean 'bench infer'"),
        (["chat", "runs/nothing"], "`fledge run demo` makes one."),
        (["evaluate", "runs/nothing"], "runs/nothing: no such run."),
        (["report", "runs/nothing"], "runs/nothing: no finished stage found"),
        (["serve", "runs/nothing"], "runs/nothing: no such run."),
        (["evaluate", "runs/some", "--stage", "stf"], "Did you mean 'sft'?"),
        (["sft", "runs/nothing"], "tokenizer"),
        (["pretrain", "runs/nothing"], "tokenizer"),
        (["pretrain", "runs/x", "--batch-tokens", "1000"], "batch_tokens=1000 is not a multiple of context=2048"),
        (["tokenizer", "runs/x", "--data", "empty"], "empty"),
        (["tokenizer", "runs/x", "--data", "nowhere"], "nowhere"),
        (["pretrain", "runs/x", "--data", "empty"], "empty"),
        (["tokenizer", "runs/x", "--vocab", "100"], "vocab=100: at least"),
        (["evaluate", "runs/nothing", "--limit", "0"], "limit=0 is not a whole number of 1 or more"),
        (["rl", "runs/x", "--task", "world/problem_hard"], "task 'world/problem_hard' is not one of"),
        (["run", "tiny", "--threads", "0", "--dry-run"], "threads=0 is not a whole number of 1 or more"),
        (["pretrain", "runs/x", "--threads", "0", "--dry-run"], "threads=0 is not a whole number of 1 or more"),
        (["bench", "rl", "--threads", "0"], "threads=0 is not a whole number of 1 or more"),
        (["bench", "infer", "--layers", "0"], "layers=0 is not a whole number of 1 or more"),
        (["bench", "infer", "--batches", "1,0"], "batches='1,0' is not whole numbers of 1 or more"),
        (["pretrain", "runs/x", "--ratio", "0"], "ratio=0.0 is not a number of 0.001 or more"),
        (["plan", "--ratio", "0"], "ratio=0.0 is not a number of 0.001 or more"),
    ],
)  # fmt: skip
def test_a_mistake_ends_with_2_and_says_what_to_do(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("runs/some").mkdir(parents=True)
    assert run(words) == 2
    text = said(capsys)
    assert answer in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["pretrain", "--batch-token", "4096"], "--batch-tokens"),
        (["pretrain", "--model.dept", "4"], "--model.depth"),
        (["sft", "--learn", "everything"], "answers"),
        (["rl", "--steps", "many"], "many"),
    ],
)
def test_a_setting_that_does_not_exist_ends_with_2_and_the_nearest_one(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    assert answer in said(capsys)


def test_each_kind_of_end_has_its_code() -> None:
    import torch

    with pytest.raises(RuntimeError) as too_large:
        torch.empty(1 << 60)
    kinds = {
        1: RuntimeError("a kernel failed"),
        2: ValueError("depth=0"),
        3: DoesNotFit("one row does not fit"),
        4: FloatingPointError("loss nan"),
    }
    assert {code_of(error): error for error in kinds.values()} == kinds
    assert [code_of(error) for error in (torch.OutOfMemoryError(), too_large.value, MemoryError())] == [3, 3, 3]
    assert kinds.keys() < ENDS.keys()


def test_json_ends_a_command_with_one_line_however_it_ends(
    toy_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import shutil

    assert run(["pretrain", "runs/x", "--batch-tokens", "1000", "--json"]) == 2
    assert run(["pretrain", "runs/x", "--batch-token", "1000", "--json"]) == 2
    wrong, unknown = map(json.loads, capsys.readouterr().out.splitlines())
    assert (wrong["exit_code"], unknown["exit_code"]) == (2, 2)
    assert "not a multiple of context=2048" in wrong["error"]
    shutil.copytree(toy_run / "tokenizer", "run/tokenizer")
    shape = [
        "--model.depth",
        "1",
        "--model.width",
        "32",
        "--model.heads",
        "1",
        "--model.context",
        "32",
        "--threads",
        "1",
    ]
    words = ["pretrain", "run", *shape, "--batch-tokens", "64", "--tokens", "128", "--compile", "no", "--json"]
    assert run([*words, "--eval-tokens", "100"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {"command": "pretrain", "exit_code": 0, "run": "run", **summary(Path("run/pretrain"))}
    shutil.copytree(toy_run, "toy")
    words = ["evaluate", "toy", "--stage", "pretrain", "--tasks", "world/choice", "--limit", "4", "--json"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["pretrain"]["world/choice"] == read_scores(Path("toy/eval/pretrain.json"))["world/choice"].accuracy


def test_short_forms_stand_for_the_settings() -> None:
    assert long_form("--from=sft") == ["--start", "sft"]
    assert long_form("--from") == ["--start"]
    assert long_form("-p") == ["--prompt"]
    assert long_form("--seed=3") == ["--seed=3"]


def test_a_damaged_checkpoint_is_named_with_what_to_do(processes: Processes, toy_run: Path, tmp_path: Path) -> None:
    import shutil

    damaged = tmp_path / "toy"
    shutil.copytree(toy_run, damaged)
    for path in damaged.glob("sft/checkpoints/*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-8] + b"\0\0\0\1\0\0\0\1")
    few = "world/choice"  # not all that are usual: they are drawn first
    rl, evaluate = ("rl", str(damaged), "--fresh", "--beside", few), ("evaluate", str(damaged), "--stage", "sft")
    for words in (rl, (*evaluate, "--tasks", few)):
        code, output = processes.run(*words, log=tmp_path / "log")
        assert code == 2, output
        assert (
            "model.safetensors: damaged, its SHA-256 is not the one written in state.json. No other checkpoint is left: "
            in output
        )
        assert "Traceback" not in output


def test_a_finished_run_answers(processes: Processes, toy_run: Path, tmp_path: Path) -> None:
    words = ("chat", str(toy_run), "-p", "Where does the turtle live?", "--max-tokens", "8", "--tools", "none")
    code, output = processes.run(*words, log=tmp_path / "log")
    assert code == 0, output
    assert output.strip()


def test_evaluating_again_does_not_score_again(processes: Processes, toy_run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "toy"
    shutil.copytree(toy_run, copy)
    before = (copy / "eval" / "pretrain.json").read_text()
    words = ("evaluate", str(copy), "--stage", "pretrain", "--tasks", "world/choice", "--limit", "4")
    code, output = processes.run(*words, log=tmp_path / "log")
    assert code == 0, output
    assert (copy / "eval" / "pretrain.json").read_text() == before
    assert "world/choice" in output


def test_a_look_at_one_task_leaves_the_scores_of_the_others(
    processes: Processes, toy_run: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "toy"
    shutil.copytree(toy_run, copy)
    before = json.loads((copy / "eval" / "rl.json").read_text())["scores"]
    words = ("evaluate", str(copy), "--tasks", "world/facts, world/choice,", "--limit", "2")
    code, output = processes.run(*words, log=tmp_path / "log")
    assert code == 0, output
    after = json.loads((copy / "eval" / "rl.json").read_text())["scores"]
    assert before.keys() <= after.keys()
    assert after["world/facts"]["examples"] == 2
    assert after["world/facts"]["settings"]["limit"] == 2
    assert after["world/problems_hard"] == before["world/problems_hard"]


def test_conversations_without_a_grader_are_refused_as_a_reward(
    processes: Processes, toy_run: Path, tmp_path: Path
) -> None:
    line = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(line) + "\n")
    words = ("rl", "--run", str(toy_run), "--task", str(tmp_path / "chats.jsonl"))
    code, output = processes.run(*words, log=tmp_path / "log")
    assert code == 2, output
    assert "chats.jsonl line 1: conversations have no grader" in output
