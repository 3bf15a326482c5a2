"""The chain of custody: what changed under a stage, a model or a score is said where the two are joined."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fledge
from fledge import cli, provenance
from fledge.checkpoint import load_pair
from fledge.commands import Serve
from fledge.config import Evaluate, Midtrain, ModelSettings, OptimSettings, Pretrain, Report, Rl, Sft, Tokenizer
from fledge.folder import begin_again
from fledge.origin import data_of, hash_of
from fledge.runs import checkpoints, is_done
from fledge.serve.pool import open_run
from fledge.stages.serve import make_app
from fledge.storage import read_json
from fledge.train import batches

TINY = ModelSettings(depth=1, width=32, head_channels=16, context=32)
COMMON: dict[str, Any] = {"run": "run", "threads": 1}
FAST: dict[str, Any] = {**COMMON, "compile": "no", "batch_tokens": 64, "device_tokens": 32, "optim": OptimSettings()}
TOKENIZER = Tokenizer(run="run", data="texts", vocab=300, max_chars=40_000)
PRETRAIN = Pretrain(**FAST, data="texts", model=TINY, tokens=256, eval_tokens=100)
SFT = Sft(**FAST, start="pretrain", data="chats.jsonl", tokens=256, replay=0.25)
EVALUATE = Evaluate(**COMMON, stage="sft", tasks="about.txt", limit=3)


def talk(answer: str) -> str:
    talks = [[{"role": "user", "content": asked}, {"role": "assistant", "content": answer}] for asked in "abcdef"]
    return "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)


def about(answer: str) -> str:
    return f"? who are you?\n? what are you?\n! {answer}\n"


def do(config: Any) -> None:
    command = next(name for name, kind in cli.SETTINGS.items() if type(config) is kind)
    importlib.import_module(cli.module_of(command)).main(config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with texts, chats, and a run trained on them. Copy it, do not write it."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "WINDOW_CHARACTERS", 1 << 10)
        patch.chdir(home)
        (home / "texts").mkdir()
        for name in "ab":
            text = "\n\n".join(f"The number {n} of {name} is followed by {n + 1}. " * 40 for n in range(60))
            (home / "texts" / f"{name}.txt").write_text(text)
        (home / "chats.jsonl").write_text(talk("eau"))
        (home / "about.txt").write_text(about("a bird"))
        for config in (TOKENIZER, PRETRAIN, SFT, EVALUATE, Report(run="run")):
            do(config)
        yield home


@pytest.fixture
def home(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    shutil.copytree(finished, tmp_path / "home")
    for where in (tmp_path / "home").glob("run/*/where.json"):  # as if it had been trained here
        where.write_text(where.read_text().replace(str(finished), str(tmp_path / "home")))
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr(batches, "WINDOW_CHARACTERS", 1 << 10)
    return tmp_path / "home"


def other_tokenizer(home: Path) -> None:
    begin_again(home / "run", ["tokenizer"])
    do(replace(TOKENIZER, vocab=280))


def other_weights(home: Path) -> None:
    begin_again(home / "run", ["pretrain"])
    do(replace(PRETRAIN, seed=5))


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (lambda home: (home / "chats.jsonl").write_text(talk("feu")), SFT, r"data: chats.jsonl changed"),
        (lambda home: (home / "texts" / "c.txt").write_text("new"), SFT, r"replayed text: c.txt is new"),
        (lambda home: (home / "texts" / "b.txt").unlink(), PRETRAIN, r"data: b.txt is gone"),
        (lambda home: (home / "texts" / "b.txt").write_text("new"), TOKENIZER, r"data: b.txt changed"),
        (other_tokenizer, PRETRAIN, r"the tokenizer changed \(\w{12} then, \w{12} now\)"),
        (other_weights, SFT, r"the weights of pretrain changed"),
    ],
)
def test_a_finished_stage_says_what_it_was_made_from_has_changed(
    home: Path, change: Any, config: Any, words: str
) -> None:
    change(home)
    with pytest.raises(ValueError, match=rf"finished; since then {words}.*Put that back.*begin again with --fresh"):
        do(config)


def test_a_stage_that_is_not_finished_says_so_before_its_next_step(home: Path) -> None:
    (home / "run" / "sft" / "done.json").unlink()
    (home / "chats.jsonl").write_text(talk("feu"))
    with pytest.raises(
        ValueError, match=r"begun \(step 4\); since then data: chats.jsonl changed.*Put that back.*--fresh"
    ):
        do(SFT)
    (home / "chats.jsonl").write_text(talk("eau"))
    do(SFT)
    assert is_done(home / "run" / "sft")


@pytest.mark.parametrize(
    "join",
    [
        lambda: do(replace(SFT, fresh=True)),
        lambda: do(Rl(**COMMON, start="sft", task="about.txt", steps=1, prompts=1, samples=2)),
        lambda: do(EVALUATE),
        lambda: do(replace(EVALUATE, fresh=True)),
        lambda: open_run(Path("run")),
        lambda: open_run(Path("run"), stage="sft"),
        lambda: make_app(Serve(run="run")),
    ],
)
def test_a_model_is_never_joined_with_a_tokenizer_that_it_was_not_trained_with(home: Path, join: Any) -> None:
    other_tokenizer(home)
    words = (
        r"run: its tokenizer is not the one that (base|sft) was trained with.*Put that back, or train .* with --fresh"
    )
    with pytest.raises(ValueError, match=words):
        join()
    assert is_done(home / "run" / "sft")


def test_a_model_of_one_text_file_can_be_opened_whose_name_ends_like_that_of_an_identity(home: Path) -> None:
    do(replace(PRETRAIN, data="texts/a.txt", fresh=True))
    assert open_run(home / "run", stage="pretrain").name == "run"


def test_a_run_that_does_not_say_its_tokenizer_is_held_to_the_size_of_the_vocabulary(home: Path) -> None:
    for stage in ("pretrain", "sft"):  # as fledge wrote them before it kept origins
        old = home / "run" / stage
        config, done = (read_json(old / f"{name}.json") for name in ("config", "done"))
        (old / "config.json").write_text(json.dumps({name: config[name] for name in ("settings", "provenance")}))
        (old / "done.json").write_text(
            json.dumps({k: v for k, v in done.items() if k not in ("seal", "tokenizer_hash")})
        )
        state = checkpoints(old)[-1] / "state.json"
        kept = {name: read_json(state)[name] for name in ("step", "cursor", "notes", "fledge", "sha256")}
        state.write_text(json.dumps(kept))
    assert len(open_run(home / "run").entries) == 2
    do(EVALUATE)
    do(Report(run="run"))
    do(SFT)
    other_tokenizer(home)
    with pytest.raises(
        ValueError, match=r"its tokenizer is not the one that base was trained with \(291 then, 280 now\)"
    ):
        open_run(home / "run")


def test_a_score_belongs_to_its_examples(home: Path) -> None:
    scores = home / "run" / "eval" / "sft.json"
    before = read_json(scores)
    do(EVALUATE)
    assert read_json(scores) == before
    (home / "about.txt").write_text(about("a fish"))
    do(EVALUATE)
    assert read_json(scores)["scores"]["identity/about"]["asked"] != before["scores"]["identity/about"]["asked"]


def test_scores_are_shown_where_the_examples_are_gone_but_not_made_up(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = importlib.import_module("fledge.tasks").find_task("about.txt")
    results = importlib.import_module("fledge.stages.evaluate")
    (home / "about.txt").unlink()
    settings = results.asked(EVALUATE)
    weights = read_json(home / "run" / "eval" / "sft.json")["weights"]
    kept = results.Results(home / "run" / "eval" / "sft.json", weights=weights, settings=settings)
    assert results.examples_of(task, kept, EVALUATE) is None
    assert "cannot be compared" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        results.examples_of(task, kept, replace(EVALUATE, fresh=True))


def test_the_report_leaves_out_scores_of_other_weights_and_names_what_changed(home: Path) -> None:
    assert read_json(home / "run" / "report.json")["changed_since"] == []
    other_weights(home)
    do(Report(run="run"))
    [told] = read_json(home / "run" / "report.json")["changed_since"]
    assert told.startswith("sft: the weights of pretrain changed")
    begin_again(home / "run", ["sft"])
    do(SFT)
    do(Report(run="run"))
    card = read_json(home / "run" / "report.json")
    assert card["changed_since"][0].startswith("evaluate sft: its scores are of other weights")
    assert card["scores"] == {}
    assert "evaluate sft: its scores are of other weights" in (home / "run" / "report.md").read_text()


def test_weights_of_another_training_are_neither_used_nor_reported(home: Path) -> None:
    shutil.copytree(home / "run", home / "other")
    do(replace(SFT, run="other", seed=1, fresh=True))
    shutil.rmtree(home / "run" / "sft" / "checkpoints")
    shutil.copytree(home / "other" / "sft" / "checkpoints", home / "run" / "sft" / "checkpoints")
    for join in (lambda: load_pair(Path("run"), "sft"), lambda: do(EVALUATE), lambda: do(SFT)):
        with pytest.raises(ValueError, match=r"sft/checkpoints/step-000004: of another training"):
            join()
    do(Report(run="run"))
    card = read_json(home / "run" / "report.json")
    assert "sft: the weights there are damaged, or of another training" in card["changed_since"]
    assert card["scores"] == {}


@pytest.mark.parametrize(
    "written", ["./chats.jsonl", "texts/../chats.jsonl", "{home}/chats.jsonl", "copy.jsonl", "link.jsonl"]
)
def test_the_same_file_is_the_same_data_however_its_path_is_written(home: Path, written: str) -> None:
    shutil.copy(home / "chats.jsonl", home / "copy.jsonl")
    (home / "link.jsonl").symlink_to(home / "chats.jsonl")
    (home / "run" / "sft" / "done.json").unlink()
    do(replace(SFT, data=written.format(home=home)))
    assert is_done(home / "run" / "sft")


def test_other_data_under_another_name_is_another_setting(home: Path) -> None:
    (home / "other.jsonl").write_text(talk("feu"))
    with pytest.raises(ValueError, match=r"since then data: chats.jsonl is gone, other.jsonl is new"):
        do(replace(SFT, data="other.jsonl"))


def test_a_moved_run_goes_on_and_says_before_its_first_step_what_it_misses(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(home / "run", away / "run")
    monkeypatch.chdir(away)
    data = str(home / "chats.jsonl")
    begin_again(away / "run", ["sft"])
    do(replace(SFT, data=data))  # the text is found where it lay
    begin_again(away / "run", ["sft"])
    (home / "texts").rename(tmp_path / "texts")
    with pytest.raises(FileNotFoundError, match=r"pretrain: the data it was trained on is gone: .*texts. Put it back"):
        do(replace(SFT, data=data))
    assert not checkpoints(away / "run" / "sft")
    do(replace(SFT, data=data, replay=0.0))
    monkeypatch.setenv("FLEDGE_LOCAL", str(tmp_path))
    assert data_of(away / "run" / "pretrain") == str(tmp_path / "texts")


def test_no_file_to_be_published_names_a_folder_of_the_machine(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "secret" / "run"
    for config in (TOKENIZER, PRETRAIN, SFT, EVALUATE, Report(run="")):
        given = {name: str(home / value) for name in ("data", "tasks") if (value := getattr(config, name, None))}
        do(replace(config, run=str(run), **given))
    texts = [path for path in run.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".html")]
    named = [path.name for path in texts if str(tmp_path) in path.read_text() and path.name != "where.json"]
    assert len(texts) > 12
    assert not named


def test_a_hash_of_items_knows_their_order_and_where_one_ends() -> None:
    assert hash_of(["a", "b"]) == hash_of(["a", "b"])
    assert len({hash_of(items) for items in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}) == 5


def test_provenance_is_that_of_the_code_and_not_of_the_repository_it_is_installed_in(tmp_path: Path) -> None:
    """Installed below somebody's work tree, tracked or not: their commit says nothing of our code."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "mine.py").write_text("")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "mine"], check=True)
    shutil.copytree(Path(fledge.__file__).parent, tmp_path / "venv" / "fledge")
    code = "from fledge.provenance import provenance; p = provenance(); print(p['commit'], p['code'])"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "venv"), "GIT_DIR": str(tmp_path / ".git")}
    words = [sys.executable, "-P", "-c", code]
    said = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == f"fledge {fledge.__version__} {provenance.code_hash()}\n"


def test_the_commit_is_named_without_touching_the_index_of_the_repository(tmp_path: Path) -> None:
    code = tmp_path / "fledge" / "provenance.py"
    code.parent.mkdir()
    code.write_bytes(Path(provenance.__file__).read_bytes())
    (tmp_path / "fledge" / "__init__.py").write_text("__version__ = '1'")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "mine"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    before = (tmp_path / ".git" / "index").read_bytes()
    ask = [sys.executable, "-P", "-c", "from fledge.provenance import commit; print(commit())"]
    for edit, said in (("", head), ("\n", f"{head}+changes")):
        with code.open("a") as file:
            file.write(edit)
        os.utime(code, (1, 1))  # what the index knows of the file is old: git would write it anew
        found = subprocess.run(ask, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
        assert found.stdout.strip() == said, found.stderr
        assert (tmp_path / ".git" / "index").read_bytes() == before


def test_changes_are_kept_beside_the_mark_files_that_are_in_no_commit_included(tmp_path: Path) -> None:
    (source := tmp_path / "src" / "fledge").mkdir(parents=True)
    (source / "provenance.py").write_bytes(Path(provenance.__file__).read_bytes())
    (source / "__init__.py").write_text("__version__ = '1'\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "mine"]):
        subprocess.run([*git, *words], check=True)
    ask = "from fledge.provenance import *; print(changes()); print('between', commits_differ(commit(), 'HEAD~1'))"
    words, environment = [sys.executable, "-P", "-c", ask], os.environ | {"PYTHONPATH": str(tmp_path / "src")}

    def said() -> str:
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, cwd="/").stdout

    assert said() == "\nbetween \n"
    (source / "new.py").write_text("x = 'ä'\n")
    with (source / "__init__.py").open("a") as file:
        file.write("y = 2\n")
    assert {"+x = 'ä'", "+y = 2"} <= {*said().splitlines()}
    subprocess.run([*git, "commit", "-qam", "more"], check=True)
    assert said().rstrip().splitlines()[-1] == "-y = 2"


def test_git_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    ask = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda words, **rest: (asked.append(words), ask(words, **rest))[1])
    provenance.commit.cache_clear()
    for _ in range(3):
        provenance.provenance()
    assert 1 <= len(asked) <= 2


def test_a_stage_that_goes_on_with_other_code_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "run" / "sft" / "done.json").unlink()
    monkeypatch.setattr(provenance, "code_hash", lambda: "another")
    do(SFT)
    assert "sft: begun by other code (fledge" in capsys.readouterr().err


def test_midtraining_is_compared_like_fine_tuning(home: Path) -> None:
    config = Midtrain(**FAST, data="chats.jsonl", tokens=256)
    do(config)
    (home / "chats.jsonl").write_text(talk("feu"))
    with pytest.raises(ValueError, match=r"midtrain: finished; since then data: chats.jsonl changed"):
        do(config)
