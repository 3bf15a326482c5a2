"""A stage in training: resumes it, walks the loop, logs, saves on time and before it is stopped.

    session, shape = Session(stage, config, model), Shape.of(config, length=config.context)      # train/resolve.py
    for done in session.train(batches, steps=shape.steps, micro=shape.micro):      # batches: cursor or None -> iterator of Batch
        if session.due(done, every):
            session.log(done, val_bits_per_byte=...)
    session.finish()

A checkpoint is made about once a minute, at the end, and when the process is asked to stop, always before the stage's `for`
body sees the step, so that an evaluation that fails loses nothing. Training waits while it is copied; a thread writes the copy, and
what it meets (a full disk) is raised after the next step. Only the last is waited for. A resumed stage begins with the body of
the step that it resumes at. So where checkpoints fall, and what stops a run between them, changes neither weights nor measurements.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fledge import checkpoint, console, endings, ranks
from fledge.config import Compile, RowStage, TrainStage
from fledge.folder import StageFolder
from fledge.model import device as machine
from fledge.model import head
from fledge.model.transformer import Transformer
from fledge.runs import metrics
from fledge.settings import DoesNotFit
from fledge.train.budget import CLOCKS, Budget, TimePlan
from fledge.train.estimate import Text, here
from fledge.train.loop import REMEDY, Batch, Loss, Plan, Step, due, train
from fledge.train.memory import Memory
from fledge.train.optim import build
from fledge.train.resolve import Shape, shards_of
from fledge.train.shared import checksum

SAVE_SECONDS, SAVE_SHARE = 60.0, 0.02
Batches = Callable[[dict[str, Any] | None], Iterator[Batch]]


def that_fits(shape: Shape, attempt: Callable[[Shape], None]) -> Shape:
    """The shape where a pass of it succeeds, on all ranks, else that of half the rows; says so.

    Raises:
        DoesNotFit: neither does.
    """
    for one in (shape, shape.halved()):
        why = ""
        try:
            attempt(one)
        except torch.OutOfMemoryError as error:
            why = str(error).split(". ")[0]
        if not ranks.any_of(bool(why)):
            return one
        told = why or "another rank has less"
        console.say(f"{one.rows} rows of {one.length} tokens per pass do not fit into memory after all: {told}")
    raise DoesNotFit(
        f"{shape.rows} and {shape.halved().rows} rows of {shape.length} tokens do not fit into memory. Is another program on "
        "this device? Else lower --device-tokens or --model.depth, or give --recompute block"
    )


def loss_of(model: Transformer, device: torch.device, wanted: Compile, *, shards: int) -> Loss:
    """`Transformer.nll_sum`, compiled where that is wanted. On a CPU the head apart, as it takes no more rows than count.

    A model of which each rank keeps one of several shards is divided here, after its optimizer was built.
    """
    if shards > 1:
        from fledge.train.sharded import shard

        return shard(model, device, compile=wanted)
    if device.type != "cpu":
        return machine.compiled(Transformer.nll_sum, device, wanted=wanted)
    hidden = machine.compiled(Transformer.hidden, device, wanted=wanted)
    return partial(Transformer.nll_sum, hidden=hidden, part=machine.compiled(head.nll_part, device, wanted=wanted))


def between(waited: float) -> float:
    """Seconds from one checkpoint to the next: as few as `SAVE_SECONDS`, of which waiting for it takes no more than its share."""
    return max(SAVE_SECONDS, waited / SAVE_SHARE)


class Session:
    """Model, optimizer and run folder of one stage that trains."""

    def __init__(self, stage: StageFolder, config: TrainStage, model: Transformer) -> None:
        self.stage, self.config = stage, config
        self.device = machine.find_device(config.device)
        machine.threads(config.threads)
        if self.device.type != "cpu":
            console.say(
                f"{stage.name}: on {self.device.type} the same training again agrees up to rounding, not to the bit"
            )
        shards = shards_of(config)
        self.model = model if shards > 1 else model.to(self.device)
        self.model.compute_dtype = machine.find_dtype(config.dtype, self.device)
        # Batches of rollouts differ in shape, and a shape is not worth compiling for one step.
        self.compile: Compile = config.compile if isinstance(config, RowStage) else "no"
        self.model.recompute = "no" if config.recompute == "auto" else config.recompute
        self.optimizer = build(self.model, config.optim)
        self.loss = loss_of(self.model, self.device, self.compile, shards=shards)
        if shards > 1:
            console.say(
                f"{stage.name}: each rank keeps one of {shards} shards of the weights; no samples are drawn from such"
            )
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Where the time went so far: data, forward, backward, optimizer, save, other."""
        self.done = self.steps = 0
        """Steps taken so far, and in all; where a budget of time ends the training they are not known before."""
        self.clock, minutes = CLOCKS[getattr(config, "clock", "wall")], getattr(config, "minutes", None)
        self.budget = Budget(seconds=60 * minutes, clock=self.clock) if minutes else None
        self.cursor: dict[str, Any] = {}
        """Where the data stands after the last step."""
        self.kept: checkpoint.Weights | None = None
        """The weights that the stage leaves, where it chooses: set before training, and again whenever others are better."""
        self.notes: dict[str, Any] = {}
        """What else checkpoints carry, as JSON: all that the stage's choice depends on."""
        self.writing: Future[Path] | None = None
        """The checkpoint that a thread writes."""
        self.saved = self.waited = 0.0
        """When the last one was made, and how many seconds training waited for it."""

    def foretell(self, tokens: int, texts: Sequence[Text] = ()) -> int:
        """Say about how long so many tokens will take, or how far a budget of time reaches, and how often that comes round texts.

        Returns:
            the tokens; 0 where nobody knows.
        """
        site, cost = here(self.device, self.model.compute_dtype, ranks=ranks.count()), self.model.flops_per_token()
        if self.budget:
            threads = torch.get_num_threads() if self.clock is time.process_time else 1
            tokens, told = site.reach(self.budget.seconds / threads, cost)
        else:
            told = site.told(tokens * cost)
        known = "".join(f"{text.told(tokens)}; " for text in texts if tokens)
        console.say(f"{self.stage.name}: {known}{told}")
        return tokens

    def tried(self, shape: Shape) -> Shape:
        """The shape once a pass of it was seen to fit on the GPU, or one of half the rows; what is compiled is compiled by it.

        Weights and data stay as they are.
        """

        def attempt(shape: Shape) -> None:
            # The optimizer makes these in its first step.
            held = torch.empty(averages, dtype=torch.uint8, device=self.device)
            ids = torch.zeros(shape.rows, shape.length, dtype=torch.long, device=self.device)
            weights = torch.zeros_like(ids, dtype=torch.float32)
            weights[:, :: 4 if getattr(self.config, "learn", "all") == "answers" else 1] = (
                1.0  # the head takes what counts
            )
            # Targets apart from inputs: what is compiled for one tensor in both places is compiled anew for two.
            self.loss(self.model.train(), ids, ids.clone(), weights).backward()
            del held

        averages, began = Memory.of(self.model.config, length=1, rows=1).optimizer, time.perf_counter()
        # Of weights in shards a rank without memory would leave the others waiting in the midst of the pass.
        pays = (self.device.type == "cuda" or self.compile != "no") and not self.model.whole
        try:
            return that_fits(shape, attempt) if pays else shape
        finally:
            self.model.zero_grad()
            if self.compile != "no":
                self.seconds["compile"] += time.perf_counter() - began

    def train(
        self, batches: Batches, *, steps: int, micro: int, also: Callable[[], dict[str, Any]] = dict
    ) -> Iterator[int]:
        """Steps done so far, from the last checkpoint on: `steps` in all, of `micro` batches each, or as many as the budget holds.

        also: more numbers of the step just done, for its line of the metrics; "told" stands on the live line in place of the loss.
        """
        self.steps = steps = sys.maxsize if self.budget else steps
        with ranks.first_alone():  # who renames what is damaged
            found = checkpoint.resume(
                self.stage.path, self.model, self.optimizer, steps=steps, keeps=self.kept is not None
            )
        progress = found or checkpoint.Progress(0)
        if progress.step and self.kept is not None:
            self.kept = checkpoint.load_model(self.stage.path).state_dict()
        self.notes = dict(progress.notes)
        for name, seconds in self.notes.get("seconds", {}).items():
            self.seconds[name] += seconds
        plan, end = self._plan(micro)
        self.stage.rewind(progress.step)
        self.cursor = progress.cursor
        source = batches(progress.cursor or None)
        self.done = done = progress.step
        live = console.Live(self.stage.name, total=100 if self.budget else steps, done=self._shown())
        with endings.gently() as asked, live, ThreadPoolExecutor(1) as thread:  # whose end waits for what it writes
            if done:
                console.say(f"{self.stage.name}: goes on from step {done} of {end}")
                yield from self._body(done)
            self.saved = time.perf_counter()

            def votes() -> tuple[bool, bool]:
                return asked.is_set, self._is_late()

            left = train(self.model, self.optimizer, source, plan, start=done, loss=self.loss, votes=votes)
            steps_taken = iter(()) if self.is_last(done) else left
            for step in self._sound(steps_taken, reached=done):
                self.cursor, self.done, more = step.cursor, step.index + 1, also()
                done, (stops, is_late) = self.done, step.votes
                self._count(step)
                self._written(wait=False)
                learns = more.pop("told", f"loss {step.loss_nats:.3f}")
                self.stage.log(step=done, **self._numbers(step), **more)
                live.show(self._shown(), f"{learns} · {step.tokens / step.seconds:,.0f} tokens/s")
                every = self.config.save_every
                last = self.is_last(done)
                if last or (done % every == 0 if every else is_late):
                    # A budget of processor seconds would count the thread's.
                    self.save(done, thread=None if last or self.clock is time.process_time else thread)
                if not stops:
                    yield from self._body(done)
                    # What a signal says during the body all ranks hear after the next step, or after the last.
                    stops = (last or ranks.count() == 1) and ranks.any_of(asked.is_set)
                if stops:  # a body that did not run does so after the resume
                    self.save(done)
                    raise KeyboardInterrupt(f"{self.stage.name} is saved at step {done} of {end}")
                if last:
                    break
        self.model.eval()

    def _plan(self, micro: int) -> tuple[Plan, str]:
        """The plan of all steps, and what ends it, in words; a resumed budget has spent what its checkpoint says."""
        optim = vars(self.config.optim)
        given = {one.name: optim[one.name] for one in fields(Plan) if optim.get(one.name) is not None}
        given |= {"steps": self.steps, "micro": micro, "clock": self.clock}
        if self.budget is None:
            return Plan(**given), str(self.steps)
        self.budget = replace(self.budget, **self.notes.get("budget", {}))
        return TimePlan(**given, budget=self.budget), console.duration(self.budget.seconds)

    def is_last(self, done: int) -> bool:
        """Whether the training ends with this step."""
        return self.budget.is_over() if self.budget else done == self.steps

    def due(self, done: int, every: int | None) -> bool:
        """Whether what happens every `every` steps, and after the last, happens now. None: after each tenth of the budget."""
        tenth = every is None and self.budget is not None and self.budget.passed(10)
        return tenth or due(done, every or 0, done if self.is_last(done) else 0)

    def _shown(self) -> int:
        """How far the training is: steps, or of a budget of time percent."""
        if self.budget is None:
            return self.done
        return 100 if self.budget.is_over() else int(100 * self.budget.spent / self.budget.seconds)

    def _sound(self, steps: Iterator[Step], *, reached: int) -> Iterator[Step]:
        """The steps, as long as the model is no worse than one that guesses, or than it was when the stage began.

        Raises:
            FloatingPointError: it is, or something is not finite. A checkpoint of the step that led there is removed.
        """
        guessing = math.log(self.model.config.vocab)
        first = [line["loss_nats"] for line in metrics(self.stage.path) if "loss_nats" in line][:1]
        try:
            for step in steps:
                # A base that never saw a conversation may begin worse than guessing, which no rate of this stage can change.
                first = first or [step.loss_nats]
                if isinstance(self.config, RowStage) and step.loss_nats > max(guessing, *first) + 1:
                    raise FloatingPointError(
                        f"step {step.index}: loss {step.loss_nats:.2f}, {first[0]:.2f} at the beginning; guessing has "
                        f"{guessing:.2f}. {REMEDY}"
                    )
                reached = step.index + 1
                yield step
        except FloatingPointError:
            self._written()
            checkpoint.remove(self.stage.path, reached)
            raise

    def _body(self, done: int) -> Iterator[int]:
        began = time.perf_counter()
        yield done
        self.seconds["other"] += time.perf_counter() - began

    def keep_these(self) -> None:
        """From now on the weights of this moment are those that the stage leaves."""
        self.kept = checkpoint.copy_of(checkpoint.weights_of(self.model))

    def save(self, done: int, *, thread: Executor | None = None) -> None:
        """Write a checkpoint as of `done` steps; in the thread, where one is given, while training goes on."""
        began = time.perf_counter()
        self._written()
        if ranks.count() > 1 and not self.model.whole:  # a broken card must not go unnoticed into the weights
            ranks.check_alike({f"weights after step {done}, by their checksum,": checksum(self.model.parameters())})
        notes = self.notes | {"seconds": dict(self.seconds)} | ({"budget": self.budget.state()} if self.budget else {})
        progress = checkpoint.Progress(done, self.cursor, notes, self.stage.made_from)
        of = self.stage.path, self.model, self.optimizer, progress
        write = checkpoint.copied(*of, keep=self.config.keep, kept=self.kept)
        if thread:
            self.writing = thread.submit(write)
        else:
            write()
        self.saved = time.perf_counter()
        self.waited = self.saved - began
        self.seconds["save"] += self.waited

    def _written(self, *, wait: bool = True) -> None:
        """Raise what the thread met that writes a checkpoint, if it is done, or once it is."""
        if self.writing and (wait or self.writing.done()):
            writing, self.writing = self.writing, None
            writing.result()

    def _is_late(self) -> bool:
        """Whether a checkpoint is due by the clock: that of the first rank, where it takes longest."""
        is_free = ranks.is_first() and self.writing is None
        return is_free and time.perf_counter() - self.saved > between(self.waited)

    def log(self, done: int, **values: Any) -> None:
        """Add measurements made after `done` steps to the metrics, and show them."""
        self.stage.log(step=done, **values)
        shown = " · ".join(f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float))
        console.say(f"{self.stage.name} step {done}: {shown}")

    def finish(self, **summary: Any) -> None:
        """Mark the stage as done, with where its time went."""
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        self.stage.finish(
            seconds=seconds,
            total_seconds=round(sum(seconds.values()), 3),
            peak_memory_bytes=machine.peak_memory_bytes(self.device),
            parameters=self.model.parameter_counts(),
            machine=machine.describe_machine(self.device),
            **summary,
        )

    def _count(self, step: Step) -> None:
        for name, value in step.parts.items():
            self.seconds[name] += value
        if self.budget:
            self.budget.book(step.seconds)

    def _numbers(self, step: Step) -> dict[str, float]:
        peak = machine.peak_flops(self.device)
        speed = step.tokens / step.seconds
        mfu = {"mfu_share": speed * self.model.flops_per_token() / (peak * ranks.count())} if peak else {}
        names = ("loss_nats", "gradient_norm", "rate_share", "tokens", "seconds")
        found = {"tokens_per_second": speed, "peak_memory_bytes": machine.peak_memory_bytes(self.device)}
        return {name: getattr(step, name) for name in names} | found | mfu


class Best:
    """Which weights remain: those at which what is held out costs the fewest bits. Checkpoints carry them through a resume."""

    def __init__(self, session: Session, name: str) -> None:
        """name: of the measurement that decides, in bits per byte."""
        self.session, self.name = session, name
        session.keep_these()

    def judge(self, done: int, values: dict[str, float]) -> None:
        """Log what was measured of the weights of this moment, and keep them if they are the best so far."""
        self.session.log(done, **values)
        if values[self.name] < self.session.notes.get("best", {}).get(self.name, math.inf):
            self.session.notes["best"] = {"kept_step": done, **values}
            self.session.keep_these()

    def summary(self, what: str) -> dict[str, Any]:
        """What was measured of the weights that remain, for done.json, of held-out text or answers; says in a line which these are.

        The model has them now, unless it is in shards.
        """
        best, session = self.session.notes["best"], self.session
        session.save(session.done)  # with what the last measurement led to
        console.say(
            f"{session.stage.name}: the weights of step {best['kept_step']} of {session.done} remain, with the fewest bits "
            f"per byte of held-out {what}: {best[self.name]:.3f}"
        )
        if session.kept and not session.model.whole:
            session.model.load_state_dict(session.kept)  # what samples are drawn from
        return best
