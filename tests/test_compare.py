"""Comparisons: nothing is better than itself, chance is called chance as often as is said, and only what is alike is compared."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.cli import run
from fledge.research.compare import Group, Trained, compare, difference, t_quantile


def trained(
    bits: Sequence[float], *, seed: int = 0, speed: float = 1.0, core: float | None = None, **done: Any
) -> Trained:
    """Measured after 10, 20, ... steps of a second and 64 tokens each, or of a second / speed."""
    steps = 10.0 * np.arange(1, len(bits) + 1)
    spent = {"steps": steps, "seconds": steps / speed, "tokens": 64 * steps, "flops": 640 * steps}
    return Trained(
        run=Path(f"run-{seed}"),
        spent=spent,
        bits=bits,
        settings={"seed": seed, "model": {"heads": 2}, **done.pop("settings", {})},
        done={"held_out": "1f", "tokenizer_hash": "2e", **done},
        core=core,
    )


def group(label: str, *runs: Trained) -> Group:
    return Group(label=label, runs={one.settings["seed"]: one for one in runs})


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (29, 2.0452), (120, 1.9799)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=5e-5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_training_compared_with_itself_differs_by_exactly_nothing(seeds: int) -> None:
    same = group("a", *(trained([3.0, 2.5 + 0.1 * seed, 2.2], seed=seed) for seed in range(seeds)))
    found = compare(same, same)
    assert all(told["difference"] == 0.0 for told in found["at_equal"].values())
    assert found["verdict"] == "cannot be told apart"
    assert found["differs"] == found["warnings"] == []


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_equal_variants_the_interval_covers_0_as_often_as_it_says(seeds: int) -> None:
    """Seeds differ far more than the pairs do, as they do in trainings."""
    rng, covered, times = np.random.default_rng(0), 0, 4000
    for _ in range(times):
        common = rng.normal(2.5, 0.1, seeds)
        one, other = common + rng.normal(0, 0.01, (2, seeds))
        low, high = difference((other - one).tolist())["interval"]
        covered += low <= 0 <= high
    assert covered / times == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / times))


def test_pairs_show_what_the_noise_of_seeds_hides() -> None:
    one = group("a", *(trained([3.0, 2.5 + 0.1 * seed], seed=seed) for seed in range(3)))
    two = group(
        "b", *(trained([3.0, 2.4963 + 0.1 * seed + noise], seed=seed) for seed, noise in enumerate((0.0, 4e-4, -4e-4)))
    )
    found = compare(one, two)
    assert found["sentence"] == "b is better by .0037 ± .0010 bits per byte than a"
    assert found["interval"] == pytest.approx([-0.0037 - 0.00099, -0.0037 + 0.00099], abs=1e-5)
    assert compare(two, one)["verdict"] == "worse"


def test_equal_seconds_are_not_equal_steps() -> None:
    slow, quick = trained([3.0, 2.6, 2.4, 2.3]), trained([3.0, 2.6, 2.4, 2.3], speed=2.0)
    found = compare(group("slow", slow), group("quick", quick))["at_equal"]
    assert found["steps"]["difference"] == found["tokens"]["difference"] == found["flops"]["difference"] == 0.0
    assert found["seconds"]["difference"] == pytest.approx(2.3 - 2.6)  # 20 seconds: 40 steps as against 20
    assert (found["seconds"]["early"], found["steps"]["early"]) == (True, False)


def test_what_was_spent_before_the_first_measurement_is_not_guessed() -> None:
    long, short = trained([2.0], speed=0.1), trained([3.0, 2.5])
    found = compare(
        group("long", long), group("short", short)
    )  # 20 seconds, and at 100 the first measurement of the other
    assert found["at_equal"]["seconds"]["verdict"] == "not measured"
    assert found["at_equal"]["tokens"]["difference"] == pytest.approx(1.0)


def test_more_of_core_is_better_and_needs_both() -> None:
    one = group("a", *(trained([2.0], seed=seed, core=0.1 + 0.01 * seed) for seed in range(3)))
    two = group("b", *(trained([2.0], seed=seed, core=0.2 + 0.011 * seed) for seed in range(3)))
    assert compare(one, two)["core"]["verdict"] == "better"
    assert compare(two, one)["core"]["verdict"] == "worse"
    assert compare(one, group("c", trained([2.0])))["core"] is None


def test_what_was_measured_on_other_text_is_refused_and_other_tokenizers_and_settings_are_told() -> None:
    one = group("a", trained([2.0]))
    with pytest.raises(ValueError, match="other held-out texts, run-0 on 1f and run-0 on 9f"):
        compare(one, group("b", trained([2.0], held_out="9f")))
    with pytest.raises(ValueError, match="no seed in common: a has 0; b has 1"):
        compare(one, group("b", trained([2.0], seed=1)))
    found = compare(
        one, group("b", trained([2.0], tokenizer_hash="9f", settings={"model": {"heads": 4}, "minutes": 1}))
    )
    assert found["differs"] == ["minutes None -> 1", "model.heads 2 -> 4"]
    assert "tokenizers differ" in found["warnings"][0]


def test_the_command_ends_with_a_line_for_programs_and_prints_markdown(
    toy_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(toy_run), str(toy_run), "--markdown", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert (found["metric"], found["difference"], found["interval"]) == ("val_bits_per_byte", 0.0, None)
    assert found["verdict"] == "cannot be told apart"
    assert any(line.startswith(("| toy | 2.", "| toy | 3.")) for line in lines)
    assert run(["compare", str(toy_run)]) == 2
    assert run(["compare", str(toy_run / "nothing"), str(toy_run)]) == 2
