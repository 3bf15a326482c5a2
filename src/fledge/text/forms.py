"""Conversations in the forms that people have them in, said in ours.

    in_our_form({"instruction": "Say hi", "input": "", "output": "Hi"}, "a.jsonl line 1")
    # ({"messages": [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "Hi"}]}, "instruction and output")

Known are `messages`; `conversations` with from and value (ShareGPT) or with role and content; and a question beside its answer
(Alpaca, Dolly, prompt and completion, as text or as messages). What a record means has one rule each: messages in a row by
one speaker are one, with a blank line between; calls of the tool python and what they printed become parts of the answer;
what the template cannot say is an error, and so nothing of it is lost in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fledge.text.chat import MEANT, NOTHING
from fledge.text.records import shown

SPEAKERS = {"system": "system developer", "user": "user human", "assistant": "assistant gpt chatgpt ai bot model"}
"""Our roles, and what others call them."""
ROLES = {name: role for role, names in SPEAKERS.items() for name in names.split()}
TOOLS = ("tool", "function", "observation")
"""Roles of what a tool printed."""
ASKED, ANSWERED = ("instruction", "prompt", "query", "question"), ("output", "completion", "response", "answer")
ABOUT, SYSTEM = ("input", "context"), ("system", "system_prompt")
"""Fields beside a question that belong to it, and those that stand before it."""


def in_our_form(record: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str]:
    """The record as `parse_conversation` wants it, and the fields by which it was known; as it is where none are.

    Raises:
        ValueError: something in it has no counterpart in our template.
    """
    fields = dict(record)
    turns, known = fields.get("messages"), "messages"
    for name in ("conversations", "conversation"):
        if turns in NOTHING and isinstance(fields.get(name), list):
            turns, known = fields.pop(name), name
    if turns in NOTHING:
        asked, answered = ([name for name in names if fields.get(name) not in NOTHING] for names in (ASKED, ANSWERED))
        if len(asked) != 1 or len(answered) != 1:
            return fields, ""
        turns, known = _pair(fields, asked[0], answered[0], where), f"{asked[0]} and {answered[0]}"
    if not isinstance(turns, list):
        return fields, ""
    if known != "messages":
        before = [name for name in SYSTEM if fields.get(name) not in NOTHING]
        turns = [*({"role": "system", "content": fields.pop(name)} for name in before), *turns]
    meant = {name: fields[name] for name in MEANT if name in fields}
    return {"messages": [_turn(each, f"{where} message {place}") for place, each in enumerate(turns, 1)]} | meant, known


def _pair(fields: dict[str, Any], asked: str, answered: str, where: str) -> list[Any]:
    """A question and its answer, behind those of its `history`."""
    question, history = fields[asked], fields.get("history")
    for name, about in ((name, fields[name]) for name in ABOUT if fields.get(name) not in NOTHING):
        if not isinstance(question, str) or not isinstance(about, str):
            raise ValueError(
                f"{where}: {name} is {shown(about)} beside {asked} {shown(question)}; expected are two texts"
            )
        question = f"{question}\n\n{about}" if about.strip() else question
    if history not in NOTHING and not _are_pairs(history):
        raise ValueError(f"{where}: history is {shown(history)}; expected pairs of texts, a question and its answer")
    turns = []
    for first, second in [*(history or []), (question, fields[answered])]:
        for role, said in (("user", first), ("assistant", second)):
            turns += said if isinstance(said, list) else [{"role": role, "content": said}]  # some write messages
    return turns


def _are_pairs(history: Any) -> bool:
    return isinstance(history, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(said, str) for said in pair) for pair in history
    )


def _turn(turn: Any, where: str) -> Any:
    """A message with our names: role and content, a tool's call as a part. What is no message is left for the parser to refuse."""
    if not isinstance(turn, Mapping):
        return turn
    fields = dict(turn)
    for ours, theirs in (("role", ("from",)), ("content", ("value", "text"))):
        for name in theirs:
            if ours not in fields and name in fields:
                fields[ours] = fields.pop(name)
    if isinstance(role := fields.get("role"), str):
        fields["role"] = ROLES.get(role.strip().lower(), role)
    content, calls = fields.get("content"), fields.pop("tool_calls", None)
    if content is None:
        fields["content"] = content = ""
    if fields.get("role") in TOOLS:
        if not isinstance(content, str):
            raise ValueError(f"{where}: content of {role} is {shown(content)}; expected a text")
        return {"role": "assistant", "content": [{"type": "output", "text": content}]}
    if calls not in NOTHING:
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        fields["content"] = [*parts, *({"type": "python", "text": code} for code in _codes(calls, where))]
    return fields


def _codes(calls: Any, where: str) -> list[str]:
    """The code of calls of the tool python, as the API of OpenAI writes them."""
    codes = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        function = function if isinstance(function, Mapping) else {}
        name, code = function.get("name"), code_of(function.get("arguments"))
        if name != "python" or code is None:
            raise ValueError(
                f"{where}: calls the tool {shown(name)}; allowed is python alone, its arguments a text of JSON, "
                '{"code": "..."}, which is all that the template can say. Take the conversation out'
            )
        codes.append(code)
    return codes


def code_of(arguments: Any) -> str | None:
    """The code in the arguments of a call of the tool python, a text of JSON; None: it is something else."""
    try:
        code = json.loads(arguments)["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) else None
