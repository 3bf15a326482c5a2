import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fledge.stages.tokenizer as stage
from fledge.config import Tokenizer
from fledge.settings import shares_of
from fledge.text.documents import Document, describe, open_documents, validation_documents
from fledge.text.records import read_text_pieces

REAL = Path(__file__).parents[2] / "shared" / "data" / "pretrain"
TEXTS = [f"Document {index}. " + "word " * (index % 7 + 1) for index in range(1200)]


def write_parquet(path: Path, texts: list[str], *, column: str = "text", group: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"source": ["test"] * len(texts), column: texts}), path, row_group_size=group)


def write_jsonl(path: Path, texts: list[str]) -> None:
    raw = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(raw)
    else:
        path.write_bytes(raw)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """All kinds of files together."""
    write_parquet(tmp_path / "deep" / "a.parquet", TEXTS[:500])
    write_jsonl(tmp_path / "b.jsonl", TEXTS[500:700])
    write_jsonl(tmp_path / "c.jsonl.gz", TEXTS[700:800])
    write_jsonl(tmp_path / "d.jsonl.zst", TEXTS[800:900])
    (tmp_path / "e.txt").write_text("<|endoftext|>".join(TEXTS[900:]))
    return str(tmp_path)


def texts_of(documents: Iterator[Document], count: int | None = None) -> list[str]:
    return [document.text for document in itertools.islice(documents, count)]


def train_epoch(data: str) -> list[Document]:
    return list(itertools.takewhile(lambda one: one.cursor["epoch"] == 0, open_documents(data)))


def test_every_document_of_every_kind_of_file_is_in_one_split(corpus: str) -> None:
    train = [document.text for document in train_epoch(corpus)]
    validation = texts_of(open_documents(corpus, split="validation"))
    assert sorted(train + validation) == sorted(TEXTS)
    assert 1 <= len(validation) <= 20


def test_validation_does_not_depend_on_how_the_texts_are_cut_into_files(corpus: str, tmp_path: Path) -> None:
    shuffled = TEXTS.copy()
    random.Random(0).shuffle(shuffled)
    for part in range(3):
        write_parquet(tmp_path / "other" / f"{part}.parquet", shuffled[part::3], group=50)
    expected = set(texts_of(open_documents(corpus, split="validation")))
    assert set(texts_of(open_documents(str(tmp_path / "other"), split="validation"))) == expected


def test_more_files_behind_leave_the_pinned_set_as_it_is(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", TEXTS)
    before = validation_documents(str(tmp_path), bytes_wanted=20)
    write_parquet(tmp_path / "1.parquet", [text + "again" for text in TEXTS])
    after = validation_documents(str(tmp_path), bytes_wanted=20)
    assert (before.hash, before.bytes) == (after.hash, after.bytes)
    assert validation_documents(str(tmp_path), bytes_wanted=10**6).hash != before.hash


def test_a_text_that_occurs_twice_is_never_on_both_sides(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", TEXTS + TEXTS)
    train = {document.text for document in train_epoch(str(tmp_path))}
    assert not train & set(texts_of(open_documents(str(tmp_path), split="validation")))


@pytest.mark.parametrize("stop", [1, 15, 16, 17, 499, 600, 950, 1195, 1300, 2500])
def test_a_cursor_goes_on_with_the_next_document(corpus: str, stop: int) -> None:
    whole = list(itertools.islice(open_documents(corpus, seed=5), stop + 5))
    cursor = json.loads(json.dumps(whole[stop - 1].cursor))
    assert list(itertools.islice(open_documents(corpus, seed=5, cursor=cursor), 5)) == whole[stop:]


def test_the_world_is_endless_and_its_cursors_are_places() -> None:
    whole = list(itertools.islice(open_documents("world", seed=3), 12))
    assert list(itertools.islice(open_documents("world", seed=3, cursor=whole[4].cursor), 7)) == whole[5:]
    pinned = validation_documents("world", seed=3, bytes_wanted=1000)
    assert not {one.text for one in whole} & {one.text for one in pinned.documents}
    assert 1000 <= pinned.bytes < 3000


def test_the_tokenizer_of_an_endless_world_comes_to_an_end(tmp_path: Path) -> None:
    stage.main(Tokenizer(run=str(tmp_path), vocab=300))
    assert json.loads((tmp_path / "tokenizer" / "tokenizer_meta.json").read_text())["provenance"]["chars"] < 10_000_000


def test_train_repeats_with_the_files_in_another_order(corpus: str) -> None:
    size = len(train_epoch(corpus))
    stream = texts_of(open_documents(corpus, seed=1), 3 * size)
    first, second, third = stream[:size], stream[size : 2 * size], stream[2 * size :]
    assert sorted(first) == sorted(second) == sorted(third)
    assert not first == second == third


def test_two_documents_are_enough_and_one_goes_to_validation(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The first.")
    (tmp_path / "b.txt").write_text("The second.")
    validation = texts_of(open_documents(str(tmp_path), split="validation"))
    assert len(validation) == 1
    assert set(texts_of(open_documents(str(tmp_path)), 6)) == {"The first.", "The second."} - set(validation)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_any_column_can_hold_the_text_and_a_file_without_it_is_refused_first(tmp_path: Path, ending: str) -> None:
    """What is a text as a whole has no columns, and is read as ever."""
    rows, path = [{"text": f"no {text}", "body": text} for text in TEXTS[:300]], tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending in ("csv", "tsv"):
        lines = [("text", "body"), *(row.values() for row in rows)]
        path.write_text("".join(("," if ending == "csv" else "\t").join(line) + "\n" for line in lines))
    else:
        path.write_text(json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("<|endoftext|>".join(TEXTS[300:400]))
    read: dict[str, Any] = {"data": str(tmp_path), "column": "body"}
    train = itertools.takewhile(lambda one: one.cursor["epoch"] == 0, open_documents(**read))
    assert sorted([*texts_of(train), *texts_of(open_documents(**read, split="validation"))]) == sorted(TEXTS[:400])
    assert all(one.text in TEXTS for one in validation_documents(**read, bytes_wanted=10**6).documents)
    wanted = rf"a\.{ending}.*: columns text, body found, but none called 'bodi'; .* --column\. Did you mean 'body'\?"
    with pytest.raises(ValueError, match=wanted):
        describe(str(tmp_path), column="bodi")


@pytest.fixture
def mix(tmp_path: Path) -> str:
    """Long documents, short ones, and what never ends; files of one name in two folders."""
    write_parquet(tmp_path / "long" / "a.parquet", [f"{n} " + "long " * 300 for n in range(50)])
    write_parquet(tmp_path / "short" / "a.parquet", [f"{n} short" for n in range(300)])
    return f"{tmp_path / 'long'}:1,{tmp_path / 'short'}:2,world:0.5"


def test_sources_are_mixed_by_characters_in_their_shares_wherever_one_looks(mix: str) -> None:
    documents = list(itertools.islice(open_documents(mix, seed=1), 8000))
    longest = max(len(document.text) for document in documents)
    for document in documents:
        long, short, world = document.cursor["characters"]
        for first, second in itertools.combinations((long, short / 2, world / 0.5), 2):
            assert abs(first - second) <= longest / 0.5
    assert min(documents[-1].cursor["characters"]) > 10 * longest


def test_of_several_sources_each_is_read_as_if_it_were_alone(mix: str) -> None:
    drawn: dict[int, list[str]] = {0: [], 1: [], 2: []}
    before = [0, 0, 0]
    for document in itertools.islice(open_documents(mix, seed=1), 1000):
        (chosen,) = [n for n in range(3) if document.cursor["characters"][n] != before[n]]
        drawn[chosen].append(document.text)
        before = document.cursor["characters"]
    for texts, name in zip(drawn.values(), shares_of(mix), strict=True):
        assert texts == texts_of(open_documents(name, seed=1), len(texts))
        assert texts_of(open_documents(f"{name}:3", seed=1), len(texts)) == texts


@pytest.mark.parametrize("stop", [1, 2, 299, 800, 1500])
def test_a_cursor_of_several_sources_goes_on_with_the_next_document(mix: str, stop: int) -> None:
    whole = list(itertools.islice(open_documents(mix, seed=5), stop + 50))
    cursor = json.loads(json.dumps(whole[stop - 1].cursor))
    assert list(itertools.islice(open_documents(mix, seed=5, cursor=cursor), 50)) == whole[stop:]


def test_held_out_text_of_several_sources_is_that_of_each(mix: str) -> None:
    pinned = validation_documents(mix, bytes_wanted=3500, seed=1)
    alone = [
        validation_documents(name, bytes_wanted=wanted, seed=1)
        for name, wanted in zip(shares_of(mix), (1000, 2000, 500), strict=True)
    ]
    assert [*pinned.parts.values()] == alone
    assert pinned.documents == [one for part in alone for one in part.documents]
    assert pinned.bytes == sum(part.bytes for part in alone)
    assert pinned.hash not in {part.hash for part in alone}
    train = texts_of(open_documents(mix, seed=1), 1000)
    assert not {*train} & {one.text for one in pinned.documents}


def test_a_tokenizer_reads_each_of_several_sources_once_and_comes_to_an_end(mix: str) -> None:
    read = Counter(stage.texts(Tokenizer(data=mix.removesuffix(",world:0.5"))))
    assert {count for text, count in read.items() if "long" in text} == {1}
    assert sum("long" in text for text in read) >= 49
    assert min(count for text, count in read.items() if "short" in text) > 1  # as its share wants it


def test_one_long_text_file_is_cut_between_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"Paragraph {index}. {'word ' * 100}\n\n" for index in range(50)))
    validation = texts_of(open_documents(str(path), split="validation"))
    train = [one.text for one in train_epoch(str(path))]
    assert len(validation) == 1
    assert len(train) > 5
    assert all(text.startswith(("Paragraph", "\nParagraph")) for text in train + validation)
    assert sum(text.count("Paragraph") for text in train + validation) == 50


def test_a_text_that_is_one_document_cannot_be_split_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Only this.")
    with pytest.raises(ValueError, match="1 different document found; at least two"):
        next(open_documents(str(tmp_path)))


def test_empty_and_blank_documents_are_left_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["", "  \n", *TEXTS[:5], ""])
    texts = texts_of(open_documents(str(tmp_path)), 4) + texts_of(open_documents(str(tmp_path), split="validation"))
    assert sorted(texts) == sorted(TEXTS[:5])


def test_what_cannot_be_read_is_said_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Did you mean 'fineweb-edu'"):
        describe("fineweb-eduu")
    with pytest.raises(FileNotFoundError, match="neither a name"):
        describe(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"holds nothing, but no \.parquet"):
        describe(str(tmp_path))
    (tmp_path / "README.txt").write_text("?")
    (tmp_path / "info.json").write_text('{"rows": 3}')
    with pytest.raises(ValueError, match=r"holds README.txt, info.json \(no array.* end in \.jsonl\), but"):
        describe(str(tmp_path))
    write_parquet(tmp_path / "a.parquet", TEXTS[:5], column="content")
    with pytest.raises(ValueError, match="columns source, content found, but none called 'text'"):
        describe(str(tmp_path))
    with pytest.raises(ValueError, match=r"but none called 'contents'; .*--column\. Did you mean 'content'\?"):
        describe(str(tmp_path), column="contents")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"a\.parquet: cannot be read"):
        describe(str(tmp_path))


@pytest.mark.parametrize("kind", [pa.int64(), pa.binary(), pa.list_(pa.string())])
def test_a_column_that_is_not_text_is_said_before_anything_begins(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array([], kind)}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'text' holds .*; allowed is text"):
        describe(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "raw", "complaint"),
    [
        ("a.txt", "caf\xe9".encode("latin1") * 9, r"a\.txt line 1: byte 0xE9 in column 4 is not UTF-8; convert"),
        (
            "a.txt.gz",
            gzip.compress(b"word\n\n" * 5000, mtime=0)[:-9],
            r"a\.txt\.gz after line \d+: .* the file is damaged",
        ),
        ("a.txt.gz", b"plain text", r"a\.txt\.gz: plain text, not compressed"),
        (
            "a.txt.zst",
            pa.compress(b"word\n\n" * 5000, codec="zstd", asbytes=True)[:-9],
            r"a\.txt\.zst after line 0: Trunc",
        ),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, r"a\.jsonl line 1: not JSON"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", r"a\.jsonl line 1: not JSON"),
    ],
)
def test_a_damaged_text_raises_with_its_name(tmp_path: Path, name: str, raw: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=complaint):
        next(open_documents(str(tmp_path)))


def test_what_other_systems_write_is_read(tmp_path: Path) -> None:
    """A byte order mark, half a surrogate pair, a record without text."""
    lines = ['\ufeff{"text": "one"}', '{"text": "two \\uD83D"}', '{"text": null}', '{"text": "\\ud83d\\ude00"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    texts = texts_of(open_documents(str(tmp_path)), 2) + texts_of(open_documents(str(tmp_path), split="validation"))
    assert sorted(texts) == sorted(["one", "two \ufffd", "\U0001f600"])
    assert validation_documents(str(tmp_path), bytes_wanted=1).hash


def test_a_text_without_lines_is_cut_at_blanks_and_loses_nothing(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(60_000))
    (tmp_path / "a.txt").write_text(text)
    pieces = list(read_text_pieces(tmp_path / "a.txt"))
    assert "".join(pieces) == text
    assert len(pieces) == 6
    (tmp_path / "a.txt").write_text(f"{text}<|endoftext|>{text}<|endoftext|>end")
    pieces = list(read_text_pieces(tmp_path / "a.txt"))
    assert "".join(pieces) == text + text + "end"
    assert "word59999" in pieces[5]
    assert pieces[6].startswith("word0 ")


def test_a_description_names_files_and_size_and_costs_no_reading(corpus: str) -> None:
    assert describe(corpus).startswith(f"{corpus} (5 files, ")
    assert describe(f"{corpus}:1,world:3").startswith(f"25% {corpus} (5 files, ")
    assert describe("world") == "world (generated, endless)"
    assert "karpathy/climbmix" in describe("climbmix")


def test_a_damaged_parquet_raises_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [str(random.Random(index).random()) * 20 for index in range(500)])
    raw = bytearray(path.read_bytes())
    raw[2000:4000] = bytes(2000)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.parquet: cannot be read"):
        train_epoch(str(path))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{'text': 1}", "line 3: not JSON"),
        ('["text"]', 'line 3: ["text"] found; each line must be one object'),
        (
            '{"messages": []}',
            "line 3 (conversations, which are given to midtrain and sft): columns messages found",
        ),
    ],
)
def test_errors_in_a_jsonl_name_the_line(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n' + line + "\n")
    with pytest.raises(ValueError) as caught:
        next(open_documents(str(tmp_path)))
    assert complaint in str(caught.value)


def test_a_cut_off_gzip_raises_with_its_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl.gz", TEXTS)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz after line \d+: .*the file is damaged"):
        train_epoch(str(path))


@pytest.mark.skipif(not REAL.exists(), reason="the real shards are not on this machine")
def test_real_shards_give_their_documents_once() -> None:
    path = str(REAL / "shard_00006.parquet")
    validation = texts_of(open_documents(path, split="validation"))
    assert len(train_epoch(path)) + len(validation) == pq.read_metadata(path).num_rows
    assert validation
