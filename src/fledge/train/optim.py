"""The optimizer: Muon for matrices, AdamW for everything else, chosen by the tag each parameter carries.

    optimizer = build(model, OptimSettings())

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, so that every direction of
the weight moves equally far. The orthogonal factor comes from Polar Express (Amsel et al. 2025, arXiv:2505.16932), a few
matrix products instead of an SVD. Matrices of one shape are stacked and go through it together. NorMuon (Li et al. 2025,
arXiv:2510.05491) divides each neuron's part of the update by how far it has moved of late.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fledge.config import OptimSettings
from fledge.ranks import number
from fledge.train.shared import blank, deal, gather_state, owner

# Five steps of the optimal odd polynomials for singular values from 1e-3 to 1 (Amsel et al. 2025, table of the paper's code).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# No singular value exceeds the norm, but in bfloat16 that may come out too small, and the polynomials diverge above 1.
SAFETY = 1.01
# As nanochat has them (2026). Published together with the rate of .5: that step is large for what one gradient says.
START_BETA1 = 0.96
NEURON_BETA = 0.9
# Of the embedding's rate: a pair is rarely met, and begins at 0. At the whole rate the table does harm (docs/why.md).
PAIR_SHARE = 0.1

STATE = {"muon": ("momentum",), "normuon": ("momentum", "neurons"), "adamw": ("mean", "square", "steps")}
"""What the state of a parameter has, by the rule that moves it, which is the method of `MuonAdamW` of this name."""


def build(model: nn.Module, settings: OptimSettings) -> MuonAdamW:
    """The optimizer for a model whose parameters carry their group, with the rates of `settings`."""
    width: int = model.config.width  # pyright: ignore
    # AdamW's rates were tuned at width 768 and shrink with the root of the width (Yang et al. 2022, arXiv:2203.03466).
    wide = (width / 768) ** -0.5
    rates = {
        "matrix": settings.adamw_matrix_rate * wide if settings.matrices == "adamw" else settings.matrix_rate,
        "embedding": settings.embedding_rate * wide,
        "pair": PAIR_SHARE * settings.embedding_rate * wide,
        "unembedding": settings.unembedding_rate * wide,
        "scalar": settings.scalar_rate,
        "filter": settings.filter_rate,
        "residual": settings.residual_rate,
        "start": settings.start_rate,
    }
    decay = settings.weight_decay * (1.0 if settings.decay_scale is None else settings.decay_scale)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        tag = parameter.group  # pyright: ignore[reportAttributeAccessIssue]
        rate = settings.rate_share * (1.0 if settings.batch_scale is None else settings.batch_scale) * rates[tag]
        group = groups.setdefault(
            tag,
            {
                "params": [],
                "names": [],
                "kind": settings.matrices if tag == "matrix" else "adamw",
                "dtype": model.compute_dtype,
                "base_rate": rate,
                "lr": rate,
                "momentum": settings.momentum,
                "betas": (START_BETA1 if tag == "start" else settings.beta1, settings.beta2),
                "weight_decay": decay if tag == "matrix" else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    deal(model.parameters())
    return MuonAdamW(list(groups.values()))


class MuonAdamW:
    """One optimizer with two rules; a group's `kind` says which.

    It has what the loop needs of a torch optimizer without being one: making one of those imports the compiler, which takes
    longer than everything else a process does before its first step.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.param_groups = groups
        self.state: defaultdict[nn.Parameter, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, by the rate `lr` of its group."""
        for group in self.param_groups:
            getattr(self, f"_{group['kind']}")(group)

    def _muon(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in shapes.items():
            grads = [p.grad for p in parameters if p.grad is not None]
            momenta = [self._tensor(p, "momentum") for p in parameters]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov: look one step ahead
            # One pass through the matrix units for all layers, in the precision of the activations.
            updates = orthogonal(torch.stack(ahead).to(group["dtype"]))
            if group["kind"] == "normuon":
                even(updates, [self._tensor(p, "neurons") for p in parameters])
            # A tall matrix has more outputs than inputs: without this its outputs would move less (Bernstein 2025).
            rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            if group["weight_decay"]:
                decay_where_agreed(parameters, updates, group["lr"] * group["weight_decay"])
            torch._foreach_add_([p.data for p in parameters], list(updates.to(parameters[0].dtype)), alpha=-rate)

    _normuon = _muon

    def _adamw(self, group: dict[str, Any]) -> None:
        """Loshchilov and Hutter 2019, arXiv:1711.05101."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:  # of several ranks another owns all of them
            return
        state = {key: [self._tensor(each, key) for each in parameters] for key in ("mean", "square", "steps")}
        torch._foreach_add_(state["steps"], 1)
        # One pass over memory for all of them.
        torch._fused_adamw_(
            parameters,
            [each.grad for each in parameters if each.grad is not None],
            state["mean"],
            state["square"],
            [],
            state["steps"],
            amsgrad=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=1e-10,  # against 0 / 0 alone
            maximize=False,
        )

    def _tensor(self, parameter: nn.Parameter, key: str) -> Tensor:
        state = self.state[parameter]
        if key not in state:
            state[key] = blank(parameter, key)
        return state[key]

    def tensors(self) -> dict[str, Tensor]:
        """The whole state by parameter name, for a checkpoint: `blocks.0.mlp.up/momentum`. Of several ranks the first has it."""
        found = {}
        for group in self.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                for key, value in gather_state(parameter, self.state[parameter], STATE[group["kind"]]).items():
                    found[f"{name}/{key}"] = value
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; each rank takes what it owns."""
        for group in self.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                for key in STATE[group["kind"]]:
                    if (value := tensors.get(f"{name}/{key}")) is not None and owner(parameter) == number():
                        self.state[parameter][key] = value.to(parameter.device)


def even(updates: Float[Tensor, "N R C"], neurons: list[Tensor]) -> None:
    """Divide each line of each update, in place, by the root of the running mean of its squares; its size stays as it was.

    Lines are rows (a neuron's weights), but columns of a wide matrix: its rows are orthogonal and so have equal lengths anyway.

    Args:
        neurons: of each matrix the running mean, (R) or (C), which is moved on. Its bias cancels: all lines have it.

    Source: NorMuon, Li et al. 2025, arXiv:2510.05491; lines along the longer side as in nanochat.
    """
    along = -1 if updates.size(-2) >= updates.size(-1) else -2
    squares = updates.norm(dim=along, dtype=torch.float32).square()
    torch._foreach_lerp_(neurons, list(squares / updates.size(along)), 1 - NEURON_BETA)
    scales = torch.stack(neurons).clamp_min(1e-10).rsqrt()
    after = (scales.square() * squares).sum(-1, keepdim=True).clamp_min(1e-10)
    scales *= (squares.sum(-1, keepdim=True) / after).sqrt()
    updates.mul_(scales.unsqueeze(along).to(updates.dtype))


def decay_where_agreed(parameters: list[nn.Parameter], updates: Tensor, amount: float) -> None:
    """Cautious weight decay (Chen et al. 2025, arXiv:2510.12402): shrink only where the update shrinks too."""
    for parameter, update in zip(parameters, updates, strict=True):
        parameter.addcmul_(parameter, (parameter * update > 0).to(parameter.dtype), value=-amount)


def orthogonal(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """The nearest (semi-)orthogonal matrix to each: its singular values all become about 1.

    In the precision of its argument: bfloat16 is enough for an update.
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT  # x <- a x + (b gram + c gram gram) x, the sums made by the products
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
