"""The inference copy of a model: its weights in the type of the engine, laid out so that a step launches few kernels.

    model = InferenceModel(transformer, dtype=torch.float32, context=512)
    logits_RV = model.extend(flat, past)                    # equals the rows of transformer(tokens) that are asked for

A decoding step of a small model costs what it launches, not what it computes. Hence queries, keys and values come from one
matrix, are rotated and normalised as one tensor, cosines are looked up, and what depends on a token alone (normalised
embedding, smear gate, value embedding) is a table, as what depends on two (pairs) is anyway. `refresh` takes over changed
weights (reinforcement learning).

Whoever changes the architecture changes it twice: in model/transformer.py and here. infer/check.py compares the two before
the first answer, so that a change of one alone cannot go unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fledge.model.attention import Past
from fledge.model.transformer import SMEAR_CHANNELS, Transformer, norm, pair_rows, rotary_table


@dataclass(frozen=True, kw_only=True)
class Flat:
    """New tokens of any mix of sequences, laid end to end."""

    tokens_N: Int[Tensor, " N"]
    previous_N: Int[Tensor, " N"]
    """The token before each, -1 at the beginning of a sequence."""
    positions_N: Int[Tensor, " N"]
    last_R: Int[Tensor, " R"]
    """Places in N whose logits are wanted."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One block's matrices, transposed for x @ matrix."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    taps: Tensor | None
    values: Tensor | None
    pair_scale: Tensor | None
    scales: Tensor | None
    """Of the stream and of its start."""


class InferenceModel:
    """The weights of a `Transformer`, fused, and its forward pass over new tokens with a past."""

    def __init__(self, model: Transformer, *, dtype: torch.dtype, context: int) -> None:
        self.model, self.config, self.dtype = model, model.config, dtype
        self.device = model.embedding.device
        cos, sin = rotary_table(model.config, torch.arange(context, device=self.device))
        # rotate(x) = x * (cos, cos) + swap(x) * (sin, -sin), where swap exchanges the two halves of the channels.
        self.rotary = torch.cat((cos, cos, sin, -sin), -1).to(dtype)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights of the model as they are now."""
        model, dtype = self.model, self.dtype
        self.table = norm(model.embedding.detach().to(dtype))
        if model.config.smear:
            gate = torch.sigmoid(F.linear(self.table[:, :SMEAR_CHANNELS], model.smear_gate.to(dtype)))
            self.gate = model.smear_scale.to(dtype) * gate
        self.pairs = model.pair_embedding.detach().to(dtype) if model.config.pairs else None
        self.backout = model.backout_scale.detach().to(dtype) if model.config.backout else None
        self.unembedding = model.unembedding.detach().to(dtype)[: model.config.vocab].t()
        self.layers = [_layer(block, dtype) for block in model.blocks]

    @property
    def bytes(self) -> int:
        """Memory of the weights, the original's included; what both share once."""
        mine = [self.table, self.unembedding, *(m for layer in self.layers for m in (layer.qkv, layer.up, layer.down))]
        mine += [] if self.pairs is None else [self.pairs]
        return sum({part.data_ptr(): part.nbytes for part in (*mine, *self.model.parameters())}.values())

    @torch.inference_mode()
    def extend(self, flat: Flat, past: Past) -> Float[Tensor, "R V"]:
        """Logits after the tokens `flat.last_R`; the past takes in every token of `flat`."""
        config, channels = self.config, self.config.channels
        heads, keys = config.heads, config.kv_heads
        cos, sin = self.rotary.index_select(0, flat.positions_N).chunk(2, -1)
        x, pairs = self._embed(flat)
        start = middle = x
        for index, layer in enumerate(self.layers):
            if index == config.layers // 2:
                middle = x
            if layer.scales is not None:
                x = torch.addcmul(layer.scales[0] * x, layer.scales[1], start)
            # Attention: the twin of `Attention.forward` in model/transformer.py.
            qkv = (norm(x) @ layer.qkv).view(-1, heads + 2 * keys, channels)
            qk, v = qkv[:, : heads + keys], qkv[:, heads + keys :]
            if layer.taps is not None:
                k = qk[:, heads:]
                before = past.shift_keys(index, k)
                k.mul_(layer.taps[0]).addcmul_(layer.taps[1], before)
            if layer.values is not None:
                v = v + layer.values[flat.tokens_N].view(v.shape)
            if pairs is not None and layer.pair_scale is not None:
                v = torch.addcmul(v, layer.pair_scale, pairs[:, : keys * channels].view(v.shape))
            left, right = qk.chunk(2, -1)
            qk = norm(torch.addcmul(qk * cos, torch.cat((right, left), -1), sin))
            q, k = qk[:, :heads], qk[:, heads:]
            if config.qk_scale != 1:
                q = config.qk_scale**2 * q
            y = past.attend(index, q, k, v)
            x = torch.addmm(x, y.reshape(x.shape), layer.out)
            # MLP: the twin of `Mlp.forward`.
            hidden = (norm(x) @ layer.up).relu_()
            x = torch.addmm(x, hidden.mul_(hidden), layer.down)
        x = x[flat.last_R]
        if self.backout is not None:
            x = torch.addcmul(x, self.backout, middle[flat.last_R], value=-1)
        z = (norm(x) @ self.unembedding).float()
        return z.div_(config.softcap).tanh_().mul_(config.softcap)

    def _embed(self, flat: Flat) -> tuple[Tensor, Tensor | None]:
        """What the stream begins with, and the vectors of pairs."""
        x = F.embedding(flat.tokens_N, self.table)
        if self.config.smear:
            seen = self.gate[flat.tokens_N] * (flat.previous_N >= 0)[:, None]
            x = torch.addcmul(x, seen, self.table[flat.previous_N.clamp_min(0)])
        if self.pairs is None:
            return x, None
        pairs = self.pairs[pair_rows(flat.previous_N, flat.tokens_N, self.config.pairs)]
        return x + pairs, pairs


def _layer(block: Any, dtype: torch.dtype) -> Layer:
    attention, mlp, config = block.attention, block.mlp, block.config

    def transposed(*matrices: Tensor) -> Tensor:
        return torch.cat([matrix.detach().to(dtype) for matrix in matrices]).t()

    return Layer(
        qkv=transposed(attention.query, attention.key, attention.value),
        out=transposed(attention.out),
        up=transposed(mlp.up),
        down=transposed(mlp.down),
        taps=attention.taps.detach().to(dtype).clone() if config.key_filter else None,
        values=(attention.value_scale * attention.value_embedding).to(dtype) if config.value_embeddings else None,
        pair_scale=attention.pair_scale.detach().to(dtype) if config.pairs else None,
        scales=torch.cat((block.stream_scale, block.start_scale)).detach().to(dtype)
        if config.residual_scales
        else None,
    )
