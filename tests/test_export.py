"""What is exported says in other programs what it said here, and comes back as it was."""

from __future__ import annotations

import base64
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint import load_pair
from fledge.commands import Export, Import
from fledge.config import Evaluate, Sft
from fledge.export import back, out
from fledge.export.back import RULES, read_tokenizer
from fledge.export.hf import architecture, check_weights, names
from fledge.export.out import checked
from fledge.model.transformer import ModelConfig
from fledge.runs import begun
from fledge.stages import evaluate, sft
from fledge.storage import read_json
from fledge.text.chat import Conversation, Part, encode_conversation, encode_prompt, say, to_json
from fledge.text.template import TEMPLATE
from fledge.text.tokenizer import SPECIAL, Tokenizer, hugging_face
from fledge.weights import weights_hash
from test_core import bundle_of
from test_engine_check import Gated, changed
from tiny_runs import EXTRAS, TEXT, tiny_run, tokenizer_of

RUNS: dict[str, dict[str, Any]] = {"classic": {"unembedding_std": 0.001}, "padded": {"vocab": 301}, "extras": EXTRAS}


def export(run: Path, folder: Path, **settings: Any) -> Path:
    out.main(Export(run=str(run), out=str(folder), threads=1, **settings))
    return folder


def bring(folder: Path, run: Path, **settings: Any) -> Path:
    back.main(Import(source=f"hf:{folder}", run=str(run), **settings))
    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By name the run and its folder for transformers."""
    found = {}
    for name, shape in RUNS.items():
        home = tmp_path_factory.mktemp(name)
        tiny_run(home / "run", **shape)
        found[name] = home / "run", export(home / "run", home / "hf", remote_code=name == "extras")
    return found


def random_conversation(draw: random.Random) -> Conversation:
    """Turns of odd texts, with and without system and tool; texts stand apart, and none holds a mark."""

    def text() -> str:
        letters = [*TEXT[:80], "\n\n", "  ", "{{ x }}", "{% if %}", "'", '"', "\\n", "<b>", "12345", "你", "<|", "\t"]
        return "".join(draw.choices(letters, k=draw.randrange(12)))

    def answer() -> list[Part]:
        kinds: list[str] = []
        for _ in range(draw.randrange(1, 5)):
            kinds.append(
                draw.choice([kind for kind in ("text", "python", "output") if kind != "text" or kinds[-1:] != ["text"]])
            )
        return [Part(kind, text()) for kind in kinds]  # pyright: ignore[reportArgumentType]

    system = [say("system", draw.choice([text(), " \n", ""]))] * draw.randrange(2)
    turns = [(say("user", text()), say("assistant", *answer())) for _ in range(draw.randrange(1, 4))]
    return (*system, *(message for turn in turns for message in turn))


# transformers


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed")


def load(transformers: Any, folder: Path, name: str) -> Any:
    more = {"trust_remote_code": True} if name == "extras" else {}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **more).eval()


@torch.no_grad()
def test_an_export_in_half_precision_remembers_the_last_token_of_a_large_vocabulary(transformers: Any) -> None:
    from fledge.export.modeling_fledge import FledgeConfig, FledgeForCausalLM

    config = ModelConfig(vocab=70_000, layers=1, width=32, heads=2, kv_heads=2, context=32, pairs=7)
    model = FledgeForCausalLM(FledgeConfig(**architecture(config, remote_code=True))).bfloat16().eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * weight.size(-1) ** -0.5)
    tokens = torch.randint(65_792, config.vocab, (2, 12), generator=generator)
    whole, begun = model(tokens).logits, model(tokens[:, :7], use_cache=True)
    rest = model(tokens[:, 7:], past_key_values=begun.past_key_values).logits
    assert (rest - whole[:, 7:]).abs().max() < 0.1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUNS)
@torch.no_grad()
def test_transformers_says_what_the_run_says(transformers: Any, exported: dict[str, Any], name: str) -> None:
    run, folder = exported[name]
    ours, tokenizer = load_pair(run, "sft")
    theirs = load(transformers, folder, name)
    tokens = torch.randint(tokenizer.vocab, (3, 60), generator=torch.Generator().manual_seed(0))
    assert (theirs(tokens).logits - ours(tokens)).abs().max() < 1e-4
    prompt = encode_prompt(tokenizer, [say("user", "Who knows 12 songs?")])
    ids = [*prompt]
    for _ in range(30):
        ids.append(int(ours(torch.tensor([ids]))[0, -1].argmax()))
    settings = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None}
    alone = {"attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
    assert theirs.generate(torch.tensor([prompt]), **alone, **settings)[0].tolist() == ids
    # Beside a longer one, which pads it to the left.
    longer = [*prompt[:3], *prompt]
    padded = torch.tensor([[prompt[0]] * 3 + prompt, longer])
    real = torch.tensor([[0] * 3 + [1] * len(prompt), [1] * len(longer)])
    assert theirs.generate(padded, attention_mask=real, **settings)[0, 3:].tolist() == ids


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["classic", "extras", "no export"])
def test_its_tokenizer_gives_our_tokens_of_texts_and_conversations(
    transformers: Any, exported: dict[str, Any], name: str
) -> None:
    """So does the one of the run itself."""
    run, folder = exported.get(name, exported["classic"])
    tokenizer = Tokenizer.load(run / "tokenizer")
    folder = folder if name in exported else run / "tokenizer"
    trust = {"trust_remote_code": True} if name == "extras" else {}
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **trust)
    assert theirs(TEXT, add_special_tokens=False)["input_ids"] == tokenizer.encode(TEXT)
    # Answers of a batch go on from the end of every row.
    assert [row[-1] for row in theirs(["a", "The owl"], padding=True)["attention_mask"]] == [1, 1]
    draw = random.Random(0)
    for _ in range(200):
        conversation = random_conversation(draw)
        messages = to_json(conversation)["messages"]
        assert theirs.apply_chat_template(messages)["input_ids"] == encode_conversation(tokenizer, conversation).ids
        prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        assert prompt == encode_prompt(tokenizer, conversation[:-1])
    with pytest.raises(Exception, match="roles are user and assistant"):
        theirs.apply_chat_template([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}])


@pytest.mark.filterwarnings("ignore")
def test_core_gets_the_same_answers_from_the_export(
    transformers: Any, exported: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = exported["classic"]
    monkeypatch.setenv("FLEDGE_LOCAL", str(bundle_of(tmp_path)))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    for place, stage in ((Path("run"), "sft"), (Path("runs/hf-hf"), "model")):
        source = "run" if stage == "sft" else f"hf:{folder}"
        evaluate.main(Evaluate(run=source, tasks="core", threads=1, device="cpu"))
        scores = read_json(place / "eval" / f"{stage}.json")["scores"]
        (tmp_path / stage).write_text(json.dumps({name: score["accuracy"] for name, score in scores.items()}))
    assert read_json(tmp_path / "sft") == read_json(tmp_path / "model")
    with pytest.raises(ValueError, match="comes with code, which is not run here"):
        evaluate.main(Evaluate(run=f"hf:{exported['extras'][1]}", tasks="core", threads=1, device="cpu"))


def test_a_base_model_has_no_chat_template_and_ends_at_the_next_document(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", stage="pretrain")
    folder = export(tmp_path / "run", tmp_path / "hf")
    assert "chat_template" not in read_json(folder / "tokenizer_config.json")
    assert "calculator" not in (folder / "README.md").read_text()
    assert read_json(folder / "generation_config.json")["eos_token_id"] == tokenizer_of().special["<|bos|>"]


@pytest.mark.parametrize("extra", [{"key_filter": True}, {"windows": "SL"}, {"qk_scale": 1.2}])
def test_what_transformers_cannot_say_is_named_and_refused(tmp_path: Path, extra: dict[str, Any]) -> None:
    tiny_run(tmp_path / "run", **extra)
    with pytest.raises(ValueError, match=rf"run/sft: has {next(iter(extra))}.*Add --remote-code"):
        export(tmp_path / "run", tmp_path / "hf")
    assert not [path for path in tmp_path.iterdir() if path.name != "run"]


def test_a_weight_of_another_architecture_is_not_left_out_without_a_word() -> None:
    check_weights(changed(), "run/sft")
    with pytest.raises(ValueError, match=r"run/sft: has the weight blocks\.0\.mlp\.gate, which export does not know"):
        check_weights(changed(Gated), "run/sft")


# And back


@pytest.mark.parametrize("name", RUNS)
def test_what_comes_back_is_what_left(exported: dict[str, Any], tmp_path: Path, name: str) -> None:
    run, folder = exported[name]
    again = bring(folder, tmp_path / "run")
    (ours, tokenizer), (theirs, other) = load_pair(run, "sft"), load_pair(again, "sft")
    assert theirs.config == ours.config
    assert other.hash == tokenizer.hash
    rows = {"embedding", "unembedding"} if name == "padded" else set()
    for key, tensor in theirs.state_dict().items():
        wanted = ours.state_dict()[key]
        real = ours.config.vocab if key in rows else len(tensor)
        assert torch.equal(tensor[:real], wanted[:real])
        assert not tensor[real:].any()
    if not rows:
        assert weights_hash(again / "sft") == weights_hash(run / "sft")
    assert begun(again / "sft") == begun(run / "sft")
    twice = export(again, tmp_path / "twice", remote_code=name == "extras")
    assert checked(twice)["files"] == checked(folder)["files"]


def test_an_imported_run_goes_on(exported: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = bring(exported["classic"][1], tmp_path / "run", stage="midtrain")
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "eau"}]
    Path("chats.jsonl").write_text((json.dumps({"messages": talk}) + "\n") * 9)
    settings = {"run": str(run), "data": "chats.jsonl", "threads": 1, "device": "cpu", "compile": "no"}
    sft.main(Sft(**settings, tokens=256, batch_tokens=128))  # pyright: ignore[reportArgumentType]
    evaluate.main(Evaluate(run=str(run), tasks="world/choice", limit=2, threads=1, device="cpu"))
    assert read_json(run / "eval" / "sft.json")["scores"]["world/choice"]["examples"] == 2
    with pytest.raises(ValueError, match=r"run/tokenizer, .*run/sft: is there already; choose another --run"):
        bring(exported["classic"][1], run)


def nanochat_folder(folder: Path, run: Path) -> Path:
    """A run as nanochat of 2025 would have saved it: compiled, and its embedding in bfloat16."""
    model, tokenizer = load_pair(run, "sft")
    shorts = {"query": "q", "key": "k", "value": "v", "out": "proj"}
    inner = {f"attention.{ours}": f"attn.c_{short}" for ours, short in shorts.items()}
    inner |= {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    known = {
        f"blocks.{k}.{ours}": f"transformer.h.{k}.{short}.weight" for k in range(3) for ours, short in inner.items()
    }
    known |= {"embedding": "transformer.wte.weight", "unembedding": "lm_head.weight"}
    weights = {f"_orig_mod.{known[name]}": tensor.bfloat16() for name, tensor in model.state_dict().items()}
    folder.mkdir()
    torch.save(weights, folder / "model_000650.pt")
    shape = {"sequence_len": 64, "vocab_size": tokenizer.vocab, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
    (folder / "meta_000650.json").write_text(json.dumps({"step": 650, "model_config": shape}))
    (folder / "tokenizer.pkl").write_bytes(b"cos\nsystem\n")
    lines = [base64.b64encode(token) + b" %d" % k for k, token in enumerate(tokenizer._tokens[: -len(SPECIAL)])]
    (folder / "ranks.tiktoken").write_bytes(b"\n".join(lines))
    return folder


def test_a_checkpoint_of_nanochat_becomes_a_run(tmp_path: Path) -> None:
    ours = tiny_run(tmp_path / "run", digits=2, rope_base=10_000.0)
    folder = nanochat_folder(tmp_path / "d3", tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json: no tokenizer there. Give one with --tokenizer"):
        bring(folder, tmp_path / "again")
    run = bring(folder, tmp_path / "again", tokenizer=str(folder / "ranks.tiktoken"), stage="sft")
    theirs, tokenizer = load_pair(run, "sft")
    assert tokenizer.hash == tokenizer_of(digits=2).hash
    assert theirs.config == ours.config
    assert all(
        torch.equal(tensor, ours.state_dict()[name].bfloat16().float()) for name, tensor in theirs.state_dict().items()
    )
    assert "- sft: `d3`" in (export(run, tmp_path / "hf") / "README.md").read_text()


def test_a_newer_nanochat_is_told_by_its_tensors(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", digits=2)
    folder = nanochat_folder(tmp_path / "d3", tmp_path / "run")
    weights = torch.load(folder / "model_000650.pt", weights_only=True)
    torch.save({**weights, "resid_lambdas": torch.ones(3)}, folder / "model_000650.pt")
    with pytest.raises(ValueError, match=r"1 unknown tensors \(resid_lambdas\)"):
        bring(folder, tmp_path / "again", tokenizer=str(folder / "ranks.tiktoken"))


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_tokenizers_of_others_are_taken_where_they_are_like_ours(tmp_path: Path, digits: int) -> None:
    ours = tokenizer_of(digits=digits)
    content = hugging_face(ours)
    content["model"]["merges"] = [merge.split(" ") for merge in content["model"]["merges"]]
    split = content["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = next(rule for rule, known in RULES.items() if known == digits and "++" in rule)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert read_tokenizer(tmp_path / "tokenizer.json").hash == ours.hash
    split["pattern"]["Regex"] = r"\w+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"text is split by another rule, .*Expected are 256 bytes in order"):
        read_tokenizer(tmp_path / "tokenizer.json")


def damage(folder: Path, case: str) -> None:
    config = read_json(folder / "config.json")
    if case == "edited":
        (folder / "generation_config.json").write_text("{}")
    elif case == "cut":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
    elif case == "gone":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "fledge.json").unlink()
        if case == "truncated":
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-8])
        elif case == "llama":
            config["model_type"] = "llama"
        elif case == "gpt2":
            config = {"model_type": "gpt2", "n_embd": 64}
            (folder / "tokenizer.json").unlink()
        elif case == "bare":
            (folder / "model.safetensors").unlink()
        elif case == "narrow":
            config["hidden_size"], config["intermediate_size"] = 32, 128
        elif case == "silu":
            config["hidden_act"] = "silu"
        elif case == "deeper":
            config["num_hidden_layers"] = 4
        elif case == "silent":
            del config["num_attention_heads"]
        (folder / "config.json").write_text(json.dumps(config))
        if case == "empty":
            for path in folder.iterdir():
                path.unlink() if path.name != "tokenizer.json" else None


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("edited", r"generation_config.json: damaged or edited, fledge.json has another SHA-256. Put it back"),
        ("cut", r"model.safetensors: damaged or edited"),
        ("gone", r"tokenizer.json: missing, fledge.json has another SHA-256"),
        ("truncated", r"model.safetensors: cannot be read as safetensors"),
        ("llama", r"config.json: model_type='llama'; allowed is model_type 'nanochat'"),
        ("gpt2", r"config.json: model_type='gpt2'; allowed is model_type 'nanochat'"),
        ("bare", r"no weights, \*.safetensors, beside config.json; put them back"),
        ("silu", r"config.json: hidden_act='silu'; allowed is"),
        ("narrow", r"embed_tokens.weight is \[\d+, 64\], expected \[\d+, 32\]"),
        ("deeper", r"6 missing tensors \(model.layers.3"),
        ("silent", r"cannot be understood \(KeyError\('num_attention_heads'\)\)"),
        ("empty", r"neither config.json of transformers nor model_\*.pt of nanochat there"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_clear_error(
    exported: dict[str, Any], tmp_path: Path, case: str, told: str
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(exported["classic"][1], folder)
    damage(folder, case)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        bring(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_foreign_folder_without_custody_comes_back_too(exported: dict[str, Any], tmp_path: Path) -> None:
    run, folder = exported["classic"]
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf" / "fledge.json").unlink()
    about = read_json(folder / "config.json")
    about["rope_theta"] = about.pop("rope_parameters")["rope_theta"]  # as older configs have it
    (tmp_path / "hf" / "config.json").write_text(json.dumps(about))
    again = bring(tmp_path / "hf", tmp_path / "run")
    ours, theirs = load_pair(run, "sft")[0], load_pair(again, "sft")[0]
    assert (
        replace(theirs.config, unembedding_std=0.001) == ours.config
    )  # which says how training began, and nothing else
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_the_template_is_one_line_and_every_parameter_has_a_name(exported: dict[str, Any]) -> None:
    assert "\n" not in TEMPLATE
    model, _ = load_pair(exported["classic"][0], "sft")
    assert {*names(3)} == {*model.state_dict()}


def test_the_card_says_what_it_was_made_from_and_how_to_use_it(exported: dict[str, Any]) -> None:
    text = (exported["extras"][1] / "README.md").read_text()
    assert "It sees 64 tokens" in text
    assert "`world`" in text
    assert "trust_remote_code=True" in text
    assert "is for a calculator or Python" in text
    assert f"Weights of step 7 (not finished), SHA-256 {weights_hash(exported['extras'][0] / 'sft')}" in text


def test_an_unfinished_stage_is_told_and_an_imported_one_is_not(
    exported: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = exported["classic"]
    export(run, tmp_path / "one")
    assert f"{run}, sft (not finished): " in capsys.readouterr().out
    shutil.copytree(folder, tmp_path / "foreign")
    (tmp_path / "foreign" / "fledge.json").unlink()
    export(bring(tmp_path / "foreign", tmp_path / "run"), tmp_path / "two")
    assert "not finished" not in capsys.readouterr().out


def test_whoever_may_read_one_file_of_an_export_may_read_all(exported: dict[str, Any]) -> None:
    assert len({path.stat().st_mode for path in exported["extras"][1].iterdir()}) == 1
