"""Answers that are JSON of a given form: which tokens may come next, as the library llguidance says.

    grammar = compile_schema({"type": "object"}, tokenizer)         # ValueError: what of the schema is not known
    request = Request(prompt=ids, grammar=grammar.copy())           # a copy for each answer
    tokens_R = draw(masked(logits_RV, requests), ...); request.grammar.take(token)

A tokenizer here has all 256 bytes, so that whatever a schema wants can be written. An answer has one space behind its commas and
colons and none elsewhere: a small model that may begin lines begins nothing else. What the library does not know of JSON Schema it
refuses, so that a finished answer follows all of its schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fledge.infer.sampling import MINUS_INFINITY
from fledge.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from fledge.infer.request import Request

SCHEMA_CHARACTERS = 32_768
"""Longest schema: 3,000 properties took seconds, a step of the engine as well."""
ENDS = ("<|assistant_end|>", "<|bos|>")
FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """How one answer goes on."""

    def __init__(self, matcher: LLMatcher, vocab: int) -> None:
        self.matcher, self.vocab = matcher, vocab

    def copy(self) -> Grammar:
        """The same, from the same place on, for another answer."""
        return Grammar(self.matcher.deep_copy(), self.vocab)

    def allowed(self) -> np.ndarray:
        """Whether each token may come next, an end of the answer among them once it is whole.

        Raises:
            ValueError: the library gives up, for the schema takes too long to follow.
        """
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        bits = allocate_token_bitmask(1, self.vocab)
        fill_next_token_bitmask(self.matcher, bits)
        if problem := self.matcher.get_error():
            raise ValueError(problem.splitlines()[0])
        return np.unpackbits(bits.view(np.uint8), bitorder="little", count=self.vocab).view(bool)

    def take(self, token: int) -> None:
        """The answer goes on with this token. Where the library gives up, `allowed` says so next."""
        self.matcher.consume_token(token)


def masked(logits_RV: Float[Tensor, "R V"], requests: Sequence[Request]) -> Float[Tensor, "R V"]:
    """The logits of a row per request, without the tokens that its grammar does not allow; a grammar that fails is its error."""
    rows, allowed = [], []
    for row, request in enumerate(requests):
        if request.grammar is not None:
            try:
                allowed.append(request.grammar.allowed())
                rows.append(row)
            except ValueError as error:
                request.error = error
    if rows:
        allowed_RV = torch.from_numpy(np.stack(allowed)).to(logits_RV.device)
        logits_RV = logits_RV.clone()
        logits_RV[rows] = logits_RV[rows].masked_fill(~allowed_RV, MINUS_INFINITY)
    return logits_RV


def compile_schema(schema: dict[str, Any], tokenizer: Tokenizer) -> Grammar:
    """The grammar of a JSON schema. It may take seconds, and lets other threads run.

    Raises:
        ValueError: the schema is wrong, too long, or says what the library does not know; or the library is not there.
    """
    text = json.dumps(schema)
    if len(text) > SCHEMA_CHARACTERS:
        raise ValueError(f"the schema has {len(text)} characters; allowed: {SCHEMA_CHARACTERS}")
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise ValueError(
            "JSON by a schema needs the package llguidance beside fledge: `uv sync --extra json`, or pip install llguidance"
        ) from None
    grammar = LLMatcher.grammar_from_json_schema(text, overrides=FORM)
    compiled = Grammar(LLMatcher(_known(tokenizer), grammar, log_level=0), tokenizer.vocab)
    compiled.allowed()  # a schema that nothing follows is found here
    return compiled


@lru_cache(maxsize=4)
def _known(tokenizer: Tokenizer) -> LLTokenizer:
    """The vocabulary as the library wants it."""
    from llguidance import LLTokenizer, TokenizerWrapper

    ends = [tokenizer.special[name] for name in ENDS]
    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer, ends[0])), eos_token=ends)


class _Vocabulary:
    """What the library asks a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id, self.bos_token_id = end, tokenizer.special["<|bos|>"]
        self.tokens = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab)]
        self.special_token_ids = [*tokenizer.special.values()]
        self.encode = tokenizer.encode

    def __call__(self, text: bytes) -> list[int]:
        return self.encode(text.decode())
