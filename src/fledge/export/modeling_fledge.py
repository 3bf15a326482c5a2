"""A model of fledge for transformers, with its extras: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).

The forward pass of fledge's model/transformer.py, under the same names. The cache keeps keys as their matrix gives them: filtering
and turning all of them at every step is cheap, and the filter needs the one before. The positions of a padded row begin at its
padding, which changes nothing, since scores depend on distances alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

CACHE = (
    "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
)  # of older transformers


class FledgeConfig(PreTrainedConfig):
    """`shape` is fledge's model.json."""

    model_type = "fledge"
    shape: dict[str, Any] | None = None


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def before(x: Tensor) -> Tensor:  # of (..., S, C) what stands one place earlier, 0 before the first
    return F.pad(x, (0, 0, 1, 0))[..., :-1, :]


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part.to(x.dtype) for part in table)
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), -1)


def blank(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size))


class Attention(nn.Module):
    def __init__(self, shape: dict[str, Any], slot: int) -> None:
        super().__init__()
        self.shape, self.slot, width = shape, slot, shape["width"]
        kv_width = shape["kv_heads"] * (width // shape["heads"])
        self.query, self.out = blank(width, width), blank(width, width)
        self.key, self.value = blank(kv_width, width), blank(kv_width, width)
        if shape["key_filter"]:
            self.taps = blank(2, shape["kv_heads"], width // shape["heads"])
        if shape["value_embeddings"]:
            self.value_embedding, self.value_scale = blank(64 * -(-shape["vocab"] // 64), kv_width), blank(1)
        if shape["pairs"]:
            self.pair_scale = blank(1)

    def forward(
        self, x: Tensor, tokens: Tensor, pairs: Any, table: Any, real: Tensor, mask: Tensor, cache: Any
    ) -> Tensor:
        """pairs: (B, T, D), the vectors of the new tokens' pairs, if there are any; real: (B, S), which of all places so far are no
        padding; mask: (B, 1, T, S), what each new one sees."""
        cut = (*x.shape[:2], -1, self.shape["width"] // self.shape["heads"])
        q, k, v = (F.linear(x, one).view(cut).transpose(1, 2) for one in (self.query, self.key, self.value))
        if self.shape["value_embeddings"]:
            v = v + (self.value_scale * F.embedding(tokens, self.value_embedding)).view(cut).transpose(1, 2)
        if self.shape["pairs"]:
            v = v + self.pair_scale * pairs[..., : self.value.size(0)].view(cut).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.slot)
        k = k * real[:, None, :, None]
        if self.shape["key_filter"]:
            k = self.taps[0][:, None] * k + self.taps[1][:, None] * before(k)
        now = slice(k.size(2) - x.size(1), None)
        q, k = norm(rotate(q, (table[0][now], table[1][now]))), norm(rotate(k, table))
        q = self.shape["qk_scale"] ** 2 * q
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return F.linear(y.transpose(1, 2).reshape(x.shape), self.out)


class Block(nn.Module):
    def __init__(self, shape: dict[str, Any], slot: int) -> None:
        super().__init__()
        self.attention, wide = Attention(shape, slot), 4 * shape["width"]
        self.mlp = nn.ParameterDict({"up": blank(wide, shape["width"]), "down": blank(shape["width"], wide)})
        if shape["residual_scales"]:
            self.stream_scale, self.start_scale = blank(1), blank(1)

    def forward(self, x: Tensor, start: Tensor, *past: Any) -> Tensor:
        if hasattr(self, "stream_scale"):
            x = self.stream_scale * x + self.start_scale * start
        x = x + self.attention(norm(x), *past)
        return x + F.linear(F.relu(F.linear(norm(x), self.mlp["up"])).square(), self.mlp["down"])


class FledgeForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = FledgeConfig
    _supports_sdpa = True

    def __init__(self, config: FledgeConfig) -> None:
        super().__init__(config)
        shape: dict[str, Any] = config.shape or {}
        self.shape, rows = shape, 64 * -(-shape["vocab"] // 64)
        self.embedding, self.unembedding = blank(rows, shape["width"]), blank(rows, shape["width"])
        # Smear and pairs look back at embeddings and tokens, which the cache keeps before the keys of the layers.
        self.looks_back = bool(shape["smear"] or shape["pairs"])
        self.blocks = nn.ModuleList(Block(shape, slot + self.looks_back) for slot in range(shape["layers"]))
        if shape["smear"]:
            self.smear_gate, self.smear_scale = blank(1, 24), blank(1)
        if shape["pairs"]:
            self.pair_embedding = blank(shape["pairs"], shape["width"])
        if shape["backout"]:
            self.backout_scale = blank(1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        cache = past_key_values if cache is None else cache
        cache = DynamicCache(config=self.config) if cache is None and use_cache else cache
        (rows, new), device = input_ids.shape, input_ids.device
        places = torch.arange((0 if cache is None else cache.get_seq_length()) + new, device=device)
        real = torch.ones(rows, len(places), dtype=torch.bool, device=device)
        real = real if attention_mask is None else attention_mask[:, : len(places)].bool()
        x, pairs = norm(F.embedding(input_ids, self.embedding)), None
        seen, tokens = x, input_ids
        if self.looks_back and cache is not None:
            # Digits to the base of 256, which bfloat16 holds.
            base = torch.tensor([1 << 16, 1 << 8, 1], device=device)
            digits = (tokens[..., None] // base % 256).to(x.dtype)
            seen, digits = (part[:, 0] for part in cache.update(x[:, None], digits[:, None], 0))
            tokens = (digits.long() * base).sum(-1)
        if self.shape["smear"]:
            gate = torch.sigmoid(F.linear(x[..., :24], self.smear_gate))
            x = x + self.smear_scale * gate * before(seen * real[..., None])[:, -new:]
        if self.shape["pairs"]:
            # `before` fills up with 0, so all are moved up by one meanwhile: -1 is no token.
            previous = before(torch.where(real, tokens, -1)[..., None] + 1)[:, -new:, 0] - 1
            place = (36_313 * previous + 27_191 * input_ids) % self.shape["pairs"]
            x = x + (pairs := F.embedding(place, self.pair_embedding))
        channels = self.shape["width"] // self.shape["heads"]
        exponent = torch.arange(0, channels, 2, device=device).float() / channels
        angles = places[:, None].float() * self.shape["rope_base"] ** -exponent
        distance = places[-new:, None] - places
        start = middle = x
        for layer, block in enumerate(self.blocks):
            middle = x if layer == len(self.blocks) // 2 else middle
            is_short = layer < len(self.blocks) - 1 and self.shape["windows"][layer % len(self.shape["windows"])] == "S"
            window = max(1, self.shape["context"] // 4) if is_short else len(places)
            # Padding sees itself, for a softmax over nothing is no number.
            mask = (distance >= 0) & (distance < window) & (real[:, None] | (distance == 0))
            x = block(x, start, input_ids, pairs, (angles.cos(), angles.sin()), real, mask[:, None], cache)
        x = norm(x - self.backout_scale * middle if self.shape["backout"] else x)
        z = F.linear(x[:, -logits_to_keep:], self.unembedding)[..., : self.shape["vocab"]].float()
        logits = self.shape["softcap"] * torch.tanh(z / self.shape["softcap"])
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})
