"""A stage in training: resumes it, walks the loop, logs, saves on time and before it is stopped.

    session = Session(stage, config, model)
    for step in session.train(batches, plan):        # batches: cursor or None -> iterator of Batch
        if due(step.index, every, plan.steps):
            session.log(step, val_bits_per_byte=...)
    session.finish()

A checkpoint is written about once a minute, at the end, and on Ctrl-C or SIGTERM, always before the stage's `for` body sees
the step, so that an evaluation that fails loses nothing. Where checkpoints fall does not change the weights.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import torch

from fledge import checkpoint, console
from fledge.config import TrainStage
from fledge.model import device as machine
from fledge.model.transformer import Transformer
from fledge.runs import StageFolder
from fledge.train.loop import Batch, Plan, Step, nll_sum, train
from fledge.train.optim import build

SAVE_SECONDS = 60.0
Batches = Callable[[dict[str, Any] | None], Iterator[Batch]]


class Session:
    """Model, optimizer and run folder of one stage that trains."""

    def __init__(self, stage: StageFolder, config: TrainStage, model: Transformer) -> None:
        self.stage, self.config = stage, config
        self.device = machine.find_device(config.device)
        machine.threads(config.threads)
        self.model = model.to(self.device)
        self.model.compute_dtype = machine.find_dtype(config.dtype, self.device)
        share = config.optim.rate_share
        self.optimizer = build(self.model, config.optim)
        for group in self.optimizer.param_groups:
            group["base_rate"] *= share
        self.seconds: dict[str, float] = {}
        """Where the time went so far: data, forward, backward, optimizer, save, other."""
        self.cursor: dict[str, Any] = {}
        """Where the data stands after the last step."""

    def micro(self, rows_tokens: int) -> tuple[int, int]:
        """Rows per forward pass and passes per step, for rows of `rows_tokens` tokens."""
        device_tokens = self.config.device_tokens or self._most_tokens(rows_tokens)
        rows = max(1, min(device_tokens, self.config.batch_tokens) // rows_tokens)
        total = max(1, self.config.batch_tokens // rows_tokens)
        while total % rows:
            rows -= 1
        return rows, total // rows

    def _most_tokens(self, row: int) -> int:
        """Tokens per pass that fit: a power of two of rows by an estimate of memory; modest on a CPU.

        Per token 22 bytes per layer and channel for activations and 6 per vocabulary entry for logits; 16 per parameter.
        Never tried on a GPU by us.
        """
        if self.device.type != "cuda":
            return max(row, 4096)
        free, _ = torch.cuda.mem_get_info(self.device)
        config = self.model.config
        each = 22 * config.width * config.layers + 6 * config.rows
        states = 16 * sum(p.numel() for p in self.model.parameters())
        fit = max(1, int((0.85 * free - states) / each) // row)
        return row * (1 << (fit.bit_length() - 1))

    def plan(self, steps: int, micro: int) -> Plan:
        """The loop's plan for the settings of the stage."""
        optim = self.config.optim
        return Plan(
            steps=steps,
            micro=micro,
            warmup=optim.warmup,
            warmdown=optim.warmdown,
            final_share=optim.final_share,
            clip=optim.clip,
        )

    def train(self, batches: Batches, plan: Plan, *, fixed_shapes: bool = True) -> Iterator[Step]:
        """The loop's steps from the last checkpoint on; batches of varying shape are not worth compiling for."""
        progress = checkpoint.resume(self.stage.path, self.model, self.optimizer) or checkpoint.Progress(0)
        self.seconds = dict(progress.notes.get("seconds", {}))
        self.stage.rewind(progress.step)
        if progress.step:
            console.say(f"{self.stage.name}: goes on from step {progress.step} of {plan.steps}")
        loss = machine.compiled(nll_sum, self.device, wanted=self.config.compile if fixed_shapes else "no")
        self.cursor = progress.cursor
        source = batches(progress.cursor or None)
        saved = ended = time.perf_counter()
        with (
            stopped_gently() as stopped,
            console.Live(self.stage.name, total=plan.steps, done=progress.step) as self.live,
        ):
            for step in train(self.model, self.optimizer, source, plan, start=progress.step, loss=loss):
                self.cursor = step.cursor
                self._count(step)
                self.stage.log(step=step.index + 1, **self._numbers(step))
                self.live.show(
                    step.index + 1, f"loss {step.loss_nats:.3f} · {step.tokens / step.seconds:,.0f} tokens/s"
                )
                last, now = step.index + 1 == plan.steps, time.perf_counter()
                every = self.config.save_every
                wanted = (step.index + 1) % every == 0 if every else now - saved > SAVE_SECONDS
                if last or wanted or stopped:
                    self.save(step)
                    saved = time.perf_counter()
                if stopped:
                    raise KeyboardInterrupt(f"{self.stage.name} is saved at step {step.index + 1} of {plan.steps}")
                ended = time.perf_counter()
                yield step
                self._add("other", time.perf_counter() - ended)
            if stopped:  # while the stage was at work after its last step
                raise KeyboardInterrupt(f"{self.stage.name} is saved at step {plan.steps} of {plan.steps}")
        self.model.eval()

    def save(self, step: Step) -> None:
        """Write a checkpoint as of `step`."""
        began = time.perf_counter()
        progress = checkpoint.Progress(step.index + 1, step.cursor, {"seconds": self.seconds})
        checkpoint.save(self.stage.path, self.model, self.optimizer, progress, keep=self.config.keep)
        self._add("save", time.perf_counter() - began)

    def log(self, step: Step, **values: Any) -> None:
        """Add measurements of a step to the metrics, and show them."""
        self.stage.log(step=step.index + 1, **values)
        shown = " · ".join(f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float))
        console.say(f"{self.stage.name} step {step.index + 1}: {shown}")

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
            # The first pass through a compiled function is compilation, not work.
            first = self.config.compile != "no" and name in ("forward", "backward") and not self.seconds.get(name)
            self._add("compile" if first and value > 5.0 else name, value)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def _numbers(self, step: Step) -> dict[str, float]:
        peak = machine.peak_flops(self.device)
        speed = step.tokens / step.seconds
        mfu = {"mfu_share": speed * self.model.flops_per_token() / peak} if peak else {}
        return {
            "loss_nats": step.loss_nats,
            "gradient_norm": step.gradient_norm,
            "rate_share": step.rate_share,
            "tokens": step.tokens,
            "tokens_per_second": speed,
            "seconds": step.seconds,
        } | mfu


class Stopped:
    """Truthy once the user asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextlib.contextmanager
def stopped_gently() -> Iterator[Stopped]:
    """Within, the first Ctrl-C or SIGTERM is noted and the step in progress finishes; the second one stops at once."""
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stopped.asked:
            raise KeyboardInterrupt
        stopped.asked = True
        console.say("stopping after this step; once more to stop at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def model_settings_to_config(settings: Any, vocab: int) -> Any:
    """ModelConfig of the settings, everything that is None derived from the depth."""
    from fledge.model.transformer import ModelConfig

    given = {name: getattr(settings, name) for name in ("width", "heads", "kv_heads") if getattr(settings, name)}
    base = ModelConfig.from_depth(settings.depth, vocab=vocab, context=settings.context, head=settings.head_channels)
    if "width" in given and "heads" not in given:
        given["heads"] = max(1, given["width"] // settings.head_channels)
    given.setdefault("kv_heads", given.get("heads", base.kv_heads))
    return replace(base, **given, smear=settings.smear, key_filter=settings.key_filter, windows=settings.windows)
