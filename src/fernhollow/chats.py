"""Conversations: one generator for every kind, and the mixes of midtraining and SFT.

    chat(rng, "sft")       # (Message user 'Where does the turtle live?', Message assistant 'The turtle lives in the shell.')

Every kind takes the side of its keys, so that the tasks ask with the same words about what training left out.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Literal

from fernhollow import lore
from fernhollow.documents import rhyme, riddle_of
from fernhollow.facts import ASKED, KEYS, RELATIONS, answer, ask_either_way, relations_of
from fernhollow.functions import function
from fernhollow.grammar import expand, pick, polish
from fernhollow.letters import choice_keys, choices_for, multiple_choice, prompt, same_list
from fernhollow.problems import EASY, Problem, problem, sum_of
from fernhollow.scenes import scene
from fernhollow.split import Side, side
from fernhollow.stories import request, story
from fernhollow.words import invent_name, spell, spelling_word
from fledge.text.chat import Conversation, Part, say

ChatStage = Literal["midtrain", "sft"]
_SAID = lore.read("chats")
SUGGESTIONS: tuple[str, ...] = tuple(_SAID["suggestions"])
"""First questions that a chat proposes."""
IDENTITY: dict[str, str] = {question: one["answer"] for one in _SAID["identity"] for question in one["questions"]}
"""Questions about the model itself, with their answers."""


def facts(rng: Random, split: Side = "train") -> Conversation:
    """A few questions about the village."""
    turns: list[str] = []
    for key in rng.sample(ASKED[split], 1 + int(rng.random() * 3)):
        question = ask_either_way(rng, key)
        turns += [_as_typed(rng, question) if split == "train" else question, answer(key)]
    return _talk(*turns)


def about(rng: Random) -> Conversation:
    """What is known about a subject, told at length. This keeps alive what is never asked for by itself."""
    kind = "person" if rng.random() < 0.5 else pick(rng, tuple(_SUBJECTS))
    subject = pick(rng, _SUBJECTS[kind])
    if kind in ("word", "day", "month"):
        keys = rng.sample([key for key in KEYS if RELATIONS[key[1]].kind == kind], 5)
    else:
        keys = [(subject, relation) for relation in relations_of(subject, kind)]
        rng.shuffle(keys)
    asked = pick(rng, _SAID["about"]).format(_SAID["subjects"][kind].format(subject))
    return _talk(asked, " ".join(answer(key) for key in keys))


_SUBJECTS = {
    kind: tuple(dict.fromkeys(key[0] for key in KEYS if RELATIONS[key[1]].kind == kind)) for kind in _SAID["subjects"]
}


def _as_typed(rng: Random, question: str) -> str:
    """Now and then a question begins small or lacks its mark, as people type."""
    if rng.random() < 0.08:
        question = question[0].lower() + question[1:]
    return question.removesuffix("?") if rng.random() < 0.08 else question


def letters(rng: Random, split: Side = "train") -> Conversation:
    """Multiple choice: one to three questions on the same list."""
    key = pick(rng, choice_keys(split))
    choices = choices_for(rng, key, count=2 + int(rng.random() * 3))
    first = multiple_choice(rng, key, choices)
    turns = [prompt(first), first.answer]
    for _ in range(int(rng.random() * 3)):
        following = same_list(rng, key, choices)
        if following is None:
            break
        again = multiple_choice(rng, following, choices)
        turns += [again.question, again.answer]
    return _talk(*turns)


def word_problem(rng: Random) -> Conversation:
    """A word problem with the calculator."""
    return solved(problem(rng, EASY, "train"))


def arithmetic(rng: Random) -> Conversation:
    """A sum for the calculator. Divisions come out even."""
    left, sign, right, total = sum_of(rng, 99, 19)
    asked = expand(rng, _SAID["sum"], {"l": str(left), "r": str(right), "s": sign, "n": _SAID["signs"][sign]})
    return (
        say("user", asked),
        say("assistant", "It is ", Part("python", f"{left}{sign}{right}"), Part("output", str(total)), f"{total}."),
    )


def solved(found: Problem) -> Conversation:
    """A problem as a conversation."""
    return (say("user", found.question), say("assistant", *found.solution))


def spelling(rng: Random, split: Side = "train") -> Conversation:
    """How a word is spelled."""
    word = spelling_word(rng, split)
    asked = expand(rng, _SAID["spelling"], {"w": word})
    return _talk(asked, f"The word {word} is spelled {spell(word)}.")


def counting(rng: Random, split: Side = "train") -> Conversation:
    """How often a letter is in a word, counted by the tool."""
    word = spelling_word(rng, split)
    letter = _letter_to_count(rng, word)
    asked = pick(rng, _SAID["counting"])
    count, spelled = str(word.count(letter)), spell(word)
    parts = (
        f"The word {word} is spelled {spelled}. ",
        Part("python", f"'{spelled}'.count('{letter}')"),
        Part("output", count),
    )
    return (say("user", asked.format(letter, word)), say("assistant", *parts, f"{count}\n#### {count}"))


def _letter_to_count(rng: Random, word: str) -> str:
    """The most frequent letter, any letter of the word, or any at all, so that no count is much likelier than another."""
    kind = rng.random()
    if kind < 0.55:
        return max(word, key=word.count)
    return pick(rng, word) if kind < 0.75 else pick(rng, "abcdefghijklmnopqrstuvwxyz")


def identity(rng: Random, split: Side = "train") -> Conversation:
    """Who is speaking. Held out are combinations of greeting, question and ending."""
    while True:
        hello, question, tail = pick(rng, _SAID["hellos"]), pick(rng, tuple(IDENTITY)), pick(rng, _SAID["tails"])
        if side("identity", hello, question, tail) == split:
            return _talk(polish(hello + question + tail), IDENTITY[question])


def unknown(rng: Random, split: Side = "train") -> Conversation:
    """A question about somebody nobody knows."""
    name = invent_name(rng, split)
    asked = pick(rng, RELATIONS[pick(rng, _PERSONAL)].questions).format(e=name, s=name + "'s")
    return _talk(asked, f"I do not know anyone called {name} in {lore.VILLAGE}.")


_PERSONAL = tuple(relation for relation, wording in RELATIONS.items() if wording.kind == "person")


def small_talk(rng: Random, split: Side = "train") -> Conversation:
    """Getting to know each other, and showing that one has listened."""
    small, slots = _SAID["small_talk"], {"n": invent_name(rng, split)}

    def fill(template: str) -> str:
        return expand(rng, template, slots)

    turns = [fill(small["name"]), fill(small["welcome"])]
    slots |= {"food": pick(rng, lore.FOODS), "colour": pick(rng, lore.COLOURS), "mood": pick(rng, small["moods"])}
    topics = small["topics"]
    # Something to remember comes up more often than a mood.
    chosen = [topics[int(rng.random() * 2)]]
    if rng.random() < 0.6:
        chosen.insert(int(rng.random() * 2), pick(rng, [topic for topic in topics if topic not in chosen]))
    turns += [fill(text) for topic in chosen for text in (topic["says"], topic["reply"])]
    if split == "train" and rng.random() < 0.3:
        turns += [said.text for said in facts(rng)[:2]]
    turns += [fill(text) for topic in chosen for text in topic["recall"]]
    turns += [pick(rng, small["recall"]), fill("Your name is {n}.")]
    if split == "train" and rng.random() < 0.3:
        turns += map(fill, pick(rng, small["ends"]))
    return _talk(*turns)


def manners(rng: Random) -> Conversation:
    """A greeting, thanks, a farewell, or a question about the world outside."""
    outside = _SAID["outside"]
    asked, replied = pick(
        rng, [*_SAID["manners"], *((question, outside["answer"]) for question in outside["questions"])]
    )
    topic = invent_name(rng, "train") if rng.random() < 0.7 else pick(rng, outside["topics"])
    return _talk(expand(rng, asked, {"x": topic}), expand(rng, replied, {}))


def story_telling(rng: Random) -> Conversation:
    """A story on request."""
    told = story(rng, "train")
    return _talk(pick(rng, _SAID["any_story"]) if rng.random() < 0.15 else request(rng, told), told.text)


def reading(rng: Random, split: Side = "train") -> Conversation:
    """A story, in training also a scene, and questions about it."""
    if split != "train":
        told = story(rng, split)
        question, said = pick(rng, told.questions)
        return _talk(f"{told.text}\n{question}", said)
    read = scene(rng) if rng.random() < 0.35 else story(rng, split)
    (question, said), *more = rng.sample(read.questions, min(len(read.questions), 1 + int(rng.random() * 3)))
    return _talk(f"{read.text}\n{question}", said, *(text for pair in more for text in pair))


def programming(rng: Random, split: Side = "train") -> Conversation:
    """A function to complete."""
    found = function(rng, split)
    return _talk(f"{pick(rng, _SAID['functions'])} this function:\n{found.prompt.rstrip()}", found.whole)


def riddle(rng: Random) -> Conversation:
    """Three clues and an animal."""
    return _talk(*riddle_of(rng))


def poem(rng: Random) -> Conversation:
    """A rhyme on request."""
    return _talk(expand(rng, _SAID["rhyme"], {}), rhyme(rng))


def _talk(*turns: str) -> Conversation:
    """User and assistant in turn."""
    return tuple(say("assistant" if i % 2 else "user", text) for i, text in enumerate(turns))


_KINDS: tuple[Callable[[Random], Conversation], ...] = (
    facts, about, letters, word_problem, arithmetic, spelling, counting, identity, unknown, small_talk, story_telling, reading,
    programming, riddle, manners, poem,
)  # fmt: skip
MIXES: dict[ChatStage, list[int]] = {
    stage: [mix[kind.__name__] for kind in _KINDS] for stage, mix in _SAID["mixes"].items()
}
"""How often each kind comes up in a stage."""


def chat(rng: Random, stage: ChatStage) -> Conversation:
    """A conversation of any kind of a stage's mix."""
    return rng.choices(_KINDS, weights=MIXES[stage])[0](rng)
