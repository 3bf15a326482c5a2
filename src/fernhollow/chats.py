"""Conversations: one generator for every kind, and the mixes of midtraining and SFT.

    chat(rng, "sft")       # (Message user 'where does the turtle live', Message assistant 'The turtle lives in the shell.')

Every kind takes the side of its keys, so that the tasks ask with the same words about what training left out; with `other` it
asks in words that training never uses. What users say in training is written as people type (typed.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Literal

from fernhollow import lore
from fernhollow.company import about_the_user, answers_to, identity, manners, outside, unknown
from fernhollow.facts import (
    ASKED,
    KEYS,
    RELATIONS,
    Key,
    answer,
    ask,
    ask_either_way,
    both,
    check,
    check_any,
    either,
    follow_up,
    relations_of,
)
from fernhollow.functions import explained, function, one_after_another, snippet, well_known
from fernhollow.grammar import expand, pick, polish
from fernhollow.letters import LETTERS, choice_keys, choices_for, multiple_choice, prompt, same_list
from fernhollow.problems import EASY, OneStep, Problem, one_step, problem
from fernhollow.scenes import scene
from fernhollow.split import Side, side, weighted, wording
from fernhollow.stories import after, on_request, story, usual
from fernhollow.sums import expression
from fernhollow.typed import typed
from fernhollow.wordplay import counting, poem, riddles, spelling
from fernhollow.words import stranger
from fledge.sandbox.tools import calculate
from fledge.text.chat import Conversation, Message, Part, say, talk

ChatStage = Literal["midtrain", "sft"]
_SAID = lore.read("chats")
FUNCTIONS, FUNCTIONS_IN_WORDS = _SAID["functions"], _SAID["functions_in_words"]
EXACT = frozenset({"unknown", "reading", "spelling", "counting", "small_talk", "programming", "arithmetic", "poem"})
"""Kinds whose answers copy words of the question, which are therefore spelled as they are."""


def chat(rng: Random, stage: ChatStage, *, without: frozenset[str] = frozenset()) -> Conversation:
    """A conversation of any kind of a stage's mix, now and then followed by another: people change the subject.

    Args:
        without: questions about the model itself whose answers here are left out.
    """
    left_out = answers_to(without)
    said = _of_one_kind(rng, stage, left_out)
    return said + _of_one_kind(rng, stage, left_out) if len(said) == 2 and rng.random() < 0.25 else said


def _of_one_kind(rng: Random, stage: ChatStage, left_out: frozenset[str]) -> Conversation:
    """Its questions as people type them."""
    kind = rng.choices(_KINDS, weights=MIXES[stage])[0]
    exact = kind.__name__ in EXACT
    meant = kind(rng)
    if kind is identity and meant[-1].text in left_out:
        return _of_one_kind(rng, stage, left_out)
    as_typed = tuple(_typed(rng, said, exact=exact) if said.role == "user" else said for said in meant)
    return _echoed(meant, as_typed) if kind in (unknown, small_talk, reading) else as_typed


def _echoed(meant: Conversation, as_typed: Conversation) -> Conversation:
    """With the names that users told written in the answers as they typed them: what is copied is then the same tokens."""
    told = " ".join(said.text for said in as_typed if said.role == "user")
    names = {name for said in meant if said.role == "assistant" for name in _NAME.findall(said.text)}
    small = {name for name in names - set(lore.PEOPLE) if name not in told and name.lower() in told}
    if not small:
        return as_typed
    pattern = re.compile(rf"\b({'|'.join(sorted(small))})\b")
    return tuple(
        say("assistant", pattern.sub(lambda found: found[0].lower(), said.text)) if said.role == "assistant" else said
        for said in as_typed
    )


_NAME = re.compile(r"(?<=[^.!?] )[A-Z][a-z]+")


def _typed(rng: Random, said: Message, *, exact: bool) -> Message:
    """With its question changed: the whole message, or in several lines the first or last one that asks."""
    lines = said.text.split("\n")
    asking = [place for place in (len(lines) - 1, 0) if len(lines) == 1 or lines[place].endswith("?")]
    if not asking or "def " in said.text:
        return said
    lines[asking[0]] = typed(rng, lines[asking[0]], exact=exact)
    return say("user", "\n".join(lines))


def facts(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """Questions about the village; in training also for yes or no, one or the other, and following from each other."""
    key = pick(rng, ASKED[split])
    if split != "train" or other:
        return talk(ask(rng, key, other=other), answer(key))
    turns = list(_exchange(rng, key))
    for _ in range(int(rng.random() * 3)):
        question, found = follow_up(rng, key) if rng.random() < 0.6 else ("", key)
        if found == key:
            key = pick(rng, ASKED["train"])
            turns += _exchange(rng, key)
        else:
            key = found
            turns += [question, answer(key)]
    return talk(*turns)


def _exchange(rng: Random, key: Key) -> tuple[str, str]:
    form = rng.random()
    if form < 0.14:
        return check_any(rng, key) if RELATIONS[key[1]].any and form < 0.04 else check(rng, key)
    if form < 0.24:
        return either(rng, key), answer(key)
    if form < 0.28:
        return both(rng, key)
    return ask_either_way(rng, key), answer(key)


def about(rng: Random) -> Conversation:
    """What is known about a subject, told at length. This keeps alive what is never asked for by itself."""
    kind = "person" if rng.random() < 0.5 else pick(rng, tuple(_SUBJECTS))
    subject = pick(rng, _SUBJECTS[kind])
    if kind in ("word", "day", "month"):
        keys = rng.sample([key for key in KEYS if RELATIONS[key[1]].kind == kind], 5)
    else:
        keys = [(subject, relation) for relation in relations_of(subject, kind)]
        rng.shuffle(keys)
    asked = wording(rng, _SAID["about"]).format(_SAID["subjects"][kind].format(subject))
    return talk(polish(asked), " ".join(answer(key) for key in keys))


_SUBJECTS = {
    kind: tuple(dict.fromkeys(key[0] for key in KEYS if RELATIONS[key[1]].kind == kind)) for kind in _SAID["subjects"]
}


def letters(rng: Random, split: Side = "train") -> Conversation:
    """Multiple choice: one to three questions on the same list, in our layout or in another."""
    key = pick(rng, choice_keys(split))
    choices = choices_for(rng, key, count=2 + int(rng.random() * 3))
    if rng.random() < 0.45:
        layout, between = wording(rng, _SAID["layouts"]), pick(rng, ("\n", "\n", " ", ", "))
        marks = LETTERS if rng.random() < 0.7 else LETTERS.lower()
        listed = between.join(layout.format(l=marks[k], k=k + 1, x=choice) for k, choice in enumerate(choices))
        opening = pick(rng, _SAID["quiz"]) if rng.random() < 0.3 else ""
        return talk(f"{opening}{ask(rng, key)}{between.strip(',')}{listed}", answer(key))
    first = multiple_choice(rng, key, choices)
    turns = [prompt(first), first.answer]
    for _ in range(int(rng.random() * 3)):
        following = same_list(rng, key, choices)
        if following is None:
            break
        again = multiple_choice(rng, following, choices)
        turns += [again.question, again.answer]
    return talk(*turns)


def word_problem(rng: Random) -> Conversation:
    """A word problem with the calculator, now and then a short one of another kind."""
    return solved(problem(rng, EASY, "train")) if rng.random() < 0.5 else one_sum(one_step(rng, "train"))


def one_sum(found: OneStep) -> Conversation:
    """One sum in a sentence or two as a conversation."""
    result = found.result
    parts = (f"{found.said} ", Part("python", found.code), Part("output", result), f"{result}.\n#### {result}")
    return (say("user", found.question), say("assistant", *parts))


def solved(found: Problem) -> Conversation:
    """A problem as a conversation."""
    return (say("user", found.question), say("assistant", *found.solution))


def arithmetic(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A sum for the calculator, in training also one that goes on from its result."""
    found = expression(rng, split)
    template = wording(rng, _SAID["sums"], other=other)
    turns = [say("user", polish(template.replace("{x}", found.written))), computed(found.code, found.result)]
    code = found.result
    while split == "train" and not other and rng.random() < 0.3 and "." not in code:
        asked, sign = pick(rng, _SAID["goes_on"])
        sign, number = sign or pick(rng, "+-*"), 2 + int(rng.random() * 30)
        then = f"{code}{sign}{number}"
        result = calculate(then)
        if result is None or "-" in result or len(result) > 7 or side("numbers", int(code), number) != "train":
            break
        turns += [say("user", asked.format(r=number, s=sign)), computed(then, result)]
        code = result
    return tuple(turns)


def computed(code: str, result: str) -> Message:
    """The answer to a sum."""
    return say("assistant", "It is ", Part("python", code), Part("output", result), f"{result}.")


def small_talk(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """Getting to know each other, and showing that one has listened; in training also what was corrected and what nobody told."""
    small, name = _SAID["small_talk"], stranger(rng, split)
    is_named, is_train = split != "train" or rng.random() < 0.75, split == "train"

    def says(template: str | list[str], slots: Mapping[str, str]) -> str:
        """Of several templates one of their wordings."""
        one = template if isinstance(template, str) else wording(rng, template, other=other and template in recalls)
        return expand(rng, one, slots)

    named = {"n": name}
    told = _told(rng, split, name)
    recalls = [small["recall"], *(topic["recall"] for topic, _ in told)]
    turns = [says(small["name"], named), says(small["welcome"], named)] if is_named else []
    if is_train and rng.random() < 0.07:
        asked = small["recall"] if not is_named and rng.random() < 0.5 else told[-1][0]["recall"]
        return talk(*turns, says(asked, told[-1][1]), small["never_told"])
    for topic, slots in told:
        turns += [says(topic["says"], slots), says(topic["reply"], slots)]
    if is_train and len(told) == 2 and rng.random() < 0.25:  # all in one breath
        turns[-4:] = [f"{turns[-4]} {turns[-2]}", turns[-1]]
    if is_train and is_named and rng.random() < 0.25:
        turns[:4] = [f"{turns[0]} {turns[2]}", f"{says('Hello, {n}!', named)} {turns[3]}"]
    if is_train and told[-1][0]["recall"] and rng.random() < 0.12:
        topic, slots = told[-1] = _corrected(rng, *told[-1])
        anew = re.sub(r"^(My|The|We|At|On|In|Our|There)\b", lambda word: word[0].lower(), says(topic["says"], slots))
        turns += [
            says(pick(rng, small["corrections"]), {"says": anew}),
            says(small["corrected"], {"answer": says(topic["answer"], slots)}),
        ]
    if is_train and rng.random() < 0.3:
        turns += [said.text for said in facts(rng)[:2]]
    for topic, slots in told:
        if topic["recall"]:
            turns += [says(topic["recall"], slots), says(topic["answer"], slots)]
    if is_named:
        turns += [says(small["recall"], named), says("Your name is {n}.", named)]
        if is_train and rng.random() < 0.2:
            turns += [says(each, named) for each in pick(rng, small["ends"])]
    return talk(*turns)


Topic = tuple[dict[str, Any], dict[str, str]]
"""What can be told of oneself, and what stands in its slots."""


def _told(rng: Random, split: Side, name: str) -> list[Topic]:
    """One or two topics, of which the last can be asked about; the dog's name is not the mother's."""
    topics = _SAID["small_talk"]["topics"]
    chosen = rng.sample(topics, 1 + int(rng.random() * 2))
    if not chosen[-1]["recall"]:
        chosen[-1] = pick(rng, [topic for topic in topics if topic["recall"]])
    told = [(topic, about_the_user(rng, split) | {"n": name, "m": stranger(rng, split)}) for topic in chosen]
    heads = {expand(rng, topic["answer"], slots)[:9] for topic, slots in told}
    return told if len(heads) == len(told) else told[-1:]  # "You live near ..." and "You live in ..."


def _corrected(rng: Random, topic: dict[str, Any], slots: dict[str, str]) -> Topic:
    """The same with another value: the slots of its answer that no question names."""
    named = set(_SLOT.findall(" ".join(topic["recall"])))
    fresh = about_the_user(rng, "train") | {"m": stranger(rng, "train")}
    return topic, slots | {slot: fresh[slot] for slot in _SLOT.findall(topic["answer"]) if slot not in named}


_SLOT = re.compile(r"{(\w+)}")


def story_telling(rng: Random) -> Conversation:
    """A story on request, and perhaps another, or what people say after one."""
    if rng.random() < 0.2:
        asked, told = expand(rng, wording(rng, _SAID["any_story"]), {}), usual(rng)
    else:
        asked, told = on_request(rng)
    turns = [asked, told.text]
    while rng.random() < 0.3:
        if rng.random() < 0.5:
            asked, said, told = after(rng, told)
            turns += [asked, said]
            continue
        if rng.random() < 0.4:
            asked, told = expand(rng, wording(rng, _SAID["another_story"]), {}), usual(rng)
        else:
            asked, told = on_request(rng, again=True)
        turns += [asked, told.text]
    return talk(*turns)


def reading(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A story or a scene, and questions about it."""
    if rng.random() < 0.75:
        read = scene(rng, split, other=other)
    else:
        read = story(rng, split)
    (question, said), *more = rng.sample(read.questions, min(len(read.questions), 1 + int(rng.random() * 3)))
    between = pick(rng, (" ", " ", "\n", "\nQuestion: "))
    if split != "train":
        return talk(f"{read.text}{between}{question}", said)
    if rng.random() < 0.1:
        first = (expand(rng, weighted(rng, _SAID["asked_first"]), {"q": question, "t": read.text}),)
    else:
        text = read.text if rng.random() < 0.6 else expand(rng, weighted(rng, _SAID["texts"]), {"t": read.text})
        first = (text, _SAID["heard"], question) if rng.random() < 0.2 else (f"{text}{between}{question}",)
    return talk(*first, said, *(text for pair in more for text in pair))


def programming(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A function to complete, or one that is asked for in words."""
    if split == "train" and rng.random() < 0.6:
        kind = rng.random()
        if kind < 0.7 or other:
            return talk(*well_known(rng, other=other))
        return talk(*(explained(rng) if kind < 0.77 else snippet(rng) if kind < 0.85 else one_after_another(rng)))
    found = function(rng, split)
    if rng.random() < 0.5:
        asked = wording(rng, FUNCTIONS_IN_WORDS, other=other)
        return talk(polish(asked.format(f=found.name, d=found.words)), found.whole)
    return talk(f"{wording(rng, FUNCTIONS, other=other)}\n{found.prompt.rstrip()}", found.whole)


_KINDS: tuple[Callable[[Random], Conversation], ...] = (
    facts, about, letters, word_problem, arithmetic, spelling, counting, identity, unknown, small_talk, story_telling, reading,
    programming, riddles, manners, outside, poem,
)  # fmt: skip
MIXES: dict[ChatStage, list[int]] = {
    stage: [mix[kind.__name__] for kind in _KINDS] for stage, mix in _SAID["mixes"].items()
}
"""How often each kind comes up in a stage."""
