"""The tokenizer against independent implementations: the regex itself, tiktoken, Hugging Face."""

import base64
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tokenizer import spellings
from fledge.text import bpe
from fledge.text.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parents[2].joinpath("shared/data")
CORPUS = [
    "The miller's daughter said she'll bring 1234 apples and 56 pears.\n\n  They're late!! ... x = [1, 2.5]; y += 'z'\r\n"
    * 9,
    "Größe, naïve œuvre; zażółć gęślą jaźń. 안녕하세요 세계! 你好，世界。 مرحبا ٣٤٥ हिन्दी 🙂👩‍👩‍👧 Ⅷ ½\u3000\xa0" * 9,
]
# Unassigned code points are left out: a peer with a newer Unicode may call them letters.
ASSIGNED = st.text(st.characters(codec="utf-8", exclude_categories=["Cn", "Co"]), max_size=30)
TEXT = st.lists(
    st.one_of(ASSIGNED, st.sampled_from(["'Ll", "'ſ", " \n\t", "12345", "   ", "\r\n", "a'S"])), max_size=6
).map("".join)


def as_tiktoken(tokenizer: Tokenizer) -> tiktoken.Encoding:
    ranks = spellings(tokenizer)
    return tiktoken.Encoding("ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})


TOKENIZER = {digits: Tokenizer.train(CORPUS, vocab=700, digits=digits) for digits in (1, 2, 3)}
TIKTOKEN = {digits: as_tiktoken(tokenizer) for digits, tokenizer in TOKENIZER.items()}


@settings(max_examples=300, deadline=None)
@given(text=TEXT, digits=st.sampled_from([1, 2, 3]))
def test_text_is_split_as_the_regex_says(text: str, digits: int) -> None:
    assert bpe.split(text, digits=digits) == regex.findall(bpe.pattern(digits), text)


@settings(max_examples=300, deadline=None)
@given(text=TEXT, digits=st.sampled_from([1, 2, 3]))
def test_ids_are_those_of_tiktoken(text: str, digits: int) -> None:
    assert TOKENIZER[digits].encode(text) == TIKTOKEN[digits].encode_ordinary(text)


def varied() -> Iterator[str]:
    """Ten thousand texts: 300 and more languages, code, random code points, emoji, runs of one character."""
    chance = random.Random(1)
    for name in ("udhr", "bible_excerpts", "wiki_summaries_fr"):
        lines = gzip.decompress((DATA / f"multilingual/{name}.jsonl.gz").read_bytes()).splitlines()
        for line in lines[:2000]:
            text = json.loads(line)["text"]
            start = chance.randrange(max(1, len(text) - 600))
            yield text[start : start + 600]
    code = gzip.decompress((DATA / "code/thealgorithms_mit.jsonl.gz").read_bytes()).splitlines()
    yield from (json.loads(line)["text"][:1000] for line in code[:1000])
    assigned = [
        chr(code) for code in range(0x3400) if regex.match(r"\P{Cn}", chr(code)) and not 0xD800 <= code < 0xE000
    ]
    emoji = [chr(code) for code in (*range(0x1F300, 0x1F650), 0x200D, 0xFE0F, *range(0x1F3FB, 0x1F400))]
    for _ in range(6500):
        letters = chance.choice([assigned, assigned, emoji, [chr(code) for code in range(128)]])
        text = "".join(
            chance.choice(letters) * chance.choice([1, 1, 1, 2, 3, 90]) for _ in range(chance.randrange(120))
        )
        yield text


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared data sets")
def test_ids_are_those_of_tiktoken_on_ten_thousand_varied_documents() -> None:
    texts = list(varied())
    assert len(texts) >= 10_000
    for digits in (1, 2, 3):
        documents = texts[digits - 1 :: 3]
        tokenizer = Tokenizer.train(documents, vocab=8192, digits=digits)
        ids, offsets = tokenizer.encode_batch(documents)
        expected = as_tiktoken(tokenizer).encode_ordinary_batch(documents)
        for k, theirs in enumerate(expected):
            assert ids[offsets[k] : offsets[k + 1]].tolist() == theirs, documents[k]


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared data sets")
def test_the_real_gpt_4_vocabulary_gives_the_ids_of_tiktoken() -> None:
    lines = gzip.decompress((DATA / "tokenizers/cl100k_base.tiktoken.gz").read_bytes()).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    tokenizer = Tokenizer(merges_of(ranks), digits=3)
    ours = {token: ranks[spelling] for spelling, token in spellings(tokenizer).items()}  # bytes have another order
    theirs = tiktoken.Encoding("GPT-4", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})
    for text in [*CORPUS, *list(varied())[::40]]:
        assert [ours[token] for token in tokenizer.encode(text)] == theirs.encode_ordinary(text)


def merges_of(ranks: dict[bytes, int]) -> list[tuple[int, int]]:
    """The merges behind a vocabulary as tiktoken keeps it: what encoding a token with the older tokens leaves is two of them."""
    merges: dict[tuple[int, int], int] = {}
    for token, spelling in list(enumerate(sorted(ranks, key=ranks.__getitem__)))[256:]:
        a, b = bpe.merge_piece(list(spelling), merges)
        merges[a, b] = token
    return list(merges)


@pytest.mark.parametrize("digits", [1, 3])
def test_the_file_loads_in_hugging_faces_tokenizers_with_the_same_ids(tmp_path: Path, digits: int) -> None:
    tokenizer = TOKENIZER[digits]
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*CORPUS, "  \n\n x", "don't 99999", "\x00\x01"]:
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    for name, token in tokenizer.special.items():
        assert theirs.token_to_id(name) == token


def test_the_file_loads_in_transformers_with_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an extra: uv sync --extra hf")
    TOKENIZER[3].save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in CORPUS:
        assert theirs(text)["input_ids"] == TOKENIZER[3].encode(text)
        assert theirs.decode(TOKENIZER[3].encode(text)) == text
