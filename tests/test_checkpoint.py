"""Checkpoints: what goes in comes out bit for bit, and nothing half written is ever taken for whole."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fledge import checkpoint
from fledge.checkpoint import Progress, copied, load_model, resume
from fledge.config import OptimSettings
from fledge.model.transformer import Transformer
from fledge.runs import checkpoints, trained_stages
from fledge.storage import file_hash, sealed
from fledge.train.loop import Plan, train
from fledge.train.optim import MuonAdamW, build
from fledge.weights import newest
from test_loop import rows, tiny


@lru_cache
def at_step(steps: int) -> tuple[Transformer, MuonAdamW]:
    """Trained once for all tests, which leave it as it is."""
    model = tiny()
    optimizer = build(model, OptimSettings())
    go_on(model, optimizer, 0, steps, 6)
    return model, optimizer


def go_on(model: Transformer, optimizer: MuonAdamW, begin: int, end: int, total: int) -> None:
    steps = train(model, optimizer, itertools.repeat(rows(0, 8)), Plan(steps=total, warmdown=0.5), start=begin)
    for _ in itertools.islice(steps, end - begin):
        pass


def save(*what: Any, **how: Any) -> Path:
    """Copy and write at once."""
    return copied(*what, **how)()


def fresh() -> tuple[Transformer, MuonAdamW]:
    """Another model, to be loaded into."""
    model = tiny(seed=9)
    return model, build(model, OptimSettings())


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage with checkpoints of steps 2 and 3. Read it, do not write it."""
    stage = tmp_path_factory.mktemp("saved") / "pretrain"
    save(stage, *at_step(2), Progress(2), keep=2)
    save(stage, *at_step(3), Progress(3, {"place": [1, "a"]}, {"seconds": {"data": 0.1}}), keep=2)
    return stage


@pytest.fixture
def stage(saved: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(saved, tmp_path / "pretrain")


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file of a checkpoint as if it had been written so."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    state = json.loads((path.parent / "state.json").read_text())
    state["sha256"].update({path.name: file_hash(path)} if path.name in state["sha256"] else {})
    state.pop("seal", None)
    (path.parent / "state.json").write_text(sealed(state))


def test_a_checkpoint_of_the_version_before_still_loads(stage: Path) -> None:
    wanted = dict(load_model(stage).state_dict())
    old = checkpoints(stage)[-1] / "state.json"
    state = json.loads(old.read_text())
    old.write_text(json.dumps({name: state[name] for name in ("step", "cursor", "notes", "sha256")}))
    assert same(dict(load_model(stage).state_dict()), wanted)
    model, optimizer = fresh()
    progress = resume(stage, model, optimizer)
    assert progress is not None
    assert progress.step == 3


def test_a_shape_written_before_an_extra_was_there_is_a_model_without_it(stage: Path) -> None:
    wanted = load_model(stage)
    later = ("residual_scales", "backout", "qk_scale", "embedding_std", "unembedding_std", "up_scale")
    rewritten(checkpoints(stage)[-1] / "model.json", lambda shape: [shape.pop(name) for name in later])
    found = load_model(stage)
    assert found.config == wanted.config
    assert same(dict(found.state_dict()), dict(wanted.state_dict()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda config: config.update(experts=8),
            r"written by fledge 9.9; this is [\d.]+, which reads other fields .*unexpected keyword argument 'experts'",
        ),
        (
            lambda config: config.pop("width"),
            r"written by fledge 9.9; this is [\d.]+, which reads other fields .*missing 1 required .*'width'",
        ),
    ],
)
def test_a_shape_from_another_version_is_one_sentence(stage: Path, change: Callable[[Any], Any], words: str) -> None:
    newest = checkpoints(stage)[-1]
    rewritten(newest / "state.json", lambda state: state.update(fledge="9.9"))
    rewritten(newest / "model.json", change)
    for load in (load_model, checkpoint.load_config):
        with pytest.raises(ValueError, match=words):
            load(stage)


def test_what_is_saved_comes_back_bit_for_bit(stage: Path) -> None:
    wanted, its_optimizer = at_step(3)
    model, optimizer = fresh()
    assert resume(stage, model, optimizer) == Progress(3, {"place": [1, "a"]}, {"seconds": {"data": 0.1}})
    assert same(dict(model.state_dict()), dict(wanted.state_dict()))
    assert same(optimizer.tensors(), its_optimizer.tensors())
    assert same(dict(load_model(stage).state_dict()), dict(wanted.state_dict()))
    assert load_model(stage).config == wanted.config


def test_what_is_written_is_the_moment_of_the_copy_though_training_has_gone_on(tmp_path: Path) -> None:
    model, optimizer = fresh()
    go_on(model, optimizer, 0, 2, 6)
    at_once = save(tmp_path / "one", model, optimizer, Progress(2, {"row": 7}), keep=2)
    write = copied(tmp_path / "other", model, optimizer, Progress(2, {"row": 7}), keep=2)
    go_on(model, optimizer, 2, 6, 6)
    later = write()
    assert not torch.equal(model.embedding, load_model(tmp_path / "other").embedding)
    assert {path.name: path.read_bytes() for path in later.iterdir()} == {
        path.name: path.read_bytes() for path in at_once.iterdir()
    }


def test_files_of_weights_are_as_the_library_writes_them_and_have_the_hash_that_was_taken_meanwhile(
    saved: Path,
) -> None:
    model, optimizer = at_step(3)
    newest = checkpoints(saved)[-1]
    tensors = {"model.safetensors": dict(model.state_dict()), "optimizer.safetensors": optimizer.tensors()}
    hashes = json.loads((newest / "state.json").read_text())["sha256"]
    for name, values in tensors.items():
        assert (newest / name).read_bytes() == safetensors.torch.save(values)
        assert hashes[name] == file_hash(newest / name)


def test_twice_n_steps_are_n_steps_resumed_for_n_more(stage: Path) -> None:
    straight, _ = at_step(6)
    model, optimizer = fresh()
    progress = resume(stage, model, optimizer)
    assert progress is not None
    go_on(model, optimizer, progress.step, 6, 6)
    assert same(dict(model.state_dict()), dict(straight.state_dict()))


def test_nothing_to_resume_is_none(tmp_path: Path) -> None:
    assert resume(tmp_path, *fresh()) is None


def test_only_the_newest_are_kept_in_the_order_of_steps(tmp_path: Path) -> None:
    model, optimizer = at_step(2)
    for step in (8, 9, 10, 1_000_000):
        save(tmp_path, model, optimizer, Progress(step), keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000010", "step-1000000"]


def test_an_interrupted_write_is_ignored_and_cleared_away(stage: Path) -> None:
    partial = stage / "checkpoints" / "step-000004.partial"
    shutil.copytree(stage / "checkpoints" / "step-000003", partial)
    (partial / "model.safetensors").write_bytes(b"half")
    model, optimizer = fresh()
    assert [path.name for path in checkpoints(stage)] == ["step-000002", "step-000003"]
    assert (resume(stage, model, optimizer) or Progress(0)).step == 3
    save(stage, model, optimizer, Progress(5), keep=2)
    assert sorted(path.name for path in (stage / "checkpoints").iterdir()) == ["step-000003", "step-000005"]


def test_a_stage_whose_only_checkpoint_was_cut_short_has_no_weights(stage: Path) -> None:
    for path in checkpoints(stage):
        path.rename(path.with_name(path.name + ".partial"))
    assert trained_stages(stage.parent) == []
    with pytest.raises(
        FileNotFoundError, match=r"pretrain: no checkpoint found.*have one: none.*`fledge pretrain --run"
    ):
        load_model(stage)


def test_the_stages_that_have_weights_are_named_when_one_has_none(stage: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sft: no checkpoint found.*have one: pretrain.*`fledge sft --run"):
        load_model(stage.parent / "sft")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "model.json", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken_and_that_is_said(
    stage: Path, name: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hurt(checkpoints(stage)[-1] / name, harm)
    if name != "optimizer.safetensors":  # which nobody needs to talk to the model
        assert same(dict(load_model(stage).state_dict()), dict(at_step(2)[0].state_dict()))
        assert "Taken is step-000002" in capsys.readouterr().err
    assert (resume(stage, *fresh()) or Progress(0)).step == 2
    said = capsys.readouterr().err
    assert re.search(rf"step-000003/{name}: .*(damaged|missing|cannot be read|not JSON).*Taken is step-000002", said), (
        said
    )
    assert (stage / "checkpoints" / "step-000003.damaged").is_dir()  # nothing is thrown away
    assert [path.name for path in checkpoints(stage)] == ["step-000002"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "model.json", "state.json"])
def test_where_every_checkpoint_is_damaged_the_message_says_what_to_do(stage: Path, name: str) -> None:
    for path in checkpoints(stage):
        hurt(path / name, "cut")
    with pytest.raises(ValueError, match=rf"step-000003/{name}.*step-000002/{name}.*put the files back.*--fresh"):
        resume(stage, *fresh())
    assert len(checkpoints(stage)) == 2


def hurt(path: Path, harm: str) -> None:
    content = path.read_bytes()
    if harm == "flip":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()


def test_a_checkpoint_of_another_training_is_passed_over(
    stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoints(stage)[-1], stage / "checkpoints" / "step-000099")
    assert (resume(stage, *fresh(), steps=6) or Progress(0)).step == 3
    assert "step-000099/state.json: damaged, says step 3" in capsys.readouterr().err
    save(stage, *at_step(3), Progress(5, made_from={"stage": "1f"}), keep=3)
    assert (resume(stage, *fresh(), steps=4) or Progress(0)).step == 3
    assert "step-000005: of another training, the stage has 4 steps" in capsys.readouterr().err
    save(stage, *at_step(3), Progress(5, made_from={"stage": "1f"}), keep=3)
    (stage / "config.json").write_text(sealed({"settings": {"seed": 1}, "origin": {"tokenizer": "2e"}}))
    assert newest(stage)[1]["step"] == 3
    assert (resume(stage, *fresh()) or Progress(0)).step == 3
    assert "step-000005: of another training, its settings or its origin" in capsys.readouterr().err


def test_a_checkpoint_is_safetensors_and_json_alone(stage: Path) -> None:
    assert {path.suffix for path in checkpoints(stage)[-1].iterdir()} == {".safetensors", ".json"}
    state = json.loads((checkpoints(stage)[-1] / "state.json").read_text())
    assert set(state["sha256"]) == {"model.safetensors", "optimizer.safetensors", "model.json"}


def test_a_write_that_fails_leaves_the_earlier_checkpoint_and_says_so(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses to take the data; a file that may not grow is tried in test_cli.py."""
    before = {path: path.read_bytes() for path in sorted(stage.rglob("*")) if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(
        OSError, match=r"step-000006: .*could not be written.*No space left.*What was there before is untouched"
    ):
        save(stage, *at_step(6), Progress(6), keep=2)
    assert {path: path.read_bytes() for path in sorted(stage.rglob("*")) if path.is_file()} == before


def test_a_stage_that_keeps_other_weights_goes_on_with_the_newest_and_shows_those_it_keeps(tmp_path: Path) -> None:
    (kept, _), (model, optimizer) = at_step(2), at_step(3)
    for step in (2, 3):
        save(tmp_path / "rl", model, optimizer, Progress(step), keep=2, kept=kept.state_dict())
    resumed, again = fresh()
    assert resume(tmp_path / "rl", resumed, again, keeps=True) == Progress(3)
    assert same(resumed.state_dict(), model.state_dict())
    assert same(load_model(tmp_path / "rl").state_dict(), kept.state_dict())
    (checkpoints(tmp_path / "rl")[-1] / "training.safetensors").write_bytes(b"")
    assert resume(tmp_path / "rl", resumed, again, keeps=True) == Progress(2)
