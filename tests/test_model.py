"""The transformer: causality in every variant, initialisation, shapes, counts."""

from __future__ import annotations

import math
import resource
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.config import ModelSettings
from fledge.model.attention import attend, window_mask
from fledge.model.device import find_device, find_dtype, keep_freed_memory, product_flops
from fledge.model.transformer import ModelConfig, Transformer, kept, mean_visible
from tiny_engine import EXTRAS

SHAPE: dict[str, Any] = {"vocab": 50, "layers": 3, "width": 32, "heads": 4, "kv_heads": 4, "context": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "classic": {},
    "smear": {"smear": True},
    "key_filter": {"key_filter": True},
    "value_embeddings": {"value_embeddings": True},
    "pairs": {"pairs": 40, "kv_heads": 2},
    "windows": {"windows": "SSL"},
    "grouped": {"kv_heads": 2},
    "multi_query": {"kv_heads": 1},
    "residual_scales": {"residual_scales": True},
    "backout": {"backout": True},
    "qk_scale": {"qk_scale": 1.2, "rope_base": 100_000.0},
    "all": EXTRAS | {"windows": "SL", "kv_heads": 2},
}


def random_model(**extras: Any) -> Transformer:
    """Every weight random: a fresh model's blocks are the identity and would hide a mistake."""
    model = Transformer(ModelConfig(**(SHAPE | extras))).init(seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model


def tokens(rows: int = 2, length: int = 16, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(50, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_training_leaves_out_pairs_by_place_and_row_alone() -> None:
    model, rows = random_model(pairs=40), tokens(40)
    with torch.no_grad():
        all_read = model(rows)
        model.pair_dropout = 0.3
        assert torch.equal(model.eval()(rows), all_read)  # nobody who asks it
        left_out = model.train()(rows)
        torch.testing.assert_close(model(rows[7:9]), left_out[7:9])  # whoever else is in the batch
        changed = (left_out - all_read).abs().amax(-1) > 0
        first = changed.int().argmax(-1)[changed.any(-1)]  # what comes later sees it
        assert len(first.unique()) > 4
        model.pair_dropout = 1.0
        bare = model(rows)
        model.pair_embedding.zero_()
        assert torch.equal(model.eval()(rows), bare)


def test_which_pairs_are_left_out_looks_like_a_draw() -> None:
    """Also of one pair at two places of a sequence: neither's fate says anything about the other's."""
    pairs = torch.randint(16_384, (4_000, 200), generator=torch.Generator().manual_seed(0))
    shares = [kept(pairs, share).float().mean().item() for share in (0.0, 0.2, 1.0)]
    assert shares == [1.0, pytest.approx(0.8, abs=0.005), 0.0]
    for distance in (1, 3, 16, 64, 131):
        twice = pairs.clone()
        twice[:, 20 + distance] = twice[:, 20]
        out = ~kept(twice, 0.2)
        both = (out[:, 20] & out[:, 20 + distance]).sum() / out[:, 20].sum()
        assert both.item() == pytest.approx(0.2, abs=0.07)  # 4.5 standard errors


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_comes_later_changes_no_earlier_logit(variant: str) -> None:
    model, before = random_model(**VARIANTS[variant]), tokens()
    with torch.no_grad():
        whole = model(before)
        for cut in (1, 7, 15):
            after = before.clone()
            after[:, cut:] = (after[:, cut:] + 1 + tokens(seed=2)[:, cut:] % 49) % 50
            other = model(after)
            torch.testing.assert_close(other[:, :cut], whole[:, :cut], rtol=1e-5, atol=1e-5)
            assert (other[:, cut:] - whole[:, cut:]).abs().amax() > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_earlier_token_within_reach_changes_the_last_logits(variant: str) -> None:
    model, before = random_model(**VARIANTS[variant]), tokens(1)
    with torch.no_grad():
        last = model(before)[0, -1]
        for place in range(16):
            after = before.clone()
            after[0, place] = (after[0, place] + 1) % 50
            assert not torch.equal(model(after)[0, -1], last), place


def test_rows_do_not_see_each_other() -> None:
    model, both = random_model(smear=True, key_filter=True), tokens(3)
    with torch.no_grad():
        torch.testing.assert_close(model(both)[1:2], model(both[1:2]), rtol=1e-5, atol=1e-5)


def test_a_window_hides_what_lies_further_back() -> None:
    one_layer = random_model(layers=2, windows="S")
    for block in list(one_layer.blocks)[1:]:  # the last layer always sees everything: leave only the windowed one
        one_layer.blocks = torch.nn.ModuleList(b for b in one_layer.blocks if b is not block)
    before, after = tokens(1), tokens(1)
    after[0, 3] = (after[0, 3] + 1) % 50
    with torch.no_grad():
        same = (one_layer(before) == one_layer(after)).all(-1)[0]
    # Context 16: the window is 4 tokens, so token 3 is seen by 3, 4, 5 and 6.
    assert same.tolist() == [place not in (3, 4, 5, 6) for place in range(16)]


def test_the_window_mask_is_the_example_of_its_docstring() -> None:
    assert window_mask(3, 2, torch.device("cpu")).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_its_definition(window: int | None, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 7, heads, 8, generator=generator).double() for heads in (4, kv_heads, kv_heads))
    expected = torch.zeros_like(q)
    for b in range(2):
        for h in range(4):
            shared = h // (4 // kv_heads)
            for t in range(7):
                first = 0 if window is None else max(0, t - window + 1)
                scores = (k[b, first : t + 1, shared] @ q[b, t, h]) / math.sqrt(8)
                expected[b, t, h] = scores.softmax(0) @ v[b, first : t + 1, shared]
    torch.testing.assert_close(attend(q, k, v, window=window), expected)


def test_the_key_filter_begins_as_it_says_and_adds_the_key_before() -> None:
    attention: Any = Transformer(ModelConfig(**SHAPE, key_filter=True)).init(seed=0).blocks[0].attention  # type: ignore[union-attr]
    now, before = attention.taps
    filtered = 1 * now + 3 * before
    assert filtered[:, 0::2].eq(1.0).all()
    assert filtered[:, 1::2].eq(0.5 + 1.5).all()


NEUTRAL = {"stream_scale": 1.0, "start_scale": 0.0, "backout_scale": 0.0}
"""Values at which the extras of the stream do nothing."""


def test_extras_of_the_stream_at_their_neutral_values_are_the_classic_model_to_the_bit() -> None:
    classic = random_model()
    extended = Transformer(ModelConfig(**SHAPE, residual_scales=True, backout=True))
    missing, unexpected = extended.load_state_dict(classic.state_dict(), strict=False)
    assert not unexpected
    assert {name.rpartition(".")[2] for name in missing} == NEUTRAL.keys()
    with torch.no_grad():
        for name, parameter in extended.named_parameters():
            if (value := NEUTRAL.get(name.rpartition(".")[2])) is not None:
                parameter.fill_(value)
        assert torch.equal(extended(tokens()), classic(tokens()))


@pytest.mark.parametrize("extra", ["residual_scales", "backout"])
def test_an_extra_leaves_the_other_weights_of_a_fresh_model_as_they_were(extra: str) -> None:
    shape: dict[str, Any] = SHAPE | {extra: True}
    with_it = Transformer(ModelConfig(**shape)).init(seed=0).state_dict()
    for name, weight in Transformer(ModelConfig(**SHAPE)).init(seed=0).state_dict().items():
        assert torch.equal(weight, with_it[name]), name


def test_residual_scales_begin_between_the_published_ends() -> None:
    blocks = Transformer(ModelConfig(**SHAPE, residual_scales=True)).init(seed=0).blocks
    found = [(block.stream_scale.item(), block.start_scale.item()) for block in blocks]  # type: ignore[union-attr,operator]
    torch.testing.assert_close(torch.tensor(found), torch.tensor([[1.15, 0.2], [1.1, 0.125], [1.05, 0.05]]))


def test_the_stream_is_scaled_and_its_middle_taken_out_as_the_formulas_say() -> None:
    """Blocks that add nothing leave the formulas alone: x <- a x + b x0, and the head reads x - c x(L/2)."""
    model = Transformer(ModelConfig(**SHAPE, residual_scales=True, backout=True)).init(seed=0)
    with torch.no_grad():
        start = torch.nn.functional.rms_norm(model.embedding[tokens()], (32,))
        seen: list[torch.Tensor] = [start]
        for a, b in ((1.15, 0.2), (1.1, 0.125), (1.05, 0.05)):
            seen.append(a * seen[-1] + b * start)
        expected = torch.nn.functional.rms_norm(seen[3] - 0.2 * seen[1], (32,))  # the middle of 3: after the first
        torch.testing.assert_close(model.hidden(tokens()), expected)


def test_the_scale_of_queries_and_keys_is_that_of_either_twice() -> None:
    plain, scaled = random_model(layers=1), random_model(layers=1, qk_scale=1.2)
    seen = []

    class Spy:
        def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            seen.append(torch.einsum("bthc,bshc->bhts", q, k))
            return q

    for model in (plain, scaled):
        model.past = Spy()  # type: ignore[assignment]
        model(tokens())
    torch.testing.assert_close(seen[1], seen[0] * 1.2 * 1.2)


def test_initial_scales_are_those_asked_for() -> None:
    scales: dict[str, Any] = {"embedding_std": 0.8, "unembedding_std": 0.001, "up_scale": 0.4}
    shape: dict[str, Any] = SHAPE | {"width": 128, "layers": 1} | scales
    model = Transformer(ModelConfig(**shape)).init(seed=0)
    assert model.embedding.std().item() == pytest.approx(0.8, rel=0.05)
    assert model.unembedding.std().item() == pytest.approx(0.001, rel=0.05)
    assert model.blocks[0].mlp.up.std().item() == pytest.approx(0.4 * 128**-0.5, rel=0.05)  # type: ignore[union-attr]


def test_equal_seeds_give_equal_weights_and_other_seeds_others() -> None:
    one, two, other = (Transformer(ModelConfig(**SHAPE, smear=True)).init(seed=seed) for seed in (3, 3, 4))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
    assert not torch.equal(one.embedding, other.embedding)


def test_initialisation_does_not_touch_the_global_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Transformer(ModelConfig(**SHAPE)).init(seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fresh_model_guesses_every_token_equally() -> None:
    model = Transformer(ModelConfig(**SHAPE, smear=True, key_filter=True)).init(seed=0)
    with torch.no_grad():
        assert model(tokens()).abs().amax() == 0


def test_the_padding_of_the_vocabulary_is_never_predicted_and_logits_stay_below_the_cap() -> None:
    model = random_model()
    with torch.no_grad():
        model.unembedding.mul_(1000)
        logits = model(tokens())
    assert model.config.rows == 64
    assert logits.shape == (2, 16, 50)
    assert logits.abs().amax() <= 15.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_are_those_of_the_tensors_and_every_parameter_has_a_group(variant: str) -> None:
    model = random_model(**VARIANTS[variant])
    counts = model.parameter_counts()
    assert counts.pop("total") == sum(parameter.numel() for parameter in model.parameters()) == sum(counts.values())
    config, kv_share = model.config, model.config.kv_heads / model.config.heads
    mlps = sum(parameter.numel() for name, parameter in model.named_parameters() if ".mlp." in name)
    assert counts["matrix"] == config.layers * config.width**2 * (2 + 2 * kv_share) + mlps
    tables = 1 + config.layers * kv_share * config.value_embeddings
    assert (counts["embedding"], counts["unembedding"]) == (64 * 32 * tables, 64 * 32)


@given(context=st.integers(1, 60), window=st.one_of(st.none(), st.integers(1, 80)))
@settings(max_examples=50, deadline=None)
def test_mean_visible_counts_the_mask(context: int, window: int | None) -> None:
    mask = window_mask(context, window or context, torch.device("cpu"))
    assert mean_visible(context, window) == pytest.approx(mask.sum().item() / context)


def test_flops_are_six_per_matrix_weight_and_the_causal_half_of_attention() -> None:
    model = random_model()
    weights = 3 * 12 * 32**2 + 64 * 32
    assert model.flops_per_token() == 6 * weights + 12 * 32 * 3 * 8.5


@given(depth=st.integers(1, 40), head=st.sampled_from([16, 32, 64, 128]))
@settings(deadline=None)
def test_the_dial_gives_a_valid_shape(depth: int, head: int) -> None:
    config = ModelConfig.of(ModelSettings(depth=depth, head_channels=head), vocab=100)
    assert config.layers == depth
    assert config.channels == head
    assert 64 * depth <= config.width < 64 * depth + head


def test_settings_become_the_shape_they_name() -> None:
    asked = ModelSettings(depth=3, width=128, head_channels=64, context=256, smear=True, windows="SL")
    config = ModelConfig.of(asked, vocab=100)
    shape = (config.layers, config.width, config.heads, config.kv_heads, config.context, config.smear, config.windows)
    assert shape == (3, 128, 2, 2, 256, True, "SL")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"heads": 5}, "width=32 does not divide into 5 heads"),
        ({"kv_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
        ({"windows": "SXL"}, "windows='SXL' is not a pattern of L and S"),
        ({"width": 16, "smear": True}, "width=16 is too narrow for smear, .* 24 or more, or leave smear off"),
        ({"windows": ""}, "windows='' is not a pattern of L and S"),
    ],
)
def test_an_impossible_shape_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ModelConfig(**(SHAPE | wrong))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device='mpss' is not on this machine; there are: cpu"):
        find_device("mpss")
    assert find_device("cpu") == torch.device("cpu")


def test_the_precision_asked_for_is_used() -> None:
    model = random_model()
    model.compute_dtype = find_dtype("bfloat16", torch.device("cpu"))
    assert model.compute_dtype == torch.bfloat16
    with torch.no_grad():
        low = model(tokens())
        model.compute_dtype = torch.float32
        high = model(tokens())
    assert low.dtype == high.dtype == torch.float32
    assert 0 < (low - high).abs().amax() < 3.0


def test_of_two_precisions_the_quicker_is_used() -> None:
    cpu = torch.device("cpu")
    speeds = {dtype: product_flops(cpu, dtype, size=512) for dtype in (torch.float32, torch.bfloat16)}
    # They differ by a factor of two and more wherever they were measured: other work may disturb one of them.
    assert speeds[find_dtype("auto", cpu)] > 0.7 * max(speeds.values())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other allocators")
def test_a_large_tensor_is_made_of_memory_that_another_has_left() -> None:
    keep_freed_memory()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)  # 40 MB: 9,800 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert min(faults() for _ in range(5)) < 2_000
