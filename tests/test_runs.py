"""Run folders: whole files or none, one process at a time, no silent change of settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.commands import Chat
from fledge.config import Midtrain, OptimSettings, Pretrain, RowStage, Tokenizer, check
from fledge.folder import begin_again, open_stage
from fledge.runs import (
    begun,
    changes,
    choose_stage,
    is_done,
    metrics,
    newest_run,
    stage_name,
    summary,
    trained_stages,
)
from fledge.settings import nearest
from fledge.storage import read_json, write_atomic

HOLD = """
import sys, time
from fledge.config import (Tokenizer)
from fledge.folder import open_stage
with open_stage(Tokenizer(run=sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def checkpoint(run: Path, stage: str, name: str = "step-000001") -> Path:
    folder = run / stage / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    return folder


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"file.json: could not be written \(.*No space left.*untouched.*free some space"):
        write_atomic(path, "three")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_a_stage_remembers_its_settings_metrics_and_summary(tmp_path: Path) -> None:
    config = Tokenizer(run=str(tmp_path), vocab=300)
    with open_stage(config) as stage:
        assert stage.path == tmp_path / "tokenizer"
        stage.log(step=1, loss_nats=2.0)
        stage.log(step=2, loss_nats=1.5)
        assert not is_done(stage.path)
        stage.finish(vocab=300)
    assert read_json(tmp_path / "tokenizer" / "config.json")["settings"]["vocab"] == 300
    assert "commit" in read_json(tmp_path / "tokenizer" / "config.json")["provenance"]
    assert [line["loss_nats"] for line in metrics(tmp_path / "tokenizer")] == [2.0, 1.5]
    assert is_done(tmp_path / "tokenizer")
    assert summary(tmp_path / "tokenizer") == {"vocab": 300}
    assert summary(tmp_path / "nothing") == {}


def test_a_stage_is_called_like_its_command() -> None:
    assert stage_name(Midtrain()) == "midtrain"  # and not sft, which inherits from it


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vocab": 512}, r"vocab changed \(300 then, 512 now\)"),
        ({"seed": 4, "digits": 3}, r"digits changed \(1 then, 3 now\); seed changed \(0 then, 4 now\)"),
    ],
)
def test_changed_settings_are_refused_with_both_values(tmp_path: Path, changed: dict[str, int], words: str) -> None:
    config = Tokenizer(run=str(tmp_path), vocab=300)
    with open_stage(config) as stage:
        stage.log(step=1)
    with (
        pytest.raises(ValueError, match=f"tokenizer: begun; since then {words}. Put that back.*another --run.*--fresh"),
        open_stage(replace(config, **changed)),  # type: ignore[arg-type]
    ):
        pass


def test_a_mistake_that_began_nothing_can_be_corrected(tmp_path: Path) -> None:
    wrong = Tokenizer(run=str(tmp_path), vocab=10)
    with pytest.raises(ValueError, match="too small"), open_stage(wrong):
        raise ValueError("too small")
    with open_stage(replace(wrong, vocab=300)) as stage:
        assert begun(stage.path)["settings"]["vocab"] == 300


@pytest.mark.parametrize("content", ["{}", "[1]", '{"settings": 3}', '{"settings": {}, "seal": "1f"}'])
def test_settings_changed_by_hand_are_named(tmp_path: Path, content: str) -> None:
    config = Tokenizer(run=str(tmp_path), vocab=300)
    with open_stage(config) as stage:
        stage.log(step=1)
    (stage.path / "config.json").write_text(content)
    words = r"config.json: (holds no settings|list found|damaged or edited).*--fresh"
    with pytest.raises(ValueError, match=words), open_stage(config):
        pass


def test_a_file_in_the_place_of_the_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"a run is a folder, but a file is in its place.*another --run"),
        open_stage(Tokenizer(run=str(tmp_path / "file"))),
    ):
        pass


def test_nested_settings_count_and_where_or_how_fast_does_not(tmp_path: Path) -> None:
    config = Pretrain(run=str(tmp_path))
    with open_stage(config) as stage:
        stage.log(step=1)
    with open_stage(replace(config, threads=2, device="cpu", device_tokens=4096, save_every=5, keep=9, compile="no")):
        pass
    with (
        pytest.raises(ValueError, match=r"begun; since then optim.matrix_rate changed \(0.02 then, 0.5 now\)\."),
        open_stage(replace(config, optim=replace(config.optim, matrix_rate=0.5))),
    ):
        pass


HUB = {"data": {"somebody/texts/": "hub"}}


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ({"data": {"a": "1f"}}, {"data": {"b": "1f"}}, []),  # one file, called otherwise
        ({"data": {"a": "1f"}}, {"data": {"a": "2e"}}, ["data: a changed"]),
        ({"data": {"a": "1f", "b": "2e"}}, {"data": {"a": "1f", "c": "2e"}}, ["data: b is gone, c is new"]),
        (HUB, HUB, []),
        (HUB, {"data": {"somebody/others/": "hub"}}, ["data: somebody/others/ is new, somebody/texts/ is gone"]),
        (HUB | {"tokenizer": "1f"}, HUB | {"tokenizer": "2e"}, ["the tokenizer changed (1f then, 2e now)"]),
        (HUB | {"tokenizer": "1f"}, HUB, []),
        ({}, HUB, ["data changed ('mine' then, 'yours' now)"]),
    ],
)
def test_what_lies_behind_a_name_is_compared_where_both_know_it_and_else_the_name(
    was: dict[str, object], now: dict[str, object], told: list[str]
) -> None:
    settings = {"data": "mine", "vocab": None, "optim": {"rate_share": 1.0}}
    later = {"data": "yours", "vocab": 300, "optim": {"rate_share": 0.5}}
    assert changes({"settings": settings, "origin": was}, {"settings": later, "origin": now}) == told


def test_a_stage_belongs_to_one_process_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        words = f"tokenizer: process {holder.pid} is at work here"
        with pytest.raises(ValueError, match=words), open_stage(Tokenizer(run=str(tmp_path))):
            pass
        with pytest.raises(ValueError, match=words):
            begin_again(tmp_path, ["tokenizer"])
        assert (tmp_path / "tokenizer" / "config.json").exists()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with open_stage(Tokenizer(run=str(tmp_path))) as stage:
        assert stage.name == "tokenizer"


def test_a_line_cut_short_by_a_kill_is_left_out_and_rewritten(tmp_path: Path) -> None:
    with open_stage(Tokenizer(run=str(tmp_path))) as stage:
        for step in range(1, 6):
            stage.log(step=step, loss_nats=float(step))
        stage.log(step=5, samples=[{"prompt": "a", "text": "b"}])
        with (stage.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 6, "los')
        assert [line["step"] for line in metrics(stage.path)] == [1, 2, 3, 4, 5, 5]
        stage.rewind(3)
        stage.log(step=4, loss_nats=4.5)
    lines = (tmp_path / "tokenizer" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_beginning_again_sets_the_stage_alone_aside_until_the_new_one_is_finished(tmp_path: Path) -> None:
    config = Tokenizer(run=str(tmp_path), vocab=300)
    checkpoint(tmp_path, "pretrain")
    with open_stage(config) as stage:
        stage.finish(vocab=300)
    (stage.path / "notes.txt").write_text("mine")
    with open_stage(replace(config, vocab=400, fresh=True)) as stage:
        assert not is_done(stage.path)
        assert summary(stage.path / "replaced" / "1") == {"vocab": 300}
    with open_stage(replace(config, vocab=500, fresh=True)) as stage:  # the one that was not finished holds nothing
        assert [path.name for path in (stage.path / "replaced").iterdir()] == ["1"]
        stage.finish(vocab=500)
    assert not (stage.path / "replaced").exists()
    assert summary(stage.path) == {"vocab": 500}
    assert (stage.path / "notes.txt").read_text() == "mine"
    assert trained_stages(tmp_path) == ["pretrain"]
    begin_again(tmp_path, ["never-begun"])


@pytest.mark.parametrize("moved", range(4))
def test_killed_while_it_is_set_aside_a_stage_goes_on_from_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    config = Tokenizer(run=str(tmp_path), vocab=300)
    with open_stage(config) as stage:
        stage.log(step=1)
        checkpoint(tmp_path, "tokenizer")
        stage.finish(vocab=300)
    count, move = iter(range(9)), Path.rename

    def until_killed(path: Path, target: Path) -> Path:
        if next(count) == moved:
            raise KeyboardInterrupt
        return move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", until_killed)
        with pytest.raises(KeyboardInterrupt):
            begin_again(tmp_path, ["tokenizer"])
    with open_stage(config) as stage:
        stage.finish(vocab=300)
    assert summary(stage.path) == {"vocab": 300}
    assert not (stage.path / "replaced").exists()


def test_the_last_stage_with_weights_is_chosen_unless_one_is_named(tmp_path: Path) -> None:
    for stage in ("sft", "pretrain"):
        checkpoint(tmp_path / "run", stage)
    checkpoint(tmp_path / "run", "rl", "step-000001.partial")
    assert trained_stages(tmp_path / "run") == ["pretrain", "sft"]
    assert choose_stage(tmp_path / "run", None) == "sft"
    assert choose_stage(tmp_path / "run", "base") == "pretrain"
    with pytest.raises(
        FileNotFoundError, match=r"no weights of stage rl. Stages that have some: pretrain, sft.*`fledge rl"
    ):
        choose_stage(tmp_path / "run", "rl")
    with pytest.raises(
        ValueError, match=r"stage 'stf' is not one of base, pretrain, midtrain, sft, rl. Did you mean 'sft'"
    ):
        choose_stage(tmp_path / "run", "stf")
    with pytest.raises(
        FileNotFoundError, match=r"rum: no such run. Did you mean '.*run'\? `fledge run demo` makes one"
    ):
        choose_stage(tmp_path / "rum", None)
    shutil.rmtree(tmp_path / "run" / "sft")
    shutil.rmtree(tmp_path / "run" / "pretrain")
    with pytest.raises(FileNotFoundError, match=r"no weights. Stages that have some: none"):
        choose_stage(tmp_path / "run", None)


def test_the_newest_run_is_the_one_worked_on_last(tmp_path: Path) -> None:
    assert newest_run(tmp_path) is None
    for age, name in ((300, "old"), (100, "new"), (200, "middle")):
        write_atomic(tmp_path / name / "pretrain" / "config.json", "{}")
        os.utime(tmp_path / name / "pretrain" / "config.json", (1_000_000 - age, 1_000_000 - age))
    assert newest_run(tmp_path) == tmp_path / "new"


def test_json_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: not JSON"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            Pretrain(batch_tokens=100_000),
            "batch_tokens=100000 is not a multiple of context=2048; nearest that is: 100352",
        ),
        (
            RowStage(batch_tokens=8192, device_tokens=3000),
            "not a multiple of device_tokens=3000; nearest that is: 9000",
        ),
        (Pretrain(tokens=-1), "tokens=-1 is not a whole number of 1 or more"),
        (Pretrain(batch_tokens=0), "batch_tokens=0"),
        (Tokenizer(vocab=0), "vocab=0"),
        (Tokenizer(threads=0), "threads=0"),
        (Pretrain(tokens=0), "tokens=0"),
        (Pretrain(ratio=float("nan")), "ratio=nan is not a number of 0.001 or more"),
        (Pretrain(optim=OptimSettings(matrix_rate=float("inf"))), "matrix_rate=inf is not a number of 0.0 or more"),
        (Pretrain(optim=OptimSettings(warmdown=1.5)), "warmdown=1.5 is not a number from 0.0 to 1.0"),
        (Chat(temperature=float("nan")), "temperature=nan is not a number from 0.0 to 2.0"),
        (Chat(top_p=7.0), "top_p=7.0 is not a number from 0.0 to 1.0"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_found_before_anything_starts(config: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(config)


def test_the_nearest_name_is_proposed_only_where_there_is_one() -> None:
    assert nearest("pretran", ("pretrain", "midtrain")) == " Did you mean 'pretrain'?"
    assert nearest("xyz", ("pretrain", "midtrain")) == ""
