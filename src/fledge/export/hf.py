"""A model as Hugging Face transformers reads it: the class NanoChatForCausalLM, which is our architecture without its extras.

    write(folder, run, custody)                               # config, weights, tokenizer, chat template, card
    write(folder, run, custody, remote_code=True)             # with modeling_fledge.py, which knows the extras
    names(3)["blocks.0.attention.query"]                      # "model.layers.0.self_attn.q_proj.weight"

No matrix is transposed, and no head is turned: names alone differ. Nothing here needs transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fledge.checkpoint import load_pair
from fledge.commands import TRAINED
from fledge.config import Sampling
from fledge.evals.report import gather, markdown
from fledge.export.out import CARD, unfinished
from fledge.model.transformer import ModelConfig, Transformer
from fledge.runs import begun, is_done
from fledge.text.template import for_transformers
from fledge.text.tokenizer import Tokenizer

TABLES = {"embedding": ("model.embed_tokens", "transformer.wte"), "unembedding": ("lm_head", "lm_head")}
MATRICES = {
    "attention.query": ("self_attn.q_proj", "attn.c_q"),
    "attention.key": ("self_attn.k_proj", "attn.c_k"),
    "attention.value": ("self_attn.v_proj", "attn.c_v"),
    "attention.out": ("self_attn.o_proj", "attn.c_proj"),
    "mlp.up": ("mlp.fc1", "mlp.c_fc"),
    "mlp.down": ("mlp.fc2", "mlp.c_proj"),
}
"""Our name -> that of transformers and of nanochat."""
EXTRA_WEIGHTS = {
    *("smear_gate", "smear_scale", "taps", "value_embedding", "value_scale"),
    *("pair_embedding", "pair_scale", "stream_scale", "start_scale", "backout_scale"),
}
"""What modeling_fledge.py has beside the weights that others know."""
CARD_TEXT = """---
library_name: transformers
pipeline_tag: text-generation
tags: [fledge, nanochat]
---

# {name}

A language model of {layers} layers of width {width}, raised from nothing with fledge. It sees {context} tokens, question and answer
together, of a vocabulary of {vocab}.

## Data and limits

{data}

It knows what these say and nothing else, states wrong things as surely as right ones, and refuses nothing but what they refuse.

## How to use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForCausalLM.from_pretrained(folder{trust})
{ask}
answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```
{calls}
## Where it comes from

Weights of step {step}{unfinished}, SHA-256 {weights}. `fledge.json` has settings, and the hashes of data and files.

{report}
"""
ASK = """messages = [{"role": "user", "content": "Who are you?"}]
asked = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
inputs = tokenizer.apply_chat_template(messages, **asked)"""
CALLS = """
What stands between `<|python_start|>` and `<|python_end|>` in an answer is for a calculator or Python. Without one that runs
it, and puts what it gives between `<|output_start|>` and `<|output_end|>`, the rest of the answer is a guess. fledge's
docs/export.md has the lines for it.
"""
ASK_BASE = 'inputs = tokenizer("<|bos|>Once upon a time", return_tensors="pt")'


def names(layers: int, *, nanochat: bool = False) -> dict[str, str]:
    """Our name of every parameter of a classic model -> that of transformers, or of nanochat."""
    block = "transformer.h" if nanochat else "model.layers"
    found = {ours: f"{theirs[nanochat]}.weight" for ours, theirs in TABLES.items()}
    for layer in range(layers):
        for ours, theirs in MATRICES.items():
            found[f"blocks.{layer}.{ours}"] = f"{block}.{layer}.{theirs[nanochat]}.weight"
    return found


def extras(config: ModelConfig) -> list[str]:
    """What a model has that neither transformers nor llama.cpp can say."""
    flags = ("smear", "key_filter", "value_embeddings", "pairs", "residual_scales", "backout")
    windows = [f"windows {config.windows}"] if any(map(config.window, range(config.layers))) else []
    return [*(name for name in flags if getattr(config, name)), *windows]


def check_weights(model: Transformer, where: str) -> None:
    """Raise ValueError for a weight that no other program has a name for: it would be left out without a word."""
    known = names(model.config.layers)
    for name in model.state_dict():
        if name not in known and name.rpartition(".")[2] not in EXTRA_WEIGHTS:
            raise ValueError(
                f"{where}: has the weight {name}, which export does not know: the architecture was changed. Teach it to "
                "export/hf.py, gguf.py and modeling_fledge.py, or export a model of the architecture as it was"
            )


def write(folder: Path, run: Path, custody: Mapping[str, Any], *, remote_code: bool = False) -> None:
    """Fill an empty folder with all that `AutoModelForCausalLM` and `AutoTokenizer` want.

    Raises:
        ValueError: the model has extras, and they are not to come with code of their own.
    """
    stage = custody["stage"]
    model, tokenizer = load_pair(run, stage)
    check_weights(model, f"{run}/{stage}")
    config, weights = model.config, model.state_dict()
    others = extras(config) + ([f"qk_scale {config.qk_scale}"] if config.qk_scale != 1 else [])
    if others and not remote_code:
        raise ValueError(
            f"{run}/{stage}: has {', '.join(others)}, which transformers does not know. Add --remote-code, which puts the "
            "code for it beside the weights, or train with --classic"
        )
    if remote_code:
        shutil.copyfile(Path(__file__).with_name("modeling_fledge.py"), folder / "modeling_fledge.py")
    else:  # without the rows that fill the tables up
        cut = {name: weights[name][: config.vocab] for name in TABLES}
        weights = {theirs: cut.get(ours, weights[ours]) for ours, theirs in names(config.layers).items()}
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    ids, draw = special_ids(tokenizer, stage), Sampling()
    sampling = {"do_sample": True, "temperature": draw.temperature, "top_k": draw.top_k}
    sampling |= {"max_new_tokens": min(draw.max_tokens, config.context // 2), **ids}
    text = for_transformers(can_chat=stage != "pretrain", context=config.context)
    about = architecture(config, remote_code=remote_code) | ids
    files = {"config": about, "generation_config": sampling, "tokenizer_config": text}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # which its writer lets the owner alone read
    shutil.copyfile(run / "tokenizer" / "tokenizer.json", folder / "tokenizer.json")
    (folder / CARD).write_text(card(run, custody, remote_code=remote_code), encoding="utf-8")


def architecture(config: ModelConfig, *, remote_code: bool) -> dict[str, Any]:
    """What config.json says of the model."""
    about: dict[str, Any] = {"dtype": "float32", "tie_word_embeddings": False, "vocab_size": config.vocab}
    about |= {"hidden_size": config.width, "intermediate_size": 4 * config.width, "num_attention_heads": config.heads}
    about |= {"num_key_value_heads": config.kv_heads, "max_position_embeddings": config.context}
    # What looks back at tokens and their embeddings has a place of its own in the cache.
    about |= {"num_hidden_layers": config.layers + (config.smear or config.pairs > 0)}
    if remote_code:
        classes = {"AutoConfig": "FledgeConfig", "AutoModelForCausalLM": "FledgeForCausalLM"}
        code = {auto: f"modeling_fledge.{name}" for auto, name in classes.items()}
        about |= {"architectures": ["FledgeForCausalLM"], "model_type": "fledge", "auto_map": code}
        return about | {"shape": asdict(config)}
    about |= {"architectures": ["NanoChatForCausalLM"], "model_type": "nanochat", "hidden_act": "relu2"}
    about |= {"rms_norm_eps": torch.finfo(torch.float32).eps, "final_logit_softcapping": config.softcap}
    return about | {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base}}


def special_ids(tokenizer: Tokenizer, stage: str) -> dict[str, Any]:
    """Ids of what begins a text, ends an answer and fills a row. A base model's documents end where the next begins."""
    bos, end = (tokenizer.special[name] for name in ("<|bos|>", "<|assistant_end|>"))
    return {"bos_token_id": bos, "eos_token_id": bos if stage == "pretrain" else [end, bos], "pad_token_id": bos}


def card(run: Path, custody: Mapping[str, Any], *, remote_code: bool) -> str:
    """README.md: front matter that the hub reads, how to use it, and the report of the run."""
    known = {name: begun(run / name)["settings"] for name in TRAINED if (run / name / "config.json").exists()}
    tokens = {name: f", {about['tokens']:,} tokens" if about.get("tokens") else "" for name, about in known.items()}
    named = {name: [about[k] for k in ("data", "task", "imported") if about.get(k)] for name, about in known.items()}
    data = [f"- {name}: `{', '.join(named[name])}`{tokens[name]}" for name in known]
    report = markdown(gather(run), []) if any(is_done(run / name) for name in TRAINED) else ""
    return CARD_TEXT.format(
        name=f"{custody['run']}-{custody['stage']}",
        data="\n".join(data) or "What it learned from nobody knows.",
        trust=", trust_remote_code=True" if remote_code else "",
        ask=ASK_BASE if custody["stage"] == "pretrain" else ASK,
        calls="" if custody["stage"] == "pretrain" else CALLS,
        unfinished=unfinished(custody),
        report=report.replace("\n## ", "\n### ").replace("# Rep", "## Rep", 1),
        **{name: custody[name] for name in ("step", "weights")},
        **{name: custody["model"][name] for name in ("layers", "width", "context", "vocab")},
    )
