"""The comparison of vocabularies counts what tiktoken counts."""

import base64
import gzip
from pathlib import Path

import pytest
import tiktoken
from tiktoken_ext import openai_public

from benchmarks.compression import FOREIGN, SAMPLES, Foreign, compare, find, missing, survives_every_byte, table
from fledge.text import bpe
from fledge.text.tokenizer import Tokenizer

VOCABULARIES = Path(__file__).resolve().parents[2].joinpath("shared/data/tokenizers")
O200K_PATTERN = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    ]
)


@pytest.mark.skipif(not VOCABULARIES.exists(), reason="needs the shared vocabularies")
@pytest.mark.parametrize("name", FOREIGN)
def test_counts_equal_those_of_tiktoken(name: str) -> None:
    file = find(FOREIGN[name], VOCABULARIES)
    assert file
    lines = gzip.decompress(file.read_bytes()).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    pattern = {"GPT-2": openai_public.r50k_pat_str, "GPT-4": bpe.pattern(3), "GPT-4o": O200K_PATTERN}[name]
    theirs = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    ours = Foreign(name, file)
    for text in [*SAMPLES.values(), "don'T I'll  \n\n x\t99 HTTPServer's café ǅ नमस्ते a/b//\n 🙂" + " " * 40]:
        assert ours.count(text) == len(theirs.encode_ordinary(text))


def test_missing_vocabularies_are_left_out_and_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(SAMPLES.values(), vocab=400)
    rows = compare(tokenizer, {"train": "the city council", "validation": ""}, vocabularies=tmp_path)
    assert [row.text for row in rows] == [*SAMPLES, "train"]
    assert all(list(row.bytes_per_token) == ["ours"] and row.bytes_per_token["ours"] > 1 for row in rows)
    assert missing(tmp_path) == missing(None) == ["r50k_base.tiktoken", "cl100k_base.tiktoken", "o200k_base.tiktoken"]
    assert table(rows).splitlines()[0] == "| bytes per token | ours |"


def test_a_vocabulary_in_the_folder_becomes_a_column(tmp_path: Path) -> None:
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)] + [
        base64.b64encode(b"the") + b" 257"
    ]
    (tmp_path / "r50k_base.tiktoken").write_bytes(b"\n".join([*lines, base64.b64encode(b"th") + b" 256"]))
    (row,) = compare(Tokenizer([]), {"train": "the the"}, vocabularies=tmp_path)[-1:]
    assert row.bytes_per_token == {"ours": 1.0, "GPT-2": 7 / 3}


def test_every_byte_value_survives() -> None:
    assert survives_every_byte(Tokenizer.train(SAMPLES.values(), vocab=400))
