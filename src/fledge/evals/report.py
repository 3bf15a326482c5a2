"""The report card of a run: what was done, how long it took, what the model can do now, and a grade for each subject.

    card = gather(Path("runs/demo"))               # everything, from the files of the run alone
    write(card, run)                               # report.json, report.md, report.html, plots/*.svg
    show(card)                                     # the summary in the terminal

report.json holds every number of the other two; report.html is report.md, with the plots inside and a badge for each subject.
A subject's grade is that of the last stage that was scored on it.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fledge import console
from fledge.commands import TRAINED
from fledge.evals.card import badges, facts, markdown, sentences, summary_rows
from fledge.evals.grades import Scores, article, level_ups, rank, subjects
from fledge.evals.ladder import outlook
from fledge.evals.page import publish
from fledge.evals.plots import line_plot
from fledge.evals.reinforcement import course
from fledge.evals.results import read_results
from fledge.folder import REPORT, check_ours
from fledge.origin import broken_links
from fledge.runs import begun, checkpoints, metrics, summary
from fledge.settings import shares_of
from fledge.storage import read_json, sealed, write_atomic
from fledge.text.datasets import MODULES
from fledge.weights import weights_hash

UNITS = {
    "loss_nats": "nats per token",
    "val_bits_per_byte": "bits per byte",
    "reward": "mean reward",
    "validation": "accuracy",
}
"""What is plotted of a stage's metrics."""


def gather(run: Path, *, hourly_cost: float | None = None, ladder: str | None = None) -> dict[str, Any]:
    """Every number of the report.

    Args:
        ladder: the sweep whose laws say what the next $100 buy.

    Raises:
        FileNotFoundError: the run has no finished stage.
        ValueError: see `outlook`.
    """
    stages = {name: summary(run / name) for name in ("tokenizer", *TRAINED)}
    stages = {name: found for name, found in stages.items() if found}
    if not stages:
        raise FileNotFoundError(
            f"{run}: no finished stage found, so there is nothing to report. `fledge run` makes a run."
        )
    check_ours(run, REPORT)
    evaluated = {name: path for name in TRAINED if (path := run / "eval" / f"{name}.json").exists()}
    scores, costs, broken = {}, {}, list(broken_links(run))
    for name, path in evaluated.items():
        # Of a stage whose weights were removed to save space the scores stay.
        try:
            weights = weights_hash(run / name, needed=()) if checkpoints(run / name) else None
        except ValueError:  # none is of this training, which `broken` says
            weights = ""
        scored, costs[name] = read_results(path, weights=weights)
        if scored:
            scores[name] = scored
        elif not costs[name]:
            broken.append(
                f"evaluate {name}: its scores are of other weights and left out; `fledge evaluate` makes new ones"
            )
    isolations = (read_json(path).get("isolation") for path in evaluated.values())
    seconds = {name: found.get("total_seconds", 0.0) for name, found in stages.items()}
    seconds |= {f"evaluate {name}": sum(score.seconds for score in found.values()) for name, found in scores.items()}
    total = sum(seconds.values())
    graded = subjects(scores)
    return {
        "run": run.name,
        "provenance": provenance(run, stages),
        "changed_since": broken,
        "stages": stages,
        "isolation": next(filter(None, isolations), None),
        "scores": plain(scores),
        "answers": plain({stage: found for stage, found in costs.items() if found}),
        "final": {task: subject["accuracy"] for task, subject in graded.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "total_seconds": round(total, 3),
        "hourly_cost": hourly_cost,
        "next": outlook(Path(ladder), done=stages.get("pretrain", {}), hourly_cost=hourly_cost) if ladder else None,
        "cost_dollars": None if hourly_cost is None else round(total / 3600 * hourly_cost, 2),
        "subjects": graded,
        "gains": gains(scores),
        "curves": curves(run),
        "course": course(metrics(run / "rl")),
        "conversations": conversations(run, scores),
        "suggestions": suggestions(scores),
        "level_ups": level_ups(scores),
        "article": plain(article(scores)),
        "speed": speed(run, stages),
        "rank": rank(graded, **real_text(run, stages)),
    }


def plain(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scores, or costs, as JSON."""
    return {outer: {inner: asdict(one) for inner, one in each.items()} for outer, each in found.items()}


def real_text(run: Path, stages: dict[str, Any]) -> dict[str, float]:
    """FLOPs of pretraining on real text and the bits per byte after it; nothing of generated text, which is easier."""
    done = stages.get("pretrain")
    if not done or MODULES.keys() & shares_of(begun(run / "pretrain")["settings"].get("data", "")).keys():
        return {}
    return {"flops": done["flops_per_token"] * done["tokens"], "bits": done["val_bits_per_byte"]}


def speed(run: Path, stages: dict[str, Any]) -> dict[str, float | None]:
    """Of pretraining, without compilation: tokens and TFLOP in a second, and the share of a GPU's peak (MFU), None on a CPU."""
    if not (done := stages.get("pretrain")):
        return {}
    seconds = sum(spent for part, spent in done["seconds"].items() if part != "compile")
    rate = done["tokens"] / max(seconds, 1e-9)
    shares = [line["mfu_share"] for line in metrics(run / "pretrain") if "mfu_share" in line]
    return {
        "flops": done["flops_per_token"] * done["tokens"],
        "tokens_per_second": rate,
        "teraflops": rate * done["flops_per_token"] / 1e12,
        "mfu_share": statistics.median(shares) if shares else None,
    }


def provenance(run: Path, stages: dict[str, Any]) -> dict[str, Any]:
    """Where the numbers come from: commit, seed, machine, hashes of tokenizer and held-out text."""
    last = run / list(stages)[-1]
    kept = begun(last)
    found = {"commit": "unknown", "started": "unknown"} | kept["provenance"]
    first = begun(run / next(iter(stages)))["provenance"]
    return found | {
        "started": first.get("started", "unknown"),
        "seed": kept["settings"].get("seed"),
        "tokenizer_hash": stages.get("tokenizer", {}).get("tokenizer_hash"),
        "held_out": stages.get("pretrain", {}).get("held_out"),
        "machine": next((done["machine"] for done in reversed(stages.values()) if "machine" in done), {}),
    }


def gains(scores: Scores) -> list[dict[str, Any]]:
    """What each stage changed on tasks that the one before was scored on too, with the standard error of the difference."""
    return [
        {
            "task": task,
            "before": before,
            "after": after,
            "gain": two.accuracy - one.accuracy,
            "standard_error": math.hypot(one.standard_error, two.standard_error),
        }
        for before, after in itertools.pairwise(scores)
        for task, two in scores[after].items()
        if (one := scores[before].get(task)) is not None
    ]


def curves(run: Path) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Lines to plot, by stage: loss, held-out bits per byte, reward, each as tokens and seconds of training until then, value."""
    found = {}
    for stage in TRAINED:
        tokens = seconds = 0.0
        for line in metrics(run / stage):
            tokens, seconds = tokens + line.get("tokens", 0), seconds + line.get("seconds", 0.0)
            for name in UNITS:
                if name in line and not (stage == "rl" and name == "loss_nats"):
                    found.setdefault(stage, {}).setdefault(name, []).append((tokens, seconds, line[name]))
    return found


def conversations(run: Path, scores: Scores, *, most: int = 6) -> list[dict[str, Any]]:
    """One question of each of several tasks with the answer of the last stage that was scored, right or wrong."""
    if not scores:
        return []
    stage, found = list(scores)[-1], []
    for name in scores[stage]:
        path = run / "eval" / f"{stage}-{name.replace('/', '-')}.jsonl"
        try:
            record = json.loads(path.read_text(encoding="utf-8").partition("\n")[0])
            if isinstance(record.get("answer"), str):  # a choice has none
                asked, correct = str(record["asked"]), float(record["correct"])
                found.append({"task": name, "asked": asked, "answer": record["answer"], "correct": correct})
        except FileNotFoundError:
            continue
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError, OSError) as error:
            console.notice(f"{path}: left out, not the answers that were written there ({error!r})")
    step = max(1, len(found) // most)
    return found[::step][:most]


def suggestions(scores: Scores) -> list[dict[str, Any]]:
    """What the last stage that was measured on it may be asked, and how often that went right."""
    measured = [score for found in scores.values() for score in found.values() if score.suggestions]
    return [asdict(each) | {"proposed": each.holds} for each in measured[-1].suggestions] if measured else []


def plots(card: dict[str, Any]) -> dict[str, str]:
    """SVG by name, over the tokens of training, with the time that it took above."""
    drawn = {}
    for stage, lines in card["curves"].items():
        for name, points in lines.items():
            line = [(tokens, value) for tokens, _, value in points]
            above = {tokens: console.duration(seconds) for tokens, seconds, _ in points[:: -max(1, len(points) // 4)]}
            title = f"{stage}: {name.replace('_', ' ')}"
            drawn[f"{stage}-{name}"] = line_plot(title, {"": line}, x="tokens", y=UNITS[name], above=above)
    return {name: svg for name, svg in drawn.items() if svg}


def write(card: dict[str, Any], run: Path) -> None:
    """report.json, report.md, report.html and the plots, each whole or not at all."""
    drawn = plots(card)
    write_atomic(run / "report.json", sealed(card))
    title, text = f"Report card: {card['run']}", markdown(card, list(drawn))
    publish(run / "report", title=title, text=text, drawn=drawn, badges=badges(card))


def show(card: dict[str, Any]) -> None:
    """The summary in the terminal."""
    console.table(f"Report card: {card['run']}", *summary_rows(card, errors=False))
    for name in ("rank", "time"):
        console.say(f"{name}: {facts(card)[name]}")
    for text in sentences(card):
        console.say(text)
