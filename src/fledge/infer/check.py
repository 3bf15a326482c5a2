"""The inference copy of a model, handed out once it has been seen to compute what the model computes.

    fused = inference_model(model, dtype=torch.float32, context=512)

The architecture is written twice: model/transformer.py is trained, model/forward.py answers. Whoever changes the first alone
would train well and then measure, sample and reinforce another model. So a small twin of the model, every weight of it drawn
at random (a fresh model's last matrices are 0 and hide what comes before them), goes through both: whole rows there, a prompt,
a chunk and a single token here. Once in a process for each class and shape of model.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from fledge.infer.cache import SlotCache
from fledge.model.forward import Flat, InferenceModel
from fledge.model.transformer import SMEAR_CHANNELS, ModelConfig, Transformer

STEPS = (7, 4, 1)  # a prompt, a chunk, a single token; they leave the window of a context of 16 tokens, which is 4
TOLERANCE = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Largest difference that rounding explains, of logits whose size is about 1. Measured: 2e-6 in float32 (a GPU that rounds
products to 10 bits, TF32, reaches float16's), 0.008 in float16, 0.04 in bfloat16. SiLU for relu squared makes it 1.6 and more."""


def inference_model(model: Transformer, *, dtype: torch.dtype, context: int) -> InferenceModel:
    """The inference copy of `model`.

    Raises:
        ValueError: the two forward passes differ; says by how much, and what to do.
    """
    # float32 tells small changes from rounding, the type asked for tells whether it can be trusted here.
    for precision in dict.fromkeys((torch.float32, dtype)):
        worst = difference(type(model), model.config, precision, model.embedding.device)
        if not worst <= TOLERANCE[precision]:
            raise ValueError(
                f"the inference forward (model/forward.py) differs from {type(model).__name__} (model/transformer.py) by "
                f"{worst:.2g} in the logits of {sum(STEPS)} tokens in {str(precision).removeprefix('torch.')}; rounding "
                f"explains {TOLERANCE[precision]:g}. Its answers would be those of another model: what was changed in one of "
                "the two files must be changed in the other."
            )
    return InferenceModel(model, dtype=dtype, context=context)


@lru_cache
@torch.inference_mode()
def difference(kind: type[Transformer], config: ModelConfig, dtype: torch.dtype, device: torch.device) -> float:
    """The largest difference of a logit between the two forward passes, on a small twin of such a model."""
    twin, count = small_twin(kind, config).to(device), sum(STEPS)
    tokens = np.random.default_rng(0).integers(0, twin.config.vocab, count)
    twin.compute_dtype = dtype
    expected = twin(torch.from_numpy(tokens[None]).to(device))[0]
    try:
        fused = InferenceModel(twin, dtype=dtype, context=count)
    except AttributeError as error:
        raise ValueError(
            f"the inference forward (model/forward.py) asks for a weight that the model no longer has: {error}. "
            "What was changed in model/transformer.py must be changed there too."
        ) from error
    past = SlotCache(twin.config, slots=2, context=count, device=device, dtype=dtype)
    found, start = [], 0
    for new in STEPS:
        past.plan(np.array([1]), np.array([start]), np.array([new]))
        places = np.arange(start, start + new)
        flat = Flat(
            tokens_N=torch.from_numpy(tokens[places]).to(device),
            previous_N=torch.from_numpy(np.where(places > 0, tokens[places - 1], -1)).to(device),
            positions_N=past.position_N,
            last_R=torch.arange(new, device=device),
        )
        found.append(fused.extend(flat, past))
        start += new
    return float((torch.cat(found) - expected).abs().max())  # nan where one of them is


def small_twin(kind: type[Transformer], config: ModelConfig) -> Transformer:
    """A model of the same class and features with few, narrow layers and random weights."""
    per, wide = config.heads // config.kv_heads, min(config.width, SMEAR_CHANNELS)  # as wide as the smear gate reads
    keys = next(k for k in range(min(2, config.kv_heads), config.kv_heads + 1) if k * per * config.channels >= wide)
    heads = per * keys
    small = replace(
        config,
        vocab=64,
        layers=min(config.layers, len(config.windows) + 1),
        width=config.channels * heads,
        heads=heads,
        kv_heads=keys,
        context=16,
    )
    with torch.random.fork_rng(devices=[]):
        twin = kind(small)
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters():
        # The scale at which the stream and the logits stay of size 1.
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * parameter.size(-1) ** -0.5)
    return twin.eval()
