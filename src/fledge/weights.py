"""Checkpoints on the disk, without torch: the newest of a stage that is whole, and whether it goes with a tokenizer.

checkpoint, state = newest(run / "sft")                       # damaged ones are named and passed over
check_tokenizer(run / "sft", tokenizer)                       # wherever a model and a tokenizer are joined
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fledge.console import notice
from fledge.runs import checkpoints, made_from, model_name, step_of, summary, trained_stages, written
from fledge.storage import file_hash, read_record
from fledge.text.tokenizer import Tokenizer

MODEL_FILES = ("model.json", "model.safetensors")


def weights_hash(stage: Path, *, needed: Iterable[str] = MODEL_FILES) -> str:
    """Hash of the newest weights of a stage whose needed files are whole; with none needed, of those it says it has.

    Raises:
        FileNotFoundError, ValueError: there are none.
    """
    return str(newest(stage, needed=needed)[1]["sha256"].get("model.safetensors"))


def newest(
    stage: Path, *, needed: Iterable[str] = MODEL_FILES, steps: int | None = None
) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a stage whose needed files are as they were written, and its state; others are named.

    Args:
        steps: of the whole stage; a checkpoint beyond is of another training.

    Raises:
        FileNotFoundError: the stage has no checkpoint.
        ValueError: none is whole.
    """
    problems: list[str] = []
    own = made_from(stage) if (stage / "config.json").exists() else {}
    for checkpoint in reversed(written(stage)):
        try:
            state = read_state(checkpoint, needed=needed)
            if own and state.get("made_from") not in (None, {}, own):
                raise ValueError(f"{checkpoint}: of another training, its settings or its origin are others")
            if steps is not None and state["step"] > steps:
                raise ValueError(f"{checkpoint}: of another training, the stage has {steps} steps")
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if problems:
            notice(
                f"{'; '.join(problems)}. Taken is {checkpoint.name} before it; `fledge {stage.name}` trains the rest again."
            )
        return checkpoint, state
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}. No other checkpoint is left: put the files back, or start {stage.name} with --fresh."
        )
    trained = trained_stages(stage.parent)
    raise FileNotFoundError(
        f"{stage}: no checkpoint found. Stages of {stage.parent} that have one: {', '.join(trained) or 'none'}. "
        f"Train it with `fledge {stage.name} --run {stage.parent}` or choose another."
    )


def read_state(checkpoint: Path, *, needed: Iterable[str] = (*MODEL_FILES, "optimizer.safetensors")) -> dict[str, Any]:
    """state.json of a checkpoint, if it and the needed files are as they were written; else a ValueError says which is not."""
    path = checkpoint / "state.json"
    state = read_record(path, advice="It is not taken")
    kinds = {"step": int, "cursor": dict, "notes": dict, "sha256": dict}
    if wrong := [name for name, kind in kinds.items() if type(state.get(name)) is not kind]:
        raise ValueError(f"{path}: damaged, without {', '.join(wrong)} as it was written")
    if state["step"] != step_of(checkpoint):
        raise ValueError(f"{path}: damaged, says step {state['step']}")
    for name in needed:
        file = checkpoint / name
        if not file.is_file():
            raise ValueError(f"{file}: missing")
        if file_hash(file) != state["sha256"].get(name):
            raise ValueError(f"{file}: damaged, its SHA-256 is not the one written in state.json")
    return state


def check_tokenizer(stage: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError unless the weights of a stage were trained with this tokenizer, or one of its size where nobody knows."""
    if not (whole := checkpoints(stage)):
        return
    try:
        kept = read_record(whole[-1] / "state.json", advice="").get("made_from", {})
        then, now = kept.get("tokenizer") or summary(stage).get("tokenizer_hash"), tokenizer.hash
        if not then:  # runs of before it was kept
            then, now = read_record(whole[-1] / "model.json", advice="").get("vocab"), tokenizer.vocab
    except (AttributeError, ValueError, OSError):
        return  # damage is named where the weights are read
    if then != now:
        raise ValueError(
            f"{stage.parent}: its tokenizer is not the one that {model_name(stage.name)} was trained with "
            f"({str(then)[:12]} then, {str(now)[:12]} now). Put that back, or train {stage.name} with --fresh."
        )
