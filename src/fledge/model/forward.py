"""The inference copy of a model: its weights in the type of the engine, laid out so that a step launches few kernels.

    model = InferenceModel(transformer, dtype=torch.float32, context=512)
    logits_RV = model.extend(flat, cache)                   # equals transformer.extend

A decoding step of a small model costs what it launches, not what it computes. Hence queries, keys and values come from one
matrix, are rotated and normalised as one tensor, cosines are looked up, and what depends on a token alone (normalised
embedding, smear gate) is a table. `refresh` takes over changed weights (reinforcement learning).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fledge.model.transformer import SMEAR_CHANNELS, Cache, Flat, Transformer, norm, rotary_table


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One block's matrices, transposed for x @ matrix."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    taps: Tensor | None


class InferenceModel:
    """`Transformer.extend` with fused matrices and tables."""

    def __init__(self, model: Transformer, *, dtype: torch.dtype, context: int) -> None:
        self.model, self.config, self.dtype = model, model.config, dtype
        self.device = model.embedding.device
        cos, sin = rotary_table(model.config, torch.arange(context, device=self.device))
        # rotate(x) = x * (cos, cos) + swap(x) * (sin, -sin), where swap exchanges the two halves of the channels.
        self.rotary = torch.cat((cos, cos, sin, -sin), -1).to(dtype)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights of the model as they are now."""
        model, dtype = self.model, self.dtype
        self.table = norm(model.embedding.detach().to(dtype))
        if model.config.smear:
            gate = torch.sigmoid(F.linear(self.table[:, :SMEAR_CHANNELS], model.smear_gate.to(dtype)))
            self.gate = model.smear_scale.to(dtype) * gate
        self.unembedding = model.unembedding.detach().to(dtype)[: model.config.vocab].t()
        self.layers = [_layer(block, dtype) for block in model.blocks]

    @property
    def bytes(self) -> int:
        """Memory of the weights, the original's included."""
        mine = [self.table, self.unembedding, *(m for layer in self.layers for m in (layer.qkv, layer.up, layer.down))]
        return sum(part.nbytes for part in (*mine, *self.model.parameters()))

    @torch.inference_mode()
    def extend(self, flat: Flat, cache: Cache) -> Float[Tensor, "R V"]:
        """Logits after the tokens `flat.last_R`, having put every token of `flat` into the cache."""
        config, channels = self.config, self.config.channels
        heads, keys = config.heads, config.kv_heads
        cos, sin = self.rotary.index_select(0, flat.positions_N).chunk(2, -1)
        x = F.embedding(flat.tokens_N, self.table)
        if config.smear:
            seen = self.gate[flat.tokens_N] * (flat.previous_N >= 0)[:, None]
            x = torch.addcmul(x, seen, self.table[flat.previous_N.clamp_min(0)])
        for index, layer in enumerate(self.layers):
            qkv = (norm(x) @ layer.qkv).view(-1, heads + 2 * keys, channels)
            qk, v = qkv[:, : heads + keys], qkv[:, heads + keys :]
            if layer.taps is not None:
                k = qk[:, heads:]
                before = cache.shift_keys(index, k)
                k.mul_(layer.taps[0]).addcmul_(layer.taps[1], before)
            left, right = qk.chunk(2, -1)
            qk = norm(torch.addcmul(qk * cos, torch.cat((right, left), -1), sin))
            y = cache.attend(index, qk[:, :heads], qk[:, heads:], v)
            x = torch.addmm(x, y.reshape(x.shape), layer.out)
            hidden = (norm(x) @ layer.up).relu_()
            x = torch.addmm(x, hidden.mul_(hidden), layer.down)
        z = (norm(x[flat.last_R]) @ self.unembedding).float()
        return z.div_(config.softcap).tanh_().mul_(config.softcap)


def _layer(block: torch.nn.Module, dtype: torch.dtype) -> Layer:
    attention, mlp = block.attention, block.mlp

    def transposed(*matrices: Tensor) -> Tensor:
        return torch.cat([matrix.detach().to(dtype) for matrix in matrices]).t()  # pyright: ignore

    taps = attention.taps.detach().to(dtype).clone() if hasattr(attention, "taps") else None  # pyright: ignore
    return Layer(
        qkv=transposed(attention.query, attention.key, attention.value),  # pyright: ignore
        out=transposed(attention.out),  # pyright: ignore
        up=transposed(mlp.up),  # pyright: ignore
        down=transposed(mlp.down),  # pyright: ignore
        taps=taps,
    )
