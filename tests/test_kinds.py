"""Every kind of problem before and after: what fell is noticed, what flickers is not, and harm is never kept."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.evals.kinds import Change, change, choose, choose_examples, compare, errors_allowed, paired
from fledge.tasks.base import Example

GRADES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


def graded(kinds: int, each: int) -> tuple[dict[tuple[str, str], list[int]], dict[tuple[str, int], float]]:
    """A task of so many kinds with so many problems each, all of them right."""
    found = {("t", ""): list(range(kinds * each))}
    found |= {("t", f"kind {k}"): list(range(k * each, (k + 1) * each)) for k in range(kinds)}
    return found, {("t", index): 1.0 for index in range(kinds * each)}


def test_one_kind_of_fifty_that_falls_is_named_though_the_mean_hardly_moves() -> None:
    kinds, before = graded(50, 30)
    after = before | {("t", index): 0.0 for index in range(60, 89)}
    whole, *found = compare(kinds, before, after)
    assert whole.difference == pytest.approx(-0.0193, abs=1e-4)
    assert [each.kind for each in found if each.fell] == ["kind 2"]
    assert "kind 2 1.00 -> 0.03 (-0.97 ± 0.06)" in str(found[2])


def test_eight_of_a_kind_are_enough_to_see_that_it_broke() -> None:
    kinds, before = graded(200, 8)
    found = compare(kinds, before, before | {("t", index): 0.0 for index in range(8)})
    assert [each.kind for each in found if each.fell] == ["kind 0"]


def test_kinds_that_flicker_are_said_to_fall_as_seldom_as_promised() -> None:
    rng, alarms = random.Random(0), 0
    kinds, before = graded(200, 8)
    for _ in range(40):
        first, second = ({key: float(rng.random() < 0.85) for key in before} for _ in range(2))
        alarms += any(each.fell for each in compare(kinds, first, second))
    assert alarms <= 6


@given(pairs=GRADES)
@settings(deadline=None)
def test_the_error_of_a_difference_is_that_of_its_reverse_and_never_0(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    (gain, error), (loss, other) = paired(before, after), paired(after, before)
    assert gain == pytest.approx(-loss, abs=1e-12)
    assert error == pytest.approx(other)
    assert error > 0


def test_paired_differences_of_a_known_table() -> None:
    # Agresti and Min: 3 lost, 1 won of 10 -> cells 3.5 and 1.5 of 12: sqrt(5 - 4/12) / 12.
    before, after = [1, 1, 1, 0, *[1] * 6], [0, 0, 0, 1, *[1] * 6]
    assert paired(before, after) == pytest.approx((-0.2, math.sqrt(5 - 4 / 12) / 12))


def test_the_more_kinds_are_looked_at_the_more_errors_are_allowed() -> None:
    assert errors_allowed(1) == pytest.approx(1.645, abs=1e-3)
    assert errors_allowed(200) == pytest.approx(3.481, abs=1e-3)


def test_what_could_not_be_judged_both_times_is_left_out() -> None:
    kinds, before = graded(2, 2)
    found = compare(kinds, before, {key: 1.0 for key in before if key[1] > 1})
    assert [(each.kind, each.examples) for each in found] == [("", 2), ("kind 1", 2)]


@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=6), count=st.integers(0, 20), each=st.integers(0, 8))
@settings(deadline=None)
def test_of_every_kind_some_are_chosen_or_all_there_are(counts: list[int], count: int, each: int) -> None:
    examples = [
        Example(kinds=(f"{k}", "odd" if k % 2 else "even")) for k, many in enumerate(counts) for _ in range(many)
    ]
    random.Random(0).shuffle(examples)
    chosen = choose_examples(examples, count, each=each)
    assert all(examples[index] is example for index, example in chosen.items())
    assert len(chosen) >= min(count, len(examples))
    for kind in {kind for example in examples for kind in example.kinds}:
        there = sum(kind in example.kinds for example in examples)
        assert sum(kind in example.kinds for example in chosen.values()) >= min(each, there)


OUTCOMES = st.lists(st.tuples(st.floats(-1, 1), st.booleans()), max_size=6)


@given(outcomes=OUTCOMES)
@settings(deadline=None)
def test_what_is_kept_is_better_than_the_start_harmless_and_the_best_of_that_kind(
    outcomes: list[tuple[float, bool]],
) -> None:
    def row(kind: str, gain: float, fell: bool) -> Change:
        return Change(
            task="t", kind=kind, examples=9, before=0, after=gain, difference=gain, standard_error=0.1, fell=fell
        )

    measured = {
        4 * place: [row("", gain, False), row("x", 0.0, fell)] for place, (gain, fell) in enumerate(outcomes, 1)
    }
    kept = choose(measured, task="t")
    good = {
        step: found[0].difference for step, found in measured.items() if not found[1].fell and found[0].difference > 0
    }
    assert kept == (min(step for step in good if good[step] == max(good.values())) if good else 0)


def test_a_kind_within_its_bound_has_not_fallen() -> None:
    for lost, won in product(range(9), repeat=2):
        if lost + won <= 8:
            before = [1.0] * lost + [0.0] * won + [1.0] * (8 - lost - won)
            after = [0.0] * lost + [1.0] * won + [1.0] * (8 - lost - won)
            found = change("t", "k", before, after, allowed=3.0)
            assert found.fell == (found.difference < -3 * found.standard_error)
            assert not found.fell or lost >= 5
