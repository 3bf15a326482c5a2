"""Every setting that help shows changes something: each is set to another value, and what the command does must differ.

What a command does: what it says, what it writes (numbers, weights, names of files; no times), how it ends.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from fernhollow.asked import TASKS
from fledge import cli, recipes
from fledge.bench import infer
from fledge.commands import SETTINGS, TRAINED
from fledge.config import (
    Evaluate,
    Midtrain,
    ModelSettings,
    OptimSettings,
    Pretrain,
    Report,
    Rl,
    Sampling,
    Sft,
    Tokenizer,
)
from fledge.folder import begin_again
from fledge.research import points
from fledge.train import batches

TINY = ModelSettings(
    depth=1,
    width=32,
    head_channels=16,
    context=32,
    smear=True,
    key_filter=True,
    value_embeddings=True,
    pairs=64,
    residual_scales=True,
    backout=True,
    windows="SL",
)
COMMON: dict[str, Any] = {"run": "run", "threads": 1}
FAST: dict[str, Any] = {
    **COMMON,
    "compile": "no",
    "batch_tokens": 64,
    "device_tokens": 32,
    "optim": OptimSettings(warmdown=0.7, clip=100.0),
}
CHATS: dict[str, Any] = {**FAST, "data": "chats.jsonl", "tokens": 128}
BASE: dict[str, Any] = {
    "tokenizer": Tokenizer(run="run", vocab=320, max_chars=40_000),
    "pretrain": Pretrain(**FAST, model=TINY, tokens=128, eval_tokens=100),
    "midtrain": Midtrain(**CHATS, replay=0.0),
    "sft": Sft(**CHATS),
    "rl": Rl(
        **COMMON,
        task="world/reward",
        optim=FAST["optim"],
        device_tokens=32,
        steps=2,
        prompts=2,
        samples=3,
        max_tokens=6,
        eval_examples=2,
        pass_examples=1,
    ),
    "evaluate": Evaluate(**COMMON, stage="sft", tasks="world/facts", limit=3),
    "report": Report(run="run"),
}
OTHER: dict[str, Any] = {
    "run": "elsewhere",
    "device": "cuda:7",  # which no test machine has: refused
    "dtype": "bfloat16",
    "doc_cap": 20,
    "tokenizer.data": "text.txt",
    "pretrain.data": "text.txt",
    "data": "other.jsonl",
    "identity": "me.txt",
    "model.windows": "L",
    "model.context": 16,
    "context": 16,
    "optim.clip": 1e-3,
    "pretrain.eval_every": 0,
    "midtrain.start": "sft",
    "sft.start": "pretrain",
    "rl.start": "pretrain",
    "task": "world/counting",
    "beside": "world/facts",
    "stage": "pretrain",
    "tasks": "world/counting",
    "hourly_cost": 3.0,
    "ladder": "elsewhere",
    "minutes": 0.001,
    "column": "more",
}
"""Values that are not simply another number, another choice or the opposite: of a setting everywhere, or in one command."""
NEEDS: dict[str, dict[str, Any]] = {
    "optim.adamw_matrix_rate": {"optim.matrices": "adamw"},
    "column": {"data": "columns.jsonl"},
    "keep": {"save_every": 1},
    "ratio": {"tokens": None, "ratio": 0.1},
    "flops": {"tokens": None, "ratio": 0.1},
    "minutes": {"tokens": None, "ratio": 0.1},
    "clip_range": {"updates": 3, "clip_range": 0.002},
    "evaluate.samples": {"temperature": 1.0},
    "evaluate.seed": {"temperature": 1.0},
}
"""What else must be set for a setting to matter."""
ELSEWHERE = {
    "compile": "the compiled step equals the eager one (tests/test_loop.py): only time differs",
    "clock": "what it times: tests/test_budget.py",
    "shard": "of several ranks: tests/test_sharded.py",
    "log": "what wandb and trackio are told: tests/test_trackers.py",
    "fresh": "what is set aside: tests/test_runs.py",
    "eval_each": "of every kind some are chosen: tests/test_kinds.py",
    "midtrain.eval_every": "of own conversations: tests/test_held_out.py",
    "skip_bad": "what is left out: tests/test_records.py",
    "unsafe_exec": "walls of the sandbox: tests/test_sandbox.py",
    "tokenizer.threads": "how many threads of the library count words cannot be seen from here",
}
"""What is shown by other tests, or shows in the time it takes alone."""
TIMES = re.compile(r"[\d.,]+ ?(?:tokens/s|seconds|MB/s|ms|s|m)\b|\S*seconds\S*: [\d.]+")


def reward(example: Any, answer: str) -> float:
    """One that a model which has learned nothing gets, of which examples and samples differ."""
    return len(example.question[-1].text) % 5 / 10 + sum(letter in "aeiou" for letter in answer) / 20


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of every stage, in which each command can be given again."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        few = {
            split: TASKS["world/spelling"].load(split)[:100] for split in ("train", "validation")
        }  # each run hashes them
        task = replace(TASKS["world/spelling"], name="world/reward", load=few.__getitem__, grade=reward)
        patch.setitem(TASKS, "world/reward", task)
        patch.setattr(batches, "WINDOW_CHARACTERS", 1 << 10)  # few steps need few documents
        patch.chdir(home)
        (home / "text.txt").write_text("\n\n".join(f"The number {n} is followed by {n + 1}. " * 40 for n in range(60)))
        rows = [{"text": f"This is number {n}. " * 20, "more": f"And that is {n}. " * 20} for n in range(60)]
        (home / "me.txt").write_text("name = Rex\n")
        (home / "columns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, word in (("chats", "eau"), ("other", "io")):
            talks = [[{"role": "user", "content": asked}, {"role": "assistant", "content": word}] for asked in "abcdef"]
            (home / f"{name}.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
        # Longer than it is walked with: rl rewards answers that end.
        for command, config in (BASE | {"sft": replace(BASE["sft"], tokens=64 * 150)}).items():
            importlib.import_module(cli.module_of(command)).main(config)
        yield home


def settings(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all settings, and what their values may be."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def changed(config: Any, values: dict[str, Any]) -> Any:
    """The config with dotted settings replaced."""
    for name, value in values.items():
        first, _, rest = name.partition(".")
        config = replace(config, **{first: changed(getattr(config, first), {rest: value}) if rest else value})
    return config


def another(command: str, name: str, kind: Any, value: Any) -> Any:
    """Another allowed value of a setting."""
    for key in (f"{command}.{name}", name, name.rpartition(".")[2]):
        if key in OTHER:
            return OTHER[key]
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice not in (value, "auto"))
    if isinstance(value, bool):
        return not value
    if value is None or value == 0:
        return 1 if int in (kind, *get_args(kind)) else 0.5
    return value * 2 if isinstance(value, int) else value / 2


def observed(command: str, config: Any, home: Path, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """What the command does in `home`."""
    capsys.readouterr()
    ended: object = None
    try:
        importlib.import_module(cli.module_of(command)).main(config)
    except (ValueError, OSError, RuntimeError) as error:
        ended = str(error)
    said = [TIMES.sub("", line) for line in capsys.readouterr().out.splitlines() if "tokens/s" not in line]
    return [ended, said, torch.get_num_threads(), *(facts(path, home) for path in sorted(home.rglob("*")))]


def facts(path: Path, home: Path) -> tuple[str, Any]:
    """A file's name and what is in it, without times, paths and the settings themselves."""
    name = str(path.relative_to(home))
    if path.is_dir() or path.name in ("config.json", "lock", "state.json") or path.suffix in (".html", ".svg"):
        return name, None
    if path.suffix == ".safetensors":
        return name, hashlib.sha256(path.read_bytes()).hexdigest()
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix in (".json", ".jsonl") and path.name != "tokenizer.json":
        lines = [json.loads(line) for line in ([text] if path.suffix == ".json" else text.splitlines())]
        return name, [timeless(line) for line in lines]
    return name, TIMES.sub("", text)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: timeless(inner)
            for key, inner in value.items()
            if not re.search("second|memory|finished|prov|mfu", key)
        }
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("command", BASE)
def test_every_setting_changes_something(
    command: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inert = []
    seen: dict[str, list[Any]] = {}

    def run(values: dict[str, Any]) -> list[Any]:
        if (key := repr(values)) not in seen:
            home = tmp_path / str(len(seen))
            shutil.copytree(finished, home)
            begin_again(home / "run", [command] if command in TRAINED or command == "tokenizer" else [])
            if command == "evaluate":  # else all that is asked has its score
                shutil.rmtree(home / "run" / "eval")
            torch.set_num_threads(1)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(home)
                seen[key] = observed(command, changed(BASE[command], values), home, capsys)
            shutil.rmtree(home)
        return seen[key]

    for name, kind in settings(SETTINGS[command]):
        # midtrain and sft are one main(config) and one class: what sft does not declare anew is walked for midtrain.
        is_inherited = command == "sft" and name not in vars(Sft)["__annotations__"]
        if is_inherited or {name, f"{command}.{name}"} & ELSEWHERE.keys():
            continue
        needed = NEEDS.get(f"{command}.{name}", NEEDS.get(name, {}))
        value = another(command, name, kind, value_of(changed(BASE[command], needed), name))
        if run(needed) == run({**needed, name: value}):
            inert.append(f"{name}={value!r}")
    assert not inert, f"{command}: set to another value these change nothing: {', '.join(inert)}"


@pytest.mark.parametrize("command", sorted(SETTINGS.keys() - BASE.keys()))
def test_every_setting_of_a_command_that_is_not_a_stage_of_a_run_is_read(command: str) -> None:
    """Of those that serve, chat or chain stages: here the source shows it; what sampling does, tests/test_sampling_settings.py."""
    module = importlib.import_module(cli.module_of(command))
    beside = {"run": [recipes], "bench rl": [infer], "sweep": [points]}
    files = [Path(str(one.__file__)) for one in (module, *beside.get(command, []))]
    tree = ast.parse("".join(path.read_text(encoding="utf-8").partition("annotations\n")[2] for path in files))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    through = [field.name for field in dataclasses.fields(Sampling)] if issubclass(SETTINGS[command], Sampling) else []
    assert not through or "Sampling.of(config" in ast.unparse(tree)
    tuples = [node.elts for node in ast.walk(tree) if isinstance(node, ast.Tuple)]
    used |= {each.value for elts in tuples for each in elts if isinstance(each, ast.Constant)}  # handed on by name
    for name, kind in (("model", ModelSettings), ("optim", OptimSettings)):  # as a whole, as pretrain has it
        if name in used:
            through += [each for each, _ in settings(kind, f"{name}.")]
    if command == "sweep":  # those of its points, which are pretrainings
        through += [name for name, _ in settings(Pretrain, "base.")]
    inert = {name for name, _ in settings(SETTINGS[command])} - used - set(through)
    assert not inert, f"{command}: nothing reads {sorted(inert)}"
