"""Settings as a stage uses them: what is None or auto is derived from the model, the data and the machine; and a step's shape.

config = resolved(config)                        # nothing is None that can be derived
shape = Shape.of(config, length=config.context)  # 4 passes of 8 rows of 256 tokens are a step
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from fledge import checkpoint, ranks
from fledge.config import BATCH_TOKENS, Dtype, Midtrain, OptimSettings, Pretrain, Rl, RowStage, TrainStage
from fledge.model import device as machine
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import begun, stage_name
from fledge.settings import check_multiple, shares_of
from fledge.tasks import find_task
from fledge.tasks.mixture import are_own
from fledge.text.tokenizer import Tokenizer
from fledge.train import scaling
from fledge.train.memory import fitting

CPU_TOKENS = 4096
"""Tokens of a forward pass on a CPU: more are no faster there."""
CPU_ROLLOUT_TOKENS = 16_384
"""Of rollouts, which are far shorter than the context that they are counted with."""
T = TypeVar("T", bound=TrainStage)


def resolved(config: T, *, vocab: int | None = None, base: Pretrain | None = None) -> T:
    """The settings with everything derived that was None or auto. What depends on a model whose shape nobody knows yet, because
    the run has no tokenizer or no weights to start from, stays None.

    Args:
        vocab: of the tokenizer, where the run has none yet.
        base: resolved settings of the pretraining before this stage, where the run has none yet.
    """
    device = machine.find_device(config.device)
    dtype = str(machine.find_dtype(_dtype(config), device)).removeprefix("torch.")
    given: dict[str, Any] = {"device": str(device), "dtype": dtype, "threads": machine.threads(config.threads)}
    given["ranks"] = ranks.count() if ranks.count() > 1 else config.ranks
    if isinstance(config, RowStage) and config.compile == "auto":
        given["compile"] = "yes" if machine.can_compile(device) else "no"
    if isinstance(config, Midtrain) and not are_own(config.data):  # how many those are is known once they are read
        given["batch_tokens"] = config.batch_tokens or BATCH_TOKENS
        given["tokens"] = config.tokens or config.most_tokens
    if isinstance(config, Midtrain) and config.eval_every is None:
        tokens, batch = (given.get(name, getattr(config, name)) for name in ("tokens", "batch_tokens"))
        if not any(map(are_own, shares_of(config.data))):
            given["eval_every"] = 0  # nothing of them is held out
        elif tokens and batch:
            given["eval_every"] = max(1, tokens // batch // 10)
    if isinstance(config, Rl) and config.beside is None:
        given["beside"] = ",".join(find_task(config.task).beside)
    if isinstance(config, Pretrain):
        given["model"] = config.model.resolved()
    if (shape := _model_of(config, vocab, base)) is None:
        return replace(config, **given)
    with torch.device("meta"):  # counts without memory
        model = Transformer(shape)
    if isinstance(config, Pretrain):
        counts, flops = model.parameter_counts(), model.flops_per_token()
        given |= dialled(config, parameters=counts["matrix"] + counts["unembedding"], rows=shape.rows, flops=flops)
    else:
        given["optim"] = later_rates(replace(config, **given), base)
    if isinstance(config, Midtrain):
        given["context"] = config.context or shape.context
    # Rollouts are not compiled, as their shapes differ.
    compiled = given.get("compile", getattr(config, "compile", "no")) == "yes"
    cut = _cut(config, shape, length=given.get("context", shape.context), device=device, compiled=compiled)
    return replace(config, **given, **cut)


def _dtype(config: TrainStage) -> Dtype:
    """The precision asked for; of a stage that goes on its own, since another try of `auto` may find the other quicker."""
    path = Path(config.run) / stage_name(config)
    if config.dtype == "auto" and not config.fresh and (path / "config.json").exists():
        return begun(path)["settings"].get("dtype", "auto")
    return config.dtype


def _cut(
    config: TrainStage, shape: ModelConfig, *, length: int, device: torch.device, compiled: bool
) -> dict[str, Any]:
    """Tokens of a forward pass and what is computed twice: on a GPU by its free memory, on a CPU what is quickest."""
    rows = max(1, config.device_tokens // length) if config.device_tokens else None
    wanted = None if config.recompute == "auto" else config.recompute
    if device.type == "cuda":
        free = min(ranks.gather(torch.cuda.mem_get_info(device)[0]))  # ranks cut a step alike
        limits = {"free_bytes": free, "compiled": compiled, "shards": shards_of(config)}
        rows, wanted = fitting(shape, length=length, rows=rows, recompute=wanted, **limits)
    most = CPU_ROLLOUT_TOKENS if isinstance(config, Rl) else CPU_TOKENS
    tokens = config.device_tokens or length * (rows or max(1, most // length))
    return {"device_tokens": tokens, "recompute": wanted or "no"}


def shards_of(config: TrainStage) -> int:
    """How many parts the weights are in: one for each rank of a machine, where that is asked for."""
    return ranks.here()[1] if isinstance(config, RowStage) and config.shard and ranks.count() > 1 else 1


def dialled(config: Pretrain, *, parameters: int, rows: int, flops: float) -> dict[str, Any]:
    """Settings of a pretraining that follow from its depth: tokens, batch, rates, decay and schedule (scaling.py).

    Args:
        parameters: of the matrices and the unembedding.
        rows: of the unembedding.
        flops: of a token.
    """
    asked = max(1, round(config.flops / flops)) if config.flops else config.tokens
    # Of a training by the clock too: its batch must not depend on its speed, and how many steps there will be is open.
    tokens = asked or round(config.ratio * parameters)
    reference = scaling.reference_tokens(ratio=config.ratio, rows=rows)
    batch = config.batch_tokens or scaling.batch_tokens(tokens, reference=reference, context=config.model.context)
    steps = max(1, round(tokens / batch))
    laws = {
        "batch_scale": scaling.rate_scale(batch),
        "decay_scale": scaling.decay_scale(batch, tokens=tokens, reference=reference),
        "warmup": scaling.WARMUP if config.minutes else scaling.warmup(steps),
        "warmdown": scaling.WARMDOWN,
        "final_share": scaling.FINAL_SHARE,
    }
    found = {"batch_tokens": batch, "optim": _where_none(config.optim, laws)}
    if config.minutes:
        return found
    return found | {
        "tokens": tokens,
        "eval_every": max(1, steps // 10) if config.eval_every is None else config.eval_every,
    }


def later_rates(config: TrainStage, base: Pretrain | None) -> OptimSettings:
    """Rates and schedule of a stage after pretraining: in a smaller batch than that had, they are smaller by the same law."""
    path = Path(config.run) / "pretrain"
    was = asdict(base) if base else begun(path)["settings"] if (path / "config.json").exists() else {}
    scale, batch = was.get("optim", {}).get("batch_scale", 1.0), was.get("batch_tokens")
    laws = {"decay_scale": 1.0, "warmup": 0.0, "warmdown": 0.4, "final_share": 0.0, "batch_scale": scale}
    if isinstance(config, RowStage) and scale and batch:
        known = config.batch_tokens  # of own conversations once they are read
        laws["batch_scale"] = scale * min(1.0, scaling.rate_scale(known, at=batch)) if known else None
    return _where_none(config.optim, laws)


def _where_none(settings: OptimSettings, laws: Mapping[str, float | None]) -> OptimSettings:
    return replace(settings, **{name: law for name, law in laws.items() if getattr(settings, name) is None})  # pyright: ignore[reportArgumentType]


def _model_of(config: TrainStage, vocab: int | None, base: Pretrain | None) -> ModelConfig | None:
    """The shape of the model that a stage trains; None where nothing says it."""
    run = Path(config.run)
    if not isinstance(config, Pretrain):
        found = checkpoint.load_config(run / config.start)  # pyright: ignore[reportAttributeAccessIssue]
        return found or (ModelConfig.of(base.model, vocab=vocab) if base and vocab else None)
    if (run / "tokenizer" / "tokenizer.json").exists():
        vocab = Tokenizer.load(run / "tokenizer").vocab
    return ModelConfig.of(config.model, vocab=vocab) if vocab else None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many rows make a step, how they are cut into forward passes, and how many steps there are."""

    length: int
    """Targets of a row."""
    rows: int
    """Rows per forward pass."""
    micro: int
    """Passes per step."""
    total: int
    """Rows per step, of all ranks."""
    steps: int
    """0: as many as a time holds."""

    @classmethod
    def of(cls, config: Pretrain | Midtrain, *, length: int) -> Shape:
        """The shape for the settings of a stage. `device_tokens` only cuts a step, it does not change what is in it.

        Raises:
            ValueError: batch_tokens is not a multiple of the row's length, or has fewer rows than there are ranks.
        """
        batch_tokens = config.batch_tokens or BATCH_TOKENS
        check_multiple(batch_tokens, "context", length)
        total = batch_tokens // length
        if total < ranks.count():
            raise ValueError(
                f"batch_tokens={batch_tokens} are {total} rows of {length}, fewer than {ranks.count()} ranks; "
                f"give --batch-tokens {ranks.count() * length} or more, or at most {total} ranks"
            )
        each = -(-total // ranks.count())
        rows = max(1, min(config.device_tokens or batch_tokens, each * length) // length)
        while each % rows:  # every pass has the same shape: it is compiled once
            rows -= 1
        steps = max(1, round(config.tokens / batch_tokens)) if config.tokens else 0
        return cls(length=length, rows=rows, micro=each // rows, total=total, steps=steps)

    def halved(self) -> Shape:
        """The same step in passes of half the rows, or of the most below that into which it divides."""
        total = self.rows * self.micro
        rows = next(rows for rows in range(max(1, self.rows // 2), 0, -1) if total % rows == 0)
        return replace(self, rows=rows, micro=total // rows)

    @property
    def tokens(self) -> int:
        """Targets of a step, padding included."""
        return self.length * self.total

    def __str__(self) -> str:
        many = f"{ranks.count()} ranks x " * (ranks.count() > 1)
        cut = f"{many}{self.micro} x {self.rows} rows of {self.length}"
        return f"{self.steps or 'as many'} steps of {self.tokens:,} tokens ({cut})"
