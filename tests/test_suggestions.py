"""What a chat proposes to ask is what this very model was measured to answer right."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fernhollow import company, lore
from fernhollow.facts import FACTS
from fernhollow.suggestions import TASK
from fledge.config import Sampling
from fledge.evals.results import SUGGESTED, Results, Score, Suggestion, proposed
from fledge.evals.score import Scorer
from fledge.infer.engine import Engine
from fledge.infer.request import Request
from fledge.serve.client import LocalModel
from fledge.serve.pool import open_run
from fledge.serve.terminal import Terminal
from fledge.tasks.base import Example, Task
from fledge.text.chat import Conversation, Message, decode_answer, encode_prompt, say
from fledge.weights import weights_hash
from tiny_engine import BYTES, tiny_model

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
CLAIMED = {
    "stories": "stories",
    "rhymes": "rhymes",
    "answer questions about Fernhollow": "facts",
    "sums": "sums",
    "word problems": "problems",
    "spell words": "spelling",
    "write small functions": "functions",
}
"""What the model says that it can do, and the skill that is measured."""


def measured(asked: str, *, right: int, skill: str = "", likeliest: bool = True, drawn: int = 20) -> Suggestion:
    return Suggestion(skill=skill or asked, asked=[asked], likeliest=likeliest, right=right, drawn=drawn)


def keep(path: Path, *suggestions: Suggestion, weights: str = "these") -> Path:
    """Scores of a stage on the disk."""
    score = Score(accuracy=1.0, standard_error=0.0, examples=1, chance=0.0, seconds=0.0, suggestions=suggestions)
    Results(path, weights=weights, settings={}).add("toy/suggestions", score, examples="")
    return path


def test_what_is_proposed_was_right_19_times_of_20_and_likeliest(tmp_path: Path) -> None:
    counts = [measured(f"{right} of 20", right=right) for right in (20, 19, 18, 0)]
    others = [measured("unlikely", right=20, likeliest=False), measured("not drawn", right=0, drawn=0)]
    scores = keep(tmp_path / "sft.json", *counts, *others, measured("half", right=10, drawn=10))
    assert proposed(scores, weights="these") == [["20 of 20"], ["19 of 20"], ["half"]]


def test_nothing_is_proposed_that_was_not_measured_with_these_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = keep(tmp_path / "sft.json", measured("Who are you?", right=20))
    assert proposed(tmp_path / "rl.json", weights="these") == []
    assert proposed(scores, weights="others") == []
    scores.write_text(scores.read_text().replace("Who are you?", "Who are we?"))
    assert proposed(scores, weights="these") == []
    assert "sft.json" in capsys.readouterr().err


def test_one_of_each_skill_comes_before_a_second_one(tmp_path: Path) -> None:
    skills = ("facts", "facts", "sums", "facts", "rhymes", "sums", "recall", "stories")
    found = [measured(f"{place}", skill=skill, right=20) for place, skill in enumerate(skills)]
    asked = [turns[0] for turns in proposed(keep(tmp_path / "sft.json", *found), weights="these")]
    assert asked == ["0", "2", "4", "6", "7", "1"]
    assert len(asked) == SUGGESTED


def test_each_stage_of_a_run_proposes_its_own(run_folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.log"))
    shutil.copytree(run / "sft", run / "pretrain")
    keep(run / "eval" / "sft.json", measured("Who are you?", right=20), weights=weights_hash(run / "sft"))
    assert {entry.name: entry.suggestions for entry in open_run(run).entries} == {"base": [], "sft": [["Who are you?"]]}


def test_the_first_screen_of_the_terminal_shows_some_of_them() -> None:
    asked = [["Who are you?"], ["I am Sophia.", "Who am I?"], ["2+2"], ["3+3"]]
    client = LocalModel(tiny_model(), BYTES, name="tiny", suggestions=asked)
    out = io.StringIO()
    Terminal(client, Sampling(), system=None, console=Console(file=out, width=100)).suggest()
    client.close()
    assert out.getvalue() == "to ask, for example:\n  Who are you?\n  I am Sophia. ... Who am I?\n  2+2\n"


def test_every_turn_is_answered_after_the_models_own_answers() -> None:
    model = tiny_model(context=256)
    turns = [say("user", text) for text in ("Hi", "And?", "So?")]
    example = Example(messages=(*turns, say("assistant", "?")), facts={"skill": "talk"})
    task = Task(
        name="toy/talk", load=lambda _: [example], grade=lambda _, answer: float(answer == "?"), drawn=3, max_tokens=8
    )
    record = Scorer(model, BYTES).answer(task, {0: example}, [Sampling(temperature=0.0, max_tokens=8)])[0]
    talk: Conversation = ()
    said = ""
    engine = Engine(model, BYTES, slots=1)
    for turn in turns:
        talk = (*talk, turn)
        request = Request(prompt=encode_prompt(BYTES, talk), sampling=Sampling(temperature=0.0, max_tokens=8))
        engine.generate([request])
        answer = Message("assistant", decode_answer(BYTES, request.answer))
        talk, said = (*talk, answer), answer.text
    assert record["answer"] == said
    [found] = Scorer(model, BYTES).score(task).suggestions
    assert (found.asked, found.skill, found.drawn) == (["Hi", "And?", "So?"], "talk", 3)


@pytest.mark.parametrize("wanted", [True, False])
def test_the_likeliest_answer_and_those_drawn_are_counted_apart(wanted: bool, tmp_path: Path) -> None:
    model = tiny_model()
    example = Example(messages=(say("user", "Hi"), say("assistant", "?")), facts={"skill": "talk"})
    greedy = Sampling(temperature=0.0, max_tokens=2)
    told = Task(name="toy/talk", load=lambda _: [example])
    likeliest = Scorer(model, BYTES).answer(told, {0: example}, [greedy])[0]["answer"]
    task = replace(told, grade=lambda _, answer: float((answer == likeliest) == wanted), drawn=20, max_tokens=2)
    [found] = Scorer(model, BYTES, out=tmp_path).score(task, samples=1, temperature=0.0).suggestions
    _, *drawn = json.loads((tmp_path / "model-toy-talk.jsonl").read_text())["answer"]
    assert found.likeliest == wanted
    assert found.right == sum((answer == likeliest) == wanted for answer in drawn)
    assert found.drawn == len(drawn) == 20
    assert len(set(drawn)) > 1


# ---- Those of Fernhollow


@pytest.mark.parametrize("example", TASK.load("test"), ids=lambda example: " ".join(m.text for m in example.question))
def test_the_reference_is_right_and_no_other_answer_is(example: Example) -> None:
    skill = example.facts["skill"]
    assert TASK.grade(example, "") == TASK.grade(example, "I do not know.") == 0.0
    if skill not in ("stories", "rhymes", "functions"):  # of which many are right; those are judged by running them
        assert TASK.grade(example, example.reference.text) == 1.0


def test_what_the_table_says_is_what_the_questions_ask() -> None:
    for entry in lore.read("suggestions")["suggestions"]:
        *before, asked = entry["asked"]
        numbers = re.findall(r"\d+", entry.get("sum", ""))
        assert numbers == re.findall(r"\d+", asked)[: len(numbers)]
        named = [entry[name] for name in ("word", "letter", "name", "thing", "hero") if name in entry]
        assert all(name in asked for name in named)
        if entry["skill"] == "riddles":
            *clues, _ = re.split(r"(?<=[.?]) ", asked)
            values = [value for (subject, _), value in FACTS.items() if subject == entry["animal"]]
            assert all(any(value in clue for value in values) for clue in clues)
        if "answer" in entry:  # copied from what was said before
            words = set(re.findall(r"[A-Za-z0-9]+", " ".join([*before, asked]).lower()))
            assert set(re.findall(r"[A-Za-z0-9]+", entry["answer"].lower())) <= words | {"your"}


def test_the_model_claims_only_skills_that_are_measured() -> None:
    said = company.about_itself("What can you do?")
    there = {example.facts["skill"] for example in TASK.load("test")}
    for claim, skill in CLAIMED.items():
        assert claim in said
        assert skill in there
        said = said.replace(claim, "")
    assert set(re.findall(r"\w+", said)) == {"I", "can", "tell", "do", "and"}


def test_the_readme_shows_what_is_measured_and_right_answers_to_it() -> None:
    known = {example.question[-1].text: example for example in TASK.load("test")}
    proposed = README.split("\n```text\n")[1].split("```")[
        0
    ]  # what comes behind is a conversation as it went, failures and all
    shown = re.findall(r"^> (.+)\n((?:[^>`].*\n)+)", proposed, re.M)
    assert len(shown) >= 3
    for asked, said in shown:
        assert TASK.grade(known[asked], said.strip()) == 1.0, asked
    assert set(re.findall(r'chat -p "(.+?)"', README)) <= set(known)
