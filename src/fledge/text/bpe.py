"""Byte-pair encoding in plain Python: the oracle of the tests, and the stand-in where the Rust library could not be built.

    trainer = Trainer(digits=3)
    trainer.count(["a text", "another"])
    merges = trainer.merge(100)                       # [(left id, right id), ...], the first makes token 256
    ids, offsets = Encoder(merges, digits=3).encode_batch(["a text"])

`native.py` offers the same two classes over the crate in bpe/, with the same results, about twenty times faster.
Text is cut into pieces by GPT-4's regex; merges never cross a piece. Tokens 0..255 are the bytes, token 256 + k is the k-th merge.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

DIGIT_RULES = {1: "", 2: "{1,2}", 3: "{1,3}"}
"""How many digits a piece may hold, and how a regex says it: as Qwen 2, nanochat and Llama 3. llama.cpp does not know 2."""

CACHED_PIECES = 1 << 18


def pattern(digits: int) -> str:
    r"""The regex that cuts text into pieces, in the dialect of tiktoken, `regex` and Hugging Face's tokenizers.

    >>> import regex
    >>> regex.findall(pattern(3), "I'll pay $1234")
    ['I', "'ll", ' pay', ' $', '123', '4']

    Raises:
        ValueError: digits is not 1, 2 or 3.
    """
    if digits not in DIGIT_RULES:
        raise ValueError(f"digits={digits}: a piece may hold 1, 2 or 3 digits")
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        + DIGIT_RULES[digits]
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def split(text: str, *, digits: int) -> list[str]:
    """The pieces of a text; joined, they are the text."""
    return splitter(digits, astral=bool(ASTRAL.search(text))).findall(text)


ASTRAL = re.compile("[\U00010000-\U0010ffff]")


@cache
def splitter(digits: int, *, astral: bool) -> re.Pattern[str]:
    """The regex of `pattern` for Python's own `re`, which knows no \\p{L}: the pinned Unicode table is written into it.

    Without the code points beyond U+FFFF it is six times faster, since `re` holds the others in one bit map.
    """
    classes: dict[str, str] = defaultdict(str)
    for line in (Path(__file__).parent / "unicode.txt").read_text().splitlines():
        kind, first, last = line.split()
        if astral or len(first) == 4:
            classes[kind] += rf"\U{int(first, 16):08x}-\U{int(last, 16):08x}"
    letter, number, space = classes["L"], classes["N"], classes["S"]
    return re.compile(
        rf"'(?:[sStTmMdD\u017f]|[rRvV][eE]|[lL][lL])|[^\r\n{letter}{number}]?[{letter}]+|[{number}]{DIGIT_RULES[digits]}"
        rf"| ?[^{space}{letter}{number}]+[\r\n]*|[{space}]*[\r\n]+|[{space}]+(?![^{space}])|[{space}]+"
    )


class Trainer:
    """Counts pieces, then merges the most frequent pair of neighbours again and again."""

    def __init__(self, *, digits: int, threads: int = 1) -> None:
        self.pieces: Counter[str] = Counter()
        self.digits = digits
        self.tokens = 256
        self.words: list[list[int]] = []

    def count(self, documents: Sequence[str]) -> None:
        for text in documents:
            text.encode()  # raises at a lone surrogate, before anything is counted
            self.pieces.update(split(text, digits=self.digits))

    def merge(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` more merges; fewer mean that no pair is left. Of equally frequent pairs the smallest ids win."""
        if not self.words:
            self._find_pairs()
        merges: list[tuple[int, int]] = []
        while len(merges) < limit and self.heap:
            count, pair = heapq.heappop(self.heap)
            if -count != self.pairs[pair]:
                if self.pairs[pair] > 0:
                    heapq.heappush(self.heap, (-self.pairs[pair], pair))
                continue
            merges.append(pair)
            grown: set[tuple[int, int]] = set()
            for word in self.where.pop(pair):
                before, times = self.words[word], self.counts[word]
                after = self.words[word] = join(before, pair, self.tokens)
                for two in pairwise(before):
                    self.pairs[two] -= times
                for two in pairwise(after):
                    self.pairs[two] += times
                    if self.tokens in two:
                        self.where[two].add(word)
                        grown.add(two)
            for two in grown:
                heapq.heappush(self.heap, (-self.pairs[two], two))
            self.tokens += 1
        return merges

    def _find_pairs(self) -> None:
        self.words = [list(piece.encode()) for piece in self.pieces]
        self.counts = list(self.pieces.values())
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.where: dict[tuple[int, int], set[int]] = defaultdict(set)
        for index, (word, times) in enumerate(zip(self.words, self.counts, strict=True)):
            for two in pairwise(word):
                self.pairs[two] += times
                self.where[two].add(index)
        self.heap = [(-count, pair) for pair, count in self.pairs.items()]
        heapq.heapify(self.heap)


def join(word: list[int], pair: tuple[int, int], token: int) -> list[int]:
    """The word with every occurrence of the pair, from the left, made one token: join([1, 1, 1], (1, 1), 2) == [2, 1]."""
    joined: list[int] = []
    k = 0
    while k < len(word):
        if word[k] == pair[0] and word[k + 1 : k + 2] == [pair[1]]:
            joined.append(token)
            k += 2
        else:
            joined.append(word[k])
            k += 1
    return joined


class Encoder:
    """Text to ids of 16 bits, or of 32 where `wide`. The k-th merge makes token 256 + k."""

    def __init__(self, merges: Sequence[tuple[int, int]], *, digits: int, wide: bool = False) -> None:
        self.ranks = {pair: 256 + rank for rank, pair in enumerate(merges)}
        self.digits = digits
        self.dtype = np.uint32 if wide else np.uint16
        self.cache: dict[str, list[int]] = {}

    def encode_batch(self, texts: list[str], *, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """All ids one after another, and where each text begins (one entry more than texts)."""
        ids: list[int] = []
        offsets = [0]
        for text in texts:
            for piece in split(text, digits=self.digits):
                if piece not in self.cache:
                    if len(self.cache) >= CACHED_PIECES:
                        self.cache.clear()
                    self.cache[piece] = merge_piece(list(piece.encode()), self.ranks)
                ids += self.cache[piece]
            offsets.append(len(ids))
        return np.array(ids, self.dtype), np.array(offsets, np.uint64)


def merge_piece(ids: list[int], ranks: dict[tuple[int, int], int]) -> list[int]:
    """Applies the lowest-ranking merge, leftmost first, until none applies; n log n in the length of the piece."""
    end = len(ids)
    following, previous = list(range(1, end + 1)), list(range(-1, end - 1))
    heap = [(ranks[pair], k) for k, pair in enumerate(pairwise(ids)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        token, k = heapq.heappop(heap)
        second = following[k]
        if second == end or ranks.get((ids[k], ids[second])) != token:
            continue  # one of the two was merged meanwhile: its place holds -1 or another token
        ids[k], ids[second] = token, -1
        third = following[k] = following[second]
        if third != end:
            previous[third] = k
        for left, right in ((previous[k], k), (k, third)):
            if left >= 0 and right != end and (rank := ranks.get((ids[left], ids[right]))) is not None:
                heapq.heappush(heap, (rank, left))
    return [token for token in ids if token >= 0]
