"""`fledge pretrain`: train a base model on text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fledge import console
from fledge.config import Pretrain, check
from fledge.evals.score import samples, validation_bits_per_byte
from fledge.model.transformer import Transformer
from fledge.runs import open_stage
from fledge.text.datasets import find_generated
from fledge.text.documents import describe, open_documents, validation_documents
from fledge.text.tokenizer import Tokenizer
from fledge.train.batches import document_batches, validation_batches
from fledge.train.loop import Batch, due
from fledge.train.session import Session, model_settings_to_config

TEXT_PROMPTS = ("The capital of France is", "The opposite of hot is", "Once upon a time", "The planets are")


def main(config: Pretrain) -> None:
    """Train the base model of a run."""
    check(config)
    description = describe(config.data)
    with open_stage(config) as stage:
        tokenizer = Tokenizer.load(stage.run / "tokenizer")
        model = Transformer(model_settings_to_config(config.model, tokenizer.vocab)).init(seed=config.seed)
        session = Session(stage, config, model)
        length = model.config.context
        rows, micro = session.micro(length)
        counts = model.parameter_counts()
        tokens = config.tokens or round(config.ratio * (counts["matrix"] + counts["unembedding"]))
        plan = session.plan(max(1, round(tokens / (rows * micro * length))), micro)
        pinned = validation_documents(config.data, bytes_wanted=3 * config.eval_tokens, seed=config.seed)
        console.say(
            f"pretrain: {counts['total'] / 1e6:.2f}M parameters (depth {model.config.layers}, width {model.config.width}), "
            f"{plan.steps} steps of {rows * micro * length:,} tokens ({micro} x {rows} rows of {length}) from {description}; "
            f"{model.compute_dtype}, held-out set {pinned.hash}".replace("torch.", "")
        )

        def batches(cursor: dict[str, Any] | None) -> Iterator[Batch]:
            begin = cursor["documents"] if cursor else None
            documents = open_documents(config.data, seed=config.seed, cursor=begin)
            return document_batches(
                documents, tokenizer, rows=rows, length=length, device=session.device, cursor=cursor
            )

        def bits_per_byte() -> float:
            held = validation_batches(pinned.documents, tokenizer, rows=rows, length=length, device=session.device)
            return validation_bits_per_byte(model, held)

        def write() -> list[dict[str, str]]:
            source = find_generated(config.data)
            prompts = source.PROMPTS if source else TEXT_PROMPTS
            return [
                asdict(sample)
                for sample in samples(model, tokenizer, prompts=prompts, seed=config.seed, unconditioned=2)
            ]

        every = config.eval_every or max(1, plan.steps // 10)
        for step in session.train(batches, plan):
            if due(step.index, every, plan.steps):
                session.log(step, val_bits_per_byte=bits_per_byte())
            if config.sample_every and due(step.index, config.sample_every, plan.steps):
                stage.log(step=step.index + 1, samples=write())
        session.finish(
            val_bits_per_byte=bits_per_byte(),
            held_out=pinned.hash,
            held_out_bytes=pinned.bytes,
            tokenizer_hash=tokenizer.hash,
            tokens=plan.steps * rows * micro * length,
            steps=plan.steps,
            flops_per_token=model.flops_per_token(),
            samples=write(),
        )
