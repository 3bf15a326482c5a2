"""`fledge plan` says what the laws say, of any card, and every recipe can be planned."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.cli import run
from fledge.commands import PlanAhead
from fledge.model.cards import CARDS, find_card
from fledge.plan import plan
from fledge.recipes import RECIPES, WHERE
from fledge.settings import DoesNotFit
from fledge.train.estimate import Site, measure


def test_the_plan_of_depth_20_is_the_one_computed_by_hand() -> None:
    found = plan(PlanAhead(depth=20, ranks=8, card="H100", price=24.0, utilisation=0.5))
    [stage] = found["stages"]
    assert found["model"]["flops_per_token"] == pytest.approx(2.93e9, rel=0.01)
    assert (stage["batch_tokens"], stage["steps"], stage["rows"], stage["passes"]) == (2**20, 4980, 32, 2)
    assert stage["memory_bytes"]["peak"] == pytest.approx(75.4e9, rel=0.01)
    assert stage["seconds"] / 3600 == pytest.approx(1.07, rel=0.01)
    assert stage["dollars"] == pytest.approx(26, rel=0.02)


def test_twice_the_cards_take_half_the_time_and_the_same_step() -> None:
    one, two = (plan(PlanAhead(depth=12, card="H100", ranks=ranks))["stages"][0] for ranks in (2, 4))
    assert two["seconds"] == pytest.approx(one["seconds"] / 2)
    assert one["passes"] == 2 * two["passes"]
    assert one["batch_tokens"] == two["batch_tokens"]


def test_what_no_card_holds_whole_fits_in_shards() -> None:
    large = {"depth": 32, "ranks": 8, "card": "RTX 4090"}
    with pytest.raises(DoesNotFit, match="or several with --shard"):
        plan(PlanAhead(**large))
    [stage] = plan(PlanAhead(**large, shard=True))["stages"]
    assert pytest.approx(stage["memory_bytes"]["weights"], rel=0.01) == 4 * 1.745e9 / 8
    assert stage["memory_bytes"]["peak"] < find_card("RTX 4090").gigabytes * 2**30  # type: ignore[union-attr]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_planned_and_fits_where_it_was_made_for(recipe: str) -> None:
    found = plan(PlanAhead(recipe=recipe))
    assert all(stage["steps"] > 0 and stage["seconds"] for stage in found["stages"])
    if recipe in WHERE:
        assert find_card(WHERE[recipe].card) in CARDS
        assert WHERE[recipe].card in found["where"]
        assert found["stages"][0]["rows"] >= 2


def test_the_plan_is_printed_and_given_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "classic-d20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in found["stages"]] == ["pretrain", "midtrain", "sft"]
    assert found["model"]["parameters"] == pytest.approx(561e6, rel=0.01)  # as published
    assert run(["plan", "--depth", "4", "--price", "2"]) == 0
    assert re.search(r"assumes that (?:15|30)% of", " ".join(capsys.readouterr().out.split()))


def test_an_unknown_card_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--card", "H1000"]) == 2
    assert "card 'H1000' is not one of GB200, B200, GH200" in capsys.readouterr().err


@given(seconds=st.floats(1.0, 1e6), cost=st.floats(1e6, 1e12), ranks=st.integers(1, 8))
def test_a_time_reaches_as_far_as_it_takes(seconds: float, cost: float, ranks: int) -> None:
    site = Site(name="this cpu", flops=1e15, share=0.2, ranks=ranks)
    tokens, told = site.reach(seconds, cost)
    assert abs((site.seconds(tokens * cost) or 0.0) - seconds) <= (site.seconds(cost) or 0.0)
    assert f"about {tokens / 1e6:,.3g}M tokens, if 20% of 1e+03 TFLOP/s are used, as is assumed" in told
    assert replace(site, flops=None).reach(seconds, cost) == (0, told.partition(", about")[0])


@pytest.mark.parametrize(
    ("name", "card"),
    [("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
     ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA A10", None),
     ("NVIDIA H100 NVL", "H100 NVL"), ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"), ("AMD Instinct MI300X", "MI300X"),
     ("NVIDIA GH200 480GB", "GH200"), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("NVIDIA RTX 3080 Ti", None),
     ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA GeForce RTX 4090 D", None), ("NVIDIA L400", None)],
)  # fmt: skip
def test_a_card_is_known_by_whole_words_of_its_name(name: str, card: str | None) -> None:
    found = find_card(name)
    assert (found.name if found else None) == card


def test_short_texts_are_counted_and_long_ones_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        lines = [json.dumps({"text": f"{number} {place} " + "word " * 50}) for place in range(500)]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    counted = measure(str(tmp_path))
    assert counted
    assert 1980 < counted.documents < 2000  # some are for validation
    for most in (20_000, 300_000):  # within the first file, and within the third
        monkeypatch.setattr("fledge.train.estimate.MOST_CHARACTERS", most)
        about = measure(str(tmp_path))
        assert about
        assert about.tokens == pytest.approx(counted.tokens, rel=0.1)
        assert about.documents == pytest.approx(counted.documents, rel=0.1)
    assert measure("world") is None
    assert counted.told(counted.tokens * 72).endswith(": 72 epochs")
