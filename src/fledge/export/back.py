"""`fledge import`: a model from elsewhere becomes a run that every stage goes on from.

    main(Import(source="hf:exports/demo-sft", run="runs/back"))

What export wrote comes back as it was, bit for bit, with the settings and the origin of its stage, so that the chain of hashes
goes on. Foreign are a `nanochat` of transformers and a checkpoint of nanochat; what is not our architecture is refused.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge import console
from fledge.checkpoint import Progress, copied, read_tensors
from fledge.commands import TRAINED, Import
from fledge.config import OptimSettings, check
from fledge.export.hf import TABLES, names
from fledge.export.out import checked
from fledge.model.transformer import ModelConfig, Transformer
from fledge.provenance import provenance
from fledge.runs import made_from
from fledge.settings import nearest
from fledge.storage import file_hash, read_json, sealed, write_atomic
from fledge.text import bpe
from fledge.text.tokenizer import SPECIAL, Tokenizer, from_hugging_face, hugging_face
from fledge.train.optim import build

# GPT-4's own words for the same: possessive where nothing could be given back, one newline after all blanks before it.
HEAD = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
TAIL = r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
RULES = {pattern: n for n, rule in bpe.DIGIT_RULES.items() for pattern in (bpe.pattern(n), HEAD + rule + TAIL)}
NANOCHAT_DIGITS = 2
Weights = dict[str, Tensor]


def main(config: Import) -> None:
    """Read the folder, check everything, and write tokenizer and stage of a new run."""
    check(config)
    folder, run = Path(config.source.removeprefix("hf:")), Path(config.run)
    custody, files = checked(folder), (folder / "config.json", folder / "tokenizer_config.json")
    if not files[0].is_file() and not any(folder.glob("model_*.pt")):
        raise FileNotFoundError(
            f"{folder}: neither config.json of transformers nor model_*.pt of nanochat there; give the folder that holds one"
        )
    about, text = (read_json(path) if path.is_file() else {} for path in files)
    has_template = "chat_template" in text or (folder / "chat_template.jinja").exists()
    stage = config.stage or custody.get("stage") or ("sft" if has_template else "pretrain")
    if stage not in TRAINED:
        raise ValueError(f"stage {stage!r} is not one of {', '.join(TRAINED)}.{nearest(stage, TRAINED)}")
    if taken := [str(run / name) for name in ("tokenizer", stage) if (run / name).exists()]:
        raise ValueError(f"{', '.join(taken)}: is there already; choose another --run")
    try:
        if about:
            refuse_foreign(files[0], about)
        tokenizer = read_tokenizer(Path(config.tokenizer) if config.tokenizer else folder / "tokenizer.json")
        shape, weights, theirs = (_of_transformers if about else _of_nanochat)(folder, about, tokenizer)
        shape = ModelConfig(**custody["model"]) if custody else shape
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: what it says of the model's shape cannot be understood ({error!r})") from error
    model = Transformer(shape)
    model.load_state_dict(fitted(weights, theirs, model, folder))
    write(run / stage, model, tokenizer, custody, folder)
    console.say(f"{folder}: is now {run}, stage {stage}. `fledge chat {run}` talks to it")


def refuse_foreign(path: Path, about: Any) -> None:
    """Raises ValueError where a config.json is not of our architecture; says by what."""
    if about["model_type"] == "fledge":
        return
    rope, wide = about.get("rope_parameters") or {}, 4 * about.get("hidden_size", 0)
    is_so: dict[str, Any] = {"model_type": "nanochat", "hidden_act": "relu2", "intermediate_size": wide}
    is_so |= {"attention_bias": False, "tie_word_embeddings": False}
    odd = [f"{name}={about[name]!r}" for name, value in is_so.items() if about.get(name, value) != value]
    if (turned := rope.get("rope_type", "default")) != "default":
        odd += [f"rope_type={turned!r}"]
    odd += ["final_logit_softcapping=None"] * (about.get("final_logit_softcapping", 15.0) is None)
    if odd:
        raise ValueError(
            f"{path}: {', '.join(odd)}; allowed is model_type 'nanochat' as transformers makes it: relu2, "
            "four times as wide within, capped logits, two tables. Convert the model, or choose another"
        )


def _of_transformers(folder: Path, about: Any, tokenizer: Tokenizer) -> tuple[ModelConfig, Weights, dict[str, str]]:
    """Shape, weights, and our name of each -> its own."""
    if not (paths := sorted(folder.glob("*.safetensors"))):
        raise FileNotFoundError(f"{folder}: no weights, *.safetensors, beside config.json; put them back")
    weights = {name: one for path in paths for name, one in read_tensors(path).items()}
    if about["model_type"] == "fledge":
        return ModelConfig(**about["shape"]), weights, {name: name for name in weights}
    rope = about.get("rope_parameters") or {"rope_theta": about.get("rope_theta", 1e4)}
    shape = ModelConfig(
        vocab=tokenizer.vocab,
        layers=about["num_hidden_layers"],
        width=about["hidden_size"],
        heads=about["num_attention_heads"],
        kv_heads=about.get("num_key_value_heads") or about["num_attention_heads"],
        context=about["max_position_embeddings"],
        rope_base=float(rope["rope_theta"]),
        softcap=float(about.get("final_logit_softcapping", 15.0)),
    )
    return shape, weights, names(shape.layers)


def _of_nanochat(folder: Path, _: Any, tokenizer: Tokenizer) -> tuple[ModelConfig, Weights, dict[str, str]]:
    """The newest checkpoint of nanochat. Those of 2025 are our architecture; tensors tell later ones apart."""
    path = max(folder.glob("model_*.pt"))
    meta = folder / path.name.replace("model_", "meta_").replace(".pt", ".json")
    if not meta.is_file():
        raise FileNotFoundError(f"{meta}: missing beside {path.name}, whose shape it says; put it back")
    about = read_json(meta)["model_config"]
    if "S" in about.get("window_pattern", "L").upper():
        raise ValueError(f"{meta}: window_pattern={about['window_pattern']!r}, whose windows are not ours; allowed: L")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # which ones depends on what stands there in place of tensors
        raise ValueError(f"{path}: cannot be read as tensors alone ({str(error).splitlines()[0]})") from error
    weights = {name.removeprefix("_orig_mod."): tensor for name, tensor in weights.items()}
    sizes = {
        "layers": "n_layer",
        "width": "n_embd",
        "heads": "n_head",
        "kv_heads": "n_kv_head",
        "context": "sequence_len",
    }
    shape = ModelConfig(vocab=tokenizer.vocab, **{ours: about[theirs] for ours, theirs in sizes.items()})
    return shape, weights, names(shape.layers, nanochat=True)


def fitted(weights: Weights, theirs: Mapping[str, str], model: Transformer, where: Path) -> Weights:
    """Under our names, float32, and tables without rows beyond the vocabulary filled up with zeros.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape than the model's.
    """
    wanted = {theirs.get(name, name): (name, tensor.shape) for name, tensor in model.state_dict().items()}
    odd = {"unknown": sorted(weights.keys() - wanted.keys()), "missing": sorted(wanted.keys() - weights.keys())}
    if told := [f"{len(found)} {kind} tensors ({', '.join(found[:3])})" for kind, found in odd.items() if found]:
        raise ValueError(f"{where}: {' and '.join(told)}; taken is the article's architecture alone, without extras")
    fit: Weights = {}
    for name, (ours, shape) in wanted.items():
        tensor = weights[name].float()
        if ours in TABLES and tensor.shape != shape:
            tensor = F.pad(tensor[: model.config.vocab], (0, 0, 0, shape[0] - model.config.vocab))
        if tensor.shape != shape:
            sizes = f"{name} is {[*weights[name].shape]}, expected {[*shape]}"
            raise ValueError(f"{where}: {sizes}; settings, tokenizer and weights do not belong together")
        fit[ours] = tensor
    return fit


def write(path: Path, model: Transformer, tokenizer: Tokenizer, custody: Mapping[str, Any], folder: Path) -> None:
    """The tokenizer of the run, and the stage's folder `path`, whose settings are those of the stage that was exported."""
    custody = custody if custody.get("stage") == path.name else {}
    files = {file.name: file_hash(file) for ending in ("safetensors", "pt") for file in folder.glob(f"model*.{ending}")}
    foreign = {"settings": {"imported": folder.name}, "origin": {"tokenizer": tokenizer.hash, "imported": files}}
    tokenizer.save(path.parent / "tokenizer")
    write_atomic(path / "config.json", sealed(custody.get("begun") or {**foreign, "provenance": provenance()}))
    progress = Progress(step=custody.get("step", 0), made_from=made_from(path))
    copied(path, model, build(model, OptimSettings()), progress, keep=1)()
    if custody.get("summary"):
        write_atomic(path / "done.json", sealed(custody["summary"]))


# Tokenizers that are like ours: the bytes in order, merges, and the nine special tokens; split by GPT-4's rule


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file; nothing is unpickled.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds none that is like ours; says why.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no tokenizer there. Give one with --tokenizer: a tokenizer.json, or ranks as tiktoken writes them "
            "(docs/export.md says how to get them out of nanochat, whose own file is a pickle and never opened)"
        )
    try:
        return _from_json(read_json(path)) if path.suffix == ".json" else _from_ranks(path.read_bytes().split())
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a tokenizer that fledge can take ({error}). Expected are 256 bytes in order, merges, and then "
            f"{', '.join(SPECIAL)}, in a tokenizer.json or in ranks as tiktoken writes them"
        ) from error


def _from_json(content: dict[str, Any]) -> Tokenizer:
    before, model = content["pre_tokenizer"], content["model"]
    (pattern,) = (part["pattern"]["Regex"] for part in before.get("pretokenizers", [before]) if part["type"] == "Split")
    if pattern not in RULES:
        raise ValueError(f"text is split by another rule, {pattern}")
    model["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokenizer = from_hugging_face(content, digits=RULES[pattern], provenance={})
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    if (tokenizer.special, hugging_face(tokenizer)["model"]["vocab"]) != (special, model["vocab"]):
        raise ValueError("ids are not in the order of bytes, merges and special tokens")
    return tokenizer


def _from_ranks(words: list[bytes]) -> Tokenizer:
    """Which two tokens were merged into each is found again by merging its bytes with what came before."""
    tokens, merges = [base64.b64decode(word, validate=True) for word in words[::2]], {}
    for rank, token in enumerate(tokens[256:], 256):
        left, right = bpe.merge_piece(list(token), merges)
        merges[left, right] = rank
    tokenizer = Tokenizer(list(merges), digits=NANOCHAT_DIGITS)
    if tokenizer._tokens[: -len(SPECIAL)] != tokens or list(map(int, words[1::2])) != list(range(len(tokens))):
        raise ValueError("ranks are not 0, 1, 2 ... with the bytes in order first")
    return tokenizer
