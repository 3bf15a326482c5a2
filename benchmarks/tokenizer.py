"""The tokenizer beside its peers: `uv run --group bench python -m benchmarks tokenizer --data FOLDER`.

Every measurement runs in a process of its own, on documents that lie in memory already. Trainers see the first part of the
data, encoders the part behind it, with the vocabulary that we trained. Cold is the first pass of a fresh encoder over
documents that it never saw, warm the second. Memory is what the trainer takes beside the text.
Peers that are not installed are left out with a note.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Timed, apart, in_turns, median, show, timed
from fledge.console import say
from fledge.text import bpe
from fledge.text.documents import Document, describe, open_documents
from fledge.text.tokenizer import SPECIAL, Tokenizer, byte_letters

Ids = tuple[int, int]
GPT_2_SPLIT = "gigatoken"
"""The trainer that knows GPT-2's split alone, so that its merges are others."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Training and encoding beside rustbpe, Hugging Face's tokenizers, tiktoken and gigatoken."""

    data: str = "world"
    """A name or folder as for `fledge tokenizer --data`."""
    vocab: int = 32_768
    """Tokens to learn."""
    digits: int = 1
    """Most digits in one token, 1 or 3."""
    train_bytes: int = 200_000_000
    """Text for the trainers; all peers get the same."""
    encode_bytes: int = 50_000_000
    """Text for the encoders, behind that of the trainers (where the data ends, its beginning serves)."""
    threads: int = 2
    """Threads of the trainers, and of the second measurement of each encoder."""
    repeats: int = 1
    """Turns of every measurement; the median counts."""
    peers: bool = True
    """False measures ours alone."""


def main(settings: Settings) -> None:
    """Measure everything and print two tables."""
    describe(settings.data)
    documents = open_documents(settings.data)
    to_train, to_encode = (list(take(documents, size)) for size in (settings.train_bytes, settings.encode_bytes))
    train_bytes, encode_bytes = (sum(len(text.encode()) for text in texts) for texts in (to_train, to_encode))
    say(f"{settings.data}: {train_bytes / 1e6:.0f} MB to train on, {encode_bytes / 1e6:.0f} MB to encode")
    with tempfile.TemporaryDirectory() as folder:

        def run(measure: Callable[..., Any], peer: str, texts: list[str], threads: int) -> Any:
            environment = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
            return apart(measure, peer, texts, settings, threads, folder, environment=environment)

        ways = {peer: partial(run, train, peer, to_train, settings.threads) for peer in there(TRAINERS, settings)}
        trained = in_turns(ways, repeats=settings.repeats)  # ours first: the encoders need its file
        each = [(peer, threads) for peer in there(ENCODERS, settings) for threads in sorted({1, settings.threads})]
        ways = {f"{peer} {threads}": partial(run, encode, peer, to_encode, threads) for peer, threads in each}
        encoded = in_turns(ways, repeats=settings.repeats)
    rows = []
    for peer, turns in trained.items():
        time, ours = (median(turn.time for turn, _ in trained[who]) for who in (peer, "ours"))
        (first, memory), (our_first, _) = turns[0], trained["ours"][0]
        merges = "GPT-2 split" if peer == GPT_2_SPLIT else difference(first.result, our_first.result)
        rows.append([peer, str(time), time.rate(train_bytes / 1e6), time.times(ours), memory, merges])
    columns = ["trainer", "seconds", "MB/s", "x ours", "memory, MB", "merges"]
    show(f"vocabulary {settings.vocab:,}, {settings.threads} threads", columns, rows)
    rows = []
    for (peer, threads), turns in zip(each, encoded.values(), strict=True):
        base = encoded[f"ours {threads}"]
        row = [peer, str(threads)]
        for number in range(2):
            time, ours = (median(passes[number].time for passes in each) for each in (turns, base))
            row += [time.rate(encode_bytes / 1e6), time.times(ours)]
        ids, our_ids = turns[0][0].result, base[0][0].result
        rows.append([*row, "equal" if ids == our_ids else f"different: {ids[0]:,} tokens"])
    show("encoding", ["encoder", "threads", "cold MB/s", "x ours", "warm MB/s", "x ours", "ids"], rows)


def there(peers: Iterable[str], settings: Settings) -> Iterator[str]:
    """Those to be measured that are installed."""
    for peer in peers:
        if peer == "ours" or (settings.peers and find_spec(peer) is not None):
            yield peer
        elif settings.peers:
            say(f"{peer} is not installed and left out")


def take(documents: Iterator[Document], size: int) -> Iterator[str]:
    """The next texts until they hold so many bytes."""
    while size > 0:
        text = next(documents).text
        size -= len(text.encode())
        yield text


def difference(theirs: list[bytes], ours: list[bytes]) -> str:
    """Where the tokens of a peer, in the order it learned them, begin to differ from ours."""
    for place, (one, other) in enumerate(zip(theirs, ours, strict=False), start=1):
        if one != other:
            return f"differ from merge {place} on ({len({*ours} & {*theirs}) / len(ours):.2%} of tokens shared)"
    return "equal" if len(ours) == len(theirs) else f"{len(theirs)} instead of {len(ours)}"


def train(
    peer: str, documents: list[str], settings: Settings, threads: int, folder: str
) -> tuple[Timed[list[bytes]], str]:
    """One trainer, in the process made for it: the tokens in the order it learned them, and the megabytes it took."""
    work = TRAINERS[peer](documents, settings, threads, folder)
    if not Path("/proc/self/status").exists():
        return timed(work), "unknown"
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = resident_bytes("VmRSS")
    done = timed(work)
    return done, f"{(resident_bytes('VmHWM') - before) / 1e6:,.0f}"


def resident_bytes(kind: str) -> int:
    """VmRSS: now; VmHWM: the most since the peak was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) * 1024


Train = Callable[[], list[bytes]]


def train_ours(documents: list[str], settings: Settings, threads: int, folder: str) -> Train:
    def work() -> list[bytes]:
        vocab = settings.vocab + len(SPECIAL)  # peers train without special tokens
        tokenizer = Tokenizer.train(documents, vocab=vocab, digits=settings.digits, threads=threads)
        tokenizer.save(folder)
        return list(spellings(tokenizer))[256:]

    return work


def spellings(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Every token but the special ones, by its bytes, as tiktoken takes it."""
    return {tokenizer.decode_bytes([token]): token for token in range(tokenizer.vocab - len(tokenizer.special))}


def train_rustbpe(documents: list[str], settings: Settings, _threads: int, _folder: str) -> Train:
    import rustbpe  # pyright: ignore[reportMissingImports]

    def work() -> list[bytes]:
        tokenizer = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.train_from_iterator(iter(documents), settings.vocab, pattern=bpe.pattern(settings.digits))
        return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda pair: pair[1])][256:]

    return work


def train_tokenizers(documents: list[str], settings: Settings, _threads: int, _folder: str) -> Train:
    import tokenizers
    from tokenizers import pre_tokenizers

    def work() -> list[bytes]:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        split = pre_tokenizers.Split(tokenizers.Regex(bpe.pattern(settings.digits)), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])  # type: ignore[assignment]
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=settings.vocab, initial_alphabet=byte_level.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(documents, trainer)
        letters = {letter: byte for byte, letter in enumerate(byte_letters())}
        learned = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])[256:]
        return [bytes(letters[letter] for letter in name) for name, _ in learned]

    return work


def train_gigatoken(documents: list[str], settings: Settings, _threads: int, _folder: str) -> Train:
    import gigatoken  # pyright: ignore[reportMissingImports]

    raw = "\0\0".join(documents).encode()

    def work() -> list[bytes]:
        vocab, _ = gigatoken.train_bpe(raw, settings.vocab, [], separator=b"\0\0")
        return [vocab[token] for token in sorted(vocab)][256:]

    return work


TRAINERS = {
    "ours": train_ours,
    "rustbpe": train_rustbpe,
    "tokenizers": train_tokenizers,
    "gigatoken": train_gigatoken,
}


def encode(peer: str, documents: list[str], _settings: Settings, threads: int, folder: str) -> list[Timed[Ids]]:
    """One encoder, in the process made for it: two passes over the documents, cold and warm."""
    work = ENCODERS[peer](Path(folder), threads)
    return [Timed(fingerprint(one.result), one.time) for one in (timed(partial(work, documents)) for _ in range(2))]


def fingerprint(ids: Any) -> Ids:
    """How many ids there are, and their checksum."""
    if isinstance(ids, list):
        ids = np.fromiter((token for document in ids for token in document), np.uint32)
    return len(ids), zlib.crc32(np.asarray(ids, np.uint32).tobytes())


def encode_ours(folder: Path, threads: int) -> Callable[[list[str]], Any]:
    tokenizer = Tokenizer.load(folder)
    tokenizer.encode("")  # builds the encoder, as the peers do when they load
    return lambda documents: tokenizer.encode_batch(documents, threads=threads)[0]


def encode_tiktoken(folder: Path, threads: int) -> Callable[[list[str]], Any]:
    import tiktoken

    ours = Tokenizer.load(folder)
    theirs = tiktoken.Encoding("ours", pat_str=ours.pattern, mergeable_ranks=spellings(ours), special_tokens={})
    if threads == 1:
        return lambda documents: [theirs.encode_ordinary(text) for text in documents]
    return lambda documents: theirs.encode_ordinary_batch(documents, num_threads=threads)


def encode_gigatoken(folder: Path, threads: int) -> Callable[[list[str]], Any]:
    """It reads our tokenizer.json."""
    import awkward  # pyright: ignore[reportMissingImports]
    import gigatoken  # pyright: ignore[reportMissingImports]

    theirs = gigatoken.Tokenizer(str(folder / "tokenizer.json"))
    awkward.flatten(theirs.encode_batch([""], parallel=False))  # its imports are not part of the measurement
    return lambda documents: awkward.flatten(theirs.encode_batch(documents, parallel=threads > 1)).to_numpy()


ENCODERS = {"ours": encode_ours, "tiktoken": encode_tiktoken, "gigatoken": encode_gigatoken}
