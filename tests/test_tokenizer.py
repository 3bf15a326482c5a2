"""Laws of the tokenizer, each for the Rust library and for plain Python."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.text import bpe, native
from fledge.text.chat import Part, PartReader
from fledge.text.tokenizer import SPECIAL, Tokenizer, capped

ENGLISH = (
    "The miller's daughter said she'll bring 1234 apples, 56 pears and 7 plums.\n\nThe miller didn't mind:\n"
    "  'We've 99% of them!' - she laughed... =A =B\n\tdef add(a, b):\n\t\treturn a + b  # 3.14159\n\n\n"
)
OTHERS = "Zażółć gęślą jaźń. Größe, naïve, œuvre. 안녕하세요 세계! 你好，世界。 مرحبا ٣٤٥ 🙂👩‍👩‍👧 हिन्दी Ⅷ ½ x² \u3000\xa0end"
CORPUS = [(ENGLISH + OTHERS) * 3, "", ENGLISH, OTHERS * 5, "aaaa aaaaaa aa " * 30]

need_rust = pytest.mark.skipif(not native.available(), reason="the Rust library is not built (python hatch_build.py)")
BACKENDS = [pytest.param("rust", marks=need_rust), "python"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FLEDGE_BPE", request.param)
    return request.param


def tiny(vocab: int = 400, digits: int = 3) -> Tokenizer:
    return Tokenizer.train(CORPUS, vocab=vocab, digits=digits)


TINY = tiny()


def any_text() -> st.SearchStrategy[str]:
    pieces = st.one_of(
        st.text(max_size=20),
        st.sampled_from([*SPECIAL, "'ll", "'ſ", " \n ", "\r\n", "  ", "123456", "\x00", "=A", "한국", "🙂", "e\u0301"]),
        st.builds(lambda letter, times: letter * times, st.characters(codec="utf-8"), st.integers(1, 200)),
    )
    return st.lists(pieces, max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=any_text())
def test_decoding_what_was_encoded_gives_the_text_and_its_bytes(text: str) -> None:
    ids = TINY.encode(text)
    assert TINY.decode(ids) == text
    assert TINY.decode_bytes(ids) == text.encode()
    assert TINY.bytes_per_token[ids].sum() == len(text.encode())


def native_split(text: str, *, digits: int) -> list[bytes]:
    """The pieces of the Rust library: after all the merges that a text allows, each of its pieces is one token."""
    trainer = native.Trainer(digits=digits)
    trainer.count([text])
    tokenizer = Tokenizer(trainer.merge(len(text.encode())), digits=digits)
    return [tokenizer.decode_bytes([token]) for token in tokenizer.encode(text)]


@need_rust
@settings(max_examples=300, deadline=None)
@given(text=any_text())
def test_rust_and_python_agree_on_any_text(text: str) -> None:
    for digits in (1, 3):
        assert [piece.encode() for piece in bpe.split(text, digits=digits)] == native_split(text, digits=digits)
    oracle = bpe.Encoder(TINY.merges, digits=3)
    assert TINY.encode(text) == oracle.encode_batch([text])[0].tolist()


@need_rust
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(any_text(), min_size=1, max_size=6))
def test_rust_and_python_learn_the_same_merges(texts: list[str]) -> None:
    trainers = [module.Trainer(digits=3, threads=2) for module in (native, bpe)]
    for trainer in trainers:
        trainer.count(texts)
    assert trainers[0].merge(50) + trainers[0].merge(50) == trainers[1].merge(100)


def test_merges_equal_those_of_counting_anew_each_time(backend: str) -> None:
    chance = random.Random(1)
    for letters in (1, 2, 3, 4):  # few, so that runs and repeated pairs are frequent
        words = ["".join(chance.choices("abcd"[:letters], k=chance.randrange(1, 40))) for _ in range(30)]
        left, expected = [list(word.encode()) for word in words], []
        while len(expected) < 40 and any(len(word) > 1 for word in left):
            counts = Counter(pair for word in left for pair in pairwise(word))
            expected.append(min(counts, key=lambda pair: (-counts[pair], pair)))
            left = [bpe.join(word, expected[-1], 255 + len(expected)) for word in left]
        trainer = {"rust": native, "python": bpe}[backend].Trainer(digits=3)
        trainer.count(words)
        assert trainer.merge(40) == expected


@need_rust
def test_full_caches_are_emptied_and_go_on() -> None:
    merges = [(ord("a"), ord("b"))]
    oracle = bpe.Encoder(merges, digits=3)
    for repeats in (1, 4):  # short pieces and long ones
        texts = ["".join(chr(ord("a") + k // 20**place % 20) for place in range(5)) * repeats for k in range(600_000)]
        ids, offsets = native.Encoder(merges, digits=3).encode_batch(texts)
        for k in range(0, len(texts), 999):
            assert ids[offsets[k] : offsets[k + 1]].tolist() == oracle.encode_batch([texts[k]])[0].tolist()


@need_rust
def test_rust_and_python_make_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = set()
    for choice in ("rust", "python"):
        monkeypatch.setenv("FLEDGE_BPE", choice)
        hashes.add(tiny(vocab=500).hash)
    assert len(hashes) == 1


@need_rust
def test_both_read_the_unicode_table_alike() -> None:
    table = Path(bpe.__file__).with_name("unicode.txt").read_text().split()
    edges = [int(code, 16) for code in table if len(code) > 1]
    codes = {code + step for code in edges for step in (-1, 0, 1)} | set(range(0x3000)) - set(range(0xD800, 0xE000))
    text = " ".join(f"{chr(code)}a1{chr(code)} {chr(code)}" for code in sorted(codes - {0x110000}))
    assert [piece.encode() for piece in bpe.split(text, digits=3)] == native_split(text, digits=3)


def test_the_order_of_documents_their_grouping_and_threads_do_not_change_the_file(backend: str) -> None:
    lines = "".join(CORPUS).splitlines(keepends=True)
    shuffled = random.Random(1).sample(lines, len(lines))
    files = {
        Tokenizer.train(documents, vocab=420, threads=k).hash
        for k, documents in ((1, lines), (2, shuffled), (3, lines))
    }
    assert len(files) == 1


def test_special_tokens_have_the_last_ids_and_never_come_from_text(backend: str) -> None:
    tokenizer = tiny()
    assert list(tokenizer.special) == list(SPECIAL)
    assert list(tokenizer.special.values()) == list(range(tokenizer.vocab - len(SPECIAL), tokenizer.vocab))
    for name, token in tokenizer.special.items():
        assert max(tokenizer.encode(f"a {name} b")) < tokenizer.vocab - len(SPECIAL)
        assert tokenizer.decode([token]) == name
        assert tokenizer.bytes_per_token[token] == 0


def test_a_letter_behind_an_equals_sign_is_one_token_once_it_was_seen() -> None:
    tokenizer = Tokenizer.train(["- shell=A\n- forest=B\n"] * 4, vocab=300)
    assert b"=A" in map(tokenizer.decode_bytes, zip(range(tokenizer.vocab)))
    assert tokenizer.decode(tokenizer.encode("- pond=A")[-1:]) == "=A"


def test_batches_equal_single_texts_and_name_their_places(backend: str) -> None:
    tokenizer = tiny()
    texts = [*CORPUS, "", "x" * 1000, ENGLISH]
    for threads in (1, 2):
        ids, offsets = tokenizer.encode_batch(texts, threads=threads)
        assert ids.dtype == np.uint16
        assert offsets.tolist() == [0, *np.cumsum([len(tokenizer.encode(text)) for text in texts])]
        for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
            assert tokenizer.decode(ids[start:end]) == text
    ids, offsets = tokenizer.encode_batch([])
    assert ids.size == 0
    assert offsets.tolist() == [0]


def test_ids_beyond_16_bits_are_kept(backend: str) -> None:
    pairs = [(a, b) for a in range(256) for b in range(256)]
    accent = tuple("é".encode())
    merges = [accent, *(pair for pair in pairs if pair != accent), (256, 256)]
    tokenizer = Tokenizer(merges, special=())
    ids, _ = tokenizer.encode_batch(["éé" * 100, "é", "éé"])
    assert ids.dtype == np.uint32
    last = tokenizer.vocab - 1
    assert ids.tolist() == [last] * 100 + [256, last]


def test_every_byte_survives() -> None:
    assert TINY.decode_bytes(range(256)) == bytes(range(256))
    assert TINY.decode([0xFF, 0x41]) == "\ufffdA"


def said(pieces: list[Part]) -> str:
    return "".join(text for _, text in pieces)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, TINY.vocab - len(SPECIAL) - 1), max_size=40))
def test_text_that_arrives_token_by_token_is_the_same(ids: list[int]) -> None:
    reader = PartReader(TINY)
    assert "".join(said(reader.feed(token)) for token in ids) + said(reader.flush()) == TINY.decode(ids)


def test_a_character_waits_until_its_bytes_are_there() -> None:
    reader = PartReader(TINY)
    assert [said(reader.feed(byte)) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert reader.flush() == []


def test_a_saved_tokenizer_loads_as_it_was(tmp_path: Path, backend: str) -> None:
    tokenizer = tiny(digits=1)
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.hash, loaded.special, loaded.digits) == (tokenizer.hash, tokenizer.special, 1)
    assert loaded.encode(OTHERS) == tokenizer.encode(OTHERS)
    assert loaded.provenance["documents"] == len(CORPUS)


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json; train a tokenizer first"):
        Tokenizer.load(folder)
    TINY.save(folder)
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not the file that tokenizer_meta\.json describes"):
        Tokenizer.load(folder)
    (folder / "tokenizer_meta.json").write_text(json.dumps({"vocab": 300}))
    with pytest.raises(ValueError, match="not a tokenizer of fledge"):
        Tokenizer.load(folder)


def test_lone_surrogates_are_refused_with_document_and_place(backend: str) -> None:
    with pytest.raises(ValueError, match=r"text 'abc\\ud83d', character 3: U\+D83D is half of a surrogate pair"):
        Tokenizer.train(["fine", "abc\ud83d"], vocab=300)
    with pytest.raises(ValueError, match="character 0: U\\+DC00"):
        TINY.encode("\udc00")


def test_an_empty_corpus_and_a_small_vocabulary_are_refused(backend: str) -> None:
    for documents in ([], ["", ""]):
        with pytest.raises(ValueError, match="no text to train on"):
            Tokenizer.train(documents, vocab=300)
    with pytest.raises(ValueError, match="vocab=264: at least 265 are needed"):
        Tokenizer.train(["text"], vocab=264)
    with pytest.raises(ValueError, match="digits=4: a piece may hold 1, 2 or 3 digits"):
        Tokenizer.train(["text"], vocab=300, digits=4)


def test_fewer_pairs_than_asked_for_stops_early_and_says_so(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.train(["abab"], vocab=1000)
    assert tokenizer.decode_bytes([257]) == b"abab"
    assert tokenizer.vocab == 258 + len(SPECIAL)
    assert "only 2 pairs to merge: 267 tokens instead of 1000" in capsys.readouterr().err


def test_caps_bound_what_is_read() -> None:
    documents = ["a" * 10, "b" * 10, "", "c" * 10, "d" * 10]
    assert list(capped(iter(documents), max_chars=15, doc_cap=6)) == ["a" * 6, "b" * 6, "", "c" * 3]
    assert list(capped(iter(documents), max_chars=None, doc_cap=None)) == documents
    assert Tokenizer.train(documents, vocab=300, max_chars=15, doc_cap=6).provenance["chars"] == 15


def test_progress_is_reported(backend: str) -> None:
    seen: list[tuple[str, int, int | None]] = []
    Tokenizer.train(CORPUS, vocab=300, max_chars=1000, progress=lambda *now: seen.append(now))
    assert seen == [("count", 1000, 1000), ("merge", 35, 35)]


def test_interrupting_the_training_stops_it(backend: str) -> None:
    def interrupt(phase: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train(CORPUS, vocab=300, progress=interrupt)


def test_a_megabyte_of_one_character_takes_no_longer_than_text(backend: str) -> None:
    tokenizer = tiny()
    size = 1 << 20 if backend == "rust" else 1 << 16
    for letter in (" ", "a", "9", "가"):
        text = letter * (size // len(letter.encode()))
        began = time.process_time()
        ids = tokenizer.encode(text)
        assert time.process_time() - began < 5, letter
        assert tokenizer.decode(ids) == text
    began = time.process_time()
    trained = Tokenizer.train(["z" * size, " " * size], vocab=300)
    assert time.process_time() - began < 5
    assert max(trained.bytes_per_token) >= 256


def test_ids_outside_the_vocabulary_are_refused() -> None:
    for token in (-1, TINY.vocab):
        with pytest.raises(ValueError, match=f"token {token} is not one of 0 to {TINY.vocab - 1}"):
            TINY.decode([token])


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_BPE", "cobol")
    with pytest.raises(ValueError, match="FLEDGE_BPE=cobol is not one of rust, python"):
        Tokenizer.train(["text"], vocab=300)


@need_rust
def test_random_bytes_and_threads_sharing_an_encoder_do_no_harm() -> None:
    """The C boundary is handed what Python never sends: malformed UTF-8, from several threads at once."""
    program = """
import ctypes, random, threading
import numpy as np
from fledge.text import native
from fledge.text.tokenizer import Tokenizer
tokenizer = Tokenizer.train(["the cat and the dog " * 9], vocab=300)
encoders = [native.Encoder(tokenizer.merges, digits=3, wide=wide) for wide in (False, True)]
lib = native.library()
def fuzz(seed):
    chance = random.Random(seed)
    trainer = native.Trainer(digits=chance.choice([1, 2, 3]), threads=2)
    for _ in range(150):
        raw = [chance.randbytes(chance.choice([0, 1, 2, 3, 17, 90, 5000])) for _ in range(chance.randrange(6))]
        starts = [ctypes.cast(text, ctypes.c_void_p).value for text in raw]
        places = np.array([starts, [len(text) for text in raw]], np.uintp)
        encoder = chance.choice(encoders)
        ids = np.empty(sum(map(len, raw)) + 7 * len(raw), encoder.dtype)
        offsets = np.empty(len(raw) + 1, np.uint64)
        texts = (places.ctypes.data, len(raw))
        count = lib.bpe_encode(encoder.handle, *texts, chance.choice([1, 3]), ids.ctypes.data, offsets.ctypes.data)
        assert tokenizer.decode_bytes(ids[:count].tolist()) == b"".join(raw)
        assert lib.bpe_trainer_count(trainer.handle, *texts) == 0
    trainer.merge(500)
    for bad in ([(400, 1)], [(0, 256)]):
        try:
            native.Encoder(bad, digits=3)
            raise SystemExit("a merge of a token that does not exist was taken")
        except ValueError:
            pass
threads = [threading.Thread(target=fuzz, args=(seed,)) for seed in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("unharmed")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "unharmed", done.stderr


def test_without_the_library_one_line_says_so_and_the_ids_are_the_same() -> None:
    program = (
        "from pathlib import Path; from fledge.text import native; native.LIBRARY = Path('nowhere.so')\n"
        "from fledge.text.tokenizer import Tokenizer\n"
        "t = Tokenizer.train(['the cat and the dog'] * 3, vocab=280); print(t.encode('the cat'), t.encode('dog'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    tokenizer = Tokenizer.train(["the cat and the dog"] * 3, vocab=280)
    assert done.stdout.split("\n")[0] == f"{tokenizer.encode('the cat')} {tokenizer.encode('dog')}"
    assert "plain Python gives the same tokens" in done.stderr
    assert done.stderr.count("\n") == 2  # that, and that the text has too few pairs
