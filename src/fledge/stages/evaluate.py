"""`fledge evaluate`: measure the models of a run on tasks; results in `eval/<stage>.json` and one line per example beside it."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fledge import console
from fledge.checkpoint import checkpoints, load_model, read_state
from fledge.config import Evaluate, check
from fledge.evals.core import evaluate_core, open_bundle
from fledge.evals.score import Score, Scorer
from fledge.model.device import find_device, threads
from fledge.runs import choose_stage, provenance, read_json, settings_of, write_atomic
from fledge.sandbox.judge import allow_unsafe_exec, isolation, judge
from fledge.sandbox.sandbox import SandboxUnavailable
from fledge.tasks import find_task
from fledge.tasks.base import Split, Task, centered
from fledge.tasks.smoltalk import ungraded
from fledge.text.hub import EVAL_BUNDLE, locate
from fledge.text.tokenizer import Tokenizer

CORE, FOREIGN = "core", "hf:"
JUDGED = frozenset(("humaneval", "world/functions"))
REAL_TASKS = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval", "spelling", "counting", "identity")
BASE_TASKS = ("world/choice",)
CHAT_TASKS = (
    "world/facts",
    "world/letters",
    "world/problems",
    "world/problems_new",
    "world/problems_hard",
    "world/spelling",
    "world/counting",
    "world/identity",
    "world/unknown",
    "world/recall",
    "world/reading",
    "world/functions",
    "world/stories",
)


def main(config: Evaluate) -> None:
    """Score one or several stages of a run; tasks already scored with these weights and settings are not scored again."""
    check(config)
    if config.unsafe_exec:
        allow_unsafe_exec()
    if config.run.startswith(FOREIGN):
        evaluate_foreign(config)
        return
    run = Path(config.run)
    for name in config.stage.split(",") if config.stage else [None]:
        stage = choose_stage(run, name)
        wanted = find(names_of(config) or default_tasks(run, stage), config)
        results = Results(run / "eval" / f"{stage}.json", weights=weights_hash(run / stage), config=config)

        def load(stage: str = stage) -> Scorer:
            model = load_model(run / stage, device=find_device(config.device))
            return Scorer(model, Tokenizer.load(run / "tokenizer"), out=run / "eval", stage=stage)

        measure(load, wanted, results, config, title=stage)


def evaluate_foreign(config: Evaluate) -> None:
    """`hf:PATH` in place of a run: a Hugging Face model, its results under runs/hf-<folder>/eval/."""
    from fledge.evals import hf

    path = Path(config.run.removeprefix(FOREIGN))
    hf.check(path)
    wanted = find(names_of(config) or (CORE,), config)
    out = Path("runs") / f"hf-{path.name}" / "eval"
    results = Results(out / "model.json", weights=folder_hash(path), config=config)

    def load() -> Scorer:
        model, tokenizer = hf.load(str(path), device=config.device)
        return Scorer(model, tokenizer, out=out)

    measure(load, wanted, results, config, title=config.run)


def names_of(config: Evaluate) -> tuple[str, ...]:
    """The tasks asked for by name; blanks around a comma say nothing."""
    return tuple(name for part in (config.tasks or "").split(",") if (name := part.strip()))


def find(names: Sequence[str], config: Evaluate) -> dict[str, Task | None]:
    """Name -> task, None for CORE. Unknown names, missing files and a missing sandbox are found before a model is loaded.

    Raises:
        SandboxUnavailable: code is to be judged by wish and the sandbox does not hold here; by default it is left out.
        ValueError: a task's answers cannot be graded.
    """
    if CORE in names:
        open_bundle(locate(EVAL_BUNDLE))
    if judged := JUDGED.intersection(names):
        try:
            judge()
        except SandboxUnavailable as error:
            if config.tasks:
                raise
            console.say(f"left out: {', '.join(judged)} ({error})")
            names = [name for name in names if name not in judged]
    tasks = {name: None if name == CORE else find_task(name, others=(CORE,)) for name in names}
    if talk := [name for name, task in tasks.items() if task is not None and task.grade is ungraded]:
        raise ValueError(
            f"{', '.join(talk)}: conversations have no grader and cannot be scored; they serve midtrain and sft as --data. "
            f"Name tasks with one, as in --tasks {','.join(REAL_TASKS[:4])}"
        )
    return tasks


def measure(
    load: Callable[[], Scorer], tasks: dict[str, Task | None], results: Results, config: Evaluate, *, title: str
) -> None:
    """Score what has no result yet, and print all."""
    wanted = {name: task for name, task in tasks.items() if not results.holds(name if task is None else task.name)}
    if wanted:
        wanted = {name: task and with_examples(task, config.split) for name, task in wanted.items()}
        threads(config.threads)
        scorer = load()
        with console.Live(f"evaluate {title}", total=len(wanted)) as live:
            for count, (name, task) in enumerate(wanted.items()):
                live.show(count, name)
                for score in score_one(scorer, task, config, show=lambda label, count=count: live.show(count, label)):
                    results.add(score)
                live.show(count + 1, name)
    rows = [row for name, task in tasks.items() for row in results.rows(name if task is None else task.name)]
    chat = [name for name, task in tasks.items() if task is not None]
    if len(chat) > 1:
        rows.append(("mean, 0 = guessing", f"{results.centered_mean(tasks):.3f}", "", "", ""))
    console.table(f"{title} on the {config.split} split", ("task", "accuracy", "± s.e.", "chance", "examples"), rows)


def with_examples(task: Task, split: Split) -> Task:
    """The task with its examples read, so that missing files and splits are found before a model is loaded."""
    examples = task.load(split)
    return replace(task, load=lambda _: examples)


def score_one(scorer: Scorer, task: Task | None, config: Evaluate, *, show: Callable[[str], None]) -> list[Score]:
    """The scores of a task, or of CORE and its parts."""
    if task is None:
        bundle = open_bundle(locate(EVAL_BUNDLE))
        return evaluate_core(scorer, bundle, limit=config.limit, report=lambda label, _: show(f"core/{label}")).scores()
    return [
        scorer.score(
            task,
            split=config.split,
            limit=config.limit,
            samples=config.samples,
            temperature=config.temperature,
            seed=config.seed,
        )
    ]


def default_tasks(run: Path, stage: str) -> tuple[str, ...]:
    """The tasks that suit what a stage was trained on: Fernhollow's, or the public ones; a base model ranks continuations."""
    begun = (run / stage / "config.json").exists()
    world = not begun or settings_of(run / stage).get("data", "world") == "world"
    if stage == "pretrain":
        return BASE_TASKS if world else (CORE,)
    return BASE_TASKS + CHAT_TASKS if world else REAL_TASKS


def weights_hash(stage: Path) -> str:
    """Hash of the newest weights of a stage, which a score belongs to."""
    found = checkpoints(stage)
    return read_state(found[-1])["sha256"]["model.safetensors"] if found else ""


def folder_hash(folder: Path) -> str:
    """Hash of the names, sizes and times of a foreign model's files: another model in its place has another."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    listing = "\n".join(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


class Results:
    """Scores of one stage on the disk: written after every task, so that an interrupted evaluation goes on.

    A score belongs to the weights and to the settings it was asked with. With other weights all are gone; with other settings a
    task asked again gets a new score, and those of other tasks stay.
    """

    def __init__(self, path: Path, *, weights: str, config: Evaluate) -> None:
        self.path, self.weights = path, weights
        self.settings: dict[str, Any] = {
            "split": config.split,
            "limit": config.limit,
            "samples": config.samples,
            "temperature": config.temperature,
            "seed": config.seed,
        }
        found = read_json(path) if path.exists() else {}
        same = found.get("weights") == weights
        self.scores: dict[str, dict[str, Any]] = found["scores"] if same else {}

    def holds(self, task: str) -> bool:
        return self.scores.get(task, {}).get("settings") == self.settings

    def add(self, score: Score) -> None:
        self.scores[score.task] = {
            "accuracy": score.accuracy,
            "standard_error": score.standard_error,
            "examples": score.examples,
            "chance": score.chance,
            "seconds": round(score.seconds, 3),
            "truncated_share": score.truncated_share,
            "pass_at": {str(k): value for k, value in score.pass_at.items()},
            "settings": self.settings,
        }
        record = {
            "weights": self.weights,
            "scores": self.scores,
            "isolation": isolation(),
            "provenance": provenance(),
            "finished": time.time(),
        }
        write_atomic(self.path, json.dumps(record, indent=1))

    def centered_mean(self, tasks: Mapping[str, Task | None]) -> float:
        """Over the tasks but CORE: ChatCORE, where those are the chat tasks."""
        found = [self.scores[task.name] for task in tasks.values() if task is not None]
        return statistics.fmean(centered(score["accuracy"], score["chance"]) for score in found)

    def rows(self, task: str) -> list[tuple[str, ...]]:
        """Lines of the table: one, or for CORE those of its parts too."""
        named = [name for name in self.scores if name == task or (task == CORE and name.startswith(CORE))]
        return [
            (
                name,
                f"{found['accuracy']:.3f}",
                f"{found['standard_error']:.3f}",
                f"{found['chance']:.2f}",
                str(found["examples"]),
            )
            for name, found in ((name, self.scores[name]) for name in named)
        ]
