"""CORE: 22 tasks asked of a base model by examples in the prompt (Li et al. 2024, DCLM, arXiv:2406.11794).

    bundle = open_bundle("data/eval_bundle.zip")              # or the unpacked folder
    report = evaluate_core(scorer, bundle, limit=500)
    report.core, report.standard_error, report.tasks["hellaswag"].accuracy

Every choice below is that of the public reference (karpathy/nanochat, `core_eval.py`), so that numbers compare with published
ones: items shuffled by Random(1337), `limit` cuts the shuffled list before the examples of a prompt are drawn from it by
Random(1234 + index), whitespace, what counts as the answer, mean loss per token of an option, the first of equals. The only
liberties: where an item's prompt has fewer neighbours than shots, all of them are shown (the reference stops there), and all
prompts of a task go through the model together (likelihood.py), with the same answers as one at a time.
"""

from __future__ import annotations

import json
import random
import statistics
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fledge.evals.likelihood import Likelihood, Row, common_prefix, likelihoods
from fledge.evals.score import SHUFFLE_SEED, Score, Scorer, mean_and_error
from fledge.tasks.base import centered

Kind = Literal["choice", "schema", "text"]
Version = Literal["v1", "v2"]
SHOT_SEED = 1234
BATCH_TOKENS = 2**21
"""Prompt tokens prepared at a time; bounds memory."""
UNLIKE_V2 = {"commonsense_qa": 0.403, "agi_eval_lsat_ar": 0.25, "bigbench_language_identification": 0.25}
"""Where DCLM's baselines of September 2025 (`eval_meta_data.csv`, "v2") differ from v1, which the published scores use."""


@dataclass(frozen=True)
class CoreTask:
    """One of the 22.

    kind: `choice` asks for the likeliest of several endings of one text, `schema` for the likeliest of several beginnings of one
    ending, `text` for exactly this ending, each token the likeliest.
    """

    label: str
    file: str
    kind: Kind
    shots: int
    chance: float = 0.0
    delimiter: str = " "
    """Between question and answer."""

    @property
    def chance_v2(self) -> float:
        """The baseline of version 2."""
        return UNLIKE_V2.get(self.label, self.chance)


ANSWER = "\nAnswer: "
TASKS = (
    CoreTask("hellaswag_zeroshot", "language_understanding/hellaswag.jsonl", "choice", 0, 0.25),
    CoreTask("jeopardy", "world_knowledge/jeopardy_all.jsonl", "text", 10, delimiter=ANSWER),
    CoreTask("bigbench_qa_wikidata", "world_knowledge/bigbench_qa_wikidata.jsonl", "text", 10),
    CoreTask("arc_easy", "world_knowledge/arc_easy.jsonl", "choice", 10, 0.25, ANSWER),
    CoreTask("arc_challenge", "world_knowledge/arc_challenge.jsonl", "choice", 10, 0.25, ANSWER),
    CoreTask("copa", "commonsense_reasoning/copa.jsonl", "choice", 0, 0.5),
    CoreTask("commonsense_qa", "commonsense_reasoning/commonsense_qa.jsonl", "choice", 10, 0.2),
    CoreTask("piqa", "commonsense_reasoning/piqa.jsonl", "choice", 10, 0.5, ANSWER),
    CoreTask("openbook_qa", "commonsense_reasoning/openbook_qa.jsonl", "choice", 0, 0.25),
    CoreTask("lambada_openai", "language_understanding/lambada_openai.jsonl", "text", 0),
    CoreTask("hellaswag", "language_understanding/hellaswag.jsonl", "choice", 10, 0.25),
    CoreTask("winograd", "language_understanding/winograd_wsc.jsonl", "schema", 0, 0.5),
    CoreTask("winogrande", "language_understanding/winogrande.jsonl", "schema", 0, 0.5),
    CoreTask("bigbench_dyck_languages", "symbolic_problem_solving/bigbench_dyck_languages.jsonl", "text", 10),
    CoreTask("agi_eval_lsat_ar", "symbolic_problem_solving/agi_eval_lsat_ar.jsonl", "choice", 3, 0.2),
    CoreTask("bigbench_cs_algorithms", "symbolic_problem_solving/bigbench_cs_algorithms.jsonl", "text", 10),
    CoreTask("bigbench_operators", "symbolic_problem_solving/bigbench_operators.jsonl", "text", 10),
    CoreTask("bigbench_repeat_copy_logic", "symbolic_problem_solving/bigbench_repeat_copy_logic.jsonl", "text", 10),
    CoreTask("squad", "reading_comprehension/squad.jsonl", "text", 10),
    CoreTask("coqa", "reading_comprehension/coqa.jsonl", "text", 0),
    CoreTask("boolq", "reading_comprehension/boolq.jsonl", "choice", 10, 0.62, ANSWER),
    CoreTask(
        "bigbench_language_identification",
        "language_understanding/bigbench_language_identification.jsonl",
        "choice",
        10,
        0.091,
    ),
)
"""As in the bundle's core.yaml and eval_meta_data.csv; a test compares them."""

Item = Mapping[str, Any]
FIELDS: dict[Kind, tuple[str, ...]] = {
    "choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "text": ("context", "continuation"),
}


@dataclass(frozen=True, kw_only=True)
class CoreScore:
    """What a model reached on one of the tasks."""

    accuracy: float
    standard_error: float
    examples: int
    centered: float
    centered_v2: float
    seconds: float
    halvings: int = 0


@dataclass(frozen=True, kw_only=True)
class CoreReport:
    """CORE and what it is made of."""

    tasks: dict[str, CoreScore]
    core: float
    """Mean of the centered accuracies, with the baselines of v1: comparable with published scores when `tasks` has all 22."""
    core_v2: float
    standard_error: float
    """Of `core`, from those of the tasks, which are independent of each other (hellaswag's two are not, quite)."""

    def metrics(self) -> dict[str, float]:
        """For metrics.jsonl: `core`, `core_v2`, `core_standard_error`, and `core/<task>` accuracies."""
        accuracies = {f"core/{label}": score.accuracy for label, score in self.tasks.items()}
        return {"core": self.core, "core_v2": self.core_v2, "core_standard_error": self.standard_error, **accuracies}

    def scores(self) -> list[Score]:
        """In the form of other tasks' scores: `core` (whose accuracy is the mean centered one), `core_v2`, `core/<task>`."""
        count, error = sum(score.examples for score in self.tasks.values()), self.standard_error
        seconds = sum(score.seconds for score in self.tasks.values())
        chances = {task.label: task.chance for task in TASKS}
        return [
            Score(task="core", accuracy=self.core, standard_error=error, examples=count, chance=0.0, seconds=seconds),
            Score(task="core_v2", accuracy=self.core_v2, standard_error=error, examples=count, chance=0.0, seconds=0.0),
            *(
                Score(
                    task=f"core/{label}",
                    accuracy=score.accuracy,
                    standard_error=score.standard_error,
                    examples=score.examples,
                    chance=chances[label],
                    seconds=score.seconds,
                    halvings=score.halvings,
                )
                for label, score in self.tasks.items()
            ),
        ]


def core_metric(accuracies: Mapping[str, float], *, version: Version = "v1") -> float:
    """Mean centered accuracy over the tasks named; 0 for guessing, 1 for perfect."""
    return statistics.fmean(
        centered(accuracies[task.label], task.chance if version == "v1" else task.chance_v2)
        for task in TASKS
        if task.label in accuracies
    )


def open_bundle(place: str | Path) -> Callable[[CoreTask], list[Item]]:
    """A function that reads a task's items.

    Args:
        place: eval_bundle.zip, the unpacked folder, or a folder that holds one of them.

    Raises:
        FileNotFoundError: there is neither, or a task's file is missing.
        ValueError: the zip is damaged; of the function: a line is not an item of its task.
    """
    place = Path(place)
    found = next((path for path in (place / "eval_bundle", place / "eval_bundle.zip", place) if path.exists()), place)
    zipped = found.suffix == ".zip" and found.is_file()

    def read(task: CoreTask) -> list[Item]:
        if zipped:
            with zipfile.ZipFile(found) as archive:
                text = archive.read(f"eval_bundle/eval_data/{task.file}").decode("utf-8")
        else:
            text = (found / "eval_data" / task.file).read_text(encoding="utf-8")
        lines = enumerate(text.split("\n"), 1)
        items = [_item(line, task, f"{found}: {task.file} line {number}") for number, line in lines if line.strip()]
        if not items:
            raise ValueError(f"{found}: {task.file} holds no item; fetch the bundle again")
        return items

    if not zipped and not (found / "eval_data").is_dir():
        raise FileNotFoundError(
            f"{place}: no CORE bundle; expected eval_bundle.zip or a folder eval_bundle with eval_data/ inside"
        )
    files = {task.file for task in TASKS}
    if zipped:
        try:
            with zipfile.ZipFile(found) as archive:
                names = {name.removeprefix("eval_bundle/eval_data/") for name in archive.namelist()}
        except zipfile.BadZipFile as error:
            raise ValueError(f"{found}: {error}; it is damaged, delete it and fetch it again") from None
    else:
        names = {file for file in files if (found / "eval_data" / file).is_file()}
    if missing := sorted(files - names):
        raise FileNotFoundError(f"{found}: {len(missing)} of CORE's files are missing: {', '.join(missing[:3])} ...")
    return read


def _item(line: str, task: CoreTask, where: str) -> Item:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}); fetch the bundle again") from None
    if not isinstance(item, dict) or any(name not in item for name in FIELDS[task.kind]):
        raise ValueError(f"{where}: an object with {', '.join(FIELDS[task.kind])} expected; fetch the bundle again")
    return item


def evaluate_core(
    scorer: Scorer,
    bundle: Callable[[CoreTask], list[Item]],
    *,
    limit: int | None = None,
    tasks: Sequence[CoreTask] = TASKS,
    report: Callable[[str, CoreScore], None] = lambda label, score: None,
) -> CoreReport:
    """Ask all tasks.

    Args:
        limit: items per task, the first of the seeded shuffle; the examples in their prompts come from among them, as in the
            reference.
        report: told each task's score as soon as it is known.
    """
    scores = {}
    for task in tasks:
        begin = time.perf_counter()
        items = shuffled(bundle(task), limit)
        outcomes, halvings = ask(scorer, task, items)
        scorer.write(f"core/{task.label}", outcomes)
        accuracy, error = mean_and_error([outcome["correct"] for outcome in outcomes])
        scores[task.label] = CoreScore(
            accuracy=accuracy,
            standard_error=error,
            examples=len(outcomes),
            centered=centered(accuracy, task.chance),
            centered_v2=centered(accuracy, task.chance_v2),
            seconds=time.perf_counter() - begin,
            halvings=halvings,
        )
        report(task.label, scores[task.label])
    errors = [scores[task.label].standard_error / (1 - task.chance) for task in tasks]
    return CoreReport(
        tasks=scores,
        core=statistics.fmean(score.centered for score in scores.values()),
        core_v2=statistics.fmean(score.centered_v2 for score in scores.values()),
        standard_error=sum(error**2 for error in errors) ** 0.5 / len(errors),
    )


def shuffled(items: Sequence[Item], limit: int | None) -> list[Item]:
    """The items in the order of the reference, cut to the first `limit`."""
    items = list(items)
    random.Random(SHUFFLE_SEED).shuffle(items)
    return items if limit is None else items[:limit]


def ask(
    scorer: Scorer, task: CoreTask, items: Sequence[Item], *, count: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """One record per item (index in the shuffled list, what the model chose, whether that is right), and halvings of batches.

    Args:
        count: ask only the first so many; the examples in their prompts still come from all of `items`.
    """
    records: list[dict[str, Any]] = []
    halvings = 0
    waiting: list[tuple[int, list[Row]]] = []

    def flush() -> int:
        rows = [row for _, rows in waiting for row in rows]
        judged = likelihoods(scorer.model, rows, device_tokens=scorer.device_tokens)
        rest = iter(judged.rows)
        for index, own in waiting:
            records.append(outcome(task, items[index], index, [next(rest) for _ in own]))
        waiting.clear()
        return judged.halvings

    tokens = 0
    for index in range(len(items) if count is None else min(count, len(items))):
        waiting.append((index, item_rows(scorer, task, items, index)))
        tokens += sum(len(row.ids) for row in waiting[-1][1])
        if tokens >= BATCH_TOKENS:
            halvings, tokens = halvings + flush(), 0
    return records, halvings + flush()


def item_rows(scorer: Scorer, task: CoreTask, items: Sequence[Item], index: int) -> list[Row]:
    """The rows the model has to judge to answer an item."""
    tokenizer, most = scorer.tokenizer, getattr(scorer.model, "max_tokens", None)
    texts = prompts(task, items[index], shots(task, items, index))
    bos = tokenizer.special["<|bos|>"]
    ids = [[bos, *tokenizer.encode(text)] for text in texts]
    if task.kind == "schema":  # different beginnings, one ending
        same = min(common_prefix(ids[0][::-1], other[::-1]) for other in ids)
        rows = [(each, len(each) - same) for each in ids]
    else:
        same = min(common_prefix(ids[0], other) for other in ids)
        rows = [(each, same) for each in ids]
    if task.kind == "text":  # the first text is the prompt alone
        rows = rows[1:]
    return [crop(each, start, most) for each, start in rows]


def crop(ids: list[int], start: int, most: int | None) -> Row:
    """The last `most` tokens, for models that can see no more; answers longer than that lose their beginning."""
    cut = max(0, len(ids) - most) if most is not None else 0
    return Row(ids[cut:], max(1, start - cut))


def shots(task: CoreTask, items: Sequence[Item], index: int) -> list[Item]:
    """The solved examples shown before item `index`: drawn from all others, or all of them where they are too few."""
    others = [number for number in range(len(items)) if number != index]
    drawn = random.Random(SHOT_SEED + index).sample(others, min(task.shots, len(others)))
    return [items[number] for number in drawn]


def prompts(task: CoreTask, item: Item, solved: Sequence[Item]) -> list[str]:
    """The texts of an item: one per option; for kind `text` the prompt alone and the prompt with its answer."""
    join = task.delimiter
    if task.kind == "choice":
        before = "".join(f"{one['query']}{join}{one['choices'][one['gold']]}\n\n" for one in solved)
        return [f"{before}{item['query']}{join}{choice}" for choice in item["choices"]]
    if task.kind == "schema":
        before = "".join(f"{one['context_options'][one['gold']]}{join}{one['continuation']}\n\n" for one in solved)
        return [f"{before}{context}{join}{item['continuation']}" for context in item["context_options"]]
    before = "".join(f"{one['context'].strip()}{join}{one['continuation']}\n\n" for one in solved)
    prompt = f"{before}{item['context'].strip()}{join}"
    # Without its last blank the prompt is a prefix of the whole also in tokens: " Paris" is one token, " " another.
    return [prompt.strip(), f"{prompt}{item['continuation']}"]


def outcome(task: CoreTask, item: Item, index: int, judged: Sequence[Likelihood]) -> dict[str, Any]:
    """What the model answered, as a JSON record."""
    totals = [round(likelihood.total, 6) for likelihood in judged]
    if task.kind == "text":
        right = judged[0].is_greedy
        return {"index": index, "expected": item["continuation"], "correct": float(right), "log_likelihoods": totals}
    losses = [likelihood.mean_loss for likelihood in judged]
    choice = losses.index(min(losses))
    return {
        "index": index,
        "choice": choice,
        "expected": item["gold"],
        "correct": float(choice == item["gold"]),
        "log_likelihoods": totals,
        "tokens": [len(likelihood.logprobs) for likelihood in judged],
    }
