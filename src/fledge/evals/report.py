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
import re
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from fledge import console
from fledge.config import TRAINED
from fledge.evals.kinds import Change
from fledge.evals.ladder import outlook
from fledge.evals.page import publish, table
from fledge.evals.plots import line_plot
from fledge.evals.results import Score, read_scores
from fledge.folder import REPORT, check_ours
from fledge.origin import broken_links
from fledge.runs import begun, checkpoints, metrics, summary
from fledge.storage import read_json, write_atomic
from fledge.weights import weights_hash

GRADES = ((0.95, "S"), (0.85, "A"), (0.70, "B"), (0.50, "C"), (0.25, "D"), (-math.inf, "F"))
RANKS = ((0.90, "falcon"), (0.75, "flyer"), (0.55, "fledgling"), (0.30, "nestling"), (-math.inf, "egg"))
PARTS = ("data", "forward", "backward", "optimizer", "communication", "compile", "save", "other")
UNITS = {
    "loss_nats": "nats per token",
    "val_bits_per_byte": "bits per byte",
    "reward": "mean reward",
    "validation": "accuracy",
}
"""What is plotted of a stage's metrics."""
Scores = Mapping[str, Mapping[str, Score]]
"""By stage and task."""
Table = tuple[list[str], list[list[str]]]
"""Columns and rows."""


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
    scores, broken = {}, list(broken_links(run))
    for name, path in evaluated.items():
        # Of a stage whose weights were removed to save space the scores stay.
        try:
            weights = weights_hash(run / name, needed=()) if checkpoints(run / name) else None
        except ValueError:  # none is of this training, which `broken` says
            weights = ""
        if found := read_scores(path, weights=weights):
            scores[name] = found
        else:
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
        "scores": {stage: {task: asdict(score) for task, score in found.items()} for stage, found in scores.items()},
        "final": {task: subject["accuracy"] for task, subject in graded.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "total_seconds": round(total, 3),
        "hourly_cost": hourly_cost,
        "next": outlook(Path(ladder), done=stages.get("pretrain", {}), hourly_cost=hourly_cost) if ladder else None,
        "cost_dollars": None if hourly_cost is None else round(total / 3600 * hourly_cost, 2),
        "subjects": graded,
        "gains": gains(scores),
        "curves": curves(run),
        "conversations": conversations(run, scores),
        "suggestions": suggestions(scores),
        "rank": rank(graded),
    }


def provenance(run: Path, stages: dict[str, Any]) -> dict[str, Any]:
    """Where the numbers come from: commit, seed, machine, hashes of tokenizer and held-out text."""
    last = run / list(stages)[-1]
    kept = begun(last)
    found = {"commit": "unknown", "started": "unknown"} | kept["provenance"]
    return found | {
        "seed": kept["settings"].get("seed"),
        "tokenizer_hash": stages.get("tokenizer", {}).get("tokenizer_hash"),
        "held_out": stages.get("pretrain", {}).get("held_out"),
        "machine": next((done["machine"] for done in reversed(stages.values()) if "machine" in done), {}),
    }


def subjects(scores: Scores) -> dict[str, dict[str, Any]]:
    """For each task the last stage that was scored on it: accuracy, centered by chance, and the grade it earns."""
    return {
        task: {"stage": stage, "grade": grade(score.centered), "centered": score.centered, **asdict(score)}
        for stage, found in scores.items()
        for task, score in found.items()
    }


def grade(share: float) -> str:
    """S, A, B, C, D or F for a score centered by chance."""
    return next(letter for bar, letter in GRADES if share >= bar)


def rank(graded: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How far the model is on its way out of the nest, by the mean of its centered scores."""
    centered = [max(0.0, subject["centered"]) for subject in graded.values()]
    mean = sum(centered) / max(1, len(centered))
    return {"title": next(title for bar, title in RANKS if mean >= bar), "mean": mean, "points": round(1000 * mean)}


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


def curves(run: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Lines to plot, by stage: loss, held-out bits per byte, reward."""
    found = {}
    for stage in TRAINED:
        lines = metrics(run / stage)
        for name in UNITS:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points and not (stage == "rl" and name == "loss_nats"):
                found.setdefault(stage, {})[name] = points
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
    """SVG by name."""
    drawn = {
        f"{stage}-{name}": line_plot(f"{stage}: {name.replace('_', ' ')}", {"": points}, x="step", y=UNITS[name])
        for stage, lines in card["curves"].items()
        for name, points in lines.items()
    }
    return {name: svg for name, svg in drawn.items() if svg}


def write(card: dict[str, Any], run: Path) -> None:
    """report.json, report.md, report.html and the plots, each whole or not at all."""
    drawn = plots(card)
    write_atomic(run / "report.json", json.dumps(card, indent=1))
    title, text = f"Report card: {card['run']}", markdown(card, list(drawn))
    publish(run / "report", title=title, text=text, drawn=drawn, badges=badges(card))


def summary_rows(card: dict[str, Any], *, errors: bool = True) -> Table:
    """The table of metrics: a row per task, a column per stage, the grade last."""

    def cell(score: dict[str, Any] | None) -> str:
        error = f" ± {score['standard_error']:.3f}" if score and errors else ""
        return f"{score['accuracy']:.3f}{error}" if score else ""

    scores = card["scores"]
    rows = [
        [task, *(cell(found.get(task)) for found in scores.values()), subject["grade"]]
        for task, subject in card["subjects"].items()
    ]
    return ["subject", *scores, "grade"], rows


def time_rows(card: dict[str, Any]) -> Table:
    """Where the minutes go: a row per stage, a column per part of the work, in seconds; and dollars, if an hour has a price."""
    hourly, rows = card["hourly_cost"], []
    there = [part for part in PARTS if any(part in stage.get("seconds", {}) for stage in card["stages"].values())]
    for name, seconds in [*card["seconds"].items(), ("all", card["total_seconds"])]:
        parts = card["stages"].get(name, {}).get("seconds", {})
        cost = [] if hourly is None else [f"${seconds / 3600 * hourly:.2f}"]
        rows.append([name, *(f"{parts[part]:.1f}" if part in parts else "" for part in there), f"{seconds:.1f}", *cost])
    return ["stage", *there, "seconds", *([] if hourly is None else ["cost"])], rows


def facts(card: dict[str, Any]) -> dict[str, str]:
    """The head of the report, name -> text."""
    origin, machine = card["provenance"], card["provenance"]["machine"]
    found = {
        "rank": f"{card['rank']['title']} ({card['rank']['points']} of 1000 points)",
        "time": console.duration(card["total_seconds"]),
    }
    if card["cost_dollars"] is not None:
        found["cost"] = f"${card['cost_dollars']}"
    found["machine"] = (
        f"{machine.get('name', '')}, {machine.get('threads', '')} threads, torch {machine.get('torch', '')}"
    )
    if pretrain := card["stages"].get("pretrain"):
        found["parameters"] = f"{pretrain['parameters']['total']:,}"
        found["pretraining"] = f"{pretrain['tokens']:,} tokens"
        found["bits per byte"] = f"{pretrain['val_bits_per_byte']:.4f} on held-out text {pretrain['held_out']}"
    if card["isolation"]:
        found["code judged behind"] = card["isolation"]
    if card["changed_since"]:
        found["changed since"] = "; ".join(card["changed_since"])
    if card["next"]:
        found["the next $100"] = card["next"]
    found["commit"] = f"{origin['commit'][:12]}, started {origin['started']}, seed {origin['seed']}"
    found["tokenizer"] = str(origin["tokenizer_hash"])[:16]
    return found


def sentences(card: dict[str, Any]) -> list[str]:
    """What reinforcement learning did, in words, with its standard error: to its own task, and what it cost elsewhere."""
    found, costs = [], []
    trained = card["stages"].get("rl", {}).get("task")
    for gain in card["gains"]:
        if gain["after"] != "rl":
            continue
        error = gain["standard_error"]
        changed = f"{gain['task']} by {gain['gain']:+.3f} ± {error:.3f}"
        if gain["task"] == trained:
            sure = "significant" if gain["gain"] > 2 * error else "within the noise"
            found.append(f"RL changed {changed} on the test split: {sure}.")
        elif gain["gain"] < -2 * error:
            costs.append(changed)
    return [*found, *([f"It also changed {', '.join(costs)}."] if costs else [])]


def kind_lines(card: dict[str, Any]) -> list[str]:
    """What reinforcement learning did to every task that it looked after, and to those of their kinds of problems that lost.

    The worst come first; then which weights remain.
    """
    done = card["stages"].get("rl", {})
    if "kinds" not in done:  # a run of before kinds were measured
        return []
    found = [Change(**kind) for kind in done["kinds"]]
    lost = [change for change in found if change.kind and (change.fell or change.difference < -change.standard_error)]
    lost.sort(key=lambda change: change.difference / change.standard_error)
    rows = [
        [
            f"{change.task}: {literal(change.kind)}" if change.kind else change.task,
            str(change.examples),
            f"{change.before:.3f}",
            f"{change.after:.3f}",
            f"{change.difference:+.3f} ± {change.standard_error:.3f}",
            "fell" * change.fell,
        ]
        for change in [*(change for change in found if not change.kind), *lost]
    ]
    columns = ["kind of problem", "problems", "before", "after", "difference", ""]
    kept, shown = done["kept_step"], done["shown_step"]
    remain = (
        f"The weights of step {kept} remain." if kept else f"The weights of the start remain; shown is step {shown}."
    )
    about = "Held-out problems of training, the same before and after; ± standard error of the paired difference."
    lines = ["## What reinforcement learning did to every kind of problem", "", *table(columns, rows), ""]
    lines += [f"{about} {remain}"]
    for step, fallen in done["fallen"].items():
        losses = literal("; ".join(str(Change(**kind)) for kind in fallen))
        lines += [f"After step {step} more than chance was lost, so its weights were left: {losses}."]
    others = f"{len(found) - len(rows)} other kinds lost less than their standard error, nothing, or gained"
    return [*lines, f"{others}: rl/done.json has all.", ""]


def remarks(card: dict[str, Any]) -> list[str]:
    """What a reader of the table must know: answers that count for nothing, and how many are right but for their form."""
    found = []
    for task, subject in card["subjects"].items():
        if subject["not_judged"]:
            found.append(f"{task}: {subject['not_judged']} answers could not be judged and count for nothing.")
        if subject["lenient"] not in (None, subject["accuracy"]):
            found.append(f"{task}: {subject['lenient']:.3f} if the last number of an answer counts, marked or not.")
    return found


def markdown(card: dict[str, Any], drawn: list[str]) -> str:
    """The report as Markdown."""
    bars = ", ".join(f"{letter} {bar:.2f}".replace(" 0", " ") for bar, letter in GRADES if math.isfinite(bar))
    lines = [f"# Report card: {card['run']}", "", *(f"- **{name}:** {text}" for name, text in facts(card).items()), ""]
    lines += ["## Subjects", "", *table(*summary_rows(card)), ""]
    lines += [f"Accuracy ± standard error on held-out examples. Grades, centered by chance, from: {bars}.", ""]
    lines += [
        *remarks(card),
        *sentences(card),
        "",
        *kind_lines(card),
        "## Where the time went",
        "",
        *table(*time_rows(card)),
        "",
    ]
    lines += ["## Plots", "", *(f"![{name}](plots/{name}.svg)" for name in drawn), ""]
    if found := card["stages"].get("pretrain", {}).get("samples"):
        lines += ["## What the base model writes", ""]
        for sample in found:
            begun = f"**{literal(sample['prompt'].strip())}** " if sample["prompt"].strip() else ""
            text = literal(sample["text"].strip()).replace("\n", "  \n> ")
            lines += [f"> {begun}{text}", ""]
    if card["conversations"]:
        lines += ["## What the chat model answers", "", *table(*conversation_rows(card), numbers=False), ""]
    if card["suggestions"]:
        lines += ["## What it may be asked", "", *table(*suggestion_rows(card), numbers=False), ""]
        lines += ["A chat proposes what the likeliest answer gets right, and 19 of 20 that are drawn as in a chat.", ""]
    return "\n".join(lines)


def literal(text: str) -> str:
    """Markdown that shows a text as it is: what a model writes is neither a heading nor a link nor HTML."""
    text = re.sub(r"([\\`*_\[\]<|~&])", r"\\\1", console.visible(text).expandtabs(4))
    # What begins a line could begin a list, a quotation or a heading, and blanks a block of code.
    text = re.sub(r"^( *(?:\d+(?=[.)])|(?=[-+=#>])))", r"\1\\", text, flags=re.MULTILINE)
    return re.sub(r"^ +", lambda blanks: "\u00a0" * len(blanks[0]), text, flags=re.MULTILINE)


def verdict(correct: float | None) -> str:
    """A grade in a word."""
    return "not judged" if correct is None else "yes" if correct else "no"


def flat(text: str) -> str:
    """Markdown of a text, on one line."""
    return literal(text.strip().replace("\n", " / "))


def conversation_rows(card: dict[str, Any]) -> Table:
    """Questions and answers, each on one line."""
    rows = [[c["task"], flat(c["asked"]), flat(c["answer"]), verdict(c["correct"])] for c in card["conversations"]]
    return ["subject", "asked", "answered", "right"], rows


def suggestion_rows(card: dict[str, Any]) -> Table:
    """How often each conversation went right that a chat may propose."""
    rows = [
        [
            s["skill"],
            flat(" ... ".join(s["asked"])),
            verdict(s["likeliest"]),
            f"{s['right']} of {s['drawn']}",
            verdict(s["proposed"]),
        ]
        for s in card["suggestions"]
    ]
    return ["skill", "asked", "likeliest answer right", "drawn ones right", "proposed"], rows


def badges(card: dict[str, Any]) -> str:
    """HTML that shows the grades."""
    shown = (
        f'<li class="{subject["grade"]}"><b>{subject["grade"]}</b><span>{escape(task.removeprefix("world/"))}</span>'
        f"<i>{subject['accuracy']:.2f}</i></li>"
        for task, subject in card["subjects"].items()
    )
    return f'<ul class="badges">{"".join(shown)}</ul>'


def show(card: dict[str, Any]) -> None:
    """The summary in the terminal."""
    console.table(f"Report card: {card['run']}", *summary_rows(card, errors=False))
    for name in ("rank", "time"):
        console.say(f"{name}: {facts(card)[name]}")
    for text in sentences(card):
        console.say(text)
