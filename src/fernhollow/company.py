"""Who is speaking, who and what is asked after, and what people say besides: conversations that teach no lesson.

unknown(rng)           # (Message user 'Where does Lotte live?', Message assistant 'I do not know that. ...')
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from random import Random
from types import MappingProxyType

from fernhollow import lore
from fernhollow.facts import ASKED, FACTS, KEYS, RELATIONS, Key, answer, ask, drawn, word
from fernhollow.grammar import expand, pick, polish
from fernhollow.split import Side, side, weighted, wording
from fernhollow.stories import story
from fernhollow.words import pronouns, real, spelling_word, stranger
from fledge.text.chat import Conversation, talk

_SAID = lore.read("chats")
UNKNOWN: str = _SAID["outside"]["answer"]
"""The answer to questions about the rest of the world and about somebody nobody knows. A small model would tell the name wrong, and
of two such answers give the other one."""


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
    if split != "train" or other:
        asked = drawn(rng, wording(rng, RELATIONS[pick(rng, _PERSONAL)].questions, other=other))
        return talk(_asked_of(name, asked), UNKNOWN)
    form = rng.random()
    if form < 0.12:
        return _unknown_of_the_known(rng)
    if form < 0.27:
        return _known_and_unknown(rng, name)
    if form < 0.57:
        return talk(_asked_of(name, drawn(rng, wording(rng, RELATIONS[pick(rng, _PERSONAL)].questions))), UNKNOWN)
    told = _SAID["unknown"]
    if form < 0.63:
        return talk(expand(rng, weighted(rng, told["two"]), {"e": name, "y": stranger(rng, split)}), UNKNOWN)
    if form < 0.7:
        name = f"{name} {stranger(rng, split)}"
    he, his, him = pronouns(name.split()[0])
    slots = {"e": name, "s": name + "'s", "he": he, "his": his, "him": him, "kin": pick(rng, told["kin"][he])}
    turns = [expand(rng, weighted(rng, [*told["asked"], *RELATIONS["job"].any]), slots), UNKNOWN]
    if rng.random() < 0.15:
        turns += [_asked_of(name, drawn(rng, pick(rng, RELATIONS[pick(rng, _PERSONAL)].follow)), slots), UNKNOWN]
    return talk(*turns)


def _asked_of(name: str, template: str, slots: Mapping[str, str] = MappingProxyType({})) -> str:
    return polish(template.format_map({"e": name, "s": name + "'s", **slots}))


def _known_and_unknown(rng: Random, name: str) -> Conversation:
    """The same asked about somebody of the village and about somebody nobody knows, in either order."""
    key = _personal_key(rng)
    short = [drawn(rng, weighted(rng, RELATIONS[key[1]].short)) for _ in range(2)]
    if rng.random() < 0.5:
        return talk(ask(rng, key), answer(key), _asked_of(name, short[0]), UNKNOWN)
    asked = drawn(rng, wording(rng, RELATIONS[key[1]].questions))
    return talk(_asked_of(name, asked), UNKNOWN, word(short[1], key), answer(key))


def _personal_key(rng: Random) -> Key:
    while RELATIONS[(key := pick(rng, ASKED["train"]))[1]].kind != "person":
        pass
    return key


def _unknown_of_the_known(rng: Random) -> Conversation:
    """What is not told of somebody or something of the village."""
    kind = pick(rng, tuple(_SAID["untold"]))
    subject = pick(rng, [key[0] for key in FACTS if RELATIONS[key[1]].kind == kind])
    called = _SAID["subjects"][kind].format(subject)
    asked = expand(rng, weighted(rng, _SAID["untold"][kind]), {"e": called, "s": called + "'s"})
    return talk(asked, f"I do not know that about {called}.")


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
        return talk(expand(rng, weighted(rng, told["fixed"]), {}), UNKNOWN)
    topics = {slot: pick(rng, _topics(name, None if other else split)) for slot, name in _TOPICS.items()}
    return talk(expand(rng, wording(rng, told["questions"], other=other), topics), UNKNOWN)


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
