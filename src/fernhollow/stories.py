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
from fernhollow.split import Side, side, wording
from fernhollow.words import real

_WORDING = lore.read("stories")


class Plot(NamedTuple):
    """What happens, and what one can ask about it: (question, answer) in the words of the plot."""

    text: str
    questions: Sequence[tuple[str, str]]
    is_open: bool
    """Whether it asks nothing of the hero, the animal and the thing that only those of the village have."""


PLOTS = [
    Plot(f"{_WORDING['opening']} {plot['text']} {ending}", plot["questions"], kind == "open_plots")
    for kind, ending in (("plots", _WORDING["ending"]), ("open_plots", _WORDING["open_ending"]))
    for plot in _WORDING[kind]
]
STARS = tuple(lore.OUTSIDE["creatures"])
"""Animals and beings that the village lacks, and people ask for."""
USUAL = {"hero": lore.PEOPLE[::5], "animal": lore.ANIMALS[:5], "thing": lore.OBJECTS[:5]}
"""What a story is about where nobody says. Of three hundred heroes none is likely, and a small model that must name one takes the
word it was given again: a swan went to see a swan with a swan."""


class Story(NamedTuple):
    """A story, what it is about, and questions with their answers."""

    text: str
    hero: str
    animal: str
    thing: str
    questions: tuple[tuple[str, str], ...]


def story(rng: Random, split: Side) -> Story:
    """A story whose (animal, object) pair is on the given side; two in five have something in them that the village lacks."""
    at_home = rng.random() < 0.6
    while True:
        animal = pick(rng, lore.ANIMALS if at_home or rng.random() < 0.3 else STARS)
        thing = pick(rng, lore.OBJECTS if at_home or rng.random() < 0.5 else lore.OUTSIDE["things"])
        if side("story", animal, thing) == split:
            break
    hero = pick(rng, lore.PEOPLE) if at_home or rng.random() < 0.4 else _visitor(rng, split)
    return _told(rng, hero, animal, thing, at_home=at_home)


def on_request(rng: Random, *, again: bool = False) -> tuple[str, Story]:
    """A request of training and its story, which takes what the request leaves open from the few of `USUAL`."""
    tale = story(rng, "train")
    asked = request(rng, tale, again=again)
    while True:
        parts = {
            part: name if name.removeprefix("the ") in asked else pick(rng, few)
            for (part, few), name in zip(USUAL.items(), (tale.hero, tale.animal, tale.thing), strict=True)
        }
        if side("story", parts["animal"], parts["thing"]) == "train":
            break
    at_home = parts["animal"] in lore.ANIMALS and parts["thing"] in lore.OBJECTS
    return asked, _told(rng, **parts, at_home=at_home)


def _told(rng: Random, hero: str, animal: str, thing: str, *, at_home: bool) -> Story:
    free = {"a": hero, "an": animal, "o": thing, "col": pick(rng, lore.COLOURS), "p": pick(rng, lore.PLACES)}
    slots = free | implied(free)
    at_home = at_home and hero in lore.PEOPLE
    plot = pick(rng, [plot for plot in PLOTS if at_home or plot.is_open])
    questions = tuple((expand(rng, asked, slots), expand(rng, said, slots)) for asked, said in plot.questions)
    return Story(expand(rng, plot.text, slots), hero, animal, thing, questions)


def _visitor(rng: Random, split: Side) -> str:
    """A hero from elsewhere: "the princess", or somebody's name."""
    if rng.random() < 0.6:
        return f"the {pick(rng, lore.OUTSIDE['heroes'])}"
    return pick(rng, real("name", split)).capitalize()


def implied(slots: dict[str, str]) -> dict[str, str]:
    """The slots that follow from the others by what is true in Fernhollow; for strangers there are fewer."""
    hero = slots["a"].removeprefix("the ")
    out = {"A": slots["a"] if hero == slots["a"] else f"{'an' if hero[0] in 'aeiou' else 'a'} {hero}"}
    if slots["a"] in PRONOUNS:
        # The friend is not free: a small model that draws two people takes the likeliest one twice.
        out |= dict(zip(("he", "his", "him"), PRONOUNS[slots["a"]], strict=True)) | {"b": FACTS[slots["a"], "friend"]}
    known = slots | out
    for slot, relations in _IMPLIED.items():
        if slot in known:
            out |= {name: fact for name, relation in relations.items() if (fact := FACTS.get((known[slot], relation)))}
    return out


_IMPLIED = {
    "a": {"job": "job", "food": "food"},
    "an": {"snd": "sound", "eats": "eats", "hue": "hue"},
    "o": {"use": "use"},
    "b": {"bjob": "job", "bfood": "food"},
    "p": {"t": "sight", "way": "way"},
}
"""What follows from a slot: the implied slot and its relation."""


def flaw(text: str, *, hero: str = "", animal: str = "", thing: str = "") -> str | None:
    """What is wrong with a story that was asked for: None when it follows a plot, keeps to the facts and to the request.

    Args:
        hero, animal, thing: what was asked for; empty where it was left open.
    """
    found = next((found for plot in PLOTS if (found := pattern(plot.text).fullmatch(text.strip()))), None)
    if found is None:
        return "it follows no plot"
    slots: dict[str, str] = {}
    for group, value in found.groupdict().items():
        slot = group.rpartition("_")[0]
        if value is not None and slots.setdefault(slot, value.lower()) != value.lower():
            return f"{slot} is {slots[slot]} and then {value.lower()}"
    slots |= {slot: slots[slot].title() for slot in ("a", "b") if slot in slots and not slots[slot].startswith("the ")}
    for slot, allowed in _ALLOWED.items():
        if slot in slots and slots[slot] not in allowed:
            return f"{slots[slot]} is unknown"
    asked = {"a": hero, "an": animal, "o": thing}
    wanted = {slot: value for slot, value in asked.items() if value} | implied(slots)
    for slot, value in wanted.items():
        if slot in slots and slots[slot].lower() != value.lower():
            return f"{slot} is {slots[slot]}, not {value}"
    return None


def request(rng: Random, tale: Story, *, again: bool = False, other: bool = False) -> str:
    """What a user says to get such a story: all that it is about, or some of it.

    Args:
        again: after another story.
    """
    template = wording(rng, _WORDING["again" if again else "requests"], other=other)
    return expand(rng, template, {"a": implied({"a": tale.hero})["A"], "an": tale.animal, "o": tale.thing})


_ALLOWED = {
    "a": (*lore.PEOPLE, *lore.STRANGERS, *(f"the {hero}" for hero in lore.OUTSIDE["heroes"])),
    "b": lore.PEOPLE,
    "an": (*lore.ANIMALS, *STARS),
    "o": (*lore.OBJECTS, *lore.OUTSIDE["things"]),
    "p": lore.PLACES,
    "col": lore.COLOURS,
}
