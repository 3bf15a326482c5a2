"""Any causal language model of Hugging Face transformers from a local folder, to check our numbers against known models.

    model, tokenizer = load("models/gpt2")
    score = Scorer(model, tokenizer).score(find_task("core/copa"))      # fledge evaluate hf:models/gpt2 --tasks core/copa

Needs the optional extra `hf`. Nothing is downloaded, and code that comes with a model is not run. Prompts are cut to the last
tokens that the model has positions for, as the reference does for GPT-2. Likelihoods alone: free answers need our own engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fledge.model.device import find_device
from fledge.storage import read_json
from fledge.text.chat import Message


class HfModel:
    """Logits of a model of transformers, as evals/likelihood.py wants them."""

    def __init__(self, model: Any) -> None:
        self.model, config = model, model.config.get_text_config()
        self.device: torch.device = model.device
        self.vocab: int = config.vocab_size
        # Rotary positions run on, as our own do.
        is_rotary = bool(getattr(config, "rope_parameters", None))
        self.max_tokens: int | None = None if is_rotary else getattr(config, "max_position_embeddings", None)

    @torch.inference_mode()
    def __call__(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        return self.model(input_ids=ids_BT, use_cache=False).logits


class HfTokenizer:
    """The part of our tokenizer's interface that evaluation uses, over one of transformers."""

    def __init__(self, tokenizer: Any, path: str) -> None:
        self.tokenizer, self.path = tokenizer, path
        # GPT-2 and its kin have one mark between documents, and call it their end.
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if begin is None:
            raise ValueError(f"{path}: its tokenizer has neither a token for the beginning nor for the end of text")
        self.special = {"<|bos|>": int(begin)}

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special ones."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def encode_prompt(self, conversation: Sequence[Message]) -> list[int]:
        """A conversation in the model's own format, ready for the assistant to speak; ValueError of base models, without one."""
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"{self.path}: a base model without a chat template cannot be asked in a conversation; "
                "allowed tasks: core, and those that rank continuations such as world/choice"
            )
        messages = [{"role": message.role, "content": message.text} for message in conversation]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def check(path: str | Path) -> None:
    """Raise FileNotFoundError unless the folder looks like a model's, and ValueError where it brings code of its own."""
    config = Path(path) / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"hf:{path}: no config.json there; give a local folder of a Hugging Face model")
    if "auto_map" in read_json(config):
        raise ValueError(
            f"hf:{path}: comes with code, which is not run here; `fledge import hf:{path}` where fledge wrote it"
        )


def load(path: str, *, device: str = "auto") -> tuple[HfModel, HfTokenizer]:
    """Model and tokenizer of a folder with config.json, weights (safetensors) and tokenizer files; bfloat16 on GPUs.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no model.
        ValueError: transformers is not installed.
    """
    check(path)
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError(
            f"hf:{path} needs transformers: install fledge with its extra, `uv sync --extra hf`"
        ) from error
    place = find_device(device)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        path,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.bfloat16 if place.type == "cuda" else torch.float32,
    )
    return HfModel(model.to(place).eval()), HfTokenizer(tokenizer, path)
