"""`fledge evaluate`: measure the models of a run on tasks; results in `eval/<stage>.json` and one line per example beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fledge import console, ranks
from fledge.config import Evaluate, check
from fledge.console import notice
from fledge.evals.results import Results, folder_hash, mean_score
from fledge.folder import locked
from fledge.origin import data_of, hash_of
from fledge.runs import choose_stage
from fledge.sandbox.sandbox import judge
from fledge.tasks import find_tasks, gradable, tasks_of
from fledge.tasks.base import Task
from fledge.tasks.own import are_conversations
from fledge.text.conversations import Chats, open_conversations
from fledge.text.tokenizer import Tokenizer
from fledge.weights import check_tokenizer, weights_hash

if TYPE_CHECKING:
    from fledge.evals.score import Scorer

FOREIGN = "hf:"


def main(config: Evaluate) -> dict[str, dict[str, Any]]:
    """Score one or several stages of a run; tasks scored with these weights, examples and settings are not scored again.

    Returns the accuracies, by stage and task, and of own conversations the bits per byte of the answers, by name.

    `hf:PATH` in place of a run is a Hugging Face model; its results stand under runs/hf-<folder>/eval/.
    """
    named, chats = find_named(config)
    if config.run.startswith(FOREIGN):
        from fledge.evals import hf

        path = Path(config.run.removeprefix(FOREIGN))
        hf.check(path)
        if chats:
            raise ValueError(
                f"{', '.join(chats)}: conversations, which only models of fledge know how to read; leave them out"
            )
        tasks = named or find_tasks("core")
        run, weights = Path("runs") / f"hf-{path.name}", folder_hash(path)
        return {"model": measure(tasks, config, run, "model", weights=weights, title=config.run)}
    run, found = Path(config.run), {}
    for name in config.stage.split(",") if config.stage else [None]:
        stage = choose_stage(run, name)
        check_tokenizer(run / stage, Tokenizer.load(run / "tokenizer"))
        tasks = named if named or chats else default_tasks(run, stage, config)
        weights = weights_hash(run / stage)
        found[stage] = measure(tasks, config, run, stage, weights=weights, title=stage, chats=chats)
    return found


def prepare(config: Evaluate) -> None:
    """Find the tasks that are named, fetch and read what they ask: what is missing stops a run before its first stage.

    Raises:
        ValueError: a name is of no task, or nobody can grade it.
        FileNotFoundError, ConnectionError: its files are neither there nor to be had.
        SandboxUnavailable: code is to be judged and the sandbox does not hold here.
    """
    for task in find_named(config)[0].values():
        task.examples(config.split)


def find_named(config: Evaluate) -> tuple[dict[str, Task], dict[str, Chats]]:
    """The tasks asked for by name, and own conversations by their path, whose answers are scored by likelihood.

    Blanks around a comma say nothing. Raises as `prepare` does, but for the files of tasks.
    """
    check(config)
    names = [*filter(None, map(str.strip, (config.tasks or "").split(",")))]
    chats = list(filter(are_conversations, names))
    tasks = find_tasks(",".join(name for name in names if name not in chats))
    if any(task.judged for task in tasks.values()):
        judge(unsafe_exec=config.unsafe_exec)
    return tasks, {name: open_conversations(name) for name in chats}


def default_tasks(run: Path, stage: str, config: Evaluate) -> dict[str, Task]:
    """The tasks that suit a stage and the data it was trained on: a base model ranks continuations."""
    kind = "base" if stage == "pretrain" else "chat"
    tasks = (task for task in tasks_of(data_of(run / stage)).values() if kind in task.default_for)
    return gradable(tasks, otherwise="left out", unsafe_exec=config.unsafe_exec)


def asked(config: Evaluate) -> dict[str, int | float | str | None]:
    """The settings that a score belongs to."""
    return {name: getattr(config, name) for name in ("split", "limit", "samples", "temperature", "seed")}


def measure(
    tasks: Mapping[str, Task],
    config: Evaluate,
    run: Path,
    stage: str,
    *,
    weights: str,
    title: str,
    chats: Mapping[str, Chats] = MappingProxyType({}),
) -> dict[str, Any]:
    """Score what has no result yet, or all with `fresh`, and print all. One process at a time: a score is added to a file.

    Conversations are always scored: it takes a glance, and of those there what was learned may be another part by now.
    """
    path = run / "eval" / f"{stage}.json"
    results = Results(path, weights=weights, settings=asked(config))
    # Read first: missing files and splits are found before torch is imported and a model loaded.
    tasks = {name: replace(task, load=cache(task.load)) for name, task in tasks.items()}
    examples = {name: examples_of(task, results, config) for name, task in tasks.items()}
    wanted = [name for name, hashed in examples.items() if config.fresh or not results.holds(name, hashed)]
    if wanted or chats:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent) if ranks.is_first() else nullcontext():
            results = Results(path, weights=weights, settings=asked(config))
            scorer = load(config, run, stage)
            from fledge.evals.answers import cost_of, questions_learned

            learned = questions_learned(run, scorer.tokenizer, context=scorer.model.config.context) if chats else set()
            with console.Live(f"evaluate {title}", total=len(wanted) + len(chats)) as live:
                for count, name in enumerate(wanted):
                    live.show(count, name)
                    score = scorer.score(tasks[name], **results.settings)
                    results.add(name, score, examples=examples[name] or "")
                    live.show(count + 1, name)
                for count, (name, talks) in enumerate(chats.items(), len(wanted) + 1):
                    results.add_cost(name, cost_of(scorer, name, talks, learned=learned, limit=config.limit))
                    live.show(count, name)
    show(tasks, results, title=f"{title} on the {config.split} split")
    costs = {name: results.costs[name] for name in chats}
    if costs:
        rows = [(name, f"{c.bits_per_byte:.3f}", f"{c.standard_error:.3f}", c.scored) for name, c in costs.items()]
        about = f"{title}: what the answers of conversations cost (lower is better)"
        console.table(about, ("conversations", "bits per byte", "± s.e.", "scored"), rows)
    found = {name: score.accuracy for name, score in results.scores.items() if name in tasks or name == "core"}
    return found | ({"answer_bits_per_byte": {name: c.bits_per_byte for name, c in costs.items()}} if costs else {})


def examples_of(task: Task, results: Results, config: Evaluate) -> str | None:
    """Hash of the examples of a task; None where they are not to be had and there is a score all the same."""
    try:
        return hash_of(task.examples(config.split))
    except (FileNotFoundError, ConnectionError) as error:
        if config.fresh or not results.holds(task.name, None):
            raise
        notice(f"{task.name}: the score is of an earlier evaluation, its examples cannot be compared ({error})")
        return None


def load(config: Evaluate, run: Path, stage: str) -> Scorer:
    """A scorer of the model of a stage, or of the foreign one that stands in place of the run."""
    from fledge.checkpoint import load_pair
    from fledge.evals import hf
    from fledge.evals.score import Scorer
    from fledge.model.device import find_device, threads

    threads(config.threads)
    if config.run.startswith(FOREIGN):
        model, tokenizer = hf.load(config.run.removeprefix(FOREIGN), device=config.device)
    else:
        model, tokenizer = load_pair(run, stage, device=find_device(config.device))
    return Scorer(model, tokenizer, out=run / "eval", stage=stage)


def show(tasks: Mapping[str, Task], results: Results, *, title: str) -> None:
    """The table of the scores: CORE's mean where all of it was asked, and that of the other tasks."""
    if not tasks:
        return
    core = {name for name in tasks if name.startswith("core/")}
    whole = {name: results.scores[name] for name in ("core", "core_v2") if name in results.scores and len(core) == 22}
    shown = {**whole, **{name: results.scores[name] for name in tasks}}
    # Columns that few tasks fill stand where one does.
    more = {
        "lenient": [f"{s.lenient:.3f}" if s.lenient is not None else "" for s in shown.values()],
        "not judged": [str(s.not_judged or "") for s in shown.values()],
    }
    more = {name: column for name, column in more.items() if any(column)}
    rows = [
        (name, f"{s.accuracy:.3f}", f"{s.standard_error:.3f}", f"{s.chance:.2f}", str(s.examples), *cells)
        for (name, s), *cells in zip(shown.items(), *more.values(), strict=True)
    ]
    others = [results.scores[name] for name in tasks if name not in core]
    if len(others) > 1:
        rows.append(("mean, 0 = guessing", f"{mean_score(others).accuracy:.3f}", "", "", "", *[""] * len(more)))
    console.table(title, ("task", "accuracy", "± s.e.", "chance", "examples", *more), rows)
