"""CORE: asked as the reference asks it, computed together as if one at a time."""

import json
import random
import re
import zipfile
from itertools import chain, islice
from pathlib import Path

import pytest
import torch

from fledge.evals.likelihood import Likelihood, likelihoods
from fledge.evals.results import Score, core_scores
from fledge.evals.score import Record, Scorer, choose, crop, ranked
from fledge.model.transformer import ModelConfig, Transformer
from fledge.tasks import find_task
from fledge.tasks.base import Example, Task, shots
from fledge.tasks.core import LISTED, TASKS, Kind, Listed, example, read
from fledge.text import records
from fledge.text.tokenizer import Tokenizer
from tiny_engine import Foreign

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real CORE bundle is not beside the checkout")

KINDS: dict[Kind, Listed] = {
    "choice": Listed("toy", "toy.jsonl", "choice", 1, 0.5, "\nAnswer: "),
    "schema": Listed("toy", "toy.jsonl", "schema", 1, 0.5),
    "text": Listed("toy", "toy.jsonl", "text", 1),
}


def toy(kind: Kind, *items: dict) -> tuple[Task, list[Example]]:
    """A task of one kind, and its items as examples."""
    examples = [example(KINDS[kind], records.Record(item, Path("toy.jsonl"), 1)) for item in items]
    return Task(name="core/toy", load=lambda split: examples, shots=1, per_token=True, shuffled=True), examples


# Accuracies in the order of TASKS, and the CORE published with them: for GPT-2 in the csv files of the evaluation bundle, for
# Llama 2 7B in DCLM's exp_data/evals/evaluation_llama2_7b_openlm_heavy.json (Core_v1, Core_v2).
PUBLISHED = {
    "gpt2": (
        (0.308504, 0.001889, 0.282663, 0.412458, 0.221843, 0.6, 0.224406, 0.62296, 0.278, 0.322919, 0.307907, 0.578755,
         0.486188, 0.155, 0.226087, 0.419697, 0.085714, 0.03125, 0.058278, 0.133659, 0.552294, 0.2566), 0.113891,
    ),
    "gpt2-medium": (
        (0.39, 0.044, 0.428, 0.48, 0.262, 0.66, 0.196, 0.67, 0.308, 0.426, 0.395, 0.655678, 0.521, 0.17, 0.230435, 0.456,
         0.1, 0.0625, 0.169, 0.227, 0.606, 0.269), 0.184903,
    ),
    "gpt2-large": (
        (0.44, 0.045, 0.48, 0.535, 0.264, 0.67, 0.27, 0.698, 0.318, 0.488, 0.444, 0.688645, 0.541, 0.225, 0.256522, 0.44,
         0.114286, 0.0625, 0.235, 0.23, 0.567, 0.261), 0.214641,
    ),
    "gpt2-xl": (
        (0.502, 0.092, 0.531, 0.595, 0.299, 0.67, 0.227, 0.725, 0.346, 0.523, 0.512, 0.714286, 0.569, 0.247, 0.273913,
         0.417, 0.157143, 0.09375, 0.309, 0.28, 0.619, 0.25), 0.256525,
    ),
}  # fmt: skip
LLAMA2 = (
    0.7498506307601929, 0.530568516254425, 0.7346587181091309, 0.7693602442741394, 0.5093856453895569, 0.800000011920929,
    0.6265356540679932, 0.7948857545852661, 0.4259999990463257, 0.7362701296806335, 0.7733519077301025,
    0.8534798622131348, 0.6937648057937622, 0.34299999475479126, 0.2869565188884735, 0.4469696879386902,
    0.4571428596973419, 0.21875, 0.6075685620307922, 0.47037455439567566, 0.7972477078437805, 0.3271999955177307,
)  # fmt: skip


def core_of(accuracies: tuple[float, ...]) -> dict[str, float]:
    """`core` and `core_v2` of accuracies in the order of TASKS."""
    scores = {
        task.name: Score(accuracy=accuracy, standard_error=0.01, examples=1, chance=task.chance, seconds=1.0)
        for task, accuracy in zip(TASKS, accuracies, strict=True)
    }
    return {name: score.accuracy for name, score in core_scores(scores).items()}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_accuracies_give_the_published_core(model) -> None:
    accuracies, core = PUBLISHED[model]
    assert core_of(accuracies)["core"] == pytest.approx(core, abs=2e-6)


def test_both_versions_of_the_baselines_give_what_dclm_published() -> None:
    found = core_of(LLAMA2)
    assert found["core"] == pytest.approx(0.49249913608100654, abs=1e-9)
    assert found["core_v2"] == pytest.approx(0.4754504575067023, abs=1e-9)


def test_core_is_a_mean_of_all_22_asked_alike_or_nothing() -> None:
    def score(limit: int) -> Score:
        return Score(accuracy=1.0, standard_error=0.0, examples=1, chance=0.25, seconds=1.0, settings={"limit": limit})

    alike = {task.name: score(5) for task in TASKS}
    assert core_scores(alike)["core"].accuracy == 1
    assert core_scores(alike | {"core/copa": score(6)}) == {}
    assert core_scores({name: found for name, found in alike.items() if name != "core/copa"}) == {}


@needs_data
def test_the_tasks_are_those_of_the_bundle() -> None:
    with zipfile.ZipFile(DATA / "eval_bundle.zip") as archive:
        listed = archive.read("eval_bundle/core.yaml").decode()
        table = archive.read("eval_bundle/eval_meta_data.csv").decode()
    blocks = [dict(re.findall(r"^  (\w+): (.+)$", block, re.MULTILINE)) for block in listed.split("-\n")[1:]]
    kinds = {"choice": "multiple_choice", "schema": "schema", "text": "language_modeling"}
    assert [(b["label"], b["dataset_uri"], b["icl_task_type"], b["num_fewshot"]) for b in blocks] == [
        (task.label, task.file, kinds[task.kind], f"[{task.shots}]") for task in LISTED
    ]
    assert [b.get("continuation_delimiter", '" "') for b in blocks] == [json.dumps(task.delimiter) for task in LISTED]
    for task in LISTED:
        chance = re.search(rf"^{task.label},[^,]*,[^,]*,[^,]*,[^,]*,([\d.]+),", table, re.MULTILINE)
        assert chance
        assert float(chance[1]) / 100 == pytest.approx(task.chance)


def test_prompts_are_written_as_the_reference_writes_them() -> None:
    tokenizer = Tokenizer([])
    scorer = Scorer(small(tokenizer.vocab), tokenizer)

    def shown(kind: Kind, one: dict, two: dict) -> list[tuple[str, str]]:
        """The prompts of the second item with the first solved before it: what is given, and what is judged."""
        rows = scorer.rows(*toy(kind, one, two), 1)
        return [(tokenizer.decode(row.ids[1 : row.start]), tokenizer.decode(row.ids[row.start :])) for row in rows]

    one = {"query": "Q: sky?", "choices": ["red", "blue"], "gold": 1}
    two = {"query": "Q: grass?", "choices": ["green", "grey"], "gold": 0}
    before = "Q: sky?\nAnswer: blue\n\nQ: grass?\nAnswer: gre"
    assert shown("choice", one, two) == [(before[:-3] + "gre", "en"), (before, "y")]

    one = {"context_options": ["The cup", "The tea"], "continuation": "is hot.", "gold": 1}
    two = {"context_options": ["Ann", "Bob"], "continuation": "sings.", "gold": 0}
    before = "The tea is hot.\n\n"
    assert shown("schema", one, two) == [(before + "Ann", " sings."), (before + "Bob", " sings.")]

    one, two = {"context": " 1+1 = \n", "continuation": "2"}, {"context": "2+2 =  ", "continuation": "4"}
    assert shown("text", one, two) == [("1+1 = 2\n\n2+2 =", " 4")]


def test_examples_are_drawn_as_the_reference_draws_them() -> None:
    items = [Example(prompt=str(number), choices=("",), answer=0) for number in range(30)]
    assert list(choose(items, 8, shuffled=True).values()) == items[:8]
    drawn = random.Random(1234 + 5).sample([0, 1, 2, 3, 4, 6, 7], 3)
    assert shots(items[:8], 5, count=3) == [items[number] for number in drawn]


def test_items_stand_in_the_order_of_the_reference(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(bundle_of(tmp_path, items=30)))
    listed = next(listed for listed in LISTED if listed.label == "jeopardy")
    items, order = read(listed, tmp_path / "eval_bundle"), list(range(30))
    random.Random(1337).shuffle(order)
    assert find_task("core/jeopardy").load("test") == [items[number] for number in order]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_examples_are_all_shown(count) -> None:
    items = [Example(prompt=str(number), choices=("",), answer=0) for number in range(count)]
    assert sorted(shown.prompt for shown in shots(items, 0, count=10)) == [str(n) for n in range(1, count)]


def test_the_first_option_of_the_least_mean_loss_is_taken() -> None:
    judged = [Likelihood([-1.0, -3.0], False), Likelihood([-1.5], False), Likelihood([-1.5], True)]
    task, (choice,) = toy("choice", {"query": "?", "choices": ["a", "b", "c"], "gold": 1})
    assert ranked(task, choice, 0, judged)["choice"] == 1
    assert ranked(task, choice, 0, judged)["correct"] == 1
    task, (text,) = toy("text", {"context": "a", "continuation": "x"})
    assert ranked(task, text, 0, judged[1:2])["correct"] == 0
    assert ranked(task, text, 0, judged[2:])["correct"] == 1


def test_a_prompt_too_long_for_the_model_loses_its_beginning() -> None:
    assert crop([1, 2, 3, 4, 5], 3, None) == crop([1, 2, 3, 4, 5], 3, 5)
    row = crop([1, 2, 3, 4, 5], 3, 4)
    assert (row.ids, row.start) == ([2, 3, 4, 5], 2)
    assert crop([1, 2, 3, 4, 5], 1, 3).start == 1


def small(vocab: int, *, context: int = 64) -> Transformer:
    shape = ModelConfig(vocab=vocab, layers=2, width=32, heads=2, kv_heads=1, context=context, key_filter=True)
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def bundle_of(folder: Path, items: int = 6) -> Path:
    """A bundle of invented items for every task."""
    rng = random.Random(0)
    for task in LISTED:
        path = folder / "eval_bundle" / "eval_data" / task.file
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for number in range(items):
            names = rng.sample(["ash", "birch bark", "elm", "oak tree"], 3)
            if task.kind == "choice":
                line = {"query": f"Which is tree {number}?", "choices": names, "gold": rng.randrange(3)}
            elif task.kind == "schema":
                line = {"context_options": names[:2], "continuation": f"has {number} leaves.", "gold": rng.randrange(2)}
            else:
                line = {"context": f"Tree {number} is the ", "continuation": names[0]}
            lines.append(json.dumps(line) + "\n")
        path.write_text("".join(lines))
    return folder


def test_every_task_leaves_a_line_per_item(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(bundle_of(tmp_path)))
    tokenizer = Tokenizer([])
    scorer = Scorer(small(tokenizer.vocab), tokenizer, out=tmp_path / "eval", stage="pretrain")
    for task in TASKS:
        score = scorer.score(task, limit=4)
        name = task.name.replace("/", "-")
        lines = [json.loads(line) for line in (tmp_path / f"eval/pretrain-{name}.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines] == [0, 1, 2, 3]
        assert score.accuracy == sum(line["correct"] for line in lines) / 4


def test_a_zip_and_its_folder_hold_the_same_items(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle_of(tmp_path / "open")
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "eval_bundle.zip", "w") as archive:
        for path in folder.rglob("*.jsonl"):
            archive.write(path, path.relative_to(folder))
    found = []
    for place in (folder, tmp_path / "zipped"):
        monkeypatch.setenv("FLEDGE_LOCAL", str(place))
        found.append([task.load("test") for task in TASKS])
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="core/copa: split 'train' does not exist; allowed: test"):
        find_task("core/copa").load("train")


def test_a_bundle_that_is_not_whole_is_refused_before_it_is_asked(tmp_path) -> None:
    place = bundle_of(tmp_path) / "eval_bundle"
    squad = place / "eval_data" / "reading_comprehension/squad.jsonl"
    listed = next(listed for listed in LISTED if listed.label == "squad")
    for line, complaint in (("{", "not JSON"), ('{"query": 1}', "no 'con.*' among query")):
        squad.write_text(json.dumps({"context": "a", "continuation": "b"}) + "\n" + line + "\n")
        with pytest.raises(ValueError, match=rf"squad\.jsonl line 2: {complaint}"):
            read(listed, place)
    squad.write_text("\n")
    with pytest.raises(ValueError, match=r"squad\.jsonl: holds no item"):
        read(listed, place)
    squad.unlink()
    with pytest.raises(FileNotFoundError, match=r"no eval_data/reading_comprehension/squad\.jsonl"):
        read(listed, place)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("eval_bundle/core.yaml", "")
    with pytest.raises(FileNotFoundError, match=r"b\.zip: no eval_data/.* no whole CORE bundle"):
        read(listed, tmp_path / "b.zip")
    (tmp_path / "b.zip").write_bytes((tmp_path / "b.zip").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"b\.zip: .*damaged, delete it"):
        read(listed, tmp_path / "b.zip")


def choice_of(record: Record) -> object:
    """What has to agree: the choice, or whether the text was reproduced."""
    return record.get("choice", record["correct"])


def asked_both_ways(*, count: int, vocab: int) -> list[tuple[list[object], list[object]]]:
    """The choices of the first items of every task: all rows together, and one item per forward pass of its padded rows."""
    texts = (one.texts[-1] for task in TASKS for one in task.load("test")[:500])
    tokenizer = Tokenizer.train(texts, vocab=vocab)
    model, both = small(tokenizer.vocab, context=2048), []
    scorer = Scorer(model, tokenizer)
    for task in TASKS:
        examples = task.load("test")
        rows = [scorer.rows(task, examples, index) for index in range(count)]
        together = likelihoods(model, chain.from_iterable(rows))
        choices = []
        for index, some in enumerate(rows):
            judged = [list(islice(together, len(some))), list(likelihoods(Foreign(model), some))]
            choices.append([choice_of(ranked(task, examples[index], index, one)) for one in judged])
        both.append(tuple(map(list, zip(*choices, strict=True))))
    return both


def test_items_judged_together_are_answered_as_if_alone(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_LOCAL", str(bundle_of(tmp_path)))
    for together, alone in asked_both_ways(count=6, vocab=300):
        assert len(together) == 6
        assert together == alone


@needs_data
def test_real_items_judged_together_are_answered_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of each task with short prompts."""
    monkeypatch.setenv("FLEDGE_LOCAL", str(DATA / "mini"))
    for together, alone in asked_both_ways(count=2, vocab=1000):
        assert len(together) == 2
        assert together == alone


def test_asking_does_not_depend_on_the_batch() -> None:
    tokenizer = Tokenizer([])
    task, examples = toy(
        "choice", *({"query": f"{n}?", "choices": ["yes it is", "no", "maybe"], "gold": 0} for n in range(9))
    )
    model = small(tokenizer.vocab)
    answers = [
        Scorer(model, tokenizer, device_tokens=size).rank(task, dict(enumerate(examples))) for size in (1, 100, 10_000)
    ]
    choices = [[(o["choice"], o["tokens"]) for o in answer.values()] for answer in answers]
    assert choices[0] == choices[1] == choices[2]
