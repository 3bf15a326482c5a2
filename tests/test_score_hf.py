"""Models of Hugging Face transformers, built here with random weights and saved to a folder."""

import json
from pathlib import Path

import pytest
import torch

from fledge.evals import hf
from fledge.evals.score import Scorer
from fledge.tasks.base import Example, Task
from fledge.tasks.core import Kind, Listed, example
from fledge.text.chat import say
from fledge.text.records import Record
from fledge.text.tokenizer import Tokenizer, hugging_face

transformers = pytest.importorskip("transformers", reason="the optional extra `hf` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers itself, about its own future


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer([])
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=tokenizer.vocab, n_positions=48, n_embd=32, n_layer=2, n_head=2)
    config.bos_token_id = config.eos_token_id = tokenizer.special["<|bos|>"]
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(hugging_face(tokenizer)))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|bos|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def items(kind: Kind) -> list[dict]:
    if kind == "choice":
        return [{"query": f"Q{n}", "choices": ["yes, it is", "no", "maybe"], "gold": n % 3} for n in range(6)]
    if kind == "schema":
        return [{"context_options": [f"Ann {n}", "Bob"], "continuation": "sings.", "gold": n % 2} for n in range(6)]
    return [{"context": f"{n}+{n}=", "continuation": str(2 * n)} for n in range(6)]


@pytest.mark.parametrize("kind", ["choice", "schema", "text"])
def test_a_folder_is_judged_as_transformers_judges_it(gpt2, kind) -> None:
    model, tokenizer = hf.load(str(gpt2), device="cpu")
    own = Tokenizer([])
    assert tokenizer.encode("Is it?") == own.encode("Is it?")
    assert tokenizer.special["<|bos|>"] == own.special["<|bos|>"]
    examples = {
        n: example(Listed("toy", "toy.jsonl", kind, 2), Record(item, Path("toy.jsonl"), n))
        for n, item in enumerate(items(kind))
    }
    task = Task(name="toy", load=lambda split: list(examples.values()), shots=2, per_token=True)
    together, alone = (
        list(scorer.rank(task, examples).values())
        for scorer in (Scorer(model, tokenizer), Scorer(model, tokenizer, device_tokens=1))
    )
    for left, right in zip(together, alone, strict=True):
        assert left["correct"] == right["correct"]
        assert left["log_likelihoods"] == pytest.approx(right["log_likelihoods"], abs=1e-4)


def test_prompts_longer_than_the_model_are_cut(gpt2) -> None:
    model, tokenizer = hf.load(str(gpt2), device="cpu")
    assert model.max_tokens == 48
    long = [Example(prompt="word " * 50, choices=(end,), answer=0) for end in ("end", "stop")]
    task = Task(name="toy", load=lambda split: long, shots=1)
    assert Scorer(model, tokenizer).score(task).examples == 2


def test_a_base_model_cannot_be_asked_in_a_conversation(gpt2) -> None:
    model, tokenizer = hf.load(str(gpt2), device="cpu")
    messages = (say("user", "A or B?"), say("assistant", "A"))
    letters = Example(messages=messages, choices=("A", "B"), answer=0)
    with pytest.raises(ValueError, match="without a chat template"):
        Scorer(model, tokenizer).score(Task(name="toy", load=lambda split: [letters]))
    tokenizer.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    assert Scorer(model, tokenizer).score(Task(name="toy", load=lambda split: [letters])).examples == 1
    free = Example(messages=messages, answer="A")
    with pytest.raises(ValueError, match="free answers need a model of fledge"):
        Scorer(model, tokenizer).score(Task(name="toy", load=lambda split: [free]))


def test_a_folder_without_a_model_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        hf.load(str(tmp_path))
