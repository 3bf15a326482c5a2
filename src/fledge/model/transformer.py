"""The model: a decoder-only transformer, its size derived from one dial.

    config = ModelConfig.of(ModelSettings(depth=12), vocab=32_768)
    model = Transformer(config).init(seed=0)
    logits_BTV = model(tokens_BT)                       # training: every position at once

Inference goes through a copy with fused matrices (model/forward.py), which must compute the same: the engine compares the two.

Architecture: rotary positions and no other position code, normalised queries and keys, untied embedding and unembedding,
RMSNorm without parameters (also right after the embedding), relu squared MLP, no biases, grouped-query attention, logits
softly capped. Extras are fields that `classic` leaves off:
    smear              a token's embedding takes in a gated share of the previous token's
    key_filter         keys are a learned two-tap filter over time (k_t <- a k_t + b k_(t-1)): the answer "shell" finds "shell=A"
                       in one layer instead of two
    value_embeddings   each layer adds a learned vector of the token itself to its value (after Zhou et al. 2024,
                       arXiv:2410.17897): what a token is need not be carried through the stream to be handed on
    pairs              a table of this many learned vectors of pairs of neighbouring tokens: what a token and the one before it find
                       there is added to the embedding and, by a number that each layer learns, to its values (after Huang et al.
                       2025, arXiv:2501.16975): room for words and turns of phrase that costs next to no time
    residual_scales    each layer reads a x + b x0, x0 the embedding and a, b two learned numbers of its own (after Jordan 2024,
                       modded-nanogpt): what came first need not be carried through the stream either
    backout            the head reads x minus a learned share of the stream at half the depth: what served later layers alone
    qk_scale           what sharpens attention, whose queries and keys have length 1 per channel: scores times its square
The last three, and what they begin at, as nanochat runs them (2026); they cost no matrix and next to no memory.

Every parameter states its initialisation and its optimizer group where it is created (`weight(...)`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fledge.config import ModelSettings, Recompute
from fledge.model import head
from fledge.model.attention import Past, Rows

Angles = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions."""
Group = Literal["matrix", "embedding", "pair", "unembedding", "scalar", "filter", "residual", "start"]
SMEAR_CHANNELS = 24  # the gate reads this many channels: enough to know the kind of token


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that fixes the shape of a model; saved as `model.json` beside its weights."""

    vocab: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    context: int
    """Tokens of a training row; rotary positions carry further, quality does not."""
    rope_base: float = 10_000.0
    softcap: float = 15.0
    """Logits are softcap * tanh(z / softcap): none exceeds it."""
    smear: bool = False
    key_filter: bool = False
    value_embeddings: bool = False
    pairs: int = 0
    residual_scales: bool = False
    backout: bool = False
    qk_scale: float = 1.0
    embedding_std: float = 1.0
    unembedding_std: float = 0.0
    up_scale: float = 1.0
    windows: str = "L"
    """Attention windows, tiled over the layers: L sees the whole context, S a quarter of it. The last layer is always L."""

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width={self.width} does not divide into {self.heads} heads of even size")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.smear and self.width < SMEAR_CHANNELS:
            raise ValueError(
                f"width={self.width} is too narrow for smear, whose gate reads {SMEAR_CHANNELS} channels; "
                f"make it {SMEAR_CHANNELS} or more, or leave smear off"
            )
        if not self.windows or set(self.windows) - set("LS"):
            raise ValueError(f"windows={self.windows!r} is not a pattern of L and S, as in 'SSSL'")

    @classmethod
    def of(cls, settings: ModelSettings, *, vocab: int) -> ModelConfig:
        """The shape that settings ask for, width and heads derived from their depth."""
        shape = asdict(settings.resolved())
        del shape["head_channels"]
        return cls(vocab=vocab, layers=shape.pop("depth"), **shape)

    @property
    def channels(self) -> int:
        """Channels per head."""
        return self.width // self.heads

    @property
    def rows(self) -> int:
        """Rows of the embedding tables: the vocabulary rounded up to a multiple of 64, which matrix units like."""
        return 64 * math.ceil(self.vocab / 64)

    def window(self, layer: int) -> int | None:
        """How far back a layer looks, in tokens; None: the whole context."""
        short = layer < self.layers - 1 and self.windows[layer % len(self.windows)] == "S"
        return max(1, self.context // 4) if short else None


def weight(*shape: int, group: Group, std: float = 0.0, fill: Tensor | None = None) -> nn.Parameter:
    """A parameter that knows its optimizer group and how `Transformer.init` fills it: normal(0, std), or `fill`."""
    parameter = nn.Parameter(torch.empty(*shape))
    parameter.group, parameter.init_std, parameter.init_fill = group, std, fill  # pyright: ignore[reportAttributeAccessIssue]
    return parameter


def norm(x: Tensor) -> Tensor:
    """RMSNorm without parameters (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    return F.rms_norm(x, (x.size(-1),))


def linear(x: Tensor, matrix: nn.Parameter) -> Tensor:
    """x @ matrix.T in the type of x: weights stay float32, activations choose the precision."""
    return F.linear(x, matrix.to(x.dtype))


def pair_rows(previous: Int[Tensor, "*N"], tokens: Int[Tensor, "*N"], rows: int) -> Int[Tensor, "*N"]:
    """The row of each token and the one before it (-1: none; int64) in a table of pairs. Those of one hash share a row."""
    return (36_313 * previous + 27_191 * tokens) % rows


def kept(pairs_BT: Int[Tensor, "B T"], share: float) -> Tensor:
    """At which places pairs are read when `share` of them are not: by a hash of the place and of all pairs of its sequence.

    A hash, not a draw: it needs no state in checkpoints, and is the same whatever the number of ranks. Squared, because sums
    alone would tie the fates of two places to their distance.
    """
    places = torch.arange(pairs_BT.size(1), device=pairs_BT.device) + pairs_BT.sum(-1, keepdim=True)
    mixed = (36_313 * places + 27_191 * pairs_BT) % 65_537
    return mixed * mixed % 65_537 % 1_000 >= 1_000 * share


def rotary_table(config: ModelConfig, positions: Int[Tensor, "*T"]) -> Angles:
    """Cosines and sines for `positions` (Su et al. 2021, arXiv:2104.09864): two tensors (*T, 1, C/2), float32."""
    exponent = torch.arange(0, config.channels, 2, device=positions.device).float() / config.channels
    angles = positions[..., None].float() * config.rope_base**-exponent
    return angles.cos()[..., None, :], angles.sin()[..., None, :]


def rotate(x: Tensor, table: Angles) -> Tensor:
    """Turn the two halves of the channels against each other by the position's angles."""
    cos, sin = (part.to(x.dtype) for part in table)
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), -1)


class Attention(nn.Module):
    """Attention over the past with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        width, kv_width, std = config.width, config.kv_heads * config.channels, config.width**-0.5
        self.query = weight(width, width, group="matrix", std=std)
        self.key = weight(kv_width, width, group="matrix", std=std)
        self.value = weight(kv_width, width, group="matrix", std=std)
        self.out = weight(width, width, group="matrix")
        if config.key_filter:
            self.taps = weight(2, config.kv_heads, config.channels, group="filter", fill=first_taps(config))
        if config.value_embeddings:
            self.value_embedding = weight(config.rows, kv_width, group="embedding", std=1.0)
            self.value_scale = weight(1, group="scalar", fill=torch.tensor([0.5]))
        if config.pairs:
            self.pair_scale = weight(1, group="scalar", fill=torch.tensor([1.0]))

    def forward(self, x: Tensor, tokens: Tensor, pairs: Tensor | None, table: Angles, past: Past) -> Tensor:
        """x, pairs: (..., D). Its twin is `InferenceModel.extend` (model/forward.py): a change here needs the same change there."""
        shape = (*x.shape[:-1], -1, self.config.channels)
        q, k, v = (linear(x, matrix).view(shape) for matrix in (self.query, self.key, self.value))
        if self.config.key_filter:
            now, before = self.taps.to(k.dtype)
            k = now * k + before * past.shift_keys(self.layer, k)
        if self.config.value_embeddings:
            v = v + (self.value_scale * F.embedding(tokens, self.value_embedding)).to(v.dtype).view(v.shape)
        if pairs is not None:
            v = v + (self.pair_scale.to(v.dtype) * pairs[..., : self.value.size(0)]).view(v.shape)
        q, k = norm(rotate(q, table)), norm(rotate(k, table))
        if self.config.qk_scale != 1:
            q = self.config.qk_scale**2 * q  # scores see the product alone
        y = past.attend(self.layer, q, k, v)
        return linear(y.reshape(x.shape), self.out)


def first_taps(config: ModelConfig) -> Tensor:
    """Half of each head's channels begin as plain keys (1, 0), half as the mean of two neighbours (.5, .5)."""
    taps = torch.zeros(2, config.kv_heads, config.channels)
    taps[0] = 1.0
    # The halves alternate, so that slow and fast rotary channels are in both.
    taps[:, :, 1::2] = 0.5
    return taps


class Mlp(nn.Module):
    """Two matrices around relu squared (So et al. 2021, arXiv:2109.08668). Its twin stands in model/forward.py."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = weight(4 * config.width, config.width, group="matrix", std=config.up_scale * config.width**-0.5)
        self.down = weight(config.width, 4 * config.width, group="matrix")

    def forward(self, x: Tensor) -> Tensor:
        return linear(F.relu(linear(x, self.up)).square(), self.down)


class Block(nn.Module):
    """Attention, then MLP, each on a normalised copy of the stream. The last matrices begin at 0: a new block adds nothing."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.attention, self.mlp = Attention(config, layer), Mlp(config)
        if config.residual_scales:
            # From the first layer to the last; more of the stream and of its start early on (nanochat, 2026).
            depth = layer / max(1, config.layers - 1)
            self.stream_scale = weight(1, group="residual", fill=torch.tensor([1.15 - 0.10 * depth]))
            self.start_scale = weight(1, group="start", fill=torch.tensor([0.20 - 0.15 * depth]))

    def forward(
        self,
        x: Tensor,
        start: Tensor,
        tokens: Tensor,
        pairs: Tensor | None,
        table: Angles,
        past: Past,
        *,
        recompute: Recompute = "no",
    ) -> Tensor:
        """x, start, pairs: (..., D), the stream, what it began with and the vectors of pairs. Its twin is in model/forward.py."""
        if recompute == "block":
            return again(self.forward, x, start, tokens, pairs, table, past)
        if self.config.residual_scales:
            x = self.stream_scale.to(x.dtype) * x + self.start_scale.to(x.dtype) * start
        x = x + self.attention(norm(x), tokens, pairs, table, past)
        return x + (again(self._mlp, x) if recompute == "mlp" else self._mlp(x))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp(norm(x))


def again(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`function(*inputs)`, computed once more in the backward pass instead of kept for it (Chen et al. 2016, arXiv:1604.06174)."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


class Transformer(nn.Module):
    """Tokens in, logits of the next token out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = weight(config.rows, config.width, group="embedding", std=config.embedding_std)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.unembedding = weight(config.rows, config.width, group="unembedding", std=config.unembedding_std)
        if config.smear:
            self.smear_gate = weight(1, SMEAR_CHANNELS, group="scalar", std=0.02)
            self.smear_scale = weight(1, group="scalar")
        if config.pairs:
            self.pair_embedding = weight(config.pairs, config.width, group="pair")
        if config.backout:
            self.backout_scale = weight(1, group="scalar", fill=torch.tensor([0.2]))
        self.past = Rows([config.window(layer) for layer in range(config.layers)])
        self.compute_dtype = torch.float32
        """Type of the activations; weights are float32 until `infer` makes its copy."""
        self.whole: list[nn.Parameter] = []
        """Of a model in shards (train/sharded.py) its parameters as the optimizer knows them; else nothing."""
        self.pair_dropout = 0.0
        """Share of the places where training does not read the table of pairs."""
        self.recompute: Recompute = "no"
        """What training computes twice to save memory: nothing, every MLP, or every block. Results agree up to rounding."""

    def init(self, *, seed: int) -> Transformer:
        """Fill every parameter as it was declared. Equal seeds give equal weights on every device."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                std, fill = parameter.init_std, parameter.init_fill  # pyright: ignore[reportAttributeAccessIssue]
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std if fill is None else fill)
        return self

    def forward(self, tokens_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits of the next token at every position, float32, the padding of the vocabulary cut off."""
        return head.logits(
            self.hidden(tokens_BT), self.unembedding, vocab=self.config.vocab, softcap=self.config.softcap
        )

    def nll_sum(
        self,
        tokens_BT: Int[Tensor, "B T"],
        targets_BT: Int[Tensor, "B T"],
        weights_BT: Float[Tensor, "B T"],
        *,
        hidden: Callable[[Transformer, Tensor], Tensor] | None = None,
        part: head.Part | None = None,
    ) -> Float[Tensor, ""]:
        """Weighted sum over the batch of -ln p(target), without the logits of all positions at once.

        Args:
            hidden: `Transformer.hidden`, or its compiled form.
            part: `head.nll_part`, or its compiled form.
        """
        x_BTD = (hidden or Transformer.hidden)(self, tokens_BT)
        x_ND, targets_N, weights_N = (tensor.flatten(0, 1) for tensor in (x_BTD, targets_BT, weights_BT))
        shape = {"vocab": self.config.vocab, "softcap": self.config.softcap}
        return head.nll_sum(x_ND, self.unembedding, targets_N, weights_N, **shape, part=part)

    @torch.no_grad()
    def logprobs(
        self, tokens_BT: Int[Tensor, "B T"], targets_BT: Int[Tensor, "B T"], where_BT: Tensor
    ) -> Float[Tensor, " N"]:
        """ln p(target) at the places that are wanted, row by row."""
        x_ND, targets_N = self.hidden(tokens_BT)[where_BT], targets_BT[where_BT]
        return head.logprobs(x_ND, self.unembedding, targets_N, vocab=self.config.vocab, softcap=self.config.softcap)

    def hidden(self, tokens_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What the head reads: the stream behind the last block, normalised."""
        table = rotary_table(self.config, torch.arange(tokens_BT.size(1), device=tokens_BT.device))
        x = norm(F.embedding(tokens_BT, self.embedding).to(self.compute_dtype))
        if self.config.smear:
            gate = torch.sigmoid(linear(x[..., :SMEAR_CHANNELS], self.smear_gate))
            x = x + self.smear_scale.to(x.dtype) * gate * F.pad(x, (0, 0, 1, 0))[:, :-1]
        pairs = None
        if self.config.pairs:
            rows = pair_rows(F.pad(tokens_BT, (1, 0), value=-1)[:, :-1], tokens_BT, self.config.pairs)
            pairs = F.embedding(rows, self.pair_embedding).to(x.dtype)
            if self.training and self.pair_dropout:
                pairs = pairs * kept(rows, self.pair_dropout)[..., None].to(x.dtype)
            x = x + pairs
        start = middle = x
        for layer, block in enumerate(self.blocks):
            if layer == self.config.layers // 2:
                middle = x
            x = block(x, start, tokens_BT, pairs, table, self.past, recompute=self.recompute)
        if self.config.backout:
            x = x - self.backout_scale.to(x.dtype) * middle
        return norm(x)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by optimizer group, and their `total`."""
        counts: dict[str, int] = {}
        for parameter in self.parameters():
            group = parameter.group  # pyright: ignore[reportAttributeAccessIssue]
            counts[group] = counts.get(group, 0) + parameter.numel()
        return counts | {"total": sum(counts.values())}

    def flops_per_token(self) -> float:
        """Forward and backward, for rows of the whole context: 6 per matrix weight plus attention over the causal half."""
        config = self.config
        matrices = sum(p.numel() for p in self.parameters() if p.group in ("matrix", "unembedding"))  # pyright: ignore
        seen = sum(mean_visible(config.context, config.window(layer)) for layer in range(config.layers))
        return 6.0 * matrices + 12.0 * config.width * seen


def mean_visible(context: int, window: int | None) -> float:
    """Mean number of keys a query sees in a row of `context` tokens."""
    if window is None or window >= context:
        return (context + 1) / 2
    return (window * (window + 1) / 2 + (context - window) * window) / context
