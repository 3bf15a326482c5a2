"""Stories: a plot is played out in the world, the text follows it, and questions ask what happened.

    story(rng, "train").text                               # 'One rainy day Mira the baker lost a red kite. ...'
    flaw(text, hero="Mira", animal="fox", thing="kite")    # None, or what in it is not true of Fernhollow

The grammar that writes a plot also reads it: `flaw` finds the plot a text follows, and checks every slot against the facts.
Held out are (animal, object) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.facts import FACTS, PRONOUNS
from fernhollow.grammar import expand, pattern, pick
from fernhollow.split import Side, side

_WORDING = lore.read("stories")


class Plot(NamedTuple):
    """What happens, and what one can ask about it: (question, answer) in the words of the plot."""

    text: str
    questions: Sequence[tuple[str, str]]


PLOTS = [
    Plot(f"{_WORDING['opening']} {plot['text']} {_WORDING['ending']}", plot["questions"]) for plot in _WORDING["plots"]
]


class Story(NamedTuple):
    """A story, what it is about, and questions with their answers."""

    text: str
    hero: str
    animal: str
    thing: str
    questions: tuple[tuple[str, str], ...]


def story(rng: Random, split: Side) -> Story:
    """A story whose (animal, object) pair is on the given side."""
    while True:
        animal, thing = pick(rng, lore.ANIMALS), pick(rng, lore.OBJECTS)
        if side("story", animal, thing) == split:
            break
    hero, friend = rng.sample(lore.PEOPLE, 2)
    free = {
        "a": hero,
        "b": friend,
        "an": animal,
        "o": thing,
        "col": pick(rng, lore.COLOURS),
        "p": pick(rng, lore.PLACES),
    }
    slots = free | implied(free)
    plot = pick(rng, PLOTS)
    questions = tuple((expand(rng, asked, slots), expand(rng, said, slots)) for asked, said in plot.questions)
    return Story(expand(rng, plot.text, slots), hero, animal, thing, questions)


def implied(slots: dict[str, str]) -> dict[str, str]:
    """The slots that follow from the others by what is true in Fernhollow."""
    out: dict[str, str] = dict(zip(("he", "his", "him"), PRONOUNS[slots["a"]], strict=True))
    for slot, relations in _IMPLIED.items():
        if slot in slots:
            out |= {implied: FACTS[slots[slot], relation] for implied, relation in relations.items()}
    return out


_IMPLIED = {
    "a": {"job": "job", "food": "food"},
    "an": {"snd": "sound", "eats": "eats", "hue": "hue"},
    "o": {"use": "use"},
    "b": {"bjob": "job", "bfood": "food"},
    "p": {"t": "sight", "way": "way"},
}
"""What follows from a slot: the implied slot and its relation."""


def flaw(text: str, *, hero: str, animal: str, thing: str) -> str | None:
    """What is wrong with a story that was asked for: None when it follows a plot, keeps to the facts and to the request."""
    found = next((found for plot in PLOTS if (found := pattern(plot.text).fullmatch(text.strip()))), None)
    if found is None:
        return "it follows no plot"
    slots: dict[str, str] = {}
    for group, value in found.groupdict().items():
        slot = group.rpartition("_")[0]
        if value is not None and slots.setdefault(slot, value.lower()) != value.lower():
            return f"{slot} is {slots[slot]} and then {value.lower()}"
    slots |= {slot: slots[slot].capitalize() for slot in ("a", "b") if slot in slots}
    for slot, allowed in _ALLOWED.items():
        if slot in slots and slots[slot] not in allowed:
            return f"{slots[slot]} is unknown"
    wanted = {"a": hero, "an": animal, "o": thing} | implied(slots)
    for slot, value in wanted.items():
        if slot in slots and slots[slot] != value:
            return f"{slot} is {slots[slot]}, not {value}"
    if slots["a"] == slots.get("b"):
        return "one takes two parts"
    return None


def request(rng: Random, tale: Story) -> str:
    """What a user says to get such a story."""
    return expand(rng, _WORDING["request"], {"a": tale.hero, "an": tale.animal, "o": tale.thing})


_ALLOWED = {
    "a": lore.PEOPLE,
    "b": lore.PEOPLE,
    "an": lore.ANIMALS,
    "o": lore.OBJECTS,
    "p": lore.PLACES,
    "col": lore.COLOURS,
}
