"""Weights in shards, for models above what a card holds: of each block a rank keeps a part, and all only while it computes it.

    optimizer = build(model, settings)                     # of the whole parameters, which it keeps
    loss = shard(model, device, compile="no")              # from now on the model has shards (torch's FSDP2)
    loss(model, inputs, targets, weights).backward()
    collect(parameters_of(model))                          # each parameter and its gradient are whole at its owner (shared.py)
    deal_out(parameters_of(model))                         # after the optimizer's step: the shards are those of what it moved

So optimizer, its state and checkpoints are those of whole weights. Over several machines each has all shards among its own ranks:
weights stay within a machine, and gradients are summed between them.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# It takes what a module has for a tensor, and knows no attributes of parameters.

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from fledge import ranks
from fledge.config import Compile
from fledge.model import device as machine
from fledge.model import head
from fledge.model.attention import Rows
from fledge.model.transformer import Transformer
from fledge.train.shared import owner


def shard(model: Transformer, device: torch.device, *, compile: Compile) -> Callable[..., Tensor]:
    """Divide a model, that lies on the CPU, among the ranks of each machine; returns its loss, of the form of `nll_sum`."""
    here = ranks.here()[1]
    mesh = init_device_mesh(device.type, (ranks.count() // here, here), mesh_dim_names=("machine", "card"))
    whole = dict(model.named_parameters())
    # One graph for all blocks that look equally far back, where the number of a layer would make one of each.
    windows = list(dict.fromkeys(model.past.windows))
    for layer, block in enumerate(model.blocks):
        block.attention.layer = windows.index(model.past.windows[layer])
        block.forward = _quick(block.forward, device, compile)
    model.past = Rows(windows)
    within = mesh if mesh.size(0) > 1 else mesh["card"]
    # Or a copy of each matrix in the precision of the activations would be kept for the backward pass.
    policy = MixedPrecisionPolicy(model.compute_dtype, torch.float32, cast_forward_inputs=False)
    for module in (*model.blocks, model):
        # The root's too after the forward pass, or they would stay whole after a validation.
        fully_shard(module, mesh=within, mp_policy=policy, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    for name, part in model.named_parameters():
        part.group, whole[name].part = whole[name].group, part
        whole[name].data = _nothing(part)
    model.whole = list(whole.values())
    register_fsdp_forward_method(model, "nll_sum")
    part = machine.compiled(head.nll_part, device, wanted=compile)
    return lambda model, *batch: model.nll_sum(*batch, part=part)


def _quick(plain: Callable[..., Tensor], device: torch.device, compile: Compile) -> Callable[..., Tensor]:
    """Compiled where it is trained; a validation has shapes of its own, not worth a graph each."""
    compiled = machine.compiled(plain, device, wanted=compile)
    return lambda *inputs, **how: (compiled if torch.is_grad_enabled() else plain)(*inputs, **how)


def _nothing(part: Tensor) -> Tensor:
    """Of the shape of a parameter, in the memory of a number."""
    return torch.zeros((), device=part.device).expand(part.shape)


@torch.no_grad()
def collect(parameters: Iterable[nn.Parameter]) -> None:
    """Bring each parameter and its gradient together at its owner; the others have no gradient of it."""
    for parameter in parameters:
        for name, part in (("data", parameter.part), ("grad", parameter.part.grad)):
            whole = _whole(part)
            if owner(parameter) == ranks.number():
                setattr(parameter, name, whole)


@torch.no_grad()
def deal_out(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank its shard of what the owners have moved, who keep nothing."""
    for parameter in parameters:
        part, mine = parameter.part, owner(parameter) == ranks.number()
        whole = parameter.data if mine else torch.empty(part.shape, device=part.device)
        with ranks.together():
            dist.broadcast(whole, owner(parameter))
        _take(part, whole)
        parameter.data, parameter.grad = _nothing(part), None


def _whole(part: DTensor) -> Tensor:
    with ranks.together():
        return part.full_tensor()


def _take(part: DTensor, whole: Tensor) -> None:
    """Fill this rank's shard of a parameter: as many rows as the others have, but at the end."""
    group, local = part.device_mesh.get_group("card"), part.to_local()
    local.copy_(whole[-(-len(part) // group.size()) * group.rank() :][: len(local)])


@torch.no_grad()
def whole_weights(model: Transformer) -> dict[str, Tensor]:
    """As `state_dict`, whole and on the CPU, on the first rank; the others get nothing. Called by all together."""
    found = {}
    for name, part in model.named_parameters():
        whole = _whole(part)
        if ranks.is_first():
            found[name] = whole.cpu()
    return found


@torch.no_grad()
def load(model: Transformer, weights: dict[str, Tensor]) -> None:
    """The inverse of `whole_weights`, on every rank."""
    for name, part in model.named_parameters():
        _take(part, weights[name])
