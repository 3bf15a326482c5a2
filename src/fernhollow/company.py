"""Who is speaking, who and what is asked after, and what people say besides: conversations that teach no lesson.

unknown(rng)           # (Message user 'Where does Lotte live?', Message assistant 'I do not know anyone called Lotte ...')
"""

from __future__ import annotations

from functools import cache
from random import Random

from fernhollow import lore
from fernhollow.facts import KEYS, RELATIONS, answer
from fernhollow.grammar import expand, pick, polish
from fernhollow.split import Side, side, wordings
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
        question, hello = pick(rng, wordings(one["questions"], other=other)), pick(rng, _HELLOS) * (rng.random() < 0.5)
        if other or side("identity", hello, question) == split:
            return talk(f"{hello} {question}".strip(), one["answer"])


def about_itself(question: str) -> str:
    """The answer to a question about the model itself, which is asked as the tables word it."""
    return next(one["answer"] for one in _SAID["identity"] if question in one["questions"])


_HELLOS = _SAID["hellos"]


def unknown(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A question about somebody nobody knows."""
    name = stranger(rng, split)
    asked = pick(rng, wordings(RELATIONS[pick(rng, _PERSONAL)].questions, other=other))
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
    # A greeting, how are you, thanks and a farewell are half of what is said.
    asked, replied = pick(rng, _SAID["manners"][:4] if rng.random() < 0.5 else _SAID["manners"])
    said = answer(pick(rng, KEYS)) if replied == "{fact}" else expand(rng, replied, {})
    turns = [expand(rng, asked, {}), said]
    if "Shall I tell you a story?" in said and rng.random() < 0.7:
        yes = pick(rng, ("Yes.", "Yes please.", "Yes, please!", "Ok.", "Sure.", "Please do.", "Go on."))
        turns += [yes, story(rng, "train").text]
    return talk(*turns)


def outside(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A question about the rest of the world."""
    told = _SAID["outside"]
    if rng.random() < 0.2 and split == "train":
        return talk(pick(rng, told["fixed"]), OUTSIDE)
    topics = {slot: pick(rng, _topics(name, None if other else split)) for slot, name in _TOPICS.items()}
    return talk(polish(pick(rng, wordings(told["questions"], other=other)).format(**topics)), OUTSIDE)


_TOPICS = {"p": "topics_places", "h": "topics_people", "x": "topics_things"}


@cache
def _topics(name: str, split: Side | None) -> list[str]:
    """Topics of a side; None: all."""
    return [topic for topic in lore.OUTSIDE[name] if split is None or side("topic", topic) == split]


def about_the_user(rng: Random, split: Side) -> dict[str, str]:
    """What somebody may tell of themselves, by slot of the templates."""
    return {
        "food": pick(rng, lore.FOODS) if rng.random() < 0.6 else pick(rng, real("word", "train")),
        # Any word can be copied: what people say is not of Fernhollow.
        "colour": pick(rng, lore.COLOURS) if rng.random() < 0.6 else pick(rng, real("word", "train")),
        "pet": pick(rng, lore.TABLES["pets"]),
        "place": pick(rng, lore.OUTSIDE["places"] if rng.random() < 0.5 else lore.PLACES),
        "job": pick(rng, lore.JOBS),
        "age": str(4 + int(rng.random() * 86)),
        "thing": pick(rng, lore.OUTSIDE["things"] if rng.random() < 0.5 else lore.OBJECTS),
        "city": pick(rng, _topics("topics_places", split)),
        "number": str(2 + int(rng.random() * 98)),
        "word": spelling_word(rng, split),
        "animal": pick(rng, lore.ANIMALS if rng.random() < 0.5 else lore.OUTSIDE["creatures"]),
        "sad": pick(rng, lore.OUTSIDE["moods_sad"]),
        "glad": pick(rng, lore.OUTSIDE["moods_glad"]),
        "day": pick(rng, lore.TABLES["days"]),
        "hour": str(1 + int(rng.random() * 12)),
        "code": str(100 + int(rng.random() * 9_900)),
        "goods": pick(rng, lore.GOODS if rng.random() < 0.5 else lore.OUTSIDE["goods"]),
        "subject": pick(rng, _SAID["small_talk"]["subjects"]),
        "hobby": pick(rng, _SAID["small_talk"]["hobbies"]),
        "allergen": pick(rng, _SAID["small_talk"]["allergens"]),
    }
