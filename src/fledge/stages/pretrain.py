"""`fledge pretrain`: train a base model on text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge import console, ranks
from fledge.config import Pretrain, check
from fledge.folder import open_stage
from fledge.origin import origin_of
from fledge.settings import shares_of
from fledge.text.datasets import find_generated
from fledge.text.documents import describe, open_documents, validation_documents
from fledge.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fledge.train.loop import Batch

EPOCHS, MANY_EPOCHS = 4, 8
"""Of a text: so many teach about as much as if it were new each time (Muennighoff et al. 2023, arXiv:2305.16264), and above the
second number a line warns.
"""
TEXT_PROMPTS = ("The capital of France is", "The opposite of hot is", "Once upon a time", "The planets are")


def prepare(config: Pretrain) -> str:
    """What the stage learns from; what is misspelt or missing is found here, before torch is loaded."""
    check(config)
    return describe(config.data, column=config.column)


def main(config: Pretrain) -> None:
    """Train the base model of a run."""
    description = prepare(config)
    from fledge.evals.score import samples
    from fledge.model.transformer import ModelConfig, Transformer
    from fledge.train.batches import batched, document_rows
    from fledge.train.estimate import measure_all
    from fledge.train.held_out import validation_batches, validation_bits_per_byte
    from fledge.train.resolve import Shape, resolved
    from fledge.train.session import Best, Session

    tokenizer = Tokenizer.load(Path(config.run) / "tokenizer")
    config = resolved(config)
    shape = Shape.of(config, length=config.model.context)
    model = Transformer(ModelConfig.of(config.model, vocab=tokenizer.vocab)).init(seed=config.seed)
    with open_stage(config, origin_of(config)) as stage:
        session = Session(stage, config, model)
        shape = session.tried(shape)
        cut = {"rows": shape.rows, "device": session.device}
        read = {"data": config.data, "seed": config.seed, "column": config.column}
        pinned = validation_documents(**read, bytes_wanted=3 * config.eval_tokens)
        dtype = str(model.compute_dtype).removeprefix("torch.")
        console.say(
            f"pretrain: {model.parameter_counts()['total'] / 1e6:.2f}M parameters (depth {model.config.layers}, width "
            f"{model.config.width}), {shape} from {description}; {dtype}, held-out set {pinned.hash}"
        )
        texts = measure_all(config.data, tokenizer, column=config.column)
        tokens = session.foretell(shape.steps * shape.tokens, texts)
        again = [text for text in texts if config.minutes or text.epochs(tokens) > 1]
        best = Best(session, "val_bits_per_byte") if again else None
        for text in again:
            if text.epochs(tokens) > MANY_EPOCHS:
                console.say(
                    f"pretrain: more than about {EPOCHS} epochs learn a text by heart; {EPOCHS} are "
                    f"{EPOCHS * text.tokens / text.share:,.0f} --tokens"
                )

        def batches(cursor: dict[str, Any] | None) -> Iterator[Batch]:
            documents = open_documents(**read, cursor=cursor["documents"] if cursor else None)
            rows = document_rows(documents, tokenizer, length=shape.length, cursor=cursor)
            return batched(rows, step_rows=shape.total, **cut)

        @cache
        def bits_per_byte(done: int) -> dict[str, float]:
            sets = {"val_bits_per_byte": pinned}  # in all, and of each source
            for number, (name, part) in enumerate(pinned.parts.items(), 1):
                sets[f"val_bits_per_byte_{number}_{Path(name).stem}"] = part
            return {
                name: validation_bits_per_byte(
                    model, validation_batches(part.documents, tokenizer, length=shape.length, **cut)
                )
                for name, part in sets.items()
            }

        def write() -> list[dict[str, str]]:
            if model.whole or not ranks.is_first():  # the engine wants whole weights
                return []
            sources = map(find_generated, shares_of(config.data))
            prompts = dict.fromkeys(each for one in sources for each in (one.PROMPTS if one else TEXT_PROMPTS))
            return samples(model, tokenizer, prompts=[*prompts], seed=config.seed)

        for done in session.train(batches, steps=shape.steps, micro=shape.micro):
            if session.due(done, config.eval_every):
                if best:
                    best.judge(done, bits_per_byte(done))
                else:
                    session.log(done, **bits_per_byte(done))
            if config.sample_every and session.due(done, config.sample_every):
                stage.log(step=done, samples=write())
        measured = best.summary("text") if best else bits_per_byte(session.done)
        session.finish(
            **measured,
            held_out=pinned.hash,
            held_out_bytes=pinned.bytes,
            tokenizer_hash=tokenizer.hash,
            tokens=session.done * shape.tokens,
            steps=session.done,
            flops_per_token=model.flops_per_token(),
            samples=write(),
        )
