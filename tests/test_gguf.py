"""Stock llama.cpp says what the run says."""

from __future__ import annotations

import json
import random
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fledge.commands import Export
from fledge.export import out
from fledge.text.chat import encode_prompt, to_json
from fledge.text.tokenizer import Tokenizer
from test_export import random_conversation
from tiny_runs import TEXT, tiny_run

xllamacpp = pytest.importorskip("xllamacpp", reason="needs llama.cpp: uv sync --group compat")
pytest.importorskip("gguf", reason="needs the extra `export`, or uv sync --group compat")
Ask = Callable[..., Any]


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Ask]]:
    """Start llama.cpp on a file; what it gives asks its server."""
    servers = []

    def start(path: Path) -> Ask:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 256, 1, 0, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        # Its own choices for speed, keys and values of 16 bits among them, cost up to .006 nats here.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        servers.append(server := xllamacpp.Server(params))

        def ask(place: str, **body: Any) -> Any:
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(server.listening_address + place, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.loads(reply.read())

        return ask

    yield start
    servers.clear()


def export(run: Path, file: Path, **settings: Any) -> Path:
    out.main(Export(run=str(run), out=str(file), to="gguf", threads=1, **settings))
    return file


@torch.no_grad()
@pytest.mark.parametrize(("digits", "scale", "heads"), [(1, 1.0, 4), (3, 1.2, 2)])
def test_llama_cpp_gives_our_tokens_our_greedy_answer_and_our_uncapped_probabilities(
    serve: Callable[[Path], Ask], tmp_path: Path, digits: int, scale: float, heads: int
) -> None:
    model = tiny_run(tmp_path / "run", digits=digits, vocab=301, qk_scale=scale, heads=heads, kv_heads=heads // 2)
    tokenizer = Tokenizer.load(tmp_path / "run" / "tokenizer")
    ask = serve(export(tmp_path / "run", tmp_path / "x.gguf"))
    text = TEXT + "aab 12345 67 \n \n"
    assert ask("/tokenize", content=text, add_special=False)["tokens"] == tokenizer.encode(text)
    draw, prompts = random.Random(digits), []
    while len(prompts) < 10:
        conversation = random_conversation(draw)[:-1]
        if any(part.kind != "text" for turn in conversation for part in turn.parts):
            continue  # its server takes no parts but text
        text = ask("/apply-template", messages=to_json(conversation)["messages"])["prompt"]
        # It takes <|bos|> from the template and adds it to the tokens.
        prompts.append(ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"])
        assert prompts[-1] == encode_prompt(tokenizer, conversation)
    compared = 0
    for prompt in prompts[:3]:
        ids = prompt[:40]
        said = ask("/completion", prompt=ids, n_predict=20, temperature=0, return_tokens=True)
        for token in said["tokens"]:
            tokens = torch.tensor([ids])
            assert int(model(tokens)[0, -1].argmax()) == token
            told = ask("/completion", prompt=ids, n_predict=1, temperature=0, n_probs=5).get("completion_probabilities")
            z = F.linear(model.hidden(tokens), model.unembedding)[0, -1, : tokenizer.vocab].log_softmax(-1)
            for each in told[0]["top_logprobs"] if told else []:  # of a letter that is not whole it says none
                assert each["logprob"] == pytest.approx(float(z[each["id"]]), abs=1e-4)
                compared += 1
            ids = [*ids, token]
    assert compared > 50


@torch.no_grad()
def test_eight_bits_are_close_and_how_far_is_said(
    serve: Callable[[Path], Ask], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_run(tmp_path / "run", stage="pretrain")
    gaps = []
    for weights in ("float32", "q8_0"):
        ask = serve(export(tmp_path / "run", tmp_path / f"{weights}.gguf", weights=weights))
        told = capsys.readouterr().out
        mean, most = map(float, re.findall(r"tokens by ([\d.]+) nats on average and ([\d.]+) at most", told)[0])
        assert "on 1,000 held-out tokens" in told
        ids = [1, 2, 3, 4, 5]
        said = ask("/completion", prompt=ids, n_predict=1, temperature=0, n_probs=320)
        ours = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        gaps.append((mean, most))
        for each in said["completion_probabilities"][0]["top_logprobs"]:
            assert abs(each["logprob"] - float(ours[each["id"]])) < 3 * most + 0.05
    assert gaps[1][0] != gaps[0][0]
    assert (tmp_path / "q8_0.gguf").stat().st_size < 0.5 * (tmp_path / "float32.gguf").stat().st_size


def test_what_llama_cpp_cannot_say_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    tiny_run(tmp_path / "a", smear=True, pairs=64, windows="SL")
    with pytest.raises(
        ValueError, match=r"has smear, pairs, windows SL, which llama.cpp does not know\. Train with --classic"
    ):
        export(tmp_path / "a", tmp_path / "x.gguf")
    tiny_run(tmp_path / "b", digits=2)
    with pytest.raises(ValueError, match=r"takes 2 digits together; llama.cpp knows 1 or 3"):
        export(tmp_path / "b", tmp_path / "x.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
