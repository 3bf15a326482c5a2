"""Whether an answer says who the assistant is: what it means counts, not its words.

    states(Asked("What is your name?", key="name", answers=["I am Pip."], values={"name": "Pip"}), "They call me pip!")     # True

Right is what says the fact and claims to be nobody else's: no other name behind "I am", no other maker. What stands behind a "not"
is not said. A fact is said by half of the words that carry it, and by all of its numbers.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

TABLE = tomllib.loads(resources.files("fledge.tasks").joinpath("identity.toml").read_text(encoding="utf-8"))
_SMALL, _OTHERS = ({*TABLE[kind].split()} for kind in ("small", "others"))
_NUMBERS: dict[str, str] = {word: str(number) for number, word in enumerate(TABLE["numbers"].split())}
_DENIED = re.compile(
    r"\b(?:not|never|cannot|nobody|dont|isnt|wasnt|\w+n't)\b(?:(?!\b(?:but|i|i'm|my)\b)[^.,;:!?])*", re.IGNORECASE
)
_AM = re.compile(
    r"\b(?:i am|i'm|im|this is|it is|it's|name is|name's|called|named|known as|call me)\s+(?:(?:an?|the|called)\s+)?(\w+)",
    re.IGNORECASE,
)
_MADE = "made|trained|created|built|developed|programmed|designed|invented|raised|taught|wrote"
_MAKER = re.compile(
    rf"\b(?:(?:{_MADE}|written|work) (?:by|for)|my (?:maker|creator|trainer|author|developer) is)\s+((?:[\w'-]+ ?){{1,5}})"
    rf"|((?:[\w'-]+ ){{1,5}})(?:{_MADE}) me\b",
    re.IGNORECASE,
)
_HUMAN = re.compile(
    r"\b(?:i am|i'm|im) (?:an? )?(?:real |living )?(?:human|person|man|woman|boy|girl|alive)\b", re.IGNORECASE
)


class Asked(NamedTuple):
    """A question about the assistant, and what is true of it."""

    question: str
    key: str
    """Which of the values it asks for; empty: a fact of the file's own."""
    answers: Sequence[str]
    """Right ones."""
    values: Mapping[str, str]
    known: str = ""
    """Everything that the file says."""
    denies: bool = False
    """Whether a bare no is right, and a yes wrong."""


def states(asked: Asked, answer: str) -> bool:
    """Whether the answer says what was asked for, and claims nothing else."""
    said = answer.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
    affirmed = _DENIED.sub(" ", said)
    if _claims_another(asked, affirmed) or (asked.denies and (words(said)[:1] == ["yes"] or _HUMAN.search(affirmed))):
        return False
    if asked.denies and (words(said)[:1] == ["no"] or _DENIED.search(said)):
        return True
    if asked.key == "name":
        return f" {' '.join(words(asked.values['name']))} " in f" {' '.join(words(affirmed))} "
    if asked.key in ("maker", "kind"):
        return _says(asked.values[asked.key], affirmed, "")
    known = {*words(asked.known), *words(asked.question), *_SMALL}
    if not said.isupper() and any(word.casefold() not in known for word in re.findall(r"(?<=[\w,] )[A-Z]\w+", said)):
        return False  # a name that the file does not know
    facts = [asked.values[asked.key]] if asked.key else asked.answers
    return any(_says(fact, said, asked.question) for fact in facts)


def words(text: str) -> list[str]:
    """The words of a text: small, without articles and endings, numbers as figures."""
    found: list[str] = re.findall(r"\w+(?:'\w+)?", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").casefold())
    found = [_NUMBERS.get(word, word.removesuffix("'s")) for word in found if word not in ("a", "an", "the")]
    return [word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] not in "su" else word for word in found]


def _says(fact: str, said: str, question: str) -> bool:
    """Whether a text says a fact: denies it where that is denied, has its numbers and no others, and half of its words."""
    begins, is_denied = words(said)[:1], bool(_DENIED.search(fact))
    if {*words(fact)[:1], *begins} == {"yes", "no"} or (is_denied and begins != ["no"] and not _DENIED.search(said)):
        return False
    there = {*words(said if is_denied else _DENIED.sub(" ", said))}
    carry = {*words(fact)} - {*words(" ".join(_SMALL))}
    carry = (carry - {*words(question)}) or carry or {*words(fact)}
    numbers = {word for word in carry if word.isdigit()}
    if numbers and {word for word in there - {*words(question)} if word.isdigit()} != numbers:
        return False
    return 2 * len(carry & there) >= len(carry)


def _claims_another(asked: Asked, affirmed: str) -> bool:
    """Whether a text gives the assistant a name that it has not, or another maker."""
    name, kind, maker = ({*words(asked.values.get(key, ""))} for key in ("name", "kind", "maker"))
    known = {*words(asked.known)} - _OTHERS
    makers = [word for found in _MAKER.finditer(affirmed) for word in re.findall(r"\w+", found[1] or found[2])]
    claims = [*((word, known - maker | name | kind) for word in _AM.findall(affirmed))]
    claims += [(word, known | name | maker) for word in makers]
    for word, allowed in claims:
        plain = "".join(words(word))
        is_name = word[0].isupper() and not affirmed.isupper()
        if plain not in allowed | _SMALL and (is_name or plain in _OTHERS or plain.startswith("gpt")):
            return True
    return False
