"""The report card: every number from the run's files, honest grades, plots that are drawings."""

from __future__ import annotations

import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fledge.commands import TRAINED
from fledge.console import duration
from fledge.evals.card import markdown, sentences
from fledge.evals.grades import GRADES, LEVELS, PAR, RANKS, article, grade, level_ups, par_flops, rank, subjects
from fledge.evals.page import literal
from fledge.evals.plots import line_plot, powers, thinned, ticks
from fledge.evals.reinforcement import course, course_lines, kind_lines
from fledge.evals.report import gains, gather, real_text, write
from fledge.evals.results import Score
from fledge.runs import begun, summary
from fledge.storage import read_json, read_record, sealed, write_atomic
from fledge.text.datasets import MODULES

POINTS = st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), max_size=30)


@pytest.fixture
def run(toy_run: Path, tmp_path: Path) -> Path:
    """A copy of the toy run's files, without its weights."""
    copy = tmp_path / "toy"
    shutil.copytree(toy_run, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    return copy


def numbers(value: Any) -> Iterator[float]:
    """Every number in JSON data."""
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


def test_a_finished_run_has_a_report_of_every_stage(toy_run: Path) -> None:
    card = read_json(toy_run / "report.json")
    assert list(card["stages"]) == ["tokenizer", *TRAINED]
    assert list(card["scores"]) == list(TRAINED)
    assert set(card["seconds"]) == {"tokenizer", *TRAINED, *(f"evaluate {stage}" for stage in TRAINED)}
    assert all(seconds > 0 for seconds in card["seconds"].values())
    assert card["total_seconds"] == pytest.approx(sum(card["seconds"].values()), abs=0.6)
    assert {"commit", "started", "seed", "tokenizer_hash", "held_out", "machine"} <= set(card["provenance"])
    assert {"rl"} == {gain["after"] for gain in card["gains"]} - {"midtrain", "sft"}


def test_report_json_holds_every_number_of_report_md(toy_run: Path) -> None:
    card = read_json(toy_run / "report.json")
    known, words = list(numbers(card)), "\n".join(texts(card))
    lines = (toy_run / "report.md").read_text().splitlines()
    shown = [line for line in lines if line.startswith(("| ", "- **", "RL "))]
    assert len(shown) > 15
    for line in shown:
        if line.startswith("- **time:**"):
            continue  # total_seconds in words
        for word in re.findall(
            r"(?<![\w./+-])[-+]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?(?!\w)", line.replace(" of 1000 points", "")
        ):
            if word in words:
                continue  # part of a name, a hash or a version
            mantissa, _, power = word.partition("e")
            digits = len(mantissa.partition(".")[2]) - int(power or 0)
            value = float(word.replace(",", ""))
            assert any(abs(value - other) <= 0.51 * 10.0**-digits for other in known), f"{word} in: {line}"


def test_a_report_without_scores_and_plots_has_no_headings_of_nothing(run: Path) -> None:
    shutil.rmtree(run / "eval")
    text = markdown(gather(run), [])
    assert text.count("\n## ") > 1
    assert not re.search(r"^#.*\n\s*(#|\Z)", text, re.MULTILINE)
    assert "## Subjects" not in text


def test_the_scores_of_the_report_are_those_of_the_evaluations(toy_run: Path) -> None:
    card = read_json(toy_run / "report.json")
    for stage in TRAINED:
        assert card["scores"][stage] == read_json(toy_run / "eval" / f"{stage}.json")["scores"]
        done = summary(toy_run / stage)
        assert card["stages"][stage] == done
        assert card["seconds"][stage] == pytest.approx(done["total_seconds"], abs=0.051)
    for task, subject in card["subjects"].items():
        last = next(stage for stage in reversed(TRAINED) if task in card["scores"][stage])
        assert (subject["stage"], subject["accuracy"]) == (last, card["scores"][last][task]["accuracy"])


def test_the_time_of_a_stage_is_the_sum_of_its_parts(toy_run: Path) -> None:
    for stage in TRAINED:
        done = read_json(toy_run / stage / "done.json")
        assert {"data", "forward", "backward", "optimizer", "save"} <= set(done["seconds"])
        assert done["total_seconds"] == pytest.approx(sum(done["seconds"].values()), abs=0.01)


def test_grades_begin_at_their_bounds() -> None:
    bounds = [(bar, letter) for bar, letter in GRADES if math.isfinite(bar)]
    assert [letter for _, letter in bounds] == ["S", "A", "B", "C", "D"]
    for (bar, letter), below in zip(bounds, ["A", "B", "C", "D", "F"], strict=True):
        assert grade(bar) == letter
        assert grade(bar - 1e-9) == below
    assert grade(1.0) == "S"
    assert grade(-0.3) == "F"


@given(one=st.floats(-1, 1), two=st.floats(-1, 1))
@settings(deadline=None)
def test_a_better_score_never_has_a_worse_grade(one: float, two: float) -> None:
    order = [letter for _, letter in GRADES]
    low, high = sorted((one, two))
    assert order.index(grade(high)) <= order.index(grade(low))


def score(accuracy: float, *, chance: float = 0.0, error: float = 0.01) -> Score:
    return Score(accuracy=accuracy, standard_error=error, chance=chance, examples=100, seconds=1.0)


def test_guessing_earns_an_f_and_the_last_stage_scored_counts() -> None:
    found = subjects({
        "sft": {"choice": score(0.25, chance=0.25), "facts": score(0.2)},
        "rl": {"facts": score(0.9)},
    })  # fmt: skip
    assert (found["choice"]["centered"], found["choice"]["grade"]) == (0.0, "F")
    assert (found["facts"]["stage"], found["facts"]["grade"]) == ("rl", "A")


def test_the_rank_is_that_of_the_mean_and_worse_than_guessing_counts_as_guessing() -> None:
    found = rank({"a": {"centered": 0.9}, "b": {"centered": -0.5}})
    assert (found["title"], found["points"]) == ("nestling", 450)
    assert (rank({})["title"], rank({})["points"]) == ("egg", 0)
    assert [rank({"a": {"centered": max(0.0, bar)}})["title"] for bar, _ in RANKS] == [title for _, title in RANKS]


def test_core_counts_once_in_the_rank() -> None:
    core = {
        "core": {"centered": 0.2},
        "core_v2": {"centered": 0.1},
        **{f"core/{n}": {"centered": 0.0} for n in range(22)},
    }
    assert rank({**core, "gsm8k": {"centered": 0.4}})["points"] == 300


@pytest.mark.parametrize(("flops", "bits"), PAR)
def test_a_model_of_real_text_is_ranked_by_the_compute_that_par_needs_for_its_bits(flops: float, bits: float) -> None:
    assert par_flops(bits) == pytest.approx(flops)
    for doublings, counts in LEVELS:
        assert rank({}, flops=flops / 2**doublings, bits=bits)["points"] == pytest.approx(1000 * counts, abs=1)


def test_the_bits_of_any_generated_data_set_are_not_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "sums", "sums")
    done = {"pretrain": {"flops_per_token": 2.0, "tokens": 3, "val_bits_per_byte": 1.5}}
    for data, found in {"texts/": {"flops": 6.0, "bits": 1.5}, "world": {}, "sums": {}, "texts/:2,sums:1": {}}.items():
        write_atomic(tmp_path / "pretrain" / "config.json", sealed({"settings": {"data": data}}))
        assert real_text(tmp_path, done) == found


@given(one=st.floats(0.51, 7.9), two=st.floats(0.51, 7.9))
@settings(deadline=None)
def test_fewer_bits_take_more_compute(one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert par_flops(low) >= par_flops(high)
    assert par_flops(0.5) == math.inf


def test_what_a_stage_brought_is_more_than_two_errors() -> None:
    before = {"new": score(0.01), "known": score(0.6), "noise": score(0.6, error=0.1), "lost": score(0.9)}
    after = {"new": score(0.5), "known": score(0.9), "noise": score(0.7, error=0.1), "lost": score(0.4)}
    first, second = level_ups({"midtrain": before, "sft": after})
    assert first["first"] == ["known", "noise", "lost"]
    assert second["first"] == ["new"]
    assert [(each["task"], each["before"], each["after"]) for each in second["changed"]] == [
        ("known", "C", "A"),
        ("lost", "A", "D"),
    ]


def test_the_table_of_the_article_has_its_mean_where_all_its_tasks_were_asked() -> None:
    asked = {name: score(0.5, chance=0.25) for name in ("arc-easy", "arc-challenge", "mmlu", "gsm8k")}
    assert "chatcore" not in article({"sft": asked})
    whole = article({"sft": {**asked, "humaneval": score(0.0)}, "rl": {"gsm8k": score(0.1)}})
    assert whole["chatcore"].keys() == {"sft"}
    assert whole["chatcore"]["sft"].accuracy == pytest.approx(4 / 15)
    assert article({"sft": {"gsm8k": score(0.5)}}) == {}


def test_gains_compare_neighbouring_stages_with_the_error_of_the_difference() -> None:
    [gain] = gains({"sft": {"x": score(0.5, error=0.03)}, "rl": {"x": score(0.7, error=0.04), "y": score(1.0)}})
    assert (gain["before"], gain["after"], gain["task"]) == ("sft", "rl", "x")
    assert gain["gain"] == pytest.approx(0.2)
    assert gain["standard_error"] == pytest.approx(0.05)


def test_what_rl_cost_elsewhere_stands_beside_what_it_gained() -> None:
    before = {"hard": score(0.4), "easy": score(0.9), "other": score(0.9)}
    after = {"hard": score(0.6), "easy": score(0.7), "other": score(0.89)}
    card = {"stages": {"rl": {"task": "hard"}}, "gains": gains({"sft": before, "rl": after})}
    assert sentences(card) == [
        "RL changed hard by +0.200 ± 0.014 on the test split: significant.",
        "It cost elsewhere: easy -0.200 ± 0.014.",
    ]


def test_the_report_tells_how_answers_were_at_first_and_at_last() -> None:
    lines = [
        {"step": n, "learned_groups": 2, "reward": n / 10, "samples": [sample(f"q{n}")]}
        | ({"mismatch_nats": 0.5} if n > 5 else {})
        for n in range(10)
    ]
    found = course([{"step": 3, "validation": 0.5}, *lines])
    assert found["means"]["reward"] == pytest.approx([0.1, 0.8])
    assert "mismatch_nats" not in found["means"]  # not known of the first
    done = {"rl": {"pass_at": {"before": {"1": 0.25, "8": 0.5}, "after": {"1": 0.75, "8": 1.0}}}}
    text = "\n".join(course_lines({"course": found, "stages": done}))
    for said in (
        "| reward | 0.1 | 0.8 |",
        "| pass@8 | 0.500 | 1.000 |",
        "| first | q0 | good | 1.0 |",
        "| last | q9 | bad | 0.0 |",
    ):
        assert said in text
    assert course_lines({"course": course([]), "stages": done}) == []


def sample(asked: str) -> dict[str, Any]:
    return {"asked": asked, "answers": [{"text": "good", "reward": 1.0}, {"text": "bad", "reward": 0.0}]}


def test_a_run_without_a_finished_stage_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no finished stage found, so there is nothing to report. `fledge run`"
    ):
        gather(tmp_path / "nothing")


@pytest.mark.parametrize("missing", [["rl", "eval/rl.json"], ["rl", "sft", "midtrain", "pretrain", "eval"], ["eval"]])
def test_a_run_that_is_not_finished_has_a_report_of_what_there_is(run: Path, missing: list[str]) -> None:
    for name in missing:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        else:
            (run / name).unlink()
    card = gather(run)
    write(card, run)
    assert read_record(run / "report.json", advice="") == json.loads(json.dumps(card))
    assert "# Report card: toy" in (run / "report.md").read_text()


def test_a_run_started_when_its_first_stage_did(run: Path) -> None:
    started = [begun(run / name)["provenance"]["started"] for name in ("tokenizer", *TRAINED)]
    assert gather(run)["provenance"]["started"] == min(started) < max(started)


def test_of_many_kinds_those_that_fell_and_the_worst_others_are_shown() -> None:
    kinds = [
        {"task": "t", "kind": f"kind {n}" if n else "", "examples": 8, "before": 1.0, "after": 1 - n / 100}
        | {"difference": -n / 100, "standard_error": 0.005, "fell": False}
        for n in range(40)
    ]
    done = {"kinds": kinds, "kept_step": 4, "shown_step": 4, "fallen": {}}
    text = "\n".join(kind_lines({"stages": {"rl": done}}))
    assert "No kind fell" in text
    assert [n for n in range(40) if f"| t: kind {n} |" in text] == [*range(32, 40)]
    for each in kinds[1:]:
        each["fell"] = True
    text = "\n".join(kind_lines({"stages": {"rl": done}}))
    assert "No kind fell" not in text
    assert all(f"| t: kind {n} |" in text for n in range(1, 40))


def test_the_cost_is_the_hours_times_the_rate(run: Path) -> None:
    card = gather(run, hourly_cost=3600.0)
    assert card["cost_dollars"] == pytest.approx(card["total_seconds"], abs=0.06)
    assert gather(run)["cost_dollars"] is None
    write(card, run)
    assert f"- **cost:** ${card['cost_dollars']}" in (run / "report.md").read_text()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)
        for name, value in attrs:
            assert name != "src" or not (value or "").startswith("http"), value

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_closes_what_it_opens_and_loads_nothing(toy_run: Path) -> None:
    page = Tags()
    page.feed((toy_run / "report.html").read_text())
    assert page.open == []
    assert {"table", "svg", "ul", "blockquote"} <= page.seen
    assert "script" not in page.seen


def test_what_a_model_writes_cannot_leave_its_place_in_the_page(run: Path) -> None:
    card = gather(run)
    text = (
        "</blockquote><script>2</script>\n# A\n![x](http://example.org/x.png)\n- one\n    code\n| a | b |\n|--|--|\n==="
    )
    card["stages"]["pretrain"]["samples"] = [{"prompt": "<script>1</script>", "text": text}]
    card["conversations"] = [{"task": "t", "asked": "a | b", "answer": text, "correct": 0.0}]
    write(card, run)
    page = Tags()
    page.feed((run / "report.html").read_text())
    assert page.open == []
    assert page.seen.isdisjoint({"script", "img", "a", "code", "pre", "ol"})
    assert (run / "report.html").read_text().count("<h1>") == 1


@given(text=st.text(alphabet="ab -+=1.)#*_`~<>[]()!|&\\\n\t", max_size=40))
@settings(deadline=None)
def test_a_text_made_literal_is_shown_as_it_is(text: str) -> None:
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(f"> x{literal(text)}")
    shown = Tags()
    shown.feed(html)
    assert shown.seen <= {"blockquote", "p", "br"}
    bare = re.sub(r"\s+", "", "".join(shown.text))
    assert bare == re.sub(r"\s+", "", f"x{text}")


def test_the_plots_of_the_report_are_there_and_well_formed(toy_run: Path) -> None:
    named = re.findall(r"\]\((plots/.*?\.svg)\)", (toy_run / "report.md").read_text())
    assert {"plots/pretrain-loss_nats.svg", "plots/pretrain-val_bits_per_byte.svg", "plots/rl-reward.svg"} <= set(named)
    for name in named:
        ElementTree.fromstring((toy_run / name).read_text())


@given(points=POINTS, title=st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"]), max_size=20))
@settings(deadline=None, max_examples=60)
def test_any_series_is_drawn_inside_the_frame_as_well_formed_svg(points: list[tuple[int, float]], title: str) -> None:
    svg = line_plot(title + "b<&>", {"one": points, "two<": points[:3]}, dots={"one": points[:2]}, x="step", y="nats")
    if not points:
        assert svg == ""
        return
    root = ElementTree.fromstring(svg.encode("utf-8", "xmlcharrefreplace"))
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_what_is_not_finite_is_left_out_of_a_plot() -> None:
    assert line_plot("t", {"": [(1, math.nan), (2, math.inf)]}, x="x", y="y") == ""
    assert "nan" not in line_plot("t", {"": [(1, math.nan), (2, 1.0), (3, 2.0)]}, x="x", y="y")


def test_curves_of_a_run_have_tokens_below_and_time_above(toy_run: Path) -> None:
    tokens, seconds, _ = gather(toy_run)["curves"]["pretrain"]["loss_nats"][-1]
    svg = (toy_run / "plots" / "pretrain-loss_nats.svg").read_text()
    assert tokens == summary(toy_run / "pretrain")["tokens"]
    assert all(f">{label}<" in svg for label in ("tokens", "20K", duration(seconds)))


@given(low=st.floats(-1e5, 1e5), width=st.floats(0, 1e5))
@settings(deadline=None)
def test_ticks_enclose_what_they_measure_and_are_few(low: float, width: float) -> None:
    found = ticks(low, low + width)
    slack = 1e-9 * max(1.0, abs(low) + width)
    assert found[0] <= low + slack
    assert found[-1] >= low + width - slack
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


@given(low=st.floats(1e-3, 1e20), ratio=st.floats(1.0, 1e9))
def test_powers_enclose_what_they_measure_and_are_few(low: float, ratio: float) -> None:
    found = powers(low, low * ratio)
    assert 0 < found[0] <= low * (1 + 1e-9)
    assert found[-1] >= low * ratio * (1 - 1e-9)
    assert 2 <= len(found) <= 12
    assert found == sorted(set(found))


def test_ticks_of_the_docstring() -> None:
    assert powers(30, 700) == [20, 50, 100, 200, 500, 1000]
    assert ticks(0.3, 7.2) == [0, 2, 4, 6, 8]


@given(points=st.lists(st.floats(-10, 10), min_size=1, max_size=2000))
@settings(deadline=None, max_examples=30)
def test_thinning_stays_within_the_values_and_keeps_the_end(points: list[float]) -> None:
    drawn = thinned(list(enumerate(points)), most=100)
    assert len(drawn) <= 100
    assert all(min(points) - 1e-6 <= y <= max(points) + 1e-6 for _, y in drawn)
    assert drawn[-1][0] == len(points) - 1
