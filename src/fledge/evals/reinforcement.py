"""What reinforcement learning did, for the report card: to its answers on the way, and to every kind of problem.

card["course"] = course(metrics(run / "rl"))
[*course_lines(card), *kind_lines(card)]            # lines of Markdown, none where there was no rl
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from fledge.evals.kinds import Change
from fledge.evals.page import flat, literal, paragraphs, table

KIND_LETTERS = 90
WORST = 8
"""Kinds of problems that are shown, if no more of them fell."""
SPAN = 3
"""Steps at the beginning and at the end whose means stand beside each other."""
TOLD = {
    "reward": "reward",
    "answer_tokens": "tokens of an answer",
    "entropy_nats": "entropy, nats per token",
    "tool_calls": "calls of the tool",
    "cut_share": "cut off, so unrewarded",
    "invented_share": "with a tool's result made up, so unrewarded",
    "flat_groups_share": "groups that teach nothing, so replaced",
    "mismatch_nats": "distance of engine and training, nats per token",
}


def course(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of the first and the last steps, and a question of each with two of its answers, from the lines of the metrics."""
    steps = [line for line in lines if "learned_groups" in line]
    if not steps:
        return {}
    ends = [steps[:SPAN], steps[-SPAN:]]
    means = {
        name: [statistics.fmean(line[name] for line in end if name in line) for end in ends]
        for name in TOLD
        if all(any(name in line for line in end) for end in ends)
    }
    return {"means": means, "samples": [steps[0].get("samples", []), steps[-1].get("samples", [])]}


def course_lines(card: dict[str, Any]) -> list[str]:
    """What its answers were like at the beginning and at the end, pass@k, and some of them as they stand."""
    if not (found := card.get("course")):
        return []
    columns = ["of the answers drawn", f"first {SPAN} steps", f"last {SPAN} steps"]
    rows = [[TOLD[name], *(f"{value:.3g}" for value in means)] for name, means in found["means"].items()]
    lines = paragraphs("## How reinforcement learning went", table(columns, rows))
    pass_at = card["stages"].get("rl", {}).get("pass_at", {})
    if before := pass_at.get("before"):
        rows = [[f"pass@{k}", f"{value:.3f}", f"{pass_at['after'].get(k, 0.0):.3f}"] for k, value in before.items()]
        lines += paragraphs(table(["held-out problems, answers drawn", "before", "after"], rows))
    rows = [
        [when, flat(sample["asked"]), flat(answer["text"]), f"{answer['reward']}"]
        for when, samples in zip(("first", "last"), found["samples"], strict=True)
        for sample in samples
        for answer in sample["answers"]
    ]
    return lines + paragraphs(table(["step", "asked", "answered", "earned"], rows, numbers=False))


def kind_lines(card: dict[str, Any]) -> list[str]:
    """What reinforcement learning did to every task that it looked after, and to those of their kinds of problems that lost.

    The worst come first; then which weights remain.
    """
    done = card["stages"].get("rl", {})
    if "kinds" not in done:  # a run of before kinds were measured
        return []
    found = [Change(**kind) for kind in done["kinds"]]
    lost = [change for change in found if change.kind and (change.fell or change.difference < -change.standard_error)]
    lost.sort(key=lambda change: (not change.fell, change.difference / change.standard_error))
    lost = lost[: max(WORST, sum(change.fell for change in lost))]
    rows = []
    for change in [*(change for change in found if not change.kind), *lost]:
        kind = f": {literal(shorten(change.kind, KIND_LETTERS, placeholder=' ...'))}" if change.kind else ""
        difference = f"{change.difference:+.3f} ± {change.standard_error:.3f}"
        numbers = [str(change.examples), f"{change.before:.3f}", f"{change.after:.3f}", difference]
        rows.append([f"{change.task}{kind}", *numbers, "fell" * change.fell])
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
    if not any(change.fell for change in found):
        lines += [
            "No kind fell by more than chance explains, given how many were looked at; below the tasks stand those that lost most."
        ]
    return [*lines, f"rl/done.json has the other {len(found) - len(rows)} kinds too.", ""]
