"""The GPU's way through the engine, with a kernel in plain torch in the place of torch's own: same cache, same steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.infer.check import TOLERANCE, difference, find_kernel
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.model.transformer import Transformer
from tiny_engine import BYTES, EXTRAS, asking, tiny_engine, tiny_model

CPU = torch.device("cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"heads": 4, "kv_heads": 2, "width": 64},
    "extras": EXTRAS,
    "windows": {"windows": "SL", "layers": 4},
}


def plain(
    q: Tensor, keys: Tensor, values: Tensor, query_begins: Tensor, key_begins: Tensor, key_counts: Tensor, *,
    most_queries: int, most_keys: int, window: int | None,
) -> Tensor:  # fmt: skip
    """What FlashAttention is documented to do, row by row; a query sees the keys up to its own place from the end."""
    assert {query_begins.dtype, key_begins.dtype, key_counts.dtype} == {torch.int32}
    assert len(query_begins) == len(key_begins) == len(key_counts) + 1
    assert int(query_begins.diff().max()) <= most_queries
    assert int(key_counts.max()) <= most_keys
    out = torch.empty_like(q)
    for row, length in enumerate(key_counts.tolist()):
        mine, begin = slice(int(query_begins[row]), int(query_begins[row + 1])), int(key_begins[row])
        place = torch.arange(length - (mine.stop - mine.start), length)[:, None] - torch.arange(length)
        seen = (place >= 0) & ((place < window) if window is not None else True)
        parts = (q[mine], keys[begin : begin + length], values[begin : begin + length])
        y = F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in parts), attn_mask=seen, enable_gqa=True)
        out[mine] = y.transpose(0, 1)
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_one_kernel_and_groups_attend_alike(shape: str) -> None:
    config = tiny_model(**SHAPES[shape]).config
    assert difference(Transformer, config, torch.float32, CPU, plain) < 1e-4


def test_a_kernel_that_is_wrong_is_noticed() -> None:
    def sees_one_key_less(
        q: Tensor, k: Tensor, v: Tensor, at: Tensor, keys_at: Tensor, counts: Tensor, **settings: Any
    ) -> Tensor:
        return plain(q, k, v, at, keys_at, (counts - 1).clamp_min(1), **settings)

    def ignores_windows(*args: Any, window: int | None, **settings: Any) -> Tensor:
        return plain(*args, window=None, **settings)

    config = tiny_model(**SHAPES["windows"]).config
    for wrong in (sees_one_key_less, ignores_windows):
        for dtype in (torch.float16, torch.bfloat16):
            assert difference(Transformer, config, dtype, CPU, wrong) > 2 * TOLERANCE[dtype]


def test_without_a_gpu_no_kernel_is_sought() -> None:
    assert find_kernel(tiny_model(), dtype=torch.bfloat16) is None
    assert tiny_engine().decoding is None


def requests() -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        asking(
            prompt=rng.integers(0, 256, 1 + 7 * n % 60).tolist(), max_tokens=5 + 3 * n, seed=n, temperature=n % 3 / 2
        )
        for n in range(11)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_those_of_the_plain_engine(shape: str) -> None:
    model = tiny_model(**SHAPES[shape])
    by_kernel, by_groups = (Engine(model, BYTES, slots=5, kernel=kernel) for kernel in (plain, None))
    assert by_kernel.decoding is not None
    for _ in range(2):  # the second time prompts are found in the slots
        mine, other = by_kernel.generate(requests()), by_groups.generate(requests())
        assert [request.answer for request in mine] == [request.answer for request in other]
        assert [request.cached for request in mine] == [request.cached for request in other]
    assert set(by_kernel.decoding.recorded) == {1, 2, 4, 5}


def test_changed_weights_are_recorded_anew() -> None:
    model = tiny_model()
    engine = Engine(model, BYTES, slots=2, kernel=plain)
    engine.generate(requests())
    with torch.no_grad():
        model.embedding.mul_(-1)
    engine.forget()
    fresh = Engine(model, BYTES, slots=2)
    assert [r.answer for r in engine.generate(requests())] == [r.answer for r in fresh.generate(requests())]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("shape", SHAPES)
def test_on_gpus_recorded_steps_answer_like_computed_ones(shape: str) -> None:
    for index in range(torch.cuda.device_count()):
        model = tiny_model(**SHAPES[shape]).to(f"cuda:{index}")
        recorded, computed = Engine(model, BYTES, slots=5), Engine(model, BYTES, slots=5)
        assert recorded.decoding is not None
        assert computed.decoding is not None
        computed.decoding.record = False
        for _ in range(2):
            mine, other = recorded.generate(requests()), computed.generate(requests())
            assert [request.answer for request in mine] == [request.answer for request in other]
            assert all(step.graph is not None for step in recorded.decoding.recorded.values())
            with torch.no_grad():
                model.embedding.mul_(-1)
            recorded.forget()
            computed.forget()
