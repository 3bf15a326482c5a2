"""What is derived before a stage begins: the shape of a step, what fits into memory, and settings without a gap."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge import checkpoint
from fledge.config import Midtrain, ModelSettings, OptimSettings, Pretrain, Rl, Sft, TrainStage
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import checkpoints, metrics
from fledge.stages import pretrain, sft
from fledge.storage import sealed
from fledge.train.resolve import Shape, resolved
from fledge.train.session import between


def shape_of(batch_tokens: int, device_tokens: int | None, *, length: int = 256, tokens: int = 100_000) -> Shape:
    config = Midtrain(batch_tokens=batch_tokens, device_tokens=device_tokens, tokens=tokens)
    return Shape.of(config, length=length)


@pytest.mark.parametrize(
    ("device_tokens", "rows", "micro"),
    [(256, 1, 12), (700, 2, 6), (1280, 4, 3), (9999, 12, 1), (1, 1, 12), (None, 12, 1)],
)
def test_a_step_is_cut_into_equal_passes_that_fit(device_tokens: int | None, rows: int, micro: int) -> None:
    shape = shape_of(3072, device_tokens)
    assert (shape.rows, shape.micro, shape.tokens, shape.steps) == (rows, micro, 3072, 33)


@given(rows=st.integers(1, 64), device_tokens=st.integers(1, 100_000))
@settings(deadline=None)
def test_device_tokens_never_change_the_tokens_of_a_step(rows: int, device_tokens: int) -> None:
    assert shape_of(rows * 256, device_tokens).tokens == rows * 256


def test_a_step_that_is_not_whole_rows_is_refused_with_the_nearest_that_is() -> None:
    with pytest.raises(ValueError, match="batch_tokens=1000 is not a multiple of context=256; nearest that is: 1024"):
        shape_of(1000, None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_that_goes_on_keeps_the_precision_that_auto_once_found(dtype: str, tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "config.json").write_text(sealed({"settings": {"dtype": dtype}}))
    config = Pretrain(run=str(tmp_path), threads=1)
    assert resolved(config).dtype == dtype
    assert resolved(replace(config, dtype="float32")).dtype == "float32"


@pytest.mark.parametrize("config", [Pretrain(), Midtrain(), Sft(), Rl()], ids=lambda config: type(config).__name__)
def test_resolved_settings_have_no_gap_and_resolving_them_again_changes_nothing(
    config: TrainStage, toy_run: Path
) -> None:
    found = resolved(replace(config, run=str(toy_run), threads=1))
    settings = dataclasses.asdict(found)
    # The tokens say when to end; an identity file would be part of the data.
    elsewhere = {settings.pop(name, None) for name in ("flops", "minutes", "identity")}
    assert elsewhere == {None}
    assert not {None, "auto"} & {value for value in settings.values() if not isinstance(value, dict)}
    assert None not in [*settings.get("model", {}).values(), *settings["optim"].values()]
    assert resolved(found) == found


def test_tokens_follow_from_the_parameters_and_what_is_given_stays(toy_run: Path) -> None:
    small = ModelSettings(depth=2, width=64, head_channels=32, context=128)
    found = resolved(Pretrain(run=str(toy_run), model=small, device="cpu", batch_tokens=4096))
    counts = Transformer(ModelConfig.of(small, vocab=512)).parameter_counts()
    assert found.tokens == 12 * (counts["matrix"] + counts["unembedding"])
    assert (found.model.heads, found.model.kv_heads, found.model.width) == (2, 2, 64)
    assert found.eval_every == round((found.tokens or 0) / 4096) // 10
    given = Pretrain(run=str(toy_run), model=small, device="cpu", tokens=7, eval_every=0, device_tokens=128)
    assert (resolved(given).tokens, resolved(given).eval_every, resolved(given).device_tokens) == (7, 0, 128)


def test_without_a_tokenizer_only_what_needs_one_stays_open(tmp_path: Path) -> None:
    found = resolved(Pretrain(run=str(tmp_path), device="cpu"))
    assert (found.tokens, found.model.width, found.model.heads) == (None, 768, 6)
    assert (resolved(Sft(run=str(tmp_path))).context, resolved(Sft(run=str(tmp_path))).device_tokens) == (None, None)
    assert torch.get_default_device().type == "cpu"


@given(waited=st.floats(0, 1e6))
def test_training_waits_for_checkpoints_a_fiftieth_of_the_time_at_most_and_makes_one_a_minute_at_most(
    waited: float,
) -> None:
    assert between(waited) == (60 if waited <= 1.2 else pytest.approx(50 * waited))


def test_a_disk_that_is_full_while_training_goes_on_ends_it_with_one_sentence_and_loses_nothing(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run / "tokenizer", run / "tokenizer")
    shape = ModelSettings(depth=1, width=32, heads=2, context=64)
    config = Pretrain(
        run=str(run), model=shape, batch_tokens=256, tokens=256 * 6, eval_every=0, compile="no", save_every=2
    )
    fsync = checkpoint.os.fsync

    def flush(handle: int) -> None:
        if (run / "pretrain" / "checkpoints" / "step-000004.partial").exists():
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", flush)
        with pytest.raises(OSError, match=r"step-000004: could not be written .*No space left.*free some space"):
            pretrain.main(config)
    assert [path.name for path in checkpoints(run / "pretrain")] == ["step-000002"]
    pretrain.main(config)
    assert [line["step"] for line in metrics(run / "pretrain") if "loss_nats" in line] == [*range(1, 7)]


def test_a_model_worse_than_guessing_replaces_no_good_one_and_the_advice_can_be_followed(
    toy_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run / "tokenizer", run / "tokenizer")
    shape = ModelSettings(depth=1, width=32, heads=2, context=64)
    wild = Pretrain(
        run=str(run), model=shape, batch_tokens=256, tokens=256 * 12, eval_every=0, compile="no", save_every=1
    )
    wild = replace(wild, optim=OptimSettings(rate_share=300.0, batch_scale=1.0, warmup=0.5, warmdown=0.4))
    with pytest.raises(
        FloatingPointError, match=r"--optim.rate-share the same command goes on from the last checkpoint"
    ):
        pretrain.main(wild)
    assert len(metrics(run / "pretrain")) < 12
    pretrain.main(replace(wild, optim=replace(wild.optim, rate_share=0.1)))
    assert checkpoints(run / "pretrain")[-1].name == "step-000012"
    losses = [line["loss_nats"] for line in metrics(run / "pretrain") if "loss_nats" in line]
    assert len(losses) == 12
    assert losses[-1] < math.log(512) + 1


def test_a_base_that_knows_nothing_of_conversations_may_begin_worse_than_guessing(
    toy_run: Path, tmp_path: Path
) -> None:
    run, chats = tmp_path / "run", tmp_path / "chats.jsonl"
    for stage in ("tokenizer", "pretrain"):
        shutil.copytree(toy_run / stage, run / stage)
    odd = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "ΩЖ漢字 Q" * 3}]
    chats.write_text((json.dumps({"messages": odd}) + "\n") * 20)
    short = {"batch_tokens": 1024, "tokens": 2048, "compile": "no"}
    sft.main(Sft(run=str(run), start="pretrain", data=str(chats), **short))
    first, *_, last = (line["loss_nats"] for line in metrics(run / "sft"))
    assert first > math.log(512) + 1, "this law needs a worse beginning"
    assert last < first
