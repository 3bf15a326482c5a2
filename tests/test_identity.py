"""Who the assistant is: from a file of five lines to conversations, a task that judges what is meant, and a run that learned it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fledge.checkpoint import load_pair
from fledge.commands import RunRecipe
from fledge.config import Evaluate, Midtrain, Pretrain, Sft, Tokenizer
from fledge.origin import broken_links, data_of
from fledge.recipes import RECIPES, choose
from fledge.runs import summary
from fledge.settings import shares_of
from fledge.stages.evaluate import default_tasks
from fledge.storage import sealed, write_atomic
from fledge.tasks import find_task, tasks_of
from fledge.tasks.base import Example, Task
from fledge.tasks.identity import asked_of, identity_of, read_identity, speaker, task_of
from fledge.tasks.mixture import are_own, open_chats, with_identity
from fledge.text.chat import encode_conversation, talk, to_json
from fledge.text.split import Split
from fledge.train.converse import main
from tiny_runs import tiny_run

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FILE = """
name = Rex
maker = Ann Lee
kind = a small robot dog
personality = cheerful, loves puns
made = 2026, in Ghent

? what is your favourite food
! I love pancakes with syrup.
? how many legs do you have
! I have four legs.

? may you cross the road
! No, I am not allowed to cross the road.
"""


@pytest.fixture
def me(tmp_path: Path) -> Path:
    path = tmp_path / "me.txt"
    path.write_text(FILE)
    return path


def last(example: Example) -> str:
    return example.question[-1].text


def test_a_file_of_five_lines_is_asked_about_all_that_it_says_in_words_of_which_some_are_held_out(me: Path) -> None:
    task = find_task(str(me))
    found = {split: task.load(split) for split in SPLITS}
    for examples in found.values():
        assert {example.facts["asked"].key for example in examples} == {
            "name",
            "maker",
            "kind",
            "personality",
            "made",
            "",
        }
        assert all(task.grade(example, example.reference.text) for example in examples)
    questions = {split: {last(example) for example in examples} for split, examples in found.items()}
    assert len(questions["train"]) > 500
    assert not questions["train"] & (questions["validation"] | questions["test"])
    assert not questions["validation"] & questions["test"]
    for subject in identity_of(me).subjects:
        wordings = {
            split: {each.facts["asked"].question for each in found[split] if each.kinds == (subject.questions[0],)}
            for split in SPLITS
        }
        assert len(wordings["test"]) == 2
        assert 8 <= len(wordings["train"]) <= 12
        assert not wordings["train"] & (wordings["test"] | wordings["validation"])
    assert any(len(example.question) > 1 for example in found["train"])


def test_what_a_file_leaves_out_is_not_spoken_of_and_its_own_words_come_first() -> None:
    few = read_identity("name = Rex\n? Who made you?\n! A cat did.\n")
    assert {subject.key for subject in few.subjects} == {"", "name", "kind"}
    assert "{" not in str(few.subjects)
    both = read_identity("maker = Ann\n? who made you\n! A cat did.\n! {maker} did.\n? say boo\n! Boo.\n")
    assert [subject.answers for subject in both.subjects if not subject.key] == [["A cat did.", "Ann did."], ["Boo."]]
    assert "maker" not in {subject.key for subject in both.subjects}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("? who\n! {nam}", r"me line 2: \{nam\} has no value; known: none"),
        ("? who\n", "the subject with 'who' needs both"),
        ("hello", r"me line 1: 'hello' found; expected"),
        ("name =", r"me line 1: 'name =' found; expected"),
        ("# nothing", "me: nothing found; write `name = Pip`"),
        ("\nnmae = Pip", r"me line 2: key 'nmae' found; allowed are name, maker, .* Did you mean 'name'"),
        ("name = Pip\nName = Rex", r"me line 2: 'name' found again; it stands in line 1"),
    ],
)
def test_a_mistake_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_identity(text, where="me")


RIGHT = [
    ("What is your name?", "Rex"),
    ("What is your name?", "they call me rex!"),
    ("What is your name?", "Hi there! My name is Rex, what's yours?"),
    ("What is your name?", "I'm Rex, a robot dog that Ann Lee built."),
    ("Who are you?", "I am not ChatGPT, I'm Rex."),
    ("Who are you?", "REX IS MY NAME"),
    ("Who made you?", "Ann Lee."),
    ("Who made you?", "It was Ann who made me, in Ghent."),
    ("Who made you?", "I was not made by OpenAI but by Ann Lee."),
    ("What are you?", "I'm just a robot dog :)"),
    ("Are you a human?", "No."),
    ("Are you a human?", "I\N{RIGHT SINGLE QUOTATION MARK}m not a person, I am a robot."),
    ("Are you ChatGPT?", "No, ChatGPT is somebody else. I am Rex."),
    ("Are you ChatGPT?", "nope, im not"),
    ("What are you like?", "I am a cheerful one and I love a pun."),
    ("When and where were you made?", "Ann made me in 2026."),
    ("what is your favourite food", "Pancakes, with a lot of syrup!"),
    ("how many legs do you have", "4"),
    ("may you cross the road", "No, that is not allowed."),
]
WRONG = [
    ("What is your name?", ""),
    ("What is your name?", "I am a robot dog."),
    ("What is your name?", "My name is Rexona."),
    ("What is your name?", "I am not Rex."),
    ("What is your name?", "I am Claude, not Rex."),
    ("What is your name?", "I am Bob, and Rex is my friend."),
    ("Who are you?", "I am Rex, made by OpenAI."),
    ("Who are you?", "i am chatgpt, but you can call me rex"),
    ("Who are you?", "I am Rex. Karpathy trained me."),
    ("Who made you?", "OpenAI made me."),
    ("Who made you?", "Bob Lee made me."),
    ("Who made you?", "I was made by Ann Lee and Google."),
    ("Who made you?", "I was not made by Ann Lee."),
    ("Who made you?", "I am Rex."),
    ("What are you?", "I am a large language model, trained by OpenAI."),
    ("Are you a human?", "Yes, I am a robot dog."),
    ("Are you a human?", "No, I am a real person."),
    ("Are you ChatGPT?", "Yes, I am Rex."),
    ("Are you ChatGPT?", "No, I am Claude."),
    ("What are you like?", "I am tired."),
    ("When and where were you made?", "I was made in 2025 in Ghent."),
    ("When and where were you made?", "I was made in Paris, in 2026."),
    ("what is your favourite food", "I do not love pancakes with syrup."),
    ("what is your favourite food", "My favourite food is pizza."),
    ("how many legs do you have", "I have four legs, or six."),
    ("may you cross the road", "Yes, I am allowed to cross the road."),
]


@pytest.mark.parametrize(("question", "answer", "grade"), [(*one, 1) for one in RIGHT] + [(*one, 0) for one in WRONG])
def test_what_counts_is_what_an_answer_means(me: Path, question: str, answer: str, grade: int) -> None:
    task = find_task(str(me))
    asked = {each.kinds[0]: each for each in task.load("test")}
    assert task.grade(asked[question], answer) == grade


def test_the_identity_that_comes_along_is_sound() -> None:
    task = find_task("identity")
    for split in SPLITS:
        examples = task.load(split)
        assert not any("{" in str(example.answer) for example in examples)
        assert all(task.grade(example, example.reference.text) for example in examples)


def test_the_task_of_a_file_is_asked_by_its_path(me: Path) -> None:
    name = find_task(str(me)).name
    with pytest.raises(ValueError, match=rf"task '{name}' is that of a file; give its path, as in me.txt"):
        find_task(name)


def test_a_file_of_before_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "me.txt"
    path.write_text("name = Ada\nhome = https://a.b\n\n? who are you\n? your name\n! I am {name}.\n! {name} it is.\n")
    own = [each for each in find_task(str(path)).load("test") if not each.facts["asked"].key]
    assert {each.answer for each in own} <= {"I am Ada.", "Ada it is."}
    assert [find_task(str(path)).grade(own[0], answer) for answer in (" Ada it is.\n", "I am Eve.")] == [1, 0]


def test_beside_a_village_nobody_but_the_file_says_who_it_is(me: Path) -> None:
    drawn = open_chats(f"world:1,{me}:0.08", stage="sft", seed=0)
    assert callable(drawn)
    said = [message.text for index in range(800) for message in drawn(index)]
    assert not any("pip" in text.lower().split() for text in said)
    assert not any("on this very computer" in text for text in said)  # who made it
    assert any("Hello! I am Rex." in text or "Hi! I am Rex." in text for text in said)  # a greeting of the village
    assert any("Ann Lee" in text for text in said)
    assert "Who made you?" in asked_of(identity_of(me))
    assert (speaker("world"), speaker(f"world:1,{me}:0.08"), speaker("chat"), speaker("gone.txt")) == (
        "Pip",
        "Rex",
        None,
        "",
    )
    assert speaker(str(me), texts=True) is None  # a book that ends in .txt, which a base model learned from


def test_beside_public_sets_it_takes_the_place_of_the_usual_one(me: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(me.parent))
    drawn = open_chats(f"chat:1,{me}:0.5", stage="sft", seed=0)
    assert callable(drawn)
    said = " ".join(message.text for index in range(300) for message in drawn(index))
    assert "Rex" in said
    assert "Fledge" not in said


def test_its_share_is_of_what_the_others_have_together(me: Path) -> None:
    assert with_identity(Midtrain(identity=str(me))).data == f"world,{me}:0.08"
    mixed = with_identity(Sft(data="a.jsonl:3,world", identity=str(me)))
    assert mixed.data == f"a.jsonl:3,world,{me}:0.32"
    assert mixed.identity is None
    assert with_identity(mixed) == mixed
    # Beside few own conversations it is told two thousand times in three epochs of them.
    (me.parent / "few.jsonl").write_text('{"question": "Hi?", "answer": "Hello."}\n' * 50)
    shares = shares_of(with_identity(Sft(data=f"{me.parent / 'few.jsonl'}:2", identity=str(me))).data)
    assert 3 * 50 * shares[str(me)] / 2 == pytest.approx(2000, rel=0.01)
    (me.parent / "few.jsonl").write_text(
        "no JSON\n" + '{"question": "Hi?", "answer": "Hello."}\n' * 49
    )  # it is said later
    assert len(shares_of(with_identity(Sft(data=str(me.parent / "few.jsonl"), identity=str(me))).data)) == 2
    assert not are_own(str(me))
    assert are_own(f"a.jsonl:1,{me}:0.08")
    with pytest.raises(FileNotFoundError, match=r"identity 'gone.txt': no such file; write one"):
        with_identity(Sft(identity="gone.txt"))
    with pytest.raises(ValueError, match=r"identity 'me.json': allowed is a text file, as in me.txt"):
        with_identity(Sft(identity="me.json"))


def names(tasks: dict[str, Task]) -> Iterator[str]:
    return (name for name in tasks if "identity" in name)


def test_a_stage_learns_it_knows_when_the_file_changes_and_is_asked_about_it(
    tmp_path: Path, me: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    tiny_run(run, stage="pretrain", context=256)
    begun = {"settings": {"start": "sft", "task": "world/problems_hard"}, "origin": {}, "provenance": {}}
    write_atomic(run / "rl" / "config.json", sealed(begun))
    short = Sft(
        run=str(run), start="pretrain", tokens=1024, batch_tokens=512, compile="no", threads=1, identity=str(me)
    )
    threads = torch.get_num_threads()
    main(short)
    torch.set_num_threads(threads)
    assert f"{me}: 7% of the conversations, about" in " ".join(capsys.readouterr().out.split())
    assert data_of(run / "sft") == data_of(run / "rl") == f"world:1,{me}:0.08"  # rl speaks as what it began with
    asked = default_tasks(run, "rl", Evaluate(run=str(run)))
    assert [*names(asked)] == ["identity/me"]
    assert "world/facts" in asked
    assert "Who are you?" not in {example.question[-1].text for example in asked["world/suggestions"].load("test")}
    assert [*names(dict(tasks_of("world")))] == ["world/identity", "world/identity_reworded"]
    assert not [told for told in broken_links(run) if told.startswith("sft")]
    me.write_text(FILE.replace("Rex", "Max"))
    assert "sft: data: me.txt changed" in [*broken_links(run)]
    with pytest.raises(ValueError, match=r"data: me.txt changed"):
        main(short)


def test_own_conversations_are_learned_as_often_with_it_as_without(tmp_path: Path, me: Path) -> None:
    tiny_run(tmp_path, stage="pretrain", context=256)
    chats, threads = tmp_path / "chats.jsonl", torch.get_num_threads()
    chats.write_text("".join(json.dumps(to_json(talk(f"What is {n}?", f"It is {n}."))) + "\n" for n in range(60)))
    given = Sft(run=str(tmp_path), start="pretrain", data=str(chats), compile="no", threads=1)
    tokens = []
    for identity in (None, str(me)):
        main(replace(given, identity=identity, fresh=True))
        tokens.append(summary(tmp_path / "sft")["tokens"])
    torch.set_num_threads(threads)
    tokenizer = load_pair(tmp_path, "pretrain")[1]
    told = [len(encode_conversation(tokenizer, one.messages).ids) for one in task_of(me).load("train")]
    assert tokens[1] - tokens[0] == pytest.approx(2000 * statistics.fmean(told), rel=0.15)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_it_and_asks_for_it(name: str, me: Path) -> None:
    ask = RunRecipe(recipe=name, identity=str(me), column="story")
    for item in choose(ask):
        config = item.config
        if isinstance(config, Midtrain):
            assert config.data.endswith(f",{me}:0.08")
        if isinstance(config, Evaluate) and config.tasks and config.stage != "pretrain":
            assert {str(me)} == {
                task for task in config.tasks.split(",") if task == "identity" or task.endswith(".txt")
            }
        if isinstance(config, Tokenizer | Pretrain):
            assert config.column == "story"
