"""The comparison of vocabularies counts what tiktoken counts."""

import base64
from pathlib import Path

import pytest

from benchmarks.compression import FOREIGN, SAMPLES, Settings, compare, foreign, main
from fledge.text.tokenizer import Tokenizer

VOCABULARIES = Path(__file__).resolve().parents[2].joinpath("shared/data/tokenizers")
KNOWN = {"GPT-2": [31373, 995, 0], "GPT-4": [15339, 1917, 0], "GPT-4o": [24912, 2375, 0]}
"""Ids of "hello world!", as published in many places."""


@pytest.mark.skipif(not VOCABULARIES.exists(), reason="needs the shared vocabularies")
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_vocabularies_give_the_ids_that_are_known_of_them(name: str) -> None:
    theirs = foreign(name, VOCABULARIES)
    assert theirs
    assert theirs.encode_ordinary("hello world!") == KNOWN[name]


def test_vocabularies_that_are_missing_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.train(SAMPLES.values(), vocab=400)
    ratios = compare(tokenizer, SAMPLES, vocabularies=tmp_path)
    assert list(ratios) == ["ours"]
    assert all(ratio > 1 for ratio in ratios["ours"].values())
    tokenizer.save(tmp_path)
    main(Settings(tokenizer=str(tmp_path), documents=20))
    printed = capsys.readouterr().out
    assert "GPT-2, GPT-4, GPT-4o" in printed
    assert all(name in printed for name in [*SAMPLES, "world, validation"])


def test_a_vocabulary_in_the_folder_becomes_a_column(tmp_path: Path) -> None:
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    lines += [base64.b64encode(b"th") + b" 256", base64.b64encode(b"the") + b" 257"]
    (tmp_path / "r50k_base.tiktoken").write_bytes(b"\n".join(lines))
    ratios = compare(Tokenizer([]), {"some": "the the"}, vocabularies=tmp_path)
    assert ratios == {"ours": {"some": 1.0}, "GPT-2": {"some": 7 / 3}}
