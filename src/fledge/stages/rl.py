"""`fledge rl`: improve a chat model on one task by its own graded answers (GRPO, see train/rollouts.py).

Each step draws prompts, samples a group of answers to each, and grades them. The loss is the mean over the sampled tokens of
advantage x negative log-likelihood. The answers come from the newest weights, so the importance ratio is 1 and nothing needs
clipping. `replay_tokens` adds conversations to each step, so that what the reward does not ask for is not forgotten (Ouyang et
al. 2022, arXiv:2203.02155, mix in text).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from fledge import console
from fledge.config import Rl, check
from fledge.folder import open_stage
from fledge.origin import data_of, hash_of, origin_of
from fledge.runs import metrics
from fledge.tasks import find_task
from fledge.tasks.base import Task
from fledge.tasks.mixture import open_chats

if TYPE_CHECKING:
    from fledge.train.batches import Cursor, Row
    from fledge.train.loop import Batch


STUCK_STEPS = 10
"""After so many steps in a row with nothing to learn from we no longer believe that one will come."""


def prepare(config: Rl) -> Task:
    """The task; what is misspelt, missing or too small is found here, before torch is loaded."""
    check(config)
    found = find_task(config.task)
    task = replace(found, load=cache(found.load))  # read once: to be counted, hashed and asked
    if (count := len(examples := task.load("train"))) < config.prompts:
        raise ValueError(f"task {task.name} has {count} training examples, fewer than prompts={config.prompts}")
    if (form := examples[0].form) != "chat":
        raise ValueError(
            f"task {task.name} is scored by the likelihood of its choices (form {form}), and rl rewards answers; "
            "choose a task that is answered freely, such as gsm8k"
        )
    return task


def main(config: Rl) -> None:
    """Reinforce a chat model on one task."""
    task = prepare(config)
    from fledge.checkpoint import load_pair
    from fledge.evals.score import Scorer
    from fledge.text.conversations import Chats
    from fledge.train.batches import conversation_rows, in_background
    from fledge.train.converse import those_that_fit
    from fledge.train.loop import due
    from fledge.train.rollouts import Rollouts, describe
    from fledge.train.session import Session, resolved

    run = Path(config.run)
    model, tokenizer = load_pair(run, config.start)
    config = resolved(config)
    replayed = data_of(run / config.start) if config.replay_tokens else ""
    origin = origin_of(config, known={"examples": hash_of(task.load("train"))})
    with open_stage(config, origin) as stage:
        session = Session(stage, config, model)
        rollouts = Rollouts(model, tokenizer, task, config)
        console.say(
            f"rl: {config.steps} steps of {config.prompts} prompts x {config.samples} answers on {task.name}, from {config.start}"
        )

        def chats(cursor: Cursor | None) -> Iterator[Row]:
            # Another seed than fine-tuning's, or an endless source would begin with the same conversations.
            conversations = open_chats(replayed, stage="sft", seed=config.seed + 1)
            if isinstance(conversations, Chats):
                conversations = those_that_fit(conversations, tokenizer, length=rollouts.length)
            rows = conversation_rows(conversations, tokenizer, length=rollouts.length, cursor=cursor, seed=config.seed)
            return in_background(rows, ahead=rollouts.replayed)

        def batches(cursor: Cursor | None) -> Iterator[Batch]:
            first, place = (cursor["step"], cursor["chats"]) if cursor else (0, None)
            return rollouts.batches(
                first=first, chats=chats(place) if rollouts.replayed else None, device=session.device
            )

        def accuracy() -> dict[str, float]:
            score = Scorer(model, tokenizer).score(task, split="validation", limit=config.eval_examples)
            return {"validation": score.accuracy, "validation_standard_error": score.standard_error}

        before = accuracy()
        for done in session.train(
            batches, steps=config.steps, micro=rollouts.micro, also=lambda: describe(rollouts.groups)
        ):
            if (flat := flat_steps(stage.path)) == STUCK_STEPS:
                raise ValueError(nothing_learned(task.name, flat))
            if config.eval_every and due(done, config.eval_every, config.steps):
                session.log(done, **accuracy())
        if flat_steps(stage.path) == config.steps:
            console.say(nothing_learned(task.name, config.steps))
        session.finish(task=task.name, steps=config.steps, before=before, after=accuracy())


def flat_steps(folder: Path) -> int:
    """How many steps before now, in a row, had no group of answers with different rewards."""
    shares = [line["flat_groups_share"] for line in metrics(folder) if "flat_groups_share" in line]
    return sum(1 for _ in takewhile(lambda share: share == 1, reversed(shares)))


def nothing_learned(task: str, steps: int) -> str:
    return (
        f"rl: in {steps} steps in a row all answers to each prompt of {task} earned the same: nothing can be learned. "
        "Take more --samples, a higher --temperature, an easier --task, or a --start that is right now and then"
    )
