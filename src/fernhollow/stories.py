"""Stories: a plot is played out in the world, the text follows it, and questions ask what happened.

    story(rng, "train").text                               # 'One rainy day Mira the baker lost a red kite. ...'
    flaw(text, hero="Mira", animal="fox", thing="kite")    # None, or what in it is not true of Fernhollow

The grammar that writes a plot also reads it: `flaw` finds the plot a text follows, and checks every slot against the facts.
Held out are (animal, object) pairs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.facts import FACTS, PRONOUNS
from fernhollow.grammar import expand, pattern, pick
from fernhollow.split import Side, side, weighted, wording
from fernhollow.words import real

_WORDING = lore.read("stories")


class Plot(NamedTuple):
    """What happens, and what one can ask about it: (question, answer) in the words of the plot."""

    text: str
    questions: Sequence[tuple[str, str]]
    kind: str
    """"plots", "open_plots", which ask nothing of whom and what they are about that only the village has, "pair_plots" with a
    second person who is free too, or "short_plots"."""


_ENDINGS = {"plots": "ending", "open_plots": "open_ending", "pair_plots": "open_ending", "short_plots": "short_ending"}
PLOTS = [
    Plot(f"{_WORDING['opening']} {plot['text']} {_WORDING[ending]}", plot["questions"], kind)
    for kind, ending in _ENDINGS.items()
    for plot in _WORDING[kind]
]
STARS = tuple(lore.OUTSIDE["creatures"])
"""Animals and beings that the village lacks, and people ask for."""
USUAL = {"hero": lore.PEOPLE[::5], "animal": lore.ANIMALS[:5], "thing": lore.OBJECTS[:5]}
"""What a story is about where nobody says. Of three hundred heroes none is likely, and a small model that must name one takes the
word it was given again: a swan went to see a swan with a swan."""
_USUAL_PLACES, _USUAL_COLOURS = lore.PLACES[:6], lore.COLOURS[:6]


class Story(NamedTuple):
    """A story, what it is about, and questions with their answers."""

    text: str
    hero: str
    animal: str
    thing: str
    questions: tuple[tuple[str, str], ...]
    slots: dict[str, str]
    """What stands in its slots, as tables/stories.toml names them."""


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
    kind = "again" if again else rng.choices(("requests", "named", "pairs", "short_requests"), (70, 10, 8, 5))[0]
    # Whoever is named need not be from anywhere: "my daughter Lily", "Tom and Mia".
    hero = tale.hero if kind in ("requests", "again", "short_requests") else _somebody(rng)
    other = next(name for name in iter(lambda: _somebody(rng), "") if name != hero)
    child = "girl" if hero in lore.WOMEN or hero in lore.OUTSIDE["names_women"] else "boy"
    slots = {"a": implied({"a": hero})["A"], "an": tale.animal, "o": tale.thing, "h": hero, "g": child, "c": other}
    templates = _WORDING[kind]
    asked = expand(rng, wording(rng, templates) if kind in ("requests", "again") else weighted(rng, templates), slots)
    wanted = [name if name.removeprefix("the ") in asked else "" for name in (hero, tale.animal, tale.thing)]
    plots = {"pairs": "pair_plots", "short_requests": "short_plots"}.get(kind, "")
    return asked, usual(rng, *wanted, plots=plots, other=other)


def usual(rng: Random, hero: str = "", animal: str = "", thing: str = "", *, plots: str = "", other: str = "") -> Story:
    """A story of training of what was asked for; what was left open, "", is one of the few of `USUAL`."""
    while True:
        parts = [name or pick(rng, few) for name, few in zip((hero, animal, thing), USUAL.values(), strict=True)]
        if side("story", *parts[1:]) == "train" or (animal and thing):
            break
    at_home = parts[1] in lore.ANIMALS and parts[2] in lore.OBJECTS
    place, colour = pick(rng, _USUAL_PLACES), pick(rng, _USUAL_COLOURS)
    return _told(rng, *parts, at_home=at_home, plots=plots, place=place, colour=colour, other=other)


def _somebody(rng: Random) -> str:
    """The name of a person, mostly from elsewhere."""
    return pick(rng, lore.PEOPLE) if rng.random() < 0.2 else pick(rng, real("name", "train")).capitalize()


def _told(
    rng: Random, hero: str, animal: str, thing: str, *, at_home: bool, plots: str = "", place: str = "", colour: str = "",
    other: str = "",
) -> Story:  # fmt: skip
    free = {"a": hero, "an": animal, "o": thing, "c": other}
    free |= {"col": colour or pick(rng, lore.COLOURS), "p": place or pick(rng, lore.PLACES)}
    slots = free | implied(free) | {"with": other if plots == "pair_plots" else f"a {animal}"}
    kinds = [plots] if plots else ["plots", "open_plots"] if at_home and hero in lore.PEOPLE else ["open_plots"]
    plot = pick(rng, [plot for plot in PLOTS if plot.kind in kinds])
    questions = tuple((expand(rng, asked, slots), expand(rng, said, slots)) for asked, said in plot.questions)
    return Story(expand(rng, plot.text, slots), hero, animal, thing, questions, slots)


def after(rng: Random, told: Story) -> tuple[str, str, Story]:
    """What people say after a story, the answer, and the story that they then know: the same or another of the same."""
    kind = rng.random()
    if kind < 0.35:
        asked, again = weighted(rng, _WORDING["goes_on"]), usual(rng, told.hero, told.animal, told.thing)
        return expand(rng, asked, {}), again.text, again
    if kind < 0.5:
        short = usual(rng, told.hero, told.animal, told.thing, plots="short_plots")
        return expand(rng, weighted(rng, _WORDING["shorter"]), {}), short.text, short
    if kind < 0.75:
        return *pick(rng, told.questions), told
    asked, said = pick(rng, _WORDING["about_it"])
    return expand(rng, asked, {}), expand(rng, said, told.slots), told


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
    if "a" not in slots:  # a plot that names its hero once
        slots["a"] = re.sub("^an? ", "the ", slots["A"].lower())
    slots |= {
        slot: slots[slot].title() for slot in ("a", "b", "c") if slot in slots and not slots[slot].startswith("the ")
    }
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
    "c": (*lore.PEOPLE, *lore.STRANGERS),
    "an": (*lore.ANIMALS, *STARS),
    "o": (*lore.OBJECTS, *lore.OUTSIDE["things"]),
    "p": lore.PLACES,
    "col": lore.COLOURS,
}
