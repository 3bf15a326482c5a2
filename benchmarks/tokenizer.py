"""The tokenizer beside its peers: `uv run --group bench fledge bench tokenizer --data FOLDER`.

Every measurement runs in a process of its own, on documents that lie in memory already. Trainers see the first part of the
data, encoders the part behind it, with the vocabulary that we trained. Cold is the first pass of a fresh encoder over
documents that it never saw, warm the second. Every figure stands twice, by the clock / by the CPU time of all threads: on a
machine that does other work too, only the second can be compared. Memory is what the trainer takes beside the text.
Peers that are not installed are left out with a note.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TRAINERS = ("ours", "rustbpe", "tokenizers", "gigatoken")
ENCODERS = ("ours", "tiktoken", "gigatoken")
NOTES = {
    ("train", "gigatoken"): "GPT-2's split, the only one it trains with",
    ("encode", "gigatoken"): "reads our tokenizer.json",
}


@dataclass(frozen=True, kw_only=True)
class TokenizerBench:
    """Measure training and encoding beside other tokenizers."""

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
    peers: bool = True
    """False measures ours alone."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement, as it is handed to the process that makes it."""

    kind: str
    peer: str
    threads: int
    folder: str
    """Holds train.bin, encode.bin and, once we trained, tokenizer.json."""
    vocab: int
    digits: int


def main(config: TokenizerBench) -> None:
    """Measure everything and print two tables."""
    from fledge.console import say, table
    from fledge.text.documents import describe

    describe(config.data)
    with tempfile.TemporaryDirectory() as folder:
        train_bytes, encode_bytes = write_documents(config, Path(folder))
        say(
            f"{config.data}: {train_bytes / 1e6:.0f} MB to train on, {encode_bytes / 1e6:.0f} MB to encode, {machine()}"
        )

        def measure(kind: str, peer: str, threads: int) -> dict[str, Any] | None:
            job = Job(kind=kind, peer=peer, threads=threads, folder=folder, vocab=config.vocab, digits=config.digits)
            if peer != "ours" and find_spec(peer) is None:
                say(f"{peer} is not installed and left out")
                return None
            result = in_a_process(job)
            say(f"{kind} {peer}, {threads} threads: {json.dumps(result)}")
            return result

        def of(peers: Iterable[str]) -> tuple[str, ...]:
            return tuple(peer for peer in peers if config.peers or peer == "ours")

        trained = {peer: measure("train", peer, config.threads) for peer in of(TRAINERS)}
        encoded = {(peer, n): measure("encode", peer, n) for peer in of(ENCODERS) for n in sorted({1, config.threads})}
        ours = trained["ours"] or {}
        columns = ("trainer", "seconds", "MB/s", "x ours", "memory, MB", "merges")
        title = f"vocabulary {config.vocab:,}, {config.threads} threads"
        table(title, columns, [train_row(peer, it, ours, train_bytes, folder) for peer, it in trained.items() if it])
        base = {n: it for (peer, n), it in encoded.items() if peer == "ours" and it}
        columns = ("encoder", "threads", "cold MB/s", "x ours", "warm MB/s", "x ours", "ids")
        table(
            "encoding", columns, [encode_row(who, it, base[who[1]], encode_bytes) for who, it in encoded.items() if it]
        )
    for (kind, peer), note in NOTES.items():
        say(f"{kind} {peer}: {note}")


def train_row(peer: str, result: dict[str, Any], ours: dict[str, Any], size: int, folder: str) -> tuple[str, ...]:
    memory = result["memory_bytes"]
    merges = "GPT-2 split" if ("train", peer) in NOTES else compare_tokens(Path(folder), peer)
    shown = "unknown" if memory is None else f"{memory / 1e6:,.0f}"
    return (peer, *speed(result["time"], ours["time"], size), shown, merges)


def encode_row(who: tuple[str, int], result: dict[str, Any], ours: dict[str, Any], size: int) -> tuple[str, ...]:
    same = "equal" if result["ids"] == ours["ids"] else f"different: {result['ids'][0]:,} tokens"
    passes = [speed(result[name], ours[name], size)[1:] for name in ("cold", "warm")]
    return (who[0], str(who[1]), *passes[0], *passes[1], same)


def speed(time: dict[str, float], ours: dict[str, float], size: int) -> tuple[str, ...]:
    """Seconds, megabytes a second, and how many times longer than ours: by the clock / in CPU time of all threads."""
    seconds = [time["wall"], time["cpu"]]
    times = [seconds[0] / ours["wall"], seconds[1] / ours["cpu"]]
    return (
        f"{seconds[0]:.2f} / {seconds[1]:.2f}",
        f"{size / seconds[0] / 1e6:.1f} / {size / seconds[1] / 1e6:.1f}",
        f"{times[0]:.1f} / {times[1]:.1f}",
    )


def compare_tokens(folder: Path, peer: str) -> str:
    """Where the tokens of a peer, in the order it learned them, begin to differ from ours."""
    ours, theirs = ((folder / f"{name}.tokens").read_text().split() for name in ("ours", peer))
    for k, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return f"differ from merge {k + 1} on ({len(set(ours) & set(theirs)) / len(ours):.2%} of tokens shared)"
    return "equal" if len(ours) == len(theirs) else f"{len(theirs)} instead of {len(ours)}"


def machine() -> str:
    """The processor and how many cores this process may use."""
    from fledge.text.tokenizer import cores

    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return f"{names[0] if names else sys.platform}, {cores()} cores"


def write_documents(config: TokenizerBench, folder: Path) -> tuple[int, int]:
    """Puts the documents of both parts into files (4 bytes of length before each); returns the bytes of text."""
    from fledge.text.documents import open_documents

    wanted = [("train", config.train_bytes), ("encode", config.encode_bytes)]
    sizes = []
    documents = open_documents(config.data)
    for part, limit in wanted:
        size = 0
        with (folder / f"{part}.bin").open("wb") as file:
            for document in documents:
                if part == "train" and document.cursor.get("epoch", 0) > 0:
                    break
                raw = document.text.encode()
                file.write(len(raw).to_bytes(4, "little") + raw)
                size += len(raw)
                if size >= limit:
                    break
        sizes.append(size)
    return sizes[0], sizes[1]


def read_documents(path: Path) -> list[str]:
    raw, documents, at = path.read_bytes(), [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        documents.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return documents


def in_a_process(job: Job) -> dict[str, Any]:
    """Runs the job in a fresh interpreter and returns what it measured.

    Raises:
        RuntimeError: it failed; the message is its last line.
    """
    threads = str(job.threads)
    environment = {
        **os.environ,
        "RAYON_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "true" if job.threads > 1 else "false",
    }
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    program = "from benchmarks.tokenizer import answer; answer()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(asdict(job)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{job.kind} {job.peer}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def answer() -> None:
    """The other side of `in_a_process`: job on stdin, figures on the last line of stdout."""
    job = Job(**json.loads(sys.stdin.read()))
    measure = measure_training if job.kind == "train" else measure_encoding
    print(json.dumps(measure(job, read_documents(Path(job.folder) / f"{job.kind}.bin"))))


def measure_training(job: Job, documents: list[str]) -> dict[str, Any]:
    train = {"ours": train_ours, "rustbpe": train_rustbpe, "tokenizers": train_tokenizers, "gigatoken": train_gigatoken}
    work = train[job.peer](job, documents)
    before = memory(reset=True)
    stop = watch()
    tokens = work()
    seconds = stop()
    after = memory()
    (Path(job.folder) / f"{job.peer}.tokens").write_text(" ".join(token.hex() for token in tokens))
    return {"time": seconds, "memory_bytes": None if before is None or after is None else after - before}


def memory(*, reset: bool = False) -> int | None:
    """The most bytes that were resident since the last reset; with it, those resident now. None outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS:" if reset else "VmHWM:"))
    return int(line.split()[1]) * 1024


Work = Callable[[], list[bytes]]
"""Trains; returns the tokens behind the bytes in the order they were learned."""


def train_ours(job: Job, documents: list[str]) -> Work:
    from fledge.text.tokenizer import Tokenizer

    def work() -> list[bytes]:
        tokenizer = Tokenizer.train(documents, vocab=job.vocab, digits=job.digits, special=(), threads=job.threads)
        tokenizer.save(job.folder)
        return list(tokenizer.mergeable_ranks())[256:]

    return work


def train_rustbpe(job: Job, documents: list[str]) -> Work:
    import rustbpe  # pyright: ignore[reportMissingImports]

    from fledge.text.bpe import pattern

    def work() -> list[bytes]:
        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(iter(documents), job.vocab, pattern=pattern(job.digits))
        return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda pair: pair[1])][256:]

    return work


def train_tokenizers(job: Job, documents: list[str]) -> Work:
    import tokenizers

    from fledge.text.bpe import pattern
    from fledge.text.tokenizer import byte_letters

    def work() -> list[bytes]:
        from tokenizers import pre_tokenizers

        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        split = pre_tokenizers.Split(tokenizers.Regex(pattern(job.digits)), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])  # type: ignore[assignment]
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=job.vocab, initial_alphabet=byte_level.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(documents, trainer)
        letters = {letter: byte for byte, letter in enumerate(byte_letters())}
        learned = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])[256:]
        return [bytes(letters[letter] for letter in name) for name, _ in learned]

    return work


def train_gigatoken(job: Job, documents: list[str]) -> Work:
    import gigatoken  # pyright: ignore[reportMissingImports]

    raw = "\0\0".join(documents).encode()

    def work() -> list[bytes]:
        vocab, _ = gigatoken.train_bpe(raw, job.vocab, [], separator=b"\0\0")
        return [vocab[token] for token in sorted(vocab)][256:]

    return work


def measure_encoding(job: Job, documents: list[str]) -> dict[str, Any]:
    encode = {"ours": encode_ours, "tiktoken": encode_tiktoken, "gigatoken": encode_gigatoken}[job.peer](job)
    times, ids = [], None
    for _ in range(2):
        stop = watch()
        ids = encode(documents)
        times.append(stop())
    return {"cold": times[0], "warm": times[1], "ids": fingerprint(ids)}


def watch() -> Callable[[], dict[str, float]]:
    """Starts a clock and a count of CPU time; calling the result reads both, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def fingerprint(ids: Any) -> tuple[int, int]:
    """How many ids there are, and a checksum."""
    import numpy as np

    if isinstance(ids, list):
        ids = np.fromiter((token for document in ids for token in document), np.uint32)
    return len(ids), zlib.crc32(np.asarray(ids, np.uint32).tobytes())


def encode_ours(job: Job) -> Callable[[list[str]], Any]:
    from fledge.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(job.folder)
    tokenizer.encode("")  # builds the encoder, as the peers do when they load
    return lambda documents: tokenizer.encode_batch(documents, threads=job.threads)[0]


def encode_tiktoken(job: Job) -> Callable[[list[str]], Any]:
    import tiktoken

    from fledge.text.tokenizer import Tokenizer

    ours = Tokenizer.load(job.folder)
    theirs = tiktoken.Encoding("ours", pat_str=ours.pattern, mergeable_ranks=ours.mergeable_ranks(), special_tokens={})
    if job.threads == 1:
        return lambda documents: [theirs.encode_ordinary(text) for text in documents]
    return lambda documents: theirs.encode_ordinary_batch(documents, num_threads=job.threads)


def encode_gigatoken(job: Job) -> Callable[[list[str]], Any]:
    import awkward  # pyright: ignore[reportMissingImports]
    import gigatoken  # pyright: ignore[reportMissingImports]

    theirs = gigatoken.Tokenizer(str(Path(job.folder) / "tokenizer.json"))
    awkward.flatten(theirs.encode_batch([""], parallel=False))  # its imports are not part of the measurement
    return lambda documents: awkward.flatten(theirs.encode_batch(documents, parallel=job.threads > 1)).to_numpy()
