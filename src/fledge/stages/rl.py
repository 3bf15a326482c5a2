"""`fledge rl`: improve a chat model on one task by its own graded answers (GRPO, see train/rollouts.py).

Each step draws prompts, samples a group of answers to each, and grades them; what is cut off or made up a tool's result earns
nothing. The loss is the mean over the sampled tokens of advantage x negative log-likelihood, weighed as train/policy.py says.
`replay_tokens` adds conversations to each step, so that what the reward does not ask for is not forgotten (Ouyang et
al. 2022, arXiv:2203.02155, mix in text). And what it broke all the same is left out: every kind of problem is measured on the way
(evals/kinds.py), and the weights that remain are the best of those at which none had fallen, those of the start among them.
Nothing here looks at the test split: `fledge evaluate` asks it once, in the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge import console, ranks
from fledge.config import Rl, Sampling, check
from fledge.evals.kinds import Change, Checks, choose, compare
from fledge.folder import open_stage
from fledge.origin import data_of, hash_of, origin_of
from fledge.runs import metrics, summary
from fledge.settings import NothingLearned
from fledge.tasks import find_task, find_tasks, gradable
from fledge.tasks.base import Task, freely
from fledge.tasks.identity import identities
from fledge.tasks.mixture import open_chats

if TYPE_CHECKING:
    from fledge.train.batches import Cursor, Row
    from fledge.train.loop import Batch
    from fledge.train.session import Session


STUCK_STEPS = 5
"""After so many steps in a row with nothing to learn from we no longer believe that one will come."""
WORDS = {
    "reward": "reward {:.3f}",
    "answer_tokens": "{:.0f} tokens each",
    "entropy_nats": "entropy {:.2f}",
    "cut_share": "{:.0%} cut off",
    "tool_calls": "{:.1f} calls",
}
"""What stands on the live line, and how."""


def prepare(config: Rl) -> list[Task]:
    """The task, and those beside it; what is misspelt, missing or too small is found here, before torch is loaded."""
    check(config)
    found = {config.task: find_task(config.task)}
    found |= beside(config, found[config.task])
    # Read once: to be hashed and asked.
    task, *others = (replace(each, load=cache(each.load)) for each in (freely(found.pop(config.task)), *found.values()))
    if (count := len(examples := task.load("train"))) < config.prompts:
        raise ValueError(
            f"task {task.name} has {count} training examples, fewer than prompts={config.prompts}; give --prompts {count} or "
            "fewer, or more questions (of your own one in five is held out for test, one in five for validation)"
        )
    if (form := examples[0].form) != "chat":
        raise ValueError(
            f"task {task.name} is scored by the likelihood of its choices (form {form}), and rl rewards answers; "
            "choose a task that is answered freely, such as gsm8k"
        )
    for each in (task, *others):
        each.examples("validation")
    return [task, *others]


def beside(config: Rl, task: Task) -> dict[str, Task]:
    """The tasks that must not suffer; where the sandbox does not hold, of those that nobody named without those that need it."""
    if config.beside is not None:
        return find_tasks(config.beside)
    own = []
    with suppress(FileNotFoundError):  # own data may be gone
        own = identities(data_of(Path(config.run) / config.start))  # who it is then
    named = [name for name in (*task.beside, *map(str, own)) if not (own and name.endswith("/identity"))]
    return gradable(map(find_task, named), otherwise="not looked after")


def main(config: Rl) -> dict[str, Any]:
    """Reinforce a chat model on one task; returns what done.json says, and an exit code of 6 where no step had anything to teach.

    Raises:
        NothingLearned: so many steps in a row had not that no other is taken.
    """
    tasks = prepare(config)
    task = tasks[0]
    from fledge.checkpoint import load_pair
    from fledge.evals.score import Scorer
    from fledge.train.batches import conversation_rows, in_background
    from fledge.train.converse import fitted
    from fledge.train.loop import due
    from fledge.train.resolve import resolved
    from fledge.train.rollouts import Rollouts
    from fledge.train.session import Session

    run = Path(config.run)
    model, tokenizer = load_pair(run, config.start)
    config = resolved(config)
    replayed = data_of(run / config.start) if config.replay_tokens else ""
    known = {
        "examples": hash_of(task.load("train")),
        "held-out examples": hash_of(example for each in tasks for example in each.load("validation")),
    }
    origin = origin_of(config, known=known)
    with open_stage(config, origin) as stage:
        session = Session(stage, config, model)
        rollouts = Rollouts(model, tokenizer, task, config)
        console.say(
            f"rl: {config.steps} steps of {config.prompts} prompts x {config.samples} answers on {task.name}, from {config.start}"
        )

        def chats(cursor: Cursor | None) -> Iterator[Row]:
            # Another seed than fine-tuning's, or an endless source would begin with the same conversations.
            conversations = open_chats(replayed, stage="sft", seed=config.seed + 1, skip_bad=True)
            conversations, _ = fitted(conversations, tokenizer, length=rollouts.length, skip_bad=True)
            rows = conversation_rows(conversations, tokenizer, length=rollouts.length, cursor=cursor, seed=config.seed)
            return in_background(rows, ahead=rollouts.replayed)

        def batches(cursor: Cursor | None) -> Iterator[Batch]:
            at = cursor or {"step": 0, "chats": None}
            talks = chats(at["chats"]) if rollouts.replayed else None
            return rollouts.batches(first=at["step"], begun=at.get("rollouts"), chats=talks, device=session.device)

        def told() -> dict[str, Any]:
            words = [form.format(rollouts.numbers[name]) for name, form in WORDS.items()]
            return {**rollouts.numbers, "samples": [rollouts.transcript()], "told": " · ".join(words)}

        began = time.perf_counter()
        checks = Checks(tasks, Scorer(model, tokenizer), examples=config.eval_examples, each=config.eval_each)
        choice = Choice(session, checks, config)
        session.seconds["other"] += time.perf_counter() - began
        for done in session.train(batches, steps=config.steps, micro=rollouts.micro, also=told):
            if flat := flat_steps(stage.path):
                console.say(f"rl step {done}: {nothing_learned(task.name, flat)}")
                if flat == STUCK_STEPS:
                    raise NothingLearned(nothing_learned(task.name, flat))
            if due(done, config.eval_every, config.steps):
                choice.measure(done)
                show_sample(stage.path, done)
        session.save(config.steps)  # with what the last measurement led to
        session.finish(task=task.name, steps=config.steps, **choice.summary(config.steps))
    return {"exit_code": 6 * (flat_steps(stage.path) == config.steps)} | summary(stage.path)


class Choice:
    """Which of the weights on the way remain: those of the start, until others are better and no kind of problem has fallen.

    All that it depends on is in the session's notes and kept weights, and so in each checkpoint. A step measured again, as the
    one is at which a stage is resumed, leads to the same.
    """

    def __init__(self, session: Session, checks: Checks, config: Rl) -> None:
        self.session, self.checks, self.examples = session, checks, config.pass_examples
        [task, _], *_ = checks.chosen
        self.task = task.name
        self.way = Sampling(
            max_tokens=min(config.max_tokens, task.max_tokens),
            temperature=config.temperature,
            top_k=config.top_k,
            seed=config.seed,
        )
        self.before, self.pass_before = checks.grades(), self._pass_at()
        session.keep_these()

    def _pass_at(self) -> dict[str, float]:
        return self.checks.pass_at(self.way, examples=self.examples) if self.examples else {}

    @property
    def measured(self) -> dict[int, list[Change]]:
        """The changes of all kinds, by the steps after which they were measured."""
        rows = self.session.notes.get("measured", {})
        return {int(step): [Change(**row) for row in found] for step, found in rows.items()}

    def measure(self, done: int) -> None:
        """Measure the weights of this moment, log them, and keep them if they are the best so far."""
        found = compare(self.checks.kinds(), self.before, self.checks.grades())
        chances = self._pass_at()
        for name, value in (("measured", [*map(asdict, found)]), ("pass_at", chances)):
            self.session.notes[name] = self.session.notes.get(name, {}) | {str(done): value}
        self.session.stage.log(step=done, **{each.name: each.after for each in found})
        own, fallen = found[0], [each for each in found if each.fell]
        gain = {"validation_gain": own.difference, "validation_gain_error": own.standard_error}
        gain |= {f"pass_at_{k}": chance for k, chance in chances.items()}
        self.session.log(done, validation=own.after, **gain, fallen_kinds=len(fallen))
        if fallen:
            console.say(f"rl step {done}: more than chance lost {'; '.join(map(str, fallen))}")
        if choose(self.measured, task=self.task) == done:
            self.session.keep_these()

    def summary(self, steps: int) -> dict[str, Any]:
        """For done.json and the report; says in a line which weights remain."""
        measured = self.measured
        kept = choose(measured, task=self.task)
        fallen = {step: [asdict(each) for each in found if each.fell] for step, found in measured.items()}
        fallen = {step: found for step, found in fallen.items() if found}
        harm = f"; some kind of problem had fallen after step {', '.join(map(str, fallen))}" if fallen else ""
        if kept:
            console.say(f"rl: the weights of step {kept} remain, {measured[kept][0]}{harm}")
        else:
            advice = '. Lower --optim.rate-share, or look at the task alone (--beside "")' * bool(fallen)
            console.say(f"rl: the weights of the start remain, none measured was better and harmless{harm}{advice}")
        # Where the start's remain, the last of those left out show why.
        shown = kept or steps
        pass_at = {"before": self.pass_before, "after": self.session.notes["pass_at"][str(shown)]}
        kinds = [*map(asdict, measured[shown])]
        return {"kept_step": kept, "shown_step": shown, "kinds": kinds, "fallen": fallen, "pass_at": pass_at}


def show_sample(folder: Path, step: int) -> None:
    """Print a question of a step and the best and the worst of its answers."""
    for sample in (each for line in metrics(folder) if line["step"] == step for each in line.get("samples", ())):
        console.say(f"  {sample['asked']}")
        for answer in sample["answers"]:
            console.say(f"  > {answer['text'].strip()} (earned {answer['reward']})")


def flat_steps(folder: Path) -> int:
    """How many steps before now, in a row, had no group of answers with different rewards; as the first rank has written it.

    Where every answer earned 1 the reward is learned, which is no reason to give up what it led to.
    """
    lines = [line for line in metrics(folder) if "learned_groups" in line]
    flat = sum(1 for _ in takewhile(lambda line: line["learned_groups"] == 0 and line["reward"] < 1, reversed(lines)))
    return int(ranks.sum_of([flat if ranks.is_first() else 0])[0])


def nothing_learned(task: str, steps: int) -> str:
    return (
        f"in {steps} step{'s in a row' * (steps > 1)} all answers to each prompt of {task} earned the same: nothing can be "
        "learned. Take more --samples, a higher --temperature, an easier --task, or a --start that is right now and then"
    )
