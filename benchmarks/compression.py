"""How well a tokenizer compresses: bytes per token on several kinds of text, beside the vocabularies of GPT-2, GPT-4 and GPT-4o.

    rows = compare(tokenizer, {"train": train_text, "validation": held_out_text}, vocabularies="folder/with/tiktoken/files")
    print(table(rows))

The foreign vocabularies are tiktoken's files r50k_base, cl100k_base and o200k_base (.tiktoken or .tiktoken.gz). A missing one
is left out and `missing` names it. They are read in plain Python, so that measuring needs no package.
"""

import base64
import gzip
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from fledge.text import bpe
from fledge.text.tokenizer import Tokenizer

SAMPLES = {
    "news": (
        "The city council voted 7 to 2 on Tuesday evening to reopen the old harbour railway, which has been closed since 1986. "
        "Supporters say the line will carry 4,000 passengers a day and take hundreds of cars off the coastal road. Critics, "
        "among them the mayor's own deputy, doubt the figures. \"We've heard promises like these before,\" she told reporters "
        "outside the town hall. Work is expected to begin in March, at a cost of about $38.5 million; the first trains could "
        "run in the autumn of next year, weather permitting.\n"
    ),
    "code": (
        "def shortest_path(graph: dict[str, dict[str, float]], start: str, goal: str) -> list[str]:\n"
        '    """Dijkstra\'s algorithm with a binary heap."""\n'
        "    queue = [(0.0, start, [start])]\n    seen = set()\n    while queue:\n"
        "        cost, node, path = heapq.heappop(queue)\n        if node == goal:\n            return path\n"
        "        if node in seen:\n            continue\n        seen.add(node)\n"
        "        for neighbour, weight in graph[node].items():\n            if neighbour not in seen:\n"
        "                heapq.heappush(queue, (cost + weight, neighbour, path + [neighbour]))\n"
        '    raise ValueError(f"no path from {start!r} to {goal!r}")\n\n\n'
        "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];  // dot product\n}\n"
    ),
    "math": (
        "Let $f(x) = x^3 - 6x^2 + 11x - 6$. Then $f'(x) = 3x^2 - 12x + 11$, whose roots are $x = 2 \\pm \\frac{\\sqrt{3}}{3}$. "
        "Since $f(1) = f(2) = f(3) = 0$, the integral $\\int_1^3 f(x)\\,dx$ vanishes by symmetry about $x = 2$.\n"
        "A shop sells 48 pens in April and half as many in May. How many in both months? 48 / 2 = 24, and 48 + 24 = 72.\n"
        "123456 + 654321 = 777777; 0.125 * 8 = 1; 2^10 = 1024; 17 * 23 = 391; 1000000 / 7 = 142857.142857\n"
    ),
    "Korean": (
        "오늘 아침에는 비가 조금 내렸지만 점심 무렵부터 하늘이 맑아졌습니다. 우리는 시장에서 사과 세 개와 배 두 개를 사서 "
        "강가를 따라 걸었습니다. 할머니께서는 예전에 이 강에서 물고기를 많이 잡았다고 말씀하셨습니다. 저녁에는 온 가족이 "
        "모여 따뜻한 국수를 먹고, 내일 떠날 여행에 대해 이야기했습니다. 기차는 오전 9시 30분에 출발합니다.\n"
    ),
    "science": (
        "Photosynthesis converts light energy into chemical energy: in the thylakoid membrane, photosystem II oxidises water, "
        "releasing O₂ and protons, while electrons pass through plastoquinone and the cytochrome b₆f complex to photosystem I. "
        "The resulting proton gradient (ΔpH ≈ 2.5) drives ATP synthase. In the Calvin–Benson cycle, ribulose-1,5-bisphosphate "
        "carboxylase fixes CO₂ at a rate of roughly 3–10 molecules per second, which is why the enzyme makes up as much as "
        "50 % of the soluble protein of a leaf (ca. 0.5 mM active sites).\n"
    ),
}
"""Short texts written for this comparison. They show tendencies; train and validation text are the measurement."""

FOREIGN = {"GPT-2": "r50k_base", "GPT-4": "cl100k_base", "GPT-4o": "o200k_base"}


@dataclass(frozen=True)
class Row:
    """One kind of text: its size, and bytes per token by tokenizer ("ours" and those found of FOREIGN)."""

    text: str
    text_bytes: int
    bytes_per_token: dict[str, float]


def compare(
    tokenizer: Tokenizer, texts: dict[str, str] | None = None, *, vocabularies: str | Path | None = None
) -> list[Row]:
    """Bytes per token on SAMPLES and on the given texts (empty ones are left out); more is better."""
    count: dict[str, Callable[[str], int]] = {"ours": lambda text: len(tokenizer.encode_batch([text])[0])}
    for name, stem in FOREIGN.items():
        if file := find(stem, vocabularies):
            count[name] = Foreign(name, file).count
    everything = {name: text for name, text in {**SAMPLES, **(texts or {})}.items() if text}
    sizes = {name: len(text.encode()) for name, text in everything.items()}
    return [
        Row(name, sizes[name], {who: sizes[name] / tokens(text) for who, tokens in count.items()})
        for name, text in everything.items()
    ]


def missing(vocabularies: str | Path | None) -> list[str]:
    """The files that were looked for and not found, for a note beside the table."""
    return [f"{stem}.tiktoken" for stem in FOREIGN.values() if not find(stem, vocabularies)]


def table(rows: list[Row]) -> str:
    """The rows as markdown, our advantage over each other vocabulary in percent behind its number."""
    names = list(rows[0].bytes_per_token)
    lines = [f"| bytes per token | {' | '.join(names)} |", f"|--|{'--:|' * len(names)}"]
    for row in rows:
        ours = row.bytes_per_token["ours"]
        others = [
            f"{value:.2f} ({ours / value - 1:+.0%})" for name, value in row.bytes_per_token.items() if name != "ours"
        ]
        lines.append(f"| {row.text} | {' | '.join([f'{ours:.2f}', *others])} |")
    return "\n".join(lines)


def survives_every_byte(tokenizer: Tokenizer) -> bool:
    """Whether each of the 256 byte values, and each that can occur in UTF-8 text, comes back as it went in."""
    bytes_back = tokenizer.decode_bytes(tokenizer.byte_ids) == bytes(range(256))
    leads = [chr(code) for code in (*range(0x800), *range(0x800, 0xD800, 0x100), *range(0xE000, 0x110000, 0x1000))]
    text = "".join(leads)
    return bytes_back and tokenizer.decode(tokenizer.encode(text)) == text


def find(stem: str, folder: str | Path | None) -> Path | None:
    """The file of a vocabulary, packed or not."""
    candidates = [Path(folder) / f"{stem}.tiktoken{ending}" for ending in ("", ".gz")] if folder else []
    return next((file for file in candidates if file.is_file()), None)


class Foreign:
    """Counts tokens with a vocabulary of tiktoken's: its split, then the pair whose bytes rank lowest, again and again."""

    def __init__(self, name: str, file: Path) -> None:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        fields = [line.split() for line in raw.splitlines() if line]
        self.ranks = {base64.b64decode(token): int(rank) for token, rank in fields}
        self.split = foreign_splitter(name)

    def count(self, text: str) -> int:
        pieces = Counter(self.split.findall(text))
        return sum(times * self.count_piece(piece.encode()) for piece, times in pieces.items())

    def count_piece(self, piece: bytes) -> int:
        if piece in self.ranks:
            return 1
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 1:
            rank, k = min((self.ranks.get(a + b, 1 << 30), k) for k, (a, b) in enumerate(pairwise(parts)))
            if rank == 1 << 30:
                break
            parts[k : k + 2] = [parts[k] + parts[k + 1]]
        return len(parts)


@cache
def foreign_splitter(name: str) -> re.Pattern[str]:
    """The split of a vocabulary in FOREIGN.

    Python's own table of Unicode serves here, up to U+FFFF: letters beyond it (ancient scripts) count as symbols.
    """
    if name == "GPT-4":
        return bpe.splitter(3, astral=False)
    classes: dict[str, str] = defaultdict(str)
    for code in (*range(0xD800), *range(0xE000, 0x10000)):
        classes[unicodedata.category(chr(code))] += rf"\u{code:04x}"
    of = lambda *names: "".join(classes[kind] for kind in names)  # noqa: E731
    letter, number = of("Lu", "Ll", "Lt", "Lm", "Lo"), of("Nd", "Nl", "No")
    symbol = rf"[^\s{letter}{number}]+"
    if name == "GPT-2":
        return re.compile(rf"'(?:[sdmt]|ll|ve|re)| ?[{letter}]+| ?[{number}]+| ?{symbol}|\s+(?!\S)|\s+")
    marks = of("Mn", "Mc", "Me")
    upper, lower = f"[{of('Lu', 'Lt', 'Lm', 'Lo')}{marks}]", f"[{of('Ll', 'Lm', 'Lo')}{marks}]"
    prefix, suffix = rf"[^\r\n{letter}{number}]?", r"(?:'(?:[sStTmMdD]|[rRvV][eE]|[lL][lL]))?"
    words = rf"{prefix}{upper}*{lower}+{suffix}|{prefix}{upper}+{lower}*{suffix}"
    return re.compile(rf"{words}|[{number}]{{1,3}}| ?{symbol}[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
