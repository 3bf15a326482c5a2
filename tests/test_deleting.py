"""Beginning again: nothing is moved before everything is checked, nothing is lost before the new one is finished, and what fledge
did not write stays where it is."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from fledge.cli import run
from fledge.folder import check_ours, locked
from fledge.runs import checkpoints, is_done
from processes import Processes

TRAINED = ("pretrain", "midtrain", "sft", "rl")


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks, which hold nothing."""
    there = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in there}


@pytest.fixture
def toy(toy_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(toy_run, tmp_path / "toy")


@pytest.mark.parametrize(
    "words",
    [
        "run toy --out {} --fresh --data /nonexistent",
        "run toy --out {} --fresh --threads 0",
        "run toy --out {} --fresh --device cuda:7",
        "run toy --out {} --from sft --device cuda:7",
        "run toy --out {} --only rl,report --threads 0",
        "run toy --out {} --fresh --only dance",
        "run toy --out {0} --fresh --data {0}/sft/metrics.jsonl",
        "tokenizer --run {} --fresh --data /nonexistent",
        "tokenizer --run {} --fresh --vocab 0",
        "tokenizer --run {} --fresh --vocab 3",
        "pretrain --run {} --fresh --data /nonexistent",
        "pretrain --run {0} --fresh --compile no --data {0}/sft/metrics.jsonl",
        "pretrain --run {} --fresh --model.context 128 --batch-tokens 1000",
        "pretrain --run {} --fresh --model.width 33 --model.heads 4",
        "midtrain --run {} --fresh --batch-tokens 1000",
        "sft --run {} --fresh --data /nonexistent",
        "sft --run {} --fresh --start dance",
        "sft --run {} --fresh --replay 1",
        "sft --run {} --fresh --keep 0",
        "rl --run {} --fresh --task dance",
        "rl --run {} --fresh --beside world/choice --device cuda:7",
        "chat {} --fresh",
        "serve {} --fresh",
    ],
)
def test_a_mistake_beside_fresh_touches_nothing(toy: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(toy)
    assert run(words.format(toy).split()) == 2, capsys.readouterr()
    assert "Traceback" not in capsys.readouterr().err
    assert files(toy) == before


def test_where_another_process_trains_fresh_touches_nothing_of_the_run(
    processes: Processes, toy: Path, tmp_path: Path
) -> None:
    (toy / "sft" / "done.json").unlink()
    quick = ("--tokens", "1000000", "--batch-tokens", "1024", "--compile", "no", "--save-every", "1")
    trains = processes.start("sft", str(toy), "--fresh", *quick, log=tmp_path / "log")
    while not ((toy / "sft" / "replaced" / "1" / "checkpoints").exists() and checkpoints(toy / "sft")):
        assert trains.poll() is None, trains.output()
        time.sleep(0.002)
    os.kill(trains.pid, signal.SIGSTOP)
    while not all(
        "T (stopped)" in (thread / "status").read_text() for thread in Path(f"/proc/{trains.pid}/task").iterdir()
    ):
        time.sleep(0.002)  # one of them may be writing
    try:
        before = files(toy)
        for words in (["run", "toy", "--out", str(toy), "--fresh"], ["tokenizer", str(toy), "--fresh"]):
            code, output = processes.run(*words, log=tmp_path / words[0])
            assert code == 2, output
            assert f"sft: process {trains.pid} is at work here" in output
        assert files(toy) == before
    finally:
        os.kill(trains.pid, signal.SIGCONT)
        os.kill(trains.pid, signal.SIGKILL)
        trains.wait()


def test_a_run_that_is_removed_under_way_ends_with_a_sentence_and_is_not_made_anew(
    processes: Processes, toy: Path, tmp_path: Path
) -> None:
    shutil.rmtree(toy / "rl")
    log = tmp_path / "log"
    child = processes.start("rl", "--run", str(toy), "--steps", "1000", "--task", "world/vowels", log=log)
    while not (toy / "rl" / "metrics.jsonl").exists():
        assert child.poll() is None, child.output()
        time.sleep(0.01)
    toy.rename(tmp_path / "moved")
    assert child.wait() == 2
    assert f"{toy}/rl/" in child.output().rpartition("fledge: ")[2]
    assert "put it back" in child.output()
    assert not toy.exists()


def test_killed_right_after_it_was_set_aside_a_stage_is_still_ours(toy: Path) -> None:
    before = toy / "sft" / "replaced" / "1"
    before.mkdir(parents=True)
    for entry in [*(toy / "sft").iterdir()]:
        if entry.name != "replaced":
            entry.rename(before / entry.name)
    (toy / "sft" / "lock").write_text("")  # of a process that ended before it wrote its number
    check_ours(toy, ["sft"])


def test_one_run_is_evaluated_by_one_process_at_a_time(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(toy)
    with locked(toy / "eval"):
        assert run(["evaluate", "--run", str(toy), "--tasks", "world/choice", "--fresh"]) == 2
    assert "eval: process" in capsys.readouterr().err
    assert files(toy) == before


def test_what_is_begun_again_is_kept_until_the_new_one_is_finished(
    processes: Processes, toy: Path, tmp_path: Path
) -> None:
    before = files(toy / "sft")
    child = processes.start("run", "toy", "--out", str(toy), "--from", "sft", log=tmp_path / "log")
    while not (toy / "rl" / "replaced" / "1" / "config.json").exists():  # the last that is set aside
        assert child.poll() is None, child.output()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert files(toy / "sft" / "replaced" / "1") == before
    code, output = processes.run("run", "toy", "--out", str(toy), log=tmp_path / "again")
    assert code == 0, output
    assert not list(toy.glob("*/replaced"))
    assert all(is_done(toy / stage) for stage in TRAINED)


FOREIGN = {
    "plots/mine.svg": "<svg/>",
    "plots/sft-loss_nats.png": "png",
    "sft/notes.txt": "mine",
    "sft/config.json": '{"mine": 1}',
    "tokenizer/tokenizer.json": "{}",
    "chat/saved.json": "[]",
    "report.md": "# My report",
    "eval/sft.json": "[]",
}


@pytest.mark.parametrize(
    "words", ["run toy --out {} --fresh", "run toy --out {}", "run toy --out {} --only report", "sft {}"]
)
def test_a_folder_that_is_no_run_of_ours_is_refused_and_left_as_it_is(
    tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    for name, content in FOREIGN.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(content)
    before = files(mine)
    assert run(words.format(mine).split()) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert files(mine) == before


def test_beside_a_run_of_ours_what_fledge_did_not_write_stays(processes: Processes, toy: Path, tmp_path: Path) -> None:
    mine = {
        name: content
        for name, content in FOREIGN.items()
        if name.split(".")[0] in ("plots/mine", "sft/notes", "chat/saved")
    }
    for name, content in mine.items():
        (toy / name).parent.mkdir(exist_ok=True)
        (toy / name).write_text(content)
    code, output = processes.run("run", "toy", "--out", str(toy), "--fresh", log=tmp_path / "log")
    assert code == 0, output
    assert {name: (toy / name).read_text() for name in mine} == mine


def test_an_evaluation_begun_again_asks_its_own_tasks_and_spares_the_scores_of_others(
    processes: Processes, toy: Path, tmp_path: Path
) -> None:
    before = files(toy / "eval")
    words = ("evaluate", str(toy), "--stage", "sft", "--tasks", "world/choice", "--limit", "4", "--fresh")
    code, output = processes.run(*words, log=tmp_path / "log")
    assert code == 0, output
    after = files(toy / "eval")
    assert before.keys() <= after.keys()
    assert {name for name in before if after[name] != before[name]} <= {"sft.json", "sft-world-choice.jsonl"}
    assert after["sft.json"] != before["sft.json"]  # its times
    assert b"world/facts" in after["sft.json"]
