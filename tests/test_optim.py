"""The optimizer: Muon orthogonalises, AdamW is torch's, every parameter is moved by the rule of its tag."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch

from fledge.config import MatrixRule, OptimSettings
from fledge.model.transformer import ModelConfig, Transformer
from fledge.train.loop import Plan, train
from fledge.train.optim import MuonAdamW, build, decay_where_agreed, even, orthogonal
from test_loop import rows, tiny


def one_group(parameter: torch.nn.Parameter, **settings: object) -> MuonAdamW:
    group = {
        "params": [parameter],
        "names": ["weight"],
        "kind": "adamw",
        "dtype": torch.float32,
        "lr": 0.01,
        "base_rate": 0.01,
        "momentum": 0.95,
        "betas": (0.8, 0.95),
        "weight_decay": 0.0,
    }
    return MuonAdamW([group | settings])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_group_whose_parameters_other_ranks_own_stays_as_it_is(kind: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    one_group(parameter, kind=kind).step()  # without a gradient
    assert torch.equal(parameter, torch.ones(2, 2))


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (64, 48)])
def test_orthogonal_makes_every_singular_value_about_1(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.amin() > 0.7
    assert values.amax() < 1.25
    assert values.mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("shape", [(12, 12), (8, 24), (24, 8)])
def test_orthogonal_agrees_with_the_factor_of_the_svd(shape: tuple[int, int]) -> None:
    matrices = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    exact, found = left @ right, orthogonal(matrices)
    cosine = (exact * found).sum() / (exact.norm() * found.norm())
    assert cosine > 0.99
    # The singular vectors are those of the matrix: in their basis the result is diagonal.
    turned = left.mT @ found @ right.mT
    off = turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))
    assert off.abs().amax() < 1e-3


def test_orthogonal_does_not_depend_on_the_size_of_its_argument_and_keeps_0() -> None:
    matrices = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(orthogonal(matrices * 1e-4), orthogonal(matrices), atol=2e-3, rtol=1e-2)
    assert orthogonal(torch.zeros(1, 8, 12)).eq(0).all()


def test_a_stack_is_treated_matrix_by_matrix() -> None:
    matrices = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(3))
    for stacked, alone in zip(orthogonal(matrices), matrices, strict=True):
        torch.testing.assert_close(stacked, orthogonal(alone[None])[0])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_that_of_torch(weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(7, 5, generator=generator))
    theirs = torch.nn.Parameter(ours.detach().clone())
    mine = one_group(ours, weight_decay=weight_decay)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=weight_decay)
    for _ in range(20):
        ours.grad = torch.randn(7, 5, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_moves_along_the_orthogonal_factor_of_nesterov_momentum() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(24, 6, generator=generator))
    optimizer = one_group(weight, kind="muon", lr=0.05)
    momentum = torch.zeros(24, 6)
    for _ in range(3):
        weight.grad = torch.randn(24, 6, generator=generator)
        momentum = 0.95 * momentum + 0.05 * weight.grad
        left, _, right = torch.linalg.svd(0.05 * weight.grad + 0.95 * momentum, full_matrices=False)
        exact, before = left @ right, weight.detach().clone()
        optimizer.step()
        moved = (before - weight.detach()) / (0.05 * 2.0)  # a matrix four times as tall as wide moves twice as far
        assert (moved * exact).sum() / (moved.norm() * exact.norm()) > 0.99
        assert moved.norm() == pytest.approx(exact.norm().item(), rel=0.15)


@pytest.mark.parametrize("shape", [(24, 6), (6, 24)])
def test_normuon_makes_every_neuron_move_equally_far_and_all_of_them_as_far_as_before(shape: tuple[int, int]) -> None:
    updates = orthogonal(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    before, along = updates.clone(), -1 if shape[0] > shape[1] else -2
    even(updates, [torch.zeros(24) for _ in range(2)])
    lengths = updates.norm(dim=along)
    torch.testing.assert_close(lengths, lengths[:, :1].expand(2, 24))
    torch.testing.assert_close(updates.norm(dim=(-2, -1)), before.norm(dim=(-2, -1)))
    assert before.norm(dim=along).std() > 0.1 * lengths.mean()  # which they did not do


def test_normuon_divides_by_a_mean_over_steps_as_its_paper_says() -> None:
    generator, neurons, running = torch.Generator().manual_seed(0), [torch.zeros(5)], torch.zeros(5)
    for _ in range(3):
        given = torch.randn(1, 5, 3, generator=generator)
        running = 0.9 * running + 0.1 * given[0].square().mean(-1)
        expected = given[0] / running.sqrt()[:, None]
        expected *= given.norm() / expected.norm()
        even(given, neurons)
        torch.testing.assert_close(given[0], expected)


def test_normuon_keeps_0() -> None:
    updates = torch.zeros(1, 4, 2)
    even(updates, [torch.zeros(4)])
    assert updates.eq(0).all()


def test_normuon_is_muon_where_neurons_move_equally_far_anyway() -> None:
    """Those of a matrix with as many rows as columns do, but for what five polynomials leave."""
    generator, start = torch.Generator().manual_seed(0), torch.zeros(16, 16)
    gradient = torch.randn(16, 16, generator=generator)
    moved = []
    for kind in ("muon", "normuon"):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient
        one_group(weight, kind=kind).step()
        moved.append(weight.detach())
    cosine = (moved[0] * moved[1]).sum() / (moved[0].norm() * moved[1].norm())
    assert 0.99 < cosine < 1
    assert moved[0].norm() == pytest.approx(moved[1].norm().item())


def test_cautious_decay_shrinks_only_what_the_update_shrinks() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, -1.0, 2.0, -2.0]]))
    with torch.no_grad():
        decay_where_agreed([weight], torch.tensor([[[1.0, 1.0, -1.0, -1.0]]]), 0.1)
    torch.testing.assert_close(weight.detach(), torch.tensor([[0.9, -1.0, 2.0, -1.8]]))


def test_every_parameter_is_moved_by_the_rule_of_its_tag() -> None:
    model = Transformer(
        ModelConfig(
            vocab=20,
            layers=1,
            width=32,
            heads=2,
            kv_heads=2,
            context=8,
            smear=True,
            key_filter=True,
            residual_scales=True,
            backout=True,
            pairs=64,
        )
    ).init(seed=0)
    optimizer = build(model, OptimSettings(weight_decay=0.1))
    rates = {name: (group["lr"], group["betas"]) for group in optimizer.param_groups for name in group["names"]}
    assert rates["blocks.0.stream_scale"] == (0.005, (0.8, 0.95))
    assert rates["blocks.0.start_scale"] == (0.5, (0.96, 0.95))
    assert rates["backout_scale"] == (0.02, (0.8, 0.95))
    assert rates["pair_embedding"][0] == pytest.approx(rates["embedding"][0] / 10)
    kinds = {name: group["kind"] for group in optimizer.param_groups for name in group["names"]}
    assert set(kinds) == {name for name, _ in model.named_parameters()}
    muon = {name for name, kind in kinds.items() if kind == "muon"}
    mlp = {f"blocks.0.mlp.{name}" for name, _ in model.blocks[0].mlp.named_parameters()}  # type: ignore[union-attr]
    assert muon == mlp | {f"blocks.0.attention.{part}" for part in ("query", "key", "value", "out")}
    assert {group["weight_decay"] for group in optimizer.param_groups if group["kind"] == "adamw"} == {0.0}


@pytest.mark.parametrize("matrices", get_args(MatrixRule))
def test_every_rule_trains(matrices: MatrixRule) -> None:
    model = tiny()
    optimizer = build(model, OptimSettings(matrices=matrices))
    assert {group["kind"] for group in optimizer.param_groups} == ({"adamw", matrices})
    before = model.blocks[0].mlp.up.detach().clone()  # type: ignore[union-attr]
    losses = [step.loss_nats for step in train(model, optimizer, itertools.repeat(rows(0, 8)), Plan(steps=25))]
    assert losses[-1] < 0.5 * losses[0]
    assert not torch.equal(before, model.blocks[0].mlp.up)  # type: ignore[union-attr]


@pytest.mark.parametrize("matrices", get_args(MatrixRule))
def test_the_state_goes_through_its_names_and_back(matrices: MatrixRule) -> None:
    one, two = tiny(), tiny()
    first, second = (build(model, OptimSettings(matrices=matrices)) for model in (one, two))
    list(train(one, first, itertools.repeat(rows(0, 8)), Plan(steps=3)))
    two.load_state_dict(one.state_dict())
    second.load_tensors({name: tensor.clone() for name, tensor in first.tensors().items()})
    for model, optimizer in ((one, first), (two, second)):
        list(train(model, optimizer, itertools.repeat(rows(0, 8)), Plan(steps=6), start=3))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
