"""What the answers of own conversations cost a model, in bits per byte: how likely it finds what was said there.

    learned = questions_learned(Path("runs/mine"), tokenizer, context=512)
    cost = cost_of(scorer, "chats.jsonl", open_conversations("chats.jsonl"), learned=learned)
    cost.bits_per_byte, cost.scored               # 1.31, "15 of 300, never learned"

Scored is what no stage of the run has learned from: what was held out of a file that it was trained on, whatever that is called
now, and all of another.
"""

from __future__ import annotations

import math
from pathlib import Path

from fledge import ranks
from fledge.evals.likelihood import Row, likelihoods
from fledge.evals.results import Cost
from fledge.evals.score import Scorer, choose
from fledge.origin import data_of
from fledge.runs import begun
from fledge.settings import shares_of
from fledge.tasks.mixture import is_own
from fledge.tasks.own import are_questions
from fledge.text.chat import encode_conversation
from fledge.text.conversations import Chats, open_conversations
from fledge.text.tokenizer import Tokenizer
from fledge.train.converse import Fitting, first_question


def questions_learned(run: Path, tokenizer: Tokenizer, *, context: int) -> set[str]:
    """First questions of the own conversations that the stages of a run have learned from; raises as `data_of`."""
    found = set()
    for stage in (run / "midtrain", run / "sft"):
        if (stage / "config.json").exists():
            length = begun(stage)["settings"].get("context") or context
            names = [name for name in shares_of(data_of(stage)) if is_own(name) and not are_questions(name)]
            for name in names:
                chats = open_conversations(name, skip_bad=True)
                found |= {first_question(one) for one in Fitting(chats, tokenizer, length=length)}
    return found


def cost_of(scorer: Scorer, name: str, chats: Chats, *, learned: set[str], limit: int | None = None) -> Cost:
    """What the answers cost of those whose question is not among `learned`, or of all where every one is.

    Raises:
        ValueError: no conversation has an answer that ends within the model's context.
    """
    model, tokenizer = scorer.model, scorer.tokenizer
    length = model.config.context
    fitting = Fitting(chats, tokenizer, length=length)
    usable = [*fitting, *fitting.held_out]
    if not usable:
        raise ValueError(
            f"{name}: no answer ends within {length} tokens, which are all that the model sees; shorten them"
        )
    unseen = [one for one in usable if first_question(one) not in learned]
    chosen = choose(unseen or usable, limit)
    share = ranks.share(list(chosen.items()))
    own = [(index, encode_conversation(tokenizer, one, max_tokens=length + 1)) for index, one in share]
    judged = likelihoods(model, (Row(one.ids, 1) for _, one in own), device_tokens=scorer.device_tokens)
    records = []
    for (index, one), likelihood in zip(own, judged, strict=True):
        counts = tokenizer.bytes_per_token[one.ids[1:]] * one.mask[1:]
        nats = -sum(logprob for logprob, count in zip(likelihood.logprobs, counts, strict=True) if count)
        asked = first_question(chosen[index])
        records.append({"index": index, "asked": asked, "bits": nats / math.log(2), "bytes": int(counts.sum())})
    records = sorted((each for part in ranks.gather(records) for each in part), key=lambda each: each["index"])
    scorer.write(name, records)
    return Cost.of([(each["bits"], each["bytes"]) for each in records], usable=len(usable), learned=not unseen)
