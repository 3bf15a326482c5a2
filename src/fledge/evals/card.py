"""A report card in words: its Markdown, the tables in it, and the badges of its page.

text = markdown(card, list(drawn))             # `card`: evals/report.py gathers it; evals/page.py publishes
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

from fledge import console
from fledge.evals.grades import ARTICLE, GPT2_CORE, GRADES, RANKS, is_part
from fledge.evals.page import flat, images, literal, paragraphs, table
from fledge.evals.reinforcement import course_lines, kind_lines
from fledge.evals.results import Cost

REWORDED = "_reworded"
"""Ends the name of a task that asks another's questions in other words."""
PARTS = ("data", "forward", "backward", "optimizer", "communication", "compile", "save", "other")
Table = tuple[list[str], list[list[str]]]
"""Columns and rows."""


def summary_rows(card: dict[str, Any], *, errors: bool = True) -> Table:
    """The table of metrics: a row per task, a column per stage, the grade last."""

    def cell(score: dict[str, Any] | None) -> str:
        error = f" ± {score['standard_error']:.3f}" if score and errors else ""
        return f"{score['accuracy']:.3f}{error}" if score else ""

    scores = card["scores"]
    rows = [
        [task, *(cell(found.get(task)) for found in scores.values()), subject["grade"]]
        for task, subject in sorted(card["subjects"].items(), key=lambda each: is_part(each[0]))
    ]
    return ["subject", *scores, "grade"], rows


def article_rows(card: dict[str, Any]) -> Table:
    """nanochat's table: a row per metric, a column per stage, then guessing and the published model."""
    stages = list(card["scores"])
    rows = []
    for task, row in card["article"].items():
        label, published = ARTICLE[task]
        cells = [
            f"{row[stage]['accuracy']:.4f} ± {row[stage]['standard_error']:.4f}" if stage in row else ""
            for stage in stages
        ]
        chance = next(iter(row.values()))["chance"]
        rows.append([label, *cells, f"{chance:.2f}", f"{published:.4f}"])
    return ["metric", *(stage.upper() for stage in stages), "guessing", "nanochat d20"], rows


def answer_rows(card: dict[str, Any]) -> Table:
    """What the answers of own conversations cost: a row for each file and stage."""
    found = [
        (name, stage, Cost(**cost)) for stage, costs in card["answers"].items() for name, cost in sorted(costs.items())
    ]
    rows = [[name, stage, f"{c.bits_per_byte:.3f} ± {c.standard_error:.3f}", c.scored] for name, stage, c in found]
    return ["conversations", "stage", "bits per byte", "scored"], rows


def level_lines(card: dict[str, Any]) -> list[str]:
    """A line per stage that brought something."""
    lines = []
    for level in card["level_ups"]:
        first = dict.fromkeys(task.removeprefix("world/").removesuffix(REWORDED) for task in level["first"])
        brought = [f"above chance for the first time: {', '.join(first)}"] if first else []
        brought += [f"{each['task']} {each['before']} → {each['after']}" for each in level["changed"]]
        lines += [f"- **{level['stage']}:** {'; '.join(brought)}"] if brought else []
    return lines


def time_rows(card: dict[str, Any]) -> Table:
    """Where the minutes go: a row per stage, a column per part of the work, in seconds; and dollars, if an hour has a price."""
    hourly, rows = card["hourly_cost"], []
    there = [part for part in PARTS if any(part in stage.get("seconds", {}) for stage in card["stages"].values())]
    for name, seconds in [*card["seconds"].items(), ("all", card["total_seconds"])]:
        parts = card["stages"].get(name, {}).get("seconds", {})
        cost = [] if hourly is None else [f"${seconds / 3600 * hourly:.2f}"]
        rows.append([name, *(f"{parts[part]:.1f}" if part in parts else "" for part in there), f"{seconds:.1f}", *cost])
    return ["stage", *there, "in all", *([] if hourly is None else ["cost"])], rows


def facts(card: dict[str, Any]) -> dict[str, str]:
    """The head of the report, name -> text."""
    origin, machine = card["provenance"], card["provenance"]["machine"]
    found = {
        "rank": f"{card['rank']['title']} ({card['rank']['points']} of 1000 points): {card['rank']['rule']}",
        "time": console.duration(card["total_seconds"]),
    }
    if card["cost_dollars"] is not None:
        found["cost"] = f"${card['cost_dollars']}"
    threads = f"{machine.get('threads', '')} thread{'s' * (machine.get('threads') != 1)}"
    found["machine"] = f"{machine.get('name', '')}, {threads}, torch {machine.get('torch', '')}"
    if pretrain := card["stages"].get("pretrain"):
        found["parameters"] = f"{pretrain['parameters']['total']:,}"
        speed = card["speed"]
        found["pretraining"] = (
            f"{pretrain['tokens']:,} tokens, {speed['flops']:.2e} FLOPs, {speed['tokens_per_second']:,.0f} tokens/s, "
            f"{speed['teraflops']:.3g} TFLOP/s" + (f", MFU {speed['mfu_share']:.3f}" if speed["mfu_share"] else "")
        )
        found["most memory"] = f"{pretrain['peak_memory_bytes'] / 1e9:.1f} GB in pretraining"
        found["bits per byte"] = f"{pretrain['val_bits_per_byte']:.4f} on held-out text (hash {pretrain['held_out']})"
    if card["isolation"]:
        found["sandbox"] = f"walls around code that the model wrote: {card['isolation'].replace('+', ', ')}"
    if card["changed_since"]:
        found["changed since"] = "; ".join(card["changed_since"])
    if card["next"]:
        found["the next $100"] = card["next"]
    found["commit"] = f"{origin['commit'][:12]}, started {origin['started']}, seed {origin['seed']}"
    found["tokenizer"] = f"hash {str(origin['tokenizer_hash'])[:16]}"
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
            costs.append(changed.replace(" by ", " "))
    return [*found, *([f"It cost elsewhere: {', '.join(costs)}."] if costs else [])]


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
    lines = paragraphs(f"# Report card: {card['run']}", [f"- **{name}:** {text}" for name, text in facts(card).items()])
    if card["article"]:
        published = "nanochat d20: as published, its last stage, 561M parameters for about $100."
        lines += paragraphs(
            "## The article's table", table(*article_rows(card)), f"{published} GPT-2's CORE is {GPT2_CORE}."
        )
    if card["subjects"]:
        titles = [f"{title} from {1000 * bar:.0f} points" if bar > 0 else title for bar, title in RANKS[::-1]]
        lines += paragraphs(
            "## Subjects",
            table(*summary_rows(card)),
            f"Accuracy ± standard error on held-out examples. Grades, centered by chance, from: {bars}.",
        )
        if any(task.endswith(REWORDED) for task in card["subjects"]):
            lines += paragraphs(
                f"What ends in `{REWORDED}` is asked in words that training never used; other rows hold out names and numbers."
            )
        lines += paragraphs(f"Ranks: {', '.join(titles)}.")
    if card["answers"]:
        note = "What their answers cost: no accuracy, lower is better, and no part of grades or rank."
        lines += paragraphs("## Own conversations", table(*answer_rows(card), numbers=False), note)
    if brought := level_lines(card):
        lines += paragraphs("## What each stage brought", brought, "By more than two standard errors.")
    lines += [*remarks(card), *sentences(card), "", *course_lines(card), *kind_lines(card)]
    lines += paragraphs("## Where the time went, in seconds", table(*time_rows(card)))
    if drawn:
        lines += paragraphs("## Plots", images(drawn))
    if found := card["stages"].get("pretrain", {}).get("samples"):
        lines += paragraphs("## What the base model writes", "Behind the beginning in bold, which it was given.")
        for sample in found:
            begun = f"**{literal(sample['prompt'].strip())}** " if sample["prompt"].strip() else ""
            text = literal(sample["text"].strip()).replace("\n", "  \n> ")
            lines += paragraphs(f"> {begun}{text}")
    if card["conversations"]:
        note = "The first question of a few subjects, as it was answered."
        lines += paragraphs("## What the chat model answers", note, table(*conversation_rows(card), numbers=False))
    if card["suggestions"]:
        note = "A chat proposes what the likeliest answer gets right, and 19 of 20 that are drawn as in a chat."
        lines += paragraphs("## What it may be asked", table(*suggestion_rows(card), numbers=False), note)
    return "\n".join(lines)


def verdict(correct: float | None) -> str:
    """A grade in a word."""
    return "not judged" if correct is None else "yes" if correct else "no"


def conversation_rows(card: dict[str, Any]) -> Table:
    """Questions and answers, each on one line."""
    rows = [[c["task"], flat(c["asked"]), flat(c["answer"]), verdict(c["correct"])] for c in card["conversations"]]
    return ["subject", "asked", "answered", "right"], rows


def suggestion_rows(card: dict[str, Any]) -> Table:
    """How often each conversation went right that a chat may propose."""
    rows = []
    for s in card["suggestions"]:
        asked, drawn = flat(" ... ".join(s["asked"])), f"{s['right']} of {s['drawn']}"
        rows.append([s["skill"], asked, verdict(s["likeliest"]), drawn, verdict(s["proposed"])])
    return ["skill", "asked", "likeliest answer right", "drawn ones right", "proposed"], rows


def badges(card: dict[str, Any]) -> str:
    """HTML that shows each subject's grade, name and score, and that in other words."""
    found, items = card["subjects"], []
    for task, subject in found.items():
        if not is_part(task) and not task.endswith(REWORDED):
            name = escape(task.removeprefix("world/").replace("_", " "))
            other = f" · {found[task + REWORDED]['accuracy']:.2f}" if task + REWORDED in found else ""
            grade, accuracy = subject["grade"], subject["accuracy"]
            items.append(f'<li class="{grade}"><b>{grade}</b><span>{name}</span><i>{accuracy:.2f}{other}</i></li>')
    note = "A second number is the score in other words." if any(REWORDED in task for task in found) else ""
    return f'<ul class="badges">{"".join(items)}</ul><p>{note}</p>'
