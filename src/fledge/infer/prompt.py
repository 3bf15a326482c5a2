"""A conversation that has outgrown the context is shortened by whole turns, oldest first.

fitted = fit_prompt(tokenizer, conversation, context=512, room=128)
request = Request(prompt=fitted.ids); fitted.dropped                  # exchanges left out: tell the user
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fledge.text.chat import Conversation, Message, encode_prompt

if TYPE_CHECKING:
    from fledge.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Fitted:
    """A prompt that leaves room for an answer."""

    ids: list[int]
    dropped: int
    """Exchanges (a question and its answer) left out at the beginning."""


def fit_prompt(tokenizer: Tokenizer, conversation: Conversation, *, context: int, room: int) -> Fitted:
    """Prompt ids of the longest end of `conversation` that leaves `room` tokens to answer; the system prompt stays.

    Where the last question alone does not leave that room, it is kept as long as one token can be answered.

    Raises:
        ValueError: the last question alone fills the context, or the conversation does not end with the user.
    """
    system = conversation[:1] if conversation and conversation[0].role == "system" else ()
    turns = conversation[len(system) :]
    sizes = [_size(tokenizer, message) for message in turns]
    first = (
        sum(_size(tokenizer, message) for message in system) + 2
    )  # <|bos|> and the mark after which the answer begins
    # Every text is encoded once to find where to cut, and the winner once more: a long history costs no more than its length.
    dropped = 0
    while dropped + 2 < len(turns) and first + sum(sizes[dropped:]) + room > context:
        dropped += 2
    ids = encode_prompt(tokenizer, (*system, *turns[dropped:]))
    if len(ids) >= context:
        raise ValueError(
            f"the question has {len(ids)} tokens, the context holds {context} for question and answer; "
            f"shorten it by {len(ids) - context + 1} tokens or more"
        )
    return Fitted(ids, dropped // 2)


def _size(tokenizer: Tokenizer, message: Message) -> int:
    """Tokens of one message, its marks included."""
    return 2 + sum(len(tokenizer.encode(part.text)) + 2 * (part.kind != "text") for part in message.parts)
