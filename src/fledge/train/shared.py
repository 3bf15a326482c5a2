"""A step of several ranks: each gradient goes to the owner of its parameter, who moves it and sends it back.

    deal(model.parameters())                    # once: every parameter has its owner
    reduce_gradients(parameters)                # now the owners alone have gradients, those of all ranks
    send_weights(parameters)                    # after the optimizer's step: all have the owners' weights, bit for bit

So the costly part of the optimizer, and its state, are divided by the number of ranks, and as many bytes travel as if gradients
were summed everywhere. Weights stay whole on every rank, which compiled graph, engine and evaluation need. Alone all of it is
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fledge import ranks


def deal(parameters: Iterable[nn.Parameter]) -> None:
    """Give every parameter an owner, in turn within each shape: matrices of one shape go through Muon in equal shares."""
    # In one round through all shapes, so that what is left of one shape and of the next goes to different ranks.
    for place, parameter in enumerate(sorted(parameters, key=lambda one: (one.numel(), one.shape))):
        parameter.owner = place % ranks.count()  # pyright: ignore[reportAttributeAccessIssue]


def owner(parameter: nn.Parameter) -> int:
    """The rank that moves a parameter and holds its state; 0 where nothing was dealt."""
    return getattr(parameter, "owner", 0)


def reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum each gradient over the ranks for its owner; the others forget theirs."""
    if ranks.count() == 1:
        return
    if hasattr(parameters[0], "part"):
        from fledge.train.sharded import collect

        collect(parameters)
        return
    own = {parameter: parameter.grad.contiguous() for parameter in parameters if parameter.grad is not None}
    with ranks.together():
        for work in [dist.reduce(grad, owner(parameter), async_op=True) for parameter, grad in own.items()]:
            work.wait()  # pyright: ignore[reportOptionalMemberAccess]
    for parameter, grad in own.items():
        parameter.grad = grad if owner(parameter) == ranks.number() else None


def send_weights(parameters: Sequence[nn.Parameter]) -> None:
    """Give every rank the weights that their owners have moved."""
    if ranks.count() == 1:
        return
    if hasattr(parameters[0], "part"):
        from fledge.train.sharded import deal_out

        deal_out(parameters)
        return
    with ranks.together():
        for work in [dist.broadcast(each.data, owner(each), async_op=True) for each in parameters]:
            work.wait()  # pyright: ignore[reportOptionalMemberAccess]


def blank(parameter: nn.Parameter, key: str) -> Tensor:
    """What the optimizer's state of a parameter begins with, under a name of its own: zeros of the shape of `key`."""
    shapes = {"steps": (), "neurons": (max(parameter.shape, default=1),)}
    return torch.zeros(shapes.get(key, parameter.shape), device=parameter.device)


def gather_state(parameter: nn.Parameter, state: dict[str, Tensor], keys: Sequence[str]) -> dict[str, Tensor]:
    """The optimizer's state of a parameter, on the CPU of rank 0; the others get nothing. Called by all together."""
    if ranks.count() == 1:
        return state
    found = {}
    for key in keys:
        empty = blank(parameter, key)
        value = state.get(key, empty) if owner(parameter) == ranks.number() else empty
        with ranks.together():
            dist.broadcast(value.detach(), owner(parameter))
        found[key] = value.detach().cpu()
    return found if ranks.is_first() else {}


def checksum(parameters: Iterable[nn.Parameter]) -> int:
    """A sum over the bits of all weights: equal where they are."""
    with torch.no_grad():
        return sum(int(parameter.view(torch.int32).sum()) for parameter in parameters)
