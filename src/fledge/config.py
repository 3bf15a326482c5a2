"""Every setting of every stage. Nothing here imports torch, so that the command line answers at once.

    config = Pretrain(run="runs/mine", data="texts/", model=ModelSettings(depth=6))

One dial, `depth`, fixes the size; what is None is derived from it and printed. The docstring under a field is its help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from fledge.settings import bounded, check_bounds, check_multiple, help_of
from fledge.trackers import check_tracker

BATCH_TOKENS = 16_384
"""Of an optimizer step on conversations where nothing else is asked."""
Compile = Literal["auto", "yes", "no"]
Dtype = Literal["auto", "float32", "bfloat16"]
MatrixRule = Literal["muon", "adamw", "normuon"]
ToolName = Literal["calculator", "python", "none"]
Recompute = Literal["no", "mlp", "block"]
"""What a backward pass computes again instead of keeping it: nothing, every MLP, every block."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn: flags of `chat` and `serve`, fields of the API, commands of the terminal, the page's form."""

    temperature: float = bounded(0.6, 0.0, 2.0)
    """0: always the likeliest token; more: more varied."""
    top_k: int = bounded(50, 0, 1_000_000)
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: float = bounded(1.0, 0.0, 1.0)
    """Draw from the likeliest tokens that hold this share of the probability."""
    min_p: float = bounded(0.0, 0.0, 1.0)
    """Leave out tokens less likely than this share of the likeliest."""
    presence_penalty: float = bounded(0.0, -2.0, 2.0)
    """Taken from the logit of every token that the answer has: more says fewer things twice."""
    frequency_penalty: float = bounded(0.0, -2.0, 2.0)
    """The same, once for each time that the answer has it."""
    max_tokens: int = bounded(256, 1, 1_000_000)
    """Longest answer, in tokens."""
    seed: int | None = bounded(None, -(2**63), 2**63 - 1)
    """The same seed and settings give the same answer; without a seed every answer differs."""

    @classmethod
    def of(cls, config: Sampling) -> Self:
        """The part of a command's settings that is about sampling."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def nth(self, number: int) -> Self:
        """For answer `number` to the same question, counted from 0: each has a seed of its own."""
        return self if self.seed is None else replace(self, seed=self.seed + number)

    def table(self) -> list[dict[str, Any]]:
        """Name, type, default (as in `self`), low, high and help of every setting, for clients."""
        rows = []
        for name, declared in Sampling.__dataclass_fields__.items():
            kind = "integer" if isinstance(declared.metadata["low"], int) else "number"
            about = {"name": name, "type": kind, "default": getattr(self, name), **declared.metadata}
            limit = {"high": self.max_tokens} if name == "max_tokens" else {}  # clients may ask for less, not for more
            rows.append({**about, **limit, "help": help_of(Sampling)[name]})
        return rows


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Shape of the model."""

    depth: int = bounded(12, 1)
    """Layers. Width and heads follow from it, and so do tokens, batch, rates and schedule."""
    width: int | None = bounded(None, 1)
    """Channels of the residual stream. None: 64 per layer, in whole heads."""
    heads: int | None = bounded(None, 1)
    """Query heads. None: width / head_channels."""
    kv_heads: int | None = bounded(None, 1)
    """Key/value heads. None: as many as query heads."""
    head_channels: int = bounded(128, 1)
    """Channels per head where heads is None."""
    context: int = bounded(2048, 1)
    """Tokens of a training row."""
    smear: bool = False
    """Each embedding takes in a gated share of the previous one."""
    key_filter: bool = False
    """Keys are a learned two-tap filter over time."""
    value_embeddings: bool = False
    """Each layer adds a learned vector of the token itself to its value."""
    pairs: int = bounded(0, 0)
    """Rows of a table of pairs of neighbouring tokens: learned vectors that embedding and values take in. 0: none."""
    residual_scales: bool = False
    """Each layer reads a x + b x0: the stream and the embedding, by two numbers that it learns."""
    backout: bool = False
    """A learned share of the stream at half the depth is subtracted before the head."""
    qk_scale: float = 1.0
    """Multiplies queries and keys after their norm: more is sharper attention (nanochat: 1.2)."""
    rope_base: float = bounded(10_000.0, 1.0)
    """Base of the rotary positions' frequencies: more sees further (nanochat: 100,000)."""
    embedding_std: float = 1.0
    """What the embedding is drawn with; its rate stays (nanochat: .8)."""
    unembedding_std: float = 0.0
    """What the unembedding is drawn with (nanochat: .001)."""
    up_scale: float = 1.0
    """Multiplies what the first matrix of every MLP is drawn with (nanochat: .4)."""
    windows: str = "L"
    """Attention windows by layer, tiled: L whole context, S a quarter."""

    def resolved(self) -> ModelSettings:
        """The settings with width and heads derived where they are None."""
        width = self.width or self.head_channels * math.ceil(64 * self.depth / self.head_channels)
        heads = self.heads or max(1, width // self.head_channels)
        return replace(self, width=width, heads=heads, kv_heads=self.kv_heads or heads)


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Rates and rules of the optimizer."""

    matrices: MatrixRule = "muon"
    """Rule for the matrices of the blocks; the rest always uses AdamW. normuon: Muon whose neurons move equally far."""
    matrix_rate: float = 0.02
    """Rate of Muon."""
    adamw_matrix_rate: float = 1e-3
    """Rate of the matrices under AdamW, at width 768."""
    embedding_rate: float = 0.2
    """Rate of the embedding and, a tenth of it, of the table of pairs, at width 768."""
    unembedding_rate: float = 0.004
    """Rate of the unembedding, at width 768."""
    scalar_rate: float = 0.02
    """Rate of gates and scales."""
    filter_rate: float = 0.02
    """Rate of the key filter's taps."""
    residual_rate: float = 0.005
    """Rate of what multiplies a layer's stream (residual_scales)."""
    start_rate: float = 0.5
    """Rate of what multiplies the embedding that a layer adds (residual_scales). At full rates small steps want a tenth."""
    momentum: float = bounded(0.95, 0.0, 1.0)
    """Momentum of Muon."""
    beta1: float = bounded(0.8, 0.0, 1.0)
    """AdamW's average of gradients."""
    beta2: float = bounded(0.95, 0.0, 1.0)
    """AdamW's average of squared gradients."""
    weight_decay: float = 0.0
    """Decay of the matrices; under Muon only where the update agrees (cautious)."""
    clip: float = 1.0
    """Largest norm of the gradient of a step."""
    rate_share: float = 1.0
    """Multiplies every rate: later stages start lower."""
    batch_scale: float | None = bounded(None, 0.0)
    """Multiplies every rate too. None: root of batch_tokens / 2^19; later stages as pretraining, less if their batch is smaller."""
    decay_scale: float | None = bounded(None, 0.0)
    """Multiplies the decay. None: in pretraining for batch and tokens as against those of depth 12; later 1."""
    warmup: float | None = bounded(None, 0.0, 1.0)
    """Share of the steps in which the rates rise. None: 40 steps of pretraining, none later."""
    warmdown: float | None = bounded(None, 0.0, 1.0)
    """Share of the steps in which the rates fall. None: .65 in pretraining, .4 later."""
    final_share: float | None = bounded(None, 0.0, 1.0)
    """What the rates fall to, as a share of the base. None: .05 in pretraining, 0 later."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all stages share."""

    run: str = "runs/demo"
    """Folder of the run."""


@dataclass(frozen=True, kw_only=True)
class Made(Stage):
    """What the commands share that leave results in the run."""

    fresh: bool = False
    """Begin again. What a stage left is set aside until the new one is finished; an evaluation asks its tasks once more."""


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What the commands share that draw at random."""

    seed: int = 0
    """Seed of everything random."""


@dataclass(frozen=True, kw_only=True)
class Threaded:
    """What the commands share that keep processors busy."""

    threads: int | None = bounded(None, 1)
    """CPU threads. None: one per core. Results of different numbers agree up to rounding."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What the commands share that several processes can do together."""

    ranks: int = bounded(1, 1)
    """Processes: one per GPU; on a CPU they share the cores. Results agree up to rounding. Over machines: torchrun."""


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What the commands share that train."""

    log: Literal["no", "wandb", "trackio"] = "no"
    """Tell this program too what metrics.jsonl gets; it is an extra of the same name. no: the files alone."""


@dataclass(frozen=True, kw_only=True)
class Machine(Threaded):
    """What the commands with a model share."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True, kw_only=True)
class TrainStage(Seeded, Ranked, Tracked, Machine, Made):
    """What the stages that train share."""

    optim: OptimSettings = field(default_factory=OptimSettings)
    dtype: Dtype = "auto"
    """Type of the activations; weights are always float32."""
    device_tokens: int | None = bounded(None, 1)
    """Tokens per forward pass on one device, at least a row. None: the most that fits. Results agree up to rounding."""
    recompute: Literal["auto", Recompute] = "auto"
    """What is computed twice to save memory: no, mlp, block. auto: the least with which four rows fit."""
    save_every: int = 0
    """Steps between checkpoints. 0: about one a minute, or fewer, so that training waits for them 2 % of the time at most."""
    keep: int = bounded(2, 1)
    """Checkpoints kept."""


@dataclass(frozen=True, kw_only=True)
class RowStage(TrainStage):
    """What the stages share that learn from rows of text and conversations, all of one length."""

    batch_tokens: int | None = bounded(None, 1)
    """Tokens per step: rows x context, padding included. None: by the tokens; 16,384 or a tenth of an epoch of conversations."""
    shard: bool = False
    """Of several ranks each keeps a part of the weights alone (FSDP2): for models above what a card holds, slower for others."""
    compile: Compile = "auto"
    """Compile the model: about 1.4 times as fast, after half a minute; results agree up to rounding."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer(Seeded, Threaded, Made):
    """Train the BPE tokenizer."""

    data: str = "world"
    """world, a data set's name, or a folder or file of .parquet, .jsonl, .txt; or shares of these, as in texts/:1,climbmix:2."""
    column: str = "text"
    """Column or field that holds the text, in own files that have several."""
    vocab: int = bounded(32_768, 1)
    """Entries: 256 bytes, merges, and 9 special tokens."""
    max_chars: int | None = bounded(None, 1)
    """Characters to read. None: 2 billion, or 4 million of a world, which has no end."""
    doc_cap: int = bounded(10_000, 1)
    """Characters read of one document."""
    digits: Literal[1, 3] = 1
    """Most digits in one token: 1 as Qwen2, 3 as Llama 3."""


@dataclass(frozen=True, kw_only=True)
class Pretrain(RowStage):
    """Train a base model on text."""

    data: str = "world"
    """world, a data set's name, or a folder or file of .parquet, .jsonl, .txt; or shares of these, as in texts/:1,climbmix:2."""
    column: str = "text"
    """Column or field that holds the text, in own files that have several."""
    model: ModelSettings = field(default_factory=ModelSettings)
    tokens: int | None = bounded(None, 1)
    """Tokens to train on. None: `ratio` times the parameters of matrices and unembedding."""
    ratio: float = bounded(12.0, 0.001)
    """Tokens per parameter where tokens is None."""
    flops: float | None = bounded(None, 1.0)
    """Tokens for so many FLOPs instead, by what the model takes for one."""
    minutes: float | None = bounded(None, 0.001)
    """Train for so long instead: minutes of steps alone, without compilation, measurements and checkpoints."""
    clock: Literal["wall", "cpu"] = "wall"
    """What times the steps: wall, or cpu: processor time of all threads, for a machine that does other work too."""
    eval_every: int | None = None
    """Steps between measurements of held-out bits per byte. None: about ten in the run; 0: only at the end."""
    sample_every: int = 0
    """Steps between printed samples. 0: only at the end."""
    eval_tokens: int = 65_536
    """Most tokens of held-out text to measure."""


@dataclass(frozen=True, kw_only=True)
class Midtrain(RowStage):
    """Teach a base model conversations, multiple choice and tool use."""

    start: str = "pretrain"
    """Stage whose model to begin with."""
    data: str = "world"
    """world, chat (SmolTalk, MMLU, GSM8K, spelling, identity), own files; or shares of these and tasks: me.jsonl:2,gsm8k,world."""
    identity: str | None = None
    """Own file of who the assistant is (README): one conversation in 14, more beside few. Other shares: --data world,me.txt:0.2"""
    skip_bad: bool = False
    """Leave out of own conversations what cannot be learned from, however much it is; else 5 in 100 are the most."""
    tokens: int | None = bounded(None, 1)
    """Tokens of rows to train on. None: 1.7 million, or three epochs of own conversations where those are fewer."""
    most_tokens = 1_700_000
    learn: Literal["all", "answers"] = "all"
    """Learn every token, or only the assistant's."""
    replay: float = 0.25
    """Share of the rows that are text as in pretraining, so that what the model knew is not forgotten."""
    pair_dropout: float = bounded(0.2, 0.0, 1.0)
    """Of a model with a table of pairs: share of the places where it is not read, so that new wordings surprise less."""
    eval_every: int | None = None
    """Steps between measurements of held-out own conversations; the best weights remain. None: about ten; 0: only at the end."""
    context: int | None = bounded(None, 1)
    """Tokens of a row. None: the base model's."""


@dataclass(frozen=True, kw_only=True)
class Sft(Midtrain):
    """Fine-tune on clean answers, learning the assistant's words alone."""

    start: str = "midtrain"
    """Stage whose model to begin with."""
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(rate_share=0.3, warmdown=1.0))
    tokens: int | None = bounded(None, 1)
    """Tokens of rows to train on. None: a million, or three epochs of own conversations where those are fewer."""
    most_tokens = 1_000_000
    learn: Literal["all", "answers"] = "answers"
    """Learn every token, or only the assistant's."""
    replay: float = 0.0
    """Share of the rows that are text as in pretraining, so that what the model knew is not forgotten."""


@dataclass(frozen=True, kw_only=True)
class Rl(TrainStage):
    """Improve a chat model on one task by reinforcement learning (GRPO)."""

    start: str = "sft"
    """Stage whose model to begin with."""
    task: str = "world/problems_hard"
    """Task whose grader is the reward; or your own: sums.jsonl, quiz.jsonl, reward.py:grade."""
    steps: int = bounded(40, 1)
    """Optimizer steps."""
    prompts: int = bounded(16, 1)
    """Prompts per step."""
    samples: int = bounded(16, 1)
    """Answers sampled per prompt: the group whose mean reward is the baseline."""
    temperature: float = 1.0
    """Of the sampled answers."""
    top_k: int = 0
    """Of the sampled answers; 0: off."""
    max_tokens: int = bounded(160, 1)
    """Longest answer, in tokens."""
    advantage: Literal["mean", "std", "maxrl"] = "mean"
    """mean: reward minus the group's mean. std: over its deviation. maxrl: over that mean, so that rare successes count more."""
    resample: int = bounded(4, 0)
    """How often groups whose answers all earned the same are replaced by those of other prompts, at most."""
    updates: int = bounded(1, 1)
    """Steps that learn from the same answers before new ones are sampled."""
    clip_range: float = 0.2
    """Of several updates: a token that is 1 + this times as likely as when it was sampled is not made likelier (1 - this: less)."""
    kl: float = 0.0
    """What a nat of distance from `start` costs, in rewards. More than 0 keeps a second copy of the weights."""
    replay_tokens: int = 0
    """Tokens per step of conversations as `start` learned from, so that what the model knew is not forgotten."""
    beside: str | None = None
    """Tasks (commas) of whose problems no kind may fall meanwhile. None: those that `task` names; it is always one of them."""
    eval_every: int = 0
    """Steps between measurements of every kind. 0: only before the first step and after the last."""
    eval_examples: int = bounded(200, 1)
    """Validation examples of each task at a measurement, and more where there are fewer than `eval_each` of a kind."""
    eval_each: int = bounded(8, 0)
    """Validation examples of each kind of problem at a measurement."""
    pass_examples: int = bounded(50, 0)
    """Validation examples of `task` that are answered 8 times as in training, for pass@1, 2, 4 and 8. 0: none."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Seeded, Ranked, Machine, Made):
    """Measure a model of the run on tasks."""

    stage: str | None = None
    """pretrain, midtrain, sft or rl; several with commas. None: the last that has weights."""
    tasks: str | None = None
    """Names or own files (questions, conversations) with commas; `core` stands for its 22 tasks. None: those of the run's data."""
    limit: int | None = bounded(None, 1)
    """First N examples of each task's seeded order. None: all."""
    split: Literal["validation", "test"] = "test"
    """Which examples."""
    samples: int = bounded(1, 1)
    """Answers per example, for pass@k."""
    temperature: float = 0.0
    """Of the answers; 0: greedy."""
    unsafe_exec: bool = False
    """Judge code without a working sandbox. Never do this with a model you do not trust."""


@dataclass(frozen=True, kw_only=True)
class Report(Stage):
    """Write the report card of a run."""

    hourly_cost: float | None = None
    """Dollars per hour of this machine, for the cost column."""
    ladder: str | None = None
    """A sweep that was made with --fit: what the next $100 buy by its laws, at the speed and price of this run."""


@dataclass(frozen=True, kw_only=True)
class AnswerStage(Sampling, Machine, Stage):
    """What the commands share whose model answers a user."""

    tools: ToolName = "calculator"
    """What the model may run."""
    unsafe_exec: bool = False
    """--tools python without a working sandbox. Never do this with a model you do not trust."""


def check(config: Any) -> None:
    """Raise ValueError for what can be known to be wrong before anything expensive starts."""
    check_bounds(config)
    if isinstance(config, Tracked):
        check_tracker(config.log)
    if isinstance(config, Midtrain) and not config.replay < 1:
        raise ValueError(f"replay={config.replay} leaves no conversations; allowed: from 0 to below 1, as in 0.25")
    ends = [name for name in ("tokens", "flops", "minutes") if getattr(config, name, None) is not None]
    if isinstance(config, Pretrain) and len(ends) > 1:
        raise ValueError(
            f"{', '.join(f'{name}={getattr(config, name)}' for name in ends)}: each says when to end; give one"
        )
    if isinstance(config, RowStage) and config.batch_tokens:
        check_multiple(config.batch_tokens, "context", getattr(getattr(config, "model", config), "context", None))
        check_multiple(config.batch_tokens, "device_tokens", config.device_tokens)
