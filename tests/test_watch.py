"""`fledge watch`: what the page is told is what the files hold, and nothing in them changes; and the page in a real Chromium."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fledge.cli import run
from fledge.console import duration
from fledge.research.curves import Lines, mean, thin
from fledge.research.watch import Watched, make_app
from fledge.runs import metrics
from fledge.storage import read_record, sealed
from test_server import serving
from test_web import Tab, browser, expect, settle  # noqa: F401  # browser is a fixture
from test_web import pytestmark as needs_chromium


def line(step: int, *, samples: bool = False, **more: float) -> str:
    draw = random.Random(step)
    found: dict[str, Any] = {
        "step": step,
        "loss_nats": 2 + 5 / step + draw.gauss(0, 0.1),
        "tokens": 100 + step,
        "seconds": 0.5,
    }
    return json.dumps(
        {**found, **more} | ({"samples": [{"prompt": f"At {step}", "text": " it said <b>so</b>."}]} if samples else {})
    )


def begin(stage: Path, *lines: str, settings: dict[str, Any] | None = None) -> Path:
    """The folder of a stage as training leaves it in its midst."""
    stage.mkdir(parents=True)
    (stage / "config.json").write_text(sealed({"settings": {"tokens": 3200, "batch_tokens": 16, **(settings or {})}}))
    (stage / "metrics.jsonl").write_text("".join(f"{each}\n" for each in lines))
    return stage


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A run whose second stage is at step 40 of 200."""
    first = begin(tmp_path / "demo" / "pretrain", *(line(step, samples=step % 25 == 0) for step in range(1, 101)))
    (first / "done.json").write_text(
        sealed({"samples": [{"prompt": "Now", "text": " the end."}], "peak_memory_bytes": 5e9})
    )
    begin(
        tmp_path / "demo" / "sft",
        *(line(step) for step in range(1, 41)),
        json.dumps({"step": 40, "val_answer_bits_per_byte": 1.25}),
    )
    (tmp_path / "demo" / "eval").mkdir()
    scores = {"scores": {"world/facts": {"accuracy": 0.84, "standard_error": 0.03, "examples": 160}}}
    (tmp_path / "demo" / "eval" / "pretrain.json").write_text(sealed(scores))
    return tmp_path / "demo"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for heads in (2, 4):
        for seed in range(15):
            folder = tmp_path / "sweep" / f"heads={heads}" / f"seed-{seed}" / "pretrain"
            lines = (line(step, loss_nats=3 + seed / 100 - heads / 10 + 1 / step) for step in range(1, 301))
            begin(
                folder,
                *lines,
                json.dumps({"step": 300, "val_bits_per_byte": 1 + seed / 100 - heads / 10}),
                settings={"heads": heads, "seed": seed},
            )
    failed = {"variant": "heads=3", "seed": 0, "state": "failed", "error": "3 heads do not divide 128"}
    told = {"sentence": "heads=4 is better by .2000 ± .0010 bits per byte than heads=2", "at": "tokens"}
    (tmp_path / "sweep" / "sweep.json").write_text(sealed({"points": [failed], "comparisons": [told]}))
    return tmp_path / "sweep"


# ---- What is read


def test_however_a_file_grows_is_torn_or_is_replaced_what_was_read_is_what_it_holds(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "metrics.jsonl"
    lines, step = Lines(path), 0
    for _ in range(120):
        what = draw.randrange(6)
        if what == 0:
            path.unlink(missing_ok=True)
        elif what == 1 and path.exists():  # as a stage that goes on from a checkpoint does, or somebody who edits it
            kept = path.read_text().splitlines(keepends=True)[: draw.randrange(60)]
            text = "".join(kept) + line(step + 1) + "\n"
            (path if draw.random() < 0.5 else path.with_suffix(".partial")).write_text(text)
            if path.with_suffix(".partial").exists():
                path.with_suffix(".partial").replace(path)
        else:
            text = "".join(
                f"{line(step := step + 1, samples=draw.random() < 0.1)}\n" for _ in range(draw.randrange(40))
            )
            with path.open("a") as file:
                file.write(text[: draw.randrange(len(text) + 1)] if what == 2 else text)
        if draw.random() < 0.7:
            lines.read()
            path.touch()
            whole = path.read_text().rpartition("\n")[0]
            (tmp_path / "whole").mkdir(exist_ok=True)
            (tmp_path / "whole" / "metrics.jsonl").write_text(whole)
            expected = metrics(tmp_path / "whole")
            curve = lines.curve("loss_nats", "step", points=10**6)
            assert curve["y"] == [each["loss_nats"] for each in expected]
            assert curve["x"] == [each["step"] for each in expected]
            assert lines.samples == [(each["step"], each["samples"]) for each in expected if "samples" in each]


def test_a_thinned_curve_keeps_first_last_and_extremes_and_invents_nothing() -> None:
    draw = np.random.default_rng(0)
    for size, points in ((1, 10), (9, 10), (11, 10), (1000, 10), (99_999, 1000), (100_000, 1000)):
        values = draw.standard_normal(size)
        kept = thin(values, points)
        assert len(kept) <= max(points, 0)
        assert {0, size - 1, int(values.argmin()), int(values.argmax())} <= {*kept.tolist()}
        assert (np.diff(kept) > 0).all()
    assert mean(np.array([1.0, 2.0, 6.0]), 2).tolist() == [1.5, 3.0, 4.0]


def test_every_number_that_is_sent_stands_in_the_files_also_where_the_page_has_zoomed(demo: Path) -> None:
    lines = {name: [each for each in metrics(demo / name) if "loss_nats" in each] for name in ("pretrain", "sft")}
    watched = Watched(demo)
    for points, low, high in ((1000, -np.inf, np.inf), (20, -np.inf, np.inf), (20, 30.5, 120.0)):
        for found in watched.curves(["loss_nats"], "step", points=points, low=low, high=high)["loss_nats"]:
            assert found["start"] == (0 if found["stage"] == "pretrain" else 100)
            there = {each["step"]: each["loss_nats"] for each in lines[found["stage"]]}
            assert all(there[x] == y for x, y in zip(found["x"], found["y"], strict=True))
            inside = [step for step in there if low <= step + found["start"] <= high]
            ends = max(1, inside[0] - 1), min(len(there), inside[-1] + 1)  # one beyond on each side
            assert (found["x"][0], found["x"][-1]) == ends
    (found,) = watched.curves(["val_answer_bits_per_byte"], "tokens", points=100, low=-np.inf, high=np.inf)[
        "val_answer_bits_per_byte"
    ]
    before, after = (sum(each["tokens"] for each in lines[name]) for name in ("pretrain", "sft"))
    assert (found["start"], found["x"], found["y"]) == (before, [after], [1.25])


def test_the_state_says_how_far_it_is_and_watching_changes_no_file(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files() -> dict[Path, Any]:
        return {
            path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in sorted(demo.rglob("*"))
        }

    before, watched = files(), Watched(demo)
    told = watched.state()
    first, second = told["runs"][0]["stages"]
    assert (first["state"], first["peak_memory_bytes"], first["samples"]) == ("done", 5e9, 5)
    assert (second["state"], second["step"], second["steps"]) == ("training", 40, 200)
    assert second["left_seconds"] == pytest.approx(160 * 0.5)
    assert second["last"]["val_answer_bits_per_byte"] == 1.25
    assert told["runs"][0]["grades"]["pretrain"]["world/facts"]["accuracy"] == 0.84
    assert [each["step"] for each in watched.samples("demo")] == [25, 50, 75, 100, 100]
    assert watched.state()["version"] == told["version"]
    assert files() == before
    monkeypatch.setattr("fledge.research.watch.LIVE_SECONDS", 0.0)
    assert watched.state()["runs"][0]["stages"][1]["state"] == "stopped"


def test_a_sweep_is_its_points_what_differs_and_what_was_found(sweep: Path) -> None:
    told = Watched(sweep).state()
    assert len(told["runs"]) == 30
    assert told["runs"][0]["name"] == "heads=2/seed-0"
    assert told["runs"][0]["differs"] == {"heads": 2, "seed": 0}
    assert told["failed"][0]["error"] == "3 heads do not divide 128"
    assert told["sentences"] == ["heads=4 is better by .2000 ± .0010 bits per byte than heads=2 at equal tokens"]


def test_what_is_no_run_is_said_in_a_sentence_and_foreign_pages_and_wrong_questions_are_refused(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["watch", str(demo / "eval")]) == 2
    assert "neither a run, nor a sweep, nor a folder of runs." in capsys.readouterr().err
    with serving(app=make_app(Watched(demo))) as url, httpx.Client(base_url=url) as client:
        assert client.get("/watch/state").json()["name"] == "demo"
        refused = client.get("/watch/state", headers={"host": "evil.example.org"})
        assert refused.status_code == 403
        assert "ssh -L" in refused.json()["error"]["message"]
        assert "serve" not in refused.json()["error"]["message"].replace("this server", "")
        for wrong in ("axis=miles", "points=1", "low=here"):
            assert client.get(f"/watch/curves?metric=loss_nats&{wrong}").status_code == 400
        assert client.get("/watch/curves").json() == {}
        once, twice = (client.get("/watch/curves?" + "&metric=loss_nats" * times).json() for times in (1, 2))
        assert once == twice


ODD: tuple[Any, ...] = (None, [], [None], "a", 7, True, 1e999, 10**400, {}, {"x": {"x": []}})


def mangled(value: Any, draw: random.Random) -> Any:
    """A value with something odd in one place of it."""
    if not value or not isinstance(value, dict | list) or draw.random() < 0.3:
        return draw.choice(ODD)
    items = dict(enumerate(value)) if isinstance(value, list) else dict(value)
    place = draw.choice([*items])
    items[place] = mangled(items[place], draw)
    return [*items.values()] if isinstance(value, list) else items


def test_whatever_stands_in_the_files_of_one_run_is_said_of_it_and_the_others_stay(sweep: Path) -> None:
    run = sweep / "heads=2" / "seed-0"
    done = {"peak_memory_bytes": 5e9, "samples": [{"prompt": "Now", "text": " the end."}]}
    score = {"accuracy": 0.84, "standard_error": 0.03, "examples": 160}
    files: dict[Path, Any] = {
        run / "pretrain/config.json": {
            "settings": {"steps": 300, "minutes": None, "data": "a:2,b", "optim": {"clip": 1}}
        },
        run / "pretrain/done.json": done,
        run / "pretrain/metrics.jsonl": json.loads(line(1, samples=True)),
        run / "eval/pretrain.json": {"scores": {"gsm8k": score}},
        run / "report.json": {"rank": {"title": "Owl", "points": 7}},
        sweep / "sweep.json": read_record(sweep / "sweep.json", advice=""),
    }
    (run / "eval").mkdir()
    good, draw = Watched(sweep).state(), random.Random(0)
    with serving(app=make_app(Watched(sweep))) as url, httpx.Client(base_url=url, timeout=60) as client:
        # Of what has a hash in it all is refused alike; of the metrics, which have none, each line is judged.
        for path, right in [pair for pair in files.items() for _ in range(60 if pair[0].suffix == ".jsonl" else 2)]:
            for each, content in files.items():
                write = json.dumps if each.suffix == ".jsonl" or each == path else sealed
                each.write_text(write(mangled(right, draw) if each == path else content) + "\n")
            told = client.get("/watch/state").json()
            for one, other in zip(told["runs"][1:], good["runs"][1:], strict=True):
                assert one | {"differs": {}} == other | {"differs": {}}, path.read_text()
            for name in ("loss_nats", "gradient_norm"):
                assert client.get(f"/watch/curves?metric={name}&axis=seconds").status_code == 200
            assert client.get("/watch/samples?run=heads%3D2/seed-0").status_code == 200


def test_what_differs_is_not_what_one_run_does_not_say(sweep: Path) -> None:
    (sweep / "heads=2" / "seed-0" / "pretrain" / "config.json").write_text("[]")
    first, second, *_ = Watched(sweep).state()["runs"]
    assert first["differs"] == {"heads": None, "seed": None}
    assert second["differs"] == {"heads": 2, "seed": 1}


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("sft/config.json", "[]", "list found, but one object {...} was written"),
        ("sft/config.json", '{"settings": {"steps": "40"}}', "before there was a hash in it, or edited"),
        ("pretrain/config.json", '{"seal": "0", "settings": {"data": "a,a"}}', "damaged or edited"),
        ("sft/done.json", "null", "NoneType found, but one object {...} was written"),
        ("sft/done.json", '{"samples": [3]', "not JSON"),
        ("sft/metrics.jsonl", '{"step": "1"}\n[1]\n', "lines left out that are not numbers with a step: 2"),
        ("sft/metrics.jsonl", '{"step": 1, "seconds": NaN}\n', "lines left out that are not numbers with a step: 1"),
    ],
)
def test_a_run_that_cannot_be_read_says_where_and_why(demo: Path, file: str, text: str, why: str) -> None:
    (demo / file).write_text(text)
    (told,) = Watched(demo).state()["runs"][0]["unreadable"]
    assert told.startswith(f"{file}: ")
    assert why in told


# ---- The page


@pytest.fixture
def watch(browser: Any) -> Iterator[Any]:  # noqa: F811
    """Opens the page of a folder; afterwards no script failed and nothing but the server was asked."""
    tab = Tab(browser)

    def open_it(folder: Path, url: str) -> Any:
        page = tab.open(url + "/")
        page.wait_for_selector("body.ready")
        return page

    yield open_it
    tab.context.close()
    assert not tab.wrong


@needs_chromium
def test_the_page_shows_a_run_as_it_goes_on(watch: Any, demo: Path) -> None:
    with serving(app=make_app(Watched(demo))) as url:
        page = watch(demo, url)
        expect(page.locator(".stage").nth(1)).to_contain_text("1m 20s left")
        expect(page.locator("#grades")).to_contain_text("0.84")
        expect(page.locator(".samples")).to_contain_text("Now the end.")
        chart = page.locator("[data-chart=loss_nats]")
        box = chart.locator(".u-over").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 20)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        expect(chart.locator("output")).to_contain_text("pretrain")
        lengths = [10, 59.6, 239.6, 3599.7, 5000]
        ask = "async all => { const { duration } = await import('/js/plot.js'); return all.map(duration) }"
        assert page.evaluate(ask, lengths) == [duration(each) for each in lengths]
        told = re.search(r"step (\d+): ([\d.]+)", chart.locator("output").inner_text())
        assert told
        there = {each["step"]: each["loss_nats"] for each in metrics(demo / "pretrain")}
        assert float(told[2]) == pytest.approx(there[int(told[1])], rel=1e-5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 20, steps=3)
        page.mouse.up()
        page.get_by_text("Show all").click()
        expect(page.get_by_text("Show all")).to_have_count(0)
        page.get_by_label("Sample").fill("0")
        expect(page.locator(".samples")).to_contain_text("At 25 it said <b>so</b>.")
        with (demo / "sft" / "metrics.jsonl").open("a") as file:
            file.write("".join(f"{line(step)}\n" for step in range(41, 101)))
        expect(page.locator(".stage").nth(1)).to_contain_text("50s left")
        shutil.rmtree(demo)
        expect(page.get_by_role("alert")).to_contain_text("neither a run")


@needs_chromium
def test_the_page_shows_a_sweep_whose_table_sorts_and_hides(watch: Any, sweep: Path) -> None:
    with serving(app=make_app(Watched(sweep))) as url:
        page = watch(sweep, url)
        first = page.locator("#points tbody tr").first
        expect(page.locator(".multiples .chart")).to_have_count(2)
        expect(first).to_contain_text("heads=4/seed-0")
        page.get_by_role("button", name="val_bits_per_byte").click()
        expect(first).to_contain_text("heads=2/seed-14")
        expect(page.get_by_text("heads=3 seed 0 failed: 3 heads do not divide 128")).to_be_visible()
        first.click()
        expect(first).to_have_class("off")
        settle(page)
