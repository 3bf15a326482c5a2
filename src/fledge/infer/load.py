"""A trained run, ready to be talked to.

run = open_run(Path("runs/demo"))
run.tokenizer, run.stages["sft"].context, run.suggestions
tool = find_tool("calculator")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fledge.checkpoint import checkpoints, read_state
from fledge.model.transformer import ModelConfig
from fledge.runs import choose_stage, read_json, settings_of, trained_stages
from fledge.text.datasets import Generated, find_generated
from fledge.text.tokenizer import Tokenizer

ToolName = Literal["calculator", "python", "none"]
SUGGESTIONS = (
    "Who are you?",
    "Why is the sky blue?",
    "What is 12 times 34?",
    "Write a short poem about the sea.",
)
"""First questions for a run that was not trained on a generated data set, which has its own."""


@dataclass(frozen=True)
class Weights:
    """One stage of a run that can answer."""

    folder: Path
    config: ModelConfig
    bytes: int
    """Of its file of weights."""


@dataclass(frozen=True)
class Run:
    """What a run offers to talk to."""

    path: Path
    tokenizer: Tokenizer
    stages: dict[str, Weights]
    """In the order of training."""
    name: str
    """What the model calls itself."""
    suggestions: tuple[str, ...]


def open_run(path: Path, *, stage: str | None = None) -> Run:
    """Everything but the weights.

    Args:
        stage: only this one (pretrain, also called base; midtrain, sft, rl).

    Raises:
        FileNotFoundError, ValueError: there is no such run or stage, or it has no weights.
    """
    last = choose_stage(path, stage)
    tokenizer = Tokenizer.load(path / "tokenizer")
    stages = {name: _weights(path / name) for name in ([last] if stage else trained_stages(path))}
    if (source := chat_source(path)) is None:
        return Run(path, tokenizer, stages, path.name, SUGGESTIONS)
    return Run(path, tokenizer, stages, source.NAME, tuple(source.SUGGESTIONS))


def _weights(folder: Path) -> Weights:
    newest = checkpoints(folder)[-1]
    try:
        config = ModelConfig.from_json(read_json(newest / "model.json"))
        return Weights(folder, config, (newest / "model.safetensors").stat().st_size)
    except (OSError, TypeError, ValueError):
        read_state(newest)  # says what is damaged, and what to do
        raise


def chat_source(path: Path) -> Generated | None:
    """The generated data set that the run learned to converse from; None: from other data."""
    for stage in ("sft", "midtrain", "pretrain"):
        if (path / stage / "config.json").exists():
            source = find_generated(str(settings_of(path / stage).get("data")))
            if source is not None:
                return source
    return None


def find_tool(name: ToolName, *, unsafe_exec: bool = False) -> Callable[[str], str] | None:
    """What runs the code that a model writes.

    Raises:
        SandboxUnavailable: `python` on a machine that cannot hold a hostile program, without `unsafe_exec`.
    """
    from fledge.sandbox.tools import python_tool, run_tool

    if name == "none":
        return None
    if name == "calculator":
        return run_tool
    from fledge.sandbox.sandbox import Sandbox

    return python_tool(Sandbox(unsafe_exec=unsafe_exec))
