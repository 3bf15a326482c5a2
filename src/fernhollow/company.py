"""Who is speaking, who and what is asked after, and what people say besides: conversations that teach no lesson.

unknown(rng)           # (Message user 'Where does Lotte live?', Message assistant 'I do not know anyone called Lotte ...')
"""

from __future__ import annotations

from functools import cache
from random import Random

from fernhollow import lore
from fernhollow.facts import KEYS, RELATIONS, answer
from fernhollow.grammar import expand, pick, polish
from fernhollow.split import Side, side, weighted, wording
from fernhollow.stories import story
from fernhollow.words import real, spelling_word, stranger
from fledge.text.chat import Conversation, talk

_SAID = lore.read("chats")
OUTSIDE: str = _SAID["outside"]["answer"]
"""The answer to questions about the rest of the world."""


def identity(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """Who is speaking. Held out are combinations of address and question."""
    while True:
        one = pick(rng, _SAID["identity"])
        question = expand(rng, wording(rng, one["questions"], other=other), {})
        hello = pick(rng, _HELLOS) * (rng.random() < 0.5)
        if other or side("identity", hello, question) == split:
            return talk(f"{hello} {question}".strip(), one["answer"])


def about_itself(question: str) -> str:
    """The answer to a question about the model itself, which is asked as the tables word it."""
    return next(one["answer"] for one in _SAID["identity"] if question in one["questions"])


@cache
def answers_to(questions: frozenset[str]) -> frozenset[str]:
    """What the tables answer to any of some questions about the model itself."""
    return frozenset(one["answer"] for one in _SAID["identity"] if not questions.isdisjoint(one["questions"]))


_HELLOS = _SAID["hellos"]


def unknown(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A question about somebody nobody knows."""
    name = stranger(rng, split)
    asked = wording(rng, RELATIONS[pick(rng, _PERSONAL)].questions, other=other)
    if split == "train" and not other and rng.random() < 0.25:
        asked = pick(rng, ("Who is {e}?", "Do you know {e}?", "Tell me about {e}.", "What about {e}?"))
    return talk(polish(asked.format(e=name, s=name + "'s")), nobody(name))


def nobody(name: str) -> str:
    """The answer to questions about somebody nobody knows."""
    return f"I do not know anyone called {name} in {lore.VILLAGE}."


_PERSONAL = tuple(relation for relation, wording in RELATIONS.items() if wording.kind == "person")


def manners(rng: Random) -> Conversation:
    """A greeting, thanks, a farewell, a remark; now and then something that nobody understands."""
    if rng.random() < 0.04:
        return talk(pick(rng, _SAID["noises"]), _SAID["mumbled"])
    asked, replied = pick(rng, _MANNERS[:4]) if rng.random() < 0.25 else weighted(rng, _MANNERS)
    said = answer(pick(rng, KEYS)) if replied == "{fact}" else expand(rng, replied, {})
    turns = [expand(rng, asked, {}), said]
    if "Shall I tell you a story?" in said and rng.random() < 0.7:
        yes = pick(rng, ("Yes.", "Yes please.", "Yes, please!", "Ok.", "Sure.", "Please do.", "Go on."))
        turns += [yes, story(rng, "train").text]
    return talk(*turns)


_MANNERS = [tuple(said) for said in _SAID["manners"]]


def outside(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A question about the rest of the world."""
    told = _SAID["outside"]
    if rng.random() < 0.2 and split == "train":
        return talk(expand(rng, weighted(rng, told["fixed"]), {}), OUTSIDE)
    topics = {slot: pick(rng, _topics(name, None if other else split)) for slot, name in _TOPICS.items()}
    return talk(expand(rng, wording(rng, told["questions"], other=other), topics), OUTSIDE)


_TOPICS = {"p": "topics_places", "h": "topics_people", "x": "topics_things"}


@cache
def _topics(name: str, split: Side | None) -> list[str]:
    """Topics of a side; None: all."""
    return [topic for topic in lore.OUTSIDE[name] if split is None or side("topic", topic) == split]


def about_the_user(rng: Random, split: Side) -> dict[str, str]:
    """What somebody may tell of themselves, by slot of the templates."""
    small = _SAID["small_talk"]
    slots = {slot: pick(rng, lore.listed(pick(rng, lists))) for slot, lists in small["slots"].items()}
    # Any word can be copied: what people say is not of Fernhollow.
    slots |= {slot: pick(rng, real("word", "train")) for slot in ("food", "colour") if rng.random() < 0.4}
    slots |= {slot: str(least + int(rng.random() * many)) for slot, (least, many) in small["numbers"].items()}
    return slots | {"city": pick(rng, _topics("topics_places", split)), "word": spelling_word(rng, split)}
