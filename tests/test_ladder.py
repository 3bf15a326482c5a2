"""Laws of a ladder: known ones are found, within their interval as often as it says, and of too little nothing is concluded."""

from __future__ import annotations

import json
import math
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from fledge.cli import run
from fledge.commands import Sweep
from fledge.evals.ladder import BITS, Law, Rung, fit, next_dollars
from fledge.research.ladder import fitted
from fledge.research.points import points_of
from fledge.runs import summary
from fledge.storage import sealed

BUDGETS = (1e17, 3e17, 1e18)
POWERS = {"parameters": 0.55, "tokens": 0.45, "depth": 0.55 / 3, BITS: -0.05}


def best(flops: float) -> float:
    """Parameters of the synthetic law."""
    return 1e6 * (flops / 1e17) ** POWERS["parameters"]


def bits(flops: float, parameters: float) -> float:
    return 1.2 * (flops / 1e17) ** POWERS[BITS] + 0.05 * math.log(parameters / best(flops)) ** 2


def rungs(*, noise: float = 0.0, seeds: int = 1, sizes: int = 4, seed: int = 0, shift: float = 1.0) -> list[Rung]:
    """A ladder of the law: sizes around the best of each budget, and tokens and depth by 6 N D and the cube."""
    rng = np.random.default_rng(seed)
    return [
        Rung(
            flops=flops,
            parameters=n,
            tokens=flops / 6 / n,
            depth=n ** (1 / 3),
            bits_per_byte=bits(flops, n) + rng.normal(0, noise),
        )
        for flops in BUDGETS
        for n in np.geomspace(0.3, 3, sizes).tolist() * seeds
        for n in [n * shift * 1e6 * (flops / 1e17) ** 0.5]
    ]


def test_a_law_without_noise_is_found() -> None:
    found = fit(rungs(noise=1e-9))
    assert {name: law.exponent for name, law in found.items()} == pytest.approx(POWERS, abs=1e-6)
    assert found["parameters"].at(1e20)[0] == pytest.approx(best(1e20), rel=1e-5)
    assert found[BITS].at(1e20)[0] == pytest.approx(bits(1e20, best(1e20)), rel=1e-5)


@pytest.mark.parametrize("seeds", [1, 2])
def test_intervals_cover_the_law_as_often_as_they_say(seeds: int) -> None:
    """Of the powers, and of what is foretold ten times ahead."""
    covered, times = dict.fromkeys([*POWERS, "ahead", "ahead in bits"], 0), 400
    for seed in range(times):
        found = fit(rungs(noise=0.002, seeds=seeds, seed=seed))
        for name, power in POWERS.items():
            covered[name] += abs(found[name].exponent - power) <= found[name].t * found[name].exponent_error
        _, low, high = found["parameters"].at(1e19)
        covered["ahead"] += low <= best(1e19) <= high
        _, low, high = found[BITS].at(1e19)
        covered["ahead in bits"] += low <= bits(1e19, best(1e19)) <= high
    slack = 4 * math.sqrt(0.95 * 0.05 / times)
    assert {name: count / times for name, count in covered.items()} == pytest.approx(
        dict.fromkeys(covered, 0.95), abs=slack
    )


def test_too_few_points_and_a_best_outside_of_them_are_refused_in_a_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"fit: sizes in budgets: 3 at 1e\+17 FLOPs, .*a law wants 4 sizes or more in each of 3"
    ):
        fit(rungs(sizes=3, seeds=2))
    with pytest.raises(ValueError, match="4 at 1e\\+17 FLOPs; a law wants"):
        fit(rungs()[:4])
    with pytest.raises(ValueError, match="of 3 budgets 0 have their fewest bits per byte within their parameters"):
        fit(rungs(shift=20.0))


def test_sizes_of_one_depth_have_no_law_of_it() -> None:
    flat = [Rung(**{**asdict(rung), "depth": 4}) for rung in rungs(noise=1e-3)]
    assert list(fit(flat)) == ["parameters", "tokens", BITS]


def test_the_next_dollars_buy_flops_at_the_price_of_the_last() -> None:
    law = Law(exponent=0.5, exponent_error=0.0, level=1e6, level_error=0.0, centre=1e17, t=2.0)
    told = next_dollars({"parameters": law, BITS: law}, flops=1e17, seconds=3600, hourly_cost=25.0)
    assert told.startswith("$100 buy 4e+17 FLOPs beside the 1e+17 that were spent.")  # four hours
    assert "5 times the middle of the ladder" in told
    assert "parameters 2.236M (2.236M to 2.236M)" in told


def test_a_sweep_writes_its_laws_and_the_report_card_says_what_the_next_dollars_buy(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "ladder"
    points = points_of(Sweep(out=str(sweep), over=("flops=1e17,3e17,1e18", "model.depth=1,2,4,8", "seed=0")))
    del points[1]  # the second seed of the first
    for point, rung in zip(points, sorted(rungs(noise=1e-3), key=lambda rung: rung.flops), strict=True):
        (stage := point.run / "pretrain").mkdir(parents=True)
        counts = {"matrix": rung.parameters / 2, "unembedding": rung.parameters / 2}
        done = {
            "parameters": counts,
            "tokens": rung.tokens,
            "val_bits_per_byte": rung.bits_per_byte,
            "total_seconds": 60.0,
        }
        (stage / "done.json").write_text(sealed(done))
    found = fitted(points, sweep, price=2.0)
    assert found["laws"]["parameters"]["exponent"] == pytest.approx(POWERS["parameters"], abs=0.05)
    (sweep / "sweep.json").write_text(sealed({"fit": found}))
    text = (sweep / "fit.md").read_text()
    assert found["next"] in text
    assert text.count("| 1e+17 |") == 4
    drawn = [ElementTree.parse(path) for path in (sweep / "plots").iterdir()]
    assert len(drawn) == 5
    other = summary(points[0].run / "pretrain") | {"held_out": "another"}
    (points[0].run / "pretrain" / "done.json").write_text(sealed(other))
    assert "measured on 2 held-out texts" in fitted(points, sweep, price=None)["error"]
    shutil.copytree(toy_run, card := tmp_path / "toy", ignore=shutil.ignore_patterns("*.safetensors"))
    assert run(["report", str(card), "--hourly-cost", "2", "--ladder", str(sweep)]) == 0
    assert "**the next $100:** $100 buy" in (card / "report.md").read_text()
    assert run(["report", str(card), "--ladder", str(sweep)]) == 2
    assert "--hourly-cost" in capsys.readouterr().err


def test_a_sweep_that_would_be_too_small_for_a_fit_is_refused_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sweep", "pretrain", "--over", "flops=1e9,2e9", "model.depth=1,2,3,4", "--fit"]) == 2
    assert "4 at 1e+09 FLOPs, 4 at 2e+09 FLOPs; a law wants" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run(["sweep", "pretrain", "--over", "model.depth=1,2,3,4", "--fit", "--json"]) == 2
    assert "sizes in budgets: none" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
