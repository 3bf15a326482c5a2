"""Settings of the commands that are no stage of training, and every command by its name. Nothing here imports torch either.

SETTINGS["pretrain"]                           # the class whose fields are the settings of `fledge pretrain`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fledge.config import (
    AnswerStage,
    Compile,
    Dtype,
    Evaluate,
    Machine,
    Midtrain,
    ModelSettings,
    OptimSettings,
    Pretrain,
    Ranked,
    Recompute,
    Report,
    Rl,
    Seeded,
    Sft,
    Stage,
    Threaded,
    Tokenizer,
    Tracked,
    TrainStage,
)
from fledge.settings import bounded


@dataclass(frozen=True, kw_only=True)
class Watch(Stage):
    """Show a training as it goes on, or as it went, on a page of this machine."""

    run: str = "runs/demo"
    """Folder of a run, of a sweep, or of several runs."""
    port: int = bounded(8001, 0, 65_535)
    """Port of 127.0.0.1 to listen on; 0: any that is free."""


@dataclass(frozen=True, kw_only=True)
class Chat(AnswerStage):
    """Talk to a model in the terminal."""

    stage: str | None = None
    """pretrain, midtrain, sft or rl. None: the last that has weights."""
    prompt: str | None = None
    """Ask once, print the answer, exit. Text on standard input is read first and stands before it."""
    url: str | None = None
    """Talk to a server instead, as in http://127.0.0.1:8000."""
    api_key: str | None = None
    """Key of that server. None: that of FLEDGE_API_KEY."""
    system: str | None = None
    """System prompt."""


@dataclass(frozen=True, kw_only=True)
class Serve(AnswerStage):
    """Serve a run: web page and OpenAI-compatible API.

    The settings of sampling hold where a client does not say.
    """

    stage: str | None = None
    """Serve this stage alone. None: all of the run, the last as default."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = bounded(8000, 0, 65_535)
    """Port to listen on; 0: any that is free."""
    allowed_hosts: str | None = None
    """Further host names that lead here, with commas, as in chat.example.org behind a proxy. Others are refused."""
    origins: str | None = None
    """Other sites whose pages may use the API, with commas, as in https://app.example.org; *: any. None: its own page alone."""
    root_path: str = ""
    """Path below which a proxy shows the server, as in /pip."""
    api_key: str | None = None
    """Key that clients of the API must send. None: that of FLEDGE_API_KEY, which other users of the machine do not see."""
    max_tokens: int = bounded(4096, 1, 1_000_000)
    """Longest answer, in tokens; a client may ask for less."""
    queue: int = 256
    """Requests that may wait for a slot; one more is answered 429."""
    slots: int | None = bounded(None, 1)
    """Answers computed at the same time, per model. None: by memory, 64 at most on a CPU."""
    context: int | None = bounded(None, 1)
    """Tokens of question and answer together. None: the model's."""
    memory_bytes: int | None = None
    """Most memory for models and their caches; a model not in use makes room for another. None: 8 GiB, on GPUs .8 of theirs."""
    grace_seconds: float = 10.0
    """At the end: how long running answers may take before they are cut off."""


@dataclass(frozen=True, kw_only=True)
class RunRecipe(Seeded, Ranked, Tracked, Machine):
    """Raise a model: all stages of a recipe, in one folder."""

    recipe: str = "demo"
    """One of those that `fledge run --list` shows, with what they take."""
    out: str | None = None
    """Folder of the run. None: runs/<recipe>."""
    data: str | None = None
    """Text to pretrain on. None: the recipe's."""
    column: str = "text"
    """Column or field that holds the text, in own files that have several."""
    identity: str | None = None
    """Own file of who the assistant is (README), for midtrain and sft; evaluations ask for it."""
    classic: bool = False
    """The article's architecture alone: every extra off."""
    only: str | None = None
    """Run these stages alone (commas), whatever is finished."""
    start: str | None = None
    """--from STAGE: do this stage and those after it again."""
    fresh: bool = False
    """Do all stages again. What is there is set aside, each until its new one is finished."""
    list: bool = False
    """Show the recipes and exit."""


@dataclass(frozen=True, kw_only=True)
class PlanAhead(Machine):
    """Say what a training takes, before anything is spent: tokens, steps, memory, time and cost."""

    recipe: str | None = None
    """A recipe, with its stages, card, ranks and price. None: pretraining of the depth below."""
    depth: int = bounded(12, 1)
    """Layers."""
    vocab: int = bounded(32_768, 1)
    """Entries of the tokenizer."""
    context: int = bounded(2048, 1)
    """Tokens of a row."""
    ratio: float = bounded(12.0, 0.001)
    """Tokens per parameter of matrices and unembedding."""
    data: str | None = None
    """Text, to say how often a training comes round it. None: the recipe's, or none."""
    column: str = "text"
    """Column or field that holds the text, in own files that have several."""
    card: str | None = None
    """Kind of GPU, as in H100. None: the recipe's, or this machine."""
    ranks: int | None = bounded(None, 1)
    """Devices. None: the recipe's, or 1."""
    shard: bool = False
    """The devices are of one machine and divide the weights among them, as with --shard of a training."""
    price: float | None = None
    """Dollars per hour for all devices together. None: the recipe's, or nothing is said."""
    utilisation: float | None = bounded(None, 0.001, 1.0)
    """Share of the devices' peak that is used. None: .4 of a GPU, .15 of a CPU."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class AnswerBench(Machine):
    """What the benches share whose model answers."""

    run: str | None = None
    """Folder of a stage, as in runs/demo/sft. None: random weights of the shape below."""
    layers: int = bounded(3, 1)
    """Layers of the random model."""
    width: int = bounded(128, 1)
    """Its width."""
    heads: int = bounded(2, 1)
    """Its heads."""
    vocab: int = bounded(1536, 1)
    """Its vocabulary."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall, or cpu: seconds of processor time, for a machine that does other work too (one thread)."""


@dataclass(frozen=True, kw_only=True)
class InferBench(AnswerBench):
    """Measure how fast this machine answers, with random weights or those of a run."""

    batches: str = "1,8,32"
    """Requests at the same time."""
    prompts: str = "32,256"
    """Prompt lengths in tokens."""
    new: int = bounded(64, 1)
    """Tokens to sample per request."""
    mixed: bool = False
    """Also 256 requests of 100-1024 prompt and 100-1024 new tokens."""


@dataclass(frozen=True, kw_only=True)
class RlBench(Seeded, AnswerBench):
    """Measure how fast answers to learn from are drawn: in one flow, and prompt by prompt until the longest answer ends."""

    prompts: int = bounded(16, 1)
    """Prompts."""
    samples: int = bounded(16, 1)
    """Answers to each."""
    prompt: int = bounded(64, 1)
    """Tokens of a prompt."""
    shortest: int = bounded(4, 1)
    """Tokens of the shortest answer."""
    longest: int = bounded(256, 1)
    """Tokens of the longest."""
    slots: int = bounded(256, 1)
    """Answers computed at the same time in the flow."""


@dataclass(frozen=True, kw_only=True)
class TrainBench(Machine):
    """Measure how fast this machine trains a model of random weights, and what its time and memory go to."""

    model: ModelSettings = field(default_factory=lambda: ModelSettings(depth=4, context=512))
    optim: OptimSettings = field(default_factory=OptimSettings)
    vocab: int = bounded(4096, 1)
    """Entries of the vocabulary."""
    batch_tokens: int = bounded(8192, 1)
    """Tokens per step, of all ranks together."""
    device_tokens: int | None = bounded(None, 1)
    """Tokens per forward pass on one device, at least a row. None: the most that fits."""
    recompute: Literal["auto", Recompute] = "auto"
    """What is computed twice to save memory: no, mlp, block. auto: the least with which four rows fit."""
    shard: bool = False
    """Of several ranks each keeps a part of the weights alone (FSDP2), as in training."""
    steps: int = bounded(5, 1)
    """Steps to measure, after a first that also compiles."""
    dtype: Dtype = "auto"
    """Type of the activations; weights are always float32."""
    compile: Compile = "auto"
    """Compile the model, as in training."""
    ranks: str = "1"
    """Processes, several with commas as in 1,2,4: a column of the table for each."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Pretrain a model for each point of a grid, and compare them.

    Behind `fledge sweep pretrain` the settings of pretrain can be written as there: --minutes for --base.minutes.
    """

    out: str = "runs/sweeps/sweep"
    """Folder of the sweep."""
    over: tuple[str, ...] = ()
    """Settings and their values, as in model.heads=2,4 seed=0,1,2: a point for each combination; the first is the baseline."""
    variant: tuple[str, ...] = ()
    """Settings under a name, as in wide:model.width=256,model.heads=4, or a .toml or .json file of some, beside a baseline."""
    ablate: str | None = None
    """Switches, as in smear,key_filter: all on and one off at a time, all off and one on at a time."""
    vocab: int = bounded(32_768, 1)
    """Entries of the tokenizer of all points; one that lies in the folder is used."""
    at_once: int | None = bounded(None, 1)
    """Points trained at the same time, which share GPUs or cores. None: one for each GPU, or for the CPU."""
    price: float | None = None
    """Dollars per hour of this machine, for the plan, and for what the next $100 buy (--fit)."""
    fit: bool = False
    """Fit power laws of the best size, tokens and bits per byte to four sizes or more in each of three FLOPs or more."""
    base: Pretrain = field(default_factory=Pretrain)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Say which trainings are better, at equal tokens, steps, FLOPs and seconds, and whether it is more than chance."""

    runs: tuple[str, ...] = ()
    """Runs, folders of runs that differ in their seed, or sweeps; the first is what the others are compared with."""
    out: str | None = None
    """Folder for compare.md and compare.html, with curves and the difference of the code."""


@dataclass(frozen=True, kw_only=True)
class Export(Threaded, Stage):
    """Write a model of the run as other programs read it: transformers, llama.cpp and what builds on them."""

    to: Literal["hf", "gguf"] = "hf"
    """hf: a folder for Hugging Face transformers. gguf: a file for llama.cpp."""
    out: str | None = None
    """The folder or file to write. None: exports/<run>-<stage>, for llama.cpp with .gguf."""
    stage: str | None = None
    """pretrain, midtrain, sft or rl. None: the last that has weights."""
    remote_code: bool = False
    """hf: with a modeling file of ours, for extras that transformers does not know (trust_remote_code=True)."""
    weights: Literal["float32", "q8_0"] = "float32"
    """gguf: 32 bits a weight, or 8 (q8_0)."""


@dataclass(frozen=True, kw_only=True)
class Import(Stage):
    """Make a run of a model from elsewhere: what export wrote, a nanochat of transformers, a checkpoint of nanochat."""

    run: str = "runs/imported"
    """Folder of the new run."""

    source: str
    """hf:FOLDER with config.json and safetensors, or with model_*.pt and meta_*.json."""
    stage: str | None = None
    """Stage that it becomes. None: as exported; else sft where there is a chat template, or pretrain."""
    tokenizer: str | None = None
    """Its tokenizer.json, or ranks as tiktoken writes them. None: the folder's tokenizer.json."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Send an exported folder to the Hugging Face hub."""

    folder: str
    """What `fledge export` wrote."""
    repo: str
    """Where to, as in someone/my-model."""
    public: bool = False
    """For everybody to see. Otherwise the repository is private."""
    yes: bool = False
    """Do not ask."""


COMMANDS: dict[str, dict[str, type[Any]]] = {
    "Everything at once": {"run": RunRecipe, "plan": PlanAhead},
    "Stages of training": {"tokenizer": Tokenizer, "pretrain": Pretrain, "midtrain": Midtrain, "sft": Sft, "rl": Rl},
    "Measuring": {
        "evaluate": Evaluate,
        "report": Report,
        "bench infer": InferBench,
        "bench train": TrainBench,
        "bench rl": RlBench,
    },
    "Research": {"watch": Watch, "sweep": Sweep, "compare": Compare},
    "Talking": {"chat": Chat, "serve": Serve},
    "Taking it along": {"export": Export, "import": Import, "upload": Upload},
}
"""Every command and its settings, as `fledge --help` groups them. The first line of a class is the help of its command."""
SETTINGS: dict[str, type[Any]] = {name: kind for group in COMMANDS.values() for name, kind in group.items()}
STAGES = {name: kind for name, kind in SETTINGS.items() if issubclass(kind, Stage)}
TRAINED = tuple(name for name, kind in STAGES.items() if issubclass(kind, TrainStage))
