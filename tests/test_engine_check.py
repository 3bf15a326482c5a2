"""The architecture is written twice; a change of one alone is refused before anything is answered, scored or sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge.config import Rl
from fledge.evals.likelihood import Row, likelihoods
from fledge.evals.score import Scorer
from fledge.infer.check import TOLERANCE, difference, inference_model
from fledge.infer.engine import Engine
from fledge.model.transformer import Mlp, ModelConfig, Transformer, linear, weight
from fledge.tasks.base import Example, Task
from fledge.text.chat import say
from fledge.train.rollouts import Rollouts
from tiny_engine import BYTES, EXTRAS, tiny_model

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "windows": {"windows": "SSL", "layers": 4},
    "stream": {"residual_scales": True, "backout": True, "layers": 3},
    "sharper": {"qk_scale": 1.2, "rope_base": 100_000.0},
    "narrow heads": {"heads": 8, "kv_heads": 8, "width": 32, "smear": True},
    "all": {**EXTRAS, "heads": 4, "kv_heads": 1, "windows": "SL", "layers": 3},
}
CPU = torch.device("cpu")


class SiluMlp(Mlp):
    """Another activation function, the same weights."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(F.silu(linear(x, self.up)), self.down)


class GatedMlp(nn.Module):
    """SwiGLU, its weights under names of their own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate, self.value = (weight(96, config.width, group="matrix", std=0.1) for _ in range(2))
        self.down = weight(config.width, 96, group="matrix")

    def forward(self, x: Tensor) -> Tensor:
        return linear(F.silu(linear(x, self.gate)) * linear(x, self.value), self.down)


class Changed(Transformer):
    """What a researcher gets who changes transformer.py alone."""

    mlp: type[nn.Module] = SiluMlp

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        for block in self.blocks:
            block.mlp = self.mlp(config)


class Gated(Changed):
    mlp = GatedMlp


def changed(kind: type[Transformer] = Changed) -> Transformer:
    """As at the beginning of training, where the last matrices are 0 and every logit with them."""
    return kind(tiny_model().config).init(seed=0)


def sums() -> Task:
    examples = [Example(messages=(say("user", f"{n}+{n}?"), say("assistant", str(2 * n)))) for n in range(4)]
    return Task(name="toy/sums", load=lambda split: examples, grade=lambda *_: 1.0, max_tokens=4)


def homes() -> Task:
    examples = [Example(prompt="The fox lives in the", choices=(" den", " sea"), answer=0)]
    return Task(name="toy/homes", load=lambda split: examples, chance=0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_two_forward_passes_agree(shape: str, dtype: torch.dtype) -> None:
    config = tiny_model(**SHAPES[shape]).config
    assert difference(Transformer, config, dtype, CPU) < TOLERANCE[dtype] / 3
    inference_model(tiny_model(**SHAPES[shape]), dtype=dtype, context=8)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_changed_activation_function_is_found_in_every_precision(dtype: torch.dtype) -> None:
    assert difference(Changed, tiny_model().config, dtype, CPU) > 3 * TOLERANCE[dtype]


def test_a_model_changed_on_one_side_does_not_answer() -> None:
    with pytest.raises(
        ValueError, match=r"model/forward.py\) differs from Changed .* by [\d.]+ in the logits of 266 tokens"
    ):
        Engine(changed(), BYTES)


def test_a_weight_under_another_name_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"model/forward.py\) asks for .* no attribute 'up'.* must be changed there too"
    ):
        Engine(changed(Gated), BYTES)


def test_a_model_changed_on_one_side_is_not_scored() -> None:
    for task in (sums(), homes()):
        with pytest.raises(ValueError, match="must be changed in the other"):
            Scorer(changed(), BYTES).score(task)
    with pytest.raises(ValueError, match="must be changed in the other"):
        list(likelihoods(changed(), [Row([1, 2, 3], 1)]))


def test_a_model_changed_on_one_side_samples_no_rollouts() -> None:
    with pytest.raises(ValueError, match="must be changed in the other"):
        Rollouts(changed(), BYTES, sums(), Rl(run="", prompts=2, samples=2, steps=1))
