"""The head's loss and its gradient, made by hand in chunks, against autograd on whole logits in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fledge.model import head

VOCAB, PADDED, CAP = 70, 128, 15.0


def made(rows: int, *, scale: float = 1.0) -> list[torch.Tensor]:
    torch.manual_seed(rows)
    x_ND, matrix = scale * torch.randn(rows, 24), torch.randn(PADDED, 24)
    return [x_ND.requires_grad_(), matrix.requires_grad_(), torch.randint(VOCAB, (rows,)), torch.randn(rows)]


def by_autograd(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    x_ND, matrix = (part.detach().double().requires_grad_() for part in parts[:2])
    logits_NV = CAP * torch.tanh((x_ND @ matrix.T)[:, :VOCAB] / CAP)
    loss = (F.cross_entropy(logits_NV, parts[2], reduction="none") * parts[3].double()).sum()
    return [loss.detach(), *torch.autograd.grad(3 * loss, (x_ND, matrix))]


@pytest.mark.parametrize("counting", [0, 1, 5, 13, 14, 16])
@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
@pytest.mark.parametrize("scale", [1.0, 1000.0])  # where all logits are at the cap
def test_loss_and_gradient_are_those_of_whole_logits_however_they_are_cut_and_however_many_count(
    scale: float, chunk: int, counting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK", chunk)
    parts = made(16, scale=scale)  # of weights below 0 too, as a policy gradient has them
    parts[3][torch.randperm(16)[counting:]] = 0.0
    loss = head.nll_sum(*parts, vocab=VOCAB, softcap=CAP)
    (3 * loss).backward()
    for found, expected in zip((loss.detach(), *(part.grad for part in parts[:2])), by_autograd(parts), strict=True):
        assert found is not None
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()) + 1e-6)


def test_it_is_the_loss_of_the_models_own_logits() -> None:
    x_ND, matrix, targets_N, weights_N = made(9)
    logits_NV = head.logits(x_ND, matrix, vocab=VOCAB, softcap=CAP)
    expected = (F.cross_entropy(logits_NV, targets_N, reduction="none") * weights_N).sum()
    found = head.nll_sum(x_ND, matrix, targets_N, weights_N, vocab=VOCAB, softcap=CAP)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_padding_of_the_vocabulary_gets_no_gradient() -> None:
    parts = made(5)
    head.nll_sum(*parts, vocab=VOCAB, softcap=CAP).backward()
    assert parts[1].grad is not None
    assert parts[1].grad[:VOCAB].any()
    assert not parts[1].grad[VOCAB:].any()
