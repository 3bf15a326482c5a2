"""Comparisons: nothing is better than itself, chance is called chance as often as is said, and only what is alike is compared."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.cli import run
from fledge.evals.student import t_quantile
from fledge.research.compare import (
    compare,
    compared,
    difference,
    frontier,
    multiple,
    multiplier,
    remarks,
    sentence,
    table_of,
)
from fledge.research.groups import Group, Trained, arms_of, groups_of
from fledge.storage import sealed


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
    assert sentence(found | found["at_equal"]["seconds"]) == "short and long were not measured"
    pairs = [(group("long", long), group("short", short))]
    assert "?" in table_of(pairs, [found])[1][1]
    assert any(line.startswith("?: unknown, as one was first measured after") for line in remarks(pairs, [found]))


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


def ladder(label: str, *, saves: float = 1.0, seeds: int = 3, budgets: Sequence[float] = (1, 3, 10)) -> list[Group]:
    """Trainings that end where the law 3 C^-.1 is after `saves` times the steps, give or take a seed."""
    rungs = [(budget, np.linspace(1, 10 * budget, 4) / budget) for budget in budgets]
    return [
        group(
            f"{label}/{budget}",
            *(
                replace(
                    trained([3.0] * 3 + [3 * (saves * budget * (1 + seed / 9)) ** -0.1], seed=seed),
                    spent={"flops": shape * budget, "seconds": shape, "tokens": shape, "steps": shape},
                )
                for seed in range(seeds)
            ),
        )
        for budget, shape in rungs
    ]


def test_over_a_ladder_what_is_saved_is_a_multiple_of_compute() -> None:
    base, other = ladder("a"), ladder("b", saves=1.25)
    found = multiplier(list(zip(base, other, strict=True)))
    assert found["multiplier"] == pytest.approx(1.25, rel=1e-6)
    assert (found["inside"], found["rungs"], found["verdict"]) == (
        6,
        9,
        "better",
    )  # the largest ends below all of the other
    same = multiplier([(one, one) for one in base])
    assert (same["multiplier"], same["interval"], same["verdict"]) == (1.0, [1.0, 1.0], "cannot be told apart")
    apart = multiplier(list(zip(base, ladder("b", saves=1e3), strict=True)))
    assert (apart["multiplier"], apart["inside"]) == (None, 0)
    assert "unknown" in multiple("b", apart)


def test_what_ends_worse_than_something_cheaper_is_no_end_of_a_ladder() -> None:
    runs = [one.runs[0] for one in ladder("a", seeds=1)]
    worse = replace(runs[1], bits=[3.0, 3.0, 3.0, 3.001])
    assert frontier([*runs, worse])[0].tolist() == frontier(runs)[0].tolist()
    assert frontier([runs[0], worse, runs[2]])[0].tolist() == [10.0, 100.0]


def test_rungs_of_two_sweeps_are_compared_with_each_other_and_of_one_with_its_baseline(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"d=1,base": "d=1,base", "d=1,wide": "d=1,base", "d=2,base": "d=2,base", "d=2,wide": "d=2,base"}
    for sweep in ("one", "two"):
        for variant in variants:
            (tmp_path / sweep / variant).mkdir(parents=True)
            (tmp_path / sweep / variant / "seed-0").symlink_to(toy_run)
        points = [{"variant": name, "against": base, "state": "done"} for name, base in variants.items()]
        (tmp_path / sweep / "sweep.json").write_text(sealed({"points": points}))
    one, two = (tmp_path / sweep for sweep in ("one", "two"))
    assert {arm: [(a.label, b.label) for a, b in pairs] for arm, pairs in arms_of([one]).items()} == {
        "wide": [("d=1,base", "d=1,wide"), ("d=2,base", "d=2,wide")]
    }
    (pairs,) = arms_of([one, two]).values()
    assert [(a.label, b.label) for a, b in pairs] == [(f"one/{name}", f"two/{name}") for name in variants]
    assert list(arms_of([toy_run, one])) == [""]
    assert run(["compare", str(one), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["multipliers"]["wide"]["multiplier"] == 1.0


def test_what_has_the_same_last_name_is_told_apart_by_the_one_before(toy_run: Path, tmp_path: Path) -> None:
    for folder in ("one/same", "two/same"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "seed-0").symlink_to(toy_run)
        points = [{"variant": "seed-0", "against": "seed-0", "state": "done"}]
        (tmp_path / folder / "sweep.json").write_text(sealed({"points": points}))
    one, two = tmp_path / "one/same", tmp_path / "two/same"
    for paths, ends in (((one / "seed-0", two / "seed-0"), "seed-0"), ((one, two), "seed-0")):
        ((base, other),) = arms_of(paths)[""]
        assert (base.label, other.label) == (f"one/same/{ends}", f"two/same/{ends}")
    assert [each.label for each in arms_of([one / "seed-0", toy_run])[""][0]] == ["seed-0", toy_run.name]


def test_a_sweep_that_is_not_finished_is_called_so_and_its_variants_are_named(tmp_path: Path) -> None:
    for name in ("wide/seed-0", "flat/seed-0", "flat/seed-1"):
        (tmp_path / "sweep" / name / "pretrain").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"a sweep that is not finished; .*sweep/flat, .*sweep/wide$"):
        groups_of(tmp_path / "sweep")


def test_the_page_has_table_curves_and_the_difference_of_the_code(tmp_path: Path) -> None:
    made_by = [
        {"code": code, "commit": f"{code}+changes", "changes": f"+x = {code!r}\n~~~\n```\n"} for code in ("c1", "c2")
    ]
    one, two = (
        group(label, replace(trained([3.0, 2.5 - n / 10, 2.2]), made_by=made_by[n])) for n, label in enumerate("ab")
    )
    compared({"": [(one, two)]}, out=tmp_path)
    text, html = ((tmp_path / f"compare.{kind}").read_text() for kind in ("md", "html"))
    assert "| b | 2.2000 |" in text
    assert "    +x = 'c2'" in text
    assert html.count("<svg") == 2
    assert html.count("<pre>") == 1
    assert "not all were trained by the same code" in text
    compared({"": [(one, one)]}, out=tmp_path)
    assert "## Code" not in (tmp_path / "compare.md").read_text()


def test_the_command_ends_with_a_line_for_programs_and_writes_a_page(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(toy_run), str(toy_run), "--out", str(tmp_path / "page"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["metric"], found["difference"], found["interval"]) == ("val_bits_per_byte", 0.0, None)
    assert found["verdict"] == "cannot be told apart"
    assert (tmp_path / "page" / "compare.md").read_text().count("\n| toy | ") == 2
    assert run(["compare", str(toy_run)]) == 2
    assert run(["compare", str(toy_run / "nothing"), str(toy_run)]) == 2
