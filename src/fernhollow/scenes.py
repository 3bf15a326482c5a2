"""Scenes: a few things that are so today, and questions about them.

    scene(rng)     # Scene('Mira is at the mill. Zubin finds 39 nuts.', (('Where is Mira?', 'Mira is at the mill.'), ...))

Nothing in a scene can be known beforehand. Every answer repeats a sentence of it, which is practice in reading, in remembering
what somebody said and in copying numbers, several answers to a scene where a story has one.
"""

from __future__ import annotations

import re
from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.grammar import expand, pick, polish, two
from fernhollow.split import Side, wordings
from fernhollow.words import stranger

_TABLES = lore.read("documents")


class Scene(NamedTuple):
    """What is so, and questions with their answers."""

    text: str
    questions: tuple[tuple[str, str], ...]


def scene(rng: Random, split: Side = "train", *, strangers: float = 0.5, other: bool = False) -> Scene:
    """One to five moments, each of somebody else, or a tale of somebody, with a question for every sentence, in any order.

    Args:
        strangers: share of people, places and things that are not from Fernhollow.
        other: asked in words that training never uses.
    """
    told, is_tale = pick(rng, _TABLES["tales"]), rng.random() < 0.25
    # Where all do the same, who does it has to be read: "Sam has a red bike. Lucy has a blue bike."
    alike = _moment(rng) if rng.random() < 0.4 else None
    if not is_tale:
        told = [alike or _moment(rng) for _ in range(1 + int(rng.random() * 5))]
    pairs, slots = [], {}
    for person, (said, *questions) in zip(rng.sample(lore.PEOPLE, len(told)), told, strict=True):
        if not (is_tale and slots):
            slots = _slots(rng, split, person, strangers)
        ways = wordings(questions, other=other)
        asked = pick(rng, [way for way in ways if "{" in way] or ways if alike else ways)
        pairs.append((expand(rng, asked, slots), expand(rng, said, slots)))
    return _asked_in_any_order(rng, pairs)


def of_the_user(rng: Random) -> Scene:
    """One or two moments of users and their people, with questions of theirs, which are answered to them.

    "I found 39 nuts." "How many nuts did I find?" "You found 39 nuts."
    """
    people = ["I", f"my {pick(rng, _TABLES['kin'])}"]
    return _asked_in_any_order(rng, [_own(rng, who) for who in (people if rng.random() < 0.4 else [pick(rng, people)])])


def _own(rng: Random, who: str) -> tuple[str, str]:
    """A question of somebody about themselves or theirs, and the sentence that answers it."""
    while True:
        said, *questions = pick(rng, _TABLES["own"]) if rng.random() < 0.3 else _moment(rng)
        if not said.startswith(_OF_ONE) or re.search(r"{(?:he|his|him)}|\[his\|", said):
            continue
        slots = _slots(rng, "train", pick(rng, lore.PEOPLE), 0.7)
        if said[0] == "{":
            slots[said[1]] = who
        asked, told = (polish(in_person(expand(rng, each, slots))) for each in (pick(rng, wordings(questions)), said))
        if not _MISSAID.search(f"{asked} {told}"):
            return asked, told


def _asked_in_any_order(rng: Random, pairs: list[tuple[str, str]]) -> Scene:
    """Of questions with the sentences that answer them."""
    asked = rng.sample(pairs, len(pairs))
    return Scene(
        _in_one(rng, [said for _, said in pairs]),
        tuple([(each, to_you(said) if _OWN.search(said) else said) for each, said in asked]),
    )


def _in_one(rng: Random, sentences: list[str]) -> str:
    """The text of sentences. At times two are said in one, as people do; an answer still is the half that was asked for."""
    text, *more = sentences
    for after in more:
        if rng.random() < 0.3 and not _LONG.search(f"{text.rpartition('. ')[2]} {after}"):
            text = text[:-1] + pick(rng, _JOINTS) + _LOWER.sub(lambda found: found[0].lower(), after)
        else:
            text += f" {after}"
    return text


_LONG = re.compile(r"[,;\"!?]| (?:and|but|because) ")
_LOWER = re.compile(
    r"^(?:The|An?|My|In|On|It|He|She|His|Her|They|There|Every|Last|This|First|We|At|Today|Yesterday|Before|After|Two|During)\b"
)
_JOINTS = (" and ", " and ", ", and ", ", but ", ", ", "; ", ", while ")


def in_person(text: str) -> str:
    """What was said of somebody called I, as one says it: "How many nuts does I have?" becomes "How many nuts do I have?"."""
    for pattern, said in _IN_PERSON:
        text = pattern.sub(said, text)
    return text


def to_you(text: str) -> str:
    """What somebody said of themselves, said to them: "I am at my house." becomes "You are at your house."."""
    return polish(_OWN.sub(lambda found: _TO_YOU[found[0].lower()], text))


_OF_ONE = ("{a} ", "{z} ", "My ", "We ", "I ")
_IN_PERSON = [
    (re.compile(pattern), said)
    for pattern, said in (
        (r"\bI's\b", "my"),
        (r"\bI is\b", "I am"),
        (r"\b[Ii]s I\b", "am I"),
        (r"\bI has\b", "I have"),
        (r"\b([Hh])as I\b", r"\1ave I"),
        (r"\b([Dd])oes I\b", r"\1o I"),
        (r"\b(of|for|from|by|with|to|than|against|gave|lent|told|sent|asked|called) I\b", r"\1 me"),
        (r"\b(?!am\b|or\b)(\w+) I\?", r"\1 me?"),
        (r"\bI (\w+(?:ch|sh|ss|x|o))es\b", r"I \1"),
        (r"\bI (?!was\b)(\w+[^s\W])s\b", r"I \1"),
    )
]
# What no rule makes right ("Where was I?" of "Where was {z}?", "I was a cook and is now a nurse"): another moment is taken.
_MISSAID = re.compile(
    r"\bI\b[^.?]*\band is\b|\b(?:was|were|have|am|did|do) me\b|\b(?:made|find|give|with) I\b|\bmy\?|\bme\b.*\bme\b"
    r"|\b(?:find|see|scares) (?:me|I)\b|\bI and\b|\bof me\b"
)
_TO_YOU = {"i am": "you are", "i was": "you were", "i": "you", "my": "your", "me": "you", "we": "you", "our": "your"}
_OWN = re.compile(r"\b(?:I am|I was|I|[Mm]y|me|[Ww]e|[Oo]ur)\b")


def _moment(rng: Random) -> list[str]:
    return pick(rng, _TABLES["moments" if rng.random() < 0.6 else "plain"])


def _slots(rng: Random, split: Side, person: str, strangers: float) -> dict[str, str]:
    """Who does what with what, where and when; of most things two."""
    hero, other = stranger(rng, split), stranger(rng, split)
    he = ("she", "her", "her") if hero in lore.OUTSIDE["names_women"] else ("he", "his", "him")
    slots = {"a": stranger(rng, split) if rng.random() < strangers else person, "z": hero, "y": other}
    slots["b"] = pick(rng, [each for each in lore.PEOPLE if each != person])
    slots |= dict(zip(("he", "his", "him"), he, strict=True))
    (slots["v"], slots["vd"]), (slots["v2"], slots["vd2"]) = two(rng, _TABLES["verbs"])
    for slot, (*at_home, outside) in _TABLES["slots"].items():
        table = outside if not at_home or rng.random() < strangers else at_home[0]
        slots[slot], slots[f"{slot}2"] = two(rng, lore.listed(table))
    return slots | {slot: str(2 + int(rng.random() * most)) for slot, most in _TABLES["numbers"].items()}
