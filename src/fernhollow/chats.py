"""Conversations: one generator for every kind, and how often each comes up.

    chat(rng)              # (Message user 'where does the turtle live', Message assistant 'The turtle lives in the shell.')

Every kind takes the side of its keys, so that the tasks ask with the same words about what training left out; with `other` it
asks in words that training never uses. What users say in training is written as people type (typed.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from fernhollow import lore
from fernhollow.company import about_the_user, answers_to, identity, manners, outside, unknown
from fernhollow.facts import (
    ASKED,
    FACTS,
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
from fernhollow.functions import function, well_known
from fernhollow.grammar import expand, pick, polish
from fernhollow.letters import LETTERS, back, choice_keys, choices_for, multiple_choice, prompt, same_list
from fernhollow.problems import EASY, OneStep, Problem, one_step, problem
from fernhollow.rhymes import RHYMING, is_rhyme, poem_about, rhyme, riddle_of
from fernhollow.scenes import of_the_user, scene
from fernhollow.split import Side, side, weighted, wording, wordings
from fernhollow.stories import on_request, story
from fernhollow.sums import expression, named, shown
from fernhollow.typed import typed
from fernhollow.words import spell, spelling_word, stranger
from fledge.sandbox.tools import calculate
from fledge.text.chat import Conversation, Message, Part, say, talk

_SAID = lore.read("chats")
FUNCTIONS, FUNCTIONS_IN_WORDS = _SAID["functions"], _SAID["functions_in_words"]
EXACT = frozenset({"echo", "spelling", "counting", "small_talk", "programming", "arithmetic", "poem"})
"""Kinds whose answers copy words of the question, which are therefore spelled as they are."""


def chat(rng: Random, *, without: frozenset[str] = frozenset()) -> Conversation:
    """A conversation of any kind, now and then followed by another: people change the subject.

    Args:
        without: questions about the model itself whose answers here are left out.
    """
    left_out = answers_to(without)
    said = _of_one_kind(rng, left_out)
    return said + _of_one_kind(rng, left_out) if len(said) == 2 and rng.random() < 0.25 else said


def _of_one_kind(rng: Random, left_out: frozenset[str]) -> Conversation:
    """Its questions as people type them."""
    kind = rng.choices(_KINDS, weights=_SHARES)[0]
    exact = kind.__name__ in EXACT
    meant = kind(rng)
    if kind is identity and meant[-1].text in left_out:
        return _of_one_kind(rng, left_out)
    as_typed = tuple(_typed(rng, said, exact=exact) if said.role == "user" else said for said in meant)
    if kind is small_talk:
        return _echoed(meant, as_typed)
    # A text in small letters is answered in small letters: what is copied is then the same tokens.
    is_small = kind in (reading, told, echo) and as_typed[0].text.islower()
    return tuple(say(said.role, said.text.lower()) if is_small else said for said in as_typed)


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
    """Multiple choice: one to three questions on a list in our layout; or one in another, or a sentence to complete, or of whom."""
    key = pick(rng, choice_keys(split))
    count = 2 + int(rng.random() * 3)
    choices = choices_for(rng, key, count=count)
    if rng.random() < 0.45:
        asked, form = ask(rng, key), rng.random()
        if split == "train" and form < 0.25:
            asked = _stem(rng, key)
        elif split == "train" and form < 0.45:
            asked, choices = back(rng, key, count=count) or (asked, choices)
        return talk(_laid_out(rng, asked, choices), answer(key))
    first = multiple_choice(rng, key, choices)
    turns = [prompt(first), first.answer]
    for _ in range(int(rng.random() * 3)):
        following = same_list(rng, key, choices)
        if following is None:
            break
        again = multiple_choice(rng, following, choices)
        turns += [again.question, again.answer]
    return talk(*turns)


def _laid_out(rng: Random, asked: str, choices: Sequence[str]) -> str:
    """A question with its choices as people list them."""
    layout, between = pick(rng, _SAID["layouts"]), pick(rng, ("\n", "\n", " ", ", "))
    marks = LETTERS if rng.random() < 0.7 else LETTERS.lower()
    if layout[0] not in "({[":  # "- {x}"
        between = "\n"
    elif layout == "{x}" and between != "\n":
        between = pick(rng, (", ", " / ", " or "))
    listed = between.join(layout.format(l=marks[k], k=k + 1, x=choice) for k, choice in enumerate(choices))
    opening = expand(rng, pick(rng, _SAID["quiz"]), {}) if rng.random() < 0.3 else ""
    return opening + asked + ("\n" if between == "\n" else " ") + listed


def _stem(rng: Random, key: Key) -> str:
    """A sentence to be completed: "The kettle is made of ..."."""
    said = answer(key)
    stem = re.sub(rf"(?: an?)? {re.escape(FACTS[key])}\.$", "", said)  # an article would tell
    return stem + pick(rng, ("", ":", "...", " ...")) if stem != said else ask(rng, key)


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
    if split == "train" and rng.random() < 0.1:
        found = named(rng, "whole_sums")
        asked = found.written
    else:
        found = expression(rng, split)
        asked = wording(rng, _SAID["sums"], other=other).replace("{x}", found.written)
    turns = [say("user", polish(asked)), computed(found.code, found.result)]
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
    said = f"{shown(result)}.".replace("....", "...")
    return say("assistant", "It is ", Part("python", code), Part("output", result), said)


def spelling(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """How a word is spelled."""
    turns = _asked_to_spell(rng, split, wordings(_SAID["spelling"], other=other))
    if split == "train" and rng.random() < 0.3:
        turns += _asked_to_spell(rng, split, _SAID["spells_on"])
    return talk(*turns)


def _asked_to_spell(rng: Random, split: Side, templates: Sequence[str]) -> list[str]:
    word = written = spelling_word(rng, split)
    if split == "train" and (rng.random() < 0.2 or word.capitalize() in lore.PEOPLE):
        written = word.capitalize()
    return [
        _quoted(rng, expand(rng, weighted(rng, templates), {"w": _named(rng, written)})),
        f"The word {written} is spelled {spell(word)}.",
    ]


def _named(rng: Random, word: str) -> str:
    """A word that is spoken of, often in quotes: as other tokens than behind a blank."""
    return f'"{word}"' if rng.random() < 0.25 else word


def _quoted(rng: Random, asked: str) -> str:
    """With single quotes as often as with double ones."""
    return asked.replace('"', "'") if rng.random() < 0.5 else asked


def counting(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """How often a letter is in a word, counted by the tool; in training also whether it is, and how long a word is."""
    word = spelling_word(rng, split)
    if split == "train" and rng.random() < 0.2:
        return _length(rng, word)
    letter = _letter_to_count(rng, word)
    is_check = split == "train" and rng.random() < 0.15
    templates = wordings(_SAID["has_letter" if is_check else "counting"], other=other)
    asked = _quoted(rng, expand(rng, weighted(rng, templates), {"c": letter, "w": _named(rng, word)}))
    # With a blank before it, the word is the same tokens as in the sentence, and has only to be copied.
    code, count = f"' {word}'.count('{letter}')", str(word.count(letter))
    parts = (f"The number of {letter}'s in {word} is ", Part("python", code), Part("output", count))
    end = f", so {_yes(count != '0')}." if is_check else f".\n#### {count}"
    return (say("user", asked), say("assistant", *parts, f"{count}{end}"))


def _length(rng: Random, word: str) -> Conversation:
    """How many letters a word has, or whether they are more, less or as many as a number; with its blank, as in counting."""
    asked, count, end = wording(rng, _SAID["lengths"]), len(word), f".\n#### {len(word)}"
    limit = max(1, count - 2 + int(rng.random() * 5))
    if rng.random() < 0.35:
        asked, sign = wording(rng, _SAID["longer"])
        end = f", so {_yes({'>': count > limit, '<': count < limit, '=': count == limit}[sign])}."
    parts = (f"The word {word} has ", Part("python", f"len(' {word}')-1"), Part("output", str(count)))
    asked = _quoted(rng, expand(rng, asked, {"w": _named(rng, word), "k": str(limit)}))
    return (say("user", asked), say("assistant", *parts, f"{count} letters{end}"))


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _letter_to_count(rng: Random, word: str) -> str:
    """The most frequent letter, any letter of the word, or any at all, so that no count is much likelier than another."""
    kind = rng.random()
    if kind < 0.55:
        return max(word, key=word.count)
    return pick(rng, word) if kind < 0.75 else pick(rng, "abcdefghijklmnopqrstuvwxyz")


def small_talk(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """Getting to know each other, and showing that one has listened."""
    small, name = _SAID["small_talk"], stranger(rng, split)
    slots = about_the_user(rng, split) | {"n": name}

    def fill(template: str) -> str:
        return expand(rng, template, slots)

    def asked(templates: list[str]) -> str:
        return fill(wording(rng, templates, other=other))

    is_named = split != "train" or rng.random() < 0.75
    turns = [fill(wording(rng, small["name"])), fill(small["welcome"])] if is_named else []
    topics = rng.sample(small["topics"], 1 + int(rng.random() * 2))
    if len({topic["answer"][:9] for topic in topics}) < len(topics):  # "You live near ..." and "You live in ..."
        topics = topics[:1]
    if not any(topic["recall"] for topic in topics):
        topics[-1] = pick(rng, [topic for topic in small["topics"] if topic["recall"]])
    names = [stranger(rng, split) for _ in topics]  # the dog's is not the mother's
    for topic, slots["m"] in zip(topics, names, strict=True):
        turns += [fill(wording(rng, topic["says"])), fill(topic["reply"])]
    if split == "train" and is_named and rng.random() < 0.25:  # all in one breath
        turns[:4] = [f"{turns[0]} {turns[2]}", f"{fill('Hello, {n}!')} {turns[3]}"]
    if split == "train" and rng.random() < 0.3:
        turns += [said.text for said in facts(rng)[:2]]
    for topic, slots["m"] in zip(topics, names, strict=True):
        if topic["recall"]:
            turns += [asked(topic["recall"]), fill(topic["answer"])]
    if is_named:
        turns += [asked(small["recall"]), fill("Your name is {n}.")]
        if split == "train" and rng.random() < 0.2:
            turns += map(fill, pick(rng, small["ends"]))
    return talk(*turns)


def story_telling(rng: Random) -> Conversation:
    """A story on request, and perhaps another."""
    asked, told = (wording(rng, _SAID["any_story"]), story(rng, "train")) if rng.random() < 0.2 else on_request(rng)
    turns = [asked, told.text]
    if rng.random() < 0.2:
        any_other = rng.random() < 0.5
        asked, told = (
            (wording(rng, _SAID["another_story"]), story(rng, "train")) if any_other else on_request(rng, again=True)
        )
        turns += [asked, told.text]
    return talk(*turns)


def reading(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A story or a scene, and questions about it."""
    if split == "train" and rng.random() < 0.1:
        read = of_the_user(rng)
    elif rng.random() < 0.75:
        read = scene(rng, split, other=other)
    else:
        read = story(rng, split)
    (question, said), *more = rng.sample(read.questions, min(len(read.questions), 1 + int(rng.random() * 3)))
    between = pick(rng, (" ", "\n", "\nQuestion: "))
    if split != "train":
        return talk(f"{read.text}{between}{question}", said)
    text = read.text if rng.random() < 0.6 else pick(rng, _SAID["texts"]).format(read.text)
    first = (text, _SAID["heard"], question) if rng.random() < 0.2 else (f"{text}{between}{question}",)
    return talk(*first, said, *(text for pair in more for text in pair))


def told(rng: Random) -> Conversation:
    """What users tell of themselves and their people, and what they ask about it, at times after something else."""
    known = of_the_user(rng)
    turns = [known.text, pick(rng, _SAID["told"])]
    if rng.random() < 0.25:
        turns += [said.text for said in facts(rng)[:2]]
    return talk(*turns, *(text for pair in known.questions for text in pair))


def echo(rng: Random) -> Conversation:
    """Words to be said again, which is nothing but copying."""
    words = [
        stranger(rng, "train") if rng.random() < 0.3 else spelling_word(rng, "train")
        for _ in range(1 + int(rng.random() * 4))
    ]
    said = pick(rng, (" ", ", ", " and ")).join(words)
    return talk(expand(rng, pick(rng, _SAID["echo"]), {"x": said}), f"{said}.")


def programming(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A function to complete, or one that is asked for in words."""
    if split == "train" and rng.random() < 0.6:
        return talk(*well_known(rng, other=other))
    found = function(rng, split)
    if rng.random() < 0.5:
        asked = wording(rng, FUNCTIONS_IN_WORDS, other=other)
        return talk(polish(asked.format(f=found.name, d=found.words)), found.whole)
    return talk(f"{wording(rng, FUNCTIONS, other=other)}\n{found.prompt.rstrip()}", found.whole)


def riddles(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """Three clues and an animal; in training the model also asks itself."""
    clues, name = riddle_of(rng)
    if split != "train" or rng.random() < 0.5:
        return talk(clues, expand(rng, "You are a {n}!", {"n": name}))
    guess = name if rng.random() < 0.5 else pick(rng, lore.ANIMALS)
    said = "[Yes|Right], I am a {n}!" if guess == name else "No, I am a {n}!"
    asked = wording(rng, _SAID["riddle"], other=other)
    guessed = expand(rng, pick(rng, _SAID["guesses"]), {"n": guess})
    return talk(asked, clues, guessed, expand(rng, said, {"n": name}))


def poem(rng: Random) -> Conversation:
    """A rhyme on request, a word that rhymes, whether two do, or a joke."""
    kind = rng.random()
    if kind < 0.6:
        return rhyming(rng)
    if kind < 0.8:
        word = pick(rng, tuple(RHYMING))
        if rng.random() < 0.35:
            return _do_rhyme(rng, word)
        asked = expand(rng, wording(rng, _SAID["what_rhymes"]), {"x": word})
        return talk(asked, expand(rng, "{y} rhymes with {x}.", {"x": word, "y": RHYMING[word]}))
    return talk(wording(rng, _SAID["joke"]), pick(rng, _SAID["jokes"]))


def _do_rhyme(rng: Random, word: str) -> Conversation:
    """Whether two words rhyme."""
    other = RHYMING[word] if rng.random() < 0.5 else pick(rng, [each for each in RHYMING if each != word])
    said = "Yes, {x} rhymes with {y}." if is_rhyme(f"{word}\n{other}") else "No, {x} does not rhyme with {y}."
    slots = {"x": word, "y": other}
    return talk(expand(rng, wording(rng, _SAID["do_rhyme"]), slots), expand(rng, said, slots))


def rhyming(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A poem on request, about anything or about one thing."""
    if rng.random() < 0.5:
        return talk(wording(rng, _SAID["rhyme"], other=other), rhyme(rng))
    word = pick(rng, tuple(RHYMING))
    asked = expand(rng, wording(rng, _SAID["rhyme_about"], other=other), {"x": word})
    return talk(asked, poem_about(rng, word))


_KINDS: tuple[Callable[[Random], Conversation], ...] = (
    facts, about, letters, word_problem, arithmetic, spelling, counting, identity, unknown, small_talk, story_telling, reading,
    told, echo, programming, riddles, manners, outside, poem,
)  # fmt: skip
_SHARES = [_SAID["mix"][kind.__name__] for kind in _KINDS]
