"""`fledge evaluate`: measure the models of a run on tasks; results in `eval/<stage>.json` and one line per example beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fledge import console
from fledge.config import Evaluate, check
from fledge.evals.score import Score, Scorer
from fledge.model.device import find_device, threads
from fledge.runs import choose_stage, provenance, read_json, write_atomic
from fledge.tasks import find_task
from fledge.text.tokenizer import Tokenizer
from fledge.train.checkpoint import checkpoints, load_model, read_state

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
    run = Path(config.run)
    for name in config.stage.split(",") if config.stage else [None]:
        stage = choose_stage(run, name)
        names = config.tasks.split(",") if config.tasks else default_tasks(stage)
        # Unknown names are found before a model is loaded.
        tasks = [find_task(task, local=config.local) for task in names]
        results = Results(run / "eval" / f"{stage}.json", weights=weights_hash(run / stage), config=config)
        wanted = [task for task in tasks if not results.holds(task.name)]
        if wanted:
            threads(config.threads)
            tokenizer = Tokenizer.load(run / "tokenizer")
            model = load_model(run / stage, device=find_device(config.device))
            scorer = Scorer(model, tokenizer, out=run / "eval", stage=stage)
            with console.Live(f"evaluate {stage}", total=len(wanted)) as live:
                for count, task in enumerate(wanted):
                    live.show(count, task.name)
                    results.add(
                        scorer.score(
                            task,
                            split=config.split,
                            limit=config.limit,
                            samples=config.samples,
                            temperature=config.temperature,
                            seed=config.seed,
                        )
                    )
                    live.show(count + 1, task.name)
        rows = [results.row(task.name) for task in tasks]
        console.table(
            f"{stage} on the {config.split} split", ("task", "accuracy", "± s.e.", "chance", "examples"), rows
        )


def default_tasks(stage: str) -> tuple[str, ...]:
    """The world's tasks that make sense for a stage: a base model only ranks continuations."""
    return BASE_TASKS if stage == "pretrain" else BASE_TASKS + CHAT_TASKS


def weights_hash(stage: Path) -> str:
    """Hash of the newest weights of a stage, which a score belongs to."""
    found = checkpoints(stage)
    return read_state(found[-1])["sha256"]["model.safetensors"] if found else ""


class Results:
    """Scores of one stage on the disk: written after every task, so that an interrupted evaluation goes on."""

    def __init__(self, path: Path, *, weights: str, config: Evaluate) -> None:
        self.path = path
        self.key: dict[str, Any] = {
            "weights": weights,
            "split": config.split,
            "limit": config.limit,
            "samples": config.samples,
            "temperature": config.temperature,
            "seed": config.seed,
        }
        found = read_json(path) if path.exists() else {}
        same = found.get("key") == self.key
        self.scores: dict[str, dict[str, Any]] = found.get("scores", {}) if same else {}

    def holds(self, task: str) -> bool:
        return task in self.scores

    def add(self, score: Score) -> None:
        self.scores[score.task] = {
            "accuracy": score.accuracy,
            "standard_error": score.standard_error,
            "examples": score.examples,
            "chance": score.chance,
            "seconds": round(score.seconds, 3),
            "truncated_share": score.truncated_share,
            "pass_at": {str(k): value for k, value in score.pass_at.items()},
        }
        record = {"key": self.key, "scores": self.scores, "provenance": provenance(), "finished": time.time()}
        write_atomic(self.path, json.dumps(record, indent=1))

    def row(self, task: str) -> tuple[str, ...]:
        found = self.scores[task]
        return (
            task,
            f"{found['accuracy']:.3f}",
            f"{found['standard_error']:.3f}",
            f"{found['chance']:.2f}",
            str(found["examples"]),
        )
