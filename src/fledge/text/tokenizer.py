"""Text to token ids and back: byte-pair encoding with GPT-4's split.

    tokenizer = Tokenizer.train(documents, vocab=32_768)
    tokenizer.save("runs/mine/tokenizer")
    tokenizer = Tokenizer.load("runs/mine/tokenizer")
    tokenizer.decode(tokenizer.encode("any text")) == "any text"

Tokens 0..255 are the bytes (so nothing is ever unknown), then come the merges, then the special tokens. What a user writes
never becomes a special token: those are placed by id, by the chat template alone. The work is done by the Rust library
(`native.py`), or by plain Python (`bpe.py`) with the same result where the library is missing or FLEDGE_BPE=python.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from fledge.console import notice
from fledge.settings import cores
from fledge.storage import file_hash, read_json, read_record, sealed, write_atomic
from fledge.text import bpe, native
from fledge.text.packing import windows
from fledge.text.template import for_transformers

SPECIAL = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
DIGITS = 1
"""Numbers are spelled digit by digit: docs/why.md has the reasons."""
WINDOW_CHARACTERS = 16 << 20
"""Handed to the trainer at once."""
MERGES_BETWEEN_REPORTS = 512

Progress = Callable[[str, int, int | None], None]
"""Called with ("count", characters so far, `max_chars`) and then with ("merge", merges so far, merges wanted)."""


class Tokenizer:
    """A vocabulary and its merges. `vocab` is the number of tokens, `special` the ids of the special ones by name."""

    def __init__(
        self,
        merges: Sequence[tuple[int, int]],
        *,
        digits: int = DIGITS,
        special: Sequence[str] = SPECIAL,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.merges, self.digits, self.pattern = list(merges), digits, bpe.pattern(digits)
        self.provenance = provenance or {}
        self._tokens = [bytes([byte]) for byte in range(256)]
        for a, b in self.merges:
            self._tokens.append(self._tokens[a] + self._tokens[b])
        self.special = {name: len(self._tokens) + k for k, name in enumerate(special)}
        self._tokens += [name.encode() for name in special]
        self.vocab = len(self._tokens)

    @classmethod
    def train(
        cls,
        documents: Iterable[str],
        *,
        vocab: int,
        max_chars: int | None = None,
        doc_cap: int | None = None,
        digits: int = DIGITS,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> "Tokenizer":
        """Learns `vocab` tokens, bytes and special ones included, from a stream of documents.

        The same text gives the same tokenizer whatever the order of the documents, the threads and the machine. Memory grows
        with the number of distinct pieces, not with the text. Fewer tokens result, with a line on stderr, when no pair is left.

        Args:
            max_chars: characters to read in all (None: all there are).
            doc_cap: characters to read of each document (None: all), so that a few long ones cannot dominate.
            digits: 1 or 3, the most digits in one token.
            threads: None takes all cores.

        Raises:
            ValueError: vocab is too small, the corpus is empty, or a document holds a lone surrogate.
        """
        least = 256 + len(SPECIAL)
        wanted = vocab - least
        if wanted < 0:
            raise ValueError(f"vocab={vocab}: at least {least} are needed, 256 bytes and {len(SPECIAL)} special tokens")
        bpe.pattern(digits)  # raises where digits are not allowed
        trainer = backend(os.environ.get("FLEDGE_BPE", "")).Trainer(digits=digits, threads=threads or cores())
        report = progress or (lambda phase, done, total: None)
        count = chars = 0
        texts = capped(documents, max_chars=max_chars, doc_cap=doc_cap)
        # A string takes some 64 bytes beside its text: a million empty ones are several windows.
        for chunk in windows(texts, WINDOW_CHARACTERS, size=lambda text: len(text) + 64):
            with naming_the_text():
                trainer.count(chunk)
            count += len(chunk)
            chars += sum(map(len, chunk))
            report("count", chars, max_chars)
        if not chars:
            raise ValueError(f"no text to train on: {count} documents, all of them empty; check --data")
        merges: list[tuple[int, int]] = []
        while more := trainer.merge(min(MERGES_BETWEEN_REPORTS, wanted - len(merges))):
            merges += more
            report("merge", len(merges), wanted)
        if len(merges) < wanted:
            notice(f"the text has only {len(merges)} pairs to merge: {least + len(merges)} tokens instead of {vocab}")
        about = {"documents": count, "chars": chars, "vocab_wanted": vocab, "max_chars": max_chars, "doc_cap": doc_cap}
        return cls(merges, digits=digits, provenance=about)

    @cached_property
    def _encoder(self) -> "bpe.Encoder | native.Encoder":
        library = backend(os.environ.get("FLEDGE_BPE", ""))
        return library.Encoder(self.merges, digits=self.digits, wide=self.vocab > 1 << 16)

    def encode(self, text: str) -> list[int]:
        """The ids of one text, in which names of special tokens are ordinary; ValueError where it holds a lone surrogate."""
        return self.encode_batch([text], threads=1)[0].tolist()

    def encode_batch(self, texts: Sequence[str], *, threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """All ids one after another, and where each text begins: text k is ids[offsets[k] : offsets[k + 1]].

        Returns:
            ids (uint16 where the vocabulary allows, else uint32) and offsets (uint64, one more than texts).

        Raises:
            ValueError: a text holds a lone surrogate; the message names it.
        """
        with naming_the_text():
            return self._encoder.encode_batch(list(texts), threads=threads or cores())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes the ids stand for, special tokens by name; ValueError where an id is outside the vocabulary."""
        numbers: list[int] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if numbers and not (min(numbers) >= 0 and max(numbers) < self.vocab):
            wrong = next(token for token in numbers if not 0 <= token < self.vocab)
            raise ValueError(f"token {wrong} is not one of 0 to {self.vocab - 1}")
        return b"".join(map(self._tokens.__getitem__, numbers))

    def decode(self, ids: Iterable[int]) -> str:
        """As text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    @cached_property
    def bytes_per_token(self) -> np.ndarray:
        """UTF-8 bytes each token stands for; 0 for special ones, which stand for no text. The unit of bits per byte."""
        widths = np.array([len(token) for token in self._tokens], np.int64)
        widths[self.vocab - len(self.special) :] = 0
        return widths

    @cached_property
    def _file(self) -> str:
        return json.dumps(hugging_face(self), ensure_ascii=False, indent=1) + "\n"

    @property
    def hash(self) -> str:
        """SHA-256 of tokenizer.json, in hexadecimal."""
        return hashlib.sha256(self._file.encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, in Hugging Face's format, and tokenizer_meta.json with the hash of the
        first, which alone is read again, and what it was trained on."""
        meta = {"hash": self.hash, "vocab": self.vocab, "digits": self.digits, "provenance": self.provenance}
        write_atomic(Path(folder, "tokenizer.json"), self._file)
        write_atomic(Path(folder, "tokenizer_config.json"), json.dumps(for_transformers(), indent=1) + "\n")
        write_atomic(Path(folder, "tokenizer_meta.json"), sealed(meta) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file was changed, or is of another format.
        """
        file, about = Path(folder, "tokenizer.json"), Path(folder, "tokenizer_meta.json")
        for path in (file, about):
            if not path.is_file():
                raise FileNotFoundError(f"{folder}: no {path.name}; train a tokenizer first (fledge tokenizer)")
        meta = read_record(about, advice="Put it back, or train the tokenizer again.")
        try:
            if meta["hash"] != file_hash(file):
                raise ValueError(f"{file}: not the file that tokenizer_meta.json describes; train the tokenizer again")
            return from_hugging_face(read_json(file), digits=meta["digits"], provenance=meta["provenance"])
        except (KeyError, TypeError) as problem:
            raise ValueError(f"{folder}: not a tokenizer of fledge ({problem!r}); train it again") from problem


def capped(documents: Iterable[str], *, max_chars: int | None, doc_cap: int | None) -> Iterator[str]:
    """Documents of at most `doc_cap` characters until they have `max_chars` in all; the last one is cut."""
    left = sys.maxsize if max_chars is None else max_chars
    for text in documents:
        if left <= 0:
            return
        text = text[: min(left, left if doc_cap is None else doc_cap)]
        left -= len(text)
        yield text


@contextmanager
def naming_the_text() -> Iterator[None]:
    """Within, a text that has no UTF-8 form is a ValueError that says which and where."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text {short(error.object)}, character {error.start}: U+{ord(error.object[error.start]):04X} is half of a surrogate "
            "pair and has no UTF-8 form; replace it, for instance with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None


@cache
def backend(choice: str) -> Any:
    """The module that does the work: `native`, or `bpe` where FLEDGE_BPE=python or the library is missing, which is said once."""
    if choice not in ("", "rust", "python"):
        raise ValueError(f"FLEDGE_BPE={choice} is not one of rust, python; unset it to take rust where it is built")
    if choice == "python":
        return bpe
    if native.available():
        return native
    if choice == "rust":
        raise FileNotFoundError(
            f"FLEDGE_BPE=rust, but {native.LIBRARY} was not built; install Rust (rustup.rs), then fledge again"
        )
    notice(
        "the tokenizer's Rust library was not built; plain Python gives the same tokens, about twenty times slower. "
        "To have it, install Rust (rustup.rs), then fledge again"
    )
    return bpe


def byte_letters() -> list[str]:
    """The printable character GPT-2 writes for each byte in vocabulary files: itself where visible, else from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(spare)) for byte in range(256)]


def hugging_face(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of tokenizer.json."""
    letters = byte_letters()
    ordinary = tokenizer.vocab - len(tokenizer.special)
    names = ["".join(letters[byte] for byte in token) for token in tokenizer._tokens[:ordinary]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": k, "content": name, **flags} for name, k in tokenizer.special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: k for k, name in enumerate(names)},
            "merges": [f"{names[a]} {names[b]}" for a, b in tokenizer.merges],
        },
    }


def from_hugging_face(content: dict[str, Any], *, digits: int, provenance: dict[str, Any]) -> Tokenizer:
    """The reverse, for files that `hugging_face` made."""
    vocab: dict[str, int] = content["model"]["vocab"]
    if [vocab[letter] for letter in byte_letters()] != list(range(256)):
        raise KeyError("tokens 0 to 255 are not the bytes in order")
    pairs = (merge.split(" ") for merge in content["model"]["merges"])
    special = [token["content"] for token in content["added_tokens"]]
    merges = [(vocab[a], vocab[b]) for a, b in pairs]
    return Tokenizer(merges, digits=digits, special=special, provenance=provenance)
