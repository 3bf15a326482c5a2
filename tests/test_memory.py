"""The law of memory against the graph itself, what it says of well-known cards, and what happens where it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fledge.config import ModelSettings, Recompute
from fledge.model.transformer import ModelConfig, Transformer
from fledge.settings import DoesNotFit
from fledge.train.memory import BODY, EAGER_BODY, Memory, fitting
from fledge.train.resolve import Shape
from fledge.train.session import that_fits

LENGTH = 37
"""Tokens of a row: a prime that divides no width, so what is kept per token is told apart from copies of weights."""


EXTRAS: dict[str, Any] = {"residual_scales": True, "backout": True, "qk_scale": 1.2, "pairs": 64}
"""Of which the first keeps another 2 bytes in every layer, the second and the last 2 in all."""


def small(depth: int, *, recompute: Recompute = "no", **extras: Any) -> tuple[Transformer, list[Tensor]]:
    """A model of a small vocabulary, and a row as `nll_sum` takes it."""
    model = Transformer(ModelConfig.of(ModelSettings(depth=depth, context=LENGTH, **extras), vocab=512))
    model.compute_dtype, model.recompute = torch.bfloat16, recompute
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    return model, [ids, ids, torch.zeros(1, LENGTH)]


def per_token(kept: dict[int, int]) -> float:
    """Bytes per token of storages that are kept, by their identity."""
    return sum(size for size in kept.values() if size % LENGTH == 0) / LENGTH


@pytest.mark.parametrize(("recompute", "extras"), [*((policy, {}) for policy in BODY), ("no", EXTRAS)])
def test_the_compiled_graph_keeps_what_the_law_says(recompute: Recompute, extras: dict[str, Any]) -> None:
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    kept: dict[int, int] = {}

    def forward(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        ((_, *saved),) = next(node for node in graph.graph.nodes if node.op == "output").args
        for node in saved:
            if isinstance(value := node.meta.get("val"), Tensor) and not node.name.startswith("primals"):
                kept[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
        return graph

    # What torch.compile does, but for making kernels.
    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda graph, _: graph,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    model, row = small(2, recompute=recompute, **extras)
    torch.compile(Transformer.nll_sum, backend=backend, dynamic=False)(model, *row)
    config = model.config
    body = per_token(kept) / config.width
    once = body - (BODY[recompute][0] + 2 * bool(extras)) * config.layers
    assert -2 <= once <= 15  # embedding, last norm and its gradient


@pytest.mark.parametrize("extras", [{}, EXTRAS])
@pytest.mark.parametrize("depth", [4, 26])
def test_the_eager_graph_keeps_what_the_law_says_at_every_depth(
    depth: int, extras: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # fake weights say not which rows count
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model, row = small(depth, **extras)
        model.nll_sum(*row)
    layer, once = EAGER_BODY["no"]
    body = per_token(kept) / model.config.width
    assert body == pytest.approx((layer + 2 * bool(extras)) * depth + once, rel=0.02)


CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 141)
ROWS = {
    12: (4, 8, 8, 16, 32, 32, 32, 64, 128),
    16: (2, 4, 4, 8, 16, 16, 16, 32, 64),
    20: (0, 1, 2, 4, 8, 8, 16, 32, 32),
    24: (0, 0, 1, 2, 4, 8, 8, 16, 32),
    26: (0, 0, 0, 2, 4, 4, 8, 16, 32),
}
"""Rows of 2,048 tokens that fit plain, by depth and gigabytes, as computed by hand from 38 D L + 2 V, a chunk's 2 V, and states."""


def free(gigabytes: int) -> float:
    return 0.98 * 2**30 * gigabytes


def shape(depth: int) -> ModelConfig:
    return ModelConfig.of(ModelSettings(depth=depth), vocab=32_768)


@pytest.mark.parametrize("depth", ROWS)
def test_what_fits_plain_is_what_the_law_says_by_hand(depth: int) -> None:
    found = []
    for gigabytes in CARDS:
        try:
            found.append(fitting(shape(depth), length=2048, free_bytes=free(gigabytes), recompute="no")[0])
        except ValueError:
            found.append(0)
    assert tuple(found) == ROWS[depth]


@pytest.mark.parametrize(("depth", "gigabytes"), [(16, 8), (20, 12), (24, 16)])
def test_computing_twice_brings_a_depth_to_the_smaller_card(depth: int, gigabytes: int) -> None:
    rows, recompute = fitting(shape(depth), length=2048, free_bytes=free(gigabytes))
    assert recompute != "no"
    assert rows >= 4


def test_nothing_is_computed_twice_where_four_rows_fit_or_those_that_are_wanted() -> None:
    assert fitting(shape(12), length=2048, free_bytes=free(8)) == (4, "no")
    assert fitting(shape(20), length=2048, free_bytes=free(12), rows=1) == (1, "no")


def test_what_does_not_fit_is_told_with_figures() -> None:
    with pytest.raises(
        ValueError, match=r"depth 32, width 2048: weights, gradients and optimizer take 2\d\.\d GB, .*Lower"
    ):
        fitting(shape(32), length=2048, free_bytes=free(8))


def test_the_extras_of_the_stream_are_counted() -> None:
    def held(**extras: Any) -> int:
        config = ModelConfig.of(ModelSettings(depth=12, **extras), vocab=32_768)
        return Memory.of(config, length=2048, rows=1).activations

    unit = 2 * 2048 * 768
    assert held(residual_scales=True) - held() == 12 * unit
    assert held(backout=True) - held() == unit


def test_parts_add_up_and_rows_cost_the_same_each_but_for_the_chunk_of_logits() -> None:
    one, two = (Memory.of(shape(12), length=2048, rows=rows) for rows in (8, 16))
    assert one.states == two.states == one.weights + one.gradients + one.optimizer
    assert two.activations == 2 * one.activations
    assert two.logits - one.logits == 8 * 2048 * 2 * 32_768
    assert two.peak == pytest.approx(16.0e9, rel=0.02)


@pytest.mark.parametrize(("room", "rows"), [(8, 8), (4, 4), (7, 4)])
def test_a_pass_that_is_too_large_is_halved_once_and_the_step_stays_whole(
    room: int, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(shape: Shape) -> None:
        if shape.rows > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    found = that_fits(Shape(length=64, rows=8, micro=3, total=24, steps=5), attempt)
    assert (found.rows, found.tokens, found.steps) == (rows, 64 * 24, 5)
    assert ("8 rows of 64 tokens per pass do not fit" in capsys.readouterr().out) == (rows != 8)


def test_a_pass_that_does_not_fit_halved_either_ends_in_a_sentence() -> None:
    def attempt(_: Shape) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ValueError, match="8 and 4 rows of 64 tokens do not fit into memory"):
        that_fits(Shape(length=64, rows=8, micro=3, total=24, steps=5), attempt)


@pytest.mark.parametrize("recompute", ["mlp", "block"])
def test_computing_twice_changes_no_gradient(recompute: Recompute) -> None:
    ids = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    gradients = []
    for policy in ("no", recompute):
        settings = ModelSettings(depth=2, width=32, head_channels=16, context=16, smear=True, key_filter=True, **EXTRAS)
        model = Transformer(ModelConfig.of(settings, vocab=64)).init(seed=1)
        with torch.no_grad():
            for parameter in model.parameters():  # some begin at 0, and their neighbours' gradients with them
                parameter.add_(0.05)
        model.recompute = policy
        model.nll_sum(ids, ids, torch.ones(2, 16)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_shards_divide_what_stays_and_hold_what_one_card_does_not() -> None:
    config = ModelConfig.of(ModelSettings(depth=36), vocab=32_768)
    whole, shards = (Memory.of(config, length=2048, rows=1, recompute="block", shards=count) for count in (1, 8))
    assert shards.states == pytest.approx(whole.states / 8)
    assert shards.activations == whole.activations
    with pytest.raises(DoesNotFit, match=r"take 29.9 GB.*or several with --shard"):
        fitting(config, length=2048, free_bytes=24e9)
    assert fitting(config, length=2048, free_bytes=24e9, shards=8)[0] >= 1
