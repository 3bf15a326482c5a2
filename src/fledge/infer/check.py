"""The inference copy of a model, handed out once it has been seen to compute what the model computes.

    fused = inference_model(model, dtype=torch.bfloat16, context=512)
    kernel = find_kernel(model, dtype=torch.bfloat16)       # of attention, on a GPU; None: attend by groups (infer/cache.py)

The architecture is written twice: model/transformer.py is trained, model/forward.py answers. Whoever changes the first alone
would train well and then measure, sample and reinforce another model. So a small twin of the model, every weight of it drawn
at random (a fresh model's last matrices are 0 and hide what comes before them), goes through both: whole rows there, prompts,
chunks and single tokens of three sequences here. Once in a process for each class and shape of model, and once more with the
kernel of GPUs (infer/gpu.py): what that supports depends on torch, driver and card.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch

from fledge import console
from fledge.infer.cache import SlotCache
from fledge.infer.gpu import FlatCache, Kernel, flash
from fledge.model.forward import Flat, InferenceModel
from fledge.model.transformer import SMEAR_CHANNELS, ModelConfig, Transformer

SLOTS_R = np.array([3, 0, 2])
COUNTS = np.array([[120, 1, 80], [60, 1, 1], [1, 1, 1]])
"""Tokens that each of three sequences adds in a step: prompts, chunks, single tokens. A window is a quarter of CONTEXT."""
CONTEXT = 200
TOLERANCE = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Largest difference that rounding explains, of logits whose size is about 1. Measured: 2e-6 in float32 (a GPU that rounds
products to 10 bits, TF32, reaches float16's), 0.008 in float16, 0.04 in bfloat16. SiLU for relu squared makes it 1.6 and more."""


def inference_model(model: Transformer, *, dtype: torch.dtype, context: int) -> InferenceModel:
    """The inference copy of `model`. Where the two forward passes differ, a ValueError says by how much, and what to do."""
    # float32 tells small changes from rounding, the type asked for tells whether it can be trusted here.
    for precision in dict.fromkeys((torch.float32, dtype)):
        worst = difference(type(model), model.config, precision, model.embedding.device)
        if not worst <= TOLERANCE[precision]:
            raise ValueError(
                f"the inference forward (model/forward.py) differs from {type(model).__name__} (model/transformer.py) by "
                f"{worst:.2g} in the logits of {COUNTS.sum()} tokens in {str(precision).removeprefix('torch.')}; rounding "
                f"explains {TOLERANCE[precision]:g}. Its answers would be those of another model: what was changed in one of "
                "the two files must be changed in the other."
            )
    return InferenceModel(model, dtype=dtype, context=context)


def find_kernel(model: Transformer, *, dtype: torch.dtype) -> Kernel | None:
    """`flash`, if this machine has it and it is right for a model of this shape."""
    device = model.embedding.device
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    try:
        worst = difference(type(model), model.config, dtype, device, flash)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
    else:
        if worst <= TOLERANCE[dtype]:
            return flash
        reason = f"logits differ by {worst:.2g}"
    console.say(f"decoding is slow: FlashAttention is not used, {reason}")
    return None


@lru_cache
@torch.inference_mode()
def difference(
    kind: type[Transformer], config: ModelConfig, dtype: torch.dtype, device: torch.device, kernel: Kernel | None = None
) -> float:
    """The largest difference of a logit between the two forward passes, on a small twin of such a model."""
    twin = small_twin(kind, config).to(device)
    twin.compute_dtype = dtype
    tokens_RT = np.random.default_rng(0).integers(0, twin.config.vocab, (len(SLOTS_R), CONTEXT))
    logits_RTV = twin(torch.from_numpy(tokens_RT).to(device))
    try:
        fused = InferenceModel(twin, dtype=dtype, context=CONTEXT)
    except AttributeError as error:
        raise ValueError(
            f"the inference forward (model/forward.py) asks for a weight that the model no longer has: {error}. "
            "What was changed in model/transformer.py must be changed there too."
        ) from error
    cache = SlotCache if kernel is None else partial(FlatCache, kernel=kernel)
    past = cache(twin.config, slots=4, context=CONTEXT, device=device, dtype=dtype)
    found, expected, starts = [], [], 0 * SLOTS_R
    for counts in COUNTS:
        past.plan(SLOTS_R, starts, counts)
        row_N = np.arange(len(counts)).repeat(counts)
        place_N = past.position_N.cpu().numpy()
        flat = Flat(
            tokens_N=torch.from_numpy(tokens_RT[row_N, place_N]).to(device),
            previous_N=torch.from_numpy(np.where(place_N > 0, tokens_RT[row_N, place_N - 1], -1)).to(device),
            positions_N=past.position_N,
            last_R=torch.arange(len(row_N), device=device),
        )
        found.append(fused.extend(flat, past))
        expected.append(logits_RTV[row_N, place_N])
        starts = starts + counts
    return float((torch.cat(found) - torch.cat(expected)).abs().max())  # nan where one of them is


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
        context=CONTEXT,
        pairs=min(config.pairs, 64),
    )
    with torch.random.fork_rng(devices=[]):
        return draw_weights(kind(small)).eval()


def draw_weights(model: Transformer) -> Transformer:
    """Every weight drawn at random, at the scale at which the stream and the logits stay of size 1."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * parameter.size(-1) ** -0.5)
    return model
