"""A model as stock llama.cpp runs it: under the architecture `apertus`, which can say all of ours but the soft cap and the extras.

    write(Path("demo.gguf"), run, custody, weights="float32")

apertus has norms after queries and keys, no gate, and xIELU, which with these constants is relu squared: for x > 0 it is
alpha_p x^2 + beta x, where alpha_p goes through a softplus, and below 0 nothing is left. The norm of the embedding is taken
beforehand. Queries and keys turn the other way round there, so the halves of every head change places. The norms' weight is
qk_scale.

A cap leaves the order of the tokens as it is, so the likeliest is the same; how far probabilities move is measured and said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fledge import console
from fledge.checkpoint import load_pair
from fledge.export.hf import check_weights, extras, special_ids
from fledge.model.transformer import ModelConfig, Transformer, norm
from fledge.origin import text_of
from fledge.text.documents import validation_documents
from fledge.text.template import TEMPLATE
from fledge.text.tokenizer import Tokenizer, hugging_face

SPLITS = {1: "qwen2", 3: "dbrx"}
"""llama.cpp's name of our rule, by digits. Not llama-bpe, which takes whole words that are tokens without asking the merges."""
MATRICES = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "out": "attn_output",
    "up": "ffn_up",
    "down": "ffn_down",
}
MEASURED = 1000
"""Held-out tokens whose probabilities are compared."""


def write(path: Path, run: Path, custody: Mapping[str, Any], *, weights: str) -> None:
    """Write the file, and say by how much it differs.

    Raises:
        ValueError: llama.cpp cannot run the model, or the package gguf is missing.
    """
    try:
        from gguf import GGUFWriter
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: needs gguf: install fledge with its extra, `uv sync --extra export`") from error
    stage = custody["stage"]
    model, tokenizer = load_pair(run, stage)
    check_weights(model, f"{run}/{stage}")
    if others := extras(model.config):
        raise ValueError(f"{run}/{stage}: has {', '.join(others)}, which llama.cpp does not know. Train with --classic")
    if tokenizer.digits not in SPLITS:
        raise ValueError(f"{run}: its tokenizer takes {tokenizer.digits} digits together; llama.cpp knows 1 or 3")
    writer = GGUFWriter(path, "apertus")
    writer.add_name(f"{custody['run']}-{stage}")
    writer.add_string("fledge.custody", json.dumps(custody))
    add_shape(writer, model.config)
    add_tokenizer(writer, tokenizer, stage)
    read = add_tensors(writer, model, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    console.say(difference(model, read, run, tokenizer))


def add_shape(writer: Any, config: ModelConfig) -> None:
    """What llama.cpp must know before it reads a tensor."""
    counts = {"context_length": config.context, "embedding_length": config.width, "block_count": config.layers}
    counts |= {"feed_forward_length": 4 * config.width, "vocab_size": config.vocab}
    counts |= {
        "rope.dimension_count": config.channels,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
    }
    for name, count in counts.items():
        writer.add_uint32(f"apertus.{name}", count)
    writer.add_layer_norm_rms_eps(torch.finfo(torch.float32).eps)
    writer.add_rope_freq_base(config.rope_base)
    for name, value in {"alpha_p": math.log(math.e - 1), "alpha_n": -1e4, "beta": 0.0, "eps": -1e-6}.items():
        writer.add_array(f"xielu.{name}", [value] * config.layers)


def add_tokenizer(writer: Any, tokenizer: Tokenizer, stage: str) -> None:
    """Tokens, merges, special ids and the chat template."""
    from gguf import TokenType

    content, ids = hugging_face(tokenizer)["model"], special_ids(tokenizer, stage)
    kinds = [TokenType.NORMAL] * len(content["vocab"]) + [TokenType.CONTROL] * len(tokenizer.special)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(SPLITS[tokenizer.digits])
    writer.add_token_list([*content["vocab"], *tokenizer.special])
    writer.add_token_types(kinds)
    writer.add_token_merges(content["merges"])
    writer.add_bos_token_id(ids["bos_token_id"])
    writer.add_eos_token_id(ids["bos_token_id"] if stage == "pretrain" else ids["eos_token_id"][0])
    writer.add_add_bos_token(True)
    if stage != "pretrain":
        writer.add_chat_template(TEMPLATE)


def add_tensors(writer: Any, model: Transformer, weights: str) -> dict[str, Tensor]:
    """Write every tensor; returns our matrices as they are read there, under our names."""
    from gguf import GGMLQuantizationType, quants

    config, read = model.config, {}

    def add(theirs: str, ours: str, matrix: Tensor, heads: int = 0) -> None:
        data, kind = flipped(matrix, heads).numpy(), None
        if weights == "q8_0" and data.shape[-1] % 32 == 0:
            data = quants.quantize(data, kind := GGMLQuantizationType.Q8_0)
            matrix = flipped(torch.from_numpy(quants.dequantize(data, kind)), heads)
        writer.add_tensor(f"{theirs}.weight", data, raw_dtype=kind)
        read[ours] = matrix

    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    add("token_embd", "embedding", norm(state["embedding"][: config.vocab]))
    add("output", "unembedding", state["unembedding"][: config.vocab])
    ones, sharp = np.ones(config.width, np.float32), np.full(config.channels, config.qk_scale, np.float32)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(config.layers):
        for name, vector in {"attn_norm": ones, "ffn_norm": ones, "attn_q_norm": sharp, "attn_k_norm": sharp}.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", vector)
        for ours, matrix in state.items():
            if ours.startswith(f"blocks.{layer}."):
                theirs = MATRICES[ours.rpartition(".")[2]]
                heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(theirs, 0)
                add(f"blk.{layer}.{theirs}", ours, matrix, heads)
    return read


def flipped(matrix: Tensor, heads: int) -> Tensor:
    """The halves of every head change places, if there are heads; twice is nothing."""
    return matrix.view(heads, 2, -1, matrix.size(-1)).flip(1).reshape(matrix.shape) if heads else matrix.contiguous()


@torch.no_grad()
def difference(model: Transformer, read: Mapping[str, Tensor], run: Path, tokenizer: Tokenizer) -> str:
    """How far log-probabilities of held-out tokens move, in words: without the cap, and with the weights as `read`."""
    told = "llama.cpp has no soft cap, which moves probabilities"
    try:
        if not (run / "pretrain" / "config.json").exists():
            raise FileNotFoundError("the run has no text of pretraining")
        held_out = validation_documents(**text_of(run), bytes_wanted=8 * MEASURED).documents
    except (OSError, ValueError) as error:
        return f"{told}; by how much was not measured: {error}"
    config, other = model.config, Transformer(model.config)
    other.load_state_dict(model.state_dict())
    for name, matrix in read.items():  # tables without the rows that fill them up
        other.get_parameter(name)[: len(matrix)] = matrix
    bos = tokenizer.special["<|bos|>"]
    ids = [token for one in held_out for token in (bos, *tokenizer.encode(one.text))][: MEASURED + 1]
    gaps, same = [], 0
    for first in range(0, len(ids) - 1, config.context):
        row = torch.tensor([ids[first : first + config.context + 1]])
        ours = model(row[:, :-1])[0]
        theirs = F.linear(other.hidden(row[:, :-1]), other.unembedding)[0, :, : config.vocab]
        one, two = (scores.log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0] for scores in (ours, theirs))
        gaps += (one - two).abs().tolist()
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    mean = sum(gaps) / len(gaps)
    return (
        f"{told}: on {len(gaps):,} held-out tokens by {mean:.4f} nats on average and {max(gaps):.4f} at most; "
        f"the likeliest is the same at {same:,}"
    )
