"""What scores are worth: grades, the rank and its par, what each stage brought, the table of the article.

subjects(scores)["world/facts"]["grade"]       # "A", of the last stage that was scored on it
rank(graded, flops=8.5e13, bits=1.87)          # a title, and the rule by which it was earned
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fledge.evals.results import Score, mean_score

Scores = Mapping[str, Mapping[str, Score]]
"""By stage and task."""
GRADES = ((0.95, "S"), (0.85, "A"), (0.70, "B"), (0.50, "C"), (0.25, "D"), (-math.inf, "F"))
RANKS = ((0.90, "falcon"), (0.75, "flyer"), (0.55, "fledgling"), (0.30, "nestling"), (-math.inf, "egg"))
PAR = ((1.2e12, 2.626), (8.5e13, 1.869), (4.33e19, 0.7483), (1.27e21, 0.7045))
"""FLOPs of pretraining and the bits per byte of held-out web text that they buy: two of ours (docs/why.md, docs/examples), and
the published ones of nanochat at depth 24 and 34, all without tricks for a benchmark."""
FLOOR = 0.5
"""Bits per byte that no compute buys off, at which the line through PAR is nearly straight."""
LEVELS = ((-3.0, 0.0), (-2.0, 0.30), (-1.0, 0.55), (0.0, 0.75), (1.0, 0.90), (2.0, 1.0))
"""Doublings of compute that a model is ahead of par, and what they count: with par's own compute it is a flyer."""
ARTICLE = {
    "core": ("CORE", 0.2219),
    "arc-easy": ("ARC-Easy", 0.3876),
    "arc-challenge": ("ARC-Challenge", 0.2807),
    "mmlu": ("MMLU", 0.3151),
    "gsm8k": ("GSM8K", 0.0758),
    "humaneval": ("HumanEval", 0.0854),
    "chatcore": ("ChatCORE", 0.0884),
}
"""Rows of nanochat's table, and what its $100 model of 561M parameters reached at its last stage (October 2025)."""
GPT2_CORE = 0.2565
CHATCORE = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval")
"""Tasks of ChatCORE: the mean of their scores, 0 for guessing."""


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


def is_part(task: str) -> bool:
    """Whether a task counts through another: CORE's 22 are one subject, and core_v2 is the same answers."""
    return task.startswith(("core/", "core_v2"))


def rank(graded: Mapping[str, Mapping[str, Any]], *, flops: float = 0.0, bits: float = 0.0) -> dict[str, Any]:
    """How far the model is on its way out of the nest.

    Args:
        graded: of `subjects`.
        flops: of pretraining on real text; 0: its text was generated, and what the model can do counts alone.
        bits: per byte of held-out text, after it.
    """
    if flops and bits:
        ahead = par_flops(bits) / flops
        doublings, counts = zip(*LEVELS, strict=True)
        share = float(np.interp(math.log2(ahead), doublings, counts))
        rule = f"models known here take {ahead:.2g} times its compute to the same bits per byte"
    else:
        centered = [max(0.0, subject["centered"]) for task, subject in graded.items() if not is_part(task)]
        share, rule = sum(centered) / max(1, len(centered)), "the mean of its subjects, 0 for guessing"
    title = next(title for bar, title in RANKS if share >= bar)
    return {"title": title, "mean": share, "points": round(1000 * share), "rule": rule}


def par_flops(bits: float) -> float:
    """FLOPs for which PAR has these bits per byte; infinite at FLOOR and below."""
    if bits <= FLOOR:
        return math.inf
    known = [(math.log(each - FLOOR), math.log(flops)) for flops, each in PAR]
    wanted = math.log(bits - FLOOR)
    place = next((place for place in range(1, len(known) - 1) if wanted >= known[place][0]), len(known) - 1)
    (x0, y0), (x1, y1) = known[place - 1], known[place]
    return math.exp(y0 + (wanted - x0) / (x1 - x0) * (y1 - y0))


def level_ups(scores: Scores) -> list[dict[str, Any]]:
    """What each stage brought: tasks above chance for the first time, and grades that rose or fell, by more than 2 errors."""
    found, known = [], dict[str, Score]()
    for stage, now in scores.items():
        first, changed = [], []
        for task, score in now.items():
            before = known.get(task)
            if before is None or not above_chance(before):
                first += [task] if above_chance(score) else []
            elif abs(score.accuracy - before.accuracy) > 2 * math.hypot(score.standard_error, before.standard_error):
                one, two = grade(before.centered), grade(score.centered)
                changed += [{"task": task, "before": one, "after": two}] if one != two else []
        known |= now
        found.append({"stage": stage, "first": first, "changed": changed})
    return found


def above_chance(score: Score) -> bool:
    """By more than 2 standard errors."""
    return score.accuracy - score.chance > 2 * score.standard_error


def article(scores: Scores) -> dict[str, dict[str, Score]]:
    """Of nanochat's table what was measured, by task and stage, ChatCORE where its tasks were; empty below two tasks."""
    with_mean = {
        stage: dict(found)
        | ({"chatcore": mean_score([found[task] for task in CHATCORE])} if found.keys() >= {*CHATCORE} else {})
        for stage, found in scores.items()
    }
    rows = {task: {stage: found[task] for stage, found in with_mean.items() if task in found} for task in ARTICLE}
    rows = {task: row for task, row in rows.items() if row}
    return rows if len(rows) > 1 else {}
