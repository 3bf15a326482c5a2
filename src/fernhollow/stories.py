"""Stories: a plot is played out in the world, the text follows it, and questions ask what happened.

    story(rng, "train").text                               # 'One rainy day Mira the baker lost a red kite. ...'
    flaw(text, hero="Mira", animal="fox", thing="kite")    # None, or what in it is not true of Fernhollow

The grammar that writes a plot also reads it: `flaw` finds the plot a text follows, and checks every slot against the facts.
Held out are (animal, object) pairs. Every plot but that of the hair names first what is free and then what follows from it (the
place, then its direction), and no second thing has to differ from the one asked for: a small model that always takes the likeliest
word fails there.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from fernhollow import lore
from fernhollow.facts import FACTS, PRONOUNS
from fernhollow.grammar import expand, pattern, pick
from fernhollow.split import Side, side

_OPENING = (
    "[One [sunny|rainy|windy|cold|quiet|bright] [morning|evening|day]|Once upon a time|Long ago|Early one morning], "
)
_ENDING = (
    " [{a} was so glad and shared {food} with everyone|They laughed and ate {food} together"
    "|That night {a} slept very well|And {a} smiled all the way home]. [The end.|And that was that.]"
)


class Plot(NamedTuple):
    """What happens, and what one can ask about it: (question, answer) in the words of the plot."""

    text: str
    questions: tuple[tuple[str, str], ...]


PLOTS = (
    Plot(
        '{a} the {job} lost a {col} {o}. "[Have you seen|Did you see] my {o}?" {he} asked a {an}. "{snd}!" said the {an}, and '
        "led {him} to the {p}. There, [behind|under|beside] the {t}, was the {o}!",
        (
            ("Who lost the {o}?", "{a} lost the {o}."),
            ("What colour was the {o}?", "It was a {col} {o}."),
            ("Where did the {an} lead {a}?", "The {an} led {him} to the {p}."),
        ),
    ),
    Plot(
        '{a} made a {col} {o} for {b}. On the way {he} met a hungry {an} and gave it some {eats}. "{snd}!" said the {an}. '
        '{b} waited at the {p}. "A {o}! It is good for {use}," said {b}.',
        (
            ("For whom did {a} make the {o}?", "{a} made the {o} for {b}."),
            ("Who made the {o}?", "{a} made the {o}."),
            ("Where did {b} wait?", "{b} waited at the {p}."),
        ),
    ),
    Plot(
        'a [small|poor|young] {an} was stuck [under|behind] the {t} at the {p}. "{snd}! {snd}!" it cried. {a} heard it and ran to '
        "{b}, who had a {o}. Together they used the {o} and set the {an} free. The {an} ate some {eats} and thanked {a}.",
        (
            ("Who was stuck?", "The {an} was stuck."),
            ("Where was the {an} stuck?", "The {an} was stuck at the {p}."),
            ("Who had the {o}?", "{b} had the {o}."),
        ),
    ),
    Plot(
        "{a} had a {o} and {b} had some {bfood}. They met at the {p}, where a {an} was [sleeping|eating {eats}|playing]. "
        '"I need a {o} for {use}," said {b}. So they traded. The {an} said {snd}. Now {b} has the {o} and {a} has the {bfood}.',
        (
            ("Who has the {o} now?", "Now {b} has the {o}."),
            ("Who has the {bfood} now?", "Now {a} has the {bfood}."),
            ("Where did they meet?", "They met at the {p}."),
        ),
    ),
    Plot(
        "{a} could not find the {o}. {he} asked {b} the {bjob} for help. They found a {hue} hair on the floor. "
        '"The {an} is {hue}, so the {an} took it!" said {b}. They went to the {p}, and there sat the {an} with the {o}. '
        '"{snd}," said the {an} and gave it back.',
        (
            ("Who took the {o}?", "The {an} took it."),
            ("What colour was the hair?", "They found a {hue} hair."),
            ("Where did they go?", "They went to the {p}."),
        ),
    ),
    Plot(
        "a storm came to the {p}. {a} and {b} were far from home, and so was a wet {an}. {a} had a {o} and some {eats}. "
        'The {an} ate the {eats}, and {a} gave the {o} to {b}. "{snd}!" said the {an}, and the sun came back.',
        (
            ("Where did the storm come?", "A storm came to the {p}."),
            ("To whom did {a} give the {o}?", "{a} gave the {o} to {b}."),
            ("What did the {an} eat?", "The {an} ate the {eats}."),
        ),
    ),
    Plot(
        '{a} wanted to be a {bjob} like {b}. "Find a {an} first," said {b}. {a} went to the {p} in the {way} and waited near '
        'the {t}. "{snd}," said a {an}. {a} gave it some {eats}, and it followed {him} home. '
        '"Well done," said {b}. "Keep the {o}."',
        (
            ("Who wanted to be a {bjob}?", "{a} wanted to be a {bjob}."),
            ("Where did {a} go?", "{a} went to the {p} in the {way}."),
            ("What did {b} tell {a} to keep?", "{b} told {him} to keep the {o}."),
        ),
    ),
)  # fmt: skip


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
        animal, thing = pick(rng, _ANIMALS), pick(rng, _THINGS)
        if side("story", animal, thing) == split:
            break
    hero, friend = rng.sample(lore.PEOPLE, 2)
    free = {"a": hero, "b": friend, "an": animal, "o": thing, "col": pick(rng, lore.COLOURS), "p": pick(rng, _PLACES)}
    slots = free | implied(free)
    plot = pick(rng, PLOTS)
    questions = tuple((expand(rng, asked, slots), expand(rng, said, slots)) for asked, said in plot.questions)
    return Story(expand(rng, _OPENING + plot.text + _ENDING, slots), hero, animal, thing, questions)


def implied(slots: dict[str, str]) -> dict[str, str]:
    """The slots that follow from the others by what is true in Fernhollow."""
    hero, animal = slots["a"], lore.ANIMALS[slots["an"]]
    he, his, him = PRONOUNS[hero]
    out = {"he": he, "his": his, "him": him, "job": FACTS[hero, "job"], "food": FACTS[hero, "food"]}
    out |= {"snd": animal.sound, "eats": animal.food, "hue": animal.colour, "use": lore.OBJECTS[slots["o"]].use}
    if "b" in slots:
        out |= {"bjob": FACTS[slots["b"], "job"], "bfood": FACTS[slots["b"], "food"]}
    if "p" in slots:
        out |= {"t": lore.PLACES[slots["p"]].sight, "way": lore.PLACES[slots["p"]].way}
    return out


def flaw(text: str, *, hero: str, animal: str, thing: str) -> str | None:
    """What is wrong with a story that was asked for: None when it follows a plot, keeps to the facts and to the request."""
    found = next(
        (found for plot in PLOTS if (found := pattern(_OPENING + plot.text + _ENDING).fullmatch(text.strip()))), None
    )
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
    template = "[Tell me|Write|Please tell me] a story about {a}, a {an} and a {o}."
    return expand(rng, template, {"a": tale.hero, "an": tale.animal, "o": tale.thing})


_ANIMALS, _THINGS, _PLACES = tuple(lore.ANIMALS), tuple(lore.OBJECTS), tuple(lore.PLACES)
_ALLOWED = {
    "a": lore.PEOPLE,
    "b": lore.PEOPLE,
    "an": lore.ANIMALS,
    "o": lore.OBJECTS,
    "p": lore.PLACES,
    "col": lore.COLOURS,
}
