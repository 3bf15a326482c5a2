"""CORE: 22 tasks asked of a base model by examples in the prompt (Li et al. 2024, DCLM, arXiv:2406.11794).

    find_tasks("core")                        # all of them; their mean is the CORE metric (evals/results.py)
    find_task("core/hellaswag").load("test")

Every choice below is that of the public reference (karpathy/nanochat, `core_eval.py`), so that numbers compare with published
ones: items shuffled by Random(1337), a limit cuts the shuffled list before the examples of a prompt are drawn from it by
Random(1234 + index), whitespace, what counts as the answer, mean loss per token of an option, the first of equals. The only
liberty: where an item has fewer neighbours than shots, all of them are shown (the reference stops there).
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from fledge.tasks.base import SHUFFLE_SEED, Example, Task
from fledge.text.hub import locate_bundle
from fledge.text.records import Record, read_records
from fledge.text.split import Split

CHANCE_V2 = {"commonsense_qa": 0.403, "agi_eval_lsat_ar": 0.25, "bigbench_language_identification": 0.25}
"""Where DCLM's baselines of September 2025 (`eval_meta_data.csv`, "v2") differ from v1, which the published scores use."""
Kind = Literal["choice", "schema", "text"]


class Listed(NamedTuple):
    """A task as the bundle lists it.

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


ANSWER = "\nAnswer: "
LANGUAGES = "bigbench_language_identification"
LISTED = (
    Listed("hellaswag_zeroshot", "language_understanding/hellaswag.jsonl", "choice", 0, 0.25),
    Listed("jeopardy", "world_knowledge/jeopardy_all.jsonl", "text", 10, delimiter=ANSWER),
    Listed("bigbench_qa_wikidata", "world_knowledge/bigbench_qa_wikidata.jsonl", "text", 10),
    Listed("arc_easy", "world_knowledge/arc_easy.jsonl", "choice", 10, 0.25, ANSWER),
    Listed("arc_challenge", "world_knowledge/arc_challenge.jsonl", "choice", 10, 0.25, ANSWER),
    Listed("copa", "commonsense_reasoning/copa.jsonl", "choice", 0, 0.5),
    Listed("commonsense_qa", "commonsense_reasoning/commonsense_qa.jsonl", "choice", 10, 0.2),
    Listed("piqa", "commonsense_reasoning/piqa.jsonl", "choice", 10, 0.5, ANSWER),
    Listed("openbook_qa", "commonsense_reasoning/openbook_qa.jsonl", "choice", 0, 0.25),
    Listed("lambada_openai", "language_understanding/lambada_openai.jsonl", "text", 0),
    Listed("hellaswag", "language_understanding/hellaswag.jsonl", "choice", 10, 0.25),
    Listed("winograd", "language_understanding/winograd_wsc.jsonl", "schema", 0, 0.5),
    Listed("winogrande", "language_understanding/winogrande.jsonl", "schema", 0, 0.5),
    Listed("bigbench_dyck_languages", "symbolic_problem_solving/bigbench_dyck_languages.jsonl", "text", 10),
    Listed("agi_eval_lsat_ar", "symbolic_problem_solving/agi_eval_lsat_ar.jsonl", "choice", 3, 0.2),
    Listed("bigbench_cs_algorithms", "symbolic_problem_solving/bigbench_cs_algorithms.jsonl", "text", 10),
    Listed("bigbench_operators", "symbolic_problem_solving/bigbench_operators.jsonl", "text", 10),
    Listed("bigbench_repeat_copy_logic", "symbolic_problem_solving/bigbench_repeat_copy_logic.jsonl", "text", 10),
    Listed("squad", "reading_comprehension/squad.jsonl", "text", 10),
    Listed("coqa", "reading_comprehension/coqa.jsonl", "text", 0),
    Listed("boolq", "reading_comprehension/boolq.jsonl", "choice", 10, 0.62, ANSWER),
    Listed(LANGUAGES, f"language_understanding/{LANGUAGES}.jsonl", "choice", 10, 0.091),
)
"""As in the bundle's core.yaml and eval_meta_data.csv; a test compares them."""


def example(listed: Listed, item: Record) -> Example:
    """An item of the bundle as what is shown of it."""
    join = listed.delimiter
    if listed.kind == "choice":
        choices = item.texts("choices")
        return Example(prompt=item.text("query") + join, choices=choices, answer=item.place("gold", len(choices)))
    ending = (item.text("continuation"),)
    if listed.kind == "schema":
        beginnings = tuple(context + join for context in item.texts("context_options"))
        return Example(beginnings=beginnings, choices=ending, answer=item.place("gold", len(beginnings)))
    return Example(prompt=item.text("context").strip() + join, choices=ending, answer=0)


def read(listed: Listed, bundle: Path) -> list[Example]:
    """All examples of a task, in the order of the file.

    Args:
        bundle: eval_bundle.zip, or the folder in it.

    Raises:
        FileNotFoundError: the task's file is missing.
        ValueError: the zip is damaged, or a line is not an item of the task.
    """
    try:
        zipped = zipfile.Path(bundle, "eval_bundle/") if bundle.is_file() else bundle
    except zipfile.BadZipFile as error:
        raise ValueError(f"{bundle}: {error}; it is damaged, delete it and fetch it again") from None
    file = zipped / "eval_data" / listed.file
    if not file.is_file():
        raise FileNotFoundError(f"{bundle}: no eval_data/{listed.file}, so it is no whole CORE bundle; fetch it again")
    examples = [example(listed, item) for item in read_records(file)]
    if not examples:
        raise ValueError(f"{file}: holds no item; fetch the bundle again")
    return examples


def _task(listed: Listed) -> Task:
    def load(split: Split) -> Sequence[Example]:
        if split != "test":
            raise ValueError(f"core/{listed.label}: split {split!r} does not exist; allowed: test")
        examples = read(listed, locate_bundle())
        random.Random(SHUFFLE_SEED).shuffle(examples)
        return examples

    return Task(
        name=f"core/{listed.label}",
        load=load,
        chance=listed.chance,
        default_for=("base",),
        shots=listed.shots,
        per_token=True,
        shuffled=True,
    )


TASKS = tuple(map(_task, LISTED))
