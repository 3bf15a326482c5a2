"""Conversations: their types, and the only place where they become tokens and come back.

    ids, mask = encode_conversation(tokenizer, conversation)      # training: mask 1 = the assistant's own tokens
    prompt = encode_prompt(tokenizer, conversation)               # inference: ends where the assistant speaks
    fitted = fit_prompt(tokenizer, conversation, context=512, max_tokens=128)    # the same, shortened until an answer fits
    parts = decode_answer(tokenizer, answer_ids)                  # text, python, output parts of an answer
    for kind, text in PartReader(tokenizer).feed(token): ...      # the same while it arrives

A conversation becomes `bos user_start ... user_end assistant_start ... assistant_end user_start ...`. A tool call inside an
answer is `python_start code python_end output_start result output_end`: the model learns to write the code and never the
result, which the engine supplies. Special tokens are placed by id here and nowhere else, so that nobody can type one.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fledge.text.records import shown

if TYPE_CHECKING:
    from fledge.text.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]
Learn = Literal["answers", "all"]
Kind = Literal["text", "python", "output"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
KINDS: tuple[Kind, ...] = ("text", "python", "output")


NOTHING = (None, "", [], {})
"""What a field holds that says nothing, as tables have it where others have a value."""
MEANT = {
    "system": "it as the first message, by system",
    "tools": "conversations without tools of their own",
    "functions": "conversations without tools of their own",
    "weight": "it in each answer",
}
"""Fields beside the messages that change what is said or learned."""
FORMS = {
    "chosen rejected": "pairs of answers, which no stage learns from",
    **dict.fromkeys(
        ("messages", "conversations", "instruction output"), "conversations, which are given to midtrain and sft"
    ),
    "text": "texts, which are given to tokenizer and pretrain",
    "content": "content instead of text",
}
"""Records of other forms, by fields that they have."""


class Part(NamedTuple):
    """A part of a message: prose, code the model asks to run, or what running it printed. Or a piece of one that is arriving."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Message:
    """What one side says in one turn."""

    role: Role
    parts: tuple[Part, ...]
    learn: bool = True
    """False: an answer that is read, as it stands in the conversation, but not learned ("weight": 0)."""

    @property
    def text(self) -> str:
        """The prose alone, without tool calls and their results."""
        return "".join(part.text for part in self.parts if part.kind == "text")


Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens; `mask[i]` is 1 where `ids[i]` should be learned."""

    ids: list[int]
    mask: list[int]


def say(role: Role, *parts: str | Part) -> Message:
    """A message from strings and parts: `say("user", "How many?")`."""
    return Message(role, tuple(Part("text", part) if isinstance(part, str) else part for part in parts))


def talk(*turns: str) -> Conversation:
    """User and assistant in turn."""
    return tuple(say("assistant" if i % 2 else "user", text) for i, text in enumerate(turns))


def parse_conversation(record: Mapping[str, Any], where: str, *, joined: bool = False) -> Conversation:
    """A conversation from `{"messages": [{"role": ..., "content": text or list of parts}, ...]}`.

    Args:
        record: as read from JSON. A part is `{"type": "text" | "python" | "output", "text": ...}`; an answer with `"weight": 0`
            is not learned. Fields beside `messages` are ignored, but for those of `MEANT`.
        where: file and line, for the error.
        joined: messages in a row by one speaker are one.

    Raises:
        ValueError: a field is missing or unknown, the roles do not alternate, or nothing is said.
    """
    messages = record.get("messages") if isinstance(record, Mapping) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            f"{where}: no messages found among {shown(list(record))}{form_of(record)}; expected "
            '{"messages": [{"role": "user", "content": "..."}, ...]}, or such as prompt beside completion'
        )
    for field in MEANT:
        if record.get(field) not in NOTHING:
            raise ValueError(
                f"{where}: {field!r} beside the messages, where it would be lost; expected {MEANT[field]}, or none"
            )
    turns = [_parse_turn(turn, f"{where} message {place}") for place, turn in enumerate(messages, 1)]
    conversation = tuple(join_turns(turns) if joined else turns)
    check_turns(conversation, where)
    return conversation


def join_turns(messages: Iterable[Message]) -> list[Message]:
    """Messages in a row by one speaker as one, with a blank line between what is said; those of other weight stay apart."""
    joined: list[Message] = []
    for message in messages:
        if joined and (joined[-1].role, joined[-1].learn) == (message.role, message.learn):
            place, parts = len(joined[-1].parts), [*joined[-1].parts, *message.parts]
            if [part.kind for part in parts[place - 1 : place + 1]] == ["text", "text"]:
                parts[place - 1 : place + 1] = [Part("text", f"{parts[place - 1].text}\n\n{parts[place].text}")]
            joined[-1] = replace(message, parts=tuple(parts))
        else:
            joined.append(message)
    return joined


def _parse_turn(turn: Any, where: str) -> Message:
    """A message to learn from: nothing of it may be lost."""
    message = parse_message(turn, where)
    parts = turn["content"] if isinstance(turn["content"], list) else []
    for fields, known in ((turn, ("role", "content", "weight")), *((part, ("type", "text")) for part in parts)):
        for field, value in fields.items():
            if field not in known and value not in NOTHING:
                raise ValueError(
                    f"{where}: a field {field!r}, which we do not know and would lose; expected are {', '.join(known)}. "
                    "Take it out, or write it into the content"
                )
    weight = turn.get("weight")
    if weight is None:
        return message
    if message.role != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
        raise ValueError(
            f"{where}: weight {shown(weight)} of {message.role}; expected 0 or 1, of an answer by the assistant. Take it out"
        )
    return replace(message, learn=bool(weight))


def form_of(record: Any) -> str:
    """In which well-known form a record is that is not in the one expected, for messages; empty: in none that we know."""
    if isinstance(record, Mapping):
        for names, form in FORMS.items():
            if all(name in record for name in names.split()):
                return f" ({form})"
        for name, inner in record.items():
            if isinstance(inner, Mapping) and ("messages" in inner or "text" in inner):
                return f" (they are inside {name!r}: write that alone)"
    return ""


def parse_message(message: Any, where: str) -> Message:
    """One message of `parse_conversation`."""
    if not isinstance(message, Mapping):
        raise ValueError(f"{where}: a message is {shown(message)}, not an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"{where}: role {shown(role)} is not one of {', '.join(ROLES)}: write the one that is meant")
    if isinstance(content, str):
        return say(role, content)
    if not isinstance(content, list):
        raise ValueError(f"{where}: content of {role} is {shown(content)}; allowed: a string or a list of parts")
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in KINDS or not isinstance(part.get("text"), str):
            raise ValueError(f'{where}: part {shown(part)} is not {{"type": one of {", ".join(KINDS)}, "text": "..."}}')
        if kind != "text" and role != "assistant":
            raise ValueError(f"{where}: a {kind} part in a message of {role}; only the assistant uses the tool")
        parts.append(Part(kind, part["text"]))
    return Message(role, tuple(parts))


def check_turns(conversation: Sequence[Message], where: str) -> None:
    """Raise ValueError unless it is: optional system, then user and assistant in turn, beginning with the user."""
    first = 1 + (len(conversation) > 0 and conversation[0].role == "system")
    if len(conversation) < first:
        raise ValueError(f"{where}: nobody speaks; expected is a message by user, and the answer")
    for place, message in enumerate(conversation[first - 1 :]):
        if message.role != (expected := ("user", "assistant")[place % 2]):
            raise ValueError(
                f"{where}: message {place + first} is by {message.role}, expected {expected}; user and assistant speak in "
                "turn, and only a system message may stand before them"
            )


def to_json(conversation: Iterable[Message]) -> dict[str, Any]:
    """The inverse of `parse_conversation`."""
    messages: list[dict[str, Any]] = []
    for message in conversation:
        plain = all(part.kind == "text" for part in message.parts)
        content = message.text if plain else [{"type": part.kind, "text": part.text} for part in message.parts]
        messages.append({"role": message.role, "content": content} | ({} if message.learn else {"weight": 0}))
    return {"messages": messages}


def encode_conversation(
    tokenizer: Tokenizer, conversation: Sequence[Message], *, max_tokens: int | None = None, learn: Learn = "answers"
) -> Rendered:
    """Tokens and mask of a whole conversation, up to its last answer.

    Args:
        max_tokens: keep whole exchanges (user and answer) while they fit; nothing is left when not even the first does.
        learn: "answers": what the assistant said, without what its tool printed; "all": every token. Never an answer that
            the conversation itself excepts.
    """
    ids, mask = [tokenizer.special["<|bos|>"]], [int(learn == "all")]
    end = 0
    for message in _fold_system(conversation):
        for said, is_own in _render(tokenizer, message):
            ids += said
            mask += [int(message.learn and (is_own or learn == "all"))] * len(said)
        if message.role == "assistant":
            if max_tokens is not None and len(ids) > max_tokens:
                break
            end = len(ids)
    return Rendered(ids[:end], mask[:end])


def encode_prompt(tokenizer: Tokenizer, conversation: Sequence[Message]) -> list[int]:
    """Tokens up to where the assistant speaks: after the mark of that, or within the answer that is last.

    Raises:
        ValueError: nothing is said to answer.
    """
    if not conversation or conversation[-1].role == "system":
        raise ValueError("the last message of a prompt must be by the user, or an answer to go on with")
    # An answer without the mark of its end; where none has begun, an empty one.
    begun = () if conversation[-1].role == "assistant" else (say("assistant"),)
    return encode_conversation(tokenizer, [*conversation, *begun]).ids[:-1]


def encode_text(tokenizer: Tokenizer, conversation: Sequence[Message]) -> list[int]:
    """Tokens of a conversation as a plain text, for a model that was never shown another form.

    What the user says begins a paragraph, and what the assistant says goes on with it.
    """
    turns = enumerate(_fold_system(conversation))
    text = "".join("\n\n" * (place > 0 and turn.role == "user") + turn.text for place, turn in turns)
    return [tokenizer.special["<|bos|>"], *tokenizer.encode(text)]


@dataclass(frozen=True)
class Fitted:
    """A prompt that leaves room for an answer."""

    ids: list[int]
    dropped: int
    """Exchanges (a question and its answer) left out at the beginning."""


def fit_prompt(
    tokenizer: Tokenizer, conversation: Conversation, *, context: int, max_tokens: int, raw: bool = False
) -> Fitted:
    """Prompt ids of the longest end of `conversation` that leaves room to answer; the system prompt stays.

    That is `max_tokens`, or a quarter of the context where they are more: most answers are far shorter than the longest
    allowed. Where the last question alone does not leave that room, it is kept as long as one token can be answered.

    Args:
        raw: as plain text (`encode_text`).

    Raises:
        ValueError: the last question alone fills the context, or there is nothing to answer.
    """
    room = min(max_tokens, context // 4)
    system = conversation[:1] if conversation and conversation[0].role == "system" else ()
    turns = conversation[len(system) :]
    sizes = [sum(len(said) for said, _ in _render(tokenizer, message)) for message in conversation]
    # 2: <|bos|> and the mark after which the answer begins.
    first, sizes = sum(sizes[: len(system)]) + 2, sizes[len(system) :]
    # Every text is encoded once to find where to cut, and the winner once more: a long history costs no more than its length.
    # An exchange begins with the user; a greeting before the first goes with that.
    begins = [0, *[place for place, message in enumerate(turns) if message.role == "user"][1:]]
    dropped = 0
    while dropped + 1 < len(begins) and first + sum(sizes[begins[dropped] :]) + room > context:
        dropped += 1
    ids = (encode_text if raw else encode_prompt)(tokenizer, (*system, *turns[begins[dropped] :]))
    if len(ids) >= context:
        raise ValueError(
            f"the question has {len(ids)} tokens, the context holds {context} for question and answer; "
            f"shorten it by {len(ids) - context + 1} tokens or more"
        )
    return Fitted(ids, dropped)


def _fold_system(conversation: Sequence[Message]) -> Sequence[Message]:
    """The system prompt becomes the first paragraph of the first user message, as in the article's template."""
    if not conversation or conversation[0].role != "system":
        return conversation
    system, *turns = conversation
    if not system.text.strip():  # tables have an empty one where there is none
        return turns
    place = next(place for place, message in enumerate(turns) if message.role == "user")
    turns[place] = say("user", f"{system.text}\n\n{turns[place].text}")
    return turns


def _render(tokenizer: Tokenizer, message: Message) -> Iterator[tuple[list[int], bool]]:
    """The tokens of one message, its marks included, in stretches; of each, whether the assistant says it."""
    special = tokenizer.special
    if message.role != "assistant":
        yield [special["<|user_start|>"], *tokenizer.encode(message.text), special["<|user_end|>"]], False
        return
    yield [special["<|assistant_start|>"]], False
    for part in message.parts:
        said = tokenizer.encode(part.text)
        if part.kind != "text":
            said = [special[f"<|{part.kind}_start|>"], *said, special[f"<|{part.kind}_end|>"]]
        yield said, part.kind != "output"
    yield [special["<|assistant_end|>"]], True


class PartReader:
    """Splits the tokens of an answer into parts while they arrive. The one rule, for streams and whole answers alike:

    python_start and output_start begin a part, however often they come; python_end and output_end go back to prose, also
    where nothing was open; a part never closed goes on to the end; assistant_end and bos end the answer; every other special
    token is silent. Bytes are joined to characters within a part, never across one.

    A stop string in the prose ends the reading; text that may turn out to be the beginning of one is held back.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        special = tokenizer.special
        self.kind: Kind = "text"
        self.ended = False
        self.stop, self.stopped = tuple(stop), False
        self.held = ""
        """Prose that may be the beginning of a stop string."""
        self.tokenizer = tokenizer
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.silent = frozenset(special.values())
        self.ends = {special["<|assistant_end|>"], special["<|bos|>"]}
        self.begins: dict[int, Kind] = {special["<|python_end|>"]: "text", special["<|output_end|>"]: "text"}
        self.begins |= {special["<|python_start|>"]: "python", special["<|output_start|>"]: "output"}

    def feed(self, token: int) -> list[Part]:
        """The text that is certain now, in whole characters. A tool part begins with an empty piece of its kind."""
        if self.ended or self.stopped:
            return []
        if token not in self.silent:
            return self._piece(self.utf8.decode(self.tokenizer.decode_bytes([token])))
        if token in self.ends:
            self.ended = True
        elif token in self.begins:
            rest = self.flush()
            self.kind = self.begins[token]
            return rest if self.kind == "text" else [*rest, Part(self.kind, "")]
        return []

    def flush(self) -> list[Part]:
        """What was held back and what is left of a character that was never completed, at the end of a part."""
        pieces = self._piece(self.utf8.decode(b"", final=True))
        held, self.held = self.held, ""
        return [*pieces, Part("text", held)] if held and not self.stopped else pieces

    def _piece(self, text: str) -> list[Part]:
        if self.kind == "text" and self.stop:
            self.held += text
            found = [place for place in map(self.held.find, self.stop) if place >= 0]
            self.stopped |= bool(found)
            text = self.held[: min(found) if found else len(self.held) - held_back(self.held, self.stop)]
            self.held = self.held[len(text) :]
        return [Part(self.kind, text)] if text else []


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a stop string: held_back("to be", ("bee",)) == 2."""
    lengths = ((n for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])) for stop in stops)
    return max(chain.from_iterable(lengths), default=0)


def join_pieces(pieces: Iterable[Part], *, marks: bool = False) -> list[Part]:
    """Neighbours of one kind become one. An empty piece marks where a tool part begins: it joins nothing before it.

    With `marks` nothing joins it either, so that what is joined in stretches can be joined again.
    """
    joined: list[Part] = []
    for kind, text in pieces:
        if joined and joined[-1].kind == kind and text and (joined[-1].text or not marks):
            joined[-1] = Part(kind, joined[-1].text + text)
        else:
            joined.append(Part(kind, text))
    return joined


def decode_answer(tokenizer: Tokenizer, ids: Iterable[int]) -> tuple[Part, ...]:
    """Parts of an answer as the engine returns it: tokens after assistant_start, with or without assistant_end."""
    reader = PartReader(tokenizer)
    pieces = [piece for token in ids for piece in reader.feed(token)]
    return tuple(join_pieces([*pieces, *reader.flush()]))
